//! The commands of the README and of the pages in `docs/`: each one is known here, with what shows that it works.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::pages::{all, blocks};

/// The commands of the `sh` blocks, and the test that runs each.
const COMMANDS: &[(&str, &str)] = &[
    ("sudo apt-get install -y --no-install-recommends git gcc libc6-dev curl", "by hand, on an empty machine"),
    ("git clone https://github.com/evenkeel/evenkeel && cd evenkeel", "by hand"),
    ("cargo demo", "backend-demo/tests/up.rs; the alias: the_alias_is_the_demo"),
    ("cargo run -q --profile demo -p backend-demo -- client 127.0.0.1:8080 --count 300", "backend-demo/tests/up.rs"),
    ("curl -X PUT http://127.0.0.1:8500/fault/hang", "backend-demo/tests/registry.rs: faults_can_be_injected_by_hand"),
    ("curl -X DELETE http://127.0.0.1:8500/fault", "backend-demo/tests/registry.rs: faults_can_be_injected_by_hand"),
    (
        "cargo run -q --profile demo -p backend-demo -- serve --name web --consul http://127.0.0.1:8500",
        "backend-demo/tests/up.rs",
    ),
    ("alias evenkeel='cargo run -q --profile demo --'", "by hand"),
    ("evenkeel status", "tests/console/commands.rs"),
    ("evenkeel explain --listener tls --from 10.1.2.3 --sni db.example.com", "tests/routing/changes.rs"),
    (
        "evenkeel explain --listener tls --from 10.1.2.3 --sni db.example.com --alpn postgresql",
        "tests/routing/changes.rs",
    ),
    ("evenkeel sticky web", "tests/policies.rs"),
    ("evenkeel backends", "tests/console/commands.rs"),
    ("evenkeel explain web-1", "tests/console/commands.rs"),
    ("evenkeel top", "src/cli/top/tests.rs; in a terminal by hand"),
    (
        "evenkeel drain web-2 --note \"new disk\" --wait --timeout 10m && echo \"it is empty\"",
        "tests/console/operate.rs",
    ),
    ("evenkeel ready web-2", "tests/console/operate.rs"),
    ("evenkeel drain web-1 --note \"new disk\"", "tests/console/operate.rs"),
    ("evenkeel drain web-1 --wait --timeout 10m && echo \"it is empty\"", "tests/console/operate.rs"),
    ("evenkeel ready web-1", "tests/console/operate.rs"),
    ("evenkeel weight web-2 0 --for 1h", "tests/console/operate.rs"),
    ("evenkeel probe web-2 pause --for 1h", "tests/console/operate.rs"),
    ("evenkeel events", "tests/console/api.rs"),
    ("evenkeel sessions --idle 10m", "tests/console/operate.rs"),
    ("evenkeel clients", "tests/limits/clients.rs"),
    ("evenkeel clients --listener web --limit 5", "tests/limits/clients.rs"),
    ("evenkeel close --backend web-3 --yes", "tests/console/operate.rs"),
    ("evenkeel log-level debug --for 10m", "tests/console/api.rs"),
    ("evenkeel config", "tests/console/api.rs"),
    ("evenkeel rebalance web --dry-run", "tests/console/operate.rs"),
    ("evenkeel release web", "tests/discovery/held.rs"),
    ("evenkeel reload", "tests/console/api.rs"),
    ("tests/run.sh", "CI"),
    ("cargo check", "CI, as clippy"),
    ("cargo test -p evenkeel --lib standing", "by hand"),
    ("cargo test -p evenkeel --test tests relay::", "by hand"),
    ("cargo test", "CI"),
    ("cargo install --locked --path .", "by hand"),
    ("evenkeel check", "the_shipped_file_is_valid_and_says_what_it_runs"),
    ("evenkeel", "tests/cli.rs: without_a_command_it_runs_and_says_nothing_on_stdout"),
    ("loadtest/peers.sh", "by hand, before a comparison"),
    ("cargo run --profile dist -p loadtest -- compare --write-results", "loadtest's smoke test; in full by hand"),
    ("cargo run --release -p loadtest -- chaos --write-results", "loadtest/tests/chaos.rs; in full by hand"),
    (
        "cargo run --release -p loadtest -- chaos --faults kill,stop --seconds 10",
        "loadtest/tests/chaos.rs, for less long",
    ),
];

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_commands_in_the_manual_are_exactly_the_known_ones() {
    let pages = all();
    let said: BTreeSet<_> = pages
        .iter()
        .flat_map(|(_, text)| blocks(text, "sh"))
        .flat_map(str::lines)
        .map(|line| line.split("  #").next().unwrap().trim())
        .filter(|line| !line.is_empty())
        .collect();
    let known: BTreeSet<_> = COMMANDS.iter().map(|(command, _)| *command).collect();
    let unknown: Vec<_> = said.difference(&known).collect();
    assert!(unknown.is_empty(), "the README or a page says {unknown:?}: run it, and write it down in COMMANDS");
    let gone: Vec<_> = known.difference(&said).collect();
    assert!(gone.is_empty(), "neither the README nor a page says {gone:?} any longer");
}

#[test]
fn the_alias_is_the_demo() {
    assert!(file(".cargo/config.toml").contains("demo = \"run --profile demo -p backend-demo -- up\""));
}

#[test]
fn the_shipped_file_is_valid_and_says_what_it_runs() {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .arg("check")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("EVENKEEL_CONFIG")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("listener web: 127.0.0.1:8080 -> pool web"), "{said}");
    assert!(said.contains("pool web: round_robin over consul service `web`"), "{said}");
    assert!(said.contains("admin: http://127.0.0.1:9900"), "{said}");
}
