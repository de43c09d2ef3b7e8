//! What a build without kernels of our own has in their place: nothing, of which there is never one.

use std::ops::Range;

use candle_core::Tensor;

use super::Choosing;
use crate::config::DecoderConfig;
use crate::device::CardPart;
use crate::error::{Error, Result};
use crate::progress::Watch;
use crate::sampling::Sampling;
use crate::source::WeightSource;

/// A part of a model on a GPU.
#[derive(Debug)]
pub(crate) enum Card {}

/// The keys and values of a sequence there.
#[derive(Debug)]
pub(crate) enum CardCache {}

/// What has occurred in a sequence.
#[derive(Debug)]
pub(crate) enum CardHistory {}

/// What kernels of our own take beside weights and caches.
pub(crate) fn work_bytes(_: &DecoderConfig, _: bool) -> u64 {
    0
}

/// Why kernels of our own do not have a model.
pub(crate) fn unsupported(_: &DecoderConfig) -> Option<String> {
    None
}

impl Card {
    pub(crate) fn load(
        _: &DecoderConfig,
        _: &dyn WeightSource,
        _: &CardPart,
        _: bool,
        _: &Watch,
    ) -> Result<Self> {
        Err(Error::NotBuiltFor { device: "cuda".to_owned(), feature: "cuda" })
    }

    pub(crate) fn first_layer(&self) -> usize {
        match *self {}
    }

    pub(crate) fn has_embedding(&self) -> bool {
        match *self {}
    }

    pub(crate) fn step_bytes(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        match *self {}
    }

    pub(crate) fn cache(&self, _: usize) -> Result<CardCache> {
        match *self {}
    }

    pub(crate) fn embed(&self, _: &[u32]) -> Result<Tensor> {
        match *self {}
    }

    pub(crate) fn forward_layers(
        &self,
        _: Range<usize>,
        _: &Tensor,
        _: &mut CardCache,
    ) -> Result<Tensor> {
        match *self {}
    }

    pub(crate) fn logits(&self, _: &Tensor) -> Result<Vec<f32>> {
        match *self {}
    }

    pub(crate) fn prompt_logits(&self, _: &[u32], _: &mut CardCache) -> Result<Vec<f32>> {
        match *self {}
    }

    pub(crate) fn feed(&self, _: &[u32], _: &mut CardCache) -> Result<()> {
        match *self {}
    }

    pub(crate) fn can_choose(&self) -> bool {
        match *self {}
    }

    pub(crate) fn flight(&self) -> Option<Flight<'_>> {
        match *self {}
    }

    pub(crate) fn history(&self, _: &Sampling, _: [&[u32]; 2]) -> Result<Option<CardHistory>> {
        match *self {}
    }

    pub(crate) fn step_from(&self, _: &Tensor, _: &mut [&mut CardCache]) -> Result<Vec<f32>> {
        match *self {}
    }

    pub(crate) fn step(&self, _: &mut [(u32, &mut CardCache)]) -> Result<Vec<f32>> {
        match *self {}
    }
}

impl CardCache {
    pub(crate) fn lens(&self) -> &[usize] {
        match *self {}
    }

    pub(crate) fn lens_mut(&mut self) -> &mut [usize] {
        match *self {}
    }

    pub(crate) fn capacity(&self) -> usize {
        match *self {}
    }

    pub(crate) fn fork(&self) -> Result<Self> {
        match *self {}
    }
}

/// Steps that are asked for before the tokens of the one before are known.
pub(crate) enum Flight<'a> {
    #[expect(dead_code, reason = "there is never one")]
    Of(&'a Card),
}

impl Flight<'_> {
    pub(crate) fn start(
        &mut self,
        _: Option<&[u32]>,
        _: &mut [&mut CardCache],
        _: &mut [Choosing],
    ) -> Result<()> {
        match self {
            Self::Of(card) => match **card {},
        }
    }

    pub(crate) fn finish(&mut self) -> Result<Vec<Option<u32>>> {
        match self {
            Self::Of(card) => match **card {},
        }
    }
}
