//! `ARCHITECTURE.md` and `CONTRIBUTING.md`: the files, types and functions that they name exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::pages::{code, page};

const PAGES: [&str; 2] = ["ARCHITECTURE.md", "CONTRIBUTING.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether it is meant as a path in the repository: `src/pool/`, `lb.toml`.
fn is_path(word: &str) -> bool {
    let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let has_ending = [".rs", ".md", ".toml", ".sh", ".json"].iter().any(|ending| word.ends_with(ending));
    is_plain && !word.starts_with('/') && (has_ending || word.contains('/'))
}

#[test]
fn the_files_named_in_the_map_exist() {
    for name in PAGES {
        let text = page(name);
        let paths: BTreeSet<_> = code(&text).into_iter().filter(|word| is_path(word)).collect();
        let gone: Vec<_> = paths.iter().filter(|path| !root().join(path).exists()).collect();
        assert!(!paths.is_empty() && gone.is_empty(), "{name}: there is no {gone:?}");
    }
}

/// Every Rust file of the workspace.
fn sources(directory: PathBuf, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

/// The parts of `Type`, `Type::method`, `function()`, `module::function`; empty = it is no name of code.
fn parts(word: &str) -> Vec<&str> {
    let name = word.strip_suffix("()").unwrap_or(word);
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
    let is_type = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.contains(|c: char| c.is_ascii_lowercase());
    let is_code = is_name && (is_type || name.contains("::") || word.ends_with("()"));
    if is_code { name.split("::").collect() } else { Vec::new() }
}

/// Whether the sources define it: a type, a constant, a function, a module, a field or a member of an enum.
fn is_defined(name: &str, sources: &[String]) -> bool {
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let defines = |line: &str| {
        let line = line.trim_start();
        let words = ["struct ", "enum ", "trait ", "type ", "fn ", "mod ", "const ", "static ", "macro_rules! "];
        let keyword = words.iter().any(|word| {
            line.match_indices(&format!("{word}{name}")).any(|(at, found)| is_end(&line[at + found.len()..]))
        });
        let bare = line.strip_prefix("pub ").unwrap_or(line);
        let member = bare.strip_prefix(name).is_some_and(|rest| rest.starts_with([',', '(', ':', ' ', '=']));
        keyword || member
    };
    sources.iter().any(|text| text.lines().any(defines))
}

#[test]
fn the_types_and_functions_named_in_the_map_exist() {
    let mut texts = Vec::new();
    for directory in
        ["src", "registry-client/src", "consul/src", "etcd/src", "backend-demo/src", "loadtest/src", "tests"]
    {
        sources(root().join(directory), &mut texts);
    }
    for name in PAGES {
        let text = page(name);
        let names: BTreeSet<_> = code(&text).into_iter().flat_map(parts).collect();
        let gone: Vec<_> = names.iter().filter(|name| !is_defined(name, &texts)).collect();
        assert!(gone.is_empty(), "{name}: nothing defines {gone:?}");
    }
}
