//! SmolLM2-135M-Instruct, a real model with tied embeddings and grouped heads.

use serde_json::Value;

use crate::references::{
    all_logits, greedy, ids, largest_difference, load, logprobs, reference, row, smollm2,
};

#[test]
fn logits_greedy_text_and_a_passage_are_those_of_transformers() {
    let (Some(reference), Some(dir)) = (reference("smollm2-reference.json"), smollm2()) else {
        return;
    };
    let model = load(dir);
    let eos = reference["eos_token_id"].as_u64().unwrap() as u32;
    for prompt in reference["prompts"].as_array().unwrap() {
        let name = &prompt["name"];
        let tokens = ids(&prompt["token_ids"]);
        let logits = row(&all_logits(&model, &tokens), tokens.len() - 1);
        let pair =
            |top: &Value| (top["id"].as_u64().unwrap() as usize, top["logit"].as_f64().unwrap());
        let top: Vec<_> =
            prompt["last_logits_top10"].as_array().unwrap().iter().map(pair).collect();
        let difference = largest_difference(&logits, &top);
        eprintln!("{name}: top 10 logits differ by at most {difference:.1e}");
        assert!(difference <= 1e-3, "{name}: {difference}");

        let expected = ids(&prompt["greedy_ids"]);
        assert_eq!(greedy(&model, &tokens, expected.len(), eos), expected, "{name}");
    }

    let passage = &reference["passage"];
    let tokens = ids(&passage["token_ids"]);
    let found = logprobs(&all_logits(&model, &tokens), &tokens);
    let difference = found.iter().sum::<f64>() - passage["sum_logprob"].as_f64().unwrap();
    eprintln!("passage: the sum differs by {difference:.1e}");
    assert!(difference.abs() <= 1e-2, "{difference}");
    let expected = passage["token_logprobs"].as_array().unwrap();
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let expected = expected.as_f64().unwrap();
        assert!((found - expected).abs() < 2e-3, "token {i}: {found} and {expected}");
    }
}
