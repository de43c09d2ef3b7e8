//! Proves a build: every tensor is compared with its source, or computed again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use checkpoint::gguf::Metadata;
use checkpoint::gguf::metadata::shown;
use checkpoint::{Checkpoint, WeightFile};
use rayon::prelude::*;

use crate::arithmetic::Transform;
use crate::blueprint::{Blueprint, LayoutKind};
use crate::conversion::{self, BLOCK_BYTES, Rms};
use crate::error::{Error, ProvenanceError, Result, one_line};
use crate::gguf_head::GgufHead;
use crate::manifest::{Manifest, SourceFile, SourceModel};
use crate::open_file::{OpenFile, open_files};
use crate::open_source::OpenSource;
use crate::progress::{Progress, Watch};
use crate::recipe::{Draft, Form, Recipe, Source};
use crate::sources::{self, Access};
use crate::splice::{Model, NewTensor};

/// What a comparison found.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The tensors compared.
    pub num_tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What is not as it was built: a line for each thing, in order of names.
    pub differences: Vec<String>,
}

/// Where the models are, if not where `dus.json` says.
#[derive(Debug, Clone, Default)]
pub struct Whereabouts {
    /// The base.
    pub base: Option<Source>,
    /// Models by name.
    pub models: Vec<(String, Source)>,
    /// Whether what is on the hub is read there, and no copy is kept.
    pub no_cache: bool,
}

/// Compares the build in `dir` with the models that it was made from.
///
/// An error means that the comparison could not be made; differences are in the verdict.
pub fn verify(dir: &Path, whereabouts: Whereabouts, watch: &Watch) -> Result<Verdict> {
    let manifest = Manifest::read(dir)?;
    let real = dir.canonicalize().map_err(|source| Error::Io {
        path: dir.to_owned(),
        doing: "resolved",
        source,
    })?;
    let names: Vec<&str> = manifest.models.iter().filter_map(|m| m.name.as_deref()).collect();
    if whereabouts.base.is_some() && !names.is_empty() {
        return Err(ProvenanceError::BaseOfSeveral { names: names.join(", ") }.into());
    }
    if let Some((name, _)) = whereabouts.models.iter().find(|(name, _)| !names.contains(&&**name)) {
        let (name, names) = (name.clone(), names.join(", "));
        return Err(ProvenanceError::NoSuchModel { name, names }.into());
    }
    let form = if real.is_file() { Form::Gguf } else { Form::Folder };
    let folder = if real.is_file() { real.parent().unwrap_or(&real) } else { &real };
    let to = Some(form.name().to_owned());
    let flags =
        Draft { base: whereabouts.base, models: whereabouts.models, to, ..Draft::default() };
    let recipe: Recipe = manifest.draft(folder).replaced_by(flags).finish()?;
    let access = if whereabouts.no_cache { Access::Streamed } else { Access::Weights };
    let models = recipe.models.clone();
    let blueprint = Blueprint::with_access(recipe, LayoutKind::Size, None, access, watch)
        .map_err(|error| reason(error, &manifest, &models))?;
    for (then, now) in manifest.models.iter().zip(&blueprint.models) {
        check_base(then, &now.checkpoint)?;
    }

    let mut differences = Vec::new();
    let built = match Checkpoint::open(dir) {
        Ok(built) => built,
        // What cannot be read is no answer; what is read and is broken is one.
        Err(error @ checkpoint::Error::Io { .. }) => return Err(error.into()),
        Err(error) => {
            differences.push(one_line(&error));
            return Ok(Verdict { num_tensors: 0, bytes: 0, differences });
        }
    };
    let mut planned: BTreeSet<&str> = blueprint.splice.tensors.iter().map(|t| &*t.name).collect();
    let head;
    match form {
        Form::Folder => differences.extend(config_differences(&blueprint, &built)),
        Form::Gguf => {
            head = blueprint.gguf_head()?;
            differences.extend(metadata_differences(&head, &built));
            planned.extend(head.settings.iter().map(|(name, _)| *name));
        }
    }
    let unplanned = built.tensors().iter().filter(|tensor| !planned.contains(&*tensor.name));
    differences.extend(unplanned.map(|tensor| format!("`{}` should not be there", tensor.name)));

    let comparison = Comparison::new(&blueprint, &built, watch)?;
    let (num_tensors, bytes) = (comparison.pairs.len(), comparison.bytes());
    differences.extend(comparison.missing.iter().cloned());
    differences.extend(comparison.run()?);
    differences.sort();
    Ok(Verdict { num_tensors, bytes, differences })
}

/// Why what was built cannot be thought through again, where `error` is what came of it.
///
/// That it is another base says more than what the recipe cannot do with that one.
fn reason(error: Error, manifest: &Manifest, models: &[(Option<String>, Source)]) -> Error {
    match error {
        Error::Cancelled => Error::Cancelled,
        Error::Checkpoint(checkpoint::Error::NoSuchPath { spec, path }) => {
            let gone = models.iter().find(|(_, model)| model.spec == spec);
            let model = gone.and_then(|(name, _)| name.clone());
            let source = checkpoint::Error::NoSuchPath { spec, path };
            ProvenanceError::BaseGone { model, source }.into()
        }
        error => {
            let others = manifest.models.iter().zip(models).find_map(|(then, (_, now))| {
                let found = sources::find(now, Access::Local, &Watch::nobody()).ok()?;
                check_base(then, &Checkpoint::open(&found.location.path).ok()?).err()
            });
            others.unwrap_or(error)
        }
    }
}

/// Refuses a base whose files are not those that the build was made from.
fn check_base(then: &SourceModel, now: &Checkpoint) -> Result<()> {
    let file = |file: &WeightFile| SourceFile { name: file.name.clone(), bytes: file.bytes };
    let files: Vec<SourceFile> = now.files().iter().map(file).collect();
    // What a GGUF file is called is no part of the model, as a folder's name is none.
    let named = now.gguf().is_none();
    let same = |a: &SourceFile, b: &SourceFile| a.bytes == b.bytes && (a.name == b.name || !named);
    if files.len() == then.files.len() && files.iter().zip(&then.files).all(|(a, b)| same(a, b)) {
        return Ok(());
    }
    let differing = then.files.iter().find(|then| !files.iter().any(|file| same(file, then)));
    let what = match differing {
        Some(file) => format!("{} had {} bytes", file.name, file.bytes),
        None => "it has more files".to_owned(),
    };
    Err(ProvenanceError::OtherBase { path: now.path().to_owned(), model: then.name.clone(), what }
        .into())
}

/// The keys of the config that are not as the build wrote them.
fn config_differences(blueprint: &Blueprint, built: &Checkpoint) -> Vec<String> {
    let Ok(deepened) = &blueprint.config else {
        return vec!["config.json cannot be derived from the base's".to_owned()];
    };
    let (expected, found) = (&deepened.config, built.config());
    let keys: BTreeSet<&str> = expected.keys().chain(found.keys()).collect();
    let shown = |value: Option<serde_json::Value>| {
        value.map_or("absent".to_owned(), |value| value.to_string())
    };
    keys.into_iter()
        .filter(|key| expected.get(key) != found.get(key))
        .map(|key| {
            let (expected, found) = (shown(expected.get(key)), shown(found.get(key)));
            format!("`{key}` in config.json is {found}, built as {expected}")
        })
        .collect()
}

/// The keys of a GGUF file that are not as the build wrote them.
fn metadata_differences(head: &GgufHead, built: &Checkpoint) -> Vec<String> {
    let Some(gguf) = built.gguf() else { return Vec::new() };
    let (expected, found) = (&head.metadata, &gguf.metadata);
    let keys: BTreeSet<&str> = expected.keys().chain(found.keys()).collect();
    let described = |metadata: &Metadata, key: &str| match metadata.get(key) {
        None => ("absent".to_owned(), String::new()),
        Some(value) => {
            let value_type = metadata.value_type(key).map(|value_type| format!(" ({value_type})"));
            (shown(value), value_type.unwrap_or_default())
        }
    };
    let differing = keys.into_iter().filter(|key| !key.starts_with("dus."));
    differing
        // As bytes: loaders ask for the type too, and what is not a number equals itself.
        .filter(|key| expected.bytes(key) != found.bytes(key))
        .map(|key| {
            let ((expected, expected_type), (found, found_type)) =
                (described(expected, key), described(found, key));
            if expected == found && expected_type != found_type {
                format!("`{key}` is {found}{found_type}, built as {expected}{expected_type}")
            } else {
                format!("`{key}` is {found}, built as {expected}")
            }
        })
        .collect()
}

/// The tensors of a build beside their sources.
struct Comparison<'a> {
    blueprint: &'a Blueprint,
    watch: &'a Watch<'a>,
    sources: Vec<Vec<OpenSource>>,
    targets: Vec<OpenFile>,
    pairs: Vec<Pair<'a>>,
    missing: Vec<String>,
}

struct Pair<'a> {
    new: &'a NewTensor,
    source: &'a checkpoint::Tensor,
    target: &'a checkpoint::Tensor,
    /// How the target is computed; `None` where the bytes are the source's.
    transform: Option<Transform>,
}

impl<'a> Comparison<'a> {
    fn new(blueprint: &'a Blueprint, built: &'a Checkpoint, watch: &'a Watch<'a>) -> Result<Self> {
        let sources = blueprint.open_sources()?;
        let targets = open_files(built)?;
        let rms = Rms::measure(&blueprint.splice, &blueprint.models, &sources, watch)?;
        let (mut pairs, mut missing) = (Vec::new(), Vec::new());
        for new in &blueprint.splice.tensors {
            let model: &Model = &blueprint.models[new.model];
            let source = &model.checkpoint.tensors()[new.source];
            match built.tensor(&new.name) {
                None => missing.push(format!("`{}` is missing", new.name)),
                Some(target) if target.encoding != new.encoding || target.shape != new.shape => {
                    missing.push(format!(
                        "`{}` is {} of {:?}, built as {} of {:?}",
                        new.name, target.encoding, target.shape, new.encoding, new.shape
                    ));
                }
                Some(target) => {
                    let transform = match new.change {
                        None => None,
                        Some(_) => Some(conversion::transform(new, &blueprint.models, &rms)?),
                    };
                    pairs.push(Pair { new, source, target, transform });
                }
            }
        }
        Ok(Self { blueprint, watch, sources, targets, pairs, missing })
    }

    fn bytes(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.target.bytes()).sum()
    }

    /// Compares block by block, on all cores, in the order of the sources' bytes.
    fn run(&self) -> Result<Vec<String>> {
        (self.watch.progress)(Progress::Begin { doing: "verifying", bytes: self.bytes() });
        let mut blocks: Vec<(&Pair, Range<u64>)> = Vec::new();
        for pair in &self.pairs {
            let block_bytes = match &pair.transform {
                None => BLOCK_BYTES,
                Some(transform) => transform.block_bytes(BLOCK_BYTES),
            };
            let mut begin = 0;
            while begin < pair.source.bytes() {
                let end = pair.source.bytes().min(begin + block_bytes);
                blocks.push((pair, begin..end));
                begin = end;
            }
        }
        blocks.sort_by_key(|(pair, block)| {
            (pair.new.model, pair.source.file, pair.source.range.start + block.start)
        });
        let first_difference: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());
        blocks.par_iter().try_for_each_init(Vec::new, |buffers, (pair, block)| {
            self.watch.check()?;
            if let Some(at) = self.compare(pair, block, buffers)? {
                let mut all = first_difference.lock().unwrap_or_else(PoisonError::into_inner);
                let first = all.entry(&pair.new.name).or_insert(at);
                *first = at.min(*first);
            }
            Ok::<_, Error>(())
        })?;
        let differences = first_difference.into_inner().unwrap_or_else(PoisonError::into_inner);
        let line = |(name, at): (&str, u64)| {
            let pair = self.pairs.iter().find(|pair| pair.new.name == name);
            let pair = pair.expect("only compared tensors are reported");
            let dir = self.blueprint.models[pair.new.model].checkpoint.path();
            let how = if pair.transform.is_some() { "what is computed from " } else { "" };
            format!(
                "`{name}` differs from {how}`{}` of {}, first at byte {at}",
                pair.source.name,
                dir.display()
            )
        };
        Ok(differences.into_iter().map(line).collect())
    }

    /// The first byte of the new tensor in which a block differs.
    fn compare(
        &self,
        pair: &Pair,
        block: &Range<u64>,
        buffers: &mut Vec<u8>,
    ) -> Result<Option<u64>> {
        let source = &self.sources[pair.new.model][pair.source.file];
        let target = &self.targets[pair.target.file];
        let source_bytes = (block.end - block.start) as usize;
        let (first, begin, target_bytes) = match &pair.transform {
            None => (0, block.start, source_bytes),
            Some(transform) => {
                let (first, target_bytes) = transform.block(block.start, block.end - block.start);
                (first, transform.target_offset(first), target_bytes)
            }
        };
        let computed_bytes = if pair.transform.is_some() { target_bytes } else { 0 };
        buffers.resize(source_bytes + target_bytes + computed_bytes, 0);
        let (from, rest) = buffers.split_at_mut(source_bytes);
        let (found, computed) = rest.split_at_mut(target_bytes);
        source.read_exact_at(from, pair.source.range.start + block.start, self.watch)?;
        target.read_exact_at(found, pair.target.range.start + begin)?;
        let expected = match &pair.transform {
            None => &*from,
            Some(transform) => {
                transform.apply(from, first, computed);
                &*computed
            }
        };
        self.watch.moved(target_bytes as u64);
        if expected == found {
            return Ok(None);
        }
        let differing = expected.iter().zip(&*found).position(|(a, b)| a != b);
        Ok(differing.map(|at| begin + at as u64))
    }
}
