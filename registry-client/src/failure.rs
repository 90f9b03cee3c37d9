//! Why there is no whole answer, told apart by what a caller would do about it.

/// Whatever the layer below said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What hyper says then.
const CLOSED: &str = "connection closed before message completed";

/// Why there is none. The clients make errors of their own of it.
#[derive(Debug)]
pub enum Failure {
    /// The settings can't work.
    Setting {
        /// Which setting, and what about it; never a secret.
        what: String,
        /// What the layer below said.
        source: Option<Cause>,
    },
    /// No connection.
    Connect(Cause),
    /// The server closed the connection, and has said nothing on it.
    Closed,
    /// The connection ended, or stopped being HTTP, before the whole answer was there.
    Broken(Cause),
    /// The answer is longer than that many bytes.
    TooLarge(usize),
}

impl Failure {
    pub(crate) fn setting(what: impl Into<String>, source: Option<Cause>) -> Self {
        Self::Setting { what: what.into(), source }
    }
}

/// What an error of the HTTP client means. The URL is taken out of it: the caller knows what was asked.
pub fn no_answer(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    if error.is_builder() {
        return Failure::setting("not a request", Some(error.into()));
    }
    if error.is_connect() {
        return Failure::Connect(below(error, 2));
    }
    let cause = below(error, 1);
    if cause.to_string().contains(CLOSED) { Failure::Closed } else { Failure::Broken(cause) }
}

/// Without the outer layers, which say less than the variant does ("error sending request", "client error (Connect)"), as
/// far as there is more below them.
fn below(error: reqwest::Error, layers: usize) -> Cause {
    let mut cause: &dyn std::error::Error = &error;
    for _ in 0..layers {
        cause = cause.source().unwrap_or(cause);
    }
    // It can't be moved out of the error, so that its texts are.
    chain(cause).into()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // hyper's errors often say what their cause says.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
