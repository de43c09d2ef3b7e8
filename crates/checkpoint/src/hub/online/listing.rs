//! Asking the hub what a repository holds.

use std::collections::BTreeSet;
use std::fs;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::address::without_secrets;
use super::client::{Hub, Request};
use super::needs::{self, Needs};
use super::reply::{About, Reply, malformed};
use crate::error::{Error, Result};
use crate::hub::id::{self, ModelId};
use crate::hub::revision::{Found, RemoteFile, Revision};
use crate::hub::watch::Watch;
use crate::hub_error::HubError;

/// What stands in a path as it is; `/` between its parts, too.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// What stands in one part of a path as it is.
const PART: &AsciiSet = &PATH.add(b'/');

/// The wire's form of a revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
}

/// The wire's form of a file or folder.
#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// Asks what `id` holds now.
    pub fn resolve(&self, id: &ModelId, watch: Watch) -> Result<Revision> {
        self.refuse_offline(&id.to_string())?;
        let ModelId { repo, revision } = id;
        let about = About { repo, revision, file: None };
        let commit = if id.is_pinned() {
            revision.to_ascii_lowercase()
        } else {
            let url = format!("{}/revision/{}", self.api(repo), encode_part(revision));
            self.ask_json::<Info>(&Request::get(url), about, watch)?.0.sha
        };
        let first =
            format!("{}/tree/{}?recursive=true&expand=false", self.api(repo), encode_part(&commit));
        if !id::is_commit(&commit) {
            return Err(malformed(&first, format!("a commit called {commit:?}")));
        }
        let mut files = Vec::new();
        let mut next = Some(first);
        while let Some(url) = next {
            let (entries, reply): (Vec<Entry>, _) =
                self.ask_json(&Request::get(url), about, watch)?;
            next = next_page(&reply).map(|next| self.own(&next));
            if let Some(next) = next.as_ref().filter(|next| !self.is_hub(next)) {
                // A mirror must be asked for all of it: half a listing looks like a whole one.
                let next = without_secrets(next);
                return Err(malformed(&reply.url, format!("a next page elsewhere, {next}")));
            }
            for entry in entries {
                if entry.r#type == "file" {
                    files.push(remote_file(&reply, entry)?);
                }
            }
        }
        Ok(Revision { repo: repo.clone(), revision: revision.clone(), commit, files })
    }

    /// Brings the files of `id` that a build needs into the cache, as far as they are not there.
    ///
    /// A whole copy of a commit is used as it is. For a branch or tag the hub is asked whether it
    /// moved; where the hub cannot be asked, a whole copy in the cache answers, with a notice. With
    /// `HF_HUB_OFFLINE` the cache is all there is.
    pub fn find(&self, id: &ModelId, watch: Watch) -> Result<Found> {
        let cached = self.cache()?.snapshot(id);
        if self.settings().offline {
            let location = cached.ok_or_else(|| HubError::Offline { what: id.to_string() })?;
            return Ok(Found { location, notice: None });
        }
        let cached = cached.filter(|cached| is_whole(id, &cached.path));
        let revision = match cached {
            Some(location) if id.is_pinned() => return Ok(Found { location, notice: None }),
            Some(location) => match self.impatient().resolve(id, watch) {
                Ok(revision) => revision,
                Err(Error::Hub(error)) if error.cache_may_answer() => {
                    return Ok(Found { location, notice: Some(Error::Hub(error)) });
                }
                Err(error) => return Err(error),
            },
            None => self.resolve(id, watch)?,
        };
        let needs = self.needs(&revision, watch)?;
        let dir = self.fetch(&revision, &|path| needs.contain(path), watch)?;
        let location = crate::hub::Location { path: dir, hub: Some(revision.hub_id()) };
        Ok(Found { location, notice: None })
    }

    /// Says which files a build needs; config and index are fetched for it.
    fn needs(&self, revision: &Revision, watch: Watch) -> Result<Needs> {
        let paths = revision.files.iter().map(|file| file.path.clone()).collect();
        needs::needs(&revision.repo, &paths, &|name| {
            let dir = self.fetch_files(revision, &|path| path == name, watch)?;
            let path = dir.join(name);
            fs::read(&path).map_err(|e| Error::io(&path, "read", e))
        })
    }

    pub(super) fn api(&self, repo: &str) -> String {
        format!("{}/api/models/{repo}", self.settings().endpoint)
    }

    /// The address of a file.
    pub(super) fn resolve_url(&self, revision: &Revision, file: &RemoteFile) -> String {
        let (endpoint, path) = (&self.settings().endpoint, utf8_percent_encode(&file.path, PATH));
        format!("{endpoint}/{}/resolve/{}/{path}", revision.repo, revision.commit)
    }
}

pub(super) fn encode_part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

/// Whether the snapshot at `dir` has all that a build needs.
fn is_whole(id: &ModelId, dir: &std::path::Path) -> bool {
    let mut paths = BTreeSet::new();
    let Ok(entries) = dir.read_dir() else { return false };
    for entry in entries.flatten() {
        // A link to a blob that is gone is no file.
        if entry.path().exists() {
            paths.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map_err(|e| Error::io(&path, "read", e))
    };
    paths.contains("config.json") && needs::needs(&id.repo, &paths, &read).is_ok()
}

fn remote_file(reply: &Reply, entry: Entry) -> Result<RemoteFile> {
    let Entry { path, size, oid, lfs, .. } = entry;
    let (bytes, sha256) = match lfs {
        Some(lfs) => (lfs.size, Some(lfs.oid)),
        None => (size, None),
    };
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    let named = sha256.as_ref().map_or_else(|| hex(&oid, 40), |sha256| hex(sha256, 64));
    if !named || !needs::stays_inside(&path) {
        return Err(malformed(&reply.url, format!("a file called {path:?} with the hash {oid:?}")));
    }
    Ok(RemoteFile { path, bytes, oid, sha256 })
}

/// The address of the next page, of a header such as `<https://…>; rel="next"`.
fn next_page(reply: &Reply) -> Option<String> {
    reply.header("link")?.split(',').find_map(|link| {
        let (url, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
        relation.contains("rel=\"next\"").then(|| url.to_owned())
    })
}
