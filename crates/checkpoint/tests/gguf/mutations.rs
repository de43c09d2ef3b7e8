//! Files damaged at random: an error or a sound header, never a panic.

use std::fs;
use std::path::Path;

use checkpoint::Checkpoint;
use checkpoint::gguf::Header;
use tempfile::tempdir;
use testkit::gguf::{RawGguf, TinyGguf, Value, file::part_name};
use testkit::tensor::Random;

fn small_file() -> RawGguf {
    let model = TinyGguf {
        block_count: 1,
        embedding_length: 32,
        feed_forward_length: 32,
        vocab_size: 4,
        has_tokens: true,
        extra_keys: vec![("llama.flags", Value::array([Value::Bool(true), Value::Bool(false)]))],
        ..TinyGguf::of("Q8_0")
    };
    model.file()
}

/// Numbers that counts, lengths and offsets break at.
const NUMBERS: [u64; 12] = [0, 1, 2, 7, 9, 31, 32, 255, 1 << 31, 1 << 32, u64::MAX / 2, u64::MAX];

/// Damages `bytes` in one to three places below `end`.
fn damage(bytes: &mut Vec<u8>, end: usize, random: &mut Random) {
    let mut below = |n: usize| usize::try_from(random.next() % n as u64).unwrap();
    for _ in 0..=below(3) {
        let end = end.min(bytes.len().saturating_sub(8)).max(1);
        let (at, from, len) = (below(end), below(end), below(20));
        match below(8) {
            0 | 1 => bytes[at] ^= 1 << below(8),
            2 => bytes[at] = below(256) as u8,
            3 => bytes[at..at + 8].copy_from_slice(&NUMBERS[below(NUMBERS.len())].to_le_bytes()),
            4 => bytes[at..at + 4]
                .copy_from_slice(&(NUMBERS[below(NUMBERS.len())] as u32).to_le_bytes()),
            5 => {
                let piece = bytes[from..end.min(from + len)].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => drop(bytes.drain(at..end.min(at + len))),
            _ => bytes.truncate(bytes.len() - below(bytes.len() - 16)),
        }
        if bytes.len() < 16 {
            return;
        }
    }
}

/// Reads the header, and checks what is accepted: ranges in the file, aligned, none in another.
fn read(path: &Path) -> bool {
    // A model may lack what a header need not have; what counts is that it returns.
    let opened = Checkpoint::open(path);
    let Ok(header) = Header::read(path) else {
        assert!(opened.is_err());
        return false;
    };
    let file_bytes = fs::metadata(path).unwrap().len();
    let mut end = 0;
    for tensor in &header.tensors {
        let range = &tensor.range;
        assert!(range.start >= end && range.start <= range.end && range.end <= file_bytes);
        assert!(range.start.is_multiple_of(header.alignment));
        let elements: u64 = tensor.shape.iter().map(|&dim| dim as u64).product();
        assert_eq!(tensor.ggml_type.num_bytes(elements), Some(range.end - range.start));
        end = range.end;
    }
    for key in header.metadata.keys() {
        if let Some(array) = header.metadata.get(key).unwrap().as_array() {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    if let Ok(checkpoint) = opened {
        for tensor in checkpoint.tensors() {
            let file = &checkpoint.files()[tensor.file];
            assert!(tensor.range.end <= file.bytes);
            assert_eq!(tensor.encoding.num_bytes(&tensor.shape), Some(tensor.bytes()));
        }
    }
    true
}

#[test]
fn damaged_headers() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let file = small_file();
    let (sound, header) = (file.bytes(), file.header().len());
    fs::write(&path, &sound).unwrap();
    assert!(read(&path));
    let mut random = Random::new("damaged headers of GGUF");
    let mut accepted = 0;
    for _ in 0..6000 {
        let mut bytes = sound.clone();
        damage(&mut bytes, header, &mut random);
        fs::write(&path, &bytes).unwrap();
        accepted += usize::from(read(&path));
    }
    assert!((300..4000).contains(&accepted), "{accepted} of 6000 were accepted");
}

#[test]
fn files_cut_at_every_byte_of_the_header() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let file = small_file();
    let (sound, header) = (file.bytes(), file.header().len());
    for length in (0..header + 40).chain([sound.len() - 1, sound.len() / 2]) {
        fs::write(&path, &sound[..length]).unwrap();
        assert!(!read(&path) || length > sound.len() - 32, "cut to {length} bytes");
    }
}

#[test]
fn damaged_parts() {
    let dir = tempdir().unwrap();
    let parts = small_file().parts(2);
    let paths = [0, 1].map(|i| dir.path().join(part_name("tiny", i, 2)));
    for (part, path) in parts.iter().zip(&paths) {
        part.write(path);
    }
    assert!(Checkpoint::open(&paths[1]).is_ok());
    let mut random = Random::new("damaged parts of GGUF");
    for (part, path) in parts.iter().zip(&paths) {
        let (sound, header) = (part.bytes(), part.header().len());
        for _ in 0..1000 {
            let mut bytes = sound.clone();
            damage(&mut bytes, header, &mut random);
            fs::write(path, &bytes).unwrap();
            for path in &paths {
                read(path);
            }
        }
        fs::write(path, &sound).unwrap();
    }
    assert!(Checkpoint::open(&paths[0]).is_ok());
}
