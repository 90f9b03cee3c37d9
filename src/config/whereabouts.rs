//! Where the admin side of a file's balancer is, however broken the rest of the file is: the commands of an emergency need
//! no more. What can't be read is a trouble, told only if the balancer is not found.

use std::net::SocketAddr;

use toml::de::{DeTable, DeValue};

use super::access::{self, usual_bind};
use super::expand::{self, Env};
use super::{AccessToken, AdminSocket, Secret};

/// The socket, the address and the token of `[admin]`.
#[derive(Debug, Default)]
pub struct Whereabouts {
    /// `None` = written, but not to be understood here: its variable may be set for the balancer alone.
    pub socket: Option<AdminSocket>,
    /// `None` = off, or not to be understood.
    pub bind: Option<SocketAddr>,
    /// For TCP: the token that allows most.
    pub token: Option<AccessToken>,
    /// What could not be understood.
    pub troubles: Vec<String>,
}

impl Whereabouts {
    /// What there is without a file.
    pub fn usual() -> Self {
        Self { socket: Some(AdminSocket::Usual), bind: Some(usual_bind()), ..Self::default() }
    }

    /// Reads `[admin]` alone. `env` is what variables hold (`None` = unset).
    pub fn of(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut this = Self::usual();
        if let Some(error) = errors.first() {
            let line =
                error.span().map_or(0, |span| text.bytes().take(span.start).filter(|&byte| byte == b'\n').count());
            this.troubles.push(format!("line {} is not valid TOML", line + 1));
        }
        let Some(DeValue::Table(admin)) = table.get_ref().get("admin").map(|admin| admin.get_ref()) else {
            return this;
        };
        let mut written = Written { admin, env, troubles: &mut this.troubles };
        this.socket = written.value("socket", access::socket).unwrap_or(this.socket);
        this.bind = written.value("bind", access::bind).map_or(this.bind, Option::flatten);
        let token = |text: &str| Ok(AccessToken::Written(Secret(text.to_owned())));
        let file = |text: &str| access::path(text).map(AccessToken::File);
        this.token = None;
        for name in ["admin_token", "read_token"] {
            let found = written.value(name, token).or_else(|| written.value(&format!("{name}_file"), file)).flatten();
            this.token = this.token.or(found);
        }
        this
    }
}

struct Written<'a, 'b> {
    admin: &'a DeTable<'b>,
    env: &'a Env<'a>,
    troubles: &'a mut Vec<String>,
}

impl Written<'_, '_> {
    /// `None` = not written; `Some(None)` = not understood, and noted.
    fn value<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, super::faults::Complaint>,
    ) -> Option<Option<T>> {
        let value = self.admin.get(key)?;
        let read = match value.get_ref() {
            DeValue::String(text) => expand::expand(text, self.env).and_then(|text| parse(&text)),
            _ => Err(super::faults::Complaint::new("not a string", "")),
        };
        // Its value is not shown: it may be a token.
        Some(read.map_err(|complaint| self.troubles.push(format!("admin.{key}: {}", complaint.what))).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Whereabouts {
        Whereabouts::of(text, &|name| (name == "DIR").then(|| "/run/x".to_owned()))
    }

    fn at(path: &str) -> Option<AdminSocket> {
        Some(AdminSocket::At(path.into()))
    }

    #[test]
    fn a_broken_file_still_says_where() {
        for rest in ["", "[pools.web]\nbalance = round\n", "nonsense", "[admin2]\nx = \"", "[pools.web]\nunknown = 1\n"]
        {
            let found = of(&format!("[admin]\nsocket = \"${{DIR}}/a.sock\"\nbind = \"10.0.0.1:1\"\n{rest}"));
            assert_eq!(found.socket, at("/run/x/a.sock"), "{rest}");
            assert_eq!(found.bind, Some(([10, 0, 0, 1], 1).into()), "{rest}");
        }
        let found = of("broken =\n[admin]\nsocket = \"/a.sock\"\nadmin_tokn = \"geheim\"\n");
        assert_eq!((found.socket, found.troubles), (at("/a.sock"), vec!["line 1 is not valid TOML".to_owned()]));
    }

    #[test]
    fn what_is_not_written_is_usual_and_what_is_not_understood_is_said() {
        for text in ["", "[listeners]\n", "[admin]\n", "]]]]", "admin = 3"] {
            let found = of(text);
            assert_eq!((found.socket, found.bind), (Some(AdminSocket::Usual), Some(usual_bind())), "{text}");
        }
        let found =
            of("[admin]\nsocket = \"${HERE}/a.sock\"\nbind = \"off\"\nadmin_token = \"${T}\"\nread_token = \"r\"");
        assert_eq!((found.socket, found.bind), (None, None));
        assert_eq!(found.token, Some(AccessToken::Written(Secret("r".to_owned()))));
        assert_eq!(found.troubles[0], "admin.socket: the environment variable `HERE` is not set");
        assert_eq!(found.troubles[1], "admin.admin_token: the environment variable `T` is not set");
        assert_eq!(of("[admin]\nsocket = \"off\"").socket, Some(AdminSocket::Off));
    }
}
