use super::*;
use crate::config::{json_tree, toml_tree};

fn read(texts: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
    let tree = |text: &&str| json_tree(text).or_else(|_| toml_tree(text)).unwrap();
    let documents: Vec<_> = texts.iter().enumerate().map(|(n, text)| (format!("doc{n}"), tree(text))).collect();
    let (instances, refused) = all(&documents)?;
    let shown = |instance: Instance| {
        let Instance { id, host, port, weight, priority, max_sessions, .. } = instance;
        let (at, most) =
            (HostPort { host, port }, max_sessions.map_or_else(|| "-".to_owned(), |most| most.to_string()));
        format!("{id} {at} {weight} {priority} {most}")
    };
    let refused = refused.iter().map(|refused| format!("{}: {}", refused.id, refused.why));
    Ok((instances.into_iter().map(shown).collect(), refused.collect()))
}

fn good(text: &str) -> Vec<String> {
    let (instances, refused) = read(&[text]).unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    instances
}

#[test]
fn the_shapes_say_the_same() {
    let wanted = ["10.0.0.1:80 10.0.0.1:80 1 0 -", "b [fd00::2]:80 3 1 9", "c.example:81 c.example:81 1 1 -"];
    let entries = r#"["10.0.0.1:80",
        {"address": "[fd00::2]:80", "id": "b", "weight": 3, "priority": 1, "max_sessions": 9},
        {"address": "c.example:81", "backup": true}]"#;
    assert_eq!(good(entries), wanted);
    assert_eq!(good(&format!(r#"{{"backends": {entries}}}"#)), wanted);
    let toml = r#"backends = ["10.0.0.1:80",
        { address = "[fd00::2]:80", id = "b", weight = 3, priority = 1, max_sessions = 9 },
        { address = "c.example:81", backup = true }]"#;
    assert_eq!(good(toml), wanted);
    let tables = "[[backends]]\naddress = \"10.0.0.1:80\"\n[[backends]]\naddress = \"[fd00::2]:80\"\nid = \"b\"\nweight = 3\n\
        labels.evenkeel_priority = \"1\"\nmeta.evenkeel_max_sessions = 9\n[[backends]]\naddress = \"c.example:81\"\n\
        priority = 1";
    assert_eq!(good(tables), wanted);
}

#[test]
fn prometheus_targets_are_backends_and_its_labels_may_weigh_them() {
    let text = r#"[
        {"targets": ["10.0.0.1:80", "10.0.0.2:80"], "labels": {"env": "prod", "__meta_x": "y", "evenkeel_weight": "5"}},
        {"targets": ["10.0.0.3:80"], "labels": {"evenkeel_priority": "1", "evenkeel_max_sessions": "7"}},
        {"targets": []}]"#;
    assert_eq!(
        good(text),
        ["10.0.0.1:80 10.0.0.1:80 5 0 -", "10.0.0.2:80 10.0.0.2:80 5 0 -", "10.0.0.3:80 10.0.0.3:80 1 1 7"]
    );
}

#[test]
fn what_is_written_beside_the_address_wins_over_labels() {
    let text = r#"[{"address": "a:1", "weight": 0, "meta": {"evenkeel_weight": 4}, "labels": {"evenkeel_weight": 5}}]"#;
    assert_eq!(good(text), ["a:1 a:1 0 0 -"]);
}

#[test]
fn bad_entries_are_left_out_each_with_its_reason() {
    let text = r#"["good:1", 7, "no-port", "a:0", {"address": "b:1", "wieght": 3}, {"adress": "b:1"}, {"weight": 1},
        {"address": "b:1", "weight": 65536}, {"address": "b:2", "weight": 1.5}, {"address": "b:3", "priority": 16},
        {"address": "b:4", "max_sessions": 0}, {"address": "b:5", "backup": 1}, {"address": "b:6", "backup": true, "priority": 1},
        {"address": "b:7", "meta": {"evenkeel_weight": "many"}}, {"address": "b:8", "labels": []}, {"address": 5},
        {"address": "b:9", "id": ""}, {"address": "b:10", "id": "a\nb"}, {"address": "0.0.0.0:1"}, "good:1",
        {"targets": "x"}, {"targets": ["c:1", 5]}, {"targets": ["d:1"], "labels": {"evenkeel_priority": "x"}}]"#;
    let (instances, refused) = read(&[text]).unwrap();
    assert_eq!(instances, ["good:1 good:1 1 0 -", "c:1 c:1 1 0 -"]);
    assert_eq!(
        refused,
        [
            "entry 2: it is neither a text nor a table",
            "no-port: no port",
            "a:0: \"0\" is not a port",
            "b:1: unknown key `wieght`; is `weight` meant?",
            "entry 6: unknown key `adress`; is `address` meant?",
            "entry 7: there is neither `address` nor `targets`",
            "b:1: `weight = 65536`: it must be a whole number from 0 to 65535",
            "b:2: `weight = 1.5`: it must be a whole number from 0 to 65535",
            "b:3: `priority = 16`: it must be a whole number from 0 to 15",
            "b:4: `max_sessions = 0`: it must be a whole number from 1 to 4294967295",
            "b:5: `backup` must be true or false",
            "b:6: `backup` next to `priority`: keep one of the two",
            "b:7: `evenkeel_weight = \"many\"`: it must be a whole number from 0 to 65535",
            "b:8: `meta` and `labels` must be tables",
            "entry 16: `address` must be a text",
            ": its id is empty",
            "a\\nb: a control character in its id",
            "0.0.0.0:1: address 0.0.0.0 is no instance's",
            "good:1: another backend before it has the same id",
            "entry 21: `targets` must be a list of texts",
            "5: a target must be a text",
            "d:1: `evenkeel_priority = \"x\"`: it must be a whole number from 0 to 15",
        ]
    );
}

#[test]
fn a_document_that_is_none_is_an_error_and_an_empty_one_is_not() {
    assert_eq!(good("[]"), [""; 0]);
    assert_eq!(good("backends = []"), [""; 0]);
    for (text, why) in [
        ("{}", "doc0: there is no list `backends` in it"),
        ("{\"backends\": 3}", "doc0: it must be a list of backends, or a table with a list `backends`"),
        ("null", "doc0: it must be a list of backends, or a table with a list `backends`"),
        ("[\"x\", 7]", "none of 2 entries can be used, such as x: no port"),
    ] {
        assert_eq!(read(&[text]).unwrap_err(), why);
    }
    assert_eq!(read(&["[\"a:1\"]", "{}"]).unwrap_err(), "doc1: there is no list `backends` in it");
}

#[test]
fn documents_count_together_and_the_first_of_two_with_one_id_stays() {
    let (instances, refused) =
        read(&["[\"a:1\"]", "backends = [\"b:1\", { address = \"c:1\", id = \"a:1\" }]"]).unwrap();
    assert_eq!(instances, ["a:1 a:1 1 0 -", "b:1 b:1 1 0 -"]);
    assert_eq!(refused, ["a:1: another backend before it has the same id"]);
}

#[test]
fn no_text_makes_it_panic() {
    let pieces = [
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"address\"",
        "\"targets\"",
        "\"labels\"",
        "\"a:1\"",
        "\"weight\"",
        "3",
        "null",
        "\"backends\"",
        "\"evenkeel_weight\"",
        "true",
        "-1",
        "1e999",
        "\"\\u0000\"",
    ];
    for seed in crate::seeds::seeds(2, 1) {
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let text: String = (0..random.usize(..25)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            if let Ok(tree) = json_tree(&text) {
                let _ = all(&[("doc".to_owned(), tree)]);
            }
        }
    }
}
