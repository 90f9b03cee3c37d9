//! Where the socket is, which users are trusted there, and how a command finds a balancer.

use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::{Console, config};
use crate::support::{Backend, CommandOutput, Program, output_of, soon, until};

const NOBODY: u32 = 65_534;

/// Held by tests whose balancers and commands come to `/run/evenkeel`, a usual place that no variable moves.
static USUAL_PLACE: Mutex<()> = Mutex::const_new(());

/// Whether this test can be two users; else it says that it was skipped.
fn is_root() -> bool {
    let is = geteuid().is_root();
    if !is {
        eprintln!("skipped: this takes root");
    }
    is
}

/// `evenkeel ARGUMENTS` in a directory, with this environment.
async fn command(directory: &Path, arguments: &[&str], env: &[(&str, &str)]) -> CommandOutput {
    output_of(prepared(directory, arguments, env)).await
}

fn prepared(directory: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(Program::PATH);
    command.args(arguments).current_dir(directory).env_clear().envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn write(directory: &Path, text: &str) {
    std::fs::write(directory.join("lb.toml"), text).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Takes one connection, answers with this, and gives what it heard.
fn fake(listener: UnixListener, answer: String) -> tokio::task::JoinHandle<String> {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let mut part = [0; 4096];
        while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(read) => heard.extend_from_slice(&part[..read]),
            }
        }
        let _ = stream.write_all(answer.as_bytes()).await;
        String::from_utf8(heard).unwrap()
    })
}

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

const HOSTILE: &str = r#"{"version":"\u001b]0;owned\u0007\u202e1","pid":1,"uptime_seconds":1,"ready":false,"waiting_for":["a\nb\u009b31m"],
    "workers":1,"sessions":0,"max_connections":1,"listeners":[],"pools":[]}"#;

#[tokio::test]
async fn no_token_goes_over_a_socket_and_no_answer_steers_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "[admin]\nsocket = \"a.sock\"\nadmin_token = \"geheim\"\nbind = \"off\"\n");
    for arguments in [&["status"][..], &["--admin", "./a.sock", "status"], &["status", "--json"]] {
        let _ = std::fs::remove_file(directory.path().join("a.sock"));
        let heard = fake(UnixListener::bind(directory.path().join("a.sock")).unwrap(), answer(HOSTILE));
        let said = command(directory.path(), arguments, &[("EVENKEEL_TOKEN", "geheim")]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        let heard = heard.await.unwrap();
        assert!(heard.starts_with("GET /api/v1/status "), "{heard}");
        assert!(!heard.contains("geheim") && !heard.to_ascii_lowercase().contains("authorization"), "{heard}");
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!said.out.contains(steers) && !said.err.contains(steers), "{said:?}");
        if !arguments.contains(&"--json") {
            assert!(said.out.contains("not ready: a?b?31m\n"), "{said:?}");
        }
    }
    // What refuses is shown in its own words, cleaned.
    let _ = std::fs::remove_file(directory.path().join("a.sock"));
    let refusal = answer(r#"{"error":"\u001b[2Jno\u2028"}"#).replace("200 OK", "409 Conflict");
    let heard = fake(UnixListener::bind(directory.path().join("a.sock")).unwrap(), refusal);
    let said = command(directory.path(), &["status"], &[]).await;
    assert_eq!((said.code, said.err.as_str()), (Some(1), "evenkeel: ?[2Jno?\n"));
    heard.await.unwrap();
}

/// A listener whose process is another user's, by what the kernel notes at listen(2): the credentials of the thread.
fn of_nobody(path: &Path) -> UnixListener {
    let path = path.to_owned();
    let listen = move || {
        // SAFETY: the raw system call changes this thread alone, which ends right after.
        #[allow(unsafe_code, reason = "libc's own wrapper would change all threads")]
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, NOBODY, -1) };
        assert_eq!(changed, 0);
        UnixListener::bind(path).unwrap()
    };
    std::thread::spawn(listen).join().unwrap()
}

#[tokio::test]
async fn nothing_is_sent_to_a_socket_of_another_user() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o1777);
    let path = directory.path().join("evenkeel-root.sock");
    write(directory.path(), "[admin]\nsocket = \"evenkeel-root.sock\"\nadmin_token = \"geheim\"\nbind = \"off\"\n");
    let heard = fake(of_nobody(&path), answer(HOSTILE));
    let said = command(directory.path(), &["status"], &[("EVENKEEL_TOKEN", "geheim")]).await;
    let wanted = "evenkeel: the balancer can't be reached at evenkeel-root.sock: it belongs to nobody, who is not trusted \
                  (lb.toml says where it is); does it run?\n";
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(1), "", wanted));
    assert_eq!(heard.await.unwrap(), "");
}

/// `sudo evenkeel drain` against `User=evenkeel`.
#[tokio::test]
async fn root_believes_the_owner_of_a_directory_in_which_no_third_one_can_write() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    let own = directory.path().join("own");
    std::fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let backend = Backend::echo().await;
    let text = config(&[("a", &backend)], "", "", "").replace("admin.sock", own.join("a.sock").to_str().unwrap());
    let text = format!("{text}\n");
    let file = own.join("lb.toml");
    std::fs::write(&file, &text).unwrap();
    let mut command = prepared(&own, &[], &[("RUNTIME_DIRECTORY", own.to_str().unwrap())]);
    // A copy that another user may run.
    let program = directory.path().join("evenkeel");
    std::fs::copy(Program::PATH, &program).unwrap();
    set_mode(&program, 0o755);
    let mut other = Command::new(&program);
    other.current_dir(&own).env_clear().uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).stderr(Stdio::null());
    other.kill_on_drop(true);
    // A program that another test starts at this moment has the copy open for writing, until its own exec.
    let mut running = until("the copy can be run", || {
        let spawned = match other.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
            spawned => Some(spawned.unwrap()),
        };
        async move { spawned }
    })
    .await;
    until("its socket", || async { own.join("a.sock").exists().then_some(()) }).await;
    command.args(["--admin", own.join("a.sock").to_str().unwrap(), "status"]);
    let said = output_of(command).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    // A third one could have made the socket.
    set_mode(&own, 0o777);
    let said = self::command(&own, &["--admin", "./a.sock", "status"], &[]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("it belongs to nobody, who is not trusted"), "{said:?}");
    set_mode(&own, 0o755);
    // Another user sees nothing of root's balancer, and the error says why.
    running.kill().await.unwrap();
}

#[tokio::test]
async fn a_full_backlog_is_no_stale_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock");
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    // Until the kernel says that it is full.
    loop {
        match tokio::net::UnixStream::connect(&path).await {
            Ok(stream) => waiting.push(stream),
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    let backend = Backend::echo().await;
    let text = config(&[("a", &backend)], "", "", "").replace("admin.sock", path.to_str().unwrap());
    let mut program = Program::start(&text, &[]);
    assert_eq!(program.end().await.code(), Some(1));
    let error = program.log().into_iter().find(|line| line.starts_with("evenkeel: ")).unwrap();
    assert!(error.ends_with("another process listens there, with a full backlog"), "{error}");
    assert!(path.exists());
    // A command waits for its turn.
    let answering = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(waiting);
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut part = [0; 4096];
            if stream.read(&mut part).await.is_ok_and(|read| read > 0) {
                stream.write_all(answer(HOSTILE).as_bytes()).await.unwrap();
            }
        }
    });
    let said = command(directory.path(), &["--admin", "./a.sock", "status"], &[]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    answering.abort();
}

#[tokio::test]
async fn a_stale_socket_of_another_user_is_named() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o1777);
    let path = directory.path().join("a.sock");
    drop(UnixListener::bind(&path).unwrap());
    set_mode(&path, 0o666);
    let program = directory.path().join("evenkeel");
    std::fs::copy(Program::PATH, &program).unwrap();
    set_mode(&program, 0o755);
    write(
        directory.path(),
        "[admin]\nsocket = \"a.sock\"\nbind = \"off\"\n[listeners.web]\nbind = \"127.0.0.1:0\"\n\
           pool = \"web\"\n[pools.web]\nbackends = [\"127.0.0.1:1\"]\n",
    );
    for (mode, wanted) in [
        (
            0o666,
            "a stale socket of root is there, which this process may not remove: remove it, or choose another path",
        ),
        (0o600, "a socket of root is there: remove it, or choose another path"),
    ] {
        set_mode(&path, mode);
        let mut other = Command::new(&program);
        other.current_dir(directory.path()).env_clear().uid(NOBODY).gid(NOBODY).stdin(Stdio::null());
        let said = output_of({
            other.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            other
        })
        .await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains(wanted), "{said:?}");
        assert!(said.err.contains("is not safe from other users (others can write in "), "{said:?}");
    }
}

const SMALLEST: &str =
    "[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n[pools.web]\nbackends = [\"BACKEND\"]\n";

/// The smallest file of the README, in its own directory.
async fn smallest(more: &str) -> (Program, Backend) {
    let backend = Backend::echo().await;
    let text = format!("{more}{}", SMALLEST.replace("BACKEND", &backend.address().to_string()));
    let program = Program::start(&text, &[]);
    (program, backend)
}

#[tokio::test]
async fn the_smallest_file_has_a_socket_that_its_owner_finds() {
    let _alone = USUAL_PLACE.lock().await;
    // The port of others: only the socket is there.
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (program, _backend) = smallest(&format!("admin.bind = \"{taken}\"\n")).await;
    program.until_says("admin socket listening").await;
    let socket = program.directory().join("admin.sock");
    assert_eq!(super::mode(&socket), 0o600);
    let place = program.directory().to_str().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for directory in [program.directory(), elsewhere.path()] {
        let said = command(directory, &["drain", "--pool", "web"], &[("RUNTIME_DIRECTORY", place)]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.contains(": draining, "), "{said:?}");
        let said = command(directory, &["ready", "--pool", "web"], &[("RUNTIME_DIRECTORY", place)]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    // In a shell with other usual places, the log of the balancer says where its socket is.
    let other = elsewhere.path().to_str().unwrap();
    let env = [("RUNTIME_DIRECTORY", other), ("XDG_RUNTIME_DIR", other), ("HOME", other)];
    let said = command(program.directory(), &["drain", "--pool", "web"], &env).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = command(elsewhere.path(), &["--admin", &taken.to_string(), "drain", "--pool", "web"], &env).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains(&format!("use the UNIX socket (--admin {})", socket.display())), "{said:?}");
}

#[tokio::test]
async fn commands_reach_the_balancer_even_if_the_file_is_broken() {
    let _alone = USUAL_PLACE.lock().await;
    let (program, _backend) = smallest("[admin]\nsocket = \"${DIR:-.}/own.sock\"\nbind = \"127.0.0.1:0\"\n").await;
    program.until_says("admin socket listening").await;
    let good = std::fs::read_to_string(program.directory().join("lb.toml")).unwrap();
    // Not to be applied meanwhile.
    let shell = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("pool = \"web\"", "pool = \"wbe\""),
        ("[pools.web]", "[pools.web"),
        ("backends", "backnds"),
        ("[listeners.web]\n", "[listeners.web]\nx = \"${ONLY_FOR_THE_SERVICE}\"\n"),
        ("bind = \"127.0.0.1:0\"\npool", "bind = \npool"),
    ] {
        let path = format!("\"{}/own.sock\"", program.directory().display());
        let broken = good.replacen(from, to, 1).replace("\"${DIR:-.}/own.sock\"", &path);
        assert_ne!(good, broken);
        write(shell.path(), &broken);
        for arguments in [&["status"][..], &["drain", "--pool", "web"], &["ready", "--pool", "web"]] {
            let said = command(shell.path(), arguments, &[]).await;
            assert_eq!(said.code, Some(0), "{to}: {said:?}");
        }
    }
    // A balancer that is not there: what was tried, and what was not understood.
    write(shell.path(), "[admin]\nsocket = \"${NOT_SET}/a.sock\"\nbind = \"off\"\n[pools");
    let place = shell.path().to_str().unwrap();
    let said = command(shell.path(), &["status"], &[("RUNTIME_DIRECTORY", place), ("HOME", place)]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    for wanted in [
        format!("{place}/admin.sock: No such file or directory (os error 2)"),
        format!("nor at {place}/.local/state/evenkeel/admin.sock: "),
        "lb.toml: line 4 is not valid TOML".to_owned(),
        "lb.toml: admin.socket: the environment variable `NOT_SET` is not set".to_owned(),
    ] {
        assert!(said.err.contains(&wanted), "{wanted}: {said:?}");
    }
}

#[tokio::test]
async fn with_two_running_balancers_a_command_guesses_neither() {
    let _alone = USUAL_PLACE.lock().await;
    let (one, _a) = smallest("admin.bind = \"off\"\n").await;
    one.until_says("admin socket listening").await;
    let place = one.directory().to_str().unwrap();
    // The second one finds the first place taken, and takes the next.
    let home = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(one.directory().join("lb.toml")).unwrap();
    let mut other = prepared(
        one.directory(),
        &[],
        &[("RUNTIME_DIRECTORY", place), ("XDG_RUNTIME_DIR", home.path().to_str().unwrap())],
    );
    assert!(text.contains("admin.bind"));
    let mut other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let second = home.path().join("evenkeel/admin.sock");
    let env = [("RUNTIME_DIRECTORY", place), ("XDG_RUNTIME_DIR", home.path().to_str().unwrap())];
    // A file that a killed one left may be at the usual place: what counts is that both answer.
    let said = until("both answer", || async {
        let said = command(home.path(), &["status"], &env).await;
        (said.code == Some(2)).then_some(said)
    })
    .await;
    if second.exists() {
        assert_eq!(super::mode(second.parent().unwrap()), 0o700);
    }
    assert!(said.err.starts_with("evenkeel: several balancers answer, at "), "{said:?}");
    assert!(said.err.contains(&format!("{place}/admin.sock")), "{said:?}");
    assert!(said.err.ends_with(": say which with --admin PATH\n"), "{said:?}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(other.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    soon("its end", other.wait()).await.unwrap();
    assert_eq!(command(home.path(), &["status"], &env).await.code, Some(0));
}

#[tokio::test]
async fn a_file_of_another_user_gets_no_environment_variables() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let thief = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = thief.local_addr().unwrap();
    std::fs::write(directory.path().join("token"), "geheim").unwrap();
    let heard = tokio::spawn(async move {
        let mut all = String::new();
        loop {
            let (mut stream, _) = thief.accept().await.unwrap();
            let mut part = [0; 4096];
            let read = stream.read(&mut part).await.unwrap_or(0);
            all += std::str::from_utf8(&part[..read]).unwrap();
            if all.contains("LAST") {
                return all;
            }
            stream.write_all(answer(HOSTILE).as_bytes()).await.unwrap();
        }
    });
    let env = [("SECRET", "geheim"), ("EVENKEEL_TOKEN", "geheim"), ("CONSUL_HTTP_TOKEN", "geheim")];
    for text in [
        format!("[admin]\nsocket = \"off\"\nbind = \"{address}\"\nadmin_token = \"${{SECRET}}\"\n"),
        format!("[admin]\nsocket = \"off\"\nbind = \"{address}\"\nadmin_token_file = \"token\"\n"),
        format!("[admin]\nsocket = \"${{SECRET}}.sock\"\nbind = \"{address}\"\n"),
    ] {
        write(directory.path(), &text);
        chown(directory.path().join("lb.toml"), Some(NOBODY), None).unwrap();
        let said = command(directory.path(), &["status"], &env).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(!said.err.contains("geheim"), "{said:?}");
    }
    // Also `plan`, which reads the whole of it.
    write(directory.path(), &format!("admin.bind = \"{address}\"\n{}", SMALLEST.replace("BACKEND", "${SECRET}:1")));
    chown(directory.path().join("lb.toml"), Some(NOBODY), None).unwrap();
    let said = command(directory.path(), &["plan"], &env).await;
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("lb.toml belongs to another user") && !said.err.contains("geheim"), "{said:?}");
    let mut last = tokio::net::TcpStream::connect(address).await.unwrap();
    last.write_all(b"LAST").await.unwrap();
    let heard = soon("the thief", heard).await.unwrap();
    assert!(heard.contains("GET /api/v1/status") && !heard.contains("geheim"), "{heard}");
    // `check` and `run` use the environment: a user who runs a file trusts it.
    let said = command(directory.path(), &["check"], &[("SECRET", "127.0.0.1")]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[tokio::test]
async fn check_warns_of_a_shared_directory() {
    let directory = tempfile::tempdir().unwrap();
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    set_mode(&open, 0o1777);
    for (socket, warns) in [("open/a.sock", true), ("own/a.sock", false)] {
        write(
            directory.path(),
            &format!("[admin]\nsocket = \"{socket}\"\n{}", SMALLEST.replace("BACKEND", "127.0.0.1:1")),
        );
        let said = command(directory.path(), &["check"], &[]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.out.contains("is not safe from other users (others can write in "), warns, "{said:?}");
    }
}

/// With real tokens: over the socket that the file names none is asked for, whatever the file says of tokens.
#[tokio::test]
async fn the_socket_needs_no_token() {
    let backend = Backend::echo().await;
    let console =
        Console::start(&config(&[("a", &backend)], "", "admin_token = \"w\"\nread_token = \"r\"\n", "")).await;
    console.good(&["drain", "a"]).await;
    console.good(&["status"]).await;
}
