//! The page at `/` for browsers: it shows what the API says, live, and changes nothing. It holds no data itself, so that it
//! may come without a token; what it shows is asked for with one.

use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};

const PAGE: &str = include_str!("dashboard/page.html");
pub(super) const STYLE: &str = include_str!("dashboard/page.css");
pub(super) const SCRIPT: &str = include_str!("dashboard/page.js");

/// Nothing from elsewhere, nothing inline, in no frame of another page: names of backends come from a registry.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether it is a browser that asks for a page.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accepts.split(',').any(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/html"))
}

pub(super) fn page() -> Response {
    sent("text/html; charset=utf-8", PAGE)
}

pub(super) async fn style() -> Response {
    sent("text/css; charset=utf-8", STYLE)
}

pub(super) async fn script() -> Response {
    sent("text/javascript; charset=utf-8", SCRIPT)
}

fn sent(kind: &'static str, body: &'static str) -> Response {
    let headers: [(HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Of the version that runs, always.
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_known_by_what_it_accepts() {
        for (accept, wanted) in [
            (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), true),
            (Some("application/xml, TEXT/HTML;q=0.9"), true),
            (Some("*/*"), false),
            (Some("text/plain"), false),
            (None, false),
        ] {
            let headers = accept.map(|accept| (header::ACCEPT, accept.parse().unwrap()));
            assert_eq!(is_wanted(&headers.into_iter().collect()), wanted, "{accept:?}");
        }
    }
}
