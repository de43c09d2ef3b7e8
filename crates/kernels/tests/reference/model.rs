//! Small models on the card, and the same in plain numbers.

use std::sync::Arc;

use kernels::decode::{Decoder, Element, LayerWeights, Shape, Weights};
use kernels::forms::{Form, Matrix};
use kernels::{Buffer, Gpu};

use super::{Numbers, Random, Reference, ReferenceLayer};

/// A model on the card, and the same in plain numbers.
pub(crate) struct Pair {
    pub(crate) decoder: Decoder,
    pub(crate) reference: Reference,
}

/// What is unlike others about a model.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) element: Element,
    /// The form of all matrices, and of the embedding.
    pub(crate) form: Form,
    /// Whether they have all forms instead, one after the other.
    pub(crate) is_mixed: bool,
    pub(crate) has_biases: bool,
    pub(crate) has_qk_norm: bool,
    pub(crate) window: Option<usize>,
}

pub(crate) const TINY: Shape = Shape {
    hidden_size: 256,
    intermediate_size: 512,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 64,
    vocab_size: 301,
    rms_norm_eps: 1e-5,
};

pub(crate) const CASE: Case = Case {
    shape: TINY,
    element: Element::F16,
    form: Form::Dense,
    is_mixed: false,
    has_biases: false,
    has_qk_norm: false,
    window: None,
};

pub(crate) const NUM_LAYERS: usize = 3;
pub(crate) const POSITIONS: usize = 512;

pub(crate) fn pair(gpu: &Arc<Gpu>, case: Case) -> Pair {
    pair_for(gpu, case, POSITIONS)
}

/// The same, for so many positions.
pub(crate) fn pair_for(gpu: &Arc<Gpu>, case: Case, positions: usize) -> Pair {
    let shape = case.shape;
    let mut random = Random(7);
    let (queries, keys) =
        (shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim);
    let mut all_forms = [Form::Dense, Form::Q8_0, Form::Q4K].into_iter().cycle();
    let mut matrix = |outputs: usize, inputs: usize| -> (Matrix, Numbers, Form) {
        let form = if case.is_mixed { all_forms.next().unwrap() } else { case.form };
        let (bytes, numbers) = super::matrix(&mut random, form, case.element, outputs, inputs);
        (Matrix::upload(gpu, form, &bytes, inputs).unwrap(), numbers, form)
    };
    let mut sizes = Random(11);
    let mut vector = |n: usize, mean: f32, spread: f32| -> (Arc<Buffer>, Vec<f32>) {
        let numbers: Vec<f32> = (0..n).map(|_| mean + spread * sizes.normal()).collect();
        (Arc::new(gpu.upload(&numbers).unwrap()), numbers)
    };
    let (embedding, embedding_numbers, _) = matrix(shape.vocab_size, shape.hidden_size);
    let (head, head_numbers, head_form) = matrix(shape.vocab_size, shape.hidden_size);
    let (norm, norm_numbers) = vector(shape.hidden_size, 1.0, 0.1);
    let mut layers = Vec::new();
    let mut plain = Vec::new();
    for _ in 0..NUM_LAYERS {
        let (qkv, qkv_numbers, qkv_form) = matrix(queries + 2 * keys, shape.hidden_size);
        let (o, o_numbers, o_form) = matrix(shape.hidden_size, queries);
        let (gate_up, gate_up_numbers, gate_up_form) =
            matrix(2 * shape.intermediate_size, shape.hidden_size);
        let (down, down_numbers, down_form) = matrix(shape.hidden_size, shape.intermediate_size);
        let (input_norm, input_norm_numbers) = vector(shape.hidden_size, 1.0, 0.1);
        let (post_norm, post_norm_numbers) = vector(shape.hidden_size, 1.0, 0.1);
        let outputs =
            [queries + 2 * keys, shape.hidden_size, 2 * shape.intermediate_size, shape.hidden_size];
        let biases = outputs.map(|n| case.has_biases.then(|| vector(n, 0.0, 0.3)));
        let qk_norm = case
            .has_qk_norm
            .then(|| (vector(shape.head_dim, 1.0, 0.2), vector(shape.head_dim, 1.0, 0.2)));
        layers.push(LayerWeights {
            qkv,
            o,
            gate_up,
            down,
            input_norm,
            post_norm,
            qk_norm: qk_norm.as_ref().map(|(q, k)| (Arc::clone(&q.0), Arc::clone(&k.0))),
            biases: biases
                .each_ref()
                .map(|bias| bias.as_ref().map(|(buffer, _)| Arc::clone(buffer))),
            window: case.window,
        });
        plain.push(ReferenceLayer {
            forms: [qkv_form, o_form, gate_up_form, down_form],
            matrices: [qkv_numbers, o_numbers, gate_up_numbers, down_numbers],
            norms: [input_norm_numbers, post_norm_numbers],
            qk_norm: qk_norm.map(|(q, k)| (q.1, k.1)),
            biases: biases.map(|bias| bias.map(|(_, numbers)| numbers)),
            window: case.window,
        });
    }
    let angles = super::angles(positions, shape.head_dim);
    let weights = Weights { embedding, layers, norm, head };
    let decoder = Decoder::new(gpu, shape, case.element, weights, [&angles.0, &angles.1]).unwrap();
    let reference = Reference {
        shape,
        element: case.element,
        embedding: embedding_numbers,
        head: head_numbers,
        head_form,
        norm: norm_numbers,
        layers: plain,
        angles,
    };
    Pair { decoder, reference }
}
