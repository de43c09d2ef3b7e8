//! A model by the name that a user gives it: found, fetched, checked, loaded.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device};
use checkpoint::Checkpoint;
use checkpoint::gguf::tokenizer::{TokenizerFolder, from_metadata};
use checkpoint::hub::{self, Hub, HubError, ModelId};
use checkpoint::json::Object;
use tempfile::TempDir;

use crate::config::DecoderConfig;
use crate::error::{Error, Result, one_line};
use crate::generation_config::GenerationConfig;
use crate::model::Model;
use crate::progress::{Unit, Watch};
use crate::quantised::Quantize;
use crate::source::{MappedWeights, Storage};
use crate::tokenizer::Tokenizer;

/// The type of the arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 on the CPU; quantised blocks of a GGUF file stay what they are.
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
    fn dtype(self) -> DType {
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

/// A model whose files were read and checked; its weights were not.
#[derive(Debug)]
pub struct Opened {
    /// Its files.
    pub checkpoint: Arc<Checkpoint>,
    /// Its sizes and switches.
    pub config: DecoderConfig,
    /// What a user should hear.
    pub notes: Vec<String>,
    /// What matrices of plain numbers become as they are loaded, if anything else.
    pub quantize: Option<Quantize>,
    /// The tokenizer of a GGUF file, once it was asked for.
    tokenizer_files: OnceLock<Arc<TokenizerFolder>>,
    /// A folder of headers, for as long as this is kept.
    _outline: Option<TempDir>,
}

impl Opened {
    /// Finds the model that `spec` names, fetching what is `wanted` of it if need be, and reads its
    /// config and headers. One of which only the outline is here cannot be loaded.
    pub fn find(spec: &str, wanted: Wanted, watch: &Watch) -> Result<Self> {
        let Found { path, notes, outline } = find(spec, wanted, watch)?;
        let checkpoint = Checkpoint::open(&path)?;
        if let Some(what) = checkpoint.gguf().and_then(|gguf| gguf.untranslated.first()) {
            return Err(Error::NotInConfig { path, what: what.clone() });
        }
        let config = DecoderConfig::read(checkpoint.config(), &checkpoint.config_path())?;
        Ok(Self {
            checkpoint: Arc::new(checkpoint),
            config,
            notes,
            quantize: None,
            tokenizer_files: OnceLock::new(),
            _outline: outline,
        })
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let vocab_size = self.config.vocab_size;
        let Some(files) = self.tokenizer_files()? else {
            return Tokenizer::open(self.checkpoint.folder(), vocab_size);
        };
        let path = self.checkpoint.path().to_owned();
        match files.files.iter().find(|(name, _)| *name == "tokenizer.json") {
            Some((_, text)) => Tokenizer::parse(text.as_bytes(), path, vocab_size),
            None => Err(Error::NoTokenizer { model: path }),
        }
    }

    /// The files of a folder that a GGUF file's tokenizer stands for, with the chat template in
    /// `tokenizer_config.json`; `None` for a folder, which has its own.
    pub fn tokenizer_files(&self) -> Result<Option<Arc<TokenizerFolder>>> {
        let Some(gguf) = self.checkpoint.gguf() else { return Ok(None) };
        if let Some(files) = self.tokenizer_files.get() {
            return Ok(Some(Arc::clone(files)));
        }
        let files = from_metadata(&gguf.metadata, self.checkpoint.num_embedding_rows())?;
        Ok(Some(Arc::clone(self.tokenizer_files.get_or_init(|| Arc::new(files)))))
    }

    /// What its files say of generation.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let (checkpoint, path) = (&self.checkpoint, self.checkpoint.config_path());
        let files = match self.tokenizer_files() {
            Ok(Some(files)) => files,
            Ok(None) => {
                return GenerationConfig::read(checkpoint.folder(), checkpoint.config(), &path);
            }
            // A tokenizer that is not read says nothing: tokens may be given by number.
            Err(_) => Arc::default(),
        };
        let own = files.files.iter().find(|(name, _)| *name == "generation_config.json");
        let own = own.map(|(_, text)| Object::parse(text)).transpose();
        let own = own.map_err(|source| checkpoint::Error::Json { path: path.clone(), source })?;
        GenerationConfig::of(&own.unwrap_or_default(), &path, checkpoint.config(), &path)
    }

    /// Loads its weights.
    pub fn load(&self, arithmetic: Arithmetic, place: Place, watch: &Watch) -> Result<Model> {
        let checkpoint = Arc::clone(&self.checkpoint);
        let storage = match (self.quantize, arithmetic) {
            (Some(quantize), _) => Storage::Quantize(quantize),
            (None, Arithmetic::Auto) => Storage::AsStored,
            // Who asks for a type gets the numbers in that type.
            (None, _) => Storage::Dense,
        };
        let source = MappedWeights::open(checkpoint, arithmetic.dtype(), &place.device()?)?;
        Model::load(self.config.clone(), &source.stored(storage), watch)
    }
}

/// A model that was found.
struct Found {
    path: PathBuf,
    notes: Vec<String>,
    outline: Option<TempDir>,
}

impl Found {
    fn at(path: PathBuf) -> Self {
        Self { path, notes: Vec::new(), outline: None }
    }
}

fn find(spec: &str, wanted: Wanted, watch: &Watch) -> Result<Found> {
    let path = Path::new(spec);
    let is_recipe = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("toml"));
    if is_recipe && path.is_file() {
        return Err(Error::NotYet { path: path.to_owned(), what: "a recipe" });
    }
    let missing_in = match hub::locate(spec, Path::new("")) {
        Ok(location) if location.hub.is_none() => return Ok(Found::at(location.path)),
        // The cache may hold some of a model's files only; then the hub knows which there are.
        Ok(location) if wanted == Wanted::Outline && Checkpoint::open(&location.path).is_ok() => {
            return Ok(Found::at(location.path));
        }
        Ok(_) => None,
        Err(checkpoint::Error::NotInCache { cache, .. }) => Some(cache),
        Err(error) => return Err(error.into()),
    };
    let id = ModelId::parse(spec)?;
    with_hub_watch(watch, |watch| ask(&id, wanted, watch)).map_err(|error| {
        match (error, missing_in) {
            (Error::Checkpoint(source), Some(cache)) => {
                Error::NotOnHub { spec: spec.to_owned(), cache, source }
            }
            (error, _) => error,
        }
    })
}

/// Asks the hub for a model.
fn ask(id: &ModelId, wanted: Wanted, watch: hub::Watch) -> checkpoint::Result<Found> {
    let hub = Hub::from_env()?;
    if wanted == Wanted::Outline && !hub.settings().offline {
        let revision = hub.resolve(id, watch)?;
        let dir = tempfile::Builder::new().prefix("infer-").tempdir();
        let path = std::env::temp_dir();
        let dir =
            dir.map_err(|source| checkpoint::Error::Io { path, doing: "written into", source })?;
        let location = hub.remote(revision).outline(dir.path(), true, watch)?;
        return Ok(Found { outline: Some(dir), ..Found::at(location.path) });
    }
    let found = hub.find(id, watch)?;
    let notice = found.notice.map(|error| {
        format!("the hub could not be asked ({}); the cache's copy is used", one_line(&error))
    });
    Ok(Found { notes: notice.into_iter().collect(), ..Found::at(found.location.path) })
}

/// Calls `f` with a watch that tells `watch` of the hub's progress.
fn with_hub_watch<T>(
    watch: &Watch,
    f: impl FnOnce(hub::Watch) -> checkpoint::Result<T>,
) -> Result<T> {
    let progress = |progress| match progress {
        hub::Progress::Begin { doing, bytes } => watch.begin(doing, bytes, Unit::Bytes),
        hub::Progress::Done(bytes) => watch.done(bytes),
        hub::Progress::Lost(_) | hub::Progress::Waiting(_) => {}
    };
    let asked = f(hub::Watch { progress: &progress, is_cancelled: watch.is_cancelled });
    asked.map_err(|error| match error {
        checkpoint::Error::Hub(error) if matches!(*error, HubError::Cancelled) => Error::Cancelled,
        error => error.into(),
    })
}
