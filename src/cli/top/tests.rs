//! What `top` shows, drawn into memory.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use serde_json::{Value, json};

use super::draw::{self, BARS, PLAIN_BARS, bytes, rate, spark, time};
use super::view::{KeyAction, KeyMode, TopView, quantile};
use crate::admin::{PoolsBody, TimesBody};
use crate::cli::api::BackendName;
use crate::cli::table::{mark, speaks_utf8};

fn backend(id: &str, standing: &str, connects: u64, sessions: u64) -> Value {
    json!({
        "id": id, "address": "10.0.0.1:80", "weight": 1, "standing": standing, "reason": "", "since": "2020-01-01T00:00:00Z",
        "sessions": sessions, "bytes_to_backend": connects * 1_000, "bytes_to_client": 0, "connects": connects,
        "connect_failures": 0,
        "times": { "connect_buckets": [[0.001, connects], [0.1, connects]], "connect_count": connects }
    })
}

fn pools(connects: u64) -> PoolsBody {
    let backends = [
        backend("n/web-1", "up", connects, 3),
        backend("n/web-2", "down", 0, 7),
        backend("n/x\x1b[2J", "draining", 0, 0),
    ];
    let pool = json!({
        "name": "web", "all_down": false, "fail_open": false, "eligible": 1, "sessions": 10, "queued": 0, "backends": backends,
        "times": { "connect_buckets": [[0.001, connects], [0.1, connects]], "connect_count": connects }
    });
    serde_json::from_value(json!({ "pools": [pool] })).unwrap()
}

fn view() -> TopView {
    let (start, mut view) = (Instant::now(), TopView::new(String::new(), true));
    for i in 0..5_u64 {
        view.take(pools(i * 50), start + Duration::from_secs(i));
    }
    view
}

fn screen(view: &TopView, width: u16, height: u16) -> (Vec<String>, TestBackend) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, view)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    ((0..height).map(row).collect(), terminal.backend().clone())
}

/// As the locale of whoever runs the test has them.
fn bars(text: &str) -> String {
    let plain = |c| BARS.iter().position(|bar| *bar == c).map_or(c, |level| PLAIN_BARS[level]);
    if speaks_utf8() { text.to_owned() } else { text.chars().map(plain).collect() }
}

#[test]
fn a_backend_that_left_is_not_missed() {
    let mut view = TopView::new(String::new(), true);
    let both = |standing| {
        let pool = json!({
            "name": "web", "all_down": false, "fail_open": false, "eligible": 1, "sessions": 0, "queued": 0,
            "times": { "connect_buckets": [], "connect_count": 0 },
            "backends": [backend("n/web-1", "up", 0, 0), backend("n/web-2", standing, 0, 0)]
        });
        serde_json::from_value(json!({ "pools": [pool] })).unwrap()
    };
    let state = |view: &TopView| {
        let (lines, _) = screen(view, 140, 12);
        let line = lines.iter().find(|line| line.starts_with("web")).unwrap();
        line.split_whitespace().skip(2).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    view.take(both("removed"), Instant::now());
    assert_eq!(state(&view), ["ok", "1/1"]);
    view.take(both("down"), Instant::now());
    assert_eq!(state(&view), ["degraded", "1/2"]);
}

#[test]
fn rates_quantiles_and_standings_are_on_the_screen() {
    let (lines, backend) = screen(&view(), 140, 12);
    let row =
        |name: &str| lines.iter().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row("web")[2..9], ["degraded", "1/3", "10", "50.0", "0", "48.8KiB", "0B"]);
    assert_eq!(row("n/web-1")[1..2], [mark().to_string()]);
    assert_eq!(row("n/web-1")[2], "up");
    assert_eq!(row("n/web-1")[4..], ["1", "3", "50.0", "0", "48.8KiB", "0B", "500us", "990us", &bars("████")]);
    assert_eq!(row("n/web-2")[5..], ["7", "0", "0", "0B", "0B", "-", "-", &bars("▁▁▁▁")]);
    assert!(lines.iter().any(|line| line.starts_with("n/x?[2J")), "a name must not steer the terminal");
    assert!(lines.last().unwrap().starts_with("q quit  ? keys  s sort (name)"));
    let cells = &backend.buffer().content;
    assert!(cells.iter().all(|cell| cell.bg == Color::Reset), "the background is the terminal's own");
    let coloured: Vec<_> = cells.iter().filter(|cell| cell.fg != Color::Reset).collect();
    assert_eq!(coloured.iter().map(|cell| cell.fg).collect::<HashSet<_>>().len(), 3, "up, down, draining");
    let mark = mark().to_string();
    assert!(
        coloured.iter().all(|cell| cell.symbol() == mark),
        "text has the terminal's own colour: all themes show it"
    );
}

#[test]
fn a_narrow_screen_has_fewer_columns() {
    let (lines, _) = screen(&view(), 80, 12);
    let head = lines.iter().find(|line| line.starts_with("BACKEND")).unwrap();
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>().join(" "),
        "BACKEND STANDING SINCE WEIGHT SESSIONS CONN/S FAIL/S P99"
    );
    for width in [30, 40, 60, 80, 100, 120, 150] {
        let (lines, _) = screen(&view(), width, 12);
        let line = |begin: &str| lines.iter().find(|line| line.starts_with(begin)).unwrap();
        let ends = |line: &str, name: &str| line.find(name).map(|at| at + name.len());
        for name in ["SESSIONS", "CONN/S", "P99", "CONNECTS"] {
            assert_eq!(ends(line("POOL"), name), ends(line("BACKEND"), name), "{name} at {width}");
        }
        assert_eq!(line("POOL").find("STATE"), line("BACKEND").find("STANDING"));
        assert!(lines.last().unwrap().chars().count() <= usize::from(width));
    }
}

#[test]
fn no_colour_is_no_colour_and_no_size_is_too_small() {
    let mut view = view();
    view.ink = false;
    let (_, backend) = screen(&view, 140, 12);
    assert!(backend.buffer().content.iter().all(|cell| cell.fg == Color::Reset));
    for (width, height) in [(1, 1), (2, 3), (10, 4), (40, 5), (300, 100)] {
        screen(&view, width, height);
    }
    screen(&TopView::new(String::new(), true), 80, 24);
}

#[test]
fn keys_sort_filter_and_ask_before_they_change_anything() {
    let mut view = view();
    let ids = |view: &TopView| view.backends.iter().map(|line| line.id[..5].to_owned()).collect::<Vec<_>>().join(" ");
    assert_eq!(ids(&view), "n/web n/web n/x\x1b[");
    view.letter('s');
    assert_eq!(view.backends[0].sessions, 7);
    view.letter('r');
    assert_eq!(view.backends[0].sessions, 0);
    view.letter('/');
    "DOWN".chars().for_each(|c| assert_eq!(view.letter(c), KeyAction::Nothing));
    assert_eq!(view.backends.len(), 1);
    view.enter();
    let named = BackendName { pool: "web".to_owned(), id: "n/web-2".to_owned() };
    assert_eq!(view.letter('d'), KeyAction::Nothing);
    assert_eq!(view.mode, KeyMode::Sure(named.clone(), "drain"));
    assert!(screen(&view, 100, 10).0.last().unwrap().starts_with("drain web/n/web-2? y"));
    assert_eq!(view.letter('n'), KeyAction::Nothing);
    view.letter('d');
    assert_eq!(view.letter('y'), KeyAction::Order(named, "drain"));
    view.escape();
    assert_eq!(view.backends.len(), 3);
    assert_eq!(view.letter('q'), KeyAction::Quit);
}

#[test]
fn keys_are_explained_and_what_was_said_hides_none_of_them() {
    let mut view = view();
    view.letter('?');
    let (lines, _) = screen(&view, 80, 24);
    assert!(
        lines.iter().any(|line| line.starts_with("d               drain")) && lines.last().unwrap() == "any key = back"
    );
    assert_eq!(view.letter('q'), KeyAction::Nothing);
    assert_eq!(view.mode, KeyMode::Look);
    // An old message does not hide that what is shown is old.
    view.says = "web/n/web-2: drain".to_owned();
    view.trouble = format!("the balancer can't be reached: {}", "why ".repeat(50));
    let (lines, _) = screen(&view, 80, 24);
    let at = lines.iter().position(|line| line.starts_with("the balancer")).unwrap();
    assert_eq!(
        lines[at + 3..],
        ["web/n/web-2: drain", "q quit  ? keys  s sort (name)  / filter  d drain  e ready  x disable  r reverse"]
    );
    view.take(pools(1_000), Instant::now());
    assert!(view.trouble.is_empty() && !view.says.is_empty());
    // What is wrong with the whole stays in sight.
    view.troubles = vec!["lb.toml:90:8: no, refused 12s ago; generation 3 is in effect".to_owned()];
    let (lines, _) = screen(&view, 80, 24);
    assert!(lines.iter().any(|line| line.starts_with("lb.toml:90:8: no, refused 12s ago;")), "{lines:#?}");
    view.step(1);
    assert!(view.says.is_empty());
}

#[test]
fn who_is_asked_about_one_backend_does_not_choose_another() {
    let mut view = view();
    view.letter('d');
    view.step(1);
    assert_eq!((&view.mode, view.selected), (&KeyMode::Look, 0));
    assert_eq!(view.letter('y'), KeyAction::Nothing);
}

#[test]
fn a_long_name_keeps_its_end() {
    let mut view = view();
    let id = "a-very-long-name-of-a-machine/web-1";
    view.backends[0].id = id.to_owned();
    let (lines, _) = screen(&view, 80, 24);
    assert!(lines.iter().any(|line| line.contains("machine/web-1 ")), "{lines:?}");
    let (lines, _) = screen(&view, 160, 24);
    assert!(lines.iter().any(|line| line.starts_with(id)), "{lines:?}");
}

#[test]
fn the_selection_follows_its_backend() {
    let mut view = view();
    view.step(1);
    view.letter('s');
    view.take(pools(500), Instant::now());
    view.step(isize::MAX / 2);
    assert_eq!(view.selected, 2);
    view.letter('/');
    view.letter('~');
    assert_eq!((view.selected, view.backends.len()), (0, 0));
    assert_eq!((view.letter('~'), view.step(5)), (KeyAction::Nothing, KeyAction::Nothing));
}

#[test]
fn quantiles_are_of_what_came_in_between() {
    let times = |counts: [u64; 3], all| TimesBody {
        connect_buckets: [0.001, 0.01, 0.1].into_iter().zip(counts).collect(),
        connect_count: all,
    };
    let (old, new) = (times([100, 100, 100], 100), times([100, 200, 200], 200));
    let half = quantile(&old, &new, 0.5).unwrap();
    assert!((half - 0.0055).abs() < 1e-9, "{half}");
    assert_eq!(quantile(&new, &new, 0.5), None);
    assert_eq!(quantile(&new, &old, 0.5), None, "it was restarted");
    assert_eq!(quantile(&old, &times([100, 100, 100], 101), 0.5), Some(f64::INFINITY));
}

#[test]
fn numbers_are_short() {
    assert_eq!([0.0, 0.04, 99.94, 100.0, 9_999.0, 12_345.0].map(rate).join(" "), "0 0.0 99.9 100 9999 12k");
    assert_eq!([0.0, 999.0, 1_000.0, 5e6, 3e12].map(bytes).join(" "), "0B 999B 1.0KiB 4.8MiB 2.7TiB");
    assert_eq!([0.00025, 0.0012, 1.5, f64::INFINITY].map(time).join(" "), "250us 1.2ms 1.5s long");
    assert_eq!([0.000_999_6, 0.999_96].map(time).join(" "), "1.0ms 1.0s");
    assert_eq!(spark(&[0.0, 1.0, 2.0], BARS), "▁▅█");
    assert_eq!(spark(&[0.0, 1.0, 2.0], PLAIN_BARS), "_=#");
}

#[test]
fn limits_that_are_reached_are_troubles_and_those_that_are_over_are_none() {
    let limit = |name: &str, until: Value| json!({ "kind": "listener", "name": name, "says": format!("{name} is full"), "since": "2020-01-01T00:00:00Z", "until": until });
    let limits = json!([limit("one", Value::Null), limit("two", json!("2020-01-01T00:00:01Z"))]);
    let limits: Vec<crate::admin::LimitBody> = serde_json::from_value(limits).unwrap();
    let wanted = ["the log's disk is full", "limit reached since 2020-01-01T00:00:00Z: one is full"];
    assert_eq!(super::all_troubles(vec!["the log's disk is full".to_owned()], &limits), wanted);
}
