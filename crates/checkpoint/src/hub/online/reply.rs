//! What the hub answers, and what its refusals mean.

use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::Body;
use ureq::http::{HeaderMap, Response};

use super::address::{host, without_secrets};
use super::client::Hub;
use crate::error::{Error, Result};
use crate::hub_error::HubError;

/// What a request is about, for its errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) repo: &'a str,
    pub(super) revision: &'a str,
    pub(super) file: Option<&'a str>,
}

/// An answer, of any status that does not ask for another try.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) response: Response<Body>,
    /// The address that answered.
    pub(super) url: String,
    /// The headers of the hub's own answer, where it redirected to another host.
    pub(super) hub_headers: Option<HeaderMap>,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }

    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        const MAX_JSON_BYTES: u64 = 64 << 20;
        let body = self.response.body_mut().with_config().limit(MAX_JSON_BYTES).read_to_vec();
        let body = body.map_err(|e| unreachable(&self.url, e))?;
        serde_json::from_slice(&body).map_err(|e| malformed(&self.url, e.to_string()))
    }

    /// Whether the server would answer otherwise at another time.
    pub(super) fn is_busy(&self) -> bool {
        [408, 429, 500, 502, 503, 504].contains(&self.status())
    }

    /// How long a busy server asks to be left alone, if it says so.
    pub(super) fn asked_wait(&self) -> Option<Duration> {
        let asked = self.header("retry-after").and_then(|text| text.trim().parse().ok());
        let asked = asked.or_else(|| rate_limit_reset(self.header("ratelimit")?));
        asked.map(Duration::from_secs)
    }
}

impl Hub {
    /// What an answer other than success means.
    pub(super) fn refusal(&self, mut reply: Reply, about: About) -> Error {
        let repo = about.repo.to_owned();
        let with_token = self.settings().token.is_some();
        let code = reply.header("x-error-code").unwrap_or_default().to_owned();
        let message = reason(&mut reply);
        let error = match (reply.status(), &*code) {
            (_, "GatedRepo") => {
                let page = self.page(&repo);
                HubError::Gated { repo, page, with_token }
            }
            (_, "RevisionNotFound") => {
                HubError::RevisionNotFound { repo, revision: about.revision.to_owned() }
            }
            (_, "EntryNotFound") => HubError::FileNotFound {
                repo,
                revision: about.revision.to_owned(),
                file: about.file.unwrap_or("of that name").to_owned(),
            },
            (_, "RepoNotFound") => HubError::RepoNotFound { repo, with_token },
            (401, _) if message.contains("Invalid credentials") => HubError::BadToken,
            // The hub answers so for what is private, too.
            (401 | 404, _) if self.is_hub(&reply.url) => {
                HubError::RepoNotFound { repo, with_token }
            }
            (403, _) if self.is_hub(&reply.url) => HubError::Forbidden { repo, message },
            (status, _) => HubError::Status { url: without_secrets(&reply.url), status, message },
        };
        error.into()
    }

    /// Where a person finds `repo`.
    pub(super) fn page(&self, repo: &str) -> String {
        without_secrets(&format!("{}/{repo}", self.settings().endpoint))
    }
}

pub(super) fn unreachable(
    url: &str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    HubError::Unreachable { host: host(url), source: error.into() }.into()
}

pub(super) fn malformed(url: &str, problem: String) -> Error {
    HubError::Malformed { url: without_secrets(url), problem }.into()
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The server's reason for a refusal, on one line.
fn reason(reply: &mut Reply) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        error: String,
    }
    const MAX_BYTES: u64 = 64 << 10;
    let said = reply.header("x-error-message").map(str::to_owned).or_else(|| {
        let body = reply.response.body_mut().with_config().limit(MAX_BYTES).read_to_vec().ok()?;
        serde_json::from_slice::<Said>(&body).ok().map(|said| said.error)
    });
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    said.unwrap_or_default().chars().map(printable).take(300).collect()
}

/// The seconds until more may be asked, of a header such as `"api";r=0;t=55`; `None` while `r` is not 0.
fn rate_limit_reset(text: &str) -> Option<u64> {
    let value = |key: &str| {
        let mut parts = text.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix(key)?.parse::<u64>().ok())
    };
    (value("r=")? == 0).then(|| value("t="))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limits_say_when_they_end() {
        assert_eq!(rate_limit_reset(r#""api";r=0;t=55"#), Some(55));
        assert_eq!(rate_limit_reset(r#""api"; r=3; t=55"#), None);
        assert_eq!(rate_limit_reset("nonsense"), None);
    }
}
