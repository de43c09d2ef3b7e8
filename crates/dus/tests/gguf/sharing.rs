//! File systems with shared extents: XFS and btrfs, each in a file. Needs root.

use std::fs;

use testkit::gguf::TinyGguf;
use testkit::gguf::read;
use testkit::gguf::tiny::{assert_same, expected};

use crate::dus::{dus, run};
use crate::image::Image;

/// 75 MB; every tensor is a multiple of 4,096 bytes, as those of a 7B model are.
fn model() -> TinyGguf {
    TinyGguf {
        block_count: 8,
        embedding_length: 1024,
        feed_forward_length: 4096,
        vocab_size: 2048,
        has_tokens: true,
        ..TinyGguf::default()
    }
}

#[track_caller]
fn check_file_system(mkfs: &[&str]) {
    let Some(image) = Image::mounted(mkfs, 512) else { return };
    let dir = image.path();
    let model = model();
    model.write(&dir.join("base.gguf"));
    let source = model.read();
    let layers: Vec<usize> = (0..6).chain(2..8).collect();
    let base = fs::read(dir.join("base.gguf")).unwrap();
    for copy in ["auto", "reflink"] {
        let out = format!("{copy}.gguf");
        let flags = ["base.gguf", "--layers", "dus(2)", "--copy", copy, "--json", "-o", &out];
        let plan = run(dus(&dir), &[&["plan"], &flags[..]].concat()).done().json();
        let before = image.used_bytes();
        let built = run(dus(&dir), &[&["build"], &flags[..]].concat()).done().json();
        let grown = image.used_bytes().saturating_sub(before);
        let number = |key: &str| built[key].as_u64().unwrap();
        assert_eq!(plan["can_share"], true);
        assert_eq!(built["shared_bytes"], plan["shareable_bytes"]["size"]);
        let share = number("shared_bytes") as f64 / number("bytes") as f64;
        assert!(share > 0.99, "{share} of it was shared: {built:#}");
        assert!(grown <= number("bytes") / 100, "{grown} bytes more in use: {built:#}");
        assert_same(&read(&dir.join(&out)).tensors, &expected(&source.tensors, &layers));
        run(dus(&dir), &["verify", &out]).done();
    }
    // What is shared is copied when it is written to.
    let built = read(&dir.join("auto.gguf"));
    crate::place::flip(&dir.join("auto.gguf"), built.tensors["blk.3.ffn_down.weight"].begin);
    assert_eq!(run(dus(&dir), &["verify", "auto.gguf"]).code, Some(1));
    run(dus(&dir), &["verify", "reflink.gguf"]).done();
    assert!(fs::read(dir.join("base.gguf")).unwrap() == base);
}

#[test]
fn on_xfs() {
    check_file_system(&["mkfs.xfs", "-q", "-m", "reflink=1"]);
}

#[test]
fn on_btrfs() {
    check_file_system(&["mkfs.btrfs", "-q"]);
}

/// Blocks are not shared where the file system cannot.
#[test]
fn reflink_is_refused_on_tmpfs() {
    let Some(image) = Image::tmpfs(64) else { return };
    let dir = image.path();
    TinyGguf::default().write(&dir.join("base.gguf"));
    let args = ["build", "base.gguf", "--layers", "dus(1)", "--copy", "reflink", "-o", "out.gguf"];
    run(dus(&dir), &args).refused(&["can be shared", "base.gguf"]);
    assert_eq!(crate::dus::names(&dir), ["base.gguf"]);
}
