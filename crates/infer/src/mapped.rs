//! Bytes of weights: in files that are mapped into memory, or in memory.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::{Checkpoint, Tensor};
use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file of weights. It stays open: a GPU's part is read, not mapped.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
    file: File,
    path: PathBuf,
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), doing: "read", source };
        let file = File::open(path).map_err(io)?;
        #[expect(unsafe_code, reason = "weights are read from the page cache, not copied")]
        // SAFETY: the map is only read, as bytes, which are valid whatever they are. Another
        // process that shortens the file while it is mapped ends this one with SIGBUS, as it
        // does all readers of mapped weights.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        // All of it will be read, and soon. Where that cannot be said, it comes page by page.
        #[cfg(unix)]
        let _ = map.advise(memmap2::Advice::WillNeed);
        Ok(Self { map, file, path: path.to_owned() })
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// It, and what errors call it.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "it is the GPU's to read"))]
    pub(crate) fn file(&self) -> (&File, &Path) {
        (&self.file, &self.path)
    }
}

/// Bytes of a file, or in memory. A clone is the same memory.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// A stretch of a mapped file, which must be in it.
    Mapped(Arc<MappedFile>, Range<usize>),
    /// Bytes in memory.
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(file, range) => &file.bytes()[range.clone()],
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Maps the weight files of `checkpoint`.
pub(crate) fn map_files(checkpoint: &Checkpoint) -> Result<Vec<Arc<MappedFile>>> {
    checkpoint.files().iter().map(|file| MappedFile::open(&file.path).map(Arc::new)).collect()
}

/// The stored bytes of a tensor of `checkpoint`, whose mapped `files` these are.
pub(crate) fn bytes(
    files: &[Arc<MappedFile>],
    checkpoint: &Checkpoint,
    tensor: &Tensor,
) -> Result<Bytes> {
    let range: Range<usize> = tensor.range.start as usize..tensor.range.end as usize;
    let file = &files[tensor.file];
    if file.map.len() < range.end {
        // The header was checked against the file's length; it has been cut since.
        let path = checkpoint.files()[tensor.file].path.clone();
        let source = std::io::ErrorKind::UnexpectedEof.into();
        return Err(Error::Io { path, doing: "read", source });
    }
    Ok(Bytes::Mapped(Arc::clone(file), range))
}
