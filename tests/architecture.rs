//! The arrows between modules and the doors of third-party crates, read off the `use` lines and paths of the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The allowed imports inside the balancer (`crate::X`): a module, and the modules that it may name besides itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("clean", &[]),
    ("words", &[]),
    ("config", &["clean", "words"]),
    ("metrics", &[]),
    ("seeds", &[]),
    ("pace", &[]),
    ("deadline", &[]),
    ("watch", &["config"]),
    ("endpoint", &["config", "metrics"]),
    ("proxy_protocol", &[]),
    ("route", &["config", "metrics", "proxy_protocol", "balance"]),
    ("health", &["config", "metrics"]),
    ("standing", &["config", "metrics", "endpoint", "health"]),
    ("operator", &["standing"]),
    ("balance", &["config", "metrics"]),
    ("pool", &["config", "metrics", "endpoint", "health", "standing", "operator", "balance", "pace"]),
    ("keeper", &["config", "metrics", "endpoint", "health", "standing", "operator", "pool", "pace", "balance"]),
    ("probe", &["config", "metrics", "endpoint", "proxy_protocol", "health", "pace", "deadline"]),
    ("discovery", &["config", "metrics", "endpoint", "pool", "pace", "deadline", "watch"]),
    ("proxy", &["config", "metrics", "proxy_protocol", "route", "pool", "pace", "deadline"]),
    (
        "server",
        &[
            "config",
            "metrics",
            "endpoint",
            "balance",
            "health",
            "standing",
            "operator",
            "route",
            "pool",
            "keeper",
            "probe",
            "discovery",
            "proxy",
        ],
    ),
    (
        "admin",
        &[
            "clean", "config", "metrics", "pace", "endpoint", "health", "standing", "operator", "pool", "proxy",
            "route", "server",
        ],
    ),
    ("balancer", &["config", "admin", "pool", "proxy", "server"]),
    (
        "cli",
        &[
            "clean", "config", "balance", "route", "pace", "standing", "operator", "balancer", "server", "admin",
            "watch",
        ],
    ),
];

/// Third-party crates that have an equivalent somewhere, and the only files that may name them.
const DOORS: &[(&str, &[&str])] = &[
    ("arc_swap", &["pool/mod.rs", "pool/backend.rs", "pool/overrides.rs", "proxy/listener.rs", "server/mod.rs"]),
    ("axum", &["admin/"]),
    ("prometheus", &["admin/exposition.rs"]),
    ("humantime", &["admin/", "operator/", "cli/"]),
    ("socket2", &["proxy/socket.rs", "proxy/socket/listening.rs", "proxy/option.rs"]),
    ("libc", &["proxy/option.rs", "proxy/relay/ring/", "probe/kernel.rs"]),
    (
        "rustix",
        &[
            "proxy/socket.rs",
            "proxy/socket/failure.rs",
            "proxy/socket/listening.rs",
            "proxy/relay/splice.rs",
            "proxy/relay/ring/",
            "server/limits.rs",
            "probe/attempt.rs",
            "probe/exec.rs",
            "probe/identity.rs",
            "probe/reaper.rs",
            "admin/process.rs",
            "admin/place.rs",
            "admin/triage.rs",
            "cli/reader.rs",
            "watch/",
            "config/file.rs",
            "cli/addresses.rs",
        ],
    ),
    ("hashbrown", &["route/clients.rs"]),
    ("io_uring", &["proxy/relay/ring/raw.rs"]),
    ("sd_notify", &["cli/systemd.rs"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("ratatui", &["cli/top/"]),
    ("subtle", &["admin/access.rs"]),
    ("futures_util", &["admin/events.rs"]),
    ("tracing_subscriber", &["cli/logging.rs"]),
    ("regex", &["config/check.rs"]),
    ("idna", &["config/names.rs"]),
    ("h2", &["probe/grpc.rs"]),
    ("tokio_rustls", &["probe/tls.rs"]),
    ("rustls_native_certs", &["probe/tls.rs"]),
    ("hyper", &["probe/http.rs", "probe/grpc.rs", "admin/serve.rs", "admin/answer.rs", "cli/"]),
    ("hyper_util", &["probe/http.rs", "admin/serve.rs", "cli/"]),
    ("http_body_util", &["probe/http.rs", "cli/"]),
    ("consul", &["discovery/"]),
    ("etcd", &["discovery/"]),
    ("registry_client", &["discovery/http.rs"]),
    ("hickory_proto", &["discovery/dns/message.rs"]),
    ("toml", &["config/"]),
];

#[test]
fn arrows_point_down() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = path.split(['/', '.']).next().unwrap().to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{path}: `{module}` has no place in ARROWS"));
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for named in crate_paths(line) {
                // Tests anywhere draw their seeds.
                if named != module && named != "seeds" && !allowed.contains(&named.as_str()) {
                    wrong.push(format!("{path}:{}: `{module}` names `crate::{named}`", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The relay knows two sockets, counters and limits; no pool, no backend, no configuration.
#[test]
fn the_relay_knows_sockets_counters_and_limits_only() {
    for (path, text) in sources().iter().filter(|(path, _)| path.starts_with("proxy/relay/") && !path.contains("tests"))
    {
        for line in text.lines() {
            let named = crate_paths(line);
            let fine = named.iter().all(|name| {
                name == "metrics"
                    || [
                        "crate::pool::ByteCell",
                        "crate::pool::Throttle",
                        "crate::pool::{ByteCell, Throttle}",
                        "crate::pool::{Draw, Throttle}",
                        "crate::proxy::socket",
                        "crate::proxy::relay",
                    ]
                    .iter()
                    .any(|p| line.contains(p))
            });
            assert!(fine, "{path}: {line}");
            // Counts are cells of the worker's own: no message, no lock, whatever is moved.
            let waits = ["tokio::sync", "sync::mpsc", "Mutex", "RwLock"].iter().find(|name| line.contains(**name));
            assert!(waits.is_none(), "{path}: {line}");
        }
    }
}

/// The modules of the data plane; each names only what is above it here.
const DATA_PLANE: &[&str] = &[
    "option",
    "socket",
    "forced_end",
    "limit",
    "shares",
    "late_keepalive",
    "relay",
    "idle_limits",
    "tries",
    "client_table",
    "handshakes",
    "listener",
    "live",
    "stock",
    "worker",
    "preconnect",
    "context",
    "client",
    "starttls",
    "dial",
    "outcome",
    "upstream",
    "early_data",
    "replay",
    "sniff",
    "routing",
    "session",
    "threads",
];

#[test]
fn no_import_in_the_data_plane_climbs() {
    let place = |module: &str| DATA_PLANE.iter().position(|name| *name == module);
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(rest) = path.strip_prefix("proxy/").filter(|rest| *rest != "mod.rs" && !rest.contains("tests")) else {
            continue;
        };
        let (module, is_file) = (rest.split(['/', '.']).next().unwrap(), !rest.contains('/'));
        let Some(own) = place(module) else {
            wrong.push(format!("{path}: has no place in DATA_PLANE"));
            continue;
        };
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for line in code.lines().filter(|line| line.starts_with("use ")) {
            let prefix = if is_file { "use super::" } else { "use crate::proxy::" };
            let named = line.strip_prefix(prefix).or_else(|| line.strip_prefix("use crate::proxy::"));
            let Some(named) = named.and_then(|named| named.split([':', ';']).next()).filter(|name| *name != module)
            else {
                continue;
            };
            if place(named).is_none_or(|place| place > own) {
                wrong.push(format!("{path}: `{module}` names `{named}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is ready is read before a limit in time is believed, and one function sees to that.
#[test]
fn limits_of_the_data_plane_and_of_probes_look_before_they_end_something() {
    // No limits on what a peer has to do: farewells, a look at orphans, the first part of a probe.
    let fine = ["probe/grpc.rs", "probe/reaper.rs", "probe/wire.rs", "probe/mod.rs"];
    for (path, text) in sources() {
        let is_ours = path.starts_with("proxy/") || path.starts_with("probe/");
        if !is_ours || path.contains("tests") || fine.contains(&path.as_str()) {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        assert!(
            !code.contains("time::timeout") && !code.contains("timeout_at"),
            "{path}: use `crate::deadline::within`"
        );
    }
}

#[test]
fn third_party_crates_have_one_door() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if path.contains("tests") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for (name, doors) in DOORS {
                let used = code.contains(&format!("use {name}::"))
                    || code
                        .match_indices(&format!("{name}::"))
                        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
                if used && !doors.iter().any(|door| path.starts_with(door)) {
                    wrong.push(format!("{path}:{}: `{name}` has its door in {doors:?}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Beyond 500 lines a file is usually two files.
#[test]
fn files_stay_small() {
    for (path, text) in sources() {
        assert!(text.lines().count() <= 500, "{path} has {} lines", text.lines().count());
    }
}

/// The names after `crate::` on a line, also in `use crate::{a, b::C}`.
fn crate_paths(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap();
    let mut named = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let parts: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split(['}', ';']).next().unwrap().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        for part in parts {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() && name.starts_with(char::is_lowercase) {
                named.push(name);
            }
        }
    }
    named
}

/// Path below `src/` → text.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.len() > 20);
    found
}
