//! Checks in a file: shared by name, allowed to run programs, with agent checks beside them, and certificates that expire.

use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Backend, Program, Rig, fixture, sealed, soon, until};

fn listener_and_pool(name: &str, backend: &Backend, more: &str) -> String {
    format!(
        "[listeners.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n[pools.{name}]\nbackends = [\"{}\"]\n{more}\n",
        backend.address()
    )
}

#[tokio::test]
async fn a_named_check_is_one_probe_for_all_its_pools() {
    let backend = Backend::echo().await;
    let named =
        "[checks.alive]\nkind = \"script\"\ninterval = \"40ms\"\nsteps = [{ send = \"x\" }, { expect = \"x\" }]\n";
    let more = "check = \"alive\"";
    let text = ["one", "two", "three"].map(|pool| listener_and_pool(pool, &backend, more)).concat();
    // A pool that sends a header asks another question.
    let fourth = listener_and_pool("four", &backend, "check = \"alive\"\nsend_proxy = \"v1\"");
    let rig = Rig::start(&format!("{named}{text}{fourth}")).await;
    for pool in ["one", "two", "three", "four"] {
        let passes = format!(
            "evenkeel_probes_total{{pool=\"{pool}\",backend=\"{}\",kind=\"script\",result=\"pass\"}}",
            backend.address()
        );
        until(&passes, || async { (rig.metric(&passes).await >= 3.0).then_some(()) }).await;
    }
    assert_eq!(rig.balancer().state().prober.stats().running, 2);
    rig.stop().await;
}

/// Its health is whether a file is there.
fn executing(backend: &Backend, file: &std::path::Path) -> String {
    let check = format!(
        "check = {{ kind = \"exec\", command = [\"/bin/sh\", \"-c\", \"echo $EVENKEEL_ADDRESS; [ -e {} ]\"], \
         interval = \"50ms\", fast_interval = \"20ms\", timeout = \"10s\" }}",
        file.display()
    );
    format!("admin.bind = \"off\"\n{}", listener_and_pool("web", backend, &check))
}

#[tokio::test]
async fn programs_run_only_where_that_is_allowed() {
    let backend = Backend::echo().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("healthy");
    std::fs::write(&file, "").unwrap();
    let config = executing(&backend, &file);
    for command in ["run", "check"] {
        let mut refused = Program::start(&config, &[command]);
        assert_eq!(refused.end().await.code(), Some(2), "{:?}", refused.log());
        assert_eq!(
            refused.log(),
            [
                "evenkeel: the check of pool `web` is of kind `exec`: it runs a program as this user; start with --allow-exec if \
              that is wanted"
            ]
        );
    }
    let mut checked = Program::start(&config, &["check", "--allow-exec"]);
    assert!(checked.end().await.success(), "{:?}", checked.log());

    let mut program = Program::start(&config, &["run", "--allow-exec"]);
    let line = program.until_says("up: exec run /bin/sh: exit status 0, said").await;
    assert!(line.contains(&backend.address().to_string()), "{line}");
    std::fs::remove_file(&file).unwrap();
    program.until_says("down: exec run /bin/sh: exit status 1").await;
    program.signal(Signal::TERM);
    assert!(program.end().await.success());
}

#[tokio::test]
async fn a_missing_ca_file_is_an_error_at_the_start() {
    let backend = Backend::echo().await;
    let check = "check = { kind = \"tls\", ca_file = \"/no/such.pem\" }";
    let config = format!("admin.bind = \"off\"\n{}", listener_and_pool("web", &backend, check));
    for command in ["run", "check"] {
        let mut refused = Program::start(&config, &[command]);
        assert_eq!(refused.end().await.code(), Some(2), "{:?}", refused.log());
        let wanted = "evenkeel: the check of pool `web` can't work: ca_file /no/such.pem: No such file or directory";
        assert!(refused.log().last().unwrap().starts_with(wanted), "{:?}", refused.log());
    }
}

#[tokio::test]
async fn an_agent_beside_a_check_advises_and_its_absence_changes_nothing() {
    let (backend, said) = (Backend::echo().await, Arc::new(Mutex::new("up 50%\n")));
    let words = Arc::clone(&said);
    let agent = Backend::serving(move |mut stream| {
        let words = Arc::clone(&words);
        async move {
            let mut asked = [0; 3];
            if stream.read_exact(&mut asked).await.is_ok() && asked == *b"hi\n" {
                let text = *words.lock().unwrap();
                let _ = stream.write_all(text.as_bytes()).await;
            }
        }
    })
    .await;
    let more = format!(
        "check = {{ interval = \"50ms\" }}\nagent = {{ port = {}, interval = \"50ms\", timeout = \"10s\", send = \"hi\\n\" }}",
        agent.address().port()
    );
    let config = format!("admin.bind = \"127.0.0.1:0\"\n{}", listener_and_pool("web", &backend, &more));
    let mut program = Program::start(&config, &["run"]);
    program.until_says("its agent says: ready, weight 50%").await;
    *said.lock().unwrap() = "drain\n";
    program.until_says("its agent says: drain, weight 50%").await;
    *said.lock().unwrap() = "up blue\n";
    program.until_says(r#"its agent says what is not known: "up blue""#).await;
    *said.lock().unwrap() = "weight:40\n";
    program.until_says("its agent says: drain, weight 40").await;
    let probed = backend.connections();
    drop(agent);
    program.until_says("its agent can't be asked, what it said last stays: refused").await;
    let admin = program.admin().await;
    let metric = format!(
        "evenkeel_backend_agent_answers_total{{pool=\"web\",backend=\"{}\",result=\"unreachable\"}} ",
        backend.address()
    );
    until("it is counted", || async {
        let (_, text) = crate::support::get(admin, "/metrics").await.ok()?;
        text.lines().any(|line| line.strip_prefix(&metric).is_some_and(|count| count != "0")).then_some(())
    })
    .await;
    let (_, explained) =
        crate::support::get(admin, &format!("/api/v1/backends/web/{}", backend.address())).await.unwrap();
    let says = "it asks for drain, weight 40; it can't be asked: agent connect";
    assert!(explained.contains(says), "{explained}");
    until("it is still probed", || async { (backend.connections() > probed + 5).then_some(()) }).await;
    program.signal(Signal::TERM);
    assert!(soon("its end", program.end()).await.success());
    let advised: Vec<_> = program.log().into_iter().filter(|line| line.contains("its agent says")).collect();
    // Two wishes, a word that is not known, a weight.
    assert_eq!(advised.len(), 4, "{advised:#?}");
}

#[tokio::test]
async fn a_certificate_that_expires_soon_is_a_warning_and_not_a_failure() {
    let backend = sealed("expired.pem").await;
    let check = "check = { kind = \"tls\", verify = false, interval = \"50ms\" }";
    let mut program = Program::start(
        &format!("admin.bind = \"127.0.0.1:0\"\n{}", listener_and_pool("web", &backend, check)),
        &["run"],
    );
    let line = program.until_says("certificate expired 2").await;
    assert!(line.contains("WARN") && line.contains("days ago; renew it"), "{line}");
    program.until_says("up: tls TLS handshake with 127.0.0.1: TLS 1.3, certificate expired").await;
    let probed = backend.connections();
    until("it is probed again", || async { (backend.connections() > probed + 5).then_some(()) }).await;
    program.signal(Signal::TERM);
    assert!(program.end().await.success());
    let warned = program.log().iter().filter(|line| line.contains("renew it")).count();
    assert_eq!(warned, 1, "once a day");

    let good = sealed("certificate.pem").await;
    let check = format!("check = {{ kind = \"tls\", ca_file = {:?} }}", fixture("certificate.pem"));
    let rig = Rig::with_backends(&[&good.address().to_string()], &check).await;
    let up = rig.until_standing(&good.address().to_string(), "up").await;
    assert_eq!(up["last_probe"]["certificate_ends"], "2126-10-28T15:03:20.000Z");
    let labels = format!("{{pool=\"back\",backend=\"{}\"}}", good.address());
    assert_eq!(
        rig.metric(&format!("evenkeel_probe_certificate_expiry_timestamp_seconds{labels}")).await,
        4_948_873_400.0
    );
    assert_eq!(rig.metric(&format!("evenkeel_probe_certificate_expires_soon{labels}")).await, 0.0);
    rig.stop().await;
}

/// Runs a program as the check of a backend.
fn running(backend: &Backend, script: &str, keys: &str) -> String {
    let check = format!(
        "check = {{ kind = \"exec\", command = [\"/bin/sh\", \"-c\", {script:?}], timeout = \"60s\", {keys} }}"
    );
    format!("admin.bind = \"127.0.0.1:0\"\n{}", listener_and_pool("web", backend, &check))
}

/// Of a process, or `None` if there is none: its state, and its parent.
fn process(pid: &str) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_over(pid: &str) -> bool {
    process(pid).is_none_or(|(state, _)| state == 'Z')
}

/// What `script` wrote: a pid a line.
async fn pids(file: &std::path::Path, count: usize) -> Vec<String> {
    until("the check runs", || async {
        let pids: Vec<String> = std::fs::read_to_string(file).ok()?.lines().map(str::to_owned).collect();
        (pids.len() == count).then_some(pids)
    })
    .await
}

#[tokio::test]
async fn programs_end_with_the_balancer() {
    let backend = Backend::echo().await;
    let directory = tempfile::tempdir().unwrap();
    // A stop ends the whole group.
    let file = directory.path().join("stopped");
    let script = format!("sleep 600 & echo $! > {0}; echo $$ >> {0}; wait", file.display());
    let mut program = Program::start(&running(&backend, &script, ""), &["run", "--allow-exec"]);
    let group = pids(&file, 2).await;
    program.signal(Signal::TERM);
    assert!(soon("its end", program.end()).await.success());
    until("the group is gone", || async { group.iter().all(|pid| is_over(pid)).then_some(()) }).await;

    // A kill ends the program, by the kernel.
    let file = directory.path().join("killed");
    let script = format!("echo $$ > {}; exec sleep 600", file.display());
    let mut program = Program::start(&running(&backend, &script, ""), &["run", "--allow-exec"]);
    let group = pids(&file, 1).await;
    program.signal(Signal::KILL);
    soon("its end", program.end()).await;
    until("it is gone", || async { is_over(&group[0]).then_some(()) }).await;
}

#[tokio::test]
async fn an_unknown_user_for_a_program_is_an_error_at_the_start() {
    let backend = Backend::echo().await;
    let config = running(&backend, "true", "run_as = \"no-such-user\"");
    for command in ["run", "check"] {
        let mut refused = Program::start(&config, &[command, "--allow-exec"]);
        assert_eq!(refused.end().await.code(), Some(2), "{:?}", refused.log());
        let wanted =
            "evenkeel: the check of pool `web` can't work: run_as \"no-such-user\": there is no user of that name";
        assert!(refused.log().last().unwrap().starts_with(wanted), "{:?}", refused.log());
    }
}

#[tokio::test]
async fn as_pid_1_the_balancer_reaps_orphans_but_not_check_programs() {
    let root: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
    let namespace = [root, &["--pid", "--fork", "--kill-child"]].concat();
    let mut can = tokio::process::Command::new("unshare");
    if !can.args(&namespace).arg("true").output().await.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no namespace of processes here");
        return;
    }
    let backend = Backend::echo().await;
    // Each leaves two orphans behind: one that has ended, and one that is killed with the group.
    let script = "true & sleep 60 & exit 0";
    let config = running(&backend, script, "interval = \"10ms\", fast_interval = \"10ms\"");
    let mut command = tokio::process::Command::new("unshare");
    command.args(&namespace).args([Program::PATH, "run", "--allow-exec"]);
    let mut program = Program::start_by(&config, command);
    let admin = program.admin().await;
    let series = |result: &str| {
        format!(
            "evenkeel_probes_total{{pool=\"web\",backend=\"{}\",kind=\"exec\",result=\"{result}\"}} ",
            backend.address()
        )
    };
    let metric = |text: &str, result: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&series(result)).map(str::to_owned));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
    };
    let text = until("a hundred checks", || async {
        let text = crate::support::get(admin, "/metrics").await.ok()?.1;
        (metric(&text, "pass") >= 100.0).then_some(text)
    })
    .await;
    assert_eq!(metric(&text, "fail"), 0.0);
    let balancer = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", program.pid())).unwrap();
    let balancer: i32 = balancer.trim().parse().unwrap();
    let zombies = || {
        let all =
            std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        all.filter_map(|pid| process(&pid)).filter(|&(state, parent)| state == 'Z' && parent == balancer).count()
    };
    // Some may just have ended: two hundred would have.
    assert!(zombies() < 20, "{}", zombies());
    let unsent = program.log().iter().filter(|line| line.contains("could not be sent")).count();
    assert_eq!(unsent, 0, "{:?}", program.log());
    rustix::process::kill_process(rustix::process::Pid::from_raw(balancer).unwrap(), Signal::TERM).unwrap();
    assert!(soon("its end", program.end()).await.success());
}
