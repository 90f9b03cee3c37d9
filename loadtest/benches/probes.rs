//! The CPU time of the prober with 10,000 backends at the default interval, for each kind, and of the timers alone.
//! It is a plain program, because it measures CPU time in a steady state. The servers run on other threads.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use evenkeel::config::{Check, parse};
use evenkeel::health::ProbeReport;
use evenkeel::probe::Prober;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

const BACKENDS: usize = 10_000;
/// Time for the first round, and for jitter to spread the probes.
const WARM_UP: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(2);

fn main() {
    raise_descriptors();
    println!("{BACKENDS} backends, interval {INTERVAL:?}, {MEASURED:?} each");
    timers();
    let echo = serve(true);
    let silent = serve(false);
    probes("tcp", echo, "kind = \"tcp\"", true);
    probes("script", echo, "kind = \"script\", steps = [{ send = \"x\" }, { expect = \"x\" }]", true);
    probes("script, all silent", silent, "kind = \"script\", steps = [{ send = \"x\" }, { expect = \"x\" }]", false);
    std::process::exit(0);
}

/// The schedule alone: one task for each backend, which sleeps for its interval.
fn timers() {
    let (rounds, runtime) = (Arc::new(AtomicU64::new(0)), runtime());
    let used = runtime.block_on(async {
        for i in 0..BACKENDS {
            let rounds = Arc::clone(&rounds);
            tokio::spawn(async move {
                tokio::time::sleep(INTERVAL.mul_f64(i as f64 / BACKENDS as f64)).await;
                loop {
                    rounds.fetch_add(1, Relaxed);
                    tokio::time::sleep(INTERVAL.mul_f64(0.9)).await;
                }
            });
        }
        measured(&rounds, || 0).await
    });
    used.print("timers alone");
}

fn probes(name: &str, port: u16, check: &str, passing: bool) {
    let (rounds, runtime) = (Arc::new(AtomicU64::new(0)), runtime());
    let used = runtime.block_on(async {
        let prober = Prober::bounded(BACKENDS);
        let check = Arc::new(parsed(check));
        let mut all = Vec::new();
        for i in 0..BACKENDS {
            let rounds = Arc::clone(&rounds);
            let sink = Box::new(move |report: &ProbeReport| {
                assert_eq!(report.result.passed, passing, "{}", report.result);
                rounds.fetch_add(1, Relaxed);
            });
            all.push(prober.subscribe(address(i, port), &check, sink));
        }
        measured(&rounds, || prober.stats().in_flight).await
    });
    used.print(name);
}

/// Each backend has its own address; one listener serves all of them.
fn address(i: usize, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 1, (i / 250) as u8, (i % 250) as u8 + 1), port).into()
}

fn parsed(check: &str) -> Check {
    let text = format!(
        "[listeners.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n[pools.p]\nbackends = [\"127.0.0.1:1\"]\ncheck = {{ {check} }}\n"
    );
    let config = parse(&text, "bench", &|_| None).unwrap_or_else(|error| panic!("{error}"));
    (*config.pools[0].check).clone()
}

struct Used {
    cpu: Duration,
    rounds: u64,
    most_in_flight: usize,
}

impl Used {
    fn print(&self, name: &str) {
        let Self { cpu, rounds, most_in_flight } = self;
        let share = cpu.as_secs_f64() / MEASURED.as_secs_f64() * 100.0;
        let each = cpu.as_secs_f64() * 1e6 / *rounds as f64;
        let rate = *rounds as f64 / MEASURED.as_secs_f64();
        println!(
            "{name:>20}: {share:5.1} % of a CPU, {rate:6.0} results/s, {each:5.1} us each, at most {most_in_flight} in flight"
        );
    }
}

/// The runtime has one thread, so the CPU time of this thread is all that it uses.
async fn measured(rounds: &AtomicU64, in_flight: impl Fn() -> usize) -> Used {
    tokio::time::sleep(WARM_UP).await;
    let (cpu, before, most) = (own_cpu(), rounds.load(Relaxed), AtomicUsize::new(0));
    let end = Instant::now() + MEASURED;
    while Instant::now() < end {
        most.fetch_max(in_flight(), Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Used { cpu: own_cpu() - cpu, rounds: rounds.load(Relaxed) - before, most_in_flight: most.into_inner() }
}

fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Echoes each byte, or stays silent, at every address of the loopback network.
fn serve(answers: bool) -> u16 {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
            let listener: TcpListener = socket.listen(8192).unwrap();
            send.send(listener.local_addr().unwrap().port()).unwrap();
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                tokio::spawn(async move {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        if answers && stream.write_all(&byte).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
    receive.recv().unwrap()
}

fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If it can't be raised, probes fail.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
