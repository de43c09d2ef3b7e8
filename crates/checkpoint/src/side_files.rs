//! The files beside the weights: which of them belong to a model made from this one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::header;

/// A file beside the weights.
#[derive(Debug, Clone)]
pub struct SideFile {
    /// Its path inside the folder.
    pub name: PathBuf,
    /// Where it lies; a link in the hub's cache is not yet followed.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What stands in a model's folder beside its weights.
#[derive(Debug, Default)]
pub struct SideFiles {
    /// Tokenizer, generation config, chat template, custom code, licence and the like, by name.
    pub kept: Vec<SideFile>,
    /// Adapters, which a loader would attach to a model that they were not made for.
    pub adapters: Vec<PathBuf>,
}

/// Folders that hold other forms of the same weights, or none of the model at all.
pub(crate) const SKIPPED_FOLDERS: &[&str] = &["onnx", "original", ".git", ".cache", "__pycache__"];

/// Ends of the names of weights in any form.
const WEIGHTS: &[&str] = &[
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pth",
    ".pt",
    ".ckpt",
    ".gguf",
    ".ggml",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".ot",
    ".tflite",
    ".npz",
];

/// Ends of the names of pictures and films, which no loader reads.
pub(crate) const PICTURES: &[&str] = &["png", "jpg", "jpeg", "gif", "webp", "svg", "pdf", "mp4"];

/// How the names of an adapter's files begin.
pub(crate) const ADAPTER: &str = "adapter_";

/// What describes this model and not one made from it.
pub(crate) const OWN: &[&str] = &[
    "config.json",
    "README.md",
    "dus.json",
    "mergekit_config.yml",
    "params.json",
    ".gitattributes",
];

/// Lists the files beside the weights in `dir`, sorted by name, following links.
pub fn list(dir: &Path) -> Result<SideFiles> {
    let mut files = SideFiles::default();
    walk(dir, Path::new(""), &mut Vec::new(), &mut files)?;
    files.kept.sort_by(|a, b| a.name.cmp(&b.name));
    files.adapters.sort();
    Ok(files)
}

/// Lists `dir`, which is `inside` of the model's folder; `above` are the real folders that lead there.
fn walk(dir: &Path, inside: &Path, above: &mut Vec<PathBuf>, files: &mut SideFiles) -> Result<()> {
    let real = dir.canonicalize().map_err(|e| Error::io(dir, "resolved", e))?;
    if above.contains(&real) {
        // A link back to a folder that it stands in: all of it is listed already.
        return Ok(());
    }
    above.push(real);
    for entry in dir.read_dir().map_err(|e| Error::io(dir, "listed", e))? {
        let entry = entry.map_err(|e| Error::io(dir, "listed", e))?;
        let file_name = entry.file_name();
        let text = file_name.to_string_lossy();
        let path = entry.path();
        let name = inside.join(&file_name);
        // A weight may be a link to a file that was never fetched: it is not asked for.
        if is_weight(&text) && !path.is_dir() {
            if text.starts_with(ADAPTER) {
                files.adapters.push(name);
            }
            continue;
        }
        let kind = path.metadata().map_err(|e| Error::io(&path, "read", e))?;
        if kind.is_dir() {
            if path.join("adapter_config.json").exists() {
                files.adapters.push(name);
            } else if !SKIPPED_FOLDERS.contains(&&*text) && !is_checkpoint(&path) {
                walk(&path, &name, above, files)?;
            }
        } else if text.starts_with(ADAPTER) {
            files.adapters.push(name);
        } else if inside.as_os_str().is_empty() && OWN.contains(&&*text) {
            // Written anew, or of this model only.
        } else {
            if !kind.is_file() {
                return Err(Error::NotAFile { path });
            }
            refuse_lfs_pointer(&path, kind.len())?;
            files.kept.push(SideFile { name, path, bytes: kind.len() });
        }
    }
    above.pop();
    Ok(())
}

/// Refuses a Git LFS pointer where a loader would read the file itself; pictures may be missing.
fn refuse_lfs_pointer(path: &Path, bytes: u64) -> Result<()> {
    /// Pointers are about 130 bytes long.
    const MAX_POINTER_BYTES: u64 = 1024;

    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let is_picture = PICTURES.iter().any(|&end| extension == end);
    if is_picture || bytes > MAX_POINTER_BYTES {
        return Ok(());
    }
    match fs::read(path) {
        Ok(text) if text.starts_with(header::LFS_POINTER) => {
            Err(Error::LfsPointer { path: path.to_owned() })
        }
        // What cannot be read is found when it is copied.
        _ => Ok(()),
    }
}

/// Whether the folder at `path` is a model of its own, as training leaves them beside the last one.
fn is_checkpoint(path: &Path) -> bool {
    ["trainer_state.json", "model.safetensors", "model.safetensors.index.json"]
        .iter()
        .any(|name| path.join(name).exists())
}

pub(crate) fn is_weight(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("consolidated.") || WEIGHTS.iter().any(|end| name.ends_with(end))
}
