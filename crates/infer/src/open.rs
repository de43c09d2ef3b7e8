//! A model by the name that a user gives it: found, fetched, checked, loaded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use checkpoint::{Checkpoint, Dtype, Encoding};
use dus::blueprint::{Blueprint, LayoutKind};
use dus::recipe::{Draft, Recipe, Source};
use dus::sources::{self, Access};
use dus::unbuilt::Unbuilt;
use tempfile::TempDir;

use crate::anatomy::EMBEDDING;
use crate::config::DecoderConfig;
use crate::device::{self, Devices};
use crate::error::{Error, Result};
use crate::generation_config::GenerationConfig;
use crate::model::Model;
use crate::placement::{self, GpuLayers, Memory, Needs, Plan};
use crate::progress::{Unit, Watch};
use crate::source::MappedWeights;
use crate::tokenizer::Tokenizer;
use crate::unbuilt::UnbuiltWeights;

/// The type of the arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 on the CPU; on a GPU f16 or bf16 if the model is stored so, and f32 if not.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, of IEEE 754.
    F16,
    /// 16 bits with the range of 32.
    BF16,
}

pub use crate::device::Place;

/// What is asked of a model's place and arithmetic.
#[derive(Debug, Clone, Copy, Default)]
pub struct Placing {
    /// The type of the arithmetic.
    pub arithmetic: Arithmetic,
    /// The device.
    pub place: Place,
    /// How many layers go there.
    pub gpu_layers: GpuLayers,
}

impl Arithmetic {
    fn dtype(self, device: &Device, stored: Dtype) -> DType {
        match self {
            Self::Auto => device::default_dtype(device, stored),
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
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

    /// What its files say of generation.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let donor = self.donor();
        GenerationConfig::read(donor.folder(), donor.config(), &donor.config_path())
    }

    /// Decides what goes where: `positions` are those of all sequences that are to run at once.
    ///
    /// Errors are those of a device that is not there, and of layers that do not fit it.
    pub fn plan(&self, placing: Placing, positions: usize) -> Result<Plan> {
        let device = placing.place.device()?;
        let element_bytes = self.dtype(placing.arithmetic, &device).size_in_bytes();
        let weight_bytes =
            |_: &str, shape: &[usize]| (shape.iter().product::<usize>() * element_bytes) as u64;
        let shared = self.shared();
        let same_as = |name: &str| shared.get(name).copied();
        let needs = Needs::of(&self.config, positions, element_bytes, &weight_bytes, &same_as);
        let gpu = (!device.is_cpu()).then(|| (device::name(&device), device::free_bytes(&device)));
        let memory = Memory { gpu, cpu: device::free_bytes(&Device::Cpu) };
        placement::plan(&needs, &memory, placing.gpu_layers)
    }

    /// Loads its weights, which must have been wanted, as `plan` has it.
    pub fn load_placed(&self, placing: Placing, plan: &Plan, watch: &Watch) -> Result<Model> {
        let device = placing.place.device()?;
        let dtype = self.dtype(placing.arithmetic, &device);
        let (devices, config) = (Devices::of(plan, &device), self.config.clone());
        match &self.files {
            Files::Built { checkpoint, outline: None } => {
                let source = MappedWeights::open(Arc::clone(checkpoint), dtype)?;
                Model::load(config, &source, devices, watch)
            }
            Files::Unbuilt(unbuilt) => {
                let source = UnbuiltWeights::open(Arc::clone(unbuilt), dtype)?;
                Model::load(config, &source, devices, watch)
            }
            Files::Built { .. } | Files::Planned(_) => {
                Err(Error::OutlineOnly { model: self.path().to_owned() })
            }
        }
    }

    /// Loads its weights, as many as fit `place` and the rest on the processor, with room for one
    /// sequence of all positions.
    pub fn load(&self, arithmetic: Arithmetic, place: Place, watch: &Watch) -> Result<Model> {
        let placing = Placing { arithmetic, place, gpu_layers: GpuLayers::Auto };
        let plan = self.plan(placing, self.config.max_position_embeddings)?;
        self.load_placed(placing, &plan, watch)
    }

    /// The type of the arithmetic on `device`: the embedding's stands for what is stored.
    fn dtype(&self, arithmetic: Arithmetic, device: &Device) -> DType {
        let encoding = match &self.files {
            Files::Built { checkpoint, .. } => checkpoint.tensor(EMBEDDING).map(|it| it.encoding),
            Files::Unbuilt(unbuilt) => encoding_in(unbuilt.blueprint()),
            Files::Planned(blueprint) => encoding_in(blueprint),
        };
        match encoding {
            Some(Encoding::Plain(stored)) => arithmetic.dtype(device, stored),
            _ => arithmetic.dtype(device, Dtype::F16),
        }
    }

    /// For tensors of a plan that share their memory a number that is theirs.
    fn shared(&self) -> HashMap<&str, usize> {
        match &self.files {
            Files::Unbuilt(unbuilt) => {
                let names = unbuilt.blueprint().splice.tensors.iter().enumerate();
                names.map(|(i, tensor)| (tensor.name.as_str(), unbuilt.same_as(i))).collect()
            }
            _ => HashMap::new(),
        }
    }
}

fn encoding_in(blueprint: &Blueprint) -> Option<Encoding> {
    let mut tensors = blueprint.splice.tensors.iter();
    tensors.find(|tensor| tensor.name == EMBEDDING).map(|tensor| tensor.encoding)
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
