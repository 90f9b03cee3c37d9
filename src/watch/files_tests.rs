use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    directory: TempDir,
    watch: FilesWatch,
    news: watch::Receiver<FilesNews>,
}

impl Bench {
    /// `name` below the directory is watched, and is made before.
    fn new(name: &str, eyes: bool, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let period = if eyes { LOOK } else { Duration::from_millis(20) };
        let watch = FilesWatch::looking(&directory.path().join(name), period, eyes).unwrap();
        let news = watch.news();
        Self { directory, watch, news }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As `name: text`, or `kind: text` of an error, once it is as wanted; nothing half-written comes before.
    async fn sees(&mut self, wanted: &[&str]) {
        let mut last = Vec::new();
        let seen = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(found) = self.news.borrow_and_update().found.clone() {
                    last = shown(&found);
                    assert!(!last.iter().any(|line| line.contains("half")), "{last:?}");
                    if last == wanted {
                        return;
                    }
                }
                self.news.changed().await.unwrap();
            }
        });
        assert!(seen.await.is_ok(), "{last:?} and not {wanted:?}");
    }
}

fn shown(found: &FoundFiles) -> Vec<String> {
    match found {
        Ok(texts) => {
            let name = |text: &FileText| text.path.file_name().unwrap().to_string_lossy().into_owned();
            texts.iter().map(|text| format!("{}: {}", name(text), text.text)).collect()
        }
        Err(FilesError::Missing(_)) => vec!["missing".to_owned()],
        Err(FilesError::Unreadable(_)) => vec!["unreadable".to_owned()],
    }
}

#[tokio::test]
async fn one_file_is_read_whenever_it_is_whole() {
    for eyes in [true, false] {
        let mut bench = Bench::new("b.json", eyes, |directory| fs::write(directory.join("b.json"), "1").unwrap());
        bench.sees(&["b.json: 1"]).await;
        fs::write(bench.at("b.json"), "2").unwrap();
        bench.sees(&["b.json: 2"]).await;
        fs::write(bench.at("new"), "3").unwrap();
        fs::rename(bench.at("new"), bench.at("b.json")).unwrap();
        bench.sees(&["b.json: 3"]).await;
        // Gone, and back.
        fs::remove_file(bench.at("b.json")).unwrap();
        bench.sees(&["missing"]).await;
        fs::write(bench.at("b.json"), "4").unwrap();
        bench.sees(&["b.json: 4"]).await;
        // What is no text.
        fs::write(bench.at("b.json"), b"\xff").unwrap();
        bench.sees(&["unreadable"]).await;
        fs::write(bench.at("b.json"), "5").unwrap();
        bench.sees(&["b.json: 5"]).await;
    }
}

#[tokio::test]
async fn what_another_program_is_still_writing_is_not_read() {
    for name in ["b.json", "d"] {
        let mut bench = Bench::new(name, true, |directory| {
            fs::create_dir(directory.join("d")).unwrap();
            fs::write(directory.join("b.json"), "1").unwrap();
            symlink("../b.json", directory.join("d/b.json")).unwrap();
        });
        bench.sees(&["b.json: 1"]).await;
        // Another process: its descriptor is one that /proc shows.
        let script =
            format!("exec 3>{}; printf half >&3; read line; printf ' and the rest' >&3", name_of(&bench, name));
        let mut writer = std::process::Command::new("sh")
            .args(["-c", &script.replace("half", "begun")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let size = || fs::metadata(bench.at("b.json")).map_or(0, |metadata| metadata.len());
        while size() != 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Longer than any file is waited for that is not being written.
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(shown(bench.news.borrow().found.as_ref().unwrap()), ["b.json: 1"]);
        writer.stdin.take().unwrap().write_all(b"\n").unwrap();
        bench.sees(&["b.json: begun and the rest"]).await;
        writer.wait().unwrap();
    }
}

fn name_of(bench: &Bench, name: &str) -> String {
    let path = if name == "d" { bench.at("d/b.json") } else { bench.at(name) };
    path.display().to_string()
}

#[tokio::test]
async fn a_directory_is_all_its_files_together() {
    for eyes in [true, false] {
        let mut bench = Bench::new("d", eyes, |directory| {
            fs::create_dir(directory.join("d")).unwrap();
            fs::write(directory.join("d/README"), "not read").unwrap();
            fs::write(directory.join("d/.hidden.json"), "not read").unwrap();
        });
        bench.sees(&["missing"]).await;
        fs::write(bench.at("d/b.toml"), "2").unwrap();
        fs::write(bench.at("d/a.json"), "1").unwrap();
        bench.sees(&["a.json: 1", "b.toml: 2"]).await;
        fs::write(bench.at("d/tmp"), "3").unwrap();
        fs::rename(bench.at("d/tmp"), bench.at("d/a.json")).unwrap();
        bench.sees(&["a.json: 3", "b.toml: 2"]).await;
        fs::write(bench.at("d/b.toml"), "4").unwrap();
        bench.sees(&["a.json: 3", "b.toml: 4"]).await;
        // One that can't be read is an error of all.
        fs::create_dir(bench.at("d/c.json")).unwrap();
        bench.sees(&["unreadable"]).await;
        fs::remove_dir(bench.at("d/c.json")).unwrap();
        bench.sees(&["a.json: 3", "b.toml: 4"]).await;
        fs::remove_file(bench.at("d/a.json")).unwrap();
        bench.sees(&["b.toml: 4"]).await;
        fs::remove_file(bench.at("d/b.toml")).unwrap();
        bench.sees(&["missing"]).await;
        fs::rename(bench.at("d"), bench.at("e")).unwrap();
        fs::create_dir(bench.at("d")).unwrap();
        fs::write(bench.at("d/z.json"), "5").unwrap();
        bench.sees(&["z.json: 5"]).await;
    }
}

/// As a ConfigMap of Kubernetes is mounted, and changed.
#[tokio::test]
async fn links_that_are_swapped_are_followed() {
    let mut bench = Bench::new("d", true, |directory| {
        fs::create_dir_all(directory.join("d/..1")).unwrap();
        fs::write(directory.join("d/..1/b.json"), "1").unwrap();
        symlink("..1", directory.join("d/..data")).unwrap();
        symlink("..data/b.json", directory.join("d/b.json")).unwrap();
    });
    bench.sees(&["b.json: 1"]).await;
    fs::create_dir(bench.at("d/..2")).unwrap();
    fs::write(bench.at("d/..2/b.json"), "2").unwrap();
    symlink("..2", bench.at("d/..tmp")).unwrap();
    fs::rename(bench.at("d/..tmp"), bench.at("d/..data")).unwrap();
    fs::remove_dir_all(bench.at("d/..1")).unwrap();
    bench.sees(&["b.json: 2"]).await;
}

#[tokio::test]
async fn a_file_that_is_replaced_in_two_steps_is_not_missed_meanwhile() {
    let mut bench = Bench::new("d", true, |directory| {
        fs::create_dir(directory.join("d")).unwrap();
        fs::write(directory.join("d/a.json"), "1").unwrap();
        fs::write(directory.join("d/b.json"), "1").unwrap();
    });
    bench.sees(&["a.json: 1", "b.json: 1"]).await;
    for version in 2..6 {
        // As vim does.
        fs::rename(bench.at("d/a.json"), bench.at("d/a.json~")).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let found = bench.news.borrow().found.clone().unwrap();
        assert_eq!(shown(&found).len(), 2, "{found:?}");
        File::create(bench.at("d/a.json")).unwrap().write_all(version.to_string().as_bytes()).unwrap();
        fs::remove_file(bench.at("d/a.json~")).unwrap();
        bench.sees(&[&format!("a.json: {version}"), "b.json: 1"]).await;
    }
}

#[tokio::test]
async fn the_thread_ends_with_the_watch() {
    let bench = Bench::new("b.json", true, |_| ());
    let mut news = bench.news.clone();
    drop(bench.watch);
    let end = async { while news.changed().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, end).await.expect("the thread goes on");
}
