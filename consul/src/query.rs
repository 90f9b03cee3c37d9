//! What a health query asks for, and how that is written as a URL query.

use std::time::Duration;

use crate::escape::escaped;

/// Which reads are good enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// The leader answers, which in rare moments may be one that is no more.
    #[default]
    Default,
    /// Any server answers, also without a leader; [`Answer::last_contact`](crate::Answer::last_contact) says how far
    /// behind it may be.
    Stale,
    /// The leader answers after a quorum confirmed it.
    Consistent,
}

/// What [`Client::health_service`](crate::Client::health_service) asks. `default()` = everything, at once, from the
/// agent's own datacenter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HealthQuery {
    /// Instead of the agent's own.
    pub datacenter: Option<String>,
    /// A filter expression, sent as it is (escaped for the URL).
    pub filter: Option<String>,
    /// Answer when the index is above this one or [`HealthQuery::wait`] is over; `None` or 0 = answer at once.
    /// Consul's rules: use the index of the last answer, 0 after one that went backwards and after an error, 1 for
    /// anything below 1.
    pub index: Option<u64>,
    /// How long to wait for a higher index; `None` = Consul's default of 5 minutes. It caps at 10 minutes and adds up
    /// to a sixteenth. Not sent without an index.
    pub wait: Option<Duration>,
    /// Only instances whose checks all pass.
    pub passing: bool,
    /// Which reads are good enough.
    pub consistency: Consistency,
    /// The agent's cache will do; [`Answer::age`](crate::Answer::age) says how old it is.
    pub cached: bool,
}

impl HealthQuery {
    /// How long Consul may hold back the answer.
    pub fn held_back(&self) -> Duration {
        held_back(self.index, self.wait)
    }

    /// The URL query, without `?`.
    pub(crate) fn parameters(&self) -> Vec<String> {
        let mut parameters = blocking(self.index, self.wait);
        if let Some(datacenter) = &self.datacenter {
            parameters.push(format!("dc={}", escaped(datacenter)));
        }
        if let Some(filter) = &self.filter {
            parameters.push(format!("filter={}", escaped(filter)));
        }
        if self.passing {
            parameters.push("passing=1".to_owned());
        }
        match self.consistency {
            Consistency::Default => {}
            Consistency::Stale => parameters.push("stale".to_owned()),
            Consistency::Consistent => parameters.push("consistent".to_owned()),
        }
        if self.cached {
            parameters.push("cached".to_owned());
        }
        parameters
    }
}

/// `index` and `wait`, or nothing for a query that does not block.
pub(crate) fn blocking(index: Option<u64>, wait: Option<Duration>) -> Vec<String> {
    let Some(index) = index.filter(|&index| index > 0) else { return Vec::new() };
    let mut parameters = vec![format!("index={index}")];
    parameters.extend(wait.map(|wait| format!("wait={}ms", wait.as_millis())));
    parameters
}

/// How long Consul may hold back the answer to such a query.
pub(crate) fn held_back(index: Option<u64>, wait: Option<Duration>) -> Duration {
    if index.is_none_or(|index| index == 0) {
        return Duration::ZERO;
    }
    let wait = wait.unwrap_or(Duration::from_secs(300)).min(Duration::from_secs(600));
    wait + wait / 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_is_sent() {
        assert!(HealthQuery::default().parameters().is_empty());
        let query = HealthQuery {
            datacenter: Some("dc 1".to_owned()),
            filter: Some("\"a&b\" in Service.Tags".to_owned()),
            index: Some(7),
            wait: Some(Duration::from_secs(300)),
            passing: true,
            consistency: Consistency::Stale,
            cached: true,
        };
        assert_eq!(
            query.parameters().join("&"),
            "index=7&wait=300000ms&dc=dc%201&filter=%22a%26b%22%20in%20Service.Tags&passing=1&stale&cached"
        );
    }

    #[test]
    fn index_zero_does_not_block() {
        let wait = Some(Duration::from_secs(160));
        assert!(blocking(Some(0), wait).is_empty());
        assert_eq!(held_back(Some(0), wait), Duration::ZERO);
        assert_eq!(held_back(Some(1), wait), Duration::from_secs(170));
    }
}
