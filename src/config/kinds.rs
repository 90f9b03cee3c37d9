//! The kinds of check: which keys mean something to which, and what becomes of them.
//! Called by `checks` alone. A key that does not apply is an error, since a check that ignores one tests something else.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::agents::path as file;
use super::expectations::{
    bytes, header_name, header_pattern, header_value, host, method, path, pattern, sent_header, statuses, steps,
    wanted_text,
};
use super::faults::{Complaint, Reading, Zero};
use super::pools::plain;
use super::shape::{CheckShape, HeaderShape};
use super::values::{HeaderEntry, Section, Text};
use super::{
    AgentCheck, CheckKind, ExecCheck, Expectation, GrpcCheck, HeaderWish, HttpCheck, PostgresCheck, Protocol,
    RedisCheck, RedisRole, RunAs, ScriptStep, Secret, StatusSet, TlsCheck,
};

/// Time enough to find out who renews it.
const DEFAULT_EXPIRES_WITHIN: Duration = Duration::from_secs(14 * 24 * 3600);

/// The word of a kind, before what belongs to it is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    Tcp,
    Http,
    Script,
    Redis,
    Memcached,
    Smtp,
    Mysql,
    Postgres,
    Tls,
    Grpc,
    Agent,
    Exec,
}

const KINDS: [(&str, Kind); 13] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("script", Kind::Script),
    ("redis", Kind::Redis),
    ("memcached", Kind::Memcached),
    ("smtp", Kind::Smtp),
    ("mysql", Kind::Mysql),
    ("postgres", Kind::Postgres),
    ("tls", Kind::Tls),
    ("grpc", Kind::Grpc),
    ("agent", Kind::Agent),
    ("exec", Kind::Exec),
    ("none", Kind::None),
];

/// Those that may be within TLS. MySQL and PostgreSQL begin it in ways of their own.
const WITHIN_TLS: &[Kind] =
    &[Kind::Http, Kind::Script, Kind::Redis, Kind::Memcached, Kind::Smtp, Kind::Grpc, Kind::Agent];

/// Those of these whose protocol is not fixed by the kind.
const CHOOSING_ALPN: &[Kind] = &[Kind::Tls, Kind::Script, Kind::Redis, Kind::Memcached, Kind::Smtp, Kind::Agent];

/// The kind and what its probes do. `section` is where the table is, if there is one.
pub(super) fn read(
    section: Option<&Section<CheckShape>>,
    shape: &CheckShape,
    reading: &mut Reading<'_>,
) -> (Kind, CheckKind) {
    let faults = reading.count();
    let kind = reading.word("kind", &shape.kind, &KINDS, Kind::Tcp);
    // Without a kind nobody knows which keys apply.
    if reading.count() == faults {
        refuse_foreign_keys(shape, kind, reading);
    }
    let what = match kind {
        Kind::None => CheckKind::None,
        Kind::Tcp => CheckKind::Tcp,
        Kind::Http => CheckKind::Http(http(shape, reading)),
        Kind::Script => CheckKind::Script(script(section, reading)),
        Kind::Redis => CheckKind::Redis(redis(shape, reading)),
        Kind::Memcached => CheckKind::Protocol(Protocol::Memcached),
        Kind::Smtp => CheckKind::Protocol(Protocol::Smtp),
        Kind::Mysql => CheckKind::Protocol(Protocol::Mysql),
        Kind::Postgres => {
            let user = reading.parsed("user", &shape.user, plain).unwrap_or_else(|| "evenkeel".to_owned());
            let database = reading.parsed("database", &shape.database, plain).unwrap_or_else(|| "postgres".to_owned());
            CheckKind::Postgres(PostgresCheck { user, database })
        }
        Kind::Tls => CheckKind::Tls,
        Kind::Grpc => CheckKind::Grpc(GrpcCheck {
            service: reading.parsed("service", &shape.service, plain).unwrap_or_default(),
            host: reading.parsed("host", &shape.host, host),
        }),
        Kind::Agent => {
            CheckKind::Agent(AgentCheck { send: reading.parsed("send", &shape.send, bytes).unwrap_or_default() })
        }
        Kind::Exec => CheckKind::Exec(exec(section, reading)),
    };
    (kind, what)
}

/// How the exchange is wrapped; `None` = it is not.
pub(super) fn tls(kind: Kind, shape: &CheckShape, reading: &mut Reading<'_>) -> Option<TlsCheck> {
    let on = kind == Kind::Tls || shape.tls.as_ref().is_some_and(|on| *on.get_ref());
    let of_host = shape.host.as_ref().filter(|_| shape.server_name.is_none());
    let server_name = match of_host {
        // What the server is called in the request is what its certificate is for.
        Some(_) => reading.parsed("host", &shape.host, host).map(|host| without_port(&host)),
        None => reading.parsed("server_name", &shape.server_name, name),
    };
    let expires_within = reading.duration("expires_within", &shape.expires_within, Zero::Allowed);
    let ca_file = reading.parsed("ca_file", &shape.ca_file, file);
    if !on && WITHIN_TLS.contains(&kind) {
        let written = [
            ("server_name", at(&shape.server_name)),
            ("verify", at(&shape.verify)),
            ("ca_file", at(&shape.ca_file)),
            ("expires_within", at(&shape.expires_within)),
            ("alpn", shape.alpn.as_ref().map(|alpn| alpn.span.clone())),
        ];
        for (key, span) in written {
            let Some(span) = span else { continue };
            reading.fault(span, format!("`{key}` without TLS"), "add tls = true, or remove it");
        }
    }
    on.then(|| TlsCheck {
        server_name,
        verify: shape.verify.as_ref().is_none_or(|verify| *verify.get_ref()),
        ca_file,
        alpn: shape
            .alpn
            .iter()
            .flat_map(|alpn| &alpn.items)
            .filter_map(|item| reading.parsed_item("alpn", item, protocol))
            .collect(),
        expires_within: Some(expires_within.unwrap_or(DEFAULT_EXPIRES_WITHIN)).filter(|within| !within.is_zero()),
    })
}

/// A name of ALPN: 1 to 255 bytes (RFC 7301).
fn protocol(text: &str) -> Result<String, Complaint> {
    if text.is_empty() || text.len() > 255 {
        return Err(Complaint::new("no name of a protocol", "write it like \"h2\" or \"postgresql\""));
    }
    Ok(text.to_owned())
}

fn without_port(host: &str) -> String {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if !port.contains(']') && (!bare.contains(':') || bare.ends_with(']')) => bare,
        _ => host,
    };
    bare.trim_matches(['[', ']']).to_owned()
}

/// What a certificate can be for: a DNS name or an address.
fn name(text: &str) -> Result<String, Complaint> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if text.is_empty() || text.len() > 253 || !text.chars().all(allowed) {
        return Err(Complaint::new("no name of a server", "write it like \"db.example\""));
    }
    Ok(text.to_owned())
}

fn at<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
    value.as_ref().map(Spanned::span)
}

fn word(kind: Kind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(word, _)| word)
}

fn refuse_foreign_keys(shape: &CheckShape, kind: Kind, reading: &mut Reading<'_>) {
    let probing: Vec<Kind> = KINDS.iter().map(|(_, kind)| *kind).filter(|kind| *kind != Kind::None).collect();
    let over_tcp: Vec<Kind> = probing.iter().copied().filter(|kind| *kind != Kind::Exec).collect();
    let judged_tls = [&[Kind::Tls], WITHIN_TLS].concat();
    // `fall` stays out of it: connects that fail count against it also where nothing is probed.
    let keys = [
        ("interval", at(&shape.interval), &probing[..]),
        ("fast_interval", at(&shape.fast_interval), &probing),
        ("down_interval", at(&shape.down_interval), &probing),
        ("timeout", at(&shape.timeout), &probing),
        ("rise", at(&shape.rise), &probing),
        ("port", at(&shape.port), &probing),
        ("send_proxy", at(&shape.send_proxy), &over_tcp),
        ("path", at(&shape.path), &[Kind::Http]),
        ("status", at(&shape.status), &[Kind::Http]),
        ("host", at(&shape.host), &[Kind::Http, Kind::Grpc]),
        ("method", at(&shape.method), &[Kind::Http]),
        ("body", at(&shape.body), &[Kind::Http]),
        ("body_regex", at(&shape.body_regex), &[Kind::Http]),
        ("headers", shape.headers.as_ref().map(|headers| headers.span.clone()), &[Kind::Http]),
        ("request_body", at(&shape.request_body), &[Kind::Http]),
        ("expect_headers", shape.expect_headers.as_ref().map(|headers| headers.span.clone()), &[Kind::Http]),
        ("expect_not", at(&shape.expect_not), &[Kind::Http]),
        ("expect_not_regex", at(&shape.expect_not_regex), &[Kind::Http]),
        ("linger", at(&shape.linger), &[Kind::Tcp]),
        ("alpn", shape.alpn.as_ref().map(|alpn| alpn.span.clone()), CHOOSING_ALPN),
        ("run_as", at(&shape.run_as), &[Kind::Exec]),
        ("no_new_privs", at(&shape.no_new_privs), &[Kind::Exec]),
        ("steps", at(&shape.steps), &[Kind::Script]),
        ("tls", at(&shape.tls), WITHIN_TLS),
        ("server_name", at(&shape.server_name), &judged_tls),
        ("verify", at(&shape.verify), &judged_tls),
        ("ca_file", at(&shape.ca_file), &judged_tls),
        ("expires_within", at(&shape.expires_within), &judged_tls),
        ("role", at(&shape.role), &[Kind::Redis]),
        ("username", at(&shape.username), &[Kind::Redis]),
        ("password", at(&shape.password), &[Kind::Redis]),
        ("password_file", at(&shape.password_file), &[Kind::Redis]),
        ("user", at(&shape.user), &[Kind::Postgres]),
        ("database", at(&shape.database), &[Kind::Postgres]),
        ("service", at(&shape.service), &[Kind::Grpc]),
        ("send", at(&shape.send), &[Kind::Agent]),
        ("command", shape.command.as_ref().map(|command| command.span.clone()), &[Kind::Exec]),
    ];
    for (key, span, kinds) in keys {
        let Some(span) = span.filter(|_| !kinds.contains(&kind)) else { continue };
        let hint = match kinds {
            [only] if shape.kind.is_none() => format!("add kind = \"{}\"", word(*only)),
            [only] => format!("remove it, or make the kind \"{}\"", word(*only)),
            _ if kind == Kind::None => "remove it, or choose a kind that probes, such as \"tcp\"".to_owned(),
            kinds => {
                let words: Vec<String> = kinds.iter().map(|kind| format!("\"{}\"", word(*kind))).collect();
                format!("remove it; it applies to {}", words.join(", "))
            }
        };
        reading.fault(span, format!("`{key}` does not apply to kind `{}`", word(kind)), hint);
    }
}

fn http(shape: &CheckShape, reading: &mut Reading<'_>) -> HttpCheck {
    let method = reading.parsed("method", &shape.method, method).unwrap_or_else(|| "GET".to_owned());
    let (body, expect_not) = body(shape, &method, reading);
    if let Some(written) = shape.request_body.as_ref().filter(|_| shape.method.is_none()) {
        let hint = "add the method that it belongs to, such as method = \"POST\"";
        reading.fault(written.span(), "`request_body` without `method`", hint);
    }
    HttpCheck {
        path: reading.parsed("path", &shape.path, path).unwrap_or_else(|| "/".to_owned()),
        host: reading.parsed("host", &shape.host, host),
        status: reading
            .parsed("status", &shape.status, statuses)
            .unwrap_or_else(|| StatusSet { ranges: vec![(200, 399)] }),
        method,
        headers: request_headers(shape, reading),
        request_body: reading.parsed("request_body", &shape.request_body, |text| Ok(Secret(text.to_owned()))),
        expect_headers: header_wishes(shape, reading),
        body,
        expect_not,
    }
}

/// What the body must and must not hold.
fn body(shape: &CheckShape, method: &str, reading: &mut Reading<'_>) -> (Option<Expectation>, Option<Expectation>) {
    let pairs = [
        ("body", &shape.body, "body_regex", &shape.body_regex),
        ("expect_not", &shape.expect_not, "expect_not_regex", &shape.expect_not_regex),
    ];
    let [wanted, unwanted] = pairs.map(|(key, text, key_of_pattern, regex)| {
        if let (Some(_), Some(second)) = (text, regex) {
            reading.fault(second.span(), format!("`{key_of_pattern}` next to `{key}`"), "keep one of the two");
        }
        if let Some(written) = written(text, regex).filter(|_| method == "HEAD") {
            let hint = "remove it, or make the method \"GET\"";
            reading.fault(written, "the answer to HEAD has no body that could match", hint);
        }
        let text = reading.parsed(key, text, wanted_text);
        text.or_else(|| reading.parsed(key_of_pattern, regex, pattern))
    });
    (wanted, unwanted)
}

fn request_headers(shape: &CheckShape, reading: &mut Reading<'_>) -> BTreeMap<String, Secret> {
    let mut headers = BTreeMap::new();
    for (name, value) in shape.headers.iter().flat_map(|section| &section.shape) {
        let Some(name) = reading.parsed_item("headers", name, sent_header) else { continue };
        let Some(text) = reading.parsed_item("headers", value, header_value) else { continue };
        headers.insert(name, Secret(text));
    }
    headers
}

fn header_wishes(shape: &CheckShape, reading: &mut Reading<'_>) -> BTreeMap<String, HeaderWish> {
    let mut wishes = BTreeMap::new();
    for (name, value) in shape.expect_headers.iter().flat_map(|section| &section.shape) {
        let Some(name) = reading.parsed_item("expect_headers", name, header_name) else { continue };
        let wish = match value.get_ref() {
            HeaderEntry::Switch(true) => Some(HeaderWish::Present),
            HeaderEntry::Switch(false) => Some(HeaderWish::Absent),
            HeaderEntry::Text(text) => {
                let text = Spanned::new(value.span(), text.clone());
                reading.parsed_item("expect_headers", &text, header_value).map(HeaderWish::Is)
            }
            HeaderEntry::Table(HeaderShape { regex: None }) => {
                reading.fault(value.span(), "a table without `regex`", "write { regex = '…' }, or a text");
                None
            }
            HeaderEntry::Table(HeaderShape { regex }) => {
                reading.parsed("regex", regex, header_pattern).map(HeaderWish::Matches)
            }
        };
        wishes.extend(wish.map(|wish| (name, wish)));
    }
    wishes
}

fn written(first: &Text, second: &Text) -> Option<Range<usize>> {
    first.as_ref().or(second.as_ref()).map(Spanned::span)
}

fn script(section: Option<&Section<CheckShape>>, reading: &mut Reading<'_>) -> Vec<ScriptStep> {
    let hint = "write what is sent and what must come: steps = [{ send = \"PING\\r\\n\" }, { expect = \"PONG\" }]";
    let Some(section) = section else { return Vec::new() };
    match &section.shape.steps {
        None => {
            reading.fault(section.span.clone(), "a check of kind `script` without `steps`", hint);
            Vec::new()
        }
        Some(written) if written.get_ref().is_empty() => {
            reading.fault(written.span(), "`steps` is empty", hint);
            Vec::new()
        }
        Some(written) => steps(written.get_ref(), reading),
    }
}

fn redis(shape: &CheckShape, reading: &mut Reading<'_>) -> RedisCheck {
    let roles = [("master", Some(RedisRole::Master)), ("replica", Some(RedisRole::Replica))];
    if let (Some(_), Some(second)) = (&shape.password, &shape.password_file) {
        reading.fault(second.span(), "`password_file` next to `password`", "keep one of the two");
    }
    if let Some(user) = shape.username.as_ref().filter(|_| shape.password.is_none() && shape.password_file.is_none()) {
        reading.fault(user.span(), "`username` without a password", "add password or password_file");
    }
    let secret = |text: &str| match text {
        "" => Err(Complaint::new("it is empty", "write the password, or leave the key out")),
        text => Ok(Secret(text.to_owned())),
    };
    RedisCheck {
        role: reading.word("role", &shape.role, &roles, None),
        username: reading.parsed("username", &shape.username, plain),
        password: reading.parsed("password", &shape.password, secret),
        password_file: reading.parsed("password_file", &shape.password_file, file),
    }
}

fn exec(section: Option<&Section<CheckShape>>, reading: &mut Reading<'_>) -> ExecCheck {
    let hint = "write the program and its arguments: command = [\"/usr/local/bin/check\", \"--quick\"]";
    let mut words = Vec::new();
    match section.map(|section| (section, &section.shape.command)) {
        Some((section, None)) => {
            reading.fault(section.span.clone(), "a check of kind `exec` without `command`", hint);
        }
        Some((_, Some(command))) if command.items.is_empty() => {
            reading.fault(command.span.clone(), "`command` is empty", hint);
        }
        Some((_, Some(command))) => {
            for (number, item) in command.items.iter().enumerate() {
                let parse = |text: &str| argument(text, number == 0);
                words.extend(reading.parsed_item("command", item, parse));
            }
        }
        None => {}
    }
    let mut words = words.into_iter();
    let shape = section.map(|section| &section.shape);
    ExecCheck {
        program: words.next().map(PathBuf::from).unwrap_or_default(),
        arguments: words.collect(),
        run_as: shape.and_then(|shape| reading.parsed("run_as", &shape.run_as, run_as)),
        no_new_privs: shape.and_then(|shape| shape.no_new_privs.as_ref()).is_none_or(|on| *on.get_ref()),
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
        return Err(Complaint::new(
            "not an absolute path",
            "write the whole path of the program; no shell looks for it",
        ));
    }
    Ok(text.to_owned())
}
