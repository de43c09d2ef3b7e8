//! Carries out a blueprint: writes, checks, syncs, and only then shows the new model.

use std::borrow::Cow;
use std::path::Path;

use checkpoint::Checkpoint;

use crate::arithmetic::CastReport;
use crate::blueprint::Blueprint;
use crate::disk;
use crate::error::{Error, Result};
use crate::folder_files;
use crate::manifest::Manifest;
use crate::movement::{self, CopyMode, Filled, Moved};
use crate::new_file::NewFile;
use crate::open_file::{OpenFile, open_files};
use crate::output::{Output, Partial};
use crate::progress::{Progress, Watch};
use crate::recipe::{Form, TensorType};
use crate::settings;
use crate::shards::ShardLayout;
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
    obstacles.extend(folder_files::obstacles(blueprint));
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
    let layout = layout(blueprint, &manifest)?;
    let shards = create_shards(&layout, dir)?;
    let Filled { moved, cast, overflow_in, inexact_in } = movement::fill(
        &blueprint.splice,
        &blueprint.models,
        &layout,
        &sources,
        &shards,
        options.copy,
        watch,
    )?;
    if let Some(tensor) = overflow_in.filter(|_| !options.allow_overflow) {
        let dtype = blueprint.recipe.dtype.map_or("its type", TensorType::name);
        return Err(Error::Overflow { count: cast.overflowed, tensor, dtype });
    }
    if let Some(tensor) = inexact_in {
        return Err(Error::Inexact { count: cast.inexact, tensor });
    }
    if blueprint.form() == Form::Folder {
        folder_files::write(blueprint, &manifest, &title, dir)?;
    }

    (watch.progress)(Progress::Syncing);
    for shard in &shards {
        watch.check()?;
        let open = shard.open();
        open.file.sync_all().map_err(open.failed("synced"))?;
    }
    check(blueprint, dir)?;
    watch.check()?;
    match blueprint.form() {
        Form::Folder => partial.commit()?,
        Form::Gguf => partial.commit_file(&layout.shards[0].name)?,
    }
    Ok(Built { moved, cast })
}

/// The files that hold tensors, with the provenance where that stands in one of them.
fn layout<'a>(blueprint: &'a Blueprint, manifest: &Manifest) -> Result<Cow<'a, ShardLayout>> {
    if blueprint.form() == Form::Folder {
        return Ok(Cow::Borrowed(&blueprint.layout));
    }
    let mut head = blueprint.gguf_head()?;
    manifest.write_to(&mut head.metadata);
    let architecture = blueprint.architecture();
    let name = &blueprint.layout.shards[0].name;
    Ok(Cow::Owned(head.lay_out(&blueprint.splice, &blueprint.models, architecture, name)))
}

/// Creates the shards at their final length, with their headers.
fn create_shards(layout: &ShardLayout, dir: &Path) -> Result<Vec<NewFile>> {
    let create = |shard: &crate::shards::Shard| {
        let file = NewFile::create(dir.join(&shard.name), shard.bytes())?;
        file.write_all_at(&shard.header, 0)?;
        Ok(file)
    };
    layout.shards.iter().map(create).collect()
}

/// Reads back what was written: sizes, headers, index and depth, as a loader would.
fn check(blueprint: &Blueprint, dir: &Path) -> Result<()> {
    let path = match blueprint.form() {
        Form::Folder => dir.to_owned(),
        Form::Gguf => dir.join(&blueprint.layout.shards[0].name),
    };
    let written = Checkpoint::open(&path)?;
    let damaged = |what: String| Error::Damaged { path: path.clone(), what };
    if written.tensors().len() != blueprint.num_tensors() {
        return Err(damaged(format!("it has {} tensors", written.tensors().len())));
    }
    for tensor in &blueprint.splice.tensors {
        let found = written.tensor(&tensor.name);
        let same =
            |t: &checkpoint::Tensor| t.encoding == tensor.encoding && t.shape == tensor.shape;
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
