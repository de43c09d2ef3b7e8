//! The files of a new folder beside its weights: index, config, tokenizer, card and `dus.json`.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;

use checkpoint::folder::read_object;
use checkpoint::json::Object;
use serde_json::json;

use crate::blueprint::Blueprint;
use crate::card;
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::settings;

/// The file in which `ModelOpt` names the layers that it left alone.
const QUANT_CONFIG: &str = "hf_quant_config.json";

/// What keeps these files from being written, all of it.
#[must_use]
pub(crate) fn obstacles(blueprint: &Blueprint) -> Vec<Error> {
    [quant_config(blueprint).err(), base_card(blueprint).err()].into_iter().flatten().collect()
}

/// Writes all of them into `dir`; `title` is the new model's name on its card.
pub(crate) fn write(
    blueprint: &Blueprint,
    manifest: &Manifest,
    title: &str,
    dir: &Path,
) -> Result<()> {
    write_index(blueprint, dir)?;
    write_file(dir, "config.json", blueprint.config()?.config.to_string().as_bytes())?;
    copy_side_files(blueprint, dir)?;
    for (name, content) in blueprint.tokenizer_folder()?.files {
        write_file(dir, name, content.as_bytes())?;
    }
    let manifest_text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain JSON");
    write_file(dir, manifest::FILE, format!("{manifest_text}\n").as_bytes())?;
    let card = card::write(blueprint, manifest, title, &base_card(blueprint)?);
    write_file(dir, "README.md", card.as_bytes())
}

/// The base's own card; empty where it has none.
fn base_card(blueprint: &Blueprint) -> Result<String> {
    if blueprint.donor().checkpoint.gguf().is_some() {
        return Ok(String::new());
    }
    let path = blueprint.donor().checkpoint.path().join("README.md");
    match fs::read(&path) {
        // A stray byte in it must not lose the licence.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::Io { path, doing: "read", source }),
    }
}

/// Writes the index, as Hugging Face does: sorted by name, none for a single file.
fn write_index(blueprint: &Blueprint, dir: &Path) -> Result<()> {
    if blueprint.layout.shards.len() == 1 {
        return Ok(());
    }
    let mut weight_map = std::collections::BTreeMap::new();
    for shard in &blueprint.layout.shards {
        for placed in &shard.tensors {
            weight_map.insert(&blueprint.splice.tensors[placed.tensor].name, &shard.name);
        }
    }
    let index = json!({
        "metadata": { "total_size": blueprint.splice.bytes() },
        "weight_map": weight_map,
    });
    write_file(dir, "model.safetensors.index.json", format!("{index:#}\n").as_bytes())
}

/// Copies the files beside the weights; where one names layers, its numbers follow the plan.
fn copy_side_files(blueprint: &Blueprint, dir: &Path) -> Result<()> {
    for side in &blueprint.side_files.kept {
        if side.name.as_os_str() == QUANT_CONFIG
            && let Some(renamed) = quant_config(blueprint)?
        {
            write_file(dir, QUANT_CONFIG, renamed.to_string().as_bytes())?;
            continue;
        }
        let target = dir.join(&side.name);
        if let Some(above) = target.parent() {
            let failed = |source| Error::Io { path: above.to_owned(), doing: "created", source };
            fs::create_dir_all(above).map_err(failed)?;
        }
        let read = |source| Error::Io { path: side.path.clone(), doing: "read", source };
        let written = |source| Error::Io { path: target.clone(), doing: "written", source };
        // Not `fs::copy`, which would copy the mode as well: modes follow the umask.
        let mut source = File::open(&side.path).map_err(read)?;
        let mut file = File::create_new(&target).map_err(written)?;
        // Nor `io::copy`, which does not go on where the kernel stops copying in the midst of a file.
        let mut buffer = vec![0; 1 << 16];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => file.write_all(&buffer[..length]).map_err(written)?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read(error)),
            }
        }
        file.sync_all().map_err(written)?;
    }
    Ok(())
}

/// `hf_quant_config.json` with the layers that it names following the plan.
fn quant_config(blueprint: &Blueprint) -> Result<Option<Object>> {
    let mut files = Vec::new();
    for model in &blueprint.models {
        let path = model.checkpoint.path().join(QUANT_CONFIG);
        files.push(if path.is_file() { Some(read_object(&path)?) } else { None });
    }
    let files: Vec<Option<&Object>> = files.iter().map(Option::as_ref).collect();
    blueprint.with_depth(|depth| settings::rename_modules(depth, &files)).map_err(|source| {
        let config = blueprint.donor().checkpoint.path().join(QUANT_CONFIG);
        Error::Setting { config, source }
    })
}

fn write_file(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let failed = |source| Error::Io { path: path.clone(), doing: "written", source };
    let mut file = File::create_new(&path).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.sync_all().map_err(failed)
}
