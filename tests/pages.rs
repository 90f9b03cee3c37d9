//! The README, the pages beside it and those in `docs/`: what they name exists, what they link to, too.

use std::collections::BTreeSet;
use std::path::Path;

use evenkeel::config;
use evenkeel::metrics::{self, ConnectFailure, EarlyEnd, Outcome, Refusal};
use evenkeel::standing::Standing;

const README: &str = "README.md";
const INDEX: &str = "docs/index.md";
const WHEN_THINGS_FAIL: &str = "docs/when-things-fail.md";

/// The pages in the root, besides the README.
const ROOT: [&str; 3] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"];

pub fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Every page: its path from the root, and its text.
pub fn all() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    names.extend([README].into_iter().chain(ROOT).map(str::to_owned));
    names.sort();
    assert!(names.len() > 5, "{names:?}");
    names.into_iter().map(|name| (name.clone(), page(&name))).collect()
}

/// The insides of all `code` in a line of text, fenced blocks left out.
pub fn code(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(str::lines).flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The fenced blocks of a language.
pub fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
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
fn the_metrics_of_the_manual_exist() {
    let known: BTreeSet<_> = metrics::ALL.iter().map(|metric| metric.name).collect();
    // Keys of Meta and of labels, which begin like metrics.
    let meta = ["evenkeel_priority", "evenkeel_max_sessions", "evenkeel_weight", "evenkeel_zone"];
    for (name, text) in all() {
        let named = code(&text).into_iter().filter(|word| word.starts_with("evenkeel_") && !meta.contains(word));
        let unknown: Vec<_> = named.filter(|word| !known.contains(word)).collect();
        assert!(unknown.is_empty(), "{name} names metrics that do not exist: {unknown:?}");
    }
    assert!(code(&page(WHEN_THINGS_FAIL)).into_iter().filter(|word| known.contains(word)).count() > 10);
}

#[test]
fn the_outcomes_reasons_and_standings_of_the_manual_exist() {
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

/// A table that lists a closed set lists all of it.
#[test]
fn the_tables_of_the_manual_are_complete() {
    let check = |name: &str, column_name: &str, known: BTreeSet<&str>| {
        let text = page(name);
        let listed: BTreeSet<_> = column(&text, column_name).into_iter().flat_map(code).collect();
        assert_eq!(listed, known, "{name}: the column `{column_name}`");
    };
    check("docs/outcomes.md", "outcome", Outcome::ALL.iter().map(|outcome| outcome.name()).collect());
    check("docs/outcomes.md", "reason", Refusal::ALL.iter().map(|reason| reason.name()).collect());
    check("docs/health.md", "standing", Standing::ALL.iter().map(|standing| standing.name()).collect());
    let glossary = page("docs/glossary.md");
    for standing in Standing::ALL {
        assert!(glossary.contains(&format!("\n| {} |", standing.name())), "the glossary has no {standing:?}");
    }
}

#[test]
fn the_configurations_of_the_manual_are_valid() {
    for (name, text) in all() {
        for block in blocks(&text, "toml") {
            let mut whole = String::new();
            let (has_listener, has_source) = (
                block.contains("[listeners."),
                ["backends =", "consul =", "etcd =", "\nfile =", "dns =", "http ="]
                    .iter()
                    .any(|key| block.contains(key)),
            );
            let named = block.split("[pools.").nth(1).and_then(|rest| rest.split(']').next());
            let pool = named.unwrap_or("web");
            if !has_listener {
                whole += &format!("[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n\n");
            }
            whole += block;
            if named.is_none() {
                whole += "\n[pools.web]\n";
            }
            if !has_source {
                whole = whole.replace(
                    &format!("[pools.{pool}]\n"),
                    &format!("[pools.{pool}]\nbackends = [\"10.0.0.1:9090\"]\n"),
                );
            }
            // What is part of a listener that is shown.
            if has_listener && !block.contains("bind =") {
                whole = whole.replacen("]\n", &format!("]\nbind = \"127.0.0.1:0\"\npool = \"{pool}\"\n"), 1);
            }
            if let Err(error) = config::parse(&whole, &name, &|_| None) {
                panic!("{name}: {error}\n{whole}");
            }
        }
    }
}

#[test]
fn the_links_of_the_manual_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = all();
    for (name, text) in &pages {
        for link in links(text).into_iter().filter(|link| !link.contains("://")) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => root.join(name),
                path => root.join(name).parent().unwrap().join(path),
            };
            assert!(target.exists(), "{name} links to {link}, and there is no such file");
            if !heading.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                assert!(anchors(&text).contains(heading), "{name} links to {link}, and there is no such heading");
            }
        }
    }
    let (readme, index) = (page(README), page(INDEX));
    for name in ROOT.into_iter().chain([INDEX]) {
        assert!(links(&readme).contains(&name), "{README} does not link to {name}");
    }
    for (name, _) in &pages {
        if let Some(name) = name.strip_prefix("docs/").filter(|_| name != INDEX) {
            assert!(links(&index).contains(&name), "{INDEX} does not link to {name}");
        }
    }
}

/// Where links lead to, fenced blocks left out.
fn links(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split("](").skip(1)).map(|rest| rest.split(')').next().unwrap()).collect()
}

/// What a heading is called in links, as GitHub does it.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = text.split("```").step_by(2);
    let headings = prose
        .flat_map(str::lines)
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    headings
        .map(|heading| {
            let kept = heading
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .collect::<String>();
            kept.trim().replace(' ', "-")
        })
        .collect()
}

/// Programs are no persons, and some words are known to few whose first language is another.
#[test]
fn they_say_it_plainly() {
    let mut texts = all();
    texts.push(("lb.toml".to_owned(), page("lb.toml").replace("nobody:nogroup", "")));
    texts.push(("--help".to_owned(), page("tests/snapshots/tests__cli__help.snap")));
    for (name, text) in texts {
        for line in text.lines() {
            let words: Vec<_> = line.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect();
            let odd = ["whoever", "nobody", "everybody", "anew", "whom"]
                .into_iter()
                .find(|odd| words.iter().any(|w| w == odd));
            assert!(odd.is_none() && !line.contains("at hand"), "{name}: {line}");
        }
    }
}

/// A newcomer reads it in one go; what is looked up belongs to `docs/`.
#[test]
fn the_readme_stays_short() {
    let readme = page(README);
    let lines = readme.lines().count();
    assert!(lines <= 120, "{README} has {lines} lines");
    assert!(readme.len() <= 11_500, "{README} has {} bytes", readme.len());
}
