//! Which files of a repository a build needs.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::hub_error::HubError;
use crate::json::{Entries, Object};
use crate::side_files;

/// Which files of a repository a build reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// Safetensors files.
    pub(super) weights: BTreeSet<String>,
    /// Config, index, tokenizer, card, licence and the like.
    pub(super) side_files: BTreeSet<String>,
}

impl Needs {
    pub(super) fn contain(&self, path: &str) -> bool {
        self.weights.contains(path) || self.side_files.contains(path)
    }
}

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Says which of the files `paths` of `repo` a build needs; `read` is asked for config and index.
///
/// | file | needed |
/// |---|---|
/// | `model.safetensors`, else the shards that the index names, else what `transformers_weights` in the config names | yes |
/// | config, index, generation config, tokenizer, chat template, code, card, licence | yes |
/// | weights of any other form: pickles, GGUF, ONNX, TensorFlow, Flax, Mistral's `consolidated` | no |
/// | adapters, and folders that hold a model of their own | no |
/// | `onnx/`, `original/`, `.cache/`; pictures and films | no |
pub(super) fn needs(
    repo: &str,
    paths: &BTreeSet<String>,
    read: &dyn Fn(&str) -> Result<Vec<u8>>,
) -> Result<Needs> {
    let mut side_files = BTreeSet::new();
    let named = if paths.contains(CONFIG) { named_by_config(repo, &read(CONFIG)?)? } else { None };
    let entry = match named {
        Some(name) => name,
        None if paths.contains(SINGLE) => SINGLE.to_owned(),
        None if paths.contains(INDEX) => INDEX.to_owned(),
        None => {
            return Err(HubError::NoSafetensors {
                repo: repo.to_owned(),
                found: other_forms(paths),
                gguf: paths.iter().find(|path| is_gguf(path)).cloned(),
            }
            .into());
        }
    };
    let weights = if entry.ends_with(".index.json") {
        let shards = shards(repo, &entry, &read(&entry)?)?;
        side_files.insert(entry.clone());
        shards
    } else {
        BTreeSet::from([entry.clone()])
    };
    if let Some(shard) = weights.iter().find(|name| !paths.contains(*name)) {
        return Err(HubError::MissingShard {
            repo: repo.to_owned(),
            index: if entry == *shard { CONFIG.to_owned() } else { entry },
            shard: shard.clone(),
        }
        .into());
    }
    let other_models: Vec<&str> = paths.iter().filter_map(|path| other_model(path)).collect();
    let in_other = |path: &str| {
        other_models.iter().any(|dir| path.strip_prefix(dir).is_some_and(|p| p.starts_with('/')))
    };
    side_files.extend(paths.iter().filter(|path| is_wanted(path) && !in_other(path)).cloned());
    Ok(Needs { weights, side_files })
}

/// The folder of `path`, if that file shows it to be a model or an adapter of its own.
fn other_model(path: &str) -> Option<&str> {
    let (dir, name) = path.rsplit_once('/')?;
    ["trainer_state.json", "adapter_config.json", SINGLE, INDEX].contains(&name).then_some(dir)
}

/// Whether a listing's file at `path` is one that stands beside the weights and that a build reads.
///
/// This is the rule of [`side_files::list`] for a folder that is not here yet; pictures are left where they
/// are.
fn is_wanted(path: &str) -> bool {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let picture = name.rsplit_once('.').is_some_and(|(_, end)| {
        side_files::PICTURES.iter().any(|picture| end.eq_ignore_ascii_case(picture))
    });
    let read_anew = ["config.json", "README.md"].contains(&path);
    let skipped = dir.split('/').any(|folder| side_files::SKIPPED_FOLDERS.contains(&folder))
        || (dir.is_empty() && side_files::OWN.contains(&name) && !read_anew);
    !picture && !skipped && !side_files::is_weight(name) && !name.starts_with(side_files::ADAPTER)
}

fn named_by_config(repo: &str, config: &[u8]) -> Result<Option<String>> {
    // A broken config is found, and named, when it is opened.
    let Some(config) = parse(config) else { return Ok(None) };
    let Some(name) = config.get("transformers_weights") else { return Ok(None) };
    let Some(name) = name.as_str() else { return Ok(None) };
    inside(repo, CONFIG, name)?;
    Ok(Some(name.to_owned()))
}

fn shards(repo: &str, index: &str, text: &[u8]) -> Result<BTreeSet<String>> {
    let broken = |found: String| Error::Key {
        path: format!("{repo}/{index}").into(),
        key: "weight_map".to_owned(),
        expected: "an object of tensor names and file names",
        found,
    };
    let object = parse(text).ok_or_else(|| broken("absent".to_owned()))?;
    let weight_map = object.read("weight_map").ok_or_else(|| broken("absent".to_owned()))?;
    let Entries::<String>(entries) = weight_map.map_err(|e| broken(format!("broken ({e})")))?;
    let names: BTreeSet<String> = entries.into_iter().map(|(_, shard)| shard).collect();
    for name in &names {
        inside(repo, index, name)?;
    }
    Ok(names)
}

fn parse(text: &[u8]) -> Option<Object> {
    let text = std::str::from_utf8(text).ok()?;
    Object::parse(text.trim_start_matches('\u{feff}')).ok()
}

fn inside(repo: &str, file: &str, name: &str) -> Result<()> {
    if stays_inside(name) {
        return Ok(());
    }
    Err(Error::NameLeavesFolder { path: format!("{repo}/{file}").into(), name: name.to_owned() })
}

/// Whether `path` is one that a repository may hold: relative, plain, and of this folder.
pub(super) fn stays_inside(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    !path.contains(['\\', '\0']) && path.split('/').all(plain)
}

fn is_gguf(path: &str) -> bool {
    std::path::Path::new(path).extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// What a repository holds in place of safetensors under the usual names.
fn other_forms(paths: &BTreeSet<String>) -> String {
    let find = |wanted: &dyn Fn(&str) -> bool| paths.iter().find(|path| wanted(path));
    let ends = |path: &str, ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
    if let Some(file) = find(&is_gguf) {
        format!("GGUF files such as {file}; fetch the one you want and give its path")
    } else if let Some(file) = find(&|path| path == "adapter_config.json") {
        format!("an adapter ({file}); merge it into its base first")
    } else if let Some(file) = find(&|path| path.starts_with("consolidated")) {
        format!("Mistral's own form ({file})")
    } else if let Some(file) = find(&|path| ends(path, &[".bin", ".pth", ".pt", ".ckpt"])) {
        format!("a PyTorch pickle ({file})")
    } else if let Some(file) = find(&|path| ends(path, &[".safetensors"])) {
        format!("{file}, which no index names")
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(paths: &[&str], texts: &[(&str, &str)], expected: Result<&[&str], &str>) {
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        let read = |path: &str| {
            let text = texts.iter().find(|(name, _)| *name == path).map_or("{}", |(_, text)| text);
            Ok(text.as_bytes().to_vec())
        };
        match (needs("o/n", &paths, &read), expected) {
            (Ok(needs), Ok(expected)) => {
                let all: BTreeSet<&String> = needs.weights.union(&needs.side_files).collect();
                let expected: Vec<&str> = expected.to_vec();
                assert_eq!(all.into_iter().map(String::as_str).collect::<Vec<_>>(), expected);
            }
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_single_file_with_what_stands_beside_it() {
        let paths = [
            ".gitattributes",
            "LICENSE",
            "README.md",
            "chat_template.jinja",
            "config.json",
            "consolidated.safetensors",
            "figures/loss.png",
            "flax_model.msgpack",
            "generation_config.json",
            "model.onnx",
            "model.safetensors",
            "modeling_x.py",
            "model-q4.gguf",
            "onnx/config.json",
            "original/params.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tf_model.h5",
            "tokenizer.json",
            "tokenizer.model",
            "adapter_config.json",
            "adapter_model.safetensors",
            "checkpoint-5/model.safetensors",
            "checkpoint-5/config.json",
            "checkpoint-5/trainer_state.json",
        ];
        let expected = [
            "LICENSE",
            "README.md",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "modeling_x.py",
            "tokenizer.json",
            "tokenizer.model",
        ];
        check(&paths, &[], Ok(&expected));
    }

    #[test]
    fn the_shards_that_the_index_names() {
        let index = r#"{"weight_map": {"a": "s-1.safetensors", "b": "s-2.safetensors"}}"#;
        let paths = ["config.json", INDEX, "s-1.safetensors", "s-2.safetensors", "s-3.safetensors"];
        let expected = ["config.json", INDEX, "s-1.safetensors", "s-2.safetensors"];
        check(&paths, &[(INDEX, index)], Ok(&expected));
        check(
            &paths[..3],
            &[(INDEX, index)],
            Err("s-2.safetensors, which model.safetensors.index.json of o/n names, is not in the \
                 repository"),
        );
        let climbs = r#"{"weight_map": {"a": "../s-1.safetensors"}}"#;
        check(
            &paths,
            &[(INDEX, climbs)],
            Err("o/n/model.safetensors.index.json names the file \"../s-1.safetensors\", which \
                 leaves the folder"),
        );
        check(
            &paths,
            &[(INDEX, "{}")],
            Err(
                "`weight_map` in o/n/model.safetensors.index.json is absent, expected an object of \
                 tensor names and file names",
            ),
        );
    }

    #[test]
    fn the_file_that_the_config_names() {
        let config = r#"{"transformers_weights": "ema.safetensors"}"#;
        let paths = ["config.json", "ema.safetensors", "model.safetensors"];
        check(&paths, &[(CONFIG, config)], Ok(&paths[..2]));
    }

    #[test]
    fn what_a_repository_holds_instead() {
        check(&["README.md"], &[], Err("o/n holds no safetensors"));
        check(
            &["x-q4.gguf", "config.json"],
            &[],
            Err(
                "o/n holds no safetensors, but GGUF files such as x-q4.gguf; fetch the one you want \
                 and give its path",
            ),
        );
        check(
            &["pytorch_model.bin"],
            &[],
            Err("o/n holds no safetensors, but a PyTorch pickle (pytorch_model.bin)"),
        );
        check(
            &["adapter_config.json", "adapter_model.safetensors"],
            &[],
            Err(
                "o/n holds no safetensors, but an adapter (adapter_config.json); merge it into its \
                 base first",
            ),
        );
    }
}
