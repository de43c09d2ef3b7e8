//! A model by the name that a user gives it: found, fetched, checked, loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use checkpoint::hub::{self, Hub, HubError, ModelId};
use checkpoint::{Checkpoint, folder};

use crate::anatomy::Expected;
use crate::chat_template::ChatTemplate;
use crate::config::DecoderConfig;
use crate::error::{Error, Result, one_line};
use crate::generation_config::GenerationConfig;
use crate::memory::Footprint;
use crate::model::Model;
use crate::progress::{Progress, Unit, Watch};
use crate::random_weights::RandomWeights;
use crate::source::MappedWeights;
use crate::tokenizer::Tokenizer;

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

    /// How it wants a chat written.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::open(self.checkpoint.folder())
    }

    /// What its files say of generation.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let checkpoint = &self.checkpoint;
        GenerationConfig::read(checkpoint.folder(), checkpoint.config(), &checkpoint.config_path())
    }

    /// What it would take in memory.
    #[must_use]
    pub fn footprint(&self, arithmetic: Arithmetic) -> Footprint {
        footprint(&self.config, arithmetic)
    }

    /// Loads its weights.
    pub fn load(&self, arithmetic: Arithmetic, place: Place, watch: &Watch) -> Result<Model> {
        let checkpoint = Arc::clone(&self.checkpoint);
        let source = MappedWeights::open(checkpoint, arithmetic.dtype(), &place.device()?)?;
        Model::load(self.config.clone(), &source, watch)
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
    let bytes =
        |tensor: &Expected| (tensor.shape.iter().product::<usize>() * dtype.size_in_bytes()) as u64;
    Footprint::new(config, bytes, dtype)
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
