//! The tokens of a filter expression, by the grammar of `hashicorp/go-bexpr` (`grammar.peg`). What an agent refuses is refused here.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A path such as `Service.Meta.zone`, a word of the language, or a number.
    Word(Vec<String>),
    Text(String),
    Sign(&'static str),
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let sign = ["==", "!=", "(", ")"].into_iter().find(|sign| rest.starts_with(sign));
        let (token, tail) = match (sign, first) {
            (Some(sign), _) => (Token::Sign(sign), &rest[sign.len()..]),
            (None, '"' | '`') => {
                let (text, tail) = quoted(rest)?;
                (Token::Text(text), tail)
            }
            (None, '-' | '0'..='9') => number(rest)?,
            (None, 'a'..='z' | 'A'..='Z') => path(rest)?,
            _ => return Err(format!("{first:?} was not expected")),
        };
        tokens.push(token);
        rest = tail.trim_start();
    }
    Ok(tokens)
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let end = text.find(|c: char| !matches!(c, '-' | '.' | '0'..='9')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    if number.parse::<f64>().is_err() || !rest.starts_with([' ', '\t', '\r', '\n', ')']) && !rest.is_empty() {
        return Err(format!("Invalid number literal {number:?}"));
    }
    Ok((Token::Word(vec![number.to_owned()]), rest))
}

/// A path: names after points, or in brackets and quotes.
fn path(text: &str) -> Result<(Token, &str), String> {
    let mut path = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '/'))).unwrap_or(rest.len());
        if end == 0 {
            return Err("a name is wanted after a point".to_owned());
        }
        path.push(rest[..end].to_owned());
        rest = &rest[end..];
        while let Some(index) = rest.strip_prefix('[') {
            let index = index.trim_start();
            if !index.starts_with(['"', '`']) {
                return Err("Invalid index".to_owned());
            }
            let (name, tail) = quoted(index)?;
            rest = tail.trim_start().strip_prefix(']').ok_or("Unclosed index expression")?;
            path.push(name);
        }
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None => return Ok((Token::Word(path), rest)),
        }
    }
}

/// A string and the rest after it. It ends at the next quote, also an escaped one.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let quote = if text.starts_with('`') { '`' } else { '"' };
    let (inner, rest) = text[1..].split_once(quote).ok_or("Unterminated string literal")?;
    let value = if quote == '`' { Some(inner.to_owned()) } else { unquoted(inner) };
    Ok((value.ok_or("invalid syntax")?, rest))
}

/// As Go's `strconv.Unquote`.
fn unquoted(text: &str) -> Option<String> {
    let mut value = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '\n' {
            return None;
        }
        if c != '\\' {
            value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.chars().next()?;
        rest = &rest[escape.len_utf8()..];
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                value.push(single(escape)?);
                continue;
            }
        };
        let number = u32::from_str_radix(rest.get(..digits)?, 16).ok()?;
        rest = &rest[digits..];
        match u8::try_from(number) {
            Ok(byte) if escape == 'x' => value.push(byte),
            _ => value.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(String::from_utf8_lossy(&value).into_owned())
}

fn single(escape: char) -> Option<u8> {
    Some(match escape {
        '\\' => b'\\',
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        _ => return None,
    })
}
