//! How an agent is reached, and what its answer about the leader says of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::consul::{Client, Error, Settings};

use super::query::{Query, Question};
use crate::config::{ConsulAgent, OwnZone, Pool, Source};
use crate::deadline::within;
use crate::discovery::Tuning;
use crate::discovery::error::AskError;
use crate::discovery::presence::Sign;
use crate::discovery::registries::{Reach, Registry};

/// How an agent is reached. Tokens come with the questions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::discovery) struct AgentReach {
    address: String,
    ca_file: Option<PathBuf>,
    max_connections: usize,
}

impl AgentReach {
    pub(in crate::discovery) fn of(settings: &ConsulAgent) -> Self {
        let ConsulAgent { address, ca_file, max_connections, .. } = settings.clone();
        Self { address, ca_file, max_connections }
    }

    /// The agents that these pools and the zone of the balancer ask.
    pub(in crate::discovery) fn by(pools: &[Pool], zone: &OwnZone) -> HashSet<Self> {
        let agent = |pool: &Pool| match &pool.source {
            Source::Consul(consul) => Some(Self::of(&consul.agent)),
            _ => None,
        };
        let of_zone = match zone {
            OwnZone::Consul { agent, .. } => Some(Self::of(agent)),
            OwnZone::None | OwnZone::Named(_) => None,
        };
        pools.iter().filter_map(agent).chain(of_zone).collect()
    }
}

impl Reach for AgentReach {
    const KIND: &'static str = "consul agent";
    type Client = Client;
    type Error = Error;
    type Question = Question;
    type Query = Query;

    fn address(&self) -> String {
        self.address.clone()
    }

    fn max_connections(&self) -> usize {
        self.max_connections
    }

    fn files(&self) -> Vec<&Path> {
        self.ca_file.iter().filter(|_| self.address.starts_with("https:")).map(PathBuf::as_path).collect()
    }

    fn client(&self) -> Result<Client, Error> {
        let client = Client::new(&Settings {
            address: self.address.clone(),
            token: None,
            token_file: None,
            ca_file: self.ca_file.clone(),
        })?;
        // The deadlines are kept in this crate: see `deadline`.
        Ok(client.with_margin(Duration::MAX))
    }

    async fn look(client: Client, limit: Duration) -> Sign {
        let answer = within(limit, client.leader()).await;
        sign(answer.unwrap_or(Err(Error::Timeout { after: limit })))
    }

    fn query(registry: &Arc<Registry<Self>>, question: Question, tuning: Tuning) -> Query {
        Query::new(registry, question, tuning)
    }
}

fn sign(answer: Result<String, Error>) -> Sign {
    match answer {
        Ok(leader) if leader.is_empty() => Sign::Leaderless,
        Err(error) if error.kind() == "no_leader" => Sign::Leaderless,
        Err(error) if is_absence(&error) => Sign::Absent(AskError::of(error.kind(), &error)),
        _ => Sign::Well { endpoint: 0 },
    }
}

/// Any other answer says nothing about the agent: it, or a proxy in front of it, may refuse just this question.
fn is_absence(error: &Error) -> bool {
    match error.status() {
        Some(status) => status == 500,
        None => matches!(error.kind(), "connect" | "broken" | "timeout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refuses_the_question_is_not_absent() {
        let status = |status, body: &str| sign(Err(Error::Status { status, body: body.to_owned() }));
        for refusal in [401, 403, 404, 405, 429, 502, 503, 504].map(|code| status(code, "no")) {
            assert!(matches!(refusal, Sign::Well { .. }), "{refusal:?}");
        }
        let silence = Err(Error::Timeout { after: Duration::from_secs(3) });
        assert!(matches!(sign(silence), Sign::Absent(AskError { kind: "timeout", .. })));
        assert!(matches!(status(500, "No known Consul servers"), Sign::Absent(_)));
        assert!(matches!(status(500, "No cluster leader"), Sign::Leaderless));
        assert!(matches!(sign(Ok(String::new())), Sign::Leaderless));
        assert!(matches!(sign(Ok("10.0.0.1:8300".to_owned())), Sign::Well { .. }));
    }
}
