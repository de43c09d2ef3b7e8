//! The model and the prompt that the command line names.

use infer::chat_template::Message;
use infer::device::{self, Place};
use infer::open::{Opened, Spec, Wanted};
use infer::tokenizer::Tokenizer;
use infer::{Error, Model, Result};

use crate::cli::{ChatArgs, RunArgs};
use crate::input::Input;
use crate::terminal::{self, Terminal};

/// Finds a model to run, and tells what a user should hear of that.
pub(crate) fn open(model: &str, args: &RunArgs, terminal: &Terminal) -> Result<Opened> {
    find(model, args, Wanted::Weights, terminal)
}

/// Finds a model of which no weights will be read.
pub(crate) fn outline(model: &str, args: &RunArgs, terminal: &Terminal) -> Result<Opened> {
    find(model, args, Wanted::Outline, terminal)
}

/// Finds a model of which so much is wanted.
pub(crate) fn find(
    model: &str,
    args: &RunArgs,
    wanted: Wanted,
    terminal: &Terminal,
) -> Result<Opened> {
    args.device.device()?;
    let progress = terminal.progress(args.quiet);
    let spec = Spec { model: model.to_owned(), layers: args.layers.clone() };
    let mut opened = Opened::find(&spec, wanted, &progress.watch())?;
    opened.quantize = args.quantize();
    terminal.clear();
    told(args, &opened.notes);
    Ok(opened)
}

/// Loads its weights with room for `positions`; tells before where they go if that is not the processor,
/// and then what a user should hear of them.
pub(crate) fn load(
    opened: &Opened,
    args: &RunArgs,
    positions: usize,
    terminal: &Terminal,
) -> Result<Model> {
    let placing = args.placing();
    let plan = opened.plan(placing, positions)?;
    if plan.gpu.is_some() && !args.quiet {
        terminal::to_stderr(&plan.table());
    }
    if args.device == Place::Auto {
        let notes = device::why_no_gpu().map(|reason| format!("{reason}; the cpu is used"));
        told(args, &notes.into_iter().collect::<Vec<_>>());
    }
    let progress = terminal.progress(args.quiet);
    let model = opened.load_placed(placing, &plan, &progress.watch())?;
    terminal.clear();
    told(args, model.notes());
    Ok(model)
}

/// Tells, unless told to be quiet.
pub(crate) fn told(args: &RunArgs, notes: &[String]) {
    if !args.quiet {
        terminal::notes(notes);
    }
}

/// A prompt's tokens, and the tokenizer: without one, tokens must be given.
pub(crate) fn prompt(
    opened: &Opened,
    input: Input,
    chat: &ChatArgs,
) -> Result<(Option<Tokenizer>, Vec<u32>)> {
    let tokenizer = match (opened.tokenizer(), &input) {
        (Ok(tokenizer), _) => Some(tokenizer),
        (Err(Error::NoTokenizer { .. }), Input::Ids(_)) => None,
        (Err(error), _) => return Err(error),
    };
    let ids = input.ids(|text| match &tokenizer {
        Some(tokenizer) => encode(opened, tokenizer, text, chat),
        None => Err(Error::NoTokenizer { model: opened.path().to_owned() }),
    })?;
    let available = opened.config.max_position_embeddings;
    if ids.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    check_tokens(opened, &ids)?;
    if ids.len() > available {
        return Err(Error::TooManyTokens { needed: ids.len(), available });
    }
    Ok((tokenizer, ids))
}

/// Refuses tokens that the model does not have before weights are read, which may take a while.
pub(crate) fn check_tokens(opened: &Opened, ids: &[u32]) -> Result<()> {
    let vocab_size = opened.config.vocab_size;
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(&id) => Err(Error::NoSuchToken { id, vocab_size }),
        None => Ok(()),
    }
}

/// The tokens of a text, or with `--chat` of a chat in which it is what the user says.
pub(crate) fn encode(
    opened: &Opened,
    tokenizer: &Tokenizer,
    text: &str,
    chat: &ChatArgs,
) -> Result<Vec<u32>> {
    if !chat.chat {
        return Ok(tokenizer.encode(text)?.ids);
    }
    let system = chat.system.iter().map(|system| Message::new("system", system));
    let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
    tokenizer.encode_chat(&opened.chat_template()?.render(&messages, true)?)
}
