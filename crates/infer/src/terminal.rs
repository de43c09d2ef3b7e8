//! The terminal: output, errors, progress bars and signals.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dus::progress::waiting_words;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use infer::progress::{Progress, Unit, Watch};
use infer::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

/// The terminal, with the signal that asked to stop, if one did.
pub(crate) struct Terminal {
    signal: Arc<AtomicUsize>,
    asked: Arc<AtomicBool>,
    waits: Arc<AtomicBool>,
    bar: ProgressBar,
    bytes: ProgressStyle,
    tokens: ProgressStyle,
    waiting: ProgressStyle,
    /// Until when the hub is left alone; the past, if it is not.
    asked_again: Arc<Mutex<Instant>>,
}

impl Terminal {
    /// Begins to listen for ^C and SIGTERM.
    pub(crate) fn new() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicBool::new(false));
        let waits = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            if number == SIGINT {
                // The second ^C ends the process, whatever it waits for.
                signal_hook::flag::register_conditional_default(number, Arc::clone(&asked))?;
            }
            // A read goes on after a signal: what waits for a user ends at once, and loses nothing.
            signal_hook::flag::register_conditional_default(number, Arc::clone(&waits))?;
            signal_hook::flag::register(number, Arc::clone(&asked))?;
            let value = usize::try_from(number).map_err(io::Error::other)?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value)?;
        }
        let asked_again = Arc::new(Mutex::new(Instant::now()));
        let until = Arc::clone(&asked_again);
        let wait = move |_: &ProgressState, text: &mut dyn fmt::Write| {
            let until = *until.lock().unwrap_or_else(PoisonError::into_inner);
            let left = until.saturating_duration_since(Instant::now());
            let _ = text.write_str(&waiting_words(left));
        };
        let style = |template| ProgressStyle::with_template(template).map_err(io::Error::other);
        Ok(Self {
            signal,
            asked,
            waits,
            // Shown on stderr, and only where that is a terminal.
            bar: ProgressBar::no_length(),
            bytes: style("{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes}")?,
            tokens: style("{msg} {wide_bar} {pos}/{len} tokens {eta} left")?,
            waiting: style("{spinner} {wait}")?.with_key("wait", wait),
            asked_again,
        })
    }

    /// The signal that asked to stop.
    pub(crate) fn signal(&self) -> Option<u8> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then(|| u8::try_from(signal).unwrap_or(u8::MAX))
    }

    /// Calls `read`, which waits for a user; a signal ends the process meanwhile.
    pub(crate) fn wait_for<T>(&self, read: impl FnOnce() -> T) -> T {
        self.waits.store(true, Ordering::Relaxed);
        let read = read();
        self.waits.store(false, Ordering::Relaxed);
        read
    }

    /// Goes on after ^C, and says whether it was that.
    pub(crate) fn forget_interrupt(&self) -> bool {
        let is_interrupt = self.signal().map(i32::from) == Some(SIGINT);
        if is_interrupt {
            self.signal.store(0, Ordering::Relaxed);
            self.asked.store(false, Ordering::Relaxed);
        }
        is_interrupt
    }

    /// Shows progress from now on, unless `quiet`.
    pub(crate) fn progress(&self, quiet: bool) -> Shown {
        let (bar, signal) = (self.bar.clone(), Arc::clone(&self.signal));
        let (bytes, tokens) = (self.bytes.clone(), self.tokens.clone());
        let (waiting, asked_again) = (self.waiting.clone(), Arc::clone(&self.asked_again));
        let is_waiting = AtomicBool::new(false);
        Shown {
            on_progress: Box::new(move |progress| match progress {
                _ if quiet => {}
                Progress::Begin { doing, total, unit } => {
                    is_waiting.store(false, Ordering::Relaxed);
                    bar.disable_steady_tick();
                    bar.set_style(match unit {
                        Unit::Bytes => bytes.clone(),
                        Unit::Tokens => tokens.clone(),
                    });
                    bar.reset();
                    bar.set_length(total);
                    bar.set_message(doing);
                }
                Progress::Done(more) => {
                    // One connection waits, and another goes on: the bar shows the one that does.
                    if is_waiting.swap(false, Ordering::Relaxed) {
                        bar.disable_steady_tick();
                        bar.set_style(bytes.clone());
                    }
                    bar.inc(more);
                }
                Progress::Lost(again) => bar.dec(again),
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

/// Prints to stdout, at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|source| {
        let path = PathBuf::from("standard output");
        Error::Io { path, doing: "written", source }
    })
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

pub(crate) fn to_stderr(text: &str) {
    // Where stderr is gone there is nobody to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
