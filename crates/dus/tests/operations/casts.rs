//! Casts: exact numbers, exact counts, and what is never cast.

use half::{bf16, f16};
use serde_json::{Value, json};
use testkit::{ConfigForm, Dtype, Family, Tensor, TinyModel, splice};

use crate::bases;
use crate::numbers::{numbers, tensor};
use crate::workshop::{LAYERS, Workshop};

const DTYPES: [(Dtype, &str); 3] =
    [(Dtype::BF16, "bfloat16"), (Dtype::F16, "float16"), (Dtype::F32, "float32")];

/// A base of an unknown family with the tensors `tensors` in its only layer.
fn base_of(tensors: &[(&str, Tensor)]) -> Workshop {
    let workshop = Workshop::new();
    let named = |(name, tensor): &(&str, Tensor)| (format!("h.0.{name}"), tensor.clone());
    let tensors: Vec<_> = tensors.iter().map(named).collect();
    let config = json!({ "model_type": "unheard-of", "num_hidden_layers": 1 });
    bases::write(&workshop.path("base"), &config, &tensors);
    workshop
}

/// Numbers that became others, those of them that became zero, and those that became infinite.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    lossy: u64,
    flushed: u64,
    overflowed: u64,
}

impl Counts {
    fn of(before: &[f32], after: &[f32]) -> Self {
        let mut counts = Self::default();
        for (&before, &after) in before.iter().zip(after) {
            if before.is_finite() && after.is_infinite() {
                counts.overflowed += 1;
            } else if before.is_finite() && before.to_bits() != after.to_bits() {
                counts.lossy += 1;
                counts.flushed += u64::from(after == 0.0);
            }
        }
        counts
    }

    #[track_caller]
    fn reported(summary: &Value) -> Self {
        let number = |key: &str| summary["cast"][key].as_u64().unwrap();
        Self {
            lossy: number("lossy"),
            flushed: number("flushed"),
            overflowed: number("overflowed"),
        }
    }
}

/// Numbers in all of f32's binades, ties and their neighbours among them.
fn wide() -> Vec<f32> {
    let mut numbers = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY];
    for exponent in 0..=254_u32 {
        for fraction in
            [0, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0x1_8000, 0x7f_ffff]
        {
            for sign in [0, 1 << 31] {
                numbers.push(f32::from_bits(sign | exponent << 23 | fraction));
            }
        }
    }
    numbers
}

/// Casts each type to each, over every pattern of 16 bits or over f32's binades.
#[test]
fn are_exact_and_counted() {
    for (from, _) in DTYPES {
        let every = || (0..=u16::MAX).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let source = match from {
            Dtype::F32 => tensor(from, &[wide().len()], &wide()),
            _ => Tensor::new(from, &[256, 256], every()),
        };
        let before = numbers(&source);
        let workshop = base_of(&[("mlp.weight", source.clone())]);
        for (to, name) in DTYPES {
            let args = ["base", "--layers", "(0)*3", "--dtype", name, "--allow-overflow"];
            let summary = workshop.build(&args);
            let built = workshop.built();
            let found = &built["h.2.mlp.weight"];
            assert!(built.values().all(|tensor| tensor == found));
            if from == to {
                assert_eq!(*found, source);
                assert_eq!(Counts::reported(&summary), Counts::default());
                continue;
            }
            let expected = numbers(&tensor(to, &source.shape, &before));
            assert_eq!((found.dtype, &found.shape), (to, &source.shape));
            for ((&before, expected), found) in before.iter().zip(&expected).zip(numbers(found)) {
                assert!(
                    expected.to_bits() == found.to_bits() || expected.is_nan() && found.is_nan(),
                    "{before:e} from {from} to {to}: {found:e}, not {expected:e}"
                );
            }
            let once = Counts::of(&before, &expected);
            let reported = Counts::reported(&summary);
            // A source that goes to three places is converted once, and its losses are its own.
            let thrice = Counts {
                lossy: 3 * once.lossy,
                flushed: 3 * once.flushed,
                overflowed: 3 * once.overflowed,
            };
            assert!(reported == once || reported == thrice, "{reported:?}, not {once:?}");
            assert_eq!(summary["computed_bytes"], 3 * found.bytes.len());
            workshop.verified(&["out"]);
        }
    }
}

/// The numbers that weights have survive the way from BF16 to F16, and are found in the index's size.
#[test]
fn of_a_whole_model() {
    for config_form in [ConfigForm::Old, ConfigForm::New] {
        let model = TinyModel { config_form, num_shards: Some(2), ..TinyModel::of(Family::Qwen2) };
        let workshop = Workshop::with(&model);
        let source = splice::expected(&model.tensors_by_name(), &LAYERS, "model.layers");
        for (to, name) in DTYPES {
            let summary = workshop.build_base(&["--dtype", name, "--max-shard-size", "9KB"]);
            let cast = |(name, from): (&String, &Tensor)| {
                (name.clone(), tensor(to, &from.shape, &numbers(from)))
            };
            splice::assert_same(&workshop.built(), &source.iter().map(cast).collect());
            assert_eq!(Counts::reported(&summary), Counts::default());
            let config = workshop.json_of("config.json");
            let (key, other) = match config_form {
                ConfigForm::Old => ("torch_dtype", "dtype"),
                ConfigForm::New => ("dtype", "torch_dtype"),
            };
            assert_eq!((&config[key], config.get(other)), (&name.into(), None));
            workshop.verified(&["out"]);
        }
    }
}

#[test]
fn an_overflow_leaves_nothing_unless_it_is_allowed() {
    let source = tensor(Dtype::BF16, &[5], &[1.0, 1e5, -3e38, 65504.0, f32::INFINITY]);
    let workshop =
        base_of(&[("mlp.weight", source), ("norm.weight", tensor(Dtype::F32, &[1], &[70000.0]))]);
    let args = ["base", "--layers", "0", "--dtype", "float16"];
    workshop.refused(&args, &["4 values", "float16"], false);
    let hint = workshop.dus(&[&["build"], &args[..], &["-o", "out"]].concat()).stderr;
    assert!(hint.contains("--allow-overflow"), "{hint}");
    assert!(!workshop.path("out").exists());

    let summary = workshop.build(&[&args[..], &["--allow-overflow"]].concat());
    // 65,504 is no BF16; the nearest is 65,536, which no F16 is.
    assert_eq!(bf16::from_f32(65504.0), bf16::from_f32(65536.0));
    assert_eq!(f16::MAX, f16::from_f32(65504.0));
    assert_eq!(summary["cast"]["overflowed"], 4);
    let inf = f32::INFINITY;
    assert_eq!(numbers(&workshop.built()["h.0.mlp.weight"]), [1.0, inf, -inf, inf, inf]);
    assert_eq!(numbers(&workshop.built()["h.0.norm.weight"]), [inf]);
    workshop.verified(&["out"]);
}

/// Integers and bools are no numbers to be rounded.
#[test]
fn leave_integers_and_bools_alone() {
    let others: Vec<(&str, Tensor)> = [
        ("mask", Dtype::BOOL, vec![3, 3]),
        ("codes", Dtype::U8, vec![7]),
        ("positions", Dtype::I64, vec![2]),
        ("offsets", Dtype::I32, vec![]),
        ("short", Dtype::U16, vec![3]),
        ("empty", Dtype::I8, vec![0]),
    ]
    .into_iter()
    .map(|(name, dtype, shape)| (name, bases::bytes(name, dtype, &shape).1))
    .collect();
    let weight = tensor(Dtype::BF16, &[3], &[1.0, -2.5, 0.0]);
    let empty = Tensor::new(Dtype::BF16, &[0, 3], []);
    let workshop = base_of(&[&others[..], &[("weight", weight), ("nothing", empty)]].concat());
    for (to, dtype) in DTYPES {
        workshop.build(&["base", "--layers", "(0)*2", "--dtype", dtype]);
        let built = workshop.built();
        for (name, tensor) in &others {
            assert_eq!(built[&format!("h.1.{name}")], *tensor, "{name} to {dtype}");
        }
        assert_eq!(built["h.1.weight"], tensor(to, &[3], &[1.0, -2.5, 0.0]));
        assert_eq!(built["h.1.nothing"], Tensor::new(to, &[0, 3], []));
        workshop.verified(&["out"]);
    }
}

/// A tensor that cannot be cast stops plan and build alike: its header tells.
#[test]
fn of_f64_are_foreseen() {
    let wide = bases::bytes("wide", Dtype::F64, &[2]).1;
    let workshop =
        base_of(&[("wide", wide.clone()), ("weight", tensor(Dtype::BF16, &[1], &[1.0]))]);
    workshop.build(&["base", "--layers", "(0)*2"]);
    assert_eq!(workshop.built()["h.1.wide"], wide);
    std::fs::remove_dir_all(workshop.path("out")).unwrap();
    workshop.refused(
        &["base", "--layers", "(0)*2", "--dtype", "float16"],
        &["h.0.wide", "F64"],
        true,
    );
    workshop.refused(&["base", "--layers", "0{wide: scale 2}"], &["h.0.wide", "F64"], true);
}

/// An operation and a cast are one step: rounded once.
#[test]
fn come_after_operations() {
    let source = Tensor::random("source", Dtype::F32, &[64, 16], 0.0);
    let workshop = base_of(&[("mlp.weight", source.clone())]);
    for (to, name) in DTYPES {
        workshop.build(&["base", "--layers", "0 + 0{mlp: scale 0.3}", "--dtype", name]);
        let product: Vec<f32> = numbers(&source).iter().map(|number| number * 0.3).collect();
        let built = workshop.built();
        assert_eq!(built["h.0.mlp.weight"], tensor(to, &[64, 16], &numbers(&source)));
        assert_eq!(built["h.1.mlp.weight"], tensor(to, &[64, 16], &product));
    }
}
