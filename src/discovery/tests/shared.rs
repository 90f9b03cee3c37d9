//! Pools that want the same of one agent: it is asked once.

use super::agent::{Agent, instance, list, passing};
use super::*;
use crate::config::Secret;

fn start(discovery: &mut Discovery, source: &ConsulSource) -> Running {
    Running::start(discovery, &Source::Consul(source.clone()))
}

async fn several(count: usize) -> (Agent, Discovery, ConsulSource, Vec<Running>) {
    let agent = Agent::start().await;
    let mut discovery = Discovery::with(nameless(), no_fronts(), quick());
    let source = service_at(&agent.address());
    let all = (0..count).map(|_| start(&mut discovery, &source)).collect();
    (agent, discovery, source, all)
}

#[tokio::test]
async fn equal_questions_are_asked_once_and_every_pool_hears() {
    let (mut agent, mut discovery, source, mut all) = several(5).await;
    agent.asked().await.ok(7, &passing(&["a"]));
    let asked = agent.asked().await;
    for running in &mut all {
        assert_eq!(running.set().await.len(), 1);
    }
    assert!(tokio::time::timeout(A_WHILE, agent.wait()).await.is_err(), "asked twice");
    // One that comes later has what is known, and one that leaves takes nothing with it.
    let mut late = start(&mut discovery, &source);
    assert_eq!(late.set().await, ["n/a 10.0.0.1:80 2 passing"]);
    all.pop();
    asked.ok(8, &passing(&["a", "b"]));
    for running in all.iter_mut().chain([&mut late]) {
        assert_eq!(running.set().await.len(), 2);
    }
    let asked = agent.asked().await;
    assert!(asked.path.contains("index=8"), "{}", asked.path);
    // The last one takes the question back.
    drop((all, late));
    asked.left().await;
}

#[tokio::test]
async fn what_differs_is_asked_apart() {
    let (mut agent, mut discovery, source, _all) = several(1).await;
    let token = |token: &str| {
        let settings = ConsulAgent { token: Some(Secret(token.to_owned())), ..agent_at(&agent.address()) };
        ConsulSource { agent: Arc::new(settings), ..source.clone() }
    };
    let others = [
        ConsulSource { service: "other".to_owned(), ..source.clone() },
        ConsulSource { datacenter: Some("dc2".to_owned()), ..source.clone() },
        ConsulSource { tags: vec!["v1".to_owned()], ..source.clone() },
        ConsulSource { consistency: Consistency::Stale, ..source.clone() },
        token("one"),
        token("two"),
    ];
    let _others: Vec<_> = others.iter().map(|other| start(&mut discovery, other)).collect();
    let mut open = Vec::new();
    for _ in 0..7 {
        open.push(agent.asked().await);
    }
    assert_eq!(discovery.agents.len(), 1, "over the same connections");
}

#[tokio::test]
async fn warnings_are_seen_in_both_ways_in_one_answer() {
    let (mut agent, mut discovery, source, mut all) = several(1).await;
    let mut strict = start(&mut discovery, &ConsulSource { warning: Warning::Out, ..source });
    agent.asked().await.ok(1, &list(&[instance("a", "", "warning")]));
    assert_eq!(all[0].set().await, ["n/a 10.0.0.1:80 1 warning"]);
    assert_eq!(strict.set().await, ["n/a 10.0.0.1:80 2 critical"]);
    assert!(agent.asked().await.path.contains("index=1"));
}

#[tokio::test]
async fn a_failure_is_told_to_all_and_over_for_all() {
    let (mut agent, mut discovery, source, mut all) = several(3).await;
    agent.asked().await.ok(7, &passing(&["a"]));
    for running in &mut all {
        running.set().await;
    }
    agent.asked().await.status("500 Internal Server Error", "");
    let asked = agent.asked().await;
    for running in &mut all {
        assert_eq!(running.update().await.trust, Trust::Failing);
        assert_eq!(running.status.view().errors["server_error"].count, 1);
    }
    // One that comes now has what was known, and knows that it fails.
    let mut late = start(&mut discovery, &source);
    assert_eq!(late.update().await.trust, Trust::Written);
    late.status(|view| view.error.is_some()).await;
    asked.ok(7, "[]");
    for running in &mut all {
        assert_eq!(running.update().await.trust, Trust::Doubted(Mistrust::Trouble));
        running.status(|view| view.error.is_none()).await;
    }
}

/// The keeper takes nothing for a while; what comes meanwhile is in what it takes then.
#[tokio::test]
async fn a_pool_that_is_slow_learns_of_restarts_and_failures_that_it_missed() {
    for (fault, mistrust) in [(true, Mistrust::Trouble), (false, Mistrust::Restart)] {
        let (mut agent, _discovery, _source, mut all) = several(2).await;
        let [slow, quick] = &mut all[..] else { unreachable!() };
        agent.asked().await.ok(900, &passing(&["a"]));
        quick.set().await;
        // The first set of the slow one stays in the channel, and its second one waits for it to be taken.
        let asked = agent.asked().await;
        asked.ok(901, &passing(&["a", "b"]));
        quick.set().await;
        let asked = agent.asked().await;
        soon("a set that waits", async {
            while slow.updates.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        match fault {
            true => asked.status("500 Internal Server Error", ""),
            false => asked.ok(11, &passing(&["a", "b"])),
        }
        let asked = agent.asked().await;
        asked.ok(902, "[]");
        while !quick.set().await.is_empty() {}
        assert_eq!(slow.update().await.trust, Trust::Written);
        let mut seen = Vec::new();
        loop {
            let update = slow.update().await;
            seen.push(update.trust);
            if update.endpoints.is_empty() {
                break;
            }
        }
        assert!(seen.contains(&Trust::Doubted(mistrust)), "{seen:?}");
    }
}

#[tokio::test]
async fn an_answer_at_an_unchanged_index_counts() {
    let (mut agent, _discovery, _source, mut all) = several(2).await;
    agent.asked().await.ok(7, &passing(&["a", "b"]));
    for running in &mut all {
        running.set().await;
    }
    // An ACL policy was narrowed: the list is another one, and nothing has happened in the catalog.
    agent.asked().await.ok(7, &passing(&["a"]));
    for running in &mut all {
        assert_eq!(running.set().await, ["n/a 10.0.0.1:80 2 passing"]);
    }
}

/// The process was stopped, or had no CPU: what came meanwhile is read before a deadline is believed.
#[tokio::test]
async fn an_answer_that_came_during_a_pause_of_ours_is_in_time() {
    let (at, agent) = std::sync::mpsc::channel();
    let (answered, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut agent = Agent::start().await;
            at.send(agent.address()).unwrap();
            let asked = agent.asked().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Longer than one read, so that it takes more than one turn of the event loop.
            let ids: Vec<_> = (0..300).map(|number| format!("a{number}")).collect();
            asked.ok(7, &passing(&ids.iter().map(String::as_str).collect::<Vec<_>>()));
            // It is in our socket by then.
            tokio::time::sleep(Duration::from_millis(50)).await;
            answered.send(()).unwrap();
            agent.wait().await;
            std::future::pending::<()>().await;
        });
    });
    let margin = Duration::from_millis(200);
    let mut discovery = Discovery::with(nameless(), no_fronts(), Tuning { margin, ..quick() });
    let source = service_at(&agent.recv_timeout(PATIENCE).unwrap());
    let mut running = start(&mut discovery, &source);
    // Until it has asked, which takes a few turns of the event loop.
    tokio::time::sleep(Duration::from_millis(20)).await;
    told.recv_timeout(PATIENCE).unwrap();
    std::thread::sleep(margin);
    assert_eq!(running.set().await.len(), 300);
    assert!(running.status.view().errors.is_empty(), "{:?}", running.status.view().errors);
}
