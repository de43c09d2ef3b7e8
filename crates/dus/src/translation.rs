//! How tensors are stored in the form that is written: their types, and what differs between
//! Hugging Face's form and GGUF beyond names.

use checkpoint::gguf::architecture::{self, Architecture, Change as Stored};
use checkpoint::gguf::names;
use checkpoint::{Checkpoint, Dtype, Encoding, Tensor};

use crate::arithmetic::{RowOrder, Rows};
use crate::error::{FormError, QuantisedError, Result};
use crate::quantised::is_floating;
use crate::recipe::{Form, TensorType};
use crate::splice::Change;

/// What tensors become on their way from one form to another, or to the same.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    /// The form of the sources.
    pub from: Form,
    /// The form that is written.
    pub to: Form,
    /// The type that floating-point tensors are cast to; `None`: as in the source.
    pub dtype: Option<TensorType>,
    /// The names of GGUF, where one of the forms is that.
    pub architecture: Option<&'static Architecture>,
}

impl Translation {
    /// The translation of `sources`, all of one form, to the form `to`; that at `donor` gives the config.
    ///
    /// A GGUF file without a `dtype` becomes a folder in the type that most of it has, or in float16,
    /// the closest one of 16 bits, if any of it is quantised.
    pub fn new(
        sources: &[&Checkpoint],
        donor: usize,
        to: Form,
        dtype: Option<TensorType>,
    ) -> Result<Self> {
        let source = sources[donor];
        let from = form(source);
        if let (Form::Folder, Some(dtype @ TensorType::Q8_0)) = (to, dtype) {
            return Err(FormError::DtypeOfGguf { dtype: dtype.name() }.into());
        }
        let architecture = match (source.gguf(), to) {
            (Some(gguf), _) => Some(gguf.architecture),
            (None, Form::Folder) => None,
            (None, Form::Gguf) => {
                let architecture = Architecture::of_config(source.config());
                Some(architecture.ok_or_else(|| FormError::NoArchitecture {
                    config: source.config_path(),
                    known: architecture::known_model_types(),
                })?)
            }
        };
        let dtype = match (from, to) {
            (Form::Gguf, Form::Folder) => Some(dtype.unwrap_or_else(|| main_type(sources))),
            _ => dtype,
        };
        Ok(Self { from, to, dtype, architecture })
    }

    /// Whether the new model has no tensor for the source's called `name`.
    #[must_use]
    pub fn drops(&self, name: &str) -> bool {
        let only_here = |names| names::in_gguf(names, name).is_some_and(|stored| stored.only_here);
        match self.to {
            Form::Folder => self.architecture.is_some_and(only_here),
            Form::Gguf => self.from == Form::Folder && architecture::is_dropped(name),
        }
    }

    /// How the elements of `tensor` are stored in the new model.
    pub fn encoding(&self, tensor: &Tensor) -> Result<Encoding> {
        let found = tensor.encoding;
        let is_float = found.dtype().is_none_or(is_floating);
        let cast = self.dtype.filter(|_| is_float).map(TensorType::encoding);
        if self.to == Form::Folder {
            return Ok(cast.unwrap_or(found));
        }
        let name = || tensor.name.clone();
        match (found, self.dtype) {
            (Encoding::Blocks(_), None) => return Ok(found),
            (Encoding::Blocks(_), Some(dtype)) if dtype.encoding() == found => return Ok(found),
            (Encoding::Blocks(_), Some(dtype)) => {
                return Err(QuantisedError::CastOfBlocks {
                    tensor: name(),
                    found,
                    dtype: dtype.name(),
                }
                .into());
            }
            (Encoding::Plain(_), _) if self.from == Form::Gguf && self.dtype.is_none() => {
                return Ok(found);
            }
            (Encoding::Plain(Dtype::F16 | Dtype::BF16 | Dtype::F32), _) => {}
            (Encoding::Plain(_), _) => {
                return Err(FormError::NotInGguf { tensor: name(), found }.into());
            }
        }
        let stored = self.architecture.and_then(|names| names::in_gguf(names, &tensor.name));
        let stored = stored.map_or_else(String::new, |stored| stored.name);
        if architecture::is_always_f32(&stored, tensor.shape.len()) {
            return Ok(Dtype::F32.into());
        }
        Ok(match cast {
            // As llama.cpp's converter does where blocks would go over the end of a row.
            Some(blocks @ Encoding::Blocks(_)) if blocks.num_bytes(&tensor.shape).is_none() => {
                Dtype::F16.into()
            }
            Some(encoding) => encoding,
            None => found,
        })
    }

    /// What is done to `tensor` of `checkpoint`, which the plan asks `change` of and which is stored
    /// as `encoding`; `None` where its bytes stay the same.
    pub fn change(
        &self,
        checkpoint: &Checkpoint,
        tensor: &Tensor,
        encoding: Encoding,
        change: Option<Change>,
    ) -> Result<Option<Change>> {
        let stored = self.architecture.map(|architecture| {
            names::in_gguf(architecture, &tensor.name)
                .ok_or_else(|| FormError::NoNameInGguf { tensor: tensor.name.clone() })
        });
        let stored = stored.transpose()?.map_or(Stored::None, |stored| stored.change);
        let (heads, added) = match stored {
            Stored::None => (None, 0.0),
            Stored::Interleaved(heads) => (Some(heads.key()), 0.0),
            Stored::PlusOne => (None, 1.0),
        };
        let crosses = self.from != self.to;
        let differs = crosses && (heads.is_some() || added != 0.0);
        if change.is_none() && encoding == tensor.encoding && !differs {
            return Ok(None);
        }
        let mut change = change.unwrap_or_else(Change::nothing);
        let of = |form, value| if form == Form::Gguf { value } else { 0.0 };
        if crosses || !change.is_nothing() {
            change.added = [of(self.from, -added), of(self.to, added)];
        }
        if let Some(key) = heads {
            let rows = tensor.shape.first().copied().unwrap_or(0);
            let num_heads = checkpoint.config().get(key).and_then(|value| value.as_u64());
            let head_rows = num_heads.and_then(|heads| rows.checked_div(heads as usize));
            let whole = head_rows
                .filter(|head| head % 2 == 0 && head * num_heads.unwrap_or(0) as usize == rows);
            let Some(head_rows) = whole else {
                return Err(FormError::Heads { tensor: tensor.name.clone(), rows, key }.into());
            };
            let row_elements = tensor.shape.get(1).copied().unwrap_or(1);
            let (from, to) = (order(self.from), order(self.to));
            change.rows = Some(Rows { head_rows, row_elements, from, to });
        }
        Ok(Some(change))
    }
}

/// The form of a checkpoint's files.
#[must_use]
pub fn form(checkpoint: &Checkpoint) -> Form {
    if checkpoint.gguf().is_some() { Form::Gguf } else { Form::Folder }
}

fn order(form: Form) -> RowOrder {
    match form {
        Form::Folder => RowOrder::Halves,
        Form::Gguf => RowOrder::Pairs,
    }
}

/// The type that most bytes of GGUF files' matrices have; float16 if any of them is quantised.
fn main_type(sources: &[&Checkpoint]) -> TensorType {
    let tensors = || sources.iter().flat_map(|source| source.tensors());
    let matrices = || tensors().filter(|tensor| tensor.shape.len() > 1);
    if matrices().any(|tensor| tensor.encoding.dtype().is_none()) {
        return TensorType::Float16;
    }
    let types = [TensorType::Float16, TensorType::Bfloat16, TensorType::Float32];
    let bytes = |dtype: &TensorType| -> u64 {
        matrices().filter(|t| t.encoding == dtype.encoding()).map(Tensor::bytes).sum()
    };
    types.into_iter().max_by_key(bytes).expect("there are three")
}
