//! HTTP by hand: requests one after another on a connection, and watches without an end.

use std::{io, sync::Arc, time::Duration};

use registry_client::base64;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
};

use super::{GatewayFault, Shared, store::Refusal};

/// How often leases are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Between the bytes of an answer that drips.
const DRIP: Duration = Duration::from_millis(200);

type Stream = BufStream<TcpStream>;

struct Request {
    path: String,
    token: Option<String>,
    body: Value,
}

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                tokio::spawn(connection(stream, Arc::clone(&shared)));
            }
            _ = look.tick() => {
                let has_leases = shared.lock().has_leases();
                if has_leases {
                    shared.change(|store| store.expire(Duration::ZERO));
                }
            }
        }
    }
}

/// Until it is cut.
async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let mut changed = shared.changed.subscribe();
    let cuts = {
        let mut store = shared.lock();
        store.connections += 1;
        store.most_connections = store.most_connections.max(store.connections);
        store.cuts
    };
    let is_cut = async { while shared.lock().cuts == cuts && changed.changed().await.is_ok() {} };
    tokio::select! {
        _ended = converse(BufStream::new(stream), &shared) => {}
        () = is_cut => {}
    }
    shared.lock().connections -= 1;
}

async fn converse(mut stream: Stream, shared: &Shared) -> io::Result<()> {
    while let Some(request) = read(&mut stream).await? {
        let fault = {
            let mut store = shared.lock();
            store.asked.push(request.path.clone());
            store.fault
        };
        match fault.filter(|fault| *fault != GatewayFault::Forbidden) {
            Some(fault) => fail(&mut stream, shared, fault).await?,
            None if request.path == "/v3/watch" => return watch(&mut stream, shared, &request).await,
            None => answer(&mut stream, shared, &request).await?,
        }
        stream.flush().await?;
    }
    Ok(())
}

async fn read(stream: &mut Stream) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        let mut named = lines.iter().filter_map(|line| line.split_once(": "));
        named.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let mut body = vec![0; header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    Ok(Some(Request { path, token: header("authorization"), body: serde_json::from_slice(&body).unwrap_or_default() }))
}

fn whole(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn answer(stream: &mut Stream, shared: &Shared, request: &Request) -> io::Result<()> {
    let answer = shared.change(|store| {
        store.admit(&request.path, request.token.as_deref())?;
        store.answer(&request.path, &request.body)
    });
    let text = match answer {
        Ok(body) => whole(200, &body.to_string()),
        Err((status, code, message)) => {
            whole(status, &json!({ "error": message, "message": message, "code": code }).to_string())
        }
    };
    stream.write_all(text.as_bytes()).await
}

async fn fail(stream: &mut Stream, shared: &Shared, fault: GatewayFault) -> io::Result<()> {
    match fault {
        GatewayFault::Hang => over(shared, fault).await,
        GatewayFault::NoLeader => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let body =
                r#"{"error":"etcdserver: request timed out","message":"etcdserver: request timed out","code":14}"#;
            stream.write_all(whole(503, body).as_bytes()).await?;
        }
        GatewayFault::Garbage => stream.write_all(whole(200, "\u{1}garbage").as_bytes()).await?,
        GatewayFault::EmptyObject => stream.write_all(whole(200, "{}").as_bytes()).await?,
        GatewayFault::Proxy | GatewayFault::Forbidden => {
            stream.write_all(whole(502, "<html>Bad Gateway</html>").as_bytes()).await?;
        }
        GatewayFault::Cut => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"header\":{\"cluster_id\":\"7\",")
                .await?;
            stream.flush().await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        GatewayFault::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n").await?;
            for _ in 0..500 {
                stream.write_all(b" ").await?;
                stream.flush().await?;
                tokio::time::sleep(DRIP).await;
            }
        }
        GatewayFault::Huge => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await?;
            }
        }
    }
    Ok(())
}

/// Returns when the fault is another one.
async fn over(shared: &Shared, fault: GatewayFault) {
    let mut changed = shared.changed.subscribe();
    while shared.lock().fault == Some(fault) && changed.changed().await.is_ok() {}
}

async fn watch(stream: &mut Stream, shared: &Shared, request: &Request) -> io::Result<()> {
    let create = &request.body["create_request"];
    let bytes = |name: &str| base64::decode(create[name].as_str().unwrap_or_default()).unwrap_or_default();
    let (first, end) = (bytes("key"), bytes("range_end"));
    let mut from: i64 = create["start_revision"].as_str().and_then(|text| text.parse().ok()).unwrap_or(1);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await?;
    let mut changed = shared.changed.subscribe();
    let (refusal, compacted, header) = {
        let store = shared.lock();
        (store.admit(&request.path, request.token.as_deref()).err(), store.compacted, store.header())
    };
    if let Some((_, code, message)) = refusal {
        return ended(stream, &header, (0, code, message)).await;
    }
    message(stream, &json!({ "result": { "header": header, "created": true } })).await?;
    if from <= compacted {
        let result = json!({ "header": header, "canceled": true, "compact_revision": (compacted + 1).to_string() });
        return message(stream, &json!({ "result": result })).await;
    }
    loop {
        let next = {
            let store = shared.lock();
            // A member that is cut off hears nothing, and one that hangs says nothing.
            let is_silent = store.fault.is_some_and(|fault| fault != GatewayFault::Forbidden);
            if is_silent { None } else { store.since(from, &first, &end) }
        };
        if let Some((text, next)) = next {
            message(stream, &text).await?;
            from = next;
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return Ok(()) },
            // The client says nothing more, but may leave.
            _left = stream.fill_buf() => return Ok(()),
        }
    }
}

/// As etcd ends a watch of a user that may not.
async fn ended(stream: &mut Stream, header: &Value, (_, code, message_): Refusal) -> io::Result<()> {
    let name = match code {
        16 => "Unauthenticated",
        7 => "PermissionDenied",
        _ => "InvalidArgument",
    };
    let reason = format!("rpc error: code = {name} desc = {message_}");
    let result =
        json!({ "header": header, "watch_id": "-1", "created": true, "canceled": true, "cancel_reason": reason });
    message(stream, &json!({ "result": result })).await
}

async fn message(stream: &mut Stream, text: &Value) -> io::Result<()> {
    let line = format!("{text}\n");
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
    stream.flush().await
}
