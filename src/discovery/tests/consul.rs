//! The Consul follower in calm.

use std::collections::HashMap;
use std::time::Duration;

use super::agent::{Agent, instance, list, passing};
use super::*;

const BLOCKING: &str = "&wait=300000ms";

async fn follow(tuning: Tuning) -> (Agent, Running) {
    let agent = Agent::start().await;
    let mut discovery = Discovery::with(nameless(), no_fronts(), tuning);
    let running = Running::start(&mut discovery, &Source::Consul(service_at(&agent.address())));
    (agent, running)
}

#[tokio::test]
async fn it_blocks_on_the_index_and_sends_only_changes() {
    let (mut agent, mut running) = follow(quick()).await;
    let asked = agent.asked().await;
    assert_eq!(asked.path, "web");
    asked.ok(7, &passing(&["a", "b"]));
    let update = running.update().await;
    assert_eq!(shown(&update), ["n/a 10.0.0.1:80 2 passing", "n/b 10.0.0.1:80 2 passing"]);
    let asked = agent.asked().await;
    assert_eq!(asked.path, format!("web?index=7{BLOCKING}"));
    // The same set in another order, at a higher index, is no news.
    asked.ok(9, &passing(&["b", "a"]));
    let asked = agent.asked().await;
    assert_eq!(asked.path, format!("web?index=9{BLOCKING}"));
    asked.ok(10, &passing(&["b"]));
    assert_eq!(running.set().await, ["n/b 10.0.0.1:80 2 passing"]);
    let view = running.status.view();
    assert!(view.last_success.is_some() && view.error.is_none() && view.errors.is_empty());
}

#[tokio::test]
async fn an_empty_list_in_calm_is_obeyed() {
    let (mut agent, mut running) = follow(quick()).await;
    agent.asked().await.ok(7, &passing(&["a"]));
    assert_eq!(running.set().await.len(), 1);
    agent.asked().await.ok(8, "[]");
    assert_eq!(running.update().await, Update { endpoints: Vec::new(), trust: Trust::Calm });
    running.status(|view| view.error.is_none()).await;
}

#[tokio::test]
async fn an_unknown_service_is_an_empty_set() {
    let (mut agent, mut running) = follow(quick()).await;
    agent.asked().await.ok(1, "[]");
    assert_eq!(running.set().await, [""; 0]);
}

#[tokio::test]
async fn statuses_weights_and_notes() {
    let (mut agent, mut running) = follow(quick()).await;
    let maintenance =
        instance("d", "", "critical").replace(r#""CheckID":"c""#, r#""CheckID":"_service_maintenance:d""#);
    agent.asked().await.ok(
        1,
        &list(&[
            instance("a", "fd00::1", "passing"),
            instance("b", "10.0.0.2", "warning"),
            instance("c", "", "critical"),
            maintenance,
        ]),
    );
    let update = running.update().await;
    assert_eq!(
        shown(&update),
        [
            "n/a [fd00::1]:80 2 passing",
            "n/b 10.0.0.2:80 1 warning",
            "n/c 10.0.0.1:80 2 critical",
            "n/d 10.0.0.1:80 2 maintenance"
        ]
    );
    let notes: HashMap<_, _> = update.endpoints.iter().map(|e| (&*e.id, e.note.as_deref())).collect();
    assert_eq!(notes["n/a"], None);
    assert_eq!(notes["n/b"], Some("check: said so"));
}

#[tokio::test]
async fn one_bad_instance_is_skipped() {
    let (mut agent, mut running) = follow(quick()).await;
    let bad = instance("b", "", "passing").replace(r#""Port":80"#, r#""Port":"eighty""#);
    let no_port = instance("c", "", "passing").replace(r#""Port":80"#, r#""Port":0"#);
    let twice = instance("a", "10.0.0.9", "passing");
    agent.asked().await.ok(1, &list(&[instance("a", "", "passing"), bad, no_port, twice]));
    assert_eq!(running.set().await, ["n/a 10.0.0.1:80 2 passing"]);
    let view = running.status(|view| !view.rejected.is_empty()).await;
    let ids: Vec<_> = view.rejected.iter().map(|rejected| rejected.id.as_str()).collect();
    assert_eq!(ids, ["n/b", "n/a", "n/c"]);
    assert!(view.rejected[0].why.contains("eighty"), "{}", view.rejected[0].why);
    assert!(view.error.is_none());
}

#[tokio::test]
async fn tags_filter_and_the_rest_are_asked_for() {
    let mut agent = Agent::start().await;
    let source = ConsulSource {
        service: "we/b".to_owned(),
        datacenter: Some("dc1".to_owned()),
        tags: vec!["v\"1".to_owned()],
        filter: Some("Service.Meta.zone == eu or 1".to_owned()),
        consistency: Consistency::Stale,
        ..service_at(&agent.address())
    };
    let mut discovery = Discovery::with(nameless(), no_fronts(), quick());
    let _running = Running::start(&mut discovery, &Source::Consul(source));
    let filter = "%22v%5Cx221%22%20in%20Service.Tags%20and%20%28Service.Meta.zone%20%3D%3D%20eu%20or%201%29";
    assert_eq!(agent.asked().await.path, format!("we%2Fb?dc=dc1&filter={filter}&stale"));
}

#[tokio::test]
async fn host_names_are_resolved_and_kept() {
    let mut agent = Agent::start().await;
    let names = resolver(|name| match name {
        "good.example" => Some(Ok(vec!["10.9.9.9".parse().unwrap()])),
        "slow.example" => None,
        _ => Some(Err(io::Error::other("no such name"))),
    });
    let mut discovery = Discovery::with(names, no_fronts(), quick());
    let mut running = Running::start(&mut discovery, &Source::Consul(service_at(&agent.address())));
    let instances = [("a", ""), ("b", "good.example"), ("c", "bad.example"), ("d", "slow.example")]
        .map(|(id, address)| instance(id, address, "passing"));
    agent.asked().await.ok(1, &list(&instances));
    // The one with an address does not wait for the others.
    assert_eq!(running.set().await, ["n/a 10.0.0.1:80 2 passing"]);
    assert_eq!(running.set().await, ["n/a 10.0.0.1:80 2 passing", "n/b 10.9.9.9:80 2 passing"]);
    let view = running.status(|view| !view.rejected.is_empty()).await;
    assert_eq!(view.rejected[0].why, "can't resolve bad.example: no such name");
    // What was there stays where it was while its new name is not resolved.
    let unknown = [("a", "slow.example"), ("b", "bad.example")].map(|(id, address)| instance(id, address, "passing"));
    agent.asked().await.ok(2, &list(&unknown));
    // No set comes of it: the next one is that of the next answer.
    let known = instance("c", "10.0.0.7", "passing");
    agent.asked().await.ok(3, &list(&[&unknown[..], &[known]].concat()));
    let wanted = ["n/a 10.0.0.1:80 2 passing", "n/b 10.9.9.9:80 2 passing", "n/c 10.0.0.7:80 2 passing"];
    assert_eq!(running.set().await, wanted);
}

#[tokio::test]
async fn an_instance_that_is_ourselves_is_rejected_and_the_rest_serves() {
    let (_listening, fronts) = fronts_at(&["10.0.0.1:80"]);
    let mut agent = Agent::start().await;
    let mut discovery = Discovery::with(nameless(), fronts, quick());
    let mut running = Running::start(&mut discovery, &Source::Consul(service_at(&agent.address())));
    let instances = [("a", ""), ("b", "10.9.9.9")].map(|(id, address)| instance(id, address, "passing"));
    agent.asked().await.ok(1, &list(&instances));
    assert_eq!(running.set().await, ["n/b 10.9.9.9:80 2 passing"]);
    let view = running.status(|view| !view.rejected.is_empty()).await;
    assert_eq!(view.rejected[0].id, "n/a");
    assert!(view.rejected[0].why.starts_with("10.0.0.1:80 is our own listener `web`"), "{}", view.rejected[0].why);
}

#[tokio::test]
async fn an_agent_that_answers_at_once_is_not_asked_all_the_time() {
    let tuning = Tuning { burst: 3, interval: Duration::from_secs(3600), ..quick() };
    let (mut agent, mut running) = follow(tuning).await;
    // The first answer is news, which is asked for at once; then there are two more tries.
    for index in 1..=4 {
        agent.asked().await.ok(index, &passing(&["a"]));
    }
    assert_eq!(running.set().await.len(), 1);
    assert!(tokio::time::timeout(A_WHILE, agent.wait()).await.is_err(), "asked a fifth time");
}

#[tokio::test]
async fn news_are_asked_for_without_delay_however_many_there_are() {
    let tuning = Tuning { burst: 3, interval: Duration::from_secs(3600), ..quick() };
    let (mut agent, mut running) = follow(tuning).await;
    for index in 1..=30 {
        let id = format!("a{index}");
        agent.asked().await.ok(index, &passing(&[&id]));
        assert_eq!(running.set().await, [format!("n/{id} 10.0.0.1:80 2 passing")]);
    }
}

#[tokio::test]
async fn more_queries_than_connections_take_turns_and_all_are_answered() {
    let mut agent = Agent::start().await;
    let mut discovery = Discovery::with(nameless(), no_fronts(), quick());
    let settings = ConsulAgent { max_connections: 4, ..agent_at(&agent.address()) };
    let source = ConsulSource { agent: Arc::new(settings), ..service_at(&agent.address()) };
    let of = |number| ConsulSource { service: format!("web{number}"), ..source.clone() };
    let mut all: Vec<_> = (0..9).map(|n| Running::start(&mut discovery, &Source::Consul(of(n)))).collect();
    // Three at a time, and none of them with a wait that keeps the others out.
    let mut open = std::collections::VecDeque::new();
    for _ in 0..3 {
        open.push_back(agent.asked().await);
    }
    assert!(tokio::time::timeout(A_WHILE, agent.wait()).await.is_err(), "a fourth connection");
    let mut answered = 0;
    while let Some(asked) = open.pop_front() {
        assert!(!asked.path.contains(BLOCKING), "{}", asked.path);
        asked.ok(7, &passing(&["a"]));
        answered += 1;
        if answered < 18 {
            open.push_back(agent.asked().await);
        }
    }
    for running in &mut all {
        assert_eq!(running.set().await.len(), 1);
    }
}

#[tokio::test]
async fn a_filter_that_is_refused_is_named() {
    let mut agent = Agent::start().await;
    let mut discovery = Discovery::with(nameless(), no_fronts(), quick());
    let source = ConsulSource { filter: Some("nonsense".to_owned()), ..service_at(&agent.address()) };
    let running = Running::start(&mut discovery, &Source::Consul(source));
    let refusal = "Failed to create boolean expression evaluator: Selector \"nonsense\" is not valid";
    agent.asked().await.status("500 Internal Server Error", refusal);
    let (_, kind, text) = running.status(|view| view.error.is_some()).await.error.unwrap();
    assert_eq!(kind, "bad_filter");
    assert!(text.contains("the filter \"nonsense\" is refused: status 500: Failed to create"), "{text}");
}

#[tokio::test]
async fn an_agent_that_refuses_connections_is_named() {
    let (mut agent, running) = follow(quick()).await;
    agent.asked().await.status("429 Too Many Requests", "Your IP is issuing too many concurrent connections");
    let (.., text) = running.status(|view| view.errors.contains_key("rate_limited")).await.error.unwrap();
    assert!(text.contains("the agent refuses more connections or questions from here: status 429: Your IP"), "{text}");
    drop(agent.asked().await);
    let (.., text) = running.status(|view| view.errors.contains_key("broken")).await.error.unwrap();
    assert!(text.contains("closed without an answer, as an agent does that has too many connections"), "{text}");
}

#[tokio::test]
async fn pools_with_one_agent_share_a_client() {
    let mut discovery = Discovery::new(no_fronts());
    for service in ["a", "b"] {
        let source = ConsulSource { service: service.to_owned(), ..service_at("http://127.0.0.1:1") };
        discovery.source("pool", &Source::Consul(source), Resolve::default()).unwrap();
    }
    assert_eq!(discovery.agents.len(), 1);
    let broken = ConsulSource { agent: Arc::new(agent_at("nowhere")), ..service_at("") };
    let refused = discovery.source("pool", &Source::Consul(broken), Resolve::default());
    assert!(matches!(refused, Err(super::super::SourceError::Registry { .. })));
}

#[tokio::test]
async fn it_ends_when_nobody_listens_and_takes_its_question_back() {
    let (mut agent, mut running) = follow(quick()).await;
    let asked = agent.asked().await;
    running.updates.close();
    soon("end", &mut running.task).await.unwrap();
    asked.left().await;
}
