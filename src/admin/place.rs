//! Where admin sockets are, and whose they may be: the balancer and its commands look in the same places, in the same
//! order, and neither trusts a directory in which another user can put another socket.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// The socket's name in its directory.
const NAME: &str = "admin.sock";

/// Bits of a mode that let others than the owner write, and the one that keeps them from each other's files.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

const ROOT: u32 = 0;

/// Where a socket is if nothing else is written, by the environment of this process; the first that may be used is.
pub fn usual_sockets() -> Vec<PathBuf> {
    usual(&|name| std::env::var(name).ok())
}

fn usual(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    // A relative one would not be found again.
    let directory = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // systemd may give several (systemd.exec(5)).
    let runtime = env("RUNTIME_DIRECTORY").and_then(|all| all.split(':').next().map(PathBuf::from));
    let all = [
        runtime.filter(|path| path.is_absolute()),
        Some(PathBuf::from("/run/evenkeel")),
        directory("XDG_RUNTIME_DIR").map(|path| path.join("evenkeel")),
        directory("HOME").map(|path| path.join(".local/state/evenkeel")),
    ];
    let mut sockets: Vec<PathBuf> = Vec::new();
    for socket in all.into_iter().flatten().map(|directory| directory.join(NAME)) {
        if !sockets.contains(&socket) {
            sockets.push(socket);
        }
    }
    sockets
}

/// The directory that a socket is in.
pub(super) fn directory_of(socket: &Path) -> &Path {
    socket.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Why another user could put another socket in the place of one that this process makes; `None` = no other user can.
pub fn shared(socket: &Path) -> Option<String> {
    let directory = directory_of(socket);
    match weak_spot(directory, geteuid().as_raw()) {
        Ok(None) => None,
        Ok(Some(weak)) => Some(format!("others can write in {}", weak.display())),
        // Not there yet: it is made for its owner alone. What is above it counts.
        Err(error) if error.kind() == io::ErrorKind::NotFound => shared(directory),
        Err(error) => Some(format!("{}: {error}", directory.display())),
    }
}

/// Whether this process may believe what answers at a socket, by the user that listens there (`SO_PEERCRED`): the own one,
/// root, or for root the owner of a directory in which no third one can write.
///
/// # Errors
/// Why not.
pub(crate) fn trusted(socket: &Path, peer: u32) -> Result<(), String> {
    let own = geteuid().as_raw();
    if peer == own || peer == ROOT {
        return Ok(());
    }
    let directory = directory_of(socket);
    let is_peers = fs::metadata(directory).is_ok_and(|found| found.uid() == peer);
    if own == ROOT && is_peers && matches!(weak_spot(directory, peer), Ok(None)) {
        return Ok(());
    }
    Err(format!("it belongs to {}, who is not trusted", user(peer)))
}

/// The first directory on the way in which others than root and `owner` can replace what is below it.
fn weak_spot(directory: &Path, owner: u32) -> io::Result<Option<PathBuf>> {
    // Without symbolic links, which another user may have made.
    let whole = fs::canonicalize(directory)?;
    for (depth, place) in whole.ancestors().enumerate() {
        let found = fs::metadata(place)?;
        let is_ours = found.uid() == owner || found.uid() == ROOT;
        // In a sticky directory others can't rename what is not theirs; but they could have made it first.
        let is_open = found.mode() & OTHERS_WRITE != 0 && (depth == 0 || found.mode() & STICKY == 0);
        if !is_ours || is_open {
            return Ok(Some(place.to_owned()));
        }
    }
    Ok(None)
}

/// A user, as the machine's own list of users has it.
pub(super) fn user(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let wanted = uid.to_string();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == wanted).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| format!("uid {uid}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_usual_places_in_their_order() {
        let env = |name: &str| match name {
            "RUNTIME_DIRECTORY" => Some("/run/lb:/run/other".to_owned()),
            "XDG_RUNTIME_DIR" => Some("/run/user/7".to_owned()),
            "HOME" => Some("/home/a".to_owned()),
            _ => None,
        };
        let all: Vec<_> = usual(&env).iter().map(|path| path.display().to_string()).collect();
        let wanted = ["/run/lb", "/run/evenkeel", "/run/user/7/evenkeel", "/home/a/.local/state/evenkeel"];
        assert_eq!(all, wanted.map(|directory| format!("{directory}/admin.sock")));
        assert_eq!(usual(&|name| (name == "RUNTIME_DIRECTORY").then(|| "/run/evenkeel".to_owned())).len(), 1);
        assert_eq!(usual(&|_| Some("relative".to_owned())), [PathBuf::from("/run/evenkeel/admin.sock")]);
    }

    #[test]
    fn a_directory_in_which_others_can_write_is_shared() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let make = |name: &str, mode: u32| {
            fs::create_dir(path(name)).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode, is_shared) in [
            ("own", 0o700, false),
            ("read", 0o755, false),
            ("group", 0o770, true),
            ("all", 0o777, true),
            ("sticky", 0o1777, true),
            ("sticky/own", 0o700, false),
            ("all/own", 0o700, true),
        ] {
            make(name, mode);
            assert_eq!(shared(&path(name).join("a.sock")).is_some(), is_shared, "{name}");
        }
        symlink(path("all"), path("link")).unwrap();
        assert!(shared(&path("link/a.sock")).is_some(), "where it leads counts");
        assert_eq!(shared(&path("own/none/a.sock")), None, "it is made for its owner alone");
        assert!(shared(&path("all/none/a.sock")).is_some());
    }

    #[test]
    fn root_and_this_user_are_trusted() {
        let own = geteuid().as_raw();
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("a.sock");
        assert!(trusted(&socket, own).is_ok() && trusted(&socket, 0).is_ok());
        let why = trusted(&socket, 4_294_000).unwrap_err();
        assert_eq!(why, "it belongs to uid 4294000, who is not trusted");
    }
}
