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
use crate::journal::{Journal, Record};
use crate::journal_head::Head;
use crate::manifest::Manifest;
use crate::movement::{self, CopyMode, Files, Filled, Moved};
use crate::new_file::NewFile;
use crate::open_file::OpenFile;
use crate::output::{Output, Partial};
use crate::progress::{Progress, Watch};
use crate::recipe::{Form, TensorType};
use crate::room;
pub use crate::room::{Room, Site, room};
use crate::settings;
use crate::shards::{Shard, ShardLayout};
use crate::size::Bytes;

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
    /// What a user should hear in any case: there is something to do about it.
    pub warnings: Vec<String>,
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
    let mut obstacles = shard_obstacles(blueprint);
    obstacles.extend(blueprint.obstacles());
    obstacles.extend(folder_files::obstacles(blueprint));
    for side in &blueprint.side_files.kept {
        obstacles.extend(OpenFile::open(side.path.clone()).err());
    }
    obstacles.extend(room::obstacle(blueprint, site, options.copy));
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
        Ok(built) => Ok(Built { notes: note.into_iter().collect(), ..built }),
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
        let Filled { moved, kept, cast, overflow_in, inexact_in, unproved } = movement::fill(
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
        let warnings = self.warning(&unproved).into_iter().collect();
        Ok(Built { moved, resumed: kept, cast, notes: Vec::new(), warnings })
    }

    /// What to do about files on the hub that no hash was made of.
    fn warning(&self, unproved: &[(usize, usize)]) -> Option<String> {
        let name = |&(model, file): &(usize, usize)| {
            let file = &self.blueprint.models[model].checkpoint.files()[file];
            format!("{} of {}", file.name, self.blueprint.place(model))
        };
        let names: Vec<String> = unproved.iter().map(name).collect();
        (!names.is_empty()).then(|| {
            format!(
                "not checked by the hub's hash, as an earlier run had computed from it: {}; \
                 `dus verify --no-cache` compares every tensor",
                names.join(", ")
            )
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
