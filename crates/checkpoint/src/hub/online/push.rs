//! Sending files to the hub.
//!
//! The hub says which files it keeps in git and which, being large, it keeps by their SHA-256 outside
//! (Git LFS). Those it has already are not sent again, so that an upload that broke goes on where it
//! was. A commit names them all at the end: until then nothing is to be seen.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::json;
use ureq::http::Method;

use super::client::{Hub, Payload, Request};
use super::hash::Hash;
use super::listing::encode_part;
use super::reply::{About, malformed};
use crate::error::{Error, Result};
use crate::hub::id::ModelId;
use crate::hub::upload::{Push, Pushed, Upload};
use crate::hub::watch::{Progress, Watch};
use crate::hub_error::HubError;

/// How many files the hub takes in one question.
pub(super) const BATCH: usize = 256;

/// A file on its way.
pub(super) struct Sending<'a> {
    pub(super) upload: &'a Upload,
    pub(super) bytes: u64,
    /// Whether it is kept outside git.
    pub(super) large: bool,
    /// Git's hash of a small file, the SHA-256 of a large one.
    pub(super) oid: String,
    /// That of the file of this path which the repository holds.
    remote_oid: Option<String>,
}

#[derive(Deserialize)]
struct Modes {
    files: Vec<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    #[serde(rename = "uploadMode")]
    kept: String,
    #[serde(default)]
    should_ignore: bool,
    oid: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_oid: String,
}

impl Hub {
    /// Uploads `files` as one commit of the repository that `push` names.
    pub fn push(&self, push: &Push, files: &[Upload], watch: Watch) -> Result<Pushed> {
        let is_repo = ModelId::parse(&push.repo).is_ok_and(|id| id.repo == push.repo);
        if !is_repo {
            return Err(HubError::NotARepo { repo: push.repo.clone() }.into());
        }
        self.refuse_offline(&push.repo)?;
        if self.settings().token.is_none() {
            return Err(HubError::NoToken { repo: push.repo.clone() }.into());
        }
        self.create(push, watch)?;
        let mut pushed = Pushed {
            url: self.page(&push.repo),
            commit: None,
            sent: 0,
            kept: 0,
            ignored: Vec::new(),
        };
        let mut sending = self.modes(push, files, &mut pushed, watch)?;
        hash(&mut sending, watch)?;
        sending.retain(|file| {
            let same = file.remote_oid.as_ref().is_some_and(|oid| *oid == file.oid);
            pushed.kept += if same && file.large { file.bytes } else { 0 };
            !same
        });
        if sending.is_empty() {
            return Ok(pushed);
        }
        self.send_large(push, &sending, &mut pushed, watch)?;
        pushed.commit = Some(self.commit(push, &sending, watch)?);
        Ok(pushed)
    }

    /// Makes the repository, unless it is there.
    fn create(&self, push: &Push, watch: Watch) -> Result<()> {
        let (owner, name) = push.repo.split_once('/').unwrap_or(("", &push.repo));
        let mut body = json!({ "name": name, "organization": owner });
        if push.private {
            body["visibility"] = json!("private");
        }
        let url = format!("{}/api/repos/create", self.settings().endpoint);
        let reply = self.send(&Request::post_json(url, &body), watch)?;
        match reply.status() {
            200..=299 | 409 => Ok(()),
            // A token that may not make repositories may still write to one that is there.
            401..=403 => {
                let error = self.refusal(reply, about(push));
                let there = self.ask(&Request::get(self.api(&push.repo)), about(push), watch);
                match error {
                    Error::Hub(ref hub) if matches!(**hub, HubError::BadToken) => Err(error),
                    error => there.map(|_| ()).map_err(|_| error),
                }
            }
            _ => Err(self.refusal(reply, about(push))),
        }
    }

    /// Asks which files are kept in git, and which the repository has already.
    fn modes<'a>(
        &self,
        push: &Push,
        files: &'a [Upload],
        pushed: &mut Pushed,
        watch: Watch,
    ) -> Result<Vec<Sending<'a>>> {
        let url = format!("{}/preupload/{}", self.api(&push.repo), encode_part(&push.branch));
        let mut sending = Vec::new();
        for batch in files.chunks(BATCH) {
            let mut listed = Vec::new();
            for file in batch {
                let sample = BASE64.encode(sample(file)?);
                listed.push(json!({ "path": file.path, "sample": sample, "size": file.bytes()? }));
            }
            let request = Request::post_json(url.clone(), &json!({ "files": listed }));
            let (modes, _): (Modes, _) = self.ask_json(&request, about(push), watch)?;
            for upload in batch {
                let mode = modes.files.iter().find(|mode| mode.path == upload.path);
                let mode =
                    mode.ok_or_else(|| malformed(&url, format!("no word on {}", upload.path)))?;
                if mode.should_ignore {
                    pushed.ignored.push(upload.path.clone());
                    continue;
                }
                if upload.yields && mode.oid.is_some() {
                    continue;
                }
                let bytes = upload.bytes()?;
                // Nothing can be stored outside git that has no bytes.
                let large = mode.kept == "lfs" && bytes > 0;
                let remote_oid = mode.oid.clone();
                sending.push(Sending { upload, bytes, large, oid: String::new(), remote_oid });
            }
        }
        Ok(sending)
    }

    fn commit(&self, push: &Push, sending: &[Sending], watch: Watch) -> Result<String> {
        let mut lines = vec![json!({
            "key": "header",
            "value": { "summary": push.message, "description": "" },
        })];
        for file in sending {
            let path = &file.upload.path;
            lines.push(if file.large {
                let Sending { oid, bytes, .. } = file;
                json!({
                    "key": "lfsFile",
                    "value": { "path": path, "algo": "sha256", "oid": oid, "size": bytes },
                })
            } else {
                let content = BASE64.encode(content(file.upload, u64::MAX)?);
                json!({
                    "key": "file",
                    "value": { "content": content, "path": path, "encoding": "base64" },
                })
            });
        }
        let url = format!("{}/commit/{}", self.api(&push.repo), encode_part(&push.branch));
        let request = Request {
            headers: vec![("content-type", "application/x-ndjson".to_owned())],
            payload: Payload::Bytes(
                lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect(),
            ),
            // If the answer is lost, the commit may have been made.
            repeatable: false,
            method: Method::POST,
            url,
        };
        Ok(self.ask_json::<Committed>(&request, about(push), watch)?.0.commit_oid)
    }
}

pub(super) fn about(push: &Push) -> About<'_> {
    About { repo: &push.repo, revision: &push.branch, file: None }
}

/// Hashes what is sent.
fn hash(sending: &mut [Sending], watch: Watch) -> Result<()> {
    let bytes = sending.iter().map(|file| file.bytes).sum();
    (watch.progress)(Progress::Begin { doing: "hashing", bytes });
    for file in sending {
        let hash = if file.large { Hash::sha256() } else { Hash::git(file.bytes) };
        let content = &file.upload.content;
        let path = content.path().unwrap_or(Path::new(&file.upload.path));
        let told = |read| (watch.progress)(Progress::Done(read));
        file.oid = hash.read(path, content.open(0)?, watch, &told)?;
    }
    Ok(())
}

/// The first bytes of a file, by which the hub tells text from binary.
fn sample(file: &Upload) -> Result<Vec<u8>> {
    const SAMPLE_BYTES: u64 = 512;
    content(file, SAMPLE_BYTES)
}

/// What a file holds, up to so many bytes.
fn content(file: &Upload, bytes: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = file.content.open(0)?.take(bytes).read_to_end(&mut content);
    let path = file.content.path().unwrap_or(Path::new(&file.path));
    read.map_err(|e| Error::io(path, "read", e))?;
    Ok(content)
}
