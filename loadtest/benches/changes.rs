//! From a change in the registry until sessions can be given by it, in a service of 100 instances, while 20 changes a second go
//! on: `cargo bench --profile dist -p loadtest --bench changes`. With `-- --write-results` the figures go to `RESULTS.md`.
//! A plain program: what counts is each single change, and above all the slowest.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use backend_demo::registry::Registry;
use evenkeel::pool::Pool;
use evenkeel::standing::Standing;
use evenkeel::{Balancer, config};
use hdrhistogram::Histogram;
use loadtest::results;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

const INSTANCES: usize = 100;
const EVERY: Duration = Duration::from_millis(50);
const MEASURED: Duration = Duration::from_secs(30);
/// Between looks at the pool.
const LOOK: Duration = Duration::from_micros(100);
/// More than any change may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let is_to_be_written = std::env::args().any(|argument| argument == "--write-results");
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut rows = String::from("| check | changes | p50 | p99 | max |\n| --- | ---: | ---: | ---: | ---: |\n");
    for (name, check) in [("none", "kind = \"none\""), ("tcp", "kind = \"tcp\"")] {
        let times = measured(&runtime, check);
        let of = |quantile: f64| milliseconds(times.value_at_quantile(quantile));
        rows += &format!("| {name} | {} | {} | {} | {} |\n", times.len(), of(0.5), of(0.99), milliseconds(times.max()));
    }
    let text = format!(
        "## From a change in the registry to sessions\n\n{}\n{INSTANCES} instances, {} changes a second: an instance comes, and \
         another one goes. Until it may be picked, or may not any more; with a check of kind `tcp` its first probe is in it. The \
         goal is 50 ms (p99).\n\n{rows}",
        results::preamble("cargo bench --profile dist -p loadtest --bench changes -- --write-results").expect("/proc"),
        1000 / EVERY.as_millis(),
    );
    if is_to_be_written {
        results::write_section(&results::path(), "changes", &text).expect("RESULTS.md can be written");
    }
    print!("{text}");
    std::process::exit(0);
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:.1} ms", Duration::from_micros(microseconds).as_secs_f64() * 1e3)
}

fn measured(runtime: &Runtime, check: &str) -> Histogram<u64> {
    let registry = runtime.block_on(Registry::start((Ipv4Addr::LOCALHOST, 0).into())).expect("a registry");
    let port = runtime.block_on(serve());
    let mut there: VecDeque<usize> = (0..INSTANCES).collect();
    let add = |number: usize| registry.add("web", &id(number), address(number, port));
    there.iter().copied().for_each(add);
    let text = format!(
        "admin.bind = \"off\"\nadmin.socket = \"off\"\nconsul.address = \"{}\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n\
         [pools.back]\nconsul = {{ service = \"web\" }}\ncheck = {{ {check} }}\n",
        registry.url()
    );
    let config = config::parse(&text, "bench", &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let balancer = runtime.block_on(Balancer::start(config)).expect("it starts");
    let set = balancer.state().set();
    let pool = &set.pools[0];
    for number in &there {
        until(pool, *number, true);
    }
    let mut times = Histogram::new(3).expect("three digits");
    let (began, mut next) = (Instant::now(), INSTANCES);
    for change in 0u32.. {
        let due = began + EVERY * change;
        if due - began >= MEASURED {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (number, comes) =
            if change % 2 == 0 { (next, true) } else { (there.pop_front().expect("it is full"), false) };
        let at = Instant::now();
        match comes {
            true => {
                add(number);
                there.push_back(number);
                next += 1;
            }
            false => assert!(registry.deregister(&id(number)), "it was there"),
        }
        let took = until(pool, number, comes).duration_since(at);
        times.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)).expect("it resizes");
    }
    runtime.block_on(balancer.shutdown());
    runtime.block_on(registry.stop());
    times
}

/// When it may be picked, or may not any more.
fn until(pool: &Pool, number: usize, wanted: bool) -> Instant {
    let (id, began) = (format!("dev/{}", id(number)), Instant::now());
    loop {
        let member = pool.members().iter().find(|member| *member.id == *id).cloned();
        if member.is_some_and(|member| member.view().standing == Standing::Up) == wanted {
            return Instant::now();
        }
        assert!(began.elapsed() < PATIENCE, "{id} is not {}", if wanted { "up" } else { "gone" });
        std::thread::sleep(LOOK);
    }
}

fn id(number: usize) -> String {
    format!("web-{number}")
}

/// Each instance at an address of its own, all of them on one listener.
fn address(number: usize, port: u16) -> SocketAddr {
    let [.., a, b] = number.to_be_bytes();
    (Ipv4Addr::new(127, 1, a, b), port).into()
}

/// Takes connections, for probes.
async fn serve() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a listener");
    let port = listener.local_addr().expect("it listens").port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    port
}
