//! A backend that fails on command: a process in its own network namespace that takes commands over a unix socket.
//!
//! Signals and packet filters make the other faults from outside: death, silence, dropped packets.

use std::cell::Cell;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Args;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

use super::fault::BackendMode;
use super::wire::{self, LENGTH, PING, PONG, Parsed};

/// Length of the accept queue: more connections than come while it is stopped.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept, so that the loop does not spin at EMFILE.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a backend may take to obey a command on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// For `chaos` only.
#[derive(Debug, Args)]
pub struct BackendArgs {
    /// Address to serve on
    #[arg(long)]
    pub(super) listen: SocketAddr,
    /// Path of the socket that takes commands
    #[arg(long)]
    pub(super) control: PathBuf,
    /// The number in its replies
    #[arg(long)]
    pub(super) number: u8,
}

/// Runs the backend, until it is killed.
///
/// # Errors
/// When an address or the control socket can't be bound.
pub fn chaos_backend(args: &BackendArgs) -> io::Result<()> {
    crate::raise_descriptor_limit();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let state = Rc::new(BackendState { number: args.number, mode: Cell::new(BackendMode::Serve) });
        let socket = if args.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(args.listen)?;
        let listener = socket.listen(BACKLOG)?;
        // Removes the socket of a killed backend. It is bound after the TCP socket, so an answer here means that the backend serves.
        let _ = fs::remove_file(&args.control);
        let commands = UnixListener::bind(&args.control)?;
        spawn_local(accept(listener, state.clone()));
        obey(commands, &state).await
    })
}

/// Sets the mode of the backend behind this socket, and waits until the backend confirms it.
pub(super) fn command(control: &Path, mode: BackendMode) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match tell(control, mode) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn tell(control: &Path, mode: BackendMode) -> io::Result<()> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", mode.name())?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer)?;
    if answer == *b"ok\n" { Ok(()) } else { Err(io::Error::other("the backend does not understand")) }
}

struct BackendState {
    number: u8,
    mode: Cell<BackendMode>,
}

async fn obey(commands: UnixListener, state: &BackendState) -> io::Result<()> {
    loop {
        let (stream, _) = commands.accept().await?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        // An incomplete command is ignored.
        if stream.read_line(&mut line).await.is_err() {
            continue;
        }
        let answer: &[u8] = match BackendMode::of(line.trim_end()) {
            Some(mode) => {
                state.mode.set(mode);
                b"ok\n"
            }
            None => b"no\n",
        };
        let _ = stream.write_all(answer).await;
    }
}

async fn accept(listener: TcpListener, state: Rc<BackendState>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let state = state.clone();
        // The client sees and counts a failed connection.
        spawn_local(async move { drop(serve(stream, &state).await) });
    }
}

async fn serve(mut stream: TcpStream, state: &BackendState) -> io::Result<()> {
    match state.mode.get() {
        BackendMode::ResetOnAccept => return reset(stream),
        BackendMode::FinOnAccept => return finish(stream).await,
        BackendMode::Serve | BackendMode::ResetAfterRequest => {}
    }
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(LENGTH);
    loop {
        let used = match wire::parse(&bytes) {
            Parsed::More => {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
                continue;
            }
            Parsed::Bad => return Ok(()),
            _ if state.mode.get() == BackendMode::ResetAfterRequest => return reset(stream),
            Parsed::Ping => {
                stream.write_all(PONG).await?;
                PING.len()
            }
            Parsed::Request { request, right } => {
                stream.write_all(&request.reply(state.number, right)).await?;
                if request.last || !right {
                    return Ok(());
                }
                LENGTH
            }
        };
        bytes.drain(..used);
    }
}

fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// Sends FIN and then reads to the end, because a close with unread bytes would send a reset.
async fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = [0; LENGTH];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::wire::Request;
    use super::*;

    /// Starts a backend on a thread that ends with the test process.
    fn backend(number: u8) -> (SocketAddr, PathBuf, tempfile::TempDir) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("control");
        // Each backend has its own address, so that the fixed port is free.
        let place = NEXT.fetch_add(1, Ordering::Relaxed) + 1;
        let listen = SocketAddr::from(([127, 77, std::process::id() as u8, place as u8], 9000));
        let args = BackendArgs { listen, control: control.clone(), number };
        thread::spawn(move || chaos_backend(&args).unwrap());
        command(&control, BackendMode::Serve).unwrap();
        (listen, control, directory)
    }

    fn connect(address: SocketAddr) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends these bytes and returns everything that comes back.
    fn said(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = connect(address);
        // A reset may have come already; the kernel reports it only once, to the first call.
        let sent = stream.write_all(bytes);
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        sent.map(|()| all)
    }

    #[test]
    fn each_mode_answers_closes_or_resets() {
        let (address, control, _directory) = backend(3);
        let request = Request { connection: 1, exchange: 0, last: true };
        let right = request.reply(3, true).to_vec();
        assert_eq!(said(address, &request.encode()).unwrap(), right);

        command(&control, BackendMode::FinOnAccept).unwrap();
        assert!(said(address, &[]).unwrap().is_empty());
        for mode in [BackendMode::ResetOnAccept, BackendMode::ResetAfterRequest] {
            command(&control, mode).unwrap();
            let error = said(address, &request.encode()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{mode:?}");
        }
        assert_eq!(said(address, PING).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        // A client that only connects sees no failure.
        let stream = connect(address);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0);

        command(&control, BackendMode::Serve).unwrap();
        assert_eq!(said(address, &request.encode()).unwrap(), right);
        assert!(tell(&control, BackendMode::Serve).is_ok() && tell(Path::new("/nowhere"), BackendMode::Serve).is_err());
    }

    #[test]
    fn requests_and_checks_may_follow_each_other() {
        let (address, _control, _directory) = backend(1);
        let first = Request { connection: 5, exchange: 0, last: false };
        let last = Request { connection: 5, exchange: 1, last: true };
        let sent = [PING, &first.encode(), &last.encode()].concat();
        let wanted = [PONG, &first.reply(1, true), &last.reply(1, true)].concat();
        assert_eq!(said(address, &sent).unwrap(), wanted);
    }
}
