//! Other routes while sessions live, and what commands say of routes.

use std::process::Output;

use serde_json::Value;

use super::*;
use crate::support::{Program, get_json, ping, until};

/// A session that has carried its hello there and back.
async fn live(rig: &Rig, name: &str) -> TcpStream {
    let mut stream = connect(rig).await;
    ping(&mut stream, &hello(name)).await;
    stream
}

#[tokio::test]
async fn a_reload_changes_routes_and_live_sessions_keep_their_pool() {
    let (one, two) = (Backend::echo().await, Backend::answering("two").await);
    let pools = [pool("one", &one, ""), pool("two", &two, "")];
    let rig = routed("routes = [{ sni = \"a.example\", pool = \"one\" }]", &pools).await;
    let mut before = live(&rig, "a.example").await;
    let next = |routes: &str| format!("[listeners.front]\nbind = \"127.0.0.1:0\"\n{routes}\n{}{STOP}", pools.concat());
    rig.reload(&next("routes = [{ sni = \"a.example\", pool = \"two\" }]")).await.unwrap();
    assert_eq!(answer(&rig, &hello("a.example")).await, "two");
    ping(&mut before, b"still here").await;
    // From routes to one pool and back.
    rig.reload(&next("pool = \"two\"")).await.unwrap();
    assert_eq!(answer(&rig, b"?").await, "two");
    ping(&mut before, b"and still").await;
    let sessions = get_json(rig.admin(), "/api/v1/sessions").await;
    let session = &sessions["sessions"][0];
    assert_eq!((session["pool"].as_str(), session["sni"].as_str()), (Some("one"), Some("a.example")), "{session}");
    assert_eq!(session["route"], 0);
    drop(before);
    rig.until_no_sessions().await;
    rig.stop().await;
}

/// A client that is being read when the routes change goes by those that it began with.
#[tokio::test]
async fn a_reload_while_a_client_is_read() {
    let (one, two) = (Backend::answering("one").await, Backend::answering("two").await);
    let pools = [pool("one", &one, ""), pool("two", &two, "")];
    let rig = routed("routes = [{ sni = \"a.example\", pool = \"one\" }]\nsniff.timeout = \"1h\"", &pools).await;
    let mut stream = connect(&rig).await;
    let hello = hello("a.example");
    say(&mut stream, &hello[..30]).await;
    until("it is read", || async {
        let all = get_json(rig.admin(), "/api/v1/sessions").await;
        (all["sessions"][0]["phase"] == "sniffing").then_some(())
    })
    .await;
    let next = format!("[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"two\"\n{}{STOP}", pools.concat());
    rig.reload(&next).await.unwrap();
    say(&mut stream, &hello[30..]).await;
    assert_eq!(hear_out(&mut stream).await, "one");
    rig.stop().await;
}

async fn command(program: &Program, arguments: &[&str]) -> Output {
    let admin = format!("http://{}", program.admin().await);
    let mut command = tokio::process::Command::new(Program::PATH);
    command.args(arguments).args(["--admin", &admin]).current_dir(program.directory());
    soon("a command", command.output()).await.unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn explain_says_where_a_client_would_get_and_plan_who_would_go_elsewhere() {
    let (a, b) = (Backend::echo().await, Backend::echo().await);
    let file = |listener: &str| {
        format!(
            "admin.bind = \"127.0.0.1:0\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\n{listener}\n\
             [pools.db]\nbackends = [\"{}\"]\nbalance = \"maglev\"\ncheck = {{ kind = \"none\" }}\n\
             [pools.web]\nbackends = [\"{}\", {{ id = \"second\", address = \"{}\" }}]\ncheck = {{ kind = \"none\" }}\n{STOP}",
            a.address(),
            b.address(),
            b.address(),
        )
    };
    let routes = "deny = [\"203.0.113.0/24\"]\nroutes = [
        { sni = [\"db.example.com\", \"*.db.example.com\"], from = \"10.0.0.0/8\", pool = \"db\" },
        { tls = true, split = { web = 3, db = 1 } },
        { from = \"127.0.0.0/8\", pool = \"db\" },
    ]";
    let program = Program::start(&file(routes), &[]);
    let front = program.front("front").await;
    let explain = async |more: &[&str]| {
        let arguments = [&["explain", "--listener", "front"], more].concat();
        said(&command(&program, &arguments).await)
    };
    let text = explain(&["--from", "10.1.2.3", "--sni", "EU.db.example.com"]).await;
    for line in [
        "routes[0] holds: sni *.db.example.com, from 10.0.0.0/8",
        "its first bytes are waited for",
        "pool db\n",
        "balance maglev: the client's hash leads there",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(text.contains(&format!("backend {}", a.address())), "{text}");
    let text = explain(&["--from", "192.0.2.1", "--tls"]).await;
    for line in [
        "routes[1] holds: tls true",
        "pool db (25 % of such sessions)",
        "pool web (75 % of such sessions)",
        "one of 2 backends: ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let text = explain(&["--from", "127.0.0.1", "--starts-with", "GET /"]).await;
    assert!(text.contains("routes[2] holds: from 127.0.0.0/8"), "{text}");
    let text = explain(&["--from", "2001:db8::1"]).await;
    assert!(text.contains("no route holds") && text.contains("it is refused: no_route"), "{text}");
    let text = explain(&["--from", "203.0.113.9", "--sni", "x.example"]).await;
    assert!(text.contains("it is refused: denied"), "{text}");
    for (arguments, status) in [
        (&["--listener", "back", "--from", "10.0.0.1"][..], 3),
        (&["--listener", "front", "--from", "here"], 2),
        (&["--listener", "front", "--from", "10.0.0.1", "--sni", "*.example"], 2),
        (&["--listener", "front"], 2),
        (&[], 2),
    ] {
        let output = command(&program, &[&["explain"], arguments].concat()).await;
        assert_eq!(output.status.code(), Some(status), "{arguments:?} {output:?}");
    }

    let connect = || async { soon("a connect", TcpStream::connect(front)).await.unwrap() };
    let (mut tls, mut plain) = (connect().await, connect().await);
    ping(&mut tls, &hello("a.example")).await;
    ping(&mut plain, b"GET /").await;
    let next = "deny = [\"203.0.113.0/24\"]\nroutes = [{ sni = \"*.example\", split = { web = 0, db = 1 } }, { starts_with = \"GET\", pool = \"web\" }]";
    std::fs::write(program.directory().join("next.toml"), file(next)).unwrap();
    let text = said(&command(&program, &["plan", "--config", "next.toml"]).await);
    assert!(text.contains("(1 sessions of pool db would go to pool web if they came now)"), "{text}");
    assert!(text.contains("(sessions stay in the pool that they are in)"), "{text}");
    let json: Value =
        serde_json::from_str(&said(&command(&program, &["plan", "--config", "next.toml", "--json"]).await)).unwrap();
    let sessions = get_json(program.admin().await, "/api/v1/sessions").await;
    let list = sessions["sessions"].as_array().unwrap();
    let in_web = list.iter().filter(|session| session["pool"] == "web").count() as u64;
    assert_eq!(json["listeners"][0]["elsewhere"], 1 + in_web, "{json}");
    // Another pool for the rest alone: who it takes is known from the bytes that were kept.
    std::fs::write(program.directory().join("next.toml"), file("pool = \"web\"\ndeny = [\"203.0.113.0/24\"]")).unwrap();
    let json: Value =
        serde_json::from_str(&said(&command(&program, &["plan", "--config", "next.toml", "--json"]).await)).unwrap();
    assert_eq!(json["listeners"][0]["elsewhere"], 2 - in_web, "{json}");
}
