//! A model by the name that a user gives it: found, fetched, checked, loaded.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device};
use checkpoint::gguf::tokenizer::{TokenizerFolder, from_metadata, from_sentencepiece};
use checkpoint::json::Object;
use checkpoint::{Checkpoint, Dtype, Encoding, folder};
use dus::blueprint::{Blueprint, LayoutKind};
use dus::recipe::{Draft, Recipe, Source};
use dus::sources::{self, Access};
use dus::unbuilt::Unbuilt;
use tempfile::TempDir;

use crate::anatomy::{self, EMBEDDING, Expected};
use crate::chat_template::ChatTemplate;
use crate::config::DecoderConfig;
use crate::device::{self, Devices};
use crate::error::{Error, Result};
use crate::generation_config::GenerationConfig;
use crate::memory::Footprint;
use crate::model::Model;
use crate::placement::{self, GpuLayers, Memory, Needs, Plan};
use crate::progress::{Unit, Watch};
use crate::quantised::Quantize;
use crate::random_weights::RandomWeights;
use crate::source::{MappedWeights, Storage};
use crate::tokenizer::Tokenizer;
use crate::unbuilt::UnbuiltWeights;

/// The type of the arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 on the CPU; on a GPU f16 or bf16 if the model is stored so, and f32 if not. Quantised blocks
    /// of a GGUF file stay what they are.
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
    /// A folder, a GGUF file, a hub id, or a recipe (`.toml`), which is run unbuilt.
    pub model: String,
    /// A layer plan to run the model through, in place of the recipe's if it is one.
    pub layers: Option<String>,
    /// The base of a recipe, in place of its own.
    pub base: Option<String>,
    /// Models of a recipe by their names in the plan, in place of its own.
    pub models: Vec<(String, String)>,
}

impl Spec {
    /// A model as it is, or a recipe.
    #[must_use]
    pub fn new(model: &str) -> Self {
        Self { model: model.to_owned(), ..Self::default() }
    }
}

/// A model whose files were read and checked; its weights were not.
#[derive(Debug)]
pub struct Opened {
    /// Its sizes and switches.
    pub config: DecoderConfig,
    /// What a user should hear.
    pub notes: Vec<String>,
    /// What matrices of plain numbers become as they are loaded, if anything else.
    pub quantize: Option<Quantize>,
    files: Files,
    /// The tokenizer of a GGUF file, once it was asked for.
    tokenizer_files: OnceLock<Arc<TokenizerFolder>>,
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
        refuse_untranslated(&checkpoint)?;
        let config = DecoderConfig::read(checkpoint.config(), &checkpoint.config_path())?;
        let notes = found.notice.into_iter().collect();
        let checkpoint = Arc::new(checkpoint);
        Ok(Self::new(config, notes, Files::Built { checkpoint, outline: found.outline }))
    }

    fn unbuilt(recipe: Recipe, access: Access, watch: &Watch) -> Result<Self> {
        let blueprint = with_dus_watch(watch, |watch| {
            Blueprint::with_access(recipe, LayoutKind::default(), None, access, watch)
        })?;
        let notes = blueprint.notes();
        let donor = &blueprint.donor().checkpoint;
        refuse_untranslated(donor)?;
        let config = DecoderConfig::read(&blueprint.config()?.config, &donor.config_path())?;
        let files = if access == Access::Weights {
            let unbuilt = with_dus_watch(watch, |watch| Unbuilt::new(blueprint, watch))?;
            Files::Unbuilt(Arc::new(unbuilt))
        } else {
            Files::Planned(Box::new(blueprint))
        };
        Ok(Self::new(config, notes, files))
    }

    fn new(config: DecoderConfig, notes: Vec<String>, files: Files) -> Self {
        Self { config, notes, quantize: None, files, tokenizer_files: OnceLock::new() }
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
        let vocab_size = self.config.vocab_size;
        let donor = self.donor();
        let (files, path) = match self.tokenizer_files()? {
            Some(files) => (files, self.path().to_owned()),
            None => match from_sentencepiece(donor.folder(), donor.num_embedding_rows())? {
                Some(files) => (Arc::new(files), donor.folder().join("tokenizer.model")),
                None => return Tokenizer::open(donor.folder(), vocab_size),
            },
        };
        match files.files.iter().find(|(name, _)| *name == "tokenizer.json") {
            Some((_, text)) => {
                let tokenizer = Tokenizer::parse(text.as_bytes(), path, vocab_size)?;
                Ok(tokenizer.noted(&files.notes))
            }
            None => Err(Error::NoTokenizer { model: path }),
        }
    }

    /// How it wants a chat written.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        match self.tokenizer_files()? {
            None => ChatTemplate::open(self.donor().folder()),
            Some(files) => {
                let path = self.donor().config_path();
                let config = object_in(&files, "tokenizer_config.json", &path)?;
                ChatTemplate::from_config(&config, &path)
            }
        }
    }

    /// The files of a folder that a GGUF file's tokenizer stands for, with the chat template in
    /// `tokenizer_config.json`; `None` for a folder, which has its own.
    pub fn tokenizer_files(&self) -> Result<Option<Arc<TokenizerFolder>>> {
        let Some(gguf) = self.donor().gguf() else { return Ok(None) };
        if let Some(files) = self.tokenizer_files.get() {
            return Ok(Some(Arc::clone(files)));
        }
        let files = from_metadata(&gguf.metadata, self.donor().num_embedding_rows())?;
        Ok(Some(Arc::clone(self.tokenizer_files.get_or_init(|| Arc::new(files)))))
    }

    /// What its files say of generation.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let donor = self.donor();
        let (path, config) = (donor.config_path(), donor.config());
        let files = match self.tokenizer_files() {
            Ok(Some(files)) => files,
            Ok(None) => return GenerationConfig::read(donor.folder(), config, &path),
            // A tokenizer that is not read says nothing: tokens may be given by number.
            Err(_) => Arc::default(),
        };
        let own = object_in(&files, "generation_config.json", &path)?;
        GenerationConfig::of(&own, &path, config, &path)
    }

    /// What it would take in memory; layers that have the same bytes take them once.
    pub fn footprint(&self, placing: Placing) -> Result<Footprint> {
        let dtype = self.dtype(placing.arithmetic, &placing.place.device()?);
        let shared = self.blueprint().map(shared).unwrap_or_default();
        let mut seen = HashSet::new();
        let mut is_repeated =
            |name: &str| shared.get(name).is_some_and(|&first| !seen.insert(first));
        let repeated: HashSet<String> = anatomy::expected(&self.config)
            .into_iter()
            .map(|tensor| tensor.name)
            .filter(|name| is_repeated(name))
            .collect();
        let bytes = |Expected { name, shape }: &Expected| {
            if repeated.contains(name) {
                return 0;
            }
            self.weight_bytes(name, shape, placing.arithmetic, dtype.size_in_bytes())
        };
        Ok(Footprint::new(&self.config, bytes, dtype))
    }

    /// The bytes that a tensor takes in memory, in an arithmetic of elements of `element_bytes`.
    fn weight_bytes(
        &self,
        name: &str,
        shape: &[usize],
        arithmetic: Arithmetic,
        element_bytes: usize,
    ) -> u64 {
        let storage = self.storage(arithmetic);
        let blocks = self.encoding(name).and_then(|stored| storage.blocks(stored, shape));
        let bytes = blocks.and_then(|ty| Encoding::Blocks(ty).num_bytes(shape));
        bytes.unwrap_or_else(|| (shape.iter().product::<usize>() * element_bytes) as u64)
    }

    /// The plan, if it is one that was never built.
    fn blueprint(&self) -> Option<&Blueprint> {
        match &self.files {
            Files::Built { .. } => None,
            Files::Unbuilt(unbuilt) => Some(unbuilt.blueprint()),
            Files::Planned(blueprint) => Some(blueprint),
        }
    }

    /// How a tensor is stored.
    fn encoding(&self, name: &str) -> Option<Encoding> {
        match &self.files {
            Files::Built { checkpoint, .. } => Some(checkpoint.tensor(name)?.encoding),
            Files::Unbuilt(_) | Files::Planned(_) => {
                let mut tensors = self.blueprint()?.splice.tensors.iter();
                Some(tensors.find(|tensor| tensor.name == name)?.encoding)
            }
        }
    }

    /// What becomes of matrices as they are loaded.
    fn storage(&self, arithmetic: Arithmetic) -> Storage {
        match (self.quantize, arithmetic) {
            (Some(quantize), _) => Storage::Quantize(quantize),
            (None, Arithmetic::Auto) => Storage::AsStored,
            // Who asks for a type gets the numbers in that type.
            (None, _) => Storage::Dense,
        }
    }

    /// Decides what goes where: `positions` are those of all sequences that are to run at once.
    ///
    /// Errors are those of a device that is not there, and of layers that do not fit it.
    pub fn plan(&self, placing: Placing, positions: usize) -> Result<Plan> {
        let device = placing.place.device()?;
        let shared = self.blueprint().map(shared).unwrap_or_default();
        let same_as = |name: &str| shared.get(name).copied();
        let needs = |device: &Device| {
            let element_bytes = self.dtype(placing.arithmetic, device).size_in_bytes();
            let weight_bytes = |name: &str, shape: &[usize]| {
                self.weight_bytes(name, shape, placing.arithmetic, element_bytes)
            };
            Needs::of(&self.config, positions, element_bytes, &weight_bytes, &same_as)
        };
        let gpu = (!device.is_cpu()).then(|| (device::name(&device), device::free_bytes(&device)));
        let memory = Memory { gpu, cpu: device::free_bytes(&Device::Cpu) };
        let plan = placement::plan(&needs(&device), &memory, placing.gpu_layers)?;
        if device.is_cpu() || plan.head_on_gpu() {
            return Ok(plan);
        }
        // All of it is the processor's, in the type that the processor computes in.
        let on_cpu = placement::plan(&needs(&Device::Cpu), &memory, GpuLayers::Count(0))?;
        Ok(Plan { advice: plan.advice, ..on_cpu })
    }

    /// Loads its weights, which must have been wanted, as `plan` has it.
    pub fn load_placed(&self, placing: Placing, plan: &Plan, watch: &Watch) -> Result<Model> {
        let device = placing.place.device()?;
        let (devices, config) = (Devices::of(plan, &device), self.config.clone());
        // The head is on the GPU if anything is.
        let dtype = self.dtype(placing.arithmetic, &devices.head);
        let storage = self.storage(placing.arithmetic);
        match &self.files {
            Files::Built { checkpoint, outline: None } => {
                let source = MappedWeights::open(Arc::clone(checkpoint), dtype)?.stored(storage);
                Model::load(config, &source, devices, watch)
            }
            Files::Unbuilt(unbuilt) => {
                let source = UnbuiltWeights::open(Arc::clone(unbuilt), dtype)?.stored(storage);
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
        match self.encoding(EMBEDDING) {
            Some(Encoding::Plain(stored)) => arithmetic.dtype(device, stored),
            _ => arithmetic.dtype(device, Dtype::F16),
        }
    }
}

/// Refuses a GGUF file whose metadata say what no config can.
fn refuse_untranslated(checkpoint: &Checkpoint) -> Result<()> {
    match checkpoint.gguf().and_then(|gguf| gguf.untranslated.first()) {
        None => Ok(()),
        Some(what) => {
            let (path, what) = (checkpoint.path().to_owned(), what.clone());
            Err(Error::NotInConfig { path, what })
        }
    }
}

/// The object in the file called `name` of what a GGUF file's tokenizer stands for; `path` is the GGUF
/// file. An empty one if there is no such file.
fn object_in(files: &TokenizerFolder, name: &str, path: &Path) -> Result<Object> {
    let text = files.files.iter().find(|(found, _)| *found == name);
    let object = text.map(|(_, text)| Object::parse(text)).transpose();
    let json = |source| checkpoint::Error::Json { path: path.to_owned(), source };
    Ok(object.map_err(json)?.unwrap_or_default())
}

/// The config of a model of which no more than that need be there: a folder with it, or the file.
pub fn config_alone(spec: &str) -> Result<DecoderConfig> {
    let path = Path::new(spec);
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    DecoderConfig::read(&folder::read_object(&path)?, &path)
}

/// A model of this config with random weights, all of it on one device, and what it takes in memory.
pub fn load_random(
    config: &DecoderConfig,
    spec: &str,
    placing: Placing,
    watch: &Watch,
) -> Result<(Model, Footprint)> {
    let device = placing.place.device()?;
    // No file says how they are stored; most are in 16 bits.
    let dtype = placing.arithmetic.dtype(&device, Dtype::BF16);
    let source = RandomWeights::new(config, Path::new(spec), dtype);
    let devices = Devices::all(&device, config.num_hidden_layers);
    let bytes =
        |tensor: &Expected| (tensor.shape.iter().product::<usize>() * dtype.size_in_bytes()) as u64;
    let footprint = Footprint::new(config, bytes, dtype);
    Ok((Model::load(config.clone(), &source, devices, watch)?, footprint))
}

/// For each new tensor of a plan the number of the first that has the same bytes.
fn shared(blueprint: &Blueprint) -> HashMap<&str, usize> {
    let tensors = &blueprint.splice.tensors;
    let mut seen: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    let mut shared = HashMap::new();
    for (number, tensor) in tensors.iter().enumerate() {
        let alike = seen.entry((tensor.model, tensor.source)).or_default();
        // Noise goes by the tensor's name, so that no two are alike.
        let has_noise = tensor.change.as_ref().is_some_and(|change| !change.noises.is_empty());
        let is_alike = |&&earlier: &&usize| !has_noise && tensors[earlier].change == tensor.change;
        let first = alike.iter().find(is_alike).copied().unwrap_or(number);
        alike.push(number);
        shared.insert(tensor.name.as_str(), first);
    }
    shared
}

/// The recipe that a model is run by, if it is one or a plan is given.
fn recipe(spec: &Spec) -> Result<Option<Recipe>> {
    let layers = spec.layers.clone();
    let (draft, flags) = match (is_recipe(&spec.model), &layers) {
        (false, None) => return Ok(None),
        (false, Some(_)) => {
            let draft = Draft { base: Some(here(&spec.model)), ..Draft::default() };
            (draft, Draft { layers, ..Draft::default() })
        }
        (true, _) => {
            let base = spec.base.as_deref().map(here);
            let models = spec.models.iter().map(|(name, model)| (name.clone(), here(model)));
            let flags = Draft { base, models: models.collect(), layers, ..Draft::default() };
            (Draft::read(Path::new(&spec.model))?, flags)
        }
    };
    Ok(Some(draft.replaced_by(flags).finish()?))
}

/// Whether a model that is named so is a recipe, which is run unbuilt.
#[must_use]
pub fn is_recipe(model: &str) -> bool {
    let path = Path::new(model);
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("toml")) && path.is_file()
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
