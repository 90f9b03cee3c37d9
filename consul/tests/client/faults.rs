//! Everything that goes wrong is told apart.

use std::time::Duration;

use consul::{Client, Error, HealthQuery, Settings};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::{Agent, PATIENCE, Say, ok, reply};

async fn failure(say: Say) -> Error {
    let (_agent, address) = Agent::start(say).await;
    let client = Client::new(&Settings::new(address)).unwrap();
    timeout(PATIENCE, client.health_service("web", &HealthQuery::default())).await.unwrap().unwrap_err()
}

#[tokio::test]
async fn statuses_come_with_their_body() {
    let error = failure(reply("403 Forbidden", "", "Permission denied: token with \x1b[31maccessor\n")).await;
    assert_eq!(error.kind(), "forbidden");
    assert_eq!(error.to_string(), "status 403: Permission denied: token with \\x1b[31maccessor");
    assert_eq!(failure(reply("500 Internal Server Error", "", "No cluster leader")).await.kind(), "no_leader");
    assert_eq!(failure(reply("500 Internal Server Error", "", "rpc error")).await.kind(), "server_error");
    assert_eq!(failure(reply("429 Too Many Requests", "", "")).await.kind(), "rate_limited");
    let long = failure(reply("500 Internal Server Error", "", &"x".repeat(100_000))).await;
    assert!(long.to_string().len() < 600);
    // Consul says yes by 200 alone; a list by another status is not Consul's.
    assert_eq!(failure(reply("206 Partial Content", "", "[]")).await.kind(), "other");
    assert_eq!(failure(reply("202 Accepted", "", "[]")).await.kind(), "other");
    // A list is obeyed only where the status says that it is one.
    assert_eq!(failure(reply("500 Internal Server Error", "X-Consul-Index: 7\r\n", "[]")).await.kind(), "server_error");
    // Redirects would carry the token elsewhere.
    assert_eq!(failure(reply("302 Found", "Location: http://127.0.0.1:1/\r\n", "")).await.kind(), "other");
}

#[tokio::test]
async fn garbage_is_no_empty_list() {
    for body in ["", "{}", "<html>", "[", "[]]"] {
        assert_eq!(failure(ok(body)).await.kind(), "decode", "{body:?}");
    }
    for bytes in ["SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]", ""] {
        assert_eq!(failure(Say::Last(bytes.into())).await.kind(), "broken", "{bytes:?}");
    }
}

#[tokio::test]
async fn an_error_status_is_told_whatever_its_body_is() {
    let cut = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 900\r\n\r\nNo cluster leader";
    let error = failure(Say::Last(cut.into())).await;
    assert_eq!((error.kind(), error.to_string().as_str()), ("no_leader", "status 500: No cluster leader"));
    let endless = failure(Say::Endless("500 Internal Server Error")).await;
    assert_eq!(endless.kind(), "server_error");
}

#[tokio::test]
async fn an_endless_body_is_not_read_to_its_end() {
    assert!(matches!(failure(Say::Endless("200 OK")).await, Error::TooLarge { .. }));
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(&Settings::new(&address)).unwrap();
    let error = client.health_service("web", &HealthQuery::default()).await.unwrap_err();
    assert_eq!(error.kind(), "connect");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("tcp connect error: Connection refused"), "{cause}");
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let (_agent, address) = Agent::start(Say::Nothing).await;
    let client = Client::new(&Settings::new(address)).unwrap().with_margin(Duration::from_millis(50));
    let error = client.health_service("web", &HealthQuery::default()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { after } if after == Duration::from_millis(50)), "{error}");
    // A query that blocks has the longer deadline: wait, wait/16, margin.
    let query = HealthQuery { index: Some(1), wait: Some(Duration::from_millis(160)), ..HealthQuery::default() };
    let error = client.health_service("web", &query).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { after } if after == Duration::from_millis(220)), "{error}");
}

#[tokio::test]
async fn dropping_the_call_ends_it_at_the_agent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (agent, mut ends) = Agent::new(Say::Nothing);
    tokio::spawn(agent.clone().accept(listener));
    let client = Client::new(&Settings::new(address)).unwrap();
    let query = HealthQuery { index: Some(1), ..HealthQuery::default() };
    let call = tokio::spawn(async move { client.health_service("web", &query).await });
    let arrived = async {
        while agent.asked().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, arrived).await.unwrap();
    call.abort();
    timeout(PATIENCE, ends.recv()).await.expect("the connection stays open").unwrap();
}

#[tokio::test]
async fn names_that_no_path_can_hold() {
    let client = Client::new(&Settings::new("http://127.0.0.1:1")).unwrap();
    let error = client.health_service("..", &HealthQuery::default()).await.unwrap_err();
    assert!(matches!(error, Error::Argument { .. }));
    assert!(matches!(client.kv_read("/a", None, None).await, Err(Error::Argument { .. })));
}
