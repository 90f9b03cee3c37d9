//! `[pools.NAME.check]`: one kind, and only the keys that mean something to it.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::expectations::{host, method, path, pattern, statuses, steps, wanted_text};
use super::faults::{Reading, Zero};
use super::shape::CheckShape;
use super::values::{Section, Text};
use super::{Check, CheckKind, Expectation, HttpCheck, ProxyVersion, StatusSet, header};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_FAST_INTERVAL: Duration = Duration::from_millis(500);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// The word of a kind, before what belongs to it is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Http,
    Script,
}

const KINDS: [(&str, Kind); 4] =
    [("tcp", Kind::Tcp), ("http", Kind::Http), ("script", Kind::Script), ("none", Kind::None)];

/// `sent` is what the pool's sessions begin with: probes do so too unless told otherwise.
pub(super) fn check(
    section: Option<&Section<CheckShape>>,
    sent: Option<ProxyVersion>,
    reading: &mut Reading<'_>,
) -> Check {
    let default = CheckShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    let faults = reading.count();
    let kind = reading.word("kind", &shape.kind, &KINDS, Kind::Tcp);
    // Without a kind nobody knows which keys apply.
    if reading.count() == faults {
        refuse_foreign_keys(shape, kind, reading);
    }
    let interval = reading.duration("interval", &shape.interval, Zero::Refused).unwrap_or(DEFAULT_INTERVAL);
    let fast = reading.duration("fast_interval", &shape.fast_interval, Zero::Refused);
    let down = reading.duration("down_interval", &shape.down_interval, Zero::Refused);
    Check {
        kind: match kind {
            Kind::None => CheckKind::None,
            Kind::Tcp => CheckKind::Tcp,
            Kind::Http => CheckKind::Http(http(shape, reading)),
            Kind::Script => CheckKind::Script(script(section, reading)),
        },
        interval,
        fast_interval: fast.unwrap_or_else(|| DEFAULT_FAST_INTERVAL.min(interval)),
        down_interval: down.unwrap_or(interval),
        timeout: reading.duration("timeout", &shape.timeout, Zero::Refused).unwrap_or(DEFAULT_TIMEOUT),
        rise: reading.number("rise", &shape.rise, 1..=1000).unwrap_or(2),
        fall: reading.number("fall", &shape.fall, 1..=1000).unwrap_or(3),
        port: reading.number("port", &shape.port, 1..=65_535),
        send_proxy: header::of_check(shape.send_proxy.as_ref(), sent.filter(|_| kind != Kind::None), reading),
    }
}

fn refuse_foreign_keys(shape: &CheckShape, kind: Kind, reading: &mut Reading<'_>) {
    fn at<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
        value.as_ref().map(Spanned::span)
    }
    // `fall` stays out of it: connects that fail count against it also where nothing is probed.
    let probing: &[Kind] = &[Kind::Tcp, Kind::Http, Kind::Script];
    let keys = [
        ("interval", at(&shape.interval), probing),
        ("fast_interval", at(&shape.fast_interval), probing),
        ("down_interval", at(&shape.down_interval), probing),
        ("timeout", at(&shape.timeout), probing),
        ("rise", at(&shape.rise), probing),
        ("port", at(&shape.port), probing),
        ("send_proxy", at(&shape.send_proxy), probing),
        ("path", at(&shape.path), &[Kind::Http]),
        ("status", at(&shape.status), &[Kind::Http]),
        ("host", at(&shape.host), &[Kind::Http]),
        ("method", at(&shape.method), &[Kind::Http]),
        ("body", at(&shape.body), &[Kind::Http]),
        ("body_regex", at(&shape.body_regex), &[Kind::Http]),
        ("steps", at(&shape.steps), &[Kind::Script]),
    ];
    let word = |kind: Kind| KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(word, _)| word);
    for (key, span, kinds) in keys {
        let Some(span) = span.filter(|_| !kinds.contains(&kind)) else { continue };
        let hint = match kinds {
            [only] if shape.kind.is_none() => format!("add kind = \"{}\"", word(*only)),
            [only] => format!("remove it, or make the kind \"{}\"", word(*only)),
            _ => "remove it, or choose a kind that probes: \"tcp\", \"http\" or \"script\"".to_owned(),
        };
        reading.fault(span, format!("`{key}` does not apply to kind `{}`", word(kind)), hint);
    }
}

fn http(shape: &CheckShape, reading: &mut Reading<'_>) -> HttpCheck {
    let method = reading.parsed("method", &shape.method, method).unwrap_or_else(|| "GET".to_owned());
    let body = body(shape, &method, reading);
    HttpCheck {
        path: reading.parsed("path", &shape.path, path).unwrap_or_else(|| "/".to_owned()),
        host: reading.parsed("host", &shape.host, host),
        status: reading
            .parsed("status", &shape.status, statuses)
            .unwrap_or_else(|| StatusSet { ranges: vec![(200, 399)] }),
        method,
        body,
    }
}

fn body(shape: &CheckShape, method: &str, reading: &mut Reading<'_>) -> Option<Expectation> {
    if let (Some(_), Some(second)) = (&shape.body, &shape.body_regex) {
        reading.fault(second.span(), "`body_regex` next to `body`", "keep one of the two");
    }
    if let Some(written) = written(&shape.body, &shape.body_regex).filter(|_| method == "HEAD") {
        let hint = "remove it, or make the method \"GET\"";
        reading.fault(written, "the answer to HEAD has no body that could match", hint);
    }
    let text = reading.parsed("body", &shape.body, wanted_text);
    text.or_else(|| reading.parsed("body_regex", &shape.body_regex, pattern))
}

fn written(first: &Text, second: &Text) -> Option<Range<usize>> {
    first.as_ref().or(second.as_ref()).map(Spanned::span)
}

fn script(section: Option<&Section<CheckShape>>, reading: &mut Reading<'_>) -> Vec<super::Step> {
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
