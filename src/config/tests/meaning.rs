//! What is written and what it means: defaults, every key, agents, variables, warnings, the shipped file.

use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::{SMALLEST, accepted, accepted_with, no_env, read_with, snapshot, with_more, with_pool};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn consul(pool: &Pool) -> &ConsulSource {
    match &pool.source {
        Source::Consul(consul) => consul,
        _ => panic!("{} has another source", pool.name),
    }
}

#[test]
fn the_smallest_file_has_every_default() {
    let config = accepted(SMALLEST);
    snapshot("defaults", &format!("{config:#?}"));
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn every_key_is_understood() {
    let config = accepted(include_str!("everything.toml"));
    snapshot("everything", &format!("{config:#?}"));
}

#[test]
fn the_shipped_file_is_valid() {
    let config = parse(include_str!("../../../lb.toml"), "lb.toml", &no_env).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.warnings(), Vec::<String>::new());
    assert_eq!(config.listeners[0].bind[0].to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.bind.map(|bind| bind.to_string()).as_deref(), Some("127.0.0.1:9900"));
    let web = consul(&config.pools[0]);
    assert_eq!(web.service, "web");
    assert_eq!(web.agent.address, "http://127.0.0.1:8500");
    assert!(matches!(&config.pools[0].check.kind, CheckKind::Http(http) if http.path == "/health"));
}

/// What its comments offer is valid too: every commented key is switched on.
#[test]
fn the_comments_of_the_shipped_file_are_valid() {
    let text = include_str!("../../../lb.toml");
    let is_key = |line: &str| {
        line.starts_with("#[")
            || line.strip_prefix('#').is_some_and(|l| l.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let all: Vec<&str> = text.lines().map(|line| if is_key(line) { &line[1..] } else { line }).collect();
    let env = [("TOKEN", "t")];
    let config = read_with(&all.join("\n"), &env).unwrap_or_else(|error| panic!("{error}"));
    assert!(config.pools.len() > 1, "the examples of other pools are there");
}

#[test]
fn an_interval_sets_what_follows_from_it() {
    let check = accepted(&with_more("check = { interval = \"200ms\" }")).pools[0].check.clone();
    assert_eq!(check.fast_interval, Duration::from_millis(200));
    assert_eq!(check.down_interval, Duration::from_millis(200));
    let check = accepted(&with_more("check = { interval = \"10s\" }")).pools[0].check.clone();
    assert_eq!((check.fast_interval, check.down_interval), (Duration::from_millis(500), seconds(10)));
}

#[test]
fn probes_begin_as_sessions_do_unless_told_otherwise() {
    for (more, wanted) in [
        ("", None),
        ("send_proxy = \"v1\"", Some(ProxyVersion::V1)),
        ("send_proxy = { version = \"v2\" }\ncheck = { port = 8081 }", Some(ProxyVersion::V2)),
        ("send_proxy = \"v2\"\ncheck = { send_proxy = false }", None),
        ("send_proxy = \"v2\"\ncheck = { send_proxy = \"v1\" }", Some(ProxyVersion::V1)),
        ("check = { send_proxy = \"v2\" }", Some(ProxyVersion::V2)),
        ("send_proxy = \"v2\"\ncheck = { kind = \"none\" }", None),
    ] {
        assert_eq!(accepted(&with_more(more)).pools[0].check.send_proxy, wanted, "{more}");
    }
    let values = ProxyValues { unique_id: true, authority: Authority::Received, crc32c: false, tlvs: true };
    assert_eq!(accepted(&with_more("send_proxy = \"v2\"")).pools[0].send_proxy, Some(SendProxy::V2(values)));
}

#[test]
fn equal_agents_are_one() {
    let config = accepted_with(
        r#"
        [consul]
        token = "t"
        [listeners.web]
        bind = "0.0.0.0:8080"
        pool = "a"
        [pools]
        a = { consul = { service = "a" } }
        b = { consul = { service = "b", address = "127.0.0.1:8500" } }
        c = { consul = { service = "c", token = "other" } }
        d = { consul = { service = "d", token = "other", datacenter = "dc2" } }
        e = { consul = { service = "e", token_file = "/run/token" } }
        "#,
        &[],
    );
    let agents: Vec<_> = config.pools.iter().map(|pool| &consul(pool).agent).collect();
    assert!(Arc::ptr_eq(agents[0], agents[1]), "the same, written in two ways");
    assert!(Arc::ptr_eq(agents[2], agents[3]), "a datacenter is no setting of the agent");
    assert!(!Arc::ptr_eq(agents[0], agents[2]), "another token");
    assert_eq!(agents[4].token, None, "a token file replaces the token");
}

#[test]
fn what_is_written_wins_over_consuls_variables() {
    let plain = with_pool("consul = { service = \"web\" }");
    let written = format!("[consul]\naddress = \"http://10.0.0.1:8500\"\ntoken = \"written\"\n{plain}");
    let anonymous = format!("[consul]\ntoken = \"\"\n{plain}");
    let address = |text: &str, env: &[(&str, &str)]| consul(&accepted_with(text, env).pools[0]).agent.address.clone();
    for (env, wanted) in [
        (&[][..], "http://127.0.0.1:8500"),
        (&[("CONSUL_HTTP_ADDR", "")], "http://127.0.0.1:8500"),
        (&[("CONSUL_HTTP_ADDR", "10.0.0.2:8500")], "http://10.0.0.2:8500"),
        (&[("CONSUL_HTTP_ADDR", "consul:8501"), ("CONSUL_HTTP_SSL", "true")], "https://consul:8501"),
        (&[("CONSUL_HTTP_ADDR", "http://consul:8501"), ("CONSUL_HTTP_SSL", "true")], "https://consul:8501"),
        (&[("CONSUL_HTTP_ADDR", "https://consul.example/")], "https://consul.example"),
        (&[("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"), ("CONSUL_HTTP_SSL", "1")], "unix:///run/consul.sock"),
        (&[("CONSUL_HTTP_SSL", "true")], "https://127.0.0.1:8500"),
    ] {
        assert_eq!(address(&plain, env), wanted, "{env:?}");
    }
    let env = [
        ("CONSUL_HTTP_ADDR", "::: no address"),
        ("CONSUL_HTTP_TOKEN", "t"),
        ("CONSUL_HTTP_TOKEN_FILE", "/t"),
        ("CONSUL_CACERT", "/ca"),
    ];
    assert_eq!(address(&written, &env), "http://10.0.0.1:8500", "the variable is not even looked at");

    let agent = |text: &str, env: &[(&str, &str)]| (*consul(&accepted_with(text, env).pools[0]).agent).clone();
    assert_eq!(agent(&written, &env).token, Some(Secret("written".to_owned())));
    assert_eq!(agent(&written, &env).token_file, None);
    assert_eq!(agent(&written, &env).ca_file, Some("/ca".into()));
    assert_eq!(agent(&anonymous, &env[1..2]).token, None);
    assert_eq!(agent(&plain, &env[1..2]).token, Some(Secret("t".to_owned())));
    assert_eq!(agent(&plain, &env[1..3]).token, None, "the file wins, as in Consul's own tools");
    assert_eq!(agent(&plain, &env[1..3]).token_file, Some("/t".into()));
    // Consul is not asked, so it does not matter.
    accepted_with(SMALLEST, &env);
}

#[test]
fn variables_fill_in_any_string() {
    let text = r#"
        [listeners.web]
        bind = "${HOST:-127.0.0.1}:${PORT}"
        pool = "${POOL}"
        [pools.web]
        backends = ["${A}", { address = "b:1", id = "$${A}" }]
        connect = { timeout = "${TIMEOUT:-2s}" }
    "#;
    let config = accepted_with(text, &[("PORT", "80"), ("POOL", "web"), ("A", "a:1")]);
    assert_eq!(config.listeners[0].bind[0].to_string(), "127.0.0.1:80");
    let Source::Static(backends) = &config.pools[0].source else { panic!("static") };
    assert_eq!(backends.iter().map(|backend| backend.id.as_str()).collect::<Vec<_>>(), ["a:1", "${A}"]);
    assert_eq!(config.pools[0].connect.timeout, seconds(2));
}

#[test]
fn risks_are_named() {
    let config = accepted(include_str!("risky.toml"));
    snapshot("warnings", &config.warnings().join("\n"));
}

#[test]
fn consuls_variables_that_change_nothing_are_warned_of() {
    let all = [
        "CONSUL_HTTP_AUTH",
        "CONSUL_NAMESPACE",
        "CONSUL_PARTITION",
        "CONSUL_CAPATH",
        "CONSUL_CLIENT_CERT",
        "CONSUL_CLIENT_KEY",
        "CONSUL_TLS_SERVER_NAME",
        "CONSUL_HTTP_SSL_VERIFY",
    ];
    let env = all.map(|name| (name, "false"));
    let warned = |pool: &str| accepted_with(&with_pool(pool), &env).warnings();
    let wanted = |names: &[&str]| -> Vec<String> {
        let warning = |name| {
            format!("[consul]: the environment variable {name} is set, and is not supported: it changes nothing")
        };
        names.iter().map(warning).collect()
    };
    assert_eq!(warned("backends = [\"10.0.0.1:1\", \"10.0.0.2:1\"]"), wanted(&[]), "no agent is asked");
    assert_eq!(warned("consul = { service = \"web\" }"), wanted(&all[..3]), "none over TLS");
    let https = "consul = { service = \"web\", address = \"https://consul.example\" }";
    assert_eq!(warned(https), wanted(&all));
    let verified = [("CONSUL_HTTP_SSL_VERIFY", "true")];
    assert_eq!(accepted_with(&with_pool(https), &verified).warnings(), wanted(&[]), "as it is anyway");
}

#[test]
fn a_budget_that_an_agent_refuses_is_warned_of_and_many_pools_are_not() {
    let warned = |most: usize, pools: usize| {
        let pool = |n| format!("[pools.p{n}]\nconsul.service = \"s{n}\"\n");
        let file: String = (0..pools).map(pool).collect();
        let listener = "[listeners.l]\nbind = \"127.0.0.1:1\"\npool = \"p0\"\n";
        let config = accepted(&format!("consul.max_connections = {most}\n{listener}{file}"));
        config
            .warnings()
            .into_iter()
            .filter(|warning| warning.contains("http_max_conns_per_client"))
            .collect::<Vec<_>>()
    };
    assert_eq!(warned(128, 300), Vec::<String>::new(), "their queries take turns");
    assert_eq!(warned(199, 2), Vec::<String>::new());
    let wanted = "[consul]: max_connections 200: an agent takes 200 from one address, and at that shuts out every other client on \
                  this machine, unless its limits.http_max_conns_per_client says more";
    assert_eq!(warned(200, 2), [wanted]);
}
