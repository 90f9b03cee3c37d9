//! Backends that fail sessions whatever their check says, flap, or are backups: through a whole balancer and real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use evenkeel::metrics::Outcome;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, Behaviour, HealthBackend, Registry, Rig, exchange, reset, until};

/// Fast enough for a test; probes are so seldom that only sessions can know.
const SELDOM: &str = "check = { kind = \"tcp\", interval = \"1h\", fall = 3 }";

const HTTP: &str =
    "check = { kind = \"http\", path = \"/health\", interval = \"40ms\", fast_interval = \"20ms\", timeout = \"10s\" }";

async fn pool(backends: &[&HealthBackend], more: &str) -> Rig {
    let rig = Rig::with_health_backends(backends, more).await;
    for backend in backends {
        rig.until_standing(&backend.id(), "up").await;
    }
    rig
}

/// One session; `None` = it got no answer. Whatever broke it, its end has been counted when the next one is served.
async fn ask(rig: &Rig) -> Option<String> {
    // Not finished by the client: a backend that then closes has nothing to excuse it.
    let asked = async {
        let mut stream = TcpStream::connect(rig.front()).await?;
        stream.write_all(b"who?").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    crate::support::soon("an answer", asked).await.ok().filter(|answer| !answer.is_empty())
}

/// Asks until the backend has that standing.
async fn ask_until(rig: &Rig, id: &str, standing: &str) -> Value {
    until(&format!("{id} {standing}"), || async {
        ask(rig).await;
        rig.backend(id).await.filter(|backend| backend["standing"] == standing)
    })
    .await
}

fn of(metric: &str, id: &str) -> String {
    format!("{metric}{{pool=\"back\",backend=\"{id}\"}}")
}

#[tokio::test]
async fn a_backend_that_closes_before_it_answers_is_ejected_and_comes_back() {
    let (good, bad) = (
        HealthBackend::new("good", Behaviour::Good).await,
        HealthBackend::new("bad", Behaviour::ClosesAfterRequest).await,
    );
    let rig = pool(&[&good, &bad], &format!("{SELDOM}\noutliers.trial = \"50ms\"\ndamping.stay_up = \"0s\"")).await;
    let id = bad.id();
    let ejected = ask_until(&rig, &id, "ejected").await;
    assert_eq!(ejected["facts"]["probe"], "up", "its check sees nothing wrong");
    assert_eq!(ejected["facts"]["passive"], "ejected");
    let reason = ejected["reason"].as_str().unwrap();
    assert!(reason.starts_with("3 sessions failed in a row, the last one: "), "{reason}");
    assert!(ejected["ejected"]["until"].is_string() && ejected["ejected"]["in_a_row"] == 1, "{ejected}");
    assert!(rig.metric(&of("evenkeel_outlier_ejections_total", &id)).await >= 1.0);
    assert!(rig.metric("evenkeel_outlier_detected_total{pool=\"back\",reason=\"consecutive\"}").await >= 1.0);

    bad.set_behaviour(Behaviour::Good);
    let up = ask_until(&rig, &id, "up").await;
    assert!(up["ejected"].is_null());
    let passed = format!("evenkeel_outlier_trials_total{{pool=\"back\",backend=\"{id}\",result=\"pass\"}}");
    assert_eq!(rig.metric(&passed).await, 1.0, "one session has shown it");
    assert_eq!(rig.metric("evenkeel_outlier_ejected_backends{pool=\"back\"}").await, 0.0);
    until("it has its share", || async { (ask(&rig).await.as_deref() == Some("bad")).then_some(()) }).await;
    rig.stop().await;
}

/// Once one session has failed there, the others hold back their bytes for a moment: they go elsewhere, unseen, and so do the
/// trials.
#[tokio::test]
async fn a_backend_that_closes_at_accept_is_noticed_before_data_is_sent() {
    for (behaviour, reason) in [(Behaviour::ClosesAtAccept, "closed"), (Behaviour::ResetsAtAccept, "reset")] {
        let (good, bad) =
            (HealthBackend::new("good", Behaviour::Good).await, HealthBackend::new("bad", Behaviour::Good).await);
        let id = bad.id();
        // Sessions begin when their clients have spoken.
        let rig = Rig::start(&format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\ntcp = {{ defer_accept = \"10s\" }}\n\
             [pools.back]\nbackends = [\"{}\", \"{id}\"]\n{SELDOM}\noutliers.trial = \"20ms\"\n\
             damping.stay_up = \"0s\"\n",
            good.id(),
        ))
        .await;
        rig.until_standing(&id, "up").await;
        bad.set_behaviour(behaviour);
        ask_until(&rig, &id, "ejected").await;
        let unseen =
            format!("evenkeel_backend_connect_failures_total{{pool=\"back\",backend=\"{id}\",reason=\"{reason}\"}}");
        let failed = format!("evenkeel_outlier_trials_total{{pool=\"back\",backend=\"{id}\",result=\"fail\"}}");
        until("trials find it out unseen", || async {
            ask(&rig).await;
            (rig.metric(&unseen).await >= 4.0 && rig.metric(&failed).await >= 3.0).then_some(())
        })
        .await;
        bad.set_behaviour(Behaviour::Good);
        ask_until(&rig, &id, "up").await;
        rig.stop().await;
    }
}

/// A backend that closes without a word to a client that has not said any does nothing wrong.
#[tokio::test]
async fn a_silent_client_gets_the_close_of_a_doubtful_backend() {
    let bad = HealthBackend::new("bad", Behaviour::ClosesAfterRequest).await;
    let rig = pool(&[&bad], SELDOM).await;
    assert_eq!(ask(&rig).await, None);
    bad.set_behaviour(Behaviour::ClosesAtAccept);
    let mut silent = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(crate::support::soon("its end", silent.read(&mut [0])).await.unwrap(), 0);
    drop(silent);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 2);
    rig.stop().await;
}

#[tokio::test]
async fn observe_only_counts() {
    let (good, bad) = (
        HealthBackend::new("good", Behaviour::Good).await,
        HealthBackend::new("bad", Behaviour::ClosesAfterRequest).await,
    );
    let rig = pool(&[&good, &bad], &format!("{SELDOM}\noutliers.mode = \"observe\"")).await;
    let series = "evenkeel_outlier_detected_total{pool=\"back\",reason=\"consecutive\"}";
    until("it is seen", || async {
        ask(&rig).await;
        (rig.metric(series).await >= 2.0).then_some(())
    })
    .await;
    assert_eq!(rig.backend(&bad.id()).await.unwrap()["standing"], "up");
    assert_eq!(rig.metric(&of("evenkeel_outlier_ejections_total", &bad.id())).await, 0.0);
    rig.stop().await;
}

#[tokio::test]
async fn no_more_than_max_ejected_and_never_the_last_one() {
    let all = [
        HealthBackend::new("a", Behaviour::ClosesAfterRequest).await,
        HealthBackend::new("b", Behaviour::ClosesAfterRequest).await,
        HealthBackend::new("c", Behaviour::ClosesAfterRequest).await,
    ];
    let [a, b, c] = &all;
    let rig = pool(&[a, b, c], &format!("{SELDOM}\noutliers = {{ max_ejected = 34, trial = \"1h\" }}")).await;
    let refused = "evenkeel_outlier_ejections_refused_total{pool=\"back\"}";
    until("one is refused", || async {
        ask(&rig).await;
        (rig.metric(refused).await >= 2.0).then_some(())
    })
    .await;
    rig.until_metric("evenkeel_outlier_ejected_backends{pool=\"back\"}", 1.0).await;
    rig.until_metric("evenkeel_pool_eligible_backends{pool=\"back\"}", 2.0).await;
    rig.stop().await;

    let rig = pool(&[a], SELDOM).await;
    until("refused", || async {
        ask(&rig).await;
        (rig.metric(refused).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(rig.backend(&a.id()).await.unwrap()["standing"], "up");
    a.set_behaviour(Behaviour::Good);
    assert_eq!(ask(&rig).await.as_deref(), Some("a"));
    rig.stop().await;
}

#[tokio::test]
async fn a_backup_is_used_while_the_first_tier_is_down_and_left_after_that() {
    let (first, backup) =
        (HealthBackend::new("first", Behaviour::Good).await, HealthBackend::new("backup", Behaviour::Good).await);
    let rig = Rig::start(&format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
         backends = [{{ address = \"{}\", id = \"first\" }}, {{ address = \"{}\", id = \"backup\", backup = true }}]\n{HTTP}\n",
        first.id(),
        backup.id()
    ))
    .await;
    for id in ["first", "backup"] {
        rig.until_standing(id, "up").await;
    }
    let answers = |rig: &Rig| {
        let front = rig.front();
        async move {
            let mut all = Vec::new();
            for _ in 0..4 {
                all.push(String::from_utf8(exchange(front, b"who?").await.unwrap()).unwrap());
            }
            all
        }
    };
    assert_eq!(answers(&rig).await, ["first"; 4]);
    let load = |tier: u8| format!("evenkeel_pool_tier_load_ratio{{pool=\"back\",tier=\"{tier}\"}}");
    first.set_behaviour(Behaviour::Unhealthy);
    rig.until_standing("first", "down").await;
    rig.until_metric(&load(1), 1.0).await;
    assert_eq!(answers(&rig).await, ["backup"; 4]);
    first.set_behaviour(Behaviour::Good);
    rig.until_standing("first", "up").await;
    rig.until_metric(&load(0), 1.0).await;
    assert_eq!(answers(&rig).await, ["first"; 4]);
    rig.stop().await;
}

#[tokio::test]
async fn a_recovered_backend_starts_slowly() {
    let (old, new) =
        (HealthBackend::new("old", Behaviour::Good).await, HealthBackend::new("new", Behaviour::Good).await);
    let registry = Registry::new().await;
    registry.add("web", "old", old.backend.address());
    let rig = registry.rig("", &format!("{HTTP}\nslow_start = \"10h\"")).await;
    let (old_id, new_id) = (registry.id("old"), registry.id("new"));
    assert_eq!(rig.until_standing(&old_id, "up").await["effective_weight"], 1.0);
    registry.add("web", "new", new.backend.address());
    // Within an hour they would count as equally new, so it takes its whole share.
    assert_eq!(rig.until_standing(&new_id, "up").await["effective_weight"], 1.0);
    rig.stop().await;

    let rig = registry.rig("", &format!("{HTTP}\nslow_start = \"1s\"\ndamping.stay_up = \"0s\"")).await;
    for id in [&old_id, &new_id] {
        rig.until_standing(id, "up").await;
    }
    let since = std::time::Instant::now();
    until("the old one is old", || async { (since.elapsed().as_millis() > 1_100).then_some(()) }).await;
    new.set_behaviour(Behaviour::Unhealthy);
    rig.until_standing(&new_id, "down").await;
    new.set_behaviour(Behaviour::Good);
    let weights = until("it grows", || async {
        let backend = rig.backend(&new_id).await?;
        let weight = backend["effective_weight"].as_f64()?;
        (backend["standing"] == "up").then_some(weight)
    })
    .await;
    assert!((0.1..=1.0).contains(&weights), "{weights}");
    until("all of it", || async { (rig.backend(&new_id).await?["effective_weight"] == 1.0).then_some(()) }).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_flapping_backend_gets_sessions_only_after_it_has_stayed_up() {
    let (good, flaps) =
        (HealthBackend::new("good", Behaviour::Good).await, HealthBackend::new("flaps", Behaviour::Good).await);
    let damping = "damping = { window = \"1h\", stay_up = \"1h\", max_stay_up = \"1h\" }";
    let rig = pool(&[&good, &flaps], &format!("{HTTP}\n{damping}")).await;
    let id = flaps.id();
    for then in ["up", "damped"] {
        flaps.set_behaviour(Behaviour::Unhealthy);
        rig.until_standing(&id, "down").await;
        flaps.set_behaviour(Behaviour::Good);
        rig.until_standing(&id, then).await;
    }
    let damped = rig.backend(&id).await.unwrap();
    assert_eq!((&damped["facts"]["guard"], &damped["facts"]["probe"]), (&"damped".into(), &"up".into()));
    assert!(damped["damped_until"].is_string());
    assert_eq!(damped["reason"], "it works again, but flapped once: it has to stay up for a while first");
    for _ in 0..4 {
        assert_eq!(ask(&rig).await.as_deref(), Some("good"));
    }
    // No other backend is left, so it is used.
    good.set_behaviour(Behaviour::Unhealthy);
    rig.until_standing(&id, "up").await;
    rig.stop().await;
}
