//! `dus.json`, or the keys `dus.*` of a GGUF file: what a build was made from, and how; enough to
//! prove it later.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use checkpoint::gguf::{Header, Metadata};
use serde::{Deserialize, Serialize};

use crate::blueprint::Blueprint;
use crate::error::{Error, ProvenanceError, Result};
use crate::gguf_head::MANIFEST_KEY;
use crate::recipe::{Draft, Form, Source};

/// The file's name in a build's folder.
pub const FILE: &str = "dus.json";

/// The content of `dus.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the tool.
    pub dus: String,
    /// The recipe, but for where the models lie.
    pub recipe: RecipeKeys,
    /// The plan's layers as ranges.
    pub plan: String,
    /// How tensors are spread over files: `size` or `source`.
    pub shard_layout: String,
    /// The models, in the recipe's order.
    pub models: Vec<SourceModel>,
    /// Which source layer each new layer is.
    pub layers: Vec<LayerOrigin>,
    /// Whether the model computes what its base does; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub function_preserving: Option<bool>,
}

/// The keys of a recipe that say what is made of the models.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecipeKeys {
    /// The plan as it was written.
    pub layers: String,
    /// The architecture written, if it is not the base's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub architecture: Option<String>,
    /// The type cast to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dtype: Option<String>,
    /// The form written: `hf` or `gguf`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    /// The most bytes of tensors in a shard; a GGUF file has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_shard_size: Option<u64>,
    /// The model that gives the embeddings, if the recipe says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub embeddings: Option<String>,
    /// The model that gives the final norm.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub norm: Option<String>,
    /// The model that gives `lm_head`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lm_head: Option<String>,
}

/// A model that layers were taken from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceModel {
    /// Its key in the recipe's `[models]`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Its hub id, if it came from the hub's cache.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hub: Option<String>,
    /// The commit of the hub that was used.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revision: Option<String>,
    /// Its folder relative to the build's, if it did not come from the hub's cache.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// Its depth.
    pub num_hidden_layers: usize,
    /// Its weight files.
    pub files: Vec<SourceFile>,
}

/// A weight file of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name in the folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Where a new layer comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayerOrigin {
    /// The new layer's number.
    pub layer: usize,
    /// The model that it is from, if models have names.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// The layer of that model.
    pub source: usize,
    /// How many copies of the same layer stand before it.
    pub copy: usize,
    /// Whether it is a second or later copy.
    pub new: bool,
    /// The operations on it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ops: Vec<String>,
}

impl Manifest {
    /// What stands in the `dus.json` of a build of `blueprint` at `out`.
    pub fn new(blueprint: &Blueprint, out: &Path) -> Result<Self> {
        let recipe = &blueprint.recipe;
        let folder = match blueprint.form() {
            Form::Folder => out,
            Form::Gguf => out.parent().unwrap_or(out),
        };
        let has_shards = blueprint.form() == Form::Folder;
        let models = blueprint.models.iter().zip(&blueprint.locations).map(|(model, location)| {
            let hub = location.hub.as_ref();
            let path = match hub {
                Some(_) => None,
                None => Some(unicode(relative(&location.path, folder))?),
            };
            Ok(SourceModel {
                name: model.name.clone(),
                hub: hub.map(|hub| hub.repo.clone()),
                revision: hub.map(|hub| hub.commit.clone()),
                path,
                num_hidden_layers: model.anatomy.num_layers(),
                files: model
                    .checkpoint
                    .files()
                    .iter()
                    .map(|file| SourceFile { name: file.name.clone(), bytes: file.bytes })
                    .collect(),
            })
        });
        Ok(Self {
            dus: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: RecipeKeys {
                layers: recipe.layers_text.clone(),
                architecture: recipe.architecture.map(|a| a.name().to_owned()),
                dtype: recipe.dtype.map(|dtype| dtype.name().to_owned()),
                to: blueprint.converts().then(|| blueprint.form().name().to_owned()),
                max_shard_size: has_shards.then_some(recipe.max_shard_bytes),
                embeddings: recipe.embeddings.clone(),
                norm: recipe.norm.clone(),
                lm_head: recipe.lm_head.clone(),
            },
            plan: blueprint.plan.to_string(),
            shard_layout: blueprint.layout_kind.name().to_owned(),
            models: models.collect::<Result<_>>()?,
            layers: layers(blueprint),
            function_preserving: blueprint.splice.function_preserving,
        })
    }

    /// Puts it among the keys of a GGUF file, with what a person looks for beside it.
    pub fn write_to(&self, metadata: &mut Metadata) {
        metadata.set("dus.version", self.dus.as_str());
        metadata.set("dus.layers", self.recipe.layers.as_str());
        metadata.set("dus.plan", self.plan.as_str());
        let text = serde_json::to_string(self).expect("a manifest is plain JSON");
        metadata.set(MANIFEST_KEY, text.as_str());
    }

    /// Reads what a build left at `out` of itself: `dus.json`, or the keys of a GGUF file.
    pub fn read(out: &Path) -> Result<Self> {
        if out.is_file() {
            return Self::read_gguf(out);
        }
        let path = out.join(FILE);
        if !out.exists() {
            let spec = out.display().to_string();
            return Err(checkpoint::Error::NoSuchPath { spec, path: out.to_owned() }.into());
        }
        if !path.is_file() {
            return Err(ProvenanceError::NotABuild { out: out.to_owned() }.into());
        }
        let failed = |source| Error::Io { path: path.clone(), doing: "read", source };
        let text = fs::read_to_string(&path).map_err(failed)?;
        serde_json::from_str(&text)
            .map_err(|source| ProvenanceError::Manifest { path, source }.into())
    }

    fn read_gguf(path: &Path) -> Result<Self> {
        // A build whose tensors are cut off is still one; what is wrong with it, `verify` says.
        let metadata = Header::read_metadata(path)?;
        let Some(text) = metadata.str(MANIFEST_KEY)? else {
            return Err(ProvenanceError::NotABuild { out: path.to_owned() }.into());
        };
        serde_json::from_str(text)
            .map_err(|source| ProvenanceError::Manifest { path: path.to_owned(), source }.into())
    }

    /// The recipe that this build, which lies in the folder `dir`, was made from.
    #[must_use]
    pub fn draft(&self, dir: &Path) -> Draft {
        let mut draft = Draft {
            layers: Some(self.recipe.layers.clone()),
            architecture: self.recipe.architecture.clone(),
            dtype: self.recipe.dtype.clone(),
            to: self.recipe.to.clone(),
            max_shard_size: self.recipe.max_shard_size.map(|bytes| bytes.to_string()),
            embeddings: self.recipe.embeddings.clone(),
            norm: self.recipe.norm.clone(),
            lm_head: self.recipe.lm_head.clone(),
            ..Draft::default()
        };
        for model in &self.models {
            let spec = match (&model.path, &model.hub, &model.revision) {
                (Some(path), ..) => {
                    // Without the detour through this folder, where the base is still there.
                    let base = dir.join(path);
                    let base = resolved(&base).unwrap_or(base);
                    base.to_str().map_or_else(|| path.clone(), str::to_owned)
                }
                (None, hub, revision) => format!(
                    "{}@{}",
                    hub.as_deref().unwrap_or_default(),
                    revision.as_deref().unwrap_or("main")
                ),
            };
            let source = Source { spec, relative_to: dir.to_owned() };
            match &model.name {
                Some(name) => draft.models.push((name.clone(), source)),
                None => draft.base = Some(source),
            }
        }
        draft
    }
}

/// The origin of each new layer.
#[must_use]
pub fn layers(blueprint: &Blueprint) -> Vec<LayerOrigin> {
    let plan = &blueprint.plan;
    let origin = |(j, layer): (usize, &crate::plan::PlannedLayer)| {
        let source = layer.sources()[0];
        LayerOrigin {
            layer: j,
            model: blueprint.models[source.model].name.clone(),
            source: source.layer,
            copy: layer.copy,
            new: layer.is_new,
            ops: layer.ops.iter().map(|&op| plan.ops()[op].to_string()).collect(),
        }
    };
    plan.layers().iter().enumerate().map(origin).collect()
}

fn unicode(path: PathBuf) -> Result<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| ProvenanceError::NotUnicode { path: path.into() }.into())
}

/// The path of `target` as seen from the folder `from`; both exist or lie in folders that do.
fn relative(target: &Path, from: &Path) -> PathBuf {
    let target = resolved(target).unwrap_or_else(|_| target.to_owned());
    let common = target.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    let relative: PathBuf = up.chain(target.components().skip(common)).collect();
    if relative.as_os_str().is_empty() { PathBuf::from(".") } else { relative }
}

/// `path` with links followed, but for a file that is one itself, as in the hub's cache: what a GGUF
/// file is called says that it is one, and which part of a model.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if path.is_file() => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_found_from_the_folder_of_the_build() {
        let check = |target: &str, from: &str, expected: &str| {
            assert_eq!(relative(Path::new(target), Path::new(from)), Path::new(expected));
        };
        check("/nowhere/a/base", "/nowhere/b/out", "../../a/base");
        check("/nowhere/base", "/nowhere/out", "../base");
        check("/nowhere/base", "/elsewhere", "../nowhere/base");
    }
}
