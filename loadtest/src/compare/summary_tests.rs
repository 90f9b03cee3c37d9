//! Statistics, taxes and ratios on made-up cells.

use super::*;
use crate::compare::fixture;

fn line<'a>(lines: &'a [SummaryLine], system: &str, row: LogMode) -> &'a SummaryLine {
    lines.iter().find(|line| line.system == system && line.row == row).unwrap()
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9
}

#[test]
fn medians_and_ends() {
    assert_eq!(Spread::of([]), None);
    assert_eq!(Spread::of([3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
    assert_eq!(Spread::of([9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
    assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
}

#[test]
fn a_tax_is_the_difference_to_direct_in_the_same_round() {
    // Round 2 was twice as slow for all: a difference of medians would not be 10.
    let comparison = fixture::comparison(&[
        ("direct", &[10.0, 20.0, 10.0]),
        ("evenkeel", &[16.0, 32.0, 16.0]),
        ("nginx", &[20.0, 40.0, 20.0]),
        ("haproxy", &[22.0, 44.0, 22.0]),
    ]);
    let ours = line(&comparison.lines, "evenkeel", LogMode::Defaults);
    let tax = ours.tax.unwrap().times(1e6);
    assert!(close(tax.median, 6.0) && close(tax.min, 6.0) && close(tax.max, 12.0), "{tax:?}");
    let ratio = ours.tax_ratio.as_ref().unwrap();
    assert_eq!(ratio.best, "nginx");
    assert!(close(ratio.spread.min, 0.6) && close(ratio.spread.max, 0.6), "{ratio:?}");
    assert!(line(&comparison.lines, "direct", LogMode::Defaults).tax.is_none());
    assert!(line(&comparison.lines, "direct", LogMode::LogsOff).cpu.is_some(), "direct is the same in both rows");
}

#[test]
fn rounds_that_lack_something_are_left_out() {
    let comparison = fixture::comparison(&[("direct", &[10.0]), ("evenkeel", &[16.0, 99.0]), ("nginx", &[9.0, 40.0])]);
    let ours = line(&comparison.lines, "evenkeel", LogMode::Defaults);
    assert!(close(ours.tax.unwrap().times(1e6).max, 6.0));
    assert_eq!(ours.tax_ratio, None, "the peer's tax is below zero");
}

#[test]
fn a_tax_below_zero_is_noise_and_has_no_ratio() {
    let comparison =
        fixture::comparison(&[("direct", &[10.0, 10.0]), ("evenkeel", &[9.0, 15.0]), ("nginx", &[20.0, 20.0])]);
    let ratio = line(&comparison.lines, "evenkeel", LogMode::Defaults).tax_ratio.clone().unwrap();
    assert_eq!(ratio.rounds, 1);
    assert!(close(ratio.spread.median, 0.5));
    assert!(comparison.notes().iter().any(|note| note.contains("rests on 1 of 3 rounds")));
}

#[test]
fn without_peers_there_is_no_ratio() {
    let comparison = fixture::comparison(&[("direct", &[10.0]), ("evenkeel", &[16.0])]);
    assert_eq!(line(&comparison.lines, "evenkeel", LogMode::LogsOff).tax_ratio, None);
}
