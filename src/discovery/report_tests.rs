use std::io;
use std::sync::Mutex;

use super::*;
use crate::endpoint::Rejected;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged meanwhile at the default level, without time, module, pool and source.
fn logged(run: impl FnOnce(&mut SourceReport)) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .finish();
    let mut report = SourceReport::new("p".into(), Arc::default(), Outages::of_resolver());
    report.begin("consul", Some(Outages::of_source("http://127.0.0.1:8500")), &["connect", "no_leader"]);
    tracing::subscriber::with_default(subscriber, || run(&mut report));
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| line.trim().replace(" pool=\"p\" source=\"consul\"", "")).collect()
}

fn failure(kind: &'static str, text: &str) -> AskError {
    AskError { kind, text: text.into() }
}

const REFUSED: &str = "http://127.0.0.1:8500: can't connect to the agent: Connection refused";

#[test]
fn an_agent_that_is_gone_is_told_at_once_then_now_and_then_and_when_it_is_back() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let lines = logged(|report| {
        report.succeeded(at(0), Rejections::default());
        // Every 5 s for 2 minutes.
        for tick in 0..25 {
            report.failed(at(40 + 5 * tick), failure("connect", REFUSED));
            report.tell(at(40 + 5 * tick));
        }
        report.succeeded(at(163), Rejections::default());
        report.tell(at(163));
    });
    assert_eq!(
        lines,
        [
            format!("WARN discovery fails, what is known stays and is 40s old: {REFUSED} kind=\"connect\" failures=1"),
            format!(
                "WARN discovery still fails after 60s, what is known stays and is 100s old: {REFUSED} kind=\"connect\" failures=13"
            ),
            format!(
                "WARN discovery still fails after 120s, what is known stays and is 160s old: {REFUSED} kind=\"connect\" failures=25"
            ),
            "INFO discovery works again after 123.0s failures=25".to_owned(),
        ]
    );
}

#[test]
fn an_agent_that_never_was_there_leaves_nothing_known() {
    let lines = logged(|report| {
        report.failed(Instant::now(), failure("connect", REFUSED));
        report.tell(Instant::now());
    });
    let line = format!("WARN discovery fails, nothing is known yet: {REFUSED} kind=\"connect\" failures=1");
    assert_eq!(lines, [line]);
}

#[test]
fn what_is_rejected_is_told_when_it_is_other_than_before() {
    let start = Instant::now();
    let rejected = || Rejections::from_iter([Rejected { id: "n/a".to_owned(), why: "no port".to_owned() }]);
    let lines = logged(|report| {
        for (seconds, rejected) in
            [(0, Rejections::default()), (1, rejected()), (60, rejected()), (61, Rejections::default())]
        {
            report.succeeded(start + Duration::from_secs(seconds), rejected);
        }
    });
    assert_eq!(
        lines,
        [
            "WARN instances that can't be used are left out; the first is n/a: no port rejected=1",
            "INFO every instance can be used again",
        ]
    );
}

#[test]
fn the_last_error_stays_when_it_is_over() {
    let mut report = SourceReport::new("p".into(), Arc::default(), Outages::of_resolver());
    report.begin("consul", None, &["connect", "no_leader"]);
    let now = Instant::now();
    report.failed(now, failure("connect", REFUSED));
    report.failed(now, failure("no_leader", "status 500: No cluster leader"));
    report.succeeded(now, Rejections::default());
    let view = report.status.view();
    assert!(view.error.is_none());
    let (at, kind, text) = view.last_error.unwrap();
    assert_eq!((kind, text.as_str()), ("no_leader", "status 500: No cluster leader"));
    assert_eq!((view.errors["connect"].count, view.errors["no_leader"].last), (1, at));
}
