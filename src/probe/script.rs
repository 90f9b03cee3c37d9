//! The `script` kind: sends and expects bytes in the order of its steps.
//! Called by `attempt`. An answer may come in any number of pieces; what is left behind a match is what the next
//! `expect` begins with.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Step;
use crate::health::escaped;

use super::attempt::{Miss, Trace, words};

/// Bytes read by one probe, all steps together: an answer to a health check is short, and a backend that streams must
/// not fill our memory.
const READ_LIMIT: u64 = 64 * 1024;

/// Runs the steps. A last `send` passes once the kernel has taken its bytes; the reset that ends the probe may overtake
/// them where the network is congested.
pub(super) async fn exchange(mut stream: TcpStream, steps: &[Step], trace: &mut Trace) -> Result<String, Miss> {
    let (incoming, mut outgoing) = stream.split();
    let mut incoming = incoming.take(READ_LIMIT);
    let mut got = "connected".to_owned();
    for (i, step) in steps.iter().enumerate() {
        let number = format!("step {} of {}", i + 1, steps.len());
        match step {
            Step::Send(bytes) => {
                // The bytes themselves may be a password.
                trace.asked = format!("{number}: send {} bytes", bytes.len());
                outgoing.write_all(bytes).await.map_err(|error| trace.failed(words(&error)))?;
                got = "sent".to_owned();
            }
            Step::Expect(wanted) => {
                trace.asked = format!("{number}: expect {wanted}");
                let end = loop {
                    if let Some(end) = wanted.find(&trace.came) {
                        break end;
                    }
                    match incoming.read_buf(&mut trace.came).await {
                        Ok(0) if incoming.limit() == 0 => return Err(trace.failed("no match in 64 KiB")),
                        Ok(0) => return Err(trace.failed("closed")),
                        Ok(_) => {}
                        Err(error) => return Err(trace.failed(words(&error))),
                    }
                };
                got = escaped(&trace.came[..end]);
                trace.came.drain(..end);
            }
        }
    }
    Ok(got)
}
