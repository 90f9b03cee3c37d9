//! From what a source names to what the keeper is sent. Every source puts its whole list in here; while it waits for
//! the next one, names are looked up. It marks the set that comes after something went wrong; what that means for the
//! backends is the keeper's to decide.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::error::AskError;
use super::instance::{self, Instance};
use super::names::{Looked, Names};
use super::own::{Locals, OwnAddresses};
use super::report::SourceReport;
use super::update_sender::{Closed, UpdateSender};
use crate::config::Resolve;
use crate::endpoint::{Mistrust, Rejections, Trust, Update};

/// Where a list comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Heard {
    /// A person wrote it.
    Written,
    /// A registry answered.
    Answer {
        /// It counts from a lower index than before.
        restarted: bool,
        /// It says that ACLs keep something of the list from us.
        filtered: bool,
    },
}

/// How often it is looked whether an instance has become ourselves: an address may move to this machine at any time.
const LOOK: Duration = Duration::from_secs(30);

pub(super) struct Feed {
    report: SourceReport,
    names: Names,
    /// Where we listen ourselves.
    fronts: OwnAddresses,
    look: Interval,
    locals: Locals,
    /// Ids of instances whose address fails.
    failing: mpsc::Receiver<Arc<str>>,
    updates: UpdateSender,
    instances: Vec<Instance>,
    /// What the source named and could not be made an instance.
    refused: Rejections,
    /// These, and what can't be used of the instances.
    rejected: Rejections,
    /// Of the source's next set that is sent.
    trust: Trust,
    /// The source has not answered yet: what is known is another one's.
    is_awaited: bool,
    /// The source's last word was an error; a name that can't be resolved is none.
    trouble: bool,
    /// Whether the last answer was filtered by ACLs; `None` = there was none.
    filtered: Option<bool>,
}

impl Feed {
    pub(super) fn new(
        report: SourceReport,
        names: Names,
        fronts: OwnAddresses,
        updates: UpdateSender,
        failing: mpsc::Receiver<Arc<str>>,
    ) -> Self {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            report,
            names,
            fronts,
            look,
            locals: Locals::default(),
            failing,
            updates,
            instances: Vec::new(),
            refused: Rejections::default(),
            rejected: Rejections::default(),
            trust: Trust::Written,
            is_awaited: true,
            trouble: false,
            filtered: None,
        }
    }

    /// Another source from now on; what the last one had trouble with is past. `is_another` = other things are asked for,
    /// and not the same ones in another way: then a person wants what it says.
    pub(super) fn begin_again(&mut self, resolve: Resolve, is_another: bool) {
        self.names.refresh_as(resolve);
        self.trouble = false;
        if is_another {
            (self.trust, self.is_awaited) = (Trust::Written, true);
            self.filtered = None;
        }
    }

    pub(super) fn report(&mut self) -> &mut SourceReport {
        &mut self.report
    }

    /// The source answered in full: these are all that exist, and those can't be used.
    pub(super) async fn put(
        &mut self,
        instances: Vec<Instance>,
        refused: Rejections,
        heard: Heard,
    ) -> Result<(), Closed> {
        self.names.want(instances.iter().filter_map(Instance::name));
        self.instances = instances;
        self.refused = refused;
        self.judge(heard);
        (self.trouble, self.is_awaited) = (false, false);
        if self.publish().await? {
            self.report.succeeded(Instant::now(), self.rejected.clone());
        }
        Ok(())
    }

    /// How far the next set is to be believed. What waits to be sent, because no name is resolved, keeps its mark.
    fn judge(&mut self, heard: Heard) {
        let Heard::Answer { restarted, filtered } = heard else {
            self.trust = Trust::Written;
            return;
        };
        let became_filtered = filtered && self.filtered == Some(false);
        self.filtered = Some(filtered);
        self.report.filtered(Instant::now(), filtered);
        let mistrust = match (restarted, became_filtered, self.trouble) {
            (true, ..) => Some(Mistrust::Restart),
            (_, true, _) => Some(Mistrust::Filtered),
            (.., true) => Some(Mistrust::Trouble),
            _ => None,
        };
        self.trust = match (self.trust, mistrust) {
            (Trust::Written, _) => Trust::Written,
            (_, Some(mistrust)) => Trust::Doubted(mistrust),
            // Another agent answers now.
            (Trust::Failing, None) => Trust::Calm,
            (trust, None) => trust,
        };
    }

    /// The source failed: what is known stays.
    pub(super) async fn failed(&mut self, failure: AskError) -> Result<(), Closed> {
        self.trouble = true;
        self.report.failed(Instant::now(), failure);
        // What another source said before is not made worse by the new one's failure.
        let known = self.updates.last().filter(|_| !self.is_awaited && self.trust != Trust::Written);
        let Some(endpoints) = known.map(<[_]>::to_vec) else { return Ok(()) };
        self.trust = Trust::Failing;
        self.updates.send(Update { endpoints, trust: self.trust }).await
    }

    /// Waits for `future`, and minds names until it is there.
    pub(super) async fn until<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Closed> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                // In order: an answer that is there goes before the news about the last one.
                biased;
                () = self.updates.closed() => return Err(Closed),
                done = &mut future => return Ok(done),
                Some(id) = self.failing.recv() => {
                    let instance = self.instances.iter().find(|instance| instance.id == id);
                    if let Some(name) = instance.and_then(Instance::name) {
                        self.names.hurry(name);
                    }
                }
                Ok(()) = self.fronts.changed() => self.look_at_fronts().await?,
                _ = self.look.tick() => self.look_at_fronts().await?,
                looked = self.names.news() => self.learned(looked).await?,
                () = self.report.due() => self.report.tell(Instant::now()),
            }
        }
    }

    /// Nothing changed and nothing is wrong: what is known is as good as new.
    pub(super) fn confirm(&mut self) {
        if !self.trouble && !self.names.failing() && self.updates.last().is_some() {
            self.report.succeeded(Instant::now(), self.rejected.clone());
        }
    }

    /// We may listen elsewhere than before.
    async fn look_at_fronts(&mut self) -> Result<(), Closed> {
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

    async fn learned(&mut self, looked: Looked) -> Result<(), Closed> {
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
    async fn publish(&mut self) -> Result<bool, Closed> {
        let (names, updates, fronts) = (&self.names, &self.updates, Arc::clone(&self.fronts.borrow_and_update()));
        let assembled = instance::assemble(
            &self.instances,
            |name| names.known(name),
            |id| updates.last_of(id),
            |address| self.locals.loops(&fronts, address),
        );
        // Not knowing any address is not the same as knowing that there is none.
        if assembled.endpoints.is_empty() && assembled.unknown {
            return Ok(false);
        }
        self.rejected = self.refused.clone();
        self.rejected.append(&assembled.rejected);
        let trust = if self.is_awaited { Trust::Calm } else { self.trust };
        self.updates.send(Update { endpoints: assembled.endpoints, trust }).await?;
        if !self.is_awaited && self.trust != Trust::Failing {
            self.trust = Trust::Calm;
        }
        Ok(true)
    }
}
