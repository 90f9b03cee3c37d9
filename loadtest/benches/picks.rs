//! What a session costs the pool, and what a change of membership costs everybody: `cargo bench -p loadtest`.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::SystemTime;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use evenkeel::config::{self, Balance};
use evenkeel::endpoint::{Endpoint, Registry, Update};
use evenkeel::keeper::{self, Inputs};
use evenkeel::pool::{Pool, View};
use evenkeel::standing::{Facts, Guard, Operator, Passive, Standing};
use tokio::sync::mpsc;

const SIZES: [usize; 3] = [10, 1_000, 10_000];
const POLICIES: [(&str, Balance); 2] =
    [("round_robin", Balance::RoundRobin), ("least_connections", Balance::LeastConnections)];

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
        // Weights that are not all equal: the balancers have to compare.
        weight: 1 + u16::from(b % 4),
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
            probe: None,
            passive: Passive::Ok,
            guard: Guard::None,
        };
        let view = View {
            address: endpoint.address,
            weight: endpoint.weight,
            facts,
            standing: Standing::Up,
            reason: "bench".into(),
            since: SystemTime::now(),
        };
        pool.add(&endpoint.id, view);
    }
    pool
}

fn pick_and_release(criterion: &mut Criterion) {
    for (name, balance) in POLICIES {
        let mut group = criterion.benchmark_group(format!("pick and release, {name}"));
        for size in SIZES {
            let pool = full_pool(balance, size);
            // Sessions that are there already, so that the heaps are not all ties.
            let held: Vec<_> = (0..size * 2).filter_map(|_| pool.pick(&[]).ok()).collect();
            group.bench_function(BenchmarkId::new("alone", size), |bencher| {
                bencher.iter(|| black_box(pool.pick(&[]).is_ok()));
            });
            let stop = Arc::new(AtomicBool::new(false));
            let rival = std::thread::spawn({
                let (pool, stop) = (Arc::clone(&pool), Arc::clone(&stop));
                move || {
                    while !stop.load(Relaxed) {
                        black_box(pool.pick(&[]).is_ok());
                    }
                }
            });
            group.bench_function(BenchmarkId::new("with a second thread at it", size), |bencher| {
                bencher.iter(|| black_box(pool.pick(&[]).is_ok()));
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
    criterion.bench_function("a set of 10,000 with one newcomer", |bencher| {
        let (pool, evidence) = Pool::new(settings(Balance::RoundRobin), 2);
        let (send, updates) = mpsc::channel(1);
        let (_reports, reports) = mpsc::unbounded_channel();
        let (_advice, advice) = mpsc::unbounded_channel();
        let watch = Box::new(|_: &Arc<str>, _| Box::new(()) as Box<dyn Send>);
        let inputs = Inputs { updates, reports, advice, evidence, commands: pool.orders.listen() };
        let _keeper = runtime.spawn(keeper::run(Arc::clone(&pool), watch, inputs));
        let mut next = whole.len();
        let apply = |endpoints: Vec<Endpoint>| {
            runtime.block_on(async {
                let last = endpoints.last().map(|endpoint| Arc::clone(&endpoint.id));
                let update = Update { endpoints, hold_missing_until: None };
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

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = pick_and_release, membership
}
criterion_main!(benches);
