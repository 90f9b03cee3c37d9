//! `lb.toml` as it is written, one flat struct a table: the keys that exist, nothing about what they mean.
//! All of them are optional here, because a good word about a missing one needs to know what surrounds it.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::values::{
    BackendEntry, CheckEntry, Decimal, HeaderEntry, KeepaliveSetting, Named, Number, PolicyEntry, Section,
    SendProxyEntry, SessionLogEntry, Strings, SwitchOrText, Text, Time,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileShape {
    pub(super) state_dir: Text,
    pub(super) workers: Number,
    pub(super) max_connections: Number,
    pub(super) admin: Option<Section<AdminShape>>,
    pub(super) log: Option<Section<LogShape>>,
    pub(super) consul: Option<Section<AgentShape>>,
    pub(super) shutdown: Option<Section<ShutdownShape>>,
    pub(super) reload: Option<Section<ReloadShape>>,
    pub(super) listeners: Option<Named<ListenerShape>>,
    pub(super) pools: Option<Named<PoolShape>>,
    pub(super) checks: Option<Named<CheckShape>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminShape {
    pub(super) bind: Text,
    pub(super) socket: Text,
    pub(super) hosts: Option<Strings>,
    pub(super) read_token: Text,
    pub(super) read_token_file: Text,
    pub(super) admin_token: Text,
    pub(super) admin_token_file: Text,
    pub(super) backend_histograms: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogShape {
    pub(super) format: Text,
    pub(super) level: Text,
    pub(super) sessions: Option<SessionLogEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionLogShape {
    pub(super) outcome: Text,
    pub(super) skip_empty: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentShape {
    pub(super) address: Text,
    pub(super) token: Text,
    pub(super) token_file: Text,
    pub(super) datacenter: Text,
    pub(super) ca_file: Text,
    pub(super) max_connections: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShutdownShape {
    pub(super) delay: Time,
    pub(super) timeout: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadShape {
    pub(super) watch: Option<bool>,
    pub(super) drain_timeout: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerShape {
    pub(super) bind: Option<Strings>,
    pub(super) pool: Text,
    pub(super) max_connections: Number,
    pub(super) accept_proxy: Option<Section<AcceptProxyShape>>,
    pub(super) tcp: Option<Section<TcpShape>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AcceptProxyShape {
    pub(super) from: Option<Strings>,
    pub(super) timeout: Time,
    pub(super) required: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolShape {
    pub(super) balance: Text,
    pub(super) backends: Option<Spanned<Vec<BackendEntry>>>,
    pub(super) consul: Option<Section<ConsulShape>>,
    pub(super) resolve: Option<Section<ResolveShape>>,
    pub(super) check: Option<CheckEntry>,
    pub(super) agent: Option<Section<AdviserShape>>,
    pub(super) connect: Option<Section<ConnectShape>>,
    pub(super) queue: Option<Section<QueueShape>>,
    pub(super) timeouts: Option<Section<TimeoutsShape>>,
    pub(super) replay: Text,
    pub(super) replay_buffer: Text,
    pub(super) send_proxy: Option<SendProxyEntry>,
    pub(super) tcp: Option<Section<TcpShape>>,
    pub(super) relay: Text,
    pub(super) source: Option<Strings>,
    pub(super) preconnect: Number,
    pub(super) on_down: Option<PolicyEntry>,
    pub(super) on_removed: Option<PolicyEntry>,
    pub(super) on_maintenance: Option<PolicyEntry>,
    pub(super) close_rate: Number,
    pub(super) close_deadline: Time,
    pub(super) max_lifetime: Time,
    pub(super) max_lifetime_jitter: Number,
    pub(super) when_all_down: Text,
    pub(super) required: Option<bool>,
    pub(super) outliers: Option<Section<OutliersShape>>,
    pub(super) damping: Option<Section<DampingShape>>,
    pub(super) guard: Option<Section<GuardShape>>,
    pub(super) slow_start: Time,
    pub(super) spill: Option<Strings>,
    pub(super) overprovisioning: Decimal,
    pub(super) panic_threshold: Number,
    pub(super) backend_max_sessions: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResolveShape {
    pub(super) refresh: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutliersShape {
    pub(super) mode: Text,
    pub(super) consecutive: Number,
    pub(super) percentage: Number,
    pub(super) minimum_volume: Number,
    pub(super) window: Time,
    pub(super) ejection: Time,
    pub(super) max_ejection: Time,
    pub(super) max_ejected: Number,
    pub(super) trial: Time,
    pub(super) early_ends: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DampingShape {
    pub(super) window: Time,
    pub(super) stay_up: Time,
    pub(super) max_stay_up: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuardShape {
    pub(super) hold: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyShape {
    pub(super) drain: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendShape {
    pub(super) address: Text,
    pub(super) id: Text,
    pub(super) weight: Number,
    pub(super) priority: Number,
    pub(super) backup: Option<Spanned<bool>>,
    pub(super) max_sessions: Number,
}

/// `flatten` would lose both spans and the check for unknown keys, so the agent's keys stand here again.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConsulShape {
    pub(super) service: Text,
    pub(super) datacenter: Text,
    pub(super) tags: Option<Vec<Spanned<String>>>,
    pub(super) filter: Text,
    pub(super) warning: Text,
    pub(super) consistency: Text,
    pub(super) address: Text,
    pub(super) token: Text,
    pub(super) token_file: Text,
    pub(super) ca_file: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckShape {
    pub(super) kind: Text,
    pub(super) interval: Time,
    pub(super) fast_interval: Time,
    pub(super) down_interval: Time,
    pub(super) timeout: Time,
    pub(super) rise: Number,
    pub(super) fall: Number,
    pub(super) port: Number,
    pub(super) path: Text,
    pub(super) status: Text,
    pub(super) host: Text,
    pub(super) method: Text,
    pub(super) body: Text,
    pub(super) body_regex: Text,
    pub(super) headers: Option<Section<BTreeMap<Spanned<String>, Spanned<String>>>>,
    pub(super) request_body: Text,
    pub(super) expect_headers: Option<Section<BTreeMap<Spanned<String>, Spanned<HeaderEntry>>>>,
    pub(super) expect_not: Text,
    pub(super) expect_not_regex: Text,
    pub(super) linger: Option<Spanned<bool>>,
    pub(super) alpn: Option<Strings>,
    pub(super) run_as: Text,
    pub(super) no_new_privs: Option<Spanned<bool>>,
    pub(super) steps: Option<Spanned<Vec<Section<StepShape>>>>,
    pub(super) send_proxy: Option<Spanned<SwitchOrText>>,
    pub(super) tls: Option<Spanned<bool>>,
    pub(super) server_name: Text,
    pub(super) verify: Option<Spanned<bool>>,
    pub(super) ca_file: Text,
    pub(super) expires_within: Time,
    pub(super) role: Text,
    pub(super) username: Text,
    pub(super) password: Text,
    pub(super) password_file: Text,
    pub(super) user: Text,
    pub(super) database: Text,
    pub(super) service: Text,
    pub(super) send: Text,
    pub(super) command: Option<Strings>,
}

/// `agent = { … }` of a pool.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdviserShape {
    pub(super) port: Number,
    pub(super) interval: Time,
    pub(super) timeout: Time,
    pub(super) send: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SendProxyShape {
    pub(super) version: Text,
    pub(super) unique_id: Option<Spanned<bool>>,
    pub(super) authority: Option<Spanned<SwitchOrText>>,
    pub(super) crc32c: Option<Spanned<bool>>,
    pub(super) tlvs: Option<Spanned<bool>>,
}

/// `{ regex = "…" }`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderShape {
    pub(super) regex: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepShape {
    pub(super) send: Text,
    pub(super) send_hex: Text,
    pub(super) expect: Text,
    pub(super) expect_hex: Text,
    pub(super) expect_regex: Text,
    pub(super) expect_not: Text,
    pub(super) expect_not_hex: Text,
    pub(super) expect_not_regex: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectShape {
    pub(super) timeout: Time,
    pub(super) attempts: Number,
    pub(super) deadline: Time,
    pub(super) retry_delay: Time,
    pub(super) retry_budget: Number,
    pub(super) hedge: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueShape {
    pub(super) max_length: Number,
    pub(super) timeout: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeoutsShape {
    pub(super) idle: Time,
    pub(super) half_close: Time,
    pub(super) first_byte: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TcpShape {
    pub(super) nodelay: Option<bool>,
    pub(super) keepalive: Option<KeepaliveSetting>,
    pub(super) user_timeout: Time,
    pub(super) backlog: Number,
    pub(super) fast_open: Option<Spanned<bool>>,
    pub(super) defer_accept: Time,
    pub(super) receive_buffer: Text,
    pub(super) send_buffer: Text,
    pub(super) dscp: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeepaliveShape {
    pub(super) idle: Time,
    pub(super) interval: Time,
    pub(super) count: Number,
}
