//! `infer compare`: two models, or a model and a reference's logits, side by side.

use std::fmt::Write as _;
use std::path::Path;

use infer::compare::{self, Comparison};
use infer::{Error, Result, reference_logits};
use serde_json::json;

use crate::chosen;
use crate::cli::{CompareArgs, EngineName, RunArgs};
use crate::input::Input;
use crate::terminal::{Terminal, print};

/// What is compared where neither a text nor a prompt is given.
const PROMPTS: [&str; 5] = [
    "The capital of France is",
    "In the beginning God created the heaven and the earth.",
    "def fibonacci(n):\n    \"\"\"The n-th Fibonacci number.\"\"\"\n",
    "Q: What is the square root of 144?\nA:",
    "Es war einmal ein König, der hatte drei Töchter. Die jüngste",
];

/// Tokens of a text that are compared where nothing says how many.
const DEFAULT_MAX_TOKENS: usize = 512;

/// Compares, and returns whether all is within the bounds that were given.
pub(crate) fn run(args: &CompareArgs, terminal: &Terminal) -> Result<bool> {
    check_bounds(args)?;
    let comparison = if is_json(&args.other) {
        against_known(args, terminal)?
    } else {
        against_model(args, terminal)?
    };
    let is_within = is_within(&comparison, args);
    if args.json {
        print(&format!("{:#}\n", json(&comparison, is_within)))?;
    } else {
        print(&text(&comparison))?;
        if !is_within {
            print("beyond the bounds that were given\n")?;
        }
    }
    Ok(is_within)
}

/// Refuses bounds that nothing or everything is within.
fn check_bounds(args: &CompareArgs) -> Result<()> {
    for (option, bound, most, expected) in [
        ("--tolerance", args.tolerance, f64::INFINITY, "0 or more"),
        ("--max-kl", args.max_kl, f64::INFINITY, "0 or more"),
        ("--min-agreement", args.min_agreement, 1.0, "from 0 to 1"),
    ] {
        if let Some(bound) = bound.filter(|bound| !(0.0..=most).contains(bound)) {
            return Err(Error::OptionValue { option, found: bound.to_string(), expected });
        }
    }
    Ok(())
}

fn is_json(other: &str) -> bool {
    let path = Path::new(other);
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json")) && path.is_file()
}

fn against_known(args: &CompareArgs, terminal: &Terminal) -> Result<Comparison> {
    if let Some(max_kl) = args.max_kl {
        return Err(Error::OptionValue {
            option: "--max-kl",
            found: max_kl.to_string(),
            expected: "a model to compare with: the file has the best logits only",
        });
    }
    for (option, is_given) in [
        ("--prompt", !args.prompt.is_empty()),
        ("--text", args.text.is_some()),
        ("--ids", args.ids.ids.is_some()),
        ("--max-tokens", args.max_tokens.is_some()),
        ("--other-dtype", args.other_dtype.is_some()),
        ("--other-device", args.other_device.is_some()),
    ] {
        if is_given {
            let place =
                "beside a file of reference logits, which has its own tokens and runs nowhere";
            return Err(Error::NoMeaning { option, place });
        }
    }
    let known = reference_logits::read(Path::new(&args.other))?;
    let opened = chosen::open(&args.model, &args.run, terminal)?;
    let positions = known.iter().map(|known| known.ids.len()).max().unwrap_or(0);
    let model = chosen::load(&opened, &args.run, &[positions], terminal)?;
    let progress = terminal.progress(args.run.quiet);
    let comparison = compare::compare_known(&model, &known, &progress.watch());
    terminal.clear();
    comparison
}

fn against_model(args: &CompareArgs, terminal: &Terminal) -> Result<Comparison> {
    let opened = chosen::open(&args.model, &args.run, terminal)?;
    let other_run = RunArgs {
        // A plan on the command line is MODEL's; OTHER may be a recipe.
        layers: None,
        recipe: args.run.recipe.clone(),
        quantize: None,
        dtype: args.other_dtype.unwrap_or(args.run.dtype),
        device: args.other_device.unwrap_or(args.run.device),
        gpu_layers: args.run.gpu_layers,
        // An engine is MODEL's device's.
        engine: if args.other_device.is_some() { EngineName::Auto } else { args.run.engine },
        quiet: args.run.quiet,
    };
    let other = chosen::open(&args.other, &other_run, terminal)?;
    let is_text = args.ids.ids.is_none();
    let tokenizer = is_text.then(|| chosen::tokenizer(&opened, args.run.quiet)).transpose()?;
    let encode = |text: &str| match &tokenizer {
        Some(tokenizer) => Ok(tokenizer.encode(text)?.ids),
        None => Err(Error::NoTokenizer { model: opened.path().to_owned() }),
    };
    let mut samples = if args.text.is_some() || args.ids.ids.is_some() {
        let input = Input::file(args.text.as_ref(), &args.ids, terminal)?;
        if input.is_empty() {
            // Also where a tokenizer would make BOS of it.
            let what = if args.text.is_some() { "the text" } else { "--ids" };
            return Err(Error::NothingToCompare { what });
        }
        vec![input.ids(encode)?]
    } else if args.prompt.is_empty() {
        PROMPTS.iter().map(|text| encode(text)).collect::<Result<Vec<_>>>()?
    } else {
        args.prompt.iter().map(|text| encode(text)).collect::<Result<Vec<_>>>()?
    };
    let positions = opened.config.max_position_embeddings.min(other.config.max_position_embeddings);
    let max_tokens = args.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS).min(positions);
    if max_tokens == 0 {
        let (option, found) = ("--max-tokens", "0".to_owned());
        return Err(Error::OptionValue { option, found, expected: "1 or more" });
    }
    if samples.iter().any(Vec::is_empty) {
        return Err(Error::NothingToCompare { what: "a prompt" });
    }
    for sample in &mut samples {
        chosen::check_tokens(&opened, sample)?;
        if sample.len() > max_tokens {
            let all = sample.len();
            let note = format!("the first {max_tokens} of {all} tokens are compared");
            chosen::told(&args.run, &[note]);
            sample.truncate(max_tokens);
        }
    }
    let longest = [samples.iter().map(Vec::len).max().unwrap_or(0)];
    let model = chosen::load(&opened, &args.run, &longest, terminal)?;
    let reference = chosen::load(&other, &other_run, &longest, terminal)?;
    let progress = terminal.progress(args.run.quiet);
    let comparison = compare::compare(&model, &reference, &samples, &progress.watch());
    terminal.clear();
    comparison
}

fn is_within(comparison: &Comparison, args: &CompareArgs) -> bool {
    let below = |value: f64, bound: Option<f64>| bound.is_none_or(|bound| value <= bound);
    below(comparison.max_abs, args.tolerance)
        && below(comparison.mean_kl.unwrap_or(0.0), args.max_kl)
        && args.min_agreement.is_none_or(|bound| comparison.agreement() >= bound)
}

fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16} {value}");
    };
    row("positions", comparison.num_positions.to_string());
    row("max abs", format!("{:.3e}", comparison.max_abs));
    if let Some(kl) = comparison.mean_kl {
        row("mean KL", format!("{kl:.3e} nats"));
    }
    let (share, agreed) = (100.0 * comparison.agreement(), comparison.num_agreed);
    row("top-1 agreement", format!("{share:.2} % ({agreed})"));
    if let Some(margin) = comparison.widest_disagreement {
        row("", format!("where they differ, the other's two best are at most {margin:.3} apart"));
    }
    for (layer, cosine) in comparison.layer_cosines.iter().flatten().enumerate() {
        row(&format!("layer {layer}"), format!("cosine {cosine:.7}"));
    }
    text
}

fn json(comparison: &Comparison, is_within: bool) -> serde_json::Value {
    json!({
        "num_positions": comparison.num_positions,
        "max_abs": comparison.max_abs,
        "mean_kl": comparison.mean_kl,
        "top1_agreement": comparison.agreement(),
        "widest_disagreement": comparison.widest_disagreement,
        "layer_cosines": comparison.layer_cosines,
        "within_bounds": is_within,
    })
}
