//! The command line as it is typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use infer::device::Place;
use infer::load::{Arithmetic, Engine, Placing};
use infer::placement::GpuLayers;
use infer::quantised::Quantize;

const EXAMPLES: &str = "\
Examples:
  infer logits ./SmolLM2-135M 'The capital of France is'
  infer generate ./SmolLM2-135M 'The capital of France is' --max-new-tokens 40
  infer generate ./SmolLM2-135M --ids 504,3575,282 --temperature 0.8 --seed 1 --json
  infer generate ./SOLAR-10.7B-Instruct-v1.0 --chat 'What is the square root of 24?'
  infer chat ./SOLAR-10.7B-Instruct-v1.0
  infer score ./base ./deeper --text book.txt --max-tokens 4096
  infer score ./SmolLM2-135M --layers 'dus(8)' --text book.txt
  infer logits configs/solar-10.7b.toml --base ./Mistral-7B-v0.1 'The capital of France is'
  infer compare ./deeper ./base --text book.txt --tolerance 1e-3
  infer bench ./SmolLM2-135M
  infer inspect ./SmolLM2-135M --context 2048
  infer tokens ./SmolLM2-135M 'How many?'

Exit codes: 0 done; 1 beyond the bounds given to compare; 2 it could not be done; 130 after ^C; 143 after SIGTERM.";

/// Runs decoder checkpoints: Llama, Mistral, Qwen2 and Qwen3, in folders of safetensors or GGUF files
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
    /// Talk with a model in the terminal
    Chat(Box<ChatCommandArgs>),
    /// Say how well models predict a text
    Score(ScoreArgs),
    /// Compare a model's logits with another's, or with a reference
    Compare(CompareArgs),
    /// Measure how fast a model runs
    Bench(BenchArgs),
    /// Show what a model would take in memory
    Inspect(InspectArgs),
    /// Show the best next tokens behind a prompt
    Logits(LogitsArgs),
    /// Show a text's tokens
    Tokens(TokensArgs),
}

/// What stands in place of a recipe's keys.
#[derive(Args, Debug, Clone)]
pub(crate) struct RecipeArgs {
    /// The model whose layers are copied, in place of the recipe's
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
    /// One of several models of a recipe, by its name in the plan
    #[arg(long = "model", id = "named_model", value_name = "NAME=MODEL", value_parser = named_model)]
    pub(crate) models: Vec<(String, String)>,
}

fn named_model(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, model)) if dus::plan::is_model_name(name) && !model.is_empty() => {
            Ok((name.to_owned(), model.to_owned()))
        }
        _ => Err("expected NAME=MODEL, with letters, digits and _ in the name".to_owned()),
    }
}

impl Command {
    /// Each MODEL, and what stands in place of the keys of those that are recipes.
    pub(crate) fn models(&self) -> (Vec<&str>, &RecipeArgs) {
        match self {
            Self::Generate(args) => (vec![&args.model], &args.run.recipe),
            Self::Chat(args) => (vec![&args.model], &args.run.recipe),
            Self::Score(args) => {
                (args.models.iter().map(String::as_str).collect(), &args.run.recipe)
            }
            Self::Compare(args) => (vec![&args.model, &args.other], &args.run.recipe),
            Self::Bench(args) => (vec![&args.model], &args.run.recipe),
            Self::Inspect(args) => (vec![&args.model], &args.run.recipe),
            Self::Logits(args) => (vec![&args.model], &args.run.recipe),
            Self::Tokens(args) => (vec![&args.model], &args.recipe),
        }
    }
}

/// How a model is run.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Run the model through a layer plan that is never built, such as 'dus(8)'; in place of the
    /// recipe's if MODEL is one
    #[arg(long, value_name = "PLAN", allow_hyphen_values = true)]
    pub(crate) layers: Option<String>,
    /// The type of the arithmetic; given, the blocks of a GGUF file are decoded to it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: DtypeName,
    /// Quantise matrices as they are loaded
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) quantize: Option<QuantizeName>,
    /// Where to run: auto, cpu, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = place)]
    pub(crate) device: Place,
    /// Layers on the GPU, the last ones first: auto puts there as many as fit, or a number
    #[arg(long, value_name = "N", default_value = "auto", value_parser = gpu_layers)]
    pub(crate) gpu_layers: GpuLayers,
    /// Whose kernels compute on a GPU
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: EngineName,
    /// Print errors only, and what was asked for
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl RunArgs {
    pub(crate) fn placing(&self) -> Placing {
        let arithmetic = self.arithmetic();
        let (place, gpu_layers) = (self.device, self.gpu_layers);
        Placing { arithmetic, place, gpu_layers, engine: self.engine.engine() }
    }

    pub(crate) fn arithmetic(&self) -> Arithmetic {
        match self.dtype {
            DtypeName::Auto => Arithmetic::Auto,
            DtypeName::F32 => Arithmetic::F32,
            DtypeName::F16 => Arithmetic::F16,
            DtypeName::Bf16 => Arithmetic::BF16,
        }
    }

    pub(crate) fn quantize(&self) -> Option<Quantize> {
        self.quantize.map(|name| match name {
            QuantizeName::Q8_0 => Quantize::Q8_0,
            QuantizeName::Q4K => Quantize::Q4K,
        })
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum QuantizeName {
    /// 8 bits
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits; 8 where rows are no whole blocks of 256
    #[value(name = "q4_k")]
    Q4K,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerName {
    /// as it comes
    Transformers,
    /// transformers, and again with a static cache and its step compiled, which takes minutes: decoding at batch 1,
    /// on NVIDIA's GPUs
    Compiled,
    /// llama-bench, which is on PATH; MODEL is a GGUF file
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum EngineName {
    /// infer's own, where they are in this program
    #[default]
    Auto,
    /// infer's own, of 16 bits, on NVIDIA's GPUs
    Fast,
    /// candle's, in a program that was built with them
    Reference,
}

impl EngineName {
    fn engine(self) -> Engine {
        match self {
            Self::Auto => Engine::Auto,
            Self::Fast => Engine::Fast,
            Self::Reference => Engine::Reference,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default)]
pub(crate) enum DtypeName {
    /// f32 on the CPU, with matrices of 16 bits kept in them; on a GPU f16 or bf16 if the model is stored so, and
    /// if not f16, or f32 by candle's kernels; the blocks of a GGUF file stay quantised
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

/// A chat instead of a text.
#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    /// The prompt is what a user says: put it through the model's chat template
    #[arg(long, conflicts_with = "ids")]
    pub(crate) chat: bool,
    /// The system prompt of the chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ChatCommandArgs {
    /// A folder, a GGUF file, a hub id or a recipe, of a model with a chat template
    pub(crate) model: String,
    /// The system prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) length: LengthArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// A folder, a GGUF file, a hub id or a recipe; --layers and --quantize are for it alone
    pub(crate) model: String,
    /// The model to compare with, which may be a recipe, or a .json file with reference logits: it has its
    /// own tokens, and takes none of --prompt, --text, --ids, --max-tokens and --other-…
    pub(crate) other: String,
    /// Compare behind this text; may be given several times [default: five short texts]
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["text", "ids"])]
    pub(crate) prompt: Vec<String>,
    /// Compare at each position of a text: its file, or - for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "ids")]
    pub(crate) text: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ids: IdsArgs,
    /// Compare only so many tokens, from the beginning [default: 512]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Exit with 1 if two logits are further apart
    #[arg(long, value_name = "X")]
    pub(crate) tolerance: Option<f64>,
    /// Exit with 1 if the mean KL(OTHER || MODEL) is larger, in nats
    #[arg(long, value_name = "X")]
    pub(crate) max_kl: Option<f64>,
    /// Exit with 1 if the best tokens agree at a smaller share of positions, from 0 to 1
    #[arg(long, value_name = "X")]
    pub(crate) min_agreement: Option<f64>,
    /// The type of OTHER's arithmetic [default: as MODEL's]
    #[arg(long, value_enum)]
    pub(crate) other_dtype: Option<DtypeName>,
    /// Where OTHER runs [default: as MODEL]
    #[arg(long, value_name = "DEVICE", value_parser = place)]
    pub(crate) other_device: Option<Place>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// A folder, a GGUF file, a hub id or a recipe
    pub(crate) model: String,
    /// Random numbers for weights: MODEL, or a recipe's base, need be no more than a config.json or a folder
    /// with one
    #[arg(long)]
    pub(crate) random_weights: bool,
    /// Lengths of prompts, in tokens
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [128, 512, 2048])]
    pub(crate) prompts: Vec<usize>,
    /// Tokens before those that are decoded
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [16, 1920])]
    pub(crate) contexts: Vec<usize>,
    /// Sequences decoded side by side, at the shortest context
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    pub(crate) batches: Vec<u16>,
    /// Tokens of each decoding; fewer than the model's positions
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) steps: usize,
    /// How often each is measured; the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) repeats: usize,
    /// Time other programs as well, on the same device: transformers, with random weights of the same geometry,
    /// if python3 has it, and llama.cpp, where MODEL is a GGUF file and llama-bench is on PATH; or those named
    #[arg(long, value_name = "PEER,…", value_delimiter = ',', num_args = 0..=1, require_equals = true)]
    pub(crate) compare: Option<Vec<PeerName>>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A folder, a GGUF file, a hub id or a recipe; no weights are read
    pub(crate) model: String,
    /// Positions that the cache is to hold [default: the model's]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
    /// Sequences at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) batch: u16,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {
    /// A folder, a GGUF file, a hub id, or a recipe (.toml), which is run without building it
    pub(crate) model: String,
    /// The text; without it and --ids, stdin up to its last line end
    #[arg(conflicts_with = "ids")]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) ids: IdsArgs,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
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
    /// A folder, a GGUF file, a hub id or a recipe; no weights are read
    pub(crate) model: String,
    /// The text; without it and --ids, stdin up to its last line end
    #[arg(conflicts_with = "ids")]
    pub(crate) text: Option<String>,
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    #[command(flatten)]
    pub(crate) ids: IdsArgs,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    /// Folders, GGUF files, hub ids or recipes; several give a table
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
    /// A folder, a GGUF file, a hub id, or a recipe (.toml), which is run without building it
    pub(crate) model: String,
    /// The text; without it and --ids, stdin up to its last line end
    #[arg(conflicts_with = "ids")]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) ids: IdsArgs,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
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
    /// End before this text; may be given several times [default: the model's `stop_strings`]
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

fn bias(text: &str) -> Result<(u32, f64), String> {
    let pair = text.split_once('=');
    let pair = pair.and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    pair.filter(|(_, bias): &(u32, f64)| !bias.is_nan())
        .ok_or_else(|| "expected ID=X, a token and a number".to_owned())
}
