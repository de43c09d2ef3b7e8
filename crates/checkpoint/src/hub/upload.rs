//! What is sent to the hub.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file to upload.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its path in the repository.
    pub path: String,
    /// What it holds.
    pub content: Content,
}

/// What an uploaded file holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// The bytes of a file, which is read as it is sent.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
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
            Content::File(path) => {
                Ok(path.metadata().map_err(|e| Error::io(path, "read", e))?.len())
            }
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }
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
            files.push(Upload { path: name, content: Content::File(path) });
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
