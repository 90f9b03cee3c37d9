//! PURE. From a key and its value to backends. There is no one shape: etcd holds what programs write there, so the usual
//! ones are read.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{Host, HostPort};
use crate::discovery::document;
use crate::discovery::instance::Instance;
use crate::discovery::outside::{bounded, identity, usable};
use crate::endpoint::Registry;

/// The backends of a key, or why there are none. `name` is the key below the prefix.
///
/// A mark of a directory (an empty value at a key that ends in a slash, or at the prefix itself) is none, and no fault.
pub(super) fn read(name: &[u8], value: &[u8]) -> Result<Vec<Instance>, String> {
    let name = std::str::from_utf8(name).map_err(|_| "its key is not UTF-8".to_owned())?;
    let text = std::str::from_utf8(value).map_err(|_| "its value is not UTF-8".to_owned())?.trim();
    let own = |address: &str| Ok(vec![instance(identity(name)?, address)?]);
    match text.chars().next() {
        None => match name.rsplit('/').next().unwrap_or_default() {
            "" => Ok(Vec::new()),
            last => own(last),
        },
        Some('{') => {
            let table: Map<String, Value> =
                serde_json::from_str(text).map_err(|error| format!("its value is not JSON: {error}"))?;
            object(name, &table)
        }
        Some(_) => own(text),
    }
}

/// Its key is shown as far as it can be.
pub(super) fn shown(name: &[u8]) -> String {
    bounded(&String::from_utf8_lossy(name))
}

fn object(name: &str, table: &Map<String, Value>) -> Result<Vec<Instance>, String> {
    if let Some(nodes) = table.get("nodes") {
        return go_micro(nodes);
    }
    if let Some(address) = table.get("Addr") {
        return go_naming(name, address, table).map(|instance| vec![instance]);
    }
    document::entry(table, name).map(|instance| vec![instance])
}

/// As etcd's client for Go writes it (`naming/endpoints`): `{"Op":0,"Addr":"…","Metadata":…}`.
fn go_naming(name: &str, address: &Value, table: &Map<String, Value>) -> Result<Instance, String> {
    let address = address.as_str().ok_or("`Addr` must be a text")?;
    // 0 = it is added, and a key that is there adds.
    if let Some(op) = table.get("Op").filter(|op| op.as_u64() != Some(0)) {
        return Err(format!("`Op` {} is none that adds a backend", bounded(&op.to_string())));
    }
    // Its metadata may be of any kind.
    let meta = table.get("Metadata").filter(|meta| meta.is_object());
    described(identity(name)?, address, meta)
}

/// As the registry of go-micro writes it: a service with its nodes. Their ids are the identities.
fn go_micro(nodes: &Value) -> Result<Vec<Instance>, String> {
    let nodes = nodes.as_array().ok_or("`nodes` must be a list")?;
    let node = |node: &Value| {
        let text = |key: &str| node.get(key).and_then(Value::as_str).ok_or_else(|| format!("a node without `{key}`"));
        let (id, address) = (text("id")?, text("address")?);
        // Older versions wrote the port beside the address.
        let port = node.get("port").and_then(Value::as_u64).filter(|port| *port > 0);
        let address = port.map_or_else(|| address.to_owned(), |port| format!("{address}:{port}"));
        described(identity(id)?, &address, node.get("metadata"))
    };
    nodes.iter().map(node).collect()
}

/// With what its metadata says for us.
fn described(id: Arc<str>, address: &str, meta: Option<&Value>) -> Result<Instance, String> {
    let mut entry = Map::from_iter([("address".to_owned(), Value::from(address))]);
    if let Some(meta) = meta.filter(|meta| !meta.is_null()) {
        entry.insert("meta".to_owned(), meta.clone());
    }
    document::entry(&entry, &id)
}

fn instance(id: Arc<str>, address: &str) -> Result<Instance, String> {
    let HostPort { host, port } = HostPort::parse(address).map_err(|why| format!("{why} in {:?}", bounded(address)))?;
    if let Host::Ip(ip) = host {
        usable(ip)?;
    }
    let (weight, priority, zone, position, max_sessions) = (1, 0, None, 0, None);
    let (candidates, registry) = (Vec::new(), Registry::Passing);
    Ok(Instance { id, host, candidates, port, weight, priority, zone, position, max_sessions, registry, note: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str, value: &str) -> String {
        match read(name.as_bytes(), value.as_bytes()) {
            Err(why) => format!("! {why}"),
            Ok(all) => {
                let one = |instance: &Instance| {
                    let Instance { id, host, port, weight, priority, max_sessions, .. } = instance;
                    let address = HostPort { host: host.clone(), port: *port };
                    format!("{id} {address} {weight} {priority} {max_sessions:?}")
                };
                all.iter().map(one).collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn every_shape_is_read() {
        for (name, value, wanted) in [
            // As the articles write it.
            ("web/10.0.0.1:80", "", "web/10.0.0.1:80 10.0.0.1:80 1 0 None"),
            ("10.0.0.1:80", "  \n", "10.0.0.1:80 10.0.0.1:80 1 0 None"),
            ("[::1]:80", "", "[::1]:80 [::1]:80 1 0 None"),
            ("a", "10.0.0.1:80\n", "a 10.0.0.1:80 1 0 None"),
            ("a/b", "web.internal:80", "a/b web.internal:80 1 0 None"),
            ("a", "[2001:db8::1]:80", "a [2001:db8::1]:80 1 0 None"),
            // Ours.
            ("a", r#"{"address":"10.0.0.1:80"}"#, "a 10.0.0.1:80 1 0 None"),
            (
                "a",
                r#" {"address":"10.0.0.1:80","weight":3,"priority":1,"max_sessions":9,"meta":{"team":"x"}}"#,
                "a 10.0.0.1:80 3 1 Some(9)",
            ),
            ("a", r#"{"address":"10.0.0.1:80","id":"own","meta":{"evenkeel_weight":"7"}}"#, "own 10.0.0.1:80 7 0 None"),
            // etcd's naming for Go, old and new.
            ("x/a", r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}"#, "x/a 10.0.0.1:80 1 0 None"),
            ("a", r#"{"Addr":"10.0.0.1:80","Metadata":{"evenkeel_weight":2,"zone":"a"}}"#, "a 10.0.0.1:80 2 0 None"),
            ("a", r#"{"Addr":"10.0.0.1:80","Metadata":"v1"}"#, "a 10.0.0.1:80 1 0 None"),
            // go-micro.
            (
                "web/web-1",
                r#"{"name":"web","version":"latest","metadata":null,"endpoints":[{"name":"x"}],
                    "nodes":[{"id":"web-1","address":"10.0.0.1:80","metadata":{"protocol":"grpc"}}]}"#,
                "web-1 10.0.0.1:80 1 0 None",
            ),
            (
                "web",
                r#"{"nodes":[{"id":"1","address":"10.0.0.1","port":80},{"id":"2","address":"10.0.0.2:80"}]}"#,
                "1 10.0.0.1:80 1 0 None, 2 10.0.0.2:80 1 0 None",
            ),
            ("web", r#"{"nodes":[]}"#, ""),
            // Marks of directories.
            ("", "", ""),
            ("a/", "", ""),
        ] {
            assert_eq!(shown(name, value), wanted, "{name}: {value}");
        }
    }

    #[test]
    fn each_json_may_name_a_zone() {
        for value in [
            r#"{"address":"10.0.0.1:80","zone":"east"}"#,
            r#"{"address":"10.0.0.1:80","meta":{"evenkeel_zone":"east"}}"#,
            r#"{"Addr":"10.0.0.1:80","Metadata":{"evenkeel_zone":"east"}}"#,
            r#"{"nodes":[{"id":"n","address":"10.0.0.1:80","metadata":{"evenkeel_zone":"east"}}]}"#,
        ] {
            let all = read(b"a", value.as_bytes()).unwrap();
            assert_eq!(all[0].zone.as_deref(), Some("east"), "{value}");
        }
    }

    #[test]
    fn what_is_bad_says_why() {
        for (name, value, why) in [
            ("a", "", "! no port in \"a\""),
            ("a", "10.0.0.1", "! no port in \"10.0.0.1\""),
            ("a", "10.0.0.1:0", "! \"0\" is not a port in \"10.0.0.1:0\""),
            ("a", "0.0.0.0:80", "! address 0.0.0.0 is no instance's"),
            (
                "a",
                "http://10.0.0.1:80",
                "! \"http://10.0.0.1\" is neither an IP address nor a host name in \"http://10.0.0.1:80\"",
            ),
            ("a", "{", "! its value is not JSON: EOF while parsing an object at line 1 column 1"),
            ("a", "{}", "! there is neither `address` nor `targets`"),
            (
                "a",
                r#"{"address":"10.0.0.1:80","weight":-1}"#,
                "! `weight = -1`: it must be a whole number from 0 to 65535",
            ),
            ("a", r#"{"Op":1,"Addr":"10.0.0.1:80"}"#, "! `Op` 1 is none that adds a backend"),
            ("a", r#"{"Addr":80}"#, "! `Addr` must be a text"),
            ("a", r#"{"nodes":{}}"#, "! `nodes` must be a list"),
            ("a", r#"{"nodes":[{"address":"10.0.0.1:80"}]}"#, "! a node without `id`"),
            ("a\n", "10.0.0.1:80", "! a control character in its id"),
        ] {
            assert_eq!(shown(name, value), why, "{name}: {value}");
        }
        assert!(read(b"\xff", b"10.0.0.1:80").is_err() && read(b"a", b"\xff").is_err());
        assert!(read("x".repeat(600).as_bytes(), b"10.0.0.1:80").is_err());
    }
}
