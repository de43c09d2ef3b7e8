//! The terminal: output, errors, progress bars and signals.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dus::progress::{Progress, Watch, waiting_words};
use dus::{Error, Result};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

/// The terminal, with the signal that asked to stop, if one did.
pub(crate) struct Terminal {
    signal: Arc<AtomicUsize>,
    bar: ProgressBar,
    moving: ProgressStyle,
    syncing: ProgressStyle,
    waiting: ProgressStyle,
    /// Until when the hub is left alone; the past, if it is not.
    asked_again: Arc<Mutex<Instant>>,
}

impl Terminal {
    /// Begins to listen for ^C and SIGTERM.
    pub(crate) fn new() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            if number == SIGINT {
                // The second ^C ends the process, whatever it waits for.
                signal_hook::flag::register_conditional_default(number, Arc::clone(&asked))?;
            }
            signal_hook::flag::register(number, Arc::clone(&asked))?;
            let value = usize::try_from(number).map_err(io::Error::other)?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value)?;
        }
        // Shown on stderr, and only where that is a terminal.
        let bar = ProgressBar::no_length();
        let moving = ProgressStyle::with_template(
            "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} \
             {decimal_bytes_per_sec} {eta} left",
        );
        let syncing = ProgressStyle::with_template("{spinner} waiting for the disk");
        let asked_again = Arc::new(Mutex::new(Instant::now()));
        let until = Arc::clone(&asked_again);
        let waiting = ProgressStyle::with_template("{spinner} {wait}").map_err(io::Error::other)?;
        let waiting =
            waiting.with_key("wait", move |_: &ProgressState, text: &mut dyn fmt::Write| {
                let until = *until.lock().unwrap_or_else(PoisonError::into_inner);
                let _ =
                    text.write_str(&waiting_words(until.saturating_duration_since(Instant::now())));
            });
        Ok(Self {
            signal,
            bar,
            moving: moving.map_err(io::Error::other)?,
            syncing: syncing.map_err(io::Error::other)?,
            waiting,
            asked_again,
        })
    }

    /// The signal that asked to stop.
    pub(crate) fn signal(&self) -> Option<u8> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then(|| u8::try_from(signal).unwrap_or(u8::MAX))
    }

    /// Shows progress from now on, unless `quiet`.
    pub(crate) fn progress(&self, quiet: bool) -> Shown {
        let (bar, signal) = (self.bar.clone(), Arc::clone(&self.signal));
        let (moving, syncing) = (self.moving.clone(), self.syncing.clone());
        let (waiting, asked_again) = (self.waiting.clone(), Arc::clone(&self.asked_again));
        let is_waiting = AtomicBool::new(false);
        Shown {
            on_progress: Box::new(move |progress| match progress {
                _ if quiet => {}
                Progress::Begin { doing, bytes } => {
                    is_waiting.store(false, Ordering::Relaxed);
                    bar.disable_steady_tick();
                    bar.set_style(moving.clone());
                    bar.reset();
                    bar.set_length(bytes);
                    bar.set_message(doing);
                }
                Progress::Done(bytes) => {
                    // One connection waits, and another goes on: the bar shows the one that does.
                    if is_waiting.swap(false, Ordering::Relaxed) {
                        bar.disable_steady_tick();
                        bar.set_style(moving.clone());
                    }
                    bar.inc(bytes);
                }
                Progress::Lost(bytes) => bar.dec(bytes),
                Progress::Syncing => {
                    bar.set_style(syncing.clone());
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
                Progress::Waiting(time) => {
                    let mut until = asked_again.lock().unwrap_or_else(PoisonError::into_inner);
                    *until = Instant::now() + time;
                    drop(until);
                    is_waiting.store(true, Ordering::Relaxed);
                    bar.set_style(waiting.clone());
                    bar.enable_steady_tick(Duration::from_millis(100));
                }
            }),
            is_cancelled: Box::new(move || signal.load(Ordering::Relaxed) != 0),
        }
    }

    /// Takes the progress bar away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Progress that is shown, and heeds signals.
pub(crate) struct Shown {
    on_progress: Box<dyn Fn(Progress) + Sync>,
    is_cancelled: Box<dyn Fn() -> bool + Sync>,
}

impl Shown {
    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch { progress: &*self.on_progress, is_cancelled: &*self.is_cancelled }
    }
}

/// Allows as many open files as the system lets this process have: all shards are open at once.
pub(crate) fn raise_open_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is refused, a build of many shards says which file could not be opened.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Prints to stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(stdout_error)
}

/// An error of stdout.
pub(crate) fn stdout_error(source: io::Error) -> Error {
    Error::Io { path: PathBuf::from("standard output"), doing: "written", source }
}

/// Whether whoever read our output has gone.
pub(crate) fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints notes to stderr.
pub(crate) fn notes(notes: &[String]) {
    for note in notes {
        to_stderr(&format!("note: {note}\n"));
    }
}

/// Prints warnings to stderr, also where notes are not wanted.
pub(crate) fn warnings(warnings: &[String]) {
    for warning in warnings {
        to_stderr(&format!("warning: {warning}\n"));
    }
}

/// Prints an error, its causes and a hint to stderr.
pub(crate) fn report_error(what: &str, error: &dyn std::error::Error, hint: Option<String>) {
    let mut text = format!("error: {what}\n");
    let mut cause = Some(error);
    while let Some(error) = cause {
        let lines = error.to_string().trim_end().replace('\n', "\n    ");
        let _ = writeln!(text, "  caused by: {lines}");
        cause = error.source();
    }
    if let Some(hint) = hint {
        let _ = write!(text, "\nhint: {hint}\n");
    }
    to_stderr(&text);
}

fn to_stderr(text: &str) {
    // Where stderr is gone there is nobody to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
