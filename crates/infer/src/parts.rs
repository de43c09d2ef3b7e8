//! A decoder's parts, read and brought to where they belong.

use candle_core::{Device, Tensor};

use crate::anatomy::{self, EMBEDDING, HEAD, NORM, layer_tensor};
use crate::card::Card;
use crate::config::DecoderConfig;
use crate::device::Devices;
use crate::error::{Error, Result};
use crate::feed_forward::FeedForward;
use crate::layer::{Attention, Layer};
use crate::progress::Watch;
use crate::source::WeightSource;
use crate::weight::{Linear, Weight};

/// The final norm, and the matrix behind it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) norm: Tensor,
    pub(crate) matrix: Weight,
}

/// Reads a layer's tensors.
pub(crate) struct Loader<'a> {
    pub(crate) source: &'a dyn WeightSource,
    pub(crate) watch: &'a Watch<'a>,
    pub(crate) config: &'a DecoderConfig,
}

/// What is read: of these none is here that the card has.
pub(crate) struct Parts {
    pub(crate) embedding: Option<Weight>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) head: Option<Head>,
    pub(crate) card: Option<Card>,
}

impl Loader<'_> {
    pub(crate) fn parts(&self, devices: &Devices, has_own_head: bool) -> Result<Parts> {
        let part = devices.card.as_ref();
        let card =
            part.map(|part| Card::load(self.config, self.source, part, has_own_head, self.watch));
        let card = card.transpose()?;
        let is_here = part.is_none_or(|part| !part.has_embedding);
        let embedding = is_here.then(|| self.matrix(EMBEDDING, &devices.embedding)).transpose()?;
        let num_here = part.map_or(devices.layers.len(), |part| part.first_layer);
        let layers = devices.layers[..num_here].iter().enumerate();
        let layers = layers.map(|(layer, device)| self.layer(layer, device));
        let layers = layers.collect::<Result<_>>()?;
        let head = match &card {
            Some(_) => None,
            None => Some(self.head(devices, has_own_head, embedding.as_ref())?),
        };
        Ok(Parts { embedding, layers, head, card })
    }

    fn head(&self, devices: &Devices, is_own: bool, embedding: Option<&Weight>) -> Result<Head> {
        let norm = self.vector(NORM, &devices.head)?;
        let is_shared = devices.head.same_device(&devices.embedding);
        let matrix = match embedding.filter(|_| is_shared && !is_own) {
            Some(embedding) => embedding.clone(),
            None => self.matrix(if is_own { HEAD } else { EMBEDDING }, &devices.head)?,
        };
        Ok(Head { norm, matrix })
    }

    fn matrix(&self, name: &str, device: &Device) -> Result<Weight> {
        self.watch.check()?;
        let matrix = self.source.matrix(name, device)?;
        self.watch.done(self.source.stored_bytes(name));
        Ok(matrix)
    }

    fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        let vector = self.source.vector(name, device)?;
        self.watch.done(self.source.stored_bytes(name));
        Ok(vector)
    }

    fn layer(&self, layer: usize, device: &Device) -> Result<Layer> {
        let config = self.config;
        let vector = |name: &str| self.vector(&layer_tensor(layer, name), device);
        let norm = |name: &str| vector(&format!("{name}.weight"));
        let linear = |name: &str, has_bias: bool| -> Result<Linear> {
            let weight = self.matrix(&layer_tensor(layer, &format!("{name}.weight")), device)?;
            let bias = has_bias.then(|| vector(&format!("{name}.bias"))).transpose()?;
            Ok(Linear { weight, bias })
        };
        let qk_norm =
            || -> Result<_> { Ok((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?)) };
        Ok(Layer {
            input_layernorm: norm("input_layernorm")?,
            attention: Attention {
                q_proj: linear("self_attn.q_proj", config.biases.qkv)?,
                k_proj: linear("self_attn.k_proj", config.biases.qkv)?,
                v_proj: linear("self_attn.v_proj", config.biases.qkv)?,
                o_proj: linear("self_attn.o_proj", config.biases.o)?,
                qk_norm: config.qk_norm.then(qk_norm).transpose()?,
                head_dim: config.head_dim,
                window: config.sliding_windows[layer],
            },
            post_attention_layernorm: norm("post_attention_layernorm")?,
            feed_forward: FeedForward {
                gate_proj: linear("mlp.gate_proj", config.biases.mlp)?,
                up_proj: linear("mlp.up_proj", config.biases.mlp)?,
                down_proj: linear("mlp.down_proj", config.biases.mlp)?,
            },
            rms_norm_eps: config.rms_norm_eps as f32,
        })
    }
}

/// Checks names and shapes; says whether the head is a tensor of its own, and what is odd.
pub(crate) fn check_tensors(
    config: &DecoderConfig,
    source: &dyn WeightSource,
) -> Result<(bool, Vec<String>)> {
    let model = || source.path().to_owned();
    let mut expected = anatomy::expected(config);
    let mut notes = Vec::new();
    if config.tie_word_embeddings && source.shape(HEAD).is_some() {
        // What is stored is used. Where it is the embedding once more, that is the same.
        expected.push(anatomy::Expected {
            name: HEAD.to_owned(),
            shape: vec![config.vocab_size, config.hidden_size],
        });
    }
    let missing: Vec<_> = expected.iter().filter(|e| source.shape(&e.name).is_none()).collect();
    if let Some(first) = missing.first() {
        let tensor = first.name.clone();
        return Err(Error::MissingTensor { model: model(), tensor, more: missing.len() - 1 });
    }
    let names: std::collections::HashSet<&str> =
        expected.iter().map(|expected| expected.name.as_str()).collect();
    let mut extra = source.names();
    extra.retain(|name| !names.contains(name) && !anatomy::is_derived(name));
    if let Some(&first) = extra.first() {
        let tensor = first.to_owned();
        return Err(Error::ExtraTensor { model: model(), tensor, more: extra.len() - 1 });
    }
    for expected in &expected {
        let found = source.shape(&expected.name).unwrap_or(&[]);
        if found != expected.shape {
            return Err(Error::Shape {
                model: model(),
                tensor: expected.name.clone(),
                expected: expected.shape.clone(),
                found: found.to_vec(),
            });
        }
    }
    let mut has_own_head = names.contains(HEAD);
    if has_own_head && config.tie_word_embeddings {
        has_own_head = !source.are_equal(HEAD, EMBEDDING)?;
        if has_own_head {
            notes.push(format!(
                "the config ties the head to the embedding, but {HEAD} holds other numbers: they are used"
            ));
        }
    }
    Ok((has_own_head, notes))
}
