//! Backends that fail sessions whatever their check says, flap, or are backups: through a whole balancer and real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use evenkeel::metrics::Outcome;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, Registry, Rig, exchange, reset, until};

/// Fast enough for a test; probes are so seldom that only sessions can know.
const SELDOM: &str = "check = { kind = \"tcp\", interval = \"1h\", fall = 3 }";

const HTTP: &str =
    "check = { kind = \"http\", path = \"/health\", interval = \"40ms\", fast_interval = \"20ms\", timeout = \"10s\" }";

#[derive(Clone, Copy)]
enum Mood {
    /// Answers sessions with its name, and `GET /health` with 200.
    Good,
    /// Takes a request and closes without an answer.
    Mute,
    /// Answers `GET /health` with 503.
    Sick,
    /// Closes what it accepts.
    Hasty,
    /// Resets what it accepts.
    Rude,
}

struct Moody {
    backend: Backend,
    mood: Arc<AtomicU8>,
}

impl Moody {
    async fn new(name: &'static str, mood: Mood) -> Self {
        let mood = Arc::new(AtomicU8::new(mood as u8));
        let told = Arc::clone(&mood);
        let backend = Backend::serving(move |stream| serve(stream, name, told.load(SeqCst))).await;
        Self { backend, mood }
    }

    fn becomes(&self, mood: Mood) {
        self.mood.store(mood as u8, SeqCst);
    }

    fn id(&self) -> String {
        self.backend.address().to_string()
    }
}

async fn serve(mut stream: TcpStream, name: &'static str, mood: u8) {
    let mut request = [0; 1024];
    if mood == Mood::Hasty as u8 {
        return;
    }
    if mood == Mood::Rude as u8 {
        return reset(stream);
    }
    let Ok(n @ 1..) = stream.read(&mut request).await else { return };
    if mood == Mood::Mute as u8 {
        return;
    }
    let answer = match (request[..n].starts_with(b"GET /health"), mood == Mood::Sick as u8) {
        (true, sick) => {
            format!("HTTP/1.1 {} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", if sick { 503 } else { 200 })
        }
        (false, _) => name.to_owned(),
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
}

async fn pool(backends: &[&Moody], more: &str) -> Rig {
    let ids: Vec<_> = backends.iter().map(|backend| backend.id()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let rig = Rig::with_backends(&ids, more).await;
    for id in ids {
        rig.until_standing(id, "up").await;
    }
    rig
}

/// One session; `None` = it got no answer. Whatever broke it, its end has been counted when the next one is served.
async fn ask(rig: &Rig) -> Option<String> {
    // Not finished by the client: a backend that then closes has nothing to excuse it.
    let asked = async {
        let mut stream = TcpStream::connect(rig.front()).await?;
        stream.write_all(b"who?").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    crate::support::soon("an answer", asked).await.ok().filter(|answer| !answer.is_empty())
}

/// Asks until the backend has that standing.
async fn ask_until(rig: &Rig, id: &str, standing: &str) -> Value {
    until(&format!("{id} {standing}"), || async {
        ask(rig).await;
        rig.backend(id).await.filter(|backend| backend["standing"] == standing)
    })
    .await
}

fn of(metric: &str, id: &str) -> String {
    format!("{metric}{{pool=\"back\",backend=\"{id}\"}}")
}

#[tokio::test]
async fn a_backend_that_closes_before_it_answers_is_ejected_and_comes_back() {
    let (good, bad) = (Moody::new("good", Mood::Good).await, Moody::new("bad", Mood::Mute).await);
    let rig = pool(&[&good, &bad], &format!("{SELDOM}\noutliers.trial = \"50ms\"\ndamping.stay_up = \"0s\"")).await;
    let id = bad.id();
    let ejected = ask_until(&rig, &id, "ejected").await;
    assert_eq!(ejected["facts"]["probe"], "up", "its check sees nothing wrong");
    assert_eq!(ejected["facts"]["passive"], "ejected");
    let reason = ejected["reason"].as_str().unwrap();
    assert!(reason.starts_with("3 sessions failed in a row, the last one: "), "{reason}");
    assert!(ejected["ejected"]["until"].is_string() && ejected["ejected"]["in_a_row"] == 1, "{ejected}");
    assert!(rig.metric(&of("evenkeel_outlier_ejections_total", &id)).await >= 1.0);
    assert!(rig.metric("evenkeel_outlier_detected_total{pool=\"back\",reason=\"consecutive\"}").await >= 1.0);

    bad.becomes(Mood::Good);
    let up = ask_until(&rig, &id, "up").await;
    assert!(up["ejected"].is_null());
    let passed = format!("evenkeel_outlier_trials_total{{pool=\"back\",backend=\"{id}\",result=\"pass\"}}");
    assert_eq!(rig.metric(&passed).await, 1.0, "one session has shown it");
    assert_eq!(rig.metric("evenkeel_outlier_ejected_backends{pool=\"back\"}").await, 0.0);
    until("it has its share", || async { (ask(&rig).await.as_deref() == Some("bad")).then_some(()) }).await;
    rig.stop().await;
}

/// Once one session has failed there, the others hold back their bytes for a moment: they go elsewhere, unseen, and so do the
/// trials.
#[tokio::test]
async fn a_backend_that_ends_what_it_accepts_is_found_out_before_it_is_sent_anything() {
    for (mood, reason) in [(Mood::Hasty, "closed"), (Mood::Rude, "reset")] {
        let (good, bad) = (Moody::new("good", Mood::Good).await, Moody::new("bad", Mood::Good).await);
        let id = bad.id();
        // Sessions begin when their clients have spoken.
        let rig = Rig::start(&format!(
            "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\ntcp = {{ defer_accept = \"10s\" }}\n\
             [pools.back]\nbackends = [\"{}\", \"{id}\"]\n{SELDOM}\noutliers.trial = \"20ms\"\n\
             damping.stay_up = \"0s\"\n",
            good.id(),
        ))
        .await;
        rig.until_standing(&id, "up").await;
        bad.becomes(mood);
        ask_until(&rig, &id, "ejected").await;
        let unseen =
            format!("evenkeel_backend_connect_failures_total{{pool=\"back\",backend=\"{id}\",reason=\"{reason}\"}}");
        let failed = format!("evenkeel_outlier_trials_total{{pool=\"back\",backend=\"{id}\",result=\"fail\"}}");
        until("trials find it out unseen", || async {
            ask(&rig).await;
            (rig.metric(&unseen).await >= 4.0 && rig.metric(&failed).await >= 3.0).then_some(())
        })
        .await;
        bad.becomes(Mood::Good);
        ask_until(&rig, &id, "up").await;
        rig.stop().await;
    }
}

/// A backend that closes without a word to a client that has not said any does nothing wrong.
#[tokio::test]
async fn a_silent_client_gets_the_close_of_a_doubtful_backend() {
    let bad = Moody::new("bad", Mood::Mute).await;
    let rig = pool(&[&bad], SELDOM).await;
    assert_eq!(ask(&rig).await, None);
    bad.becomes(Mood::Hasty);
    let mut silent = TcpStream::connect(rig.front()).await.unwrap();
    assert_eq!(crate::support::soon("its end", silent.read(&mut [0])).await.unwrap(), 0);
    drop(silent);
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(Outcome::Completed), 2);
    rig.stop().await;
}

#[tokio::test]
async fn observe_only_counts() {
    let (good, bad) = (Moody::new("good", Mood::Good).await, Moody::new("bad", Mood::Mute).await);
    let rig = pool(&[&good, &bad], &format!("{SELDOM}\noutliers.mode = \"observe\"")).await;
    let series = "evenkeel_outlier_detected_total{pool=\"back\",reason=\"consecutive\"}";
    until("it is seen", || async {
        ask(&rig).await;
        (rig.metric(series).await >= 2.0).then_some(())
    })
    .await;
    assert_eq!(rig.backend(&bad.id()).await.unwrap()["standing"], "up");
    assert_eq!(rig.metric(&of("evenkeel_outlier_ejections_total", &bad.id())).await, 0.0);
    rig.stop().await;
}

#[tokio::test]
async fn no_more_than_max_ejected_and_never_the_last_one() {
    let all = [Moody::new("a", Mood::Mute).await, Moody::new("b", Mood::Mute).await, Moody::new("c", Mood::Mute).await];
    let [a, b, c] = &all;
    let rig = pool(&[a, b, c], &format!("{SELDOM}\noutliers = {{ max_ejected = 34, trial = \"1h\" }}")).await;
    let refused = "evenkeel_outlier_ejections_refused_total{pool=\"back\"}";
    until("one is refused", || async {
        ask(&rig).await;
        (rig.metric(refused).await >= 2.0).then_some(())
    })
    .await;
    rig.until_metric("evenkeel_outlier_ejected_backends{pool=\"back\"}", 1.0).await;
    rig.until_metric("evenkeel_pool_eligible_backends{pool=\"back\"}", 2.0).await;
    rig.stop().await;

    let rig = pool(&[a], SELDOM).await;
    until("refused", || async {
        ask(&rig).await;
        (rig.metric(refused).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(rig.backend(&a.id()).await.unwrap()["standing"], "up");
    a.becomes(Mood::Good);
    assert_eq!(ask(&rig).await.as_deref(), Some("a"));
    rig.stop().await;
}

#[tokio::test]
async fn a_backup_is_used_while_the_first_tier_is_down_and_left_after_that() {
    let (first, backup) = (Moody::new("first", Mood::Good).await, Moody::new("backup", Mood::Good).await);
    let rig = Rig::start(&format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"back\"\n[pools.back]\n\
         backends = [{{ address = \"{}\", id = \"first\" }}, {{ address = \"{}\", id = \"backup\", backup = true }}]\n{HTTP}\n",
        first.id(),
        backup.id()
    ))
    .await;
    for id in ["first", "backup"] {
        rig.until_standing(id, "up").await;
    }
    let answers = |rig: &Rig| {
        let front = rig.front();
        async move {
            let mut all = Vec::new();
            for _ in 0..4 {
                all.push(String::from_utf8(exchange(front, b"who?").await.unwrap()).unwrap());
            }
            all
        }
    };
    assert_eq!(answers(&rig).await, ["first"; 4]);
    let load = |tier: u8| format!("evenkeel_pool_tier_load_ratio{{pool=\"back\",tier=\"{tier}\"}}");
    first.becomes(Mood::Sick);
    rig.until_standing("first", "down").await;
    rig.until_metric(&load(1), 1.0).await;
    assert_eq!(answers(&rig).await, ["backup"; 4]);
    first.becomes(Mood::Good);
    rig.until_standing("first", "up").await;
    rig.until_metric(&load(0), 1.0).await;
    assert_eq!(answers(&rig).await, ["first"; 4]);
    rig.stop().await;
}

#[tokio::test]
async fn a_recovered_backend_starts_slowly() {
    let (old, new) = (Moody::new("old", Mood::Good).await, Moody::new("new", Mood::Good).await);
    let registry = Registry::new().await;
    registry.add("web", "old", old.backend.address());
    let rig = registry.rig("", &format!("{HTTP}\nslow_start = \"10h\"")).await;
    let (old_id, new_id) = (registry.id("old"), registry.id("new"));
    assert_eq!(rig.until_standing(&old_id, "up").await["effective_weight"], 1.0);
    registry.add("web", "new", new.backend.address());
    // Within an hour they would count as equally new, so it takes its whole share.
    assert_eq!(rig.until_standing(&new_id, "up").await["effective_weight"], 1.0);
    rig.stop().await;

    let rig = registry.rig("", &format!("{HTTP}\nslow_start = \"1s\"\ndamping.stay_up = \"0s\"")).await;
    for id in [&old_id, &new_id] {
        rig.until_standing(id, "up").await;
    }
    let since = std::time::Instant::now();
    until("the old one is old", || async { (since.elapsed().as_millis() > 1_100).then_some(()) }).await;
    new.becomes(Mood::Sick);
    rig.until_standing(&new_id, "down").await;
    new.becomes(Mood::Good);
    let weights = until("it grows", || async {
        let backend = rig.backend(&new_id).await?;
        let weight = backend["effective_weight"].as_f64()?;
        (backend["standing"] == "up").then_some(weight)
    })
    .await;
    assert!((0.1..=1.0).contains(&weights), "{weights}");
    until("all of it", || async { (rig.backend(&new_id).await?["effective_weight"] == 1.0).then_some(()) }).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_backend_that_flaps_has_to_stay_up_first() {
    let (good, flaps) = (Moody::new("good", Mood::Good).await, Moody::new("flaps", Mood::Good).await);
    let damping = "damping = { window = \"1h\", stay_up = \"1h\", max_stay_up = \"1h\" }";
    let rig = pool(&[&good, &flaps], &format!("{HTTP}\n{damping}")).await;
    let id = flaps.id();
    for then in ["up", "damped"] {
        flaps.becomes(Mood::Sick);
        rig.until_standing(&id, "down").await;
        flaps.becomes(Mood::Good);
        rig.until_standing(&id, then).await;
    }
    let damped = rig.backend(&id).await.unwrap();
    assert_eq!((&damped["facts"]["guard"], &damped["facts"]["probe"]), (&"damped".into(), &"up".into()));
    assert!(damped["damped_until"].is_string());
    assert_eq!(damped["reason"], "it works again, but flapped once: it has to stay up for a while first");
    for _ in 0..4 {
        assert_eq!(ask(&rig).await.as_deref(), Some("good"));
    }
    // Nobody else is left: then it is good enough.
    good.becomes(Mood::Sick);
    rig.until_standing(&id, "up").await;
    rig.stop().await;
}
