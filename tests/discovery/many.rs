//! Many pools that ask one agent: what they take of it, and what they say of its trouble.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use backend_demo::registry::Fault;

use crate::support::{Backend, Program, Registry, Rig, get, until};

const POOLS: usize = 220;

/// Of the service `web`, or each of its own.
fn config(registry: &Registry, own_services: bool, more: &str) -> String {
    let mut config = format!("consul.address = \"{}\"\n{more}", registry.url());
    config += "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"p0\"\n\n";
    for number in 0..POOLS {
        let service = if own_services { format!("web{number}") } else { "web".to_owned() };
        let _ = writeln!(
            config,
            "[pools.p{number}]\nconsul = {{ service = \"{service}\" }}\ncheck = {{ kind = \"none\" }}"
        );
    }
    config
}

/// An instance of each service.
fn register(registry: &Registry, services: usize) {
    for number in 0..services {
        let service = if services == 1 { "web".to_owned() } else { format!("web{number}") };
        registry.add(&service, &format!("i{number}"), "127.0.0.1:9".parse().unwrap());
    }
}

async fn until_all_have(rig: &Rig, members: usize) {
    until(&format!("all have {members}"), || async {
        let set = rig.balancer().state().set();
        set.pools.iter().all(|pool| pool.members().len() == members).then_some(())
    })
    .await;
}

#[tokio::test]
async fn pools_of_one_service_hold_one_connection() {
    let registry = Registry::new().await;
    register(&registry, 1);
    let rig = Rig::start(&config(&registry, false, "")).await;
    until_all_have(&rig, 1).await;
    until("one waits", || async { (registry.waiting() == 1).then_some(()) }).await;
    registry.add("web", "second", "127.0.0.1:10".parse().unwrap());
    until_all_have(&rig, 2).await;
    until("one waits again", || async { (registry.waiting() == 1).then_some(()) }).await;
    // The other one that there may be asks for the leader, and ends at once.
    until("one connection", || async { (registry.connections() == 1).then_some(()) }).await;

    // A reload that takes pools away, and brings them back, does not touch the question of the others.
    let requests = registry.requests();
    let all = config(&registry, false, "");
    let fewer = all.split("[pools.p100]").next().unwrap();
    rig.reload(fewer).await.unwrap();
    rig.reload(&all).await.unwrap();
    until_all_have(&rig, 2).await;
    assert_eq!(registry.waiting(), 1);
    // For the leader it may have been asked meanwhile.
    assert!(registry.requests() <= requests + 2, "{} after {requests}", registry.requests());
    rig.stop().await;
}

#[tokio::test]
async fn pools_of_many_services_stay_within_the_budget_and_others_are_served() {
    let registry = Registry::new().await;
    register(&registry, POOLS);
    let rig = Rig::start(&config(&registry, true, "")).await;
    until_all_have(&rig, 1).await;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let open = registry.connections();
        assert!(open <= 128 + 1, "{open} connections, one of them of this test");
        assert_eq!(get(registry.address(), "/v1/agent/self").await.unwrap().0, 200);
    }
    // And a change is seen by the pool that it is for, whichever that is.
    registry.add("web217", "second", "127.0.0.1:10".parse().unwrap());
    until("it is seen", || async {
        let set = rig.balancer().state().set();
        let pool = set.pools.iter().find(|pool| &*pool.name == "p217").unwrap();
        (pool.members().len() == 2).then_some(())
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn many_pools_that_fail_together_are_one_line() {
    let registry = Registry::new().await;
    let backend = Backend::answering("a").await;
    registry.add("web", "a", backend.address());
    for (own_services, fault) in [(false, None), (true, None), (true, Some(Fault::Forbidden))] {
        let program = Program::start(&config(&registry, own_services, "admin.bind = \"127.0.0.1:0\"\n"), &[]);
        let admin = program.admin().await;
        let failing = async |wanted: usize| {
            until(&format!("{wanted} fail"), || async {
                let metrics = get(admin, "/metrics").await.unwrap().1;
                let fail = |line: &&str| line.starts_with("evenkeel_discovery_failing{") && line.ends_with(" 1");
                (metrics.lines().filter(fail).count() == wanted).then_some(())
            })
            .await;
        };
        until("all have heard", || async {
            let metrics = get(admin, "/metrics").await.unwrap().1;
            (metrics.matches("\nevenkeel_discovery_age_seconds{").count() == POOLS).then_some(())
        })
        .await;
        match &fault {
            Some(fault) => registry.inject(Some(fault.clone())),
            None => {
                registry.inject(Some(Fault::Status500));
                registry.drop_connections().await;
            }
        }
        failing(POOLS).await;
        let line = program.until_says("fails, what is known stays: ").await;
        assert!(line.contains(&format!("discovery of {POOLS} pools")) && line.contains(" and 217 more\""), "{line}");
        assert!(line.contains(&registry.url()), "{line}");
        registry.inject(None);
        failing(0).await;
        let line = program.until_says("works again after").await;
        assert!(line.contains(&format!("discovery of {POOLS} pools")) && line.contains(&registry.url()), "{line}");
        let told = program.log().iter().filter(|line| line.contains("discovery")).count();
        assert_eq!(told, 2, "{:#?}", program.log());
    }
}
