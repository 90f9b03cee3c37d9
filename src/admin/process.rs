//! What the kernel says of this process, as `process_*` of `/metrics`: the names that every Prometheus client library has.
//! Read from `/proc` here, since the prometheus crate's own reader brings a parser of all of `/proc` to every build.

use std::fs;
use std::sync::LazyLock;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use crate::metrics::{Metric, MetricKind};

const CPU: Metric = counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
const OPEN_FDS: Metric = gauge("process_open_fds", "Number of open file descriptors.");
const MAX_FDS: Metric = gauge("process_max_fds", "Maximum number of open file descriptors.");
const VIRTUAL: Metric = gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.");
const RESIDENT: Metric = gauge("process_resident_memory_bytes", "Resident memory size in bytes.");
const START: Metric = gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");
const THREADS: Metric = gauge("process_threads", "Number of OS threads in the process.");

/// Unix time of the machine's start. Read once: the file grows with CPUs and interrupts, and this line of it stays.
static BOOTED: LazyLock<Option<u64>> =
    LazyLock::new(|| fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text)));

/// What cannot be read is left out: `/proc` may be hidden.
pub(super) fn values() -> Vec<(Metric, f64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::of(&text));
    let mut values = Vec::new();
    if let Some(stat) = &stat {
        values.push((CPU, (stat.user + stat.system) as f64 / clock_ticks_per_second() as f64));
    }
    if let Some(open) = open_fds() {
        values.push((OPEN_FDS, open as f64));
    }
    // None is no limit, which has no number.
    if let Some(most) = getrlimit(Resource::Nofile).current {
        values.push((MAX_FDS, most as f64));
    }
    if let Some(stat) = &stat {
        values.push((VIRTUAL, stat.virtual_bytes as f64));
        values.push((RESIDENT, (stat.resident_pages * page_size() as u64) as f64));
        if let Some(booted) = *BOOTED {
            values.push((START, (booted + stat.start / clock_ticks_per_second()) as f64));
        }
        values.push((THREADS, stat.threads as f64));
    }
    values
}

fn open_fds() -> Option<u64> {
    const DIRECTORY: &str = "/proc/self/fd";
    // Linux has counted them since 6.2; before, there are as many entries to read as there are sockets.
    let counted = fs::metadata(DIRECTORY).ok()?.len();
    if counted > 0 {
        return Some(counted);
    }
    // Without the one that reads the directory.
    Some((fs::read_dir(DIRECTORY).ok()?.count() as u64).saturating_sub(1))
}

/// Of proc_pid_stat(5); times are in clock ticks.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    user: u64,
    system: u64,
    threads: u64,
    /// After the boot.
    start: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn of(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, and may have spaces and parentheses itself.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered as in the manual, where the name is field 2.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            user: field(14)?,
            system: field(15)?,
            threads: field(20)?,
            start: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Unix time, of proc_stat(5).
fn boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels: &[], help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels: &[], help }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194304 2591 0 15 0 310 42 0 0 20 0 9 0 123456 8192000 640 184467 1 1";
        let stat =
            Stat { user: 310, system: 42, threads: 9, start: 123_456, virtual_bytes: 8_192_000, resident_pages: 640 };
        assert_eq!(Stat::of(text), Some(stat));
    }

    #[test]
    fn what_is_cut_short_is_no_stat() {
        assert_eq!(Stat::of("7 (a) S 1 7 7 0 -1"), None);
        assert_eq!(Stat::of(""), None);
    }

    #[test]
    fn the_boot_time_is_a_line_of_its_own() {
        assert_eq!(boot_time("cpu  1 2 3\nctxt 5\nbtime 1700000000\nprocesses 9\n"), Some(1_700_000_000));
        assert_eq!(boot_time("cpu  1 2 3\n"), None);
    }

    #[test]
    fn this_process_is_plausible() {
        let values = values();
        let value = |metric: Metric| values.iter().find(|(of, _)| of.name == metric.name).expect(metric.name).1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(value(THREADS) >= 1.0);
        assert!(value(OPEN_FDS) >= 3.0 && value(OPEN_FDS) <= value(MAX_FDS));
        assert!(value(RESIDENT) > 100_000.0 && value(VIRTUAL) > value(RESIDENT));
        assert!(value(CPU) < 1e6);
        assert!(value(START) > 1.5e9 && value(START) < now + 60.0, "{}", value(START));
    }
}
