//! `kernels/rows.cu` against plain loops.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod reference;

use std::sync::Arc;

use kernels::decode::Element;
use kernels::forms::{Form, Matrix};
use kernels::rows::{Rows, Turn};
use kernels::{Buffer, Gpu};
use reference::card::{self, ELEMENTS, card, check_close, epsilon};
use reference::{Random, halves, numbers};

const FORMS: [(Form, usize); 6] = [
    (Form::Dense, 96),
    (Form::Dense, 1056),
    (Form::Q8_0, 576),
    (Form::Q8_0, 2112),
    (Form::Q4K, 256),
    (Form::Q4K, 2304),
];

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

fn floats(buffer: &Buffer, count: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; count];
    buffer.read(0, &mut numbers).unwrap();
    numbers
}

fn each(mut check: impl FnMut(&Arc<Gpu>, &Rows, Element)) {
    let Some(gpu) = card() else { return };
    for element in ELEMENTS {
        check(&gpu, &Rows::new(&gpu, element).unwrap(), element);
    }
}

#[test]
fn rows_of_embeddings_are_those_of_the_matrix() {
    each(|gpu, rows, element| {
        for (form, inputs) in FORMS {
            let (bytes, numbers) = reference::matrix(&mut Random(1), form, element, 50, inputs);
            let matrix = Matrix::upload(gpu, form, &bytes, inputs).unwrap();
            let tokens = [3, 49, 0, 3, 17];
            let x = gpu.upload(&vec![f32::NAN; tokens.len() * inputs]).unwrap();
            rows.embed(&matrix, &tokens, x.at(0)).unwrap();
            let found = floats(&x, tokens.len() * inputs);
            let row = |&token: &u32| wide(&numbers[token as usize * inputs..][..inputs]);
            let expected: Vec<f64> = tokens.iter().flat_map(row).collect();
            check_close(&format!("{element:?} {form:?} {inputs}"), &found, &expected, 1e-6);
        }
    });
}

#[test]
fn unpacked_matrices_are_rounded_and_no_more() {
    each(|gpu, rows, element| {
        for (form, inputs) in FORMS {
            let (bytes, numbers) = reference::matrix(&mut Random(2), form, element, 37, inputs);
            let matrix = Matrix::upload(gpu, form, &bytes, inputs).unwrap();
            let out = card::poisoned(gpu, 37 * inputs * 2);
            rows.unpack(&matrix, out.at(0)).unwrap();
            let found = card::download(element, &out, 37 * inputs);
            let what = format!("{element:?} {form:?} {inputs}");
            check_close(&what, &found, &wide(&numbers), epsilon(element));
        }
    });
}

#[test]
fn rows_are_normed() {
    each(|gpu, rows, element| {
        for hidden in [32, 576, 4096, 5120] {
            let (x, weight) =
                (numbers(&mut Random(3), 5 * hidden, 9.0), numbers(&mut Random(4), hidden, 1.5));
            let on_card = (gpu.upload(&x).unwrap(), gpu.upload(&weight).unwrap());
            let out = card::poisoned(gpu, 5 * hidden * 2);
            rows.norm(on_card.0.at(0), 5, &on_card.1, 1e-5, out.at(0)).unwrap();
            let mut expected = Vec::new();
            for row in wide(&x).chunks(hidden) {
                let mean = row.iter().map(|x| x * x).sum::<f64>() / hidden as f64;
                let scale = 1.0 / (mean + 1e-5).sqrt();
                expected.extend(row.iter().zip(wide(&weight)).map(|(x, w)| x * scale * w));
            }
            let found = card::download(element, &out, 5 * hidden);
            check_close(&format!("{element:?} {hidden}"), &found, &expected, epsilon(element));
        }
    });
}

#[derive(Clone, Copy)]
struct Case {
    heads: [usize; 3],
    has_bias: bool,
    has_norms: bool,
    scale: f32,
}

fn check_turn(gpu: &Arc<Gpu>, rows: &Rows, element: Element, case: Case) {
    let [num_heads, num_kv_heads, head_dim] = case.heads;
    let (num_rows, start, capacity, eps) = (5, 11, 19, 1e-6);
    let (width, half) = (num_heads + 2 * num_kv_heads, head_dim / 2);
    let mut random = Random(6);
    let qkv = halves(element, &mut random, num_rows * width * head_dim, 3.0);
    let bias = numbers(&mut random, width * head_dim, 2.0);
    let norms = [numbers(&mut random, head_dim, 2.0), numbers(&mut random, head_dim, 2.0)];
    let (cos, sin) = reference::angles(capacity, head_dim);

    let mut queries = Vec::new();
    let mut cache = [(); 2].map(|()| vec![0.0; num_kv_heads * capacity * head_dim]);
    for row in 0..num_rows {
        for head in 0..width {
            let from = &qkv[(row * width + head) * head_dim..][..head_dim];
            let mut x = wide(from);
            if case.has_bias {
                let bias = &bias[head * head_dim..][..head_dim];
                x.iter_mut().zip(bias).for_each(|(x, &bias)| *x += f64::from(bias));
            }
            let is_query = head < num_heads;
            let is_value = head >= num_heads + num_kv_heads;
            if !is_value {
                if case.has_norms {
                    let mean = x.iter().map(|x| x * x).sum::<f64>() / head_dim as f64;
                    let norm = &norms[usize::from(!is_query)];
                    let scale = 1.0 / (mean + eps).sqrt();
                    x.iter_mut().zip(norm).for_each(|(x, &norm)| *x *= scale * f64::from(norm));
                }
                for i in 0..half {
                    let angle = (start + row) * half + i;
                    let (cos, sin) = (f64::from(cos[angle]), f64::from(sin[angle]));
                    (x[i], x[i + half]) =
                        (x[i] * cos - x[i + half] * sin, x[i + half] * cos + x[i] * sin);
                }
            }
            if is_query {
                queries.extend(x.iter().map(|x| x * f64::from(case.scale)));
            } else {
                let kv_head = (head - num_heads) % num_kv_heads;
                let at = (kv_head * capacity + start + row) * head_dim;
                cache[usize::from(is_value)][at..][..head_dim].copy_from_slice(&x);
            }
        }
    }

    let held = num_kv_heads * capacity * head_dim;
    let on_card = card::upload(gpu, element, &qkv);
    let bias = gpu.upload(&bias).unwrap();
    let norms = norms.map(|norm| gpu.upload(&norm).unwrap());
    let angles = [gpu.upload(&cos).unwrap(), gpu.upload(&sin).unwrap()];
    let [keys, values] = [(); 2].map(|()| gpu.zeros(held * 2).unwrap());
    rows.turn(&Turn {
        qkv: on_card.at(0),
        bias: case.has_bias.then_some(&bias),
        norms: case.has_norms.then_some((&norms[0], &norms[1])),
        eps: eps as f32,
        scale: case.scale,
        angles: &angles,
        keys: keys.at(0),
        values: values.at(0),
        capacity,
        num_rows,
        start,
        num_heads,
        num_kv_heads,
        head_dim,
    })
    .unwrap();
    let found = card::download(element, &on_card, num_rows * width * head_dim);
    let found: Vec<f32> = found
        .chunks(width * head_dim)
        .flat_map(|row| &row[..num_heads * head_dim])
        .copied()
        .collect();
    let what = format!("{element:?} {num_heads}/{num_kv_heads} heads of {head_dim}");
    let most = epsilon(element);
    check_close(&format!("{what}: queries"), &found, &queries, most);
    check_close(&format!("{what}: keys"), &card::download(element, &keys, held), &cache[0], most);
    check_close(
        &format!("{what}: values"),
        &card::download(element, &values, held),
        &cache[1],
        most,
    );
}

#[test]
fn heads_are_turned_and_kept() {
    each(|gpu, rows, element| {
        for heads in [[4, 2, 128], [9, 3, 64], [3, 3, 96], [8, 1, 32]] {
            let case = Case { heads, has_bias: false, has_norms: false, scale: 1.0 };
            check_turn(gpu, rows, element, case);
            check_turn(gpu, rows, element, Case { has_bias: true, ..case });
            check_turn(gpu, rows, element, Case { has_norms: true, scale: 0.3, ..case });
        }
    });
}

#[test]
fn gates_are_silu_of_one_half_times_the_other() {
    each(|gpu, rows, element| {
        for (intermediate, has_bias) in [(96, false), (1568, true), (14_336, false)] {
            let mut random = Random(8);
            let mut x = halves(element, &mut random, 3 * 2 * intermediate, 6.0);
            x[0] = -60_000.0;
            let bias = numbers(&mut random, 2 * intermediate, 1.0);
            let mut expected = Vec::new();
            for row in x.chunks(2 * intermediate) {
                let biased =
                    |i: usize| f64::from(row[i]) + if has_bias { f64::from(bias[i]) } else { 0.0 };
                expected.extend((0..intermediate).map(|i| {
                    let gate = biased(i);
                    gate / (1.0 + (-gate).exp()) * biased(i + intermediate)
                }));
            }
            let on_card = card::upload(gpu, element, &x);
            let bias = gpu.upload(&bias).unwrap();
            let out = card::poisoned(gpu, 3 * intermediate * 2);
            let bias = has_bias.then_some(&bias);
            rows.gate(on_card.at(0), 3, intermediate, bias, out.at(0)).unwrap();
            let found = card::download(element, &out, 3 * intermediate);
            check_close(
                &format!("{element:?} {intermediate}"),
                &found,
                &expected,
                epsilon(element),
            );
        }
    });
}

#[test]
fn biases_are_added() {
    each(|gpu, rows, _| {
        let (x, bias) = (numbers(&mut Random(9), 3 * 301, 1.0), numbers(&mut Random(10), 301, 1.0));
        let on_card = (gpu.upload(&x).unwrap(), gpu.upload(&bias).unwrap());
        rows.add_bias(on_card.0.at(0), 3, &on_card.1).unwrap();
        let sum = |row: &[f32]| -> Vec<f64> {
            row.iter().zip(&bias).map(|(&x, &bias)| f64::from(x + bias)).collect()
        };
        let expected: Vec<f64> = x.chunks(301).flat_map(sum).collect();
        check_close("biases", &floats(&on_card.0, 3 * 301), &expected, 1e-7);
    });
}
