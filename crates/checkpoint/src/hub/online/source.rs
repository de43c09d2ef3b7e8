//! One file of the hub as a stream of bytes that survives a broken connection.
//!
//! What arrives is passed on only if it is what was asked for: the right range, of a file of the
//! right length, that is still the same file. Everything else is a [`Fault`].

use std::io::Read;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::address::host;
use super::client::{Hub, Request};
use super::reply::{About, Reply, header, unreachable};
use crate::error::{Error, Result};
use crate::hub::revision::{RemoteFile, Revision};
use crate::hub::watch::Watch;
use crate::hub_error::HubError;

/// A file of the hub.
#[derive(Debug)]
pub(super) struct Source<'a> {
    hub: &'a Hub,
    revision: &'a Revision,
    pub(super) file: &'a RemoteFile,
    pinned: &'a Mutex<Pinned>,
}

/// What is known of a file from the answers so far.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    /// Where the hub redirected to; such an address serves for a while.
    location: Option<String>,
    /// The `ETag` of who sends the bytes, which must stay the same.
    etag: Option<String>,
}

/// Why a stream ended early.
#[derive(Debug)]
pub(super) enum Fault {
    /// What came so far cannot be continued.
    StartOver(StartOver),
    /// It cannot be had at all.
    Fatal(Error),
}

/// Why a file has to be fetched from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StartOver {
    /// The server sends whole files only.
    NoRanges { host: String },
    /// The file is another one than before.
    Changed,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(
        hub: &'a Hub,
        revision: &'a Revision,
        file: &'a RemoteFile,
        pinned: &'a Mutex<Pinned>,
    ) -> Self {
        Self { hub, revision, file, pinned }
    }

    /// Streams the bytes of `range` into `sink`, in order, with the offset of each piece.
    pub(super) fn stream(
        &self,
        range: Range<u64>,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
        watch: Watch,
    ) -> Result<(), Fault> {
        let mut buffer = vec![0; 256 << 10];
        let (mut at, mut tries) = (range.start, 0);
        while at < range.end {
            let before = at;
            let (mut body, url) = self.open(at..range.end, watch)?;
            let broken: Box<dyn std::error::Error + Send + Sync> = loop {
                watch.check()?;
                let want = buffer.len().min((range.end - at) as usize);
                match body.read(&mut buffer[..want]) {
                    Ok(0) => break "the connection was closed too early".into(),
                    Ok(read) => {
                        sink(at, &buffer[..read])?;
                        at += read as u64;
                        if at == range.end {
                            return Ok(());
                        }
                    }
                    Err(error) => break error.into(),
                }
            };
            tries = if at > before { 0 } else { tries + 1 };
            if tries > self.hub.settings().retries {
                return Err(unreachable(&url, broken).into());
            }
            self.hub.wait(tries, None, watch)?;
        }
        Ok(())
    }

    /// Asks for the bytes of `range` and checks that the answer begins with them.
    fn open(&self, range: Range<u64>, watch: Watch) -> Result<(impl Read + use<>, String), Fault> {
        let whole = range == (0..self.file.bytes);
        let (location, etag) = {
            let pinned = self.lock();
            (pinned.location.clone(), pinned.etag.clone())
        };
        let request = |url: String| {
            let mut request = Request::get(url);
            if !whole {
                let Range { start, end } = range;
                request.headers.push(("range", format!("bytes={start}-{}", end - 1)));
                // A weak tag may stand for other bytes.
                if let Some(etag) = etag.as_ref().filter(|etag| etag.starts_with('"')) {
                    request.headers.push(("if-range", etag.clone()));
                }
            }
            request
        };
        let mut known = None;
        if let Some(location) = location {
            let reply = self.hub.send(&request(location), watch)?;
            // The address may be too old by now.
            known = reply.response.status().is_success().then_some(reply);
        }
        let reply = match known {
            Some(reply) => reply,
            None => {
                self.ask_hub(&request(self.hub.resolve_url(self.revision, self.file)), watch)?
            }
        };
        self.check(&reply, &range)?;
        let url = reply.url;
        Ok((reply.response.into_body().into_reader(), url))
    }

    fn ask_hub(&self, request: &Request, watch: Watch) -> Result<Reply, Fault> {
        let Revision { repo, revision, commit, .. } = self.revision;
        let file = self.file;
        let mut pinned_location = None;
        let reply = self.hub.send(request, watch)?;
        // 416: the file became shorter than where this began.
        if reply.status() == 416 {
            return Err(Fault::StartOver(StartOver::Changed));
        }
        if !reply.response.status().is_success() {
            let about = About { repo, revision, file: Some(&file.path) };
            return Err(self.hub.refusal(reply, about).into());
        }
        let headers = reply.hub_headers.as_ref().unwrap_or(reply.response.headers());
        let says = |name: &str, expected: &str| {
            header(headers, name).is_none_or(|found| bare(found).eq_ignore_ascii_case(expected))
        };
        let same = says("x-repo-commit", commit)
            && says("x-linked-etag", file.etag())
            && says("x-linked-size", &file.bytes.to_string());
        if !same {
            return Err(self.changed().into());
        }
        if reply.hub_headers.is_some() {
            pinned_location = Some(reply.url.clone());
        }
        self.lock().location = pinned_location;
        Ok(reply)
    }

    /// Refuses an answer that does not begin with the bytes of `range`.
    fn check(&self, reply: &Reply, range: &Range<u64>) -> Result<(), Fault> {
        let file = self.file;
        if let Some(etag) = reply.header("etag") {
            let mut pinned = self.lock();
            if *pinned.etag.get_or_insert_with(|| etag.to_owned()) != etag {
                return Err(Fault::StartOver(StartOver::Changed));
            }
        }
        match reply.status() {
            206 => {
                let right = reply.header("content-range").and_then(content_range);
                let (found, total) = right.ok_or_else(|| no_ranges(reply))?;
                if total.is_some_and(|total| total != file.bytes) {
                    return Err(self.wrong_size(total.unwrap_or(0)).into());
                }
                if found.start != range.start || found.end > range.end {
                    return Err(no_ranges(reply));
                }
            }
            // The whole file, though a part was asked for. Its beginning can still be used.
            _ if range.start > 0 => return Err(no_ranges(reply)),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn changed(&self) -> Error {
        let (repo, file) = (self.revision.repo.clone(), self.file.path.clone());
        HubError::Changed { repo, file }.into()
    }

    fn wrong_size(&self, found: u64) -> Error {
        let (repo, file) = (self.revision.repo.clone(), self.file.path.clone());
        HubError::Size { repo, file, expected: self.file.bytes, found }.into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pinned> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_ranges(reply: &Reply) -> Fault {
    Fault::StartOver(StartOver::NoRanges { host: host(&reply.url) })
}

/// An `ETag` without its quotes and its weakness.
fn bare(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

/// The range and the file's length, of a header such as `bytes 5-9/100`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last): (u64, u64) = (start.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (start <= last).then_some((start..last + 1, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/100"), Some((5..10, Some(100))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5..10, None)));
        for bad in ["bytes */100", "bytes 9-5/100", "5-9/100", "bytes 5-/100", "bytes 5-9"] {
            assert_eq!(content_range(bad), None);
        }
        assert_eq!(bare("W/\"abc\""), "abc");
    }
}
