//! The published packages hold all files for building and reading, and no others.

use std::process::Command;

use serde_json::Value;

const PUBLISHED: [&str; 4] = ["evenkeel", "evenkeel-consul", "evenkeel-etcd", "evenkeel-registry-client"];

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn packages_have_their_licences_and_no_internal_files() {
    for name in PUBLISHED {
        let list = cargo(&["package", "--list", "--allow-dirty", "-p", name]);
        let files: Vec<&str> = list.lines().collect();
        for wanted in ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "Cargo.toml", "src/lib.rs"] {
            assert!(files.contains(&wanted), "{name}: {wanted} is not among {files:?}");
        }
        let odd = |file: &&&str| !file.starts_with("src/") && (file.contains('/') || file.ends_with(".pem"));
        assert_eq!(files.iter().filter(odd).count(), 0, "{name}: {files:?}");
    }
}

#[test]
fn packages_to_publish_are_described_and_the_others_are_private() {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), 6);
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let may_be_published = package["publish"].is_null();
        assert_eq!(may_be_published, PUBLISHED.contains(&name), "{name}");
        assert_eq!(package["license"], "Apache-2.0 OR MIT", "{name}");
        if !may_be_published {
            continue;
        }
        for key in ["description", "repository", "readme", "rust_version"] {
            assert!(package[key].is_string(), "{name} has no {key}");
        }
        for key in ["authors", "keywords", "categories"] {
            assert!(!package[key].as_array().unwrap().is_empty(), "{name} has no {key}");
        }
        // A path alone is refused by the registry.
        for dependency in package["dependencies"].as_array().unwrap() {
            let is_ours = dependency["kind"].is_null();
            assert!(!is_ours || dependency["req"] != "*", "{name}: {}", dependency["name"]);
        }
    }
}

/// A panic ends its session, and only where it unwinds.
#[test]
fn no_profile_sets_panic_to_abort() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    assert!(manifest.contains("[profile.release]") && manifest.contains("[profile.dist]"));
    assert!(!manifest.lines().any(|line| line.trim_start().starts_with("panic")));
}

/// With a program that is quick to link: cargo decides by the profiles alone.
#[test]
fn the_dist_profile_strips_symbols() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let profiles = &manifest[manifest.find("[profile.release]").unwrap()..];
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("src")).unwrap();
    std::fs::write(directory.path().join("src/main.rs"), "fn main() {}").unwrap();
    let package = "[package]\nname = \"evenkeel\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    std::fs::write(directory.path().join("Cargo.toml"), format!("{package}{profiles}")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--verbose", "--profile", "dist"])
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("strip=debuginfo") && !said.contains("-C debuginfo="), "{said}");
}
