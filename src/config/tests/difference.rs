//! The effective tree, and what is different between two configurations.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::super::{Diff, masked};
use super::{SMALLEST, accepted, with_more};

const EVERYTHING: &str = include_str!("everything.toml");

fn between(old: &str, new: &str) -> Diff {
    Diff::between(&accepted(old).effective(), &accepted(new).effective())
}

fn lines(diff: &Diff) -> Vec<String> {
    diff.lines()
}

#[test]
fn each_key_that_changes_is_named_with_its_place_and_both_values() {
    let old = "workers = 2\nmax_connections = 10\n[shutdown]\ntimeout = \"30s\"\n\
        [listeners.web]\nbind = \"127.0.0.1:80\"\npool = \"web\"\nmax_connections = 5\ntcp.send_buffer = \"1MiB\"\n\
        [pools.web]\nbackends = [\"a:1\", { address = \"b:1\", id = \"b\" }]\ntimeouts.idle = \"1h\"\n\
        check = { kind = \"http\", path = \"/a\" }\n";
    let new = "workers = 3\nlog.format = \"json\"\n[shutdown]\ntimeout = \"1m30s\"\n\
        [listeners.web]\nbind = [\"127.0.0.1:80\", \"127.0.0.1:81\"]\npool = \"web\"\nmax_connections = 6\n\
        [pools.web]\nbackends = [\"c:1\", { address = \"b:1\", id = \"b\", weight = 3 }]\ntimeouts.idle = \"0s\"\n\
        check = { kind = \"tcp\" }\n";
    assert_eq!(
        lines(&between(old, new)),
        [
            "log.format: text -> json",
            "max_connections: 10 -> none",
            "shutdown.timeout: 30s -> 1m30s",
            "workers: 2 -> 3",
            "listeners.web.bind: [\"127.0.0.1:80\"] -> [\"127.0.0.1:80\",\"127.0.0.1:81\"]",
            "listeners.web.max_connections: 5 -> 6",
            "listeners.web.tcp.send_buffer: 1048576 -> none",
            "pools.web.backends.a:1: {\"address\":\"a:1\",\"priority\":0,\"weight\":1} -> none",
            "pools.web.backends.b.weight: 1 -> 3",
            "pools.web.backends.c:1: none -> {\"address\":\"c:1\",\"priority\":0,\"weight\":1}",
            "pools.web.check.kind: http -> tcp",
            "pools.web.check.method: GET -> none",
            "pools.web.check.path: /a -> none",
            "pools.web.check.status: 200-399 -> none",
            "pools.web.timeouts.idle: 1h -> none",
        ]
    );
    assert_eq!(between(old, new).needs_restart(), ["log.format", "workers", "listeners.web.tcp.send_buffer"]);
}

#[test]
fn a_long_value_or_one_of_several_lines_is_a_piece_of_one() {
    let with = |text: &str| with_more(&format!("check = {{ kind = \"http\", path = \"/\", body = \"{text}\" }}"));
    let diff = between(&with("a"), &with(&format!("b\\n{}", "c".repeat(200))));
    let cut = format!("b\\n{}…", "c".repeat(97));
    assert_eq!(lines(&diff).len(), 1);
    assert!(lines(&diff)[0].ends_with(&cut), "{:?}", lines(&diff));
}

#[test]
fn what_comes_and_goes_is_named_once() {
    let other = "[listeners.other]\nbind = \"127.0.0.1:90\"\npool = \"other\"\n[pools.other]\nbackends = [\"x:1\"]";
    assert_eq!(lines(&between(SMALLEST, &with_more(other))), ["listeners.other: added", "pools.other: added"]);
    assert_eq!(lines(&between(&with_more(other), SMALLEST)), ["listeners.other: removed", "pools.other: removed"]);
}

#[test]
fn secrets_differ_without_being_shown() {
    let with = |token: &str| {
        format!(
            "consul.token = \"{token}\"\n[listeners.l]\nbind = \"127.0.0.1:1\"\npool = \"p\"\n[pools.p]\nconsul = {{ service = \"s\" }}\n"
        )
    };
    assert!(between(&with("hunter2"), &with("hunter2")).is_empty());
    assert_eq!(lines(&between(&with("hunter2"), &with("hunter3"))), ["pools.p.consul.token: *** -> ***"]);
    let tree = accepted(&with("hunter2")).effective();
    let shown = masked(tree.clone());
    assert_eq!(shown["pools"]["p"]["consul"]["token"], "***");
    assert!(!shown.to_string().contains("hunter") && !shown.to_string().contains("secret"));
    // Of what is masked nothing is known.
    for other in ["hunter2", "hunter3"] {
        let diff = Diff::between(&shown, &accepted(&with(other)).effective());
        assert!(diff.is_empty());
        assert_eq!(diff.not_compared, ["pools.p.consul.token"]);
    }
    assert_eq!(Diff::between(&tree, &tree).not_compared, [""; 0]);
}

#[test]
fn what_a_check_sends_is_masked() {
    let with = |secret: &str| {
        format!(
            "[listeners.l]\nbind = \"127.0.0.1:1\"\npool = \"p\"\n[pools.p]\nbackends = [\"a:1\"]\n[pools.p.check]\n\
             kind = \"http\"\nmethod = \"POST\"\nheaders = {{ X-Key = \"{secret}\" }}\nrequest_body = \"{secret}\"\n"
        )
    };
    let changed = ["pools.p.check.headers.x-key: *** -> ***", "pools.p.check.request_body: *** -> ***"];
    assert_eq!(lines(&between(&with("hunter2"), &with("hunter3"))), changed);
    let config = accepted(&with("hunter2"));
    let shown = masked(config.effective());
    assert_eq!(shown["pools"]["p"]["check"]["headers"]["x-key"], "***");
    assert!(!shown.to_string().contains("hunter") && !format!("{config:?}").contains("hunter"));
}

/// What is written with a value of its own is in the tree: an applied key can't be forgotten in it.
#[test]
fn the_tree_has_every_key_of_the_file() {
    let tree = masked(accepted(EVERYTHING).effective()).to_string();
    let mut missing = BTreeSet::new();
    for line in EVERYTHING.lines().filter(|line| !line.starts_with(['#', '[', ' '])) {
        let Some((key, _)) = line.split_once(" = ") else { continue };
        if !tree.contains(&format!("\"{key}\"")) {
            missing.insert(key);
        }
    }
    // In the tree by another name, or only in what other keys say.
    assert_eq!(missing, BTreeSet::from(["admin_token_file", "body_regex", "command", "replay"]));
    assert!(!tree.contains("secs"), "a duration that is not written as one: {tree}");
    assert!(!tree.contains("null"), "{tree}");
}

fn some_config() -> impl Strategy<Value = String> {
    let backends = proptest::collection::btree_set(1..6_u16, 1..4);
    let pool = (backends, 1..4_u16, prop::bool::ANY, 1..3_u32);
    let pools = proptest::collection::btree_map("[a-d]", pool, 1..4);
    (pools, proptest::option::of(1..9_u16)).prop_map(|(pools, limit)| {
        let mut text = limit.map_or_else(String::new, |limit| format!("max_connections = {limit}\n"));
        for (name, (backends, idle, any, rise)) in pools {
            let backends: Vec<_> = backends.into_iter().map(|n| format!("10.0.0.{n}:80")).collect();
            let down = if any { "any" } else { "refuse" };
            text += &format!(
                "[listeners.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n[pools.{name}]\nbackends = {backends:?}\n\
                 timeouts.idle = \"{idle}s\"\nwhen_all_down = \"{down}\"\ncheck.rise = {rise}\n"
            );
        }
        text
    })
}

/// Applies the names and values of a difference of trees to the old one.
fn patched(old: &Value, new: &Value, diff: &Diff) -> Value {
    let mut tree = old.clone();
    let put = |place: &mut Value, key: &str, from: &Value| match from.get(key) {
        Some(value) => drop(place.as_object_mut().unwrap().insert(key.to_owned(), value.clone())),
        None => drop(place.as_object_mut().unwrap().remove(key)),
    };
    for change in &diff.process {
        put(&mut tree, change.key.split('.').next().unwrap(), new);
    }
    for (table, all) in [("listeners", &diff.listeners), ("pools", &diff.pools)] {
        for named in all {
            put(&mut tree[table], &named.name, &new[table]);
        }
    }
    tree
}

proptest! {
    #[test]
    fn a_difference_is_all_there_is(old in some_config(), new in some_config()) {
        let (old, new) = (accepted(&old), accepted(&new));
        let (a, b) = (old.effective(), new.effective());
        let diff = Diff::between(&a, &b);
        prop_assert_eq!(diff.is_empty(), old == new);
        prop_assert_eq!(&patched(&a, &b, &diff), &b);
        prop_assert!(Diff::between(&b, &b).is_empty());
        // Backwards it is the same with the values exchanged.
        let back = Diff::between(&b, &a);
        prop_assert_eq!(back.process.len(), diff.process.len());
        prop_assert_eq!(back.pools.len(), diff.pools.len());
    }
}

/// What a check sends may hold a password. A change of it is seen between files, and is no change next to what is masked.
#[test]
fn what_is_sent_is_masked() {
    let tree = |sent: &str| {
        let script =
            format!("check = {{ kind = \"script\", steps = [{{ send = \"{sent}\" }}, {{ expect = \"a\" }}] }}");
        accepted(&with_more(&format!("{script}\nagent = {{ port = 1, send = \"{sent}\" }}"))).effective()
    };
    let (one, two) = (tree("geheim"), tree("secret"));
    assert!(!masked(one.clone()).to_string().contains("geheim"), "{one}");
    assert!(masked(one.clone()).to_string().contains("\"send\":\"***\""), "{one}");
    let diff = Diff::between(&masked(one.clone()), &one);
    assert!(diff.is_empty());
    assert_eq!(diff.not_compared, ["pools.web.agent.send", "pools.web.check.steps"]);
    let lines = Diff::between(&one, &two).lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(!lines.concat().contains("geheim") && lines.concat().contains("***"), "{lines:?}");
}
