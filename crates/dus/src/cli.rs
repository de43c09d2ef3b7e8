//! The command line as it is typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use dus::blueprint::LayoutKind;
use dus::movement::CopyMode;
use dus::recipe::{Draft, Source};

const EXAMPLES: &str = "\
Examples:
  dus demo                                          build and verify a tiny model
  dus plan configs/solar-10.7b.toml --base ./Mistral-7B-v0.1
  dus build ./Mistral-7B-v0.1 --layers 'dus(8)' --architecture llama --dtype float16 -o solar
  dus build model.Q4_K_M.gguf --layers 'dus(8)' -o deep.gguf
  dus build model.Q4_K_M.gguf --layers 'dus(8)' --to hf --dtype bfloat16 -o deep
  dus verify solar

Exit codes: 0 done; 1 the answer is no (verify); 2 it could not be done; 130 after ^C;\n143 after SIGTERM.";

/// Builds depth up-scaled checkpoints as fast as the disk can copy
#[derive(Parser, Debug)]
#[command(name = "dus", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Draw what a build would make, and name everything that would stop it
    Plan(PlanArgs),
    /// Build an up-scaled model
    Build(BuildArgs),
    /// Compare every tensor of a build with its source
    Verify(VerifyArgs),
    /// Describe a model: parameters, types, bytes per layer
    Inspect(InspectArgs),
    /// Remove what interrupted builds left beside an output
    Clean(CleanArgs),
    /// Upload a build to the hub, without this machine's paths
    Push(PushArgs),
    /// Build and verify a 48-layer model from the tiny one in examples/
    Demo(DemoArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or that of a command, in roff
    Man {
        /// The command
        command: Option<String>,
    },
}

/// What to build; each flag replaces the recipe's key of its name.
#[derive(Args, Debug)]
pub(crate) struct RecipeArgs {
    /// A recipe (.toml), or a model: a folder, a .gguf file or a hub id
    #[arg(value_name = "RECIPE|MODEL")]
    pub(crate) recipe: Option<String>,
    /// The model whose layers are copied
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// One of several models, by its name in the plan
    #[arg(long, value_name = "NAME=MODEL", value_parser = named_model)]
    model: Vec<(String, String)>,
    /// Which layer of the base each new layer is, such as 'dus(8)' or '0..24 + 8..32'
    #[arg(long, value_name = "PLAN", allow_hyphen_values = true)]
    layers: Option<String>,
    /// Write the config of another architecture: llama, for Mistral weights
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// Cast floating-point tensors: float16, bfloat16 or float32, or `q8_0` in a GGUF file [default: as
    /// in the base; quantised tensors of a GGUF file become float16 in a folder]
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
    /// The most bytes of tensors in a shard, such as 5GB or 4GiB [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<String>,
    /// The model that gives the embeddings [default: that of the first layer]
    #[arg(long, value_name = "NAME")]
    embeddings: Option<String>,
    /// The model that gives the final norm [default: that of the last layer]
    #[arg(long, value_name = "NAME")]
    norm: Option<String>,
    /// The model that gives `lm_head` [default: that of the last layer]
    #[arg(long, value_name = "NAME")]
    lm_head: Option<String>,
    /// The form to write: hf, a folder, or gguf, a file [default: as -o ends, else as the base]
    #[arg(long, value_name = "FORM")]
    to: Option<String>,
}

impl RecipeArgs {
    /// The flags as a draft; their paths are relative to the working directory.
    pub(crate) fn flags(&self) -> Draft {
        Draft {
            base: self.base.clone().map(here),
            models: self.model.iter().map(|(name, m)| (name.clone(), here(m.clone()))).collect(),
            layers: self.layers.clone(),
            architecture: self.architecture.clone(),
            dtype: self.dtype.clone(),
            to: self.to.clone(),
            max_shard_size: self.max_shard_size.clone(),
            embeddings: self.embeddings.clone(),
            norm: self.norm.clone(),
            lm_head: self.lm_head.clone(),
        }
    }
}

/// A model that was named on the command line.
pub(crate) fn here(spec: String) -> Source {
    Source { spec, relative_to: PathBuf::new() }
}

fn named_model(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, model)) if dus::plan::is_model_name(name) && !model.is_empty() => {
            Ok((name.to_owned(), model.to_owned()))
        }
        _ => Err("expected NAME=MODEL, with letters, digits and _ in the name".to_owned()),
    }
}

/// How bytes get to the output.
#[derive(Args, Debug)]
pub(crate) struct MovementArgs {
    /// How bytes move that stay as they are
    #[arg(long, value_enum, default_value_t)]
    pub(crate) copy: Copy,
    /// How tensors are spread over files
    #[arg(long, value_enum, default_value_t)]
    pub(crate) shard_layout: Layout,
    /// Replace what an earlier build left at the output
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum Copy {
    /// Share extents where the file system can, else copy in the kernel where that helps, else read
    /// and write
    #[default]
    Auto,
    /// Share extents; an error where nothing can be shared
    Reflink,
    /// Copy in the kernel (which may share, too), else read and write
    Kernel,
    /// Read and write
    Stream,
}

impl From<Copy> for CopyMode {
    fn from(copy: Copy) -> Self {
        match copy {
            Copy::Auto => Self::Auto,
            Copy::Reflink => Self::Reflink,
            Copy::Kernel => Self::Kernel,
            Copy::Stream => Self::Stream,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum Layout {
    /// By size, in state-dict order, as Hugging Face does
    #[default]
    Size,
    /// So that nearly all blocks can be shared with the base's files
    Source,
}

impl From<Layout> for LayoutKind {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Size => Self::Size,
            Layout::Source => Self::Source,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Where the build would go [default: measures the disk of the working directory]
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) movement: MovementArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// The folder to make, or the GGUF file if its name ends in .gguf
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) movement: MovementArgs,
    /// Go on with a build that was interrupted; if this one is, what is done stays
    #[arg(long)]
    pub(crate) resume: bool,
    /// Read a model of the hub from there, and keep no copy of it in the cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Write values that are too large for the cast's type as infinity
    #[arg(long)]
    pub(crate) allow_overflow: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Print errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// What a build left: a folder or a GGUF file
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// The base, if it is not where dus.json says
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
    /// One of several models, likewise
    #[arg(long, value_name = "NAME=MODEL", value_parser = named_model)]
    pub(crate) model: Vec<(String, String)>,
    /// Read a model of the hub from there, and keep no copy of it in the cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Print differences and errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A folder, a .gguf file or a hub id
    pub(crate) model: String,
    /// Read the weights, and list the layers that are equal
    #[arg(long)]
    pub(crate) duplicates: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CleanArgs {
    /// The output, which itself stays
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Also remove an earlier build that was moved aside and may be its only copy
    #[arg(long)]
    pub(crate) force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// The folder or .gguf file that a build left
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// The repository, which is made if it does not exist
    #[arg(value_name = "OWNER/NAME")]
    pub(crate) repo: String,
    /// Make the repository private if it does not exist
    #[arg(long)]
    pub(crate) private: bool,
    /// The branch
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub(crate) branch: String,
    /// The commit's first line
    #[arg(short, long, value_name = "TEXT", default_value = "Upload depth up-scaled model")]
    pub(crate) message: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Print errors only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// The folder to make; an earlier demo's is replaced
    #[arg(short, long, value_name = "DIR", default_value = "tiny-solar")]
    pub(crate) output: PathBuf,
}
