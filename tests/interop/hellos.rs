//! The ClientHellos of real programs, read from a socket as they come.

use std::path::Path;

use evenkeel::route::hello::{ClientHello, HelloReader, Reading};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Process, command, programs, soon};

/// What a program says first that is started with these arguments, in which `PORT` is the port that it has to connect to.
async fn hello_of(program: &Path, arguments: &[&str]) -> (ClientHello, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let home = tempfile::tempdir().unwrap();
    let mut command = command(program);
    command.args(arguments.iter().map(|argument| argument.replace("PORT", &port))).env("HOME", home.path());
    let process = Process::start(command, &home.path().join("log"));
    let found = soon("a ClientHello", async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A browser opens connections that it does not use.
            if let Some(found) = read_from(stream).await {
                return found;
            }
        }
    })
    .await;
    drop(process);
    found
}

/// The hello and its length with all that came behind it.
async fn read_from(mut stream: TcpStream) -> Option<(ClientHello, usize)> {
    let (mut reader, mut bytes) = (HelloReader::default(), Vec::new());
    while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
        match reader.read(&bytes) {
            Reading::NeedMore => {}
            Reading::NotHello => panic!("no hello: {}", bytes.escape_ascii()),
            Reading::Hello(hello) => return Some((hello, bytes.len())),
        }
    }
    None
}

fn hello(server_name: Option<&str>, alpn: &[&str]) -> ClientHello {
    let alpn = alpn.iter().map(|protocol| protocol.as_bytes().into()).collect();
    ClientHello { server_name: server_name.map(Into::into), alpn }
}

#[tokio::test]
async fn the_hellos_of_openssl() {
    let Some([openssl]) = programs(["openssl"]) else { return };
    let client = ["s_client", "-connect", "127.0.0.1:PORT"];
    let of = async |more: &[&str]| hello_of(&openssl, &[&client[..], more].concat()).await.0;
    assert_eq!(of(&["-servername", "DB.example.com"]).await, hello(Some("db.example.com"), &[]));
    assert_eq!(of(&["-noservername", "-alpn", "postgresql,h2"]).await, hello(None, &["postgresql", "h2"]));
    for version in ["-tls1_2", "-tls1_3"] {
        assert_eq!(of(&[version, "-servername", "a.example"]).await, hello(Some("a.example"), &[]), "{version}");
    }
    // Spread over records of 512 bytes.
    let long = vec!["a-name-that-is-long"; 100].join(",");
    let wanted = hello(Some("a.example"), &vec!["a-name-that-is-long"; 100]);
    assert_eq!(of(&["-servername", "a.example", "-alpn", &long, "-max_send_frag", "512"]).await, wanted);
}

#[tokio::test]
async fn the_hello_of_curl() {
    let Some([curl]) = programs(["curl"]) else { return };
    let arguments = ["-sk", "--resolve", "curl.example:PORT:127.0.0.1", "https://curl.example:PORT/"];
    assert_eq!(hello_of(&curl, &arguments).await.0, hello(Some("curl.example"), &["h2", "http/1.1"]));
    // An address is no name, and curl sends none.
    assert_eq!(hello_of(&curl, &["-sk", "--no-alpn", "https://127.0.0.1:PORT/"]).await.0, hello(None, &[]));
}

#[tokio::test]
async fn the_hello_of_python() {
    let Some([python]) = programs(["python3"]) else { return };
    let text = "import socket, ssl\n\
        context = ssl._create_unverified_context()\n\
        context.set_alpn_protocols(['imap'])\n\
        context.wrap_socket(socket.create_connection(('127.0.0.1', PORT)), server_hostname='B\\u00fccher.example')";
    assert_eq!(hello_of(&python, &["-c", text]).await.0, hello(Some("xn--bcher-kva.example"), &["imap"]));
}

/// promtool is a program in Go.
#[tokio::test]
async fn the_hello_of_go() {
    let Some([promtool]) = programs(["promtool"]) else { return };
    let (found, _) = hello_of(&promtool, &["query", "instant", "https://localhost:PORT", "up"]).await;
    assert_eq!(found, hello(Some("localhost"), &[]));
}

/// With GREASE, an encrypted ClientHello (of GREASE, too), and a post-quantum key, so that it is longer than a segment.
#[tokio::test]
async fn the_hello_of_chromium() {
    let Some([chromium]) = programs(["chromium"]) else { return };
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--no-proxy-server",
        "--host-resolver-rules=MAP chromium.example 127.0.0.1",
        "--dump-dom",
        "https://chromium.example:PORT/",
    ];
    let (found, length) = hello_of(&chromium, &arguments).await;
    assert_eq!(found, hello(Some("chromium.example"), &["h2", "http/1.1"]));
    assert!(length > 1_500, "{length} bytes");
}
