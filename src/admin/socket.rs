//! The admin side's UNIX socket: for the process's own user alone, put in the place of one that is stale, and removed at
//! the end.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Who waits while every seat is taken.
const BACKLOG: u32 = 128;

/// Removes the socket's file when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

/// Binds it. A file that nobody listens on any more is in nobody's way.
///
/// # Errors
/// Another process listens there, something that is no socket is there, or as bind(2) says.
pub(super) async fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
            Err(_) => fs::remove_file(path)?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = UnixSocket::new_stream()?;
    // Before bind(2), which takes the mode over (unix(7)): nobody gets in between.
    File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(fs::Permissions::from_mode(0o600))?;
    socket.bind(path)?;
    let listener = socket.listen(BACKLOG)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity: identity(path) }))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Who can't remove it leaves a stale one, which the next start removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}
