//! What the log says of changes.

use std::io;

use super::*;

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

/// The lines that are logged meanwhile, without time and module.
fn logged(run: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn one_line_per_change_of_standing_with_its_reason() {
    let mut bench = Bench::new(TCP);
    let lines = logged(|| {
        bench.set(&["a", "b"]);
        bench.probe("a", true);
        bench.probe("b", true);
        for _ in 0..5 {
            bench.probe("a", false);
        }
        bench.set(&["a", "b"]);
        bench.set(&["b"]);
    });
    let a = r#"pool=p backend=a address=10.0.0.97:80"#;
    let b = r#"pool=p backend=b address=10.0.0.98:80"#;
    assert_eq!(
        lines,
        [
            format!("INFO up: http GET /health: status 200 (1st pass) {a} from=\"unproven\""),
            format!("INFO up: http GET /health: status 200 (1st pass) {b} from=\"unproven\""),
            "INFO settled: every backend is probed pool=p backends=2 up=2".to_owned(),
            format!("INFO down: http GET /health: status 503, wanted 200-399 (3rd failure) {a} from=\"up\""),
            format!("INFO removed: no longer in the registry {a} from=\"down\""),
        ]
    );
}

#[test]
fn one_line_when_nothing_is_up_any_more_and_one_when_that_is_over() {
    for (keys, says) in [(TCP, "new sessions are refused"), (ANY, "sessions may try any of them")] {
        let mut bench = Bench::up(keys, &["a", "b"]);
        let mut lines = logged(|| {
            for _ in 0..6 {
                bench.probe("a", false);
                bench.probe("b", false);
            }
            for _ in 0..4 {
                bench.probe("a", true);
                bench.probe("b", true);
            }
        });
        lines.retain(|line| !line.contains("backend="));
        let down = format!("WARN no backend is up: {says} pool=p backends=2");
        assert_eq!(lines, [down, "INFO a backend is up again pool=p up=1".to_owned()]);
    }
}

#[test]
fn one_warning_for_all_that_are_held() {
    let ids: Vec<String> = (0..50).map(|n| format!("b{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut bench = Bench::up(TCP, &ids);
    let lines = logged(|| {
        bench.set_doubted(Mistrust::Trouble, &[]);
        bench.set_doubted(Mistrust::Trouble, &[]);
        bench.advance(seconds(59));
    });
    let warnings: Vec<_> = lines.iter().filter(|line| line.starts_with("WARN")).collect();
    assert_eq!(
        warnings,
        ["WARN held: they left the registry while that was in trouble, and their own probes pass pool=p backends=50"]
    );
}

#[test]
fn what_is_held_is_told_by_how_the_registry_takes_it_away() {
    let mut bench = Bench::up(TCP, &["a", "b", "c", "d"]);
    let mut lines = logged(|| {
        let set = ["b", "c"].map(|id| said(id, Registry::Critical)).into();
        bench.hear_of(Trust::Doubted(Mistrust::Restart), set);
        bench.advance(seconds(60));
    });
    lines.retain(|line| !line.contains("backend="));
    assert_eq!(
        lines,
        [
            "WARN held: missing since the registry's restart, and their own probes pass pool=p backends=2",
            "WARN held: critical since the registry's restart, and their own probes pass pool=p backends=2",
            "INFO held no longer: the time is over pool=p reason=\"restart\" backends=4",
            "WARN no backend is up: new sessions are refused pool=p backends=2",
        ]
    );
}

#[test]
fn settled_without_a_backend_warns_where_no_token_is_used() {
    let consul = |token: &str| {
        let mut bench = Bench::new(TCP);
        let text = format!(
            "[listeners.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n[pools.p]\n\
             consul = {{ service = \"web\", address = \"http://127.0.0.1:8500\"{token} }}\n{TCP}\n"
        );
        bench.pool.change(config::parse(&text, "bench.toml", &|_| None).unwrap().pools.remove(0));
        logged(|| bench.set(&[])).iter().filter(|line| line.starts_with("WARN settled without a backend: ")).count()
    };
    assert_eq!(consul(""), 1);
    assert_eq!(consul(", token = \"secret\""), 0);
    assert_eq!(logged(|| Bench::new(TCP).set(&[])).iter().filter(|line| line.contains("settled without")).count(), 0);
}

#[test]
fn an_ejection_says_what_sessions_met() {
    let mut bench = Bench::up(TCP, &["a", "b"]);
    let lines = logged(|| bench.fail("a", 3));
    assert_eq!(
        lines,
        ["INFO ejected: 3 connects by sessions failed in a row, the last one: refused \
          pool=p backend=a address=10.0.0.97:80 from=\"up\""]
    );
}
