//! The pages in `docs/`: what they name exists.

use std::collections::BTreeSet;
use std::path::Path;

use evenkeel::config;
use evenkeel::metrics::{self, ConnectFailure, EarlyEnd, Outcome};
use evenkeel::standing::Standing;

const WHEN_THINGS_FAIL: &str = "docs/when-things-fail.md";

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The insides of all `code` in a line of text, fenced blocks left out.
fn code(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(str::lines).flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    text.split(&begin as &str).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The cells of the column of that name, of the first table that has one.
fn column<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let cells = |line: &'a str| line.split('|').map(str::trim).collect::<Vec<_>>();
    let mut lines = text.lines();
    let head = lines.by_ref().find(|line| cells(line).contains(&name)).expect("a table with that column");
    let place = cells(head).iter().position(|cell| *cell == name).unwrap();
    lines.skip(1).map_while(|line| line.starts_with('|').then(|| cells(line)[place])).collect()
}

#[test]
fn its_metrics_exist() {
    let text = page(WHEN_THINGS_FAIL);
    let known: BTreeSet<_> = metrics::ALL.iter().map(|metric| metric.name).collect();
    let named: BTreeSet<_> = code(&text).into_iter().filter(|word| word.starts_with("evenkeel_")).collect();
    assert!(named.len() > 10, "{named:?}");
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "{WHEN_THINGS_FAIL} names metrics that do not exist: {unknown:?}");
}

#[test]
fn its_outcomes_reasons_and_standings_exist() {
    let text = page(WHEN_THINGS_FAIL);
    let outcomes: BTreeSet<_> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
    let standings: BTreeSet<_> = Standing::ALL.iter().map(|standing| standing.name()).collect();
    let connects = ConnectFailure::ALL.iter().map(|reason| reason.name());
    let reasons: BTreeSet<_> = connects.chain(EarlyEnd::ALL.iter().map(|reason| reason.name())).collect();
    let check = |kind: &str, known: &BTreeSet<&str>, named: BTreeSet<&str>| {
        let unknown: Vec<_> = named.difference(known).collect();
        assert!(!named.is_empty() && unknown.is_empty(), "{WHEN_THINGS_FAIL}: no such {kind}: {unknown:?}");
    };
    let of = |name| column(&text, name).into_iter().flat_map(code).collect();
    check("outcome", &outcomes, of("outcome"));
    check("standing", &standings, of("standing"));
    let labels = |label: &str| -> BTreeSet<&str> {
        code(&text)
            .into_iter()
            .filter_map(|word| word.strip_prefix(label)?.strip_prefix("=\"")?.strip_suffix('"'))
            .collect()
    };
    check("outcome", &outcomes, labels("outcome"));
    check("reason", &reasons, labels("reason"));
}

#[test]
fn its_configuration_is_one() {
    for block in blocks(&page(WHEN_THINGS_FAIL), "toml") {
        let text = format!("[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"db\"\n\n{block}");
        if let Err(error) = config::parse(&text, WHEN_THINGS_FAIL, &|_| None) {
            panic!("{error}");
        }
    }
}

#[test]
fn its_commands_are_known_and_its_links_lead_somewhere() {
    let text = page(WHEN_THINGS_FAIL);
    // The smoke test of `loadtest chaos` runs it, for less long.
    let known = ["cargo run --release -p loadtest -- chaos --faults kill,stop --seconds 10"];
    let said: Vec<_> = blocks(&text, "sh").into_iter().flat_map(str::lines).collect();
    assert_eq!(said, known);
    let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    for link in links {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(link);
        assert!(path.exists(), "{WHEN_THINGS_FAIL} links to {link}");
    }
    assert!(page("README.md").contains(&format!("]({WHEN_THINGS_FAIL})")), "README.md does not link to it");
}
