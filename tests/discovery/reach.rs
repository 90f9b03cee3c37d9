//! How the real program reaches its agent: TLS with an authority that is renewed, a unix socket, Consul's own variables.

use std::path::Path;

use rustix::process::Signal;
use tokio::net::{TcpStream, UnixListener};

use super::told::source;
use crate::support::{Backend, Program, Registry, agent_fixture, exchange, fixture, sealed_front, soon, until};

const REST: &str = "admin.bind = \"127.0.0.1:0\"\nlisteners.front = { bind = \"127.0.0.1:0\", pool = \"back\" }\n\
                    pools.back = { consul = { service = \"web\" }, check = { interval = \"100ms\" } }\n";

/// A registry with one instance, which answers `a`.
async fn registry() -> (Registry, Backend) {
    let registry = Registry::new().await;
    let backend = Backend::answering("a").await;
    registry.add("web", "a", backend.address());
    (registry, backend)
}

/// What `evenkeel reload` prints.
async fn reload(program: &Program) -> String {
    let mut command = tokio::process::Command::new(Program::PATH);
    command.arg("reload").current_dir(program.directory()).env("RUNTIME_DIRECTORY", program.directory());
    let output = soon("the command", command.kill_on_drop(true).output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn until_it_serves(program: &Program) {
    program.until_says("settled: every backend is probed pool=back backends=1 up=1").await;
    assert_eq!(exchange(program.front("front").await, b"?").await.unwrap(), b"a");
}

fn replace(file: &Path, with: &Path) {
    let new = file.with_extension("new");
    std::fs::copy(with, &new).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn a_ca_file_is_read_again_at_a_reload() {
    let (registry, _backend) = registry().await;
    let agent = sealed_front(registry.address()).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    // An authority, but another one.
    std::fs::copy(fixture("certificate.pem"), &ca).unwrap();
    let consul = format!("consul = {{ address = \"https://{}\", ca_file = {ca:?} }}\n", agent.address());
    let program = Program::start(&(consul + REST), &[]);
    let admin = program.admin().await;
    let line = program.until_says("discovery fails, nothing is known yet").await;
    assert!(line.contains("UnknownIssuer"), "{line}");

    replace(&ca, &agent_fixture("ca.pem"));
    let changed = format!(
        "{}: certificates: 1 new, 1 gone, 0 kept; it is used for https://{} from now on",
        ca.display(),
        agent.address()
    );
    assert_eq!(reload(&program).await, format!("applied, generation 2\n{changed}\n"));
    program.until_says(&format!("changed: {changed}")).await;
    until_it_serves(&program).await;
    // One that says the same is no news.
    replace(&ca, &agent_fixture("ca.pem"));
    assert_eq!(reload(&program).await, "unchanged, generation 2\n");
    let told = program.log().iter().filter(|line| line.contains("from now on")).count();
    assert_eq!(told, 1);

    // One that is none is refused, and what runs goes on.
    replace(&ca, &agent_fixture("README.md"));
    program.signal(Signal::HUP);
    let refused = program.until_says("the new configuration is refused, what runs goes on").await;
    let why = format!("can't use the consul agent https://{} any more: CA file {}", agent.address(), ca.display());
    assert!(refused.contains(&why) && refused.contains("no certificate"), "{refused}");
    let asked = registry.requests();
    registry.wake("web");
    until("asked again", || async { (registry.requests() > asked).then_some(()) }).await;
    assert!(source(admin).await["error"].is_null());
}

#[tokio::test]
async fn consuls_own_variables_say_where_the_agent_is() {
    let (registry, _backend) = registry().await;
    let agent = sealed_front(registry.address()).await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("http.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let behind = registry.address();
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut behind = TcpStream::connect(behind).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut behind).await });
        }
    });
    let (plain, sealed) = (registry.address().to_string(), agent.address().to_string());
    let (unix, ca) = (format!("unix://{}", socket.display()), agent_fixture("ca.pem"));
    let ca = ca.to_str().unwrap();
    for variables in [
        &[("CONSUL_HTTP_ADDR", plain.as_str())][..],
        &[("CONSUL_HTTP_ADDR", &registry.url())],
        &[("CONSUL_HTTP_ADDR", &unix)],
        &[("CONSUL_HTTP_ADDR", &sealed), ("CONSUL_HTTP_SSL", "true"), ("CONSUL_CACERT", ca)],
        &[("CONSUL_HTTP_ADDR", &format!("http://{sealed}")), ("CONSUL_HTTP_SSL", "1"), ("CONSUL_CACERT", ca)],
        &[("CONSUL_HTTP_ADDR", &format!("https://{sealed}")), ("CONSUL_CACERT", ca)],
    ] {
        let program = Program::start_as(REST, |command| {
            command.envs(variables.iter().copied());
        });
        until_it_serves(&program).await;
    }
    accepting.abort();
}
