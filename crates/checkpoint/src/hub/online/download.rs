//! Many files at once, into the cache.
//!
//! A few threads share a list of tasks: files to begin, and parts of files that are begun. Parts come
//! first, so that whoever holds a lock gets on with what it locked, and two processes that want the
//! same files in another order cannot wait for each other for ever.

use std::collections::VecDeque;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::client::Hub;
use super::hash;
use super::partial::{self, Partial, missing};
use super::source::{Fault, Pinned, Source, StartOver};
use crate::error::{Error, Result};
use crate::hub::cache::{Cache, Lock};
use crate::hub::revision::{RemoteFile, Revision};
use crate::hub::watch::{Progress, Watch};
use crate::hub_error::HubError;

/// Bytes that a part writes between two lines of the journal.
const NOTE_BYTES: u64 = 4 << 20;

/// How often a file is begun anew before it is given up.
const MAX_BEGINNINGS: u32 = 4;

impl Hub {
    /// Brings the files of `revision` that are `wanted` into the cache, as far as they are not there,
    /// and returns the snapshot's folder.
    ///
    /// Each file appears whole and checked by its hash, or not at all. What a broken download leaves
    /// is kept, and the next one goes on from there.
    pub fn fetch(
        &self,
        revision: &Revision,
        wanted: &dyn Fn(&str) -> bool,
        watch: Watch,
    ) -> Result<PathBuf> {
        let dir = self.fetch_files(revision, wanted, watch)?;
        // Only now: until then the commit before is the newest that is here whole.
        self.cache()?.note(&revision.repo, &revision.revision, &revision.commit)?;
        Ok(dir)
    }

    /// The same, without saying that the branch has moved to this commit.
    pub(super) fn fetch_files(
        &self,
        revision: &Revision,
        wanted: &dyn Fn(&str) -> bool,
        watch: Watch,
    ) -> Result<PathBuf> {
        let cache = self.cache()?;
        let Revision { repo, commit, .. } = revision;
        let dir = cache.snapshot_dir(repo, commit);
        let mut lacking = Vec::new();
        let mut bytes = 0;
        for file in revision.files.iter().filter(|file| wanted(&file.path)) {
            if dir.join(&file.path).exists() {
                continue;
            }
            if cache.blobs(repo).join(file.etag()).exists() {
                cache.link(repo, commit, &file.path, file.etag())?;
            } else {
                bytes += file.bytes;
                lacking.push(file);
            }
        }
        if !lacking.is_empty() {
            self.refuse_offline(repo)?;
            refuse_full_disk(&cache, revision, &lacking)?;
            (watch.progress)(Progress::Begin { doing: "downloading", bytes });
            let connections = self.settings().connections.max(1);
            let files = lacking.into_iter().map(Task::Begin).collect();
            let download = Download {
                hub: self,
                revision,
                cache: &cache,
                watch,
                tasks: Mutex::new(Tasks { waiting: files, running: 0 }),
                changed: Condvar::new(),
                stopped: AtomicBool::new(false),
                error: Mutex::new(None),
            };
            thread::scope(|scope| {
                for _ in 0..connections {
                    scope.spawn(|| download.work());
                }
            });
            if let Some(error) = download.error.into_inner().unwrap_or_else(PoisonError::into_inner)
            {
                return Err(error);
            }
        }
        Ok(dir)
    }
}

fn refuse_full_disk(cache: &Cache, revision: &Revision, lacking: &[&RemoteFile]) -> Result<()> {
    let blobs = cache.blobs(&revision.repo);
    fs::create_dir_all(&blobs).map_err(|e| Error::io(&blobs, "made", e))?;
    // Where this cannot be told, the write that fails tells it.
    let Ok(disk) = rustix::fs::statvfs(&blobs) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let mut needed: u64 = 0;
    for file in lacking {
        needed += file.bytes.saturating_sub(partial::allocated(&blobs, file));
    }
    if needed > free {
        return Err(HubError::NoRoom { cache: cache.dir().to_owned(), free, needed }.into());
    }
    Ok(())
}

/// A download under way.
struct Download<'a> {
    hub: &'a Hub,
    revision: &'a Revision,
    cache: &'a Cache,
    watch: Watch<'a>,
    tasks: Mutex<Tasks<'a>>,
    changed: Condvar,
    stopped: AtomicBool,
    error: Mutex<Option<Error>>,
}

struct Tasks<'a> {
    waiting: VecDeque<Task<'a>>,
    /// How many are being worked on, and may add others.
    running: usize,
}

enum Task<'a> {
    Begin(&'a RemoteFile),
    Part(Arc<Begun<'a>>, Range<u64>),
}

/// A file that is being fetched.
struct Begun<'a> {
    file: &'a RemoteFile,
    partial: Partial,
    pinned: Mutex<Pinned>,
    /// Parts that are not there yet.
    parts: AtomicUsize,
    /// Why it has to be fetched from its beginning, if a part found out.
    start_over: Mutex<Option<Error>>,
    /// How often it was begun, this time included.
    beginnings: u32,
    lock: Arc<Lock>,
}

impl<'a> Begun<'a> {
    fn new(file: &'a RemoteFile, partial: Partial, beginnings: u32, lock: Arc<Lock>) -> Self {
        let (pinned, start_over) = (Mutex::default(), Mutex::default());
        Self { file, partial, pinned, parts: AtomicUsize::new(0), start_over, beginnings, lock }
    }
}

impl<'a> Download<'a> {
    fn work(&self) {
        while let Some(task) = self.next() {
            let done = match task {
                Task::Begin(file) => self.begin(file),
                Task::Part(begun, range) => self.part(&begun, range),
            };
            if let Err(error) = done {
                lock(&self.error).get_or_insert(error);
                self.stopped.store(true, Ordering::Relaxed);
            }
            lock(&self.tasks).running -= 1;
            self.changed.notify_all();
        }
    }

    /// The next task; `None` if all is done, or nothing more should be.
    fn next(&self) -> Option<Task<'a>> {
        let mut tasks = lock(&self.tasks);
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(task) = tasks.waiting.pop_front() {
                tasks.running += 1;
                return Some(task);
            }
            if tasks.running == 0 {
                return None;
            }
            tasks = self.changed.wait(tasks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The caller's watch, which also ends where another thread failed.
    fn with_watch<T>(&self, call: impl FnOnce(Watch) -> Result<T>) -> Result<T> {
        let stop = || self.stopped.load(Ordering::Relaxed) || (self.watch.is_cancelled)();
        call(Watch { progress: self.watch.progress, is_cancelled: &stop })
    }

    fn begin(&self, file: &'a RemoteFile) -> Result<()> {
        let repo = &self.revision.repo;
        let lock = self.with_watch(|watch| self.cache.lock(repo, file.etag(), watch))?;
        let blobs = self.cache.blobs(repo);
        if blobs.join(file.etag()).exists() {
            // Another process was faster, or two files are the same.
            (self.watch.progress)(Progress::Done(file.bytes));
            return self.link(file);
        }
        let (partial, there) = Partial::open(&blobs, file)?;
        (self.watch.progress)(Progress::Done(length(&there)));
        let parts = missing(&there, file.bytes, self.hub.settings().part_bytes);
        self.add(&Arc::new(Begun::new(file, partial, 1, Arc::new(lock))), parts)
    }

    fn add(&self, begun: &Arc<Begun<'a>>, parts: Vec<Range<u64>>) -> Result<()> {
        if parts.is_empty() {
            return self.finish(begun);
        }
        begun.parts.store(parts.len(), Ordering::SeqCst);
        let mut tasks = lock(&self.tasks);
        for part in parts.into_iter().rev() {
            tasks.waiting.push_front(Task::Part(begun.clone(), part));
        }
        self.changed.notify_all();
        Ok(())
    }

    fn part(&self, begun: &Arc<Begun<'a>>, range: Range<u64>) -> Result<()> {
        if lock(&begun.start_over).is_none() {
            match self.stream(begun, range) {
                Ok(()) => {}
                Err(Fault::StartOver(reason)) => {
                    let source = self.source(begun);
                    let error = match reason {
                        StartOver::Changed => source.changed(),
                        StartOver::NoRanges { host } => {
                            HubError::NoRanges { host, file: begun.file.path.clone() }.into()
                        }
                    };
                    lock(&begun.start_over).get_or_insert(error);
                }
                Err(Fault::Fatal(error)) => return Err(error),
            }
        }
        // The last one out decides.
        if begun.parts.fetch_sub(1, Ordering::SeqCst) > 1 {
            return Ok(());
        }
        let failed = lock(&begun.start_over).take();
        match failed {
            None => self.finish(begun),
            Some(error) => self.start_over(begun, error),
        }
    }

    /// Fetches one part and writes it where it belongs.
    fn stream(&self, begun: &Begun<'a>, range: Range<u64>) -> Result<(), Fault> {
        let mut noted = range.start;
        let mut written = range.start;
        let stop = || {
            self.stopped.load(Ordering::Relaxed)
                || lock(&begun.start_over).is_some()
                || (self.watch.is_cancelled)()
        };
        let watch = Watch { progress: self.watch.progress, is_cancelled: &stop };
        let mut sink = |offset: u64, bytes: &[u8]| {
            begun.partial.write(offset, bytes)?;
            written = offset + bytes.len() as u64;
            (self.watch.progress)(Progress::Done(bytes.len() as u64));
            if written - noted >= NOTE_BYTES {
                begun.partial.note(&(noted..written))?;
                noted = written;
            }
            Ok(())
        };
        let streamed = self.source(begun).stream(range, &mut sink, watch);
        begun.partial.note(&(noted..written))?;
        match streamed {
            // Another part found that all is to be fetched anew.
            Err(Fault::Fatal(_)) if lock(&begun.start_over).is_some() => Ok(()),
            streamed => streamed,
        }
    }

    fn source<'b>(&'b self, begun: &'b Begun<'a>) -> Source<'b> {
        Source::new(self.hub, self.revision, begun.file, &begun.pinned)
    }

    /// Fetches a file from its beginning, in one stream, as `error` leaves no other way.
    fn start_over(&self, begun: &Begun<'a>, error: Error) -> Result<()> {
        let file = begun.file;
        let blobs = self.cache.blobs(&self.revision.repo);
        let (_, there) = Partial::open(&blobs, file)?;
        // Nothing of it can be trusted, now or in the next run.
        let partial = Partial::begin(&blobs, file)?;
        if begun.beginnings >= MAX_BEGINNINGS {
            return Err(error);
        }
        (self.watch.progress)(Progress::Lost(length(&there)));
        let again = Begun::new(file, partial, begun.beginnings + 1, begun.lock.clone());
        self.add(&Arc::new(again), std::iter::once(0..file.bytes).collect())
    }

    /// Checks a file that is all there, and gives it its name.
    fn finish(&self, begun: &Arc<Begun<'a>>) -> Result<()> {
        let repo = &self.revision.repo;
        let checked =
            self.with_watch(|watch| hash::check(repo, begun.file, begun.partial.path(), watch));
        match checked {
            Ok(()) => {}
            Err(Error::Hub(error)) if matches!(*error, HubError::Hash { .. }) => {
                return self.start_over(begun, Error::Hub(error));
            }
            Err(error) => return Err(error),
        }
        begun.partial.finish(&self.cache.blobs(repo).join(begun.file.etag()))?;
        self.link(begun.file)
    }

    fn link(&self, file: &RemoteFile) -> Result<()> {
        self.cache.link(&self.revision.repo, &self.revision.commit, &file.path, file.etag())
    }
}

fn length(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
