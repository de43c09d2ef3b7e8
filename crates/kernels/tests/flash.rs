//! `kernels/flash.cu` against plain loops.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod reference;

use std::sync::Arc;

use kernels::decode::Element;
use kernels::flash::{Attention, Flash};
use kernels::{Buffer, Gpu};
use reference::card::{self, ELEMENTS, card};
use reference::{Random, halves};

#[derive(Clone, Copy)]
struct Case {
    head_dim: usize,
    num_heads: usize,
    num_kv_heads: usize,
    num_rows: usize,
    start: usize,
    capacity: usize,
    window: Option<usize>,
}

const CASE: Case = Case {
    head_dim: 128,
    num_heads: 4,
    num_kv_heads: 2,
    num_rows: 200,
    start: 0,
    capacity: 256,
    window: None,
};

/// The softmax of each row's scores, times the values.
fn attend(case: Case, stride: usize, queries: &[f32], keys: &[f32], values: &[f32]) -> Vec<f64> {
    let Case { head_dim, num_heads, num_kv_heads, num_rows, start, capacity, window } = case;
    let mut out = Vec::new();
    for row in 0..num_rows {
        for head in 0..num_heads {
            let kv_head = head / (num_heads / num_kv_heads);
            let query = &queries[row * stride + head * head_dim..][..head_dim];
            let end = start + row + 1;
            let begin = window.map_or(0, |window| end.saturating_sub(window));
            let at = |position: usize| (kv_head * capacity + position) * head_dim;
            let weights: Vec<f64> = (begin..end)
                .map(|position| {
                    let key = &keys[at(position)..][..head_dim];
                    let products =
                        query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k));
                    (products.sum::<f64>() / (head_dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for column in 0..head_dim {
                let positions = (begin..end).zip(&weights);
                let sum: f64 =
                    positions.map(|(p, weight)| weight * f64::from(values[at(p) + column])).sum();
                out.push(sum / total);
            }
        }
    }
    out
}

fn check(gpu: &Arc<Gpu>, element: Element, case: Case) {
    let mut random = Random(5);
    let width = case.num_heads * case.head_dim;
    let stride = width + 2 * case.num_kv_heads * case.head_dim;
    let held = case.num_kv_heads * case.capacity * case.head_dim;
    let mut queries = halves(element, &mut random, case.num_rows * stride, 2.0);
    let mut cache = [(); 2].map(|()| halves(element, &mut random, held, 2.0));
    // What no query may see is no number.
    let end = case.start + case.num_rows;
    for numbers in &mut cache {
        for head in numbers.chunks_mut(case.capacity * case.head_dim) {
            head[end * case.head_dim..].fill(f32::NAN);
        }
    }
    queries.chunks_mut(stride).for_each(|row| row[width..].fill(f32::NAN));
    let on_card = |numbers: &[f32]| -> Buffer { card::upload(gpu, element, numbers) };
    let (q, k, v) = (on_card(&queries), on_card(&cache[0]), on_card(&cache[1]));
    let out = card::poisoned(gpu, case.num_rows * width * 2);
    let flash = Flash::new(gpu, element, case.head_dim).unwrap();
    flash
        .attend(&Attention {
            queries: q.at(0),
            query_stride: stride,
            keys: k.at(0),
            values: v.at(0),
            capacity: case.capacity,
            out: out.at(0),
            num_rows: case.num_rows,
            start: case.start,
            window: case.window,
            num_heads: case.num_heads,
            num_kv_heads: case.num_kv_heads,
        })
        .unwrap();
    let found = card::download(element, &out, case.num_rows * width);
    let expected = attend(case, stride, &queries, &cache[0], &cache[1]);
    let Case { head_dim, num_rows, start, window, .. } = case;
    let what = format!("{element:?} {head_dim} wide, {num_rows} from {start}, {window:?}");
    card::check_close(&what, &found, &expected, 1.5 * card::epsilon(element));
}

#[test]
fn attention_is_that_of_plain_loops() {
    let Some(gpu) = card() else { return };
    for element in ELEMENTS {
        for head_dim in [32, 64, 96, 128] {
            check(&gpu, element, Case { head_dim, ..CASE });
            check(&gpu, element, Case { head_dim, num_rows: 70, start: 57, ..CASE });
        }
    }
}

#[test]
fn rows_see_a_window() {
    let Some(gpu) = card() else { return };
    for window in [1, 7, 64, 100, 150, 1000] {
        check(&gpu, Element::F16, Case { window: Some(window), ..CASE });
        let later = Case { start: 300, num_rows: 141, capacity: 600, ..CASE };
        check(&gpu, Element::F16, Case { window: Some(window), ..later });
    }
}

#[test]
fn any_number_of_rows_and_heads_will_do() {
    let Some(gpu) = card() else { return };
    for (num_rows, start) in [(1, 0), (1, 200), (16, 3), (63, 64), (65, 127), (128, 0), (129, 1)] {
        check(&gpu, Element::BF16, Case { num_rows, start, ..CASE });
    }
    for (num_heads, num_kv_heads) in [(1, 1), (3, 3), (9, 3), (7, 1)] {
        check(&gpu, Element::F16, Case { num_heads, num_kv_heads, head_dim: 64, ..CASE });
    }
}
