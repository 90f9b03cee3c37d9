//! The user and group of a check of kind `exec` (`run_as`), looked up in `/etc/passwd` and `/etc/group`.
//! Called by `exec`, and at the start to report mistakes.
//! No other user database is asked: libc would load plugins for it, which may block.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{getegid, geteuid};

use crate::config::RunAs;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// A user and a group by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Identity {
    fn may_become(self, other: Self) -> bool {
        self.user == 0 || self == other
    }
}

/// The numbers for `run_as`, if this process may take these rights.
///
/// # Errors
/// There is no such user or group, or only root may take these rights.
pub(super) fn of(run_as: &RunAs) -> io::Result<Identity> {
    let wrong = |what: String| io::Error::other(format!("run_as \"{run_as}\": {what}"));
    let found = found(run_as, Path::new(USERS), Path::new(GROUPS)).map_err(wrong)?;
    let ours = Identity { user: geteuid().as_raw(), group: getegid().as_raw() };
    if !ours.may_become(found) {
        return Err(wrong(
            "only root may run a program as another user; start as root, or leave run_as out".to_owned(),
        ));
    }
    Ok(found)
}

fn found(run_as: &RunAs, users: &Path, groups: &Path) -> Result<Identity, String> {
    // Fields: name, password, number; for a user then the number of its group.
    let user = entry(users, &run_as.user)?;
    let number = user.as_ref().and_then(|fields| fields.first().copied()).or_else(|| run_as.user.parse().ok());
    let number = number.ok_or_else(|| format!("there is no user of that name in {}", users.display()))?;
    let group = match &run_as.group {
        Some(name) => {
            let group = entry(groups, name)?.and_then(|fields| fields.first().copied()).or_else(|| name.parse().ok());
            group.ok_or_else(|| format!("there is no group of that name in {}", groups.display()))?
        }
        None => user
            .and_then(|fields| fields.get(1).copied())
            .ok_or_else(|| format!("that user is not in {}: write the group, too (user:group)", users.display()))?,
    };
    Ok(Identity { user: number, group })
}

/// The numbers in the line with this name or this number.
fn entry(file: &Path, wanted: &str) -> Result<Option<Vec<u32>>, String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} can't be read: {error}", file.display())),
    };
    let number: Option<u32> = wanted.parse().ok();
    Ok(text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let numbers: Vec<u32> = fields.skip(1).map_while(|field| field.parse().ok()).collect();
        let same = name == wanted || (number.is_some() && numbers.first().copied() == number);
        same.then_some(numbers)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_becomes_another() {
        let [root, probe, other] = [0, 70, 71].map(|number| Identity { user: number, group: number });
        assert!(root.may_become(probe) && probe.may_become(probe));
        assert!(!probe.may_become(root) && !probe.may_become(other));
    }

    #[test]
    fn names_and_numbers_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let (users, groups) = (directory.path().join("passwd"), directory.path().join("group"));
        fs::write(&users, "root:x:0:0:root:/root:/bin/sh\n# no\n\nprobe:x:70:71::/:/bin/false\n").unwrap();
        fs::write(&groups, "root:x:0:\nchecks:x:80:probe\n").unwrap();
        for (text, wanted) in [
            ("probe", Ok((70, 71))),
            ("probe:checks", Ok((70, 80))),
            ("70", Ok((70, 71))),
            ("70:5", Ok((70, 5))),
            ("99:5", Ok((99, 5))),
            ("99", Err("write the group, too")),
            ("nobody-there", Err("there is no user")),
            ("probe:nobody-there", Err("there is no group")),
        ] {
            let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
            let run_as = RunAs { user: user.to_owned(), group: group.map(str::to_owned) };
            let found = found(&run_as, &users, &groups);
            match wanted {
                Ok((user, group)) => assert_eq!(found, Ok(Identity { user, group }), "{text}"),
                Err(what) => assert!(found.is_err_and(|why| why.contains(what)), "{text}"),
            }
        }
    }
}
