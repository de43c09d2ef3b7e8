//! The program `infer`: parses the command line, calls the library, prints, and exits.

mod bench_command;
mod bench_llama_cpp;
mod bench_peer;
mod bench_transformers;
mod chat;
mod chosen;
mod cli;
mod compare_command;
mod input;
mod inspect_command;
mod report;
mod terminal;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use infer::generate::{self, Request, Step, Stop};
use infer::open::{Opened, Wanted};
use infer::score::{self, Text};
use infer::tokenizer::Tokenizer;
use infer::windows::Rule;
use infer::{Error, Result, sampling};
use serde_json::json;

use crate::cli::{Cli, Command, GenerateArgs, LogitsArgs, ScoreArgs, TokensArgs};
use crate::input::{DEFAULT_MAX_NEW_TOKENS, Input};
use crate::terminal::{Terminal, print};

/// A chunk of llama.cpp's perplexity.
const CHUNK: usize = 512;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = match Terminal::new() {
        Ok(terminal) => terminal,
        Err(error) => {
            terminal::report_error("cannot listen for signals", &error, None);
            return ExitCode::from(2);
        }
    };
    let result = run(&cli.command, &terminal);
    terminal.clear();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err((_, error)) if terminal::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err((_, Error::Cancelled)) => {
            ExitCode::from(terminal.signal().map_or(2, |signal| 128 + signal))
        }
        Err((what, error)) => {
            terminal::report_error(&what, &error, error.hint());
            ExitCode::from(2)
        }
    }
}

/// Runs a command, and returns whether its answer is yes; an error comes with what could not be done
/// because of it.
fn run(command: &Command, terminal: &Terminal) -> Result<bool, (String, Error)> {
    let (models, recipe) = command.models();
    chosen::refuse_stray(&models, recipe)
        .map_err(|e| (format!("cannot run {}", models.join(" and ")), e))?;
    match command {
        Command::Compare(args) => {
            let what = |e| (format!("cannot compare {} and {}", args.model, args.other), e);
            return compare_command::run(args, terminal).map_err(what);
        }
        Command::Bench(args) => bench_command::run(args, terminal)
            .map_err(|e| (format!("cannot measure {}", args.model), e)),
        Command::Inspect(args) => inspect_command::run(args, terminal)
            .map_err(|e| (format!("cannot inspect {}", args.model), e)),
        Command::Generate(args) => generate(args, terminal)
            .map_err(|e| (format!("cannot generate with {}", args.model), e)),
        Command::Chat(args) => {
            chat::run(args, terminal).map_err(|e| (format!("cannot talk with {}", args.model), e))
        }
        Command::Score(args) => score(args, terminal),
        Command::Logits(args) => {
            logits(args, terminal).map_err(|e| (format!("cannot run {}", args.model), e))
        }
        Command::Tokens(args) => tokens(args, terminal)
            .map_err(|e| (format!("cannot use the tokenizer of {}", args.model), e)),
    }
    .map(|()| true)
}

fn logits(args: &LogitsArgs, terminal: &Terminal) -> Result<()> {
    let progress = terminal.progress(args.run.quiet);
    let opened = chosen::open(&args.model, &args.run, terminal)?;
    let input = Input::prompt(args.prompt.as_ref(), &args.ids, terminal)?;
    let (tokenizer, prompt) = chosen::prompt(&opened, input, &args.chat, args.run.quiet)?;
    let model = chosen::load(&opened, &args.run, &[prompt.len()], terminal)?;
    let logits = generate::next_logits(&model, &prompt, &progress.watch())?;
    let top = sampling::top(&logits, args.top);
    if args.json {
        print(&format!("{:#}\n", json!({ "top": top })))
    } else {
        print(&report::logits(&logits, &top, tokenizer.as_ref()))
    }
}

fn generate(args: &GenerateArgs, terminal: &Terminal) -> Result<()> {
    let progress = terminal.progress(args.run.quiet);
    let opened = chosen::open(&args.model, &args.run, terminal)?;
    let input = Input::prompt(args.prompt.as_ref(), &args.ids, terminal)?;
    let (tokenizer, prompt) = chosen::prompt(&opened, input, &args.chat, args.run.quiet)?;
    if tokenizer.is_none() && !args.length.stop.is_empty() {
        // Which is the error that there is.
        opened.tokenizer()?;
    }
    let asked = input::Asked {
        sampling: &args.sampling,
        length: &args.length,
        num: args.num.into(),
        top_logprobs: args.top_logprobs,
    };
    let defaults = opened.generation_config()?;
    chosen::told(&args.run, &defaults.notes);
    if tokenizer.is_none() && !defaults.stop_strings.is_empty() {
        let note = "the model's `stop_strings` are not heeded: it has no tokenizer";
        chosen::told(&args.run, &[note.to_owned()]);
    }
    let request = asked.request(&defaults, prompt.len(), DEFAULT_MAX_NEW_TOKENS)?;
    request.sampling.check(opened.config.vocab_size)?;
    chosen::told(
        &args.run,
        &input::undrawn(&request.sampling, args.sampling.seed, args.num.into()),
    );
    let begin = Instant::now();
    let positions = prompt.len() + request.max_new_tokens;
    let positions = positions.min(opened.config.max_position_embeddings);
    let sequences = vec![positions; request.num_sequences];
    let model = chosen::load(&opened, &args.run, &sequences, terminal)?;
    let load = begin.elapsed();

    let mut on_step = |step: Step| show(args, &request, tokenizer.as_ref(), &step);
    let watch = progress.watch();
    let generation =
        generate::generate(&model, tokenizer.as_ref(), &prompt, &request, &mut on_step, &watch)?;
    if args.json {
        let object = report::generation_json(&generation, prompt.len(), request.seed);
        print(&format!("{object:#}\n"))?;
    } else if args.num > 1 {
        let top_logprobs = args.top_logprobs.is_some();
        print(&report::sequences(&generation, tokenizer.as_ref(), top_logprobs))?;
    } else if args.top_logprobs.is_none() {
        print("\n")?;
    }
    if generation.sequences.iter().any(|sequence| sequence.stop == Stop::ContextFull) {
        let positions = model.config().max_position_embeddings;
        chosen::told(
            &args.run,
            &[format!("the context is full: the model has {positions} positions")],
        );
    }
    if !args.run.quiet {
        terminal::to_stderr(&report::times(&generation, prompt.len(), load));
    }
    Ok(())
}

/// Shows a step as it comes, where one sequence is shown to a person.
fn show(
    args: &GenerateArgs,
    request: &Request,
    tokenizer: Option<&Tokenizer>,
    step: &Step,
) -> Result<()> {
    if args.json || request.num_sequences > 1 {
        return Ok(());
    }
    match (step.logprobs, step.id, tokenizer) {
        (Some(logprobs), ..) => print(&report::step(logprobs, tokenizer)),
        // The lines have all tokens; what text is left over belongs to none.
        (None, None, _) if request.top_logprobs.is_some() => Ok(()),
        (None, Some(id), None) => print(&format!("{id} ")),
        _ if step.text.is_empty() => Ok(()),
        _ => print(step.text),
    }
}

fn score(args: &ScoreArgs, terminal: &Terminal) -> Result<(), (String, Error)> {
    // Stdin can be read once, however many models there are.
    let input = Input::file(args.text.as_ref(), &args.ids, terminal);
    let input = input.map_err(|error| ("cannot score".to_owned(), error))?;
    let mut scores = Vec::new();
    for model in &args.models {
        let score = score_one(args, model, &input, terminal);
        scores.push((model.clone(), score.map_err(|e| (format!("cannot score with {model}"), e))?));
    }
    let printed = match scores.as_slice() {
        [(model, score)] if args.json => {
            print(&format!("{:#}\n", report::score_json(model, score)))
        }
        [(_, score)] => print(&report::score(score)),
        several if args.json => {
            let models = several.iter().map(|(model, score)| report::score_json(model, score));
            let object = json!({ "models": models.collect::<Vec<_>>() });
            print(&format!("{object:#}\n"))
        }
        several => print(&report::score_table(several)),
    };
    printed.map_err(|error| ("cannot print".to_owned(), error))
}

fn score_one(
    args: &ScoreArgs,
    model: &str,
    input: &Input,
    terminal: &Terminal,
) -> Result<score::Score> {
    let progress = terminal.progress(args.run.quiet);
    let opened = chosen::open(model, &args.run, terminal)?;
    let mut text = match input {
        Input::Ids(ids) => {
            let ids = ids.clone();
            // Without its text, a model's tokenizer still says what texts begin with.
            let tokenizer = chosen::tokenizer_for(input, &opened, args.run.quiet)?;
            let bos = tokenizer.and_then(|tokenizer| tokenizer.bos());
            let bos = bos.filter(|bos| ids.first() == Some(bos));
            Text { ids, ends: None, bos }
        }
        Input::Text(text) => {
            let tokenizer = chosen::tokenizer(&opened, args.run.quiet)?;
            let encoded = tokenizer.encode(text)?;
            Text { ids: encoded.ids, ends: Some(encoded.ends), bos: tokenizer.bos() }
        }
    };
    if let Some(max_tokens) = args.max_tokens {
        text.ids.truncate(max_tokens);
    }
    chosen::check_tokens(&opened, &text.ids)?;
    let positions = opened.config.max_position_embeddings;
    let rule = rule(args, positions)?;
    let windows = rule.cut(text.ids.len(), text.bos.is_some())?;
    let positions = windows.iter().map(|window| window.tokens.len() + 1).max().unwrap_or(1);
    let model = chosen::load(&opened, &args.run, &[positions], terminal)?;
    let score = score::score(&model, &text, rule, &progress.watch())?;
    terminal.clear();
    if score.num_windows > 1 {
        let beginning = match text.bos {
            Some(bos) => format!("each begins with BOS (token {bos})"),
            None => "they begin with the text's own tokens".to_owned(),
        };
        chosen::told(&args.run, &[format!("{} windows; {beginning}", score.num_windows)]);
    }
    Ok(score)
}

/// How a text is cut for a model of so many positions.
fn rule(args: &ScoreArgs, positions: usize) -> Result<Rule> {
    let default = if args.chunks { CHUNK.min(positions) } else { positions };
    let window = args.window.unwrap_or(default);
    if window > positions {
        return Err(Error::TooManyTokens { needed: window, available: positions });
    }
    Ok(if args.chunks {
        Rule::Chunks { window }
    } else {
        Rule::Windows { window, stride: args.stride.unwrap_or((window / 2).max(1)) }
    })
}

fn tokens(args: &TokensArgs, terminal: &Terminal) -> Result<()> {
    let progress = terminal.progress(args.json);
    let spec = chosen::spec(&args.model, &args.recipe);
    let opened = Opened::find(&spec, Wanted::Outline, &progress.watch())?;
    terminal.clear();
    let input = Input::prompt(args.text.as_ref(), &args.ids, terminal)?;
    let tokenizer = chosen::tokenizer_for(&input, &opened, false)?;
    let ids = input.ids(|text| match &tokenizer {
        Some(tokenizer) => chosen::encode(&opened, tokenizer, text, &args.chat),
        None => Err(Error::NoTokenizer { model: opened.path().to_owned() }),
    })?;
    let tokenizer = tokenizer.as_ref();
    if args.json {
        let piece = |&id: &u32| tokenizer.and_then(|tokenizer| tokenizer.piece(id));
        let pieces: Vec<_> = ids.iter().map(piece).collect();
        return print(&format!("{:#}\n", json!({ "ids": ids, "pieces": pieces })));
    }
    let line = |&id: &u32| format!("{id:>7}  {}\n", report::piece(tokenizer, id));
    print(&ids.iter().map(line).collect::<String>())
}
