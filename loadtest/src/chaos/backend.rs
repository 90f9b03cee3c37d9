//! A backend that fails on command: a process of its own in a namespace of its own, switched over a unix socket.
//!
//! What a signal or a packet filter does better (death, silence, a blackhole) is done from outside.

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

use super::fault::Mode;
use super::wire::{self, LENGTH, PING, PONG, Parsed};

/// Connections that may wait for accept: more than come while it is stopped.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept: at EMFILE it would otherwise spin.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a backend may take until it obeys, on a machine that is busy with seven other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// Started by `chaos`, not by people.
#[derive(Debug, Args)]
pub struct BackendArgs {
    /// Address to serve on
    #[arg(long)]
    pub(super) listen: SocketAddr,
    /// Path of the socket that takes commands
    #[arg(long)]
    pub(super) control: PathBuf,
    /// What it calls itself in its replies
    #[arg(long)]
    pub(super) number: u8,
}

/// The backend: serves until it is killed.
pub fn chaos_backend(args: &BackendArgs) -> io::Result<()> {
    crate::raise_descriptor_limit();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let state = Rc::new(State { number: args.number, mode: Cell::new(Mode::Serve) });
        let socket = if args.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(args.listen)?;
        let listener = socket.listen(BACKLOG)?;
        // Of one that was killed. After the TCP socket: who is answered here knows that the backend serves.
        let _ = fs::remove_file(&args.control);
        let commands = UnixListener::bind(&args.control)?;
        spawn_local(accept(listener, state.clone()));
        obey(commands, &state).await
    })
}

/// Tells the backend behind this socket what to do, and waits until it does.
pub(super) fn command(control: &Path, mode: Mode) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match tell(control, mode) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn tell(control: &Path, mode: Mode) -> io::Result<()> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", mode.word())?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer)?;
    if answer == *b"ok\n" { Ok(()) } else { Err(io::Error::other("the backend does not understand")) }
}

struct State {
    number: u8,
    mode: Cell<Mode>,
}

async fn obey(commands: UnixListener, state: &State) -> io::Result<()> {
    loop {
        let (stream, _) = commands.accept().await?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        // Whoever gives up in the middle of a command has not given one.
        if stream.read_line(&mut line).await.is_err() {
            continue;
        }
        let answer: &[u8] = match Mode::of(line.trim_end()) {
            Some(mode) => {
                state.mode.set(mode);
                b"ok\n"
            }
            None => b"no\n",
        };
        let _ = stream.write_all(answer).await;
    }
}

async fn accept(listener: TcpListener, state: Rc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let state = state.clone();
        // A connection that fails is the client's to judge: it sees the failure too.
        spawn_local(async move { drop(serve(stream, &state).await) });
    }
}

async fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    match state.mode.get() {
        Mode::ResetOnAccept => return reset(stream),
        Mode::FinOnAccept => return finish(stream).await,
        Mode::Serve | Mode::ResetAfterRequest => {}
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
            _ if state.mode.get() == Mode::ResetAfterRequest => return reset(stream),
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

/// FIN, and nothing but FIN: a close with unread bytes would be a reset.
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

    /// On a thread that ends with the test process.
    fn backend(number: u8) -> (SocketAddr, PathBuf, tempfile::TempDir) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("control");
        // An address of its own, so that a fixed port is free.
        let place = NEXT.fetch_add(1, Ordering::Relaxed) + 1;
        let listen = SocketAddr::from(([127, 77, std::process::id() as u8, place as u8], 9000));
        let args = BackendArgs { listen, control: control.clone(), number };
        thread::spawn(move || chaos_backend(&args).unwrap());
        command(&control, Mode::Serve).unwrap();
        (listen, control, directory)
    }

    fn connect(address: SocketAddr) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// All that comes after these bytes were sent, and how it ends.
    fn said(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = connect(address);
        // A reset may already be there, and is told once: to the first who asks.
        let sent = stream.write_all(bytes);
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        sent.map(|()| all)
    }

    #[test]
    fn it_does_what_its_mode_says() {
        let (address, control, _directory) = backend(3);
        let request = Request { connection: 1, exchange: 0, last: true };
        let right = request.reply(3, true).to_vec();
        assert_eq!(said(address, &request.encode()).unwrap(), right);

        command(&control, Mode::FinOnAccept).unwrap();
        assert!(said(address, &[]).unwrap().is_empty());
        for mode in [Mode::ResetOnAccept, Mode::ResetAfterRequest] {
            command(&control, mode).unwrap();
            let error = said(address, &request.encode()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{mode:?}");
        }
        assert_eq!(said(address, PING).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        // One that only connects learns nothing.
        let stream = connect(address);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0);

        command(&control, Mode::Serve).unwrap();
        assert_eq!(said(address, &request.encode()).unwrap(), right);
        assert!(tell(&control, Mode::Serve).is_ok() && tell(Path::new("/nowhere"), Mode::Serve).is_err());
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
