//! What is wrong with the place where a build goes, or with what an earlier one left there.

use std::path::PathBuf;

use crate::size::Bytes;

/// What keeps a build from its place, or what was left from being gone on with or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// An output that is the base, lies in it or holds it.
    #[error("the output {} {how} the base {}", out.display(), base.display())]
    IsBase {
        /// The output.
        out: PathBuf,
        /// "is", "lies in" or "holds".
        how: &'static str,
        /// The base.
        base: PathBuf,
    },

    /// An output at which a file system is mounted.
    #[error("the output {} is a mount point, which cannot be replaced as a whole", out.display())]
    IsMountPoint {
        /// The output.
        out: PathBuf,
    },

    /// An output that exists and is not a folder.
    #[error("the output {} exists and is not a folder", out.display())]
    IsFile {
        /// The output.
        out: PathBuf,
    },

    /// A folder where a GGUF file is to go.
    #[error("the output {} is a folder; a GGUF file is to go there", out.display())]
    IsFolder {
        /// The output.
        out: PathBuf,
    },

    /// A folder that would look like a GGUF file.
    #[error("a folder is to be made, and {} is called as a GGUF file is", out.display())]
    FolderNamedGguf {
        /// The output.
        out: PathBuf,
    },

    /// A file that no build left, where a GGUF file is to go.
    #[error("the output {} exists, and no build left it: it has no dus.manifest among its keys", out.display())]
    IsForeignFile {
        /// The output.
        out: PathBuf,
    },

    /// A GGUF file that another tool made of a build, as one that quantises.
    #[error(
        "the output {} exists, and is no longer what a build left: its tensors are not those of its dus.manifest",
        out.display()
    )]
    IsMadeOfBuild {
        /// The output.
        out: PathBuf,
    },

    /// A GGUF file that an earlier build left.
    #[error("the output {} exists", out.display())]
    IsBuild {
        /// The output.
        out: PathBuf,
    },

    /// An earlier build that a killed one moved aside and did not bring back.
    #[error("the output {} was being replaced when a build was killed; the earlier one is {}", out.display(), aside.display())]
    MovedAside {
        /// The output.
        out: PathBuf,
        /// Where what stood there is now.
        aside: PathBuf,
    },

    /// An output folder with files in it.
    #[error("the output {} is not empty", out.display())]
    NotEmpty {
        /// The output.
        out: PathBuf,
        /// Whether an earlier build left it, so that it may be replaced.
        is_build: bool,
    },

    /// A folder to be replaced that no build left.
    #[error("the output {} has no dus.json: no build left it, so --force does not replace it", out.display())]
    IsForeign {
        /// The output.
        out: PathBuf,
    },

    /// Another process that builds at the same place.
    #[error("another build is writing {}", partial.display())]
    Busy {
        /// The folder that it writes.
        partial: PathBuf,
    },

    /// An interrupted build that was to make something else, or of another base.
    #[error("the interrupted build of {} cannot be gone on with: {difference}", out.display())]
    OtherBuild {
        /// The output.
        out: PathBuf,
        /// What differs.
        difference: Difference,
    },

    /// The only copy of an earlier build, where what is left over is removed.
    #[error("{} may be all that there is of an earlier build: nothing stands at {}", aside.display(), out.display())]
    OnlyCopy {
        /// The output.
        out: PathBuf,
        /// Where what stood there is now.
        aside: PathBuf,
    },

    /// A folder that does not exist, where what is left over is to be removed.
    #[error("the folder {} does not exist, so no build can have left anything there", dir.display())]
    NoFolderToClean {
        /// The folder that the output would lie in.
        dir: PathBuf,
    },

    /// A folder in which other outputs' builds left something, where what is beside it is to be
    /// removed.
    #[error("nothing was left beside {}, but in it {} left", dir.display(), were(left))]
    LeftInside {
        /// The folder.
        dir: PathBuf,
        /// What is in it: the outputs' names, and those of what was left of their builds.
        left: Vec<(String, String)>,
    },

    /// Too little room for the new files.
    #[error("{} has {free} free, but the build needs {needed}", dir.display(), free = Bytes(*free), needed = Bytes(*needed))]
    DiskFull {
        /// The folder that the output goes to.
        dir: PathBuf,
        /// The bytes free there.
        free: u64,
        /// The bytes needed.
        needed: u64,
    },

    /// Extents to be shared where that cannot be.
    #[error("no blocks of {} can be shared with files in {}", source_file.display(), dir.display())]
    CannotShare {
        /// A source file.
        source_file: PathBuf,
        /// The folder that the output goes to.
        dir: PathBuf,
    },

    /// Files of the output that are not what was to be written.
    #[error("the new {} is not what was written: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// What keeps an interrupted build from being gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Something else is asked for.
    Key {
        /// The key, mostly of the recipe.
        key: String,
        /// What it was.
        was: String,
        /// What it is.
        is: String,
    },
    /// A file of the base is not what it was.
    Source {
        /// The file.
        path: PathBuf,
        /// What is different.
        what: String,
    },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Key { key, was, is } => write!(f, "its `{key}` was {was}, and now is {is}"),
            Self::Source { path, what } => write!(f, "{} has changed: {what}", path.display()),
        }
    }
}

impl OutputError {
    /// What the user can do about it, where that is known.
    pub(super) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::FolderNamedGguf { .. } => {
                "-o NAME names a folder, `--to gguf` with -o NAME.gguf a GGUF file".to_owned()
            }
            Self::IsBuild { .. } | Self::NotEmpty { is_build: true, .. } => {
                "--force of `dus build` replaces what an earlier build left; -o names another place"
                    .to_owned()
            }
            Self::IsMadeOfBuild { .. } | Self::IsForeignFile { .. } => {
                "remove it yourself if it may go; -o names another place".to_owned()
            }
            Self::OtherBuild { out, .. } => format!(
                "without --resume it begins anew; `dus clean {}` removes what was left",
                out.display()
            ),
            Self::OnlyCopy { out, aside } => {
                let (out, aside) = (out.display(), aside.display());
                format!("`mv {aside} {out}` brings it back; --force removes it")
            }
            Self::LeftInside { dir, left } => {
                let mut outputs: Vec<&String> = left.iter().map(|(out, _)| out).collect();
                outputs.dedup();
                let clean = |out: &&String| format!("`dus clean {}`", dir.join(out).display());
                let commands: Vec<String> = outputs.iter().map(clean).collect();
                let verb = if commands.len() == 1 { "removes it" } else { "remove them" };
                format!("{} {verb}", commands.join(", "))
            }
            Self::MovedAside { out, aside } => {
                format!("`mv {} {}` brings it back", aside.display(), out.display())
            }
            Self::CannotShare { .. } => {
                "base and output must lie on one file system with shared extents (XFS, btrfs); \
                 `--copy auto` copies elsewhere"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

/// Names what was left, and puts "was" or "were" behind it.
fn were(left: &[(String, String)]) -> String {
    let names: Vec<&str> = left.iter().map(|(_, name)| name.as_str()).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "was" } else { "were" })
}
