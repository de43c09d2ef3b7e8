//! The tensors of a built file: the source's, block for block, whichever way they moved.

use std::fs;

use serde_json::json;
use testkit::gguf::kind::KINDS;
use testkit::gguf::tiny::{assert_same, expected};
use testkit::gguf::{TinyGguf, read};

use crate::place::{LAYERS, PLAN, Place};

fn check(model: &TinyGguf, plan: &str, layers: &[usize]) {
    let place = Place::with(model);
    let built = place.build_by(plan, &[]);
    place.check_built(&model.read(), layers);
    assert_eq!(built["num_hidden_layers"], layers.len());
    assert_eq!(built["computed_bytes"], 0);
}

/// Whatever blocks are, they are copied, those included that nobody here can decode.
#[test]
fn blocks_of_every_type() {
    for kind in KINDS.iter().filter(|kind| kind.is_blocks()) {
        let model = TinyGguf { block_count: 2, ..TinyGguf::of(kind.name) };
        check(&model, "stack(2)", &[0, 1, 0, 1]);
    }
    for kind in ["F32", "F16", "BF16"] {
        check(&TinyGguf { block_count: 2, ..TinyGguf::of(kind) }, "stack(2)", &[0, 1, 0, 1]);
    }
}

#[test]
fn every_kind_of_plan() {
    let model = TinyGguf::default();
    for (plan, layers) in [
        (PLAN, &LAYERS[..]),
        ("dus(1)", &LAYERS),
        ("stack(3)", &[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]),
        ("interleave(0..3, 1..4)", &[0, 1, 1, 2, 2, 3]),
        ("0..n", &[0, 1, 2, 3]),
        ("3 + 0", &[3, 0]),
        ("2*5", &[2, 2, 2, 2, 2]),
    ] {
        check(&model, plan, layers);
    }
}

/// Layers need not be of one type: in llama.cpp's mixtures some have finer ones.
#[test]
fn layers_of_unlike_types() {
    let model = TinyGguf::default();
    let place = Place::empty();
    let mut file = model.file();
    let q6 = TinyGguf::of("Q6_K").file();
    for name in ["blk.0.ffn_down.weight", "blk.3.attn_v.weight"] {
        *file.tensor(name) = q6.tensors.iter().find(|t| t.name == name.as_bytes()).unwrap().clone();
    }
    file.write(&place.path("base.gguf"));
    place.build(&[]);
    place.check_built(&read(&place.path("base.gguf")), &LAYERS);
    assert_eq!(place.built().tensors["blk.0.ffn_down.weight"].kind.name, "Q6_K");
}

#[test]
fn the_alignment_is_kept() {
    for alignment in [None, Some(8), Some(32), Some(64), Some(4096), Some(65536)] {
        let model = TinyGguf { alignment, block_count: 2, ..TinyGguf::default() };
        check(&model, "stack(2)", &[0, 1, 0, 1]);
        let place = Place::with(&model);
        place.build_by("stack(2)", &[]);
        let built = place.built();
        assert_eq!(built.alignment, u64::from(alignment.unwrap_or(32)));
        assert_eq!(built.get("general.alignment").is_some(), alignment.is_some());
    }
}

/// A file whose blocks end where no aligned place is, not filled up behind the last one.
#[test]
fn holes_are_filled_with_zeros_whatever_fills_them_in_the_base() {
    let place = Place::empty();
    let mut file = TinyGguf::of("Q6_K").file().aligned(512);
    file.filling = 0xee;
    file.fills_last = false;
    file.write(&place.path("base.gguf"));
    place.build(&[]);
    let built = place.built();
    let bytes = fs::read(place.path("out.gguf")).unwrap();
    let mut covered = vec![false; bytes.len()];
    for tensor in built.tensors.values() {
        let begin = tensor.begin as usize;
        covered[begin..begin + tensor.bytes.len()].fill(true);
    }
    let behind = built.data_start as usize..bytes.len();
    let holes: Vec<usize> = behind.filter(|&at| !covered[at]).collect();
    assert!(!holes.is_empty() && holes.iter().all(|&at| bytes[at] == 0));
    assert_eq!(bytes.len() % 512, 0);
}

#[test]
fn the_second_version_is_read_and_the_third_written() {
    let model = TinyGguf { version: 2, has_tokens: true, ..TinyGguf::default() };
    check(&model, PLAN, &LAYERS);
}

/// Any part of a split base is the base; one file comes of it.
#[test]
fn a_split_base() {
    let model = TinyGguf { has_tokens: true, ..TinyGguf::default() };
    for num_parts in [2, 5] {
        let place = Place::empty();
        let parts = model.file().write_parts(place.dir(), "base", num_parts);
        for part in [&parts[0], &parts[num_parts - 1]] {
            let part = part.display().to_string();
            let args = ["build", &part, "--layers", PLAN, "-q", "-o", "out.gguf", "--force"];
            place.dus(&args).done();
            place.check_built(&model.read(), &LAYERS);
            let built = place.built();
            assert!(
                built.keys.iter().all(|(key, _)| !key.starts_with("split.")),
                "{:?}",
                built.keys
            );
        }
    }
}

#[test]
fn every_way_of_moving_bytes() {
    let model = TinyGguf::default();
    let place = Place::with(&model);
    let bytes = |copy: &str| {
        let built = place.build(&["--copy", copy]);
        place.check_built(&model.read(), &LAYERS);
        let moved = ["shared_bytes", "kernel_bytes", "streamed_bytes"];
        let moved: Vec<u64> = moved.iter().map(|way| built[way].as_u64().unwrap()).collect();
        assert_eq!(moved.iter().sum::<u64>(), built["bytes"].as_u64().unwrap(), "{built:#}");
        (moved, fs::read(place.path("out.gguf")).unwrap())
    };
    let (stream, as_streamed) = bytes("stream");
    assert_eq!(stream[..2], [0, 0]);
    let (kernel, as_copied) = bytes("kernel");
    assert_eq!(kernel[0], 0);
    assert!(bytes("auto").1 == as_streamed && as_copied == as_streamed);
}

/// The same recipe gives the same file, and a split base differs in provenance and filler only.
#[test]
fn the_same_recipe_gives_the_same_bytes() {
    let model = TinyGguf { has_tokens: true, ..TinyGguf::default() };
    let place = Place::with(&model);
    let build = |base: &str, out: &str, flags: &[&str]| {
        let args = ["build", base, "--layers", PLAN, "-q", "-o", out];
        place.dus(&[&args[..], flags].concat()).done();
        fs::read(place.path(out)).unwrap()
    };
    let first = build("base.gguf", "first.gguf", &[]);
    assert!(first == build("base.gguf", "second.gguf", &["--copy", "stream"]));
    assert!(first == build("./base.gguf", "third.gguf", &["--copy", "kernel"]));

    let _ = model.file().write_parts(place.dir(), "split", 3);
    build("split-00001-of-00003.gguf", "fourth.gguf", &[]);
    let [whole, split] = ["first.gguf", "fourth.gguf"].map(|name| read(&place.path(name)));
    assert_same(&split.tensors, &whole.tensors);
    let own = |built: &testkit::gguf::ReadGguf| {
        let is_own = |key: &str| !key.starts_with("dus.");
        built.keys.iter().filter(|(key, _)| is_own(key)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(own(&whole), own(&split));
    let order = |built: &testkit::gguf::ReadGguf| {
        let mut names: Vec<_> =
            built.tensors.iter().map(|(name, tensor)| (tensor.begin, name.clone())).collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    assert_eq!(order(&whole), order(&split));
}

/// A build is a base like any other.
#[test]
fn a_build_of_a_build() {
    let model = TinyGguf { has_tokens: true, ..TinyGguf::default() };
    let place = Place::with(&model);
    place.build(&[]);
    let args = ["build", "out.gguf", "--layers", "0..n + 5", "-q", "-o", "deeper.gguf"];
    place.dus(&args).done();
    let deeper = read(&place.path("deeper.gguf"));
    let layers: Vec<usize> = LAYERS.iter().copied().chain([3]).collect();
    assert_same(&deeper.tensors, &expected(&model.read().tensors, &layers));
    place.verified(&["deeper.gguf"]);
    let manifest: serde_json::Value = serde_json::from_str(deeper.text("dus.manifest")).unwrap();
    assert_eq!(manifest["models"][0]["path"], json!("out.gguf"));
    assert_eq!(deeper.text("dus.plan"), "0..6 + 5");
}

/// Tied embeddings: there is no head, and none is made.
#[test]
fn a_base_without_a_head() {
    let model = TinyGguf { is_tied: true, ..TinyGguf::default() };
    check(&model, PLAN, &LAYERS);
}
