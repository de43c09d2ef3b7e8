//! Addresses: where they lead, and how they stand in errors.

use ureq::http::Uri;

/// The server of a URL, as it stands in an error.
pub(super) fn host(url: &str) -> String {
    let authority =
        url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    without_secrets(&authority.unwrap_or_else(|| url.to_owned()))
}

/// Signed addresses carry keys in their query, and that of a mirror may hold a password.
pub(super) fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let between = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{between}{host}{path}")
}

/// Scheme, host and port.
pub(super) fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_owned();
    let usual = match &*scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(usual)))
}

/// Where `location` leads from `url`.
pub(super) fn resolve(url: &str, location: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let absolute = if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", uri.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}://{}{location}", uri.scheme_str()?, uri.authority()?)
    } else {
        location.to_owned()
    };
    origin(&absolute).map(|_| absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_absolute_addresses() {
        let from = "https://hub.example:8443/a/b?c";
        let check = |location, expected: Option<&str>| {
            assert_eq!(resolve(from, location).as_deref(), expected);
        };
        check("/x?y", Some("https://hub.example:8443/x?y"));
        check("//cdn.example/x", Some("https://cdn.example/x"));
        check("http://cdn.example/x", Some("http://cdn.example/x"));
        check("file:///etc/passwd", None);
        check("x", None);
    }

    #[test]
    fn the_usual_port_is_the_same_origin() {
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example:443"));
        assert_ne!(origin("http://hub.example"), origin("https://hub.example"));
        assert_ne!(origin("https://hub.example"), origin("https://hub.example.evil"));
    }

    #[test]
    fn passwords_and_signatures_are_left_out_of_errors() {
        assert_eq!(host("https://user:secret@hub.example:1/x"), "hub.example:1");
        assert_eq!(host("https://user:sec ret@hub.example/x"), "https://hub.example/x");
        let check = |url, expected| assert_eq!(without_secrets(url), expected);
        check("https://user:secret@hub.example:1/a@b?c", "https://hub.example:1/a@b");
        check("http://a:b@c@hub.example", "http://hub.example");
        check("https://hub.example/x?Signature=secret#y", "https://hub.example/x");
        check("file:///x?Signature=secret", "file:///x");
        check("/x?Signature=secret", "/x");
    }
}
