//! The small files that settings name: a token, authorities.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

/// All of a regular file of at most `limit` bytes. It blocks as long as its disk does.
///
/// # Errors
/// It can't be read, or is a device or a FIFO (which may never end), or is larger.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    // Before it is opened: to open a FIFO waits for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it must be a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_of_a_sane_size_is_read() {
        let path = std::env::temp_dir().join(format!("evenkeel-consul-{}", std::process::id()));
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        assert_eq!(read(&path, 3).unwrap_err().to_string(), "it is larger than 3 bytes");
        std::fs::remove_file(&path).unwrap();
        for none in ["/dev/zero", "/dev/null", "/"] {
            assert_eq!(read(Path::new(none), 3).unwrap_err().to_string(), "it must be a regular file");
        }
    }
}
