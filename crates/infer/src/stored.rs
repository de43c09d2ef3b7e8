//! A tensor as it is stored, made ready for the arithmetic.

use std::fs::File;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use checkpoint::{Checkpoint, Dtype, Encoding};
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::numbers;

/// Maps the weight files of `checkpoint`.
pub(crate) fn map_files(checkpoint: &Checkpoint) -> Result<Vec<Mmap>> {
    checkpoint.files().iter().map(|file| map(&file.path)).collect()
}

fn map(path: &Path) -> Result<Mmap> {
    let io = |source| Error::Io { path: path.to_owned(), doing: "read", source };
    let opened = File::open(path).map_err(io)?;
    #[expect(unsafe_code, reason = "weights are read from the page cache, not copied")]
    // SAFETY: the map is only read, as bytes, which are valid whatever they are. Another
    // process that shortens the file while it is mapped ends this one with SIGBUS, as it
    // does all readers of mapped weights.
    let map = unsafe { Mmap::map(&opened) }.map_err(io)?;
    // All of it will be read, and soon. Where that cannot be said, it comes page by page.
    #[cfg(unix)]
    let _ = map.advise(memmap2::Advice::WillNeed);
    Ok(map)
}

/// The stored bytes of a tensor of `checkpoint`, whose mapped `files` these are.
pub(crate) fn bytes<'a>(
    files: &'a [Mmap],
    checkpoint: &Checkpoint,
    tensor: &checkpoint::Tensor,
) -> Result<&'a [u8]> {
    let (start, end) = (tensor.range.start as usize, tensor.range.end as usize);
    files[tensor.file].get(start..end).ok_or_else(|| {
        // The header was checked against the file's length; it has been cut since.
        let path = checkpoint.files()[tensor.file].path.clone();
        let source = std::io::ErrorKind::UnexpectedEof.into();
        Error::Io { path, doing: "read", source }
    })
}

/// A tensor's bytes and what they mean.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored<'a> {
    /// What errors call it.
    pub(crate) name: &'a str,
    pub(crate) encoding: Encoding,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl Stored<'_> {
    /// Whether `other` is the same numbers, stored in the same way.
    pub(crate) fn is_equal(&self, other: &Self) -> bool {
        self.encoding == other.encoding && self.shape == other.shape && self.bytes == other.bytes
    }

    /// It in the type `dtype` on `device`: the bytes are read once, and converted as they are, before
    /// they go there.
    pub(crate) fn tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let Self { name, encoding, shape, bytes } = *self;
        let unsupported = || Error::Encoding { tensor: name.to_owned(), encoding };
        let Encoding::Plain(stored) = encoding else { return Err(unsupported()) };
        let is_as_stored = matches!(
            (stored, dtype),
            (Dtype::BF16, DType::BF16) | (Dtype::F16, DType::F16) | (Dtype::F32, DType::F32)
        );
        // A GPU's driver copies out of the file's pages, which another copy here would only delay.
        if is_as_stored && !device.is_cpu() {
            return Ok(Tensor::from_raw_buffer(bytes, dtype, shape, device)?);
        }
        Ok(match (stored, dtype) {
            (Dtype::BF16, DType::BF16) => Tensor::from_vec(numbers::bf16(bytes), shape, device)?,
            (Dtype::F16, DType::F16) => Tensor::from_vec(numbers::f16(bytes), shape, device)?,
            _ => {
                let widened = numbers::widen(stored, bytes).ok_or_else(unsupported)?;
                match dtype {
                    DType::BF16 => Tensor::from_vec(numbers::round_bf16(&widened), shape, device)?,
                    DType::F16 => Tensor::from_vec(numbers::round_f16(&widened), shape, device)?,
                    _ => Tensor::from_vec(widened, shape, device)?.to_dtype(dtype)?,
                }
            }
        })
    }
}
