//! Reads durations, sizes and rates of the command line, in the spelling of `lb.toml`. Pure.
//!
//! Three small parsers are less code than the crates for them.

use std::time::Duration;

/// `"500ms"`, `"5s"`, `"2m"`, `"1h"`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} needs a unit: us, ms, s, m or h")),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| format!("{text:?} is too long"))
}

/// `"64"` (bytes), `"16KiB"`, `"1MiB"`, `"1GiB"`, `"5kB"`.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "" | "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("{text:?}: the unit must be B, kB, MB, GB, KiB, MiB or GiB")),
    };
    whole(number * bytes, text)
}

/// A count: `"5000000"`, `"5M"`, `"20k"`.
pub fn count(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        _ => return Err(format!("{text:?}: the suffix must be k or M")),
    };
    whole(number * factor, text)
}

/// Operations per second: `"1000/s"`, `"20k/s"`, `"30/m"`, `"1000"`.
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, per) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((number, "m")) => (number, 60.0),
        Some(_) => return Err(format!("{text:?}: a rate is per /s or /m")),
    };
    let count = count(number)?;
    if count == 0 {
        return Err("the rate must be above 0".into());
    }
    Ok(count as f64 / per)
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].parse().map_err(|_| format!("{text:?} does not start with a number"))?;
    Ok((number, &text[end..]))
}

fn whole(number: f64, text: &str) -> Result<u64, String> {
    // Near 2^53: beyond it an f64 does not hold every whole number.
    if number.fract() != 0.0 || number > 9e15 {
        return Err(format!("{text:?} is not a whole number, or too large"));
    }
    Ok(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_spellings_of_the_configuration() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("16KiB"), Ok(16384));
        assert_eq!(count("5M"), Ok(5_000_000));
        assert_eq!(rate("1000/s"), Ok(1000.0));
        assert_eq!(rate("2k"), Ok(2000.0));
        assert_eq!(rate("30/m"), Ok(0.5));
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in ["", "s", "5", "5 s", "-1s", "1e3s", "5x", "..s", "99999999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "1.5", "KiB", "1kib", "-5", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        for bad in ["0/s", "5/h", "/s", "x"] {
            assert!(rate(bad).is_err(), "{bad:?}");
        }
    }
}
