//! Models split over several files, `NAME-00001-of-00003.gguf` and so on.
//!
//! The first file holds the metadata of all; any of them may be given for the whole.

use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::header::Header;
use crate::error::{Error, Result};

/// The keys that say which part a file is, and how many there are.
const COUNT_KEY: &str = "split.count";
const NUMBER_KEY: &str = "split.no";
const TENSORS_KEY: &str = "split.tensors.count";

/// Whether a key is about how a model is split.
#[must_use]
pub fn is_split_key(key: &str) -> bool {
    key.starts_with("split.")
}

/// Reads the headers of the file at `path` and, if it is a part of a model, of all other parts.
///
/// They come with their paths, the one with the metadata first.
pub fn read(path: &Path) -> Result<Vec<(PathBuf, Header)>> {
    let header = Header::read(path)?;
    let count = header.metadata.u64(COUNT_KEY)?.unwrap_or(1);
    if count <= 1 {
        return Ok(vec![(path.to_owned(), header)]);
    }
    let failed = |source| Error::Gguf { path: path.to_owned(), source };
    let paths = part_paths(path, count).ok_or_else(|| {
        let what = format!("its name does not end in -0000N-of-{count:05}.gguf");
        failed(GgufError::Parts { what })
    })?;
    let mut parts = Vec::new();
    for (i, part) in paths.into_iter().enumerate() {
        if part.symlink_metadata().is_err() {
            let part = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(failed(GgufError::MissingPart { part }));
        }
        let header = Header::read(&part)?;
        let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (number, of) = (header.metadata.u64(NUMBER_KEY)?, header.metadata.u64(COUNT_KEY)?);
        if number != Some(i as u64) || of != Some(count) {
            let shown = |value: Option<u64>| value.map_or("nothing".to_owned(), |v| v.to_string());
            let what = format!("{name} says it is number {} of {}", shown(number), shown(of));
            return Err(failed(GgufError::Parts { what }));
        }
        parts.push((part, header));
    }
    let promised = parts[0].1.metadata.u64(TENSORS_KEY)?;
    let found: usize = parts.iter().map(|(_, header)| header.tensors.len()).sum();
    if promised.is_some_and(|promised| promised != found as u64) {
        let what =
            format!("its parts have {found} tensors, not the {} promised", promised.unwrap_or(0));
        return Err(failed(GgufError::Parts { what }));
    }
    Ok(parts)
}

/// The paths of all parts of the model of which the file at `path` is one.
fn part_paths(path: &Path, count: u64) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-of-{count:05}.gguf"))?;
    let (stem, number) = stem.rsplit_once('-')?;
    let number: u64 = number.parse().ok().filter(|_| number.len() == 5)?;
    let is_one = (1..=count).contains(&number) && count <= 99_999;
    is_one.then(|| {
        let part = |i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"));
        (1..=count).map(part).collect()
    })
}
