//! The thread with real files, each way in which one changes.

mod machine;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;

/// For what has to come; far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A whole text of a version: as long as 200 KiB, so that it takes several writes.
fn text(version: &str) -> String {
    format!("begin {version}\n{}end {version}\n", "x".repeat(200_000))
}

fn is_whole(text: &str) -> bool {
    let version = text.lines().next().and_then(|line| line.strip_prefix("begin "));
    version.is_some_and(|version| text.ends_with(&format!("xend {version}\n")))
}

struct Bench {
    directory: TempDir,
    watch: FileWatch,
}

impl Bench {
    /// In `directory`, where the path is another one than that of the file.
    fn new(prepare: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self::looking(LOOK, true, prepare)
    }

    fn looking(period: Duration, eyes: bool, prepare: impl FnOnce(&Path) -> PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = prepare(directory.path());
        let seen = fs::read_to_string(&path).unwrap_or_default();
        let mut watch = FileWatch::looking(&path, &seen, period, eyes).unwrap();
        watch.turn(true);
        Self { directory, watch }
    }

    fn plain() -> Self {
        Self::new(|directory| {
            fs::write(directory.join("lb.toml"), text("0")).unwrap();
            directory.join("lb.toml")
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What comes next has to be this version.
    async fn sees(&mut self, version: &str) {
        match timeout(PATIENCE, self.watch.changed()).await {
            Ok(Ok(found)) => assert!(found == text(version), "{version}: got {} bytes: {:.20}", found.len(), found),
            Ok(Err(error)) => panic!("{version}: {error:?}"),
            Err(_) => panic!("{version} was not seen; {:?}", self.watch.trouble()()),
        }
    }

    /// Nothing is to come, and then comes this version of `path`.
    async fn sees_only(&mut self, path: &Path, version: &str) {
        fs::write(self.at("other"), text(version)).unwrap();
        fs::rename(self.at("other"), path).unwrap();
        self.sees(version).await;
    }
}

#[tokio::test]
async fn every_way_to_change_a_file_is_seen_once_and_whole() {
    let mut bench = Bench::plain();
    let path = bench.at("lb.toml");
    // Rewritten in place.
    fs::write(&path, text("in place")).unwrap();
    bench.sees("in place").await;
    // As editors do: the old one is renamed away, the new one is made where it was.
    fs::rename(&path, bench.at("lb.toml~")).unwrap();
    fs::write(&path, text("as vim does")).unwrap();
    fs::remove_file(bench.at("lb.toml~")).unwrap();
    bench.sees("as vim does").await;
    // As careful programs do.
    fs::write(bench.at("new"), text("renamed")).unwrap();
    fs::rename(bench.at("new"), &path).unwrap();
    bench.sees("renamed").await;
    // Gone for a while.
    fs::remove_file(&path).unwrap();
    fs::write(&path, text("back")).unwrap();
    bench.sees("back").await;
    // Under another name of the same file.
    fs::hard_link(&path, bench.at("second name")).unwrap();
    fs::write(bench.at("second name"), text("by another name")).unwrap();
    bench.sees("by another name").await;
    // A link made where it was.
    fs::write(bench.at("third"), text("linked")).unwrap();
    fs::remove_file(&path).unwrap();
    fs::hard_link(bench.at("third"), &path).unwrap();
    bench.sees("linked").await;
    // An empty file first, as a shell does that builds it in steps.
    fs::write(&path, "").unwrap();
    fs::write(&path, text("in steps")).unwrap();
    bench.sees("in steps").await;
    // Cut by name: no program opens it and none closes it.
    rustix::fs::ftruncate(File::options().write(true).open(&path).unwrap(), 5).unwrap();
    fs::write(&path, text("cut")).unwrap();
    bench.sees("cut").await;
    // Touched, or the same again: no change.
    File::open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::write(&path, text("cut")).unwrap();
    bench.sees_only(&path, "last").await;
}

#[tokio::test]
async fn links_and_directories_on_the_way_may_be_swapped() {
    let mut bench = Bench::new(|directory| {
        fs::create_dir_all(directory.join("v0")).unwrap();
        fs::write(directory.join("v0/lb.toml"), text("0")).unwrap();
        symlink("v0", directory.join("current")).unwrap();
        directory.join("current/lb.toml")
    });
    for number in 1..6 {
        // As git-sync does, and a ConfigMap: a link is renamed over another one, and the old version is removed.
        let version = number.to_string();
        fs::create_dir(bench.at(&format!("v{number}"))).unwrap();
        fs::write(bench.at(&format!("v{number}/lb.toml")), text(&version)).unwrap();
        symlink(format!("v{number}"), bench.at("tmp")).unwrap();
        fs::rename(bench.at("tmp"), bench.at("current")).unwrap();
        fs::remove_dir_all(bench.at(&format!("v{}", number - 1))).unwrap();
        bench.sees(&version).await;
    }
    // The link is removed and made, as `ln -sf` does.
    fs::create_dir(bench.at("v6")).unwrap();
    fs::write(bench.at("v6/lb.toml"), text("6")).unwrap();
    fs::remove_file(bench.at("current")).unwrap();
    symlink("v6", bench.at("current")).unwrap();
    bench.sees("6").await;
    // The directory is removed and made again, twice.
    for version in ["again", "and again"] {
        fs::remove_dir_all(bench.at("v6")).unwrap();
        fs::create_dir(bench.at("v6")).unwrap();
        fs::write(bench.at("v6/lb.toml"), text(version)).unwrap();
        bench.sees(version).await;
    }
    // It is moved away and replaced; what is written to the old one is nothing to us.
    fs::create_dir(bench.at("next")).unwrap();
    fs::write(bench.at("next/lb.toml"), text("moved")).unwrap();
    fs::rename(bench.at("v6"), bench.at("old")).unwrap();
    fs::rename(bench.at("next"), bench.at("v6")).unwrap();
    bench.sees("moved").await;
    fs::write(bench.at("old/lb.toml"), text("elsewhere")).unwrap();
    // And what is written to the new one is.
    let file = bench.at("v6/lb.toml");
    fs::write(&file, text("in place")).unwrap();
    bench.sees("in place").await;
    bench.sees_only(&file, "last").await;
}

#[tokio::test]
async fn a_slow_writer_is_awaited_whatever_else_happens_beside_it() {
    let mut bench = Bench::plain();
    let path = bench.at("lb.toml");
    let whole = text("slow");
    let mut writer = File::create(&path).unwrap();
    for part in whole.as_bytes().chunks(10_000) {
        writer.write_all(part).unwrap();
        // Our own log, say.
        fs::write(bench.at("log"), "a line\n").unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    drop(writer);
    bench.sees("slow").await;

    // Another program has it open for writing while one closes it: seen where we may look, which is at our own processes.
    let half = File::create(&path).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "printf 'begin two\\n'; read wait; cat"])
        .stdin(Stdio::piped())
        .stdout(half)
        .spawn()
        .expect("a shell");
    while fs::metadata(&path).unwrap().len() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    drop(File::options().append(true).open(&path).unwrap());
    // Longer than it is awaited to be quiet.
    let early = timeout(Duration::from_millis(600), bench.watch.changed()).await;
    assert!(early.is_err(), "half of it: {early:?}");
    let rest = text("two").split_once('\n').unwrap().1.to_owned();
    child.stdin.take().unwrap().write_all(format!("go\n{rest}").as_bytes()).unwrap();
    child.wait().unwrap();
    bench.sees("two").await;
}

#[tokio::test]
async fn what_is_asked_for_is_read_at_once_also_half_of_it() {
    let mut bench = Bench::plain();
    let path = bench.at("lb.toml");
    let mut writer = File::create(&path).unwrap();
    writer.write_all(b"half").unwrap();
    assert_eq!(bench.watch.read().await.unwrap(), "half");
    writer.set_len(0).unwrap();
    rustix::fs::seek(&writer, rustix::fs::SeekFrom::Start(0)).unwrap();
    writer.write_all(text("all").as_bytes()).unwrap();
    drop(writer);
    bench.sees("all").await;
    fs::write(&path, text("asked")).unwrap();
    assert_eq!(bench.watch.read().await.unwrap(), text("asked"));
    bench.sees_only(&path, "last").await;
}

/// Each of two programs saves as fast as it can, one in place, one by rename; other files change beside it.
#[tokio::test]
async fn under_load_nothing_is_read_that_is_not_whole() {
    let mut bench = Bench::plain();
    let (path, directory) = (bench.at("lb.toml"), bench.directory.path().to_owned());
    let saver = thread::spawn(move || {
        for number in 0..200 {
            match number % 3 {
                0 => {
                    let mut file = File::create(&path).unwrap();
                    for part in text(&number.to_string()).as_bytes().chunks(40_000) {
                        file.write_all(part).unwrap();
                        thread::sleep(Duration::from_millis(2));
                    }
                }
                1 => fs::write(&path, text(&number.to_string())).unwrap(),
                _ => {
                    fs::write(directory.join("new"), text(&number.to_string())).unwrap();
                    fs::rename(directory.join("new"), &path).unwrap();
                }
            }
            fs::write(directory.join("log"), "a line\n").unwrap();
            thread::sleep(Duration::from_millis(number % 7 * 5));
        }
    });
    let mut seen = 0;
    loop {
        let found = timeout(PATIENCE, bench.watch.changed()).await.expect("the last one").unwrap();
        assert!(is_whole(&found), "{} bytes: {:.20}", found.len(), found);
        seen += 1;
        if found == text("199") {
            break;
        }
    }
    saver.join().unwrap();
    assert!(seen >= 1, "{seen}");
}

#[tokio::test]
async fn what_the_kernel_does_not_tell_is_found_by_looking() {
    let mut bench = Bench::looking(Duration::from_millis(50), false, |directory| {
        fs::write(directory.join("lb.toml"), text("0")).unwrap();
        directory.join("lb.toml")
    });
    let path = bench.at("lb.toml");
    fs::write(&path, text("in place")).unwrap();
    bench.sees("in place").await;
    bench.sees_only(&path, "renamed").await;
    // It grows for longer than it has to stand still.
    let mut writer = File::create(&path).unwrap();
    for part in text("slow").as_bytes().chunks(20_000) {
        writer.write_all(part).unwrap();
        thread::sleep(Duration::from_millis(120));
    }
    drop(writer);
    bench.sees("slow").await;
}

#[tokio::test]
async fn what_is_no_file_is_refused_once_and_what_is_one_again_is_read() {
    let mut bench = Bench::plain();
    let path = bench.at("lb.toml");
    fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let refused = timeout(PATIENCE, bench.watch.changed()).await.expect("it is seen").unwrap_err();
    assert!(format!("{refused:?}").contains("it is a FIFO or a pipe"), "{refused:?}");
    let refused = bench.watch.read().await.unwrap_err();
    assert!(format!("{refused:?}").contains("it is a FIFO or a pipe"), "{refused:?}");
    // What it held before: that mends it, and is told.
    fs::remove_file(&path).unwrap();
    fs::write(&path, text("0")).unwrap();
    bench.sees("0").await;
    let trouble = bench.watch.trouble();
    assert_eq!(trouble(), None);
    fs::remove_file(&path).unwrap();
    let began = Instant::now();
    while trouble().is_none() {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(trouble().unwrap().starts_with("it has not been there for "), "{:?}", trouble());
    bench.sees_only(&path, "last").await;
    assert_eq!(trouble(), None);
}

#[tokio::test]
async fn switched_off_it_sees_nothing_and_on_again_what_has_changed() {
    let mut bench = Bench::plain();
    let path = bench.at("lb.toml");
    bench.watch.turn(false);
    fs::write(&path, text("off")).unwrap();
    assert!(timeout(Duration::from_millis(500), bench.watch.changed()).await.is_err());
    bench.watch.turn(true);
    bench.sees("off").await;
}
