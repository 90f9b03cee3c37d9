use std::io::ErrorKind;

use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use super::*;

#[tokio::test]
async fn a_listening_port_passes_and_sees_a_reset() {
    let (sender, mut ends) = unbounded_channel();
    let backend = Backend::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            _ = sender.send(stream.read(&mut [0; 8]).await.map_err(|error| error.kind()));
        }
    })
    .await;
    let result = first(backend.address, &rare(CheckKind::Tcp)).await;
    assert!(result.passed);
    assert_eq!(result.to_string(), format!("tcp connect {}: connected", backend.address));
    let end = timeout(PATIENCE, ends.recv()).await.unwrap().unwrap();
    assert_eq!(end, Err(ErrorKind::ConnectionReset), "no TIME_WAIT may stay behind");
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let (_socket, address) = refusing();
    let result = first(address, &rare(CheckKind::Tcp)).await;
    assert!(!result.passed);
    assert_eq!((result.asked.as_str(), result.got.as_str()), (format!("connect {address}").as_str(), "refused"));
    assert_eq!(result.wanted, "");
}

#[tokio::test]
async fn a_full_backlog_times_out() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 50, "the backlog never fills");
    }
    let check = Check { timeout: Duration::from_millis(150), ..rare(CheckKind::Tcp) };
    let result = first(address, &check).await;
    assert!(!result.passed);
    assert_eq!(result.got, "timeout after 150ms");
    assert!(result.duration >= check.timeout, "{:?}", result.duration);
}

#[tokio::test]
async fn the_port_of_the_check_is_probed_instead() {
    let backend = Backend::silent().await;
    let (_socket, elsewhere) = refusing();
    let check = Check { port: Some(backend.address.port()), ..rare(CheckKind::Tcp) };
    let result = first(elsewhere, &check).await;
    assert!(result.passed, "{result}");
    assert_eq!(result.asked, format!("connect {}", backend.address));
}

#[tokio::test]
async fn kind_none_sends_nothing() {
    let backend = Backend::silent().await;
    let prober = Prober::new();
    let (subscription, mut reports) = subscribe(&prober, backend.address, &check(CheckKind::None));
    assert_eq!(prober.stats().running, 0);
    assert!(timeout(PATIENCE, reports.recv()).await.unwrap().is_none());
    drop(subscription);
    assert_eq!(backend.accepted(), 0);
}
