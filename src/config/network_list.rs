//! `allow` and `deny` of a listener: networks that are written there, or a file of them with a line each.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::access::path;
use super::faults::{Complaint, shown};
use super::network::{self, Network};
use super::table::Table;
use super::value::{Form, Value};

/// Faults of a file that are shown; they are often one mistake.
const MOST_SHOWN: usize = 10;

/// Networks and single addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum NetworkList {
    /// Written in the configuration; at least one.
    Written(Vec<Network>),
    /// One a line in a file of its own, which is not part of the configuration.
    File {
        /// Its path.
        file: PathBuf,
    },
}

/// What is wrong with a file of networks: `PATH:LINE: what; how to mend it`, a line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NetworkFileError(String);

impl NetworkList {
    /// The file, if the networks are in one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Written(_) => None,
            Self::File { file } => Some(file),
        }
    }

    /// `allow` and `deny`.
    pub(super) fn read_pair(listener: &Table<'_>) -> [Option<Self>; 2] {
        let allow = listener.value("allow").and_then(Self::read);
        let deny = listener.value("deny").and_then(Self::read);
        if let (Some(Self::Written(allow)), Some(value)) = (&allow, listener.value("deny"))
            && value.form() != Form::Table
        {
            for text in value.texts().unwrap_or_default() {
                if let Some(network) = text.parsed(network::parse).filter(|network| allow.contains(network)) {
                    let what = format!("`allow` has {network}, too");
                    text.refuse::<()>(Complaint::new(what, "remove it from one of the two"));
                }
            }
        }
        [allow, deny]
    }

    fn read(value: Value<'_>) -> Option<Self> {
        if value.form() == Form::Table {
            let table = value.table()?;
            if !table.has("file") {
                let key = value.key;
                table.fault(format!("`{key}` without `file`"), format!("write {key} = {{ file = \"{key}.txt\" }}"));
            }
            return table.parsed("file", path).map(|file| Self::File { file });
        }
        let hint = match value.key {
            "allow" => "it would let no client in: add a network, or remove the key",
            _ => "add a network, or remove the key",
        };
        let texts = value.at_least_one(value.texts(), hint);
        Some(Self::Written(texts.iter().filter_map(|text| text.parsed(network::parse)).collect()))
    }
}

/// The networks of a file, each with the number of its line. What follows `#` is a comment.
///
/// # Errors
/// Lines that are no network. `path` is what they call the file.
pub fn parse_networks(path: &Path, text: &str) -> Result<Vec<(Network, u32)>, NetworkFileError> {
    let (mut networks, mut faults, mut more) = (Vec::new(), Vec::new(), 0);
    for (line, number) in text.lines().zip(1..) {
        let written = line.split('#').next().unwrap_or_default().trim();
        match network::parse(written) {
            _ if written.is_empty() => {}
            Ok(network) => networks.push((network, number)),
            Err(_) if faults.len() == MOST_SHOWN => more += 1,
            Err(Complaint { what, hint }) => {
                faults.push(format!("{}:{number}: {}: {what}; {hint}", path.display(), shown(written)));
            }
        }
    }
    if more > 0 {
        faults.push(format!("and {more} more"));
    }
    if faults.is_empty() { Ok(networks) } else { Err(NetworkFileError(faults.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let networks = parse_networks(Path::new("deny.txt"), text).map_err(|error| error.to_string())?;
        Ok(networks.iter().map(|(network, line)| format!("{line} {network}")).collect())
    }

    #[test]
    fn a_file_has_a_network_a_line_and_comments() {
        let text = "# ours\n10.0.0.0/8\r\n\n  2001:db8::/32 # lab\n192.0.2.7";
        assert_eq!(read(text).unwrap(), ["2 10.0.0.0/8", "4 2001:db8::/32", "5 192.0.2.7/32"]);
        assert_eq!(read("# nothing\n").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_network_is_refused_with_its_line() {
        insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
            let text = "10.0.0.0/8\n10.0.0.1/8\n10.0.0.0 10.1.0.0\nexample.com # whose\n::ffff:10.0.0.1\n10.0.0.0/33\n";
            insta::assert_snapshot!("refused_network_file", read(text).unwrap_err());
        });
        let faults = read(&"x\n".repeat(30)).unwrap_err();
        assert_eq!((faults.lines().count(), faults.lines().last()), (MOST_SHOWN + 1, Some("and 20 more")));
    }
}
