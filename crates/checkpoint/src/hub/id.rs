//! A model's name on the hub.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// `owner/name[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId {
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag or a commit; `main` if none was given.
    pub revision: String,
}

impl ModelId {
    /// Reads `owner/name[@revision]`, which may be no path: neither part climbs or is hidden.
    pub fn parse(spec: &str) -> Result<Self> {
        let (repo, revision) = spec.split_once('@').unwrap_or((spec, "main"));
        let named = repo.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name));
        // The cache writes `/` as `--`.
        let ambiguous = repo.contains("--");
        if !named || ambiguous || revision.is_empty() || !revision.split('/').all(plain) {
            return Err(Error::NotAModel { spec: spec.to_owned() });
        }
        Ok(Self { repo: repo.to_owned(), revision: revision.to_owned() })
    }

    /// Whether the revision is a whole commit hash, which names the same files for ever.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

impl FromStr for ModelId {
    type Err = Error;

    fn from_str(spec: &str) -> Result<Self> {
        Self::parse(spec)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { repo, revision } = self;
        if revision == "main" { f.write_str(repo) } else { write!(f, "{repo}@{revision}") }
    }
}

/// Whether `text` is a whole git commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn part(name: &str) -> bool {
    plain(name) && name.len() <= 96 && !name.ends_with(['.', '-'])
}

fn plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['.', '-'])
        && !name.contains("..")
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: &str, expected: Option<(&str, &str)>) {
        let id = ModelId::parse(spec).ok();
        let parts = id.as_ref().map(|id| (&*id.repo, &*id.revision));
        assert_eq!(parts, expected, "{spec}");
        if let Some(id) = id {
            assert_eq!(ModelId::parse(&id.to_string()).unwrap(), id);
        }
    }

    #[test]
    fn ids_are_owner_name_and_revision() {
        check("mistralai/Mistral-7B-v0.1", Some(("mistralai/Mistral-7B-v0.1", "main")));
        check("a/b@v1.0", Some(("a/b", "v1.0")));
        check("a/b@refs/pr/3", Some(("a/b", "refs/pr/3")));
        for bad in ["a", "a/b/c", "/a", "a/", "a/..", "../b", "a/b@", "a/b@../x", "a/.b", "a/b--c"]
        {
            check(bad, None);
        }
        for bad in ["a/b.", "a/b@x/", "a b/c", "a/b@x y", "a/b%2fc", "a/b?x"] {
            check(bad, None);
        }
        assert!(ModelId::parse(&format!("a/b@{}", "0a".repeat(20))).unwrap().is_pinned());
        assert!(!ModelId::parse("a/b@0a0a0a").unwrap().is_pinned());
    }
}
