//! The cost of picking and releasing a backend, and of a change of membership: `cargo bench --profile dist -p loadtest --bench picks`.
//! With `-- --write-results` the figures go to `RESULTS.md`.

use std::fs;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use criterion::{BatchSize, BenchmarkId, Criterion};
use evenkeel::balance::hash_of;
use evenkeel::config::{self, Balance};
use evenkeel::endpoint::{Endpoint, Registry, Trust, Update};
use evenkeel::health::AgentWish;
use evenkeel::keeper::{self, Inputs};
use evenkeel::pool::{Affinity, BackendView, PickContext, Pool, SHARE_OF_WEIGHT};
use evenkeel::standing::{Facts, Guard, Operator, Passive, Standing};
use loadtest::results;
use serde_json::Value;
use tokio::sync::mpsc;

const SIZES: [usize; 3] = [10, 1_000, 10_000];
const ALONE: &str = "alone";
const RIVAL: &str = "with a second thread at it";
const MEMBERSHIP: &str = "a set of 10,000 with one newcomer";

fn settings(balance: Balance) -> config::Pool {
    let text = "[listeners.a]\nbind = \"127.0.0.1:0\"\npool = \"b\"\n[pools.b]\nbackends = [\"127.0.0.1:1\"]\n\
                check = { kind = \"none\" }\n";
    let config = config::parse(text, "bench", &|_| None).expect("the text is valid");
    let mut pool = config.pools.into_iter().next().expect("it has a pool");
    pool.balance = balance;
    pool
}

fn endpoint(number: usize) -> Endpoint {
    let [.., a, b] = number.to_be_bytes();
    Endpoint {
        id: format!("node/web-{number}").into(),
        address: SocketAddr::from((Ipv4Addr::new(10, 0, a, b), 80)),
        candidates: [].into(),
        // Different weights, so that the policies have to compare.
        weight: 1 + u16::from(b % 4),
        priority: 0,
        position: number as u32,
        max_sessions: None,
        zone: None,
        registry: Registry::Passing,
        note: None,
    }
}

fn full_pool(balance: Balance, size: usize) -> Arc<Pool> {
    let (pool, _evidence) = Pool::new(settings(balance), 2);
    for endpoint in (0..size).map(endpoint) {
        let facts = Facts {
            operator: Operator::Ready,
            registry: Registry::Passing,
            agent: AgentWish::Ready,
            probe: None,
            passive: Passive::Ok,
            guard: Guard::None,
        };
        let view = BackendView {
            candidates: [].into(),
            dead: [].into(),
            address: endpoint.address,
            weight: endpoint.weight,
            share: u32::from(endpoint.weight) * SHARE_OF_WEIGHT,
            ramp: 100,
            priority: endpoint.priority,
            zone: None,
            position: endpoint.position,
            max_sessions: endpoint.max_sessions,
            facts,
            standing: Standing::Up,
            reason: "bench".into(),
            by_probe: false,
            remarks: None,
            since: SystemTime::now(),
            advice: None,
            ejected: None,
            damped_until: None,
            held_until: None,
        };
        pool.add(&endpoint.id, view);
    }
    pool.rebuild_tables();
    pool
}

/// Another client each time.
fn of_client(clients: &mut u32) -> PickContext<'static> {
    *clients += 1;
    PickContext {
        affinity: Affinity { hash: hash_of(&clients.to_be_bytes(), 0), ..Affinity::NONE },
        ..PickContext::FIRST
    }
}

fn pick_and_release(criterion: &mut Criterion) {
    for balance in Balance::ALL {
        let mut group = criterion.benchmark_group(format!("pick and release, {}", balance.name()));
        for size in SIZES {
            let pool = full_pool(balance, size);
            // Some sessions, so that the heaps have an order.
            let held: Vec<_> = (0..size * 2).filter_map(|_| pool.pick(&PickContext::FIRST).ok()).collect();
            let mut clients = 0;
            group.bench_function(BenchmarkId::new(ALONE, size), |bencher| {
                bencher.iter(|| black_box(pool.pick(&of_client(&mut clients)).is_ok()));
            });
            let stop = Arc::new(AtomicBool::new(false));
            let rival = std::thread::spawn({
                let (pool, stop) = (Arc::clone(&pool), Arc::clone(&stop));
                move || {
                    let mut clients = 1 << 31;
                    while !stop.load(Relaxed) {
                        black_box(pool.pick(&of_client(&mut clients)).is_ok());
                    }
                }
            });
            group.bench_function(BenchmarkId::new(RIVAL, size), |bencher| {
                bencher.iter(|| black_box(pool.pick(&of_client(&mut clients)).is_ok()));
            });
            stop.store(true, Relaxed);
            rival.join().expect("the rival does not panic");
            drop(held);
        }
        group.finish();
    }
}

fn membership(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let whole: Vec<Endpoint> = (0..10_000).map(endpoint).collect();
    criterion.bench_function(MEMBERSHIP, |bencher| {
        let (pool, observation) = Pool::new(settings(Balance::RoundRobin), 2);
        let (send, updates) = mpsc::channel(1);
        let (_reports, reports) = mpsc::unbounded_channel();
        let (_advice, advice) = mpsc::unbounded_channel();
        let watch = Box::new(|_: &Arc<str>, _| Box::new(()) as Box<dyn keeper::Probing>);
        let (_changes, changes) = mpsc::unbounded_channel();
        let inputs = Inputs { updates, reports, advice, observation, overrides: pool.overrides.listen(), changes };
        let _keeper = runtime.spawn(keeper::run(Arc::clone(&pool), watch, Box::new(|_| ()), inputs));
        let mut next = whole.len();
        let apply = |endpoints: Vec<Endpoint>| {
            runtime.block_on(async {
                let last = endpoints.last().map(|endpoint| Arc::clone(&endpoint.id));
                let update = Update { endpoints, trust: Trust::Calm };
                send.send(update).await.expect("the keeper listens");
                while pool.members().iter().rev().all(|member| Some(&member.id) != last.as_ref()) {
                    tokio::task::yield_now().await;
                }
            });
        };
        apply(whole.clone());
        bencher.iter_batched(
            || {
                next += 1;
                let mut endpoints = whole.clone();
                endpoints.push(endpoint(next));
                endpoints
            },
            apply,
            BatchSize::LargeInput,
        );
    });
}

/// Medians in nanoseconds by the id of the bench, from criterion's files.
fn medians(folder: &Path) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        let read = |name: &str| -> Option<Value> {
            serde_json::from_str(&fs::read_to_string(path.join("new").join(name)).ok()?).ok()
        };
        match (read("benchmark.json"), read("estimates.json")) {
            (Some(what), Some(estimates)) => {
                let name = what["full_id"].as_str().unwrap_or_default().to_owned();
                found.push((name, estimates["median"]["point_estimate"].as_f64().unwrap_or(f64::NAN)));
            }
            _ => found.extend(medians(&path)),
        }
    }
    found
}

fn section(medians: &[(String, f64)]) -> String {
    let of = |name: &str| {
        let nanoseconds = medians.iter().find(|(known, _)| known == name).map_or(f64::NAN, |(_, median)| *median);
        if nanoseconds < 1e4 { format!("{nanoseconds:.0} ns") } else { format!("{:.2} ms", nanoseconds / 1e6) }
    };
    let mut text =
        String::from("| policy | backends | alone | with a second thread at it |\n| --- | ---: | ---: | ---: |\n");
    for policy in Balance::ALL.map(Balance::name) {
        for size in SIZES {
            let group = format!("pick and release, {policy}");
            let (alone, rival) = (of(&format!("{group}/{ALONE}/{size}")), of(&format!("{group}/{RIVAL}/{size}")));
            text += &format!("| `{policy}` | {size} | {alone} | {rival} |\n");
        }
    }
    text + &format!("\nA set of 10,000 backends with one newcomer, until the data plane has it: {}.\n", of(MEMBERSHIP))
}

fn main() {
    let is_to_be_written = std::env::args().any(|argument| argument == "--write-results");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut criterion = Criterion::default().sample_size(30);
    criterion = match is_to_be_written {
        true => criterion.output_directory(folder.path()),
        false => criterion.configure_from_args(),
    };
    pick_and_release(&mut criterion);
    membership(&mut criterion);
    criterion.final_summary();
    if is_to_be_written {
        let preamble = results::preamble("cargo bench --profile dist -p loadtest --bench picks -- --write-results")
            .expect("/proc");
        let text = format!(
            "## Picking and releasing a backend\n\n{preamble}\nMedians. The goal is 1 µs.\n\n{}",
            section(&medians(folder.path()))
        );
        results::write_section(&results::path(), "picks", &text).expect("RESULTS.md can be written");
        print!("{text}");
    }
}
