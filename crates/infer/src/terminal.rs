//! The terminal: output, errors, progress bars and signals.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dus::progress::waiting_words;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use infer::progress::{Progress, Unit, Watch};
use infer::{Error, Result};
use rustix::termios::{self, OptionalActions, Termios};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

/// The terminal, with the signal that asked to stop, if one did.
pub(crate) struct Terminal {
    heard: Arc<Heard>,
    bar: ProgressBar,
    bytes: ProgressStyle,
    tokens: ProgressStyle,
    waiting: ProgressStyle,
    /// Until when the hub is left alone; the past, if it is not.
    asked_again: Arc<Mutex<Instant>>,
}

/// What the thread that hears signals and the program say to each other.
#[derive(Default)]
struct Heard {
    /// The last signal; 0 is none.
    signal: AtomicI32,
    /// Whether the program waits for its input, and hears nothing.
    waits: AtomicBool,
}

impl Terminal {
    /// Begins to listen for ^C and SIGTERM.
    pub(crate) fn new() -> io::Result<Self> {
        let heard = Arc::new(Heard::default());
        let (listener, modes) = (Arc::clone(&heard), termios::tcgetattr(io::stdin()).ok());
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let earlier = listener.signal.swap(signal, Ordering::SeqCst);
                // The second ^C ends the program, whatever it is at; what waits for its input can be
                // ended at once, and loses nothing.
                if listener.waits.load(Ordering::SeqCst) || earlier != 0 && signal == SIGINT {
                    restore(modes.as_ref());
                    low_level::exit(128 + signal);
                }
            }
        })?;
        let asked_again = Arc::new(Mutex::new(Instant::now()));
        let until = Arc::clone(&asked_again);
        let wait = move |_: &ProgressState, text: &mut dyn fmt::Write| {
            let until = *until.lock().unwrap_or_else(PoisonError::into_inner);
            let left = until.saturating_duration_since(Instant::now());
            let _ = text.write_str(&waiting_words(left));
        };
        let style = |template| ProgressStyle::with_template(template).map_err(io::Error::other);
        Ok(Self {
            heard,
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
        let signal = self.heard.signal.load(Ordering::SeqCst);
        (signal != 0).then(|| u8::try_from(signal).unwrap_or(u8::MAX))
    }

    /// Calls `read`, which waits for input; a signal ends the program meanwhile.
    pub(crate) fn wait_for<T>(&self, read: impl FnOnce() -> T) -> Result<T> {
        self.heard.waits.store(true, Ordering::SeqCst);
        // A signal that came before found nobody who waits.
        let read = self.signal().is_none().then(read);
        self.heard.waits.store(false, Ordering::SeqCst);
        read.filter(|_| self.signal().is_none()).ok_or(Error::Cancelled)
    }

    /// Goes on after ^C, and says whether it was that.
    pub(crate) fn forget_interrupt(&self) -> bool {
        let heard = &self.heard.signal;
        heard.compare_exchange(SIGINT, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Shows progress from now on, unless `quiet`.
    pub(crate) fn progress(&self, quiet: bool) -> Shown {
        let (bar, heard) = (self.bar.clone(), Arc::clone(&self.heard));
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
            is_cancelled: Box::new(move || heard.signal.load(Ordering::SeqCst) != 0),
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

/// Gives a terminal that was read key by key the modes back that it had.
fn restore(modes: Option<&Termios>) {
    let Some(modes) = modes else { return };
    let now = termios::tcgetattr(io::stdin());
    if now.is_ok_and(|now| now.local_modes == modes.local_modes) {
        return;
    }
    // Where the terminal has gone there is nothing to restore. Pasted text is no longer marked as such.
    let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, modes);
    let _ = rustix::io::write(io::stdout(), b"\x1b[?2004l\n");
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
