//! A table of the file while it is read. Each key is asked for at the place that knows what it means, so the keys of a table
//! are written down once: a key that nothing has asked for when the table is dropped is unknown, and a fault.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration;
use super::faults::{Complaint, Reading};
use super::nearest::suggest;
use super::secrets::is_secret;
use super::value::{Form, Value};
use crate::words::Word;

/// The name of a table among others, and where it is written.
pub(super) type Name<'a> = &'a Spanned<Cow<'a, str>>;

/// A table that is not written has no keys, so each of them gets its default.
pub(super) struct Table<'a> {
    pub(super) reading: &'a Reading<'a>,
    /// Its header or its braces.
    pub(super) span: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    /// In the order in which messages list them.
    asked: RefCell<Vec<&'static str>>,
    /// Its keys are names that the file gives.
    has_names: Cell<bool>,
    /// No message may show what is in it.
    is_secret: bool,
}

impl<'a> Table<'a> {
    pub(super) fn new(reading: &'a Reading<'a>, span: Range<usize>, entries: Option<&'a DeTable<'a>>) -> Self {
        Self { reading, span, entries, asked: RefCell::default(), has_names: Cell::default(), is_secret: false }
    }

    /// A table whose values no message may show.
    pub(super) fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    pub(super) fn is_written(&self) -> bool {
        self.entries.is_some()
    }

    /// What is written at a key.
    pub(super) fn value(&self, key: &'static str) -> Option<Value<'a>> {
        self.know(&[key]);
        let written = self.entries?.get(key)?;
        Some(Value { reading: self.reading, key, written, is_secret: self.is_secret || is_secret(key) })
    }

    pub(super) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Keys that there are, asked for or not.
    pub(super) fn know(&self, keys: &[&'static str]) {
        let mut asked = self.asked.borrow_mut();
        for key in keys {
            if !asked.contains(key) {
                asked.push(key);
            }
        }
    }

    /// Something is wrong with the table as a whole.
    pub(super) fn fault(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.reading.fault(self.span.clone(), message, hint);
    }

    /// Two keys that exclude each other: the second is at fault.
    pub(super) fn exclusive(&self, first: &'static str, second: &'static str) {
        if let (Some(_), Some(value)) = (self.value(first), self.value(second)) {
            value.fault(format!("`{second}` next to `{first}`"), "keep one of the two");
        }
    }

    /// A string that `parse` makes something of. `None` = not written, or noted as a fault; so it is with all that follow.
    pub(super) fn parsed<T>(&self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        self.value(key)?.parsed(parse)
    }

    /// A string that is one of a few words.
    pub(super) fn word<W: Word>(&self, key: &'static str) -> Option<W> {
        self.parsed(key, word)
    }

    pub(super) fn switch(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        match value.form() {
            Form::Switch(on) => Some(on),
            _ => value.wrong("true or false"),
        }
    }

    /// A whole number within limits that fit `T`.
    pub(super) fn number<T: TryFrom<i64>>(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<T> {
        let value = self.value(key)?;
        let number = value.whole_number()?;
        if let Some(fitting) = T::try_from(number).ok().filter(|_| range.contains(&number)) {
            return Some(fitting);
        }
        let hint = format!("write a whole number from {} to {}", range.start(), range.end());
        let way = if number < *range.start() { "too small" } else { "too large" };
        value.refuse(Complaint::new(way, hint))
    }

    /// A duration that `check` takes.
    pub(super) fn time_with(
        &self,
        key: &'static str,
        check: impl FnOnce(Duration) -> Result<(), Complaint>,
    ) -> Option<Duration> {
        self.value(key)?.parsed_as("a duration in quotes", |text| {
            let time = duration::parse(text)?;
            check(time).map(|()| time)
        })
    }

    /// A duration that is longer than zero.
    pub(super) fn time(&self, key: &'static str) -> Option<Duration> {
        self.time_with(key, longer_than_zero)
    }

    pub(super) fn time_or_zero(&self, key: &'static str) -> Option<Duration> {
        self.time_with(key, |_| Ok(()))
    }

    /// A limit that `"0s"` takes away.
    pub(super) fn limit(&self, key: &'static str, default: Option<Duration>) -> Option<Duration> {
        self.time_or_zero(key).or(default).filter(|limit| !limit.is_zero())
    }

    /// A string, or an array of them; each is what `parse` makes of it.
    pub(super) fn all_parsed<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<Vec<T>> {
        let texts = self.value(key)?.texts()?;
        Some(texts.iter().filter_map(|text| text.parsed(&parse)).collect())
    }

    /// As [`Self::all_parsed`], and no two of them alike.
    pub(super) fn all_different<T: PartialEq>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<Vec<T>> {
        let mut all = Vec::new();
        for text in self.value(key)?.texts()? {
            let Some(parsed) = text.parsed(&parse) else { continue };
            if all.contains(&parsed) {
                text.refuse::<()>(Complaint::new("it is written twice", "remove one of them"));
            }
            all.push(parsed);
        }
        Some(all)
    }

    /// The table at a key, written or not.
    pub(super) fn table(&self, key: &'static str) -> Self {
        self.written_table(key).unwrap_or_else(|| self.unwritten())
    }

    /// One without keys.
    pub(super) fn unwritten(&self) -> Self {
        Self::new(self.reading, self.span.clone(), None)
    }

    pub(super) fn written_table(&self, key: &'static str) -> Option<Self> {
        self.value(key)?.table()
    }

    /// The tables by name at a key.
    pub(super) fn named(&self, key: &'static str) -> Vec<(Name<'a>, Self)> {
        let all = self.written_table(key).map_or_else(Vec::new, |all| all.values());
        all.into_iter().filter_map(|(name, value)| Some((name, value.table()?))).collect()
    }

    /// All that is in it, whatever the keys are.
    pub(super) fn values(&self) -> Vec<(Name<'a>, Value<'a>)> {
        self.has_names.set(true);
        let value = |(name, written): (Name<'a>, &'a Spanned<DeValue<'a>>)| {
            (name, Value { reading: self.reading, key: name.get_ref(), written, is_secret: self.is_secret })
        };
        self.entries.into_iter().flatten().map(value).collect()
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        let entries = self.entries.filter(|_| !self.has_names.get());
        for name in entries.into_iter().flat_map(|entries| entries.keys()) {
            let key: &str = name.get_ref();
            if !asked.contains(&key) {
                let hint = suggest(key, "key", asked.iter().copied());
                self.reading.misshapen(name.span(), format!("unknown key `{}`", key.escape_debug()), hint);
            }
        }
    }
}

/// One of the words that `W` has.
pub(super) fn word<W: Word>(text: &str) -> Result<W, Complaint> {
    let found = W::WORDS.iter().find(|(word, _)| *word == text);
    let words = W::WORDS.iter().map(|(word, _)| *word);
    found
        .map(|(_, meant)| *meant)
        .ok_or_else(|| Complaint::new("there is no such value", suggest(text, "value", words)))
}

pub(super) fn longer_than_zero(time: Duration) -> Result<(), Complaint> {
    if time.is_zero() {
        return Err(Complaint::new("must be longer than zero", "write it like \"500ms\" or \"5s\""));
    }
    Ok(())
}
