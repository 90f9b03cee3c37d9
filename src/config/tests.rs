//! The module from outside: what a file means, what is refused and in which words.

mod difference;
mod etcd;
mod meaning;
mod messages;
mod refusals;
mod robustness;
mod routes;

use super::{Config, ConfigError, parse};

const SMALLEST: &str = r#"[listeners.web]
bind = "0.0.0.0:8080"
pool = "web"

[pools.web]
backends = ["10.0.0.1:9090", "10.0.0.2:9090"]
"#;

fn no_env(_: &str) -> Option<String> {
    None
}

fn accepted(text: &str) -> Config {
    accepted_with(text, &[])
}

fn accepted_with(text: &str, env: &[(&str, &str)]) -> Config {
    read_with(text, env).unwrap_or_else(|error| panic!("{error}"))
}

fn read_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    parse(text, "lb.toml", &lookup)
}

/// The smallest file with a pool of other content.
fn with_pool(pool: &str) -> String {
    format!("[listeners.web]\nbind = \"0.0.0.0:8080\"\npool = \"web\"\n\n[pools.web]\n{pool}\n")
}

/// The smallest file with more of the pool.
fn with_more(more: &str) -> String {
    format!("{SMALLEST}{more}\n")
}

/// Compares with `src/config/snapshots/NAME.snap`.
fn snapshot(name: &str, text: &str) {
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, text);
    });
}
