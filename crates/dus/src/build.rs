//! Carries out a blueprint: writes, checks, syncs, and only then shows the new model.

use std::borrow::Cow;
use std::path::Path;

use checkpoint::Checkpoint;

use crate::arithmetic::CastReport;
use crate::blueprint::{Blueprint, LayoutKind};
use crate::disk;
use crate::error::{Error, OutputError, QuantisedError, Result};
use crate::finished::Finished;
use crate::folder_files;
use crate::journal::{self, Journal, Record};
use crate::journal_head::Head;
use crate::manifest::Manifest;
use crate::movement::{self, CopyMode, Files, Filled, Moved};
use crate::new_file::NewFile;
use crate::open_file::OpenFile;
use crate::output::{Output, Partial};
use crate::progress::{Progress, Watch};
use crate::recipe::{Form, TensorType};
use crate::settings;
use crate::shards::{Shard, ShardLayout};
use crate::size::Bytes;
use crate::splice::NewTensor;

/// How a build is carried out; nothing here changes a tensor's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// How bytes move.
    pub copy: CopyMode,
    /// Replace what an earlier build left.
    pub force: bool,
    /// Write values that overflow in a cast as infinity.
    pub allow_overflow: bool,
    /// Go on with a build that was interrupted, and leave what is done if this one is.
    pub resume: bool,
}

/// What a build did.
#[derive(Debug, Clone)]
pub struct Built {
    /// How many bytes went which way.
    pub moved: Moved,
    /// How many an interrupted build had left, and were whole.
    pub resumed: u64,
    /// What the cast lost.
    pub cast: CastReport,
    /// What a user should hear of how it went.
    pub notes: Vec<String>,
}

/// The room that a build needs, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// What it will write.
    pub needed: u64,
    /// What is free where the output goes, with what an interrupted build holds there: that is kept,
    /// or removed first.
    pub free: u64,
    /// Whether blocks can be shared with the source there.
    pub can_share: bool,
}

/// Room for config, card and manifest, and for the file system's own records of files.
const SMALL_FILES_BYTES: u64 = 1 << 20;

/// Room for a tensor's line in the index, beside its name.
const INDEX_LINE_BYTES: u64 = 64;

/// The bytes of a new file that a line of the journal speaks of, at least, where there are many.
const STRETCH_BYTES: u64 = 1 << 20;

/// A folder in which a build's files may go.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The folder, which exists.
    pub dir: &'a Path,
    /// The bytes that an interrupted build holds there.
    pub held: u64,
}

impl<'a> Site<'a> {
    /// Where a build at `out` goes.
    #[must_use]
    pub fn of(out: &'a Output) -> Self {
        let held = out.unfinished().map_or(0, |unfinished| unfinished.bytes);
        Self { dir: out.existing_ancestor(), held }
    }
}

/// Measures the room for a build.
pub fn room(blueprint: &Blueprint, site: Site, copy: CopyMode) -> Result<Room> {
    let Site { dir, held } = site;
    let failed = |source| Error::Io { path: dir.to_owned(), doing: "measured", source };
    let free = disk::free_bytes(dir).map_err(failed)?.saturating_add(held);
    let can_share = can_share(blueprint, dir)?;
    let side_bytes: u64 = blueprint.side_files.kept.iter().map(|file| file.bytes).sum();
    let shared = if can_share && matches!(copy, CopyMode::Auto | CopyMode::Reflink) {
        shareable_bytes(blueprint)
    } else {
        0
    };
    let line = |tensor: &NewTensor| tensor.name.len() as u64 + INDEX_LINE_BYTES;
    let index_bytes: u64 = blueprint.splice.tensors.iter().map(line).sum();
    let bytes = blueprint.layout.bytes();
    let journal_bytes = bytes.div_ceil(STRETCH_BYTES) * journal::LINE_BYTES;
    let small_bytes = SMALL_FILES_BYTES + index_bytes + journal_bytes;
    let needed = bytes + side_bytes + small_bytes - shared;
    Ok(Room { needed, free, can_share })
}

fn shareable_bytes(blueprint: &Blueprint) -> u64 {
    blueprint.layout.shareable_bytes(&blueprint.splice, &blueprint.models)
}

/// Whether files in `dir` can share blocks with all weight files.
fn can_share(blueprint: &Blueprint, dir: &Path) -> Result<bool> {
    if !blueprint.has_weights() {
        return Ok(false);
    }
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
    let site = Site::of(out);
    if let Err(source) = disk::is_writable(site.dir) {
        obstacles.push(Error::Io { path: site.dir.to_owned(), doing: "written into", source });
    }
    obstacles.extend(obstacles_anywhere(blueprint, site, options));
    obstacles
}

/// What stops a build of `blueprint` anywhere on the disk of a folder.
#[must_use]
pub fn obstacles_anywhere(blueprint: &Blueprint, site: Site, options: &Options) -> Vec<Error> {
    let dir = site.dir;
    let mut obstacles = shard_obstacles(blueprint);
    obstacles.extend(blueprint.obstacles());
    obstacles.extend(folder_files::obstacles(blueprint));
    for side in &blueprint.side_files.kept {
        obstacles.extend(OpenFile::open(side.path.clone()).err());
    }
    match room(blueprint, site, options.copy) {
        Ok(room) if options.copy == CopyMode::Reflink && !room.can_share => {
            let source_file = blueprint.models[0].checkpoint.files()[0].path.clone();
            obstacles.push(OutputError::CannotShare { source_file, dir: dir.to_owned() }.into());
        }
        Ok(_) if options.copy == CopyMode::Reflink && shareable_bytes(blueprint) == 0 => {
            obstacles.push(Error::NothingShared);
        }
        Ok(Room { needed, free, .. }) if needed > free => {
            obstacles.push(OutputError::DiskFull { dir: dir.to_owned(), free, needed }.into());
        }
        Ok(_) => {}
        Err(error) => obstacles.push(error),
    }
    obstacles
}

/// What is asked about shards where a GGUF file is written, which has none.
fn shard_obstacles(blueprint: &Blueprint) -> Vec<Error> {
    let asked = [
        (blueprint.recipe.limits_shards, "max_shard_size"),
        (blueprint.layout_kind == LayoutKind::Source, "--shard-layout source"),
    ];
    let asked = asked.into_iter().filter(|(is_asked, _)| *is_asked);
    match blueprint.form() {
        Form::Folder => Vec::new(),
        Form::Gguf => asked.map(|(_, asked)| Error::ShardsOfFile { asked }).collect(),
    }
}

/// Builds `blueprint` at `out`, and says how.
///
/// Nothing appears at `out` unless it is complete. If the build stops, nothing is left of it, but with
/// [`Options::resume`] what is done stays, and the error is [`Error::Unfinished`].
pub fn build(
    blueprint: &Blueprint,
    out: Output,
    options: &Options,
    watch: &Watch,
) -> Result<Built> {
    if let Some(obstacle) = obstacles(blueprint, &out, options).into_iter().next() {
        return Err(obstacle);
    }
    let path = out.path().to_owned();
    let manifest = Manifest::new(blueprint, &path)?;
    let layout = layout(blueprint, &manifest)?;
    let head = Head::new(&manifest, blueprint, &layout)?;
    let mut partial = Partial::lock(out)?;
    partial.set_stays(options.resume);
    let left = Record::read(partial.dir())?;
    let note = note(left.as_ref(), &head, partial.found(), options.resume);
    let begun = if options.resume { left } else { None };
    if let Some(difference) = begun.as_ref().and_then(|begun| begun.head.difference(&head)) {
        return Err(OutputError::OtherBuild { out: path, difference }.into());
    }
    let work = Work { blueprint, manifest: &manifest, layout: &layout, head: &head };
    match work.carry_out(&mut partial, begun, *options, watch) {
        Ok(built) => Ok(Built { notes: note.into_iter().chain(built.notes).collect(), ..built }),
        // What is done is made of bytes that are not the base's.
        Err(error) if error.is_damaged_download() => {
            partial.set_stays(false);
            Err(error)
        }
        Err(error) if options.resume => match Record::read(partial.dir())? {
            Some(record) if record.bytes() > 0 => {
                let (dir, bytes) = (partial.dir().to_owned(), record.bytes());
                Err(Error::Unfinished { out: path, partial: dir, bytes, source: Box::new(error) })
            }
            _ => {
                partial.set_stays(false);
                Err(error)
            }
        },
        Err(error) => Err(error),
    }
}

/// What a user should hear of an interrupted build that is not gone on with.
fn note(left: Option<&Record>, head: &Head, found: bool, resume: bool) -> Option<String> {
    match left {
        None if resume && found => Some(
            "the interrupted build left no journal that can be read; this one began anew"
                .to_owned(),
        ),
        None if resume => Some("there was no interrupted build to go on with".to_owned()),
        Some(left) if !resume && left.bytes() > 0 && left.head.difference(head).is_none() => {
            let bytes = Bytes(left.bytes());
            Some(format!(
                "an interrupted build, of which {bytes} were done, was discarded; \
                 --resume would have gone on with it"
            ))
        }
        _ => None,
    }
}

/// A build that is decided on.
struct Work<'a> {
    blueprint: &'a Blueprint,
    manifest: &'a Manifest,
    layout: &'a ShardLayout,
    head: &'a Head,
}

impl Work<'_> {
    /// Does what is left to do, and moves the new model to its place.
    fn carry_out(
        &self,
        partial: &mut Partial,
        begun: Option<Record>,
        options: Options,
        watch: &Watch,
    ) -> Result<Built> {
        let Self { blueprint, layout, .. } = *self;
        let sources = blueprint.open_sources()?;
        let names = layout.shards.iter().map(|shard| shard.name.as_str());
        let kept: Vec<&str> = names.filter(|_| begun.is_some()).collect();
        partial.clear(&kept)?;
        let (dir, files) = (partial.dir(), &partial.files());
        let (journal, shards, finished);
        if let Some(Record { stretches, .. }) = begun {
            shards = open_shards(layout, files)?;
            let moves = layout.moves(&blueprint.splice, &blueprint.models);
            finished = Finished::check(stretches, &moves, &sources, &shards, watch)?;
            journal = Journal::begin_again(dir, self.head, finished.stretches())?;
        } else {
            journal = Journal::begin(dir, self.head)?;
            shards = create_shards(layout, files)?;
            finished = Finished::nothing();
        }
        let files = Files { sources: &sources, shards: &shards, journal: &journal };
        let Filled { moved, kept, cast, overflow_in, inexact_in } = movement::fill(
            &blueprint.splice,
            &blueprint.models,
            layout,
            files,
            &finished,
            options.copy,
            watch,
        )?;
        if let Some(tensor) = overflow_in.filter(|_| !options.allow_overflow) {
            let dtype = blueprint.recipe.dtype.map_or("its type", TensorType::name);
            return Err(Error::Overflow { count: cast.overflowed, tensor, dtype });
        }
        if let Some(tensor) = inexact_in {
            return Err(QuantisedError::Inexact { count: cast.inexact, tensor }.into());
        }
        self.complete(partial, &shards, watch)?;
        let notes = self.unproved(&finished).into_iter().collect();
        Ok(Built { moved, resumed: kept, cast, notes })
    }

    /// What of a base on the hub no hash was made of.
    fn unproved(&self, finished: &Finished) -> Option<String> {
        let streamed = !self.blueprint.has_weights() && !finished.is_nothing();
        streamed.then(|| {
            "an earlier run had read part of the base, so that its files could not be checked by \
             the hub's hashes; `dus verify --no-cache` compares every tensor"
                .to_owned()
        })
    }

    /// Writes what stands beside the weights, syncs, checks, and moves all of it to its place.
    fn complete(&self, partial: &mut Partial, shards: &[NewFile], watch: &Watch) -> Result<()> {
        if self.blueprint.form() == Form::Folder {
            let title = partial.output().path().file_name().unwrap_or_default().to_string_lossy();
            folder_files::write(self.blueprint, self.manifest, &title, &partial.files())?;
        }
        (watch.progress)(Progress::Syncing);
        for shard in shards {
            watch.check()?;
            let open = shard.open();
            open.file.sync_all().map_err(open.failed("synced"))?;
        }
        check(self.blueprint, &partial.model())?;
        watch.check()?;
        partial.commit()
    }
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
    let create = |shard: &Shard| {
        let file = NewFile::create(dir.join(&shard.name), shard.bytes())?;
        file.write_all_at(&shard.header, 0)?;
        Ok(file)
    };
    layout.shards.iter().map(create).collect()
}

/// Opens the shards that an interrupted build left, or creates them; writes all but their tensors.
fn open_shards(layout: &ShardLayout, dir: &Path) -> Result<Vec<NewFile>> {
    let open = |shard: &Shard| {
        let file = NewFile::go_on(dir.join(&shard.name), shard.bytes())?;
        file.write_all_at(&shard.header, 0)?;
        // Between the tensors of a GGUF file is nothing, which no line of the journal speaks of.
        let mut end = shard.header.len() as u64;
        let begins = shard.tensors.iter().map(|placed| &placed.range);
        for range in begins.chain([&(shard.bytes()..shard.bytes())]) {
            if end < range.start {
                file.write_all_at(&vec![0; (range.start - end) as usize], end)?;
            }
            end = range.end;
        }
        Ok(file)
    };
    layout.shards.iter().map(open).collect()
}

/// Reads back what was written: sizes, headers, index and depth, as a loader would.
fn check(blueprint: &Blueprint, model: &Path) -> Result<()> {
    let written = Checkpoint::open(model)?;
    let damaged = |what| Error::from(OutputError::Damaged { path: model.to_owned(), what });
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
