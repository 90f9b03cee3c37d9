//! The Consul follower in trouble: whatever happens, what is known stays.

use std::time::Duration;

use tokio::net::TcpListener;

use super::agent::{Agent, Asked, instance, list, passing};
use super::*;

/// With one instance known, and the next question asked.
async fn following(tuning: Tuning) -> (Agent, Running, Asked) {
    let mut agent = Agent::start().await;
    let mut discovery = Discovery::with(nameless(), no_fronts(), tuning);
    let mut running = Running::start(&mut discovery, &Source::Consul(service_at(&agent.address())));
    agent.asked().await.ok(900, &passing(&["a"]));
    assert_eq!(running.set().await.len(), 1);
    let asked = agent.asked().await;
    assert!(asked.path.contains("index=900"), "{}", asked.path);
    (agent, running, asked)
}

#[tokio::test]
async fn errors_keep_the_set_and_start_from_no_index() {
    let (mut agent, mut running, mut asked) = following(quick()).await;
    let faults: [(&str, &dyn Fn(Asked)); 10] = [
        ("server_error", &|asked| asked.status("500 Internal Server Error", "rpc error: code = Canceled")),
        ("no_leader", &|asked| asked.status("500 Internal Server Error", "No cluster leader")),
        ("forbidden", &|asked| asked.status("403 Forbidden", "Permission denied")),
        ("rate_limited", &|asked| asked.status("429 Too Many Requests", "")),
        ("bad_request", &|asked| asked.status("400 Bad Request", "Invalid index")),
        ("decode", &|asked| asked.ok(901, "<html>")),
        ("decode", &|asked| asked.ok(901, "null")),
        ("decode", &|asked| asked.ok(901, &format!("{:?}", "x".repeat(1 << 20)))),
        ("broken", &|asked| asked.raw("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n[]")),
        ("broken", &drop),
    ];
    for (kind, fault) in faults {
        let before = running.status.view().errors.get(kind).map_or(0, |errors| errors.count);
        fault(asked);
        asked = agent.asked().await;
        assert_eq!(asked.path, "web", "after {kind}");
        let view = running.status(|view| view.errors.get(kind).is_some_and(|errors| errors.count > before)).await;
        let (_, last, text) = view.error.unwrap();
        assert_eq!(last, kind);
        assert!(text.len() < 1000, "{}", text.len());
    }
    // Said once, however often it fails.
    let update = running.update().await;
    assert_eq!((shown(&update).len(), update.trust), (1, Trust::Failing));
    assert!(running.updates.try_recv().is_err());
    // All is well again, and what is new comes through.
    asked.ok(901, &passing(&["a", "b"]));
    let update = running.update().await;
    assert_eq!((shown(&update).len(), update.trust), (2, Trust::Doubted(Mistrust::Trouble)));
    running.status(|view| view.error.is_none()).await;
}

#[tokio::test]
async fn the_first_answer_after_errors_is_marked() {
    let (mut agent, mut running, asked) = following(quick()).await;
    asked.status("500 Internal Server Error", "");
    agent.asked().await.ok(901, "[]");
    assert_eq!(running.update().await.trust, Trust::Failing);
    assert_eq!(running.update().await, Update { endpoints: Vec::new(), trust: Trust::Doubted(Mistrust::Trouble) });
    agent.asked().await.ok(902, &passing(&["b"]));
    assert_eq!(running.update().await.trust, Trust::Calm);
    agent.asked().await.status("500 Internal Server Error", "");
    let again = running.update().await;
    assert_eq!((shown(&again).len(), again.trust), (1, Trust::Failing));
    // Also if it says what it said before.
    agent.asked().await.ok(903, &passing(&["b"]));
    assert_eq!(running.update().await.trust, Trust::Doubted(Mistrust::Trouble));
}

#[tokio::test]
async fn an_index_that_goes_back_is_marked_and_asked_again_at_once() {
    let (mut agent, mut running, asked) = following(quick()).await;
    asked.ok(11, "[]");
    assert_eq!(running.update().await, Update { endpoints: Vec::new(), trust: Trust::Doubted(Mistrust::Restart) });
    let asked = agent.asked().await;
    assert_eq!(asked.path, "web");
    asked.ok(11, &passing(&["a"]));
    assert_eq!(running.update().await.trust, Trust::Calm);
    assert!(agent.asked().await.path.contains("index=11"));
    assert!(running.status.view().errors.is_empty());
}

#[tokio::test]
async fn an_index_that_went_back_behind_errors_is_a_restart() {
    let (mut agent, mut running, asked) = following(quick()).await;
    asked.status("500 Internal Server Error", "");
    agent.asked().await.ok(11, "[]");
    assert_eq!(running.update().await.trust, Trust::Failing);
    assert_eq!(running.update().await.trust, Trust::Doubted(Mistrust::Restart));
    assert!(agent.asked().await.path.contains("index=11"), "it waits at once");
}

/// Between two questions nothing waits at the agent, and its restart goes unseen: an index from before it may never come.
#[tokio::test]
async fn after_a_pause_an_index_is_not_waited_for_long() {
    let tuning = Tuning { burst: 1, interval: Duration::from_millis(5), ..quick() };
    let (mut agent, _running, asked) = following(tuning).await;
    assert!(asked.path.ends_with("index=900&wait=300000ms"), "{}", asked.path);
    // It brings nothing new, so that the next question has to wait for its turn.
    asked.ok(901, &passing(&["a"]));
    soon("a question after a pause", async {
        loop {
            let asked = agent.asked().await;
            if asked.path.ends_with("&wait=5000ms") {
                break;
            }
            asked.ok(901, &passing(&["a"]));
        }
    })
    .await;
}

const FILTERED: &str = "X-Consul-Results-Filtered-By-ACLs: true\r\n";

#[tokio::test]
async fn answers_that_become_filtered_are_marked() {
    let (mut agent, mut running, asked) = following(quick()).await;
    assert!(!running.status.view().filtered);
    asked.ok_with(901, FILTERED, "[]");
    assert_eq!(running.update().await.trust, Trust::Doubted(Mistrust::Filtered));
    assert!(running.status.view().filtered);
    // From then on they are as good as others, until they were not for a while.
    agent.asked().await.ok_with(902, FILTERED, &passing(&["b"]));
    assert_eq!(running.update().await.trust, Trust::Calm);
    agent.asked().await.ok(903, &passing(&["a", "b"]));
    assert_eq!(running.update().await.trust, Trust::Calm);
    running.status(|view| !view.filtered).await;
    agent.asked().await.ok_with(904, FILTERED, &passing(&["a", "b"]));
    assert_eq!(running.update().await.trust, Trust::Doubted(Mistrust::Filtered));
}

#[tokio::test]
async fn answers_that_are_filtered_from_the_start_are_obeyed() {
    let mut agent = Agent::start().await;
    let mut discovery = Discovery::with(nameless(), no_fronts(), quick());
    let mut running = Running::start(&mut discovery, &Source::Consul(service_at(&agent.address())));
    agent.asked().await.ok_with(900, FILTERED, &passing(&["a"]));
    assert_eq!(running.set().await.len(), 1);
    agent.asked().await.ok_with(901, FILTERED, "[]");
    assert_eq!(running.update().await.trust, Trust::Calm);
    assert!(running.status.view().filtered);
}

#[tokio::test]
async fn silence_is_an_error_in_time() {
    let tuning = Tuning { wait: Duration::from_millis(16), margin: Duration::from_millis(50), ..quick() };
    let (mut agent, mut running, asked) = following(tuning).await;
    let view = running.status(|view| view.errors.contains_key("timeout")).await;
    assert!(view.error.unwrap().2.contains("67ms"));
    asked.left().await;
    agent.asked().await.ok(900, &passing(&["a"]));
    assert_eq!(running.update().await.trust, Trust::Failing);
    assert_eq!(running.update().await.trust, Trust::Doubted(Mistrust::Trouble));
    running.status(|view| view.error.is_none()).await;
}

#[tokio::test]
async fn nobody_there_then_an_agent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let mut discovery = Discovery::with(nameless(), no_fronts(), quick());
    let mut running = Running::start(&mut discovery, &Source::Consul(service_at(&format!("http://{at}"))));
    let view = running.status(|view| view.errors.get("connect").is_some_and(|errors| errors.count > 2)).await;
    assert!(view.last_success.is_none());
    assert!(view.error.unwrap().2.contains("refused"));
    let mut agent = Agent::on(TcpListener::bind(at).await.unwrap());
    agent.asked().await.ok(1, &passing(&["a"]));
    assert_eq!(running.set().await.len(), 1);
}

#[tokio::test]
async fn a_list_of_nothing_usable_is_not_an_empty_list() {
    let (mut agent, mut running, asked) = following(quick()).await;
    asked.ok(901, &list(&[instance("a", "not an address", "passing"), "7".to_owned()]));
    let view = running.status(|view| view.errors.contains_key("invalid")).await;
    assert!(view.error.unwrap().2.contains(": none of 2 instances can be used, such as entry 1:"));
    let asked = agent.asked().await;
    assert_eq!(asked.path, "web");
    let update = running.update().await;
    assert_eq!((shown(&update).len(), update.trust), (1, Trust::Failing));
    // What comes next is the answer after it.
    asked.ok(902, &passing(&["a", "b"]));
    let update = running.update().await;
    assert_eq!((shown(&update).len(), update.trust), (2, Trust::Doubted(Mistrust::Trouble)));
}

#[tokio::test]
async fn errors_are_tried_again_at_the_rate_limit_at_most() {
    let tuning = Tuning { burst: 4, interval: Duration::from_secs(3600), ..quick() };
    let (mut agent, running, asked) = following(tuning).await;
    asked.status("500 Internal Server Error", "");
    // The first question was free: there had been news.
    for _ in 0..3 {
        let Some(asked) = soon("question", agent.wait()).await else { panic!("the agent ended") };
        asked.status("500 Internal Server Error", "");
    }
    assert!(tokio::time::timeout(A_WHILE, agent.wait()).await.is_err(), "asked a sixth time");
    running.status(|view| view.errors.get("server_error").is_some_and(|errors| errors.count == 4)).await;
}
