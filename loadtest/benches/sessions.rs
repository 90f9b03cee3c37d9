//! User-space bytes of a session, idle and with a message on its way: `cargo bench --profile dist -p loadtest --bench sessions`.
//! With `-- --write-results` they go to `RESULTS.md`. The allocator counts the heap; clients and backend are plain blocking sockets
//! of this process, which use none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use evenkeel::{Balancer, config};
use loadtest::results;

const SESSIONS: usize = 2_000;
const MESSAGE: usize = 64;

/// Time after traffic in which a session frees the memory that it does not need.
const QUIET: Duration = Duration::from_secs(3);

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes that are allocated now, and the highest number so far.
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

struct Counting;

#[allow(unsafe_code, reason = "an allocator")]
// SAFETY: the system's allocator does it all; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn count(bytes: isize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

/// Heap per session: idle, and the maximum while each in turn has a message on its way.
struct Figures {
    relay: &'static str,
    idle: f64,
    active: f64,
}

async fn measure(relay: &'static str) -> Figures {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let backend = listener.local_addr().expect("it is bound");
    let text = format!(
        "workers = 1\nmax_connections = {}\nlog.sessions = false\nadmin.bind = \"127.0.0.1:0\"\n\
         [listeners.a]\nbind = \"127.0.0.1:0\"\npool = \"b\"\n\
         [pools.b]\nbackends = [\"{backend}\"]\ncheck = {{ kind = \"none\" }}\nrelay = \"{relay}\"\n",
        SESSIONS + 1
    );
    let config = config::parse(&text, "bench", &|_| None).expect("the text is valid");
    let balancer = Balancer::start(config).await.expect("it starts");
    let front = balancer.listeners()[0].1;
    let figures = tokio::task::spawn_blocking(move || traffic(relay, front, &listener)).await;
    balancer.kill().await;
    figures.expect("no panic")
}

fn traffic(relay: &'static str, front: SocketAddr, backend: &TcpListener) -> Figures {
    let mut message = [7; MESSAGE];
    let mut exchange = |client: &TcpStream, server: &TcpStream| {
        for (mut from, mut to) in [(client, server), (server, client)] {
            from.write_all(&message).expect("sent");
            to.read_exact(&mut message).expect("received");
        }
    };
    let open = || {
        let client = TcpStream::connect(front).expect("connected");
        (client, backend.accept().expect("the balancer connects").0)
    };
    // One session before the others allocates the memory that all share.
    let (client, server) = open();
    exchange(&client, &server);
    let mut ends = Vec::with_capacity(SESSIONS);
    thread::sleep(QUIET);
    let before = LIVE.load(Relaxed);
    for _ in 0..SESSIONS {
        let (client, server) = open();
        exchange(&client, &server);
        ends.push((client, server));
    }
    thread::sleep(QUIET);
    let idle = LIVE.load(Relaxed);
    PEAK.store(idle, Relaxed);
    for (client, server) in &mut ends {
        exchange(client, server);
    }
    let per_session = |bytes: isize| (bytes - before) as f64 / SESSIONS as f64;
    Figures { relay, idle: per_session(idle), active: per_session(PEAK.load(Relaxed)) }
}

fn main() {
    loadtest::raise_descriptor_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut text = String::from("| relay | idle | a message under way |\n| --- | ---: | ---: |\n");
    for relay in ["copy", "splice", "io_uring"] {
        let Figures { relay, idle, active } = runtime.block_on(measure(relay));
        text += &format!("| `{relay}` | {idle:.0} B | {active:.0} B |\n");
    }
    print!("{text}");
    if std::env::args().any(|argument| argument == "--write-results") {
        let preamble = results::preamble("cargo bench --profile dist -p loadtest --bench sessions -- --write-results")
            .expect("/proc");
        let text = format!(
            "## Heap of a session\n\n{preamble}\nBytes asked of the allocator, per session of {SESSIONS} on one worker; what \
             the allocator adds, and the kernel's memory, come on top.\n\n{text}"
        );
        results::write_section(&results::path(), "sessions", &text).expect("RESULTS.md can be written");
    }
}
