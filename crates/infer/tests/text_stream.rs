//! Text that comes token by token is the text of all tokens, in whole characters.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::path::PathBuf;

use infer::text_stream::TextStream;
use infer::tokenizer::Tokenizer;
use testkit::tensor::Random;

const TEXTS: [&str; 6] = [
    "In the beginning God created the heaven and the earth.",
    "  two  spaces, \t a tab\nand\r\n\n lines ",
    "naïve café — “quoted” … Ünïcödé",
    "아폴로 11호 🌕🇰🇷👩‍👩‍👧 漢字かな交じり",
    "\u{fffd} is a character too\u{fffd}\u{fffd}",
    "e\u{301}\u{200d}\u{202e}x",
];

/// The tokenizers of the tiny trained model (bytes as tokens of their own) and, where `smollm2` says
/// where it is, of SmolLM2 (bytes as letters).
fn tokenizers() -> Vec<Tokenizer> {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tiny-mistral-32l");
    let mut dirs = vec![PathBuf::from(tiny)];
    // The tests of parity make it.
    let made = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("smollm2");
    match std::env::var_os("INFER_TEST_SMOLLM2") {
        Some(dir) => dirs.push(dir.into()),
        None if made.join("made").exists() => dirs.push(made.join("hf")),
        None => eprintln!("skipped in part: {} is not there", made.display()),
    }
    dirs.iter().map(|dir| Tokenizer::open(dir, 49152).unwrap()).collect()
}

/// The pieces in which the text of `ids` comes, what is left at the end last.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn the_pieces_are_the_text() {
    for tokenizer in tokenizers() {
        for text in TEXTS {
            let ids = tokenizer.encode(text).unwrap().ids;
            let pieces = pieces(&tokenizer, &ids);
            assert_eq!(pieces.concat(), tokenizer.decode(&ids).unwrap());
            if !text.contains('\u{fffd}') {
                assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
            }
        }
    }
}

#[test]
fn special_tokens_between_leave_no_trace() {
    for tokenizer in tokenizers() {
        let ids = tokenizer.encode("of the LORD and the earth").unwrap().ids;
        for at in 0..=ids.len() {
            let mut with = ids.clone();
            with.insert(at, 1);
            with.insert(at, 2);
            assert_eq!(pieces(&tokenizer, &with).concat(), tokenizer.decode(&with).unwrap());
        }
    }
}

#[test]
fn tokens_in_any_order_come_without_a_panic_and_whole_where_they_are_text() {
    for tokenizer in tokenizers() {
        for seed in 0..300 {
            let mut random = Random::new(&seed.to_string());
            // The first 300 tokens are mostly bytes.
            let bound = if seed % 2 == 0 { 300 } else { 2048 };
            let ids: Vec<u32> = (0..40).map(|_| (random.next() % bound) as u32).collect();
            let whole = tokenizer.decode(&ids).unwrap();
            let pieces = pieces(&tokenizer, &ids);
            if !whole.contains('\u{fffd}') {
                assert_eq!(pieces.concat(), whole);
            }
        }
    }
}

#[test]
fn half_a_character_at_the_end_is_shown_as_such() {
    let tokenizer = &tokenizers()[0];
    let ids = tokenizer.encode("x🌕").unwrap().ids;
    let cut = &ids[..ids.len() - 1];
    let pieces = pieces(tokenizer, cut);
    assert!(pieces[..cut.len()].iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
    assert_eq!(pieces.concat(), tokenizer.decode(cut).unwrap());
}
