//! Collects what is wrong with a file while it is read, so that one run shows all of it: a value that can't be
//! used is noted and its default taken instead. Only [`super::parse`] makes one, and it drops the result on faults.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;

use super::duration;
use super::expand::{self, Env};
use super::nearest::suggest;
use super::secrets::{is_secret, without_userinfo};
use super::values::{DurationText, Number, Text};

/// What is wrong with a value, to be read after it and a colon.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) what: String,
    pub(super) hint: String,
}

impl Complaint {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }

    /// The same about a text, which it may quote in part: without the user and the password that are in it.
    pub(super) fn about(self, text: &str) -> Self {
        if without_userinfo(text) == text {
            return self;
        }
        Self::new("no user and no password can be in it", "remove what stands before the `@`")
    }
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConfigFault {
    /// `None` = the file as a whole, or the environment.
    pub(super) span: Option<Range<usize>>,
    /// What is wrong; the table that it is in is said after it.
    pub(super) message: String,
    /// Said after the table; may be empty.
    pub(super) why: String,
    /// How to mend it; may be empty.
    pub(super) hint: String,
}

/// Whether a duration may be zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    Allowed,
    Refused,
}

/// The environment and the faults so far.
pub(super) struct Reading<'a> {
    env: &'a Env<'a>,
    faults: Vec<ConfigFault>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(env: &'a Env<'a>) -> Self {
        Self { env, faults: Vec::new() }
    }

    /// In the order of the file, each once.
    pub(super) fn into_faults(mut self) -> Vec<ConfigFault> {
        self.faults.sort_by_key(|fault| fault.span.as_ref().map(|span| span.start));
        self.faults.dedup();
        self.faults
    }

    /// How many there are so far.
    pub(super) fn count(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn fault(&mut self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        let (message, hint) = (message.into(), hint.into());
        self.faults.push(ConfigFault { span: Some(span), message, why: String::new(), hint });
    }

    /// A fault that no place in the file has.
    pub(super) fn fault_at_large(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        let (message, hint) = (message.into(), hint.into());
        self.faults.push(ConfigFault { span: None, message, why: String::new(), hint });
    }

    /// A value, as it is shown, that can't stand at that key.
    pub(super) fn refuse(&mut self, span: Range<usize>, key: &str, value: &str, complaint: Complaint) {
        // Not even a part of a secret may be in a message.
        let message = if is_secret(key) { format!("`{key}`") } else { format!("`{key} = {value}`") };
        let Complaint { what, hint } = complaint;
        let why = without_userinfo(&what);
        self.faults.push(ConfigFault { span: Some(span), message, why, hint });
    }

    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// A string with its variables filled in; `None` = noted as a fault.
    pub(super) fn text(&mut self, key: &str, value: &Spanned<String>) -> Option<String> {
        match expand::expand(value.get_ref(), self.env) {
            Ok(text) => Some(text),
            Err(mut complaint) => {
                if is_secret(key) && complaint.what.starts_with("`${") {
                    "a `${…}` names no variable".clone_into(&mut complaint.what);
                }
                self.refuse(value.span(), key, &shown(value.get_ref()), complaint);
                None
            }
        }
    }

    /// As [`Self::text`], of what has been read before: a fault was noted then.
    pub(super) fn text_again(&self, value: &Spanned<String>) -> Option<String> {
        expand::expand(value.get_ref(), self.env).ok()
    }

    /// A string that `parse` makes something of; `None` = not written, or noted as a fault.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        value: &Text,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        self.parsed_item(key, value.as_ref()?, parse)
    }

    /// The same for an item of an array.
    pub(super) fn parsed_item<T>(
        &mut self,
        key: &str,
        value: &Spanned<String>,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let text = self.text(key, value)?;
        match parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(complaint) => {
                // What is wrong with a pattern is said without a part of it.
                let complaint = if key.ends_with("regex") { complaint } else { complaint.about(&text) };
                self.refuse(value.span(), key, &shown(&text), complaint);
                None
            }
        }
    }

    /// A string that is one of a few words.
    pub(super) fn word<T: Copy>(&mut self, key: &str, value: &Text, words: &[(&str, T)], default: T) -> T {
        let known = |text: &str| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, meaning)| *meaning).ok_or_else(|| {
                Complaint::new("there is no such value", suggest(text, "value", words.iter().map(|(word, _)| *word)))
            })
        };
        self.parsed(key, value, known).unwrap_or(default)
    }

    /// A whole number within limits that fit `T`; `None` = not written, or noted as a fault.
    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        value: &Number,
        range: RangeInclusive<i64>,
    ) -> Option<T> {
        let value = value.as_ref()?;
        let number = *value.get_ref();
        if range.contains(&number)
            && let Ok(fitting) = T::try_from(number)
        {
            return Some(fitting);
        }
        let hint = format!("write a whole number from {} to {}", range.start(), range.end());
        let way = if number < *range.start() { "too small" } else { "too large" };
        self.refuse(value.span(), key, &number.to_string(), Complaint::new(way, hint));
        None
    }

    /// A duration; `None` = not written, or noted as a fault.
    pub(super) fn duration(
        &mut self,
        key: &str,
        value: &Option<Spanned<DurationText>>,
        zero: Zero,
    ) -> Option<Duration> {
        let value = value.as_ref()?;
        let text = self.text(key, &Spanned::new(value.span(), value.get_ref().0.clone()))?;
        match duration::parse(&text) {
            Ok(duration) if duration.is_zero() && zero == Zero::Refused => {
                let complaint = Complaint::new("must be longer than zero", "write it like \"500ms\" or \"5s\"");
                self.refuse(value.span(), key, &shown(&text), complaint);
                None
            }
            Ok(duration) => Some(duration),
            Err(complaint) => {
                self.refuse(value.span(), key, &shown(&text), complaint);
                None
            }
        }
    }
}

/// A value as a message shows it: in quotes, on one line, not endless.
pub(super) fn shown(value: &str) -> String {
    const LONGEST: usize = 80;
    let mut text: String = without_userinfo(value).chars().take(LONGEST).collect();
    if value.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    format!("\"{}\"", text.escape_debug().to_string().replace("\\'", "'"))
}
