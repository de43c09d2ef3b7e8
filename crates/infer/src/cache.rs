//! The keys and values of the tokens that a sequence has so far.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use crate::card::CardCache;
use crate::config::DecoderConfig;
use crate::error;

/// Positions that a cache grows by at least.
const STEP: usize = 256;

/// The positions that a cache with room for `capacity` of a model of `most` positions has room for.
///
/// No more than the model has, unless more is asked for.
#[must_use]
pub fn rounded(capacity: usize, most: usize) -> usize {
    let capacity = capacity.max(1);
    capacity.next_multiple_of(STEP).min(most.max(capacity))
}

/// The keys and values of one sequence, in every layer.
///
/// It belongs to the caller, who may rewind it ([`KvCache::truncate`]) and copy it
/// ([`KvCache::fork`]). What does not fit is given more room, in steps.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Those of the layers behind them, where they lie on a GPU with kernels of our own.
    card: Option<CardCache>,
}

/// The keys and values of one layer.
#[derive(Debug)]
pub(crate) struct LayerCache {
    /// (`num_key_value_heads`, capacity, `head_dim`), so that a head's keys lie in one piece.
    keys: Tensor,
    /// As the keys.
    values: Tensor,
    /// How many positions hold something.
    len: usize,
    /// The model's positions, beyond which there is nothing to make room for.
    most: usize,
}

impl KvCache {
    /// A cache with room for `capacity` positions, [`rounded`] up, of a model of this config; each layer's
    /// lies on the layer's own device.
    pub(crate) fn new(
        config: &DecoderConfig,
        capacity: usize,
        dtype: DType,
        devices: &[Device],
        card: Option<CardCache>,
    ) -> Result<Self> {
        let most = config.max_position_embeddings;
        let capacity = rounded(capacity, most);
        let shape = (config.num_key_value_heads, capacity, config.head_dim);
        let layer = |device| {
            Ok(LayerCache {
                keys: Tensor::zeros(shape, dtype, device)?,
                values: Tensor::zeros(shape, dtype, device)?,
                len: 0,
                most,
            })
        };
        Ok(Self { layers: devices.iter().map(layer).collect::<Result<_>>()?, card })
    }

    /// How many positions every layer holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all_lens().min().unwrap_or(0)
    }

    fn all_lens(&self) -> impl Iterator<Item = usize> {
        let on_card = self.card.iter().flat_map(CardCache::lens);
        self.layers.iter().map(|layer| layer.len).chain(on_card.copied())
    }

    /// Whether no position is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many positions there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let on_card = self.card.iter().map(CardCache::capacity);
        self.layers.iter().map(LayerCache::capacity).chain(on_card).min().unwrap_or(0)
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        for layer in self.lens_mut() {
            *layer = (*layer).min(len);
        }
    }

    fn lens_mut(&mut self) -> impl Iterator<Item = &mut usize> {
        let on_card = self.card.iter_mut().flat_map(CardCache::lens_mut);
        self.layers.iter_mut().map(|layer| &mut layer.len).chain(on_card)
    }

    /// A copy that goes its own way.
    pub fn fork(&self) -> error::Result<Self> {
        let layers = self.layers.iter().map(LayerCache::fork).collect::<Result<_>>()?;
        Ok(Self { layers, card: self.card.as_ref().map(CardCache::fork).transpose()? })
    }

    /// The keys and values of the layers on a GPU with kernels of our own.
    pub(crate) fn card(&mut self) -> Option<&mut CardCache> {
        self.card.as_mut()
    }

    pub(crate) fn layer(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }

    /// How many positions layer number `layer` holds.
    pub(crate) fn layer_len(&self, layer: usize) -> usize {
        self.all_lens().nth(layer).unwrap_or(0)
    }

    /// How many positions each of some layers holds.
    pub(crate) fn lens(&self, layers: Range<usize>) -> Vec<usize> {
        self.all_lens().skip(layers.start).take(layers.len()).collect()
    }

    /// Takes some layers back to what [`KvCache::lens`] was.
    pub(crate) fn take_back(&mut self, layers: Range<usize>, lens: &[usize]) {
        for (layer, &len) in self.lens_mut().skip(layers.start).zip(lens) {
            *layer = len;
        }
    }
}

impl LayerCache {
    fn capacity(&self) -> usize {
        self.keys.dims()[1]
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All keys, and room behind them: (`num_key_value_heads`, capacity, `head_dim`).
    pub(crate) fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// As the keys.
    pub(crate) fn values(&self) -> &Tensor {
        &self.values
    }

    /// Appends the keys and values of n positions, (n, `num_key_value_heads`, `head_dim`) each.
    pub(crate) fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let n = keys.dims()[0];
        self.reserve(self.len + n)?;
        for (to, from) in [(&self.keys, keys), (&self.values, values)] {
            // Of one position only the shape changes.
            to.slice_set(&from.transpose(0, 1)?.contiguous()?, 1, self.len)?;
        }
        self.len += n;
        Ok(())
    }

    fn reserve(&mut self, needed: usize) -> Result<()> {
        let capacity = self.capacity();
        if needed <= capacity {
            return Ok(());
        }
        // By half of itself at least, so that n positions cost O(n) copies.
        let grown = (capacity + capacity / 2).min(self.most);
        let capacity = rounded(needed.max(grown), self.most);
        self.keys = with_capacity(&self.keys, self.len, capacity)?;
        self.values = with_capacity(&self.values, self.len, capacity)?;
        Ok(())
    }

    fn fork(&self) -> Result<Self> {
        let capacity = self.capacity();
        Ok(Self {
            keys: with_capacity(&self.keys, self.len, capacity)?,
            values: with_capacity(&self.values, self.len, capacity)?,
            len: self.len,
            most: self.most,
        })
    }
}

/// A copy of the first `len` positions, with room for `capacity`.
fn with_capacity(from: &Tensor, len: usize, capacity: usize) -> Result<Tensor> {
    let (num_heads, _, head_dim) = from.dims3()?;
    let to = Tensor::zeros((num_heads, capacity, head_dim), from.dtype(), from.device())?;
    if len > 0 {
        to.slice_set(&from.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer's cache of a model of 1,000 positions.
    fn empty(capacity: usize) -> LayerCache {
        let shape = (2, rounded(capacity, 1000), 4);
        let zeros = || Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        LayerCache { keys: zeros(), values: zeros(), len: 0, most: 1000 }
    }

    #[test]
    fn a_cache_grows_by_half_and_not_beyond_the_models_positions() {
        let mut cache = empty(1);
        let mut capacities = vec![cache.capacity()];
        for _ in 0..1000 {
            let one = Tensor::ones((1, 2, 4), DType::F32, &Device::Cpu).unwrap();
            cache.append(&one, &one).unwrap();
            if capacities.last() != Some(&cache.capacity()) {
                capacities.push(cache.capacity());
            }
        }
        assert_eq!(capacities, [256, 512, 768, 1000]);
    }

    #[test]
    fn room_is_rounded_up_as_far_as_the_model_goes() {
        for (capacity, most, expected) in
            [(0, 1000, 256), (256, 1000, 256), (257, 1000, 512), (900, 1000, 1000), (8, 64, 64)]
        {
            assert_eq!(rounded(capacity, most), expected, "{capacity} of {most}");
        }
        assert_eq!(rounded(70, 64), 70);
    }
}
