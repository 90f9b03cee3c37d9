//! Collects what is wrong with a file while it is read, so that one run shows all of it: where a value can't be used its
//! default is taken. Only [`super::parse`] makes a [`Reading`], and it drops what was read if there are faults.

use std::cell::RefCell;
use std::ops::Range;

use super::expand::{self, Env};
use super::secrets::without_userinfo;
use super::table::Name;

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

    pub(super) fn in_a_line(self) -> String {
        format!("{}; {}", self.what, self.hint)
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
    /// A key that there is not, or a value of the wrong kind: what else is said of the file may follow from it.
    pub(super) is_shape: bool,
}

/// The environment and the faults so far.
pub(super) struct Reading<'a> {
    env: &'a Env<'a>,
    faults: RefCell<Vec<ConfigFault>>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(env: &'a Env<'a>) -> Self {
        Self { env, faults: RefCell::default() }
    }

    /// In the order of the file, each once.
    pub(super) fn into_faults(self) -> Vec<ConfigFault> {
        let mut faults = self.faults.into_inner();
        if faults.iter().any(|fault| fault.is_shape) {
            faults.retain(|fault| fault.is_shape);
        }
        faults.sort_by_key(|fault| fault.span.as_ref().map(|span| span.start));
        faults.dedup();
        faults
    }

    pub(super) fn push(&self, fault: ConfigFault) {
        self.faults.borrow_mut().push(fault);
    }

    pub(super) fn fault(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.push(ConfigFault::new(Some(span), message, hint));
    }

    /// A key that there is not, or a value of the wrong kind.
    pub(super) fn misshapen(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.push(ConfigFault { is_shape: true, ..ConfigFault::new(Some(span), message, hint) });
    }

    /// A fault that no place in the file has.
    pub(super) fn fault_at_large(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.push(ConfigFault::new(None, message, hint));
    }

    /// What `parse` makes of a key that is a name; `None` = noted as a fault.
    pub(super) fn name<T>(&self, name: Name<'_>, parse: impl FnOnce(&str) -> Result<T, Complaint>) -> Option<T> {
        let refuse = |Complaint { what, hint }| {
            let fault = ConfigFault::new(Some(name.span()), format!("`{}`", name.get_ref().escape_debug()), hint);
            self.push(ConfigFault { why: what, ..fault });
        };
        parse(name.get_ref()).map_err(refuse).ok()
    }

    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// A string with its variables filled in.
    pub(super) fn expanded(&self, text: &str) -> Result<String, Complaint> {
        expand::expand(text, self.env)
    }
}

impl ConfigFault {
    pub(super) fn new(span: Option<Range<usize>>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { span, message: message.into(), why: String::new(), hint: hint.into(), is_shape: false }
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
