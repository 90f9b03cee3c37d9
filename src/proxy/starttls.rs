//! `sniff.starttls`: a client that asks for TLS in the clear, as those of PostgreSQL do. Its ClientHello is read before its
//! session has a backend, so its request is answered here, and asked again of each backend.
//! Used by `sniff` and `dial`.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use super::client::{self, Client};
use super::socket::{Socket, connect_failure};
use crate::config;
use crate::deadline::within;
use crate::metrics::ConnectFailure;
use crate::route::postgres::{SSL_REQUEST, YES};

/// Makes what each backend is sent first.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    client: &'a Client,
    socket: &'a Socket,
    /// Of the session, for backends.
    own_id: String,
}

/// What a backend is sent first, and has to answer: the PROXY header, if its pool wants one, and the request.
#[derive(Debug)]
pub(super) struct Starttls(Vec<u8>);

impl<'a> Opening<'a> {
    pub(super) fn new(client: &'a Client, socket: &'a Socket, own_id: String) -> Self {
        Self { client, socket, own_id }
    }

    pub(super) fn for_pool(&self, settings: &config::Pool) -> Starttls {
        let send = settings.send_proxy.as_ref();
        let header = send.map(|send| self.client.header(send, self.socket, &self.own_id).bytes);
        Starttls([&header.unwrap_or_default()[..], &SSL_REQUEST].concat())
    }
}

impl Starttls {
    /// Asks a backend, and takes its answer away, which is one byte. A backend that is sent no more has nothing else to say:
    /// what came with the answer could only be meant to be taken for something that TLS protects (CVE-2021-23222).
    ///
    /// Not cancel safe: dropping it may leave half of it done.
    pub(super) async fn ask(&self, backend: &Socket, limit: Duration) -> Result<(), (ConnectFailure, io::Error)> {
        let mut answer = [0; 2];
        let asked = within(limit, async {
            client::tell(backend, &self.0).await?;
            poll_fn(|cx| backend.poll_read(cx, &mut answer)).await
        });
        match asked.await {
            Ok(Ok(1)) if answer[0] == YES => Ok(()),
            Ok(Ok(0)) => {
                Err((ConnectFailure::Closed, io::Error::new(io::ErrorKind::UnexpectedEof, "no answer to SSLRequest")))
            }
            Ok(Ok(1)) => Err(refused(format!("it answers `{}` to SSLRequest", answer[..1].escape_ascii()))),
            Ok(Ok(_)) => {
                Err(refused(format!("it answers more than one byte to SSLRequest: `{}`", answer.escape_ascii())))
            }
            Ok(Err(error)) => Err((connect_failure(&error), error)),
            Err(_) => {
                let text = format!("no answer to SSLRequest within {limit:?}");
                Err((ConnectFailure::Timeout, io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }
}

fn refused(text: String) -> (ConnectFailure, io::Error) {
    (ConnectFailure::Starttls, io::Error::new(io::ErrorKind::InvalidData, text))
}
