//! Where the models of a plan come from: a path, the hub's cache, or the hub.

use checkpoint::Checkpoint;
use checkpoint::hub::{self, Hub, HubError, Location, ModelId, Revision};
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
    /// All that a build needs; it comes into the cache.
    Weights,
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
}

/// Finds the model that `source` names.
pub fn find(source: &Source, access: Access, watch: &Watch) -> Result<Found> {
    let here = |location| Found { location, notice: None, outline: None };
    let located = hub::locate(&source.spec, &source.relative_to);
    let is_local = matches!(&located, Ok(location) if location.hub.is_none());
    let nowhere = matches!(&located, Err(checkpoint::Error::NotInCache { .. }));
    match access {
        Access::Local => return Ok(here(located?)),
        _ if is_local || !(nowhere || located.is_ok()) => return Ok(here(located?)),
        Access::Headers | Access::Weights => {}
    }
    // The cache may hold some of a model's files only; to a plan it is good enough if it does not.
    let is_whole = located.as_ref().is_ok_and(|found| Checkpoint::open(&found.path).is_ok());
    if access == Access::Headers && is_whole {
        return Ok(here(located?));
    }
    let id = ModelId::parse(&source.spec)?;
    let failed = |error| match error {
        checkpoint::Error::Hub(error) if matches!(*error, HubError::Cancelled) => Error::Cancelled,
        error if nowhere => Error::NotOnHub { spec: source.spec.clone(), source: error },
        error => error.into(),
    };
    let progress = |progress| match progress {
        hub::Progress::Begin { doing, bytes } => {
            (watch.progress)(Progress::Begin { doing, bytes });
        }
        hub::Progress::Done(bytes) => (watch.progress)(Progress::Done(bytes)),
        hub::Progress::Lost(bytes) => (watch.progress)(Progress::Lost(bytes)),
        hub::Progress::Waiting(_) => {}
    };
    let hub_watch = hub::Watch { progress: &progress, is_cancelled: watch.is_cancelled };
    let hub = Hub::from_env().map_err(failed)?;
    if access == Access::Headers && !hub.settings().offline {
        let revision: Revision = hub.resolve(&id, hub_watch).map_err(failed)?;
        let dir = tempfile::Builder::new().prefix("dus-").tempdir();
        let temporary = std::env::temp_dir();
        let dir =
            dir.map_err(|source| Error::Io { path: temporary, doing: "written into", source })?;
        let outlined = hub.remote(revision).outline(dir.path(), false, hub_watch);
        let location = outlined.map_err(failed)?;
        return Ok(Found { location, notice: None, outline: Some(dir) });
    }
    let found = hub.find(&id, hub_watch).map_err(failed)?;
    let notice = found.notice.map(|error| {
        format!(
            "the hub could not be asked ({}); the cache's copy is used",
            crate::error::one_line(&error)
        )
    });
    Ok(Found { location: found.location, notice, outline: None })
}

/// Refuses what can be no model: a missing path, or a name that is no hub id.
pub fn check(source: &Source) -> Result<()> {
    match hub::locate(&source.spec, &source.relative_to) {
        Ok(_) | Err(checkpoint::Error::NotInCache { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
