//! The followers of files.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::config::FileSource;

struct Written {
    directory: TempDir,
}

impl Written {
    fn new(text: &str) -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap() };
        this.write(text);
        this
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("backends.json")
    }

    fn write(&self, text: &str) {
        fs::write(self.directory.path().join("new"), text).unwrap();
        fs::rename(self.directory.path().join("new"), self.path()).unwrap();
    }

    fn source(&self) -> Source {
        Source::File(FileSource { path: self.path() })
    }
}

fn discovery() -> Discovery {
    Discovery::with(nameless(), no_fronts(), quick())
}

#[tokio::test]
async fn what_a_file_lists_exists_and_a_change_is_seen() {
    let written = Written::new(r#"["10.0.0.1:80", {"address": "[fd00::2]:80", "weight": 3}]"#);
    let mut running = Running::start(&mut discovery(), &written.source());
    assert_eq!(running.set().await, ["10.0.0.1:80 10.0.0.1:80 1 passing", "[fd00::2]:80 [fd00::2]:80 3 passing"]);
    written.write(r#"[{"targets": ["10.0.0.1:80"], "labels": {"evenkeel_weight": "2"}}]"#);
    let update = running.update().await;
    assert_eq!((shown(&update), update.trust), (vec!["10.0.0.1:80 10.0.0.1:80 2 passing".to_owned()], Trust::Calm));
    running.status(|view| view.last_success.is_some() && view.error.is_none()).await;
}

#[tokio::test]
async fn a_bad_file_leaves_what_was_and_the_next_good_one_is_doubted() {
    let written = Written::new(r#"["10.0.0.1:80", "10.0.0.2:80"]"#);
    let mut running = Running::start(&mut discovery(), &written.source());
    let known = running.set().await;
    for (bad, kind, why) in [
        (r#"["10.0.0.1:80","#, "invalid", "not valid JSON"),
        (r#"{"backend": []}"#, "invalid", "there is no list `backends` in it"),
        ("", "invalid", "not valid JSON"),
        (r#"["nothing", "good"]"#, "invalid", "none of 2 entries can be used, such as nothing: no port"),
    ] {
        written.write(bad);
        let view = running.status(|view| view.error.as_ref().is_some_and(|(.., text)| text.contains(why))).await;
        assert_eq!(view.error.unwrap().1, kind);
    }
    let update = running.update().await;
    assert_eq!((shown(&update), update.trust), (known, Trust::Failing));
    fs::remove_file(written.path()).unwrap();
    running.status(|view| view.errors.contains_key("missing")).await;
    written.write(r#"["10.0.0.2:80"]"#);
    let update = running.update().await;
    assert_eq!(update.trust, Trust::Doubted(Mistrust::Trouble));
    assert_eq!(shown(&update), ["10.0.0.2:80 10.0.0.2:80 1 passing"]);
    running.status(|view| view.error.is_none()).await;
}

#[tokio::test]
async fn an_entry_that_can_t_be_used_is_left_out_and_said() {
    let written = Written::new(r#"["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": -1}]"#);
    let mut running = Running::start(&mut discovery(), &written.source());
    assert_eq!(running.set().await, ["10.0.0.1:80 10.0.0.1:80 1 passing"]);
    let view = running.status(|view| view.rejected.count() == 1).await;
    assert_eq!(view.rejected[0].id, "10.0.0.2:80");
    assert!(view.error.is_none());
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_awaited() {
    let written = Written::new("[]");
    fs::remove_file(written.path()).unwrap();
    let mut running = Running::start(&mut discovery(), &written.source());
    let view = running.status(|view| view.error.is_some()).await;
    assert_eq!(view.error.unwrap().1, "missing");
    assert!(running.updates.try_recv().is_err(), "that there is no file is no empty set");
    written.write(r#"["10.0.0.1:80"]"#);
    assert_eq!(running.set().await, ["10.0.0.1:80 10.0.0.1:80 1 passing"]);
}

#[tokio::test]
async fn pools_with_one_file_share_a_watch_and_a_directory_counts_as_one() {
    let written = Written::new(r#"["10.0.0.1:80"]"#);
    fs::write(written.directory.path().join("more.toml"), "backends = [\"10.0.0.2:80\"]").unwrap();
    let source = Source::File(FileSource { path: written.directory.path().to_owned() });
    let mut discovery = discovery();
    let (mut one, mut two) = (Running::start(&mut discovery, &source), Running::start(&mut discovery, &source));
    let wanted = ["10.0.0.1:80 10.0.0.1:80 1 passing", "10.0.0.2:80 10.0.0.2:80 1 passing"];
    assert_eq!(
        (one.set().await, two.set().await),
        (wanted.map(str::to_owned).to_vec(), wanted.map(str::to_owned).to_vec())
    );
    // One bad file of it is an error of all.
    fs::write(written.directory.path().join("more.toml"), "backends = [").unwrap();
    written.write("[]");
    let view = one.status(|view| view.error.is_some()).await;
    let (_, kind, text) = view.error.unwrap();
    assert_eq!(kind, "invalid");
    assert!(text.contains("more.toml: not valid TOML") && text.contains("line 1 column"), "{text}");
    assert_eq!(shown(&one.update().await), wanted);
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let written = Written::new(r#"["10.0.0.1:80"]"#);
    let mut running = Running::start(&mut discovery(), &written.source());
    running.set().await;
    running.updates.close();
    soon("end", &mut running.task).await.unwrap();
}
