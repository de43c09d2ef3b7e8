//! GGUF files that are gone on with: one file, in which tensors have gaps between them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;
use testkit::tensor::Random;

use crate::dus::{dus, has_strace, names, run, tiny_mistral};
use crate::resume::kill;
use crate::under_way::check_names;

const WIDTH: u64 = 512;
const FFN: u64 = 2048;
const VOCAB: u64 = 300;
const NUM_LAYERS: u32 = 8;

/// What the beginnings of tensors are multiples of: so there is a gap behind each norm of 2,048 bytes,
/// and the second copy of a layer, with a norm at its end, comes last in the new file.
const ALIGNMENT: u64 = 4096;

/// Writes a model of 8 MiB a layer to `path`, byte by byte as the format says (ggml's gguf.md).
fn write_base(path: &Path) {
    const F32: u32 = 0;
    const F16: u32 = 1;
    let mut tensors = vec![("token_embd".to_owned(), F16, vec![WIDTH, VOCAB])];
    for layer in 0..NUM_LAYERS {
        let mut push = |name: &str, ty, shape: &[u64]| {
            tensors.push((format!("blk.{layer}.{name}"), ty, shape.to_vec()));
        };
        push("attn_norm", F32, &[WIDTH]);
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            push(name, F16, &[WIDTH, WIDTH]);
        }
        push("ffn_gate", F16, &[WIDTH, FFN]);
        push("ffn_up", F16, &[WIDTH, FFN]);
        push("ffn_down", F16, &[FFN, WIDTH]);
        push("ffn_norm", F32, &[WIDTH]);
    }
    tensors.push(("output_norm".to_owned(), F32, vec![WIDTH]));
    tensors.push(("output".to_owned(), F16, vec![WIDTH, VOCAB]));

    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let string =
        |key: &str, value: &str| [text(key), 8_u32.to_le_bytes().into(), text(value)].concat();
    let u32 = |key: &str, value: u32| {
        [text(key), 4_u32.to_le_bytes().into(), value.to_le_bytes().into()].concat()
    };
    let f32 = |key: &str, value: f32| {
        [text(key), 6_u32.to_le_bytes().into(), value.to_le_bytes().into()].concat()
    };
    let keys = [
        string("general.architecture", "llama"),
        string("general.name", "Tiny"),
        u32("general.alignment", ALIGNMENT as u32),
        u32("llama.block_count", NUM_LAYERS),
        u32("llama.context_length", 512),
        u32("llama.embedding_length", WIDTH as u32),
        u32("llama.feed_forward_length", FFN as u32),
        u32("llama.attention.head_count", 8),
        u32("llama.attention.head_count_kv", 8),
        f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        f32("llama.rope.freq_base", 10_000.0),
        u32("llama.vocab_size", VOCAB as u32),
    ];
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    file.extend(keys.concat());
    let bytes =
        |ty: u32, shape: &[u64]| shape.iter().product::<u64>() * if ty == F32 { 4 } else { 2 };
    let mut offset = 0;
    for (name, ty, shape) in &tensors {
        file.extend(text(&format!("{name}.weight")));
        file.extend((shape.len() as u32).to_le_bytes());
        file.extend(shape.iter().flat_map(|size| size.to_le_bytes()));
        file.extend(ty.to_le_bytes());
        file.extend(u64::to_le_bytes(offset));
        offset = (offset + bytes(*ty, shape)).next_multiple_of(ALIGNMENT);
    }
    let to_alignment = |file: &mut Vec<u8>| {
        file.resize((file.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
    };
    to_alignment(&mut file);
    for (name, ty, shape) in &tensors {
        let mut random = Random::new(name);
        for _ in 0..bytes(*ty, shape) / 8 {
            file.extend(random.next().to_le_bytes());
        }
        to_alignment(&mut file);
    }
    fs::write(path, file).unwrap();
}

fn with_base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_base(&dir.path().join("base.gguf"));
    dir
}

const BUILD: [&str; 6] = ["build", "base.gguf", "--layers", "dus(2)", "--copy", "stream"];

#[test]
fn a_killed_build_of_a_file_is_gone_on_with() {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let dir = dir.path();
    run(dus(dir), &[&BUILD[..], &["-q", "-o", "whole.gguf"]].concat()).done();
    let args = [&BUILD[..], &["--json", "-o", "out.gguf"]].concat();
    let mut some_were_kept = false;
    // Of two threads, each makes about fifty writes.
    for when in [1, 2, 20, 35] {
        assert!(kill(dir, "pwrite64", when, &args), "{when}");
        check_names(dir, &[".out.gguf.dus-partial", "base.gguf", "whole.gguf"]);
        spoil_the_last_gap(dir);
        let built = run(dus(dir), &[&args[..], &["--resume"]].concat()).done().json();
        let bytes = |key: &str| built[key].as_u64().unwrap();
        assert_eq!(bytes("resumed_bytes") + bytes("streamed_bytes"), bytes("bytes"), "{built:#}");
        some_were_kept |= bytes("resumed_bytes") > 0;
        let [out, whole] = ["out.gguf", "whole.gguf"].map(|name| fs::read(dir.join(name)).unwrap());
        assert!(out == whole, "{when}: the files differ");
        check_names(dir, &["base.gguf", "out.gguf", "whole.gguf"]);
        run(dus(dir), &["verify", "out.gguf"]).done();
        fs::remove_file(dir.join("out.gguf")).unwrap();
    }
    assert!(some_were_kept);
}

/// The tokenizer is part of the file's beginning.
#[test]
fn a_changed_tokenizer_is_named() {
    if !has_strace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::create_dir(&base).unwrap();
    for name in names(&tiny_mistral()) {
        fs::copy(tiny_mistral().join(&name), base.join(&name)).unwrap();
    }
    let args = ["build", "base", "--layers", "dus(8)", "--to", "gguf", "-o", "out.gguf"];
    assert!(kill(dir.path(), "fsync", 1, &args));
    let tokenizer = base.join("tokenizer.json");
    fs::write(&tokenizer, fs::read_to_string(&tokenizer).unwrap() + " ").unwrap();
    let expected = ["base/tokenizer.json has changed: it had "];
    run(dus(dir.path()), &[&args[..], &["--resume"]].concat()).refused(&expected);
}

/// No line of the journal speaks of what is between tensors, or behind the last.
fn spoil_the_last_gap(dir: &Path) {
    let partial = dir.join(".out.gguf.dus-partial");
    let names = crate::dus::names(&partial);
    assert_eq!(names.len(), 2, "a journal and the new file: {names:?}");
    let file = fs::OpenOptions::new().write(true).open(partial.join(&names[1])).unwrap();
    let length = file.metadata().unwrap().len();
    if length > 0 {
        file.write_all_at(b"#", length - 1).unwrap();
    }
}

#[test]
fn an_interrupted_file_is_told_of_and_cleaned_up() {
    if !has_strace() {
        return;
    }
    let dir = with_base();
    let dir = dir.path();
    assert!(kill(dir, "pwrite64", 35, &[&BUILD[..], &["-o", "out.gguf"]].concat()));
    let plan = ["plan", "base.gguf", "--layers", "dus(2)", "-o", "out.gguf"];
    assert!(run(dus(dir), &plan).done().stderr.contains("are done in"));
    let said = run(dus(dir), &["clean", "out.gguf"]).done();
    assert!(said.stdout.contains(".out.gguf.dus-partial"), "{said:#?}");
    check_names(dir, &["base.gguf"]);
}
