//! The admin side's UNIX socket: for the process's own user alone, put in the place of one that is stale, and removed at
//! the end.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::time::sleep;

use super::place::{directory_of, user};

/// Connections that wait while every slot is taken.
const BACKLOG: u32 = 128;

/// Another process that begins at this moment is done with the directory long before that.
const TURNS: u32 = 50;
const TURN: Duration = Duration::from_millis(20);

/// Removes the socket's file when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

/// Binds it, in a directory that is made for this user alone if there is none. A file on which no process
/// listens any more is replaced.
///
/// # Errors
/// Another process listens there, something that is no socket is there, or as bind(2) says.
pub(super) async fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let directory = directory_of(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // Else two that begin at once could each take the other's new socket for the stale one.
    let _alone = alone(directory).await;
    clear(path).await?;
    let socket = UnixSocket::new_stream()?;
    // Before bind(2), which takes the mode over (unix(7)): no other process gets in between.
    File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(fs::Permissions::from_mode(0o600))?;
    socket.bind(path)?;
    let listener = socket.listen(BACKLOG)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity: identity(path) }))
}

/// A lock on the directory, until dropped.
async fn alone(directory: &Path) -> Option<File> {
    let file = File::open(directory).ok()?;
    for _ in 0..TURNS {
        match file.try_lock() {
            Ok(()) => break,
            Err(fs::TryLockError::WouldBlock) => sleep(TURN).await,
            // Not every file system has locks.
            Err(fs::TryLockError::Error(_)) => break,
        }
    }
    Some(file)
}

/// Removes a socket on which no process listens; all else is an error.
async fn clear(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "something that is no socket is there"));
    }
    let whose = user(found.uid());
    let Err(error) = UnixStream::connect(path).await else {
        return Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there"));
    };
    match error.kind() {
        // The one answer that says that no process listens (unix(7)).
        ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                let what = format!(
                    "a stale socket of {whose} is there, which this process may not remove: remove it, or choose \
                     another path"
                );
                io::Error::new(ErrorKind::PermissionDenied, what)
            }
            _ => error,
        }),
        ErrorKind::NotFound => Ok(()),
        ErrorKind::WouldBlock => {
            Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there, with a full backlog"))
        }
        ErrorKind::PermissionDenied => {
            let what = format!("a socket of {whose} is there: remove it, or choose another path");
            Err(io::Error::new(ErrorKind::PermissionDenied, what))
        }
        _ => Err(error),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // If it can't be removed it stays, and the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
