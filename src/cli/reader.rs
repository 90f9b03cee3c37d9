//! Says when stdout is not read any more: what goes on and on, such as `evenkeel events | head -1`, ends with its reader
//! and not only when the next thing happens.

use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::oneshot;

/// Resolves when the reader of stdout is gone; never if stdout is a file.
///
/// # Cancel safety
/// Safe: the thread that waits ends with the process.
pub(super) async fn gone() {
    let (tell, gone) = oneshot::channel();
    // A thread, since stdout may be what epoll does not take, and shares its flags with other programs.
    thread::spawn(move || {
        let stdout = std::io::stdout();
        loop {
            // Errors and hang-ups are told without being asked for.
            let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                // Then only a write can tell.
                Err(_) => return,
            }
        }
        // The command may be over.
        let _ = tell.send(());
    });
    if gone.await.is_err() {
        std::future::pending::<()>().await;
    }
}
