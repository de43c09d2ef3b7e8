//! The environment's variables, as Python's `huggingface_hub` reads them.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::expand_home;

/// Where the hub and the cache are, and how to ask.
#[derive(Clone)]
pub struct Settings {
    /// The hub's address, without `/` at its end. `HF_ENDPOINT`
    pub endpoint: String,
    /// The cache. `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME`
    pub cache: Option<PathBuf>,
    /// Who asks. `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME/token`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`
    pub token: Option<String>,
    /// Whom to trust, a file of PEM certificates, in place of Mozilla's list. `SSL_CERT_FILE`
    pub certificates: Option<PathBuf>,
    /// Whether nothing may be asked. `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`
    pub offline: bool,
    /// How long a server may be silent. `HF_HUB_DOWNLOAD_TIMEOUT`, 10 seconds
    pub timeout: Duration,
    /// How many connections to use at once.
    pub connections: usize,
    /// A larger file is fetched in parts of this many bytes, several at once.
    pub part_bytes: u64,
    /// How often to try again what failed for no lasting reason.
    pub retries: u32,
    /// How long to wait before the first retry; each wait is twice the one before.
    pub first_wait: Duration,
    /// How long to wait at most, also where a server asks for more.
    pub longest_wait: Duration,
}

impl Settings {
    /// What the environment says.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(&|name| env::var_os(name))
    }

    fn from_variables(var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text =
            |name: &str| Some(var(name)?.to_str()?.trim().to_owned()).filter(|v| !v.is_empty());
        let is_true = |name: &str| {
            text(name).is_some_and(|v| {
                ["1", "ON", "YES", "TRUE"].iter().any(|yes| v.eq_ignore_ascii_case(yes))
            })
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or("https://huggingface.co".to_owned());
        let offline = text("HF_HUB_OFFLINE").map_or("TRANSFORMERS_OFFLINE", |_| "HF_HUB_OFFLINE");
        let timeout = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|v| v.parse().ok()).unwrap_or(10);
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache(var),
            token: if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token(var) },
            certificates: path(var, "SSL_CERT_FILE"),
            offline: is_true(offline),
            timeout: Duration::from_secs(timeout.max(1)),
            connections: 8,
            part_bytes: 64 << 20,
            retries: 5,
            first_wait: Duration::from_secs(1),
            // The hub counts requests in windows of five minutes.
            longest_wait: Duration::from_mins(5),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// The hub's cache, found as `huggingface_hub` finds it.
pub(super) fn cache_dir() -> Option<PathBuf> {
    cache(&|name| env::var_os(name))
}

fn cache(var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    path(var, "HF_HUB_CACHE")
        .or_else(|| path(var, "HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(home(var)?.join("hub")))
}

fn home(var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    path(var, "HF_HOME")
        .or_else(|| Some(path(var, "XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface")))
}

fn token(var: &dyn Fn(&str) -> Option<OsString>) -> Option<String> {
    let clean =
        |token: &str| Some(token.trim().replace(['\r', '\n'], "")).filter(|t| !t.is_empty());
    let named = |name: &str| clean(var(name)?.to_str()?);
    named("HF_TOKEN").or_else(|| named("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
        let file = path(var, "HF_TOKEN_PATH").or_else(|| Some(home(var)?.join("token")))?;
        clean(&fs::read_to_string(file).ok()?)
    })
}

fn path(var: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    let value = var(name).filter(|value| !value.is_empty())?;
    Some(value.to_str().map_or_else(|| PathBuf::from(&value), expand_home))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Settings {
        Settings::from_variables(&|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn variables_are_read_in_pythons_order() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        fs::write(dir.path().join("other"), "hf_other").unwrap();
        let other = dir.path().join("other");

        let settings = read(&[("HF_HOME", home), ("HF_ENDPOINT", "https://mirror.example/")]);
        assert_eq!(settings.endpoint, "https://mirror.example");
        assert_eq!(settings.cache, Some(dir.path().join("hub")));
        assert_eq!(settings.token.as_deref(), Some("hf_file"));
        assert!(!settings.offline);

        let of = |more: &[(&str, &str)]| read(&[&[("HF_HOME", home)], more].concat());
        assert_eq!(of(&[("HF_TOKEN", " hf_env\n")]).token.as_deref(), Some("hf_env"));
        let path = other.to_str().unwrap();
        assert_eq!(of(&[("HF_TOKEN_PATH", path)]).token.as_deref(), Some("hf_other"));
        assert_eq!(of(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
        assert_eq!(
            of(&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/d")]).cache,
            Some("/c".into())
        );
        assert_eq!(of(&[("HUGGINGFACE_HUB_CACHE", "/d")]).cache, Some("/d".into()));
        assert_eq!(read(&[("XDG_CACHE_HOME", "/x")]).cache, Some("/x/huggingface/hub".into()));
        assert_eq!(of(&[("SSL_CERT_FILE", "/pem")]).certificates, Some("/pem".into()));
        for (yes, offline) in
            [("1", true), ("true", true), ("on", true), ("0", false), ("no", false)]
        {
            assert_eq!(of(&[("HF_HUB_OFFLINE", yes)]).offline, offline);
            assert_eq!(of(&[("TRANSFORMERS_OFFLINE", yes)]).offline, offline);
        }
        assert_eq!(read(&[]).endpoint, "https://huggingface.co");
    }

    #[test]
    fn the_token_is_not_printed() {
        let settings = read(&[("HF_TOKEN", "hf_secret")]);
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
