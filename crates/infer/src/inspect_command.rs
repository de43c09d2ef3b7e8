//! `infer inspect`: what a model would take in memory, without loading it.

use std::fmt::Write as _;

use infer::error::gib;
use infer::memory::{self, Footprint};
use infer::placement::{self, Share};
use infer::{DecoderConfig, Result};
use serde_json::{Value, json};

use crate::chosen;
use crate::cli::InspectArgs;
use crate::terminal::{Terminal, print};

/// What a model takes of a device, and what that has.
struct Plan<'a> {
    config: &'a DecoderConfig,
    footprint: Footprint,
    context: usize,
    cache_bytes: u64,
    free_bytes: Option<u64>,
}

pub(crate) fn run(args: &InspectArgs, terminal: &Terminal) -> Result<()> {
    let opened = chosen::outline(&args.model, &args.run, terminal)?;
    let positions = opened.config.max_position_embeddings;
    let context = args.context.unwrap_or(positions).min(positions);
    let placed = opened.plan(args.run.placing(), context * args.batch)?;
    chosen::tell_of_gpu_layers(&args.run, &placed);
    if placed.memory.gpu.is_some() {
        return print(&if args.json { placed_json(&placed) } else { placed.table() });
    }
    let footprint = opened.footprint(args.run.placing())?;
    let plan = Plan {
        config: &opened.config,
        context,
        cache_bytes: footprint.cache_bytes(context) * args.batch as u64,
        footprint,
        free_bytes: memory::free_bytes(),
    };
    if args.json { print(&format!("{:#}\n", plan.json())) } else { print(&plan.text(args.batch)) }
}

impl Plan<'_> {
    fn needed_bytes(&self) -> u64 {
        self.footprint.weight_bytes() + self.cache_bytes + self.footprint.work_bytes
    }

    fn fits(&self) -> Option<bool> {
        self.free_bytes.map(|free| self.needed_bytes() <= free)
    }

    fn text(&self, batch: usize) -> String {
        let config = self.config;
        let mut text = format!(
            "{} layers of width {}, {} tokens, {} positions\n",
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
            config.max_position_embeddings
        );
        let mut row = |name: &str, bytes: u64, note: &str| {
            let _ = writeln!(text, "{name:<10} {:>10}  {note}", gib(bytes));
        };
        let footprint = &self.footprint;
        row("embedding", footprint.embedding_bytes, "");
        let first = footprint.layer_bytes.first().copied().unwrap_or(0);
        let own = || footprint.layer_bytes.iter().filter(|&&bytes| bytes > 0);
        let num_shared = footprint.layer_bytes.len() - own().count();
        let is_even = own().all(|&bytes| bytes == first);
        let mut note = if is_even { format!("{} each", gib(first)) } else { String::new() };
        if num_shared > 0 {
            let _ = write!(note, "; {num_shared} are others once more, and take nothing");
        }
        row("layers", footprint.layer_bytes.iter().sum(), &note);
        row(
            "head",
            footprint.head_bytes,
            if config.tie_word_embeddings { "the embedding" } else { "" },
        );
        let sequences = if batch == 1 { String::new() } else { format!(" of {batch} sequences") };
        row("cache", self.cache_bytes, &format!("{} positions{sequences}", self.context));
        row("work", footprint.work_bytes, "at most, while a prompt is read");
        row("needed", self.needed_bytes(), "on the cpu");
        if let Some(free) = self.free_bytes {
            let fits = self.fits() == Some(true);
            row("free", free, if fits { "it fits" } else { "it does not fit" });
        }
        text
    }

    fn json(&self) -> Value {
        let footprint = &self.footprint;
        json!({
            "num_hidden_layers": self.config.num_hidden_layers,
            "max_position_embeddings": self.config.max_position_embeddings,
            "context": self.context,
            "devices": [{
                "device": "cpu",
                "embedding_bytes": footprint.embedding_bytes,
                "layer_bytes": footprint.layer_bytes,
                "head_bytes": footprint.head_bytes,
                "weight_bytes": footprint.weight_bytes(),
                "cache_bytes": self.cache_bytes,
                "work_bytes": footprint.work_bytes,
                "needed_bytes": self.needed_bytes(),
                "free_bytes": self.free_bytes,
                "fits": self.fits(),
            }],
        })
    }
}

/// What goes to the GPU and what stays.
fn placed_json(plan: &placement::Plan) -> String {
    let (name, gpu_free) = plan.memory.gpu.clone().unwrap_or_default();
    let device = |name: &str, share: &Share, free: Option<u64>| {
        json!({
            "device": name,
            "weight_bytes": share.weights,
            "cache_bytes": share.cache,
            "work_bytes": share.work,
            "needed_bytes": share.total(),
            "free_bytes": free,
            "fits": free.map(|free| share.total() <= free),
        })
    };
    let object = json!({
        "num_hidden_layers": plan.num_layers,
        "context": plan.positions,
        "first_gpu_layer": plan.first_gpu_layer,
        "devices": [
            device(&name, &plan.gpu, gpu_free),
            device("cpu", &plan.cpu, plan.memory.cpu),
        ],
    });
    format!("{object:#}\n")
}
