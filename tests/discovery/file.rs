//! A pool whose backends another program writes into a file.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::{Backend, Rig, exchange, get_json, until};

struct Listed {
    directory: TempDir,
    rig: Rig,
}

fn configuration(path: &std::path::Path) -> String {
    format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\nfile = {path:?}\n\
         check = {{ interval = \"100ms\", fast_interval = \"20ms\", timeout = \"500ms\" }}\n"
    )
}

impl Listed {
    async fn start(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("backends.json"), text).unwrap();
        let rig = Rig::start(&configuration(&directory.path().join("backends.json"))).await;
        Self { directory, rig }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("backends.json")
    }
}

#[tokio::test]
async fn backends_come_change_and_leave_with_the_file() {
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    let (at_a, at_b) = (a.address(), b.address());
    let listed = Listed::start(&format!(r#"[{{"address": "{at_a}", "id": "a"}}]"#)).await;
    let rig = &listed.rig;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
    let both = format!(
        r#"[{{"address": "{at_a}", "id": "a", "weight": 0}}, {{"address": "{at_b}", "id": "b", "max_sessions": 7}}]"#
    );
    std::fs::write(listed.path(), both).unwrap();
    let b = rig.until_standing("b", "up").await;
    assert_eq!(b["max_sessions"], 7);
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"b");
    // Half a document is none: what is known stays.
    std::fs::write(listed.path(), r#"[{"address": "#).unwrap();
    let failing = "evenkeel_discovery_failing{pool=\"back\",source=\"file\"}";
    rig.until_metric(failing, 1.0).await;
    assert!(
        rig.metric("evenkeel_discovery_errors_total{pool=\"back\",source=\"file\",reason=\"invalid\"}").await >= 1.0
    );
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"b");
    // After the trouble the guard holds the one that is missing, as it passes its probes.
    std::fs::write(listed.path(), format!(r#"[{{"address": "{at_b}", "id": "b"}}, "nothing"]"#)).unwrap();
    rig.until_metric(failing, 0.0).await;
    rig.until_metric("evenkeel_discovery_rejected_instances{pool=\"back\",source=\"file\"}", 1.0).await;
    until("a is held", || async { rig.backend("a").await.filter(|a| a["facts"]["guard"] == "held") }).await;
    let explained = get_json(rig.admin(), "/api/v1/backends/back/b").await.to_string();
    assert!(explained.contains("it is listed"), "{explained}");
}

#[tokio::test]
async fn a_reload_changes_the_source_and_a_person_is_obeyed_at_once() {
    let (a, b) = (Backend::answering("a").await, Backend::answering("b").await);
    let (at_a, at_b) = (a.address(), b.address());
    let listed = Listed::start(&format!(r#"["{at_a}"]"#)).await;
    let rig = &listed.rig;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"a");
    let other = listed.directory.path().join("other.toml");
    std::fs::write(&other, format!("backends = [\"{at_b}\"]")).unwrap();
    let applied = rig.reload(&configuration(&other)).await.unwrap();
    assert_eq!(applied.diff.lines().len(), 1, "{:?}", applied.diff);
    rig.until_standing(&at_b.to_string(), "up").await;
    until("a is gone", || async {
        rig.backend(&at_a.to_string()).await.is_none_or(|a| a["standing"] == "removed").then_some(())
    })
    .await;
    assert_eq!(exchange(rig.front(), b"?").await.unwrap(), b"b");
}
