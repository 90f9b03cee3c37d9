//! `[etcd]` and the `etcd` of a pool: what is written, the variables of etcdctl, warnings, and everything that is refused.

use std::sync::Arc;

use super::super::*;
use super::refusals::{refused, refused_with};
use super::{SMALLEST, accepted, accepted_with, snapshot, with_pool};

const POOL: &str = "etcd = { prefix = \"/s/\" }";

fn etcd(pool: &Pool) -> &EtcdSource {
    match &pool.source {
        Source::Etcd(etcd) => etcd,
        _ => panic!("{} has another source", pool.name),
    }
}

fn cluster(text: &str, env: &[(&str, &str)]) -> EtcdCluster {
    (*etcd(&accepted_with(text, env).pools[0]).cluster).clone()
}

#[test]
fn equal_clusters_are_one() {
    let config = accepted(
        r#"
        [etcd]
        endpoints = ["10.0.0.1:2379", "10.0.0.2:2379"]
        [listeners.web]
        bind = "0.0.0.0:8080"
        pool = "a"
        [pools]
        a = { etcd = { prefix = "/a/" } }
        b = { etcd = { prefix = "/b/", endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"] } }
        c = { etcd = { prefix = "/c/", endpoints = "http://10.0.0.2:2379" } }
        d = { etcd = { prefix = "/d/", user = "u", password = "p" } }
        "#,
    );
    let clusters: Vec<_> = config.pools.iter().map(|pool| &etcd(pool).cluster).collect();
    assert!(Arc::ptr_eq(clusters[0], clusters[1]), "the same, written in two ways");
    assert!(!Arc::ptr_eq(clusters[0], clusters[2]) && !Arc::ptr_eq(clusters[0], clusters[3]));
    assert_eq!(clusters[3].endpoints, clusters[0].endpoints, "each key on its own");
}

#[test]
fn what_is_written_wins_over_etcdctls_variables() {
    let plain = with_pool(POOL);
    let endpoints = |env: &[(&str, &str)]| cluster(&plain, env).endpoints;
    for (env, wanted) in [
        (&[][..], &["http://127.0.0.1:2379"][..]),
        (&[("ETCDCTL_ENDPOINTS", "")], &["http://127.0.0.1:2379"]),
        (&[("ETCDCTL_ENDPOINTS", "a:2379, http://b:1,a:2379")], &["http://a:2379", "http://b:1"]),
        (&[("ETCDCTL_ENDPOINTS", "a:2379,http://b:1"), ("ETCDCTL_CACERT", "/ca")], &["https://a:2379", "http://b:1"]),
        (&[("ETCDCTL_INSECURE_TRANSPORT", "false")], &["https://127.0.0.1:2379"]),
        (&[("ETCDCTL_INSECURE_TRANSPORT", "true")], &["http://127.0.0.1:2379"]),
        (&[("ETCDCTL_CERT", "/c"), ("ETCDCTL_KEY", "/k")], &["https://127.0.0.1:2379"]),
    ] {
        assert_eq!(endpoints(env), wanted, "{env:?}");
    }
    let env = [
        ("ETCDCTL_ENDPOINTS", "::: none"),
        ("ETCDCTL_USER", "u:p:q"),
        ("ETCDCTL_CACERT", "/ca"),
        ("ETCDCTL_CERT", "/cert"),
        ("ETCDCTL_KEY", "/key"),
    ];
    let written = format!("[etcd]\nendpoints = \"a:1\"\nuser = \"me\"\npassword_file = \"/pw\"\n{plain}");
    let found = cluster(&written, &env);
    assert_eq!(found.endpoints, ["https://a:1"], "the variable is not even looked at");
    assert_eq!((found.user.as_deref(), found.password, found.password_file), (Some("me"), None, Some("/pw".into())));
    assert_eq!(
        (found.ca_file, found.cert_file, found.key_file),
        (Some("/ca".into()), Some("/cert".into()), Some("/key".into()))
    );

    let found = cluster(&plain, &env[1..2]);
    assert_eq!((found.user.as_deref(), found.password), (Some("u"), Some(Secret("p:q".to_owned()))));
    let found = cluster(&plain, &[("ETCDCTL_USER", "u:x"), ("ETCDCTL_PASSWORD", "p")]);
    assert_eq!((found.user.as_deref(), found.password), (Some("u:x"), Some(Secret("p".to_owned()))), "as etcdctl");
    // In a pool all of these keys may be written, too.
    let own = r#"etcd = { prefix = "/s/", endpoints = "https://b:2", user = "o", password = "w", cert_file = "/c", key_file = "/k" }"#;
    let found =
        cluster(&format!("[etcd]\nendpoints = \"x:1\"\nuser = \"me\"\npassword = \"pw\"\n{}", with_pool(own)), &env);
    assert_eq!((found.user.as_deref(), found.password), (Some("o"), Some(Secret("w".to_owned()))));
    assert_eq!((found.endpoints[0].as_str(), found.cert_file), ("https://b:2", Some("/c".into())));
    // etcd is not asked, so it does not matter.
    accepted_with(SMALLEST, &env);
}

#[test]
fn variables_that_change_nothing_are_named() {
    let env = [
        ("ETCDCTL_DISCOVERY_SRV", "example.org"),
        ("ETCDCTL_AUTH_JWT_TOKEN", "x"),
        ("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "true"),
        ("ETCDCTL_API", "2"),
    ];
    let of_etcd = |pool: &str, env: &[(&str, &str)]| -> Vec<String> {
        let warnings = accepted_with(&with_pool(pool), env).warnings();
        let named =
            |line: &String| Some(line.strip_prefix("[etcd]: the environment variable ")?.split(' ').next()?.to_owned());
        warnings.iter().filter_map(named).collect()
    };
    assert_eq!(of_etcd(POOL, &env), ["ETCDCTL_AUTH_JWT_TOKEN", "ETCDCTL_DISCOVERY_SRV", "ETCDCTL_API"]);
    let https = "etcd = { prefix = \"/s/\", endpoints = \"https://a:1\" }";
    assert_eq!(of_etcd(https, &env[2..]), ["ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "ETCDCTL_API"]);
    assert_eq!(of_etcd(POOL, &[("ETCDCTL_API", "3"), ("ETCDCTL_DIAL_TIMEOUT", "5s")]), [""; 0]);
    assert_eq!(of_etcd("backends = [\"a:1\", \"b:1\"]", &env), [""; 0]);
}

#[test]
fn what_is_risky_is_warned_of() {
    let of_pool = |pool: &str| -> Vec<String> {
        let warnings = accepted(&with_pool(pool)).warnings();
        warnings.iter().filter_map(|line| line.strip_prefix("[pools.web]: ").map(str::to_owned)).collect()
    };
    assert_eq!(of_pool(POOL), [""; 0]);
    let user = r#"etcd = { prefix = "/s/", endpoints = ["http://127.0.0.1:1", "http://10.0.0.1:2379"], user = "u", password = "p" }"#;
    assert_eq!(of_pool(user), ["the password goes to http://10.0.0.1:2379 in the clear; use https"]);
    assert_eq!(of_pool(&user.replace("http:", "https:")), [""; 0]);
    let open = of_pool("etcd = { prefix = \"/s\" }");
    assert_eq!(open, ["etcd.prefix \"/s\" does not end in `/`: keys such as \"/s2/a\" are backends of this pool, too"]);
}

#[test]
fn everything_that_cannot_be_meant_is_refused() {
    let pool = |keys: &str| with_pool(&format!("etcd = {{ {keys} }}"));
    let shared = |keys: &str| format!("[etcd]\n{keys}\n{}", with_pool(POOL));
    let mut messages = Vec::new();
    for text in [
        pool(""),
        pool("prefix = \"\""),
        pool("prefix = 3"),
        pool("prefix = \"/s/\", endpoints = []"),
        pool("prefix = \"/s/\", endpoints = [\"a:1\", \"http://a:1\"]"),
        pool("prefix = \"/s/\", endpoints = \"ftp://a\""),
        pool("prefix = \"/s/\", endpoints = \"http://a:1/v3\""),
        pool("prefix = \"/s/\", endpoints = [1]"),
        pool("prefix = \"/s/\", max_connections = 9"),
        pool("prefx = \"/s/\""),
        with_pool("etcd = \"/s/\""),
        with_pool("etcd = { prefix = \"/s/\" }\nbackends = [\"a:1\"]"),
        shared("user = \"u\""),
        shared("password = \"p\""),
        shared("user = \"u\"\npassword = \"\""),
        shared("user = \"u\"\npassword = \"p\"\npassword_file = \"/p\""),
        shared("cert_file = \"/c\""),
        shared("key_file = \"/k\""),
        shared("ca_file = \"\""),
        shared("max_connections = 3"),
        shared("endpoints = \"http://u:hunter2@a:1\""),
        shared("prefix = \"/s/\""),
    ] {
        messages.push(refused(&text));
    }
    let plain = with_pool(POOL);
    for env in [
        &[("ETCDCTL_ENDPOINTS", "a:1,:::")][..],
        &[("ETCDCTL_ENDPOINTS", "http://u:hunter2@a:1")],
        &[("ETCDCTL_USER", "hunter2")],
        &[("ETCDCTL_CERT", "/c")],
    ] {
        messages.push(refused_with(&plain, env));
    }
    let all = messages.join("\n\n");
    assert!(!all.contains("hunter2"), "{all}");
    snapshot("refused_etcd", &all);
}

#[test]
fn a_password_is_not_shown_and_another_prefix_is_a_change() {
    let with = |prefix: &str, password: &str| {
        with_pool(&format!("etcd = {{ prefix = \"{prefix}\", user = \"u\", password = \"{password}\" }}"))
    };
    let tree = |prefix: &str, password: &str| accepted(&with(prefix, password)).effective();
    let diff = Diff::between(&tree("/a/", "hunter2"), &tree("/b/", "hunter3"));
    assert_eq!(diff.lines(), ["pools.web.etcd.password: *** -> ***", "pools.web.etcd.prefix: /a/ -> /b/"]);
    assert!(!format!("{:?}", accepted(&with("/a/", "hunter2"))).contains("hunter"));
    for text in [
        "etcd = { password = \"s3cr3t\", x = 1 }",
        "etcd = { prefix = 1, password = 's3cr3t }",
        "etcd = { password = s3cr3t }",
    ] {
        let message = refused(&with_pool(text));
        assert!(!message.contains("cr3t"), "{message}");
    }
}
