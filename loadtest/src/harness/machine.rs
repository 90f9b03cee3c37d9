//! The machine: its hardware, how busy it is, and the CPU time of all its processes together.
//!
//! CPU time comes from /proc/stat and not from the single processes, because the kernel charges softirq work on loopback to the
//! process that happens to run.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// If more than this share of all CPUs is in use before the start, the figures are marked as disturbed.
const QUIET: f64 = 0.03;

/// How long the machine is watched for that.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    /// In GiB.
    pub(crate) memory: f64,
    pub(crate) kernel: String,
    /// The load averages of 1, 5 and 15 minutes before the start.
    pub(crate) load: String,
    /// The share of all CPUs in use during the second before the start.
    pub(crate) background: f64,
}

/// CPU seconds of the whole machine since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct CpuTime {
    /// Everything but idle, iowait and steal.
    pub(crate) busy: f64,
    /// Taken away by the host of a virtual machine for other guests.
    pub(crate) stolen: f64,
}

impl Machine {
    /// Takes a second.
    pub(crate) fn look() -> io::Result<Self> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let (before, start) = (CpuTime::now()?, Instant::now());
        thread::sleep(LOOK);
        let background = (CpuTime::now()?.busy - before.busy) / start.elapsed().as_secs_f64() / cpus as f64;
        let kilobytes: f64 = field(&fs::read_to_string("/proc/meminfo")?, "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .unwrap_or_default();
        Ok(Self {
            cpu: field(&fs::read_to_string("/proc/cpuinfo")?, "model name").unwrap_or("unknown CPU").to_owned(),
            cpus,
            memory: kilobytes / 1024.0 / 1024.0,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: fs::read_to_string("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
            background,
        })
    }

    /// A warning if the machine was busy; `when` names the time of the look.
    pub(crate) fn warning(&self, when: &str) -> Option<String> {
        (self.background > QUIET).then(|| {
            format!(
                "the machine is not quiet: {:.0} % of its CPUs were in use {when} (load {}); the figures are disturbed",
                self.background * 100.0,
                self.load
            )
        })
    }
}

impl CpuTime {
    pub(crate) fn now() -> io::Result<Self> {
        // The unit of /proc/stat; it does not depend on the kernel's own timer.
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Self::parse(&fs::read_to_string("/proc/stat")?, ticks)
            .ok_or_else(|| io::Error::other("/proc/stat has no line for all CPUs"))
    }

    /// `user nice system idle iowait irq softirq steal guest guest_nice`; guests are part of user and nice (proc_stat(5)).
    fn parse(text: &str, ticks: f64) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [user, nice, system, _idle, _iowait, irq, softirq, rest @ ..] = fields.as_slice() else { return None };
        let stolen = rest.first().copied().unwrap_or_default();
        Some(Self { busy: (user + nice + system + irq + softirq) / ticks, stolen: stolen / ticks })
    }
}

/// Today as year-month-day, in UTC.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    date(seconds / 86_400)
}

/// Days since 1970 as a date. Counts in years from March on, so that the leap day is the last one (Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms").
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The value of the first `name: value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_iowait_and_steal() {
        let text = "cpu  100 20 30 1000 500 4 6 77 50 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(CpuTime::parse(text, 100.0), Some(CpuTime { busy: 1.6, stolen: 0.77 }));
        assert_eq!(CpuTime::parse("cpu  1 2 3 4 5 6 7\n", 1.0), Some(CpuTime { busy: 19.0, stolen: 0.0 }));
        for bad in ["", "cpu 1 2 x 4 5 6 7 8", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3"] {
            assert_eq!(CpuTime::parse(bad, 100.0), None, "{bad:?}");
        }
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotalNot: 1\nMemTotal:   24 kB\nmodel name\t: Some CPU @ 3: GHz\n";
        assert_eq!(field(text, "MemTotal"), Some("24 kB"));
        assert_eq!(field(text, "model name"), Some("Some CPU @ 3: GHz"));
        assert_eq!(field(text, "Nothing"), None);
    }

    #[test]
    fn dates() {
        for (days, wanted) in
            [(0, "1970-01-01"), (11_016, "2000-02-29"), (19_723, "2024-01-01"), (20_812, "2026-12-25")]
        {
            assert_eq!(date(days), wanted);
        }
    }
}
