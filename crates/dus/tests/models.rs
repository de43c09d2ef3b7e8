//! Plans of several models: which model gives which tensors, config and files.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

#[path = "models/mismatches.rs"]
mod mismatches;
#[path = "build/workshop.rs"]
mod workshop;

use serde_json::{Value, json};
use testkit::{Dtype, Family, Tensor, Tensors, TinyModel, raw, splice};

use crate::workshop::Workshop;

/// Two models of one shape, `x` and `e`, that differ in every number.
fn models() -> [TinyModel; 2] {
    [0, 1].map(|seed| TinyModel {
        seed,
        num_shards: Some(2 + seed as usize),
        ..TinyModel::default()
    })
}

/// A folder with those two, and a recipe `r.toml` of them with this plan and these lines more.
fn workshop(plan: &str, keys: &str) -> Workshop {
    let workshop = Workshop::new();
    let [x, e] = models();
    x.write(&workshop.path("recipes/x"));
    e.write(&workshop.path("recipes/e"));
    workshop.write("recipes/e/tokenizer.json", "{\"of\": \"e\"}\n");
    raw::edit_json(&workshop.path("recipes/e/config.json"), |config| {
        config["transformers_version"] = "of e".into();
    });
    let recipe = format!("layers = \"{plan}\"\n{keys}\n[models]\nx = \"x\"\ne = \"e\"\n");
    workshop.write("recipes/r.toml", recipe);
    workshop
}

/// What a plan of (model, layer) gives, and the models of embeddings, norm and head.
fn expected(sources: &[Tensors], layers: &[(usize, usize)], globals: [usize; 3]) -> Tensors {
    let mut tensors = Tensors::new();
    let names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"];
    for (name, model) in names.into_iter().zip(globals) {
        if let Some(tensor) = sources[model].get(name) {
            tensors.insert(name.to_owned(), tensor.clone());
        }
    }
    for (j, &(model, layer)) in layers.iter().enumerate() {
        let begin = format!("model.layers.{layer}.");
        let of_layer = |(name, tensor): (&String, &Tensor)| {
            let rest = name.strip_prefix(&begin)?;
            Some((format!("model.layers.{j}.{rest}"), tensor.clone()))
        };
        tensors.extend(sources[model].iter().filter_map(of_layer));
    }
    tensors
}

/// Builds the plan, 0 being `x` and 1 `e`, and checks weights, config, side files and `dus.json`.
#[track_caller]
fn check(plan: &str, keys: &str, layers: &[(usize, usize)], globals: [usize; 3]) -> Workshop {
    let workshop = workshop(plan, keys);
    for flags in [&[][..], &["--shard-layout", "source", "--max-shard-size", "5KB"]] {
        workshop.build(&[&["recipes/r.toml"], flags].concat());
        let sources = models().map(|model| model.tensors_by_name());
        splice::assert_same(&workshop.built(), &expected(&sources, layers, globals));
        workshop.verified(&["out"]);
    }
    // Config and files are those of the model that gives the embeddings: the tokens are its own.
    let is_e = globals[0] == 1;
    assert_eq!(workshop.json_of("tokenizer.json").get("of").is_some(), is_e);
    assert_eq!(workshop.json_of("config.json")["transformers_version"] == "of e", is_e);
    assert_eq!(workshop.json_of("config.json")["num_hidden_layers"], layers.len());

    let manifest = workshop.json_of("dus.json");
    let models: Vec<_> =
        manifest["models"].as_array().unwrap().iter().map(|m| (&m["name"], &m["path"])).collect();
    let path = |name: &str| json!(format!("../recipes/{name}"));
    assert_eq!(models, [(&json!("x"), &path("x")), (&json!("e"), &path("e"))]);
    let origins: Vec<(Value, Value)> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| (layer["model"].clone(), layer["source"].clone()))
        .collect();
    let named = |&(model, layer): &(usize, usize)| (json!(["x", "e"][model]), json!(layer));
    assert_eq!(origins, layers.iter().map(named).collect::<Vec<_>>());
    workshop
}

#[test]
fn layers_come_from_both() {
    let both = [(0, 0), (0, 1), (1, 1), (1, 2), (0, 2), (0, 3)];
    check("x:0..2 + e:1..3 + x:2..4", "", &both, [0, 0, 0]);
    check("x:0..2 + e:2..4", "", &[(0, 0), (0, 1), (1, 2), (1, 3)], [0, 1, 1]);
    check("e:0..2 + x:2..4", "", &[(1, 0), (1, 1), (0, 2), (0, 3)], [1, 0, 0]);
    let every_other = [(0, 0), (1, 0), (0, 1), (1, 1)];
    check("interleave(x:0..2, e:0..2)", "", &every_other, [0, 1, 1]);
}

/// Without a name the first model of the recipe is meant.
#[test]
fn the_first_model_needs_no_name() {
    let dus = [0, 1, 2, 1, 2, 3].map(|layer| (0, layer));
    check("dus(1)", "", &dus, [0, 0, 0]);
    check("0..2 + e:n-2..n", "", &[(0, 0), (0, 1), (1, 2), (1, 3)], [0, 1, 1]);
    check("e:0 + stack(1)", "", &[(1, 0), (0, 0), (0, 1), (0, 2), (0, 3)], [1, 0, 0]);
}

#[test]
fn keys_name_who_gives_the_rest() {
    let plan = "x:0..2 + e:2..4";
    let layers = [(0, 0), (0, 1), (1, 2), (1, 3)];
    check(plan, "embeddings = \"e\"", &layers, [1, 1, 1]);
    check(plan, "norm = \"x\"", &layers, [0, 0, 1]);
    check(plan, "lm_head = \"x\"", &layers, [0, 1, 0]);
    let all = "embeddings = \"e\"\nnorm = \"x\"\nlm_head = \"x\"";
    let workshop = check(plan, all, &layers, [1, 0, 0]);
    let recipe = &workshop.json_of("dus.json")["recipe"];
    for (key, value) in [("embeddings", "e"), ("norm", "x"), ("lm_head", "x")] {
        assert_eq!(recipe[key], value);
    }
    // Flags do the same, and win.
    workshop.build(&["recipes/r.toml", "--embeddings", "x", "--norm", "e", "--lm-head", "x"]);
    let sources = models().map(|model| model.tensors_by_name());
    splice::assert_same(&workshop.built(), &expected(&sources, &layers, [0, 1, 0]));
}

/// Goliath's plan on two models of a tenth of its depth, with its jumps from one to the other.
#[test]
fn a_plan_like_goliaths() {
    let [x, e] = [0, 1].map(|seed| TinyModel {
        seed,
        num_hidden_layers: 16,
        ..TinyModel::of(Family::Llama)
    });
    let workshop = Workshop::new();
    x.write(&workshop.path("x"));
    e.write(&workshop.path("e"));
    let ranges =
        [(0, 0..4), (1, 2..6), (0, 4..8), (1, 6..10), (0, 8..12), (1, 10..14), (0, 12..16)];
    let plan: Vec<String> = ranges
        .iter()
        .map(|(model, range)| format!("{}:{}..{}", ["x", "e"][*model], range.start, range.end))
        .collect();
    let plan = plan.join(" + ");
    let layers: Vec<(usize, usize)> = ranges
        .iter()
        .flat_map(|(model, range)| range.clone().map(|layer| (*model, layer)))
        .collect();
    let args = ["--model", "x=x", "--model", "e=e", "--layers", &plan];
    workshop.build(&args);
    let sources = [x, e].map(|model| model.tensors_by_name());
    splice::assert_same(&workshop.built(), &expected(&sources, &layers, [0, 0, 0]));
    workshop.verified(&["out"]);

    let plan = workshop.plan(&args);
    assert_eq!(plan["num_hidden_layers"], 28);
    assert_eq!(plan["function_preserving"], false);
    let jumps: usize = layers.windows(2).map(|it| it[1].1.abs_diff(it[0].1 + 1)).sum();
    assert_eq!(plan["discrepancy"], jumps);
    let unused = |layer: usize| json!({ "model": "e", "layer": layer });
    assert_eq!(plan["unused_layers"], json!([unused(0), unused(1), unused(14), unused(15)]));
    assert!(plan["layers"].as_array().unwrap().iter().all(|layer| layer["new"] == false));
}

/// A layer is new if the same layer of the same model stands before it.
#[test]
fn new_is_by_model_and_layer() {
    let workshop = workshop("x:0..2 + e:0..2{new *: scale 2} + x:1..3{new *: zero}", "");
    // No layer of `e` is new here, so that operation has nothing to work on.
    workshop.refused(&["recipes/r.toml"], &["scale 2"], true);
    let plan = "x:0..2 + e:0..2 + x:1..3{new *: zero}";
    workshop.build(&["recipes/r.toml", "--layers", plan]);
    let sources = models().map(|model| model.tensors_by_name());
    let layers = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 1), (0, 2)];
    let mut expected = expected(&sources, &layers, [0, 0, 0]);
    for (name, tensor) in &mut expected {
        // `*` is one component of a name, and every name in a layer has one.
        if name.starts_with("model.layers.4.") {
            tensor.bytes.fill(0);
        }
    }
    splice::assert_same(&workshop.built(), &expected);
}

/// `--model` replaces where a model lies, from the working directory, in building and in verifying.
#[test]
fn a_flag_replaces_a_model() {
    let workshop = workshop("x:0..2 + e:2..4", "");
    let other = TinyModel { seed: 2, ..TinyModel::default() };
    other.write(&workshop.path("other"));
    workshop.build(&["recipes/r.toml", "--model", "e=other"]);
    let [x, e] = models();
    let layers = [(0, 0), (0, 1), (1, 2), (1, 3)];
    let sources = [x.tensors_by_name(), other.tensors_by_name()];
    splice::assert_same(&workshop.built(), &expected(&sources, &layers, [0, 1, 1]));
    assert_eq!(workshop.json_of("dus.json")["models"][1]["path"], "../other");

    std::fs::rename(workshop.path("other"), workshop.path("moved")).unwrap();
    let run = workshop.dus(&["verify", "out"]);
    assert!(run.code == 2 && run.stderr.contains("other"), "{run:?}");
    assert!(run.stderr.contains("the model `e` of this build is not where"), "{run:?}");
    assert!(run.stderr.contains("hint: --model e=PATH"), "{run:?}");
    workshop.verified(&["out", "--model", "e=moved"]);
    let run = workshop.dus(&["verify", "out", "--model", "e=recipes/e"]);
    assert!(run.code == 2 && run.stderr.contains("recipes/e"), "{}: {e:?}", run.stderr);
    // A third model may come by a flag.
    workshop.build(&["recipes/r.toml", "--model", "z=moved", "--layers", "x:0 + z:1 + e:2"]);
    let sources = [x.tensors_by_name(), other.tensors_by_name(), e.tensors_by_name()];
    let layers = [(0, 0), (1, 1), (2, 2)];
    splice::assert_same(&workshop.built(), &expected(&sources, &layers, [0, 2, 2]));
}

/// Models of unlike types stay what they are, which is said, unless a cast makes them one.
#[test]
fn unlike_types_are_said_or_made_one() {
    let workshop = Workshop::new();
    let [x, e] = [Dtype::BF16, Dtype::F16].map(|dtype| TinyModel { dtype, ..TinyModel::default() });
    x.write(&workshop.path("x"));
    e.write(&workshop.path("e"));
    let args = ["--model", "x=x", "--model", "e=e", "--layers", "x:0..2 + e:2..4"];
    let summary = workshop.build(&args);
    let notes = summary["notes"].to_string();
    assert!(notes.contains("BF16") && notes.contains("F16") && notes.contains("dtype"), "{notes}");
    let sources = [x, e].map(|model| model.tensors_by_name());
    let layers = [(0, 0), (0, 1), (1, 2), (1, 3)];
    splice::assert_same(&workshop.built(), &expected(&sources, &layers, [0, 1, 1]));
    let summary = workshop.build(&[&args[..], &["--dtype", "float32"]].concat());
    assert_eq!(summary["notes"], json!([]));
    assert!(workshop.built().values().all(|tensor| tensor.dtype == Dtype::F32));
}

/// Each model's own depth counts, and each one's own list of layer kinds.
#[test]
fn of_unlike_depth() {
    let kinds = |kinds: [&str; 2], n: usize| -> Value {
        (0..n).map(|i| format!("{}_attention", kinds[i % 2])).collect()
    };
    let workshop = Workshop::new();
    for (seed, name, n, order) in
        [(0, "x", 4, ["full", "sliding"]), (1, "e", 7, ["sliding", "full"])]
    {
        let model = TinyModel {
            num_hidden_layers: n,
            seed,
            extra_config: vec![("layer_types", kinds(order, n)), ("sliding_window", 8.into())],
            ..TinyModel::of(Family::Qwen3)
        };
        model.write(&workshop.path(name));
    }
    workshop.build(&["--model", "x=x", "--model", "e=e", "--layers", "x:0..n + e:4..n"]);
    let built = &workshop.json_of("config.json")["layer_types"];
    let expected = ["full", "sliding", "full", "sliding", "sliding", "full", "sliding"];
    assert_eq!(
        *built,
        expected.map(|kind| format!("{kind}_attention")).into_iter().collect::<Value>()
    );
    workshop.verified(&["out"]);
}

/// A model's layers between another's embeddings and head are not that model.
#[test]
fn a_model_with_another_s_embeddings_is_not_preserved() {
    let whole = "e:0..n";
    let plan = |keys: &str| workshop(whole, keys).plan(&["recipes/r.toml"]);
    assert_eq!(plan("")["function_preserving"], true);
    assert_eq!(plan("embeddings = \"x\"")["function_preserving"], false);
    assert_eq!(plan("lm_head = \"x\"")["function_preserving"], false);
}

/// Which tensors of an unknown family are embeddings and which are the head, nobody knows.
#[test]
fn globals_of_an_unknown_family_come_from_one_model() {
    let workshop = Workshop::new();
    for (seed, name) in ["x", "e"].into_iter().enumerate() {
        let model = TinyModel { seed: seed as u64, ..TinyModel::of(Family::Gpt2) };
        model.write(&workshop.path(name));
    }
    let models = ["--model", "x=x", "--model", "e=e", "--layers", "x:0..3 + e:1..4"];
    workshop.refused(&models, &["embeddings, norm and head", "one model"], true);
    let one = ["--embeddings", "e", "--norm", "e", "--lm-head", "e"];
    workshop.build(&[&models[..], &one].concat());
}

#[test]
fn verify_wants_the_models_by_name() {
    let workshop = workshop("x:0..3 + e:1..4", "");
    workshop.build(&["recipes/r.toml"]);
    let run = workshop.dus(&["verify", "out", "--base", "recipes/x"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("several models (x, e)"), "{}", run.stderr);
    workshop.verified(&["out", "--model", "x=recipes/x"]);
    TinyModel { num_hidden_layers: 5, ..TinyModel::default() }.write(&workshop.path("other"));
    let run = workshop.dus(&["verify", "out", "--model", "e=other"]);
    assert_eq!(run.code, 2);
    for part in ["other is not the model `e` of this build", "hint: --model e=PATH"] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    let run = workshop.dus(&["verify", "out", "--model", "typo=recipes/x"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("not of a model called typo, but of x, e"), "{}", run.stderr);
}
