//! What stands beside the weights: copied files, the card, `dus.json`, and their modes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::{TinyModel, hub, side_files, splice, weights};

use crate::workshop::{LAYERS, PLAN, Workshop};

/// What every build writes itself.
const OWN: [&str; 4] = ["README.md", "config.json", "dus.json", "model.safetensors"];

/// Builds from a base with the files `names` beside it, and checks that `kept` of them are copied.
#[track_caller]
fn check_files(names: &[&str], kept: &[&str]) -> Workshop {
    let workshop = Workshop::with(&TinyModel { side_files: false, ..TinyModel::default() });
    for name in names {
        workshop.write(&format!("base/{name}"), format!("text of {name}\n"));
    }
    workshop.build_base(&[]);
    let mut expected: Vec<&str> = [&OWN[..], kept].concat();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(workshop.files("out"), expected);
    for name in kept {
        let text = fs::read_to_string(workshop.path("out").join(name)).unwrap();
        assert_eq!(text, format!("text of {name}\n"));
    }
    let is_link = |name: &String| workshop.path("out").join(name).is_symlink();
    assert!(!workshop.files("out").iter().any(is_link), "an output holds regular files");
    workshop
}

#[test]
fn all_files_of_the_model_are_copied() {
    let names = [
        "tokenizer.json",
        "tokenizer.model",
        "tekken.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tools.jinja",
        "modeling_custom.py",
        "custom/deeper/attention.py",
        "LICENSE",
        "NOTICE",
        "USE_POLICY.md",
        ".gitignore",
        "a name with blanks",
        "naïve.txt",
    ];
    check_files(&names, &names);
}

#[test]
fn other_weights_and_what_is_the_bases_own_are_not() {
    let names = [
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "pytorch_model-00001-of-00002.bin",
        "model.safetensors.index.json.bin",
        "consolidated.00.pth",
        "consolidated.safetensors",
        "tf_model.h5",
        "flax_model.msgpack",
        "ggml-model-q4_0.gguf",
        "onnx/model.onnx",
        "onnx/config.json",
        "original/params.json",
        "original/tokenizer.model",
        ".git/config",
        ".cache/huggingface/download/config.json.lock",
        "adapter_config.json",
        "adapter_model.safetensors",
        "lora/adapter_config.json",
        "lora/adapter_model.safetensors",
        "dus.json",
        "mergekit_config.yml",
        "README.md",
    ];
    let workshop = check_files(&names, &[]);
    let notes = workshop.build_base(&[])["notes"].to_string();
    assert!(notes.contains("adapter_model.safetensors"), "{notes}");
    let card = fs::read_to_string(workshop.path("out/README.md")).unwrap();
    assert!(!card.contains("text of README.md"), "{card}");
}

/// An index or other shards of an earlier download beside the single file that loaders read.
#[test]
fn stale_weights_are_not_carried_over() {
    let workshop = Workshop::with(&TinyModel::default());
    let other = TinyModel { num_shards: Some(2), seed: 1, ..TinyModel::default() };
    other.write(&workshop.path("other"));
    for file in workshop.files("other").iter().filter(|name| name.contains(".safetensors")) {
        fs::copy(workshop.path("other").join(file), workshop.path("base").join(file)).unwrap();
    }
    workshop.build_base(&[]);
    let source = TinyModel::default().tensors_by_name();
    splice::assert_same(&workshop.built(), &splice::expected(&source, &LAYERS, "model.layers"));
    let files = workshop.files("out");
    let of_weights: Vec<&String> = files.iter().filter(|it| it.contains(".safetensors")).collect();
    assert_eq!(of_weights, [weights::SINGLE]);
}

/// Modes are the umask's, whatever those of the base's files are.
#[test]
fn modes_follow_the_umask() {
    let workshop = Workshop::with(&TinyModel { num_shards: Some(2), ..TinyModel::default() });
    workshop.write("base/custom/attention.py", "# custom\n");
    let base_mode = |name: &str, mode| {
        let path = workshop.path("base").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    base_mode("tokenizer.json", 0o400);
    base_mode("LICENSE", 0o777);
    base_mode("custom", 0o700);
    for (umask, file_mode, folder_mode) in [("027", 0o640, 0o750), ("077", 0o600, 0o700)] {
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
        sh.args([env!("CARGO_BIN_EXE_dus"), "build", "base", "--layers", PLAN]);
        sh.args(["--max-shard-size", "20KB", "--force", "-o", "out"]);
        sh.current_dir(workshop.path(""));
        let run = workshop.run(sh);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let mode = |name: &Path| {
            workshop.path("out").join(name).metadata().unwrap().permissions().mode() & 0o7777
        };
        for file in workshop.files("out") {
            assert_eq!(mode(Path::new(&file)), file_mode, "{file} under {umask}");
        }
        for folder in ["", "custom"] {
            assert_eq!(mode(Path::new(folder)), folder_mode, "{folder:?} under {umask}");
        }
    }
}

#[test]
fn the_card_keeps_licence_and_language() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.build_base(&[]);
    let card = fs::read_to_string(workshop.path("out/README.md")).unwrap();
    let front = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    let lines: Vec<&str> = front.0.lines().collect();
    for expected in [&["license: apache-2.0"][..], &["language:", "- en", "- de"]] {
        assert!(lines.windows(expected.len()).any(|found| found == expected), "{card}");
    }
    assert!(!lines.contains(&"- test"), "{card}");
    assert!(!card.contains("A tiny model") && card.contains(PLAN), "{card}");
    assert!(side_files::README.contains("A tiny model") && side_files::README.contains("- test"));
}

/// A base whose card says nothing, or that has none, gives a card of its own nonetheless.
#[test]
fn a_card_is_written_for_any_base() {
    for card in [None, Some(""), Some("# Base\nlicense: mit\n"), Some("---\nlicense: mit\n")] {
        let workshop = Workshop::with(&TinyModel { side_files: false, ..TinyModel::default() });
        if let Some(card) = card {
            workshop.write("base/README.md", card);
        }
        workshop.build_base(&[]);
        let written = fs::read_to_string(workshop.path("out/README.md")).unwrap();
        assert!(written.starts_with("---\n") && written.contains("# out\n"), "{written}");
        assert_eq!(written.matches("\n---\n").count(), 1, "{written}");
        assert!(!written.contains("# Base"), "{written}");
    }
}

/// The recipe in the card, put beside the build as the card's paths have it, gives the same model.
#[test]
fn the_card_says_how_to_make_it_again() {
    let workshop = Workshop::with(&TinyModel::default());
    workshop.build_base(&[
        "--dtype",
        "float16",
        "--max-shard-size",
        "20KB",
        "--architecture",
        "llama",
    ]);
    let card = fs::read_to_string(workshop.path("out/README.md")).unwrap();
    let recipe = card.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    workshop.write("beside/again.toml", recipe);
    let run = workshop.dus(&["build", "beside/again.toml", "-o", "again"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    splice::assert_same(&weights::read(&workshop.path("again")), &workshop.built());
    for file in ["config.json", "dus.json", weights::INDEX] {
        let of = |dir: &str| fs::read_to_string(workshop.path(dir).join(file)).unwrap();
        assert_eq!(of("again"), of("out"), "{file}");
    }
}

#[test]
fn dus_json_says_what_was_made_of_what() {
    let model = TinyModel { num_shards: Some(2), ..TinyModel::default() };
    let workshop = Workshop::with(&model);
    let plan = "0..3 + 1..4{new o_proj: scale 0.5}";
    let flags = ["--architecture", "llama", "--dtype", "float32", "--shard-layout", "source"];
    workshop.build(&[&["base", "--layers", plan, "--max-shard-size", "1MB"], &flags[..]].concat());
    let manifest = workshop.json_of("dus.json");
    assert_eq!(
        manifest["recipe"],
        json!({
            "layers": plan,
            "architecture": "llama",
            "dtype": "float32",
            "max_shard_size": 1_000_000,
        })
    );
    assert_eq!(manifest["dus"], env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["shard_layout"], "source");
    let bytes = |file: &str| workshop.path("base").join(file).metadata().unwrap().len();
    let files: Vec<Value> = [weights::shard_name(0, 2), weights::shard_name(1, 2)]
        .iter()
        .map(|file| json!({ "name": file, "bytes": bytes(file) }))
        .collect();
    assert_eq!(
        manifest["models"],
        json!([{ "path": "../base", "num_hidden_layers": 4, "files": files }])
    );
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 6);
    for (j, layer) in layers.iter().enumerate() {
        let new = j == 3 || j == 4;
        assert_eq!(layer["layer"], j);
        assert_eq!(layer["source"], LAYERS[j]);
        assert_eq!(layer["copy"], u8::from(new));
        assert_eq!(layer["new"], new);
        assert_eq!(layer.get("ops").is_some_and(|it| it.to_string().contains("o_proj")), new);
    }
}

/// A model's folder says nothing of the machine that it was made on, wherever both lie.
#[test]
fn no_absolute_path_is_left() {
    for (base, out) in [("base", "out"), ("a/b/base", "c/out"), ("base", "x/y/z/out")] {
        let workshop = Workshop::new();
        TinyModel::default().write(&workshop.path(base));
        fs::create_dir_all(workshop.path("elsewhere")).unwrap();
        let absolute = workshop.path(base);
        let out_path = workshop.path(out);
        let [absolute, out_path] = [&absolute, &out_path].map(|path| path.to_str().unwrap());
        workshop.dus(&["build", absolute, "--layers", PLAN, "-o", out_path, "--json"]).json(0);
        let root = workshop.path("").canonicalize().unwrap();
        for file in ["dus.json", "README.md"] {
            let text = fs::read_to_string(workshop.path(out).join(file)).unwrap();
            for part in [root.to_str().unwrap().trim_end_matches('/'), "\"/", "= '/"] {
                assert!(!text.contains(part), "{part} is in {file}: {text}");
            }
            let up = "../".repeat(out.split('/').count());
            assert!(text.contains(&format!("\"{up}{base}\"")), "{file}: {text}");
        }
        workshop.verified(&[out]);
    }
}

/// Names that are no UTF-8: built and proved, or refused, but neither a panic nor half a model.
#[test]
fn of_names_that_are_no_text() {
    let workshop = Workshop::new();
    let odd = workshop.path("").join(OsStr::from_bytes(b"odd\xff"));
    TinyModel::default().write(&odd.join("base"));
    fs::write(odd.join("base").join(OsStr::from_bytes(b"notes\xfe")), "text\n").unwrap();
    fs::create_dir(workshop.path("elsewhere")).unwrap();
    for out in ["out", "../elsewhere/out"] {
        let dus = |args: &[&str]| {
            let mut dus = Command::new(env!("CARGO_BIN_EXE_dus"));
            dus.args(args).current_dir(&odd);
            workshop.run(dus)
        };
        let run = dus(&["build", "base", "--layers", PLAN, "-o", out]);
        if run.code == 0 {
            let run = dus(&["verify", out]);
            assert_eq!(run.code, 0, "{out}: {run:?}");
            assert!(odd.join(out).join(OsStr::from_bytes(b"notes\xfe")).exists());
        } else {
            assert_eq!(run.code, 2, "{out}: {}", run.stderr);
            assert!(!odd.join(out).exists());
        }
    }
}

/// A base from the hub's cache is named by its id and commit, and its links become files.
#[test]
fn a_base_from_the_hub_is_named_by_its_id() {
    let workshop = Workshop::new();
    let model = TinyModel { num_shards: Some(2), ..TinyModel::default() };
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let _ = hub::cache(&workshop.path("hub"), "owner/name", commit, &model);
    workshop.build(&["owner/name", "--layers", PLAN]);
    let expected = splice::expected(&model.tensors_by_name(), &LAYERS, "model.layers");
    splice::assert_same(&workshop.built(), &expected);
    for file in workshop.files("out") {
        assert!(!workshop.path("out").join(&file).is_symlink(), "{file}");
    }
    let of_base = &workshop.json_of("dus.json")["models"][0];
    assert_eq!((&of_base["hub"], &of_base["revision"]), (&"owner/name".into(), &commit.into()));
    assert_eq!(of_base.get("path"), None);
    let card = fs::read_to_string(workshop.path("out/README.md")).unwrap();
    assert!(card.contains("base_model:\n- owner/name\n"), "{card}");
    assert!(card.contains(&format!("\"owner/name@{commit}\"")), "{card}");
    workshop.verified(&["out"]);

    // `main` has moved on since then; the commit that was used is still there.
    let later = TinyModel { seed: 1, ..TinyModel::default() };
    let _ = hub::cache(&workshop.path("hub"), "owner/name", &commit.replace('0', "f"), &later);
    workshop.verified(&["out"]);
}
