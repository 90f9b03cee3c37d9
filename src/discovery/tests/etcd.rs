//! The etcd follower from outside: who shares what, turns, and how far a set is believed.

use backend_demo::gateway::{Gateway, GatewayFault};

use super::*;
use crate::config::{EtcdCluster, EtcdSource};

fn source(gateway: &Gateway, prefix: &str, max_connections: usize) -> Source {
    let cluster = EtcdCluster {
        endpoints: vec![gateway.url()],
        user: None,
        password: None,
        password_file: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
        max_connections,
    };
    Source::Etcd(EtcdSource { cluster: Arc::new(cluster), prefix: prefix.to_owned() })
}

fn discovery() -> Discovery {
    let presence =
        PresenceTimes { calm: Duration::from_millis(20), quick: Duration::from_millis(10), ..quick().presence };
    Discovery::with(nameless(), no_fronts(), Tuning { presence, ..quick() })
}

async fn gateway(keys: &[(&str, &str)]) -> Gateway {
    let gateway = Gateway::start().await.unwrap();
    keys.iter().for_each(|(key, value)| gateway.put(key, value));
    gateway
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    soon(what, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn pools_with_one_prefix_share_a_watch_and_other_prefixes_a_client() {
    let gateway = gateway(&[("/a/1", "10.0.0.1:80"), ("/b/1", "10.0.0.2:80")]).await;
    let mut discovery = discovery();
    let mut all: Vec<_> = ["/a/", "/a/", "/b/"]
        .iter()
        .map(|prefix| Running::start(&mut discovery, &source(&gateway, prefix, 128)))
        .collect();
    for (running, address) in all.iter_mut().zip(["10.0.0.1", "10.0.0.1", "10.0.0.2"]) {
        assert_eq!(running.set().await, [format!("1 {address}:80 1 passing")]);
    }
    until("both are watched", || gateway.asked("/v3/watch") == 2).await;
    assert_eq!(discovery.clusters.len(), 1);
    gateway.delete("/a/1");
    for running in &mut all[..2] {
        let update = running.update().await;
        assert_eq!((shown(&update).len(), update.trust), (0, Trust::Calm));
    }
    assert!(all[2].updates.try_recv().is_err(), "nothing has changed there");
}

#[tokio::test]
async fn more_prefixes_than_connections_take_turns_and_miss_nothing() {
    let gateway = gateway(&[]).await;
    let mut discovery = discovery();
    let prefixes: Vec<_> = (0..12).map(|number| format!("/{number}/")).collect();
    for prefix in &prefixes {
        gateway.put(&format!("{prefix}a"), "10.0.0.1:80");
    }
    let mut all: Vec<_> =
        prefixes.iter().map(|prefix| Running::start(&mut discovery, &source(&gateway, prefix, 4))).collect();
    for running in &mut all {
        assert_eq!(running.set().await.len(), 1);
    }
    let ranges = gateway.asked("/v3/kv/range");
    for round in ["b", "c"] {
        for prefix in &prefixes {
            gateway.put(&format!("{prefix}{round}"), "10.0.0.2:80");
        }
        for running in &mut all {
            while running.update().await.endpoints.last().is_none_or(|last| *last.id != *round) {}
        }
    }
    assert!(gateway.most_connections() <= 4, "{} at once", gateway.most_connections());
    // A turn goes on from where the last one stopped; what is read is whether the cluster is there.
    let names = all.iter().map(|running| running.status.view().errors.values().map(|errors| errors.count).sum::<u64>());
    assert_eq!(names.sum::<u64>(), 0);
    assert!(gateway.full_ranges() <= 12, "{} after {ranges}", gateway.full_ranges());
}

#[tokio::test]
async fn how_far_a_set_is_believed() {
    let gateway = gateway(&[("/a/1", "10.0.0.1:80"), ("/a/2", "10.0.0.2:80")]).await;
    let mut running = Running::start(&mut discovery(), &source(&gateway, "/a/", 128));
    assert_eq!(running.update().await.trust, Trust::Written);
    gateway.inject(Some(GatewayFault::Proxy));
    assert_eq!(running.update().await.trust, Trust::Failing);
    gateway.delete("/a/1");
    gateway.inject(None);
    // Its watch was given up, so that all keys are read again.
    let update = running.update().await;
    assert_eq!((shown(&update).len(), update.trust), (1, Trust::Doubted(Mistrust::Trouble)));
    gateway.put("/a/3", "10.0.0.3:80");
    assert_eq!(running.update().await.trust, Trust::Calm);
    gateway.inject(Some(GatewayFault::Hang));
    assert_eq!(running.update().await.trust, Trust::Failing, "a silence is noticed");
    gateway.lose_data();
    gateway.inject(None);
    let update = running.update().await;
    assert_eq!((shown(&update).len(), update.trust), (0, Trust::Doubted(Mistrust::Restart)));
}

#[tokio::test]
async fn keys_of_which_none_is_good_are_no_set() {
    let gateway = gateway(&[("/a/1", "10.0.0.1:80")]).await;
    let mut running = Running::start(&mut discovery(), &source(&gateway, "/a/", 128));
    assert_eq!(running.set().await.len(), 1);
    gateway.put("/a/1", "nonsense");
    running.status(|view| view.error.as_ref().is_some_and(|(_, kind, _)| *kind == "invalid")).await;
    assert_eq!(running.update().await.trust, Trust::Failing);
    gateway.put("/a/1", "10.0.0.9:80");
    assert_eq!(running.set().await, ["1 10.0.0.9:80 1 passing"]);
}

/// In calm nothing comes by the watch, and yet what is known is as good as new.
#[tokio::test]
async fn the_age_is_that_of_the_last_proof() {
    let gateway = gateway(&[("/a/1", "10.0.0.1:80")]).await;
    let mut running = Running::start(&mut discovery(), &source(&gateway, "/a/", 128));
    running.set().await;
    let first = running.status(|view| view.last_success.is_some()).await.last_success;
    running.status(|view| view.last_success > first).await;
    assert_eq!(gateway.full_ranges(), 1);
    gateway.inject(Some(GatewayFault::Hang));
    running.status(|view| view.error.is_some()).await;
    let last = running.status.view().last_success;
    running.status(|view| view.errors.values().map(|errors| errors.count).sum::<u64>() > 2).await;
    assert_eq!(running.status.view().last_success, last, "no proof, no age");
}
