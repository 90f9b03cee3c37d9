//! Bytes that say where they belong: a stream that lost, doubled, swapped or mixed up anything does not match.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A prime just above the relay's buffer size: a lost or doubled buffer is a shift that shows.
const PERIOD: usize = 65_537;

/// An endless stream of bytes; another seed is another stream.
#[derive(Clone)]
pub struct Pattern(Vec<u8>);

/// How a stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Fin,
    Reset,
}

/// What a reader got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: u64,
    pub last: Last,
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut table = vec![0; PERIOD];
        random.fill(&mut table);
        Self(table)
    }

    /// The longest piece at `position` that is not longer than `most`.
    pub fn piece(&self, position: u64, most: u64) -> &[u8] {
        let from = (position % PERIOD as u64) as usize;
        let length = (PERIOD - from).min(usize::try_from(most).unwrap_or(usize::MAX));
        &self.0[from..from + length]
    }

    /// Writes the bytes from `from` to `to`.
    pub async fn write(&self, target: &mut (impl AsyncWrite + Unpin), from: u64, to: u64) -> io::Result<()> {
        let mut position = from;
        while position < to {
            let piece = self.piece(position, to - position);
            target.write_all(piece).await?;
            position += piece.len() as u64;
        }
        Ok(())
    }

    /// Panics unless `bytes` are those at `position`.
    pub fn check(&self, mut position: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let piece = self.piece(position, bytes.len() as u64);
            let (head, rest) = bytes.split_at(piece.len());
            if let Some(at) = head.iter().zip(piece).position(|(a, b)| a != b) {
                panic!("byte {} is not what was sent there", position + at as u64);
            }
            position += head.len() as u64;
            bytes = rest;
        }
    }

    /// Reads and checks the bytes from `from` to `to`.
    pub async fn read(&self, source: &mut (impl AsyncRead + Unpin), from: u64, to: u64) -> io::Result<()> {
        let mut buffer = vec![0; PERIOD];
        let mut position = from;
        while position < to {
            let most = usize::try_from(to - position).unwrap_or(usize::MAX).min(PERIOD);
            let n = source.read(&mut buffer[..most]).await?;
            if n == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("FIN after {position} bytes")));
            }
            self.check(position, &buffer[..n]);
            position += n as u64;
        }
        Ok(())
    }

    /// Reads and checks everything from `from` on, and says how it ended.
    pub async fn read_to_last(&self, source: &mut (impl AsyncRead + Unpin), from: u64) -> Received {
        let mut buffer = vec![0; PERIOD];
        let mut bytes = from;
        loop {
            match source.read(&mut buffer).await {
                Ok(0) => return Received { bytes, last: Last::Fin },
                Ok(n) => {
                    self.check(bytes, &buffer[..n]);
                    bytes += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Received { bytes, last: Last::Reset };
                }
                Err(error) => panic!("neither FIN nor reset after {bytes} bytes: {error}"),
            }
        }
    }
}

/// Reads what comes, whatever it is, and says how it ended.
pub async fn last(source: &mut (impl AsyncRead + Unpin)) -> Last {
    let mut buffer = [0; 4096];
    loop {
        match source.read(&mut buffer).await {
            Ok(0) => return Last::Fin,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Last::Reset,
            Err(error) => panic!("neither FIN nor reset: {error}"),
        }
    }
}
