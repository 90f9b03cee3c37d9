//! A limit that is reached is told: an event, and a place in the status, when it begins and when it ends.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::{Crowd, two_listeners};
use crate::support::{Backend, Program, Rig, get, soon, until};

/// What the API says of limits: kind, name, and whether it lasts.
async fn limits(rig: &Rig) -> Vec<(String, String, bool)> {
    let status: serde_json::Value = serde_json::from_str(&get(rig.admin(), "/api/v1/status").await.unwrap().1).unwrap();
    let text = |limit: &serde_json::Value, key: &str| limit[key].as_str().unwrap().to_owned();
    let limits = status["limits"].as_array().unwrap().iter();
    limits.map(|limit| (text(limit, "kind"), text(limit, "name"), limit["until"].is_null())).collect()
}

/// The next event about a limit: which, whether it is reached, and what it says.
async fn next_limit(
    events: &mut tokio::sync::broadcast::Receiver<Arc<evenkeel::pool::Event>>,
) -> (&'static str, bool, String) {
    soon("an event about a limit", async {
        loop {
            if let evenkeel::pool::Happened::Limit { limit, reached, says } = &events.recv().await.unwrap().what {
                return (*limit, *reached, says.clone());
            }
        }
    })
    .await
}

/// Each kind of limit: an event and a place in the status when it begins, and when it ends.
#[tokio::test]
async fn the_log_tells_when_a_limit_is_reached_and_when_that_ends() {
    let backend = Backend::echo().await;
    let queue = "backend_max_sessions = 1\nqueue = { max_length = 9, timeout = \"20s\" }\n";
    for (kind, name, top, one, pool) in [
        ("listener", "one", "", "max_connections = 1", ""),
        ("process", "one", "max_connections = 1", "", ""),
        ("pool", "back", "", "", "backend_max_sessions = 1\n"),
        ("pool", "back", "", "", queue),
    ] {
        let rig = Rig::start(&(two_listeners(top, one, &backend) + pool)).await;
        let mut events = rig.balancer().state().events.follow();
        let first = Crowd::new(rig.front(), 1);
        first.until_served(1).await;
        assert_eq!(limits(&rig).await, [], "{kind} is reached, but nobody had to wait");
        let second = TcpStream::connect(rig.front()).await.unwrap();
        let (limit, reached, says) = next_limit(&mut events).await;
        assert_eq!((limit, reached), (kind, true), "{says}");
        assert_eq!(limits(&rig).await, [(kind.to_owned(), name.to_owned(), true)]);
        drop((first, second));
        let (limit, reached, over) = next_limit(&mut events).await;
        assert_eq!((limit, reached), (kind, false), "{over}");
        assert!(over.ends_with(&says), "{over}");
        assert_eq!(limits(&rig).await, [(kind.to_owned(), name.to_owned(), false)]);
        rig.stop().await;
    }
}

/// `evenkeel status` beside a program.
pub(super) async fn status(program: &Program) -> String {
    let admin = format!("http://{}", program.admin().await);
    let mut command = tokio::process::Command::new(Program::PATH);
    command.args(["status", "--admin", &admin]).current_dir(program.directory());
    let output = soon("status", command.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A line of its own at the end, as long as it lasts and for a while after.
#[tokio::test]
async fn the_status_command_says_so() {
    let backend = Backend::echo().await;
    let text = two_listeners("admin.bind = \"127.0.0.1:0\"", "max_connections = 1", &backend);
    let program = Program::start(&text, &[]);
    let front = program.front("one").await;
    let first = Crowd::new(front, 1);
    first.until_served(1).await;
    assert!(!status(&program).await.contains("limit reached"));
    let second = TcpStream::connect(front).await.unwrap();
    let says = ": listener `one` has reached its max_connections = 1: clients wait in the backlog";
    let line = |status: String| status.lines().find(|line| line.starts_with("limit reached")).map(str::to_owned);
    let lasts = until("a line", || async { line(status(&program).await) }).await;
    let since = lasts.strip_prefix("limit reached since ").and_then(|rest| rest.strip_suffix(says)).expect(&lasts);
    drop((first, second));
    let over = until("it is over", || async { line(status(&program).await).filter(|line| line.contains("over now")) });
    let over = over.await;
    assert!(over.starts_with(&format!("limit reached from {since} until ")), "{over}");
    assert!(over.ends_with(&format!(", over now{says}")), "{over}");
}
