//! A hub on this machine: what `huggingface.co` answers, and a second host for large files, as the
//! hub's clients ask for it (read in `huggingface_hub` 2.4 and `hf-hub` 0.5) — with faults on command.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub use crate::http::Request;
use crate::http::{Answer, decode};

/// Something that goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is closed after so many bytes of the body.
    Drop(usize),
    /// The whole file comes, whatever range was asked for.
    IgnoreRange,
    /// Another range comes than was asked for, and says so.
    OtherRange,
    /// The `ETag` is another one each time.
    OtherTag,
    /// The bytes are wrong, and as many as they should be.
    WrongBytes,
    /// The end is missing, and `Content-Length` says so.
    Shorter(usize),
    /// `Content-Length` counts so many bytes that never come.
    Longer(usize),
    /// A pause after each 4 KiB.
    Slow(Duration),
    /// Nothing comes after so many bytes of the body, and the connection stays open.
    Stall(usize),
    /// This status, with these headers.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// Another file's hash, in the hub's own answer.
    OtherFile,
    /// The next page of a listing is said to be at another address than the hub's.
    NextPageAt(&'static str),
}

/// Which of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The hub itself, which may see tokens.
    Hub,
    /// Where large files lie.
    Storage,
}

/// The hub; it ends when it is dropped.
#[derive(Debug)]
pub struct HubServer {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    hub: String,
    storage: String,
    repos: Mutex<BTreeMap<String, Repo>>,
    /// Large files by their SHA-256.
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Parts that were uploaded, by SHA-256 and number.
    parts: Mutex<BTreeMap<(String, usize), Vec<u8>>>,
    faults: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<(Host, Request)>>,
    /// Parts are this long where the hub asks for several.
    part_bytes: Mutex<Option<usize>>,
    ended: AtomicBool,
}

#[derive(Debug)]
struct Rule {
    host: Host,
    part_of_target: String,
    fault: Fault,
    spared: usize,
    times: usize,
}

/// A repository: commits by hash, and branches by name.
#[derive(Debug, Default)]
struct Repo {
    commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    branches: BTreeMap<String, String>,
    /// The token that may read it; `Some("")` is nobody's.
    token: Option<String>,
    /// Whether consent is asked for, rather than silence kept.
    gated: bool,
}

/// How many entries a page of a listing has.
const PAGE: usize = 4;

/// Files of this length, and weights, are large.
const LARGE: usize = 100_000;

impl HubServer {
    /// Starts one on two free ports.
    #[must_use]
    pub fn start() -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let (hub, storage) = (bind(), bind());
        let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            hub: format!("http://127.0.0.1:{}", port(&hub)),
            storage: format!("http://localhost:{}", port(&storage)),
            repos: Mutex::default(),
            objects: Mutex::default(),
            parts: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            part_bytes: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        for (host, listener) in [(Host::Hub, hub), (Host::Storage, storage)] {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if state.ended.load(Ordering::Relaxed) {
                        return;
                    }
                    let state = state.clone();
                    thread::spawn(move || state.serve(host, stream));
                }
            });
        }
        Self { state }
    }

    /// Its address, for `HF_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.state.hub
    }

    /// Adds a commit with `files` to `repo`, makes it `main`, and returns it.
    #[must_use]
    pub fn commit(&self, repo: &str, files: &[(&str, &[u8])]) -> String {
        let files = files.iter().map(|&(path, bytes)| (path.to_owned(), bytes.to_vec())).collect();
        self.state.commit(repo, "main", files)
    }

    /// Adds all files of the folder `dir` as a commit.
    #[must_use]
    pub fn commit_folder(&self, repo: &str, dir: &std::path::Path) -> String {
        let mut files = BTreeMap::new();
        for entry in dir.read_dir().expect("the folder is there").flatten() {
            let name = entry.file_name().into_string().expect("a plain name");
            files.insert(name, std::fs::read(entry.path()).expect("a file"));
        }
        self.state.commit(repo, "main", files)
    }

    /// Makes another name for a commit.
    pub fn branch(&self, repo: &str, branch: &str, commit: &str) {
        let mut repos = lock(&self.state.repos);
        let repo = repos.get_mut(repo).expect("the repository is there");
        repo.branches.insert(branch.to_owned(), commit.to_owned());
    }

    /// Shows `repo` only to who sends `token`; others hear that terms are to be accepted, or nothing.
    pub fn hide(&self, repo: &str, token: &str, gated: bool) {
        let mut repos = lock(&self.state.repos);
        let repo = repos.get_mut(repo).expect("the repository is there");
        (repo.token, repo.gated) = (Some(token.to_owned()), gated);
    }

    /// The next `times` requests to `host` whose path contains `part_of_target` meet with `fault`.
    pub fn fail(&self, host: Host, part_of_target: &str, times: usize, fault: Fault) {
        self.fail_later(host, part_of_target, 0, times, fault);
    }

    /// The same, after `spared` such requests that are answered as they should be.
    pub fn fail_later(
        &self,
        host: Host,
        part_of_target: &str,
        spared: usize,
        times: usize,
        fault: Fault,
    ) {
        let part_of_target = part_of_target.to_owned();
        lock(&self.state.faults).push(Rule { host, part_of_target, fault, spared, times });
    }

    /// From here on all is well.
    pub fn clear_faults(&self) {
        lock(&self.state.faults).clear();
    }

    /// Asks for large uploads in parts of this many bytes.
    pub fn split_uploads(&self, part_bytes: usize) {
        *lock(&self.state.part_bytes) = Some(part_bytes);
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<(Host, Request)> {
        lock(&self.state.requests).clone()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        lock(&self.state.requests).clear();
    }

    /// The requests so far whose path contains `part_of_target`.
    #[must_use]
    pub fn requests_for(&self, part_of_target: &str) -> Vec<Request> {
        let requests = self.requests().into_iter().map(|(_, request)| request);
        requests.filter(|request| request.target.contains(part_of_target)).collect()
    }

    /// The bytes of bodies sent so far, by the host of large files.
    #[must_use]
    pub fn bytes_from_storage(&self) -> usize {
        let requests = self.requests();
        requests.iter().filter(|(host, _)| *host == Host::Storage).map(|(_, r)| r.sent).sum()
    }

    /// Fails if a token went anywhere but to the hub.
    #[track_caller]
    pub fn assert_token_stayed(&self) {
        for (host, request) in self.requests() {
            assert!(host == Host::Hub || request.header("authorization").is_none(), "{request:?}");
        }
    }

    /// The files of `repo` on `branch`.
    #[must_use]
    pub fn files(&self, repo: &str, branch: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let repos = lock(&self.state.repos);
        let repo = repos.get(repo)?;
        repo.commits.get(repo.branches.get(branch)?).cloned()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        for address in [&self.state.hub, &self.state.storage] {
            let _ = TcpStream::connect(address.trim_start_matches("http://"));
        }
    }
}

impl State {
    fn serve(&self, host: Host, stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
        let _ = stream.set_nodelay(true);
        let Ok(mut out) = stream.try_clone() else { return };
        let mut input = BufReader::new(stream);
        while let Some(mut request) = Request::read(&mut input) {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let answer = self.answer(host, &request);
            // Noted before it is sent, so that whoever has the answer finds the request noted.
            let head_only = request.method == "HEAD";
            (request.sent, request.status) = (answer.to_send(head_only), answer.status);
            let number = {
                let mut requests = lock(&self.requests);
                requests.push((host, request));
                requests.len() - 1
            };
            let (sent, stays) = answer.send(&mut out, head_only);
            if let Some((_, request)) = lock(&self.requests).get_mut(number) {
                request.sent = request.sent.min(sent);
            }
            if !stays {
                let _ = out.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }

    fn answer(&self, host: Host, request: &Request) -> Answer {
        let fault = self.next_fault(host, request);
        if let Some(Fault::Status(status, headers)) = &fault {
            let answer = Answer::new(*status);
            return headers.iter().fold(answer, |answer, (name, value)| answer.header(name, value));
        }
        let ignores_range = matches!(fault, Some(Fault::IgnoreRange));
        let mut answer = match host {
            Host::Hub => self.hub(request, ignores_range),
            Host::Storage => self.storage(request, ignores_range),
        };
        match fault {
            Some(Fault::Drop(after)) => answer.drop_after = Some(after),
            Some(Fault::Stall(after)) => answer.stall_after = Some(after),
            Some(Fault::Slow(pause)) => answer.pause = Some(pause),
            Some(Fault::WrongBytes) => answer.body.iter_mut().for_each(|byte| *byte ^= 1),
            Some(Fault::Shorter(by)) => answer.body.truncate(answer.body.len().saturating_sub(by)),
            Some(Fault::Longer(by)) => answer.content_length = Some(answer.body.len() + by),
            Some(Fault::OtherTag) => {
                let number = lock(&self.requests).len();
                replace(&mut answer, "ETag", &|_| format!("\"tag-{number}\""));
            }
            Some(Fault::OtherFile) => {
                replace(&mut answer, "X-Linked-Etag", &|_| format!("\"{}\"", "0".repeat(64)));
            }
            Some(Fault::NextPageAt(address)) => {
                replace(&mut answer, "Link", &|link| link.replace(&self.hub, address));
            }
            Some(Fault::OtherRange) => replace(&mut answer, "Content-Range", &|range| {
                let (start, rest) = range["bytes ".len()..].split_once('-').expect("a range");
                format!("bytes {}-{rest}", start.parse::<u64>().expect("a number") + 1)
            }),
            _ => {}
        }
        answer
    }

    fn next_fault(&self, host: Host, request: &Request) -> Option<Fault> {
        let mut rules = lock(&self.faults);
        let rule = rules.iter_mut().find(|rule| {
            rule.times > 0 && rule.host == host && request.target.contains(&rule.part_of_target)
        })?;
        if rule.spared > 0 {
            rule.spared -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    /// What the hub itself answers.
    fn hub(&self, request: &Request, ignores_range: bool) -> Answer {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match (&*request.method, &parts[..]) {
            ("POST", ["api", "repos", "create"]) => self.create(request),
            ("POST", ["api", "models", owner, name, "preupload", branch]) => {
                self.with_repo(request, &format!("{owner}/{name}"), |repo| {
                    preupload(repo, branch, request)
                })
            }
            ("POST", ["api", "models", owner, name, "commit", branch]) => {
                self.receive_commit(&format!("{owner}/{name}"), branch, request)
            }
            ("POST", [_, _, "info", "lfs", "objects", "batch"]) => self.batch(request),
            ("POST", ["lfs", "complete"]) => self.complete(request),
            ("POST", ["lfs", "verify"]) => self.verify(request),
            ("GET", ["api", "models", owner, name]) => {
                let id = format!("{owner}/{name}");
                self.with_repo(request, &id, |repo| info(&id, repo, "main"))
            }
            ("GET", ["api", "models", owner, name, "revision", revision]) => {
                let id = format!("{owner}/{name}");
                self.with_repo(request, &id, |repo| info(&id, repo, revision))
            }
            ("GET", ["api", "models", owner, name, "tree", revision]) => {
                self.with_repo(request, &format!("{owner}/{name}"), |repo| {
                    self.tree(repo, revision, path, query)
                })
            }
            ("GET" | "HEAD", [owner, name, "resolve", revision, file @ ..]) => {
                self.with_repo(request, &format!("{owner}/{name}"), |repo| {
                    self.resolve(repo, revision, &file.join("/"), request, ignores_range)
                })
            }
            _ => Answer::new(404),
        }
    }

    fn with_repo(&self, request: &Request, id: &str, with: impl FnOnce(&Repo) -> Answer) -> Answer {
        let repos = lock(&self.repos);
        // To who may not see it, a repository is not there.
        let absent = || Answer::new(401).header("X-Error-Code", "RepoNotFound");
        let Some(repo) = repos.get(id) else { return absent() };
        let bearer =
            request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        match &repo.token {
            Some(token) if bearer != Some(token) && repo.gated => {
                // The listing is open; files are not.
                if request.target.contains("/resolve/") {
                    let status = if bearer.is_some() { 403 } else { 401 };
                    return Answer::new(status).header("X-Error-Code", "GatedRepo");
                }
                with(repo)
            }
            Some(token) if bearer != Some(token) => absent(),
            _ => with(repo),
        }
    }

    fn tree(&self, repo: &Repo, revision: &str, path: &str, query: &str) -> Answer {
        let Some((_, files)) = repo.at(revision) else { return no_revision() };
        let start = query.split('&').find_map(|pair| pair.strip_prefix("cursor="));
        let start: usize = start.and_then(|text| text.parse().ok()).unwrap_or(0);
        let entries: Vec<Value> = files.iter().map(|(path, bytes)| entry(path, bytes)).collect();
        let page = &entries[start..entries.len().min(start + PAGE)];
        let answer = Answer::json(&json!(page));
        if start + PAGE < entries.len() {
            let next = format!("{}{path}?recursive=true&cursor={}", self.hub, start + PAGE);
            return answer.header("Link", format!("<{next}>; rel=\"next\""));
        }
        answer
    }

    fn resolve(
        &self,
        repo: &Repo,
        revision: &str,
        file: &str,
        request: &Request,
        ignores_range: bool,
    ) -> Answer {
        let Some((commit, files)) = repo.at(revision) else { return no_revision() };
        let Some(bytes) = files.get(file) else {
            let answer = Answer::new(404).header("X-Error-Code", "EntryNotFound");
            return answer.header("X-Repo-Commit", commit);
        };
        if !is_large(file, bytes) {
            let etag = format!("\"{}\"", git_hash(bytes));
            return part(bytes, &etag, request, ignores_range).header("X-Repo-Commit", commit);
        }
        let sha256 = sha256(bytes);
        lock(&self.objects).insert(sha256.clone(), bytes.clone());
        Answer::new(302)
            .header("Location", format!("{}/{sha256}?Signature=secret", self.storage))
            .header("X-Repo-Commit", commit)
            .header("X-Linked-Etag", format!("\"{sha256}\""))
            .header("X-Linked-Size", bytes.len())
            .header("ETag", format!("\"{}\"", git_hash(bytes)))
    }

    /// What the host of large files answers.
    fn storage(&self, request: &Request, ignores_range: bool) -> Answer {
        let path = request.target.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (&*request.method, &parts[..]) {
            ("GET" | "HEAD", [oid]) => match lock(&self.objects).get(*oid) {
                Some(bytes) => {
                    part(bytes, &format!("\"s3-{}\"", &oid[..8]), request, ignores_range)
                }
                None => Answer::new(403),
            },
            ("PUT", ["upload", oid]) => {
                if sha256(&request.body) != *oid || request.header("content-length").is_none() {
                    return Answer::new(400);
                }
                lock(&self.objects).insert((*oid).to_owned(), request.body.clone());
                Answer::new(200)
            }
            ("PUT", ["upload", oid, number]) => {
                let number = number.parse().expect("a number");
                lock(&self.parts).insert(((*oid).to_owned(), number), request.body.clone());
                Answer::new(200).header("ETag", format!("\"part-{number}\""))
            }
            _ => Answer::new(404),
        }
    }

    fn create(&self, request: &Request) -> Answer {
        let asked = json_body(request);
        let word = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let id = format!("{}/{}", word("organization"), word("name"));
        if request.header("authorization").is_none() {
            return Answer::new(401);
        }
        let mut repos = lock(&self.repos);
        if repos.contains_key(&id) {
            return Answer::new(409);
        }
        repos.insert(id.clone(), Repo::default());
        Answer::json(&json!({ "url": format!("{}/{id}", self.hub), "private": word("visibility") }))
    }

    fn batch(&self, request: &Request) -> Answer {
        let asked = json_body(request);
        let objects = lock(&self.objects);
        let part_bytes = *lock(&self.part_bytes);
        let verify = json!({ "href": format!("{}/lfs/verify", self.hub) });
        let answers = asked["objects"].as_array().into_iter().flatten().map(|object| {
            let (oid, size) = (&object["oid"], object["size"].as_u64().unwrap_or(0) as usize);
            let oid = oid.as_str().expect("an oid");
            if objects.contains_key(oid) {
                return json!({ "oid": oid, "size": size });
            }
            let base = format!("{}/upload/{oid}", self.storage);
            let upload = match part_bytes {
                Some(bytes) if bytes < size => {
                    let mut header = json!({ "chunk_size": bytes.to_string() });
                    for number in 1..=size.div_ceil(bytes) {
                        header[format!("{number:05}")] = json!(format!("{base}/{number}"));
                    }
                    json!({ "href": format!("{}/lfs/complete", self.hub), "header": header })
                }
                _ => json!({ "href": base }),
            };
            json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
        });
        Answer::json(&json!({ "transfer": "multipart", "objects": answers.collect::<Vec<_>>() }))
    }

    fn complete(&self, request: &Request) -> Answer {
        let asked = json_body(request);
        let oid = asked["oid"].as_str().unwrap_or_default().to_owned();
        let mut parts = lock(&self.parts);
        let named = asked["parts"].as_array().into_iter().flatten();
        let all: Option<Vec<Vec<u8>>> = named
            .map(|part| {
                let number = part["partNumber"].as_u64()? as usize;
                let right = part["etag"] == json!(format!("\"part-{number}\""));
                parts.remove(&(oid.clone(), number)).filter(|_| right)
            })
            .collect();
        let bytes = all.unwrap_or_default().concat();
        if sha256(&bytes) != oid {
            return Answer::new(400);
        }
        lock(&self.objects).insert(oid, bytes);
        Answer::json(&json!({}))
    }

    fn verify(&self, request: &Request) -> Answer {
        let asked = json_body(request);
        let objects = lock(&self.objects);
        let found = objects.get(asked["oid"].as_str().unwrap_or_default());
        let right = found.is_some_and(|bytes| json!(bytes.len()) == asked["size"]);
        if right && request.header("authorization").is_some() {
            Answer::json(&json!({}))
        } else {
            Answer::new(404)
        }
    }

    fn receive_commit(&self, id: &str, branch: &str, request: &Request) -> Answer {
        let mut files = match lock(&self.repos).get(id) {
            Some(repo) => repo.at(branch).map(|(_, files)| files.clone()).unwrap_or_default(),
            None => return Answer::new(404).header("X-Error-Code", "RepoNotFound"),
        };
        let text = String::from_utf8(request.body.clone()).expect("lines of JSON");
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            let value = &line["value"];
            let word = |key: &str| value[key].as_str().unwrap_or_default();
            let bytes = match line["key"].as_str() {
                Some("file") => BASE64.decode(word("content")).expect("base64"),
                Some("lfsFile") => match lock(&self.objects).get(word("oid")) {
                    Some(bytes) => bytes.clone(),
                    None => return Answer::new(400),
                },
                _ => continue,
            };
            files.insert(word("path").to_owned(), bytes);
        }
        let commit = self.commit(id, branch, files);
        Answer::json(&json!({
            "success": true,
            "commitOid": commit,
            "commitUrl": format!("{}/{id}/commit/{commit}", self.hub),
        }))
    }

    fn commit(&self, repo: &str, branch: &str, files: BTreeMap<String, Vec<u8>>) -> String {
        let mut hash = Sha1::new();
        for (path, bytes) in &files {
            hash.update(format!("{path} {}\n", git_hash(bytes)));
        }
        let commit = hex(&hash.finalize());
        let mut repos = lock(&self.repos);
        let repo = repos.entry(repo.to_owned()).or_default();
        repo.commits.insert(commit.clone(), files);
        repo.branches.insert(branch.to_owned(), commit.clone());
        commit
    }
}

impl Repo {
    fn at(&self, revision: &str) -> Option<(&String, &BTreeMap<String, Vec<u8>>)> {
        let commit = self.branches.get(revision).map_or(revision, |commit| commit);
        self.commits.get_key_value(commit)
    }
}

fn info(id: &str, repo: &Repo, revision: &str) -> Answer {
    let Some((commit, files)) = repo.at(revision) else { return no_revision() };
    let siblings: Vec<Value> = files.keys().map(|path| json!({ "rfilename": path })).collect();
    Answer::json(&json!({
        "id": id, "sha": commit, "private": repo.token.is_some(), "gated": false, "disabled": false,
        "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
    }))
}

fn preupload(repo: &Repo, branch: &str, request: &Request) -> Answer {
    let asked = json_body(request);
    let held = repo.at(branch).map(|(_, files)| files);
    let files = asked["files"].as_array().into_iter().flatten().map(|file| {
        let path = file["path"].as_str().expect("a path");
        let large =
            file["size"].as_u64().is_some_and(|size| size as usize >= LARGE) || is_weight(path);
        let oid = held
            .and_then(|files| files.get(path))
            .map(|bytes| if large && !bytes.is_empty() { sha256(bytes) } else { git_hash(bytes) });
        let sample = BASE64.decode(file["sample"].as_str().expect("a sample")).expect("base64");
        assert!(sample.len() <= 512, "a sample is short");
        let mode = if large { "lfs" } else { "regular" };
        let ignored = path.ends_with(".ignored");
        json!({ "path": path, "uploadMode": mode, "shouldIgnore": ignored, "oid": oid })
    });
    Answer::json(&json!({ "files": files.collect::<Vec<_>>() }))
}

fn entry(path: &str, bytes: &[u8]) -> Value {
    let mut entry = json!({
        "type": "file", "path": path, "size": bytes.len(), "oid": git_hash(bytes),
    });
    if is_large(path, bytes) {
        entry["lfs"] = json!({ "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 130 });
    }
    entry
}

/// The bytes that `request` asks for.
fn part(bytes: &[u8], etag: &str, request: &Request, ignores_range: bool) -> Answer {
    let changed = request.header("if-range").is_some_and(|tag| tag != etag);
    let range = request.range(bytes.len()).filter(|_| !ignores_range && !changed);
    let answer = match range {
        None => Answer { body: bytes.to_vec(), ..Answer::new(200) },
        Some((start, end)) if start < end => {
            Answer { body: bytes[start..end].to_vec(), ..Answer::new(206) }
                .header("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len()))
        }
        Some(_) => {
            return Answer::new(416).header("Content-Range", format!("bytes */{}", bytes.len()));
        }
    };
    answer.header("ETag", etag).header("Accept-Ranges", "bytes")
}

fn replace(answer: &mut Answer, name: &str, value: &dyn Fn(&str) -> String) {
    for (header, old) in &mut answer.headers {
        if header == name {
            *old = value(old);
        }
    }
}

fn no_revision() -> Answer {
    Answer::new(404).header("X-Error-Code", "RevisionNotFound")
}

fn json_body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).expect("a body of JSON")
}

fn is_large(path: &str, bytes: &[u8]) -> bool {
    bytes.len() >= LARGE || is_weight(path)
}

fn is_weight(path: &str) -> bool {
    [".safetensors", ".gguf"].iter().any(|end| path.ends_with(end))
}

/// The SHA-256 of `bytes`, in hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Git's hash of a file that holds `bytes`.
#[must_use]
pub fn git_hash(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
