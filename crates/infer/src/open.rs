//! A model by the name that a user gives it: found, fetched, checked.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use checkpoint::gguf::tokenizer::TokenizerFolder;
use checkpoint::{Checkpoint, Encoding};
use dus::blueprint::{Blueprint, LayoutKind};
use dus::recipe::{Draft, Recipe, Source};
use dus::sources::{self, Access};
use dus::unbuilt::Unbuilt;
use tempfile::TempDir;

use crate::config::DecoderConfig;
use crate::error::{Error, Result};
use crate::progress::{Progress, Unit, Watch};
use crate::quantised::Quantize;
use crate::stand_in::stand_in;

/// How much of a model is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All that is needed to run it; from the hub it comes into the cache.
    Weights,
    /// What stands beside the weights, and their headers; of a model on the hub no weights are fetched.
    Outline,
    /// Its geometry: weights are made up. Of each model no more need be here than a folder with a
    /// `config.json`, or that file.
    Geometry,
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
    pub(crate) files: Files,
    /// The folders of models of which only the geometry was wanted and their configs are here.
    pub(crate) stand_ins: Option<Vec<TempDir>>,
    /// The tokenizer of a GGUF file, once it was asked for.
    pub(crate) tokenizer_files: OnceLock<Arc<TokenizerFolder>>,
}

/// Where a model's tensors are.
#[derive(Debug)]
pub(crate) enum Files {
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
            Wanted::Geometry => return Self::geometry(spec, watch),
        };
        match recipe(spec)? {
            Some(recipe) => Self::unbuilt(recipe, access, watch),
            None => Self::built(&here(&spec.model), access, watch),
        }
    }

    fn geometry(spec: &Spec, watch: &Watch) -> Result<Self> {
        let mut folders = Vec::new();
        let mut replace = |source: &mut Source| -> Result<()> {
            if let Some(folder) = stand_in(&source.relative_to.join(&source.spec))? {
                *source = here(&folder.path().display().to_string());
                folders.push(folder);
            }
            Ok(())
        };
        let mut opened = if let Some(mut recipe) = recipe(spec)? {
            recipe.models.iter_mut().try_for_each(|(_, source)| replace(source))?;
            Self::unbuilt(recipe, Access::SideFiles, watch)?
        } else {
            let mut source = here(&spec.model);
            replace(&mut source)?;
            Self::built(&source, Access::SideFiles, watch)?
        };
        if opened.donor().gguf().is_some() {
            let place =
                "for a GGUF file, whose blocks are not made up: give a folder or a config.json";
            return Err(Error::NoMeaning { option: "--random-weights", place });
        }
        opened.stand_ins = Some(folders);
        Ok(opened)
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
        let tokenizer_files = OnceLock::new();
        Self { config, notes, quantize: None, files, stand_ins: None, tokenizer_files }
    }

    /// Whose tokenizer and settings of generation the model has: itself, or that of its embeddings.
    pub(crate) fn donor(&self) -> &Checkpoint {
        match &self.files {
            Files::Built { checkpoint, .. } => checkpoint,
            Files::Unbuilt(unbuilt) => &unbuilt.blueprint().donor().checkpoint,
            Files::Planned(blueprint) => &blueprint.donor().checkpoint,
        }
    }

    /// Its `config.json`, or the one that a build would write.
    pub fn config_json(&self) -> Result<String> {
        Ok(match self.blueprint() {
            Some(blueprint) => blueprint.config()?.config.to_string(),
            None => self.donor().config().to_string(),
        })
    }

    /// Where it lies; of a plan, the model that gives the embeddings.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.donor().path()
    }

    /// The GGUF file that it is, with its numbers as they are stored there.
    #[must_use]
    pub fn gguf_file(&self) -> Option<&Path> {
        let is_as_stored = self.blueprint().is_none() && self.quantize.is_none();
        (is_as_stored && self.donor().gguf().is_some()).then(|| self.path())
    }

    /// The plan, if it is one that was never built.
    pub(crate) fn blueprint(&self) -> Option<&Blueprint> {
        match &self.files {
            Files::Built { .. } => None,
            Files::Unbuilt(unbuilt) => Some(unbuilt.blueprint()),
            Files::Planned(blueprint) => Some(blueprint),
        }
    }

    /// How a tensor is stored.
    pub(crate) fn encoding(&self, name: &str) -> Option<Encoding> {
        match &self.files {
            Files::Built { checkpoint, .. } => Some(checkpoint.tensor(name)?.encoding),
            Files::Unbuilt(_) | Files::Planned(_) => {
                let mut tensors = self.blueprint()?.splice.tensors.iter();
                Some(tensors.find(|tensor| tensor.name == name)?.encoding)
            }
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
    use dus::progress::Progress as Dus;
    let progress = |progress| match progress {
        Dus::Begin { doing, bytes } => watch.begin(doing, bytes, Unit::Bytes),
        Dus::Done(bytes) => watch.done(bytes),
        Dus::Lost(bytes) => (watch.progress)(Progress::Lost(bytes)),
        Dus::Waiting(time) => (watch.progress)(Progress::Waiting(time)),
        // Only what writes a model waits for the disk.
        Dus::Syncing => {}
    };
    let called = f(&dus::progress::Watch { progress: &progress, is_cancelled: watch.is_cancelled });
    called.map_err(|error| if error.is_cancelled() { Error::Cancelled } else { error.into() })
}
