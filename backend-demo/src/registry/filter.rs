//! Consul's filter expressions for instances: `==`, `!=`, `in`, `contains`, `is empty`, `and`, `or`, `not`, parentheses, over
//! `Service.*` and `Node.*`. Everything else is refused: an ignored filter would send traffic to the wrong instances.

use serde_json::Value;

use super::tokens::{Token, tokens};

/// A parsed expression.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filter {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Equal(Selector, String),
    Contains(Selector, String),
    Empty(Selector),
}

impl Filter {
    /// The error is the text of a 400.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let refuse = |why: String| format!("Failed to create boolean expression evaluator: {why}");
        let mut parser = Parser { tokens: tokens(text).map_err(refuse)?, at: 0, depth: 0 };
        let filter = parser.or().map_err(refuse)?;
        match parser.next() {
            None => Ok(filter),
            Some(token) => Err(refuse(format!("{token:?} was not expected"))),
        }
    }

    /// Whether an entry of a health reply is selected.
    pub(super) fn matches(&self, entry: &Value) -> bool {
        match self {
            Self::And(left, right) => left.matches(entry) && right.matches(entry),
            Self::Or(left, right) => left.matches(entry) || right.matches(entry),
            Self::Not(inner) => !inner.matches(entry),
            Self::Equal(selector, wanted) => selector.text(entry).is_some_and(|text| text == *wanted),
            Self::Contains(selector, wanted) => match selector.find(entry) {
                Some(Value::Array(values)) => values.iter().any(|value| value == wanted.as_str()),
                Some(Value::Object(pairs)) => pairs.contains_key(wanted),
                Some(Value::String(text)) => text.contains(wanted.as_str()),
                _ => false,
            },
            Self::Empty(selector) => match selector.find(entry) {
                Some(Value::Array(values)) => values.is_empty(),
                Some(Value::Object(pairs)) => pairs.is_empty(),
                Some(Value::String(text)) => text.is_empty(),
                _ => true,
            },
        }
    }
}

/// A path into an entry, such as `Service.Meta.zone`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selector(Vec<String>);

impl Selector {
    fn of(path: Vec<String>) -> Result<Self, String> {
        let steps: Vec<&str> = path.iter().map(String::as_str).collect();
        match steps[..] {
            ["Service", "ID" | "Service" | "Address" | "Port" | "Tags" | "Meta"]
            | ["Service", "Weights", "Passing" | "Warning"]
            | ["Node", "ID" | "Node" | "Address" | "Datacenter" | "Meta"]
            | ["Service" | "Node", "Meta", _] => Ok(Self(path)),
            _ => Err(format!("Selector {:?} is not valid", path.join("."))),
        }
    }

    fn find<'a>(&self, entry: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(entry, |value, step| value.get(step))
    }

    fn text(&self, entry: &Value) -> Option<String> {
        match self.find(entry)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// Deeper nesting is refused, because the parser recurses on input from the network.
const MAX_DEPTH: usize = 32;

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn or(&mut self) -> Result<Filter, String> {
        let mut left = self.and()?;
        while self.take_word("or") {
            left = Filter::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Filter, String> {
        let mut left = self.not()?;
        while self.take_word("and") {
            left = Filter::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH || self.tokens.len() > 32 * MAX_DEPTH {
            return Err("the expression is too deep".to_owned());
        }
        let filter = if self.take_word("not") {
            Filter::Not(Box::new(self.not()?))
        } else if self.take_sign("(") {
            let inner = self.or()?;
            if !self.take_sign(")") {
                return Err("a parenthesis is not closed".to_owned());
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn comparison(&mut self) -> Result<Filter, String> {
        let left = self.next().ok_or("the expression ends too early")?;
        if self.take_sign("==") {
            return Ok(Filter::Equal(selector(left)?, self.value()?));
        }
        if self.take_sign("!=") {
            return Ok(negate(Filter::Equal(selector(left)?, self.value()?)));
        }
        if self.take_word("is") {
            let negated = self.take_word("not");
            if !self.take_word("empty") {
                return Err("`is` wants `empty` or `not empty`".to_owned());
            }
            let empty = Filter::Empty(selector(left)?);
            return Ok(if negated { negate(empty) } else { empty });
        }
        let negated = self.take_word("not");
        let contains = if self.take_word("in") {
            let within = self.next().ok_or("the expression ends too early")?;
            Filter::Contains(selector(within)?, value(left)?)
        } else if self.take_word("contains") {
            Filter::Contains(selector(left)?, self.value()?)
        } else {
            return Err(format!("an operator is wanted after {left:?}"));
        };
        Ok(if negated { negate(contains) } else { contains })
    }

    fn value(&mut self) -> Result<String, String> {
        value(self.next().ok_or("the expression ends too early")?)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.take(|token| matches!(token, Token::Word(found) if found[..] == [word]))
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        self.take(|token| matches!(token, Token::Sign(found) if *found == sign))
    }

    fn take(&mut self, wanted: impl Fn(&Token) -> bool) -> bool {
        let found = self.tokens.get(self.at).is_some_and(wanted);
        self.at += usize::from(found);
        found
    }
}

fn negate(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

fn selector(token: Token) -> Result<Selector, String> {
    match token {
        Token::Word(path) => Selector::of(path),
        other => Err(format!("a selector is wanted, not {other:?}")),
    }
}

fn value(token: Token) -> Result<String, String> {
    match token {
        Token::Word(path) => Ok(path.join(".")),
        Token::Text(text) => Ok(text),
        Token::Sign(sign) => Err(format!("a value is wanted, not {sign:?}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_select_matching_instances() {
        let entry = json!({
            "Node": {"Node": "dev", "Datacenter": "dc1"},
            "Service": {"ID": "web-1", "Tags": ["blue", "v2", "/c", "d\"\\"], "Port": 80, "Meta": {"zone": "a", "odd-key": "a\"b"}},
        });
        let cases = [
            (r#""blue" in Service.Tags"#, true),
            (r#""green" in Service.Tags"#, false),
            (r#"Service.Tags contains "v2""#, true),
            (r#""blue" not in Service.Tags"#, false),
            (r#"Service.Meta.zone == "a""#, true),
            (r#"Service.Meta.none == "a""#, false),
            (r#"Service.Meta.none != "a""#, true),
            (r#"Service.ID == "web-1" and Service.Port == 80"#, true),
            (r#"Service.ID == `web-2` or Node.Datacenter == dc1"#, true),
            (r#"not (Service.ID == "web-2" or "x" in Service.Tags)"#, true),
            (r#"Service.ID == "x" and Service.ID == "y" or Service.ID == "web-1""#, true),
            ("Service.Tags is not empty and Node.Meta is empty", true),
            (r#"Service.Meta["odd-key"] == "a\x22b""#, true),
            (r#""\x2fc" in Service.Tags and `d"\` in Service.Tags"#, true),
        ];
        for (text, wanted) in cases {
            let filter = Filter::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(filter.matches(&entry), wanted, "{text}");
        }
    }

    #[test]
    fn unknown_expressions_are_refused() {
        let deep = "(".repeat(10_000);
        for text in [
            "",
            "Service.ID",
            "Service.ID ==",
            "Nope == 1",
            "Service.ID == \"x",
            "Service.ID == \"x\" Service",
            "(Service.ID == x",
            "Service.ID matches \"w.*\"",
            "== ==",
            "Service.ID = 1",
            // An agent accepts no hyphen without quotes, and no quote within quotes.
            "Service.Meta.zone == eu-west",
            "Service.Meta.odd-key == a",
            r#"Service.ID == "a\"b""#,
            r#"Service.ID == "a\q""#,
            "Service.ID == \"a\nb\"",
            "Service.Meta[zone] == a",
            &deep,
        ] {
            assert!(Filter::parse(text).is_err(), "{text:.40}");
        }
    }
}
