//! `[checks.NAME]`, `[pools.NAME.check]` and `[pools.NAME.agent]`: what all kinds have; what each has besides is in `kinds`.
//! A named check is read once, and is the same check in every pool that names it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::expectations::bytes;
use super::faults::{Complaint, Reading, Zero, shown};
use super::kinds::{self, Kind};
use super::nearest::suggest;
use super::shape::{AdviserShape, CheckShape};
use super::values::{CheckEntry, Named, Section};
use super::{AgentCheck, Check, CheckKind, ProxyVersion, proxy_protocol};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_FAST_INTERVAL: Duration = Duration::from_millis(500);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// The checks that pools may name.
pub(super) struct Checks {
    named: BTreeMap<String, Read>,
}

/// A check as its table says, before a pool uses it.
struct Read {
    check: Check,
    /// Its probes begin as the pool's sessions do.
    follows_pool: bool,
}

impl Checks {
    /// Also those that no pool names, so that a fault in them is seen now.
    pub(super) fn new(sections: Option<&Named<CheckShape>>, reading: &mut Reading<'_>) -> Self {
        let sections = sections.iter().flat_map(|sections| &sections.shape);
        Self { named: sections.map(|(name, section)| (name.get_ref().clone(), read(Some(section), reading))).collect() }
    }

    /// `sent` is what the pool's sessions begin with: probes do so too unless told otherwise. They come from `sources`, as
    /// sessions do.
    pub(super) fn of_pool(
        &self,
        entry: Option<&CheckEntry>,
        sent: Option<ProxyVersion>,
        sources: &[IpAddr],
        reading: &mut Reading<'_>,
    ) -> Arc<Check> {
        let own;
        let read = match entry {
            None => {
                own = read(None, reading);
                &own
            }
            Some(CheckEntry::Table(section)) => {
                own = read(Some(section), reading);
                &own
            }
            Some(CheckEntry::Named(name)) => match self.find(name, reading) {
                Some(named) => named,
                None => {
                    own = read(None, reading);
                    &own
                }
            },
        };
        let mut check = read.check.clone();
        if read.follows_pool {
            check.send_proxy = sent;
        }
        if !matches!(check.kind, CheckKind::None | CheckKind::Exec(_)) {
            check.sources = sources.to_vec();
        }
        Arc::new(check)
    }

    fn find(&self, written: &toml::Spanned<String>, reading: &mut Reading<'_>) -> Option<&Read> {
        let name = reading.text("check", written)?;
        let found = self.named.get(&name);
        if found.is_none() {
            let known = self.named.keys().map(String::as_str);
            let hint = match self.named.len() {
                0 => format!(
                    "add a section [checks.{}], or write a table: check = {{ kind = \"tcp\" }}",
                    name.escape_debug()
                ),
                _ => suggest(&name, "check", known),
            };
            reading.refuse(written.span(), "check", &shown(&name), Complaint::new("there is no such check", hint));
        }
        found
    }
}

fn read(section: Option<&Section<CheckShape>>, reading: &mut Reading<'_>) -> Read {
    let default = CheckShape::default();
    let shape = section.map_or(&default, |section| &section.shape);
    let (kind, what) = kinds::read(section, shape, reading);
    let interval = reading.duration("interval", &shape.interval, Zero::Refused).unwrap_or(DEFAULT_INTERVAL);
    let fast = reading.duration("fast_interval", &shape.fast_interval, Zero::Refused);
    let down = reading.duration("down_interval", &shape.down_interval, Zero::Refused);
    let check = Check {
        kind: what,
        interval,
        fast_interval: fast.unwrap_or_else(|| DEFAULT_FAST_INTERVAL.min(interval)),
        down_interval: down.unwrap_or(interval),
        timeout: reading.duration("timeout", &shape.timeout, Zero::Refused).unwrap_or(DEFAULT_TIMEOUT),
        rise: reading.number("rise", &shape.rise, 1..=1000).unwrap_or(2),
        fall: reading.number("fall", &shape.fall, 1..=1000).unwrap_or(3),
        port: reading.number("port", &shape.port, 1..=65_535),
        send_proxy: proxy_protocol::of_check(shape.send_proxy.as_ref(), None, reading),
        tls: kinds::tls(kind, shape, reading),
        linger: shape.linger.as_ref().is_some_and(|on| *on.get_ref()),
        sources: Vec::new(),
    };
    Read { check, follows_pool: shape.send_proxy.is_none() && !matches!(kind, Kind::None | Kind::Exec) }
}

/// `agent = { … }`: asked at its own pace, with no results to count.
pub(super) fn adviser(
    section: Option<&Section<AdviserShape>>,
    sources: &[IpAddr],
    reading: &mut Reading<'_>,
) -> Option<Arc<Check>> {
    let Section { span, shape } = section?;
    if shape.port.is_none() {
        let hint = "add the port that the agents of its backends listen on: agent = { port = 9100 }";
        reading.fault(span.clone(), "`agent` without `port`", hint);
    }
    let interval = reading.duration("interval", &shape.interval, Zero::Refused).unwrap_or(DEFAULT_INTERVAL);
    Some(Arc::new(Check {
        kind: CheckKind::Agent(AgentCheck { send: reading.parsed("send", &shape.send, bytes).unwrap_or_default() }),
        interval,
        fast_interval: interval,
        down_interval: interval,
        timeout: reading.duration("timeout", &shape.timeout, Zero::Refused).unwrap_or(DEFAULT_TIMEOUT),
        rise: 1,
        fall: 1,
        port: reading.number("port", &shape.port, 1..=65_535),
        send_proxy: None,
        tls: None,
        linger: false,
        sources: sources.to_vec(),
    }))
}
