//! The whole of `lb.toml`, validated. Each value is judged where it is read, and then how they fit together; a fault takes the
//! default's place, so what comes out counts only if there was none. Durations are never zero unless a field says so.

use std::path::PathBuf;

use serde::Serialize;

use super::access::path;
use super::agents::{self, ConsulAgents};
use super::checks::Checks;
use super::clusters::{self, EtcdClusters};
use super::effective::by_name;
use super::fallback;
use super::faults::shown;
use super::listeners::{TakenAddresses, max_connections};
use super::pools::Registries;
use super::table::{Name, Table};
use super::{Admin, CheckKind, HashBy, Listener, Log, OwnZone, Pool, Reload, Shutdown};

const LONGEST_NAME: usize = 64;
const SMALLEST_FILE: &str = r#"the smallest useful file is

    [listeners.web]
    bind = "0.0.0.0:8080"
    pool = "web"

    [pools.web]
    backends = ["10.0.0.1:9090", "10.0.0.2:9090"]"#;

/// What a balancer is told to do: every value here is usable as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Where what has to survive a restart is kept; `None` = nowhere.
    pub state_dir: Option<PathBuf>,
    /// Where this balancer is.
    pub zone: OwnZone,
    /// Data-plane threads; `None` = one per CPU that this process may use.
    pub workers: Option<usize>,
    /// Sessions that the whole process takes at once; `None` = what the fd limit holds.
    pub max_connections: Option<usize>,
    /// The admin listener.
    pub admin: Admin,
    /// What is logged and how.
    pub log: Log,
    /// How a stop goes.
    pub shutdown: Shutdown,
    /// How a new configuration comes into effect.
    pub reload: Reload,
    /// In the order of their names.
    #[serde(serialize_with = "by_name")]
    pub listeners: Vec<Listener>,
    /// In the order of their names. Every `Listener::pool` and `Pool::fallback` is the name of one of them; no fallbacks go
    /// round in a circle.
    #[serde(serialize_with = "by_name")]
    pub pools: Vec<Pool>,
    /// Variables of the registries' own tools that are set, would change how a registry is asked, and are not supported.
    #[serde(skip)]
    pub ignored_variables: Vec<&'static str>,
}

impl Config {
    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pools whose checks run programs.
    pub fn pools_that_execute(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(|pool| matches!(pool.check.kind, CheckKind::Exec(_)))
    }

    pub(super) fn read(file: &Table<'_>) -> Self {
        let mut taken = TakenAddresses::default();
        let admin = Admin::read(&file.table("admin"), &mut taken);
        let pool_tables = named(file, "pools", "pool");
        let pool_names: Vec<&str> = pool_tables.iter().map(|(name, _)| *name).collect();
        let hash_sni = pool_tables.iter().any(|(_, table)| HashBy::is_sni(table));
        let mut listener_tables = named(file, "listeners", "listener");
        // In the order of the file, so that of two with one address the second is at fault.
        listener_tables.sort_by_key(|(_, table)| table.span.start);
        let listeners = listener_tables.iter();
        let mut listeners: Vec<_> =
            listeners.map(|(name, table)| Listener::read(name, table, (&pool_names, hash_sni), &mut taken)).collect();
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        if listeners.is_empty() {
            file.reading.fault_at_large("there is no listener", SMALLEST_FILE);
        }
        let checks = Checks::read(named(file, "checks", "check"));
        let (consul, etcd) = (file.table("consul"), file.table("etcd"));
        let mut registries = Registries { consul: ConsulAgents::new(&consul), etcd: EtcdClusters::new(&etcd) };
        let fallbacks = fallback::read(&pool_tables);
        let pools = pool_tables.iter().zip(fallbacks).map(|((name, table), fallback)| {
            let pool = Pool::read(name, table, &listeners, &checks, &mut registries);
            Pool { fallback, ..pool }
        });
        let pools: Vec<_> = pools.collect();
        Self {
            state_dir: file.parsed("state_dir", path),
            zone: OwnZone::read(file, &mut registries.consul),
            workers: file.number("workers", 0..=1024).filter(|workers| *workers > 0),
            max_connections: max_connections(file),
            admin,
            log: Log::read(&file.table("log")),
            shutdown: Shutdown::read(&file.table("shutdown")),
            reload: Reload::read(&file.table("reload")),
            listeners,
            ignored_variables: [agents::unsupported(&pools, file.reading), clusters::unsupported(&pools, file.reading)]
                .concat(),
            pools,
        }
    }
}

/// The tables at a key by their names, which are checked.
fn named<'a>(file: &Table<'a>, key: &'static str, what: &str) -> Vec<(&'a str, Table<'a>)> {
    let tables = file.named(key).into_iter().map(|(name, table)| {
        check_name(what, name, &table);
        (name.get_ref().as_ref(), table)
    });
    tables.collect()
}

fn check_name(what: &str, name: Name<'_>, table: &Table<'_>) {
    let text = name.get_ref();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() || text.len() > LONGEST_NAME || !text.chars().all(allowed) {
        let hint = format!("a name is 1 to {LONGEST_NAME} letters, digits, `_`, `.` and `-`");
        table.reading.fault(name.span(), format!("{} is no name for a {what}", shown(text)), hint);
    }
}
