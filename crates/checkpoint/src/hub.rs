//! Where a model lies: a path, or a hub id found in the hub's local cache.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A model found on this machine.
#[derive(Debug, Clone)]
pub struct Location {
    /// The folder that holds it, or the GGUF file.
    pub path: PathBuf,
    /// Where it came from, if it was asked for by hub id.
    pub hub: Option<HubId>,
}

/// A model of the hub at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `owner/name`.
    pub repo: String,
    /// The commit that the cache holds for the revision asked for.
    pub commit: String,
}

/// Finds the model that `spec` names: a path, relative to `relative_to`, or `owner/name[@revision]`.
///
/// What exists is a path. The cache is Python's: `HF_HUB_CACHE`, else `HF_HOME/hub`, else
/// `~/.cache/huggingface/hub`. Nothing is downloaded.
pub fn locate(spec: &str, relative_to: &Path) -> Result<Location> {
    let path = relative_to.join(expand_home(spec));
    if path.exists() {
        return model(path);
    }
    let file_like = [".toml", ".yml", ".yaml", ".gguf", ".safetensors"];
    if spec.starts_with(['.', '/', '~'])
        || !spec.contains('/')
        || file_like.iter().any(|end| spec.ends_with(end))
    {
        return Err(Error::NoSuchPath { spec: spec.to_owned(), path });
    }
    let (repo, revision) = spec.split_once('@').unwrap_or((spec, "main"));
    let plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with(['.', '-'])
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let named = repo.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
    if !named || revision.is_empty() || !revision.split('/').all(plain) {
        return Err(Error::NotAModel { spec: spec.to_owned() });
    }
    let cache = cache_dir().ok_or_else(|| Error::NoCache { spec: spec.to_owned() })?;
    let model = cache.join(format!("models--{}", repo.replace('/', "--")));
    let commit = std::fs::read_to_string(model.join("refs").join(revision))
        .map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
    let dir = model.join("snapshots").join(&commit);
    if !dir.is_dir() {
        return Err(Error::NotInCache { spec: spec.to_owned(), cache });
    }
    Ok(Location { path: dir, hub: Some(HubId { repo: repo.to_owned(), commit }) })
}

fn model(path: PathBuf) -> Result<Location> {
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if path.is_dir() || is_gguf {
        return Ok(Location { path, hub: None });
    }
    Err(Error::NotAModelFile { path })
}

/// `~` and `~/…`, which no shell expands inside a recipe.
fn expand_home(spec: &str) -> PathBuf {
    match (spec.strip_prefix('~'), env::home_dir()) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            home.join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(spec),
    }
}

/// The hub's cache, found as `huggingface_hub` finds it.
fn cache_dir() -> Option<PathBuf> {
    let var = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("HF_HUB_CACHE")
        .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(var("HF_HOME")?.join("hub")))
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface/hub")))
}
