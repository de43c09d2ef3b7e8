//! Carries out a blueprint: writes, checks, syncs, and only then shows the new model.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;

use checkpoint::Checkpoint;
use checkpoint::folder::read_object;
use checkpoint::json::Object;
use serde_json::json;

use crate::arithmetic::CastReport;
use crate::blueprint::Blueprint;
use crate::card;
use crate::disk;
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::movement::{self, CopyMode, Filled, Moved};
use crate::new_file::NewFile;
use crate::open_file::{OpenFile, open_files};
use crate::output::{Output, Partial};
use crate::progress::{Progress, Watch};
use crate::recipe::TensorType;
use crate::settings;
use crate::splice::{Model, NewTensor};

/// How a build is carried out; nothing here changes a tensor's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// How bytes move.
    pub copy: CopyMode,
    /// Replace what an earlier build left.
    pub force: bool,
    /// Write values that overflow in a cast as infinity.
    pub allow_overflow: bool,
}

/// What a build did.
#[derive(Debug, Clone, Copy)]
pub struct Built {
    /// How many bytes went which way.
    pub moved: Moved,
    /// What the cast lost.
    pub cast: CastReport,
}

/// The room that a build needs, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// What it will write.
    pub needed: u64,
    /// What is free where the output goes.
    pub free: u64,
    /// Whether blocks can be shared with the source there.
    pub can_share: bool,
}

/// The file in which `ModelOpt` names the layers that it left alone.
const QUANT_CONFIG: &str = "hf_quant_config.json";

/// Room for config, card and manifest, and for the file system's own records of files.
const SMALL_FILES_BYTES: u64 = 1 << 20;

/// Room for a tensor's line in the index, beside its name.
const INDEX_LINE_BYTES: u64 = 64;

/// Measures the room for a build in the folder `dir`.
pub fn room(blueprint: &Blueprint, dir: &Path, copy: CopyMode) -> Result<Room> {
    let failed = |source| Error::Io { path: dir.to_owned(), doing: "measured", source };
    let free = disk::free_bytes(dir).map_err(failed)?;
    let can_share = can_share(blueprint, dir)?;
    let side_bytes: u64 = blueprint.side_files.kept.iter().map(|file| file.bytes).sum();
    let shared = if can_share && matches!(copy, CopyMode::Auto | CopyMode::Reflink) {
        shareable_bytes(blueprint)
    } else {
        0
    };
    let line = |tensor: &NewTensor| tensor.name.len() as u64 + INDEX_LINE_BYTES;
    let small_bytes = SMALL_FILES_BYTES + blueprint.splice.tensors.iter().map(line).sum::<u64>();
    let needed = blueprint.layout.bytes() + side_bytes + small_bytes - shared;
    Ok(Room { needed, free, can_share })
}

fn shareable_bytes(blueprint: &Blueprint) -> u64 {
    blueprint.layout.shareable_bytes(&blueprint.splice, &blueprint.models)
}

/// Whether files in `dir` can share blocks with all weight files.
fn can_share(blueprint: &Blueprint, dir: &Path) -> Result<bool> {
    for file in blueprint.models.iter().flat_map(|model| model.checkpoint.files()) {
        let source = OpenFile::open(file.path.clone())?.file;
        // A folder that cannot be written is found when it is, with a better word for it.
        if !disk::can_share(&source, dir).unwrap_or(false) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What stops a build of `blueprint` at `out`, all of it, from headers alone.
#[must_use]
pub fn obstacles(blueprint: &Blueprint, out: &Output, options: &Options) -> Vec<Error> {
    let sources: Vec<_> = blueprint.sources().collect();
    let mut obstacles = out.obstacles(&sources, options.force);
    obstacles.extend(Manifest::new(blueprint, out.path()).err());
    let dir = out.existing_ancestor();
    if let Err(source) = disk::is_writable(dir) {
        obstacles.push(Error::Io { path: dir.to_owned(), doing: "written into", source });
    }
    obstacles.extend(obstacles_anywhere(blueprint, out.existing_ancestor(), options));
    obstacles
}

/// What stops a build of `blueprint` anywhere on the disk of the folder `dir`.
#[must_use]
pub fn obstacles_anywhere(blueprint: &Blueprint, dir: &Path, options: &Options) -> Vec<Error> {
    let mut obstacles = blueprint.obstacles();
    obstacles.extend(quant_config(blueprint).err());
    obstacles.extend(base_card(blueprint).err());
    for side in &blueprint.side_files.kept {
        obstacles.extend(OpenFile::open(side.path.clone()).err());
    }
    match room(blueprint, dir, options.copy) {
        Ok(room) if options.copy == CopyMode::Reflink && !room.can_share => {
            let source_file = blueprint.models[0].checkpoint.files()[0].path.clone();
            obstacles.push(Error::CannotShare { source_file, dir: dir.to_owned() });
        }
        Ok(_) if options.copy == CopyMode::Reflink && shareable_bytes(blueprint) == 0 => {
            obstacles.push(Error::NothingShared);
        }
        Ok(Room { needed, free, .. }) if needed > free => {
            obstacles.push(Error::DiskFull { dir: dir.to_owned(), free, needed });
        }
        Ok(_) => {}
        Err(error) => obstacles.push(error),
    }
    obstacles
}

/// Builds `blueprint` at `out`, and says how.
///
/// Nothing appears at `out` unless it is complete.
pub fn build(
    blueprint: &Blueprint,
    out: Output,
    options: &Options,
    watch: &Watch,
) -> Result<Built> {
    if let Some(obstacle) = obstacles(blueprint, &out, options).into_iter().next() {
        return Err(obstacle);
    }
    let manifest = Manifest::new(blueprint, out.path())?;
    let title = out.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let open = |model: &Model| open_files(&model.checkpoint);
    let sources = blueprint.models.iter().map(open).collect::<Result<Vec<_>>>()?;

    let partial = Partial::create(out)?;
    let dir = partial.dir();
    let shards = create_shards(blueprint, dir)?;
    let Filled { moved, cast, overflow_in } = movement::fill(
        &blueprint.splice,
        &blueprint.models,
        &blueprint.layout,
        &sources,
        &shards,
        options.copy,
        watch,
    )?;
    if let Some(tensor) = overflow_in.filter(|_| !options.allow_overflow) {
        let dtype = blueprint.recipe.dtype.map_or("its type", TensorType::name);
        return Err(Error::Overflow { count: cast.overflowed, tensor, dtype });
    }
    write_index(blueprint, dir)?;
    write_config(blueprint, dir)?;
    copy_side_files(blueprint, dir)?;
    let manifest_text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain JSON");
    write_file(dir, manifest::FILE, format!("{manifest_text}\n").as_bytes())?;
    let card = card::write(blueprint, &manifest, &title, &base_card(blueprint)?);
    write_file(dir, "README.md", card.as_bytes())?;

    (watch.progress)(Progress::Syncing);
    for shard in &shards {
        watch.check()?;
        let open = shard.open();
        open.file.sync_all().map_err(open.failed("synced"))?;
    }
    check(blueprint, dir)?;
    watch.check()?;
    partial.commit()?;
    Ok(Built { moved, cast })
}

/// The base's own card; empty where it has none.
fn base_card(blueprint: &Blueprint) -> Result<String> {
    let path = blueprint.models[blueprint.donor].checkpoint.dir().join("README.md");
    match fs::read(&path) {
        // A stray byte in it must not lose the licence.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::Io { path, doing: "read", source }),
    }
}

/// Creates the shards at their final length, with their headers.
fn create_shards(blueprint: &Blueprint, dir: &Path) -> Result<Vec<NewFile>> {
    let create = |shard: &crate::shards::Shard| {
        let file = NewFile::create(dir.join(&shard.name), shard.bytes())?;
        file.write_all_at(&shard.header, 0)?;
        Ok(file)
    };
    blueprint.layout.shards.iter().map(create).collect()
}

/// Writes the index, as Hugging Face does: sorted by name, none for a single file.
fn write_index(blueprint: &Blueprint, dir: &Path) -> Result<()> {
    if blueprint.layout.shards.len() == 1 {
        return Ok(());
    }
    let mut weight_map = std::collections::BTreeMap::new();
    for shard in &blueprint.layout.shards {
        for placed in &shard.tensors {
            weight_map.insert(&blueprint.splice.tensors[placed.tensor].name, &shard.name);
        }
    }
    let index = json!({
        "metadata": { "total_size": blueprint.splice.bytes() },
        "weight_map": weight_map,
    });
    write_file(dir, "model.safetensors.index.json", format!("{index:#}\n").as_bytes())
}

fn write_config(blueprint: &Blueprint, dir: &Path) -> Result<()> {
    match &blueprint.config {
        Ok(deepened) => write_file(dir, "config.json", deepened.config.to_string().as_bytes()),
        Err(source) => {
            let config = blueprint.models[blueprint.donor].checkpoint.config_path();
            Err(Error::Setting { config, source: source.clone() })
        }
    }
}

/// Copies the files beside the weights; where one names layers, its numbers follow the plan.
fn copy_side_files(blueprint: &Blueprint, dir: &Path) -> Result<()> {
    for side in &blueprint.side_files.kept {
        if side.name.as_os_str() == QUANT_CONFIG
            && let Some(renamed) = quant_config(blueprint)?
        {
            write_file(dir, QUANT_CONFIG, renamed.to_string().as_bytes())?;
            continue;
        }
        let target = dir.join(&side.name);
        if let Some(above) = target.parent() {
            let failed = |source| Error::Io { path: above.to_owned(), doing: "created", source };
            fs::create_dir_all(above).map_err(failed)?;
        }
        let read = |source| Error::Io { path: side.path.clone(), doing: "read", source };
        let written = |source| Error::Io { path: target.clone(), doing: "written", source };
        // Not `fs::copy`, which would copy the mode as well: modes follow the umask.
        let mut source = File::open(&side.path).map_err(read)?;
        let mut file = File::create_new(&target).map_err(written)?;
        // Nor `io::copy`, which does not go on where the kernel stops copying in the midst of a file.
        let mut buffer = vec![0; 1 << 16];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => file.write_all(&buffer[..length]).map_err(written)?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read(error)),
            }
        }
        file.sync_all().map_err(written)?;
    }
    Ok(())
}

/// `hf_quant_config.json` with the layers that it names following the plan.
fn quant_config(blueprint: &Blueprint) -> Result<Option<Object>> {
    let mut files = Vec::new();
    for model in &blueprint.models {
        let path = model.checkpoint.dir().join(QUANT_CONFIG);
        files.push(if path.is_file() { Some(read_object(&path)?) } else { None });
    }
    let files: Vec<Option<&Object>> = files.iter().map(Option::as_ref).collect();
    blueprint.with_depth(|depth| settings::rename_modules(depth, &files)).map_err(|source| {
        let config = blueprint.models[blueprint.donor].checkpoint.dir().join(QUANT_CONFIG);
        Error::Setting { config, source }
    })
}

fn write_file(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let failed = |source| Error::Io { path: path.clone(), doing: "written", source };
    let mut file = File::create_new(&path).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// Reads back what was written: sizes, headers, index and depth, as a loader would.
fn check(blueprint: &Blueprint, dir: &Path) -> Result<()> {
    let written = Checkpoint::open(dir)?;
    let damaged = |what: String| Error::Damaged { path: dir.to_owned(), what };
    if written.tensors().len() != blueprint.splice.tensors.len() {
        return Err(damaged(format!("it has {} tensors", written.tensors().len())));
    }
    for tensor in &blueprint.splice.tensors {
        let found = written.tensor(&tensor.name);
        let same = |t: &checkpoint::Tensor| t.dtype == tensor.dtype && t.shape == tensor.shape;
        if !found.is_some_and(same) {
            return Err(damaged(format!("`{}` is not as planned", tensor.name)));
        }
    }
    match settings::num_layers(written.config()) {
        Ok((_, num_layers)) if num_layers == blueprint.plan.num_layers() => Ok(()),
        Ok((key, found)) => Err(damaged(format!("`{key}` is {found}"))),
        Err(source) => Err(Error::Setting { config: written.config_path(), source }),
    }
}
