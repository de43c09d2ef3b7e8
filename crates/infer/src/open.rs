//! A model by the name that a user gives it: found, fetched, checked, loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use checkpoint::hub::{self, Hub, HubError, ModelId};
use checkpoint::{Checkpoint, Dtype, Encoding};

use crate::anatomy::EMBEDDING;
use crate::config::DecoderConfig;
use crate::device::{self, Devices};
use crate::error::{Error, Result, one_line};
use crate::generation_config::GenerationConfig;
use crate::model::Model;
use crate::placement::{self, GpuLayers, Memory, Needs, Plan};
use crate::progress::{Progress, Unit, Watch};
use crate::source::MappedWeights;
use crate::tokenizer::Tokenizer;

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

/// A model whose files were read and checked; its weights were not.
#[derive(Debug)]
pub struct Opened {
    /// Its files.
    pub checkpoint: Arc<Checkpoint>,
    /// Its sizes and switches.
    pub config: DecoderConfig,
    /// What a user should hear.
    pub notes: Vec<String>,
}

impl Opened {
    /// Finds the model that `spec` names, fetching it if need be, and reads its config and headers.
    pub fn find(spec: &str, watch: &Watch) -> Result<Self> {
        let (path, notes) = find(spec, watch)?;
        let checkpoint = Checkpoint::open(&path)?;
        if checkpoint.gguf().is_some() {
            return Err(Error::NotYet { path, what: "a GGUF file" });
        }
        let config = DecoderConfig::read(checkpoint.config(), &checkpoint.config_path())?;
        Ok(Self { checkpoint: Arc::new(checkpoint), config, notes })
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::open(self.checkpoint.folder(), self.config.vocab_size)
    }

    /// What its files say of generation.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let checkpoint = &self.checkpoint;
        GenerationConfig::read(checkpoint.folder(), checkpoint.config(), &checkpoint.config_path())
    }

    /// Decides what goes where: `positions` are those of all sequences that are to run at once.
    ///
    /// Errors are those of a device that is not there, and of layers that do not fit it.
    pub fn plan(&self, placing: Placing, positions: usize) -> Result<Plan> {
        let device = placing.place.device()?;
        let element_bytes = self.dtype(placing.arithmetic, &device).size_in_bytes();
        let weight_bytes =
            |_: &str, shape: &[usize]| (shape.iter().product::<usize>() * element_bytes) as u64;
        let needs =
            Needs::of(&self.config, positions, element_bytes, &weight_bytes, &|layer| layer);
        let gpu = (!device.is_cpu()).then(|| (device::name(&device), device::free_bytes(&device)));
        let memory = Memory { gpu, cpu: device::free_bytes(&Device::Cpu) };
        placement::plan(&needs, &memory, placing.gpu_layers)
    }

    /// Loads its weights, as `plan` has it.
    pub fn load_placed(&self, placing: Placing, plan: &Plan, watch: &Watch) -> Result<Model> {
        let device = placing.place.device()?;
        let dtype = self.dtype(placing.arithmetic, &device);
        let source = MappedWeights::open(Arc::clone(&self.checkpoint), dtype)?;
        Model::load(self.config.clone(), &source, Devices::of(plan, &device), watch)
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
        let stored = match self.checkpoint.tensor(EMBEDDING).map(|tensor| tensor.encoding) {
            Some(Encoding::Plain(stored)) => stored,
            _ => Dtype::F16,
        };
        arithmetic.dtype(device, stored)
    }
}

/// The path of a model, and what a user should hear of the way there.
fn find(spec: &str, watch: &Watch) -> Result<(PathBuf, Vec<String>)> {
    let path = Path::new(spec);
    let is_recipe = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("toml"));
    if is_recipe && path.is_file() {
        return Err(Error::NotYet { path: path.to_owned(), what: "a recipe" });
    }
    let missing_in = match hub::locate(spec, Path::new("")) {
        Ok(location) if location.hub.is_none() => return Ok((location.path, Vec::new())),
        Ok(_) => None,
        Err(checkpoint::Error::NotInCache { cache, .. }) => Some(cache),
        Err(error) => return Err(error.into()),
    };
    // The cache may hold some of a model's files only: the hub knows which there are.
    let found = fetch(spec, watch).map_err(|error| match (error, missing_in) {
        (Error::Checkpoint(source), Some(cache)) => {
            Error::NotOnHub { spec: spec.to_owned(), cache, source }
        }
        (error, _) => error,
    })?;
    let notice = found.notice.map(|error| {
        format!("the hub could not be asked ({}); the cache's copy is used", one_line(&error))
    });
    Ok((found.location.path, notice.into_iter().collect()))
}

fn fetch(spec: &str, watch: &Watch) -> Result<hub::Found> {
    let progress = |progress| match progress {
        hub::Progress::Begin { doing, bytes } => watch.begin(doing, bytes, Unit::Bytes),
        hub::Progress::Done(bytes) => (watch.progress)(Progress::Done(bytes)),
        hub::Progress::Lost(_) | hub::Progress::Waiting(_) => {}
    };
    let hub_watch = hub::Watch { progress: &progress, is_cancelled: watch.is_cancelled };
    let id = ModelId::parse(spec)?;
    let found = Hub::from_env().and_then(|hub| hub.find(&id, hub_watch));
    found.map_err(|error| match error {
        checkpoint::Error::Hub(error) if matches!(*error, HubError::Cancelled) => Error::Cancelled,
        error => error.into(),
    })
}
