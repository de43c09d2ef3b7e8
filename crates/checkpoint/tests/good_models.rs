//! Models as others write them: what is read is what the safetensors crate wrote.

#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use checkpoint::Checkpoint;
use serde_json::json;
use tempfile::tempdir;
use testkit::raw::{RawFile, edit_json};
use testkit::splice::assert_same;
use testkit::weights::{self, INDEX, SINGLE};
use testkit::{ConfigForm, Dtype, Family, Tensor, Tensors, TinyModel, hub};

/// Opens the model in `dir`, and reads the bytes of each tensor from where they are said to be.
#[track_caller]
fn read(dir: &Path) -> Tensors {
    let checkpoint = Checkpoint::open(dir).unwrap_or_else(|error| panic!("{error}"));
    let mut tensors = Tensors::new();
    for tensor in checkpoint.tensors() {
        let file = &checkpoint.files()[tensor.file];
        assert_eq!(file.path, dir.join(&file.name));
        assert_eq!(file.bytes, fs::metadata(&file.path).unwrap().len());
        let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap()];
        File::open(&file.path).unwrap().read_exact_at(&mut bytes, tensor.range.start).unwrap();
        tensors.insert(
            tensor.name.clone(),
            Tensor::new(tensor.encoding.dtype().unwrap(), &tensor.shape, bytes),
        );

        let by_name = checkpoint.tensor(&tensor.name).unwrap();
        assert_eq!((by_name.file, &by_name.range), (tensor.file, &tensor.range));
    }
    assert_eq!(tensors.len(), checkpoint.tensors().len());
    tensors
}

#[track_caller]
fn check(model: &TinyModel) {
    let dir = tempdir().unwrap();
    model.write(dir.path());
    assert_same(&read(dir.path()), &model.tensors_by_name());
}

#[test]
fn every_family_type_and_number_of_shards() {
    for family in [Family::Mistral, Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gpt2] {
        for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
            for num_shards in [None, Some(1), Some(2), Some(12)] {
                check(&TinyModel { dtype, num_shards, ..TinyModel::of(family) });
            }
        }
    }
    check(&TinyModel { tie_word_embeddings: true, ..TinyModel::default() });
    check(&TinyModel { config_form: ConfigForm::Old, ..TinyModel::default() });
    check(&TinyModel { head_dim: 12, num_hidden_layers: 11, ..TinyModel::default() });
}

#[test]
fn tensors_of_a_file_come_in_the_order_of_their_bytes() {
    let dir = tempdir().unwrap();
    TinyModel { num_shards: Some(3), ..TinyModel::default() }.write(dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let places: Vec<_> = checkpoint.tensors().iter().map(|t| (t.file, t.range.start)).collect();
    assert!(places.is_sorted(), "{places:?}");
    let names: Vec<_> = checkpoint.files().iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, [0, 1, 2].map(|shard| weights::shard_name(shard, 3)));
}

#[test]
fn every_type_that_the_format_has() {
    let dir = tempdir().unwrap();
    TinyModel::default().write(dir.path());
    let tensors = [
        ("bool", Tensor::new(Dtype::BOOL, &[3], [0, 1, 1])),
        ("u8", Tensor::new(Dtype::U8, &[1, 5], [1, 2, 3, 4, 5])),
        ("i64", Tensor::new(Dtype::I64, &[1], (-7_i64).to_le_bytes())),
        ("f64", Tensor::new(Dtype::F64, &[1], 0.1_f64.to_le_bytes())),
        ("f8", Tensor::new(Dtype::F8_E4M3, &[2, 2], [9, 8, 7, 6])),
        ("f4", Tensor::new(Dtype::F4, &[2, 3], [0x12, 0x34, 0x56])),
        ("scalar", Tensor::new(Dtype::F32, &[], 1.5_f32.to_le_bytes())),
        ("empty", Tensor::new(Dtype::F32, &[0, 7], [])),
        ("another empty", Tensor::new(Dtype::F32, &[7, 0], [])),
    ];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
    weights::write_file(&dir.path().join(SINGLE), &tensors);
    assert_same(&read(dir.path()), &tensors.into_iter().collect());
}

#[test]
fn a_padded_header_and_one_without_metadata() {
    let dir = tempdir().unwrap();
    let model = TinyModel::default();
    model.write(dir.path());
    let path = dir.path().join(SINGLE);
    let mut file = RawFile::read(&path);
    file.header.push_str(&" ".repeat(4096));
    file.write(&path);
    assert_same(&read(dir.path()), &model.tensors_by_name());

    file.edit_header(|header| drop(header.as_object_mut().unwrap().remove("__metadata__")));
    file.write(&path);
    assert_same(&read(dir.path()), &model.tensors_by_name());
}

#[test]
fn a_header_in_another_order_than_the_bytes() {
    let dir = tempdir().unwrap();
    let model = TinyModel::default();
    model.write(dir.path());
    let path = dir.path().join(SINGLE);
    let mut file = RawFile::read(&path);
    file.edit_header(|header| {
        let object = header.as_object_mut().unwrap();
        *object = std::mem::take(object).into_iter().rev().collect();
    });
    file.write(&path);
    assert_same(&read(dir.path()), &model.tensors_by_name());
}

#[test]
fn the_hubs_cache_is_links_out_of_the_folder() {
    let dir = tempdir().unwrap();
    let model = TinyModel { num_shards: Some(3), ..TinyModel::default() };
    let snapshot = hub::cache(dir.path(), "owner/name", "0123", &model);
    assert_same(&read(&snapshot), &model.tensors_by_name());
    let side_files = Checkpoint::open(&snapshot).unwrap().side_files().unwrap();
    let names: Vec<_> = side_files.kept.iter().map(|file| file.name.to_str().unwrap()).collect();
    assert_eq!(names, testkit::side_files::KEPT);
}

#[test]
fn a_folder_of_links_and_a_link_to_a_folder() {
    let dir = tempdir().unwrap();
    let model = TinyModel { num_shards: Some(2), ..TinyModel::default() };
    model.write(&dir.path().join("elsewhere"));
    symlink("elsewhere", dir.path().join("link")).unwrap();
    assert_same(&read(&dir.path().join("link")), &model.tensors_by_name());

    let links = dir.path().join("links");
    fs::create_dir(&links).unwrap();
    for entry in dir.path().join("elsewhere").read_dir().unwrap() {
        let entry = entry.unwrap();
        symlink(entry.path(), links.join(entry.file_name())).unwrap();
    }
    assert_same(&read(&links), &model.tensors_by_name());
}

#[test]
fn shards_in_a_folder_inside() {
    let dir = tempdir().unwrap();
    let model = TinyModel { num_shards: Some(2), ..TinyModel::default() };
    model.write(dir.path());
    fs::create_dir(dir.path().join("weights")).unwrap();
    for shard in [0, 1].map(|shard| weights::shard_name(shard, 2)) {
        fs::rename(dir.path().join(&shard), dir.path().join("weights").join(&shard)).unwrap();
    }
    edit_json(&dir.path().join(INDEX), |index| {
        for shard in index["weight_map"].as_object_mut().unwrap().values_mut() {
            *shard = json!(format!("weights/{}", shard.as_str().unwrap()));
        }
    });
    assert_same(&read(dir.path()), &model.tensors_by_name());
}

#[test]
fn a_single_file_comes_before_an_index() {
    let dir = tempdir().unwrap();
    TinyModel { num_shards: Some(2), ..TinyModel::default() }.write(dir.path());
    let single = TinyModel { seed: 1, ..TinyModel::default() };
    weights::write(dir.path(), &single.tensors(), None);
    assert_same(&read(dir.path()), &single.tensors_by_name());
}

#[test]
fn files_that_the_index_does_not_name_are_not_read() {
    let dir = tempdir().unwrap();
    let model = TinyModel { num_shards: Some(2), ..TinyModel::default() };
    model.write(dir.path());
    for name in
        ["model-00001-of-00003.safetensors", "consolidated.safetensors", "extra.safetensors"]
    {
        fs::write(dir.path().join(name), "no header").unwrap();
    }
    fs::write(dir.path().join("pytorch_model.bin"), "no pickle").unwrap();
    assert_same(&read(dir.path()), &model.tensors_by_name());
}

#[test]
fn the_weights_that_the_config_names_come_before_all() {
    let dir = tempdir().unwrap();
    TinyModel::default().write(dir.path());
    let named = TinyModel { seed: 1, ..TinyModel::default() };
    let config = dir.path().join("config.json");

    weights::write_file(&dir.path().join("other.safetensors"), &named.tensors());
    edit_json(&config, |config| config["transformers_weights"] = json!("other.safetensors"));
    assert_same(&read(dir.path()), &named.tensors_by_name());

    // Nothing stands under the usual names.
    fs::remove_file(dir.path().join(SINGLE)).unwrap();
    assert_same(&read(dir.path()), &named.tensors_by_name());

    edit_json(&config, |config| config["transformers_weights"] = json!(null));
    assert!(Checkpoint::open(dir.path()).is_err());
}

#[test]
fn a_config_with_a_byte_order_mark() {
    let dir = tempdir().unwrap();
    let model = TinyModel::default();
    model.write(dir.path());
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("\u{feff}{text}")).unwrap();
    assert_same(&read(dir.path()), &model.tensors_by_name());
}
