//! Builds of builds, prediction blocks behind the last layer, and the same build twice.

use std::fs;
use std::process::Command;

use serde_json::json;
use testkit::{Dtype, Family, Survey, Tensor, TinyModel, raw, splice, weights};

use crate::bases;
use crate::workshop::{LAYERS, ON_ONE_CORE, PLAN, Workshop};

/// A build is a base like any other; what the first build left of itself is not carried over.
#[test]
fn building_twice_works() {
    let model = TinyModel { num_shards: Some(2), ..TinyModel::of(Family::Qwen3) };
    let workshop = Workshop::with(&model);
    let run = workshop.dus(&["build", "base", "--layers", PLAN, "-o", "first"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    workshop.write("first/mergekit_config.yml", "merge_method: passthrough\n");
    workshop.build(&["first", "--layers", "dus(2)", "--max-shard-size", "10KB"]);

    let once = splice::expected(&model.tensors_by_name(), &LAYERS, "model.layers");
    let twice = splice::expected(&once, &[0, 1, 2, 3, 2, 3, 4, 5], "model.layers");
    splice::assert_same(&workshop.built(), &twice);
    let config = workshop.json_of("config.json");
    assert_eq!(config["num_hidden_layers"], 8);
    assert_eq!(config["layer_types"].as_array().unwrap().len(), 8);
    assert!(!workshop.files("out").contains(&"mergekit_config.yml".to_owned()));
    let manifest = workshop.json_of("dus.json");
    assert_eq!(manifest["models"][0]["path"], "../first");
    assert_eq!(manifest["plan"], "0..4 + 2..6");
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 8);
    let card = fs::read_to_string(workshop.path("out/README.md")).unwrap();
    assert!(!card.contains(PLAN) && card.contains("license: apache-2.0\nlanguage:\n"), "{card}");
    workshop.verified(&["out"]);
}

#[test]
fn of_48_layers_by_target_depth() {
    let model = TinyModel { num_hidden_layers: 32, ..TinyModel::default() };
    let workshop = Workshop::with(&model);
    let run = workshop.dus(&["build", "base", "--layers", "dus(s=48)", "-o", "first"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    workshop.build(&["first", "--layers", "dus(s=72)"]);
    let solar: Vec<usize> = (0..24).chain(8..32).collect();
    let deeper: Vec<usize> = solar[..36].iter().chain(&solar[12..]).copied().collect();
    let expected = splice::expected(&model.tensors_by_name(), &deeper, "model.layers");
    splice::assert_same(&workshop.built(), &expected);
    assert_eq!(workshop.json_of("config.json")["num_hidden_layers"], 72);
}

/// A model of four layers whose config promises `promised` blocks and whose files have `stored`.
fn with_predictions(promised: usize, stored: usize) -> (Workshop, Vec<(String, Tensor)>) {
    let mut tensors = vec![bases::bytes("model.embed_tokens.weight", Dtype::BF16, &[8, 6])];
    for layer in 0..4 + stored {
        let mut names = vec!["self_attn.o_proj.weight", "mlp.down_proj.weight"];
        if layer >= 4 {
            names.extend(["eh_proj.weight", "shared_head.norm.weight"]);
        }
        for name in names {
            let name = format!("model.layers.{layer}.{name}");
            tensors.push(bases::bytes(&name, Dtype::BF16, &[6, 3]));
        }
    }
    tensors.push(bases::bytes("model.norm.weight", Dtype::BF16, &[6]));
    let workshop = Workshop::new();
    let config = json!({
        "model_type": "unheard-of",
        "num_hidden_layers": 4,
        "num_nextn_predict_layers": promised,
    });
    bases::write(&workshop.path("base"), &config, &tensors);
    (workshop, tensors)
}

/// Blocks behind the last layer move to the new depth, once, and no operation is theirs.
#[test]
fn prediction_blocks_move_behind_the_new_last_layer() {
    for (promised, stored) in [(1, 1), (1, 0), (2, 2), (0, 0)] {
        let (workshop, tensors) = with_predictions(promised, stored);
        let source = tensors.into_iter().collect();
        let layers: Vec<usize> = LAYERS.into_iter().chain(4..4 + stored).collect();
        let expected = splice::expected(&source, &layers, "model.layers");
        workshop.build_base(&[]);
        splice::assert_same(&workshop.built(), &expected);
        let config = workshop.json_of("config.json");
        assert_eq!(config["num_hidden_layers"], 6);
        assert_eq!(config["num_nextn_predict_layers"], promised);
        workshop.verified(&["out"]);

        workshop.build(&["base", "--layers", "0..4{mlp.*: zero}*2"]);
        let built = workshop.built();
        for (name, tensor) in &built {
            let layer: Option<usize> = name
                .strip_prefix("model.layers.")
                .map(|it| it.split('.').next().unwrap().parse().unwrap());
            let is_zero = tensor.bytes.iter().all(|&byte| byte == 0);
            assert_eq!(is_zero, name.contains(".mlp.") && layer < Some(8), "{name}");
        }
        assert_eq!(built.len(), 2 + 8 * 2 + stored * 4);
    }
}

/// It is common that a config promises a block which was not published.
#[test]
fn a_block_that_is_promised_and_absent_is_said() {
    for (promised, stored, is_said) in [(1, 0, true), (2, 1, true), (1, 1, false), (0, 0, false)] {
        let (workshop, _) = with_predictions(promised, stored);
        let notes = workshop.build_base(&[])["notes"].to_string();
        assert_eq!(notes.contains("num_nextn_predict_layers"), is_said, "{notes}");
    }
}

/// Blocks with numbers of their own are no layers of the model, and stay.
#[test]
fn a_block_under_another_name_stays() {
    let (workshop, mut tensors) = with_predictions(1, 0);
    tensors.push(bases::bytes("mtp.layers.0.eh_proj.weight", Dtype::BF16, &[6, 3]));
    let config = raw::read_json(&workshop.path("base/config.json"));
    bases::write(&workshop.path("base"), &config, &tensors);
    workshop.build_base(&[]);
    let source = tensors.into_iter().collect();
    splice::assert_same(&workshop.built(), &splice::expected(&source, &LAYERS, "model.layers"));
}

#[test]
fn a_block_that_is_not_promised_is_refused() {
    let (workshop, _) = with_predictions(0, 1);
    workshop.refused(&["base", "--layers", PLAN], &["model.layers.4"], true);
}

/// Two builds of one recipe differ in nothing, however their bytes were moved and on how many cores.
#[test]
fn the_same_recipe_gives_the_same_files() {
    let model = TinyModel { hidden_size: 64, num_shards: Some(3), ..TinyModel::of(Family::Qwen2) };
    let plan = "0..4{o_proj: scale 0.5, new down_proj: noise 0.1}*2";
    let ways: [(&str, &str, &str); 4] =
        [("auto", "1", ON_ONE_CORE), ("kernel", "2", ""), ("stream", "7", ""), ("auto", "16", "")];
    for flags in ["", "--dtype float16 --max-shard-size 50KB", "--shard-layout source"] {
        let workshop = Workshop::with(&model);
        let before = Survey::of(&workshop.path("base"));
        for (i, (copy, threads, prefix)) in ways.iter().enumerate() {
            let out = format!("out{i}");
            let dus = env!("CARGO_BIN_EXE_dus");
            let line = format!(
                "{prefix} {dus} build base --layers '{plan}' {flags} --copy {copy} -o {out} -q"
            );
            let mut sh = Command::new("sh");
            sh.args(["-c", &line]).env("RAYON_NUM_THREADS", threads);
            sh.current_dir(workshop.path(""));
            let run = workshop.run(sh);
            assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{line}: {}", run.stderr);
            for file in workshop.files("out0") {
                let of = |out: &str| fs::read(workshop.path(out).join(&file)).unwrap();
                let first = of("out0");
                let found = of(&out);
                if file == "README.md" {
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    assert_eq!(text(found).replace(&out, "out0"), text(first));
                } else {
                    assert!(found == first, "{file} differs after {line}");
                }
            }
            assert_eq!(workshop.files(&out), workshop.files("out0"));
        }
        let changes = Survey::of(&workshop.path("base")).changes_since(&before, true);
        assert_eq!(changes, "", "a build leaves its base alone");
    }
}

/// Nor do they where the base lies elsewhere, in other files' company, or is reached by a link.
#[test]
fn the_same_base_elsewhere_gives_the_same_weights() {
    let model = TinyModel { num_shards: Some(3), ..TinyModel::default() };
    let workshop = Workshop::with(&model);
    model.write(&workshop.path("far/away/base"));
    workshop.write("far/away/base/notes.txt", "a file more\n");
    workshop.link("alias", "far/away");
    let mut first = None;
    for base in ["base", "far/away/base", "alias/base", "./base/../base"] {
        workshop.build(&[base, "--layers", PLAN, "--max-shard-size", "10KB"]);
        let index = fs::read(workshop.path("out").join(weights::INDEX)).unwrap();
        let config = raw::read_json(&workshop.path("out/config.json"));
        let files: Vec<_> = workshop
            .files("out")
            .into_iter()
            .filter(|name| name.contains(".safetensors"))
            .map(|name| fs::read(workshop.path("out").join(name)).unwrap())
            .collect();
        let found = (index, config, files);
        assert!(*first.get_or_insert(found.clone()) == found, "{base}");
        workshop.verified(&["out"]);
    }
}
