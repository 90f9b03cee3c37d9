//! The user's token: asked for when it is first needed, and again when etcd does not take it any more.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use registry_client::OneAtATime;
use registry_client::reqwest::header::HeaderValue;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::model::{TokenAnswer, decoded};
use crate::transport::{Endpoint, Question};
use crate::{Error, Settings};

const PASSWORD_LIMIT: u64 = 64 << 10;

pub(crate) struct Login {
    user: String,
    password: Option<String>,
    password_file: Option<PathBuf>,
    reading: OneAtATime,
    /// Held while a token is asked for: many questions learn at one moment that theirs has expired.
    pass: Mutex<Option<Pass>>,
}

/// What is shown with a question.
#[derive(Clone)]
pub(crate) struct Pass {
    /// `None` = the cluster has no users.
    pub(crate) token: Option<HeaderValue>,
    /// Which one it is, counted from 1.
    number: u64,
}

impl Login {
    /// `None` = the settings name no user.
    pub(crate) fn new(settings: &Settings) -> Option<Self> {
        let user = settings.user.clone()?;
        let (password, password_file) = (settings.password.clone(), settings.password_file.clone());
        Some(Self { user, password, password_file, reading: OneAtATime::default(), pass: Mutex::default() })
    }

    /// The one that there is, unless it is `refused`; then a new one.
    pub(crate) async fn pass(
        &self,
        endpoint: &Endpoint,
        refused: Option<&Pass>,
        patience: Duration,
    ) -> Result<Pass, Error> {
        let mut held = self.pass.lock().await;
        let number = held.as_ref().map_or(0, |pass| pass.number);
        if let Some(pass) = held.as_ref().filter(|_| refused.is_none_or(|refused| refused.number != number)) {
            return Ok(pass.clone());
        }
        let token = match self.authenticate(endpoint, patience).await {
            Ok(token) => Some(token),
            Err(error) if error.says_no_users() => None,
            Err(error) => return Err(error),
        };
        Ok(held.insert(Pass { token, number: number + 1 }).clone())
    }

    async fn authenticate(&self, endpoint: &Endpoint, patience: Duration) -> Result<HeaderValue, Error> {
        #[derive(Serialize)]
        struct Credentials<'a> {
            name: &'a str,
            password: &'a str,
        }
        let password = self.password().await?;
        let credentials = Credentials { name: &self.user, password: &password };
        let body = serde_json::to_vec(&credentials).map_err(|source| Error::Decode { what: "a question", source })?;
        let question = Question { path: "/v3/auth/authenticate", body: &body, wants_leader: false };
        let answer: TokenAnswer = decoded("a token", &endpoint.ask(question, None, patience).await?)?;
        // The cause is left out: nothing that has seen the token is shown.
        let mut token = HeaderValue::from_str(&answer.token).map_err(|_| Error::Config {
            what: "the token of etcd has characters that no header can hold".to_owned(),
            source: None,
        })?;
        token.set_sensitive(true);
        Ok(token)
    }

    async fn password(&self) -> Result<String, Error> {
        let Some(path) = &self.password_file else { return Ok(self.password.clone().unwrap_or_default()) };
        let file = path.clone();
        let read =
            move || String::from_utf8(registry_client::read(&file, PASSWORD_LIMIT)?).map_err(std::io::Error::other);
        let text = self.reading.run(read).await.map_err(|source| Error::PasswordFile { path: path.clone(), source })?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}
