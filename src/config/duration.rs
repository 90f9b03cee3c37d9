//! Durations as they are written, in the file, on the command line and in the API: whole numbers with units, the larger
//! unit first, with or without a space between two of them.
//! At most a year, so that adding one to a point in time can't overflow.

use std::time::Duration;

use super::faults::Complaint;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const LONGEST: u64 = 365 * 24 * 3_600_000;

/// `"500ms"`, `"5s"`, `"1m30s"`, `"1h 30m"`, `"14d"`.
pub(super) fn parse(text: &str) -> Result<Duration, Complaint> {
    let unreadable = || Complaint::new("not a duration", "write it like \"500ms\", \"5s\", \"1m30s\" or \"1h\"");
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Complaint::new("no unit", format!("write \"{text}s\" or \"{text}ms\"")));
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(unreadable)?;
        let (number, tail) = rest.split_at(digits);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let unit = unit.strip_suffix(' ').filter(|_| !tail.is_empty()).unwrap_or(unit);
        // The iterator goes on from the last unit, so "30s1m" and "1s1s" are refused.
        let (_, scale) = units.find(|(name, _)| *name == unit).ok_or_else(unreadable)?;
        let number: u64 = number.parse().map_err(|_| unreadable())?;
        total = total.saturating_add(number.saturating_mul(*scale));
        rest = tail;
    }
    if text.is_empty() {
        return Err(unreadable());
    }
    if total > LONGEST {
        return Err(Complaint::new("more than a year", "the longest duration is \"8760h\""));
    }
    Ok(Duration::from_millis(total))
}

/// The shortest way to write it, as [`parse`] reads it.
pub(super) fn written(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, scale) in UNITS {
        let count = rest / scale;
        rest %= scale;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_meant() {
        for (text, millis) in
            [("500ms", 500), ("5s", 5_000), ("1m30s", 90_000), ("1h", 3_600_000), ("0s", 0), ("1h2m3s4ms", 3_723_004)]
        {
            let duration = parse(text).unwrap_or_else(|_| panic!("{text} is a duration"));
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(written(duration), text);
        }
        assert_eq!(parse("1h 30m 5s").ok(), parse("1h30m5s").ok());
    }

    #[test]
    fn the_rest_is_refused() {
        for text in [
            "", "5", "s", "5 s", "-5s", "1.5s", "5S", "30s1m", "1s1s", "5s5", "5sec", "９s", "1w", " 5s", "5s ",
            "1h  5s", "1h, 5s", "1 h",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse("99999999999999999999h").is_err());
        assert!(parse("8761h").is_err());
        assert!(parse("8760h").is_ok());
    }
}
