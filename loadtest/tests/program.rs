//! The program: exit codes, stdout, and the shape of the JSON.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use crate::support::{dead, proxy, server, untouched};
use loadtest::RunReport;

fn loadtest(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(line.split_whitespace()).stdin(Stdio::null()).output().unwrap()
}

fn small(address: SocketAddr, more: &str) -> Output {
    loadtest(&format!("run --target {address} --scenario small-messages -c 2 -m 20 --attempts 1 {more}"))
}

struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serve_prints_its_address_and_run_prints_a_table() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
    let mut child = Serve(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on ").unwrap().parse().unwrap();
    let output = small(address, "");
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{table}");
    for word in ["operations", "20 (", "connections", "latency", "p99.9", "mismatches", "failures"] {
        assert!(table.contains(word), "no {word:?} in {table}");
    }
    assert!(output.stderr.is_empty(), "no progress bar without a terminal");
}

#[test]
fn json_is_alone_on_stdout() {
    let server = server();
    let output = small(server.address(), "--json -");
    let text = String::from_utf8(output.stdout).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    for key in [
        "scenario",
        "address",
        "mode",
        "rate",
        "connections",
        "threads",
        "size",
        "seed",
        "seconds",
        "operations",
        "operations_per_second",
        "not_started",
        "connections_opened",
        "connections_per_second",
        "bytes_sent",
        "bytes_received",
        "bytes_per_second",
        "latency",
        "connect",
        "mismatches",
        "failures",
        "connections_abandoned",
        "examples",
    ] {
        assert!(keys.contains(&key), "no {key} in {text}");
    }
    assert_eq!(json["scenario"], "small-messages");
    assert_eq!(json["operations"], 20);
    for key in ["count", "mean", "p50", "p90", "p99", "p99_9", "max"] {
        assert!(json["latency"][key].as_f64().unwrap() > 0.0, "{key}");
    }
    let report: RunReport = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(&report).unwrap(), json);
    assert!(String::from_utf8(output.stderr).unwrap().contains("latency"), "the table is on stderr");
}

#[test]
fn failures_can_be_allowed_and_mismatches_can_not() {
    assert_eq!(small(dead(), "").status.code(), Some(1));
    assert_eq!(small(dead(), "--allow-failures").status.code(), Some(0));
    let server = server();
    let corrupting = proxy(server.address(), untouched, |_, data| data[0] ^= 1);
    assert_eq!(small(corrupting, "--allow-failures").status.code(), Some(1));
}

#[test]
fn bad_usage_is_explained_with_numbers() {
    for (line, words) in [
        ("run --target 192.0.2.1:80 --scenario idle", "--allow-remote"),
        ("run --target 127.0.0.1:1 --scenario idle -c 900M", "900000000 connections need 900000064"),
        ("run --target 127.0.0.1:1 --scenario nonsense", "possible values"),
        ("run --target 127.0.0.1:1 --scenario idle --timeout 5", "needs a unit"),
        ("serve --listen 0.0.0.0:0", "--allow-remote"),
        ("", "Usage"),
    ] {
        let output = loadtest(line);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {text}");
        assert!(text.contains(words), "{line}: {text}");
    }
}
