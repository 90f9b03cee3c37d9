//! What agents of backends say. One that can't be asked, or says what is not known, changes nothing: so it is shown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::Advised;
use super::members::Members;
use crate::health::{Advice, Hearing};

impl Members {
    /// An agent was asked.
    pub(super) fn hear_agent(&mut self, now: Instant, advised: Advised) {
        let Advised { id, address, report } = advised;
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.endpoint.address != address || member.probe.is_none() {
            return;
        }
        let Some(hearing) = report.result.hearing else { return };
        let (advice, got) = (report.result.advice, Arc::clone(&report.result));
        member.backend.keep_answer(Some(report));
        // While many do not answer, each has its line in turn.
        if hearing != member.hearing_said && self.agents_pace.allow(now).is_some() {
            member.hearing_said = hearing;
            let (pool, backend, got) = (&self.pool.name, &id, &got.got);
            match hearing {
                Hearing::Understood => info!(%pool, %backend, %address, "its agent is understood again"),
                Hearing::Unknown => warn!(%pool, %backend, %address, "its agent says what is not known: {got}"),
                Hearing::Unreachable => {
                    warn!(%pool, %backend, %address, "its agent can't be asked, what it said last stays: {got}");
                }
            }
        }
        if let Some(advice) = advice {
            self.advise(now, &id, address, advice);
        }
    }

    /// A backend's agent asks for something; it holds until it asks for something else, or its address changes.
    pub(super) fn advise(&mut self, now: Instant, id: &Arc<str>, address: SocketAddr, advice: Advice) {
        let Some(member) = self.members.get_mut(id) else { return };
        if member.endpoint.address != address || member.probe.is_none() || member.advice == Some(advice) {
            return;
        }
        member.take_advice(Some(advice));
        info!(pool = %self.pool.name, backend = %id, %address, "its agent says: {advice}");
        self.settle(now, id);
        self.weigh(now);
    }
}
