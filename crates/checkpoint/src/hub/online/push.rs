//! Sending files to the hub.
//!
//! The hub says which files it keeps in git and which, being large, it keeps by their SHA-256 outside
//! (Git LFS). Those it has already are not sent again, so that an upload that broke goes on where it
//! was. A commit names them all at the end: until then nothing is to be seen.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{About, Hub, Payload, Request, malformed};
use super::hash::Hash;
use super::listing::encode_part;
use crate::error::{Error, Result};
use crate::hub::upload::{Content, Push, Pushed, Upload};
use crate::hub::watch::{Progress, Watch};
use crate::hub_error::HubError;

/// How many files the hub takes in one question.
const BATCH: usize = 256;

/// A file on its way.
struct Sending<'a> {
    upload: &'a Upload,
    bytes: u64,
    /// Whether it is kept outside git.
    large: bool,
    /// Git's hash of a small file, the SHA-256 of a large one.
    oid: String,
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
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_oid: String,
}

impl Hub {
    /// Uploads `files` as one commit of the repository that `push` names.
    pub fn push(&self, push: &Push, files: &[Upload], watch: Watch) -> Result<Pushed> {
        self.refuse_offline(&push.repo)?;
        if self.settings().token.is_none() {
            return Err(HubError::NoToken { repo: push.repo.clone() }.into());
        }
        self.create(push, watch)?;
        let mut pushed = Pushed {
            url: format!("{}/{}", self.settings().endpoint, push.repo),
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
            let modes: Modes = self.ask(&request, about(push), watch)?.json()?;
            for upload in batch {
                let mode = modes.files.iter().find(|mode| mode.path == upload.path);
                let mode =
                    mode.ok_or_else(|| malformed(&url, format!("no word on {}", upload.path)))?;
                if mode.should_ignore {
                    pushed.ignored.push(upload.path.clone());
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

    /// Sends the large files that the hub lacks.
    fn send_large(
        &self,
        push: &Push,
        sending: &[Sending],
        pushed: &mut Pushed,
        watch: Watch,
    ) -> Result<()> {
        let large: Vec<&Sending> = sending.iter().filter(|file| file.large).collect();
        let mut tasks = Vec::new();
        for batch in large.chunks(BATCH) {
            let objects: Vec<Value> =
                batch.iter().map(|file| json!({ "oid": file.oid, "size": file.bytes })).collect();
            let body = json!({
                "operation": "upload",
                "transfers": ["basic", "multipart"],
                "objects": objects,
                "hash_algo": "sha256",
                "ref": { "name": push.branch },
            });
            let url =
                format!("{}/{}.git/info/lfs/objects/batch", self.settings().endpoint, push.repo);
            let mut request = Request::post_json(url.clone(), &body);
            request.headers = lfs_headers();
            let answer: Batch = self.ask(&request, about(push), watch)?.json()?;
            for object in answer.objects {
                // Two paths may hold the same bytes, which are sent once.
                let file = batch.iter().find(|file| file.oid == object.oid);
                let file =
                    file.ok_or_else(|| malformed(&url, format!("the object {}", object.oid)))?;
                if let Some(Refusal { message }) = object.error {
                    return Err(
                        HubError::Refused { file: file.upload.path.clone(), message }.into()
                    );
                }
                match object.actions.and_then(|actions| Some((actions.upload?, actions.verify))) {
                    Some((upload, verify)) => {
                        pushed.sent += file.bytes;
                        tasks.push((*file, upload, verify));
                    }
                    None => pushed.kept += file.bytes,
                }
            }
        }
        (watch.progress)(Progress::Begin { doing: "uploading", bytes: pushed.sent });
        let parts = tasks
            .iter()
            .enumerate()
            .map(|(task, (file, upload, _))| {
                Ok(self.parts(file, upload)?.into_iter().map(move |part| (task, part)))
            })
            .collect::<Result<Vec<_>>>()?;
        let etags = self.send_parts(parts.into_iter().flatten().collect(), watch)?;
        for (task, (file, upload, verify)) in tasks.iter().enumerate() {
            if is_multipart(upload) {
                let parts: Vec<Value> = etags
                    .range((task, 0)..(task + 1, 0))
                    .map(|((_, number), etag)| json!({ "partNumber": number, "etag": etag }))
                    .collect();
                let body = json!({ "oid": file.oid, "parts": parts });
                let mut request = Request::post_json(self.own(&upload.href), &body);
                request.headers = lfs_headers();
                self.ask(&request, about(push), watch)?;
            }
            if let Some(verify) = verify {
                let body = json!({ "oid": file.oid, "size": file.bytes });
                self.ask(&Request::post_json(self.own(&verify.href), &body), about(push), watch)?;
            }
        }
        Ok(())
    }

    /// The requests that send one file: one, or one a part, by number from 1.
    fn parts(&self, file: &Sending, upload: &Action) -> Result<Vec<(u64, Request)>> {
        let put = |href: &str, offset: u64, bytes: u64| Request {
            method: Method::PUT,
            url: self.own(href),
            headers: Vec::new(),
            payload: match &file.upload.content {
                Content::File(path) => Payload::Part { path: path.clone(), offset, bytes },
                Content::Bytes(all) => {
                    Payload::Bytes(all[offset as usize..(offset + bytes) as usize].to_vec())
                }
            },
            repeatable: true,
        };
        let header = upload.header.iter().flatten();
        let number = |value: &Value| match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        let Some(chunk) = upload.header.as_ref().and_then(|header| header.get("chunk_size")) else {
            return Ok(vec![(1, put(&upload.href, 0, file.bytes))]);
        };
        let bad = || malformed(&upload.href, "parts that do not make up the file".to_owned());
        let chunk: u64 = number(chunk).filter(|&chunk| chunk > 0).ok_or_else(bad)?;
        let hrefs: BTreeMap<u64, &str> =
            header.filter_map(|(key, href)| Some((key.parse().ok()?, href.as_str()?))).collect();
        if !hrefs.keys().copied().eq(1..=file.bytes.div_ceil(chunk)) {
            return Err(bad());
        }
        Ok(hrefs
            .into_iter()
            .map(|(number, href)| {
                let offset = (number - 1) * chunk;
                (number, put(href, offset, chunk.min(file.bytes - offset)))
            })
            .collect())
    }

    /// Sends all parts, several at once; returns the `ETag` that each was stored under.
    fn send_parts(
        &self,
        parts: VecDeque<(usize, (u64, Request))>,
        watch: Watch,
    ) -> Result<BTreeMap<(usize, u64), String>> {
        let parts = Mutex::new(parts);
        let failed = Mutex::new(None);
        let etags = Mutex::new(BTreeMap::new());
        let stopped = || lock(&failed).is_some() || (watch.is_cancelled)();
        let watch = Watch { progress: watch.progress, is_cancelled: &stopped };
        let work = || {
            while lock(&failed).is_none() {
                let Some((task, (number, request))) = lock(&parts).pop_front() else { return };
                match self.send_part(&request, watch) {
                    Ok(etag) => drop(lock(&etags).insert((task, number), etag)),
                    Err(error) => drop(lock(&failed).get_or_insert(error)),
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.settings().connections.max(1) {
                scope.spawn(work);
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(etags.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn send_part(&self, request: &Request, watch: Watch) -> Result<String> {
        let nobody = About { repo: "", revision: "", file: None };
        let reply = self.ask(request, nobody, watch)?;
        if let Payload::Bytes(bytes) = &request.payload {
            (watch.progress)(Progress::Done(bytes.len() as u64));
        }
        Ok(reply.header("etag").unwrap_or_default().to_owned())
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
                let content = BASE64.encode(content(file.upload)?);
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
        Ok(self.ask(&request, about(push), watch)?.json::<Committed>()?.commit_oid)
    }

    /// An address that the hub gave, at the endpoint that stands in for it.
    fn own(&self, href: &str) -> String {
        const HUB: &str = "https://huggingface.co";
        match href.strip_prefix(HUB).filter(|rest| rest.starts_with('/')) {
            Some(rest) => format!("{}{rest}", self.settings().endpoint),
            None => href.to_owned(),
        }
    }
}

fn about(push: &Push) -> About<'_> {
    About { repo: &push.repo, revision: &push.branch, file: None }
}

fn lfs_headers() -> Vec<(&'static str, String)> {
    let json = "application/vnd.git-lfs+json".to_owned();
    vec![("accept", json.clone()), ("content-type", json)]
}

fn is_multipart(upload: &Action) -> bool {
    upload.header.as_ref().is_some_and(|header| header.contains_key("chunk_size"))
}

/// Hashes what is sent.
fn hash(sending: &mut [Sending], watch: Watch) -> Result<()> {
    let bytes = sending.iter().map(|file| file.bytes).sum();
    (watch.progress)(Progress::Begin { doing: "hashing", bytes });
    for file in sending {
        let mut hash = if file.large { Hash::sha256() } else { Hash::git(file.bytes) };
        file.oid = match &file.upload.content {
            Content::Bytes(bytes) => {
                hash.update(bytes);
                (watch.progress)(Progress::Done(file.bytes));
                hash.finish()
            }
            Content::File(path) => {
                let opened = File::open(path).map_err(|e| Error::io(path, "opened", e))?;
                hash.read(path, opened, watch, &|read| (watch.progress)(Progress::Done(read)))?
            }
        };
    }
    Ok(())
}

/// The first bytes of a file, by which the hub tells text from binary.
fn sample(file: &Upload) -> Result<Vec<u8>> {
    const SAMPLE_BYTES: usize = 512;
    match &file.content {
        Content::Bytes(bytes) => Ok(bytes[..bytes.len().min(SAMPLE_BYTES)].to_vec()),
        Content::File(path) => {
            let mut sample = Vec::new();
            let read = File::open(path)
                .and_then(|file| file.take(SAMPLE_BYTES as u64).read_to_end(&mut sample));
            read.map_err(|e| Error::io(path, "read", e))?;
            Ok(sample)
        }
    }
}

fn content(file: &Upload) -> Result<Vec<u8>> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|e| Error::io(path, "read", e));
    match &file.content {
        Content::Bytes(bytes) => Ok(bytes.clone()),
        Content::File(path) => read(path),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
