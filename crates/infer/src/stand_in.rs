//! A folder that stands in for a model of which only the config is here: headers, and holes for weights.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use checkpoint::header;
use checkpoint::{Dtype, folder};
use tempfile::TempDir;

use crate::anatomy;
use crate::config::DecoderConfig;
use crate::error::{Error, Result};

/// How weights are taken to be stored where no file says it: most are in 16 bits.
const STORED: Dtype = Dtype::BF16;

/// The stand-in for `path`, a folder with a config and no weights, or a config; `None` for all else.
pub(crate) fn stand_in(path: &Path) -> Result<Option<TempDir>> {
    let config_path = if path.is_dir() && !has_weights(path) {
        path.join("config.json")
    } else if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json")) {
        path.to_owned()
    } else {
        return Ok(None);
    };
    let config = DecoderConfig::read(&folder::read_object(&config_path)?, &config_path)?;
    let tensors = anatomy::expected(&config);
    let bytes = tensors
        .iter()
        .try_fold(0_u64, |sum, tensor| sum.checked_add(header::num_bytes(STORED, &tensor.shape)?));
    let bytes: io::Result<u64> = bytes.ok_or(io::ErrorKind::FileTooLarge.into());
    let written = bytes.and_then(|bytes| {
        let dir = tempfile::Builder::new().prefix("infer-").tempdir()?;
        fs::copy(&config_path, dir.path().join("config.json"))?;
        let tensors = tensors.iter().map(|it| (it.name.as_str(), STORED, it.shape.as_slice()));
        let header = header::encode(tensors, 0);
        let mut file = File::create(dir.path().join("model.safetensors"))?;
        file.write_all(&header)?;
        // A hole takes no room.
        file.set_len(header.len() as u64 + bytes)?;
        Ok(dir)
    });
    written.map(Some).map_err(|source| Error::Io {
        path: config_path,
        doing: "given random weights",
        source,
    })
}

fn has_weights(dir: &Path) -> bool {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().contains(".safetensors"))
}
