//! The followers of documents behind a URL, against a server that answers as a test says.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::config::{HttpSource, Secret};

#[allow(dead_code, clippy::duplicate_mod, reason = "the probes' tests, which these do not import, use the rest")]
#[path = "../../../tests/support/tls/acceptor.rs"]
mod acceptor;

/// Certificates for 127.0.0.1 that an authority signed.
fn consuls(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("consul/tests/tls").join(name)
}

type Says = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Answers each request and closes.
struct Server {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(tls: bool, says: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let says: Arc<Mutex<Says>> = Arc::new(Mutex::new(Arc::new(says)));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (its, heard) = (Arc::clone(&says), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (its, heard) = (Arc::clone(&its), Arc::clone(&heard));
                tokio::spawn(async move {
                    match tls {
                        true => {
                            let acceptor = acceptor::acceptor_with(&consuls("agent.pem"), &consuls("agent.key"));
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            serve(stream, &its, &heard).await;
                        }
                        false => serve(stream, &its, &heard).await,
                    }
                });
            }
        });
        Self { address, says, asked, _task: AbortOnDropHandle::new(task) }
    }

    fn say(&self, says: impl Fn(&str) -> String + Send + Sync + 'static) {
        *self.says.lock().unwrap() = Arc::new(says);
    }

    fn source(&self) -> HttpSource {
        HttpSource {
            url: format!("http://{}/backends?pool=web", self.address),
            interval: Duration::from_millis(5),
            timeout: PATIENCE,
            ..HttpSource::default()
        }
    }

    /// The newest request that came, once there are so many.
    async fn asked(&self, count: usize) -> String {
        soon("a request", async {
            loop {
                if let Some(asked) = self.asked.lock().unwrap().get(count - 1..).and_then(<[_]>::last) {
                    return asked.clone();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: &Mutex<Says>, heard: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        request.push(byte);
    }
    let request = String::from_utf8(request).unwrap();
    heard.lock().unwrap().push(request.clone());
    let says = Arc::clone(&says.lock().unwrap());
    let answer = says(&request);
    // The client may have had enough.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn ok(body: &str) -> String {
    answer("200 OK", body)
}

fn follow(source: HttpSource) -> Running {
    Running::start(&mut Discovery::with(nameless(), no_fronts(), quick()), &Source::Http(source))
}

const ONE: &str = r#"["10.0.0.1:80"]"#;
const ONE_SHOWN: [&str; 1] = ["10.0.0.1:80 10.0.0.1:80 1 passing"];

#[tokio::test]
async fn the_document_is_asked_for_again_and_with_its_tag() {
    let server = Server::start(false, |asked| match asked.contains("if-none-match: \"v1\"") {
        true => answer("304 Not Modified\r\nETag: \"v1\"", ""),
        false => answer("200 OK\r\nETag: \"v1\"", ONE),
    })
    .await;
    let mut running = follow(server.source());
    assert_eq!(running.set().await, ONE_SHOWN);
    let asked = server.asked(3).await.to_lowercase();
    assert!(asked.starts_with("get /backends?pool=web http/1.1"), "{asked}");
    assert!(asked.contains("if-none-match: \"v1\"") && !asked.contains("authorization"), "{asked}");
    let (first, now) = (running.status.view().last_success.unwrap(), server.count());
    server.asked(now + 2).await;
    running.status(|view| view.last_success.unwrap() > first && view.error.is_none()).await;
    // Another document, in TOML.
    server.say(|_| answer("200 OK\r\nContent-Type: application/toml", "backends = [\"10.0.0.2:80\"]"));
    let update = running.update().await;
    assert_eq!((shown(&update), update.trust), (vec!["10.0.0.2:80 10.0.0.2:80 1 passing".to_owned()], Trust::Calm));
}

#[tokio::test]
async fn what_is_no_whole_document_is_an_error_and_never_a_set() {
    let server = Server::start(false, |_| ok(ONE)).await;
    let mut running = follow(HttpSource { timeout: Duration::from_millis(300), ..server.source() });
    assert_eq!(running.set().await, ONE_SHOWN);
    let huge = format!("[{}\"10.0.0.1:80\"]", " ".repeat(17 << 20));
    type Said = Box<dyn Fn(&str) -> String + Send + Sync>;
    let faults: [(&str, &str, Said); 9] = [
        ("invalid", "not valid JSON", Box::new(|_| ok("[\"10.0.0.1:80\""))),
        ("invalid", "there is no list `backends`", Box::new(|_| ok("{}"))),
        (
            "broken",
            "the answer breaks off",
            Box::new(|_| "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]".to_owned()),
        ),
        ("broken", "closed without an answer", Box::new(|_| String::new())),
        ("status", "status 500: out of order", Box::new(|_| answer("500 Oh", "out of order"))),
        ("status", "status 302", Box::new(|_| answer("302 Found\r\nLocation: /other", ""))),
        // Not asked for with a tag.
        ("status", "status 304", Box::new(|_| answer("304 Not Modified", ""))),
        ("forbidden", "status 403: no", Box::new(|_| answer("403 Forbidden", "no"))),
        ("too_large", "larger than 16777216 bytes", Box::new(move |_| ok(&huge))),
    ];
    for (kind, why, said) in faults {
        server.say(said);
        let is_told =
            |view: &SourceView| view.error.as_ref().is_some_and(|(_, k, text)| *k == kind && text.contains(why));
        let (.., text) = running.status(is_told).await.error.unwrap();
        assert!(!text.contains("pool=web"), "{text}");
    }
    let update = running.update().await;
    assert_eq!((shown(&update), update.trust), (ONE_SHOWN.map(str::to_owned).to_vec(), Trust::Failing));
    assert!(running.updates.try_recv().is_err());
    server.say(|_| ok("[]"));
    let update = running.update().await;
    assert_eq!((update.endpoints.len(), update.trust), (0, Trust::Doubted(Mistrust::Trouble)));
}

#[tokio::test]
async fn a_server_that_does_not_answer_or_is_not_there_is_an_error() {
    // It takes the connection and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let source = HttpSource { url, timeout: Duration::from_millis(50), ..HttpSource::default() };
    let running = follow(source.clone());
    assert_eq!(running.status(|view| view.error.is_some()).await.error.unwrap().1, "timeout");
    drop(silent);
    let running = follow(HttpSource { timeout: PATIENCE, ..source });
    assert_eq!(running.status(|view| view.error.is_some()).await.error.unwrap().1, "connect");
}

#[tokio::test]
async fn a_fault_does_not_make_it_forget_what_an_unchanged_document_said() {
    let server = Server::start(false, |_| answer("200 OK\r\nETag: \"v1\"", ONE)).await;
    let mut running = follow(server.source());
    assert_eq!(running.set().await, ONE_SHOWN);
    server.say(|_| answer("500 Oh", ""));
    assert_eq!(running.update().await.trust, Trust::Failing);
    server.say(|asked| {
        assert!(asked.to_lowercase().contains("if-none-match: \"v1\""), "{asked}");
        answer("304 Not Modified", "")
    });
    running.status(|view| view.error.is_none()).await;
    let update = running.update().await;
    assert_eq!(
        (shown(&update), update.trust),
        (ONE_SHOWN.map(str::to_owned).to_vec(), Trust::Doubted(Mistrust::Trouble))
    );
}

#[tokio::test]
async fn tokens_are_sent_and_that_of_a_file_is_read_each_time() {
    let server = Server::start(false, |_| ok(ONE)).await;
    let _running = follow(HttpSource { token: Some(Secret("abc".to_owned())), ..server.source() });
    assert!(server.asked(1).await.to_lowercase().contains("\r\nauthorization: bearer abc\r\n"));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "first\n").unwrap();
    let server = Server::start(false, |_| ok(ONE)).await;
    let running = follow(HttpSource { token_file: Some(file.clone()), ..server.source() });
    assert!(server.asked(1).await.contains("Bearer first\r\n"));
    fs::write(&file, "second").unwrap();
    soon("the second token", async {
        while !server.asked(1).await.contains("Bearer second\r\n") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    fs::remove_file(&file).unwrap();
    let (_, kind, text) = running.status(|view| view.error.is_some()).await.error.unwrap();
    assert!(kind == "settings" && text.contains("can't be read"), "{kind} {text}");
}

#[tokio::test]
async fn tls_is_verified_with_the_authorities_that_the_file_has_now() {
    let server = Server::start(true, |_| ok(ONE)).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    fs::copy(acceptor::fixture("certificate.pem"), &file).unwrap();
    let url = format!("https://{}/", server.address);
    let mut running = follow(HttpSource { url, ca_file: Some(file.clone()), ..server.source() });
    let (_, kind, text) = running.status(|view| view.error.is_some()).await.error.unwrap();
    assert_eq!(kind, "connect", "{text}");
    fs::copy(consuls("ca.pem"), &file).unwrap();
    let view = running.status(|view| view.error.is_none()).await;
    assert!(view.last_success.is_some());
    assert_eq!(running.set().await, ONE_SHOWN);

    let refused = Discovery::with(nameless(), no_fronts(), quick()).source(
        "pool",
        &Source::Http(HttpSource { url: "https://a/".to_owned(), ca_file: Some("/nowhere".into()), ..server.source() }),
        Resolve::default(),
    );
    assert!(refused.is_err());
}
