//! Headers damaged at random: an error or a sound model, never a panic.
//!
//! What is accepted must be what the safetensors crate reads from the same file.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use std::fs;
use std::path::Path;

use checkpoint::Checkpoint;
use safetensors::SafeTensors;
use tempfile::tempdir;
use testkit::TinyModel;
use testkit::raw::RawFile;
use testkit::tensor::Random;
use testkit::weights::{INDEX, SINGLE};

/// What JSON is made of, so that damage is often valid.
const ALPHABET: &[u8] = b"{}[]\",:0123456789 -eE.\\utnFB_lmr\x00\xff";

fn small_model(num_shards: Option<usize>) -> TinyModel {
    TinyModel { num_hidden_layers: 1, num_shards, side_files: false, ..TinyModel::default() }
}

/// Damages `bytes` in one to three places below `end`.
fn damage(bytes: &mut Vec<u8>, end: usize, random: &mut Random) {
    let mut below = |n: usize| usize::try_from(random.next() % n as u64).unwrap();
    for _ in 0..=below(3) {
        let (at, from, len) = (below(end), below(end), below(20));
        match below(6) {
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = ALPHABET[below(ALPHABET.len())],
            2 => bytes.insert(at, ALPHABET[below(ALPHABET.len())]),
            3 => drop(bytes.remove(at)),
            4 => {
                let piece = bytes[from..end.min(from + len)].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => drop(bytes.drain(at..end.min(at + len))),
        }
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
    }
}

/// Opens the model, and compares what is accepted with what the safetensors crate reads.
fn open(dir: &Path) -> bool {
    let Ok(checkpoint) = Checkpoint::open(dir) else { return false };
    let bytes = fs::read(dir.join(SINGLE)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| {
        panic!("accepted what safetensors refuses: {error}\n{}", String::from_utf8_lossy(&bytes))
    });
    assert_eq!(file.len(), checkpoint.tensors().len());
    for tensor in checkpoint.tensors() {
        let view = file.tensor(&tensor.name).unwrap();
        let dtype = tensor.encoding.dtype().unwrap();
        assert_eq!((view.dtype(), view.shape()), (dtype, &tensor.shape[..]));
        let [start, end] =
            [tensor.range.start, tensor.range.end].map(|n| usize::try_from(n).unwrap());
        assert_eq!(view.data(), &bytes[start..end], "{}", tensor.name);
    }
    true
}

/// Damages the file's first bytes, its length's too or those of its header alone, and opens it.
fn check(seed: &str, keeps_length: bool) {
    let dir = tempdir().unwrap();
    small_model(None).write(dir.path());
    let path = dir.path().join(SINGLE);
    let sound = RawFile::read(&path);
    let whole = fs::read(&path).unwrap();
    assert!(open(dir.path()));

    let mut random = Random::new(seed);
    let mut accepted = 0;
    for _ in 0..4000 {
        let bytes = if keeps_length {
            // The length before the header is made right, so that damage gets to the parser.
            let mut header = sound.header.clone().into_bytes();
            let end = header.len();
            damage(&mut header, end, &mut random);
            [&(header.len() as u64).to_le_bytes(), &header[..], &sound.data].concat()
        } else {
            let mut bytes = whole.clone();
            damage(&mut bytes, 8 + sound.header.len(), &mut random);
            bytes
        };
        fs::write(&path, bytes).unwrap();
        accepted += usize::from(open(dir.path()));
    }
    // Names may change, and blanks may; most damage is refused, or nothing would be checked.
    assert!(accepted < 2000, "{accepted} of 4000 were accepted");
}

#[test]
fn damaged_headers() {
    check("damaged headers", true);
}

#[test]
fn damaged_files() {
    check("damaged files", false);
}

#[test]
fn files_cut_at_every_byte_of_the_header() {
    let dir = tempdir().unwrap();
    small_model(None).write(dir.path());
    let path = dir.path().join(SINGLE);
    let whole = fs::read(&path).unwrap();
    let header = RawFile::read(&path).header.len();
    for len in (0..8 + header + 10).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(!open(dir.path()), "cut to {len} bytes");
    }
}

#[test]
fn damaged_json_files() {
    let dir = tempdir().unwrap();
    small_model(Some(2)).write(dir.path());
    for name in [INDEX, "config.json"] {
        let path = dir.path().join(name);
        let sound = fs::read(&path).unwrap();
        let mut random = Random::new(name);
        for _ in 0..2000 {
            let mut bytes = sound.clone();
            damage(&mut bytes, sound.len(), &mut random);
            fs::write(&path, bytes).unwrap();
            // A name in the index may now be a folder's or nobody's; what counts is that it returns.
            let _ = Checkpoint::open(dir.path());
        }
        fs::write(&path, sound).unwrap();
    }
    assert!(Checkpoint::open(dir.path()).is_ok());
}
