//! "Did you mean …?": the known word that a misspelt one is nearest to.

/// The candidate with the fewest edits to `word`, if that is few enough for a slip of the fingers.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The table below is quadratic, and nothing that long is a slip.
    if word.len() > 100 {
        return None;
    }
    let most = ((word.chars().count() + 1) / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= most)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// A hint for a word that is none of `candidates`: the nearest one, else all of them.
pub(super) fn suggest<'a>(word: &str, what: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(known) = nearest(word, candidates.clone()) {
        return format!("did you mean `{known}`?");
    }
    let known: Vec<String> = candidates.into_iter().map(|candidate| format!("`{candidate}`")).collect();
    match known.as_slice() {
        [] => String::new(),
        [only] => format!("the only {what} is {only}"),
        [first @ .., last] => format!("the {what}s are {} and {last}", first.join(", ")),
    }
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, count) in [("pool", "pool", 0), ("pol", "pool", 1), ("tpc", "tcp", 1), ("", "abc", 3), ("ab", "", 2)]
        {
            assert_eq!(edits(a, b), count, "{a} {b}");
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        assert_eq!(nearest("pol", ["bind", "pool"]), Some("pool"));
        assert_eq!(nearest("Round-Robin", ["round_robin", "least_connections"]), Some("round_robin"));
        assert_eq!(nearest("servers", ["bind", "pool"]), None);
    }
}
