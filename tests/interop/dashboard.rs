//! The dashboard in a real browser: Chromium, steered by ChromeDriver over the W3C WebDriver protocol.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::console::Console;
use crate::support::{Backend, Process, Program, command, exchange, programs, session, soon, until};

/// A backend whose name would be a program, if it were taken for HTML.
const NASTY: &str = "<img src=x onerror=document.title='owned'>";

struct Browser {
    // Killed with everything below it.
    _driver: Process,
    address: SocketAddr,
    session: String,
    _home: tempfile::TempDir,
}

impl Browser {
    async fn start(driver: &std::path::Path, chromium: &std::path::Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut starting = command(driver);
        starting.arg("--port=0").env("HOME", home.path());
        let driver = Process::start(starting, &home.path().join("log"));
        let port = until("ChromeDriver's port", || {
            let log = driver.log();
            let port =
                log.split_once("successfully on port ").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
            async move { port }
        })
        .await;
        let mut this =
            Self { _driver: driver, address: ([127, 0, 0, 1], port).into(), session: String::new(), _home: home };
        // What a page of another site, or a browser's own business, would need is off.
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1400,1000",
        ];
        let profile = format!("--user-data-dir={}", this._home.path().join("profile").display());
        let arguments: Vec<&str> = arguments.into_iter().chain([profile.as_str()]).collect();
        let options = json!({ "binary": chromium, "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let session = this.call("/session", wanted).await;
        this.session = session["sessionId"].as_str().unwrap_or_else(|| panic!("{session}")).to_owned();
        this
    }

    async fn call(&self, path: &str, body: Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        // It keeps the connection, whatever it is asked.
        let whole = async {
            let mut stream = BufReader::new(TcpStream::connect(self.address).await.unwrap());
            stream.write_all(request.as_bytes()).await.unwrap();
            let (mut line, mut length) = (String::new(), 0);
            while stream.read_line(&mut line).await.unwrap() > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut answer = vec![0; length];
            stream.read_exact(&mut answer).await.unwrap();
            serde_json::from_slice::<Value>(&answer).unwrap()
        };
        let answer = soon(path, whole).await;
        assert!(answer["value"].get("error").is_none(), "{path}: {answer}");
        answer["value"].clone()
    }

    async fn open(&self, url: &str) {
        self.call(&format!("/session/{}/url", self.session), json!({ "url": url })).await;
    }

    /// What a script returns.
    async fn run(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.call(&format!("/session/{}/execute/sync", self.session), body).await
    }

    /// Waits until a script returns true.
    async fn shows(&self, script: &str) {
        until(&format!("the page shows {script}"), || async {
            (self.run(&format!("return {script}")).await == true).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_dashboard_shows_what_happens() {
    let Some([driver, chromium]) = programs(["chromedriver", "chromium"]) else { return };
    let (one, two) = (Backend::answering("a").await, Backend::answering("b").await);
    let entry = |id: &str, backend: &Backend| format!("{{ id = \"{id}\", address = \"{}\" }}", backend.address());
    let console = Console::start(&format!(
        "[admin]\nbind = \"127.0.0.1:0\"\nsocket = \"admin.sock\"\nread_token = \"geheim\"\n\
         [listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n\
         [pools.web]\nbackends = [{}, {}]\ncheck = {{ interval = \"100ms\", fast_interval = \"20ms\", timeout = \"5s\" }}\n",
        entry("first", &one),
        entry(NASTY, &two)
    ))
    .await;
    let (front, admin) = (console.program.front("front").await, console.program.admin().await);
    exchange(front, b"x").await.unwrap();
    let browser = Browser::start(&driver, &chromium).await;

    // Without a token there is a page, and nothing on it.
    browser.open(&format!("http://{admin}/")).await;
    browser.shows("!document.getElementById('door').hidden").await;
    let enter = |token: &str| {
        format!("document.getElementById('token').value = '{token}'; document.querySelector('#door button').click()")
    };
    browser.run(&enter("falsch")).await;
    browser.shows("document.getElementById('refused').textContent === 'The token is wrong.'").await;
    assert_eq!(browser.run("return document.querySelectorAll('tr.backend').length").await, 0);
    browser.run(&enter("geheim")).await;
    browser.shows("document.querySelectorAll('tr.backend').length === 2").await;
    browser.shows("document.getElementById('state').textContent === 'ready'").await;

    // Names are text, whatever they hold.
    let names = "[...document.querySelectorAll('button.name')].map(button => button.textContent)";
    let mut names: Vec<String> = serde_json::from_value(browser.run(&format!("return {names}")).await).unwrap();
    names.sort();
    assert_eq!(names, [NASTY, "first"]);
    assert_eq!(browser.run("return document.querySelectorAll('img').length").await, 0);
    assert!(browser.run("return document.title").await.as_str().unwrap().starts_with("Evenkeel: "));

    // A backend goes: its row, the pool, and what happens say so.
    browser.shows("document.getElementById('link').textContent === 'live'").await;
    console.good(&["drain", "first", "--note", "new disk"]).await;
    let row = "[...document.querySelectorAll('tr.backend')].find(row => row.textContent.includes('first')).textContent";
    browser.shows(&format!("{row}.includes('draining')")).await;
    browser.shows("document.getElementById('events').textContent.includes('new disk')").await;
    two.stop().await;
    browser.shows("document.getElementById('pools').textContent.includes('nothing is up, sessions are refused')").await;
    browser.shows("document.getElementById('tiles').textContent.includes('0 of 2')").await;

    // Why, in its own words.
    browser.run("[...document.querySelectorAll('button.name')].find(b => b.textContent === 'first').click()").await;
    browser
        .shows("(document.querySelector('tr.why tr.decides') || {textContent: ''}).textContent.includes('new disk')")
        .await;
    // A filter leaves what it names.
    let filter = "const filter = document.getElementById('filter'); filter.value = 'draining'; \
                  filter.dispatchEvent(new Event('input'))";
    browser.run(filter).await;
    browser.shows("document.querySelectorAll('tr.backend').length === 1").await;

    // The page shows when the balancer does not answer.
    console.program.signal(rustix::process::Signal::KILL);
    browser.shows("document.getElementById('link').textContent.includes('no answer')").await;
    browser.shows("document.getElementById('state').textContent === 'lost'").await;
}

/// What is wrong with the whole process has a line on the page for as long as it lasts: a file that was refused, a limit.
#[tokio::test]
async fn the_page_has_a_line_for_what_is_wrong_while_it_lasts_and_misses_no_backend_that_left() {
    let Some([driver, chromium]) = programs(["chromedriver", "chromium"]) else { return };
    let (one, two) = (Backend::echo().await, Backend::echo().await);
    let both = [&one, &two].map(|backend| backend.address().to_string());
    let of = |backends: &[String], limit: &str| {
        format!(
            "admin.bind = \"127.0.0.1:0\"\n[listeners.front]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n{limit} = 1\n\
             [pools.web]\nbackends = {backends:?}\ncheck = {{ kind = \"none\" }}\n"
        )
    };
    let text = |limit: &str| of(&both, limit);
    let program = Program::start(&text("max_connections"), &[]);
    let (front, admin) = (program.front("front").await, program.admin().await);
    let save = |text: &str| {
        std::fs::write(program.directory().join("next.toml"), text).unwrap();
        std::fs::rename(program.directory().join("next.toml"), program.directory().join("lb.toml")).unwrap();
    };
    let browser = Browser::start(&driver, &chromium).await;
    browser.open(&format!("http://{admin}/")).await;
    browser.shows("document.getElementById('state').textContent === 'ready'").await;
    let lines = "[...document.querySelectorAll('#troubles .trouble')]";
    let none = format!("document.getElementById('link').textContent === 'live' && {lines}.length === 0");
    browser.shows(&none).await;

    save(&text("max_conections"));
    let holds = |words: &[&str]| {
        let words = serde_json::to_string(words).unwrap();
        format!("{lines}.some(line => {words}.every(words => line.textContent.includes(words)))")
    };
    browser.shows(&holds(&["lb.toml:5:1", "max_conections", " ago; generation 1 is in effect"])).await;
    save(&text("max_connections"));
    browser.shows(&none).await;

    let first = session(front).await;
    assert_eq!(browser.run(&format!("return {lines}.length")).await, 0, "reached, but no client waits");
    let second = TcpStream::connect(front).await.unwrap();
    browser.shows(&holds(&["limit reached ", " ago: listener `front` has reached its max_connections = 1"])).await;
    drop((first, second));
    browser.shows(&none).await;

    // One that the file no longer names is not one that is missing.
    save(&of(&both[..1], "max_connections"));
    browser
        .shows("[...document.querySelectorAll('tr.backend')].some(row => row.textContent.includes('removed'))")
        .await;
    let shown = browser.run("return document.getElementById('tiles').textContent").await;
    assert!(shown.as_str().unwrap().contains("1 of 1"), "{shown}");
    let shown = browser.run("return document.querySelector('#pools h2').textContent").await;
    assert!(shown.as_str().unwrap().contains("1 of 1 up"), "{shown}");
    drop(browser);
    program.stop().await;
}

/// The headers of the page for a browser, and the answers for other clients.
#[tokio::test]
async fn the_page_is_for_browsers_and_loads_nothing_from_elsewhere() {
    let backend = Backend::answering("a").await;
    let rig = crate::support::Rig::with_backends(&[&backend.address().to_string()], "").await;
    let get = async |path: &str, accept: &str| {
        let mut stream = TcpStream::connect(rig.admin()).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n", rig.admin());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    for (path, kind) in [("/", "text/html"), ("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript")] {
        let answer = get(path, "text/html,*/*;q=0.8").await;
        let head = answer.split("\r\n\r\n").next().unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains(&format!("content-type: {kind}; charset=utf-8")),
            "{head}"
        );
        assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self';"), "{head}");
        for elsewhere in ["http://", "https://", "innerHTML", "onclick=\"", " style=\""] {
            assert!(!answer.replace("http://www.w3.org/2000/svg", "").contains(elsewhere), "{path}: {elsewhere}");
        }
    }
    assert!(get("/", "*/*").await.contains("\r\n\r\nevenkeel "), "text for others");
    rig.stop().await;
}
