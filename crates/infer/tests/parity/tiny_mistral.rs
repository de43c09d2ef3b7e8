//! The tiny trained model: sequences of 512 tokens and a window of 256.

use std::path::Path;

use serde_json::Value;

use crate::references::{
    ROOT, all_logits, greedy, ids, largest_difference, load, logprobs, reference, row,
};

#[test]
fn logits_greedy_text_and_passages_are_those_of_transformers() {
    let Some(reference) = reference("tiny-mistral-32l.reference.json") else { return };
    let model = load(&Path::new(ROOT).join("examples/tiny-mistral-32l"));
    for prompt in reference["prompts"].as_array().unwrap() {
        let tokens = ids(&prompt["ids"]);
        let logits = row(&all_logits(&model, &tokens), tokens.len() - 1);
        let difference = largest_difference(&logits, &pairs(&prompt["last_logits_top10"]));
        assert!(difference <= 1e-3, "{}: {difference}", prompt["text"]);
        let expected = ids(&prompt["greedy_ids"]);
        assert_eq!(greedy(&model, &tokens, expected.len(), 2), expected, "{}", prompt["text"]);
    }
    for (name, passage) in reference["passages"].as_object().unwrap() {
        let tokens = ids(&passage["ids"]);
        let logits = all_logits(&model, &tokens);
        let found = logprobs(&logits, &tokens);
        // "After 256" begins where the window leaves the first token behind.
        let sums = [("sum_logprob", 0), ("sum_logprob_after_256", 256)].map(|(key, first)| {
            let sum: f64 = found[first..].iter().sum();
            (key, sum - passage[key].as_f64().unwrap())
        });
        eprintln!("{name}: sums differ by {sums:?}");
        assert!(sums.iter().all(|(_, difference)| difference.abs() <= 1e-2), "{name}: {sums:?}");
        let difference =
            largest_difference(&row(&logits, 400), &pairs(&passage["logits_at_400_top5"]));
        assert!(difference <= 1e-3, "{name}: {difference}");
    }
}

fn pairs(value: &Value) -> Vec<(usize, f64)> {
    let pair = |pair: &Value| (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
    value.as_array().unwrap().iter().map(pair).collect()
}
