//! The command line as it is typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use infer::open::{Arithmetic, Place, Placing};
use infer::placement::GpuLayers;

const EXAMPLES: &str = "\
Examples:
  infer logits ./SmolLM2-135M 'The capital of France is'
  infer generate ./SmolLM2-135M 'The capital of France is' --max-new-tokens 40
  infer generate ./SmolLM2-135M --ids 504,3575,282 --temperature 0.8 --seed 1 --json
  infer score ./base ./deeper --text book.txt --max-tokens 4096
  infer score ./SmolLM2-135M --layers 'dus(8)' --text book.txt
  infer tokens ./SmolLM2-135M 'How many?'

Exit codes: 0 done; 2 it could not be done; 130 after ^C; 143 after SIGTERM.";

/// Runs decoder checkpoints: Llama, Mistral, Qwen2 and Qwen3 in folders of safetensors
#[derive(Parser, Debug)]
#[command(name = "infer", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Go on with a prompt
    Generate(Box<GenerateArgs>),
    /// Say how well models predict a text
    Score(ScoreArgs),
    /// Show the best next tokens behind a prompt
    Logits(LogitsArgs),
    /// Show a text's tokens
    Tokens(TokensArgs),
}

/// How a model is run.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Run the model through a layer plan that is never built, such as 'dus(8)'; in place of the
    /// recipe's if MODEL is one
    #[arg(long, value_name = "PLAN", allow_hyphen_values = true)]
    pub(crate) layers: Option<String>,
    /// The type of the arithmetic
    #[arg(long, value_enum, default_value_t)]
    dtype: DtypeName,
    /// Where to run: auto, cpu, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = place)]
    pub(crate) device: Place,
    /// Layers on the GPU, the last ones first: auto puts there as many as fit, or a number
    #[arg(long, value_name = "N", default_value = "auto", value_parser = gpu_layers)]
    pub(crate) gpu_layers: GpuLayers,
    /// Print errors only, and what was asked for
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl RunArgs {
    pub(crate) fn placing(&self) -> Placing {
        let arithmetic = self.arithmetic();
        Placing { arithmetic, place: self.device, gpu_layers: self.gpu_layers }
    }

    pub(crate) fn arithmetic(&self) -> Arithmetic {
        match self.dtype {
            DtypeName::Auto => Arithmetic::Auto,
            DtypeName::F32 => Arithmetic::F32,
            DtypeName::F16 => Arithmetic::F16,
            DtypeName::Bf16 => Arithmetic::BF16,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
enum DtypeName {
    /// f32 on the CPU; on a GPU f16 or bf16 if the model is stored so, and f32 if not
    #[default]
    Auto,
    /// 32 bits
    #[value(alias = "float32")]
    F32,
    /// 16 bits
    #[value(alias = "float16")]
    F16,
    /// 16 bits with the range of 32
    #[value(alias = "bfloat16")]
    Bf16,
}

fn place(text: &str) -> Result<Place, String> {
    match text {
        "auto" => Ok(Place::Auto),
        "cpu" => Ok(Place::Cpu),
        "metal" => Ok(Place::Metal),
        "cuda" => Ok(Place::Cuda(0)),
        _ => {
            let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
            number.map(Place::Cuda).ok_or_else(|| "expected auto, cpu, cuda:N or metal".to_owned())
        }
    }
}

fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    if text == "auto" {
        return Ok(GpuLayers::Auto);
    }
    text.parse().map(GpuLayers::Count).map_err(|_| "expected auto or a number".to_owned())
}

/// Tokens instead of a text.
#[derive(Args, Debug)]
pub(crate) struct IdsArgs {
    /// Tokens by number, taken as they are, instead of a text: 1,2,3 or @FILE
    #[arg(long, value_name = "IDS")]
    pub(crate) ids: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {
    /// A folder, a hub id, or a recipe (.toml), which is run without building it
    pub(crate) model: String,
    /// The text; without it and --ids, stdin up to its last line end
    #[arg(conflicts_with = "ids")]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) ids: IdsArgs,
    /// How many tokens to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) top: usize,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TokensArgs {
    /// A folder, a hub id or a recipe; no weights are read
    pub(crate) model: String,
    /// The text; without it and --ids, stdin up to its last line end
    #[arg(conflicts_with = "ids")]
    pub(crate) text: Option<String>,
    #[command(flatten)]
    pub(crate) ids: IdsArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    /// Folders, hub ids or recipes; several give a table
    #[arg(required = true, value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// The text's file, or - for stdin
    #[arg(long, value_name = "FILE", required_unless_present = "ids", conflicts_with = "ids")]
    pub(crate) text: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ids: IdsArgs,
    /// Score only so many tokens, from the beginning
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Tokens of a window [default: the model's positions; 512 with --chunks]
    #[arg(long, value_name = "N")]
    pub(crate) window: Option<usize>,
    /// Tokens that each window after the first predicts [default: half a window]
    #[arg(long, value_name = "N", conflicts_with = "chunks")]
    pub(crate) stride: Option<usize>,
    /// Cut as llama.cpp does: chunks side by side, the second half of each is predicted
    #[arg(long)]
    pub(crate) chunks: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// A folder, a hub id, or a recipe (.toml), which is run without building it
    pub(crate) model: String,
    /// The text; without it and --ids, stdin up to its last line end
    #[arg(conflicts_with = "ids")]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) ids: IdsArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) length: LengthArgs,
    /// Generate several sequences at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) num: u16,
    /// Print a line for each token with its log-probability and those of the N best
    #[arg(long, value_name = "N")]
    pub(crate) top_logprobs: Option<usize>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// How tokens are chosen; what is not given is the model's `generation_config.json`, and without it
/// the best token is taken.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Divide logits by this; 0 takes the best token, whatever else is set
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f64>,
    /// Keep the K best tokens; 0 keeps all [default where tokens are drawn: 50, as in transformers]
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Keep the best tokens whose probabilities sum to P
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,
    /// Leave out tokens less probable than P times the best
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f64>,
    /// Keep the most typical tokens whose probabilities sum to P
    #[arg(long, value_name = "P")]
    pub(crate) typical_p: Option<f64>,
    /// Make tokens that have occurred less likely: above 1
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f64>,
    /// Take X from the logits of tokens that were generated
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f64>,
    /// The same, times how often they were
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f64>,
    /// Add to a token's logit; may be given several times
    #[arg(long, value_name = "ID=X", value_parser = bias)]
    pub(crate) logit_bias: Vec<(u32, f64)>,
    /// What draws follow from; the same seed gives the same text [default: another each time]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// Where a sequence ends.
#[derive(Args, Debug)]
#[command(next_help_heading = "Length")]
pub(crate) struct LengthArgs {
    /// At most so many new tokens [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// At most so many tokens, those of the prompt included; --max-new-tokens wins over it
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<usize>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

fn bias(text: &str) -> Result<(u32, f64), String> {
    let pair = text.split_once('=');
    let pair = pair.and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    pair.filter(|(_, bias): &(u32, f64)| !bias.is_nan())
        .ok_or_else(|| "expected ID=X, a token and a number".to_owned())
}
