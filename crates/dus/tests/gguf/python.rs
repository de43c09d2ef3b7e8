//! What blocks stand for by the Python package `gguf`, which has decoders of its own.

use std::process::Command;

use testkit::gguf::TinyGguf;
use testkit::gguf::kind::KINDS;

use crate::place::Place;

/// Decodes a tensor of layer 1 and what was made of it, for each type, and says where they differ.
const SCRIPT: &str = r"
import sys
import numpy as np
from gguf import GGUFReader, quants
def tensors(path):
    return {t.name: t for t in GGUFReader(path).tensors}
for line in sys.stdin.read().split():
    kind, factor = line.split('=')
    base, built = tensors(kind + '.gguf'), tensors('deep-' + kind + '.gguf')
    decoded = lambda t: quants.dequantize(t.data, t.tensor_type)
    source = base['blk.1.attn_output.weight']
    if not np.array_equal(decoded(built['blk.3.attn_output.weight']), decoded(source) * np.float32(factor)):
        print('scaled', kind)
    if np.count_nonzero(decoded(built['blk.3.ffn_down.weight'])):
        print('zeroed', kind)
    if not np.array_equal(built['blk.3.attn_q.weight'].data, base['blk.1.attn_q.weight'].data):
        print('copied', kind)
    if len(built) != len(base) + 18:
        print('counted', kind)
    print('done', kind)
";

#[test]
fn blocks_decode_to_what_was_asked_for() {
    let python = std::env::var("DUS_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let tried = Command::new(&python)
        .args(["-c", "from gguf import quants; print(*(t.name for t in quants._type_traits))"])
        .output();
    let Some(tried) = tried.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: {python} has no package gguf; DUS_TEST_PYTHON names another python");
        return;
    };
    let known = String::from_utf8(tried.stdout).unwrap();
    let known: Vec<&str> = known.split_whitespace().collect();

    let place = Place::empty();
    let mut list = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.is_blocks() && known.contains(&kind.name)) {
        let (base, out) = (format!("{}.gguf", kind.name), format!("deep-{}.gguf", kind.name));
        TinyGguf::of(kind.name).write(&place.path(&base));
        let factor = if matches!(kind.name, "MXFP4" | "NVFP4") { "0.25" } else { "-0.25" };
        let plan = format!("dus(1){{new o_proj: scale {factor}, new down_proj: zero}}");
        place.dus(&["build", &base, "--layers", &plan, "-q", "-o", &out]).done();
        list.push(format!("{}={factor}", kind.name));
    }
    assert!(list.len() > 15, "{list:?}");
    std::fs::write(place.path("list"), list.join("\n")).unwrap();
    let list_file = std::fs::File::open(place.path("list")).unwrap();
    let mut script = Command::new(&python);
    let output =
        script.args(["-c", SCRIPT]).current_dir(place.dir()).stdin(list_file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let names = list.iter().map(|line| line.split('=').next().unwrap());
    let expected: Vec<String> = names.map(|name| format!("done {name}")).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}
