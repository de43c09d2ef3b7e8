//! Random plans, of which about half are right for the models, and random blanks.

use super::naive::{Depth, Expr, Op, Ref};
use proptest::prelude::*;

fn depth() -> impl Strategy<Value = Depth> {
    prop_oneof![
        6 => (0..7usize).prop_map(Depth::Plain),
        2 => Just(Depth::N),
        2 => (0..7usize).prop_map(Depth::Minus),
        1 => (1..5usize).prop_map(Depth::Over),
    ]
}

fn model() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![3 => Just(None), 1 => Just(Some(0)), 2 => Just(Some(1))]
}

/// Mostly of layers that exist; `n` stands only where the grammar lets it.
fn reference() -> impl Strategy<Value = Ref> {
    let range =
        (0..4usize, 1..4usize, prop::option::of(1..4usize)).prop_map(|(start, len, step)| {
            (Depth::Plain(start), Some((Depth::Plain(start + len), step)))
        });
    let any_range = (depth(), depth(), prop::option::of(1..4usize))
        .prop_map(|(start, end, step)| (start, Some((end, step))));
    let single = (0..5usize).prop_map(|layer| (Depth::Plain(layer), None));
    let bounds = prop_oneof![6 => range, 3 => any_range, 2 => single];
    (model(), bounds).prop_map(|(model, (start, end))| Ref { model, start, end })
}

fn single() -> impl Strategy<Value = Ref> {
    (model(), 0..4usize).prop_map(|(model, layer)| Ref {
        model,
        start: Depth::Plain(layer),
        end: None,
    })
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.5),
        Just(-0.25),
        Just(3.0),
        any::<f64>().prop_filter("finite", |number| number.is_finite()),
    ]
}

const PATTERNS: [&str; 7] =
    ["o_proj", "*", "mlp.*.weight", "experts.0.1", "new", "new.zero", "3d.2e3"];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let action = prop_oneof![
        Just("zero".to_owned()),
        number().prop_map(|factor| format!("scale {factor:?}")),
        number().prop_map(|sigma| format!("noise {:?}", sigma.abs())),
        (number(), any::<u64>())
            .prop_map(|(sigma, seed)| format!("noise {:?} seed = {seed}", sigma.abs())),
    ];
    let op = (any::<bool>(), prop::sample::select(&PATTERNS[..]), action)
        .prop_map(|(only_new, pattern, action)| Op { only_new, pattern, action });
    prop::collection::vec(op, 0..3)
}

fn leaf() -> impl Strategy<Value = Expr> {
    let mix_of = |layers| prop::collection::vec((number(), layers), 1..4).prop_map(Expr::Mix);
    prop_oneof![
        6 => reference().prop_map(Expr::Layers),
        1 => depth().prop_map(Expr::Dus),
        1 => (5..14usize).prop_map(Expr::DusTo),
        1 => (depth(), depth()).prop_map(|(i, j)| Expr::Repeat(i, j)),
        1 => (1..4usize).prop_map(Expr::Stack),
        2 => (reference(), 1..4usize, ops()).prop_map(|(r, k, ops)| Expr::Insert(r, k, ops)),
        1 => mix_of(single().boxed()),
        1 => mix_of(reference().boxed()),
        1 => (single(), single(), number()).prop_map(|(a, b, t)| Expr::Slerp(a, b, t)),
        1 => (reference(), number()).prop_map(|(a, t)| Expr::Slerp(a.clone(), a, t)),
    ]
}

pub(super) fn expr() -> impl Strategy<Value = Expr> {
    leaf().prop_recursive(4, 16, 3, |inner| {
        let group = || prop::option::of(1..4usize);
        let boxed = || inner.clone().prop_map(Box::new);
        let turned = |a: Box<Expr>| Box::new(Expr::Sum(vec![*a]));
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(Expr::Sum),
            3 => (boxed(), ops()).prop_map(|(inner, ops)| Expr::With(inner, ops)),
            2 => (boxed(), 1..4usize).prop_map(|(inner, times)| Expr::Times(inner, times)),
            1 => (boxed(), boxed(), group()).prop_map(|(a, b, k)| Expr::Interleave(a, b, k)),
            // Parts of one length.
            2 => (boxed(), group())
                .prop_map(move |(a, k)| Expr::Interleave(a.clone(), turned(a), k)),
        ]
    })
}

pub(super) fn blanks() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(&["", " ", "\n", "\t ", "\r\n"][..]), 1..6)
}
