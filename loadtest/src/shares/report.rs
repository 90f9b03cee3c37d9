//! What `shares` has measured, as text for RESULTS.md. Pure.

use std::fmt;

/// The connects of one policy and one set of weights.
#[derive(Debug)]
pub(super) struct Shares {
    pub(super) policy: &'static str,
    pub(super) weights: Vec<u16>,
    /// By backend.
    pub(super) counts: Vec<u64>,
}

/// What two balancers make of the same clients, and a third one that lacks a backend.
#[derive(Debug)]
pub(super) struct Agreement {
    pub(super) policy: &'static str,
    pub(super) clients: u64,
    pub(super) disagreements: u64,
    /// Clients of the backend that left: all of them move.
    pub(super) own: u64,
    /// Other clients, and how many of them moved.
    pub(super) others: u64,
    pub(super) moved: u64,
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) shares: Vec<Shares>,
    pub(super) agreements: Vec<Agreement>,
}

impl Agreement {
    /// From the backend of each client: by two balancers with the same backends, and by one without the backend that `leaves`.
    pub(super) fn of(policy: &'static str, (here, there, after): (&[u8], &[u8], &[u8]), leaves: u8) -> Self {
        let count = |is: &dyn Fn(usize) -> bool| (0..here.len()).filter(|client| is(*client)).count() as u64;
        let own = count(&|client| here[client] == leaves);
        Self {
            policy,
            clients: here.len() as u64,
            disagreements: count(&|client| here[client] != there[client]),
            own,
            others: here.len() as u64 - own,
            moved: count(&|client| here[client] != leaves && here[client] != after[client]),
        }
    }

    /// In percent.
    pub(super) fn moved_of_others(&self) -> f64 {
        percent(self.moved, self.others)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connects = self.shares.first().map_or(0, |shares| shares.counts.iter().sum::<u64>());
        writeln!(
            f,
            "Percent of {connects} connects that each of four backends got, by policy and weights; 1,000 sessions are open at a \
             time. With `first` each backend may have 400 at once.\n"
        )?;
        writeln!(f, "| policy | weights | got, % | by weight, % |\n| --- | --- | --- | --- |")?;
        for Shares { policy, weights, counts } in &self.shares {
            let all: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let wanted = weights.iter().map(|weight| shown(percent(u64::from(*weight), all)));
            let wanted = if *policy == "first" { "in order".to_owned() } else { joined(wanted) };
            let got = joined(counts.iter().map(|count| shown(percent(*count, connects))));
            writeln!(f, "| `{policy}` | {} | {got} | {wanted} |", joined(weights.iter().map(u16::to_string)))?;
        }
        writeln!(
            f,
            "\nTen backends of one weight; two processes with the list in another order; one backend leaves.\n"
        )?;
        writeln!(
            f,
            "| policy | clients | disagreements of the two | clients of the one that left | of the others moved |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: |")?;
        for agreement in &self.agreements {
            let Agreement { policy, clients, disagreements, own, moved, .. } = agreement;
            let percent = agreement.moved_of_others();
            writeln!(f, "| `{policy}` | {clients} | {disagreements} | {own} | {moved} ({percent:.2} %) |")?;
        }
        Ok(())
    }
}

fn percent(part: u64, of: u64) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

fn shown(percent: f64) -> String {
    format!("{percent:.1}")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" : ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_moved_and_who_disagrees() {
        let agreement = Agreement::of("maglev", (&[0, 1, 2, 3, 3], &[0, 1, 1, 3, 3], &[0, 2, 2, 1, 0]), 3);
        assert_eq!((agreement.clients, agreement.disagreements, agreement.own, agreement.others), (5, 1, 2, 3));
        assert_eq!((agreement.moved, agreement.moved_of_others().round()), (1, 33.0));
        let shares = vec![Shares { policy: "random", weights: vec![1, 3], counts: vec![24, 76] }];
        let text = Report { shares, agreements: vec![agreement] }.to_string();
        assert!(text.contains("| `random` | 1 : 3 | 24.0 : 76.0 | 25.0 : 75.0 |"), "{text}");
        assert!(text.contains("| `maglev` | 5 | 1 | 2 | 1 (33.33 %) |"), "{text}");
    }
}
