//! The place where a build goes: nothing stands there until everything is written.
//!
//! Files are written into a hidden folder beside it, `.NAME.dus-partial`: a journal, and beside that
//! the folder or GGUF file which is moved to the output's place at the end. All of it is removed if the
//! build stops, unless it is to be gone on with. The hidden folder is locked, so two builds never share
//! it, and one that a killed build left is known by its free lock.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::disk;
use crate::error::{Error, OutputError, Result};
use crate::gguf_head;
use crate::hidden::{self, MAX_NAME_BYTES};
use crate::journal::{self, Record};
use crate::manifest::{self, Manifest};
use crate::recipe::Form;

/// A path that a build may go to, resolved.
#[derive(Debug, Clone)]
pub struct Output {
    /// The path, absolute and with all links followed.
    path: PathBuf,
    /// Whether a folder or a file goes there.
    form: Form,
    /// What stands there now.
    found: Found,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    EmptyFolder,
    /// What an earlier build left, in the form that goes there now.
    Build,
    ForeignFolder,
    /// A file that is no such build.
    File,
    /// A GGUF file that another tool made of a build, whose manifest it still has.
    MadeOfBuild,
}

impl Output {
    /// Looks at what stands at `path`, which need not exist and to which a model of `form` is to go.
    pub fn at(path: &Path, form: Form) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), doing: "resolved", source };
        let path = resolve(path).map_err(failed)?;
        let failed = |source| Error::Io { path: path.clone(), doing: "read", source };
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => return Err(failed(error)),
            Ok(metadata) if form == Form::Gguf && metadata.is_file() => found_file(&path),
            Ok(metadata) if !metadata.is_dir() => Found::File,
            Ok(_) if form == Form::Folder && path.join(manifest::FILE).is_file() => Found::Build,
            Ok(_) if path.read_dir().map_err(failed)?.next().is_none() => Found::EmptyFolder,
            Ok(_) => Found::ForeignFolder,
        };
        Ok(Self { path, form, found })
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
            obstacles.push(OutputError::IsBase { out: out(), how, base: base.clone() }.into());
            return obstacles;
        }
        if self.found != Found::Nothing && disk::is_mount_point(&self.path).unwrap_or(false) {
            obstacles.push(OutputError::IsMountPoint { out: out() }.into());
            return obstacles;
        }
        if self.path.file_name().is_some_and(|name| name.len() > MAX_NAME_BYTES) {
            let source = rustix::io::Errno::NAMETOOLONG.into();
            obstacles.push(Error::Io { path: out(), doing: "created", source });
        }
        if self.form == Form::Folder && is_named_gguf(&self.path) {
            // Every loader would take it for the other form.
            obstacles.push(OutputError::FolderNamedGguf { out: out() }.into());
        }
        let aside = hidden::neighbour(&self.path, "old");
        match self.found {
            Found::EmptyFolder | Found::ForeignFolder if self.form == Form::Gguf => {
                obstacles.push(OutputError::IsFolder { out: out() }.into());
            }
            Found::File if self.form == Form::Gguf => {
                obstacles.push(OutputError::IsForeignFile { out: out() }.into());
            }
            Found::MadeOfBuild => obstacles.push(OutputError::IsMadeOfBuild { out: out() }.into()),
            Found::Nothing if aside.join(manifest::FILE).is_file() => {
                obstacles.push(OutputError::MovedAside { out: out(), aside }.into());
            }
            Found::Nothing | Found::EmptyFolder => {}
            Found::File => obstacles.push(OutputError::IsFile { out: out() }.into()),
            Found::Build if force => {}
            Found::ForeignFolder if force => {
                obstacles.push(OutputError::IsForeign { out: out() }.into());
            }
            Found::Build if self.form == Form::Gguf => {
                obstacles.push(OutputError::IsBuild { out: out() }.into());
            }
            Found::Build | Found::ForeignFolder => {
                let is_build = self.found == Found::Build;
                obstacles.push(OutputError::NotEmpty { out: out(), is_build }.into());
            }
        }
        obstacles
    }

    /// What a build that was interrupted, or is under way, has finished of the output.
    #[must_use]
    pub fn unfinished(&self) -> Option<Unfinished> {
        let partial = hidden::neighbour(&self.path, "partial");
        let finished = Record::read(&partial).ok()??.bytes();
        // A journal may speak of what a crash kept from the disk, or kept from being tidied up.
        let model = model_in(&partial, self.form);
        let bytes = finished.min(hidden::allocated_bytes(&model).ok()?);
        (bytes > 0).then_some(Unfinished { partial, bytes })
    }
}

/// What there is of an output that is not complete.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// The hidden folder that it is in.
    pub partial: PathBuf,
    /// How much of the weights is finished.
    pub bytes: u64,
}

/// What the hidden folder `dir` holds of the new model: a folder, or the file of the blueprint's name.
fn model_in(dir: &Path, form: Form) -> PathBuf {
    dir.join(match form {
        Form::Folder => "model",
        Form::Gguf => "model.gguf",
    })
}

/// What the file at `path` is where a GGUF file is to go.
fn found_file(path: &Path) -> Found {
    match Manifest::read(path) {
        Err(_) => Found::File,
        Ok(_) if gguf_head::has_its_tensors(path) => Found::Build,
        Ok(_) => Found::MadeOfBuild,
    }
}

/// Whether `path` is called as GGUF files are, or is nothing but their ending.
fn is_named_gguf(path: &Path) -> bool {
    let is_gguf = |text: &OsStr| text.eq_ignore_ascii_case("gguf");
    path.extension().is_some_and(is_gguf)
        || path.file_name().is_some_and(|name| name.eq_ignore_ascii_case(".gguf"))
}

/// Makes `path` absolute and follows links in the part of it that exists.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
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

/// The folder that a build writes into, removed again unless it is committed or to stay.
#[derive(Debug)]
pub struct Partial {
    output: Output,
    dir: PathBuf,
    /// Locked for as long as this is open.
    _lock: File,
    /// Folders above the output that had to be made, the outermost last.
    parents: Vec<PathBuf>,
    /// Whether something was in the folder.
    found: bool,
    committed: bool,
    stays: bool,
}

impl Partial {
    /// Makes the folder, and those above it that do not exist, or takes one that a killed build left.
    pub fn lock(output: Output) -> Result<Self> {
        let dir = hidden::neighbour(&output.path, "partial");
        let missing = output.path.ancestors().skip(1).take_while(|path| !path.exists());
        let parents: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        let above = output.path.parent().unwrap_or(Path::new("/"));
        let failed = |source| Error::Io { path: above.to_owned(), doing: "created", source };
        let made = fs::create_dir_all(above).map_err(failed);
        match made.and_then(|()| hidden::lock_or_create(&dir)) {
            Ok(lock) => {
                let found = dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
                let (committed, stays) = (false, false);
                Ok(Self { output, dir, _lock: lock, parents, found, committed, stays })
            }
            Err(error) => {
                remove_empty(&parents);
                Err(error)
            }
        }
    }

    /// Removes what earlier builds left, in the folder and beside it, but for a journal and the new
    /// model's files that have the names `kept`; if there are none, for nothing.
    pub fn clear(&self, kept: &[&str]) -> Result<()> {
        let (model, journal) = (self.model(), self.dir.join(journal::FILE));
        let has_form = |metadata: &Metadata| match self.output.form {
            Form::Folder => metadata.is_dir(),
            Form::Gguf => metadata.is_file(),
        };
        hidden::empty(&self.dir, |path, metadata| {
            let is_one =
                path == model && has_form(metadata) || path == journal && metadata.is_file();
            is_one && !kept.is_empty()
        })?;
        if self.output.form == Form::Folder {
            let failed = |source| Error::Io { path: model.clone(), doing: "created", source };
            fs::create_dir_all(&model).map_err(failed)?;
            hidden::empty(&model, |path, metadata| {
                metadata.is_file() && kept.iter().any(|name| path.ends_with(name))
            })?;
        }
        let aside = hidden::neighbour(&self.output.path, "old");
        if aside.exists() {
            // A build that was killed after it had replaced an earlier one left it.
            let failed = |source| Error::Io { path: aside.clone(), doing: "removed", source };
            fs::remove_dir_all(&aside).map_err(failed)?;
        }
        Ok(())
    }

    /// Says whether the folder stays as it is if the build stops.
    pub fn set_stays(&mut self, stays: bool) {
        self.stays = stays;
    }

    /// Where it goes.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Whether something was in the folder already.
    #[must_use]
    pub fn found(&self) -> bool {
        self.found
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is moved to the output's place when it is complete: a folder or a file.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        model_in(&self.dir, self.output.form)
    }

    /// The folder that the new model's files are written into.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        match self.output.form {
            Form::Folder => self.model(),
            Form::Gguf => self.dir.clone(),
        }
    }

    /// Moves the new model to the output's place, which now is complete.
    ///
    /// An earlier build there is replaced in the same step where the file system can do that, else it
    /// is moved aside first; it is removed once the new one stands. Until then the journal stays, so
    /// that a build which is killed here can be gone on with.
    pub fn commit(&mut self) -> Result<()> {
        let failed = |path: &Path, doing| {
            let path = path.to_owned();
            move |source| Error::Io { path, doing, source }
        };
        let synced = |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all());
        let files = self.files();
        synced(&files).map_err(failed(&files, "synced"))?;
        let aside = self.move_to_output()?;
        self.committed = true;
        // What cannot be removed from here on shows by its name, and the next build removes it.
        let _ = fs::remove_file(self.dir.join(journal::FILE));
        // Empty unless the earlier build is in it, or is beside it and must be under its lock.
        let is_gone = aside.is_none() && fs::remove_dir(&self.dir).is_ok();
        let above = self.output.path.parent().unwrap_or(Path::new("/"));
        synced(above).map_err(failed(above, "synced"))?;
        let _ = aside.map(fs::remove_dir_all);
        if !is_gone {
            let _ = fs::remove_dir_all(&self.dir);
        }
        Ok(())
    }

    /// Moves the new model, and an earlier build out of its way; returns where that is, if it is not
    /// in the folder now.
    fn move_to_output(&self) -> Result<Option<PathBuf>> {
        let (model, out) = (self.model(), &self.output.path);
        let failed = |doing| move |source| Error::Io { path: out.clone(), doing, source };
        let replaces = self.output.found == Found::Build;
        match self.output.form {
            Form::Folder if replaces => match disk::exchange(&model, out) {
                Err(error) if disk::is_unsupported(&error) => {
                    return self.replace_in_two_steps().map(Some);
                }
                exchanged => exchanged.map_err(failed("replaced"))?,
            },
            Form::Gguf if !replaces => match disk::rename_new(&model, out) {
                Err(error) if disk::is_unsupported(&error) => {
                    // Where files cannot be linked either, what came here since is not looked for.
                    fs::rename(&model, out).map_err(failed("created"))?;
                }
                renamed => renamed.map_err(failed("created"))?,
            },
            Form::Folder | Form::Gguf => fs::rename(&model, out).map_err(failed("replaced"))?,
        }
        Ok(None)
    }

    /// Moves the earlier build aside and the new one to its place; returns where the earlier one is.
    fn replace_in_two_steps(&self) -> Result<PathBuf> {
        let out = &self.output.path;
        let aside = hidden::neighbour(out, "old");
        let failed = |doing| move |source| Error::Io { path: out.clone(), doing, source };
        fs::rename(out, &aside).map_err(failed("moved aside"))?;
        if let Err(error) = fs::rename(self.model(), out) {
            fs::rename(&aside, out).map_err(failed("moved back"))?;
            return Err(failed("replaced")(error));
        }
        Ok(aside)
    }
}

/// Removes folders that were made for an output which now will not be; the innermost come first.
fn remove_empty(folders: &[PathBuf]) {
    for folder in folders {
        // Where something else has come to stand in one, it stays.
        let _ = fs::remove_dir(folder);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.committed && !self.stays {
            // The build has an error to report already; what cannot be removed shows by its name.
            let _ = fs::remove_dir_all(&self.dir);
            remove_empty(&self.parents);
        }
    }
}
