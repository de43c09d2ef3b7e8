//! What is sent to the hub.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// A file to upload.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its path in the repository.
    pub path: String,
    /// What it holds.
    pub content: Content,
    /// Whether a file that stands there already stays as it is.
    pub yields: bool,
}

/// What an uploaded file holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// The bytes of a file, which is read as it is sent.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// The bytes of a file, with other ones in place of as many at its beginning.
    Headed {
        /// The other ones.
        head: Arc<[u8]>,
        /// The file.
        path: PathBuf,
    },
}

impl Content {
    /// Opens what it holds, from `offset` on.
    pub fn open(&self, offset: u64) -> Result<Box<dyn Read + '_>> {
        let behind = |bytes: &[u8]| offset.min(bytes.len() as u64) as usize;
        Ok(match self {
            Self::File(path) => Box::new(open_at(path, offset)?),
            Self::Bytes(bytes) => Box::new(&bytes[behind(bytes)..]),
            Self::Headed { head, path } => {
                let rest = open_at(path, offset.max(head.len() as u64))?;
                Box::new(head[behind(head)..].chain(rest))
            }
        })
    }

    /// The file that it is read from; `None` if it is in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Headed { path, .. } => Some(path),
            Self::Bytes(_) => None,
        }
    }
}

/// Where an upload goes, and what it is called.
#[derive(Debug, Clone)]
pub struct Push {
    /// `owner/name`; made if it does not exist.
    pub repo: String,
    /// The branch.
    pub branch: String,
    /// Whether the repository, if it is made, is hidden from others.
    pub private: bool,
    /// The commit's first line.
    pub message: String,
}

/// What an upload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The repository's address.
    pub url: String,
    /// The new commit, unless the repository held the same files already.
    pub commit: Option<String>,
    /// Bytes of large files that were sent.
    pub sent: u64,
    /// Bytes of large files that the hub had already.
    pub kept: u64,
    /// Files that the repository's `.gitignore` keeps out.
    pub ignored: Vec<String>,
}

impl Upload {
    /// All files of `dir`, sorted by path; links are followed, hidden files and folders left out.
    pub fn folder(dir: &Path) -> Result<Vec<Self>> {
        let mut files = Vec::new();
        walk(dir, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> Result<u64> {
        match &self.content {
            Content::File(path) | Content::Headed { path, .. } => {
                Ok(path.metadata().map_err(|e| Error::io(path, "read", e))?.len())
            }
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }
}

fn open_at(path: &Path, offset: u64) -> Result<File> {
    let mut file = File::open(path).map_err(|e| Error::io(path, "opened", e))?;
    file.seek(SeekFrom::Start(offset)).map_err(|e| Error::io(path, "read", e))?;
    Ok(file)
}

fn walk(dir: &Path, inside: &str, files: &mut Vec<Upload>) -> Result<()> {
    for entry in dir.read_dir().map_err(|e| Error::io(dir, "listed", e))? {
        let path = entry.map_err(|e| Error::io(dir, "listed", e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::NotAFile { path });
        };
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{inside}{name}");
        let kind = fs::metadata(&path).map_err(|e| Error::io(&path, "read", e))?;
        if kind.is_dir() {
            let link = fs::symlink_metadata(&path).map_err(|e| Error::io(&path, "read", e))?;
            if link.is_symlink() {
                // It may lead back to a folder that it stands in.
                return Err(Error::NotAFile { path });
            }
            walk(&path, &format!("{name}/"), files)?;
        } else if kind.is_file() {
            files.push(Upload { path: name, content: Content::File(path), yields: false });
        } else {
            return Err(Error::NotAFile { path });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_beginning_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        let from = |content: &Content, offset| {
            let mut text = String::new();
            content.open(offset).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        let headed = Content::Headed { head: Arc::from(&b"abc"[..]), path: path.clone() };
        let bytes = Content::Bytes(b"abc3456789".to_vec());
        for offset in 0..=10 {
            let expected = &"abc3456789"[offset..];
            assert_eq!(from(&headed, offset as u64), expected);
            assert_eq!(from(&bytes, offset as u64), expected);
        }
        assert_eq!(from(&Content::File(path), 4), "456789");
        assert_eq!(from(&bytes, 11), "");
    }

    #[test]
    fn a_folder_is_its_plain_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.json", ".hidden", "sub/a.txt", ".git/config"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        symlink("b.json", dir.path().join("link.json")).unwrap();
        let files = Upload::folder(dir.path()).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| &*file.path).collect();
        assert_eq!(paths, ["b.json", "link.json", "sub/a.txt"]);
        assert_eq!(files[2].bytes().unwrap(), 9);
        symlink(".", dir.path().join("loop")).unwrap();
        assert!(matches!(Upload::folder(dir.path()), Err(Error::NotAFile { .. })));
    }
}
