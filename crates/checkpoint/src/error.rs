//! Everything that can be wrong with a model's files.

use std::io;
use std::path::{Path, PathBuf};

use crate::gguf::GgufError;
use crate::gguf::tokenizer::TokenizerError;
use crate::hub_error::HubError;

/// A `Result` whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a model's files, naming file, tensor or key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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

    /// Nothing stands at the path.
    #[error("{spec} does not exist{}", looked_for(spec, path))]
    NoSuchPath {
        /// The path as it was given.
        spec: String,
        /// Where it was looked for.
        path: PathBuf,
    },

    /// Neither a path nor something of the form `owner/name`.
    #[error("{spec} is neither a path that exists nor a hub id of the form owner/name[@revision]")]
    NotAModel {
        /// The model as it was given.
        spec: String,
    },

    /// A hub id that the local cache does not hold.
    #[error(
        "{spec} is not in the hub's local cache ({}), and no such path exists",
        cache.display()
    )]
    NotInCache {
        /// The hub id as it was given.
        spec: String,
        /// The cache that was searched.
        cache: PathBuf,
    },

    /// A hub id needs a cache, and nothing says where it is.
    #[error("{spec} looks like a hub id, but none of HF_HUB_CACHE, HF_HOME and HOME is set")]
    NoCache {
        /// The hub id as it was given.
        spec: String,
    },

    /// The hub, or the way there, failed.
    #[error(transparent)]
    Hub(Box<HubError>),

    /// A model is asked for and a file of another kind is there.
    #[error("{} is neither a folder with config.json and safetensors files nor a .gguf file", path.display())]
    NotAModelFile {
        /// The file.
        path: PathBuf,
    },

    /// A GGUF file that is broken, or of a kind that is not known.
    #[error("{} is not read as GGUF", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },

    /// A tokenizer that cannot be carried from a GGUF file to a folder, or back.
    #[error("the tokenizer in {} cannot be translated", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: TokenizerError,
    },

    /// A folder of GGUF files, each of which may be a model.
    #[error("{} holds GGUF files, such as {file}; give the file", dir.display())]
    FolderOfGguf {
        /// The folder.
        dir: PathBuf,
        /// One of the files.
        file: String,
    },

    /// A folder with no weights of any known form.
    #[error("{} holds no weights: neither model.safetensors nor model.safetensors.index.json", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },

    /// Shards without the index that says what they hold.
    #[error("{} holds shards such as {shard}, but no model.safetensors.index.json", dir.display())]
    NoIndex {
        /// The folder.
        dir: PathBuf,
        /// One of the shards.
        shard: String,
    },

    /// Only `PyTorch` pickles.
    #[error("{} holds its weights as a PyTorch pickle ({file}), which is not read", dir.display())]
    Pickle {
        /// The folder.
        dir: PathBuf,
        /// One of the pickles.
        file: String,
    },

    /// Only Mistral's own layout.
    #[error("{} holds its weights in Mistral's own form ({file}), whose names and row order are not Hugging Face's", dir.display())]
    Consolidated {
        /// The folder.
        dir: PathBuf,
        /// The weight file.
        file: String,
    },

    /// Only an adapter.
    #[error("{} holds an adapter only; its base is {base}", dir.display())]
    AdapterOnly {
        /// The folder.
        dir: PathBuf,
        /// `base_model_name_or_path` of its `adapter_config.json`, or "not named".
        base: String,
    },

    /// A link, folder or device where a file is needed.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path, links not yet followed.
        path: PathBuf,
    },

    /// A Git LFS pointer where the file itself should be.
    #[error("{} is a Git LFS pointer, not the file itself", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },

    /// A saved web page where a file should be.
    #[error("{} is a web page, not a model file", path.display())]
    WebPage {
        /// The file.
        path: PathBuf,
    },

    /// A JSON file that is none.
    #[error("{} is not a JSON object", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's word, with line and column.
        source: serde_json::Error,
    },

    /// A key whose value has the wrong type.
    #[error("`{key}` in {} is {found}, expected {expected}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What should stand there.
        expected: &'static str,
        /// What stands there, or "absent".
        found: String,
    },

    /// A file name that leads out of the folder.
    #[error("{} names the file {name:?}, which leaves the folder", path.display())]
    NameLeavesFolder {
        /// The index, or the config.
        path: PathBuf,
        /// The file name in it.
        name: String,
    },

    /// A shard that the index names and that is not there.
    #[error("{shard}, which {} names, is missing", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The file name in it.
        shard: String,
    },

    /// A tensor that the index gives to a shard which lacks it.
    #[error("`{tensor}` is in the index but not in {}", shard.display())]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// The shard that should hold it.
        shard: PathBuf,
    },

    /// A tensor in a shard other than the index says.
    #[error("`{tensor}` is in {}, but the index gives it to {expected}", shard.display())]
    TensorInOtherShard {
        /// The tensor.
        tensor: String,
        /// The shard that holds it.
        shard: PathBuf,
        /// The shard that should.
        expected: String,
    },

    /// One name in two shards, and no index that decides.
    #[error("`{tensor}` is in both {first} and {second}")]
    TensorTwice {
        /// The tensor.
        tensor: String,
        /// A shard that holds it.
        first: String,
        /// Another.
        second: String,
    },

    /// A file too short for any header.
    #[error("{} has {bytes} bytes, too few for a safetensors header", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },

    /// A header that says it is longer than its file or than safetensors allows.
    #[error("{} says its header has {header} bytes, but the file has {file} (and a header at most 100,000,000)", path.display())]
    HeaderTooLong {
        /// The file.
        path: PathBuf,
        /// The header's length as the file says.
        header: u64,
        /// The file's length.
        file: u64,
    },

    /// A header that is not a JSON object of tensors with distinct names.
    #[error("the header of {} is broken", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The parser's word.
        source: serde_json::Error,
    },

    /// A tensor whose bytes are more or fewer than its shape and dtype need.
    #[error("`{tensor}` in {} has {found} bytes, but {shape:?} of {dtype} needs {expected}", path.display())]
    TensorBytes {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its dtype.
        dtype: safetensors::Dtype,
        /// What shape and dtype need, "more than any file has" on overflow.
        expected: String,
        /// The length of its range; negative if reversed.
        found: i128,
    },

    /// Two tensors that overlap, or bytes that belong to none.
    #[error("`{tensor}` in {} begins at {found}, but the tensors before it end at {expected}", path.display())]
    Offsets {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where the bytes before it end, counted from the end of the header.
        expected: u64,
        /// Where it begins.
        found: u64,
    },

    /// A file longer or shorter than its tensors.
    #[error("{} has {found} bytes, but its header and tensors need {expected}", path.display())]
    FileLength {
        /// The file.
        path: PathBuf,
        /// What header and tensors need.
        expected: u64,
        /// What the file has.
        found: u64,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), doing, source }
    }

    /// What the user can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Hub(error) => return error.hint(),
            Self::NotInCache { spec, .. } => {
                let (repo, revision) = spec.split_once('@').unwrap_or((spec, ""));
                let revision = if revision.is_empty() {
                    String::new()
                } else {
                    format!(" --revision {revision}")
                };
                format!("`hf download {repo}{revision}` fetches it into the cache")
            }
            Self::Pickle { dir, .. } => format!(
                "convert it with transformers: `AutoModelForCausalLM.from_pretrained(\"{}\", \
                 dtype=\"auto\").save_pretrained(\"converted\")`, and copy the tokenizer files over",
                dir.display()
            ),
            Self::Consolidated { .. } => "take the Hugging Face form of the same model \
                 (model-0000N-of-0000M.safetensors), or convert it with transformers' \
                 `convert_mistral_weights_to_hf.py`"
                .to_owned(),
            Self::AdapterOnly { .. } => {
                "merge it into its base first (peft's `merge_and_unload`)".to_owned()
            }
            Self::LfsPointer { .. } => "`git lfs pull` fetches the file".to_owned(),
            Self::WebPage { .. } => "download the file again, by its `resolve` address".to_owned(),
            Self::MissingShard { .. } | Self::MissingTensor { .. } | Self::FileLength { .. } => {
                "the model looks incomplete; download it again".to_owned()
            }
            Self::NoIndex { .. } => "the index came with the shards; fetch it too".to_owned(),
            _ => return None,
        })
    }
}

impl From<HubError> for Error {
    fn from(error: HubError) -> Self {
        Self::Hub(Box::new(error))
    }
}

/// Where a path was looked for, if that is not how it was given.
fn looked_for(spec: &str, path: &Path) -> String {
    if path == Path::new(spec) { String::new() } else { format!(": looked for {}", path.display()) }
}
