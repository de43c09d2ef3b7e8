//! The place where a build goes: nothing stands there until everything is written.
//!
//! Files are written into a hidden folder beside it, `.NAME.dus-partial`, which is renamed at the
//! end and removed if the build stops. The folder is locked, so two builds never share it, and one
//! that a killed build left is known by its free lock.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::disk;
use crate::error::{Error, Result};
use crate::manifest;

/// A path that a build may go to, resolved.
#[derive(Debug, Clone)]
pub struct Output {
    /// The path, absolute and with all links followed.
    path: PathBuf,
    /// What stands there now.
    found: Found,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    EmptyFolder,
    Build,
    ForeignFolder,
    File,
}

impl Output {
    /// Looks at what stands at `path`, which need not exist.
    pub fn at(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), doing: "resolved", source };
        let path = resolve(path).map_err(failed)?;
        let failed = |source| Error::Io { path: path.clone(), doing: "read", source };
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => return Err(failed(error)),
            Ok(metadata) if !metadata.is_dir() => Found::File,
            Ok(_) if path.join(manifest::FILE).is_file() => Found::Build,
            Ok(_) if path.read_dir().map_err(failed)?.next().is_none() => Found::EmptyFolder,
            Ok(_) => Found::ForeignFolder,
        };
        Ok(Self { path, found })
    }

    /// The path, absolute and with all links followed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The nearest folder above the output that exists.
    #[must_use]
    pub fn existing_ancestor(&self) -> &Path {
        let mut ancestors = self.path.ancestors().skip(1);
        ancestors.find(|path| path.is_dir()).unwrap_or(Path::new("/"))
    }

    /// What keeps a build that reads the files and folders `sources` from going there.
    #[must_use]
    pub fn obstacles(&self, sources: &[PathBuf], force: bool) -> Vec<Error> {
        let mut obstacles = Vec::new();
        let out = || self.path.clone();
        for base in sources {
            let real = base.canonicalize().unwrap_or_else(|_| base.clone());
            let how = if real == self.path {
                "is"
            } else if self.path.starts_with(&real) {
                "lies in"
            } else if real.starts_with(&self.path) {
                "holds"
            } else {
                continue;
            };
            obstacles.push(Error::OutputIsBase { out: out(), how, base: base.clone() });
            return obstacles;
        }
        if self.found != Found::Nothing && disk::is_mount_point(&self.path).unwrap_or(false) {
            obstacles.push(Error::OutputIsMountPoint { out: out() });
            return obstacles;
        }
        match self.found {
            Found::Nothing | Found::EmptyFolder => {}
            Found::File => obstacles.push(Error::OutputIsFile { out: out() }),
            Found::Build if force => {}
            Found::ForeignFolder if force => {
                obstacles.push(Error::OutputIsForeign { out: out() });
            }
            Found::Build | Found::ForeignFolder => {
                let is_build = self.found == Found::Build;
                obstacles.push(Error::OutputNotEmpty { out: out(), is_build });
            }
        }
        obstacles
    }

    /// A hidden neighbour of the output, `.NAME.dus-KIND`.
    fn neighbour(&self, kind: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.dus-{kind}"))
    }
}

/// Makes `path` absolute and follows links in the part of it that exists.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut missing = Vec::new();
    for ancestor in absolute.ancestors() {
        match ancestor.canonicalize() {
            Ok(mut real) => {
                for component in missing.iter().rev() {
                    match component {
                        Component::ParentDir => drop(real.pop()),
                        other => real.push(other),
                    }
                }
                return Ok(real);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if ancestor.is_symlink() {
                    return Ok(absolute);
                }
                missing.extend(ancestor.components().next_back());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(absolute)
}

/// The folder that a build writes into, removed again unless it is committed.
#[derive(Debug)]
pub struct Partial {
    output: Output,
    dir: PathBuf,
    /// Locked for as long as this is open.
    lock: File,
    /// Folders above the output that had to be made, the outermost last.
    parents: Vec<PathBuf>,
    committed: bool,
}

impl Partial {
    /// Makes the folder, and those above it that do not exist.
    pub fn create(output: Output) -> Result<Self> {
        let dir = output.neighbour("partial");
        let failed = |path: &Path, doing| {
            let path = path.to_owned();
            move |source| Error::Io { path, doing, source }
        };
        let missing = output.path.ancestors().skip(1).take_while(|path| !path.exists());
        let parents: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        let above = output.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(above).map_err(failed(above, "created"))?;
        if let Err(error) = fs::create_dir(&dir) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(failed(&dir, "created")(error));
            }
            let lock = File::open(&dir).map_err(failed(&dir, "opened"))?;
            if !disk::lock(&lock).map_err(failed(&dir, "locked"))? {
                return Err(Error::Busy { partial: dir });
            }
            // A build that was killed left it.
            fs::remove_dir_all(&dir).map_err(failed(&dir, "removed"))?;
            fs::create_dir(&dir).map_err(failed(&dir, "created"))?;
        }
        let lock = File::open(&dir).map_err(failed(&dir, "opened"))?;
        if !disk::lock(&lock).map_err(failed(&dir, "locked"))? {
            return Err(Error::Busy { partial: dir });
        }
        Ok(Self { output, dir, lock, parents, committed: false })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves the folder to the output's place, which now is complete.
    ///
    /// An earlier build there is moved aside first, and removed once the new one stands.
    pub fn commit(mut self) -> Result<()> {
        let failed = |path: &Path, doing| {
            let path = path.to_owned();
            move |source| Error::Io { path, doing, source }
        };
        let out = self.output.path.clone();
        self.lock.sync_all().map_err(failed(&self.dir, "synced"))?;
        let aside = self.output.neighbour("old");
        let replaces = self.output.found == Found::Build;
        if replaces {
            if aside.exists() {
                fs::remove_dir_all(&aside).map_err(failed(&aside, "removed"))?;
            }
            fs::rename(&out, &aside).map_err(failed(&out, "moved aside"))?;
        }
        if let Err(error) = fs::rename(&self.dir, &out) {
            if replaces {
                fs::rename(&aside, &out).map_err(failed(&aside, "moved back"))?;
            }
            return Err(failed(&out, "replaced")(error));
        }
        self.committed = true;
        let above = out.parent().unwrap_or(Path::new("/"));
        let synced = File::open(above).and_then(|above| above.sync_all());
        synced.map_err(failed(above, "synced"))?;
        if replaces {
            fs::remove_dir_all(&aside).map_err(failed(&aside, "removed"))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.committed {
            // The build has an error to report already; what cannot be removed shows by its name.
            let _ = fs::remove_dir_all(&self.dir);
            for parent in &self.parents {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}
