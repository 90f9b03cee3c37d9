//! Redis, memcached, SMTP, MySQL and PostgreSQL, as servers that say one thing and do as they are told.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::{PostgresCheck, RedisCheck, RedisRole, Secret};

/// Answers each line that holds a word with what belongs to it; what it says first has no word.
async fn server(answers: &[(&'static str, &[u8])]) -> Backend {
    let answers: Vec<_> = answers.iter().map(|(word, answer)| (*word, answer.to_vec())).collect();
    Backend::start(move |mut stream, _| {
        let answers = answers.clone();
        async move {
            let mut buffer = vec![0; 4096];
            for (word, answer) in &answers {
                if !str::is_empty(word) {
                    let mut heard = String::new();
                    while !heard.contains(*word) {
                        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
                        heard += &String::from_utf8_lossy(&buffer[..count]);
                    }
                }
                // In pieces, as a network may.
                for piece in answer.chunks(5) {
                    if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            }
            drop(stream.read(&mut buffer).await);
        }
    })
    .await
}

async fn judged(kind: CheckKind, answers: &[(&'static str, &[u8])]) -> (bool, String) {
    let backend = server(answers).await;
    let result = first(backend.address, &rare(kind)).await;
    (result.passed, result.to_string())
}

fn redis(role: Option<RedisRole>, password: Option<&str>) -> CheckKind {
    let password = password.map(|text| Secret(text.to_owned()));
    CheckKind::Redis(RedisCheck { role, username: None, password, password_file: None })
}

#[tokio::test]
async fn redis_answers_ping() {
    for (answer, passed, text) in [
        (&b"+PONG\r\n"[..], true, r#"redis PING: "+PONG""#),
        (b"-NOAUTH Authentication required.\r\n", true, r#"redis PING: "-NOAUTH Authentication required.""#),
        (b"-LOADING Redis is loading\r\n", false, r#"redis PING: "-LOADING Redis is loading""#),
        (b"HTTP/1.1 400 Bad Request\r\n", false, r#"redis PING: "HTTP/1.1 400 Bad Request""#),
    ] {
        let answers = &[("PING", answer)];
        assert_eq!(judged(redis(None, None), answers).await, (passed, text.to_owned()));
    }
}

#[tokio::test]
async fn redis_says_who_it_is() {
    let master = &[("PING", &b"+PONG\r\n"[..]), ("ROLE", b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n")];
    let replica = &[("PING", &b"+PONG\r\n"[..]), ("ROLE", b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:1\r\n")];
    let closed = &[("PING", &b"-NOAUTH Authentication required.\r\n"[..])];
    let (of_master, of_replica) = (redis(Some(RedisRole::Master), None), redis(Some(RedisRole::Replica), None));
    assert_eq!(judged(of_master.clone(), master).await, (true, "redis ROLE: master".to_owned()));
    assert_eq!(judged(of_replica.clone(), replica).await, (true, "redis ROLE: replica".to_owned()));
    assert_eq!(judged(of_master.clone(), replica).await, (false, "redis ROLE: replica, wanted master".to_owned()));
    assert_eq!(judged(of_replica, master).await, (false, "redis ROLE: master, wanted replica".to_owned()));
    assert!(!judged(of_master.clone(), closed).await.0, "its role can't be known");
    let denied = &[("PING", &b"+PONG\r\n"[..]), ("ROLE", b"-NOPERM no permissions\r\n")];
    let text = r#"redis ROLE: "-NOPERM no permissions", wanted master"#;
    assert_eq!(judged(of_master, denied).await, (false, text.to_owned()));
}

#[tokio::test]
async fn redis_is_told_the_password_and_nobody_else_is() {
    let good = &[("AUTH\r\n$6\r\ns3cr\"t\r\n", &b"+OK\r\n"[..]), ("PING", b"+PONG\r\n")];
    assert_eq!(judged(redis(None, Some("s3cr\"t")), good).await, (true, r#"redis PING: "+PONG""#.to_owned()));
    let bad = &[("AUTH", &b"-WRONGPASS invalid\r\n"[..])];
    let (passed, text) = judged(redis(None, Some("s3cr\"t")), bad).await;
    assert_eq!((passed, text.as_str()), (false, r#"redis AUTH: "-WRONGPASS invalid""#));

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cr\"t\n").unwrap();
    let check = RedisCheck {
        role: None,
        username: Some("probe".to_owned()),
        password: None,
        password_file: Some(file.path().to_owned()),
    };
    let good = &[("$5\r\nprobe\r\n$6\r\ns3cr\"t\r\n", &b"+OK\r\n"[..]), ("PING", b"+PONG\r\n")];
    assert!(judged(CheckKind::Redis(check.clone()), good).await.0);

    // A file that is not there, or is none, says nothing about a backend.
    for path in ["/no/such", "/dev/null"] {
        let backend = server(good).await;
        let check = Check {
            kind: CheckKind::Redis(RedisCheck { password_file: Some(path.into()), ..check.clone() }),
            ..rare(CheckKind::Tcp)
        };
        let prober = Prober::new();
        let (_subscription, mut reports) = subscribe(&prober, backend.address, &check);
        eventually("it is counted", || prober.stats().local_errors == 1).await;
        assert!(reports.try_recv().is_err());
    }
}

#[tokio::test]
async fn memcached_says_its_version() {
    let kind = CheckKind::Memcached;
    let good = &[("version", &b"VERSION 1.6.18\r\n"[..])];
    assert_eq!(judged(kind.clone(), good).await, (true, r#"memcached step 2 of 2: "VERSION 1.6.18\r\n""#.to_owned()));
    let bad = &[("version", &b"SERVER_ERROR out of memory\r\n"[..])];
    let text = r#"memcached step 2 of 2: "SERVER_ERROR out of memory\r\n""#;
    assert_eq!(judged(kind, bad).await, (false, text.to_owned()));
}

#[tokio::test]
async fn smtp_greets_and_lets_go() {
    let kind = || CheckKind::Smtp;
    let good = &[("", &b"220-mx ESMTP\r\n220 ready\r\n"[..]), ("QUIT", b"221 2.0.0 Bye\r\n")];
    assert_eq!(judged(kind(), good).await, (true, r#"smtp step 3 of 3: "221 2.0.0 Bye\r\n""#.to_owned()));
    for refusal in [&b"421 too busy\r\n"[..], b"554 no\r\n", b"250 ok\r\n", b"SSH-2.0-OpenSSH\r\n"] {
        let answers = &[("", refusal)];
        let (passed, text) = judged(kind(), answers).await;
        assert_eq!((passed, text), (false, format!("smtp greeting: \"{}\"", refusal.escape_ascii())));
    }
}

#[tokio::test]
async fn mysql_greets_or_says_why_not() {
    let kind = || CheckKind::Mysql;
    let good = &[("", &b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xff"[..])];
    assert_eq!(judged(kind(), good).await, (true, r#"mysql greeting: "J\x00\x00\x00\n8.0.36\x00""#.to_owned()));
    let full = &[("", &b"\x17\0\0\0\xff\x10\x04Too many connections"[..])];
    let (passed, text) = judged(kind(), full).await;
    assert!(!passed && text.starts_with(r#"mysql greeting: "\x17\x00\x00\x00\xff\x10\x04"#), "{text}");
}

fn postgres() -> CheckKind {
    CheckKind::Postgres(PostgresCheck { user: "probe".to_owned(), database: "postgres".to_owned() })
}

#[tokio::test]
async fn postgresql_is_ready_or_says_why_not() {
    let wanted = ", wanted a request to authenticate";
    let error = |fields: &str| {
        let length = u32::try_from(fields.len() + 5).unwrap().to_be_bytes();
        [b"E", &length[..], fields.as_bytes(), b"\0"].concat()
    };
    for (answer, passed, text) in [
        (b"R\0\0\0\x0c\0\0\0\x05abcd".to_vec(), true, "asks to authenticate"),
        (b"R\0\0\0\x08\0\0\0\0S\0".to_vec(), true, "ready"),
        (
            error("SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0Fp.c\0"),
            false,
            r#"57P03 "the database system is starting up""#,
        ),
        (error("SFATAL\0C53300\0Msorry, too many clients\0"), false, r#"53300 "sorry, too many clients""#),
        (error("SFATAL\0C28000\0Mno pg_hba.conf entry\0"), true, r#"28000 "no pg_hba.conf entry""#),
        (error("SFATAL\0C3D000\0Mno such\0"), true, r#"3D000 "no such""#),
        (error("SFATAL\0"), false, r#""FATAL""#),
        (error("SFATAL\0C57P01\0"), false, r#"57P01 "FATAL""#),
        (error("Hsomething\0"), false, r#""Hsomething\x00\x00""#),
        (error(&format!("C53300{}\0Mfull\0", "x".repeat(4_000))), false, r#"53300 "full""#),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false, r#"not PostgreSQL, came "HTTP/"#),
    ] {
        let (was, said) = judged(postgres(), &[("application_name", &answer[..])]).await;
        let rest = if passed { "" } else { wanted };
        assert!(said.starts_with(&format!("postgres startup: {text}")) && said.ends_with(rest), "{said}");
        assert_eq!(was, passed, "{said}");
    }
}

#[tokio::test]
async fn an_endless_or_cut_answer_is_a_failure() {
    for kind in [redis(None, None), postgres(), CheckKind::Mysql, CheckKind::Smtp] {
        let endless =
            Backend::start(|mut stream, _| async move { while stream.write_all(&[b'.'; 1000]).await.is_ok() {} }).await;
        let result = first(endless.address, &rare(kind.clone())).await;
        assert!(!result.passed && result.to_string().len() < 300, "{result}");
        let closing = Backend::start(|stream, _| async move { drop(stream) }).await;
        let result = first(closing.address, &rare(kind.clone())).await;
        assert!(!result.passed && ["closed", "reset"].contains(&result.got.as_str()), "{result}");
        let silent = Backend::silent().await;
        let check = Check { timeout: Duration::from_millis(50), ..rare(kind) };
        assert_eq!(first(silent.address, &check).await.got, "timeout after 50ms");
    }
}
