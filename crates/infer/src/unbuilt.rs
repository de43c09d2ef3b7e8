//! The tensors of a plan that was never built: those of its models, shared by all layers that have
//! the same bytes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, DeviceLocation, Tensor};
use checkpoint::Encoding;
use checkpoint::gguf::Architecture;
use dus::recipe::Form;
use dus::splice::NewTensor;
use dus::unbuilt::Unbuilt;

use crate::error::{Error, Result};
use crate::mapped::{self, Bytes, MappedFile};
use crate::source::WeightSource;
use crate::stored::{self, Storage, Stored};
use crate::weight::Weight;

/// The tensors of a plan, as a build would write them.
///
/// New tensors with the same bytes are one in memory: 48 layers made of 32 take the memory of 32.
#[derive(Debug)]
pub struct UnbuiltWeights {
    unbuilt: Arc<Unbuilt>,
    /// The mapped files of each model.
    files: Vec<Vec<Arc<MappedFile>>>,
    by_name: HashMap<String, usize>,
    dtype: DType,
    storage: Storage,
    matrices: Known<Weight>,
    vectors: Known<Tensor>,
}

/// What was read, by the first new tensor that has the bytes and where it went.
type Known<T> = Mutex<HashMap<(usize, DeviceLocation), T>>;

impl UnbuiltWeights {
    /// Maps the files of the models; tensors will be of `dtype`.
    pub fn open(unbuilt: Arc<Unbuilt>, dtype: DType) -> Result<Self> {
        let blueprint = unbuilt.blueprint();
        let files = blueprint.models.iter().map(|model| mapped::map_files(&model.checkpoint));
        let files = files.collect::<Result<_>>()?;
        let names = blueprint.splice.tensors.iter().enumerate();
        let by_name = names.map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        let (matrices, vectors) = (Mutex::default(), Mutex::default());
        let storage = Storage::default();
        Ok(Self { unbuilt, files, by_name, dtype, storage, matrices, vectors })
    }

    /// The same with matrices that are stored as `storage` says.
    #[must_use]
    pub fn stored(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// The names of tensors in a GGUF file, if one would be built.
    fn architecture(&self) -> Option<&'static Architecture> {
        let blueprint = self.unbuilt.blueprint();
        (blueprint.form() == Form::Gguf).then(|| blueprint.architecture())
    }

    fn tensors(&self) -> &[NewTensor] {
        &self.unbuilt.blueprint().splice.tensors
    }

    fn number(&self, name: &str) -> Result<usize> {
        self.by_name.get(name).copied().ok_or_else(|| Error::MissingTensor {
            model: self.path().to_owned(),
            tensor: name.to_owned(),
            more: 0,
        })
    }

    /// A new tensor as it would be stored: its source's bytes, or computed ones.
    fn entry(&self, number: usize) -> Result<Stored<'_>> {
        let blueprint = self.unbuilt.blueprint();
        let NewTensor { name, encoding, shape, model, source, .. } = &self.tensors()[number];
        let checkpoint = &blueprint.models[*model].checkpoint;
        let tensor = &checkpoint.tensors()[*source];
        let mut bytes = mapped::bytes(&self.files[*model], checkpoint, tensor)?;
        if let Some(computed) = self.unbuilt.compute(number, bytes.as_slice())? {
            bytes = Bytes::Owned(Arc::new(computed));
        }
        let config = self.unbuilt.config()?;
        let pairs = |architecture| stored::pairs(architecture, config, name, shape);
        let pairs = self.architecture().and_then(pairs);
        Ok(Stored { name, encoding: *encoding, shape, bytes, pairs })
    }

    /// What `read` makes of the tensor called `name`, read once for all on `device` that have the same
    /// bytes.
    fn shared<T: Clone>(
        &self,
        name: &str,
        device: &Device,
        known: &Known<T>,
        read: impl FnOnce(Stored) -> Result<T>,
    ) -> Result<T> {
        let first = self.unbuilt.same_as(self.number(name)?);
        let key = (first, device.location());
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&key) {
            return Ok(known.clone());
        }
        let new = read(self.entry(first)?)?;
        known.insert(key, new.clone());
        Ok(new)
    }
}

impl WeightSource for UnbuiltWeights {
    fn path(&self) -> &Path {
        self.unbuilt.blueprint().donor().checkpoint.path()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn names(&self) -> Vec<&str> {
        let names = self.tensors().iter().map(|tensor| tensor.name.as_str());
        let architecture = self.architecture();
        let is_setting = |name: &&str| architecture.is_some_and(|it| stored::is_setting(it, name));
        names.filter(|name| !is_setting(name)).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.by_name.get(name).map(|&number| self.tensors()[number].shape.as_slice())
    }

    /// 0 also where another tensor's bytes are shared.
    fn stored_bytes(&self, name: &str) -> u64 {
        let number = self.by_name.get(name).copied();
        let own = number.filter(|&number| self.unbuilt.same_as(number) == number);
        own.map_or(0, |number| self.tensors()[number].bytes())
    }

    fn matrix(&self, name: &str, device: &Device) -> Result<Weight> {
        self.shared(name, device, &self.matrices, |stored| {
            stored.matrix(self.storage, self.dtype, device)
        })
    }

    fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        self.shared(name, device, &self.vectors, |stored| stored.tensor(self.dtype, device))
    }

    fn encoding(&self, name: &str) -> Option<Encoding> {
        self.by_name.get(name).map(|&number| self.tensors()[number].encoding)
    }

    fn stored_as(&self, name: &str) -> Result<Stored<'_>> {
        self.entry(self.unbuilt.same_as(self.number(name)?))
    }

    fn storage(&self) -> Storage {
        self.storage
    }

    fn same_as(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).map(|&number| self.unbuilt.same_as(number))
    }

    fn are_equal(&self, name: &str, other: &str) -> Result<bool> {
        let (one, two) = (self.number(name)?, self.number(other)?);
        if self.unbuilt.same_as(one) == self.unbuilt.same_as(two) {
            return Ok(true);
        }
        Ok(self.entry(one)?.is_equal(&self.entry(two)?))
    }

    fn notes(&self) -> Vec<String> {
        let tensors = self.tensors().iter();
        self.storage.notes(tensors.map(|tensor| (tensor.encoding, tensor.shape.as_slice())))
    }
}
