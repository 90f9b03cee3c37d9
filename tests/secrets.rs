//! Nothing that a configuration keeps secret comes out again: not by the API, not in what a command says, not in an error and
//! not in the log.

use evenkeel::config;
use serde_json::Value;

use crate::support::{Backend, Program, Registry, get, until};

/// Drawn anew for each run; what it is is in the messages of failures.
struct Secrets {
    seed: u64,
    drawn: Vec<String>,
}

impl Secrets {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut word = || (0..16).map(|_| random.alphanumeric()).collect::<String>();
        let drawn = (0..9).map(|_| word()).collect();
        Self { seed, drawn }
    }

    /// A configuration with all of them, each at a place of its own.
    fn file(&self, backend: &str, registry: &str) -> String {
        let [admin, read, token, header, body, step, hex, agent, password] = &self.drawn[..] else { unreachable!() };
        let hex: String = hex.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "[log]\nlevel = \"debug\"\n\
             [admin]\nbind = \"127.0.0.1:0\"\nadmin_token = \"{admin}\"\nread_token = \"{read}\"\n\
             [consul]\naddress = \"{registry}\"\ntoken = \"{token}\"\n\
             [listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"http\"\n\
             [pools.http]\nbackends = [\"{backend}\"]\n[pools.http.check]\nkind = \"http\"\nmethod = \"POST\"\ninterval = \"100ms\"\n\
             headers = {{ X-Key = \"{header}\" }}\nrequest_body = \"{body}\"\n\
             [pools.script]\nbackends = [\"{backend}\"]\nagent = {{ port = 9, send = \"{agent}\" }}\n[pools.script.check]\n\
             kind = \"script\"\ninterval = \"100ms\"\nsteps = [{{ send = \"{step}\" }}, {{ send_hex = \"{hex}\" }}, {{ expect = \"no\" }}]\n\
             [pools.redis]\nbackends = [\"{backend}\"]\ncheck = {{ kind = \"redis\", password = \"{password}\", interval = \"100ms\" }}\n\
             [pools.consul]\nconsul = {{ service = \"web\" }}\n"
        )
    }

    fn are_not_in(&self, what: &str, text: &str) {
        for secret in &self.drawn {
            let escaped: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            let is_in = text.contains(secret.as_str()) || text.contains(&escaped);
            assert!(!is_in, "seed {}: {what} has {secret}:\n{text}", self.seed);
        }
    }
}

#[tokio::test]
async fn no_secret_comes_out_of_a_running_balancer() {
    let (backend, registry) = (Backend::answering("+PONG\r\n").await, Registry::new().await);
    registry.add("web", "a", backend.address());
    let (old, new) = (Secrets::new(fastrand::u64(..)), Secrets::new(fastrand::u64(..)));
    let file = |secrets: &Secrets| secrets.file(&backend.address().to_string(), &registry.url());
    let program = Program::start(&file(&old), &[]);
    program.front("front").await;
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(Program::PATH);
        command.args(arguments).args(["--admin", "./admin.sock"]).current_dir(program.directory());
        let output = command.output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    program.until_says("check").await;

    for arguments in [&["config"][..], &["config", "--json"], &["backends"], &["explain", "http"], &["status"]] {
        let said = run(arguments).await;
        assert!(!said.is_empty());
        old.are_not_in(&format!("{arguments:?}"), &said);
    }
    let (status, refused) = get(program.admin().await, "/api/v1/config").await.unwrap();
    assert_eq!(status, 401);
    old.are_not_in("a refusal", &refused);

    // Only what is sent differs, and all of it: that can't be seen, and is said.
    std::fs::write(program.directory().join("next.toml"), file(&new)).unwrap();
    let planned = run(&["plan", "--config", "next.toml"]).await;
    let places = [
        "admin.admin_token",
        "admin.read_token",
        "pools.consul.consul.token",
        "pools.http.check.headers.x-key",
        "pools.http.check.request_body",
        "pools.redis.check.password",
        "pools.script.agent.send",
        "pools.script.check.steps",
    ];
    let unseen = format!("secrets are not shown, and so not compared: {}\n", places.join(", "));
    assert_eq!(planned, format!("nothing would change that can be seen\n{unseen}"));
    let planned = run(&["plan", "--config", "next.toml", "--json"]).await;
    let planned: Value = serde_json::from_str(&planned).unwrap();
    assert_eq!(planned["not_compared"], serde_json::json!(places));

    // What is applied and what is refused.
    let apply = |text: &str| {
        std::fs::write(program.directory().join("new.toml"), text).unwrap();
        std::fs::rename(program.directory().join("new.toml"), program.directory().join("lb.toml")).unwrap();
    };
    apply(&file(&new));
    program.until_says("generation=2").await;
    let broken = file(&new).replace("kind = \"redis\"", "kind = \"rediss\"").replace("request_body", "request_bodi");
    apply(&broken);
    program.until_says("request_bodi").await;
    let said = until("the refusal is shown", || async {
        let said = run(&["status"]).await;
        said.contains("refused").then_some(said)
    })
    .await;
    for secrets in [&old, &new] {
        secrets.are_not_in("status", &said);
        for arguments in [&["config", "--json"][..], &["reload"], &["check", "--config", "lb.toml"]] {
            secrets.are_not_in(&format!("{arguments:?}"), &run(arguments).await);
        }
        secrets.are_not_in("the log", &program.log().join("\n"));
    }
}

/// One fault in the file, at any place of it: whatever is said of that, no secret is in it.
#[test]
fn no_error_has_a_secret_wherever_the_fault_is() {
    let secrets = Secrets::new(fastrand::u64(..));
    let text = secrets.file("127.0.0.1:1", "http://127.0.0.1:8500");
    config::parse(&text, "lb.toml", &|_| None).unwrap();
    let refusal = |text: &str| config::parse(text, "lb.toml", &|_| None).err().map(|error| error.to_string());
    let mut refused = 0;
    let places = text.char_indices().filter(|(_, c)| !c.is_alphanumeric()).map(|(at, _)| at);
    for at in places {
        // A character is missing, or one too many.
        let without = format!("{}{}", &text[..at], &text[at + 1..]);
        let mut faults = vec![without];
        faults.extend(
            ["\"", "x", "= ", "{", "]", "\n", "${", "0", "'", "#"]
                .map(|more| format!("{}{more}{}", &text[..at], &text[at..])),
        );
        for error in faults.iter().filter_map(|fault| refusal(fault)) {
            refused += 1;
            secrets.are_not_in("an error", &error);
        }
    }
    assert!(refused > 1_000, "{refused}");
}
