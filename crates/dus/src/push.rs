//! Uploads a build to the hub, without the paths of this machine.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use checkpoint::gguf::Header;
use checkpoint::hub::{Content, Hub, Push, Pushed, Upload};
use serde_json::Value;

use crate::card;
use crate::error::{Error, ProvenanceError, Result};
use crate::gguf_head::MANIFEST_KEY;
use crate::manifest::{self, Manifest};
use crate::progress::Watch;
use crate::sources::with_hub_watch;

/// The card's name in a build's folder.
const CARD: &str = "README.md";

/// Uploads what a build left at `out`, a folder or a GGUF file, as one commit.
///
/// Where provenance, card or config name a model by its path, only the last part of that is sent. A
/// GGUF file is sent with a card, unless the repository has one.
pub fn push(out: &Path, push: &Push, watch: &Watch) -> Result<Pushed> {
    let files = if out.is_file() { gguf_file(out)? } else { folder(out)? };
    with_hub_watch(watch, |watch| Hub::from_env()?.push(push, &files, watch))
}

fn folder(out: &Path) -> Result<Vec<Upload>> {
    let mut manifest = Manifest::read(out)?;
    let mut card = read(&out.join(CARD))?;
    for (path, name) in leave_names(&mut manifest) {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        card = card.replace(&quoted(&path), &quoted(&name));
    }
    let mut text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain JSON");
    text.push('\n');
    let mut files = Upload::folder(out)?;
    for file in &mut files {
        let sent = match file.path.as_str() {
            manifest::FILE => text.clone(),
            CARD => card.clone(),
            "config.json" | "tokenizer_config.json" => config(&read(&out.join(&file.path))?),
            _ => continue,
        };
        file.content = Content::Bytes(sent.into_bytes());
    }
    Ok(files)
}

fn gguf_file(out: &Path) -> Result<Vec<Upload>> {
    let mut manifest = Manifest::read(out)?;
    let header = Header::read(out)?;
    let text = header.metadata.str(MANIFEST_KEY)?.unwrap_or_default();
    let mut sent = text.to_owned();
    for (path, name) in leave_names(&mut manifest) {
        let key = |text: &str| format!("\"path\":{}", Value::from(text));
        let (long, short) = (key(&path), key(&name));
        // Blanks in place of what is left out: all that comes after it stays where it is.
        let blanks = " ".repeat(long.len() - short.len());
        sent = sent.replace(&long, &format!("{short}{blanks}"));
    }
    let shapes = header.tensors.iter().map(|tensor| &tensor.shape);
    let num_parameters = shapes.map(|shape| shape.iter().product::<usize>() as u64).sum();
    let license = header.metadata.str("general.license")?;
    let title = out.file_stem().unwrap_or_default().to_string_lossy();
    let card = card::of_file(&manifest, out, num_parameters, &title, license)?;
    let name = out.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| ProvenanceError::NotUnicode { path: out.to_owned() })?;
    let content = with_manifest(out, &header, text, &sent)?;
    let card = Content::Bytes(card.into_bytes());
    Ok(vec![
        Upload { path: CARD.to_owned(), content: card, yields: true },
        Upload { path: name.to_owned(), content, yields: false },
    ])
}

/// The file at `out` with `sent` in place of its manifest, `text`.
fn with_manifest(out: &Path, header: &Header, text: &str, sent: &str) -> Result<Content> {
    let failed = |source| Error::Io { path: out.to_owned(), doing: "read", source };
    let head_bytes = header.tensors.first().map_or(u64::MAX, |tensor| tensor.range.start);
    let mut head = Vec::new();
    let file = File::open(out).map_err(failed)?;
    file.take(head_bytes).read_to_end(&mut head).map_err(failed)?;
    let found = head.windows(text.len().max(1)).position(|window| window == text.as_bytes());
    match found {
        Some(start) if sent.len() == text.len() => {
            head[start..start + text.len()].copy_from_slice(sent.as_bytes());
            Ok(Content::Headed { head: head.into(), path: out.to_owned() })
        }
        // The file changed between two looks at it.
        _ => Err(ProvenanceError::NotABuild { out: out.to_owned() }.into()),
    }
}

/// Leaves of the models' paths their last part; returns what was there, and what is there now.
fn leave_names(manifest: &mut Manifest) -> Vec<(String, String)> {
    let paths = manifest.models.iter_mut().filter_map(|model| model.path.as_mut());
    paths
        .filter_map(|path| {
            // `..` says nothing of this machine.
            let name = Path::new(path).file_name()?.to_string_lossy().into_owned();
            Some((std::mem::replace(path, name.clone()), name))
        })
        .collect()
}

/// A config without the paths that transformers notes when a model is loaded from a folder.
fn config(text: &str) -> String {
    let mut paths = Vec::new();
    if let Ok(value) = serde_json::from_str(text) {
        collect_paths(&value, &mut paths);
    }
    let mut text = text.to_owned();
    for path in paths {
        let name = path.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or_default();
        text = text.replace(&Value::from(&*path).to_string(), &Value::from(name).to_string());
    }
    text
}

fn collect_paths(value: &Value, paths: &mut Vec<String>) {
    let Value::Object(object) = value else { return };
    for (key, value) in object {
        match value {
            Value::String(text) if key.ends_with("name_or_path") && is_path(text) => {
                paths.push(text.clone());
            }
            value => collect_paths(value, paths),
        }
    }
}

/// Whether `text` is a path and no hub id.
fn is_path(text: &str) -> bool {
    text.starts_with(['/', '~', '.']) || text.contains('\\') || text.matches('/').count() > 1
}

/// Reads a text; what is not there is empty, as a card that its owner removed.
fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|source| Error::Io { path: path.to_owned(), doing: "read", source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_keeps_names_and_loses_paths() {
        let check = |text: &str, expected: &str| assert_eq!(config(text), expected);
        check(
            "{ \"_name_or_path\": \"/home/me/run/step-5/\",\n \"n\": 1.50 }",
            "{ \"_name_or_path\": \"step-5\",\n \"n\": 1.50 }",
        );
        check(
            r#"{"text_config": {"_name_or_path": "../a b"}, "x": "/y/z"}"#,
            r#"{"text_config": {"_name_or_path": "a b"}, "x": "/y/z"}"#,
        );
        check(r#"{"name_or_path":"C:\\models\\x"}"#, r#"{"name_or_path":"x"}"#);
        for same in [r#"{"_name_or_path": "owner/name"}"#, r#"{"_name_or_path": ""}"#, "[", "{}"] {
            check(same, same);
        }
    }
}
