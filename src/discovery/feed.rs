//! From what a source names to what the keeper is sent. Every source puts its whole list in here; while it waits for
//! the next one, names are looked up and what was held back ends in time.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::instance::{self, Instance};
use super::names::{Looked, Names};
use super::outlet::{Gone, Outlet};
use super::own::{Fronts, Locals};
use super::report::Report;
use crate::config::Resolve;
use crate::endpoint::{Rejections, Update};

/// How often it is looked whether an instance has become ourselves: an address may move to this machine at any time.
const LOOK: Duration = Duration::from_secs(30);

pub(super) struct Feed {
    report: Report,
    names: Names,
    /// Where we listen ourselves.
    fronts: Fronts,
    look: Interval,
    locals: Locals,
    /// Ids of instances whose address fails.
    failing: mpsc::Receiver<Arc<str>>,
    outlet: Outlet,
    instances: Vec<Instance>,
    /// What the source named and could not be made an instance.
    refused: Rejections,
    /// These, and what can't be used of the instances.
    rejected: Rejections,
    hold: Option<Instant>,
    /// The source's last word was an error; a name that can't be resolved is none.
    trouble: bool,
}

impl Feed {
    pub(super) fn new(
        report: Report,
        names: Names,
        fronts: Fronts,
        outlet: Outlet,
        failing: mpsc::Receiver<Arc<str>>,
    ) -> Self {
        let (instances, refused, rejected) = (Vec::new(), Rejections::default(), Rejections::default());
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (locals, hold, trouble) = (Locals::default(), None, false);
        Self { report, names, fronts, look, locals, failing, outlet, instances, refused, rejected, hold, trouble }
    }

    /// Another source from now on; what the last one had trouble with is past.
    pub(super) fn begin_again(&mut self, source: &'static str, resolve: Resolve) {
        self.names.refresh_as(resolve);
        self.trouble = false;
        self.hold = None;
        self.report.begin_again(source);
    }

    /// The source's last word was an error.
    pub(super) fn in_trouble(&self) -> bool {
        self.trouble
    }

    /// The source answered in full: these are all that exist, and those can't be used. `hold` starts or prolongs the
    /// time in which what is missing stays.
    pub(super) async fn put(
        &mut self,
        instances: Vec<Instance>,
        refused: Rejections,
        hold: Option<Instant>,
    ) -> Result<(), Gone> {
        self.names.want(instances.iter().filter_map(Instance::name));
        self.instances = instances;
        self.refused = refused;
        self.hold = hold.or(self.hold);
        self.trouble = false;
        if self.publish().await? {
            self.report.succeeded(Instant::now(), self.rejected.clone());
        }
        Ok(())
    }

    /// The source failed: what is known stays. What is held back stays so until `hold`, at least.
    pub(super) async fn failed(&mut self, kind: &'static str, text: String, hold: Instant) -> Result<(), Gone> {
        self.trouble = true;
        self.report.failed(Instant::now(), kind, text);
        if self.hold.is_none() {
            return Ok(());
        }
        self.hold = Some(hold);
        self.resend().await
    }

    /// Waits for `future`, and minds names and what is held back until it is there.
    pub(super) async fn until<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Gone> {
        let mut future = pin!(future);
        loop {
            let hold = self.hold;
            let hold_ends = async {
                match hold {
                    Some(end) => tokio::time::sleep_until(end.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // In order: an answer that is there goes before the news about the last one.
                biased;
                () = self.outlet.closed() => return Err(Gone),
                done = &mut future => return Ok(done),
                () = hold_ends => {
                    self.hold = None;
                    self.resend().await?;
                }
                Some(id) = self.failing.recv() => {
                    let instance = self.instances.iter().find(|instance| instance.id == id);
                    if let Some(name) = instance.and_then(Instance::name) {
                        self.names.hurry(name);
                    }
                }
                Ok(()) = self.fronts.changed() => self.look_at_fronts().await?,
                _ = self.look.tick() => self.look_at_fronts().await?,
                looked = self.names.news() => self.learned(looked).await?,
            }
        }
    }

    /// Nothing changed and nothing is wrong: what is known is as good as new.
    pub(super) fn confirm(&mut self) {
        if !self.trouble && !self.names.failing() && self.outlet.last().is_some() {
            self.report.succeeded(Instant::now(), self.rejected.clone());
        }
    }

    /// We may listen elsewhere than before.
    async fn look_at_fronts(&mut self) -> Result<(), Gone> {
        self.locals = Locals::default();
        if self.instances.is_empty() {
            return Ok(());
        }
        let before = self.rejected.clone();
        if self.publish().await? && self.rejected != before && !self.trouble {
            self.report.succeeded(Instant::now(), self.rejected.clone());
        }
        Ok(())
    }

    async fn learned(&mut self, looked: Looked) -> Result<(), Gone> {
        let published = self.publish().await?;
        // The source's own trouble is the one to show; and while another name still fails, this is not all well.
        let told = !looked.failures.is_empty() || !self.names.failing();
        if published && told && !self.trouble {
            self.report.succeeded(Instant::now(), self.rejected.clone());
        }
        if !self.names.failing() {
            self.report.resolved(Instant::now());
        }
        for failure in looked.failures {
            self.report.unresolved(Instant::now(), failure);
        }
        Ok(())
    }

    /// Sends the set as it is now; `false` = there is nothing that could be sent.
    async fn publish(&mut self) -> Result<bool, Gone> {
        let (names, outlet, fronts) = (&self.names, &self.outlet, Arc::clone(&self.fronts.borrow_and_update()));
        let assembled = instance::assemble(
            &self.instances,
            |name| names.known(name),
            |id| outlet.last_of(id),
            |address| self.locals.loops(&fronts, address),
        );
        // Not knowing any address is not the same as knowing that there is none.
        if assembled.endpoints.is_empty() && assembled.unknown {
            return Ok(false);
        }
        self.rejected = self.refused.clone();
        self.rejected.append(&assembled.rejected);
        self.outlet.send(Update { endpoints: assembled.endpoints, hold_missing_until: self.hold }).await?;
        Ok(true)
    }

    /// The last set again, with what is held back now.
    async fn resend(&mut self) -> Result<(), Gone> {
        let Some(endpoints) = self.outlet.last() else { return Ok(()) };
        let endpoints = endpoints.to_vec();
        self.outlet.send(Update { endpoints, hold_missing_until: self.hold }).await
    }
}
