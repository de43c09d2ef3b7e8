//! `infer compare`, `infer bench` and `infer inspect`.

use std::path::Path;

use serde_json::{Value, json};
use testkit::{Dtype, Family, TinyModel, raw, weights};

use crate::infer::{Said, data, infer, program, said, tiny};

fn tiny_model(family: Family) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    TinyModel::of(family).write(dir.path());
    dir
}

fn compare(args: &[&str]) -> Said {
    infer(&[&["compare", &tiny()], args].concat())
}

#[test]
fn a_model_is_itself() {
    let bounds = ["--tolerance", "0", "--max-kl", "0", "--min-agreement", "1", "--json"];
    let object = compare(&[&[tiny().as_str()], &bounds[..]].concat()).done().json();
    assert_eq!(
        (&object["max_abs"], &object["mean_kl"], &object["top1_agreement"]),
        (&json!(0.0), &json!(0.0), &json!(1.0))
    );
    let cosines = object["layer_cosines"].as_array().unwrap();
    assert_eq!(cosines.len(), 32);
    assert!(cosines.iter().all(|cosine| (cosine.as_f64().unwrap() - 1.0).abs() < 1e-9));
}

#[test]
fn a_coarser_type_is_near_and_bounds_say_how_near() {
    let tiny = tiny();
    let at = ["--dtype", "bf16", "--other-dtype", "f32"];
    let args =
        [&[tiny.as_str(), "--ids", "1,1035,384,446,1565,1270,393,384,683"], &at[..]].concat();
    let object = compare(&[&args[..], &["--json"]].concat()).done().json();
    assert_eq!(object["num_positions"], 9);
    let (max_abs, kl) = (object["max_abs"].as_f64().unwrap(), object["mean_kl"].as_f64().unwrap());
    assert!(max_abs > 1e-3 && max_abs < 1.0 && kl > 1e-9 && kl < 1e-2, "{object}");
    let lines = compare(&args).done().stdout;
    assert!(lines.starts_with("positions        9\nmax abs          "), "{lines}");
    assert!(lines.contains("\nlayer 31         cosine 0.99"), "{lines}");
    for bound in [["--tolerance", "1e-4"], ["--max-kl", "1e-12"]] {
        let said = compare(&[&args[..], &bound].concat());
        assert_eq!(said.code, Some(1), "{said:?}");
        let object = compare(&[&args[..], &bound, &["--json"]].concat()).json();
        assert_eq!(object["within_bounds"], false);
    }
    compare(&[&args[..], &["--tolerance", "1", "--max-kl", "0.01"]].concat()).done();
}

#[test]
fn another_model_is_far_and_one_of_another_vocabulary_is_refused() {
    let (one, other) = (tiny_model(Family::Llama), tiny_model(Family::Mistral));
    let (one, other) = (one.path().to_str().unwrap(), other.path().to_str().unwrap());
    let args = ["compare", one, other, "--ids", "3,4,5", "--min-agreement", "1", "--json"];
    let said = infer(&args);
    assert!(said.code.is_some_and(|code| code < 2), "{said:?}");
    assert_eq!(said.json()["num_positions"], 3);
    compare(&[one, "--ids", "3"]).refused(&["the models differ in their tokens: 2048 and 40"]);
    compare(&["./nothing"]).refused(&["cannot compare", "./nothing does not exist"]);
}

#[test]
fn nothing_is_no_reason_to_pass() {
    let (dir, tiny) = (tempfile::tempdir().unwrap(), tiny());
    let file = dir.path().join("empty");
    std::fs::write(&file, "").unwrap();
    let bound = ["--tolerance", "0"];
    let with = |more: &[&str]| compare(&[&[tiny.as_str()], &bound[..], more].concat());
    with(&["--ids", ""]).refused(&["there is nothing to compare: --ids is empty"]);
    with(&["--text", file.to_str().unwrap()])
        .refused(&["there is nothing to compare: the text is empty"]);
    with(&["--max-tokens", "0"]).refused(&["--max-tokens is 0, expected 1 or more"]);
    // This tokenizer adds no token of its own.
    let bare = tiny_model(Family::Llama);
    let bare = bare.path().to_str().unwrap();
    infer(&["compare", bare, bare, "--prompt", ""])
        .refused(&["there is nothing to compare: a prompt is empty"]);
}

#[test]
fn bounds_are_numbers_that_mean_something() {
    let tiny = tiny();
    for (bound, expected) in [
        ("--min-agreement=1.5", "--min-agreement is 1.5, expected from 0 to 1"),
        ("--min-agreement=NaN", "--min-agreement is NaN, expected from 0 to 1"),
        ("--tolerance=-1", "--tolerance is -1, expected 0 or more"),
        ("--max-kl=NaN", "--max-kl is NaN, expected 0 or more"),
    ] {
        compare(&[&tiny, bound]).refused(&[expected]);
    }
}

#[test]
fn models_of_different_depth_have_no_layers_to_compare_and_agree_too_rarely() {
    let tiny = tiny();
    let args = [tiny.as_str(), "--layers", "0..2", "--ids", "1,1035,384,446,1565,1270,393,384"];
    let bound = ["--min-agreement", "0.9"];
    let said = compare(&[&args[..], &bound].concat());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(!said.stdout.contains("layer "), "{said:?}");
    assert!(said.stdout.ends_with("beyond the bounds that were given\n"), "{said:?}");
    let said = compare(&[&args[..], &bound, &["--json"]].concat());
    assert_eq!(said.code, Some(1), "{said:?}");
    let object = said.json();
    assert_eq!((&object["layer_cosines"], &object["within_bounds"]), (&Value::Null, &json!(false)));
    assert!(object["top1_agreement"].as_f64().unwrap() < 0.9, "{object}");
    compare(&[&args[..], &["--min-agreement", "0"]].concat()).done();
}

#[test]
fn logits_of_transformers_stand_in_for_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reference.json");
    let path = file.to_str().unwrap();
    raw::write_json(&file, &json!({ "prompts": [] }));
    compare(&[path]).refused(&["`prompts` in", "`token_ids` and `last_logits_top10`"]);
    raw::write_json(&file, &json!({ "prompts": [{ "token_ids": [1], "last_logits_top10": [1] }] }));
    compare(&[path]).refused(&["`prompts[0]` in"]);
    let Some(path) = data("tiny-mistral-32l.reference.json") else { return };
    let path = path.to_str().unwrap();
    let object = compare(&[path, "--tolerance", "1e-3", "--min-agreement", "1", "--json"]);
    let object = object.done().json();
    assert_eq!((&object["num_positions"], &object["mean_kl"]), (&json!(5), &Value::Null));
    assert!(object["max_abs"].as_f64().unwrap() < 1e-3, "{object}");
    let said = compare(&[path, "--tolerance", "1e-9"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    compare(&[path, "--max-kl", "1"]).refused(&["--max-kl is 1, expected a model"]);
    for (option, value) in [
        ("--text", "/no/such"),
        ("--prompt", "In"),
        ("--ids", "1"),
        ("--max-tokens", "1"),
        ("--other-dtype", "f32"),
        ("--other-device", "cpu"),
    ] {
        let expected = format!("{option} has no meaning beside a file of reference logits");
        compare(&[path, option, value]).refused(&[&expected]);
    }
}

#[test]
fn a_text_is_compared_at_each_position() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    std::fs::write(&file, "And the LORD said unto Moses. ".repeat(20)).unwrap();
    let (tiny, file) = (tiny(), file.to_str().unwrap());
    let said = compare(&[&tiny, "--text", file, "--max-tokens", "70", "--json"]).done();
    assert_eq!(said.json()["num_positions"], 70);
    assert!(said.stderr.contains("note: the first 70 of "), "{said:?}");
}

#[test]
fn a_bench_needs_no_more_than_a_config() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(Path::new(&tiny()).join("config.json"), dir.path().join("config.json")).unwrap();
    let model = dir.path().to_str().unwrap();
    let args = [
        "bench",
        model,
        "--random-weights",
        "--prompts",
        "16,64,4096",
        "--contexts",
        "8,32",
        "--batches",
        "1,2",
        "--steps",
        "3",
        "--repeats",
        "1",
    ];
    let object = infer(&[&args[..], &["--json"]].concat()).done().json();
    let rows = object["rows"].as_array().unwrap();
    let what = |row: &Value| {
        (row["what"].as_str().unwrap().to_owned(), row["context"].clone(), row["batch"].clone())
    };
    let (prefill, decode) = ("prefill".to_owned(), "decode".to_owned());
    assert_eq!(
        rows.iter().map(what).collect::<Vec<_>>(),
        [
            (prefill.clone(), json!(0), json!(1)),
            (prefill.clone(), json!(0), json!(1)),
            (prefill, json!(0), json!(1)),
            (decode.clone(), json!(8), json!(1)),
            (decode.clone(), json!(32), json!(1)),
            (decode, json!(8), json!(2)),
        ]
    );
    // There are no 4,096 positions.
    assert_eq!(rows[2]["num_tokens"], 1024);
    for row in rows {
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["read_bandwidth_fraction"].is_null(), row["what"] == "prefill", "{row}");
    }
    // 32 layers of 4 · 43,008 + … numbers, and the head; the embedding is not read.
    let layer = 128 * 128 * 2 + 2 * 64 * 128 + 3 * 128 * 320;
    assert_eq!(object["step_bytes"], 2 * (32 * layer + 2048 * 128));
    assert!(object["read_bytes_per_second"].as_f64().unwrap() > 1e8, "{object}");
    let lines = infer(&args).done().stdout;
    assert!(lines.contains("memory reads ") && lines.contains("random weights"), "{lines}");
    infer(&["bench", model]).refused(&["cannot measure"]);
    let at = |steps| ["bench", model, "--random-weights", "--steps", steps];
    infer(&at("2000")).refused(&["--steps 2000 leaves no token before them in the 1024 positions"]);
    infer(&at("0")).refused(&["--steps is 0, expected 1 or more"]);
}

/// One row of a bench with random weights: the shortest there is.
fn bench_row(args: &[&str]) -> Value {
    let least =
        ["--random-weights", "--prompts", "0", "--batches", "1", "--repeats", "1", "--json"];
    infer(&[&["bench"], args, &least].concat()).done().json()
}

#[test]
fn a_plan_of_random_weights_takes_the_memory_of_its_base() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(Path::new(&tiny()).join("config.json"), dir.path().join("config.json")).unwrap();
    let model = dir.path().to_str().unwrap();
    let config = dir.path().join("config.json").display().to_string();
    let steps = ["--contexts", "1", "--steps", "1"];
    let bench = |args: &[&str]| bench_row(&[args, &steps[..]].concat());
    let base = bench(&[model]);
    let deep = bench(&[&config, "--layers", "dus(8)"]);
    // 48 layers are read at each step, in 16 bits, and 32 are there.
    let layer = 128 * 128 * 2 + 2 * 64 * 128 + 3 * 128 * 320;
    assert_eq!(deep["step_bytes"], 2 * (48 * layer + 2048 * 128));
    assert_eq!(deep["weight_bytes"], base["weight_bytes"]);
    let recipe = dir.path().join("deep.toml");
    std::fs::write(&recipe, "base = \".\"\nlayers = \"dus(8)\"\n").unwrap();
    let by_recipe = bench(&[recipe.to_str().unwrap()]);
    assert_eq!(by_recipe["step_bytes"], deep["step_bytes"]);
    let quantised = bench(&[model, "--quantize", "q8_0"]);
    // 34 bytes for 32 numbers, which took 64.
    let bytes = |object: &Value| object["step_bytes"].as_u64().unwrap();
    assert_eq!(64 * bytes(&quantised), 34 * bytes(&base));
    infer(&["bench", model, "--random-weights", "--layers", "dus(17)"])
        .refused(&["dus(17) would lose layers"]);
    let gguf = dir.path().join("tiny.gguf");
    testkit::gguf::TinyGguf::of("F16").write(&gguf);
    infer(&["bench", gguf.to_str().unwrap(), "--random-weights"])
        .refused(&["--random-weights has no meaning for a GGUF file"]);
}

#[test]
fn a_step_reads_no_more_than_its_window() {
    let object = bench_row(&[&tiny(), "--contexts", "512", "--steps", "2"]);
    let row = &object["rows"][0];
    let number = |value: &Value| value.as_f64().unwrap();
    let read = number(&row["read_bandwidth_fraction"])
        * number(&object["read_bytes_per_second"])
        * number(&row["seconds"]);
    // Of 513 and 514 positions each of 32 layers sees 256, with two heads of 32 twice in f32.
    let cache = 32 * 256 * 2 * 2 * 32 * 4;
    let expected = 2.0 * (number(&object["step_bytes"]) + f64::from(cache));
    assert!((read / expected - 1.0).abs() < 1e-9, "{read}, {expected}");
}

#[test]
fn memory_is_told_without_loading() {
    let object = infer(&["inspect", &tiny(), "--context", "256", "--json"]).done().json();
    let device = &object["devices"][0];
    // 5,900,000 parameters or so: matrices in bf16, as they are stored, and vectors in f32; and 256
    // positions of 32 layers of two heads of 32.
    let matrices = 2 * 2048 * 128 + 32 * (128 * 128 * 2 + 2 * 64 * 128 + 3 * 128 * 320);
    let vectors = 128 + 32 * 256;
    assert_eq!(device["weight_bytes"], 2 * matrices + 4 * vectors);
    assert_eq!(device["cache_bytes"], 256 * 32 * 2 * 2 * 32 * 4);
    assert_eq!(device["fits"], true);
    let half = infer(&["inspect", &tiny(), "--dtype", "f16", "--json"]).done().json();
    assert_eq!(half["devices"][0]["weight_bytes"], 2 * (matrices + vectors));
    let wide = infer(&["inspect", &tiny(), "--dtype", "f32", "--json"]).done().json();
    assert_eq!(wide["devices"][0]["weight_bytes"], 4 * (matrices + vectors));
    assert_eq!(half["context"], 1024);
    let lines = infer(&["inspect", &tiny(), "--context", "256"]).done().stdout;
    assert!(lines.starts_with("32 layers of width 128, 2048 tokens, 1024 positions\n"), "{lines}");
    let row = |name: &str| lines.lines().find(|line| line.starts_with(name)).unwrap();
    assert_eq!(row("layers").split_whitespace().last(), Some("each"), "{lines}");
    assert!(row("cache").ends_with(" MiB  256 positions"), "{lines}");
    assert!(row("free").ends_with("  it fits"), "{lines}");
}

#[test]
fn layers_that_are_others_once_more_take_nothing() {
    let built = infer(&["inspect", &tiny(), "--json"]).done().json();
    let plan = ["inspect", &tiny(), "--layers", "dus(8)"];
    let object = infer(&[&plan[..], &["--batch", "2", "--json"]].concat()).done().json();
    assert_eq!((&object["batch"], &object["advice"]), (&json!(2), &json!([])));
    let (base, unbuilt) = (&built["devices"][0], &object["devices"][0]);
    assert_eq!((&unbuilt["device"], &unbuilt["first_layer"]), (&json!("cpu"), &json!(0)));
    let layers = unbuilt["layer_bytes"].as_array().unwrap();
    let is_shared: Vec<bool> = layers.iter().map(|bytes| bytes == 0).collect();
    // The second copy's 8..24 are there already.
    assert_eq!(is_shared, (0..48).map(|layer| (24..40).contains(&layer)).collect::<Vec<_>>());
    for key in ["weight_bytes", "embedding_bytes", "head_bytes"] {
        assert_eq!(unbuilt[key], base[key], "{key}");
    }
    let cache = |device: &Value| device["cache_bytes"].as_u64().unwrap();
    assert_eq!(cache(unbuilt), cache(base) * 2 * 48 / 32);
    let lines = infer(&plan).done().stdout;
    assert!(lines.contains("each; 16 are others once more, and take nothing\n"), "{lines}");
}

#[test]
fn bench_says_that_logits_are_not_finite() {
    let model = TinyModel { dtype: Dtype::F32, ..TinyModel::of(Family::Llama) };
    let dir = tempfile::tempdir().unwrap();
    model.write(dir.path());
    let bench = || {
        let few = ["--prompts", "4", "--contexts", "4", "--batches", "1", "--steps", "1"];
        let args = ["bench", dir.path().to_str().unwrap(), "--repeats", "1", "--json"];
        infer(&[&args[..], &few].concat()).done()
    };
    let sound = bench();
    assert_eq!((sound.json()["is_finite"].clone(), sound.stderr.as_str()), (true.into(), ""));
    let mut tensors = model.tensors();
    let (_, norm) = tensors.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
    norm.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    weights::write(dir.path(), &tensors, None);
    let broken = bench();
    assert_eq!(broken.json()["is_finite"], false);
    assert!(broken.stderr.contains("note: the logits are not finite"), "{broken:#?}");
}

/// What is asked of a GPU, and there is none.
#[test]
fn layers_for_a_gpu_that_is_not_used_are_a_note() {
    let dir = tiny_model(Family::Llama);
    let model = dir.path().to_str().unwrap();
    let note = "note: --gpu-layers 2 is not heeded: all layers are on the cpu\n";
    for command in ["logits", "inspect"] {
        let run = |more: &[&str]| {
            let ids = ["--ids", "3,4"];
            let ids = if command == "logits" { &ids[..] } else { &[] };
            infer(&[&[command, model, "--device", "cpu"], ids, more].concat()).done().stderr
        };
        assert_eq!(run(&["--gpu-layers", "2"]), note, "{command}");
        assert_eq!(run(&["--gpu-layers", "2", "--quiet"]), "");
        assert_eq!(run(&["--gpu-layers", "0"]), "");
        assert_eq!(run(&["--gpu-layers", "auto"]), "");
    }
}

/// A program in place of the real one, and the `PATH` that finds it first.
#[cfg(unix)]
fn stand_in(dir: &Path, program: &str, script: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join(program);
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

/// A bench of one prompt and one context, with `more` options and this `PATH`.
#[cfg(unix)]
fn short_bench(model: &str, more: &[&str], path: &str) -> Said {
    let args = [
        "bench",
        model,
        "--prompts",
        "8",
        "--contexts",
        "4",
        "--steps",
        "2",
        "--repeats",
        "1",
        "--device",
        "cpu",
    ];
    let mut program = program();
    program.args(args).args(more).env("PATH", path).env("RAYON_NUM_THREADS", "2");
    said(&program.output().unwrap())
}

#[cfg(unix)]
#[test]
fn a_bench_stands_beside_transformers_if_python_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny();
    let bench = |path: &str, more: &[&str]| {
        let plan = ["--batches", "1", "--compare", "--layers", "dus(8)"];
        short_bench(&tiny, &[&plan[..], more].concat(), path)
    };
    // It keeps what it was asked, and answers.
    let answer = r#"{"transformers": "5", "torch": "2", "rows": [{"seconds": 4}, {"seconds": 8}]}"#;
    let asked = dir.path().join("asked.json");
    let path = stand_in(
        dir.path(),
        "python3",
        &format!("#!/bin/sh\ncat > '{}'\necho '{answer}'\n", asked.display()),
    );
    let object = bench(&path, &["--json"]).done().json();
    assert_eq!(object["peer"], "transformers 5, PyTorch 2");
    assert_eq!(object["rows"][0]["transformers_seconds"], 4.0);
    assert_eq!(object["rows"][1]["transformers_seconds"], 8.0);
    let asked: Value = serde_json::from_str(&std::fs::read_to_string(asked).unwrap()).unwrap();
    assert_eq!(asked["config"]["num_hidden_layers"], 48);
    assert_eq!((&asked["device"], &asked["dtype"]), (&json!("cpu"), &json!("float32")));
    let decode = json!({ "what": "decode", "num_tokens": 2, "context": 4, "batch": 1 });
    assert_eq!((&asked["rows"][1], &asked["compile"]), (&decode, &json!(false)));
    let lines = bench(&path, &[]).done().stdout;
    assert!(lines.contains("beside transformers 5, PyTorch 2, random weights"), "{lines}");
    // Eight tokens in four seconds, two in eight.
    let ends: Vec<&str> = lines.lines().rev().take(2).collect();
    assert!(ends[1].contains(" 2.0 ") && ends[0].contains(" 0.2 "), "{lines}");

    let lacks =
        "#!/bin/sh\necho \"python3 has no transformers: No module named 'torch'\" >&2\nexit 1\n";
    for (script, why) in [
        (Some(lacks), "python3 has no transformers: No module named"),
        (Some("#!/bin/sh\necho what\n"), "expected value"),
        (None, "python3: "),
    ] {
        let nowhere = || dir.path().join("nothing").display().to_string();
        let path = script.map_or_else(nowhere, |script| stand_in(dir.path(), "python3", script));
        // What was measured here is not lost.
        let told = bench(&path, &["--json"]).done();
        let note = format!("note: transformers is not timed: {why}");
        assert!(told.stderr.contains(&note), "{told:?}");
        let object = told.json();
        assert!(object["peer"].is_null() && object["rows"][1]["transformers_seconds"].is_null());
    }
}

#[cfg(unix)]
#[test]
fn a_compiled_step_has_its_own_column_or_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = tiny();
    let bench = |rest: &str, more: &[&str]| {
        let rows = r#"{"seconds": 4}, {"seconds": 8, "compiled_seconds": 0.5}, {"seconds": 2}"#;
        let answer = format!(r#"{{"transformers": "5", "torch": "2", "rows": [{rows}]{rest}}}"#);
        let script = format!("#!/bin/sh\ngrep -q '\"compile\":true' && echo '{answer}'\n");
        let path = stand_in(dir.path(), "python3", &script);
        let plan = ["--batches", "1,2", "--compare=compiled"];
        short_bench(&tiny, &[&plan[..], more].concat(), &path)
    };
    let object = bench("", &["--json"]).done().json();
    let seconds: Vec<_> = (0..3).map(|row| &object["rows"][row]["compiled_seconds"]).collect();
    assert_eq!(seconds, [&json!(null), &json!(0.5), &json!(null)]);
    assert_eq!(object["rows"][1]["transformers_seconds"], 8.0);
    let lines = bench("", &[]).done().stdout;
    let beside = "beside transformers 5, PyTorch 2, static cache, compiled step, random weights";
    assert!(lines.contains(beside) && lines.contains("transformers compiled"), "{lines}");

    let told = bench(r#", "not_compiled": "there is no compiler""#, &[]).done();
    let note = "note: transformers compiled is not timed: there is no compiler";
    assert!(told.stderr.contains(note), "{told:?}");
    assert!(!told.stdout.contains("compiled"), "{told:?}");
    assert!(told.stdout.contains("beside transformers 5, PyTorch 2, random weights"), "{told:?}");
}

#[cfg(unix)]
#[test]
fn llama_bench_times_the_file_where_it_is_on_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    testkit::gguf::TinyGguf::of("F16").write(&file);
    let file = file.to_str().unwrap();
    let asked = dir.path().join("asked");
    // It keeps how it was called, and answers for what it was asked.
    let timed = |prompt: u32, steps: u32, depth: u32, samples: &str| {
        format!(
            r#"{{"build_commit": "1a2b3c", "backends": "CPU", "n_prompt": {prompt}, "n_gen": {steps}, "n_depth": {depth}, "samples_ns": [{samples}]}}"#
        )
    };
    let (prefill, decode) =
        (timed(8, 0, 0, "9, 4000000000, 5000000000"), timed(0, 2, 4, "500000000"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> '{}'\ncase \"$*\" in *'-p 8 '*) echo '[{prefill}]';; *) echo '[{decode}]';; esac\n",
        asked.display()
    );
    let path = stand_in(dir.path(), "llama-bench", &script);
    let lacks = "#!/bin/sh\necho 'no transformers' >&2\nexit 1\n";
    stand_in(dir.path(), "python3", lacks);
    for compare in ["--compare", "--compare=llama.cpp"] {
        let _ = std::fs::remove_file(&asked);
        let told = short_bench(file, &[compare, "--batches", "1,2", "--json"], &path).done();
        assert_eq!(told.stderr.contains("no transformers"), compare == "--compare", "{told:?}");
        let object = told.json();
        assert_eq!(object["llama_cpp"], "llama.cpp 1a2b3c (CPU)");
        let seconds: Vec<_> = (0..3).map(|row| &object["rows"][row]["llama_cpp_seconds"]).collect();
        assert_eq!(seconds, [&json!(4.0), &json!(0.5), &json!(null)]);
        let common = format!("-m {file} -o json -r 1 -fa 1 -t 2 -ngl 0");
        let calls =
            format!("{common} -p 8 -n 0 -d 0 -dev none\n{common} -p 0 -n 2 -d 4 -dev none\n");
        assert_eq!(std::fs::read_to_string(&asked).unwrap(), calls);
    }
    let lines = short_bench(file, &["--compare=llama.cpp"], &path).done().stdout;
    assert!(lines.contains("beside llama.cpp 1a2b3c (CPU), the same file"), "{lines}");

    // It is said why not if it fails; who was named has to be there.
    stand_in(dir.path(), "llama-bench", "#!/bin/sh\necho 'error: unknown model' >&2\nexit 1\n");
    let told = short_bench(file, &["--compare=llama.cpp"], &path).done();
    assert!(told.stderr.contains("note: llama.cpp is not timed: error: unknown model"), "{told:?}");
    let nowhere = dir.path().join("nothing").display().to_string();
    for (peer, why) in [
        ("llama.cpp", "llama.cpp is not timed: llama-bench is not on PATH"),
        ("transformers", "transformers is not timed: python3 is not on PATH"),
        ("compiled", "transformers compiled is not timed: python3 is not on PATH"),
    ] {
        short_bench(file, &[&format!("--compare={peer}")], &nowhere).refused(&[why]);
    }
    let told = short_bench(file, &["--compare"], &nowhere).done();
    assert!(!told.stderr.contains("llama"), "{told:?}");
    let why = "--compare=llama.cpp has no meaning but for a GGUF file that runs as it is";
    for more in [&["--quantize", "q8_0"], &["--layers", "0..1"]] {
        short_bench(file, &[&["--compare=llama.cpp"], &more[..]].concat(), &path).refused(&[why]);
    }
    short_bench(&tiny(), &["--compare=llama.cpp"], &path).refused(&[why]);
}
