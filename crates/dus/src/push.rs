//! Uploads a build to the hub, without the paths of this machine.

use std::fs;
use std::path::Path;

use checkpoint::hub::{Content, Hub, Push, Pushed, Upload};

use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::progress::Watch;
use crate::sources::with_hub_watch;

/// The card's name in a build's folder.
const CARD: &str = "README.md";

/// Uploads the folder that a build left at `out` as one commit.
///
/// Where `dus.json` and the card name a base by its path, only the last part of that is sent.
pub fn push(out: &Path, push: &Push, watch: &Watch) -> Result<Pushed> {
    if out.is_file() {
        return Err(Error::PushOfFile { out: out.to_owned() });
    }
    let mut manifest = Manifest::read(out)?;
    let card_path = out.join(CARD);
    let mut card = fs::read_to_string(&card_path).map_err(|source| Error::Io {
        path: card_path,
        doing: "read",
        source,
    })?;
    for path in manifest.models.iter_mut().filter_map(|model| model.path.as_mut()) {
        let name = Path::new(path).file_name().unwrap_or("base".as_ref());
        let name = name.to_string_lossy().into_owned();
        let quoted = |text: &str| toml::Value::from(text).to_string();
        card = card.replace(&quoted(path), &quoted(&name));
        *path = name;
    }
    let mut text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain JSON");
    text.push('\n');
    let mut files = Upload::folder(out)?;
    for file in &mut files {
        match file.path.as_str() {
            manifest::FILE => file.content = Content::Bytes(text.clone().into_bytes()),
            CARD => file.content = Content::Bytes(card.clone().into_bytes()),
            _ => {}
        }
    }
    with_hub_watch(watch, |watch| Hub::from_env()?.push(push, &files, watch))
}
