//! Where the models of a plan come from: a path, the hub's cache, or the hub.

use std::sync::Arc;

use checkpoint::Checkpoint;
use checkpoint::hub::{self, Hub, HubError, Location, ModelId, Remote, Revision};
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::progress::{Progress, Watch};
use crate::recipe::Source;

/// How much of a model may be asked of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: what is neither a path nor in the cache is an error.
    Local,
    /// What headers say; no weights are downloaded, and none can be read of what comes of it.
    Headers,
    /// The same, and the files beside the weights.
    SideFiles,
    /// All that a build needs; it comes into the cache.
    Weights,
    /// The same, but what the cache does not hold is read where it lies, and no copy is kept.
    Streamed,
}

/// A model that was found.
#[derive(Debug)]
pub struct Found {
    /// Where it lies.
    pub location: Location,
    /// What a user should hear.
    pub notice: Option<String>,
    /// A folder with headers and no weights, for as long as this is kept.
    pub outline: Option<TempDir>,
    /// Where the weights are read, if they are on the hub.
    pub remote: Option<Arc<Remote>>,
}

/// Finds the model that `source` names.
pub fn find(source: &Source, access: Access, watch: &Watch) -> Result<Found> {
    let here = |location| Found { location, notice: None, outline: None, remote: None };
    let located = hub::locate(&source.spec, &source.relative_to);
    let is_local = matches!(&located, Ok(location) if location.hub.is_none());
    let missing_in = match &located {
        Err(checkpoint::Error::NotInCache { cache, .. }) => Some(cache.clone()),
        _ => None,
    };
    match access {
        Access::Local => return Ok(here(located?)),
        _ if is_local || !(missing_in.is_some() || located.is_ok()) => return Ok(here(located?)),
        Access::Headers | Access::SideFiles | Access::Weights | Access::Streamed => {}
    }
    // The cache may hold some of a model's files only; to a plan it is good enough if it does not.
    let is_whole = located.as_ref().is_ok_and(|found| Checkpoint::open(&found.path).is_ok());
    if matches!(access, Access::Headers | Access::SideFiles) && is_whole {
        return Ok(here(located?));
    }
    let id = ModelId::parse(&source.spec)?;
    let cached = located.ok().filter(|_| is_whole);
    let asked = with_hub_watch(watch, |watch| ask(&id, access, cached, watch));
    asked.map_err(|error| match (error, missing_in) {
        (Error::Checkpoint(error), Some(cache)) => {
            Error::NotOnHub { spec: source.spec.clone(), cache, source: error }
        }
        (error, _) => error,
    })
}

/// Asks the hub for a model that the cache may hold whole.
fn ask(
    id: &ModelId,
    access: Access,
    cached: Option<Location>,
    watch: hub::Watch,
) -> checkpoint::Result<Found> {
    let hub = Hub::from_env()?;
    let from_cache = |location, notice: Option<checkpoint::Error>| {
        let notice = notice.map(|error| {
            let why = crate::error::one_line(&error);
            format!("the hub could not be asked ({why}); the cache's copy is used")
        });
        Found { location, notice, outline: None, remote: None }
    };
    if access == Access::Weights || hub.settings().offline {
        let found = hub.find(id, watch)?;
        return Ok(from_cache(found.location, found.notice));
    }
    // A whole copy is used while it is the newest, whatever was asked for.
    match (hub.resolve(id, watch), cached) {
        (Ok(revision), Some(location)) if location.hub == Some(revision.hub_id()) => {
            Ok(from_cache(location, None))
        }
        (Err(checkpoint::Error::Hub(error)), Some(location)) if error.cache_may_answer() => {
            Ok(from_cache(location, Some(checkpoint::Error::Hub(error))))
        }
        (revision, _) => outline(&hub, revision?, access, watch),
    }
}

/// Makes a folder that holds all of a model but its weights.
fn outline(
    hub: &Hub,
    revision: Revision,
    access: Access,
    watch: hub::Watch,
) -> checkpoint::Result<Found> {
    let path = std::env::temp_dir();
    let dir = tempfile::Builder::new().prefix("dus-").tempdir();
    let dir =
        dir.map_err(|source| checkpoint::Error::Io { path, doing: "written into", source })?;
    let remote = hub.remote(revision);
    let is_read = access == Access::Streamed;
    // Errors name files of it; so they name the model, too.
    let side_files = access != Access::Headers;
    let location = remote.outline(&dir.path().join(&remote.revision().repo), side_files, watch)?;
    let remote = is_read.then(|| Arc::new(remote));
    Ok(Found { location, notice: None, outline: Some(dir), remote })
}

/// Calls `f` with a watch that tells `watch` of the hub's progress.
pub(crate) fn with_hub_watch<T>(
    watch: &Watch,
    f: impl FnOnce(hub::Watch) -> checkpoint::Result<T>,
) -> Result<T> {
    let progress = |progress| match progress {
        hub::Progress::Begin { doing, bytes } => {
            (watch.progress)(Progress::Begin { doing, bytes });
        }
        hub::Progress::Done(bytes) => (watch.progress)(Progress::Done(bytes)),
        hub::Progress::Lost(bytes) => (watch.progress)(Progress::Lost(bytes)),
        hub::Progress::Waiting(time) => (watch.progress)(Progress::Waiting(time)),
    };
    f(hub::Watch { progress: &progress, is_cancelled: watch.is_cancelled }).map_err(|error| {
        match error {
            checkpoint::Error::Hub(error) if matches!(*error, HubError::Cancelled) => {
                Error::Cancelled
            }
            error => error.into(),
        }
    })
}

/// Refuses what can be no model: a missing path, or a name that is no hub id.
pub fn check(source: &Source) -> Result<()> {
    match hub::locate(&source.spec, &source.relative_to) {
        Ok(_) | Err(checkpoint::Error::NotInCache { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
