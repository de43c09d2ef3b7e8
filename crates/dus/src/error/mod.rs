//! Everything that can stop a build.

mod forms;
mod output;
mod provenance;
mod quantised;
mod tensors;

use std::io;
use std::path::{Path, PathBuf};

use checkpoint::hub::HubError;

use crate::arithmetic::UnsupportedEncoding;
use crate::plan::PlanError;
use crate::settings::SettingError;
use crate::size::Bytes;

pub use forms::FormError;
pub use output::{Difference, OutputError};
pub use provenance::ProvenanceError;
pub use quantised::QuantisedError;
pub use tensors::TensorsError;

/// A `Result` whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What stops a build, naming file, tensor, key or place in the plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be copied into another.
    #[error("{} cannot be copied into {}", source_file.display(), target.display())]
    Copy {
        /// The file that is read.
        source_file: PathBuf,
        /// The file that is written.
        target: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },

    /// A model's files are wrong.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),

    /// The plan is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),

    /// The place where the build goes, or what stands there.
    #[error(transparent)]
    Output(#[from] OutputError),

    /// The tensors of a model, or of several.
    #[error(transparent)]
    Tensors(#[from] TensorsError),

    /// What has no place in the form that is to be written.
    #[error(transparent)]
    Form(#[from] FormError),

    /// A cast or an operation that quantised weights do not take.
    #[error(transparent)]
    Quantised(#[from] QuantisedError),

    /// What a build says of itself, or the base that it names.
    #[error(transparent)]
    Provenance(#[from] ProvenanceError),

    /// The base's config cannot be made deeper.
    #[error("{} cannot be made deeper", config.display())]
    Setting {
        /// The base's `config.json`.
        config: PathBuf,
        /// Which key, and why.
        source: SettingError,
    },

    /// The operating system refused.
    #[error("{} cannot be {doing}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as in "cannot be read".
        doing: &'static str,
        /// The operating system's word.
        source: io::Error,
    },

    /// The caller asked to stop.
    #[error("stopped")]
    Cancelled,

    /// A recipe that is not TOML, or has unknown keys or values of a wrong type.
    #[error("{} is not a recipe", path.display())]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// The parser's word, with line and column.
        source: Box<toml::de::Error>,
    },

    /// A mergekit file, which is not read yet.
    #[error("{} looks like a mergekit YAML file, which is not supported yet", path.display())]
    MergekitYaml {
        /// The file.
        path: PathBuf,
    },

    /// A recipe without a key that it needs.
    #[error("the recipe has no `{key}`")]
    RecipeLacks {
        /// The key.
        key: &'static str,
    },

    /// A recipe with one base and several models.
    #[error("the recipe has both `base` and `[models]`; one base needs no names")]
    BaseAndModels,

    /// A key with a value that it cannot have.
    #[error("`{key}` is {value:?}, expected {expected}")]
    RecipeValue {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },

    /// A key that names a model which the recipe does not have.
    #[error("`{key}` names the model {value:?}, but the recipe has {}", if known.is_empty() { "one base without a name" } else { known })]
    UnknownModel {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The models' names.
        known: String,
    },

    /// Embeddings, norm or head made of several models, which no build makes yet.
    #[error("`{key}` is {value:?}: `mix` is not built yet; name one model")]
    MixedGlobals {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },

    /// Tensors outside the layers from several models, of which it is not known what they are.
    #[error("which tensors are embeddings, norm and head is not known for this family")]
    UnknownGlobals,

    /// Layers made of several, which no build makes yet.
    #[error("new layer {layer} is made of several (`mix`, `slerp`); such layers are not built yet")]
    MadeLayer {
        /// The new layer's number.
        layer: usize,
    },

    /// Noise relative to a tensor that has values which are not finite.
    #[error("noise on `{tensor}` has no measure: the source has values that are not finite")]
    NoRms {
        /// The source tensor.
        tensor: String,
    },

    /// GGUF files that cannot be one model.
    #[error(
        "layers of several GGUF files cannot be joined: `{key}` of {other} differs, or stands once a layer"
    )]
    UnlikeMetadata {
        /// The key.
        key: String,
        /// The other model.
        other: String,
    },

    /// Metadata that `config.json` cannot say.
    #[error("{} cannot become a folder: {what}", path.display())]
    Untranslated {
        /// The GGUF file.
        path: PathBuf,
        /// What cannot be said.
        what: String,
    },

    /// A hub id that is not in the cache and could not be had from the hub.
    #[error(
        "{spec} is not in the hub's local cache ({}), and no such path exists; the hub did not give it",
        cache.display()
    )]
    NotOnHub {
        /// The hub id.
        spec: String,
        /// The cache that was searched.
        cache: PathBuf,
        /// What the hub said, or why it was not asked.
        source: checkpoint::Error,
    },

    /// Weights that are on the hub only.
    #[error("the weights are on the hub only")]
    OnlyHeaders,

    /// Models of both forms in one plan.
    #[error(
        "{first} and {other} are of different forms, a folder and a GGUF file; their layers cannot be joined"
    )]
    UnlikeForms {
        /// A model.
        first: String,
        /// Another.
        other: String,
    },

    /// A recipe that does not say which form is wanted.
    #[error("the base is a GGUF file, and {}", is_not_named_gguf(out))]
    WhichForm {
        /// The output.
        out: PathBuf,
    },

    /// An output whose name is not that of the form.
    #[error("a GGUF file is asked for, and {}", is_not_named_gguf(out))]
    NotNamedGguf {
        /// The output.
        out: PathBuf,
    },

    /// Something about shards, of which a GGUF file has none.
    #[error("`{asked}` is about the shards of a folder, and a GGUF file is to be written")]
    ShardsOfFile {
        /// The key or flag.
        asked: &'static str,
    },

    /// An operation or a cast of a type that has no arithmetic here.
    #[error("`{tensor}` cannot be computed")]
    Unsupported {
        /// The new tensor.
        tensor: String,
        /// Which type, and why.
        source: UnsupportedEncoding,
    },

    /// Values too large for the type that they are cast to.
    #[error(
        "too large for {dtype}, so that they would become infinite: {count} values, the first in `{tensor}`"
    )]
    Overflow {
        /// How many.
        count: u64,
        /// The first new tensor by name that has such values.
        tensor: String,
        /// The type that they do not fit.
        dtype: &'static str,
    },

    /// A build that stopped, and left what is done.
    #[error("{} of {} are done, and stay in {}", Bytes(*bytes), out.display(), partial.display())]
    Unfinished {
        /// The output.
        out: PathBuf,
        /// The hidden folder that holds it.
        partial: PathBuf,
        /// How much of the weights is done.
        bytes: u64,
        /// Why it stopped.
        source: Box<Error>,
    },

    /// Extents to be shared and no run whose blocks line up.
    #[error("no blocks could be shared")]
    NothingShared,

    /// The demo's model is nowhere from here upwards.
    #[error("{path} is neither in {} nor in a folder above it", dir.display())]
    NoExample {
        /// The example's path in the project.
        path: &'static str,
        /// The working directory.
        dir: PathBuf,
    },

    /// A command that there is none of.
    #[error("there is no command `{name}`")]
    NoSuchCommand {
        /// What was typed.
        name: String,
    },

    /// A file that is neither a recipe nor a model.
    #[error("{} is a file; a recipe ends in .toml, and a model is a folder or ends in .gguf", path.display())]
    NotARecipe {
        /// The file.
        path: PathBuf,
    },
}

impl Error {
    /// Whether it is that the caller asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Unfinished { source, .. } => source.is_cancelled(),
            _ => false,
        }
    }

    /// Whether it is that what came from the hub is not what the hub lists.
    #[must_use]
    pub fn is_damaged_download(&self) -> bool {
        match self {
            Self::Checkpoint(checkpoint::Error::Hub(error)) => {
                matches!(**error, HubError::Hash { .. } | HubError::Changed { .. })
            }
            _ => false,
        }
    }

    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Checkpoint(error) | Self::NotOnHub { source: error, .. } => return error.hint(),
            Self::Output(error) => return error.hint(),
            Self::Tensors(error) => return error.hint(),
            Self::Provenance(error) => return error.hint(),
            Self::Setting { source, .. } => return source.hint().map(str::to_owned),
            Self::RecipeLacks { key: "base" } => {
                "give a recipe or a model, as in `dus build ./Mistral-7B-v0.1 --layers 'dus(8)' -o OUT`"
                    .to_owned()
            }
            Self::RecipeLacks { key: "layers" } => {
                "`--layers 'dus(8)'` makes SOLAR's plan of a base of 32 layers".to_owned()
            }
            Self::Overflow { .. } => {
                "--allow-overflow writes them as infinity; bfloat16 has the range of float32".to_owned()
            }
            Self::WhichForm { .. } => {
                "-o NAME.gguf builds a GGUF file, --to hf a folder".to_owned()
            }
            Self::NotNamedGguf { .. } => "-o NAME.gguf names it".to_owned(),
            Self::ShardsOfFile { .. } => {
                "leave it out, as flag and as key of the recipe: a GGUF file is never split".to_owned()
            }
            Self::Unfinished { out, source, .. } => {
                let first = source.hint().map_or(String::new(), |hint| format!("{hint}\nhint: "));
                let out = out.display();
                format!("{first}--resume goes on with it; `dus clean {out}` removes it")
            }
            Self::NothingShared => "`--shard-layout source` arranges files so that they share".to_owned(),
            Self::UnknownGlobals => {
                "`embeddings`, `norm` and `lm_head` must name one model, which gives them all".to_owned()
            }
            Self::NoExample { .. } => "run it in a clone of the project".to_owned(),
            _ => return None,
        })
    }
}

/// Says why a path is not that of a GGUF file.
fn is_not_named_gguf(out: &Path) -> String {
    let out_text = out.display();
    if out.file_name().is_some_and(|name| name.eq_ignore_ascii_case(".gguf")) {
        format!("{out_text} has nothing before its ending")
    } else {
        format!("{out_text} does not end in .gguf")
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
