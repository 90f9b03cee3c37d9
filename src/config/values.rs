//! Values that can be written in more than one way, each with a visitor of its own: serde's untagged enums
//! would lose both the place of an error and its reason.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::shape::{
    BackendShape, CheckShape, HeaderShape, KeepaliveShape, PolicyShape, SendProxyShape, SessionLogShape,
};

pub(super) type Text = Option<Spanned<String>>;
pub(super) type Number = Option<Spanned<i64>>;
pub(super) type Decimal = Option<Spanned<f64>>;
pub(super) type Time = Option<Spanned<DurationText>>;

/// Tables by name.
pub(super) type Named<T> = Section<BTreeMap<Spanned<String>, Section<T>>>;

/// A table and where its header or its braces are.
#[derive(Debug)]
pub(super) struct Section<T> {
    pub(super) span: Range<usize>,
    pub(super) shape: T,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Spanned::<Table<T>>::deserialize(deserializer)?;
        Ok(Self { span: table.span(), shape: table.into_inner().0 })
    }
}

/// Serde's derived structs also take an array of values in order; a configuration must not.
struct Table<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TableVisitor(PhantomData))
    }
}

struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
    type Value = Table<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Table)
    }
}

/// A duration as written, not yet expanded.
#[derive(Debug)]
pub(super) struct DurationText(pub(super) String);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = DurationText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration in quotes")
    }

    fn visit_str<E>(self, text: &str) -> Result<DurationText, E> {
        Ok(DurationText(text.to_owned()))
    }
}

/// `"x"` or `["x", "y"]`.
#[derive(Debug)]
pub(super) struct Strings {
    pub(super) span: Range<usize>,
    pub(super) items: Vec<Spanned<String>>,
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Spanned::<OneOrMany>::deserialize(deserializer)?;
        let span = written.span();
        let items = match written.into_inner() {
            OneOrMany::One(text) => vec![Spanned::new(span.clone(), text)],
            OneOrMany::Many(items) => items,
        };
        Ok(Self { span, items })
    }
}

enum OneOrMany {
    One(String),
    Many(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

struct OneOrManyVisitor;

impl<'de> Visitor<'de> for OneOrManyVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of strings")
    }

    fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(OneOrMany::Many(all))
    }
}

/// An entry of `backends`: `"host:port"` or a table.
#[derive(Debug)]
pub(super) struct BackendEntry {
    pub(super) span: Range<usize>,
    pub(super) shape: BackendShape,
}

impl<'de> Deserialize<'de> for BackendEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Spanned::<StringOrBackend>::deserialize(deserializer)?;
        let span = written.span();
        let shape = match written.into_inner() {
            StringOrBackend::Address(text) => {
                BackendShape { address: Some(Spanned::new(span.clone(), text)), ..BackendShape::default() }
            }
            StringOrBackend::Table(shape) => shape,
        };
        Ok(Self { span, shape })
    }
}

enum StringOrBackend {
    Address(String),
    Table(BackendShape),
}

impl<'de> Deserialize<'de> for StringOrBackend {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BackendVisitor)
    }
}

struct BackendVisitor;

impl<'de> Visitor<'de> for BackendVisitor {
    type Value = StringOrBackend;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string \"host:port\" or a table { address = \"host:port\" }")
    }

    fn visit_str<E>(self, text: &str) -> Result<StringOrBackend, E> {
        Ok(StringOrBackend::Address(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StringOrBackend, A::Error> {
        BackendShape::deserialize(MapAccessDeserializer::new(map)).map(StringOrBackend::Table)
    }
}

/// `keepalive = true | false | { … }`
#[derive(Debug)]
pub(super) enum KeepaliveSetting {
    Switch(bool),
    Times(KeepaliveShape),
}

impl<'de> Deserialize<'de> for KeepaliveSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeepaliveVisitor)
    }
}

struct KeepaliveVisitor;

impl<'de> Visitor<'de> for KeepaliveVisitor {
    type Value = KeepaliveSetting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or a table { idle, interval, count }")
    }

    fn visit_bool<E>(self, on: bool) -> Result<KeepaliveSetting, E> {
        Ok(KeepaliveSetting::Switch(on))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeepaliveSetting, A::Error> {
        KeepaliveShape::deserialize(MapAccessDeserializer::new(map)).map(KeepaliveSetting::Times)
    }
}

/// `send_proxy = "v1" | "v2" | { version = … }`
#[derive(Debug)]
pub(super) struct SendProxyEntry(pub(super) Section<SendProxyShape>);

impl<'de> Deserialize<'de> for SendProxyEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Spanned::<StringOrSendProxy>::deserialize(deserializer)?;
        let span = written.span();
        let shape = match written.into_inner() {
            StringOrSendProxy::Version(text) => {
                SendProxyShape { version: Some(Spanned::new(span.clone(), text)), ..SendProxyShape::default() }
            }
            StringOrSendProxy::Table(shape) => shape,
        };
        Ok(Self(Section { span, shape }))
    }
}

enum StringOrSendProxy {
    Version(String),
    Table(SendProxyShape),
}

impl<'de> Deserialize<'de> for StringOrSendProxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SendProxyVisitor)
    }
}

struct SendProxyVisitor;

impl<'de> Visitor<'de> for SendProxyVisitor {
    type Value = StringOrSendProxy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string \"v1\" or \"v2\" or a table { version = \"v2\" }")
    }

    fn visit_str<E>(self, text: &str) -> Result<StringOrSendProxy, E> {
        Ok(StringOrSendProxy::Version(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StringOrSendProxy, A::Error> {
        SendProxyShape::deserialize(MapAccessDeserializer::new(map)).map(StringOrSendProxy::Table)
    }
}

/// `on_down = "keep" | "close" | { drain = … }`, and its like.
#[derive(Debug)]
pub(super) enum PolicyEntry {
    Word(Spanned<String>),
    Table(Section<PolicyShape>),
}

impl<'de> Deserialize<'de> for PolicyEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Spanned::<StringOrPolicy>::deserialize(deserializer)?;
        let span = written.span();
        Ok(match written.into_inner() {
            StringOrPolicy::Word(text) => Self::Word(Spanned::new(span, text)),
            StringOrPolicy::Table(shape) => Self::Table(Section { span, shape }),
        })
    }
}

enum StringOrPolicy {
    Word(String),
    Table(PolicyShape),
}

impl<'de> Deserialize<'de> for StringOrPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PolicyVisitor)
    }
}

struct PolicyVisitor;

impl<'de> Visitor<'de> for PolicyVisitor {
    type Value = StringOrPolicy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string \"keep\" or \"close\" or a table { drain = \"30s\" }")
    }

    fn visit_str<E>(self, text: &str) -> Result<StringOrPolicy, E> {
        Ok(StringOrPolicy::Word(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StringOrPolicy, A::Error> {
        PolicyShape::deserialize(MapAccessDeserializer::new(map)).map(StringOrPolicy::Table)
    }
}

/// `sessions = true | false | "failed" | { outcome = … }`
#[derive(Debug)]
pub(super) enum SessionLogEntry {
    Switch(bool),
    Word(Spanned<String>),
    Table(Section<SessionLogShape>),
}

impl<'de> Deserialize<'de> for SessionLogEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Spanned::<SwitchWordOrTable>::deserialize(deserializer)?;
        let span = written.span();
        Ok(match written.into_inner() {
            SwitchWordOrTable::Switch(on) => Self::Switch(on),
            SwitchWordOrTable::Word(text) => Self::Word(Spanned::new(span, text)),
            SwitchWordOrTable::Table(shape) => Self::Table(Section { span, shape }),
        })
    }
}

enum SwitchWordOrTable {
    Switch(bool),
    Word(String),
    Table(SessionLogShape),
}

impl<'de> Deserialize<'de> for SwitchWordOrTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SessionLogVisitor)
    }
}

struct SessionLogVisitor;

impl<'de> Visitor<'de> for SessionLogVisitor {
    type Value = SwitchWordOrTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, the string \"failed\" or a table { outcome = \"failed\", skip_empty = true }")
    }

    fn visit_bool<E>(self, on: bool) -> Result<SwitchWordOrTable, E> {
        Ok(SwitchWordOrTable::Switch(on))
    }

    fn visit_str<E>(self, text: &str) -> Result<SwitchWordOrTable, E> {
        Ok(SwitchWordOrTable::Word(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SwitchWordOrTable, A::Error> {
        SessionLogShape::deserialize(MapAccessDeserializer::new(map)).map(SwitchWordOrTable::Table)
    }
}

/// `check = "name" | { kind = … }`
#[derive(Debug)]
pub(super) enum CheckEntry {
    Named(Spanned<String>),
    Table(Box<Section<CheckShape>>),
}

impl<'de> Deserialize<'de> for CheckEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Spanned::<NameOrCheck>::deserialize(deserializer)?;
        let span = written.span();
        Ok(match written.into_inner() {
            NameOrCheck::Name(name) => Self::Named(Spanned::new(span, name)),
            NameOrCheck::Check(shape) => Self::Table(Box::new(Section { span, shape: *shape })),
        })
    }
}

enum NameOrCheck {
    Name(String),
    Check(Box<CheckShape>),
}

impl<'de> Deserialize<'de> for NameOrCheck {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CheckVisitor)
    }
}

struct CheckVisitor;

impl<'de> Visitor<'de> for CheckVisitor {
    type Value = NameOrCheck;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string (the name of a check) or a table { kind = \"tcp\" }")
    }

    fn visit_str<E>(self, text: &str) -> Result<NameOrCheck, E> {
        Ok(NameOrCheck::Name(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NameOrCheck, A::Error> {
        CheckShape::deserialize(MapAccessDeserializer::new(map)).map(|shape| NameOrCheck::Check(Box::new(shape)))
    }
}

/// `true`, `false` or a string.
#[derive(Debug)]
pub(super) enum SwitchOrText {
    Switch(bool),
    Text(String),
}

impl<'de> Deserialize<'de> for SwitchOrText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SwitchOrTextVisitor)
    }
}

struct SwitchOrTextVisitor;

impl Visitor<'_> for SwitchOrTextVisitor {
    type Value = SwitchOrText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, true or false")
    }

    fn visit_bool<E>(self, on: bool) -> Result<SwitchOrText, E> {
        Ok(SwitchOrText::Switch(on))
    }

    fn visit_str<E>(self, text: &str) -> Result<SwitchOrText, E> {
        Ok(SwitchOrText::Text(text.to_owned()))
    }
}

/// `"value"`, `true`, `false` or `{ regex = "…" }`.
#[derive(Debug)]
pub(super) enum HeaderEntry {
    Switch(bool),
    Text(String),
    Table(HeaderShape),
}

impl<'de> Deserialize<'de> for HeaderEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = HeaderEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, true (it is there), false (it is not) or a table { regex = \"…\" }")
    }

    fn visit_bool<E>(self, on: bool) -> Result<HeaderEntry, E> {
        Ok(HeaderEntry::Switch(on))
    }

    fn visit_str<E>(self, text: &str) -> Result<HeaderEntry, E> {
        Ok(HeaderEntry::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HeaderEntry, A::Error> {
        HeaderShape::deserialize(MapAccessDeserializer::new(map)).map(HeaderEntry::Table)
    }
}
