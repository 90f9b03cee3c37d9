//! Applies another configuration to the running set, in one process.
//! Called by `Server::start` and by reloads.
//! Everything that can fail is done before anything changes, and what did not change in the configuration goes on untouched.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::access::{AccessError, AccessLists};
use super::closing::Closer;
use super::control::{self, Control};
use super::leaving::Leaving;
use super::sockets::{self, BoundSocket, ListenPlan};
use super::zone::FollowedZone;
use super::{LimitError, RingError, ServerStartError, ServerState, Set, SocketError, limits};
use crate::config::{self, Config, Diff, Host, OwnZone, Relay, Source, StaticBackend};
use crate::discovery::{Discovery, Follower, OwnAddress, ZoneError, ZoneFollower};
use crate::pool::{Backend, Pool};
use crate::proxy::{Listener, Rings, Settings, change, local_address, try_ring};
use crate::standing::Standing;

/// How long the keepers may take to apply a new list of backends. They need milliseconds.
const PLACEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two checks whether they have.
const PLACEMENT_POLL: Duration = Duration::from_millis(2);

/// The result of a configuration that was applied.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The differences, empty if there was none.
    pub diff: Diff,
    /// A line for each file that the configuration names and that says something else than before.
    pub files: Vec<String>,
    /// Those of the differences that need a restart, by place.
    pub needs_restart: Vec<String>,
    /// The number of the configuration in effect.
    pub generation: u64,
}

/// Why nothing changed.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The balancer is stopping.
    #[error("the balancer is stopping")]
    Stopping,
    /// A limit of the configuration is too high for this machine.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A relay mode of the configuration can't be used here.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A new listening socket can't be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The zone of this balancer can't be asked for.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// Something that a check needs is missing.
    #[error(transparent)]
    Check(#[from] Box<ServerStartError>),
    /// A pool's source can't be used.
    #[error("pool `{pool}` can't be fed")]
    Source {
        /// Its name.
        pool: String,
        /// Why.
        source: crate::discovery::SourceError,
    },
    /// A listener's list of clients can't be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A file that the configuration names has changed, and can't be used now.
    #[error(transparent)]
    Registry(#[from] crate::discovery::RegistryError),
}

/// What only the application of configurations needs, by name.
#[derive(Debug)]
pub(super) struct Running {
    discovery: Discovery,
    /// Our own listening addresses, for discovery.
    fronts: watch::Sender<Arc<[OwnAddress]>>,
    pub(super) controls: BTreeMap<String, Control>,
    pub(super) preconnects: BTreeMap<String, CancellationToken>,
    pub(super) bound: BTreeMap<String, Vec<BoundSocket>>,
    pub(super) leaving: Leaving,
    pub(super) zone: FollowedZone,
    /// Accept loops started; the number decides the worker of the next one.
    loops: usize,
}

impl Running {
    pub(super) fn new() -> Self {
        let (fronts, listening) = watch::channel([].into());
        Self {
            discovery: Discovery::new(listening),
            fronts,
            controls: BTreeMap::new(),
            preconnects: BTreeMap::new(),
            bound: BTreeMap::new(),
            leaving: Leaving::default(),
            zone: FollowedZone::default(),
            loops: 0,
        }
    }

    /// Followers for the sources of these pools, by name.
    pub(super) fn followers<'a>(
        &mut self,
        pools: impl IntoIterator<Item = &'a config::Pool>,
    ) -> Result<BTreeMap<String, Follower>, ServerStartError> {
        let follower = |pool: &config::Pool| {
            let follower = self.discovery.source(&pool.name, &pool.source, pool.resolve);
            follower
                .map(|follower| (pool.name.clone(), follower))
                .map_err(|source| ServerStartError::Source { pool: pool.name.clone(), source })
        };
        pools.into_iter().map(follower).collect()
    }

    /// What asks the agent for our zone, if another one is to be asked than before.
    pub(super) fn zone_follower(&mut self, zone: &OwnZone) -> Result<Option<ZoneFollower>, ZoneError> {
        match zone {
            OwnZone::Consul { key, agent } if !self.zone.is(zone) => self.discovery.zone(key, agent).map(Some),
            OwnZone::None | OwnZone::Named(_) | OwnZone::Consul { .. } => Ok(None),
        }
    }

    /// Ends the control plane.
    pub(super) fn end(&mut self) {
        self.zone = FollowedZone::default();
        self.controls.clear();
    }
}

impl ServerState {
    /// Replaces the configuration in effect. When it returns, new sessions follow the new one.
    ///
    /// Call it on the runtime of the control plane, once at a time. If the configuration is the one in effect, only files
    /// that it names are read again.
    ///
    /// # Errors
    /// Nothing has changed.
    ///
    /// # Cancel safety
    /// If the future is dropped, the change may have happened or not, and may be missing in the counts.
    pub async fn apply(self: &Arc<Self>, config: &Config) -> Result<Applied, ApplyError> {
        let (diff, needs_restart, files) = self.change(config)?;
        if diff.is_empty() && files.is_empty() {
            self.reloads.unchanged();
            let view = self.reloads.view();
            return Ok(Applied { diff, files, needs_restart: view.needs_restart, generation: view.generation });
        }
        let (state, config, places) = (Arc::clone(self), config.clone(), needs_restart.clone());
        let changes = [files.clone(), diff.lines()].concat();
        // A task, so that it is completed also if the future is dropped.
        let finished = tokio::spawn(async move {
            // If a keeper is slower, the next change does not wait for it.
            let _ = timeout(PLACEMENT_TIMEOUT, state.until_placed(&config)).await;
            state.set_policies(&config);
            state.reloads.applied(&config, places, changes)
        });
        let generation = finished.await.unwrap_or_default();
        Ok(Applied { diff, files, needs_restart, generation })
    }

    /// The last step: backends that were removed or came back are known now, so the policies for their sessions can take
    /// effect.
    fn set_policies(&self, config: &Config) {
        let set = self.set();
        for settings in &config.pools {
            let pool = set.pools.iter().find(|pool| *pool.name == *settings.name);
            if let Some(pool) = pool.filter(|pool| *pool.settings() != *settings) {
                pool.change(settings.clone());
            }
        }
    }

    /// Waits until each pool has exactly the backends that the file lists.
    async fn until_placed(&self, config: &Config) {
        let set = self.set();
        for settings in &config.pools {
            let Source::Static(backends) = &settings.source else { continue };
            let Some(pool) = set.pools.iter().find(|pool| *pool.name == *settings.name) else { continue };
            while !is_placed(pool, backends) {
                tokio::time::sleep(PLACEMENT_POLL).await;
            }
        }
    }

    /// What differs, what of it takes a restart, and which files do.
    fn change(self: &Arc<Self>, config: &Config) -> Result<(Diff, Vec<String>, Vec<String>), ApplyError> {
        let mut running = self.running();
        if self.is_draining() {
            return Err(ApplyError::Stopping);
        }
        let before = self.set();
        let diff = Diff::between(&before.config.effective(), &config.effective());
        let renewed = running.discovery.renewed(&config.pools, &config.zone)?;
        let access = AccessLists::read(config, &before)?;
        let files = [&renewed.changes()[..], access.changes()].concat();
        if diff.is_empty() {
            running.discovery.renew(renewed);
            let staying = before.listeners.iter().filter(|listener| before.listener_stays(listener));
            staying.for_each(|listener| listener.admit(access.of(&listener.name)));
            return Ok((diff, self.reloads.view().needs_restart, files));
        }

        let (max, _) = limits(config, self.workers.sessions().len())?;
        super::checks_ready(config).map_err(Box::new)?;
        // What needed a restart at earlier changes still needs it.
        let since_start = Diff::between(&self.started_with, &config.effective());
        let mut needs_restart = since_start.needs_restart();
        let asks_for_ring = config.pools.iter().find(|pool| pool.relay == Relay::IoUring);
        if let Some(pool) = asks_for_ring.filter(|_| self.rings == Rings::No) {
            try_ring().map_err(|source| RingError { pool: pool.name.clone(), source })?;
            needs_restart.push(format!("pools.{}.relay", pool.name));
        }
        for listener in &config.listeners {
            let bound = running.bound.get(&listener.name);
            let is_systemds = bound.is_some_and(|bound| bound.iter().any(|bound| bound.written.is_none()));
            if is_systemds && diff.listeners.iter().any(|named| named.name == listener.name && named.changes("bind")) {
                needs_restart.push(format!("listeners.{}.bind", listener.name));
            }
        }
        let other_source = |pool: &&config::Pool| {
            let before = before.config.pool(&pool.name);
            before.is_none_or(|before| before.source != pool.source || before.resolve != pool.resolve)
        };
        let followers = running.followers(config.pools.iter().filter(other_source)).map_err(|error| match error {
            ServerStartError::Source { pool, source } => ApplyError::Source { pool, source },
            // It has no other error.
            _ => ApplyError::Stopping,
        })?;
        let sockets = sockets::reopen(&config.listeners, &running.bound)?;

        let zone = running.zone_follower(&config.zone)?;

        // Nothing fails after this line.
        running.discovery.renew(renewed);
        self.limit.resize(max);
        self.follow_zone(&mut running, &config.zone, zone);
        self.install(&mut running, config, followers, sockets, &access);
        Ok((diff, needs_restart, files))
    }

    /// Changes the running set to `config`. `followers` has those of new pools, and of pools whose source changed.
    pub(super) fn install(
        self: &Arc<Self>,
        running: &mut Running,
        config: &Config,
        mut followers: BTreeMap<String, Follower>,
        sockets: Vec<ListenPlan>,
        access: &AccessLists,
    ) {
        // Before discovery compares backends with our own addresses.
        running.fronts.send_replace(sockets::fronts(&config.listeners, &sockets, &running.bound));
        let before = self.set();
        let (mut pools, mut closers) = (Vec::new(), before.closers.clone());
        for settings in &config.pools {
            let follower = followers.remove(&settings.name);
            let known = before.pools.iter().find(|pool| *pool.name == *settings.name);
            pools.push(match known {
                Some(pool) => {
                    self.change_pool(running, pool, settings, follower);
                    Arc::clone(pool)
                }
                None => {
                    // Every new pool has one.
                    let Some(follower) = follower else { continue };
                    let (pool, closer) = self.add_pool(running, settings, follower);
                    closers.push(closer);
                    pool
                }
            });
        }

        for settings in &config.pools {
            let of = |name: &str| pools.iter().find(|pool| *pool.name == *name);
            if let Some(pool) = of(&settings.name) {
                pool.fall_back_to(settings.fallback.as_deref().and_then(of).cloned());
            }
        }

        let mut listeners = Vec::new();
        for (settings, wanted) in config.listeners.iter().zip(sockets) {
            let named = |name: &str| pools.iter().find(|pool| *pool.name == *name).cloned();
            let log = config.log.sessions;
            let access = access.of(&settings.name);
            let Some(settings) = Settings::new(settings.clone(), log, access, named) else { continue };
            let known = before.listeners.iter().find(|listener| *listener.name == *settings.file.name);
            let settings = settings.with_clients_of(known.map(|known| &**known));
            listeners.push(self.set_listener(running, known, settings, wanted));
        }

        self.reserve_parts(&listeners, &before.listeners);
        let gone = before.listeners.iter().filter(|old| !listeners.iter().any(|new| Arc::ptr_eq(old, new))).cloned();
        for gone in gone.collect::<Vec<_>>() {
            for bound in running.bound.get(&*gone.name).into_iter().flatten() {
                bound.stop.cancel();
            }
            listeners.push(gone);
        }
        let gone = before.pools.iter().filter(|old| !pools.iter().any(|new| Arc::ptr_eq(old, new))).cloned();
        let gone: Vec<_> = gone.collect();
        for pool in &gone {
            if let Some(stop) = running.preconnects.remove(&*pool.name) {
                stop.cancel();
            }
        }
        pools.extend(gone);
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        self.set.store(Arc::new(Set { config: Arc::new(config.clone()), pools, listeners, closers }));
        running.discovery.retain(&config.pools, &config.zone);
        self.note_leaving(running);
    }

    /// Reserves a part of the sessions for each listener; a listener that is leaving has none.
    fn reserve_parts(&self, listeners: &[Arc<Listener>], before: &[Arc<Listener>]) {
        let part = self.limit.part(listeners.len());
        let kept = |listener: &Listener| listener.settings().file.max_connections.map_or(part, |max| max.min(part));
        self.limit.keep(listeners.iter().map(|listener| kept(listener)).sum());
        let leaving = before.iter().filter(|old| !listeners.iter().any(|new| Arc::ptr_eq(old, new)));
        leaving.for_each(|listener| listener.keep(0));
        listeners.iter().for_each(|listener| listener.keep(kept(listener)));
    }

    fn add_pool(&self, running: &mut Running, settings: &config::Pool, follower: Follower) -> (Arc<Pool>, Arc<Closer>) {
        let (pool, reports) = Pool::new(settings.clone(), self.workers.sessions().len());
        pool.tell_to(&self.events);
        pool.overrides.show(self.overrides.of(&pool.name));
        pool.set_zone(self.zone().as_ref());
        let (closer, closing) = Closer::start(&pool, &self.workers);
        let control = control::start(&pool, reports, follower, &self.prober, closing);
        running.controls.insert(settings.name.clone(), control);
        self.preconnect(running, &pool);
        (pool, Arc::new(closer))
    }

    fn change_pool(
        &self,
        running: &mut Running,
        pool: &Arc<Pool>,
        settings: &config::Pool,
        follower: Option<Follower>,
    ) {
        let before = pool.settings();
        if *before == *settings {
            // It may have been leaving.
            if !running.preconnects.contains_key(&*pool.name) {
                self.preconnect(running, pool);
            }
            return;
        }
        pool.change(undecided(&before, settings));
        if let Some(control) = running.controls.get(&*pool.name) {
            control.change(
                pool,
                follower,
                (before.check != settings.check || before.agent != settings.agent).then_some(&self.prober),
            );
        }
        if before.timeouts != settings.timeouts {
            self.workers.renew(pool);
        }
        let how = |pool: &config::Pool| (pool.preconnect, pool.tcp, pool.sources.clone());
        if how(&before) != how(settings) || !running.preconnects.contains_key(&*pool.name) {
            self.preconnect(running, pool);
        }
    }

    /// Tells the workers how many connections to keep open for the pool.
    fn preconnect(&self, running: &mut Running, pool: &Arc<Pool>) {
        let stop = self.stop_accepting.child_token();
        self.workers.preconnect(pool, &self.limit, &stop);
        if let Some(before) = running.preconnects.insert(pool.name.to_string(), stop) {
            before.cancel();
        }
    }

    /// A listener with these sockets and no others: a new one, or one that runs.
    fn set_listener(
        &self,
        running: &mut Running,
        known: Option<&Arc<Listener>>,
        settings: Settings,
        wanted: ListenPlan,
    ) -> Arc<Listener> {
        let name = settings.file.name.clone();
        let mut bound = Vec::new();
        for (place, old) in running.bound.remove(&name).unwrap_or_default().into_iter().enumerate() {
            if wanted.kept.contains(&place) {
                bound.push(old);
            } else {
                old.stop.cancel();
            }
        }
        let opened: Vec<_> = wanted.opened.into_iter().map(|opened| (opened.written, Arc::new(opened.fd))).collect();
        let mut addresses: Vec<_> = bound.iter().map(|bound| bound.address).collect();
        addresses.extend(opened.iter().filter_map(|(_, fd)| local_address(fd).ok()));
        let is_new = !opened.is_empty() || known.is_none_or(|known| *known.addresses() != addresses);
        if is_new {
            info!(listener = %name, pool = settings.file.pools_shown(), ?addresses, "listening");
        }

        let listener = match known {
            None => Listener::new(settings, addresses, Arc::clone(&self.limit), self.tracker.clone()),
            Some(listener) => {
                if *listener.settings() != settings {
                    for socket in bound.iter().filter_map(|bound| bound.socket.upgrade()) {
                        if let Err(error) = change(&socket, &settings.file) {
                            warn!(listener = %name, %error, "a socket option can't be changed");
                        }
                    }
                }
                listener.change(settings, addresses);
                Arc::clone(listener)
            }
        };
        for (written, fd) in opened {
            // A listening socket has an address.
            let Ok(address) = local_address(&fd) else { continue };
            let stop = self.stop_accepting.child_token();
            bound.push(BoundSocket { written, address, socket: Arc::downgrade(&fd), stop: stop.clone() });
            self.workers.listen(running.loops, fd, Arc::clone(&listener), stop);
            running.loops += 1;
        }
        running.bound.insert(name, bound);
        listener
    }

    pub(super) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The new settings, without changes of the policies that close sessions. A backend that a file brings back must not be
/// closed as a removed one under that file's policy, and one that it removes not by the policy of the last file.
fn undecided(before: &config::Pool, after: &config::Pool) -> config::Pool {
    let mut settings = after.clone();
    let (old, new) = (&before.closing, &mut settings.closing);
    let pairs = [
        (old.on_down, &mut new.on_down),
        (old.on_removed, &mut new.on_removed),
        (old.on_maintenance, &mut new.on_maintenance),
        (old.failback, &mut new.failback),
    ];
    for (old, new) in pairs {
        if old != *new {
            *new = config::ClosePolicy::Keep;
        }
    }
    settings
}

/// Whether the pool has these backends. It does not wait for host names that are not resolved, or for rejected backends.
fn is_placed(pool: &Pool, backends: &[StaticBackend]) -> bool {
    let (members, rejected) = (pool.members(), pool.source.view().rejected);
    let written = |id: &str| backends.iter().find(|backend| backend.id == id);
    let gone = members.iter().filter(|member| written(&member.id).is_none());
    let there = |backend: &StaticBackend| {
        let Host::Ip(ip) = backend.address.host else { return true };
        if rejected.iter().any(|rejected| rejected.id == backend.id) {
            return true;
        }
        let is = |member: &Arc<Backend>| {
            *member.id == *backend.id
                && member.is_at((ip, backend.address.port).into())
                && member.view().standing != Standing::Removed
        };
        members.iter().any(is)
    };
    gone.into_iter().all(|member| member.view().standing == Standing::Removed) && backends.iter().all(there)
}
