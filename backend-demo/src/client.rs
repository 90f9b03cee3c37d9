//! The client of the demo: sends requests, counts the answers by member and the failures by reason.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
/// Far more than a member's answer.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// Options of `client`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to send the requests, HOST:PORT
    #[arg(value_name = "ADDR")]
    pub address: String,
    /// Number of requests, each on its own connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Number of requests at the same time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// The longest time for one request
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::duration::parse_argument)]
    pub timeout: Duration,
}

/// The results of all requests. `Display` is the output of the command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientReport {
    /// The answer, if there was only one request.
    pub answer: Option<String>,
    /// Number of answers by the id of the member.
    pub answered: BTreeMap<String, u64>,
    /// Number of failures by reason.
    pub failed: BTreeMap<String, u64>,
}

impl ClientReport {
    /// Whether every request was answered.
    pub fn all_answered(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for ClientReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(answer) = &self.answer {
            return f.write_str(answer);
        }
        let rows = || self.answered.iter().chain(&self.failed);
        let width = rows().map(|(name, _)| name.chars().count()).max().unwrap_or_default().max(11);
        let mut table = |title: &str, rows: &BTreeMap<String, u64>| -> fmt::Result {
            if rows.is_empty() {
                return Ok(());
            }
            writeln!(f, "{title:<width$}  {:>8}", "requests")?;
            rows.iter().try_for_each(|(name, count)| writeln!(f, "{name:<width$}  {count:>8}"))
        };
        table("answered by", &self.answered)?;
        table("failed with", &self.failed)
    }
}

/// Sends all requests and waits for the last answer.
pub async fn run(options: &Options) -> ClientReport {
    let left = Arc::new(AtomicU64::new(options.count));
    let mut tasks = JoinSet::new();
    for _ in 0..u64::from(options.concurrency).min(options.count) {
        let (left, options) = (left.clone(), options.clone());
        tasks.spawn(async move {
            let mut report = ClientReport::default();
            // Relaxed: it is only a counter.
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let asked = timeout(options.timeout, ask(&options.address)).await;
                let asked = asked.unwrap_or_else(|_| Err(format!("no whole answer within {:?}", options.timeout)));
                match asked {
                    Ok(text) => {
                        *report.answered.entry(answered_by(&text)).or_default() += 1;
                        report.answer = Some(text);
                    }
                    Err(reason) => *report.failed.entry(reason).or_default() += 1,
                }
            }
            report
        });
    }
    let mut total = ClientReport::default();
    while let Some(part) = tasks.join_next().await {
        let Ok(part) = part else { continue };
        total.answer = part.answer.filter(|_| options.count == 1);
        for (sum, counts) in [(&mut total.answered, part.answered), (&mut total.failed, part.failed)] {
            counts.into_iter().for_each(|(name, count)| *sum.entry(name).or_default() += count);
        }
    }
    total
}

async fn ask(address: &str) -> Result<String, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {}", reason(&error));
    let mut stream = TcpStream::connect(address).await.map_err(failed("connect"))?;
    stream.write_all(REQUEST).await.map_err(failed("send"))?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await.map_err(failed("receive"))?;
    body(&String::from_utf8_lossy(&answer))
}

/// The body of a complete answer with status 200, or the whole answer if it is not HTTP.
fn body(answer: &str) -> Result<String, String> {
    if answer.is_empty() {
        return Err("receive: closed without an answer".to_owned());
    }
    if !answer.starts_with("HTTP/") {
        return Ok(answer.to_owned());
    }
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Err("receive: closed in the middle of the answer".to_owned());
    };
    let status = head.lines().next().and_then(|line| line.split_once(' ')).map_or("", |(_, status)| status);
    if !status.starts_with("200") {
        return Err(format!("status {status}"));
    }
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    if length.is_some_and(|length| length != body.len()) {
        return Err("receive: closed in the middle of the answer".to_owned());
    }
    Ok(body.to_owned())
}

/// The member id in an answer, or the beginning of the answer.
fn answered_by(answer: &str) -> String {
    if let Some((_, id)) = answer.trim_end().rsplit_once("I am ") {
        return id.to_owned();
    }
    let mut line = String::new();
    for character in answer.lines().next().unwrap_or_default().chars().take(40) {
        let _never_fails = write!(line, "{}", character.escape_debug());
    }
    line
}

/// The error without its number, such as "(os error 111)".
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_answer_counts() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"), Ok("hello".to_owned()));
        assert_eq!(body("hello\n"), Ok("hello\n".to_owned()));
        for (answer, reason) in [
            ("", "closed without"),
            ("HTTP/1.0 200 OK\r\nContent-", "in the middle"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello", "in the middle"),
            ("HTTP/1.0 503 Service Unavailable\r\n\r\n", "status 503"),
        ] {
            let failed = body(answer).expect_err("a failure");
            assert!(failed.contains(reason), "{answer:?}: {failed}");
        }
    }

    #[test]
    fn the_report_lists_members_and_failures() {
        let mut report = ClientReport::default();
        report.answered.insert("web-1".to_owned(), 2);
        report.failed.insert("connect: connection refused".to_owned(), 1);
        let wanted = "\
answered by                  requests
web-1                               2
failed with                  requests
connect: connection refused         1
";
        assert_eq!(report.to_string(), wanted);
        assert_eq!(answered_by("Hello, world! I am web-1\n"), "web-1");
        assert_eq!(answered_by("\u{7}bell"), "\\u{7}bell");
    }
}
