//! Which two tokens become one, and in which order.
//!
//! `tokenizer.json` lists merges, first come first served. A `llama` model of a GGUF file has a score
//! for every token instead: of all neighbours whose union is a token, those with the best are joined.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::error::TokenizerError;
use super::vocabulary::{TokenType, Vocabulary};
use crate::error::{Error, Result};
use crate::gguf::metadata::{Metadata, shown};

/// Two tokens that become one.
pub(super) type Merge = (String, String);

pub(super) const MERGES_KEY: &str = "tokenizer.ggml.merges";

/// The merges that a GGUF file lists, if it does, each with its tokens checked to be there.
pub(super) fn of_metadata(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
) -> Result<Option<Vec<Merge>>> {
    let Some(array) = metadata.array(MERGES_KEY)? else { return Ok(None) };
    let mut merges = Vec::with_capacity(array.len());
    for value in array.iter() {
        // The first space that is not the first letter parts the two, as llama.cpp has it.
        let parts = value.as_str().and_then(|text| {
            let second = text.char_indices().nth(1)?.0;
            let space = second + text[second..].find(' ')?;
            Some((text[..space].to_owned(), text[space + 1..].to_owned()))
        });
        let wrong = || metadata.wrong(MERGES_KEY, "pairs of tokens", &shown(value));
        merges.push(parts.ok_or_else(wrong)?);
    }
    check(&merges, |text| vocabulary.id(text).is_some())
        .map_err(|source| Error::Tokenizer { path: metadata.path().to_owned(), source })?;
    Ok(Some(merges))
}

/// Refuses a merge of what is no token, or into what is none: `tokenizers` does not load it.
pub(super) fn check(
    merges: &[Merge],
    is_token: impl Fn(&str) -> bool,
) -> Result<(), TokenizerError> {
    for (index, (left, right)) in merges.iter().enumerate() {
        for text in [left, right, &format!("{left}{right}")] {
            if !is_token(text) {
                let merge = format!("{left} {right}");
                return Err(TokenizerError::Merge { index, merge, missing: text.clone() });
            }
        }
    }
    Ok(())
}

/// The merges that scores stand for, the best first.
///
/// Every way to part a token is a merge. Those of one token stand in the order of the ids of their
/// parts, which is the order in published files that were made from `SentencePiece` models.
pub(super) fn of_scores(vocabulary: &Vocabulary) -> Vec<Merge> {
    let mut merges = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        if vocabulary.is_text(id) {
            let mut parts = partings(&token.text, vocabulary);
            parts.sort_unstable();
            merges.extend(parts.into_iter().map(|parts| (token.score, parts)));
        }
    }
    // Stable: tokens of equal scores keep the order of their ids.
    merges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let text = |id: usize| vocabulary.tokens[id].text.clone();
    merges.into_iter().map(|(_, (left, right))| (text(left), text(right))).collect()
}

/// The ids of all pairs of tokens of text that make up `text`.
fn partings(text: &str, vocabulary: &Vocabulary) -> Vec<(usize, usize)> {
    let id = |part: &str| vocabulary.id(part).filter(|&id| vocabulary.is_text(id));
    let middles = text.char_indices().skip(1);
    middles.filter_map(|(at, _)| Some((id(&text[..at])?, id(&text[at..])?))).collect()
}

/// Gives every token of text the score that stands for `merges`, best first from 0 downwards.
///
/// Returns the number of tokens that llama.cpp may build where `merges` do not: it joins any two
/// tokens whose union is one.
pub(super) fn score(merges: &[Merge], vocabulary: &mut Vocabulary) -> usize {
    let mut ranked = vec![0; vocabulary.tokens.len()];
    let mut next = 0_i32;
    let mut num_merges = vec![0; vocabulary.tokens.len()];
    for (left, right) in merges {
        let Some(id) = vocabulary.id(&format!("{left}{right}")) else { continue };
        num_merges[id] += 1;
        if num_merges[id] == 1 {
            ranked[id] = next;
            next -= 1;
        }
    }
    let mut looser = 0;
    for id in 0..vocabulary.tokens.len() {
        if !vocabulary.is_text(id) {
            continue;
        }
        if num_merges[id] == 0 {
            ranked[id] = next;
            next -= 1;
        }
        let ways = partings(&vocabulary.tokens[id].text, vocabulary).len();
        looser += usize::from(ways > num_merges[id]);
        vocabulary.tokens[id].score = ranked[id] as f32;
    }
    looser
}

/// Whether the scores tell any two tokens of text apart that are made of others.
pub(super) fn scores_say_something(vocabulary: &Vocabulary) -> bool {
    let mut scores = vocabulary
        .tokens
        .iter()
        .filter(|token| token.kind == TokenType::Normal && token.text.chars().count() > 1)
        .map(|token| token.score);
    let Some(first) = scores.next() else { return true };
    scores.any(|score| score.total_cmp(&first) != Ordering::Equal)
}

/// The first token that a word of its own letters is not merged into, if there is any.
///
/// If there is none, it is all the same whether words that are tokens are merged or looked up.
pub(super) fn unreachable<'a>(merges: &[Merge], vocabulary: &'a Vocabulary) -> Option<&'a str> {
    let ranks: HashMap<(&str, &str), usize> = merges
        .iter()
        .enumerate()
        .rev() // of equal ones the first counts
        .map(|(rank, (left, right))| ((left.as_str(), right.as_str()), rank))
        .collect();
    let texts = vocabulary.tokens.iter().enumerate();
    let texts = texts.filter(|&(id, _)| vocabulary.is_text(id)).map(|(_, token)| &*token.text);
    texts.into_iter().find(|text| !is_merged_whole(text, &ranks))
}

fn is_merged_whole(text: &str, ranks: &HashMap<(&str, &str), usize>) -> bool {
    // Where each piece begins; the last entry is the end.
    let mut bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    bounds.push(text.len());
    let rank = |bounds: &[usize]| {
        ranks.get(&(&text[bounds[0]..bounds[1]], &text[bounds[1]..bounds[2]])).copied()
    };
    loop {
        let pairs = bounds.windows(3).enumerate();
        let best = pairs.filter_map(|(i, bounds)| Some((rank(bounds)?, i))).min();
        match best {
            Some((_, i)) => bounds.remove(i + 1),
            None => return bounds.len() <= 2,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Token;
    use super::*;

    fn vocabulary(texts: &[(&str, f32)]) -> Vocabulary {
        let tokens = texts.iter().map(|&(text, score)| Token {
            text: text.to_owned(),
            kind: TokenType::Normal,
            score,
        });
        Vocabulary::new(tokens.collect()).unwrap()
    }

    fn merge(text: &str) -> Merge {
        let (left, right) = text.split_once(' ').unwrap();
        (left.to_owned(), right.to_owned())
    }

    #[test]
    fn scores_become_merges_best_first_with_every_parting() {
        let vocabulary =
            vocabulary(&[("a", -9.0), ("b", -9.0), ("ab", -2.0), ("bb", -1.0), ("abb", -3.0)]);
        let expected: Vec<Merge> = ["b b", "a b", "a bb", "ab b"].map(merge).to_vec();
        assert_eq!(of_scores(&vocabulary), expected);
    }

    #[test]
    fn merges_become_scores_that_give_the_same_merges() {
        let mut vocabulary =
            vocabulary(&[("a", 0.0), ("b", 0.0), ("ab", 0.0), ("bb", 0.0), ("abb", 0.0)]);
        let merges: Vec<Merge> = ["b b", "a b", "a bb", "ab b"].map(merge).to_vec();
        assert_eq!(score(&merges, &mut vocabulary), 0);
        assert_eq!(of_scores(&vocabulary), merges);
        assert_eq!(vocabulary.tokens[3].score.to_string(), "0");
        assert_eq!(vocabulary.tokens[4].score.to_string(), "-2");
        assert_eq!(score(&merges[..3], &mut vocabulary), 1, "`ab b` is no merge, but llama.cpp's");
    }

    #[test]
    fn a_token_that_no_merge_leads_to_is_found() {
        let vocabulary = vocabulary(&[("a", 0.0), ("b", 0.0), ("ab", 0.0), ("aab", 0.0)]);
        assert_eq!(unreachable(&[merge("a b"), merge("a ab")], &vocabulary), None);
        assert_eq!(unreachable(&[merge("a b")], &vocabulary), Some("aab"));
    }
}
