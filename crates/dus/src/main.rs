//! The program `dus`: parses the command line, calls the library, prints, and exits.

mod cli;
mod demo;
mod report;
mod terminal;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, Parser};
use dus::blueprint::Blueprint;
use dus::build::{self, Options, Site};
use dus::clean;
use dus::error::one_line;
use dus::inspect;
use dus::output::Output;
use dus::recipe::{Draft, Recipe};
use dus::sources::{self, Access};
use dus::verify::{self, Whereabouts};
use dus::{Error, Result};

use crate::cli::{
    BuildArgs, CleanArgs, Cli, Command, InspectArgs, PlanArgs, PushArgs, RecipeArgs, VerifyArgs,
};
use crate::terminal::{Terminal, print};

/// What a command came to.
enum Outcome {
    /// It is done.
    Done,
    /// The answer is no.
    No,
    /// It could not be done, for reasons that are printed already.
    Failed,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    terminal::raise_open_file_limit();
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
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Failed) => ExitCode::from(2),
        Err(error) if terminal::is_broken_pipe(&error.source) => ExitCode::SUCCESS,
        Err(Failure { source: Error::Cancelled, .. }) => {
            ExitCode::from(terminal.signal().map_or(2, |signal| 128 + signal))
        }
        Err(Failure { what, source }) if source.is_cancelled() => {
            // What is done stays: that is worth a word, also to one who asked to stop.
            terminal::report_error(&what, &source, source.hint());
            ExitCode::from(terminal.signal().map_or(2, |signal| 128 + signal))
        }
        Err(Failure { what, source }) => {
            terminal::report_error(&what, &source, source.hint());
            ExitCode::from(2)
        }
    }
}

/// An error, and what could not be done because of it.
struct Failure {
    what: String,
    source: Error,
}

/// Names what an error kept from being done.
fn cannot(what: impl Into<String>) -> impl FnOnce(Error) -> Failure {
    let what = what.into();
    move |source| Failure { what: format!("cannot {what}"), source }
}

fn run(command: &Command, terminal: &Terminal) -> Result<Outcome, Failure> {
    match command {
        Command::Plan(args) => plan(args, terminal).map_err(cannot("plan")),
        Command::Build(args) => {
            let what = format!("build {}", args.output.display());
            build(args, terminal).map_err(cannot(what))
        }
        Command::Verify(args) => {
            let what = format!("verify {}", args.out.display());
            verify(args, terminal).map_err(cannot(what))
        }
        Command::Inspect(args) => {
            inspect(args, terminal).map_err(cannot(format!("inspect {}", args.model)))
        }
        Command::Clean(args) => {
            clean(args).map_err(cannot(format!("clean {}", args.out.display())))
        }
        Command::Push(args) => {
            push(args, terminal).map_err(cannot(format!("push {}", args.out.display())))
        }
        Command::Demo(args) => demo::run(&args.output, terminal)
            .map_err(cannot("run the demo"))
            .map(|equal| if equal { Outcome::Done } else { Outcome::No }),
        Command::Completions { shell } => completions(*shell).map_err(cannot("print completions")),
        Command::Man { command } => {
            man(command.as_deref()).map_err(cannot("print the manual page"))
        }
    }
}

fn plan(args: &PlanArgs, terminal: &Terminal) -> Result<Outcome> {
    let out = args.output.as_deref();
    let (recipe, layout) = (recipe(&args.recipe)?, args.movement.shard_layout.into());
    let progress = terminal.progress(args.json);
    let (access, watch) = (Access::Headers, progress.watch());
    let blueprint = Blueprint::with_access(recipe, layout, out, access, &watch)?;
    terminal.clear();
    let options = Options { copy: args.movement.copy.into(), ..Options::default() };
    let options = Options { force: args.movement.force, ..options };
    let out = out.map(|out| Output::at(out, blueprint.form())).transpose()?;
    let here = Site { dir: Path::new("."), held: 0 };
    let site = out.as_ref().map_or(here, Site::of);
    let room = build::room(&blueprint, site, options.copy)?;
    let mut notes = blueprint.notes();
    notes.extend(out.as_ref().and_then(report::unfinished));
    let obstacles = match &out {
        Some(out) => build::obstacles(&blueprint, out, &options),
        None => build::obstacles_anywhere(&blueprint, site, &options),
    };
    if args.json {
        let obstacles: Vec<String> = obstacles.iter().map(|e| one_line(e)).collect();
        print(&format!("{:#}\n", report::plan_json(&blueprint, &room, &notes, &obstacles)))?;
    } else {
        print(&report::plan(&blueprint, &room))?;
        terminal::notes(&notes);
    }
    for obstacle in &obstacles {
        terminal::report_error("a build would fail", obstacle, obstacle.hint());
    }
    Ok(if obstacles.is_empty() { Outcome::Done } else { Outcome::Failed })
}

fn build(args: &BuildArgs, terminal: &Terminal) -> Result<Outcome> {
    let start = Instant::now();
    let out = &args.output;
    let layout = args.movement.shard_layout.into();
    let progress = terminal.progress(args.quiet);
    let (recipe, watch) = (recipe(&args.recipe)?, progress.watch());
    let access = if args.no_cache { Access::Streamed } else { Access::Weights };
    let blueprint = Blueprint::with_access(recipe, layout, Some(out), access, &watch)?;
    let out = Output::at(out, blueprint.form())?;
    let options = Options {
        copy: args.movement.copy.into(),
        force: args.movement.force,
        allow_overflow: args.allow_overflow,
        resume: args.resume,
    };
    let built = build::build(&blueprint, out, &options, &progress.watch())?;
    terminal.clear();
    let name = args.output.display().to_string();
    if args.json {
        print(&format!("{:#}\n", report::build_json(&blueprint, &built, &name, start.elapsed())))?;
    } else if !args.quiet {
        print(&report::build(&blueprint, &built, &name, start.elapsed()))?;
        terminal::notes(&[blueprint.notes(), built.notes].concat());
    }
    Ok(Outcome::Done)
}

fn verify(args: &VerifyArgs, terminal: &Terminal) -> Result<Outcome> {
    let whereabouts = Whereabouts {
        base: args.base.clone().map(cli::here),
        models: args.model.iter().map(|(name, m)| (name.clone(), cli::here(m.clone()))).collect(),
        no_cache: args.no_cache,
    };
    let progress = terminal.progress(args.quiet);
    let verdict = verify::verify(&args.out, whereabouts, &progress.watch())?;
    terminal.clear();
    let equal = verdict.differences.is_empty();
    if args.json {
        let object = serde_json::json!({
            "equal": equal,
            "num_tensors": verdict.num_tensors,
            "bytes": verdict.bytes,
            "differences": verdict.differences,
        });
        print(&format!("{object:#}\n"))?;
    } else if !args.quiet || !equal {
        print(&report::verdict(&verdict, &args.out.display().to_string()))?;
    }
    Ok(if equal { Outcome::Done } else { Outcome::No })
}

fn inspect(args: &InspectArgs, terminal: &Terminal) -> Result<Outcome> {
    let progress = terminal.progress(args.json);
    let access = if args.duplicates { Access::Weights } else { Access::Headers };
    let found = sources::find(&cli::here(args.model.clone()), access, &progress.watch())?;
    let checkpoint = checkpoint::Checkpoint::open(&found.location.path)?;
    let description = inspect::describe(&checkpoint);
    let duplicates = args
        .duplicates
        .then(|| inspect::duplicate_layers(&checkpoint, &progress.watch()))
        .transpose()?;
    terminal.clear();
    if args.json {
        let mut object = serde_json::json!(description);
        if let Some(duplicates) = duplicates {
            object["equal_layers"] = serde_json::json!(duplicates);
        }
        print(&format!("{object:#}\n"))?;
    } else {
        let dir = match &found.outline {
            Some(_) => args.model.clone(),
            None => found.location.path.display().to_string(),
        };
        print(&report::description(&description, &dir, duplicates.as_deref()))?;
        terminal::notes(description.problem.as_slice());
        terminal::notes(found.notice.as_slice());
    }
    Ok(Outcome::Done)
}

fn push(args: &PushArgs, terminal: &Terminal) -> Result<Outcome> {
    let push = checkpoint::hub::Push {
        repo: args.repo.clone(),
        branch: args.branch.clone(),
        private: args.private,
        message: args.message.clone(),
    };
    let progress = terminal.progress(args.quiet);
    let pushed = dus::push::push(&args.out, &push, &progress.watch())?;
    terminal.clear();
    if args.json {
        let object = serde_json::json!({
            "url": pushed.url,
            "commit": pushed.commit,
            "sent_bytes": pushed.sent,
            "kept_bytes": pushed.kept,
            "ignored": pushed.ignored,
        });
        print(&format!("{object:#}\n"))?;
    } else if !args.quiet {
        print(&report::pushed(&pushed))?;
    }
    Ok(Outcome::Done)
}

/// The recipe that was meant: a file's keys, a model's path, and flags that replace either.
fn recipe(args: &RecipeArgs) -> Result<Recipe> {
    let mut draft = Draft::default();
    if let Some(text) = &args.recipe {
        let path = Path::new(text);
        let has_end = |ends: &[&str]| {
            path.extension()
                .is_some_and(|found| ends.iter().any(|&end| found.eq_ignore_ascii_case(end)))
        };
        if path.is_file() && has_end(&["toml"]) {
            draft = Draft::read(path)?;
        } else if path.is_file() && has_end(&["yml", "yaml"]) {
            return Err(Error::MergekitYaml { path: path.to_owned() });
        } else if path.is_file() && !has_end(&["gguf"]) {
            return Err(Error::NotARecipe { path: path.to_owned() });
        } else {
            // A path that is wrong is said before anything that is missing beside it.
            sources::check(&cli::here(text.clone()))?;
            draft.base = Some(cli::here(text.clone()));
        }
    }
    draft.replaced_by(args.flags()).finish()
}

fn clean(args: &CleanArgs) -> Result<Outcome> {
    let removed = clean::clean(&args.out, args.force)?;
    let out = args.out.display().to_string();
    if args.json {
        print(&format!("{:#}\n", report::clean_json(&removed, &out)))?;
    } else {
        print(&report::clean(&removed, &out))?;
    }
    Ok(Outcome::Done)
}

fn completions(shell: clap_complete::Shell) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dus", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}

fn man(command: Option<&str>) -> Result<Outcome> {
    let mut whole = Cli::command();
    whole.build();
    let page = match command {
        None => whole,
        Some(name) => {
            let found = whole.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| Error::NoSuchCommand { name: name.to_owned() })?;
            let name = format!("dus-{name}");
            found.name(name).version(env!("CARGO_PKG_VERSION"))
        }
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).render(&mut roff).map_err(terminal::stdout_error)?;
    print(&String::from_utf8_lossy(&roff))?;
    Ok(Outcome::Done)
}
