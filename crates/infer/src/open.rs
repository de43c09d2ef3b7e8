//! A model by the name that a user gives it: found, fetched, checked, loaded.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use checkpoint::{Checkpoint, folder};
use dus::blueprint::{Blueprint, LayoutKind};
use dus::recipe::{Draft, Recipe, Source};
use dus::sources::{self, Access};
use dus::splice::NewTensor;
use dus::unbuilt::Unbuilt;
use tempfile::TempDir;

use crate::anatomy::Expected;
use crate::chat_template::ChatTemplate;
use crate::config::DecoderConfig;
use crate::error::{Error, Result};
use crate::generation_config::GenerationConfig;
use crate::memory::Footprint;
use crate::model::Model;
use crate::progress::{Unit, Watch};
use crate::random_weights::RandomWeights;
use crate::source::MappedWeights;
use crate::tokenizer::Tokenizer;
use crate::unbuilt::UnbuiltWeights;

/// The type of the arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 on the CPU.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, of IEEE 754.
    F16,
    /// 16 bits with the range of 32.
    BF16,
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    /// The best there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU of NVIDIA's, by its number.
    Cuda(usize),
    /// A GPU of Apple's.
    Metal,
}

impl Arithmetic {
    /// The type of activations and of the cache.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::Auto | Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }
}

impl Place {
    /// The device; the error says why there is none.
    pub fn device(self) -> Result<Device> {
        let without = |device: String| Error::NoDevice {
            device,
            reason: "this infer was built for the CPU".to_owned(),
        };
        match self {
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => Err(without(format!("cuda:{number}"))),
            Self::Metal => Err(without("metal".to_owned())),
        }
    }
}

/// How much of a model is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All that is needed to run it; from the hub it comes into the cache.
    Weights,
    /// What stands beside the weights, and their headers; of a model on the hub no weights are fetched.
    Outline,
}

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// A folder, a hub id, or a recipe (`.toml`), which is run unbuilt.
    pub model: String,
    /// A layer plan to run the model through, in place of the recipe's if it is one.
    pub layers: Option<String>,
}

impl Spec {
    /// A model as it is, or a recipe.
    #[must_use]
    pub fn new(model: &str) -> Self {
        Self { model: model.to_owned(), layers: None }
    }
}

/// A model whose files were read and checked; its weights were not.
#[derive(Debug)]
pub struct Opened {
    /// Its sizes and switches.
    pub config: DecoderConfig,
    /// What a user should hear.
    pub notes: Vec<String>,
    files: Files,
}

/// Where a model's tensors are.
#[derive(Debug)]
enum Files {
    Built {
        checkpoint: Arc<Checkpoint>,
        /// A folder of headers, for as long as this is kept.
        outline: Option<TempDir>,
    },
    Unbuilt(Arc<Unbuilt>),
    /// A plan of which only headers are here.
    Planned(Box<Blueprint>),
}

impl Opened {
    /// Finds the model that `spec` names, fetching what is `wanted` of it if need be, and reads its
    /// config and headers.
    pub fn find(spec: &Spec, wanted: Wanted, watch: &Watch) -> Result<Self> {
        let access = match wanted {
            Wanted::Weights => Access::Weights,
            Wanted::Outline => Access::SideFiles,
        };
        match recipe(spec)? {
            Some(recipe) => Self::unbuilt(recipe, access, watch),
            None => Self::built(&here(&spec.model), access, watch),
        }
    }

    fn built(source: &Source, access: Access, watch: &Watch) -> Result<Self> {
        let found = with_dus_watch(watch, |watch| sources::find(source, access, watch))?;
        let checkpoint = Checkpoint::open(&found.location.path)?;
        if checkpoint.gguf().is_some() {
            let path = found.location.path;
            return Err(Error::NotYet { path, what: "a GGUF file" });
        }
        let config = DecoderConfig::read(checkpoint.config(), &checkpoint.config_path())?;
        let notes = found.notice.into_iter().collect();
        let checkpoint = Arc::new(checkpoint);
        Ok(Self { config, notes, files: Files::Built { checkpoint, outline: found.outline } })
    }

    fn unbuilt(recipe: Recipe, access: Access, watch: &Watch) -> Result<Self> {
        let blueprint = with_dus_watch(watch, |watch| {
            Blueprint::with_access(recipe, LayoutKind::default(), None, access, watch)
        })?;
        let notes = blueprint.notes();
        let donor = &blueprint.donor().checkpoint;
        if donor.gguf().is_some() {
            let path = donor.path().to_owned();
            return Err(Error::NotYet { path, what: "a GGUF file" });
        }
        let config = DecoderConfig::read(&blueprint.config()?.config, &donor.config_path())?;
        let files = if access == Access::Weights {
            let unbuilt = with_dus_watch(watch, |watch| Unbuilt::new(blueprint, watch))?;
            Files::Unbuilt(Arc::new(unbuilt))
        } else {
            Files::Planned(Box::new(blueprint))
        };
        Ok(Self { config, notes, files })
    }

    /// Whose tokenizer and settings of generation the model has: itself, or that of its embeddings.
    fn donor(&self) -> &Checkpoint {
        match &self.files {
            Files::Built { checkpoint, .. } => checkpoint,
            Files::Unbuilt(unbuilt) => &unbuilt.blueprint().donor().checkpoint,
            Files::Planned(blueprint) => &blueprint.donor().checkpoint,
        }
    }

    /// Where it lies; of a plan, the model that gives the embeddings.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.donor().path()
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::open(self.donor().folder(), self.config.vocab_size)
    }

    /// How it wants a chat written.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::open(self.donor().folder())
    }

    /// What its files say of generation.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let donor = self.donor();
        GenerationConfig::read(donor.folder(), donor.config(), &donor.config_path())
    }

    /// What it would take in memory; layers that have the same bytes take them once.
    #[must_use]
    pub fn footprint(&self, arithmetic: Arithmetic) -> Footprint {
        let repeated = match &self.files {
            Files::Built { .. } => HashSet::new(),
            Files::Unbuilt(unbuilt) => repeated(unbuilt.blueprint()),
            Files::Planned(blueprint) => repeated(blueprint),
        };
        let dtype = arithmetic.dtype();
        let bytes = |tensor: &Expected| {
            if repeated.contains(&*tensor.name) { 0 } else { bytes_in(tensor, dtype) }
        };
        Footprint::new(&self.config, bytes, dtype)
    }

    /// Loads its weights, which must have been wanted.
    pub fn load(&self, arithmetic: Arithmetic, place: Place, watch: &Watch) -> Result<Model> {
        let (dtype, device, config) = (arithmetic.dtype(), place.device()?, self.config.clone());
        match &self.files {
            Files::Built { checkpoint, outline: None } => {
                let source = MappedWeights::open(Arc::clone(checkpoint), dtype, &device)?;
                Model::load(config, &source, watch)
            }
            Files::Unbuilt(unbuilt) => {
                let source = UnbuiltWeights::open(Arc::clone(unbuilt), dtype, &device)?;
                Model::load(config, &source, watch)
            }
            Files::Built { .. } | Files::Planned(_) => {
                Err(Error::OutlineOnly { model: self.path().to_owned() })
            }
        }
    }
}

/// The config of a model of which no more than that need be there: a folder with it, or the file.
pub fn config_alone(spec: &str) -> Result<DecoderConfig> {
    let path = Path::new(spec);
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    DecoderConfig::read(&folder::read_object(&path)?, &path)
}

/// A model of this config with random weights.
pub fn load_random(
    config: &DecoderConfig,
    spec: &str,
    arithmetic: Arithmetic,
    place: Place,
    watch: &Watch,
) -> Result<Model> {
    let device = place.device()?;
    let source = RandomWeights::new(config, Path::new(spec), arithmetic.dtype(), &device);
    Model::load(config.clone(), &source, watch)
}

/// What a model of this config takes in memory, all of it in the type of the arithmetic.
#[must_use]
pub fn footprint(config: &DecoderConfig, arithmetic: Arithmetic) -> Footprint {
    let dtype = arithmetic.dtype();
    Footprint::new(config, |tensor| bytes_in(tensor, dtype), dtype)
}

fn bytes_in(tensor: &Expected, dtype: DType) -> u64 {
    (tensor.shape.iter().product::<usize>() * dtype.size_in_bytes()) as u64
}

/// The names of new tensors whose bytes are those of an earlier one.
fn repeated(blueprint: &Blueprint) -> HashSet<&str> {
    let mut seen: HashMap<(usize, usize), Vec<&NewTensor>> = HashMap::new();
    let mut repeated = HashSet::new();
    for tensor in &blueprint.splice.tensors {
        let alike = seen.entry((tensor.model, tensor.source)).or_default();
        // Noise goes by the tensor's name, so that no two are alike.
        let has_noise = tensor.change.as_ref().is_some_and(|change| !change.noises.is_empty());
        if !has_noise && alike.iter().any(|earlier| earlier.change == tensor.change) {
            repeated.insert(tensor.name.as_str());
        } else {
            alike.push(tensor);
        }
    }
    repeated
}

/// The recipe that a model is run by, if it is one or a plan is given.
fn recipe(spec: &Spec) -> Result<Option<Recipe>> {
    let path = Path::new(&spec.model);
    let is_recipe = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("toml"));
    let draft = match (is_recipe && path.is_file(), &spec.layers) {
        (false, None) => return Ok(None),
        (true, _) => Draft::read(path)?,
        (false, Some(_)) => Draft { base: Some(here(&spec.model)), ..Draft::default() },
    };
    let flags = Draft { layers: spec.layers.clone(), ..Draft::default() };
    Ok(Some(draft.replaced_by(flags).finish()?))
}

/// A model that was named on the command line.
fn here(model: &str) -> Source {
    Source { spec: model.to_owned(), relative_to: PathBuf::new() }
}

/// Calls `f` with a watch that tells `watch` of what `dus` does.
fn with_dus_watch<T>(
    watch: &Watch,
    f: impl FnOnce(&dus::progress::Watch) -> dus::Result<T>,
) -> Result<T> {
    use dus::progress::Progress;
    let progress = |progress| match progress {
        Progress::Begin { doing, bytes } => watch.begin(doing, bytes, Unit::Bytes),
        Progress::Done(bytes) => watch.done(bytes),
        Progress::Lost(_) | Progress::Waiting(_) | Progress::Syncing => {}
    };
    let called = f(&dus::progress::Watch { progress: &progress, is_cancelled: watch.is_cancelled });
    called.map_err(|error| if error.is_cancelled() { Error::Cancelled } else { error.into() })
}
