//! The text of a configuration file, and of the small files that it names: tokens, passwords, certificates. Only a regular file
//! is one: a FIFO would hold up its reader, a device never ends.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::string::FromUtf8Error;

use rustix::fs::OFlags;

/// What is longer is some other file: ten thousand pools take 2 MiB.
pub(crate) const LARGEST: u64 = 16 * 1024 * 1024;

/// Of a token or a password.
pub(crate) const LARGEST_TOKEN: u64 = 64 * 1024;

/// Of certificates: all authorities of a system are 250 KiB.
pub(crate) const LARGEST_CERTIFICATES: u64 = 4 * 1024 * 1024;

/// Opens it, if it may be a configuration.
///
/// # Errors
/// It can't be opened, is no regular file, or is too large.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_up_to(path, LARGEST)
}

/// All of a file that is not larger than `largest` bytes. It blocks as long as its disk does.
///
/// # Errors
/// As [`open`], or it can't be read.
pub(crate) fn small(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_up_to(path, largest)?.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest { Err(too_large(largest)) } else { Ok(bytes) }
}

fn open_up_to(path: &Path, largest: u64) -> io::Result<File> {
    // Before it is opened, too: to open a device can do something.
    fit(&std::fs::metadata(path)?, largest)?;
    // It may be another one by now; then to open a FIFO does not wait for its writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    fit(&file.metadata()?, largest)?;
    Ok(file)
}

/// What it holds.
///
/// # Errors
/// It can't be read, has become too large, or is not valid UTF-8.
pub(crate) fn text(file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(too_large(LARGEST));
    }
    String::from_utf8(bytes).map_err(|error| no_text(&error))
}

fn fit(metadata: &Metadata, largest: u64) -> io::Result<()> {
    let kind = metadata.file_type();
    let is = match () {
        () if kind.is_file() && metadata.len() <= largest => return Ok(()),
        () if kind.is_file() => return Err(too_large(largest)),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO or a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {is}; it must be a regular file")))
}

fn too_large(largest: u64) -> io::Error {
    let (size, what) = match largest {
        LARGEST => (format!("{} MiB", LARGEST >> 20), "configuration"),
        LARGEST_TOKEN => (format!("{} KiB", LARGEST_TOKEN >> 10), "token"),
        _ => (format!("{largest} bytes"), "file of certificates"),
    };
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {size}: that is no {what}"))
}

/// Where an editor finds the first byte that is no UTF-8.
fn no_text(error: &FromUtf8Error) -> io::Error {
    let (good, rest) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
    let good = String::from_utf8_lossy(good);
    let (line, before) = (good.matches('\n').count() + 1, good.rsplit('\n').next().unwrap_or_default());
    let (column, byte) = (before.chars().count() + 1, rest.first().copied().unwrap_or_default());
    let what = format!("line {line}, column {column}: the byte 0x{byte:02x} is no UTF-8; save the file as UTF-8");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &Path) -> String {
        open(path).and_then(|file| text(&file)).unwrap_err().to_string()
    }

    #[test]
    fn only_a_regular_file_of_a_sane_size_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.toml");
        for device in ["/dev/zero", "/dev/null", "/dev/full"] {
            assert_eq!(error(Path::new(device)), "it is a device; it must be a regular file");
        }
        assert_eq!(error(directory.path()), "it is a directory; it must be a regular file");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        // Without a writer: it does not wait for one.
        assert_eq!(error(&path), "it is a FIFO or a pipe; it must be a regular file");
        std::fs::remove_file(&path).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(error(&path), "it is a socket; it must be a regular file");
        drop(socket);
        std::fs::remove_file(&path).unwrap();

        let file = File::create(&path).unwrap();
        file.set_len(LARGEST).unwrap();
        assert_eq!(open(&path).and_then(|file| text(&file)).unwrap().len() as u64, LARGEST);
        file.set_len(LARGEST + 1).unwrap();
        assert_eq!(error(&path), "it is larger than 16 MiB: that is no configuration");
        // It grows while it is read.
        file.set_len(0).unwrap();
        let opened = open(&path).unwrap();
        assert!(small(&path, LARGEST_TOKEN).unwrap().is_empty());
        // Its size says nothing.
        assert!(small(Path::new("/proc/self/status"), 3).is_err());
        file.set_len(LARGEST_TOKEN).unwrap();
        assert_eq!(small(&path, LARGEST_TOKEN).unwrap().len() as u64, LARGEST_TOKEN);
        file.set_len(LARGEST_TOKEN + 1).unwrap();
        let error = small(&path, LARGEST_TOKEN).unwrap_err().to_string();
        assert_eq!(error, "it is larger than 64 KiB: that is no token");
        assert_eq!(
            small(Path::new("/dev/zero"), 9).unwrap_err().to_string(),
            "it is a device; it must be a regular file"
        );
        file.set_len(LARGEST + 1).unwrap();
        assert!(text(&opened).unwrap_err().to_string().starts_with("it is larger than 16 MiB"));
    }
}
