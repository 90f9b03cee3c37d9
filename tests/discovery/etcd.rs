//! etcd that fails in the ways that a real one does not show on demand: what is known stays, and clients do not notice.

use backend_demo::gateway::{Gateway, GatewayFault};

use super::faults::until_fact;
use crate::support::{Backend, Rig, answers, exchange, free_port, until};

const FAILING: &str = "evenkeel_discovery_failing{pool=\"back\",source=\"etcd\"}";

fn errors(reason: &str) -> String {
    format!("evenkeel_discovery_errors_total{{pool=\"back\",source=\"etcd\",reason=\"{reason}\"}}")
}

fn config(endpoints: &[String], etcd: &str) -> String {
    format!(
        "[etcd]\nendpoints = {endpoints:?}\n{etcd}[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\netcd = {{ prefix = \"/services/web/\" }}\n\
         check = {{ interval = \"100ms\", fast_interval = \"20ms\", timeout = \"10s\" }}\n"
    )
}

/// A gateway that lists two backends which answer, and a balancer that knows them.
struct Scene {
    gateway: Gateway,
    rig: Rig,
    backends: Vec<Backend>,
}

impl Scene {
    async fn new(etcd: &str) -> Self {
        let gateway = Gateway::start().await.unwrap();
        Self::behind(vec![gateway.url()], gateway, etcd).await
    }

    async fn behind(endpoints: Vec<String>, gateway: Gateway, etcd: &str) -> Self {
        let backends = vec![Backend::answering("a").await, Backend::answering("b").await];
        for (id, backend) in ["a", "b"].iter().zip(&backends) {
            gateway.put(&format!("/services/web/{id}"), &backend.address().to_string());
        }
        let rig = Rig::start(&config(&endpoints, etcd)).await;
        for id in ["a", "b"] {
            rig.until_standing(id, "up").await;
        }
        Self { gateway, rig, backends }
    }

    async fn until_failing(&self, failing: bool) {
        self.rig.until_metric(FAILING, f64::from(u8::from(failing))).await;
    }

    /// Both still serve, half of the sessions each.
    async fn both_serve(&self) {
        let all = answers(self.rig.front(), 10).await;
        assert_eq!(all.iter().filter(|answer| *answer == "a").count(), 5, "{all:?}");
    }

    /// A third one is found: discovery works.
    async fn finds(&self, third: &Backend) {
        self.gateway.put("/services/web/c", &third.address().to_string());
        self.rig.until_standing("c", "up").await;
    }
}

#[tokio::test]
async fn keys_come_change_and_go() {
    let scene = Scene::new("").await;
    let (rig, third) = (&scene.rig, Backend::answering("c").await);
    scene.both_serve().await;
    scene.finds(&third).await;
    let asked = scene.gateway.asked("/v3/kv/range");

    // Weight and address change in place.
    let said = format!(r#"{{"address":"{}","weight":3}}"#, third.address());
    scene.gateway.put("/services/web/c", &said);
    until("the weight is 3", || async { rig.backend("c").await.filter(|backend| backend["weight"] == 3) }).await;
    let moved = Backend::answering("moved").await;
    scene.gateway.put("/services/web/c", &moved.address().to_string());
    until("it has moved", || async {
        rig.backend("c").await.filter(|backend| backend["address"] == moved.address().to_string().as_str())
    })
    .await;

    // A bad value takes that backend away and no other, and is said.
    scene.gateway.put("/services/web/b", "nonsense");
    rig.until_standing("b", "removed").await;
    let rejected = "evenkeel_discovery_rejected_instances{pool=\"back\",source=\"etcd\"}";
    rig.until_metric(rejected, 1.0).await;
    let source = rig.pools().await["pools"][0]["source"].clone();
    assert_eq!(source["rejected"][0]["id"], "b", "{source}");
    scene.gateway.put("/services/web/b", &scene.backends[1].address().to_string());
    rig.until_standing("b", "up").await;
    rig.until_metric(rejected, 0.0).await;

    scene.gateway.delete("/services/web/c");
    rig.until_standing("c", "removed").await;
    scene.both_serve().await;
    assert_eq!(rig.metric(FAILING).await, 0.0);
    // All of that came by the watch; what is asked now and then is whether the cluster is there.
    let presence = 4;
    assert!(scene.gateway.asked("/v3/kv/range") <= asked + presence, "{}", scene.gateway.asked("/v3/kv/range"));
    assert_eq!(scene.gateway.asked("/v3/watch"), 1);
    scene.rig.stop().await;
}

#[tokio::test]
async fn no_fault_takes_a_backend_away() {
    let scene = Scene::new("").await;
    let mut third = 0;
    for (fault, kind) in [
        (GatewayFault::Hang, "timeout"),
        (GatewayFault::NoLeader, "no_leader"),
        (GatewayFault::Garbage, "decode"),
        (GatewayFault::EmptyObject, "decode"),
        (GatewayFault::Proxy, "server_error"),
        (GatewayFault::Cut, "broken"),
        (GatewayFault::Drip, "timeout"),
        (GatewayFault::Huge, "too_large"),
        (GatewayFault::Forbidden, "forbidden"),
    ] {
        let before = scene.rig.metric(&errors(kind)).await;
        scene.gateway.inject(Some(fault));
        if fault == GatewayFault::Forbidden {
            // A watch goes on that was allowed; the next one is not.
            scene.gateway.cut();
        }
        until(&format!("{fault:?} is seen as {kind}"), || async {
            (scene.rig.metric(&errors(kind)).await > before).then_some(())
        })
        .await;
        scene.until_failing(true).await;
        scene.both_serve().await;
        scene.gateway.inject(None);
        scene.until_failing(false).await;
        // What has changed since comes through.
        third += 1;
        let (id, backend) = (format!("more-{third}"), Backend::answering("more").await);
        scene.gateway.put(&format!("/services/web/{id}"), &backend.address().to_string());
        scene.rig.until_standing(&id, "up").await;
        // It still answers, so that it may be held; it is away before the next round either way.
        scene.gateway.delete(&format!("/services/web/{id}"));
        drop(backend);
        until("it gets no sessions", || async {
            scene.rig.backend(&id).await.filter(|backend| backend["standing"] != "up")
        })
        .await;
    }
    scene.rig.stop().await;
}

#[tokio::test]
async fn lost_data_and_another_cluster_are_held_against() {
    for what in ["lost", "another"] {
        let scene = Scene::new("").await;
        // So that a revision that begins anew is lower.
        for round in 0..20 {
            scene.gateway.put("/other", &round.to_string());
        }
        if what == "lost" {
            scene.gateway.lose_data();
        } else {
            scene.gateway.delete("/services/web/a");
            scene.rig.until_standing("a", "removed").await;
            // Not heard of by the watch.
            scene.gateway.inject(Some(GatewayFault::Proxy));
            scene.gateway.cut();
            scene.until_failing(true).await;
            scene.gateway.become_another();
            scene.gateway.delete("/services/web/b");
            scene.gateway.inject(None);
        }
        scene.gateway.cut();
        until_fact(&scene.rig, "b", "guard", "held").await;
        let held = "evenkeel_pool_held_backends{pool=\"back\",reason=\"restart\"}";
        let wanted = if what == "lost" { 2.0 } else { 1.0 };
        scene.rig.until_metric(held, wanted).await;
        assert!(!exchange(scene.rig.front(), b"?").await.unwrap().is_empty());
        scene.rig.stop().await;
    }
}

#[tokio::test]
async fn a_compaction_is_no_trouble() {
    let scene = Scene::new("").await;
    let third = Backend::answering("c").await;
    for round in 0..5 {
        scene.gateway.put("/other", &round.to_string());
    }
    // What it watches from is gone when it comes back.
    scene.gateway.compact();
    scene.gateway.cut();
    scene.finds(&third).await;
    scene.rig.stop().await;
}

#[tokio::test]
async fn a_user_logs_in_again_when_the_token_is_over() {
    let gateway = Gateway::start().await.unwrap();
    gateway.require_user("balancer", "secret");
    let scene = Scene::behind(vec![gateway.url()], gateway, "user = \"balancer\"\npassword = \"secret\"\n").await;
    assert_eq!(scene.gateway.asked("/v3/auth/authenticate"), 1);
    let third = Backend::answering("c").await;
    scene.gateway.expire_tokens();
    scene.gateway.cut();
    scene.finds(&third).await;
    until("a new token is asked for", || async { (scene.gateway.asked("/v3/auth/authenticate") == 2).then_some(()) })
        .await;
    // Another password: what is known stays, and the password is in no answer.
    scene.gateway.require_user("balancer", "other");
    scene.gateway.expire_tokens();
    scene.gateway.cut();
    scene.until_failing(true).await;
    until("the refusal is counted", || async { (scene.rig.metric(&errors("forbidden")).await >= 1.0).then_some(()) })
        .await;
    assert!(!scene.rig.pools().await.to_string().contains("secret"));
    assert_eq!(answers(scene.rig.front(), 3).await, ["a", "b", "c"]);
    scene.rig.stop().await;
}

#[tokio::test]
async fn endpoints_are_tried_in_turn_and_one_that_is_good_is_kept() {
    let (first, second) = (Gateway::start().await.unwrap(), Gateway::start().await.unwrap());
    let endpoints = vec![format!("http://{}", free_port()), first.url(), second.url()];
    let scene = Scene::behind(endpoints, first, "").await;
    assert_eq!(scene.rig.metric(FAILING).await, 0.0, "that one endpoint is away is no trouble");
    assert_eq!(second.asked("/v3/kv/range"), 0);
    // The same cluster answers at the next endpoint, and has what this one has.
    for (id, backend) in ["a", "b"].iter().zip(&scene.backends) {
        second.put(&format!("/services/web/{id}"), &backend.address().to_string());
    }
    for round in 0..20 {
        second.put("/other", &round.to_string());
    }
    scene.gateway.inject(Some(GatewayFault::Hang));
    until("the next one is asked", || async { (second.asked("/v3/watch") > 0).then_some(()) }).await;
    scene.both_serve().await;
    assert_eq!(scene.rig.metric(FAILING).await, 0.0, "a member that hangs is no trouble, either");
    let third = Backend::answering("c").await;
    second.put("/services/web/c", &third.address().to_string());
    scene.rig.until_standing("c", "up").await;
    scene.rig.stop().await;
}
