//! `fallback` of the pools: another pool, and none that leads back.

use super::listeners::pool_named;
use super::table::Table;
use super::value::Value;

/// What each pool has written, in their order.
pub(super) fn read(pools: &[(&str, Table<'_>)]) -> Vec<Option<String>> {
    let names: Vec<&str> = pools.iter().map(|(name, _)| *name).collect();
    let written: Vec<Option<(usize, Value<'_>)>> = pools.iter().map(|(_, table)| one(table, &names)).collect();
    for start in 0..pools.len() {
        refuse_circle(start, &names, &written);
    }
    written.iter().map(|written| written.map(|(to, _)| names[to].to_owned())).collect()
}

/// The number of the pool, and what it was read from.
fn one<'a>(table: &Table<'a>, names: &[&str]) -> Option<(usize, Value<'a>)> {
    let value = table.value("fallback")?;
    let name = value.parsed(|text| pool_named(text, names))?;
    Some((names.iter().position(|known| **known == name)?, value))
}

/// A circle is one fault, at the last pool of it in the file.
fn refuse_circle(start: usize, names: &[&str], written: &[Option<(usize, Value<'_>)>]) {
    let Some((mut next, value)) = written[start] else { return };
    let mut way = vec![names[start]];
    while next != start {
        // Whoever only leads into a circle is not a part of it.
        if way.contains(&names[next]) {
            return;
        }
        let Some((after, other)) = written[next] else { return };
        if other.span().start > value.span().start {
            return;
        }
        way.push(names[next]);
        next = after;
    }
    way.push(names[start]);
    if let [name, _] = way[..] {
        value.fault(format!("pool `{name}` can't be its own fallback"), "write another pool, or remove it");
        return;
    }
    let way = way.join(" -> ");
    value.fault(format!("the fallbacks go round in a circle: {way}"), "remove one of them");
}
