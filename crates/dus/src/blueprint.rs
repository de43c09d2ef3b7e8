//! A build, thought through to its last byte, before anything is written.
//!
//! A [`Blueprint`] is made of a recipe and of the models' configs and headers. It says what every
//! file of the new model will hold.

use std::path::PathBuf;

use checkpoint::Checkpoint;
use checkpoint::hub::{self, Location};
use checkpoint::side_files::SideFiles;

use crate::anatomy::Anatomy;
use crate::error::{Error, Result};
use crate::plan::{LayerPlan, ModelDepth, PlannedLayer};
use crate::recipe::{Recipe, TensorType};
use crate::settings::{self, Changes, Deepened, Depth, SettingError};
use crate::shards::{self, ShardLayout};
use crate::splice::{Globals, Model, Splice};

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
    /// Which tensor each new tensor is.
    pub splice: Splice,
    /// The index of the model whose config and side files the new one has: that of the embeddings.
    pub donor: usize,
    /// The new config, or why there can be none.
    pub config: Result<Deepened, SettingError>,
    /// The files beside the weights.
    pub side_files: SideFiles,
    /// How tensors are spread over files.
    pub layout_kind: LayoutKind,
    /// Which file each tensor goes to.
    pub layout: ShardLayout,
}

impl Blueprint {
    /// Opens the models of `recipe`, whose weights it never reads, and follows the plan.
    pub fn new(recipe: Recipe, layout_kind: LayoutKind) -> Result<Self> {
        let mut locations = Vec::new();
        let mut models = Vec::new();
        for (name, source) in &recipe.models {
            let location = hub::locate(&source.spec, &source.relative_to)?;
            let checkpoint = Checkpoint::open(&location.dir)?;
            let anatomy = Anatomy::of(&checkpoint)?;
            locations.push(location);
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
        let dtype = recipe.dtype.map(TensorType::dtype);
        let splice = Splice::new(&models, &plan, globals, dtype)?;
        let changes = Changes {
            architecture: recipe.architecture,
            dtype: recipe.dtype.map(TensorType::name),
        };
        let config = with_depth(&models, &plan, donor, |depth| settings::deepen(depth, &changes));
        let side_files = models[donor].checkpoint.side_files()?;
        let layout = lay_out(layout_kind, &splice, &models, recipe.max_shard_bytes);
        Ok(Self {
            recipe,
            locations,
            models,
            plan,
            splice,
            donor,
            config,
            side_files,
            layout_kind,
            layout,
        })
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
        if let Err(source) = &self.config {
            let config = self.models[self.donor].checkpoint.config_path();
            obstacles.push(Error::Setting { config, source: source.clone() });
        }
        obstacles
    }

    /// The bytes that each layout's files could share with the source's.
    #[must_use]
    pub fn shareable_bytes(&self, kind: LayoutKind) -> u64 {
        if kind == self.layout_kind {
            return self.layout.shareable_bytes(&self.splice, &self.models);
        }
        lay_out(kind, &self.splice, &self.models, self.recipe.max_shard_bytes)
            .shareable_bytes(&self.splice, &self.models)
    }

    /// Everything that is read: the models' folders, then files in them that may be links elsewhere.
    pub fn sources(&self) -> impl Iterator<Item = PathBuf> {
        let dirs = self.models.iter().map(|model| model.checkpoint.dir().to_owned());
        let files = self.models.iter().flat_map(|model| {
            let weights = model.checkpoint.files().iter().map(|file| file.path.clone());
            weights.chain([model.checkpoint.config_path()])
        });
        dirs.chain(files).chain(self.side_files.kept.iter().map(|file| file.path.clone()))
    }

    /// What a user should hear of the new model, beyond its plan.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.config.as_ref().map(|config| config.notes.clone()).unwrap_or_default();
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
            |model: &Model| model.checkpoint.tensors()[model.anatomy.layers[0][0].tensor].dtype;
        let unlike = self.models.iter().any(|model| first(model) != first(&self.models[0]));
        let dtypes: Vec<String> = (self.models.iter())
            .map(|model| format!("{} is {}", model.label(), first(model)))
            .collect();
        (unlike && self.recipe.dtype.is_none()).then(|| {
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

fn lay_out(kind: LayoutKind, splice: &Splice, models: &[Model], max_bytes: u64) -> ShardLayout {
    match kind {
        LayoutKind::Size => shards::by_size(splice, models, max_bytes),
        LayoutKind::Source => shards::by_source(splice, models, max_bytes),
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
