//! How an agent is reached: tokens, unix sockets, TLS, and no proxy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consul::{Client, Error, HealthQuery, Settings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, UnixListener};

use crate::support::{Agent, ok};

async fn ask(settings: &Settings) -> Result<usize, Error> {
    let answer = Client::new(settings)?.health_service("web", &HealthQuery::default()).await?;
    Ok(answer.value.len())
}

#[tokio::test]
async fn a_token_file_is_read_for_each_request() {
    let (agent, address) = Agent::start(ok("[]")).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let settings = Settings {
        token: Some("fixed".to_owned()),
        token_file: Some(file.path().to_owned()),
        ..Settings::new(address)
    };
    let client = Client::new(&settings).unwrap();
    for content in ["first\n", "second", ""] {
        std::fs::write(file.path(), content).unwrap();
        client.health_service("web", &HealthQuery::default()).await.unwrap();
    }
    let tokens: Vec<_> = agent.asked().iter().map(|asked| asked.header("x-consul-token").map(str::to_owned)).collect();
    assert_eq!(tokens, ["first", "second", "fixed"].map(|token| Some(token.to_owned())));

    drop(file);
    let error = client.health_service("web", &HealthQuery::default()).await.unwrap_err();
    assert!(matches!(error, Error::TokenFile { .. }), "{error}");
}

/// A FIFO may never end, and is refused before it is opened.
#[tokio::test]
async fn a_token_file_that_is_a_fifo_is_refused() {
    let (_agent, address) = Agent::start(ok("[]")).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = ask(&Settings { token_file: Some(path), ..Settings::new(address) }).await.unwrap_err();
    assert!(matches!(error, Error::TokenFile { .. }) && format!("{error:?}").contains("regular file"), "{error:?}");
}

#[tokio::test]
async fn no_token_is_no_header_and_a_bad_one_is_not_shown() {
    let (agent, address) = Agent::start(ok("[]")).await;
    ask(&Settings::new(&address)).await.unwrap();
    assert_eq!(agent.asked()[0].header("x-consul-token"), None);
    let settings = Settings { token: Some("hun\nter2".to_owned()), ..Settings::new(&address) };
    let error = ask(&settings).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("ter2"), "{error:?}");
}

#[tokio::test]
async fn unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (agent, _) = Agent::new(ok("[]"));
    let serving = agent.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serving.clone().serve(stream));
        }
    });
    ask(&Settings::new(format!("unix://{}", path.display()))).await.unwrap();
    assert_eq!(agent.asked()[0].line, "GET /v1/health/service/web");
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

async fn https_agent() -> String {
    let chain = CertificateDer::pem_file_iter(fixture("agent.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(fixture("agent.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let (agent, _) = Agent::new(ok("[]"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (agent, acceptor) = (agent.clone(), acceptor.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    agent.serve(stream).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn https_trusts_the_ca_file_and_not_everybody() {
    let address = https_agent().await;
    let trusting = Settings { ca_file: Some(fixture("ca.pem")), ..Settings::new(&address) };
    assert_eq!(ask(&trusting).await.unwrap(), 0);
    // On a machine without any roots the same is told as a configuration error.
    let error = ask(&Settings::new(&address)).await.unwrap_err();
    assert!(matches!(error.kind(), "connect" | "config"), "{error:?}");
}

#[tokio::test]
async fn ca_files_that_are_none() {
    let missing = Settings { ca_file: Some(fixture("missing.pem")), ..Settings::new("https://127.0.0.1:1") };
    assert!(matches!(Client::new(&missing), Err(Error::Config { .. })));
    let no_certificate = Settings { ca_file: Some(fixture("README.md")), ..missing };
    let error = Client::new(&no_certificate).unwrap_err();
    assert!(error.to_string().contains("no certificate"), "{error}");
}

/// In a process of its own, because reqwest reads the environment once, and other tests run at the same time.
#[test]
fn no_proxy_is_obeyed() {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reach::with_a_proxy_in_the_environment", "--ignored"])
        .envs(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(|name| (name, "http://127.0.0.1:1")))
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run by no_proxy_is_obeyed"]
async fn with_a_proxy_in_the_environment() {
    let (_agent, address) = Agent::start(ok("[]")).await;
    assert_eq!(ask(&Settings::new(address)).await.unwrap(), 0);
}
