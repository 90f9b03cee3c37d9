//! The kinds of check, and everything that differs between them, in one table. A new kind is a row here, what it reads below,
//! and its exchange in `probe`. A key that does not apply is an error, since a check that ignores one tests something else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::access::path as file;
use super::expectations::{
    bytes, header_name, header_value, host, method, path, pattern, sent_header, statuses, steps, wanted_text,
};
use super::faults::Complaint;
use super::nearest::suggest;
use super::pools::plain;
use super::table::Table;
use super::value::Form;
use super::{
    AgentCheck, ExecCheck, Expectation, GrpcCheck, HeaderWish, HttpCheck, PostgresCheck, RedisCheck, RunAs,
    ScriptCheck, Secret, StatusSet,
};

/// Keys of all kinds that probe.
const PROBING: &[&str] = &["interval", "fast_interval", "down_interval", "timeout", "rise", "port"];
/// Those of a kind that connects.
const CONNECTING: &[&str] = &["send_proxy"];
/// Those of a kind that may be within TLS. MySQL and PostgreSQL begin it in ways of their own.
const WITHIN_TLS: &[&str] = &["tls"];
const JUDGED_TLS: &[&str] = &["server_name", "verify", "ca_file", "expires_within"];
/// Of a protocol that is not fixed by the kind.
const CHOSEN_ALPN: &[&str] = &["alpn"];

/// What a probe that passes shows of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing of the service: what a command or an agent says of it is not it.
    Nothing,
    /// That it accepts connections.
    Connect,
    /// That it answers.
    Exchange,
}

/// What there is to know of a kind before a check of it is read.
pub(super) struct KindRow {
    pub(super) word: &'static str,
    keys: &'static [&'static [&'static str]],
    read: fn(&Table<'_>) -> CheckKind,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $(($data:ty))? = $word:literal {
        proves: $proof:ident, keys: [$($keys:expr),*], read: $read:expr
    })+) => {
        /// `kind`, and what belongs to it.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        pub enum CheckKind { $($(#[$doc])* $kind $(($data))?,)+ }

        impl CheckKind {
            /// The word for it in config, metrics and logs.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$kind { .. } => $word,)+ }
            }

            /// What a probe that passes shows.
            pub fn proves(&self) -> Proof {
                match self { $(Self::$kind { .. } => Proof::$proof,)+ }
            }
        }

        const KINDS: &[KindRow] = &[$(KindRow { word: $word, keys: &[$($keys),*], read: $read }),+];
    };
}

kinds! {
    /// Connect.
    Tcp = "tcp" {
        proves: Connect,
        keys: [PROBING, CONNECTING, &["linger"]],
        read: |_| CheckKind::Tcp
    }
    /// One HTTP/1.1 request.
    Http(HttpCheck) = "http" {
        proves: Exchange,
        keys: [PROBING, CONNECTING, WITHIN_TLS, JUDGED_TLS, &[
            "path", "status", "host", "method", "body", "body_regex", "headers", "request_body", "expect_headers",
            "expect_not", "expect_not_regex",
        ]],
        read: |table| CheckKind::Http(http(table))
    }
    /// Send and expect bytes, in order.
    Script(ScriptCheck) = "script" {
        proves: Exchange,
        keys: [PROBING, CONNECTING, WITHIN_TLS, JUDGED_TLS, CHOSEN_ALPN, &["steps"]],
        read: |table| CheckKind::Script(script(table))
    }
    /// `PING`, and which role it has where that matters.
    Redis(RedisCheck) = "redis" {
        proves: Exchange,
        keys: [PROBING, CONNECTING, WITHIN_TLS, JUDGED_TLS, CHOSEN_ALPN, &["role", "username", "password", "password_file"]],
        read: |table| CheckKind::Redis(redis(table))
    }
    /// `version`
    Memcached = "memcached" {
        proves: Exchange,
        keys: [PROBING, CONNECTING, WITHIN_TLS, JUDGED_TLS, CHOSEN_ALPN],
        read: |_| CheckKind::Memcached
    }
    /// Greeting and `QUIT`.
    Smtp = "smtp" {
        proves: Exchange,
        keys: [PROBING, CONNECTING, WITHIN_TLS, JUDGED_TLS, CHOSEN_ALPN],
        read: |_| CheckKind::Smtp
    }
    /// Greeting.
    Mysql = "mysql" {
        proves: Exchange,
        keys: [PROBING, CONNECTING],
        read: |_| CheckKind::Mysql
    }
    /// The beginning of a session.
    Postgres(PostgresCheck) = "postgres" {
        proves: Exchange,
        keys: [PROBING, CONNECTING, &["user", "database"]],
        read: |table| CheckKind::Postgres(PostgresCheck {
            user: table.parsed("user", plain).unwrap_or_else(|| "evenkeel".to_owned()),
            database: table.parsed("database", plain).unwrap_or_else(|| "postgres".to_owned()),
        })
    }
    /// A TLS handshake.
    Tls = "tls" {
        proves: Exchange,
        keys: [PROBING, CONNECTING, JUDGED_TLS, CHOSEN_ALPN],
        read: |_| CheckKind::Tls
    }
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcCheck) = "grpc" {
        proves: Exchange,
        keys: [PROBING, CONNECTING, WITHIN_TLS, JUDGED_TLS, &["service", "host"]],
        read: |table| CheckKind::Grpc(GrpcCheck {
            service: table.parsed("service", plain).unwrap_or_default(),
            host: table.parsed("host", host),
        })
    }
    /// The backend's own opinion, in HAProxy's words.
    Agent(AgentCheck) = "agent" {
        proves: Nothing,
        keys: [PROBING, CONNECTING, WITHIN_TLS, JUDGED_TLS, CHOSEN_ALPN, &["send"]],
        read: |table| CheckKind::Agent(AgentCheck { send: table.parsed("send", bytes).unwrap_or_default() })
    }
    /// A program of the operator's.
    Exec(ExecCheck) = "exec" {
        proves: Nothing,
        keys: [PROBING, &["command", "run_as", "no_new_privs"]],
        read: |table| CheckKind::Exec(exec(table))
    }
    /// No probes: a backend is up unless something else says no.
    None = "none" {
        proves: Nothing,
        keys: [],
        read: |_| CheckKind::None
    }
}

impl KindRow {
    /// The kind of a check, and what its probes do.
    pub(super) fn read(table: &Table<'_>) -> (&'static Self, CheckKind) {
        // `fall` is for all of them: connects that fail count against it also where nothing is probed.
        table.know(&["kind", "fall"]);
        for keys in KINDS.iter().flat_map(|kind| kind.keys) {
            table.know(keys);
        }
        let written = table.value("kind");
        let named = written.map(|value| value.parsed(Self::named));
        let kind = named.flatten().unwrap_or(&KINDS[0]);
        // Without a kind it is not known which keys apply.
        if named.is_none_or(|named| named.is_some()) {
            kind.refuse_foreign_keys(table, written.is_some());
        }
        (kind, (kind.read)(table))
    }

    fn named(word: &str) -> Result<&'static Self, Complaint> {
        let words = KINDS.iter().map(|kind| kind.word);
        let unknown = || Complaint::new("there is no such value", suggest(word, "value", words));
        KINDS.iter().find(|kind| kind.word == word).ok_or_else(unknown)
    }

    pub(super) fn takes(&self, key: &str) -> bool {
        self.keys.iter().any(|keys| keys.contains(&key))
    }

    fn refuse_foreign_keys(&self, table: &Table<'_>, is_written: bool) {
        let mut foreign: Vec<&str> = KINDS.iter().flat_map(|kind| kind.keys.concat()).collect();
        foreign.sort_unstable();
        foreign.dedup();
        foreign.retain(|key| !self.takes(key));
        for key in foreign {
            let Some(value) = table.value(key) else { continue };
            let takers: Vec<_> = KINDS.iter().filter(|kind| kind.takes(key)).map(|kind| kind.word).collect();
            let hint = match takers.as_slice() {
                [only] if !is_written => format!("add kind = \"{only}\""),
                [only] => format!("remove it, or make the kind \"{only}\""),
                _ if self.keys.is_empty() => "remove it, or choose a kind that probes, such as \"tcp\"".to_owned(),
                takers => format!("remove it; it applies to \"{}\"", takers.join("\", \"")),
            };
            value.fault(format!("`{key}` does not apply to kind `{}`", self.word), hint);
        }
    }
}

fn http(table: &Table<'_>) -> HttpCheck {
    let method = table.parsed("method", method).unwrap_or_else(|| "GET".to_owned());
    if let Some(value) = table.value("request_body").filter(|_| !table.has("method")) {
        let hint = "add the method that it belongs to, such as method = \"POST\"";
        value.fault("`request_body` without `method`", hint);
    }
    HttpCheck {
        path: table.parsed("path", path).unwrap_or_else(|| "/".to_owned()),
        host: table.parsed("host", host),
        status: table.parsed("status", statuses).unwrap_or_else(|| StatusSet { ranges: vec![(200, 399)] }),
        headers: request_headers(table),
        request_body: table.parsed("request_body", |text| Ok(Secret(text.to_owned()))),
        expect_headers: header_wishes(table),
        body: of_body(table, &method, "body", "body_regex"),
        expect_not: of_body(table, &method, "expect_not", "expect_not_regex"),
        method,
    }
}

/// What the body must hold, or must not.
fn of_body(table: &Table<'_>, method: &str, text: &'static str, regex: &'static str) -> Option<Expectation> {
    table.exclusive(text, regex);
    if let Some(value) = table.value(text).or_else(|| table.value(regex)).filter(|_| method == "HEAD") {
        value.fault("the answer to HEAD has no body that could match", "remove it, or make the method \"GET\"");
    }
    let text = table.parsed(text, wanted_text);
    text.or_else(|| table.parsed(regex, pattern).map(Expectation::Regex))
}

fn request_headers(table: &Table<'_>) -> BTreeMap<String, Secret> {
    let headers = table.written_table("headers").map_or_else(Vec::new, |headers| headers.values());
    let read = headers.into_iter().filter_map(|(name, value)| {
        let (name, text) = (table.reading.name(name, sent_header), value.parsed(header_value));
        Some((name?, Secret(text?)))
    });
    read.collect()
}

fn header_wishes(table: &Table<'_>) -> BTreeMap<String, HeaderWish> {
    let wishes = table.written_table("expect_headers").map_or_else(Vec::new, |wishes| wishes.values());
    let read = wishes.into_iter().filter_map(|(name, value)| {
        let name = table.reading.name(name, header_name);
        let wish = match value.form() {
            Form::Switch(true) => Some(HeaderWish::Present),
            Form::Switch(false) => Some(HeaderWish::Absent),
            Form::Text => value.parsed(header_value).map(HeaderWish::Is),
            Form::Table => value.table().and_then(|table| {
                if !table.has("regex") {
                    table.fault("a table without `regex`", "write { regex = '…' }, or a text");
                }
                table.parsed("regex", pattern).map(HeaderWish::Matches)
            }),
            Form::Other => value.wrong("a string, true (it is there), false (it is not) or a table { regex = \"…\" }"),
        };
        Some((name?, wish?))
    });
    read.collect()
}

fn script(table: &Table<'_>) -> ScriptCheck {
    let hint = "write what is sent and what must come: steps = [{ send = \"PING\\r\\n\" }, { expect = \"PONG\" }]";
    let Some(value) = table.value("steps") else {
        table.fault("a check of kind `script` without `steps`", hint);
        return ScriptCheck { steps: Vec::new() };
    };
    ScriptCheck { steps: steps(&value.at_least_one(value.items(), hint)) }
}

fn redis(table: &Table<'_>) -> RedisCheck {
    table.exclusive("password", "password_file");
    if let Some(user) = table.value("username").filter(|_| !table.has("password") && !table.has("password_file")) {
        user.fault("`username` without a password", "add password or password_file");
    }
    RedisCheck {
        role: table.word("role"),
        username: table.parsed("username", plain),
        password: table.parsed("password", |text| match text {
            "" => Err(Complaint::new("it is empty", "write the password, or leave the key out")),
            text => Ok(Secret(text.to_owned())),
        }),
        password_file: table.parsed("password_file", file),
    }
}

fn exec(table: &Table<'_>) -> ExecCheck {
    let hint = "write the program and its arguments: command = [\"/usr/local/bin/check\", \"--quick\"]";
    let command = table.value("command");
    if command.is_none() {
        table.fault("a check of kind `exec` without `command`", hint);
    }
    let words = command.map_or_else(Vec::new, |command| command.at_least_one(command.texts(), hint));
    let words = words.iter().enumerate();
    let mut words = words.filter_map(|(number, word)| word.parsed(|text| argument(text, number == 0)));
    ExecCheck {
        program: words.next().map(PathBuf::from).unwrap_or_default(),
        arguments: words.collect(),
        run_as: table.parsed("run_as", run_as),
        no_new_privs: table.switch("no_new_privs").unwrap_or(true),
    }
}

/// `user` or `user:group`, by name or number.
fn run_as(text: &str) -> Result<RunAs, Complaint> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let is_name =
        |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_control() || c.is_whitespace() || c == ':');
    if !is_name(user) || !group.is_none_or(is_name) {
        return Err(Complaint::new("no user", "write \"user\" or \"user:group\", by name or number"));
    }
    Ok(RunAs { user: user.to_owned(), group: group.map(str::to_owned) })
}

fn argument(text: &str, is_program: bool) -> Result<String, Complaint> {
    if text.contains('\0') {
        return Err(Complaint::new("no argument can hold a NUL", "remove it"));
    }
    if is_program && !text.starts_with('/') {
        let hint = "write the whole path of the program; no shell looks for it";
        return Err(Complaint::new("not an absolute path", hint));
    }
    Ok(text.to_owned())
}
