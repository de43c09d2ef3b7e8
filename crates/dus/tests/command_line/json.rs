//! `--json`: one object with the keys that machines rely on.

use serde_json::{Value, json};
use testkit::{Dtype, TinyModel, raw, weights};

use crate::dus::{dus, run, tiny_mistral};

#[track_caller]
fn check_keys(value: &Value, expected: &[&str]) {
    let found: Vec<&String> = value.as_object().expect("an object").keys().collect();
    assert_eq!(found, expected);
}

#[test]
fn of_plan() {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("base"));
    let said = run(dus(dir.path()), &["plan", "base", "--layers", "0..3 + 1..3", "--json"]).done();
    let plan = said.json();
    check_keys(
        &plan,
        &[
            "form",
            "plan",
            "num_hidden_layers",
            "layers",
            "discrepancy",
            "largest_jump",
            "seams",
            "unused_layers",
            "function_preserving",
            "num_parameters",
            "num_tensors",
            "bytes",
            "shards",
            "shareable_bytes",
            "can_share",
            "needed_bytes",
            "free_bytes",
            "notes",
            "obstacles",
        ],
    );
    check_keys(&plan["layers"][0], &["layer", "source", "copy", "new"]);
    check_keys(&plan["unused_layers"][0], &["model", "layer"]);
    check_keys(&plan["shards"][0], &["name", "bytes", "tensor_bytes"]);
    check_keys(&plan["shareable_bytes"], &["size", "source"]);
    assert_eq!(plan["layers"][3], json!({ "layer": 3, "source": 1, "copy": 1, "new": true }));
    assert_eq!(plan["unused_layers"], json!([{ "model": null, "layer": 3 }]));
    assert_eq!(plan["num_hidden_layers"], 5);
    assert_eq!(plan["obstacles"], json!([]));
    assert_eq!(said.stderr, "");
}

#[test]
fn of_plan_with_operations_and_names() {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::default().write(&dir.path().join("base"));
    let layers = "x:0..4 + x:1{o_proj: zero}";
    let args = ["plan", "--model", "x=base", "--layers", layers, "--json"];
    let plan = run(dus(dir.path()), &args).done().json();
    let expected = json!({
        "layer": 4, "model": "x", "source": 1, "copy": 1, "new": true, "ops": ["o_proj: zero"],
    });
    assert_eq!(plan["layers"][4], expected);
}

#[test]
fn of_build_and_verify() {
    let dir = tempfile::tempdir().unwrap();
    let base = TinyModel { dtype: Dtype::F32, ..TinyModel::default() };
    base.write(&dir.path().join("base"));
    let args = ["build", "base", "--layers", "dus(1)", "--dtype", "bfloat16", "-o", "out"];
    let said = run(dus(dir.path()), &[&args[..], &["--json"]].concat()).done();
    let built = said.json();
    check_keys(
        &built,
        &[
            "output",
            "form",
            "num_hidden_layers",
            "num_parameters",
            "num_tensors",
            "num_shards",
            "bytes",
            "seconds",
            "shared_bytes",
            "kernel_bytes",
            "streamed_bytes",
            "computed_bytes",
            "resumed_bytes",
            "shard_layout",
            "other_layout_shareable_bytes",
            "cast",
            "notes",
        ],
    );
    check_keys(&built["cast"], &["lossy", "flushed", "overflowed"]);
    let out = weights::read(&dir.path().join("out"));
    let bytes: usize = out.values().map(|tensor| tensor.bytes.len()).sum();
    assert_eq!((&built["bytes"], &built["computed_bytes"]), (&json!(bytes), &json!(bytes)));
    assert_eq!((&built["output"], &built["num_hidden_layers"]), (&json!("out"), &json!(6)));
    assert_eq!((&built["num_tensors"], &built["num_shards"]), (&json!(out.len()), &json!(1)));
    assert_eq!(said.stderr, "");

    let said = run(dus(dir.path()), &["verify", "out", "--json"]).done();
    let expected =
        json!({ "equal": true, "num_tensors": out.len(), "bytes": bytes, "differences": [] });
    assert_eq!(said.json(), expected);
    check_keys(&said.json(), &["equal", "num_tensors", "bytes", "differences"]);

    let weights = dir.path().join("out/model.safetensors");
    let mut file = raw::RawFile::read(&weights);
    *file.data.last_mut().unwrap() ^= 1;
    file.write(&weights);
    let said = run(dus(dir.path()), &["verify", "out", "--json"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert_eq!(said.json()["equal"], false);
    assert_eq!(said.json()["differences"].as_array().map(Vec::len), Some(1), "{said:#?}");
    assert_eq!(said.stderr, "");
}

#[test]
fn of_inspect_with_equal_layers() {
    let dir = tempfile::tempdir().unwrap();
    let base = tiny_mistral().display().to_string();
    run(dus(dir.path()), &["build", &base, "--layers", "dus(8)", "-q", "-o", "out"]).done();
    let said = run(dus(dir.path()), &["inspect", "out", "--json", "--duplicates"]).done();
    let description = said.json();
    let keys = [
        "model_type",
        "architectures",
        "num_parameters",
        "num_tensors",
        "bytes",
        "bytes_by_dtype",
        "layers",
        "problem",
        "files",
        "config",
    ];
    check_keys(&description, &[&keys[..], &["equal_layers"]].concat());
    let pairs: Vec<[usize; 2]> = (8..24).map(|layer| [layer, layer + 16]).collect();
    assert_eq!(description["equal_layers"], json!(pairs));
    let layers = &description["layers"];
    check_keys(layers, &["prefix", "num_hidden_layers", "bytes_by_layer", "other_bytes"]);
    assert_eq!(layers["num_hidden_layers"], 48);
    assert_eq!(layers["bytes_by_layer"].as_array().map(Vec::len), Some(48));
    assert_eq!(description["problem"], Value::Null);

    let without = run(dus(dir.path()), &["inspect", "out", "--json"]).done().json();
    check_keys(&without, &keys);
    let of_base = ["inspect", &base, "--json", "--duplicates"];
    assert_eq!(run(dus(dir.path()), &of_base).done().json()["equal_layers"], json!([]));
}
