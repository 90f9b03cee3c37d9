//! What every message keeps to: no secret in it, the place of the fault, and no time for many.

use super::refusals::{refused, refused_with};
use super::{with_more, with_pool};

#[test]
fn no_token_is_shown() {
    for text in [
        with_more("[consul]\ntoken = \"s3cr3t"),
        with_more("[consul]\ntoken = \"s3cr3t\" token_file = 1"),
        with_more("[consul]\ntoken = \"s3 cr3t\""),
        with_more("[consul]\ntoken = s3cr3t"),
        with_more("[consul]\ntoken = \"s3cr3t-${NAME}\""),
        with_more("[consul]\ntoken = [\"s3cr3t\"]"),
        with_pool("consul = { service = \"web\", \"token\"=s3cr3t }"),
        with_pool("consul = { token = \"s3cr3t\", tokn = 1 }"),
        with_pool("consul = { service = \"\", token = 's3cr3t' }"),
        with_more("check = { kind = \"redis\", password = \"s3cr3t"),
        with_more("check = { kind = \"redis\", password = s3cr3t }"),
        with_more("check = { kind = \"redis\", password = \"s3cr3t-${NAME}\" }"),
        with_more("check = { kind = \"redis\", password = \"s3cr3t\", passwort = 1 }"),
        with_more("check = { kind = \"redis\", password = [\"s3cr3t\"] }"),
    ] {
        let message = refused(&text);
        assert!(!message.contains("cr3t"), "{message}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = crate::config::load(std::path::Path::new("no/such/lb.toml")).expect_err("it is not there");
    assert_eq!(error.to_string(), "cannot read no/such/lb.toml");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_file_that_is_no_text_is_told_where() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"a = 1\nb = \"\xc3\xa4\xfc\"\n").expect("it is written");
    let error = crate::config::load(file.path()).expect_err("it is Latin-1");
    let source = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!(source, "line 2, column 7: the byte 0xfc is no UTF-8; save the file as UTF-8");
}

fn with_backends(list: &str) -> String {
    format!("[listeners.web]\nbind = \"0.0.0.0:8080\"\npool = \"web\"\n[pools.web]\nbackends = [\n{list}]\n")
}

/// Each backend was once compared with all before it, and the place of each fault was looked up in the whole file.
#[test]
fn many_backends_and_many_faults_take_no_time() {
    let started = std::time::Instant::now();
    let list = |prefix: &str| (0..40_000).map(|i| format!("\"{prefix}{i}:80\",\n")).collect::<String>();
    let config = super::accepted(&with_backends(&list("db-")));
    assert!(matches!(&config.pools[0].source, crate::config::Source::Static(all) if all.len() == 40_000));
    let report = refused(&with_backends(&list("db_?")));
    assert!(report.ends_with("and 39980 more"), "{report}");
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Whatever is wrong, and wherever: no message has a secret, what is sent, or the value of a key that there is not.
#[test]
fn no_message_shows_what_may_be_a_secret() {
    for text in [
        "[admin]\nadmin_tokn = \"geheim\"\n".to_owned(),
        "[admin]\nadmin_tokn = geheim\n".to_owned(),
        "[admin]\nadmin_token = geheim\n".to_owned(),
        "[admin]\nadmin_token = \"geheim\", x\n".to_owned(),
        "[consul]\naddress = \"http://user:geheim@host:8500\"\n".to_owned(),
        "[consul]\naddress = \"user:geheim@host:8500\"\n".to_owned(),
        "[consul]\nadress = \"http://user:geheim@host:8500\"\n".to_owned(),
        with_more("check = { kind = \"script\", steps = [{ send = \"geheim\", expect = \"a\" }] }"),
        with_more("check = { kind = \"script\", steps = [{ send_hex = \"geheim\" }] }"),
        with_more("check = { kind = \"script\", steps = [{ send = \"${geheim\" }] }"),
        with_more("check = { kind = \"agent\", send = \"geheim\", intervall = 3 }"),
        with_more("check = { kind = \"http\", headers = { A = \"geheim\" }, intervall = \"1s\" }"),
        with_more("agent = { port = 0, send = \"geheim\" }"),
        "[consul]\naddress = \"user:geheim@host\"\n".to_owned(),
        "[consul]\naddress = \"geheim:x@host:1\"\n".to_owned(),
        "[consul]\naddress = \"http://geheim@host:x\"\n".to_owned(),
        with_pool("backends = [\"user:geheim@host\", \"user:geheim@host:1\", \"tcp://user:geheim@host:1\"]"),
        with_more("check = { kind = \"script\", steps = [{ send = \"${a geheim}\" }] }"),
        with_more("check = { kind = \"agent\", send = \"x${geheim-1:-y}\" }"),
        with_more("[pools.web.check]\nkind = \"http\"\n[pools.web.check.headers]\nrole = \"geheim\\n\"\n"),
        with_more("[pools.web.check]\nkind = \"http\"\nheaders.role = \"geheim\\n\"\n"),
        "[admin]\nread_token = \"\"\"x\n geheim \\q\n\"\"\"\n".to_owned(),
    ] {
        let error = refused(&text);
        assert!(!error.contains("geheim"), "{error}");
    }
}

/// Numbers are no strings, and still may be what is sent.
#[test]
fn no_message_shows_a_number_that_is_sent() {
    for text in [
        with_more("[pools.web.check]\nkind = \"http\"\n[pools.web.check.headers]\nX-Key = 80817263\n"),
        with_more("[pools.web.check]\nkind = \"http\"\nheaders.X-Key = 80817263\n"),
        with_more("check = { kind = \"http\", headers = { X-Key = 80817263 } }"),
        with_more("check = { kind = \"script\", steps = [{ send = 80817263 }] }"),
    ] {
        let error = refused(&text);
        assert!(!error.contains("80817263"), "{error}");
    }
    for address in ["user:geheim@host", "http://geheim@host:x"] {
        let error = refused_with(&with_pool("consul = { service = \"web\" }"), &[("CONSUL_HTTP_ADDR", address)]);
        assert!(!error.contains("geheim"), "{error}");
    }
}
