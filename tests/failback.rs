//! `failback`: what becomes of the sessions on a backup when the primary is back.

use evenkeel::metrics::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Backend, Last, Rig, free_port, last, session, soon};

const CHECK: &str =
    "check = { interval = \"50ms\", fast_interval = \"20ms\", timeout = \"500ms\", rise = 1, fall = 1 }";

#[tokio::test]
async fn the_sessions_of_a_backup_are_closed_when_the_primary_is_back_or_stay() {
    for (failback, closes) in [("close", true), ("keep", false)] {
        let (primary, backup) = (free_port(), Backend::echo().await);
        let rig = Rig::start(&format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nspill = []\nfailback = \"{failback}\"\n{CHECK}\n\
             backends = [\"{primary}\", {{ address = \"{}\", backup = true }}]\n",
            backup.address()
        ))
        .await;
        rig.until_standing(&primary.to_string(), "down").await;
        rig.until_standing(&backup.address().to_string(), "up").await;
        let mut client = session(rig.front()).await;
        let _back = Backend::on(primary, |mut stream| async move {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                let _ = stream.write_all(&byte).await;
            }
        })
        .await;
        rig.until_standing(&primary.to_string(), "up").await;
        if closes {
            assert_eq!(soon("the end", last(&mut client)).await, Last::Reset);
            rig.until_metric("evenkeel_pool_forced_closes_total{pool=\"back\",cause=\"failback\"}", 1.0).await;
            rig.until_no_sessions().await;
            assert_eq!(rig.ended(Outcome::Rebalanced), 1);
        } else {
            drop(session(rig.front()).await);
            client.write_all(b"x").await.unwrap();
            assert_eq!(soon("an answer", client.read_u8()).await.unwrap(), b'x');
        }
        drop(client);
        rig.stop().await;
    }
}
