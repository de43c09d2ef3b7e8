//! Products by cuBLASLt against plain loops.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod reference;

use std::sync::Arc;

use kernels::Gpu;
use kernels::decode::Element;
use kernels::gemm::{Gemm, Sizes, Sums, flops_per_second};
use reference::card::{self, ELEMENTS, card};
use reference::{Random, halves, numbers};

fn check(gpu: &Arc<Gpu>, gemm: &mut Gemm, element: Element, sizes: Sizes) {
    let Sizes { rows, outputs, inputs } = sizes;
    let mut random = Random(3);
    let x = halves(element, &mut random, rows * inputs, 1.0);
    let matrix = halves(element, &mut random, outputs * inputs, 1.0);
    let before = numbers(&mut random, rows * outputs, 1.0);
    let mut expected = Vec::new();
    for x in x.chunks(inputs) {
        for row in matrix.chunks(inputs) {
            let products = x.iter().zip(row).map(|(&x, &w)| f64::from(x) * f64::from(w));
            expected.push(products.sum::<f64>());
        }
    }
    let (x, matrix) = (card::upload(gpu, element, &x), card::upload(gpu, element, &matrix));
    let mut multiply = |sums: Sums, out: &kernels::Buffer| {
        gemm.multiply(x.at(0), matrix.at(0), sizes, sums, out.at(0)).unwrap();
    };
    let what = format!("{element:?} {rows} × {outputs} × {inputs}");

    let out = card::poisoned(gpu, rows * outputs * 2);
    multiply(Sums::Rounded, &out);
    let found = card::download(element, &out, rows * outputs);
    card::check_close(&format!("{what}, rounded"), &found, &expected, card::epsilon(element));

    let mut found = vec![0.0; rows * outputs];
    let out = gpu.upload(&vec![f32::NAN; rows * outputs]).unwrap();
    multiply(Sums::Stored, &out);
    out.read(0, &mut found).unwrap();
    card::check_close(&format!("{what}, stored"), &found, &expected, 1e-5);

    let out = gpu.upload(&before).unwrap();
    multiply(Sums::Added, &out);
    out.read(0, &mut found).unwrap();
    expected.iter_mut().zip(&before).for_each(|(sum, &before)| *sum += f64::from(before));
    card::check_close(&format!("{what}, added"), &found, &expected, 1e-5);
}

#[test]
fn products_are_those_of_plain_loops() {
    let Some(gpu) = card() else { return };
    for element in ELEMENTS {
        let mut gemm = match Gemm::new(&gpu, element) {
            Ok(gemm) => gemm,
            Err(error) => return println!("skipped: {error}"),
        };
        for (rows, outputs, inputs) in
            [(1, 64, 32), (7, 301, 96), (64, 128, 576), (130, 257, 1024), (1, 1001, 64)]
        {
            check(&gpu, &mut gemm, element, Sizes { rows, outputs, inputs });
        }
    }
}

#[test]
fn a_large_product_is_fast() {
    let Some(gpu) = card() else { return };
    for element in ELEMENTS {
        match flops_per_second(&gpu, element) {
            Ok(flops) => {
                println!("{element:?}: {:.1} TFLOP/s", flops / 1e12);
                // No card with matrix units is slower, and none is so fast.
                assert!((1e12..1e17).contains(&flops), "{flops}");
            }
            Err(error) => println!("skipped: {error}"),
        }
    }
}
