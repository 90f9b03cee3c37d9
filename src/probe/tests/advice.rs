//! Agents: what they say, what stays, and which subscribers hear it.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::AgentCheck;
use crate::health::AdvisedWeight::Percent;
use crate::health::{Advice, AgentWish};

/// Says what it was told to, after a word that it waits for, if there is one.
async fn agent(said: &Arc<Mutex<&'static str>>, password: &'static str) -> Backend {
    let said = Arc::clone(said);
    Backend::start(move |mut stream, _| {
        let said = Arc::clone(&said);
        async move {
            let mut word = vec![0; password.len()];
            if stream.read_exact(&mut word).await.is_ok() && word == password.as_bytes() {
                let text = *said.lock().unwrap();
                drop(stream.write_all(text.as_bytes()).await);
            }
        }
    })
    .await
}

fn asking(send: &str) -> Check {
    check(CheckKind::Agent(AgentCheck { send: send.into() }))
}

/// The next report that is about a new text.
async fn about(reports: &mut UnboundedReceiver<ProbeReport>, text: &str) -> Arc<ProbeResult> {
    loop {
        let report = next(reports).await;
        if report.result.got.contains(text) {
            return report.result;
        }
    }
}

#[tokio::test]
async fn an_answer_is_a_result_and_advice_that_stays() {
    let said = Arc::new(Mutex::new("up 75%\n"));
    let backend = agent(&said, "hello\n").await;
    let prober = Prober::new();
    let (_subscription, mut reports) = subscribe(&prober, backend.address, &asking("hello\n"));
    let result = next(&mut reports).await.result;
    assert_eq!((result.passed, result.to_string().as_str()), (true, r#"agent opinion: "up 75%""#));
    assert_eq!(result.advice, Some(Advice { weight: Some(Percent(75)), ..Advice::default() }));

    *said.lock().unwrap() = "drain,maxconn:5\r\nup\n";
    let result = about(&mut reports, "drain").await;
    let drained = Advice { weight: Some(Percent(75)), wish: AgentWish::Drain, max_sessions: Some(5) };
    assert_eq!((result.passed, result.advice), (true, Some(drained)), "only the first line counts");

    *said.lock().unwrap() = "down # for a reason";
    let result = about(&mut reports, "down").await;
    assert_eq!(
        (result.passed, result.advice.unwrap().wish),
        (false, AgentWish::Down),
        "the end of the connection ends a line"
    );

    *said.lock().unwrap() = "who knows\n";
    let result = about(&mut reports, "who knows").await;
    assert_eq!(result.to_string(), r#"agent opinion: "who knows", wanted words such as up, down, drain, weight:50"#);
    assert_eq!((result.passed, result.advice.unwrap().wish), (false, AgentWish::Down), "nothing changes");

    // One that is gone changes nothing either; one that comes late hears what held.
    drop(backend);
    let result = about(&mut reports, "refused").await;
    assert_eq!((result.passed, result.advice.unwrap().wish), (false, AgentWish::Down));
}

#[tokio::test]
async fn one_that_never_answered_advises_nothing() {
    let (_socket, address) = refusing();
    assert_eq!(first(address, &asking("")).await.advice, None);
    let silent = Backend::silent().await;
    let check = Check { timeout: Duration::from_millis(50), ..asking("") };
    assert_eq!(first(silent.address, &check).await.advice, None);
    let endless =
        Backend::start(|mut stream, _| async move { while stream.write_all(&[b'.'; 1000]).await.is_ok() {} }).await;
    let result = first(endless.address, &asking("")).await;
    assert!(result.got.starts_with("more than 4096 bytes, came \"..."), "{result}");
}
