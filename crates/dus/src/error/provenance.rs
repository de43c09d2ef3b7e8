//! What is wrong with what a build says of itself, and with the base that it names.

use std::path::PathBuf;

/// What keeps a build from naming its base, or from being compared with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvenanceError {
    /// A path that JSON cannot hold.
    #[error("the path {} is not Unicode, so that no {} can name it", path.display(), crate::manifest::FILE)]
    NotUnicode {
        /// The path.
        path: PathBuf,
    },

    /// A folder or file that no build left.
    #[error("{} is not a build: it has no {}", out.display(), if out.is_file() { "dus.manifest among its keys" } else { "dus.json" })]
    NotABuild {
        /// The folder or file.
        out: PathBuf,
    },

    /// A `dus.json` that does not say what it should.
    #[error("{} cannot be understood", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The parser's word.
        source: serde_json::Error,
    },

    /// A base that is no longer where the build's `dus.json` says.
    #[error("{} is not where its {} says", of_this_build(model.as_ref()), crate::manifest::FILE)]
    BaseGone {
        /// Its name, if the build is of several models.
        model: Option<String>,
        /// What is wrong there.
        source: checkpoint::Error,
    },

    /// One base for a build of several models.
    #[error("this build is of several models ({names}), not of one base")]
    BaseOfSeveral {
        /// Their names.
        names: String,
    },

    /// A model that the build is not of.
    #[error("this build is not of a model called {name}{}", of_models(names))]
    NoSuchModel {
        /// The name that was given.
        name: String,
        /// The names that there are; empty if the build has one base.
        names: String,
    },

    /// A base that is not the one that a build was made from.
    #[error("{} is not {}: {what}", path.display(), of_this_build(model.as_ref()))]
    OtherBase {
        /// The base.
        path: PathBuf,
        /// The name of the model that it should be, if the build is of several.
        model: Option<String>,
        /// What differs.
        what: String,
    },
}

impl ProvenanceError {
    /// What the user can do about it, where that is known.
    pub(super) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BaseOfSeveral { .. } => "--model NAME=PATH names one of them".to_owned(),
            Self::NoSuchModel { names, .. } if names.is_empty() => {
                "--base PATH names its base".to_owned()
            }
            Self::OtherBase { model, .. } | Self::BaseGone { model, .. } => match model {
                Some(name) => format!("--model {name}=PATH names it where it is now"),
                None => "--base PATH names the base where it is now".to_owned(),
            },
            _ => return None,
        })
    }
}

/// The models of a build, behind a sentence.
fn of_models(names: &str) -> String {
    if names.is_empty() { String::new() } else { format!(", but of {names}") }
}

/// Names the base of a build, or that of several models which is called `name`.
fn of_this_build(name: Option<&String>) -> String {
    match name {
        Some(name) => format!("the model `{name}` of this build"),
        None => "the base of this build".to_owned(),
    }
}
