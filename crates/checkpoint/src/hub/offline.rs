//! The hub's face in a build without it: ids are found in the cache, and nothing else is asked.

use std::path::{Path, PathBuf};

use super::Location;
use super::cache::Cache;
use super::id::ModelId;
use super::revision::{Found, Revision};
use super::settings::Settings;
use super::upload::{Push, Pushed, Upload};
use super::watch::Watch;
use crate::error::Result;
use crate::hub_error::HubError;

/// The hub, which this build cannot ask.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: Settings,
}

/// A repository that is read where it lies, which this build cannot do.
#[derive(Debug)]
pub struct Remote {
    revision: Revision,
}

/// The hash of a file that cannot be read.
#[derive(Debug)]
pub struct FileHash {}

impl FileHash {
    /// Nothing.
    pub fn update(&mut self, _: &[u8]) {}

    /// [`HubError::NotBuiltIn`].
    pub fn check(self) -> Result<()> {
        refuse("a file")
    }
}

impl Hub {
    /// The hub that the environment names.
    pub fn from_env() -> Result<Self> {
        Self::new(Settings::from_env())
    }

    /// The hub that `settings` name.
    pub fn new(settings: Settings) -> Result<Self> {
        Ok(Self { settings })
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// [`HubError::NotBuiltIn`].
    pub fn resolve(&self, id: &ModelId, _: Watch) -> Result<Revision> {
        refuse(&id.to_string())
    }

    /// What the cache holds, whole or not.
    pub fn find(&self, id: &ModelId, _: Watch) -> Result<Found> {
        let cache = self.settings.cache.clone().ok_or(HubError::NoCache)?;
        match Cache::new(cache).snapshot(id) {
            Some(location) => Ok(Found { location, notice: None }),
            None => refuse(&id.to_string()),
        }
    }

    /// [`HubError::NotBuiltIn`].
    pub fn fetch(&self, from: &Revision, _: &dyn Fn(&str) -> bool, _: Watch) -> Result<PathBuf> {
        refuse(&from.repo)
    }

    /// A reader whose reads are [`HubError::NotBuiltIn`].
    #[must_use]
    pub fn remote(&self, revision: Revision) -> Remote {
        Remote { revision }
    }

    /// [`HubError::NotBuiltIn`].
    pub fn push(&self, push: &Push, _: &[Upload], _: Watch) -> Result<Pushed> {
        refuse(&push.repo)
    }
}

impl Remote {
    /// What it holds.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// [`HubError::NotBuiltIn`].
    pub fn read(&self, path: &str, _: Watch) -> Result<Vec<u8>> {
        refuse(path)
    }

    /// [`HubError::NotBuiltIn`].
    pub fn read_at(&self, path: &str, _: u64, _: &mut [u8], _: Watch) -> Result<()> {
        refuse(path)
    }

    /// [`HubError::NotBuiltIn`].
    pub fn hash(&self, path: &str) -> Result<FileHash> {
        refuse(path)
    }

    /// None.
    #[must_use]
    pub fn num_connections(&self) -> usize {
        0
    }

    /// [`HubError::NotBuiltIn`].
    pub fn outline(&self, _: &Path, _: bool, _: Watch) -> Result<Location> {
        refuse(&self.revision.repo)
    }
}

fn refuse<T>(what: &str) -> Result<T> {
    Err(HubError::NotBuiltIn { what: what.to_owned() }.into())
}

#[cfg(test)]
mod tests {
    use testkit::TinyModel;

    use super::*;

    #[test]
    fn the_cache_answers_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = testkit::hub::cache(dir.path(), "owner/name", "0123", &TinyModel::default());
        let settings = Settings { cache: Some(dir.path().to_owned()), ..Settings::from_env() };
        let hub = Hub::new(settings).unwrap();
        let id = |spec| ModelId::parse(spec).unwrap();
        let found = hub.find(&id("owner/name"), Watch::nobody()).unwrap();
        assert_eq!(found.location.path, snapshot);
        let error = hub.find(&id("owner/other"), Watch::nobody()).unwrap_err();
        let expected = "owner/other needs the hub, and this build has no hub support";
        assert_eq!(error.to_string(), expected);
        assert!(hub.resolve(&id("owner/name"), Watch::nobody()).is_err());
    }
}
