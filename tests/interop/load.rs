//! Our own load generator, which compares every byte, through the real program: each scenario in small, and one at length.

use std::net::SocketAddr;
use std::time::Duration;

use loadtest::{CloseSide, LoadPlan, RunReport, Scenario, Server};

use crate::support::{Program, get, until};

fn config(backends: &[SocketAddr]) -> String {
    let backends: Vec<String> = backends.iter().map(SocketAddr::to_string).collect();
    format!(
        r#"
workers = 2
admin.bind = "127.0.0.1:0"
log.sessions = false
[listeners.front]
bind = "127.0.0.1:0"
pool = "back"
[pools.back]
backends = {backends:?}
check = {{ interval = "200ms", fast_interval = "50ms" }}
"#
    )
}

/// Runs on threads of its own, apart from the test's.
async fn load(plan: LoadPlan) -> RunReport {
    tokio::task::spawn_blocking(move || loadtest::run(&plan, |_| {})).await.unwrap().unwrap()
}

/// The program between the load and two servers.
struct Scene {
    servers: [Server; 2],
    program: Program,
    front: SocketAddr,
    admin: SocketAddr,
    /// Descriptors before the load.
    at_rest: usize,
}

impl Scene {
    async fn new() -> Self {
        let local = ([127, 0, 0, 1], 0).into();
        let servers = [Server::start(local, 1).unwrap(), Server::start(local, 1).unwrap()];
        let program = Program::start(&config(&[servers[0].address(), servers[1].address()]), &["run"]);
        let (front, admin) = (program.front("front").await, program.admin().await);
        until("ready", || async { (get(admin, "/ready").await.ok()?.0 == 200).then_some(()) }).await;
        let at_rest = until("a first count of descriptors", || async { rest(&program, admin).await }).await;
        Self { servers, program, front, admin, at_rest }
    }

    /// After `opened` connections.
    async fn nothing_is_left(&self, opened: u64) {
        until("every gauge is at rest and no descriptor is left", || async {
            (rest(&self.program, self.admin).await? <= self.at_rest).then_some(())
        })
        .await;
        let metrics = get(self.admin, "/metrics").await.unwrap().1;
        assert_eq!(sum(&metrics, "evenkeel_listener_accepted_total"), opened as f64);
        assert_eq!(sum(&metrics, "evenkeel_listener_ended_total"), opened as f64);
        assert_eq!(sum(&metrics, "evenkeel_listener_accept_errors_total"), 0.0);
        let bad = ["no_backend", "connect_failed", "local_error", "panicked", "idle_timeout", "half_close_timeout"];
        for outcome in bad {
            let ended = format!("evenkeel_listener_ended_total{{listener=\"front\",outcome=\"{outcome}\"}}");
            assert_eq!(sum(&metrics, &ended), 0.0, "{outcome}");
        }
    }
}

/// `cargo test --release --test tests five_million -- --ignored --nocapture`: minutes.
#[tokio::test]
#[ignore = "long; see the README"]
async fn five_million_messages_on_two_thousand_connections() {
    loadtest::raise_descriptor_limit();
    let scene = Scene::new().await;
    let small = LoadPlan::new(scene.front, Scenario::SmallMessages);
    let report =
        load(LoadPlan { connections: 2_000, messages: Some(5_000_000), timeout: Duration::from_secs(60), ..small })
            .await;
    println!("{report}");
    assert!(report.passed(false), "{report}");
    assert_eq!((report.operations, report.connections_opened), (5_000_000, 2_000));
    scene.nothing_is_left(2_000).await;
    let served: Vec<_> = scene.servers.iter().map(|server| server.totals().exchanges).collect();
    println!("served: {served:?}; every gauge at rest; descriptors: {} as before", scene.at_rest);
    assert_eq!(served.iter().sum::<u64>(), 5_000_000);
}

#[tokio::test]
async fn every_scenario_verified_and_nothing_left_after_it() {
    let scene = Scene::new().await;
    let base =
        |scenario| LoadPlan { threads: 2, timeout: Duration::from_secs(20), ..LoadPlan::new(scene.front, scenario) };
    let small = base(Scenario::SmallMessages);
    let close = LoadPlan { connections: 20, messages: Some(1_000), ..base(Scenario::ConnectRequestClose) };
    let bulk = |scenario| LoadPlan { connections: 4, messages: Some(12), size: 5_000_001, ..base(scenario) };
    let plans = [
        LoadPlan { connections: 50, messages: Some(20_000), ..small.clone() },
        LoadPlan { connections: 50, messages: Some(2_000), rate: Some(2_000.0), ..small },
        LoadPlan { connections: 10, messages: Some(200), size: 300_000, ..base(Scenario::LargeMessages) },
        bulk(Scenario::BulkDownload),
        bulk(Scenario::BulkUpload),
        LoadPlan { close: CloseSide::Server, ..close.clone() },
        LoadPlan { close: CloseSide::Client, ..close },
        LoadPlan { connections: 300, duration: Some(Duration::from_millis(300)), ..base(Scenario::Idle) },
    ];
    let mut opened = 0;
    for plan in plans {
        let report = load(plan).await;
        assert!(report.passed(false) && report.operations > 0, "{report}");
        assert_eq!((report.connections_abandoned, report.not_started), (0, 0), "{report}");
        opened += report.connections_opened;
    }
    for server in &scene.servers {
        assert!(server.totals().exchanges > 1_000, "{:?}", server.totals());
    }
    scene.nothing_is_left(opened).await;
}

/// Open descriptors while no session is there and no probe is on its way; `None` while there is any. The pipes that are kept
/// for the next bulk, two descriptors each, have a gauge of their own.
async fn rest(program: &Program, admin: SocketAddr) -> Option<usize> {
    let metrics = get(admin, "/metrics").await.ok()?.1;
    for gauge in ["worker_sessions", "listener_sessions", "pool_sessions", "backend_sessions", "probes_in_flight"] {
        let name = format!("evenkeel_{gauge}");
        assert!(metrics.contains(&format!("\n{name}")), "{name} is there");
        (sum(&metrics, &name) == 0.0).then_some(())?;
    }
    let pipes = sum(&metrics, "evenkeel_relay_pipes") as usize;
    std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count().checked_sub(2 * pipes)
}

/// All series whose name, or name and labels, begin so.
fn sum(metrics: &str, name: &str) -> f64 {
    let series =
        metrics.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}
