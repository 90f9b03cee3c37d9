//! The vocabulary of metrics: the name, kind, labels and help of each, and the closed sets of label values.
//! Used everywhere; imports nothing of ours.
//! A test compares the table in `docs/metrics.md` with it.

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// Read from the state at a scrape.
    Gauge,
    /// Seconds, in fixed buckets.
    Histogram,
}

/// One metric family.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Begins with `evenkeel_`.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// The names of its labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// One line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: Metric =
            Metric { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them, in the order of the manual's table.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO = "evenkeel_build_info", Gauge, ["version"], "Always 1; the version is the label.";
    WORKERS = "evenkeel_workers", Gauge, [], "Data-plane threads.";
    MAX_CONNECTIONS = "evenkeel_max_connections", Gauge, [], "Sessions that the process takes at once.";
    DRAINING = "evenkeel_draining", Gauge, [], "1 while the process is stopping.";
    CONFIG_RELOADS = "evenkeel_config_reloads_total", Counter, ["result"], "New configurations that were read: applied, unchanged, refused.";
    CONFIG_LAST_RELOAD_SUCCESS = "evenkeel_config_last_reload_successful", Gauge, [], "0 if the last configuration that was read was refused.";
    CONFIG_APPLIED_TIMESTAMP = "evenkeel_config_applied_timestamp_seconds", Gauge, [], "When what is in effect was applied, in Unix time.";
    CONFIG_GENERATION = "evenkeel_config_generation", Gauge, [], "Configurations that were applied, the first one included.";
    TROUBLES = "evenkeel_troubles", Gauge, [], "What is wrong with the whole process, in lines of `evenkeel status`: a refused configuration, a file or a log that fails.";
    CONFIG_NEEDS_RESTART = "evenkeel_config_needs_restart", Gauge, [], "Keys of the configuration in effect that need a restart to take effect.";
    LOG_LINES_DROPPED = "evenkeel_log_lines_dropped_total", Counter, [], "Log lines dropped because the log's reader was too slow or is gone.";
    WORKER_SESSIONS = "evenkeel_worker_sessions", Gauge, ["worker"], "Sessions on a data-plane thread now.";

    RELAY_PIPES = "evenkeel_relay_pipes", Gauge, [], "Kernel pipes open for splicing bulk.";
    RELAY_PIPES_MISSING = "evenkeel_relay_pipes_missing_total", Counter, [], "Times that bulk was copied because there was no pipe.";
    RELAY_RING_SESSIONS = "evenkeel_relay_ring_sessions", Gauge, [], "Sessions that are on io_uring now.";
    RELAY_RING_BUFFERS = "evenkeel_relay_ring_buffers", Gauge, [], "Buffers of io_uring with bytes in them now.";

    LISTENER_ACCEPTED = "evenkeel_listener_accepted_total", Counter, ["listener"], "Connections accepted.";
    LISTENER_SESSIONS = "evenkeel_listener_sessions", Gauge, ["listener"], "Sessions now: accepted = ended + sessions.";
    LISTENER_ENDED = "evenkeel_listener_ended_total", Counter, ["listener", "outcome"], "Sessions ended, by outcome.";
    REFUSALS = "evenkeel_refusals_total", Counter, ["listener", "reason"], "Sessions refused (outcome refused), by reason.";
    ROUTED_SESSIONS = "evenkeel_routed_sessions_total", Counter, ["listener", "pool"], "Sessions by the pool that the listener's routes led them to, counted when that is decided; absent without `routes`.";
    OBSERVED_REFUSALS = "evenkeel_observed_refusals_total", Counter, ["listener", "reason"], "Sessions that per_client would have refused, but for its mode observe; absent without it.";
    LISTENER_CLIENTS = "evenkeel_listener_clients", Gauge, ["listener"], "Clients that per_client knows, also those that have no session any more; absent without it.";
    LISTENER_WAITING = "evenkeel_listener_waiting_sessions", Gauge, ["listener"], "Sessions that wait for a limit of their client (per_client, action wait); absent without it.";
    LISTENER_HANDSHAKES = "evenkeel_listener_handshakes", Gauge, ["listener"], "Sessions whose header or first bytes are awaited; absent without accept.handshakes.";
    LISTENER_ACCEPT_ERRORS = "evenkeel_listener_accept_errors_total", Counter, ["listener", "reason"], "accept(2) calls that failed.";
    LISTENER_AT_LIMIT = "evenkeel_listener_at_limit", Gauge, ["listener"], "1 while new connections wait in the backlog for a limit.";
    LISTENER_MAX_CONNECTIONS = "evenkeel_listener_max_connections", Gauge, ["listener"], "The listener's own limit; absent if it has none.";

    POOL_ELIGIBLE = "evenkeel_pool_eligible_backends", Gauge, ["pool"], "Backends that may get a new session now.";
    POOL_ALL_DOWN = "evenkeel_pool_all_down", Gauge, ["pool"], "1 while no backend is up although all have been probed.";
    POOL_FAIL_OPEN = "evenkeel_pool_fail_open", Gauge, ["pool"], "1 while nothing is up and sessions may try the rest.";
    POOL_PANIC = "evenkeel_pool_panic", Gauge, ["pool"], "1 while so few backends work that sessions may try the rest (panic_threshold).";
    POOL_TIER_LOAD = "evenkeel_pool_tier_load_ratio", Gauge, ["pool", "tier"], "Part of the new sessions that a tier (a priority) gets; only for tiers that get some.";
    POOL_ELSEWHERE_LOAD = "evenkeel_pool_zone_elsewhere_load_ratio", Gauge, ["pool"], "Part of the new sessions that leaves the balancer's own zone; absent where it has none.";
    POOL_ZONE_UP = "evenkeel_pool_zone_up_backends", Gauge, ["pool", "zone"], "Backends of a zone that are up; absent where no backend has a zone, and the empty zone is that of those without one.";
    POOL_ZONE_ELIGIBLE = "evenkeel_pool_zone_eligible_backends", Gauge, ["pool", "zone"], "Of these, the ones under their cap.";
    POOL_ZONE_SESSIONS = "evenkeel_pool_zone_sessions", Gauge, ["pool", "zone"], "Sessions that hold a backend of a zone now.";
    POOL_SESSIONS = "evenkeel_pool_sessions", Gauge, ["pool"], "Sessions that hold a backend now.";
    POOL_ON_FALLBACK = "evenkeel_pool_on_fallback", Gauge, ["pool"], "1 while nothing is up here, and sessions go to a fallback where something is; absent without `fallback`.";
    POOL_FALLBACK_SESSIONS = "evenkeel_pool_fallback_sessions_total", Counter, ["pool"], "Sessions that were routed to this pool and that a fallback has served; absent without `fallback`.";
    POOL_QUEUED = "evenkeel_pool_queued_sessions", Gauge, ["pool"], "Sessions that wait in the pool's queue for a backend.";
    POOL_STICKY_CLIENTS = "evenkeel_pool_sticky_clients", Gauge, ["pool"], "Clients that are remembered with their backends; absent without `sticky`.";
    POOL_STICKY_FORGOTTEN = "evenkeel_pool_sticky_forgotten_total", Counter, ["pool"], "Clients that were forgotten before their time, because `sticky.max` was reached; absent without `sticky`.";
    POOL_CLOSING = "evenkeel_pool_closing_sessions", Gauge, ["pool"], "Sessions that wait to be closed by a policy, a stop or an operator, also for the end of a drain.";
    POOL_FORCED_CLOSES = "evenkeel_pool_forced_closes_total", Counter, ["pool", "cause"], "Sessions closed although both their sides lived.";
    POOL_REBALANCING = "evenkeel_pool_rebalancing_sessions", Gauge, ["pool"], "Sessions that the rebalance that goes on may still close; 0 = none goes on.";
    POOL_BYTES = "evenkeel_pool_bytes_total", Counter, ["pool", "direction"], "Bytes that the receiving socket accepted, removed backends included.";
    POOL_THROTTLED = "evenkeel_pool_throttled_seconds_total", Counter, ["pool", "direction"], "Time for which sessions waited for their limit of bandwidth, of all sessions together.";
    POOL_QUEUE_SECONDS = "evenkeel_pool_queue_seconds", Histogram, ["pool"], "Time in the pool's queue, of sessions that had to wait, served or not.";
    POOL_CONNECT_SECONDS = "evenkeel_pool_connect_seconds", Histogram, ["pool"], "Time of successful connects to backends.";
    POOL_FIRST_BYTE_SECONDS = "evenkeel_pool_first_byte_seconds", Histogram, ["pool"], "From the connect to the backend's first byte.";
    POOL_SESSION_SECONDS = "evenkeel_pool_session_seconds", Histogram, ["pool"], "From accept to the end, sessions without a backend included.";
    POOL_RETRIES = "evenkeel_pool_retries_total", Counter, ["pool"], "Attempts to connect beyond a session's first, hedged ones aside.";
    POOL_RETRIES_HELD = "evenkeel_pool_retries_held_total", Counter, ["pool"], "Retries that had to wait for connect.retry_budget.";
    POOL_HEDGES = "evenkeel_pool_hedged_connects_total", Counter, ["pool", "result"], "Backends dialled beside a slow one: won, lost, or refused by the budget.";
    POOL_REPLAYS = "evenkeel_pool_replays_total", Counter, ["pool", "result"], "Clients' bytes sent to another backend: answered, failed again, ended otherwise, or no_backend was left.";
    POOL_FORGOTTEN = "evenkeel_pool_backends_forgotten_early_total", Counter, ["pool"], "Backends that left and were forgotten before ten minutes were over, because more than 1,000 had left.";
    POOL_HELD = "evenkeel_pool_held_backends", Gauge, ["pool", "reason"], "Backends that stay although the registry takes them away, by the reason not to believe it.";
    DISCOVERY_AGE = "evenkeel_discovery_age_seconds", Gauge, ["pool", "source"], "Since the source last answered in full; absent before that.";
    DISCOVERY_ERRORS = "evenkeel_discovery_errors_total", Counter, ["pool", "source", "reason"], "Answers that could not be used, and missing answers.";
    DISCOVERY_FAILING = "evenkeel_discovery_failing", Gauge, ["pool", "source"], "1 while the last answer of the source, or of the resolver, was an error.";
    DISCOVERY_LAST_ERROR = "evenkeel_discovery_last_error_timestamp_seconds", Gauge, ["pool", "source", "reason"], "When this error was last seen, in seconds since 1970.";
    DISCOVERY_FILTERED = "evenkeel_discovery_filtered", Gauge, ["pool", "source"], "1 while ACLs filter the registry's answers, as it says.";
    DISCOVERY_REJECTED = "evenkeel_discovery_rejected_instances", Gauge, ["pool", "source"], "Instances in the last full answer that can't be used.";

    OUTLIER_DETECTED = "evenkeel_outlier_detected_total", Counter, ["pool", "reason"], "Times that a backend stood out by failed sessions, ejected or not.";
    OUTLIER_REFUSED = "evenkeel_outlier_ejections_refused_total", Counter, ["pool"], "Of these, where max_ejected was reached or nothing else was up.";
    OUTLIER_EJECTED = "evenkeel_outlier_ejected_backends", Gauge, ["pool"], "Backends that are ejected now, also if another fact keeps them out.";

    SESSIONS = "evenkeel_sessions_total", Counter, ["listener", "pool", "backend", "outcome"], "Sessions ended; backend is empty where none was reached, pool too where no route was decided.";
    BACKEND_SESSIONS = "evenkeel_backend_sessions", Gauge, ["pool", "backend"], "Sessions that hold the backend now.";
    BACKEND_SOURCE_SESSIONS = "evenkeel_backend_source_sessions", Gauge, ["pool", "backend", "source"], "Sessions that hold the backend, by the local address that they dial from; absent without `source`.";
    BACKEND_PRECONNECTED = "evenkeel_backend_preconnected", Gauge, ["pool", "backend"], "Connections opened ahead of time that wait for a session; absent without `preconnect`.";
    BACKEND_PRECONNECTS_OPENED = "evenkeel_backend_preconnects_opened_total", Counter, ["pool", "backend"], "Connections opened ahead of time; absent without `preconnect`.";
    BACKEND_PRECONNECTS_USED = "evenkeel_backend_preconnects_used_total", Counter, ["pool", "backend"], "Of those, given to sessions; absent without `preconnect`.";
    BACKEND_BYTES = "evenkeel_backend_bytes_total", Counter, ["pool", "backend", "direction"], "Bytes that the receiving socket accepted; advances during a session.";
    BACKEND_CONNECTS = "evenkeel_backend_connect_attempts_total", Counter, ["pool", "backend"], "Connects begun by sessions.";
    BACKEND_FAILED_CONNECTS = "evenkeel_backend_failed_connects_total", Counter, ["pool", "backend"], "Connects by sessions that failed, for whatever reason.";
    BACKEND_CONNECT_FAILURES = "evenkeel_backend_connect_failures_total", Counter, ["pool", "backend", "reason"], "Connects by sessions that failed, by reason; a reason appears with its first failure.";
    BACKEND_EARLY_ENDS = "evenkeel_backend_early_ends_total", Counter, ["pool", "backend", "reason"], "Sessions that the backend failed before its first byte, although the client had sent some.";
    OUTLIER_EJECTIONS = "evenkeel_outlier_ejections_total", Counter, ["pool", "backend"], "Ejections, failed trials included.";
    OUTLIER_TRIALS = "evenkeel_outlier_trials_total", Counter, ["pool", "backend", "result"], "Single sessions that an ejected backend got, by their result.";
    BACKEND_STANDING = "evenkeel_backend_standing", Gauge, ["pool", "backend", "state"], "1 for the standing that the backend has, 0 for the others.";
    BACKEND_STANDING_CHANGES = "evenkeel_backend_standing_changes_total", Counter, ["pool", "backend"], "Changes of standing.";
    BACKEND_WEIGHT = "evenkeel_backend_weight", Gauge, ["pool", "backend"], "Its weight; 0 = nothing new.";
    BACKEND_SHARE = "evenkeel_backend_effective_weight", Gauge, ["pool", "backend"], "Its weight after the advice of its agent check and slow start.";
    BACKEND_CONNECT_SECONDS = "evenkeel_backend_connect_seconds", Histogram, ["pool", "backend"], "Time of successful connects.";
    BACKEND_FIRST_BYTE_SECONDS = "evenkeel_backend_first_byte_seconds", Histogram, ["pool", "backend"], "From the connect to the backend's first byte.";
    BACKEND_SESSION_SECONDS = "evenkeel_backend_session_seconds", Histogram, ["pool", "backend"], "From accept to the end.";
    BACKEND_HISTOGRAMS_OMITTED = "evenkeel_backend_histograms_omitted", Gauge, [], "Backends without histograms because admin.backend_histograms is reached.";

    BACKEND_AGENT_ANSWERS = "evenkeel_backend_agent_answers_total", Counter, ["pool", "backend", "result"], "Agent checks of the backend by their result: understood, unknown (some word of the answer), unreachable; absent without an agent check.";
    PROBES = "evenkeel_probes_total", Counter, ["pool", "backend", "kind", "result"], "Finished active health checks.";
    PROBE_SECONDS = "evenkeel_probe_seconds", Histogram, ["pool"], "How long finished active health checks took.";
    PROBE_LAST_SECONDS = "evenkeel_probe_last_seconds", Gauge, ["pool", "backend"], "How long the backend's last check took.";
    PROBE_CERTIFICATE_EXPIRY = "evenkeel_probe_certificate_expiry_timestamp_seconds", Gauge, ["pool", "backend"], "When the certificate that the last check saw ends, in Unix time; absent where no check sees one.";
    PROBE_CERTIFICATE_EXPIRES_SOON = "evenkeel_probe_certificate_expires_soon", Gauge, ["pool", "backend"], "1 while that is nearer than the check's expires_within.";
    PROBES_IN_FLIGHT = "evenkeel_probes_in_flight", Gauge, [], "Active health checks on their way now.";
    PROBES_UNSENT = "evenkeel_probes_unsent_total", Counter, [], "Active health checks that this machine could not make, for want of descriptors or ports; they count for nothing.";
}

words! {
    /// Why a session ended.
    pub enum Outcome {
        /// Both sides have finished.
        Completed = "completed",
        /// The client reset, or its connection broke.
        ClientReset = "client_reset",
        /// The backend reset, or its connection broke.
        BackendReset = "backend_reset",
        /// No byte in either direction for `timeouts.idle`.
        IdleTimeout = "idle_timeout",
        /// No progress for `timeouts.half_close` after one side had finished.
        HalfCloseTimeout = "half_close_timeout",
        /// It had lasted for the pool's `max_lifetime`.
        MaxLifetime = "max_lifetime",
        /// The backend did not answer within `timeouts.first_byte`.
        FirstByteTimeout = "first_byte_timeout",
        /// No backend was eligible.
        NoBackend = "no_backend",
        /// The pool's queue was full.
        QueueFull = "queue_full",
        /// It waited in the pool's queue for `queue.timeout`.
        QueueTimeout = "queue_timeout",
        /// No attempt to connect succeeded.
        ConnectFailed = "connect_failed",
        /// The backend did not begin TLS as PostgreSQL does (`sniff.starttls`).
        StarttlsFailed = "starttls_failed",
        /// The client left before a backend was reached.
        ClientGone = "client_gone",
        /// Closed at the end of a drain.
        Drained = "drained",
        /// Closed by an operator.
        Killed = "killed",
        /// Closed because its backend was down, by the pool's `on_down`.
        BackendDown = "backend_down",
        /// Closed because its backend had left the registry or the address, by the pool's `on_removed`.
        BackendRemoved = "backend_removed",
        /// Closed because its backend had more than its part, by the pool's `rebalance` or an operator.
        Rebalanced = "rebalanced",
        /// It may not have a session: see [`Refusal`].
        Refused = "refused",
        /// This machine lacked something: descriptors, ports, memory.
        LocalError = "local_error",
        /// A bug: the session's task panicked. No other session is affected.
        Panicked = "panicked",
    }
}

words! {
    /// Why a session is refused: the reason of [`Outcome::Refused`].
    pub enum Refusal {
        /// The peer did not begin with the PROXY header that it must send.
        ProxyHeader = "proxy_header",
        /// `allow` and `deny` of the listener do not let the client in.
        Denied = "denied",
        /// Its client has as many sessions as one client may have: `per_client.max_connections`.
        ClientConnections = "client_connections",
        /// Its client begins sessions faster than one client may: `per_client.rate`.
        ClientRate = "client_rate",
        /// Others came to say a header or first bytes, and it was the oldest that had not: `accept.handshakes`.
        Handshakes = "handshakes",
        /// It sent bytes with its request for TLS, before that was answered (`sniff.starttls`).
        Starttls = "starttls",
        /// No route applies, and the listener has no pool for the rest.
        NoRoute = "no_route",
    }
}

words! {
    /// Why a session is closed although both sides live.
    pub enum CloseCause {
        /// Its backend is down: the pool's `on_down`.
        BackendDown = "backend_down",
        /// Its backend left the registry, or the address: the pool's `on_removed`.
        BackendRemoved = "backend_removed",
        /// Its backend is in maintenance: the pool's `on_maintenance`.
        Maintenance = "maintenance",
        /// Its backend is a backup, and the tiers before it serve again: the pool's `failback`.
        Failback = "failback",
        /// It has lasted for the pool's `max_lifetime`.
        MaxLifetime = "max_lifetime",
        /// Its backend has more than its part: the pool's `rebalance`, or an operator's.
        Rebalance = "rebalance",
        /// The process stops, and `shutdown.timeout` is nearly over.
        Shutdown = "shutdown",
        /// An operator closed it.
        Operator = "operator",
    }
}

words! {
    /// Why a connect to a backend failed.
    pub enum ConnectFailure {
        /// No program listens there (RST in answer to SYN).
        Refused = "refused",
        /// No answer within `connect.timeout`, or the kernel gave up.
        Timeout = "timeout",
        /// No route, or a router or firewall rejected it.
        Unreachable = "unreachable",
        /// Reset while connecting, or before it was sent anything.
        Reset = "reset",
        /// Closed before it was sent anything, although the client had sent something.
        Closed = "closed",
        /// It does not begin TLS as PostgreSQL does, although its clients were told that it would (`sniff.starttls`).
        Starttls = "starttls",
        /// Not the backend's fault: no free local port or address (EADDRNOTAVAIL).
        AddressNotAvailable = "address_not_available",
        /// Not the backend's fault: no fd or no memory (EMFILE, ENFILE, ENOBUFS, ENOMEM).
        NoResources = "no_resources",
        /// Not the backend's fault: the session was ended while connecting, or its client left.
        Abandoned = "abandoned",
        /// Anything else.
        Other = "other",
    }
}

impl ConnectFailure {
    /// Whether it is the backend's fault.
    pub fn blames_backend(self) -> bool {
        match self {
            Self::Refused | Self::Timeout | Self::Unreachable | Self::Reset | Self::Closed | Self::Starttls => true,
            Self::AddressNotAvailable | Self::NoResources | Self::Abandoned | Self::Other => false,
        }
    }
}

words! {
    /// How a backend failed a session after the connect, without a byte, although the client had sent some.
    pub enum EarlyEnd {
        /// It reset the connection.
        Reset = "reset",
        /// It closed the connection.
        Closed = "closed",
        /// It sent nothing for `timeouts.first_byte`.
        Silent = "silent",
    }
}

words! {
    /// The result of a backend that was dialled beside a slow one.
    pub enum Hedge {
        /// It answered first.
        Won = "won",
        /// It failed, or another one answered first, or the session ended.
        Lost = "lost",
        /// It was not dialled: the budget is used up, or the process has no room for one more connection.
        Refused = "refused",
    }
}

words! {
    /// The result of a replay: a client's bytes that were sent to another backend.
    pub enum Replay {
        /// That backend answered.
        Answered = "answered",
        /// That backend failed before its first byte, too.
        Failed = "failed",
        /// The session went on or ended without an answer.
        Ended = "ended",
        /// There was no other backend.
        NoBackend = "no_backend",
    }
}

words! {
    /// Why a backend stands out.
    pub enum Detection {
        /// Too many failures in a row.
        Consecutive = "consecutive",
        /// Too large a part of the sessions in a window.
        Percentage = "percentage",
        /// It failed again right after an ejection.
        Relapse = "relapse",
    }
}

words! {
    /// Why accept(2) failed.
    pub enum AcceptFailure {
        /// The client left while it waited (ECONNABORTED) or its network failed.
        Aborted = "aborted",
        /// EMFILE, ENFILE, ENOBUFS, ENOMEM.
        NoResources = "no_resources",
        /// Anything else.
        Other = "other",
    }
}

words! {
    /// The direction of bytes.
    pub enum Direction {
        /// From the client.
        ToBackend = "to_backend",
        /// From the backend.
        ToClient = "to_client",
    }
}

/// Upper bounds in seconds for connect and first-byte times and probes.
pub const FAST_BUCKETS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Upper bounds in seconds for the durations of sessions.
pub const SESSION_BUCKETS: [f64; 12] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for metric in ALL {
            assert!(metric.name.starts_with("evenkeel_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == MetricKind::Counter, "{}", metric.name);
            if metric.kind == MetricKind::Histogram {
                assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            }
        }
    }

    #[test]
    fn numbers_are_places_in_all() {
        assert!(Outcome::ALL.iter().enumerate().all(|(i, &o)| o as usize == i));
        assert!(Refusal::ALL.iter().enumerate().all(|(i, &r)| r as usize == i));
        assert!(CloseCause::ALL.iter().enumerate().all(|(i, &c)| c as usize == i));
        assert!(ConnectFailure::ALL.iter().enumerate().all(|(i, &f)| f as usize == i));
        assert!(EarlyEnd::ALL.iter().enumerate().all(|(i, &e)| e as usize == i));
        assert!(Detection::ALL.iter().enumerate().all(|(i, &d)| d as usize == i));
        assert!(AcceptFailure::ALL.iter().enumerate().all(|(i, &f)| f as usize == i));
    }
}
