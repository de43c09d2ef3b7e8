//! Everything that can stop a build.

use std::io;
use std::path::PathBuf;

use checkpoint::Encoding;
use checkpoint::gguf::GgufError;
use checkpoint::hub::HubError;

use crate::arithmetic::UnsupportedEncoding;
use crate::plan::PlanError;
use crate::settings::SettingError;
use crate::size::Bytes;

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

    /// A path that JSON cannot hold.
    #[error("the path {} is not Unicode, so that no {} can name it", path.display(), crate::manifest::FILE)]
    NotUnicode {
        /// The path.
        path: PathBuf,
    },

    /// A model's files are wrong.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),

    /// The plan is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),

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

    /// A layer that the config promises and the weights lack.
    #[error(
        "`{prefix}.{layer}` is not in the weights, but the config promises {num_layers} layers"
    )]
    LayerMissing {
        /// What stands before the layer number.
        prefix: String,
        /// The first layer that is missing.
        layer: usize,
        /// The config's layer count.
        num_layers: usize,
    },

    /// A layer that the weights have and the config does not promise.
    #[error(
        "`{prefix}.{layer}` is in the weights, but the config promises {num_layers} layers only"
    )]
    LayerNotPromised {
        /// What stands before the layer number.
        prefix: String,
        /// The first layer too many.
        layer: usize,
        /// The config's layer count.
        num_layers: usize,
    },

    /// No tensor's name has a layer number that fits.
    #[error("no tensors are numbered as the {num_layers} layers that the config promises")]
    NoLayers {
        /// The config's layer count.
        num_layers: usize,
    },

    /// Several stacks of layers that could be meant.
    #[error("`{prefixes}` each have the {num_layers} layers that the config promises")]
    SeveralStacks {
        /// What stands before their layer numbers.
        prefixes: String,
        /// The config's layer count.
        num_layers: usize,
    },

    /// A tensor that every model of the family has.
    #[error("`{tensor}` is missing in {}", dir.display())]
    TensorMissing {
        /// The tensor.
        tensor: String,
        /// The model's folder.
        dir: PathBuf,
    },

    /// A tensor whose shape the config contradicts.
    #[error("`{tensor}` in {} has shape {found:?}, but the config says {expected:?} ({keys})", file.display())]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the config says.
        expected: Vec<u64>,
        /// The config's keys that say so.
        keys: String,
    },

    /// Models whose layers have different names.
    #[error(
        "models are not alike: the layers of {first} are `{first_prefix}`, those of {other} `{other_prefix}`"
    )]
    UnlikeNames {
        /// A model.
        first: String,
        /// What stands before its layer numbers.
        first_prefix: String,
        /// Another.
        other: String,
        /// What stands before its layer numbers.
        other_prefix: String,
    },

    /// Models whose tensors have different shapes.
    #[error(
        "models are not alike: `{tensor}` has shape {found:?} in {other}, but {expected:?} in {first}"
    )]
    UnlikeShapes {
        /// The tensor as it is called in `other`.
        tensor: String,
        /// A model.
        first: String,
        /// The shape there.
        expected: Vec<usize>,
        /// Another.
        other: String,
        /// The shape there.
        found: Vec<usize>,
    },

    /// A cast of a model whose weights are quantised.
    #[error("weights cannot be cast to {dtype}: `quantization_config` in {} says that they are quantised", config.display())]
    CastOfQuantised {
        /// The config.
        config: PathBuf,
        /// The type asked for.
        dtype: Encoding,
    },

    /// A cast of a model in which tensors are quantised, though its config does not say so.
    #[error("weights cannot be cast to {dtype}: `{tensor}` is {found}, which is quantised")]
    CastBesideQuantised {
        /// A quantised tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
        /// The type asked for.
        dtype: Encoding,
    },

    /// Noise relative to a tensor that has values which are not finite.
    #[error("noise on `{tensor}` has no measure: the source has values that are not finite")]
    NoRms {
        /// The source tensor.
        tensor: String,
    },

    /// An operation on a quantised tensor.
    #[error("an operation matches `{tensor}`, which is quantised: `{mate}` is {encoding}")]
    ChangeOfQuantised {
        /// The tensor.
        tensor: String,
        /// The tensor beside it that shows so.
        mate: String,
        /// Its type.
        encoding: Encoding,
    },

    /// Noise on quantised blocks that stay quantised.
    #[error(
        "noise cannot be added to `{tensor}`: it is {found}, whose blocks are copied as they are"
    )]
    NoiseOfBlocks {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
    },

    /// A scale that the blocks' own scales cannot take exactly.
    #[error(
        "`{tensor}` cannot be scaled by {factor}: it is {found}, whose blocks take only powers of two (some only positive ones)"
    )]
    ScaleOfBlocks {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
        /// The product of all scales on it.
        factor: f64,
    },

    /// Blocks whose scale would under- or overflow.
    #[error("quantised blocks cannot be scaled exactly: {count} of them, the first in `{tensor}`")]
    Inexact {
        /// How many.
        count: u64,
        /// The first new tensor by name that has such blocks.
        tensor: String,
    },

    /// A cast of quantised blocks that stay in a GGUF file.
    #[error(
        "`{tensor}` is {found} and cannot be cast to {dtype} in a GGUF file; its blocks are copied as they are"
    )]
    CastOfBlocks {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
        /// The type asked for.
        dtype: &'static str,
    },

    /// A type that only a GGUF file can have.
    #[error("dtype {dtype} is for GGUF files; a folder takes float16, bfloat16 or float32")]
    DtypeOfGguf {
        /// The type asked for.
        dtype: &'static str,
    },

    /// A model whose tensors have no names in GGUF files.
    #[error("the model_type in {} has no architecture of GGUF here; known are {known}", config.display())]
    NoArchitecture {
        /// The config.
        config: PathBuf,
        /// The model types that have one.
        known: String,
    },

    /// A tensor whose rows are no whole number of heads.
    #[error(
        "`{tensor}` has {rows} rows, which are no whole number of heads of even size by `{key}`"
    )]
    Heads {
        /// The tensor.
        tensor: String,
        /// Its rows.
        rows: usize,
        /// The key of the number of heads.
        key: &'static str,
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

    /// A config that says what GGUF's metadata cannot.
    #[error("{} cannot become the metadata of a GGUF file", config.display())]
    NotInGgufForm {
        /// The config.
        config: PathBuf,
        /// What cannot be said.
        source: Box<GgufError>,
    },

    /// A tensor that models of its architecture do not have in GGUF files.
    #[error("`{tensor}` has no name in GGUF files")]
    NoNameInGguf {
        /// The tensor.
        tensor: String,
    },

    /// A tensor that a GGUF file cannot hold.
    #[error("`{tensor}` is {found}, which a GGUF file cannot hold")]
    NotInGguf {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Encoding,
    },

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
    #[error("the base is a GGUF file, and {} does not end in .gguf", out.display())]
    WhichForm {
        /// The output.
        out: PathBuf,
    },

    /// An output whose name is not that of the form.
    #[error("a GGUF file is asked for, and {} does not end in .gguf", out.display())]
    NotNamedGguf {
        /// The output.
        out: PathBuf,
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

    /// An output that is the base, lies in it or holds it.
    #[error("the output {} {how} the base {}", out.display(), base.display())]
    OutputIsBase {
        /// The output.
        out: PathBuf,
        /// "is", "lies in" or "holds".
        how: &'static str,
        /// The base.
        base: PathBuf,
    },

    /// An output at which a file system is mounted.
    #[error("the output {} is a mount point, which cannot be replaced as a whole", out.display())]
    OutputIsMountPoint {
        /// The output.
        out: PathBuf,
    },

    /// An output that exists and is not a folder.
    #[error("the output {} exists and is not a folder", out.display())]
    OutputIsFile {
        /// The output.
        out: PathBuf,
    },

    /// A folder where a GGUF file is to go.
    #[error("the output {} is a folder; a GGUF file is to go there", out.display())]
    OutputIsFolder {
        /// The output.
        out: PathBuf,
    },

    /// A file that no build left, where a GGUF file is to go.
    #[error("the output {} exists, and no build left it: it has no dus.manifest among its keys", out.display())]
    OutputIsForeignFile {
        /// The output.
        out: PathBuf,
    },

    /// A GGUF file that an earlier build left.
    #[error("the output {} exists", out.display())]
    OutputIsBuild {
        /// The output.
        out: PathBuf,
    },

    /// An earlier build that a killed one moved aside and did not bring back.
    #[error("the output {} was being replaced when a build was killed; the earlier one is {}", out.display(), aside.display())]
    OutputMovedAside {
        /// The output.
        out: PathBuf,
        /// Where what stood there is now.
        aside: PathBuf,
    },

    /// An output folder with files in it.
    #[error("the output {} is not empty", out.display())]
    OutputNotEmpty {
        /// The output.
        out: PathBuf,
        /// Whether an earlier build left it, so that it may be replaced.
        is_build: bool,
    },

    /// A folder to be replaced that no build left.
    #[error("the output {} has no dus.json: no build left it, so --force does not replace it", out.display())]
    OutputIsForeign {
        /// The output.
        out: PathBuf,
    },

    /// Another process that builds at the same place.
    #[error("another build is writing {}", partial.display())]
    Busy {
        /// The folder that it writes.
        partial: PathBuf,
    },

    /// An interrupted build that was to make something else, or of another base.
    #[error("the interrupted build of {} cannot be gone on with: {difference}", out.display())]
    OtherBuild {
        /// The output.
        out: PathBuf,
        /// What differs.
        difference: Difference,
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

    /// The only copy of an earlier build, where what is left over is removed.
    #[error("{} may be all that there is of an earlier build: nothing stands at {}", aside.display(), out.display())]
    OnlyCopy {
        /// The output.
        out: PathBuf,
        /// Where what stood there is now.
        aside: PathBuf,
    },

    /// Too little room for the new files.
    #[error("{} has {free} free, but the build needs {needed}", dir.display(), free = Bytes(*free), needed = Bytes(*needed))]
    DiskFull {
        /// The folder that the output goes to.
        dir: PathBuf,
        /// The bytes free there.
        free: u64,
        /// The bytes needed.
        needed: u64,
    },

    /// Extents to be shared where that cannot be.
    #[error("no blocks of {} can be shared with files in {}", source_file.display(), dir.display())]
    CannotShare {
        /// A source file.
        source_file: PathBuf,
        /// The folder that the output goes to.
        dir: PathBuf,
    },

    /// Extents to be shared and no run whose blocks line up.
    #[error("no blocks could be shared")]
    NothingShared,

    /// Files of the output that are not what was to be written.
    #[error("the new {} is not what was written: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },

    /// A folder or file that no build left.
    #[error("{} is not a build: it has no {}", out.display(), if out.is_file() { "dus.manifest among its keys" } else { "dus.json" })]
    NotABuild {
        /// The folder or file.
        out: PathBuf,
    },

    /// A `dus.json` that does not say what it should.
    #[error("{} cannot be understood", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The parser's word.
        source: serde_json::Error,
    },

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

    /// A base that is no longer where the build's `dus.json` says.
    #[error("the base of this build is not where its {} says", crate::manifest::FILE)]
    BaseGone {
        /// What is wrong there.
        source: checkpoint::Error,
    },

    /// One base for a build of several models.
    #[error("this build is of several models ({names}), not of one base")]
    BaseOfSeveral {
        /// Their names.
        names: String,
    },

    /// A file that is neither a recipe nor a model.
    #[error("{} is a file; a recipe ends in .toml, and a model is a folder or ends in .gguf", path.display())]
    NotARecipe {
        /// The file.
        path: PathBuf,
    },

    /// A base that is not the one that a build was made from.
    #[error("{} is not the base of this build: {what}", path.display())]
    OtherBase {
        /// The base.
        path: PathBuf,
        /// What differs.
        what: String,
    },
}

/// What keeps an interrupted build from being gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Something else is asked for.
    Key {
        /// The key, mostly of the recipe.
        key: String,
        /// What it was.
        was: String,
        /// What it is.
        is: String,
    },
    /// A file of the base is not what it was.
    Source {
        /// The file.
        path: PathBuf,
        /// What is different.
        what: String,
    },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Key { key, was, is } => write!(f, "its `{key}` was {was}, and now is {is}"),
            Self::Source { path, what } => write!(f, "{} has changed: {what}", path.display()),
        }
    }
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
            Self::OutputIsBuild { .. } | Self::OutputNotEmpty { is_build: true, .. } => {
                "--force of `dus build` replaces what an earlier build left; -o names another place".to_owned()
            }
            Self::CannotShare { .. } => {
                "base and output must lie on one file system with shared extents (XFS, btrfs); \
                 `--copy auto` copies elsewhere"
                    .to_owned()
            }
            Self::NothingShared => "`--shard-layout source` arranges files so that they share".to_owned(),
            Self::TensorMissing { .. } | Self::LayerMissing { .. } => {
                "the base looks incomplete; download it again".to_owned()
            }
            Self::UnknownGlobals => {
                "`embeddings`, `norm` and `lm_head` must name one model, which gives them all".to_owned()
            }
            Self::NoExample { .. } => "run it in a clone of the project".to_owned(),
            Self::OtherBuild { out, .. } => format!(
                "without --resume it begins anew; `dus clean {}` removes what was left",
                out.display()
            ),
            Self::Unfinished { out, source, .. } => {
                let first = source.hint().map_or(String::new(), |hint| format!("{hint}\nhint: "));
                let out = out.display();
                format!("{first}--resume goes on with it; `dus clean {out}` removes it")
            }
            Self::OnlyCopy { out, aside } => {
                let (out, aside) = (out.display(), aside.display());
                format!("`mv {aside} {out}` brings it back; --force removes it")
            }
            Self::OutputMovedAside { out, aside } => {
                format!("`mv {} {}` brings it back", aside.display(), out.display())
            }
            Self::BaseOfSeveral { .. } => "--model NAME=PATH names one of them".to_owned(),
            Self::OtherBase { .. } | Self::BaseGone { .. } => "--base PATH names the base where it is now".to_owned(),
            _ => return None,
        })
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
