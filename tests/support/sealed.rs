//! A backend within TLS, with a certificate from `tests/support/tls`.

#[path = "tls/acceptor.rs"]
mod acceptor;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Backend;
pub use acceptor::fixture;

/// Sends back what it gets.
pub async fn sealed(certificate: &str) -> Backend {
    let acceptor = acceptor::acceptor(certificate);
    Backend::serving(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}
