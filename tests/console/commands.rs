//! What commands print, and their exit status.

use serde_json::{Value, json};

use super::{Console, config};
use crate::support::{Backend, CommandOutput, output_of, soon, until};

/// What differs from run to run, masked: times, ages, numbers of processes and ports.
fn masked(text: &str) -> String {
    let mut filtered = text.to_owned();
    for (pattern, with) in [
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"pid \d+, up \d+\w", "pid PID, up AGE"),
        (r"\b\d+[smhd]\b", "AGE"),
        (r"in [\d.]+(µs|ms|s)", "in TIME"),
        (r"by [\w-]+ at", "by USER at"),
        (r"\(\d+(st|nd|rd|th) pass\)", "(NTH pass)"),
        (r"\d+ passes in a row", "N passes in a row"),
        (r" +", " "),
        (r" \n", "\n"),
    ] {
        filtered = regex::Regex::new(pattern).unwrap().replace_all(&filtered, with).into_owned();
    }
    filtered
}

#[tokio::test]
async fn tables_for_people_and_json_for_programs() {
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let more = "[pools.spare]\nbackends = [\"127.0.0.1:1\"]\ncheck = { kind = \"none\" }\nrequired = false\n";
    let console =
        Console::start(&config(&[("dc/web-1", &one), ("dc/web-2", &two)], "max_connections = 50", "", more)).await;
    console.good(&["drain", "web-2", "--note", "new disk"]).await;
    let mut all = String::new();
    for arguments in
        [&["status"][..], &["backends"], &["backends", "web"], &["explain", "web-2"], &["weight", "web-1", "5"]]
    {
        let out = console.good(arguments).await;
        assert!(!out.contains('\x1b'), "colours are for terminals");
        all += &format!("$ evenkeel {}\n{}\n", arguments.join(" "), masked(&out));
        let json = console.good(&[&["--json"], arguments].concat()).await;
        serde_json::from_str::<Value>(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("console", all);
    });
}

#[tokio::test]
async fn explain_shows_the_share_of_a_weight() {
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let console = Console::start(&config(&[("dc/web-1", &one), ("dc/web-2", &two)], "", "", "")).await;
    let weight = async |id: &str| {
        let text = console.good(&["explain", id]).await;
        let row = text.lines().find_map(|line| line.trim_start_matches(['>', ' ']).strip_prefix("weight"));
        row.unwrap_or_else(|| panic!("{text}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(weight("web-1").await, "1 50 % of what gets sessions, as the file says");
    console.good(&["weight", "web-1", "3"]).await;
    assert!(weight("web-1").await.starts_with("3 75 % of what gets sessions, by "));
    assert_eq!(weight("web-2").await, "1 25 % of what gets sessions, as the file says");
    console.good(&["drain", "web-2"]).await;
    assert!(weight("web-1").await.starts_with("3 100 % of what gets sessions, by "));
    assert_eq!(weight("web-2").await, "1 as the file says");
    console.good(&["weight", "web-1", "0"]).await;
    assert!(weight("web-1").await.starts_with("0 nothing new, by "));
}

#[tokio::test]
async fn backends_that_are_left_out_are_listed_below_the_others() {
    let backend = Backend::echo().await;
    let more = "[pools.named]\nbackends = [\"127.0.0.1:1\", \"nobody.invalid:80\"]\ncheck = { kind = \"none\" }\n";
    let console = Console::start(&config(&[("a", &backend)], "", "", more)).await;
    let named = || async {
        let text = console.good(&["backends", "named"]).await;
        text.contains("pool named: nobody.invalid:80 is left out: can't resolve nobody.invalid: ").then_some(())
    };
    until("it is named", named).await;
    assert!(!console.good(&["backends", "web"]).await.contains("left out"));
}

#[tokio::test]
async fn names_are_found_or_suggested_and_scripts_can_tell() {
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let console = Console::start(&config(&[("dc/web-1", &one), ("dc/web-2", &two)], "", "", "")).await;
    for (arguments, code, err) in [
        (&["explain", "web-"][..], 3, "evenkeel: `web-` can be `web/dc/web-1`, `web/dc/web-2`\n"),
        (&["drain", "web-3"], 3, "evenkeel: there is no backend `web-3`; did you mean `web-1`?\n"),
        (&["ready", "--pool", "wep"], 3, "evenkeel: there is no pool `wep`; did you mean `web`?\n"),
        (&["drain"], 2, ""),
        (&["check", "--json"], 2, "evenkeel: --json does not apply to `check`\n"),
        (&["top"], 2, "evenkeel: top needs a terminal; `evenkeel backends` needs none\n"),
        (&["drain", "web-1", "--pool", "web"], 2, ""),
        (&["weight", "web-1", "70000"], 2, ""),
        (&["drain", "web-1", "--timeout", "1s"], 2, ""),
        (&["drain", "web-1", "--for", "soon"], 2, "evenkeel: `for = \"soon\"`: not a duration; write it like"),
        (&["sessions", "--idle", "long"], 2, "evenkeel: `idle = \"long\"`: not a duration; write it like"),
        (&["close", "--backend", "web-1", "--yes"], 3, "evenkeel: there is no such session, so none is closed\n"),
    ] {
        let said = console.says(arguments).await;
        assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "{arguments:?}: {said:?}");
        assert!(said.err.starts_with(err), "{said:?}");
    }
    assert_eq!(console.backend("dc/web-1").await["standing"], "up", "nothing was done by mistake");
    for text in ["web-1", "dc/web-1", "web/dc/web-1"] {
        console.good(&["drain", text]).await;
        assert_eq!(console.backend("dc/web-1").await["standing"], "draining");
        console.good(&["ready", text]).await;
        until("up", || async { (console.backend("dc/web-1").await["standing"] == "up").then_some(()) }).await;
    }
}

#[tokio::test]
async fn events_end_with_their_reader() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "", "")).await;
    let mut events = console.command(&["events"]).spawn().unwrap();
    // As `evenkeel events | head -1` does. Nothing happens any more that would have to be written.
    drop(events.stdout.take());
    let status = soon("the end of `events`", events.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn an_empty_environment_variable_is_ignored() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "", "")).await;
    let mut command = console.command(&["status"]);
    command.env("EVENKEEL_ADMIN", "");
    let said = output_of(command).await;
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[tokio::test]
async fn completions_and_manual() {
    let backend = Backend::echo().await;
    let console = Console::start(&config(&[("a", &backend)], "", "", "")).await;
    for shell in ["bash", "zsh", "fish"] {
        let out = console.good(&["completions", shell]).await;
        assert!(out.contains("drain") && out.contains("until-restart"), "{shell}");
    }
    assert!(console.good(&["man"]).await.contains(".SH SUBCOMMANDS"));
    console.good(&["man", "--dir", "pages"]).await;
    let page = std::fs::read_to_string(console.program.directory().join("pages/evenkeel-drain.1")).unwrap();
    assert!(page.contains("Wait until the last session is gone"), "{page}");
}

/// The file, the command line and the API read a duration alike, and refuse one in the same words.
#[tokio::test]
async fn durations_have_one_grammar_in_the_file_on_the_command_line_and_in_the_api() {
    const WORDS: [&str; 2] = ["not a duration", "write it like \"500ms\", \"5s\", \"1m30s\" or \"1h\""];
    let backend = Backend::echo().await;
    let text = |time: &str| config(&[("a", &backend)], &format!("shutdown.timeout = \"{time}\""), "", "");
    let console = Console::start(&text("1h 30m")).await;
    // Status and words of each way in.
    let all = async |time: &str| {
        std::fs::write(console.program.directory().join("other.toml"), text(time)).unwrap();
        let mut said = Vec::new();
        for arguments in [
            &["check", "--config", "other.toml"][..],
            &["drain", "a", "--for", time],
            &["drain", "a", "--wait", "--timeout", time],
            &["sessions", "--age", time],
            &["log-level", "info", "--for", time],
        ] {
            let CommandOutput { code, out, err, .. } = console.says(arguments).await;
            said.push((format!("{arguments:?}"), code == Some(0), out + &err));
        }
        let order = json!({ "operator": "drain", "for": time }).to_string();
        let (status, body) = console.ask("PATCH", "/api/v1/backends/web/a", &order).await.unwrap();
        said.push(("an order".to_owned(), status == 200, body));
        let path = format!("/api/v1/sessions?idle={}", time.replace(' ', "%20"));
        let (status, body) = console.get(&path).await.unwrap();
        said.push((path, status == 200, body));
        said
    };
    for (way, is_good, said) in all("1h 30m").await {
        assert!(is_good, "{way}: {said}");
    }
    let running: Value = serde_json::from_str(&console.good(&["config", "--json"]).await).unwrap();
    assert_eq!(running["config"]["shutdown"]["timeout"], "1h30m");
    let order = &console.backend("a").await["operator"];
    let [at, until] = ["at", "until"].map(|key| humantime::parse_rfc3339(order[key].as_str().unwrap()).unwrap());
    assert_eq!(until.duration_since(at).unwrap().as_secs(), 5_400, "{order}");

    for (way, is_good, said) in all("1hour").await {
        assert!(!is_good, "{way}: {said}");
        let said = said.replace("\\\"", "\"");
        assert!(WORDS.iter().all(|words| said.contains(words)), "{way}: {said}");
    }
}
