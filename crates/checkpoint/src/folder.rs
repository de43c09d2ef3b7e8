//! A model in Hugging Face's form: a folder with `config.json` and safetensors files.
//!
//! Opening it reads the config and every header, never a tensor, and what comes of it has been
//! checked: each tensor lies whole in a regular file of the folder and has one place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::header;
use crate::json::{Entries, Object};
use crate::model::{CONFIG, Checkpoint, Tensor, WeightFile};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Reads the config and all headers of the model in the folder `dir`.
pub(crate) fn open(dir: &Path) -> Result<Checkpoint> {
    let usual = weights(dir)?;
    if usual.is_none() && dir.join(CONFIG).symlink_metadata().is_err() {
        return Err(without_weights(dir)?);
    }
    let config = read_config(dir)?;
    let Some(weights) = named_by_config(dir, &config)?.or(usual) else {
        return Err(without_weights(dir)?);
    };
    let (files, expected) = weights.files(dir)?;

    let mut tensors: Vec<Tensor> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    for (file, weight_file) in files.iter().enumerate() {
        for tensor in header::read(&weight_file.path)? {
            if let Some(expected) = expected.get(&tensor.name)
                && *expected != weight_file.name
            {
                return Err(Error::TensorInOtherShard {
                    tensor: tensor.name,
                    shard: weight_file.path.clone(),
                    expected: expected.clone(),
                });
            }
            if let Some(&first) = by_name.get(&tensor.name) {
                return Err(Error::TensorTwice {
                    tensor: tensor.name,
                    first: files[tensors[first].file].name.clone(),
                    second: weight_file.name.clone(),
                });
            }
            by_name.insert(tensor.name.clone(), tensors.len());
            let header::HeaderTensor { name, dtype, shape, range } = tensor;
            tensors.push(Tensor { name, encoding: dtype.into(), shape, file, range });
        }
    }
    if let Some((tensor, shard)) = expected.iter().find(|(name, _)| !by_name.contains_key(*name)) {
        return Err(Error::MissingTensor { tensor: tensor.clone(), shard: dir.join(shard) });
    }
    Ok(Checkpoint::new(dir, config, None, files, tensors))
}

/// Reads a JSON object from a file that may be a stand-in for it.
pub fn read_object(path: &Path) -> Result<Object> {
    if !regular_file(path)? {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let text = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    header::refuse_stand_in_text(path, &text)?;
    let json = |source| Error::Json { path: path.to_owned(), source };
    let text = std::str::from_utf8(&text).map_err(|e| json(serde::de::Error::custom(e)))?;
    Object::parse(text.trim_start_matches('\u{feff}')).map_err(json)
}

fn read_config(dir: &Path) -> Result<Object> {
    let path = dir.join(CONFIG);
    if path.symlink_metadata().is_err() {
        return Err(Error::NoSuchPath { spec: path.display().to_string(), path });
    }
    read_object(&path)
}

/// Which files hold the weights.
enum Weights {
    /// One file, without an index.
    Single(String),
    /// The shards that an index names.
    Index(PathBuf),
}

/// Finds the weights as transformers does: a single file first, then an index.
fn weights(dir: &Path) -> Result<Option<Weights>> {
    fs::read_dir(dir).map_err(|e| Error::io(dir, "listed", e))?;
    let there = |name| dir.join(name).symlink_metadata().is_ok();
    Ok(if there(SINGLE) {
        Some(Weights::Single(SINGLE.to_owned()))
    } else {
        there(INDEX).then(|| Weights::Index(dir.join(INDEX)))
    })
}

/// The weights that `transformers_weights` in the config names instead of the usual ones.
fn named_by_config(dir: &Path, config: &Object) -> Result<Option<Weights>> {
    const KEY: &str = "transformers_weights";
    let Some(value) = config.get(KEY).filter(|value| !value.is_null()) else { return Ok(None) };
    let path = dir.join(CONFIG);
    let Some(name) = value.as_str() else {
        return Err(Error::Key {
            path,
            key: KEY.to_owned(),
            expected: "a file name",
            found: value.to_string(),
        });
    };
    stays_inside(&path, name)?;
    Ok(Some(if name.ends_with(".index.json") {
        Weights::Index(dir.join(name))
    } else {
        Weights::Single(name.to_owned())
    }))
}

impl Weights {
    /// The files, and the file that an index gives to each tensor.
    fn files(self, dir: &Path) -> Result<(Vec<WeightFile>, BTreeMap<String, String>)> {
        match self {
            Self::Single(name) => {
                let file = weight_file(dir, &name, &dir.join(CONFIG))?;
                Ok((vec![file], BTreeMap::new()))
            }
            Self::Index(path) => {
                let key = |found: String| Error::Key {
                    path: path.clone(),
                    key: "weight_map".to_owned(),
                    expected: "an object of tensor names and file names",
                    found,
                };
                let weight_map = read_object(&path)?.read("weight_map");
                let weight_map = weight_map.ok_or_else(|| key("absent".to_owned()))?;
                let Entries(weight_map) = weight_map.map_err(|e| key(format!("broken ({e})")))?;
                let expected: BTreeMap<String, String> = weight_map.into_iter().collect();
                let names: BTreeSet<&String> = expected.values().collect();
                for name in &names {
                    stays_inside(&path, name)?;
                }
                let files = names.iter().map(|name| weight_file(dir, name, &path));
                Ok((files.collect::<Result<_>>()?, expected))
            }
        }
    }
}

/// Refuses a file name that is absolute or climbs; links in the folder may lead where they like.
fn stays_inside(path: &Path, name: &str) -> Result<()> {
    let plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || !Path::new(name).components().all(plain) || name.contains('\\') {
        return Err(Error::NameLeavesFolder { path: path.to_owned(), name: name.to_owned() });
    }
    Ok(())
}

fn weight_file(dir: &Path, name: &str, index: &Path) -> Result<WeightFile> {
    let path = dir.join(name);
    if path.symlink_metadata().is_err() {
        return Err(Error::MissingShard { index: index.to_owned(), shard: name.to_owned() });
    }
    if !regular_file(&path)? {
        return Err(Error::NotAFile { path });
    }
    let bytes = path.metadata().map_err(|e| Error::io(&path, "read", e))?.len();
    Ok(WeightFile { name: name.to_owned(), path, bytes })
}

fn regular_file(path: &Path) -> Result<bool> {
    Ok(path.metadata().map_err(|e| Error::io(path, "read", e))?.is_file())
}

/// What to say of a folder that has no safetensors under the names that loaders look for.
fn without_weights(dir: &Path) -> Result<Error> {
    let mut names = Vec::new();
    for entry in dir.read_dir().map_err(|e| Error::io(dir, "listed", e))? {
        let entry = entry.map_err(|e| Error::io(dir, "listed", e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let find = |wanted: &dyn Fn(&str) -> bool| names.iter().find(|name| wanted(name)).cloned();
    let dir = dir.to_owned();
    let ends = |name: &str, ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let is_shard = |name: &str| name.starts_with("model-") && name.ends_with(".safetensors");
    Ok(if let Some(shard) = find(&is_shard) {
        Error::NoIndex { dir, shard }
    } else if let Some(file) = find(&|name| name.starts_with("consolidated")) {
        Error::Consolidated { dir, file }
    } else if find(&|name| name == "adapter_config.json").is_some() {
        let config = read_object(&dir.join("adapter_config.json"))?;
        let base = config.get("base_model_name_or_path");
        let base = base.as_ref().and_then(|base| base.as_str()).unwrap_or("not named").to_owned();
        Error::AdapterOnly { dir, base }
    } else if let Some(file) =
        find(&|name| ends(name, &[".bin", ".pth", ".pt", ".ckpt", ".bin.index.json"]))
    {
        Error::Pickle { dir, file }
    } else if let Some(file) = find(&|name| ends(name, &[".gguf"])) {
        Error::FolderOfGguf { dir, file }
    } else {
        Error::NoWeights { dir }
    })
}
