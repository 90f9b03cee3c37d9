//! A value of the file while it is read: what it is, what is made of it, and what is said where that can't be.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::faults::{Complaint, ConfigFault, Reading, shown};
use super::secrets::without_userinfo;
use super::table::Table;

/// A value that is written.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) reading: &'a Reading<'a>,
    /// What messages call it: the key that it is at, also for an item of an array.
    pub(super) key: &'a str,
    pub(super) written: &'a Spanned<DeValue<'a>>,
    /// No message may show it.
    pub(super) is_secret: bool,
}

/// What a value is, for keys that take several kinds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Switch(bool),
    Table,
    Other,
}

impl<'a> Value<'a> {
    pub(super) fn span(&self) -> Range<usize> {
        self.written.span()
    }

    pub(super) fn form(&self) -> Form {
        match self.written.get_ref() {
            DeValue::String(_) => Form::Text,
            DeValue::Boolean(on) => Form::Switch(*on),
            DeValue::Table(_) => Form::Table,
            _ => Form::Other,
        }
    }

    /// What `parse` makes of the string.
    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        self.parsed_as("a string", parse)
    }

    /// The same, where messages call what is wanted something else than a string.
    pub(super) fn parsed_as<T>(&self, wanted: &str, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        let DeValue::String(written) = self.written.get_ref() else { return self.wrong(wanted) };
        let text = match self.reading.expanded(written) {
            Ok(text) => text,
            Err(mut complaint) => {
                if self.is_secret && complaint.what.starts_with("`${") {
                    "a `${…}` names no variable".clone_into(&mut complaint.what);
                }
                return self.refuse(complaint);
            }
        };
        parse(&text).map_or_else(
            |complaint| {
                // What is wrong with a pattern is said without a part of it.
                let complaint = if self.key.ends_with("regex") { complaint } else { complaint.about(&text) };
                self.refuse_shown(&shown(&text), complaint)
            },
            Some,
        )
    }

    pub(super) fn whole_number(&self) -> Option<i64> {
        let DeValue::Integer(written) = self.written.get_ref() else { return self.wrong("a whole number") };
        let number = i64::from_str_radix(written.as_str(), written.radix()).ok();
        if number.is_none() {
            self.reading.misshapen(self.span(), format!("`{}` is too large", self.key), "write a smaller number");
        }
        number
    }

    pub(super) fn decimal(&self) -> Option<f64> {
        let number = match self.written.get_ref() {
            DeValue::Float(written) => written.as_str().parse().ok(),
            DeValue::Integer(_) => return self.whole_number().map(|number| number as f64),
            _ => None,
        };
        number.or_else(|| self.wrong("a number"))
    }

    pub(super) fn table(&self) -> Option<Table<'a>> {
        let DeValue::Table(entries) = self.written.get_ref() else { return self.wrong("a table") };
        let table = Table::new(self.reading, self.span(), Some(entries));
        Some(if self.is_secret { table.secret() } else { table })
    }

    /// The items of an array.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let DeValue::Array(items) = self.written.get_ref() else { return self.wrong("an array") };
        Some(items.iter().map(|written| Self { written, ..*self }).collect())
    }

    /// The string itself, or the items of an array.
    pub(super) fn texts(&self) -> Option<Vec<Self>> {
        match self.written.get_ref() {
            DeValue::String(_) => Some(vec![*self]),
            DeValue::Array(_) => self.items(),
            _ => self.wrong("a string or an array of strings"),
        }
    }

    /// The same items; that there are none is a fault.
    pub(super) fn at_least_one(&self, items: Option<Vec<Self>>, hint: &str) -> Vec<Self> {
        if items.as_ref().is_some_and(Vec::is_empty) {
            self.fault(format!("`{}` is empty", self.key), hint);
        }
        items.unwrap_or_default()
    }

    pub(super) fn fault(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.reading.fault(self.span(), message, hint);
    }

    /// It can't stand there. Always `None`, for the place of what it does not become.
    pub(super) fn refuse<T>(&self, complaint: Complaint) -> Option<T> {
        self.refuse_shown(&self.shown(), complaint)
    }

    fn refuse_shown<T>(&self, value: &str, Complaint { what, hint }: Complaint) -> Option<T> {
        // Not even a part of a secret may be in a message.
        let message = if self.is_secret { format!("`{}`", self.key) } else { format!("`{} = {value}`", self.key) };
        let why = without_userinfo(&what);
        self.reading.push(ConfigFault { span: Some(self.span()), message, why, hint, is_shape: false });
        None
    }

    fn shown(&self) -> String {
        match self.written.get_ref() {
            DeValue::String(text) => shown(text),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(on) => on.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(_) => "[ … ]".to_owned(),
            DeValue::Table(_) => "{ … }".to_owned(),
        }
    }

    /// It is of a kind that the key does not take. Always `None`.
    pub(super) fn wrong<T>(&self, wanted: &str) -> Option<T> {
        let key = self.key.escape_debug();
        let found = match self.written.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let value = if let DeValue::String(text) = self.written.get_ref() { text.to_string() } else { self.shown() };
        let hint = match (found, wanted) {
            (_, "a table") => format!("write {key} = {{ … }}, with its keys in braces"),
            _ if self.is_secret => "write it in quotes".to_owned(),
            ("an integer", "a duration in quotes") => format!("write it with its unit: \"{value}s\" or \"{value}ms\""),
            (_, "a bandwidth in quotes") => "write it like \"10MiB/s\" or \"500kB/s\"".to_owned(),
            (_, "a duration in quotes") => "write it like \"500ms\", \"5s\", \"1m30s\" or \"1h\"".to_owned(),
            ("an integer" | "a boolean" | "a fraction", _) if wanted.starts_with("a string") => {
                format!("write it in quotes: \"{value}\"")
            }
            ("a string", "a whole number") if value.parse::<i64>().is_ok() => {
                format!("write it without quotes: {value}")
            }
            ("a string", "true or false") if matches!(value.as_str(), "true" | "false") => {
                format!("write it without quotes: {value}")
            }
            ("a string", "an array") => format!("write it in brackets: {key} = [\"{value}\"]"),
            (_, "a whole number") => "write it like 3".to_owned(),
            (_, "a number") => "write it like 1.4, without quotes".to_owned(),
            (_, "true or false") => "write true or false, without quotes".to_owned(),
            (_, "a string") => "write one value in quotes".to_owned(),
            _ if self.key == "keepalive" => "write it like { idle = \"60s\" }".to_owned(),
            _ => String::new(),
        };
        self.reading.misshapen(self.span(), format!("`{key}` must be {wanted}, not {found}"), hint);
        None
    }
}
