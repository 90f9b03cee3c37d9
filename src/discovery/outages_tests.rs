use super::*;

fn refused() -> AskError {
    AskError { kind: "connect", text: "http://agent: refused".into() }
}

struct Told {
    outages: Arc<Outages>,
    start: Instant,
}

impl Told {
    fn new() -> Self {
        Self { outages: Outages::of_source("http://agent"), start: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    /// One more failure; the pools that are told to fail then, the count of their failures, and how long it has lasted.
    fn failed(&self, seconds: u64, pools: &[&str]) -> Option<(String, u64, u64)> {
        let now = self.at(seconds);
        for pool in pools {
            self.outages.failed((&Arc::from(*pool), "consul"), now, refused(), None);
        }
        let due = self.outages.lock().failing_due(now);
        let began = due.iter().map(|(_, failing)| failing.since).min()?;
        let failures = sum(due.iter().map(|(_, failing)| failing));
        Some((names(due.iter().map(|(pool, _)| pool)), failures, (now - began).as_secs()))
    }

    /// These work again; those that are told to.
    fn ended(&self, seconds: u64, pools: &[&str]) -> String {
        let now = self.at(seconds);
        for pool in pools {
            self.outages.ended(&Arc::from(*pool), now);
        }
        let recovered = self.outages.lock().recovered_due(now);
        names(recovered.iter().map(|(pool, ..)| pool))
    }
}

fn line(pools: &str, failures: u64, seconds: u64) -> Option<(String, u64, u64)> {
    Some((pools.to_owned(), failures, seconds))
}

#[test]
fn trouble_is_told_at_a_bounded_rate() {
    let told = Told::new();
    assert_eq!(told.ended(0, &["p"]), "");
    assert_eq!(told.failed(0, &["p"]), line("p", 1, 0));
    assert_eq!(told.failed(30, &["p"]), None);
    assert_eq!(told.failed(60, &["p"]), line("p", 3, 60));
    assert_eq!(told.ended(61, &["p"]), "p");
    // Too soon for another line, and then nothing to take back.
    assert_eq!(told.failed(62, &["p"]), None);
    assert_eq!(told.ended(63, &["p"]), "");
    // Trouble that lasts is told after all.
    assert_eq!(told.failed(64, &["p"]), None);
    assert_eq!(told.failed(70, &["p"]), line("p", 2, 6));
}

#[test]
fn a_recovery_is_told_before_the_next_failure() {
    let told = Told::new();
    assert_eq!(told.failed(0, &["b", "a"]), line("a, b", 2, 0));
    told.outages.ended(&"b".into(), told.at(60));
    told.outages.ended(&"a".into(), told.at(60));
    told.outages.failed((&"a".into(), "consul"), told.at(60), refused(), None);
    let mut state = told.outages.lock();
    assert_eq!(names(state.recovered_due(told.at(60)).iter().map(|(pool, ..)| pool)), "a, b");
    assert_eq!(state.failing_due(told.at(60)).len(), 1);
}

#[test]
fn pools_that_fail_together_are_one_line() {
    let told = Told::new();
    let pools: Vec<String> = (0..220).map(|number| format!("p{number:03}")).collect();
    let pools: Vec<&str> = pools.iter().map(String::as_str).collect();
    let all = "p000, p001, p002 and 217 more";
    assert_eq!(told.failed(0, &pools), line(all, 220, 0));
    let lines = (1..=60).filter_map(|seconds| told.failed(seconds, &pools)).collect::<Vec<_>>();
    assert_eq!(lines, [line(all, 61 * 220, 60).unwrap()], "one line a minute");
    // They recover one by one, and one of them does not: that is waited for, but not for ever.
    assert_eq!(told.ended(61, &pools[1..100]), "");
    assert_eq!(told.ended(62, &pools[100..]), "");
    assert_eq!(told.ended(71, &[]), "p001, p002, p003 and 216 more");
    // It keeps failing, which is told in its turn.
    assert_eq!(told.failed(100, &pools[..1]), None);
    assert_eq!(told.failed(120, &pools[..1]), line("p000", 63, 120));
    // Those that fail beside it are told without it, and what has ended is told of those alone that were.
    assert_eq!(told.failed(130, &pools[..3]), line("p001, p002", 2, 0));
    assert_eq!(told.failed(131, &["late"]), None);
    told.outages.forget("p000");
    assert_eq!(told.ended(132, &["p001", "late"]), "");
    assert_eq!(told.ended(142, &[]), "p001");
    assert_eq!(told.failed(200, &["p002"]), line("p002", 2, 70));
}
