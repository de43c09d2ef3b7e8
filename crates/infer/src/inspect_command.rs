//! `infer inspect`: what a model would take in memory, without loading it.

use std::fmt::Write as _;

use infer::error::gib;
use infer::placement::{Plan, Share};
use infer::{DecoderConfig, Result};
use serde_json::{Value, json};

use crate::chosen;
use crate::cli::InspectArgs;
use crate::terminal::{Terminal, print};

pub(crate) fn run(args: &InspectArgs, terminal: &Terminal) -> Result<()> {
    let opened = chosen::outline(&args.model, &args.run, terminal)?;
    let positions = opened.config.max_position_embeddings;
    let context = args.context.unwrap_or(positions).min(positions);
    let plan = opened.plan(args.run.placing(), &vec![context; args.batch.into()])?;
    chosen::tell_of_gpu_layers(&args.run, &plan);
    let asked = Asked { config: &opened.config, context, batch: args.batch.into() };
    if args.json { print(&format!("{:#}\n", asked.json(&plan))) } else { print(&asked.text(&plan)) }
}

/// The model that is inspected, and how it is to run.
struct Asked<'a> {
    config: &'a DecoderConfig,
    context: usize,
    batch: usize,
}

impl Asked<'_> {
    /// A table with a column for each device.
    fn text(&self, plan: &Plan) -> String {
        let config = self.config;
        let mut text = format!(
            "{} layers of width {}, {} tokens, {} positions\n",
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
            config.max_position_embeddings
        );
        let mut row = |name: &str, cell: &dyn Fn(&Share) -> String, note: &str| {
            let cells = plan.shares().map(|share| format!(" {:>13}", cell(share)));
            let line = format!("{name:<10}{}  {note}", cells.collect::<String>());
            let _ = writeln!(text, "{}", line.trim_end());
        };
        row("", &|share| share.device.clone(), "");
        if plan.gpu.is_some() {
            row("", &|share| numbers(share), "");
        }
        let bytes = |bytes: fn(&Share) -> u64| {
            move |share: &Share| match bytes(share) {
                0 => "-".to_owned(),
                bytes => gib(bytes),
            }
        };
        row("embedding", &bytes(|share| share.embedding_bytes), "");
        row("layers", &bytes(|share| share.layer_bytes.iter().sum()), &each(plan));
        let head = if config.tie_word_embeddings { "the embedding" } else { "" };
        row("head", &bytes(|share| share.head_bytes), head);
        row("cache", &bytes(|share| share.cache_bytes), &self.positions());
        row("work", &bytes(|share| share.work_bytes), "at most, while a prompt is read");
        row("needed", &bytes(Share::needed_bytes), "");
        let free = |share: &Share| share.free_bytes.map_or_else(|| "-".to_owned(), gib);
        row("free", &free, &fit(plan));
        if let Some(advice) = plan.advice_line() {
            let _ = writeln!(text, "{advice}");
        }
        text
    }

    fn positions(&self) -> String {
        match self.batch {
            1 => format!("{} positions", self.context),
            batch => format!("{} positions of {batch} sequences", self.context),
        }
    }

    fn json(&self, plan: &Plan) -> Value {
        let device = |share: &Share| {
            json!({
                "device": share.device,
                "first_layer": share.layers.start,
                "embedding_bytes": share.embedding_bytes,
                "layer_bytes": share.layer_bytes,
                "head_bytes": share.head_bytes,
                "weight_bytes": share.weight_bytes(),
                "cache_bytes": share.cache_bytes,
                "work_bytes": share.work_bytes,
                "needed_bytes": share.needed_bytes(),
                "free_bytes": share.free_bytes,
                "fits": share.fits(),
            })
        };
        json!({
            "num_hidden_layers": self.config.num_hidden_layers,
            "max_position_embeddings": self.config.max_position_embeddings,
            "context": self.context,
            "batch": self.batch,
            "devices": plan.shares().map(device).collect::<Vec<_>>(),
            "advice": plan.advice,
        })
    }
}

/// The layers of a device by their numbers.
fn numbers(share: &Share) -> String {
    match &share.layers {
        none if none.is_empty() => "no layers".to_owned(),
        layers => format!("layers {}..{}", layers.start, layers.end),
    }
}

/// What a layer takes, and how many take nothing.
fn each(plan: &Plan) -> String {
    let all = || plan.shares().flat_map(|share| share.layer_bytes.iter().copied());
    let own = || all().filter(|&bytes| bytes > 0);
    let (least, most) = (own().min().unwrap_or(0), own().max().unwrap_or(0));
    let mut note = match (gib(least), gib(most)) {
        (least, most) if least == most => format!("{most} each"),
        (least, most) => format!("{least} to {most} each"),
    };
    let num_shared = all().filter(|&bytes| bytes == 0).count();
    if num_shared > 0 {
        let _ = write!(note, "; {num_shared} are others once more, and take nothing");
    }
    note
}

/// Whether all devices have room for what they are to hold, where that is known.
fn fit(plan: &Plan) -> String {
    let fits = || plan.shares().map(Share::fits);
    let small = plan.shares().filter(|share| share.fits() == Some(false));
    let small: Vec<&str> = small.map(|share| share.device.as_str()).collect();
    match small.as_slice() {
        [] if fits().all(|fits| fits == Some(true)) => "it fits".to_owned(),
        [] => String::new(),
        small => format!("it does not fit on {}", small.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use infer::footprint::Footprint;
    use infer::placement::{self, GpuLayers, Memory};

    use super::*;

    /// The table of SOLAR-10.7B in 16 bits on what `memory` has free; tensors that `same_as` gives one
    /// number are one memory.
    #[track_caller]
    fn check(
        memory: &Memory,
        gpu_layers: GpuLayers,
        same_as: &dyn Fn(&str) -> Option<usize>,
        expected: &str,
    ) {
        let config = json!({
            "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
            "intermediate_size": 14336, "num_hidden_layers": 48,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096,
        });
        let object = checkpoint::json::Object::parse(&config.to_string()).unwrap();
        let config = DecoderConfig::read(&object, Path::new("config.json")).unwrap();
        let bytes = |_: &str, shape: &[usize]| 2 * shape.iter().product::<usize>() as u64;
        let footprint = Footprint::new(&config, 4096, 2, &bytes, same_as);
        let quantised = [("q8_0", 8 * 34), ("q4_k", 144)]
            .map(|(name, of_256)| (name, footprint.num_parameters * of_256 / 256));
        let footprint = Footprint { quantised_bytes: quantised.to_vec(), ..footprint };
        let sizes = placement::Sizes { gpu: &footprint, cpu: &footprint };
        let plan = placement::plan(sizes, memory, gpu_layers).unwrap();
        let asked = Asked { config: &config, context: 4096, batch: 1 };
        assert_eq!(asked.text(&plan), expected);
    }

    #[test]
    fn a_processor_is_a_column() {
        let memory = Memory { gpu: None, cpu: Some(30 << 30) };
        let expected = "\
48 layers of width 4096, 32000 tokens, 4096 positions
                     cpu
embedding       0.24 GiB
layers         19.50 GiB  0.41 GiB each
head            0.24 GiB
cache           0.75 GiB  4096 positions
work            0.32 GiB  at most, while a prompt is read
needed         21.06 GiB
free           30.00 GiB  it fits
";
        check(&memory, GpuLayers::Auto, &|_| None, expected);
    }

    #[test]
    fn a_gpu_and_the_processor_are_columns() {
        let memory =
            Memory { gpu: Some(("cuda:0".to_owned(), Some(14_900 << 20))), cpu: Some(6 << 30) };
        let expected = "\
48 layers of width 4096, 32000 tokens, 4096 positions
                  cuda:0           cpu
           layers 17..48  layers 0..17
embedding              -      0.24 GiB
layers         12.59 GiB      6.91 GiB  0.41 GiB each
head            0.24 GiB             -
cache           0.48 GiB      0.27 GiB  4096 positions
work            0.85 GiB      0.32 GiB  at most, while a prompt is read
needed         14.18 GiB      7.74 GiB
free           14.55 GiB      6.00 GiB  it does not fit on cpu
for all of it on the GPU: --quantize q8_0 takes 12.22 GiB there; --quantize q4_k takes 7.23 GiB there; an up-scaled model that is run unbuilt takes its base's memory
";
        check(&memory, GpuLayers::Auto, &|_| None, expected);
    }

    #[test]
    fn a_gpu_that_holds_all_is_a_column() {
        let memory = Memory { gpu: Some(("cuda:0".to_owned(), Some(79 << 30))), cpu: None };
        // The second half of the layers are the first half once more.
        let same_as = |name: &str| {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let layer = layer.parse::<usize>().unwrap() % 24;
            Some(rest.bytes().fold(layer, |hash, byte| hash.wrapping_mul(31) ^ usize::from(byte)))
        };
        let expected = "\
48 layers of width 4096, 32000 tokens, 4096 positions
                  cuda:0
            layers 0..48
embedding       0.24 GiB
layers          9.75 GiB  0.41 GiB each; 24 are others once more, and take nothing
head            0.24 GiB
cache           0.75 GiB  4096 positions
work            0.85 GiB  at most, while a prompt is read
needed         11.84 GiB
free           79.00 GiB  it fits
";
        check(&memory, GpuLayers::Auto, &same_as, expected);
    }
}
