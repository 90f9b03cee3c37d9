//! An agent that hangs, has no leader, or is gone, as the one cheap question finds.

use super::agent::{Agent, Leader, passing};
use super::*;

/// Its trouble is found soon.
fn watchful() -> Tuning {
    let millis = Duration::from_millis;
    let presence = PresenceTimes { calm: millis(20), quick: millis(10), limit: millis(300), quick_limit: millis(300) };
    Tuning { margin: millis(300), presence, ..quick() }
}

async fn following(tuning: Tuning) -> (Agent, Discovery, Running) {
    let mut agent = Agent::start().await;
    let mut discovery = Discovery::with(nameless(), no_fronts(), tuning);
    let mut running = Running::start(&mut discovery, &Source::Consul(service_at(&agent.address())));
    agent.asked().await.ok(900, &passing(&["a"]));
    running.set().await;
    (agent, discovery, running)
}

#[tokio::test]
async fn an_agent_that_hangs_is_found_and_its_return_too() {
    let (mut agent, _discovery, mut running) = following(watchful()).await;
    let asked = agent.asked().await;
    assert!(asked.path.contains("index=900&wait=300000ms"), "{}", asked.path);
    // The long question is given up, and one that does not wait is not answered, either.
    agent.leader.send_replace(Leader::Silence);
    asked.left().await;
    let view = running.status(|view| view.error.is_some()).await;
    assert_eq!(view.error.unwrap().1, "timeout");
    assert_eq!(running.update().await.trust, Trust::Failing);
    agent.leader.send_replace(Leader::Known);
    // It counts from a low index since its return: what is asked does not wait for the old one.
    loop {
        let asked = agent.asked().await;
        assert_eq!(asked.path, "web");
        asked.ok(11, &passing(&["a"]));
        if let Ok(Some(update)) = tokio::time::timeout(A_WHILE, running.updates.recv()).await {
            assert_eq!(update.trust, Trust::Doubted(Mistrust::Restart));
            break;
        }
    }
    running.status(|view| view.error.is_none()).await;
}

#[tokio::test]
async fn the_way_back_is_found_without_waiting_for_the_back_off() {
    let hour = Duration::from_secs(3600);
    let tuning = Tuning { retry_first: hour, retry_last: hour, ..watchful() };
    let (mut agent, _discovery, mut running) = following(tuning).await;
    agent.leader.send_replace(Leader::Silence);
    agent.asked().await.left().await;
    agent.asked().await.left().await;
    running.status(|view| view.error.is_some()).await;
    assert_eq!(running.update().await.trust, Trust::Failing);
    agent.leader.send_replace(Leader::Known);
    tokio::select! {
        _ = running.status(|view| view.error.is_none()) => {}
        // On a slow machine more than one is asked.
        () = async { while let Some(asked) = agent.wait().await { asked.ok(901, &passing(&["a"])) } } => {}
    }
}

#[tokio::test]
async fn a_question_that_hangs_alone_ends_one_long_question_and_no_more() {
    let (mut agent, _discovery, running) = following(watchful()).await;
    agent.leader.send_replace(Leader::Silence);
    agent.asked().await.left().await;
    // The agent answers what matters: it is not in trouble.
    let asked = agent.asked().await;
    assert_eq!(asked.path, "web");
    asked.ok(900, &passing(&["a"]));
    let asked = agent.asked().await;
    assert!(asked.path.contains("index=900&wait=300000ms"), "{}", asked.path);
    assert!(tokio::time::timeout(watchful().presence.limit * 2, asked.left()).await.is_err(), "given up again");
    assert!(running.status.view().errors.is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_question_changes_nothing() {
    let agent = Agent::start().await;
    agent.leader.send_replace(Leader::Refused);
    let mut agent = agent;
    let tuning = Tuning { margin: PATIENCE, ..watchful() };
    let mut discovery = Discovery::with(nameless(), no_fronts(), tuning);
    let mut running = Running::start(&mut discovery, &Source::Consul(service_at(&agent.address())));
    agent.asked().await.ok(900, &passing(&["a"]));
    running.set().await;
    assert!(tokio::time::timeout(A_WHILE, agent.asked().await.left()).await.is_err());
    assert!(running.status.view().errors.is_empty());
}

#[tokio::test]
async fn without_a_leader_nothing_is_asked_until_there_is_one() {
    // A long limit: on a busy machine it must not seem to be absent.
    let presence = PresenceTimes { limit: PATIENCE, quick_limit: PATIENCE, ..watchful().presence };
    let tuning = Tuning { presence, margin: PATIENCE, ..watchful() };
    let (mut agent, mut discovery, mut running) = following(tuning).await;
    let source = |change: fn(&mut ConsulSource)| {
        let mut source = service_at(&agent.address());
        change(&mut source);
        Source::Consul(source)
    };
    let stale = Running::start(&mut discovery, &source(|source| source.consistency = Consistency::Stale));
    let far = Running::start(&mut discovery, &source(|source| source.datacenter = Some("far".to_owned())));
    let mut own = None;
    let mut others = Vec::new();
    for _ in 0..3 {
        let asked = agent.asked().await;
        match asked.path.contains("stale") || asked.path.contains("dc=far") {
            true => others.push(asked),
            false => own = Some(asked),
        }
    }
    agent.leader.send_replace(Leader::Unknown);
    own.unwrap().left().await;
    let view = running.status(|view| view.error.is_some()).await;
    let (_, kind, text) = view.error.unwrap();
    assert_eq!(kind, "no_leader");
    assert!(text.ends_with(": the servers of the agent have no leader"), "{text}");
    assert_eq!(running.update().await.trust, Trust::Failing);
    assert!(tokio::time::timeout(A_WHILE, agent.wait()).await.is_err(), "asked without a leader");
    // Any server answers these, or one that has another leader.
    for asked in others {
        asked.ok(7, &passing(&["b"]));
    }
    for other in [&stale, &far] {
        other.status(|view| view.last_success.is_some()).await;
        assert!(other.status.view().errors.is_empty());
    }
    let _waiting = (agent.asked().await, agent.asked().await);
    agent.leader.send_replace(Leader::Known);
    agent.asked().await.ok(901, &passing(&["a"]));
    running.status(|view| view.error.is_none()).await;
    assert_eq!(running.status.view().errors["no_leader"].count, 1);
}
