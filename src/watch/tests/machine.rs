//! When a file is whole, by property: against writers that are known.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::watch::whole::{Next, Seen, Stamp, Whole};

/// What happens to the file in a test.
#[derive(Clone, Copy, Debug)]
enum PathStep {
    /// A program opens it and writes something.
    Write,
    /// The one that writes writes on.
    WriteOn,
    Close,
    /// Another one is renamed into its place; a program that wrote to the old one goes on there.
    MoveIn,
    Wait(u16),
    Look,
}

fn step() -> impl Strategy<Value = PathStep> {
    prop_oneof![
        Just(PathStep::Write),
        Just(PathStep::WriteOn),
        Just(PathStep::Close),
        Just(PathStep::MoveIn),
        (0u16..3_000).prop_map(PathStep::Wait),
        Just(PathStep::Look),
    ]
}

struct World {
    whole: Whole,
    now: Instant,
    version: u64,
    writers: u32,
    read: Option<u64>,
    /// When what is there became whole, if it was not read yet.
    whole_since: Option<Instant>,
    /// Whether /proc shows which program writes.
    sees: bool,
}

impl World {
    fn stamp(&self) -> Stamp {
        Stamp { inode: (1, self.version), size: 1, modified: (0, 0), changed: (0, 0) }
    }

    fn saw(&mut self, seen: Seen) {
        self.whole.saw(seen, Some(self.stamp()), self.now);
    }

    fn happens(&mut self, step: PathStep) {
        match step {
            PathStep::Write if self.writers < 3 && (self.sees || self.writers == 0) => {
                self.writers += 1;
                self.written();
            }
            PathStep::WriteOn if self.writers > 0 => self.written(),
            PathStep::Close if self.writers > 0 => {
                self.writers -= 1;
                self.whole_since = (self.writers == 0 && self.read != Some(self.version)).then_some(self.now);
                self.saw(Seen::Closed);
            }
            PathStep::MoveIn => {
                (self.version, self.writers) = (self.version + 1, 0);
                self.whole_since = Some(self.now);
                self.saw(Seen::MovedIn);
            }
            PathStep::Wait(millis) => self.wait(Duration::from_millis(millis.into())),
            PathStep::Look => self.saw(Seen::Looked),
            PathStep::Write | PathStep::WriteOn | PathStep::Close => {}
        }
    }

    fn written(&mut self) {
        self.version += 1;
        self.whole_since = None;
        self.saw(Seen::Written);
    }

    /// Does what the machine says, as the thread does.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let (at, reads) = match self.whole.next() {
                Next::ReadAt(at) => (at, true),
                Next::AskAt(at) => (at, false),
                Next::Wait => break,
            };
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            let writes = self.sees.then_some(self.writers > 0);
            self.whole.writer(writes, self.now);
            if !reads || writes == Some(true) {
                continue;
            }
            assert_eq!(self.writers, 0, "it is being written");
            assert_ne!(self.read, Some(self.version), "read twice");
            if let Some(since) = self.whole_since.take() {
                // Two programs wrote, and the last to close it is the one that matters.
                assert!(self.now - since <= Duration::from_millis(300), "read after {:?}", self.now - since);
            }
            self.read = Some(self.version);
            assert!(self.whole.done(self.stamp(), self.now));
        }
        self.now = end;
    }
}

proptest! {
    #[test]
    fn what_is_read_is_whole_and_the_newest_and_is_read_once(
        steps in proptest::collection::vec(step(), 1..60),
        sees in any::<bool>(),
    ) {
        let now = Instant::now();
        let whole = Whole::default();
        let mut world = World { whole, now, version: 1, writers: 0, read: None, whole_since: None, sees };
        world.happens(PathStep::MoveIn);
        for step in steps {
            world.happens(step);
        }
        while world.writers > 0 {
            world.happens(PathStep::Close);
        }
        world.wait(Duration::from_secs(2));
        prop_assert_eq!(world.read, Some(world.version));
        prop_assert_eq!(world.whole.next(), Next::Wait);
    }
}

fn stamp(number: u64) -> Stamp {
    Stamp { inode: (1, 1), size: number, modified: (0, 0), changed: (0, 0) }
}

#[test]
fn a_writer_that_is_not_done_is_shown_after_30_s_and_read_when_it_is() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut whole = Whole::default();
    whole.saw(Seen::Written, Some(stamp(1)), start);
    for seconds in 1..29 {
        assert_eq!(whole.next(), Next::AskAt(at(seconds)));
        whole.writer(None, at(seconds));
        assert_eq!(whole.late(at(seconds)), None);
        whole.saw(Seen::Looked, Some(stamp(1)), at(seconds));
    }
    assert_eq!(whole.late(at(30)), Some(Duration::from_secs(30)));
    whole.saw(Seen::Closed, Some(stamp(2)), at(40));
    assert_eq!(whole.late(at(40)), None);
    assert!(matches!(whole.next(), Next::ReadAt(when) if when <= at(40) + Duration::from_millis(300)));
}

#[test]
fn what_is_saved_again_and_again_is_read_all_the_same() {
    let mut now = Instant::now();
    let start = now;
    let mut whole = Whole::default();
    for number in 0.. {
        whole.saw(Seen::Closed, Some(stamp(number)), now);
        if matches!(whole.next(), Next::ReadAt(at) if at < now + Duration::from_millis(30)) {
            break;
        }
        now += Duration::from_millis(30);
    }
    assert!(now - start <= Duration::from_millis(200), "{:?}", now - start);
}

#[test]
fn what_is_only_found_is_read_when_it_stands_still() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut whole = Whole::default();
    whole.saw(Seen::Looked, Some(stamp(1)), start);
    whole.saw(Seen::Looked, Some(stamp(2)), at(900));
    assert_eq!(whole.next(), Next::ReadAt(at(1_900)));
    assert!(whole.done(stamp(2), at(1_900)));
    // The same again is no change; gone is none, and back it is one only if it is another one.
    whole.saw(Seen::Looked, Some(stamp(2)), at(3_000));
    assert_eq!(whole.next(), Next::Wait);
    whole.saw(Seen::Replaced, None, at(3_000));
    assert!(!whole.is_there());
    whole.saw(Seen::MovedIn, Some(stamp(2)), at(4_000));
    assert_eq!(whole.next(), Next::Wait);
    // Truncated by name: written, and no program closes it.
    whole.saw(Seen::Written, Some(stamp(3)), at(5_000));
    whole.writer(Some(false), at(6_000));
    assert_eq!(whole.next(), Next::ReadAt(at(6_050)));
    // It is another one than what was told of: what is read now is not known to be whole.
    assert!(!whole.done(stamp(4), at(6_050)));
    assert_eq!(whole.next(), Next::ReadAt(at(6_250)));
}
