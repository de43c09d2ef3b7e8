//! `infer bench`: how fast a model runs, beside what the memory of its device allows.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use infer::bench::{self, Measured, Row, Settings};
use infer::footprint::Footprint;
use infer::open::{Opened, Wanted};
use infer::{Model, Result, bandwidth};
use serde_json::{Value, json};

use crate::chosen;
use crate::cli::BenchArgs;
use crate::terminal::{Terminal, print};

/// A model, what it takes in memory, and the time that loading it took.
struct Loaded {
    model: Model,
    footprint: Footprint,
    time: Duration,
}

pub(crate) fn run(args: &BenchArgs, terminal: &Terminal) -> Result<()> {
    let wanted = if args.random_weights { Wanted::Geometry } else { Wanted::Weights };
    let opened = chosen::find(&args.model, &args.run, wanted, terminal)?;
    let settings = Settings {
        prompts: args.prompts.clone(),
        contexts: args.contexts.clone(),
        batches: args.batches.iter().map(|&batch| batch.into()).collect(),
        num_steps: args.steps,
        repeats: args.repeats,
    };
    settings.check(opened.config.max_position_embeddings)?;
    let progress = terminal.progress(args.run.quiet);
    // Before the model takes its memory.
    let target = opened.target(args.run.placing())?.target;
    let bandwidth = bandwidth::read_bytes_per_second(&target, &progress.watch())?;
    let loaded = load(args, &settings, &opened, terminal)?;
    let measured = bench::bench(&loaded.model, &loaded.footprint, &settings, &progress.watch());
    terminal.clear();
    let measured = measured?;
    if !measured.is_finite {
        let note = "the logits are not finite: `infer logits` names what makes such numbers";
        chosen::told(&args.run, &[note.to_owned()]);
    }
    if args.json {
        print(&format!("{:#}\n", to_json(args, &loaded, bandwidth, &measured)))
    } else {
        print(&text(args, &loaded, bandwidth, &measured.rows))
    }
}

fn load(
    args: &BenchArgs,
    settings: &Settings,
    opened: &Opened,
    terminal: &Terminal,
) -> Result<Loaded> {
    let begin = Instant::now();
    let sequences = settings.caches(opened.config.max_position_embeddings);
    let footprint = opened.footprint(args.run.placing(), &sequences)?;
    let model = chosen::load(opened, &args.run, &sequences, terminal)?;
    Ok(Loaded { model, footprint, time: begin.elapsed() })
}

fn text(args: &BenchArgs, loaded: &Loaded, bandwidth: Option<f64>, rows: &[Row]) -> String {
    let gigabytes = |bytes: f64| bytes / 1e9;
    let mut text = String::new();
    let step = gigabytes(loaded.model.step_bytes() as f64);
    if let Some(bandwidth) = bandwidth {
        let _ = writeln!(
            text,
            "memory reads {:.1} GB/s; a token reads {step:.3} GB of weights: at most {:.1} tokens/s",
            gigabytes(bandwidth),
            bandwidth / loaded.model.step_bytes() as f64
        );
    }
    let seconds = loaded.time.as_secs_f64();
    if args.random_weights {
        let _ = writeln!(text, "random weights, made in {seconds:.2} s");
    } else {
        let rate = gigabytes(loaded.footprint.weight_bytes() as f64) / seconds;
        let _ = writeln!(text, "load {seconds:.2} s ({rate:.2} GB/s)");
    }
    let _ = writeln!(
        text,
        "{:<8} {:>7} {:>8} {:>6} {:>10} {:>11}",
        "", "tokens", "context", "batch", "tokens/s", "of memory"
    );
    for row in rows {
        let fraction = bandwidth.and_then(|bandwidth| row.read_bandwidth_fraction(bandwidth));
        let fraction = fraction
            .map_or_else(|| "-".to_owned(), |fraction| format!("{:.1} %", 100.0 * fraction));
        let _ = writeln!(
            text,
            "{:<8} {:>7} {:>8} {:>6} {:>10.1} {fraction:>11}",
            row.what.word(),
            row.num_tokens,
            row.context,
            row.batch,
            row.tokens_per_second()
        );
    }
    text
}

fn to_json(
    args: &BenchArgs,
    loaded: &Loaded,
    bandwidth: Option<f64>,
    measured: &Measured,
) -> Value {
    let row = |row: &Row| {
        json!({
            "what": row.what.word(),
            "num_tokens": row.num_tokens,
            "context": row.context,
            "batch": row.batch,
            "seconds": row.time.as_secs_f64(),
            "tokens_per_second": row.tokens_per_second(),
            "read_bandwidth_fraction":
                bandwidth.and_then(|bandwidth| row.read_bandwidth_fraction(bandwidth)),
        })
    };
    json!({
        "model": args.model,
        "random_weights": args.random_weights,
        "num_threads": rayon::current_num_threads(),
        "read_bytes_per_second": bandwidth,
        "weight_bytes": loaded.footprint.weight_bytes(),
        "step_bytes": loaded.model.step_bytes(),
        "load_seconds": loaded.time.as_secs_f64(),
        "is_finite": measured.is_finite,
        "rows": measured.rows.iter().map(row).collect::<Vec<_>>(),
    })
}
