//! `infer bench`: how fast a model runs, beside what the memory of its device allows.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use candle_core::DType;
use infer::bench::{self, Measured, Row, Settings};
use infer::device::{Place, Target};
use infer::error::{gib, one_line};
use infer::footprint::Footprint;
use infer::load::{Engine, Placing};
use infer::open::Wanted;
use infer::progress::Watch;
use infer::{Error, Model, Result, limits, memory};
use serde_json::{Value, json};

use crate::bench_peer::{self, Peer, Request};
use crate::cli::{BenchArgs, PeerName};
use crate::terminal::{Terminal, print};
use crate::{bench_llama_cpp, bench_transformers, chosen};

/// A model, what it takes in memory, and the time that loading it took.
struct Loaded {
    model: Model,
    footprint: Footprint,
    time: Duration,
}

impl Loaded {
    fn summary(self) -> Summary {
        let (step_bytes, weight_bytes) = (self.model.step_bytes(), self.footprint.weight_bytes());
        Summary { step_bytes, weight_bytes, time: self.time }
    }
}

/// What the device could do.
#[derive(Default)]
struct Limits {
    /// The device, by its name and what else it is called.
    device: String,
    read_bytes_per_second: Option<f64>,
    flops_per_second: Option<f64>,
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
    // Random numbers are in no file.
    let file = if args.random_weights { None } else { opened.gguf_file() };
    let asked = match &args.compare {
        Some(named) => bench_peer::asked(named, file)?,
        None => Vec::new(),
    };
    let progress = terminal.progress(args.run.quiet);
    let sequences = settings.caches(opened.config.max_position_embeddings);
    let plan = opened.plan(args.run.placing(), &sequences)?;
    // Where nothing fits the GPU, the processor is measured.
    let placing = match plan.gpu {
        Some(_) if !plan.head_on_gpu() => {
            Placing { place: Place::Cpu, engine: Engine::Auto, ..args.run.placing() }
        }
        _ => args.run.placing(),
    };
    let (target, dtype) = (opened.target(placing)?.target, opened.arithmetic(placing)?);
    // Before the model takes its memory. Two devices have no limit in common.
    let is_split = plan.head_on_gpu() && plan.is_split();
    let limits = if is_split {
        Limits { device: device(&target) + ", cpu", ..Limits::default() }
    } else {
        Limits {
            device: device(&target),
            read_bytes_per_second: limits::read_bytes_per_second(&target, &progress.watch())?,
            flops_per_second: limits::flops_per_second(&target, dtype)?,
        }
    };
    memory::forget_peak();
    let begin = Instant::now();
    let footprint = opened.footprint(placing, &sequences)?;
    let model = chosen::load(&opened, &args.run, &sequences, terminal)?;
    let loaded = Loaded { model, footprint, time: begin.elapsed() };
    let watch = progress.watch();
    let measured = bench::bench(&loaded.model, &loaded.footprint, &settings, &target, &watch);
    terminal.clear();
    let measured = measured?;
    if !measured.is_finite {
        let note = "the logits are not finite: `infer logits` names what makes such numbers";
        chosen::told(&args.run, &[note.to_owned()]);
    }
    // The model goes: its memory is the peer's now.
    let loaded = loaded.summary();
    let request = Request {
        config: &opened.config_json()?,
        file,
        device: &target.name(),
        num_gpu_layers: if plan.head_on_gpu() { plan.num_gpu_layers() + 1 } else { 0 },
        dtype: torch_name(dtype),
        rows: &measured.rows,
        repeats: args.repeats,
    };
    let peers = peers(args, &asked, &request, &watch)?;
    let all = Report { args, loaded, limits, measured, peers, engine: target.engine() };
    if args.json { print(&format!("{:#}\n", all.to_json())) } else { print(&all.text()) }
}

/// What other programs come to; a note says why one is not timed.
fn peers(
    args: &BenchArgs,
    asked: &[PeerName],
    request: &Request,
    watch: &Watch,
) -> Result<Vec<Peer>> {
    let told = |note: String| chosen::told(&args.run, &[note]);
    let mut peers = Vec::new();
    let mut keep = |outcome| match outcome {
        Ok(peer) => {
            peers.push(peer);
            Ok(())
        }
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(error) => {
            told(one_line(&error));
            Ok(())
        }
    };
    if asked.iter().any(|&peer| peer != PeerName::LlamaCpp) {
        told("transformers is timed".to_owned());
        let compile = asked.contains(&PeerName::Compiled);
        bench_transformers::run(request, compile, watch).into_iter().try_for_each(&mut keep)?;
    }
    if asked.contains(&PeerName::LlamaCpp) {
        told("llama.cpp is timed".to_owned());
        keep(bench_llama_cpp::run(request, watch))?;
    }
    Ok(peers)
}

/// What a user knows a device by.
fn device(target: &Target) -> String {
    let card = target.meter().and_then(|meter| meter.card());
    card.map_or_else(|| target.name(), |card| format!("{}, {card}", target.name()))
}

/// What PyTorch calls a type.
fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    }
}

/// What is left of a model when it is gone.
struct Summary {
    step_bytes: u64,
    weight_bytes: u64,
    time: Duration,
}

/// All that is told.
struct Report<'a> {
    args: &'a BenchArgs,
    loaded: Summary,
    limits: Limits,
    measured: Measured,
    peers: Vec<Peer>,
    /// Whose kernels compute on a GPU.
    engine: Option<&'static str>,
}

impl Report<'_> {
    fn text(&self) -> String {
        let gigabytes = |bytes: f64| bytes / 1e9;
        let Self { args, loaded, limits, measured, .. } = self;
        let engine = self.engine.map_or_else(String::new, |engine| format!(", {engine} engine"));
        let mut text = format!("{}{engine}\n", limits.device);
        let step = gigabytes(loaded.step_bytes as f64);
        if let Some(bandwidth) = limits.read_bytes_per_second {
            let _ = writeln!(
                text,
                "memory reads {:.1} GB/s; a token reads {step:.3} GB of weights: at most {:.1} tokens/s",
                gigabytes(bandwidth),
                bandwidth / loaded.step_bytes as f64
            );
        }
        if let Some(flops) = limits.flops_per_second {
            let _ = writeln!(text, "a product of matrices has {:.0} TFLOP/s", flops / 1e12);
        }
        let seconds = loaded.time.as_secs_f64();
        if args.random_weights {
            let _ = writeln!(text, "random weights, made in {seconds:.2} s");
        } else {
            let rate = gigabytes(loaded.weight_bytes as f64) / seconds;
            let _ = writeln!(text, "load {seconds:.2} s ({rate:.2} GB/s)");
        }
        if let Some(bytes) = measured.peak_bytes {
            let _ = writeln!(text, "memory in use at most {}", gib(bytes));
        }
        for peer in &self.peers {
            let _ = writeln!(text, "beside {}, {}", peer.name, peer.which.weights());
        }
        let titles = ["", "tokens", "context", "batch", "tokens/s"].map(str::to_owned);
        let columns = self.columns();
        let titles = titles.into_iter().chain(columns.iter().map(|column| column.title.to_owned()));
        let mut lines = vec![titles.collect::<Vec<_>>()];
        for (number, row) in measured.rows.iter().enumerate() {
            let mut line = vec![
                row.what.word().to_owned(),
                row.num_tokens.to_string(),
                row.context.to_string(),
                row.batch.to_string(),
                format!("{:.1}", row.tokens_per_second()),
            ];
            line.extend(
                columns
                    .iter()
                    .map(|column| column.cells[number].clone().unwrap_or_else(|| "-".to_owned())),
            );
            lines.push(line);
        }
        table(&mut text, &lines);
        text
    }

    /// What there is beside tokens a second, where any row has it.
    fn columns(&self) -> Vec<Column> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let rows = &self.measured.rows;
        let column = |title, cell: &dyn Fn(usize, &Row) -> Option<String>| {
            let cells = rows.iter().enumerate().map(|(number, row)| cell(number, row)).collect();
            Column { title, cells }
        };
        let mut columns = vec![
            column("of memory", &|_, row| self.of_memory(row).map(percent)),
            column("TFLOP/s", &|_, row| {
                let flops =
                    row.flops_per_second().filter(|_| self.limits.flops_per_second.is_some());
                Some(format!("{:.0}", flops? / 1e12))
            }),
            column("of product", &|_, row| self.of_product(row).map(percent)),
            column("J/token", &|_, row| Some(format!("{:.3}", row.joules_per_token()?))),
        ];
        for Peer { which, seconds, .. } in &self.peers {
            columns.push(column(which.title(), &|number, row| {
                Some(format!("{:.1}", (row.num_tokens * row.batch) as f64 / seconds[number]?))
            }));
            columns.push(column("times", &|number, row| {
                Some(format!("{:.2}", seconds[number]? / row.time.as_secs_f64()))
            }));
        }
        columns.into_iter().filter(|column| column.cells.iter().any(Option::is_some)).collect()
    }

    fn of_memory(&self, row: &Row) -> Option<f64> {
        row.read_bandwidth_fraction(self.limits.read_bytes_per_second?)
    }

    fn of_product(&self, row: &Row) -> Option<f64> {
        Some(row.flops_per_second()? / self.limits.flops_per_second?)
    }

    fn to_json(&self) -> Value {
        let Self { args, loaded, limits, measured, .. } = self;
        let peer = |which| self.peers.iter().find(|peer| peer.which == which);
        let peer_seconds = |which, number: usize| peer(which)?.seconds[number];
        let row = |(number, row): (usize, &Row)| {
            json!({
                "what": row.what.word(),
                "num_tokens": row.num_tokens,
                "context": row.context,
                "batch": row.batch,
                "seconds": row.time.as_secs_f64(),
                "tokens_per_second": row.tokens_per_second(),
                "read_bandwidth_fraction": self.of_memory(row),
                "flops_per_second": row.flops_per_second(),
                "product_fraction": self.of_product(row),
                "joules_per_token": row.joules_per_token(),
                "transformers_seconds": peer_seconds(PeerName::Transformers, number),
                "compiled_seconds": peer_seconds(PeerName::Compiled, number),
                "llama_cpp_seconds": peer_seconds(PeerName::LlamaCpp, number),
            })
        };
        json!({
            "model": args.model,
            "random_weights": args.random_weights,
            "device": limits.device,
            "engine": self.engine,
            "num_threads": rayon::current_num_threads(),
            "read_bytes_per_second": limits.read_bytes_per_second,
            "flops_per_second": limits.flops_per_second,
            "weight_bytes": loaded.weight_bytes,
            "step_bytes": loaded.step_bytes,
            "peak_bytes": measured.peak_bytes,
            "load_seconds": loaded.time.as_secs_f64(),
            "is_finite": measured.is_finite,
            "peer": peer(PeerName::Transformers).map(|peer| &peer.name),
            "llama_cpp": peer(PeerName::LlamaCpp).map(|peer| &peer.name),
            "rows": measured.rows.iter().enumerate().map(row).collect::<Vec<_>>(),
        })
    }
}

/// A column of a table, a cell a row.
struct Column {
    title: &'static str,
    cells: Vec<Option<String>>,
}

/// Lines of cells, each column as wide as its widest; the first is words, the others are numbers.
fn table(text: &mut String, lines: &[Vec<String>]) {
    let num_columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..num_columns).map(width).collect();
    for line in lines {
        let mut cells = line.iter().zip(&widths);
        if let Some((word, width)) = cells.next() {
            let _ = write!(text, "{word:<width$}");
        }
        for (cell, width) in cells {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use infer::bench::What;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn columns_are_there_where_a_row_has_something_in_them() {
        let typed = ["infer", "bench", "--compare", "model"];
        let Command::Bench(args) = Cli::parse_from(typed).command else {
            panic!("it is a bench");
        };
        // A word behind it is the model.
        assert_eq!((args.compare.as_deref(), args.model.as_str()), (Some(&[][..]), "model"));
        let row = |what, num_tokens, seconds, read_bytes, flops, joules| Row {
            what,
            num_tokens,
            context: 0,
            batch: 1,
            time: Duration::from_secs(seconds),
            read_bytes,
            flops,
            joules,
        };
        let rows = vec![
            row(What::Prefill, 512, 1, None, Some(4e14), Some(256.0)),
            row(What::Decode, 64, 2, Some(3_000), None, None),
        ];
        let limits = Limits {
            device: "cuda:0, a card".to_owned(),
            read_bytes_per_second: Some(2_000.0),
            flops_per_second: Some(8e14),
        };
        let time = Duration::from_secs(1);
        let peer = |which, name: &str, seconds| Peer { which, name: name.to_owned(), seconds };
        let peers = vec![
            peer(PeerName::Transformers, "transformers 5", vec![Some(2.0), Some(1.0)]),
            peer(PeerName::Compiled, "transformers 5, compiled step", vec![None, Some(4.0)]),
            peer(PeerName::LlamaCpp, "llama.cpp 1a2b3c (CUDA)", vec![None, None]),
        ];
        let mut report = Report {
            args: &args,
            loaded: Summary { step_bytes: 100, weight_bytes: 200, time },
            limits,
            measured: Measured { rows, is_finite: true, peak_bytes: Some(3 << 30) },
            peers,
            engine: Some("fast"),
        };
        let expected = "\
cuda:0, a card, fast engine
memory reads 0.0 GB/s; a token reads 0.000 GB of weights: at most 20.0 tokens/s
a product of matrices has 800 TFLOP/s
load 1.00 s (0.00 GB/s)
memory in use at most 3.00 GiB
beside transformers 5, random weights
beside transformers 5, compiled step, random weights
beside llama.cpp 1a2b3c (CUDA), the same file
         tokens  context  batch  tokens/s  of memory  TFLOP/s  of product  J/token  transformers  times  transformers compiled  times
prefill     512        0      1     512.0          -      400      50.0 %    0.500         256.0   2.00                      -      -
decode       64        0      1      32.0     75.0 %        -           -        -          64.0   0.50                   16.0   2.00
";
        assert_eq!(report.text(), expected);
        let json = report.to_json();
        assert_eq!(json["engine"], "fast");
        assert_eq!(json["rows"][0]["product_fraction"], 0.5);
        assert_eq!(json["rows"][0]["joules_per_token"], 0.5);
        assert!(json["rows"][1]["product_fraction"].is_null());

        // On the processor none of that is known.
        report.limits = Limits { device: "cpu".to_owned(), ..Limits::default() };
        (report.engine, report.measured.peak_bytes) = (None, None);
        report.peers.clear();
        report.measured.rows[0].joules = None;
        let expected = "\
cpu
load 1.00 s (0.00 GB/s)
         tokens  context  batch  tokens/s
prefill     512        0      1     512.0
decode       64        0      1      32.0
";
        assert_eq!(report.text(), expected);
    }
}
