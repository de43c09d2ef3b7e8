//! The first line of a build's journal: what it makes, of what, by which version.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use checkpoint::gguf::tokenizer::TokenizerFiles;
use checkpoint::hub::{HubId, Remote};
use checkpoint::{Checkpoint, WeightFile};
use serde_json::{Value, json};

use crate::blueprint::Blueprint;
use crate::error::{Difference, Error, Result};
use crate::manifest::Manifest;
use crate::recipe::Form;
use crate::shards::ShardLayout;

/// The form of the journal's lines.
const FORMAT: u32 = 1;

/// The first line: what a build makes, and of what.
#[derive(Debug, Clone, PartialEq)]
pub struct Head(Value);

impl Head {
    /// What stands in the first line for a build with this manifest, of `models` as they are now.
    pub fn new(manifest: &Manifest, blueprint: &Blueprint, layout: &ShardLayout) -> Result<Self> {
        let mut sources = Vec::new();
        for (m, model) in blueprint.models.iter().enumerate() {
            let stamps: Vec<Value> = match blueprint.remote(m) {
                Some(remote) => stamps_on_hub(&model.checkpoint, remote),
                None => stamps(&model.checkpoint, blueprint.form())?,
            };
            for stamp in stamps {
                if !sources.contains(&stamp) {
                    sources.push(stamp);
                }
            }
        }
        let shards: Vec<Value> = (layout.shards.iter())
            .map(|shard| {
                let header = crc32fast::hash(&shard.header);
                json!({ "name": shard.name, "bytes": shard.bytes(), "header": header })
            })
            .collect();
        Ok(Self(json!({
            "journal": FORMAT,
            "dus": manifest.dus,
            "recipe": manifest.recipe,
            "plan": manifest.plan,
            "shard_layout": manifest.shard_layout,
            "sources": sources,
            "shards": shards,
        })))
    }

    /// The line's text.
    #[must_use]
    pub fn encode(&self) -> String {
        self.0.to_string()
    }

    /// Understands a line's text.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// The first thing in which a build that was begun with this differs from one `now`.
    #[must_use]
    pub fn difference(&self, now: &Self) -> Option<Difference> {
        let (was, is) = (&self.0, &now.0);
        differing_key(was, is, &["journal", "dus"])
            .or_else(|| differing_key(&was["recipe"], &is["recipe"], &[]))
            .or_else(|| differing_source(&was["sources"], &is["sources"]))
            .or_else(|| differing_key(was, is, &["plan", "shard_layout", "shards"]))
    }
}

/// What is known of the files of a model without reading them.
fn stamps(checkpoint: &Checkpoint, form: Form) -> Result<Vec<Value>> {
    let mut paths: Vec<PathBuf> = checkpoint.files().iter().map(|f| f.path.clone()).collect();
    paths.push(checkpoint.config_path());
    if form == Form::Gguf && checkpoint.gguf().is_none() {
        // They become part of the file's beginning.
        paths.extend(TokenizerFiles::read(checkpoint.path())?.paths());
    }
    paths.iter().map(|path| stamp(path)).collect()
}

/// The same of a model on the hub, where a commit never changes.
fn stamps_on_hub(checkpoint: &Checkpoint, remote: &Remote) -> Vec<Value> {
    let HubId { repo, commit } = remote.revision().hub_id();
    let stamp = |file: &WeightFile| json!({ "path": format!("{repo}@{commit}/{}", file.name), "bytes": file.bytes });
    checkpoint.files().iter().map(stamp).collect()
}

/// What is known of a file without reading it.
///
/// Its number tells a file that was replaced by one of the same length and time. The number of its
/// device is left out: that may change when the machine starts again.
fn stamp(path: &Path) -> Result<Value> {
    let failed = |source| Error::Io { path: path.to_owned(), doing: "read", source };
    let metadata = fs::metadata(path).map_err(failed)?;
    let real = path.canonicalize().map_err(failed)?;
    Ok(json!({
        "path": real.display().to_string(),
        "bytes": metadata.len(),
        "modified": [metadata.mtime(), metadata.mtime_nsec()],
        "inode": metadata.ino(),
    }))
}

/// The first of `keys`, or of all keys if none are given, whose values are not the same.
fn differing_key(was: &Value, is: &Value, keys: &[&str]) -> Option<Difference> {
    let all = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    let mut keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
    if keys.is_empty() {
        keys = all(was);
        keys.extend(all(is));
    }
    let key = keys.into_iter().find(|key| was.get(key) != is.get(key))?;
    let text = |value: &Value| match value.get(&key) {
        None | Some(Value::Null) => "not given".to_owned(),
        Some(Value::Array(_)) => "another list".to_owned(),
        Some(value) => value.to_string(),
    };
    Some(Difference::Key { was: text(was), is: text(is), key })
}

fn differing_source(was: &Value, is: &Value) -> Option<Difference> {
    let paths = |sources: &Value| -> Vec<String> {
        let sources = sources.as_array().into_iter().flatten();
        sources.filter_map(|source| source["path"].as_str().map(str::to_owned)).collect()
    };
    let (old, new) = (paths(was), paths(is));
    if old != new {
        let list = |paths: &[String]| paths.join(", ");
        return Some(Difference::Key { key: "base".to_owned(), was: list(&old), is: list(&new) });
    }
    let pairs = was.as_array()?.iter().zip(is.as_array()?);
    let (was, is) = pairs.into_iter().find(|(was, is)| was != is)?;
    let what = if was["bytes"] != is["bytes"] {
        format!("it had {} bytes and has {}", was["bytes"], is["bytes"])
    } else if was["inode"] == is["inode"] {
        "it was written to".to_owned()
    } else {
        "it was replaced".to_owned()
    };
    Some(Difference::Source { path: is["path"].as_str().unwrap_or_default().into(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let source =
            |bytes: u64, inode: u64| json!({ "path": "/w", "bytes": bytes, "inode": inode });
        let head = |dtype: Option<&str>, source: Value| {
            let mut recipe = json!({ "layers": "dus(1)" });
            if let Some(dtype) = dtype {
                recipe["dtype"] = dtype.into();
            }
            Head(json!({ "dus": "1", "recipe": recipe, "sources": [source], "shards": [] }))
        };
        let was = head(None, source(1, 1));
        let check = |now: &Head, expected: &str| {
            let found = was.difference(now).map_or(String::new(), |found| found.to_string());
            assert_eq!(found, expected);
        };
        check(&was, "");
        check(
            &head(Some("float16"), source(1, 1)),
            "its `dtype` was not given, and now is \"float16\"",
        );
        check(&head(None, source(2, 1)), "/w has changed: it had 1 bytes and has 2");
        check(&head(None, source(1, 2)), "/w has changed: it was replaced");
    }
}
