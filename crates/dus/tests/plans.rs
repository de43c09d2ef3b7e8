//! Plans against results that are spelt out, and against a naive interpreter of its own syntax.

#[path = "plans/naive.rs"]
mod naive;
#[path = "plans/strategies.rs"]
mod strategies;

use std::collections::HashMap;

use dus::plan::{Action, LayerPlan, ModelDepth, Origin, Plan};
use proptest::prelude::*;

fn base(num_layers: usize) -> Vec<ModelDepth> {
    vec![ModelDepth { name: None, num_layers }]
}

fn named(models: &[(&str, usize)]) -> Vec<ModelDepth> {
    let depth = |&(name, num_layers): &(&str, usize)| ModelDepth {
        name: Some(name.to_owned()),
        num_layers,
    };
    models.iter().map(depth).collect()
}

fn resolve(text: &str, models: &[ModelDepth]) -> LayerPlan {
    let plan = Plan::parse(text).and_then(|plan| plan.resolve(models));
    plan.unwrap_or_else(|error| panic!("{error}"))
}

mod presets {
    use super::*;

    /// The plan, how many layers it comes to, each of them as (model, layer), and J.
    #[track_caller]
    fn check(
        text: &str,
        models: &[ModelDepth],
        num_layers: usize,
        expected: impl IntoIterator<Item = (usize, usize)>,
        discrepancy: usize,
    ) -> LayerPlan {
        let plan = resolve(text, models);
        let sources = plan.layers().iter().map(|layer| layer.source().expect("a plain layer"));
        let sources: Vec<_> = sources.map(|source| (source.model, source.layer)).collect();
        assert_eq!(sources, expected.into_iter().collect::<Vec<_>>());
        assert_eq!(plan.num_layers(), num_layers);
        assert_eq!(plan.discrepancy(), discrepancy);
        plan
    }

    fn of_base(layers: impl IntoIterator<Item = usize>) -> Vec<(usize, usize)> {
        layers.into_iter().map(|layer| (0, layer)).collect()
    }

    #[test]
    fn solar() {
        let layers = of_base((0..48).map(|j| if j < 24 { j } else { j - 16 }));
        for text in ["dus(8)", "dus(s=48)", "0..24 + 8..32", "0..n-8 + 8..n"] {
            let plan = check(text, &base(32), 48, layers.clone(), 16);
            assert_eq!((plan.largest_jump(), plan.seams(), plan.unused()), (16, vec![24], vec![]));
            assert_eq!(plan.to_string(), "0..24 + 8..32");
            let is_new = |j: usize| (24..40).contains(&j);
            for (j, layer) in plan.layers().iter().enumerate() {
                assert_eq!((layer.is_new, layer.copy), (is_new(j), usize::from(is_new(j))));
            }
        }
    }

    #[test]
    fn granite_34b_code() {
        let layers = (0..88).map(|j| if j < 44 { j } else { j - 36 });
        check("dus(8)", &base(52), 88, of_base(layers), 36);
    }

    #[test]
    fn solar_pro() {
        let layers = (0..64).map(|j| if j < 32 { j } else { j - 24 });
        check("dus(8)", &base(40), 64, of_base(layers), 24);
    }

    #[test]
    fn stacked_twice() {
        check("stack(2)", &base(32), 64, of_base((0..64).map(|j| j % 32)), 32);
        check("(0..n)*2", &base(32), 64, of_base((0..64).map(|j| j % 32)), 32);
    }

    #[test]
    fn yi_9b() {
        let layers = (0..48).map(|j| if j < 28 { j } else { j - 16 });
        check("repeat(12, 28)", &base(32), 48, of_base(layers), 16);
    }

    #[test]
    fn blocks_of_eight() {
        let blocks = [0, 8, 8, 16, 16, 24];
        let layers = blocks.iter().flat_map(|&first| (0..8).map(move |offset| first + offset));
        let text = "0..8 + (8..16)*2 + (16..24)*2 + 24..32";
        let plan = check(text, &base(32), 48, of_base(layers), 16);
        assert_eq!(plan.largest_jump(), 8);
    }

    #[test]
    fn interleaved_layer_by_layer() {
        let layers = (0..48).map(|j| if j % 2 == 0 { j / 2 } else { 8 + j / 2 });
        check("interleave(0..24, 8..32)", &base(32), 48, of_base(layers), 352);
    }

    #[test]
    fn llama_pro() {
        let text = "insert(0..n, every=4, copy{o_proj: zero, down_proj: zero})";
        let layers = (0..40).map(|j| j - j / 5 - usize::from(j % 5 == 4));
        assert_eq!(layers.clone().take(6).collect::<Vec<_>>(), [0, 1, 2, 3, 3, 4]);
        let plan = check(text, &base(32), 40, of_base(layers), 8);
        for (j, layer) in plan.layers().iter().enumerate() {
            let is_copy = j % 5 == 4;
            assert_eq!(layer.is_new, is_copy);
            assert_eq!(layer.ops, if is_copy { vec![0, 1] } else { vec![] });
        }
        assert!(plan.ops().iter().all(|op| op.action == Action::Zero && !op.only_new));
        assert!(plan.ops()[1].pattern.matches("mlp.down_proj.weight"));
    }

    #[test]
    fn goliath() {
        let ranges = [
            (0, 0, 16),
            (1, 8, 24),
            (0, 17, 32),
            (1, 25, 40),
            (0, 33, 48),
            (1, 41, 56),
            (0, 49, 64),
            (1, 57, 72),
            (0, 65, 80),
        ];
        let layers =
            ranges.into_iter().flat_map(|(m, start, end)| (start..end).map(move |l| (m, l)));
        let text = "x:0..16 + e:8..24 + x:17..32 + e:25..40 + x:33..48 + e:41..56 + x:49..64 \
                    + e:57..72 + x:65..n";
        let plan = check(text, &named(&[("x", 80), ("e", 80)]), 137, layers, 57);
        assert!(plan.layers().iter().all(|layer| !layer.is_new));
        assert_eq!(plan.seams(), [16, 32, 47, 62, 77, 92, 107, 122]);
    }

    #[test]
    fn the_99_layers_as_published() {
        let text = "0..41 + (19..41){o_proj: zero, down_proj: zero}*2 + 41..55";
        let layers = (0..41).chain((41..85).map(|j| 19 + (j - 41) % 22)).chain(41..55);
        let plan = check(text, &base(56), 99, of_base(layers), 44);
        let unused: Vec<usize> = plan.unused().iter().map(|unused| unused.layer).collect();
        assert_eq!(unused, [55]);
        let zeroed = plan.layers().iter().filter(|layer| layer.ops == [0, 1]);
        assert_eq!(zeroed.map(|layer| layer.copy).collect::<Vec<_>>(), [[1; 22], [2; 22]].concat());
    }
}

fn text_of(expr: &naive::Expr, blanks: &[&str]) -> String {
    let mut tokens = naive::Tokens::default();
    expr.print_plan(&mut tokens);
    tokens.join(blanks)
}

/// Where a layer comes from, in the words of the naive interpreter.
fn describe(origin: &Origin, models: &[(&str, usize)]) -> String {
    let name =
        |source: &dus::plan::LayerRef| format!("{}:{}", models[source.model].0, source.layer);
    match origin {
        Origin::Layer(source) => name(source),
        Origin::Mix(terms) => {
            let terms = terms.iter().map(|(weight, source)| format!("{weight:?}*{}", name(source)));
            format!("mix {}", terms.collect::<Vec<_>>().join(" "))
        }
        Origin::Slerp { from, to, t } => format!("slerp {} {} {t:?}", name(from), name(to)),
    }
}

/// An action in the words of the naive printer.
fn describe_action(action: &Action) -> String {
    match action {
        Action::Zero => "zero".to_owned(),
        Action::Scale(factor) => format!("scale {factor:?}"),
        Action::Noise { sigma, seed: 0 } => format!("noise {sigma:?}"),
        Action::Noise { sigma, seed } => format!("noise {sigma:?} seed = {seed}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expanding_agrees_with_the_naive_interpreter(
        expr in strategies::expr(),
        blanks in strategies::blanks(),
    ) {
        let text = text_of(&expr, &blanks);
        let models = named(&naive::MODELS);
        let plan = Plan::parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let resolved = plan.resolve(&models);

        let mut num_ops = 0;
        let Some(expected) = expr.layers(&mut num_ops) else {
            prop_assert!(resolved.is_err(), "an error is accepted: {text}");
            return Ok(());
        };
        let resolved = resolved.map_err(|error| TestCaseError::fail(error.to_string()))?;

        let ops = expr.ops();
        prop_assert_eq!(resolved.ops().len(), num_ops);
        for (op, expected) in resolved.ops().iter().zip(&ops) {
            prop_assert_eq!(op.only_new, expected.only_new);
            prop_assert_eq!(op.pattern.to_string(), expected.pattern);
            let action = expected.action.strip_suffix(" seed = 0").unwrap_or(&expected.action);
            prop_assert_eq!(describe_action(&op.action), action);
        }

        prop_assert_eq!(resolved.num_layers(), expected.len());
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (layer, (origin, written)) in resolved.layers().iter().zip(expected) {
            let made = origin.contains(' ');
            let copy = seen.entry(origin.clone()).and_modify(|seen| *seen += 1).or_insert(0);
            let is_new = made || *copy > 0;
            prop_assert_eq!(describe(&layer.origin, &naive::MODELS), origin);
            prop_assert_eq!(layer.is_new, is_new);
            prop_assert_eq!(layer.copy, if made { 0 } else { *copy });
            let applied: Vec<usize> =
                written.into_iter().filter(|&op| is_new || !ops[op].only_new).collect();
            prop_assert_eq!(&layer.ops, &applied);
        }
    }

    #[test]
    fn a_printed_plan_parses_to_the_same_plan(
        expr in strategies::expr(),
        blanks in strategies::blanks(),
    ) {
        let plan = Plan::parse(&text_of(&expr, &blanks)).unwrap();
        let printed = plan.to_string();
        let again = Plan::parse(&printed).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&again, &plan);
        prop_assert_eq!(again.to_string(), printed);
    }

    #[test]
    fn printed_layers_resolve_to_the_same_layers(expr in strategies::expr()) {
        let models = named(&naive::MODELS);
        let Ok(plan) = Plan::parse(&text_of(&expr, &[""])).unwrap().resolve(&models) else {
            return Ok(());
        };
        let again = resolve(&plan.to_string(), &models);
        prop_assert_eq!(again.to_string(), plan.to_string());
        prop_assert_eq!(again.num_layers(), plan.num_layers());
        for (again_layer, layer) in again.layers().iter().zip(plan.layers()) {
            prop_assert_eq!(&again_layer.origin, &layer.origin);
            prop_assert_eq!((again_layer.copy, again_layer.is_new), (layer.copy, layer.is_new));
            let ops = |plan: &LayerPlan, ops: &[usize]| -> Vec<_> {
                let op = |&op: &usize| (plan.ops()[op].pattern.clone(), plan.ops()[op].action);
                ops.iter().map(op).collect()
            };
            prop_assert_eq!(ops(&again, &again_layer.ops), ops(&plan, &layer.ops));
        }
    }

    #[test]
    fn no_text_makes_it_panic(
        pieces in prop::collection::vec(
            prop_oneof![
                4 => prop::sample::select(&[
                    "0", "4", "n", "..", ".", "+", "-", "*", "/", "(", ")", "{", "}", ":", ",", "=",
                    "dus", "s", "mix", "insert", "every", "copy", "interleave", "slerp", "new",
                    "zero", "scale", "noise", "seed", "step", "x", "0.5", "1e", "e-3", " ", "\n",
                ][..]).prop_map(str::to_owned),
                1 => any::<char>().prop_map(String::from),
            ],
            0..24,
        ),
    ) {
        let text = pieces.concat();
        let resolved = Plan::parse(&text).and_then(|plan| plan.resolve(&named(&naive::MODELS)));
        if let Err(error) = resolved {
            let rendered = error.to_string();
            prop_assert_eq!(rendered.lines().count(), 3, "{}", rendered);
            prop_assert!(error.column() <= text.chars().count() + 1);
        }
    }
}
