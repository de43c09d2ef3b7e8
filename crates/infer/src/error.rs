//! Everything that can keep a model from running.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use checkpoint::Encoding;
use checkpoint::gguf::GgufError;

/// A `Result` whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What keeps a model from running, naming file, tensor, key or token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model's files are wrong.
    #[error(transparent)]
    Checkpoint(checkpoint::Error),

    /// A model was not found, or its plan cannot be followed.
    #[error(transparent)]
    Plan(dus::Error),

    /// The operating system refused.
    #[error("{} cannot be {doing}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as in "cannot be read".
        doing: &'static str,
        /// The operating system's word.
        source: io::Error,
    },

    /// The tensor library failed.
    #[error("the tensor library failed")]
    Tensors(#[from] candle_core::Error),

    /// A model of an architecture that the decoder does not have.
    #[error("{} is of the architecture {found}, which is not run", config.display())]
    UnknownArchitecture {
        /// The config.
        config: PathBuf,
        /// `model_type` or `architectures`, as it stands there.
        found: String,
    },

    /// A key of the config that is absent or has a value of a wrong kind.
    #[error("`{key}` in {} is {found}, expected {expected}", config.display())]
    Key {
        /// The config.
        config: PathBuf,
        /// The key.
        key: String,
        /// What should stand there.
        expected: &'static str,
        /// What stands there, or "absent".
        found: String,
    },

    /// A key of the config that asks for arithmetic which the decoder does not have.
    #[error("`{key}` in {} is {found}, which is not run", config.display())]
    Unsupported {
        /// The config.
        config: PathBuf,
        /// The key.
        key: String,
        /// What stands there.
        found: String,
    },

    /// A tensor that the config promises and the files lack.
    #[error("`{tensor}` is missing in {}{}", model.display(), and_more(*more))]
    MissingTensor {
        /// The model.
        model: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// How many more there are.
        more: usize,
    },

    /// A tensor that the config does not promise: the model computes something else.
    #[error("`{tensor}` in {} is not accounted for by the config{}", model.display(), and_more(*more))]
    ExtraTensor {
        /// The model.
        model: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// How many more there are.
        more: usize,
    },

    /// A tensor whose shape is not what the config says.
    #[error("`{tensor}` in {} has the shape {found:?}, but the config says {expected:?}", model.display())]
    Shape {
        /// The model.
        model: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape by the config.
        expected: Vec<usize>,
        /// Its shape in the files.
        found: Vec<usize>,
    },

    /// A tensor of numbers that are not computed with.
    #[error("`{tensor}` is stored as {encoding}, which is not run")]
    Encoding {
        /// The tensor.
        tensor: String,
        /// How it is stored.
        encoding: Encoding,
    },

    /// A matrix of numbers that no scale stands for.
    #[error("`{tensor}` cannot be quantised: not all of its numbers are finite")]
    QuantizeNotFinite {
        /// The tensor.
        tensor: String,
    },

    /// A matrix that cannot be quantised.
    #[error("`{tensor}` cannot be quantised")]
    Quantize {
        /// The tensor.
        tensor: String,
        /// Why not.
        source: candle_core::Error,
    },

    /// A model without a tokenizer where text is given or wanted.
    #[error("{} has no tokenizer{}", model.display(), if is_gguf(model) { "" } else { ".json" })]
    NoTokenizer {
        /// The model.
        model: PathBuf,
    },

    /// A tokenizer that cannot be read.
    #[error("{} is not read as a tokenizer: {reason}", path.display())]
    Tokenizer {
        /// Its file.
        path: PathBuf,
        /// The tokenizer library's word.
        reason: String,
    },

    /// A text that the tokenizer refuses.
    #[error("the tokenizer failed: {reason}")]
    Encode {
        /// The tokenizer library's word.
        reason: String,
    },

    /// A tokenizer made for another model.
    #[error("{} has the token {token:?} with the id {id}, but the model has ids up to {}", path.display(), vocab_size - 1)]
    TokenizerVocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// How many tokens the model has.
        vocab_size: usize,
    },

    /// A chat with a model that has no template for one.
    #[error("{} has no chat template", model.display())]
    NoChatTemplate {
        /// The model's folder.
        model: PathBuf,
    },

    /// A chat template that cannot be read.
    #[error("{} is not read as a chat template: {reason}", path.display())]
    ChatTemplate {
        /// The file that it stands in.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// A chat template that fails, or that refuses the messages.
    #[error("the chat template failed: {reason}")]
    TemplateFailed {
        /// Its own word, or where it went wrong.
        reason: String,
    },

    /// A command that a chat does not know.
    #[error("there is no command /{command}")]
    UnknownChatCommand {
        /// The command, without its stroke.
        command: String,
    },

    /// A chat is to be saved or loaded, and no file is named.
    #[error("/{command} needs the name of a file")]
    NoFileNamed {
        /// The command, without its stroke.
        command: String,
    },

    /// A question is to be taken back, and none was asked.
    #[error("nothing has been asked yet")]
    NothingToTakeBack,

    /// A file that is not what a chat is saved as.
    #[error("{} is not a list of messages", path.display())]
    Messages {
        /// The file.
        path: PathBuf,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },

    /// A token that the model does not have.
    #[error("there is no token {id}: the model has ids up to {}", vocab_size - 1)]
    NoSuchToken {
        /// The id.
        id: u32,
        /// How many tokens the model has.
        vocab_size: usize,
    },

    /// Nothing to begin with.
    #[error("the prompt is empty: there is no token to begin with")]
    EmptyPrompt,

    /// A stretch of layers that the model does not have.
    #[error("there are no layers {}..{}: the model has {num_layers}", range.start, range.end)]
    NoSuchLayers {
        /// The stretch.
        range: Range<usize>,
        /// How many layers the model has.
        num_layers: usize,
    },

    /// More tokens than the model has positions.
    #[error("{needed} tokens are more than the {available} positions that the model has")]
    TooManyTokens {
        /// How many positions it takes.
        needed: usize,
        /// `max_position_embeddings`.
        available: usize,
    },

    /// `--max-length` leaves nothing to generate.
    #[error(
        "the prompt has {prompt} tokens, which a length of at most {max_length} leaves no room behind"
    )]
    NoRoom {
        /// Tokens of the prompt.
        prompt: usize,
        /// The bound on prompt and new tokens.
        max_length: usize,
    },

    /// A text too short to be scored.
    #[error("{found} tokens are too few to score: {needed} are needed")]
    TooShort {
        /// How many there are.
        found: usize,
        /// How many are needed.
        needed: usize,
    },

    /// An option whose value makes no sense.
    #[error("{option} is {found}, expected {expected}")]
    OptionValue {
        /// The option, as on the command line.
        option: &'static str,
        /// Its value.
        found: String,
        /// What is meant.
        expected: &'static str,
    },

    /// An option that says nothing about what was asked.
    #[error("{option} has no meaning {place}")]
    NoMeaning {
        /// The option, as on the command line.
        option: &'static str,
        /// Where not, and why, as in "beside a file of logits, which has its own tokens".
        place: &'static str,
    },

    /// Steps that a model has no room for.
    #[error(
        "{option} {found} leaves no token before them in the {available} positions of the model"
    )]
    NoRoomFor {
        /// The option, as on the command line.
        option: &'static str,
        /// Its value.
        found: usize,
        /// `max_position_embeddings`.
        available: usize,
    },

    /// No position at which models could be compared.
    #[error("there is nothing to compare: {what} is empty")]
    NothingToCompare {
        /// What has no tokens, as in "the text".
        what: &'static str,
    },

    /// Logits that are no numbers.
    #[error("the logits are not finite: {place} is the first to give such numbers")]
    NotFinite {
        /// What made them: the embedding, a layer by its number, or the head.
        place: String,
    },

    /// A quantised matrix whose numbers are none, where the logits would not show it.
    #[error("`{tensor}` has numbers that are not finite")]
    NotFiniteWeights {
        /// The tensor.
        tensor: String,
    },

    /// A model of which only the headers were asked for.
    #[error("the weights of {} were not asked for", model.display())]
    OutlineOnly {
        /// The model.
        model: PathBuf,
    },

    /// Models that cannot be compared.
    #[error("the models differ in their {what}: {model} and {other}")]
    Incomparable {
        /// What they differ in.
        what: &'static str,
        /// How many the model has.
        model: usize,
        /// How many the other has.
        other: usize,
    },

    /// A GGUF file of a model that no config describes.
    #[error("{} is not run: {what}", path.display())]
    NotInConfig {
        /// The file.
        path: PathBuf,
        /// What the config cannot say.
        what: String,
    },

    /// A device that is not there.
    #[error("there is no device {device}: {reason}")]
    NoDevice {
        /// As it was asked for.
        device: String,
        /// Why not.
        reason: String,
    },

    /// A device that this program was not built for.
    #[error("there is no device {device}: this infer was built for the CPU")]
    NotBuiltFor {
        /// As it was asked for.
        device: String,
        /// The feature that it is built with.
        feature: &'static str,
    },

    /// f32 was asked for on a GPU with kernels of 16 bits.
    #[error("the kernels for GPUs compute in 16 bits, not in f32")]
    NoF32,

    /// candle's kernels were asked for on a GPU, and are not in this program.
    #[error(
        "the reference engine for {device} is not in this infer, whose kernels for GPUs are its own"
    )]
    NoReferenceEngine {
        /// The device.
        device: String,
    },

    /// Kernels of our own were asked for where there are none.
    #[error(
        "there is no fast engine for {device}{}",
        reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default()
    )]
    NoFastEngine {
        /// The device.
        device: String,
        /// Why there is no GPU.
        reason: Option<String>,
    },

    /// Another program was to be timed, and was not.
    #[error("{peer} is not timed: {reason}")]
    Peer {
        /// What it is called.
        peer: &'static str,
        /// Why.
        reason: String,
    },

    /// A GPU failed.
    #[cfg(feature = "cuda")]
    #[error("the GPU failed")]
    Card(#[source] kernels::Error),

    /// A model that the kernels for GPUs do not have.
    #[error("the kernels for GPUs do not have this model: {reason}")]
    NotOnCard {
        /// Why.
        reason: String,
    },

    /// What is to lie on a device that has no room for it.
    #[error("{what} need {} on {device}, which has {} free", gib(*needed), gib(*free))]
    DoesNotFit {
        /// The device.
        device: String,
        /// Layers, and other parts.
        what: String,
        /// The bytes that they take, with cache and work.
        needed: u64,
        /// The bytes that are free.
        free: u64,
        /// What would fit.
        fits: String,
    },

    /// Memory that ran out while the model ran.
    #[error("{device} ran out of memory: {} were planned for, and {} are free now", gib(*planned), gib(*free))]
    OutOfMemory {
        /// The device.
        device: String,
        /// The bytes that the model was to take there.
        planned: u64,
        /// The bytes that are free now.
        free: u64,
    },

    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,
}

impl From<checkpoint::Error> for Error {
    /// The error; that of a GGUF file which no crate here knows is that of any model which is not run.
    fn from(error: checkpoint::Error) -> Self {
        match error {
            checkpoint::Error::Gguf { path, source: GgufError::Architecture { found, .. } } => {
                Self::UnknownArchitecture { config: path, found }
            }
            error => Self::Checkpoint(error),
        }
    }
}

impl From<dus::Error> for Error {
    fn from(error: dus::Error) -> Self {
        match error {
            dus::Error::Checkpoint(error) => error.into(),
            error => Self::Plan(error),
        }
    }
}

impl Error {
    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Checkpoint(error) => return error.hint(),
            Self::Plan(error) => return error.hint(),
            Self::UnknownArchitecture { .. } => {
                format!("the decoder runs {}", crate::family::names())
            }
            Self::NoTokenizer { .. } => {
                "--ids gives tokens by number, and needs no tokenizer".to_owned()
            }
            Self::MissingTensor { tensor, .. } if tensor == "lm_head.weight" => {
                "a model whose head is its embedding says `\"tie_word_embeddings\": true`"
                    .to_owned()
            }
            Self::MissingTensor { .. } => {
                "the model looks incomplete; download it again".to_owned()
            }
            Self::NoChatTemplate { .. } => {
                "a base model goes on with texts: infer generate MODEL PROMPT, without --chat".to_owned()
            }
            Self::UnknownChatCommand { .. } => "/help lists them".to_owned(),
            Self::TokenizerVocabulary { .. } => {
                "take the tokenizer files of the model that the weights came from".to_owned()
            }
            Self::EmptyPrompt => {
                "the tokenizer adds no token of its own (BOS); give a text or --ids".to_owned()
            }
            Self::NotBuiltFor { feature, .. } => format!(
                "`cargo install --path crates/infer --features {feature}` builds one for it; docs/gpu.md says what that needs"
            ),
            Self::NoReferenceEngine { .. } => {
                "an infer that was built with --features candle-cuda has it (docs/gpu.md); --device cpu \
                 computes without a GPU"
                    .to_owned()
            }
            Self::NoFastEngine { .. } => {
                let built = if cfg!(feature = "cuda") {
                    "it is for NVIDIA's GPUs"
                } else {
                    "it is for NVIDIA's GPUs, in an infer that was built with --features cuda"
                };
                format!("{built}; --engine auto takes what there is")
            }
            Self::NoF32 => "--device cpu computes in f32; so does an infer that was built with --features candle-cuda"
                .to_owned(),
            Self::NotOnCard { .. } => {
                "--device cpu runs it; so does an infer that was built with --features candle-cuda".to_owned()
            }
            Self::DoesNotFit { fits, .. } if !fits.is_empty() => fits.clone(),
            Self::OutOfMemory { .. } => {
                "--gpu-layers N leaves more of the model to the cpu; a shorter --max-length, a smaller --num \
                 and --quantize take less"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

#[cfg(feature = "cuda")]
impl From<kernels::Error> for Error {
    /// A file that cannot be read is no failure of the GPU.
    fn from(error: kernels::Error) -> Self {
        match error {
            kernels::Error::Read { path, source } => Self::Io { path, doing: "read", source },
            kernels::Error::ShortFile { path, .. } => {
                let source = std::io::ErrorKind::UnexpectedEof.into();
                Self::Io { path, doing: "read", source }
            }
            error => Self::Card(error),
        }
    }
}

fn is_gguf(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        1 => ", as is 1 more".to_owned(),
        _ => format!(", as are {more} more"),
    }
}

/// Bytes in GiB, or in MiB below a tenth of one.
#[must_use]
pub fn gib(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 100.0 { format!("{mib:.1} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

/// An error and its causes on one line.
#[must_use]
pub fn one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
