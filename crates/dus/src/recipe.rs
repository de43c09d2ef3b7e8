//! What to build: read from a TOML file, from flags, or from both.
//!
//! [`Draft`] is what was written, a file's keys or a command line's flags; [`Recipe`] is what is
//! meant, checked. Where the models lie is found later, and no model is read here.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use checkpoint::gguf::GgmlType;
use checkpoint::json::Entries;
use checkpoint::{Dtype, Encoding};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::plan::{Plan, is_model_name};
use crate::settings::Architecture;
use crate::size;

/// Hugging Face's limit of a shard when SOLAR was released, in bytes.
const DEFAULT_MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// The keys of a recipe as they were written, each of which may be missing.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// `base`.
    pub base: Option<Source>,
    /// `[models]`, in order.
    pub models: Vec<(String, Source)>,
    /// `layers`.
    pub layers: Option<String>,
    /// `architecture`.
    pub architecture: Option<String>,
    /// `dtype`.
    pub dtype: Option<String>,
    /// `to`.
    pub to: Option<String>,
    /// `max_shard_size`.
    pub max_shard_size: Option<String>,
    /// `embeddings`.
    pub embeddings: Option<String>,
    /// `norm`.
    pub norm: Option<String>,
    /// `lm_head`.
    pub lm_head: Option<String>,
}

/// A model as it was written, and the folder that a path is relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A path or a hub id.
    pub spec: String,
    /// The recipe's folder, or the working directory.
    pub relative_to: PathBuf,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The models, the one that is meant without a name first; `None` names a recipe's `base`.
    pub models: Vec<(Option<String>, Source)>,
    /// Which layer of them each new layer is.
    pub layers: Plan,
    /// The plan as it was written.
    pub layers_text: String,
    /// The architecture to write, if it is not the base's.
    pub architecture: Option<Architecture>,
    /// The type to cast floating-point tensors to.
    pub dtype: Option<TensorType>,
    /// The form to write, if the recipe says so.
    pub to: Option<Form>,
    /// The most bytes of tensors in a shard.
    pub max_shard_bytes: u64,
    /// Whether that is asked for; else it is the default, which a GGUF file has no use for.
    pub limits_shards: bool,
    /// The model that gives the embeddings, if the recipe says so.
    pub embeddings: Option<String>,
    /// The model that gives the final norm.
    pub norm: Option<String>,
    /// The model that gives `lm_head`.
    pub lm_head: Option<String>,
}

/// The form of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Hugging Face's: a folder of safetensors files and a config.
    Folder,
    /// A GGUF file.
    Gguf,
}

impl Form {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Folder => "hf",
            Self::Gguf => "gguf",
        }
    }
}

impl FromStr for Form {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "hf" => Ok(Self::Folder),
            "gguf" => Ok(Self::Gguf),
            _ => Err(Error::RecipeValue {
                key: "to",
                value: text.to_owned(),
                expected: "hf or gguf",
            }),
        }
    }
}

/// A type that tensors can be cast to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// IEEE half precision.
    Float16,
    /// The upper half of single precision.
    Bfloat16,
    /// Single precision.
    Float32,
    /// Blocks of 32 bytes and a scale, in a GGUF file.
    Q8_0,
}

impl TensorType {
    /// Its name in recipes, and in `config.json` if it can stand there.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
            Self::Float32 => "float32",
            Self::Q8_0 => "q8_0",
        }
    }

    /// How elements of it are stored.
    #[must_use]
    pub fn encoding(self) -> Encoding {
        match self {
            Self::Float16 => Dtype::F16.into(),
            Self::Bfloat16 => Dtype::BF16.into(),
            Self::Float32 => Dtype::F32.into(),
            Self::Q8_0 => GgmlType::Q8_0.into(),
        }
    }
}

impl FromStr for TensorType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "float16" | "f16" => Ok(Self::Float16),
            "bfloat16" | "bf16" => Ok(Self::Bfloat16),
            "float32" | "f32" => Ok(Self::Float32),
            "q8_0" => Ok(Self::Q8_0),
            _ => Err(Error::RecipeValue {
                key: "dtype",
                value: text.to_owned(),
                expected: "float16, bfloat16 or float32, or q8_0 in a GGUF file",
            }),
        }
    }
}

/// The keys of a recipe's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipe {
    base: Option<String>,
    models: Option<Entries<String>>,
    layers: Option<String>,
    architecture: Option<String>,
    dtype: Option<String>,
    to: Option<String>,
    max_shard_size: Option<RawSize>,
    embeddings: Option<String>,
    norm: Option<String>,
    lm_head: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of bytes, or a size such as \"5GB\"")]
enum RawSize {
    Bytes(u64),
    Text(String),
}

impl Draft {
    /// Reads the recipe at `path`; paths in it are relative to its folder.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), doing: "read", source };
        let text = fs::read_to_string(path).map_err(failed)?;
        let raw: RawRecipe = toml::from_str(&text)
            .map_err(|source| Error::Recipe { path: path.to_owned(), source: Box::new(source) })?;
        let relative_to = path.parent().unwrap_or(Path::new("")).to_owned();
        let source = |spec| Source { spec, relative_to: relative_to.clone() };
        let models = raw.models.map(|Entries(models)| models).unwrap_or_default();
        Ok(Self {
            base: raw.base.map(source),
            models: models.into_iter().map(|(name, spec)| (name, source(spec))).collect(),
            layers: raw.layers,
            architecture: raw.architecture,
            dtype: raw.dtype,
            to: raw.to,
            max_shard_size: raw.max_shard_size.map(|size| match size {
                RawSize::Bytes(bytes) => bytes.to_string(),
                RawSize::Text(text) => text,
            }),
            embeddings: raw.embeddings,
            norm: raw.norm,
            lm_head: raw.lm_head,
        })
    }

    /// This draft, with every key that `flags` has replaced by it.
    #[must_use]
    pub fn replaced_by(self, flags: Self) -> Self {
        let mut models = self.models;
        for (name, source) in flags.models {
            match models.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = source,
                None => models.push((name, source)),
            }
        }
        Self {
            base: flags.base.or(self.base),
            models,
            layers: flags.layers.or(self.layers),
            architecture: flags.architecture.or(self.architecture),
            dtype: flags.dtype.or(self.dtype),
            to: flags.to.or(self.to),
            max_shard_size: flags.max_shard_size.or(self.max_shard_size),
            embeddings: flags.embeddings.or(self.embeddings),
            norm: flags.norm.or(self.norm),
            lm_head: flags.lm_head.or(self.lm_head),
        }
    }

    /// What the draft means; an error names the key that is missing or wrong.
    pub fn finish(self) -> Result<Recipe> {
        let models: Vec<(Option<String>, Source)> = match (self.base, self.models) {
            (Some(_), models) if !models.is_empty() => return Err(Error::BaseAndModels),
            (Some(base), _) => vec![(None, base)],
            (None, models) if models.is_empty() => return Err(Error::RecipeLacks { key: "base" }),
            (None, models) => models.into_iter().map(|(name, m)| (Some(name), m)).collect(),
        };
        if let Some((Some(name), _)) =
            models.iter().find(|(name, _)| name.as_ref().is_some_and(|name| !is_model_name(name)))
        {
            return Err(Error::RecipeValue {
                key: "models",
                value: name.clone(),
                expected: "names of letters, digits and _, and not n",
            });
        }
        let layers_text = self.layers.ok_or(Error::RecipeLacks { key: "layers" })?;
        let layers = Plan::parse(&layers_text)?;
        let architecture = match self.architecture.as_deref() {
            None => None,
            Some("llama") => Some(Architecture::Llama),
            Some(other) => {
                return Err(Error::RecipeValue {
                    key: "architecture",
                    value: other.to_owned(),
                    expected: "llama",
                });
            }
        };
        for (key, value) in
            [("embeddings", &self.embeddings), ("norm", &self.norm), ("lm_head", &self.lm_head)]
        {
            check_giver(key, value.as_deref(), &models)?;
        }
        let limits_shards = self.max_shard_size.is_some();
        let max_shard_bytes = self.max_shard_size.map_or(Ok(DEFAULT_MAX_SHARD_BYTES), |value| {
            size::parse(&value).ok_or(Error::RecipeValue {
                key: "max_shard_size",
                value,
                expected: "a size such as 5GB, 500MB or 4GiB",
            })
        })?;
        Ok(Recipe {
            models,
            layers,
            layers_text,
            architecture,
            dtype: self.dtype.map(|dtype| dtype.parse()).transpose()?,
            to: self.to.map(|form| form.parse()).transpose()?,
            max_shard_bytes,
            limits_shards,
            embeddings: self.embeddings,
            norm: self.norm,
            lm_head: self.lm_head,
        })
    }
}

/// Checks a key that names the model which gives embeddings, norm or head.
fn check_giver(
    key: &'static str,
    value: Option<&str>,
    models: &[(Option<String>, Source)],
) -> Result<()> {
    let Some(value) = value else { return Ok(()) };
    if value.trim_start().starts_with("mix") {
        return Err(Error::MixedGlobals { key, value: value.to_owned() });
    }
    if models.iter().any(|(name, _)| name.as_deref() == Some(value)) {
        return Ok(());
    }
    let names: Vec<&str> = models.iter().filter_map(|(name, _)| name.as_deref()).collect();
    Err(Error::UnknownModel { key, value: value.to_owned(), known: names.join(", ") })
}
