//! Certificates good and bad, alone and around another kind.

#[path = "../../../tests/support/tls/acceptor.rs"]
pub(super) mod acceptor;

use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::{RedisCheck, TlsCheck};
use acceptor::fixture;

const GOOD: &str = "certificate.pem";
const EXPIRED: &str = "expired.pem";

/// Shakes hands, then answers whatever comes.
async fn server(certificate: &str, answer: &'static str) -> Backend {
    let acceptor = acceptor::acceptor(certificate);
    Backend::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if !answer.is_empty() && stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {
                drop(stream.write_all(answer.as_bytes()).await);
                drop(stream.flush().await);
            }
            drop(stream.read(&mut [0; 1]).await);
        }
    })
    .await
}

fn settings() -> TlsCheck {
    TlsCheck {
        server_name: Some("backend.test".to_owned()),
        verify: true,
        ca_file: Some(fixture(GOOD)),
        alpn: Vec::new(),
        expires_within: None,
    }
}

async fn judged(backend: &Backend, kind: CheckKind, settings: TlsCheck) -> Arc<ProbeResult> {
    first(backend.address, &Check { tls: Some(settings), ..rare(kind) }).await
}

#[tokio::test]
async fn a_good_certificate_passes_and_its_end_is_known() {
    let backend = server(GOOD, "").await;
    let result = judged(&backend, CheckKind::Tls, settings()).await;
    assert!(result.passed, "{result}");
    let text = result.to_string();
    assert!(text.starts_with("tls TLS handshake with backend.test: TLS 1.3, certificate valid for 36"), "{text}");
    let certificate = result.certificate.unwrap();
    // 2126-10-28T15:03:20Z, as openssl says.
    assert_eq!(certificate.not_after, SystemTime::UNIX_EPOCH + Duration::from_secs(4_948_873_400));
    assert!(!certificate.expires_soon);

    let by_address = TlsCheck { server_name: None, ..settings() };
    assert!(judged(&backend, CheckKind::Tls, by_address).await.passed, "the certificate holds the address");
    let soon = TlsCheck { expires_within: Some(Duration::from_secs(200 * 365 * 86_400)), ..settings() };
    let result = judged(&backend, CheckKind::Tls, soon).await;
    assert!(result.passed && result.certificate.unwrap().expires_soon, "a warning, no failure");
}

#[tokio::test]
async fn a_bad_certificate_fails_and_says_why() {
    let (good, expired) = (server(GOOD, "").await, server(EXPIRED, "").await);
    let other = TlsCheck { server_name: Some("other.test".to_owned()), ..settings() };
    let result = judged(&good, CheckKind::Tls, other).await;
    assert_eq!((result.passed, result.got.as_str()), (false, "certificate is not for other.test"));

    for ca_file in [GOOD, EXPIRED] {
        let result = judged(&expired, CheckKind::Tls, TlsCheck { ca_file: Some(fixture(ca_file)), ..settings() }).await;
        assert!(!result.passed, "{result}");
        assert_eq!(result.got, "certificate expired", "also where it is trusted itself");
    }
    let unknown = judged(&good, CheckKind::Tls, TlsCheck { ca_file: Some(fixture(EXPIRED)), ..settings() }).await;
    assert!(!unknown.passed && unknown.got.contains("certificate"), "{unknown}");

    let anybody = TlsCheck {
        verify: false,
        ca_file: None,
        server_name: None,
        expires_within: Some(Duration::from_secs(1)),
        ..settings()
    };
    let result = judged(&expired, CheckKind::Tls, anybody).await;
    assert!(result.passed && result.certificate.unwrap().expires_soon, "{result}");
    assert!(result.got.contains("certificate expired 2"), "{result}");
}

#[tokio::test]
async fn who_speaks_no_tls_fails() {
    let backend = Backend::start(|mut stream, _| async move {
        drop(stream.write_all(b"SSH-2.0-x\r\n").await);
        drop(stream.read_to_end(&mut Vec::new()).await);
    })
    .await;
    assert_eq!(judged(&backend, CheckKind::Tls, settings()).await.got, "not TLS");
    let backend = Backend::start(|stream, _| async move { drop(stream) }).await;
    let got = judged(&backend, CheckKind::Tls, settings()).await.got.clone();
    assert!(got == "closed" || got == "reset", "{got}");
    let backend = Backend::silent().await;
    let check = Check { tls: Some(settings()), timeout: Duration::from_millis(50), ..rare(CheckKind::Tls) };
    let result = first(backend.address, &check).await;
    assert_eq!(result.to_string(), "tls TLS handshake with backend.test: timeout after 50ms");
}

#[tokio::test]
async fn other_kinds_within_tls() {
    let backend = server(GOOD, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    let http = get("/");
    let result = judged(&backend, CheckKind::Http(http.clone()), settings()).await;
    assert_eq!((result.passed, result.to_string().as_str()), (true, "http GET /: status 200"));
    assert!(result.certificate.is_some());
    // The same without TLS is no HTTP, and the reverse.
    assert!(!first(backend.address, &rare(CheckKind::Http(http))).await.passed);

    let backend = server(GOOD, "+PONG\r\n").await;
    let redis = RedisCheck { role: None, username: None, password: None, password_file: None };
    let result = judged(&backend, CheckKind::Redis(redis), settings()).await;
    assert!(result.passed, "{result}");
}

#[tokio::test]
async fn authorities_that_are_not_there_are_our_fault() {
    let backend = server(GOOD, "").await;
    let check =
        Check { tls: Some(TlsCheck { ca_file: Some("/no/such.pem".into()), ..settings() }), ..check(CheckKind::Tls) };
    let error = ready(&check).unwrap_err().to_string();
    assert_eq!(error, "ca_file /no/such.pem: No such file or directory (os error 2)");
    let path = fixture("key.pem");
    let key = Check { tls: Some(TlsCheck { ca_file: Some(path.clone()), ..settings() }), ..check.clone() };
    assert_eq!(ready(&key).unwrap_err().to_string(), format!("ca_file {}: no certificate in it", path.display()));
    let prober = Prober::new();
    let (_subscription, mut reports) = subscribe(&prober, backend.address, &check);
    eventually("it is counted", || prober.stats().local_errors >= 1).await;
    assert!(reports.try_recv().is_err());
}

#[tokio::test]
async fn a_protocol_that_is_asked_for_must_be_chosen() {
    let serving = |protocols: &'static [&'static [u8]]| async move {
        let mut acceptor = acceptor::acceptor(GOOD);
        let mut config = (**acceptor.config()).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        acceptor = Arc::new(config).into();
        Backend::start(move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                drop(stream.read(&mut [0; 1]).await);
            }
        })
        .await
    };
    let asking =
        |protocols: &[&str]| TlsCheck { alpn: protocols.iter().map(|&p| p.to_owned()).collect(), ..settings() };
    let backend = serving(&[b"h2", b"postgresql"]).await;
    let result = judged(&backend, CheckKind::Tls, asking(&["http/1.1", "postgresql"])).await;
    assert!(result.passed && result.got.starts_with("TLS 1.3, alpn postgresql, certificate"), "{result}");
    let result = judged(&backend, CheckKind::Tls, asking(&["http/1.1"])).await;
    assert!(!result.passed, "{result}");

    let deaf = serving(&[]).await;
    let result = judged(&deaf, CheckKind::Tls, asking(&["h2", "x"])).await;
    assert_eq!(
        (result.passed, result.got.as_str(), result.wanted.as_str()),
        (false, "no protocol was chosen", "alpn h2, x")
    );
    assert!(judged(&deaf, CheckKind::Tls, settings()).await.passed);
}
