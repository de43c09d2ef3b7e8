//! `dus demo`: builds and verifies a 48-layer model from the tiny trained one in `examples/`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use dus::blueprint::{Blueprint, LayoutKind};
use dus::build::{self, Options};
use dus::drawing;
use dus::manifest::Manifest;
use dus::output::Output;
use dus::recipe::Draft;
use dus::verify::{self, Whereabouts};
use dus::{Error, Result};

use crate::report;
use crate::terminal::{Terminal, print};

const RECIPE: &str = "configs/tiny-solar.toml";
const BASE: &str = "examples/tiny-mistral-32l";

/// Builds the demo's model at `out`, and returns whether it proved equal to its source.
pub(crate) fn run(out: &Path, terminal: &Terminal) -> Result<bool> {
    let start = Instant::now();
    let root = project_root()?;
    let blueprint =
        Blueprint::new(Draft::read(&root.join(RECIPE))?.finish()?, LayoutKind::Size, None)?;
    print(&format!("{}\n{}\n", blueprint.plan, drawing::draw(&blueprint.plan)))?;

    let progress = terminal.progress(false);
    // An earlier demo is replaced, and nothing else.
    let force = Manifest::read(out).is_ok_and(|earlier| is_demo(&earlier, out, &root.join(BASE)));
    let options = Options { force, ..Options::default() };
    let built =
        build::build(&blueprint, Output::at(out, blueprint.form())?, &options, &progress.watch())?;
    terminal.clear();
    let name = out.display().to_string();
    print(&report::build(&blueprint, &built, &name, start.elapsed()))?;
    let verdict = verify::verify(out, Whereabouts::default(), &progress.watch())?;
    terminal.clear();
    print(&report::verdict(&verdict, &name))?;
    // As this program was called: it may not be on the path.
    let dus = std::env::args().next().unwrap_or_else(|| "dus".to_owned());
    let base = root.join(BASE).display().to_string();
    print(&format!(
        "\nNext:\n  {dus} inspect {name} --duplicates    which layers are equal\n  \
         {dus} plan {base} --layers 'repeat(12, 28)'    another plan, before it is built\n\
         transformers loads {name} as it is.\n"
    ))?;
    Ok(verdict.differences.is_empty())
}

/// Whether the build at `out` is of the demo's base by the demo's plan.
fn is_demo(earlier: &Manifest, out: &Path, base: &Path) -> bool {
    let [model] = &*earlier.models else { return false };
    let Some(path) = &model.path else { return false };
    let same = |a: &Path, b: &Path| {
        a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a))
    };
    earlier.plan == "0..24 + 8..32" && model.name.is_none() && same(&out.join(path), base)
}

/// The nearest folder, from the working directory upwards, that holds the example and its recipe.
fn project_root() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|source| Error::Io {
        path: PathBuf::from("."),
        doing: "resolved",
        source,
    })?;
    let mut folders = here.ancestors();
    let root = folders.find(|dir| dir.join(BASE).is_dir() && dir.join(RECIPE).is_file());
    let Some(root) = root else { return Err(Error::NoExample { path: BASE, dir: here }) };
    Ok(root.strip_prefix(&here).unwrap_or(root).to_owned())
}
