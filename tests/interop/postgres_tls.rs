//! PostgreSQL with TLS: several servers behind one address, told apart by the name that the client asks for.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::port;
use super::postgres::{Server, UNPRIVILEGED, processed};
use crate::support::{CommandOutput, Rig, command, programs, run, until};

/// With a certificate for a name; clients trust it alone.
async fn server(openssl: &Path, initdb: &Path, postgres: &Path, name: &str) -> (Server, PathBuf) {
    let prepare = async |data: PathBuf| {
        let path = |file: &str| data.join(file).to_str().unwrap().to_owned();
        let (key, certificate) = (path("server.key"), path("server.crt"));
        let (subject, names) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
        let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let rest = ["-days", "2", "-subj", &subject, "-addext", &names, "-keyout", &key, "-out", &certificate];
        run(openssl, &[&request[..], &rest].concat(), b"").await.good();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            for file in [&key, &certificate] {
                chown(file, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
            }
        }
        "ssl = on\n".to_owned()
    };
    let server = Server::start_with(initdb, postgres, prepare).await;
    // Clients run as somebody else, who may not look into the data.
    let trusted = server.directory.path().join("trusted.pem");
    fs::copy(server.directory.path().join("data/server.crt"), &trusted).unwrap();
    (server, trusted)
}

/// Both by their names, and `one` for what has no name.
async fn rig(one: &Server, two: &Server) -> Rig {
    Rig::start(&format!(
        "[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"one\"\n\
         routes = [{{ sni = \"two.test\", pool = \"two\" }}, {{ sni = \"one.test\", pool = \"one\" }}]\n\
         sniff = {{ starttls = \"postgres\", timeout = \"10m\" }}\n\
         [pools.one]\nbackends = [\"{}\"]\n[pools.two]\nbackends = [\"{}\"]\n",
        one.port.address(),
        two.port.address(),
    ))
    .await
}

fn url(name: &str, front: SocketAddr, options: &str) -> String {
    let (ip, port) = (front.ip(), front.port());
    format!("postgresql://test@{name}:{port}/postgres?hostaddr={ip}&connect_timeout=15&{options}")
}

async fn sql(psql: &Path, url: &str, text: &str) -> CommandOutput {
    run(psql, &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text, url], b"").await
}

/// Its port, and whether the session is within TLS, as it says itself.
const WHICH: &str = "SELECT inet_server_port(), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[tokio::test]
async fn clients_of_postgresql_go_by_the_name_that_they_ask_for() {
    let Some([openssl, initdb, postgres, psql, pgbench]) =
        programs(["openssl", "initdb", "postgres", "psql", "pgbench"])
    else {
        return;
    };
    let ((one, one_trusted), (two, two_trusted)) = tokio::join!(
        server(&openssl, &initdb, &postgres, "one.test"),
        server(&openssl, &initdb, &postgres, "two.test")
    );
    let rig = rig(&one, &two).await;
    let front = rig.front();
    let asked = async |name, options: String| sql(&psql, &url(name, front, &options), WHICH).await;
    for (name, server, trusted) in [("one.test", &one, &one_trusted), ("two.test", &two, &two_trusted)] {
        let wanted = format!("{}|t", port(server.port.address()));
        for options in ["sslmode=require", "sslmode=prefer", "sslmode=require&gssencmode=disable"] {
            assert_eq!(asked(name, options.to_owned()).await.good().trim(), wanted, "{name} {options}");
        }
        let verified = format!("sslmode=verify-full&sslrootcert={}", trusted.display());
        assert_eq!(asked(name, verified.clone()).await.good().trim(), wanted, "{name}");

        let url = url(name, front, &verified);
        run(&pgbench, &["-i", "-q", &url], b"").await.good();
        let report = run(&pgbench, &["-n", "-C", "-c", "4", "-j", "2", "-t", "25", &url], b"").await.good();
        assert!(report.contains("number of failed transactions: 0 ") && processed(&report) == 100, "{report}");
        let report = run(&pgbench, &["-n", "-c", "4", "-j", "2", "-T", "2", &url], b"").await.good();
        assert!(report.contains("number of failed transactions: 0 ") && processed(&report) > 0, "{report}");

        // OpenSSL's own SSLRequest.
        let starttls = ["s_client", "-starttls", "postgres", "-servername", name, "-showcerts", "-connect"];
        let shown = run(&openssl, &[&starttls[..], &[&front.to_string()]].concat(), b"").await.out;
        assert!(shown.contains(fs::read_to_string(trusted).unwrap().trim()), "{shown}");
    }
    // The certificate of the other one is none that this client trusts.
    let refused = asked("two.test", format!("sslmode=verify-full&sslrootcert={}", one_trusted.display())).await;
    assert!(!refused.ok && refused.err.contains("certificate verify failed"), "{refused:?}");
    // What has no name goes to the listener's pool.
    let first = port(one.port.address());
    for (name, options, tls) in [
        ("two.test", "sslmode=disable", "f"),
        ("two.test", "sslmode=allow", "f"),
        ("two.test", "sslmode=require&sslsni=0", "t"),
        ("three.test", "sslmode=require", "t"),
        ("127.0.0.1", "sslmode=require", "t"),
    ] {
        assert_eq!(asked(name, options.to_owned()).await.good().trim(), format!("{first}|{tls}"), "{name} {options}");
    }
    rig.until_no_sessions().await;
    assert_eq!(rig.ended(evenkeel::metrics::Outcome::StarttlsFailed), 0);
    rig.stop().await;
}

/// A CancelRequest names no server. It is of use to clients of the listener's own pool.
#[tokio::test]
async fn a_cancel_of_postgresql_goes_to_the_pool() {
    let Some([openssl, initdb, postgres, psql]) = programs(["openssl", "initdb", "postgres", "psql"]) else { return };
    let ((one, _), (two, _)) = tokio::join!(
        server(&openssl, &initdb, &postgres, "one.test"),
        server(&openssl, &initdb, &postgres, "two.test")
    );
    let rig = rig(&one, &two).await;
    let url = url("one.test", rig.front(), "sslmode=require");
    let mut long = tokio::process::Command::from(command(&psql));
    long.args(["-X", "-q", "-A", "-t", "-c", "SELECT pg_sleep(600)", &url]);
    long.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = long.spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    let asking = format!("postgresql://test@{}/postgres?sslmode=disable&connect_timeout=15", one.port.address());
    until("it sleeps", || async {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
        (sql(&psql, &asking, count).await.good().trim() == "1").then_some(())
    })
    .await;
    // What Ctrl-C in its terminal does.
    kill_process(pid, Signal::INT).unwrap();
    let output = crate::support::soon("its end", child.wait_with_output()).await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("canceling statement due to user request"), "{error}");
    rig.until_no_sessions().await;
    rig.stop().await;
}
