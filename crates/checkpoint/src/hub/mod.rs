//! Where a model lies: a path, or a hub id — in the local cache, or on the hub.
//!
//! [`locate`] never asks the network. [`Hub`] does: it finds out what a repository holds, fetches what
//! a build needs into the cache that Python's `huggingface_hub` uses, reads files by ranges without
//! fetching them, and uploads.
//!
//! It speaks to the hub through `ureq` and not through the `hf-hub` crate. Of hf-hub 0.5 only the
//! names of folders could have been used: its HTTP agent is private, it appends to a partial file
//! whatever the server answers, checks neither size nor hash, and has its own names for locks and
//! partial files, so that a download beside Python's would not exclude it. It knows neither
//! `HF_HUB_CACHE`, `HF_TOKEN` nor `HF_HUB_OFFLINE`, and it cannot upload. hf-hub 1.0 can, with four
//! times as many crates, but does not resume. In reading order:
//!
//! - `id`: `owner/name[@revision]`
//! - `settings`: the environment's variables, as Python reads them
//! - `watch`: how a long call tells what it does, and hears that it should stop
//! - `cache`: the cache's folders, links and locks
//! - `revision`: what a repository holds at one commit
//! - `address`, `reply`, `client`: one request, with its redirects, its errors and its patience
//! - `needs`: which files of a repository a build needs
//! - `listing`: asking the hub what a repository holds
//! - `source`: one file of the hub as a stream of bytes that survives a broken connection
//! - `partial`: a file that is not here whole yet
//! - `hash`: what a file must be
//! - `download`: many files at once, into the cache
//! - `remote`: a repository that is read where it lies
//! - `upload`, `push`, `lfs`: what is sent, and sending it

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
pub use crate::hub_error::HubError;

mod cache;
mod id;
mod revision;
mod settings;
mod upload;
mod watch;

#[cfg(feature = "hub")]
mod online {
    pub(super) mod address;
    pub(super) mod client;
    pub(super) mod download;
    pub(super) mod hash;
    pub(super) mod lfs;
    pub(super) mod listing;
    pub(super) mod needs;
    pub(super) mod partial;
    pub(super) mod push;
    pub(super) mod remote;
    pub(super) mod reply;
    pub(super) mod source;
}
#[cfg(not(feature = "hub"))]
mod offline;

pub use id::ModelId;
#[cfg(not(feature = "hub"))]
pub use offline::{FileHash, Hub, Remote};
#[cfg(feature = "hub")]
pub use online::{client::Hub, hash::FileHash, remote::Remote};
pub use revision::{Found, RemoteFile, Revision};
pub use settings::Settings;
pub use upload::{Content, Push, Pushed, Upload};
pub use watch::{Progress, Watch};

use cache::Cache;

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
/// `~/.cache/huggingface/hub`. Nothing is downloaded: what the cache lacks is [`Error::NotInCache`].
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
    let id = ModelId::parse(spec)?;
    let cache = settings::cache_dir().ok_or_else(|| Error::NoCache { spec: spec.to_owned() })?;
    match Cache::new(cache.clone()).snapshot(&id) {
        Some(location) => Ok(location),
        None => Err(Error::NotInCache { spec: spec.to_owned(), cache }),
    }
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
