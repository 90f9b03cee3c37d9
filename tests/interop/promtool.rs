//! Prometheus' own tool on what `/metrics` says.

use super::port;
use crate::support::{Backend, Rig, exchange, free_port, program, run};

#[tokio::test]
async fn promtool_has_no_complaint_about_the_metrics() {
    let Some(promtool) = program("promtool") else { return };
    let echo = Backend::echo().await;
    let (good, dead) = (echo.address().to_string(), free_port().to_string());
    // An id that has to be escaped.
    let odd = r#"{ address = "127.0.0.1:1", id = 'quote " backslash \ end' }"#;
    let rig = Rig::start(&format!(
        r#"
[listeners.front]
bind = "127.0.0.1:0"
pool = "back"
[pools.back]
backends = ["{good}", "{dead}", {odd}]
check = {{ interval = "50ms", fast_interval = "20ms" }}
[pools.unproven]
backends = ["127.0.0.1:{}"]
required = false
"#,
        port(free_port())
    ))
    .await;
    rig.until_standing(&good, "up").await;
    rig.until_standing(&dead, "down").await;
    for _ in 0..20 {
        assert_eq!(exchange(rig.front(), b"to and fro").await.unwrap(), b"to and fro");
    }
    rig.until_no_sessions().await;

    let metrics = rig.metrics().await;
    for series in ["evenkeel_sessions_total{", "evenkeel_pool_session_seconds_bucket{", "process_open_fds "] {
        assert!(metrics.contains(series), "{series}: {metrics}");
    }
    let said = run(&promtool, &["check", "metrics"], metrics.as_bytes()).await;
    assert!(said.ok && said.out.is_empty() && said.err.is_empty(), "{said:#?}");
    // It would have said something.
    let wrong = format!("{metrics}# HELP evenkeel_bad no\n# TYPE evenkeel_bad counter\nevenkeel_bad 1\n");
    assert!(!run(&promtool, &["check", "metrics"], wrong.as_bytes()).await.ok);
    rig.stop().await;
}
