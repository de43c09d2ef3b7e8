//! A build, thought through to its last byte, before anything is written.
//!
//! A [`Blueprint`] is made of a recipe and of the models' configs and headers. It says what every
//! file of the new model will hold.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::gguf::Architecture;
use checkpoint::gguf::tokenizer::{self, TokenizerFolder};
use checkpoint::hub::{Location, Remote};
use checkpoint::side_files::SideFiles;
use checkpoint::{Checkpoint, Encoding, Gguf};

use tempfile::TempDir;

use crate::anatomy::Anatomy;
use crate::error::{Error, Result};
use crate::gguf_head::GgufHead;
use crate::open_source::{OpenSource, open_sources};
use crate::plan::{LayerPlan, ModelDepth, PlannedLayer};
use crate::progress::Watch;
use crate::recipe::{Form, Recipe, TensorType};
use crate::settings::{self, Changes, Deepened, Depth, SettingError};
use crate::shards::{self, ShardLayout};
use crate::sources::{self, Access, Found};
use crate::splice::{Globals, Model, Splice};
use crate::translation::{self, Translation};

/// How tensors are spread over files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayoutKind {
    /// By size, in state-dict order, as Hugging Face does.
    #[default]
    Size,
    /// So that nearly all blocks can be shared with the source's files.
    Source,
}

impl LayoutKind {
    /// The other layout.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Size => Self::Source,
            Self::Source => Self::Size,
        }
    }

    /// Its name on the command line and in `dus.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Source => "source",
        }
    }
}

/// Everything that a build will write, and from what.
#[derive(Debug)]
pub struct Blueprint {
    /// What was asked for.
    pub recipe: Recipe,
    /// Where each model lies.
    pub locations: Vec<Location>,
    /// The models.
    pub models: Vec<Model>,
    /// Which layer each new layer is.
    pub plan: LayerPlan,
    /// What tensors become in the form that is written.
    pub translation: Translation,
    /// Which tensor each new tensor is.
    pub splice: Splice,
    /// The index of the model whose config and side files the new one has: that of the embeddings.
    pub donor: usize,
    /// The new config, or why there can be none; a GGUF file of a GGUF file needs none.
    pub config: Result<Deepened, SettingError>,
    /// The files beside the weights.
    pub side_files: SideFiles,
    /// How tensors are spread over files.
    pub layout_kind: LayoutKind,
    /// Which file each tensor goes to.
    pub layout: ShardLayout,
    /// What a user should hear of where the models were found.
    notices: Vec<String>,
    /// Folders that hold the headers of models whose weights are on the hub only.
    outlines: Vec<TempDir>,
    /// Where each model's weights are read, if they are on the hub.
    remotes: Vec<Option<Arc<Remote>>>,
}

impl Blueprint {
    /// Opens the models of `recipe`, whose weights it never reads, and follows the plan.
    ///
    /// The form is the recipe's, else that of the path `out`, else the first model's.
    /// What is not here is not asked of the hub.
    pub fn new(recipe: Recipe, layout_kind: LayoutKind, out: Option<&Path>) -> Result<Self> {
        Self::with_access(recipe, layout_kind, out, Access::Local, &Watch::nobody())
    }

    /// The same, with models that may be asked of the hub.
    pub fn with_access(
        recipe: Recipe,
        layout_kind: LayoutKind,
        out: Option<&Path>,
        access: Access,
        watch: &Watch,
    ) -> Result<Self> {
        let access = match access {
            // The tokenizer goes into a GGUF file, so that a plan of one has to read it.
            Access::Headers if asks_for_gguf(&recipe, out) => Access::SideFiles,
            access => access,
        };
        let (mut locations, mut models) = (Vec::new(), Vec::new());
        let (mut notices, mut outlines, mut remotes) = (Vec::new(), Vec::new(), Vec::new());
        for (name, source) in &recipe.models {
            let Found { location, notice, outline, remote } = sources::find(source, access, watch)?;
            let checkpoint = Checkpoint::open(&location.path)?;
            let anatomy = Anatomy::of(&checkpoint)?;
            locations.push(location);
            notices.extend(notice);
            outlines.extend(outline);
            remotes.push(remote);
            models.push(Model { name: name.clone(), checkpoint, anatomy });
        }
        let depths: Vec<ModelDepth> = models
            .iter()
            .map(|m| ModelDepth { name: m.name.clone(), num_layers: m.anatomy.num_layers() })
            .collect();
        let plan = recipe.layers.resolve(&depths)?;
        let globals = globals(&recipe, &plan)?;
        if models.iter().any(|model| model.anatomy.family.is_none()) && !globals.is_one_model() {
            return Err(Error::UnknownGlobals);
        }
        let donor = globals.embeddings;
        refuse_unlike_forms(&models)?;
        let form = form(&recipe, &models[donor].checkpoint, out)?;
        let checkpoints: Vec<&Checkpoint> = models.iter().map(|model| &model.checkpoint).collect();
        let translation = Translation::new(&checkpoints, donor, form, recipe.dtype)?;
        let splice = Splice::new(&models, &plan, globals, &translation)?;
        let changes = Changes {
            architecture: recipe.architecture,
            dtype: translation.dtype.map(TensorType::name),
        };
        let config = with_depth(&models, &plan, donor, |depth| settings::deepen(depth, &changes));
        let side_files = models[donor].checkpoint.side_files()?;
        let mut blueprint = Self {
            recipe,
            locations,
            models,
            plan,
            translation,
            splice,
            donor,
            config,
            side_files,
            layout_kind,
            layout: ShardLayout { shards: Vec::new() },
            notices,
            outlines,
            remotes,
        };
        blueprint.layout = blueprint.laid_out(layout_kind);
        Ok(blueprint)
    }

    /// Whether the weights of all models are on this machine.
    #[must_use]
    pub fn has_weights(&self) -> bool {
        self.outlines.is_empty()
    }

    /// Where the weights of the model with this index are read, if they are on the hub.
    #[must_use]
    pub fn remote(&self, model: usize) -> Option<&Arc<Remote>> {
        self.remotes[model].as_ref()
    }

    /// Opens the weight files of all models.
    pub fn open_sources(&self) -> Result<Vec<Vec<OpenSource>>> {
        let models = self.models.iter().zip(&self.remotes);
        models.map(|(model, remote)| open_sources(&model.checkpoint, remote.as_ref())).collect()
    }

    /// The form that is written.
    #[must_use]
    pub fn form(&self) -> Form {
        self.translation.to
    }

    /// Whether the form that is written is not that of the sources.
    #[must_use]
    pub fn converts(&self) -> bool {
        self.translation.from != self.translation.to
    }

    /// The number of tensors that are written, settings that GGUF stores as tensors included.
    #[must_use]
    pub fn num_tensors(&self) -> usize {
        let settings = match self.form() {
            Form::Folder => 0,
            Form::Gguf => self.gguf_head().map_or(0, |head| head.settings.len()),
        };
        self.splice.tensors.len() + settings
    }

    /// The model whose config and side files the new one has.
    #[must_use]
    pub fn donor(&self) -> &Model {
        &self.models[self.donor]
    }

    /// The tokenizer of a GGUF file as files of a folder.
    pub fn tokenizer_folder(&self) -> Result<TokenizerFolder> {
        let donor = &self.donor().checkpoint;
        let Some(gguf) = donor.gguf().filter(|_| self.form() == Form::Folder) else {
            return Ok(TokenizerFolder::default());
        };
        Ok(tokenizer::from_metadata(&gguf.metadata, donor.num_embedding_rows())?)
    }

    /// The names of tensors in GGUF.
    ///
    /// # Panics
    ///
    /// If neither the sources nor what is written are GGUF.
    #[must_use]
    pub fn architecture(&self) -> &'static Architecture {
        self.translation.architecture.expect("one of the forms is GGUF")
    }

    /// What a GGUF file says before its tensors, but for the provenance.
    pub fn gguf_head(&self) -> Result<GgufHead> {
        let donor = &self.donor().checkpoint;
        let mut head = if let Some(gguf) = donor.gguf() {
            self.refuse_unlike_metadata(gguf)?;
            let sources = self.plan.layers().iter().map(|layer| layer.sources()[0].layer);
            let layers: Vec<usize> = sources.collect();
            let depths = self.models.iter().map(|model| model.anatomy.num_layers());
            let mut head = GgufHead::deepened(gguf, &layers, depths.max().unwrap_or(0))?;
            if self.translation.dtype.is_some() {
                head.set_type(self.main_encoding());
            }
            head
        } else {
            let config = &self.config()?.config;
            let weights = self.main_encoding();
            GgufHead::of_folder(donor, config, self.architecture(), weights)?
        };
        let hub = self.locations[self.donor].hub.as_ref().map(|hub| hub.repo.clone());
        let base = match donor.gguf() {
            Some(gguf) => gguf.metadata.str("general.name")?.map(str::to_owned),
            None => None,
        };
        let stem = || {
            let path = donor.path().canonicalize().unwrap_or_else(|_| donor.path().to_owned());
            // A folder's name may have dots, as in Mistral-7B-v0.1.
            let name = if donor.gguf().is_some() { path.file_stem() } else { path.file_name() };
            name.unwrap_or_default().to_string_lossy().into_owned()
        };
        let base = base.or(hub).unwrap_or_else(stem);
        head.describe(&base, &self.recipe.layers_text, self.splice.num_parameters());
        Ok(head)
    }

    /// How most bytes of the new tensors are stored.
    fn main_encoding(&self) -> Encoding {
        let mut bytes: Vec<(Encoding, u64)> = Vec::new();
        for tensor in &self.splice.tensors {
            match bytes.iter_mut().find(|(encoding, _)| *encoding == tensor.encoding) {
                Some((_, bytes)) => *bytes += tensor.bytes(),
                None => bytes.push((tensor.encoding, tensor.bytes())),
            }
        }
        let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
        most.expect("a model has tensors").0
    }

    /// Refuses layers of several GGUF files whose settings differ or stand once a layer.
    fn refuse_unlike_metadata(&self, donor: &Gguf) -> Result<()> {
        let count = format!("{}.block_count", donor.architecture.name);
        let prefix = format!("{}.", donor.architecture.name);
        for model in self.models.iter().filter(|_| self.models.len() > 1) {
            let Some(gguf) = model.checkpoint.gguf() else { continue };
            let keys = donor.metadata.keys().chain(gguf.metadata.keys());
            for key in keys.filter(|key| key.starts_with(&prefix) && **key != count) {
                let (first, other) = (donor.metadata.get(key), gguf.metadata.get(key));
                let is_array = first.is_some_and(|value| value.as_array().is_some());
                if first != other || is_array || gguf.architecture.name != donor.architecture.name {
                    let (key, other) = (key.to_owned(), model.label().to_owned());
                    return Err(Error::UnlikeMetadata { key, other });
                }
            }
        }
        Ok(())
    }

    fn laid_out(&self, kind: LayoutKind) -> ShardLayout {
        let Self { splice, models, recipe, .. } = self;
        match (self.form(), kind) {
            (Form::Folder, LayoutKind::Size) => {
                shards::by_size(splice, models, recipe.max_shard_bytes)
            }
            (Form::Folder, LayoutKind::Source) => {
                shards::by_source(splice, models, recipe.max_shard_bytes)
            }
            // One file, whose name and provenance are not known yet; they change no more than its
            // beginning, by less than a block.
            (Form::Gguf, _) => {
                let base = self.donor().checkpoint.path();
                let head = self.gguf_head().unwrap_or_else(|_| GgufHead::empty(base));
                head.lay_out(splice, models, self.architecture(), "model.gguf")
            }
        }
    }

    /// Calls `f` with what the new config follows from.
    pub(crate) fn with_depth<T>(&self, f: impl FnOnce(&Depth) -> T) -> T {
        with_depth(&self.models, &self.plan, self.donor, f)
    }

    /// What stops every build of it, wherever it goes.
    #[must_use]
    pub fn obstacles(&self) -> Vec<Error> {
        let mut obstacles = Vec::new();
        if let Some(layer) = self.splice.first_made_layer {
            obstacles.push(Error::MadeLayer { layer });
        }
        match self.form() {
            Form::Folder => {
                obstacles.extend(self.config().err());
                obstacles.extend(self.tokenizer_folder().err());
                for checkpoint in self.models.iter().map(|model| &model.checkpoint) {
                    let untranslated = checkpoint.gguf().map(|gguf| &gguf.untranslated);
                    for what in untranslated.into_iter().flatten() {
                        let path = checkpoint.path().to_owned();
                        obstacles.push(Error::Untranslated { path, what: what.clone() });
                    }
                }
            }
            Form::Gguf => obstacles.extend(self.gguf_head().err()),
        }
        obstacles
    }

    /// The new config.
    pub fn config(&self) -> Result<&Deepened> {
        self.config.as_ref().map_err(|source| {
            let config = self.donor().checkpoint.config_path();
            Error::Setting { config, source: source.clone() }
        })
    }

    /// The bytes that each layout's files could share with the source's.
    #[must_use]
    pub fn shareable_bytes(&self, kind: LayoutKind) -> u64 {
        if kind == self.layout_kind || self.form() == Form::Gguf {
            return self.layout.shareable_bytes(&self.splice, &self.models);
        }
        self.laid_out(kind).shareable_bytes(&self.splice, &self.models)
    }

    /// Everything that is read: the models' folders, then files in them that may be links elsewhere.
    pub fn sources(&self) -> impl Iterator<Item = PathBuf> {
        let dirs = self.models.iter().map(|model| model.checkpoint.path().to_owned());
        let files = self.models.iter().flat_map(|model| {
            let weights = model.checkpoint.files().iter().map(|file| file.path.clone());
            weights.chain([model.checkpoint.config_path()])
        });
        dirs.chain(files).chain(self.side_files.kept.iter().map(|file| file.path.clone()))
    }

    /// What a user should hear of the new model, beyond its plan.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notices.clone();
        // The config of a GGUF file is not written where the new one is a GGUF file too.
        if self.form() == Form::Folder || self.converts() {
            notes.extend(self.config.iter().flat_map(|config| config.notes.clone()));
        }
        if self.form() == Form::Gguf {
            notes.extend(self.gguf_head().map(|head| head.notes).unwrap_or_default());
        }
        notes.extend(self.tokenizer_folder().map(|folder| folder.notes).unwrap_or_default());
        notes.extend(self.head_note());
        notes.extend(self.prediction_note());
        for adapter in &self.side_files.adapters {
            notes.push(format!(
                "{} is an adapter and is left out: a loader would attach it",
                adapter.display()
            ));
        }
        notes.extend(self.dtype_note());
        notes
    }

    /// Where the config promises blocks behind the last layer that are not there.
    fn prediction_note(&self) -> Option<String> {
        let model = &self.models[self.donor];
        let (key, promised) = settings::prediction_layers(model.checkpoint.config())?;
        let found = model.anatomy.behind.len();
        (promised > found).then(|| {
            format!(
                "`{key}` is {promised}, but the weights have {found} such blocks; none is invented"
            )
        })
    }

    /// Where models of several types are mixed.
    fn dtype_note(&self) -> Option<String> {
        let first =
            |model: &Model| model.checkpoint.tensors()[model.anatomy.layers[0][0].tensor].encoding;
        let unlike = self.models.iter().any(|model| first(model) != first(&self.models[0]));
        let dtypes: Vec<String> = (self.models.iter())
            .map(|model| format!("{} is {}", model.label(), first(model)))
            .collect();
        (unlike && self.translation.dtype.is_none()).then(|| {
            format!("the models' types differ ({}); `dtype` makes them one", dtypes.join(", "))
        })
    }

    /// Where a flag for tied embeddings and the head in the files contradict each other.
    fn head_note(&self) -> Option<String> {
        let model = &self.models[self.donor];
        model.anatomy.family?;
        let tied = model.checkpoint.config().get("tie_word_embeddings");
        let tied = tied.as_ref().and_then(serde_json::Value::as_bool);
        let has_head = self.splice.tensors.iter().any(|tensor| tensor.name == "lm_head.weight");
        match (tied, has_head) {
            (Some(true), true) => Some(
                "`tie_word_embeddings` is true, but there is an lm_head.weight; it is kept as stored"
                    .to_owned(),
            ),
            (Some(false) | None, false) => Some(
                "`tie_word_embeddings` is not true, but there is no lm_head.weight; none is invented"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The form to write: as the recipe says, else as the output is called, else as the base is.
fn form(recipe: &Recipe, base: &Checkpoint, out: Option<&Path>) -> Result<Form> {
    match (recipe.to, out) {
        (Some(Form::Gguf), Some(out)) if !named_gguf(out) => {
            Err(Error::NotNamedGguf { out: out.to_owned() })
        }
        (Some(form), _) => Ok(form),
        (None, Some(out)) if named_gguf(out) => Ok(Form::Gguf),
        (None, Some(out)) if translation::form(base) == Form::Gguf => {
            Err(Error::WhichForm { out: out.to_owned() })
        }
        (None, _) => Ok(translation::form(base)),
    }
}

/// Whether recipe or output say that a GGUF file is wanted, whatever the base is.
fn asks_for_gguf(recipe: &Recipe, out: Option<&Path>) -> bool {
    recipe.to.map_or_else(|| out.is_some_and(named_gguf), |form| form == Form::Gguf)
}

fn named_gguf(out: &Path) -> bool {
    out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Refuses a plan that joins layers of a folder and of a GGUF file.
fn refuse_unlike_forms(models: &[Model]) -> Result<()> {
    let form = |model: &Model| translation::form(&model.checkpoint);
    match models.iter().find(|model| form(model) != form(&models[0])) {
        None => Ok(()),
        Some(other) => Err(Error::UnlikeForms {
            first: models[0].label().to_owned(),
            other: other.label().to_owned(),
        }),
    }
}

/// Which model gives what stands before and behind the layers.
fn globals(recipe: &Recipe, plan: &LayerPlan) -> Result<Globals> {
    let named = |key: &Option<String>| {
        let key = key.as_ref()?;
        recipe.models.iter().position(|(name, _)| name.as_ref() == Some(key))
    };
    let of_layer = |j: usize, key: &'static str| {
        let sources = plan.layers()[j].sources();
        let model = sources[0].model;
        if sources.iter().all(|source| source.model == model) {
            Ok(model)
        } else {
            Err(Error::RecipeLacks { key })
        }
    };
    let last = plan.num_layers() - 1;
    let giver = |key: &Option<String>, j, name| named(key).map_or_else(|| of_layer(j, name), Ok);
    Ok(Globals {
        embeddings: giver(&recipe.embeddings, 0, "embeddings")?,
        norm: giver(&recipe.norm, last, "norm")?,
        lm_head: giver(&recipe.lm_head, last, "lm_head")?,
    })
}

/// Calls `f` with what the new config follows from.
fn with_depth<T>(
    models: &[Model],
    plan: &LayerPlan,
    donor: usize,
    f: impl FnOnce(&Depth) -> T,
) -> T {
    let configs: Vec<_> = models.iter().map(|model| model.checkpoint.config()).collect();
    let names: Vec<_> = models.iter().map(Model::label).collect();
    let pairs = |layer: &PlannedLayer| {
        layer.sources().iter().map(|source| (source.model, source.layer)).collect()
    };
    let layers: Vec<Vec<(usize, usize)>> = plan.layers().iter().map(pairs).collect();
    f(&Depth { configs: &configs, names: &names, donor, layers: &layers })
}
