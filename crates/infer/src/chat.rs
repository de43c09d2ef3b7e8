//! `infer chat`: a conversation in the terminal.
//!
//! Where stdin is no terminal its lines are the turns, and stdout has the answers alone.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use infer::chat_template::{ChatTemplate, Message};
use infer::generate::{Generation, Request, Stop};
use infer::generation_config::GenerationConfig;
use infer::session::Session;
use infer::tokenizer::Tokenizer;
use infer::{Error, Model, Result};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;

use crate::chosen;
use crate::cli::ChatCommandArgs;
use crate::input;
use crate::report;
use crate::terminal::{self, Terminal, print};

const HELP: &str = "\
/reset         forget all but the system prompt
/regen         take the last answer back, and answer anew
/undo          take back the last question and its answer
/system TEXT   begin anew with this system prompt; without a text, with none
/save FILE     write the messages to a file, as JSON
/load FILE     go on with the messages of a file
/stats         tokens and speed of the last answer
/help          this
^C stops an answer, ^D leaves.
";

/// Runs a conversation to the end of its input.
pub(crate) fn run(args: &ChatCommandArgs, terminal: &Terminal) -> Result<()> {
    let opened = chosen::open(&args.model, &args.run, terminal)?;
    let tokenizer = chosen::tokenizer(&opened, args.run.quiet)?;
    let template = opened.chat_template()?;
    let defaults = opened.generation_config()?;
    chosen::told(&args.run, &defaults.notes);
    // Said before weights are read, which may take a while.
    let sampling = input::sampling(&args.sampling, &defaults);
    sampling.check(opened.config.vocab_size)?;
    chosen::told(&args.run, &input::undrawn(&sampling, args.sampling.seed, 1));
    let (model, positions) = chosen::load_with_most_positions(&opened, &args.run, terminal)?;
    let mut lines = Lines::open()?;
    if lines.is_terminal() && !args.run.quiet {
        terminal::to_stderr("/help lists commands; ^C stops an answer, ^D leaves\n");
    }
    let mut chat = Chat {
        args,
        terminal,
        model: &model,
        tokenizer: &tokenizer,
        template,
        defaults,
        session: Session::new(&model, positions)?,
        messages: Vec::new(),
        num_answers: 0,
        stats: None,
    };
    chat.begin_with(args.system.as_deref());
    while let Some(line) = lines.next(terminal)? {
        match chat.turn(&line) {
            Ok(()) => {}
            // The conversation outlives what cannot be done in it.
            Err(error) if is_survivable(&error) => {
                terminal::report_error("not done", &error, error.hint());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether an error leaves the conversation as it was.
fn is_survivable(error: &Error) -> bool {
    matches!(
        error,
        Error::TooManyTokens { .. }
            | Error::NoRoom { .. }
            | Error::TemplateFailed { .. }
            | Error::Messages { .. }
            | Error::NothingToTakeBack
            | Error::UnknownChatCommand { .. }
            | Error::NoFileNamed { .. }
    ) || matches!(error, Error::Io { path, .. } if path.as_os_str() != "standard output")
}

/// Lines as they are typed, or as they come.
enum Lines {
    Typed(Box<rustyline::Editor<(), MemHistory>>),
    Read,
}

impl Lines {
    fn open() -> Result<Self> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(Self::Read);
        }
        let editor =
            rustyline::Editor::with_history(rustyline::Config::default(), MemHistory::new());
        Ok(Self::Typed(Box::new(editor.map_err(not_read)?)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Typed(_))
    }

    /// The next line that says something; `None` at the end.
    fn next(&mut self, terminal: &Terminal) -> Result<Option<String>> {
        loop {
            // One that came as the answer ended was meant for the answer.
            terminal.forget_interrupt();
            let line = match self {
                Self::Typed(editor) => match terminal.wait_for(|| editor.readline("> "))? {
                    Ok(line) => {
                        editor.add_history_entry(&line).map_err(not_read)?;
                        line
                    }
                    // As in a shell: what was typed is given up.
                    Err(ReadlineError::Interrupted) => continue,
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(not_read(error)),
                },
                Self::Read => {
                    let mut line = String::new();
                    let read = terminal.wait_for(|| io::stdin().lock().read_line(&mut line))?;
                    if read.map_err(|error| not_read(ReadlineError::Io(error)))? == 0 {
                        return Ok(None);
                    }
                    line
                }
            };
            if !line.trim().is_empty() {
                return Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()));
            }
        }
    }
}

fn not_read(error: ReadlineError) -> Error {
    let source = match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    };
    Error::Io { path: PathBuf::from("standard input"), doing: "read", source }
}

/// A conversation.
struct Chat<'a> {
    args: &'a ChatCommandArgs,
    terminal: &'a Terminal,
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    defaults: GenerationConfig,
    session: Session<'a>,
    messages: Vec<Message>,
    /// Each answer has draws of its own, also where a question is asked again.
    num_answers: u64,
    stats: Option<String>,
}

impl Chat<'_> {
    /// Heeds a line: a command, or what the user says.
    fn turn(&mut self, line: &str) -> Result<()> {
        let Some(command) = line.strip_prefix('/') else {
            if !self.ask(line)? {
                self.note("it has no answer, and is taken back");
            }
            return Ok(());
        };
        let (command, rest) = command.split_once(' ').unwrap_or((command, ""));
        let rest = rest.trim();
        match command {
            "reset" => self.reset(),
            "regen" => return self.answer_anew(),
            "undo" => return self.take_back().map(|_| ()),
            "system" => self.begin_with(Some(rest).filter(|text| !text.is_empty())),
            "save" | "load" if rest.is_empty() => {
                return Err(Error::NoFileNamed { command: command.to_owned() });
            }
            "save" => return save(Path::new(rest), &self.messages),
            "load" => self.messages = load(Path::new(rest))?,
            "stats" => {
                let stats = self.stats.as_deref().unwrap_or("nothing has been answered yet\n");
                terminal::to_stderr(stats);
            }
            "help" => terminal::to_stderr(HELP),
            _ => return Err(Error::UnknownChatCommand { command: command.to_owned() }),
        }
        Ok(())
    }

    fn begin_with(&mut self, system: Option<&str>) {
        self.messages = system.iter().map(|text| Message::new("system", *text)).collect();
    }

    fn reset(&mut self) {
        self.messages.truncate(usize::from(self.messages.first().is_some_and(is_system)));
    }

    /// Takes the last question back, with what followed; the error is that there is none.
    fn take_back(&mut self) -> Result<String> {
        let at = self.messages.iter().rposition(|message| message.role == "user");
        let mut taken = self.messages.split_off(at.ok_or(Error::NothingToTakeBack)?);
        Ok(taken.swap_remove(0).content)
    }

    fn answer_anew(&mut self) -> Result<()> {
        let before = self.messages.clone();
        let question = self.take_back()?;
        let asked = self.ask(&question);
        if !matches!(asked, Ok(true)) {
            self.messages = before;
        }
        if !asked? {
            self.note("there is no new answer, and the one before stays");
        }
        Ok(())
    }

    /// Adds what the user says and what the model answers, and returns whether there is an answer: nothing
    /// is added if there is none.
    fn ask(&mut self, text: &str) -> Result<bool> {
        self.messages.push(Message::new("user", text));
        let mut answer = String::new();
        let answered = self.answer(&mut answer);
        let is_there = answered.is_ok() || !answer.is_empty();
        if is_there {
            self.messages.push(Message::new("assistant", answer));
        } else {
            self.messages.pop();
        }
        match answered {
            Err(Error::Cancelled) if self.terminal.forget_interrupt() => {
                print("\n")?;
                self.note("stopped");
                Ok(is_there)
            }
            answered => answered.map(|()| is_there),
        }
    }

    /// Prints the answer as it comes, and leaves in `answer` as much as there is of it.
    fn answer(&mut self, answer: &mut String) -> Result<()> {
        let prompt = self.tokenizer.encode_chat(&self.template.render(&self.messages, true)?)?;
        let request = self.request(prompt.len())?;
        let progress = self.terminal.progress(true);
        let (begin, mut first, mut num_tokens) = (Instant::now(), None, 0);
        let mut show = |step: infer::generate::Step| {
            if step.id.is_some() {
                first.get_or_insert_with(|| begin.elapsed());
                num_tokens += 1;
            }
            answer.push_str(step.text);
            if step.text.is_empty() { Ok(()) } else { print(step.text) }
        };
        let watch = progress.watch();
        let generated = self.session.generate(self.tokenizer, &prompt, &request, &mut show, &watch);
        let generation = match generated {
            Ok(generation) => generation,
            Err(error) => {
                // What there is of it counts.
                let prefill = first.unwrap_or_default();
                let stopped = Generation {
                    sequences: Vec::new(),
                    prefill,
                    decode: begin.elapsed().saturating_sub(prefill),
                    num_decoded: num_tokens - usize::from(num_tokens > 0),
                };
                self.stats = Some(if num_tokens > 0 {
                    format!("stopped: {}", self.stats(&stopped, prompt.len()))
                } else {
                    "stopped before the first token\n".to_owned()
                });
                return Err(error);
            }
        };
        print("\n")?;
        let [sequence] = &*generation.sequences else { return Ok(()) };
        match sequence.stop {
            Stop::ContextFull => self.note(&format!(
                "the context is full: the model has {} positions; /reset or /undo makes room",
                self.model.config().max_position_embeddings
            )),
            Stop::Length => self.note(&format!("cut after {} tokens", sequence.ids.len())),
            Stop::Eos | Stop::StopString => {}
        }
        self.stats = Some(self.stats(&generation, prompt.len()));
        Ok(())
    }

    fn request(&mut self, prompt_tokens: usize) -> Result<Request> {
        let available = self.model.config().max_position_embeddings;
        let (sampling, length) = (&self.args.sampling, &self.args.length);
        let request = input::Asked { sampling, length, num: 1, top_logprobs: None };
        // Where nothing is said, an answer may take what room there is.
        let mut request = request.request(&self.defaults, prompt_tokens, available)?;
        request.seed = request.seed.wrapping_add(self.num_answers);
        self.num_answers += 1;
        Ok(request)
    }

    fn stats(&self, generation: &Generation, prompt_tokens: usize) -> String {
        let reused = self.session.num_reused();
        let new = prompt_tokens - reused;
        let times = report::times(generation, new, Duration::ZERO);
        // Loading is not the answer's.
        let times = times.split_once(", ").map_or(times.as_str(), |(_, rest)| rest);
        format!("{prompt_tokens} tokens of prompt, {reused} of them kept from before; {times}")
    }

    fn note(&self, note: &str) {
        chosen::told(&self.args.run, &[note.to_owned()]);
    }
}

fn is_system(message: &Message) -> bool {
    message.role == "system"
}

fn save(path: &Path, messages: &[Message]) -> Result<()> {
    let messages_error = |source| Error::Messages { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(messages).map_err(messages_error)?;
    let written = std::fs::write(path, text + "\n");
    written.map_err(|source| Error::Io { path: path.to_owned(), doing: "written", source })
}

fn load(path: &Path) -> Result<Vec<Message>> {
    let text = std::fs::read(path);
    let text = text.map_err(|source| Error::Io { path: path.to_owned(), doing: "read", source })?;
    serde_json::from_slice(&text)
        .map_err(|source| Error::Messages { path: path.to_owned(), source })
}
