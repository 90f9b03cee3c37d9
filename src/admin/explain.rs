//! Why a backend gets sessions, or none: what each party says, in the order in which they count.

use std::borrow::Cow;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::rebalance;
use crate::config::{CheckKind, Source, Spill};
use crate::endpoint::Registry;
use crate::health::{AdvisedWeight, Hearing, ProbeState};
use crate::operator::{Override, ProbeSwitch};
use crate::pool::{Backend, BackendView, Pool, SHARE_OF_WEIGHT};
use crate::standing::{Guard, Operator, Passive, Standing};

/// What one party says.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Said {
    pub(crate) who: Cow<'static, str>,
    pub(crate) value: Cow<'static, str>,
    pub(crate) says: String,
    /// Whether it is why there are no sessions.
    pub(crate) decides: bool,
}

/// All of them.
pub(super) fn explain(pool: &Pool, backend: &Backend) -> Vec<Said> {
    let view = backend.view();
    let (facts, standing) = (view.facts, view.standing);
    let overrides = pool.overrides.current();
    let by_registry = match facts.registry {
        Registry::Critical => !facts.is_held(),
        Registry::Unknown => facts.probe.is_none(),
        _ => false,
    };
    let mut all = vec![
        Said {
            who: "operator".into(),
            value: facts.operator.name().into(),
            says: overrides.explained(&backend.id),
            decides: facts.operator != Operator::Ready,
        },
        Said {
            who: "registry".into(),
            value: facts.registry.name().into(),
            says: registry(pool, &backend.id, facts.registry),
            decides: match standing {
                Standing::Removed => true,
                Standing::Maintenance => facts.registry == Registry::Maintenance,
                Standing::Down => by_registry,
                _ => false,
            },
        },
        Said {
            who: "agent".into(),
            value: facts.agent.name().into(),
            says: agent(pool, backend, &view),
            decides: match standing {
                Standing::Maintenance => facts.registry != Registry::Maintenance,
                Standing::Draining => facts.operator == Operator::Ready,
                _ => false,
            },
        },
        Said {
            who: "probe".into(),
            value: facts.probe.map_or("none", ProbeState::name).into(),
            says: probe(pool, backend, overrides.pause(&backend.id)),
            decides: standing == Standing::Unproven || (standing == Standing::Down && !by_registry),
        },
        Said {
            who: "passive".into(),
            value: facts.passive.name().into(),
            says: passive(backend, facts.passive),
            decides: standing == Standing::Ejected,
        },
        Said {
            who: "guard".into(),
            value: facts.guard.name().into(),
            says: guard(&view),
            decides: standing == Standing::Damped,
        },
    ];
    let by = overrides.weight(&backend.id).map_or_else(|| format!("as {} says", source(pool)), ToString::to_string);
    all.push(Said {
        who: "weight".into(),
        value: view.weight.to_string().into(),
        says: share(pool, backend) + &by,
        decides: standing == Standing::Up && view.weight == 0,
    });
    let load = pool.tier_loads().get(usize::from(view.priority)).copied().unwrap_or_default();
    let (own, is_elsewhere) = (pool.zone(), pool.is_elsewhere(backend));
    let percent = if is_elsewhere { load.elsewhere } else { load.near };
    if let Some(zone) = &view.zone {
        let value = if own.is_none() {
            "unused"
        } else if is_elsewhere {
            "elsewhere"
        } else {
            "own"
        }
        .into();
        let says = match &own {
            None => format!("it is in zone {zone}; this balancer has no zone"),
            Some(own) => format!("it is in zone {zone}, this balancer in {own}"),
        };
        all.push(Said { who: "zone".into(), value, says, decides: false });
    }
    if view.priority > 0 || percent < 100 {
        let near = match (&own, is_elsewhere) {
            (Some(own), false) => format!(" in our zone {own}"),
            (Some(own), true) => format!(" outside our zone {own}"),
            (None, _) => String::new(),
        };
        let mut says = format!("priority {}{near}, whose tier gets {percent} % of the new sessions", view.priority);
        if percent == 0 && pool.settings().resilience.spill != Spill::NONE {
            says += ", and what spills over from the tiers before it";
        }
        let value = if percent == 0 { "unused" } else { "used" }.into();
        all.push(Said { who: "tier".into(), value, says, decides: standing == Standing::Up && percent == 0 });
    }
    let settings = pool.settings();
    let mut says = pool.policy_says(backend);
    if settings.balance.hashes() {
        says += &format!("; `hash` is {}", settings.hashing.by.name());
    } else if settings.sticky.is_some() {
        says += "; a client that is remembered (`sticky`) comes back to its backend";
    }
    all.push(Said { who: "policy".into(), value: settings.balance.name().into(), says, decides: false });
    if let Some(cap) = view.max_sessions {
        let sessions = pool.sessions_of(backend);
        let full = sessions >= cap;
        let value = if full { "reached" } else { "room" }.into();
        let mut says = format!("{sessions} sessions of at most {cap}");
        if full && pool.queued() > 0 {
            says += &format!("; {} wait in the pool's queue", pool.queued());
        }
        all.push(Said { who: "cap".into(), value, says, decides: standing == Standing::Up && full });
    }
    all.extend(rebalance::said(pool, backend));
    if pool.is_panicking() && standing.is_last_resort() {
        let says = "so few work (panic_threshold) that it gets sessions although it should not".to_owned();
        all.push(Said { who: "pool".into(), value: "panic".into(), says, decides: false });
    }
    if let Some(other) = pool.lives_from() {
        let says = format!("nothing is up here: sessions go to pool `{}`, where something is", other.name);
        all.push(Said { who: "pool".into(), value: "fallback".into(), says, decides: false });
    }
    if pool.fail_open() && standing.is_last_resort() {
        let says = "nothing is up (when_all_down, panic_threshold): it gets sessions although it should not".to_owned();
        all.push(Said { who: "pool".into(), value: "fail_open".into(), says, decides: false });
    }
    all
}

/// What its weight comes to among those of its tier that get sessions; empty if it gets none.
fn share(pool: &Pool, backend: &Backend) -> String {
    let view = backend.view();
    if view.weight == 0 {
        return "nothing new, ".to_owned();
    }
    if !backend.wants_sessions() {
        return String::new();
    }
    let members = pool.members();
    let is_elsewhere = pool.is_elsewhere(backend);
    let rivals = members.iter().filter(|other| other.wants_sessions() && pool.is_elsewhere(other) == is_elsewhere);
    let rivals = rivals.map(|other| other.view());
    let all: u64 = rivals.filter(|other| other.priority == view.priority).map(|other| u64::from(other.share)).sum();
    let one = f64::from(SHARE_OF_WEIGHT);
    let (own, all) = (f64::from(view.share) / one, all as f64 / one);
    // A backend that has begun to want sessions since the pool was asked.
    let percent = if all > 0.0 { (100.0 * own / all).round() } else { 100.0 };
    let counts = if own == f64::from(view.weight) { String::new() } else { format!("counts as {own:.2} for now, ") };
    format!("{counts}{percent} % of what gets sessions, ")
}

/// Which source says what exists, in words.
fn source(pool: &Pool) -> String {
    match &pool.settings().source {
        Source::Static(_) => "the file".to_owned(),
        Source::Consul(_) => "Consul".to_owned(),
        Source::Etcd(_) => "etcd".to_owned(),
        Source::File(file) => file.path.display().to_string(),
        Source::Dns(dns) => format!("DNS of {}", dns.name),
        Source::Http(http) => http.url.clone(),
    }
}

fn agent(pool: &Pool, backend: &Backend, view: &BackendView) -> String {
    let settings = pool.settings();
    let is_asked = settings.agent.is_some() || matches!(settings.check.kind, CheckKind::Agent(_));
    if !is_asked && view.advice.is_none() {
        return "not asked (agent is not set)".to_owned();
    }
    let mut says = match view.advice {
        None => "it has not asked for anything".to_owned(),
        Some(advice) => {
            let mut asks = vec![advice.wish.name().to_owned()];
            asks.extend(advice.weight.map(|weight| match weight {
                AdvisedWeight::Percent(percent) => format!("{percent} % of its weight"),
                AdvisedWeight::Absolute(weight) => format!("weight {weight}"),
            }));
            asks.extend(advice.max_sessions.map(|most| format!("at most {most} sessions")));
            format!("it asks for {}", asks.join(", "))
        }
    };
    if let Some(answer) = backend.last_answer().filter(|_| is_asked) {
        match answer.result.hearing {
            Some(Hearing::Unreachable) => says += &format!("; it can't be asked: {answer}"),
            Some(Hearing::Unknown) => {
                says += &format!("; its last answer has words that are not known: {}", answer.result.got)
            }
            Some(Hearing::Understood) | None => {}
        }
    }
    says
}

fn registry(pool: &Pool, id: &str, fact: Registry) -> String {
    let settings = pool.settings();
    let is_listed = matches!(settings.source, Source::Static(_));
    let says = match fact {
        Registry::Passing if is_listed => "it is in the file; no registry is asked",
        Registry::Passing if matches!(settings.source, Source::File(_) | Source::Dns(_) | Source::Http(_)) => {
            "it is listed"
        }
        Registry::Passing => "nothing against it",
        Registry::Warning => "a check warns, and the pool serves such instances",
        Registry::Unknown => "a check has not run yet, so it does not know",
        Registry::Critical => "a check is critical",
        Registry::Maintenance => "its operator took it out",
        Registry::Absent if is_listed => "it is no longer in the file",
        Registry::Absent => "it is no longer in the set",
    };
    let source = pool.source.view();
    if let Some(rejected) = source.rejected.iter().find(|rejected| rejected.id == id) {
        return format!("it is named, and was rejected: {}", rejected.why);
    }
    match (source.error, source.last_success) {
        (Some((_, _, error)), Some(at)) if !is_listed => {
            format!("{says}, {:.0?} ago; since then discovery fails: {error}", at.elapsed())
        }
        _ => says.to_owned(),
    }
}

fn probe(pool: &Pool, backend: &Backend, pause: Option<&Override<ProbeSwitch>>) -> String {
    let settings = pool.settings();
    let check = &settings.check;
    let paused = pause.map_or_else(String::new, |order| format!("paused {order}; what it found last holds: "));
    paused
        + &match backend.last_report() {
            Some(report) => {
                let word = if report.result.passed { "passes" } else { "failures" };
                format!(
                    "{}; {} {word} in a row, rise {}, fall {}",
                    report.result, report.streak, check.rise, check.fall
                )
            }
            None if check.kind == CheckKind::None => "there is no active check".to_owned(),
            None => "none has finished yet".to_owned(),
        }
}

fn passive(backend: &Backend, fact: Passive) -> String {
    let failures = backend.failures_in_a_row();
    match fact {
        Passive::Ok if failures == 0 => "sessions go well".to_owned(),
        Passive::Ok => format!("{failures} sessions failed in a row"),
        Passive::Ejected { until: None } => {
            "sessions failed; until a probe passes, or a trial session goes well".to_owned()
        }
        Passive::Ejected { until: Some(until) } => {
            let left = until.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
            format!("sessions failed; for {left} s more, or until a trial session goes well")
        }
    }
}

fn guard(view: &BackendView) -> String {
    match view.facts.guard {
        Guard::None => "no rule acts".to_owned(),
        Guard::Damped => "it flapped and has to stay up for a while first".to_owned(),
        Guard::Held(mistrust) => {
            let until = view.held_until.map_or_else(
                || "the registry answers again".to_owned(),
                |until| humantime::format_rfc3339_seconds(until).to_string(),
            );
            let since = mistrust.since();
            format!("it stays while its own probes pass, until {until}: the registry is not believed since {since}")
        }
    }
}
