//! How commands find the pool or the backend that an operator means.

use super::CommandError;
use super::client::{AdminClient, escaped};
use crate::admin::{BackendBody, PoolBody, PoolsBody};
use crate::config::nearest;

/// A backend that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendName {
    pub(super) pool: String,
    pub(super) id: String,
}

impl BackendName {
    pub(super) fn path(&self) -> String {
        format!("/api/v1/backends/{}/{}", escaped(&self.pool), escaped(&self.id))
    }
}

impl std::fmt::Display for BackendName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pool, self.id)
    }
}

/// The backend that an operator means: `POOL/ID`, `ID`, or as much of the beginning of either as only one has.
pub(super) async fn find_backend(client: &AdminClient, text: &str) -> Result<BackendName, CommandError> {
    let all: PoolsBody = client.read("/api/v1/pools").await?;
    let named =
        |pool: &PoolBody, backend: &BackendBody| BackendName { pool: pool.name.clone(), id: backend.id.clone() };
    let all: Vec<BackendName> =
        all.pools.iter().flat_map(|pool| pool.backends.iter().map(|backend| named(pool, backend))).collect();
    chosen(&all, text).map_err(CommandError::Unknown)
}

/// The pool that an operator means.
pub(super) async fn find_pool(client: &AdminClient, text: &str) -> Result<String, CommandError> {
    let all: PoolsBody = client.read("/api/v1/pools").await?;
    let names: Vec<&str> = all.pools.iter().map(|pool| pool.name.as_str()).collect();
    if names.contains(&text) {
        return Ok(text.to_owned());
    }
    let begun: Vec<_> = names.iter().filter(|name| !text.is_empty() && name.starts_with(text)).collect();
    match begun.as_slice() {
        [one] => Ok((**one).to_owned()),
        [] => {
            let hint = match nearest(text, names.iter().copied()) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => format!("; there are {}", listed(&names)),
            };
            Err(CommandError::Unknown(format!("there is no pool `{}`{hint}", text.escape_debug())))
        }
        several => Err(CommandError::Unknown(format!("`{text}` can be {}", listed(several)))),
    }
}

fn chosen(all: &[BackendName], text: &str) -> Result<BackendName, String> {
    let exact: Vec<&BackendName> = all.iter().filter(|named| named.id == text || named.to_string() == text).collect();
    let last = |named: &BackendName| named.id.rsplit('/').next().unwrap_or_default().to_owned();
    let of_name: Vec<&BackendName> = all.iter().filter(|named| last(named) == text).collect();
    let begun: Vec<&BackendName> = all
        .iter()
        .filter(|named| {
            let whole = [named.id.clone(), named.to_string(), last(named)];
            !text.is_empty() && whole.iter().any(|whole| whole.starts_with(text))
        })
        .collect();
    for found in [exact, of_name, begun] {
        match found.as_slice() {
            [] => {}
            [one] => return Ok((*one).clone()),
            several => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                return Err(format!("`{text}` can be {}", listed(&names)));
            }
        }
    }
    let names: Vec<String> = all.iter().flat_map(|named| [named.id.clone(), last(named), named.to_string()]).collect();
    let hint = match nearest(text, names.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => "; `evenkeel backends` lists them".to_owned(),
    };
    Err(format!("there is no backend `{}`{hint}", text.escape_debug()))
}

/// Some names, not all of hundreds.
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    const MOST: usize = 5;
    let mut text = names.iter().take(MOST).map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text += &format!(" and {} more", names.len() - MOST);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_meant_is_found_or_named() {
        let named = |(pool, id): (&str, &str)| BackendName { pool: pool.to_owned(), id: id.to_owned() };
        let all: Vec<BackendName> = [
            ("web", "dev/web-1"),
            ("web", "dev/web-10"),
            ("web", "n/other"),
            ("api", "n/other"),
            ("api", "10.0.0.1:80"),
        ]
        .map(named)
        .into();
        let found = |text: &str| chosen(&all, text).map(|named| named.to_string());
        for (text, wanted) in [
            ("dev/web-1", "web/dev/web-1"),
            ("web-1", "web/dev/web-1"),
            ("web-10", "web/dev/web-10"),
            ("web/n/other", "web/n/other"),
            ("api/n", "api/n/other"),
            ("10.", "api/10.0.0.1:80"),
        ] {
            assert_eq!(found(text).unwrap(), wanted, "{text}");
        }
        assert_eq!(found("web").unwrap_err(), "`web` can be `web/dev/web-1`, `web/dev/web-10`, `web/n/other`");
        assert_eq!(found("n/other").unwrap_err(), "`n/other` can be `web/n/other`, `api/n/other`");
        assert_eq!(found("web-2").unwrap_err(), "there is no backend `web-2`; did you mean `web-1`?");
        assert_eq!(found("zzzzzz").unwrap_err(), "there is no backend `zzzzzz`; `evenkeel backends` lists them");
        assert!(found("").is_err());
    }
}
