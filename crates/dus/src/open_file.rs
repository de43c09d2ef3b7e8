//! A file that is read or written at offsets, with its path for errors.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use checkpoint::Checkpoint;

use crate::error::{Error, Result};

/// An open file and its path.
#[derive(Debug)]
pub struct OpenFile {
    /// The path.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
}

impl OpenFile {
    /// Opens the file at `path` for reading.
    pub fn open(path: PathBuf) -> Result<Self> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Error::Io { path, doing: "opened", source }),
        }
    }

    /// Creates a file at `path`, where none may stand.
    pub fn create_new(path: PathBuf) -> Result<Self> {
        match File::create_new(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Error::Io { path, doing: "created", source }),
        }
    }

    /// Fills `bytes` from the file, beginning at `offset`.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(self.failed("read"))
    }

    /// Writes `bytes` to the file, beginning at `offset`.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(self.failed("written"))
    }

    /// An operating system's error, with the path.
    pub(crate) fn failed(&self, doing: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::Io { path: self.path.clone(), doing, source }
    }
}

/// Opens the weight files of `checkpoint`, in its order.
pub fn open_files(checkpoint: &Checkpoint) -> Result<Vec<OpenFile>> {
    checkpoint.files().iter().map(|file| OpenFile::open(file.path.clone())).collect()
}
