//! The model and the prompt that the command line names.

use infer::chat_template::Message;
use infer::error::one_line;
use infer::open::{self, Opened, Spec, Wanted};
use infer::placement::{GpuLayers, Plan};
use infer::tokenizer::Tokenizer;
use infer::{Error, Model, Result};

use crate::cli::{ChatArgs, RecipeArgs, RunArgs};
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

/// A model with what stands in place of its keys if it is a recipe.
pub(crate) fn spec(model: &str, args: &RecipeArgs) -> Spec {
    let (base, models) = (args.base.clone(), args.models.clone());
    Spec { base, models, ..Spec::new(model) }
}

/// Refuses what stands in place of a recipe's keys where no MODEL is one.
pub(crate) fn refuse_stray(models: &[&str], args: &RecipeArgs) -> Result<()> {
    let (option, found) = match (&args.base, args.models.first()) {
        (Some(base), _) => ("--base", base.clone()),
        (None, Some((name, model))) => ("--model", format!("{name}={model}")),
        (None, None) => return Ok(()),
    };
    if models.iter().any(|model| open::is_recipe(model)) {
        return Ok(());
    }
    let expected = "a recipe (.toml) for MODEL, in place of whose key it stands";
    Err(Error::OptionValue { option, found, expected })
}

/// Finds a model of which so much is wanted.
pub(crate) fn find(
    model: &str,
    args: &RunArgs,
    wanted: Wanted,
    terminal: &Terminal,
) -> Result<Opened> {
    args.placing().target()?;
    let progress = terminal.progress(args.quiet);
    let spec = Spec { layers: args.layers.clone(), ..spec(model, &args.recipe) };
    let mut opened = Opened::find(&spec, wanted, &progress.watch())?;
    opened.quantize = args.quantize();
    terminal.clear();
    told(args, &opened.notes);
    Ok(opened)
}

/// Loads its weights with room for sequences of so many positions; tells before where they go if that is
/// not the processor, and then what a user should hear of them.
pub(crate) fn load(
    opened: &Opened,
    args: &RunArgs,
    sequences: &[usize],
    terminal: &Terminal,
) -> Result<Model> {
    load_planned(opened, args, &opened.plan(args.placing(), sequences)?, terminal)
}

/// The same with room for one sequence of all positions, or of as many as there is memory for; says how many.
pub(crate) fn load_with_most_positions(
    opened: &Opened,
    args: &RunArgs,
    terminal: &Terminal,
) -> Result<(Model, usize)> {
    let plan = opened.plan_most_positions(args.placing())?;
    let (room, all) = (plan.positions, opened.config.max_position_embeddings);
    if room < all {
        told(args, &[format!("there is memory for {room} of the model's {all} positions")]);
    }
    Ok((load_planned(opened, args, &plan, terminal)?, room))
}

fn load_planned(
    opened: &Opened,
    args: &RunArgs,
    plan: &Plan,
    terminal: &Terminal,
) -> Result<Model> {
    let chosen = opened.target(args.placing())?;
    if plan.gpu.is_some() && !args.quiet {
        let engine = chosen.target.engine().filter(|_| plan.head_on_gpu());
        let engine = engine.map_or_else(String::new, |engine| format!("  engine  {engine}\n"));
        terminal::to_stderr(&(plan.table() + &engine));
    }
    tell_of_gpu_layers(args, plan);
    let notes = chosen.why_cpu;
    told(
        args,
        &notes.map(|reason| format!("{reason}; the cpu is used")).into_iter().collect::<Vec<_>>(),
    );
    let progress = terminal.progress(args.quiet);
    let model = opened.load_placed(args.placing(), plan, &progress.watch())?;
    terminal.clear();
    told(args, model.notes());
    Ok(model)
}

/// Tells that a number of layers for the GPU counts for nothing where `plan` has none.
pub(crate) fn tell_of_gpu_layers(args: &RunArgs, plan: &Plan) {
    if let GpuLayers::Count(count @ 1..) = args.gpu_layers
        && plan.gpu.is_none()
    {
        let note = format!("--gpu-layers {count} is not heeded: all layers are on the cpu");
        told(args, &[note]);
    }
}

/// Tells, unless told to be quiet.
pub(crate) fn told(args: &RunArgs, notes: &[String]) {
    if !args.quiet {
        terminal::notes(notes);
    }
}

/// The tokenizer of a model; tells what a user should hear of it.
pub(crate) fn tokenizer(opened: &Opened, quiet: bool) -> Result<Tokenizer> {
    let tokenizer = opened.tokenizer()?;
    if !quiet {
        terminal::notes(tokenizer.notes());
    }
    Ok(tokenizer)
}

/// The same where tokens may be given by number: without a tokenizer that can be read, these go on
/// without their pieces.
pub(crate) fn tokenizer_for(
    input: &Input,
    opened: &Opened,
    quiet: bool,
) -> Result<Option<Tokenizer>> {
    match (tokenizer(opened, quiet), input) {
        (Ok(tokenizer), _) => Ok(Some(tokenizer)),
        (Err(error), Input::Text(_)) => Err(error),
        (Err(Error::NoTokenizer { .. }), Input::Ids(_)) => Ok(None),
        (Err(error), Input::Ids(_)) => {
            if !quiet {
                let why = one_line(&error);
                terminal::notes(&[format!("tokens have numbers only, and no text: {why}")]);
            }
            Ok(None)
        }
    }
}

/// A prompt's tokens, and the tokenizer: without one, tokens must be given.
pub(crate) fn prompt(
    opened: &Opened,
    input: Input,
    chat: &ChatArgs,
    quiet: bool,
) -> Result<(Option<Tokenizer>, Vec<u32>)> {
    let tokenizer = tokenizer_for(&input, opened, quiet)?;
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
