//! Whether a program has a file open for writing, from what /proc shows of the programs that we may look at. inotify says
//! only that one of them has closed it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// On a machine with very many open files the answer is "unknown".
const PATIENCE: Duration = Duration::from_millis(500);

/// `None` = not all programs can be seen, and none that can has it open.
pub(super) fn writes(path: &Path, inode: u64) -> Option<bool> {
    let deadline = Instant::now() + PATIENCE;
    let name = fs::canonicalize(path).ok()?.file_name()?.to_owned();
    let mut is_all = true;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let number = process.file_name().to_string_lossy().parse::<u32>();
        // We do not write it, and may have very many open files.
        if number.is_err() || number == Ok(std::process::id()) {
            continue;
        }
        let process = process.path();
        let Ok(open) = fs::read_dir(process.join("fd")) else {
            // Not ours; or it has just ended.
            is_all &= !process.exists();
            continue;
        };
        for one in open.flatten() {
            // Not `metadata`, which would ask the file systems of other programs, and wait for them.
            let leads_there = fs::read_link(one.path()).is_ok_and(|to| to.file_name() == Some(&name));
            if leads_there && is_writer(&process.join("fdinfo").join(one.file_name()), inode) {
                return Some(true);
            }
            if Instant::now() > deadline {
                return None;
            }
        }
    }
    is_all.then_some(false)
}

/// `flags:` is octal; `ino:` is there since Linux 5.14.
fn is_writer(info: &Path, inode: u64) -> bool {
    let Ok(info) = fs::read_to_string(info) else { return false };
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let flags = field("flags:").and_then(|flags| u64::from_str_radix(flags, 8).ok());
    let is_it = field("ino:").is_none_or(|number| number.parse() == Ok(inode));
    is_it && flags.is_some_and(|flags| matches!(flags & 0o3, 1 | 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_seen_and_a_reader_is_none() {
        use std::os::unix::fs::MetadataExt;
        use std::process::{Command, Stdio};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a rather special name");
        fs::write(&path, "").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        // The child holds what is its stdout until its stdin ends.
        let holding =
            |file: fs::File| Command::new("cat").stdin(Stdio::piped()).stdout(file).spawn().expect("cat is everywhere");
        for (file, wanted) in
            [(fs::File::open(&path), None), (fs::File::options().append(true).open(&path), Some(true))]
        {
            let mut child = holding(file.unwrap());
            let found = |inode| writes(&path, inode).filter(|&writes| writes);
            assert_eq!((found(inode), found(inode + 1)), (wanted, None), "another file of that name is none");
            drop(child.stdin.take());
            child.wait().unwrap();
            assert_eq!(found(inode), None);
        }
    }
}
