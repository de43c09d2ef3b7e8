//! Addresses: where they lead, and how they stand in errors.

use ureq::http::Uri;

/// The server of a URL, as it stands in an error.
pub(super) fn host(url: &str) -> String {
    let authority =
        url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    authority.unwrap_or_else(|| url.to_owned())
}

/// Signed addresses carry keys in their query.
pub(super) fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or(url).to_owned()
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
        assert_eq!(host("https://user@hub.example:1/x"), "user@hub.example:1");
    }
}
