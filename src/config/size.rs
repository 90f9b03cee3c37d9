//! Sizes as they are written: a whole number of bytes with a unit of 1,024 or 1,000.

use super::faults::Complaint;

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// `"64KiB"`, `"1MiB"`, `"100kB"`, `"512B"`.
pub(super) fn parse(text: &str) -> Result<u64, Complaint> {
    let unreadable = || Complaint::new("not a size", "write it like \"64KiB\" or \"1MiB\"");
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Complaint::new("no unit", format!("write \"{text}B\" or \"{text}KiB\"")));
    }
    let (unit, scale) = UNITS.iter().find(|(unit, _)| text.ends_with(unit)).ok_or_else(unreadable)?;
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(unreadable());
    }
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale)).ok_or_else(unreadable)
}

/// A size with the largest unit that it is a whole number of.
pub(super) fn written(bytes: u64) -> String {
    let (unit, scale) = UNITS.iter().find(|(_, scale)| bytes.is_multiple_of(*scale)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// A size within limits, which are whole numbers of their units.
pub(super) fn between<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<T, Complaint> {
    let fitting = Some(parse(text)?).filter(|bytes| (least..=most).contains(bytes));
    fitting.and_then(|bytes| T::try_from(bytes).ok()).ok_or_else(|| {
        Complaint::new("out of range", format!("write a size from \"{}\" to \"{}\"", written(least), written(most)))
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("2GiB", 2 << 30), ("100kB", 100_000), ("7B", 7)] {
            assert_eq!(parse(text).ok(), Some(bytes), "{text}");
        }
        for text in ["", "64", "KiB", "64 KiB", "-1B", "1.5MiB", "64kib", "99999999999999999999GiB", "６B"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
