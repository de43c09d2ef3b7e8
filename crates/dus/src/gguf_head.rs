//! What a GGUF file says before its tensors: metadata, and small tensors that stand for settings.

use std::path::Path;

use checkpoint::gguf::header::DEFAULT_ALIGNMENT;
use checkpoint::gguf::tokenizer::{self, TokenizerFiles};
use checkpoint::gguf::{self, Architecture, GgmlType, Header, Metadata, names};
use checkpoint::json::Object;
use checkpoint::{Checkpoint, Encoding, Gguf};

use crate::error::{Error, FormError, Result};
use crate::settings;
use crate::shards::{self, ShardLayout};
use crate::size;
use crate::splice::{Model, NewTensor, Splice};

/// The keys of provenance begin with this, and `dus.manifest` holds what a folder has as `dus.json`.
pub const MANIFEST_KEY: &str = "dus.manifest";

/// The key of a checksum of the tensors' names, types and shapes, by which a build is told from what
/// another tool made of one and left the manifest in.
const TENSORS_KEY: &str = "dus.tensors";

/// What a GGUF file says before its tensors.
#[derive(Debug)]
pub struct GgufHead {
    /// The metadata.
    pub metadata: Metadata,
    /// Settings that GGUF stores as vectors of f32, by their names.
    pub settings: Vec<(&'static str, Vec<f32>)>,
    /// What tensors' beginnings are multiples of.
    pub alignment: u64,
    /// What a user should hear.
    pub notes: Vec<String>,
}

impl GgufHead {
    /// The metadata of a GGUF file, for layers that are these of its own, or of others that have the
    /// same settings and up to `num_base_layers` layers.
    pub fn deepened(gguf: &Gguf, layers: &[usize], num_base_layers: usize) -> Result<Self> {
        let mut metadata = gguf.metadata.clone();
        let count = gguf.architecture.key("block_count");
        if metadata.u64(&count)?.is_some_and(|count| count < num_base_layers as u64) {
            metadata.set(&count, &(num_base_layers as u32));
        }
        let name = gguf.architecture.name;
        let notes = settings::deepen_metadata(&mut metadata, name, layers, num_base_layers)
            .map_err(|source| Error::Setting { config: gguf.metadata.path().to_owned(), source })?;
        metadata.remove(|key| gguf::split::is_split_key(key) || key.starts_with("dus."));
        Ok(Self { metadata, settings: Vec::new(), alignment: gguf.alignment, notes })
    }

    /// The metadata for the folder of `donor`, whose config for the new depth is `config` and most of
    /// whose weights are stored as `weights`.
    pub fn of_folder(
        donor: &Checkpoint,
        config: &Object,
        architecture: &Architecture,
        weights: Encoding,
    ) -> Result<Self> {
        let untranslated = |source| FormError::NotInGgufForm {
            config: donor.config_path(),
            source: Box::new(source),
        };
        let mut metadata = Metadata::new(donor.path());
        let weights = weights.ggml_type().expect("the encoding was translated");
        let parameters = gguf::to_metadata(config, architecture, "", weights, &mut metadata)
            .map_err(untranslated)?;
        let mut notes = parameters.notes;
        let files = TokenizerFiles::read(donor.path())?;
        let num_rows = donor.num_embedding_rows();
        notes.extend(tokenizer::to_metadata(&files, num_rows, &mut metadata)?);
        let settings = parameters.tensors.into_iter();
        let settings = settings.map(|(tensor, values)| (tensor.name(), values)).collect();
        Ok(Self { metadata, settings, alignment: DEFAULT_ALIGNMENT, notes })
    }

    /// Says that most of the weights are stored as `weights` now.
    pub fn set_type(&mut self, weights: Encoding) {
        let file_type = weights.ggml_type().and_then(gguf::parameters::file_type);
        if let Some(file_type) = file_type {
            self.metadata.set("general.file_type", &file_type);
        }
        if self.metadata.get("general.quantization_version").is_none() {
            self.metadata
                .set("general.quantization_version", &gguf::parameters::QUANTIZATION_VERSION);
        }
    }

    /// Names the model, after its base and the plan, and says how large it is.
    pub fn describe(&mut self, base: &str, layers: &str, num_parameters: u64) {
        self.metadata.set("general.name", format!("{base} {layers}").as_str());
        if self.metadata.get("general.size_label").is_some() {
            self.metadata.set("general.size_label", size::label(num_parameters).as_str());
        }
        if self.metadata.get("general.parameter_count").is_some() {
            self.metadata.set("general.parameter_count", &num_parameters);
        }
    }

    /// The file called `name` that has this head and the tensors of `splice`.
    #[must_use]
    pub fn lay_out(
        &self,
        splice: &Splice,
        models: &[Model],
        architecture: &Architecture,
        name: &str,
    ) -> ShardLayout {
        shards::in_one_file(splice, models, name, self.alignment, |tensors, residue| {
            self.encode(tensors, architecture, residue)
        })
    }

    fn encode(&self, tensors: &[&NewTensor], architecture: &Architecture, residue: u64) -> Vec<u8> {
        let name_of = |tensor: &&NewTensor| {
            names::in_gguf(architecture, &tensor.name).expect("it was found when translated").name
        };
        let new_names: Vec<String> = tensors.iter().map(name_of).collect();
        let described = tensors.iter().zip(&new_names).map(|(tensor, name)| {
            let ggml_type = tensor.encoding.ggml_type().expect("the encoding was translated");
            (name.as_str(), ggml_type, tensor.shape.as_slice())
        });
        let settings: Vec<(&str, &[f32])> =
            self.settings.iter().map(|(name, values)| (*name, values.as_slice())).collect();
        let described: Vec<_> = described.collect();
        let vectors = settings.iter().map(|(name, values)| (*name, GgmlType::F32, values.len()));
        let vectors: Vec<_> = vectors.map(|(name, ty, length)| (name, ty, vec![length])).collect();
        let first = vectors.iter().map(|(name, ty, shape)| (*name, *ty, shape.as_slice()));
        let mut metadata = self.metadata.clone();
        metadata.set(TENSORS_KEY, &checksum(first.chain(described.iter().copied())));
        gguf::header::encode(&metadata, &settings, described, self.alignment, residue)
    }

    /// A head without a key, for a layout whose real head cannot be made.
    #[must_use]
    pub fn empty(path: &Path) -> Self {
        let (metadata, settings, notes) = (Metadata::new(path), Vec::new(), Vec::new());
        Self { metadata, settings, alignment: DEFAULT_ALIGNMENT, notes }
    }
}

/// Whether the tensors of the file at `path` are those that it was built with, by its header alone.
///
/// A file that was cut short still has them.
pub(crate) fn has_its_tensors(path: &Path) -> bool {
    let Ok(header) = Header::read_cut_short(path) else { return false };
    let tensors = header.tensors.iter().map(|t| (t.name.as_str(), t.ggml_type, t.shape.as_slice()));
    header.metadata.u64(TENSORS_KEY).is_ok_and(|built| built == Some(checksum(tensors).into()))
}

/// A checksum of tensors in the order of their bytes: a line of name, type and shape for each.
fn checksum<'a>(tensors: impl Iterator<Item = (&'a str, GgmlType, &'a [usize])>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for (name, ggml_type, shape) in tensors {
        hasher.update(format!("{name} {ggml_type} {shape:?}\n").as_bytes());
    }
    hasher.finalize()
}
