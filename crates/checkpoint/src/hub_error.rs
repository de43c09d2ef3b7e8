//! What can be wrong between this machine and the hub.

use std::path::PathBuf;
use std::time::Duration;

/// What is wrong with the hub, its answers or the way there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The caller wanted to stop.
    #[error("cancelled")]
    Cancelled,

    /// This build cannot ask the hub.
    #[error("{what} needs the hub, and this build has no hub support")]
    NotBuiltIn {
        /// What was asked for.
        what: String,
    },

    /// The environment forbids to ask the hub.
    #[error("{what} needs the hub, but HF_HUB_OFFLINE is set")]
    Offline {
        /// What was asked for.
        what: String,
    },

    /// Nothing says where the cache is.
    #[error("none of HF_HUB_CACHE, HF_HOME and HOME is set, so there is no cache to download into")]
    NoCache,

    /// A variable of the environment that cannot be used.
    #[error("{name} is {value:?}, which is not {expected}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What should stand there.
        expected: &'static str,
    },

    /// No connection, or one that breaks each time.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// The server, and the port if it is not the usual one.
        host: String,
        /// What the network said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The repository is not there, or hidden from this token.
    #[error("{repo} is not on the hub, or is private")]
    RepoNotFound {
        /// `owner/name`.
        repo: String,
        /// Whether a token was sent.
        with_token: bool,
    },

    /// The repository asks for consent.
    #[error("{repo} is gated: its owner asks users to accept terms first")]
    Gated {
        /// `owner/name`.
        repo: String,
        /// The hub's address of it.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },

    /// The hub does not know the token.
    #[error("the hub does not accept the token")]
    BadToken,

    /// A token that no request can carry.
    #[error("the token holds characters that no token has")]
    NotAToken,

    /// A name under which nothing can be uploaded.
    #[error("{repo} is not the name of a repository, which has the form owner/name")]
    NotARepo {
        /// What was given.
        repo: String,
    },

    /// The token may not do this.
    #[error("the hub denies access to {repo}{}", said(message))]
    Forbidden {
        /// `owner/name`.
        repo: String,
        /// The hub's reason; may be empty.
        message: String,
    },

    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision {revision}")]
    RevisionNotFound {
        /// `owner/name`.
        repo: String,
        /// The revision.
        revision: String,
    },

    /// The repository has no such file.
    #[error("{repo} has no file {file} at {revision}")]
    FileNotFound {
        /// `owner/name`.
        repo: String,
        /// The revision.
        revision: String,
        /// The file.
        file: String,
    },

    /// Too many requests.
    #[error("{host} asks to be left alone for {} seconds", wait.as_secs())]
    RateLimited {
        /// The server.
        host: String,
        /// For how long.
        wait: Duration,
    },

    /// An answer that stands for no answer.
    #[error("{url} answers {status}{}", said(message))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's reason; may be empty.
        message: String,
    },

    /// An answer that does not read as the hub's do.
    #[error("{url} answers what the hub would not: {problem}")]
    Malformed {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The file is another one than before.
    #[error("{file} of {repo} changed while it was read")]
    Changed {
        /// `owner/name`.
        repo: String,
        /// The file.
        file: String,
    },

    /// The server sends whole files only.
    #[error("{host} does not send parts of files, so {file} cannot be read without a download")]
    NoRanges {
        /// The server.
        host: String,
        /// The file.
        file: String,
    },

    /// More or fewer bytes than the listing says.
    #[error(
        "{file} of {repo} has {expected} bytes by the hub's listing, but the server sends {found}"
    )]
    Size {
        /// `owner/name`.
        repo: String,
        /// The file.
        file: String,
        /// What the listing says.
        expected: u64,
        /// What came.
        found: u64,
    },

    /// Wrong bytes.
    #[error("{file} of {repo} arrived damaged: its hash is {found}, not {expected}")]
    Hash {
        /// `owner/name`.
        repo: String,
        /// The file.
        file: String,
        /// SHA-256, or git's hash of a small file, by the hub's listing.
        expected: String,
        /// That of what came.
        found: String,
    },

    /// The cache's disk is too small.
    #[error("{} has room for {free} bytes, but {needed} have to be downloaded", cache.display())]
    NoRoom {
        /// The cache.
        cache: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes to come.
        needed: u64,
    },

    /// A repository without weights that can be read.
    #[error("{repo} holds no safetensors{}", holds(found))]
    NoSafetensors {
        /// `owner/name`.
        repo: String,
        /// What it holds instead, as in "a PyTorch pickle (x.bin)"; may be empty.
        found: String,
        /// A GGUF file that it holds.
        gguf: Option<String>,
    },

    /// A shard that the index names and the repository lacks.
    #[error("{shard}, which {index} of {repo} names, is not in the repository")]
    MissingShard {
        /// `owner/name`.
        repo: String,
        /// The index.
        index: String,
        /// The shard.
        shard: String,
    },

    /// Nothing says who uploads.
    #[error("uploading to {repo} needs a token")]
    NoToken {
        /// `owner/name`.
        repo: String,
    },

    /// The hub did not take a file.
    #[error("the hub refuses {file}: {message}")]
    Refused {
        /// The file.
        file: String,
        /// The hub's reason.
        message: String,
    },
}

impl HubError {
    /// What the user can do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        const TOKEN: &str = "set HF_TOKEN, or log in with `hf auth login`";
        Some(match self {
            Self::NotBuiltIn { .. } => "build with the feature `hub`, which is on by default, or \
                 fetch the model with `hf download`"
                .to_owned(),
            Self::Offline { .. } => "unset HF_HUB_OFFLINE, or fetch the model on a machine with \
                 network and copy the cache"
                .to_owned(),
            Self::Unreachable { .. } => {
                "check the network and HF_ENDPOINT; what was downloaded into \
                 the cache is kept, and the next run goes on from there"
                    .to_owned()
            }
            Self::RepoNotFound { with_token: false, .. } => {
                format!("check the spelling; if it is private, {TOKEN}")
            }
            Self::RepoNotFound { with_token: true, .. } => {
                "check the spelling, and that the token may read it".to_owned()
            }
            Self::Gated { page, with_token: false, .. } => {
                format!("accept the terms at {page}, and {TOKEN}")
            }
            Self::Gated { page, .. } => {
                format!("accept the terms at {page} with the account of this token")
            }
            Self::NotARepo { repo } if repo.contains('@') => {
                "`--branch NAME` says which branch the commit is for".to_owned()
            }
            Self::NotAToken => "see HF_TOKEN, or the file that `hf auth login` writes".to_owned(),
            Self::BadToken => "see HF_TOKEN, or log in again with `hf auth login`".to_owned(),
            Self::NoToken { .. } => format!("{TOKEN}; the token must be allowed to write"),
            Self::NoSafetensors { repo, gguf: Some(file), .. } => {
                format!(
                    "`hf download {repo} {file}` prints a path, which can be given in its place"
                )
            }
            Self::RateLimited { .. } => {
                "wait, or send a token (HF_TOKEN), which may ask more often".to_owned()
            }
            Self::NoRoom { .. } => {
                "set HF_HUB_CACHE to a folder on a larger disk, or free some space".to_owned()
            }
            Self::Hash { .. } | Self::Size { .. } | Self::Changed { .. } => {
                "try again; if it happens again, ask whoever runs the server or proxy between"
                    .to_owned()
            }
            _ => return None,
        })
    }

    /// Whether a copy in the cache may stand in for the answer: the hub could not be asked, or it
    /// hides what it gave before. (Python's `huggingface_hub` draws the same line.)
    #[must_use]
    pub fn cache_may_answer(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::RepoNotFound { .. }
                | Self::Gated { .. }
                | Self::BadToken
                | Self::Forbidden { .. }
                | Self::RateLimited { .. }
                | Self::Status { .. }
                | Self::Malformed { .. }
        )
    }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn holds(found: &str) -> String {
    if found.is_empty() { String::new() } else { format!(", but {found}") }
}
