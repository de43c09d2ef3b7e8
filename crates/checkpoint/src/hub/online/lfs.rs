//! Large files, on their way to where the hub keeps them outside git (Git LFS).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::{Hub, Payload, Request};
use super::push::{BATCH, Sending, about};
use super::reply::{About, malformed};
use crate::error::Result;
use crate::hub::upload::{Content, Push, Pushed};
use crate::hub::watch::{Progress, Watch};
use crate::hub_error::HubError;

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

impl Hub {
    /// Sends the large files that the hub lacks.
    pub(super) fn send_large(
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
            let (answer, _): (Batch, _) = self.ask_json(&request, about(push), watch)?;
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
                content @ (Content::File(_) | Content::Headed { .. }) => {
                    Payload::Part { content: content.clone(), offset, bytes }
                }
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

    /// An address that the hub gave, at the endpoint that stands in for it.
    pub(super) fn own(&self, href: &str) -> String {
        const HUB: &str = "https://huggingface.co";
        match href.strip_prefix(HUB).filter(|rest| rest.starts_with('/')) {
            Some(rest) => format!("{}{rest}", self.settings().endpoint),
            None => href.to_owned(),
        }
    }
}

fn lfs_headers() -> Vec<(&'static str, String)> {
    let json = "application/vnd.git-lfs+json".to_owned();
    vec![("accept", json.clone()), ("content-type", json)]
}

fn is_multipart(upload: &Action) -> bool {
    upload.header.as_ref().is_some_and(|header| header.contains_key("chunk_size"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
