//! What the commands print: text for people, one JSON object for machines.

use std::fmt::Write as _;
use std::time::Duration;

use infer::generate::{Generated, Generation, StepLogprobs};
use infer::sampling::log_sum_exp;
use infer::score::Score;
use infer::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// A token as the vocabulary has it, made visible.
pub(crate) fn piece(tokenizer: Option<&Tokenizer>, id: u32) -> String {
    let piece = tokenizer.and_then(|tokenizer| tokenizer.piece(id));
    piece.map_or_else(|| "-".to_owned(), |piece| piece.escape_debug().to_string())
}

/// The best tokens with their logits and probabilities, a line each.
pub(crate) fn logits(logits: &[f32], top: &[(u32, f32)], tokenizer: Option<&Tokenizer>) -> String {
    let log_sum = log_sum_exp(logits);
    let mut text = String::new();
    for &(id, logit) in top {
        let probability = (f64::from(logit) - log_sum).exp();
        let piece = piece(tokenizer, id);
        let _ = writeln!(text, "{id:>7} {logit:>10.5} {probability:>8.5}  {piece}");
    }
    text
}

/// A token with its log-probability, and the best ones, on a line.
pub(crate) fn step(step: &StepLogprobs, tokenizer: Option<&Tokenizer>) -> String {
    let name = |id: u32| match tokenizer {
        Some(_) => piece(tokenizer, id),
        None => id.to_string(),
    };
    let one = |&(id, logprob): &(u32, f64)| format!("{} {logprob:.4}", name(id));
    let top: Vec<String> = step.top.iter().map(one).collect();
    let chosen = one(&(step.id, step.logprob));
    format!("{:>7}  {chosen}  |  {}\n", step.id, top.join(", "))
}

/// The sequences, one after the other: their texts, or their tokens without a tokenizer, or a line for
/// each token where log-probabilities were asked for.
pub(crate) fn sequences(
    generation: &Generation,
    tokenizer: Option<&Tokenizer>,
    top_logprobs: bool,
) -> String {
    let mut text = String::new();
    for (i, sequence) in generation.sequences.iter().enumerate() {
        let _ = writeln!(text, "--- {} ({})", i + 1, sequence.stop.word());
        if top_logprobs {
            text.extend(sequence.logprobs.iter().map(|one| step(one, tokenizer)));
        } else if tokenizer.is_some() {
            let _ = writeln!(text, "{}", sequence.text);
        } else {
            let ids: Vec<String> = sequence.ids.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "{}", ids.join(" "));
        }
    }
    text
}

pub(crate) fn generation_json(generation: &Generation, prompt_tokens: usize, seed: u64) -> Value {
    let one = |sequence: &Generated| {
        let mut object = json!({
            "ids": sequence.ids,
            "text": sequence.text,
            "stop": sequence.stop.word(),
        });
        if !sequence.logprobs.is_empty() {
            let step = |step: &StepLogprobs| json!({ "id": step.id, "logprob": step.logprob, "top": step.top });
            object["logprobs"] = sequence.logprobs.iter().map(step).collect();
        }
        object
    };
    let mut object = generation.sequences.first().map_or_else(|| json!({}), one);
    object["prompt_tokens"] = prompt_tokens.into();
    object["prefill_tokens_per_second"] = rate(prompt_tokens, generation.prefill).into();
    object["decode_tokens_per_second"] = decode_rate(generation).into();
    object["seed"] = seed.into();
    if generation.sequences.len() > 1 {
        object["sequences"] = generation.sequences.iter().map(one).collect();
    }
    object
}

/// Times and rates of a generation, a line for stderr.
pub(crate) fn times(generation: &Generation, prompt_tokens: usize, load: Duration) -> String {
    let mut text = format!(
        "load {:.2} s, first token {:.2} s, prefill {prompt_tokens} tokens at {:.1}/s",
        load.as_secs_f64(),
        generation.prefill.as_secs_f64(),
        rate(prompt_tokens, generation.prefill).unwrap_or(0.0)
    );
    if let Some(rate) = decode_rate(generation) {
        let _ = write!(text, ", decode {} tokens at {rate:.1}/s", generation.num_decoded);
    }
    text + "\n"
}

/// Tokens a second of the steps behind the prompt; `None` where there were none.
fn decode_rate(generation: &Generation) -> Option<f64> {
    rate(generation.num_decoded, generation.decode)
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

/// One score, a line for each figure.
pub(crate) fn score(score: &Score) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let (nats, error) = (score.nats_per_token(), score.standard_error);
    row("tokens", format!("{} in {} windows", score.num_tokens, score.num_windows));
    row("sum", format!("{:.4} nats", score.sum_logprob));
    row("nats/token", format!("{nats:.5} ± {error:.5}"));
    let perplexity = score.perplexity();
    row("perplexity", format!("{perplexity:.4} ± {:.4}", perplexity * error));
    if let Some(bits) = score.bits_per_byte() {
        row("bits/byte", format!("{bits:.5}"));
    }
    text
}

/// Several scores, a line for each model.
pub(crate) fn score_table(scores: &[(String, Score)]) -> String {
    let width = scores.iter().map(|(model, _)| model.chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:<width$} {:>9} {:>19} {:>12} {:>9}\n",
        "model", "tokens", "nats/token", "perplexity", "bits/byte"
    );
    for (model, score) in scores {
        let nats = format!("{:.5} ± {:.5}", score.nats_per_token(), score.standard_error);
        let bits = score.bits_per_byte().map_or_else(|| "-".to_owned(), |b| format!("{b:.5}"));
        let (tokens, perplexity) = (score.num_tokens, score.perplexity());
        let _ =
            writeln!(text, "{model:<width$} {tokens:>9} {nats:>19} {perplexity:>12.4} {bits:>9}");
    }
    text
}

pub(crate) fn score_json(model: &str, score: &Score) -> Value {
    json!({
        "model": model,
        "num_tokens": score.num_tokens,
        "sum_logprob": score.sum_logprob,
        "nats_per_token": score.nats_per_token(),
        "perplexity": score.perplexity(),
        "bits_per_byte": score.bits_per_byte(),
        "standard_error": score.standard_error,
        "num_windows": score.num_windows,
    })
}
