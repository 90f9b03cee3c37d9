//! `evenkeel plan`: what it says is what then happens.

use serde_json::Value;

use super::{Live, file};
use crate::support::{Backend, Program, get, until};

async fn plan(program: &Program, arguments: &[&str]) -> (Option<i32>, String, String) {
    let admin = format!("http://{}", program.admin().await);
    let output = tokio::process::Command::new(Program::PATH)
        .args(["plan", "--admin", &admin])
        .args(arguments)
        .current_dir(program.directory())
        .output()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_plan_counts_the_sessions_that_each_change_affects() {
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    let admin = "admin.bind = \"127.0.0.1:0\"\n";
    let other = format!(
        "[listeners.other]\nbind = \"127.0.0.1:0\"\npool = \"other\"\n[pools.other]\nbackends = [\"{}\"]\n",
        b.address()
    );
    let before = format!("{admin}{}{other}", file(&[a.address()], "", "on_removed = \"close\""));
    let program = Program::start(&before, &[]);
    let (front, elsewhere) = (program.front("front").await, program.front("other").await);
    let mut of_front = [Live::new(front).await, Live::new(front).await];
    let mut of_other = Live::new(elsewhere).await;

    assert_eq!(plan(&program, &["--exit-code"]).await, (Some(0), "nothing would change\n".to_owned(), String::new()));

    let after = format!(
        "workers = 7\n{admin}{}[pools.new]\nbackends = [\"127.0.0.1:1\"]\n",
        file(&[b.address()], "max_connections = 9", "on_removed = \"close\"")
    );
    std::fs::write(program.directory().join("next.toml"), &after).unwrap();
    let (status, said, _) = plan(&program, &["--config", "next.toml", "--exit-code"]).await;
    assert_eq!(status, Some(5));
    for line in [
        "    workers: none -> 7  (takes a restart)",
        "~ listener front  sessions: 2 kept, 0 drained, 0 closed",
        "    max_connections: none -> 9",
        "- listener other  sessions: 0 kept, 1 drained, 0 closed",
        "~ pool back  sessions: 0 kept, 0 drained, 2 closed",
        "+ pool new  sessions: 0 kept, 0 drained, 0 closed",
        "- pool other  sessions: 0 kept, 1 drained, 0 closed",
        "takes a restart, the rest comes into effect: workers",
        "all live sessions: 0 kept, 1 drained, 2 closed",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\nis not in\n{said}");
    }
    let (_, json, _) = plan(&program, &["--config", "next.toml", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["sessions"], serde_json::json!({ "kept": 0, "drained": 1, "closed": 2 }));
    let keys = json["pools"][0]["keys"].as_array().unwrap();
    assert!(keys.iter().any(|key| key["key"] == format!("backends.{}", a.address())), "{keys:?}");
    for live in &mut of_front {
        live.goes_on().await;
    }

    // And that is what happens.
    std::fs::rename(program.directory().join("next.toml"), program.directory().join("lb.toml")).unwrap();
    for live in of_front {
        assert!(live.ends_reset().await);
    }
    of_other.goes_on().await;
    drop(of_other);
    until("only what is planned is left", || async {
        let pools = get(program.admin().await, "/api/v1/pools").await.unwrap().1;
        (!pools.contains("\"other\"")).then_some(())
    })
    .await;
    let (status, said, _) = plan(&program, &["--exit-code"]).await;
    // The file is in effect, but for what takes a restart.
    assert_eq!((status, said.as_str()), (Some(0), "nothing would change\n"));
}

#[tokio::test]
async fn status_names_what_is_wrong_and_which_agent_does_not_answer() {
    let backend = Backend::echo().await;
    let program = Program::start(&format!("admin.bind = \"127.0.0.1:0\"\n{}", file(&[backend.address()], "", "")), &[]);
    program.front("front").await;
    std::fs::write(program.directory().join("bad.toml"), "nonsense = 1").unwrap();
    let (status, said, error) = plan(&program, &["--config", "bad.toml"]).await;
    assert_eq!((status, said.as_str()), (Some(2), ""));
    assert!(error.contains("nonsense"), "{error}");
    let nobody = format!("http://{}", crate::support::free_port());
    let output = tokio::process::Command::new(Program::PATH)
        .args(["plan", "--admin", &nobody])
        .current_dir(program.directory())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(&nobody) && error.contains("can't be reached"), "{error}");
}

/// Sessions are sent to what is down, on purpose, and are not closed for it: no close is foretold either.
#[tokio::test]
async fn a_plan_announces_no_close_if_the_pool_fails_open() {
    let backend = Backend::echo().await;
    let with = |pool: &str| {
        let check = format!("check = {{ kind = \"tcp\", port = {}, fall = 1 }}\n", crate::support::free_port().port());
        format!("admin.bind = \"127.0.0.1:0\"\n{}", file(&[backend.address()], "", &format!("{check}{pool}")))
    };
    let program = Program::start(&with("when_all_down = \"any\""), &[]);
    let mut live = Live::new(program.front("front").await).await;
    until("it is down", || async {
        let pools = get(program.admin().await, "/api/v1/pools").await.unwrap().1;
        pools.contains("\"standing\":\"down\"").then_some(())
    })
    .await;
    for (pool, wanted) in [
        ("when_all_down = \"any\"\non_down = \"close\"", "1 kept, 0 drained, 0 closed"),
        ("when_all_down = \"any\"\non_down = { drain = \"1h\" }", "1 kept, 0 drained, 0 closed"),
        ("when_all_down = \"refuse\"\non_down = \"close\"", "0 kept, 0 drained, 1 closed"),
        ("when_all_down = \"refuse\"\non_down = \"close\"\npanic_threshold = 1", "1 kept, 0 drained, 0 closed"),
    ] {
        std::fs::write(program.directory().join("next.toml"), with(pool)).unwrap();
        let (_, said, error) = plan(&program, &["--config", "next.toml"]).await;
        assert!(said.contains(&format!("~ pool back  sessions: {wanted}\n")), "{pool}\n{said}{error}");
        assert_eq!(
            said.contains("then they are closed") || said.contains(": they are closed"),
            wanted.ends_with("1 closed"),
            "{said}"
        );
    }
    live.goes_on().await;
}
