//! A file of the new model while it is written, past the page cache where that can be.
//!
//! A model is larger than the cache likes: written through it, it would push the base out and be
//! copied once more on its way to the disk. So whole blocks go straight from our buffers to the disk
//! (`O_DIRECT`), and what does not fill a block goes through the cache as usual. Both meet only at
//! block boundaries.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpoint::header::BLOCK_BYTES;

use crate::disk;
use crate::error::{Error, Result};
use crate::open_file::OpenFile;

/// Shorter stretches are not worth a trip to the disk of their own.
const LEAST_DIRECT_BYTES: usize = 256 << 10;

/// A file that is being written.
#[derive(Debug)]
pub struct NewFile {
    open: OpenFile,
    /// The same file, opened for writes past the cache.
    direct: Option<File>,
    /// Whether a write past the cache was refused.
    refused: AtomicBool,
}

impl NewFile {
    /// Creates a file of `bytes` bytes, all zero, at `path`, where none may stand.
    pub fn create(path: PathBuf, bytes: u64) -> Result<Self> {
        Self::of_length(OpenFile::create_new(path)?, bytes)
    }

    /// Opens the file that an interrupted build left at `path`, or creates it; `bytes` is its length
    /// then, and what it lacked is zero.
    pub fn go_on(path: PathBuf, bytes: u64) -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        match options.open(&path) {
            Ok(file) => Self::of_length(OpenFile { path, file }, bytes),
            Err(source) => Err(Error::Io { path, doing: "opened", source }),
        }
    }

    fn of_length(open: OpenFile, bytes: u64) -> Result<Self> {
        open.file.set_len(bytes).map_err(open.failed("written"))?;
        let direct = disk::open_direct(&open.path);
        Ok(Self { open, direct, refused: AtomicBool::new(false) })
    }

    /// The open file.
    #[must_use]
    pub fn open(&self) -> &OpenFile {
        &self.open
    }

    /// Writes `bytes`, beginning at `offset`.
    ///
    /// Whole blocks go past the cache if they lie in memory as in the file ([`Buffer`] places them so).
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let block = BLOCK_BYTES as usize;
        let head = (offset.next_multiple_of(BLOCK_BYTES) - offset) as usize;
        let lies_alike = bytes.as_ptr().addr() % block == offset as usize % block;
        let whole = bytes.len().saturating_sub(head) / block * block;
        if let Some(direct) = &self.direct
            && lies_alike
            && whole >= LEAST_DIRECT_BYTES
            && !self.refused.load(Ordering::Relaxed)
        {
            let (head_bytes, rest) = bytes.split_at(head);
            let (whole_bytes, tail_bytes) = rest.split_at(whole);
            let begin = offset + head as u64;
            match direct.write_all_at(whole_bytes, begin) {
                Ok(()) => {
                    self.open.write_all_at(head_bytes, offset)?;
                    return self.open.write_all_at(tail_bytes, begin + whole as u64);
                }
                Err(error) if disk::is_unsupported(&error) => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(self.open.failed("written")(error)),
            }
        }
        self.open.write_all_at(bytes, offset)
    }
}

/// Memory for a stretch of a file, which lies at the same place in its block as the file's bytes.
#[derive(Debug, Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// `length` bytes, to be written at `offset` of a file.
    pub fn for_offset(&mut self, length: usize, offset: u64) -> &mut [u8] {
        let block = BLOCK_BYTES as usize;
        if self.0.len() < length + 2 * block {
            self.0.resize(length + 2 * block, 0);
        }
        let to_block = self.0.as_ptr().addr().next_multiple_of(block) - self.0.as_ptr().addr();
        let begin = to_block + offset as usize % block;
        &mut self.0[begin..begin + length]
    }
}
