//! The header of a safetensors file: read and checked once, or written.
//!
//! A file is an 8-byte little-endian length, a JSON header of that length, and the tensors' bytes
//! with no holes between them. This module never touches the tensors' bytes.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::json::Entries;

/// The longest header that the safetensors library reads, in bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What files are padded for, whatever the disk has: extents are shared in blocks of this size.
pub const BLOCK_BYTES: u64 = 4096;

/// How a Git LFS pointer begins.
pub(crate) const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// The bytes of the length that stands before the header.
const LENGTH_BYTES: u64 = 8;

/// What is read of a file to see what it is.
const BEGINNING_BYTES: u64 = 256;

/// A tensor as a file's header describes it.
#[derive(Debug, Clone)]
pub struct HeaderTensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the beginning of the file.
    pub range: Range<u64>,
}

/// Reads the header of the safetensors file at `path`; the tensors come in the order of their bytes.
///
/// The ranges cover the file from the header's end to its own, without overlap or gap.
pub fn read(path: &Path) -> Result<Vec<HeaderTensor>> {
    let file = File::open(path).map_err(|e| Error::io(path, "opened", e))?;
    let file_bytes = file.metadata().map_err(|e| Error::io(path, "read", e))?.len();
    let read_at = |bytes: &mut [u8], offset| {
        file.read_exact_at(bytes, offset).map_err(|e| Error::io(path, "read", e))
    };
    let mut beginning = vec![0; file_bytes.min(BEGINNING_BYTES) as usize];
    read_at(&mut beginning, 0)?;
    refuse_stand_in_text(path, &beginning)?;
    let Some(&length) = beginning.first_chunk::<{ LENGTH_BYTES as usize }>() else {
        return Err(Error::TooShort { path: path.to_owned(), bytes: file_bytes });
    };
    let header = u64::from_le_bytes(length);
    if header > MAX_HEADER_BYTES || header > file_bytes - LENGTH_BYTES {
        return Err(Error::HeaderTooLong { path: path.to_owned(), header, file: file_bytes });
    }
    let mut text = vec![0; header as usize];
    read_at(&mut text, LENGTH_BYTES)?;

    let broken = |source| Error::Header { path: path.to_owned(), source };
    let Entries::<Box<RawValue>>(entries) = serde_json::from_slice(&text).map_err(broken)?;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, value) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        let info: TensorInfo = serde_json::from_str(value.get()).map_err(broken)?;
        tensors.push(checked(path, name, info, LENGTH_BYTES + header)?);
    }
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));

    let mut end = LENGTH_BYTES + header;
    for tensor in &tensors {
        if tensor.range.start != end {
            return Err(Error::Offsets {
                path: path.to_owned(),
                tensor: tensor.name.clone(),
                expected: end - LENGTH_BYTES - header,
                found: tensor.range.start - LENGTH_BYTES - header,
            });
        }
        end = tensor.range.end;
    }
    if end != file_bytes {
        return Err(Error::FileLength { path: path.to_owned(), expected: end, found: file_bytes });
    }
    Ok(tensors)
}

/// Refuses a file whose `beginning` is that of a Git LFS pointer or of a web page.
pub(crate) fn refuse_stand_in_text(path: &Path, beginning: &[u8]) -> Result<()> {
    let beginning = beginning.trim_ascii_start();
    if beginning.starts_with(LFS_POINTER) {
        return Err(Error::LfsPointer { path: path.to_owned() });
    }
    let starts_with = |tag: &[u8]| {
        beginning.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag))
    };
    if starts_with(b"<!doctype") || starts_with(b"<html") {
        return Err(Error::WebPage { path: path.to_owned() });
    }
    Ok(())
}

/// A tensor whose range has the length that its shape and dtype need, at its place in the file.
fn checked(path: &Path, name: String, info: TensorInfo, data_start: u64) -> Result<HeaderTensor> {
    let (start, end) = info.data_offsets;
    let expected = num_bytes(info.dtype, &info.shape);
    if expected.is_none() || start.checked_add(expected.unwrap_or(0) as usize) != Some(end) {
        return Err(Error::TensorBytes {
            path: path.to_owned(),
            tensor: name,
            dtype: info.dtype,
            expected: expected
                .map_or("more than any file has".to_owned(), |bytes| format!("{bytes} bytes")),
            found: end as i128 - start as i128,
            shape: info.shape,
        });
    }
    let range = data_start.saturating_add(start as u64)..data_start.saturating_add(end as u64);
    Ok(HeaderTensor { name, dtype: info.dtype, shape: info.shape, range })
}

/// The bytes of a tensor; `None` on overflow or where elements fill no whole number of bytes.
#[must_use]
pub fn num_bytes(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let bits = shape.iter().try_fold(dtype.bitsize(), |n, &dim| n.checked_mul(dim))?;
    bits.is_multiple_of(8).then_some(bits as u64 / 8)
}

/// The length prefix and header of a file that holds `tensors`, one behind the other in this order.
///
/// It is padded with spaces so that the first tensor begins at an offset which is `residue` modulo
/// [`BLOCK_BYTES`]; `residue` should be a multiple of 8, as readers map tensors where they lie.
/// The metadata is `{"format": "pt"}`, which loaders of Hugging Face's files ask for.
pub fn encode<'a>(
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [usize])>,
    residue: u64,
) -> Vec<u8> {
    let mut infos = Vec::new();
    let mut offset = 0;
    for (name, dtype, shape) in tensors {
        let bytes =
            num_bytes(dtype, shape).expect("the shape comes from a checked header") as usize;
        let data_offsets = (offset, offset + bytes);
        infos.push((name.to_owned(), TensorInfo { dtype, shape: shape.to_vec(), data_offsets }));
        offset += bytes;
    }
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(format), infos).expect("the ranges follow one another");
    let json = serde_json::to_vec(&metadata).expect("a header is plain JSON");

    let least = LENGTH_BYTES + json.len() as u64;
    let data_start = least + (residue + BLOCK_BYTES - least % BLOCK_BYTES) % BLOCK_BYTES;
    let mut bytes = (data_start - LENGTH_BYTES).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes.resize(usize::try_from(data_start).expect("a header fits in memory"), b' ');
    bytes
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn the_library_reads_what_is_encoded() {
        for residue in [0, 8, 2048, 4088] {
            let shapes =
                [("b", Dtype::BF16, &[3, 2][..]), ("a", Dtype::U8, &[5]), ("c", Dtype::F32, &[])];
            let mut bytes = encode(shapes, residue);
            assert_eq!(bytes.len() as u64 % BLOCK_BYTES, residue);
            bytes.extend(0..21);
            let read = SafeTensors::deserialize(&bytes).unwrap();
            assert_eq!(read.tensor("b").unwrap().data(), (0..12).collect::<Vec<u8>>());
            assert_eq!(read.tensor("a").unwrap().data(), (12..17).collect::<Vec<u8>>());
            assert_eq!(read.tensor("c").unwrap().shape(), [0_usize; 0]);
        }
    }
}
