//! How commands find the pool or the backend that an operator means.

use super::CommandError;
use super::client::{AdminClient, escaped};
use crate::admin::{BackendBody, PoolBody, PoolsBody, RejectedBody};
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

/// Whom an operator wants explained.
#[derive(Debug)]
pub(super) enum Meant {
    Backend(BackendName),
    /// An instance that is named and can't be used.
    Rejected {
        pool: String,
        rejected: RejectedBody,
    },
    Pool(Box<PoolBody>),
}

/// As [`find_backend`], of instances that were rejected, too; and the name of a pool.
pub(super) async fn find_meant(client: &AdminClient, text: &str) -> Result<Meant, CommandError> {
    let mut all: PoolsBody = client.read("/api/v1/pools").await?;
    let name = |pool: &PoolBody, id: &String| BackendName { pool: pool.name.clone(), id: id.clone() };
    let names = |pool: &PoolBody| pool.backends.iter().map(|backend| name(pool, &backend.id)).collect::<Vec<_>>();
    let backends: Vec<BackendName> = all.pools.iter().flat_map(names).collect();
    let rejected = |pool: &PoolBody| pool.source.rejected.iter().map(|one| name(pool, &one.id)).collect::<Vec<_>>();
    let rejected: Vec<BackendName> = all.pools.iter().flat_map(rejected).collect();
    let is_exact = |named: &BackendName| named.id == text || named.to_string() == text;
    // As much as it takes to mean a pool may be the beginning of all its backends.
    if let Some(at) = all.pools.iter().position(|pool| pool.name == text && !backends.iter().any(is_exact)) {
        return Ok(Meant::Pool(Box::new(all.pools.swap_remove(at))));
    }
    let unknown = match chosen(&backends, text) {
        Ok(named) => return Ok(Meant::Backend(named)),
        Err(unknown) => unknown,
    };
    let Ok(BackendName { pool, id }) = chosen(&rejected, text) else { return Err(CommandError::Unknown(unknown)) };
    let its = all.pools.into_iter().filter(|one| one.name == pool).flat_map(|one| one.source.rejected);
    let found = its.into_iter().find(|one| one.id == id);
    found.map(|rejected| Meant::Rejected { pool, rejected }).ok_or(CommandError::Unknown(unknown))
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
