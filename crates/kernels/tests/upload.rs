//! Files brought to a card, where there is one.

#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]
#![expect(clippy::unwrap_used, reason = "clippy takes helpers of tests for code under test")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use kernels::forms::{Form, Matrix};
use kernels::{Buffer, Convert, Error, Gpu, Order, Piece, Source, Uploader};

fn gpu() -> Option<Arc<Gpu>> {
    Gpu::open(0).inspect_err(|error| println!("skipped: {error}")).ok()
}

/// Bytes in no order, the same for the same `seed`.
fn random(num_bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..num_bytes).map(|_| next()).collect()
}

fn all(buffer: &Buffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.bytes()];
    buffer.read(0, &mut bytes).unwrap();
    bytes
}

/// A file that goes when the test ends.
struct Stored {
    path: PathBuf,
    file: File,
    _folder: tempfile::TempDir,
}

impl Stored {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        Self { path, file, _folder: folder }
    }

    fn piece<'a>(
        &'a self,
        range: std::ops::Range<u64>,
        to: &'a Buffer,
        offset: usize,
    ) -> Piece<'a> {
        let from = Source::File { file: &self.file, path: &self.path, range };
        Piece { from, to, offset, convert: Convert::None, order: None }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it might end the upload")]
fn silent(_: u64) -> kernels::Result<()> {
    Ok(())
}

#[test]
fn odd_stretches_arrive_whole() {
    let Some(gpu) = gpu() else { return };
    let bytes = random(3_000_017, 1);
    let stored = Stored::new(&bytes);
    let stretches = [
        (0..1, 0),
        (1..2, 1),
        (5..4_101, 2),
        (4_099..4_099, 4_098),
        (4_099..20_001, 4_098),
        (17..3_000_017, 20_000),
        (2_999_999..3_000_017, 3_020_000),
    ];
    let mut expected = vec![0; 3_020_018];
    for (range, offset) in &stretches {
        let part = &bytes[range.start as usize..range.end as usize];
        expected[*offset..offset + part.len()].copy_from_slice(part);
    }
    for (threads, num_slots, slot_bytes) in
        [(1, 1, 1), (1, 2, 8_192), (5, 2, 4_096), (8, 3, 1 << 20)]
    {
        let mut uploader = Uploader::with_slots(&gpu, threads, num_slots, slot_bytes).unwrap();
        let to = gpu.zeros(expected.len()).unwrap();
        let pieces = stretches.clone().map(|(range, offset)| stored.piece(range, &to, offset));
        let mut seen = vec![0];
        uploader
            .upload(&pieces, |done| {
                seen.push(done);
                Ok::<_, Error>(())
            })
            .unwrap();
        assert!(all(&to) == expected, "{threads} threads");
        assert!(seen.is_sorted());
        let asked: u64 = stretches.iter().map(|(range, _)| range.end - range.start).sum();
        assert_eq!(seen.last(), Some(&asked));
    }
}

#[test]
fn pieces_go_to_buffers_of_their_own() {
    let Some(gpu) = gpu() else { return };
    let bytes: [_; 9] = std::array::from_fn(|i| random(10_000 * i + 7, i as u64));
    let stored = bytes.each_ref().map(|bytes| Stored::new(bytes));
    let to = bytes.each_ref().map(|bytes| gpu.zeros(bytes.len()).unwrap());
    let pieces: Vec<_> = stored
        .iter()
        .zip(&to)
        .map(|(stored, to)| stored.piece(0..to.bytes() as u64, to, 0))
        .collect();
    Uploader::with_slots(&gpu, 4, 2, 4_096).unwrap().upload(&pieces, silent).unwrap();
    for (bytes, to) in bytes.iter().zip(&to) {
        assert!(all(to) == *bytes, "{} bytes", bytes.len());
    }
}

#[test]
fn an_upload_waits_for_work_before_it() {
    let Some(gpu) = gpu() else { return };
    let bytes = random(100_000, 2);
    let stored = Stored::new(&bytes);
    let mut uploader = Uploader::new(&gpu, 4).unwrap();
    for _ in 0..5 {
        let to = gpu.zeros(256 << 20).unwrap();
        let offset = to.bytes() - bytes.len();
        uploader.upload(&[stored.piece(0..100_000, &to, offset)], silent).unwrap();
        let mut found = vec![0; bytes.len()];
        to.read(offset, &mut found).unwrap();
        assert!(found == bytes);
    }
}

#[test]
fn nothing_to_upload_is_no_error() {
    let Some(gpu) = gpu() else { return };
    let mut uploader = Uploader::new(&gpu, 2).unwrap();
    uploader.upload(&[], |_| panic!("nothing is read")).map_err(|error: Error| error).unwrap();
}

/// All numbers of 16 bits, or as many of 32 with every exponent, sign and kind of tie.
fn stored_numbers(element_bytes: usize) -> Vec<u8> {
    if element_bytes == 2 {
        return (0..=u16::MAX).cycle().take(200_001).flat_map(u16::to_le_bytes).collect();
    }
    let ties = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x0fff, 0x1000, 0x1001, 0x3000];
    let patterned = (0..=u16::MAX).flat_map(|high| ties.map(|low| (u32::from(high) << 16) | low));
    patterned.flat_map(u32::to_le_bytes).chain(random(4 * 100_003, 3)).collect()
}

/// Uploads numbers with `convert` and compares what arrives with `expected` of each, which is given
/// its bytes. Of what is not a number no bit but those that say so counts.
#[track_caller]
fn check<const N: usize, const M: usize>(
    convert: Convert,
    expected: impl Fn([u8; N]) -> [u8; M],
    is_nan: impl Fn([u8; M]) -> bool,
) {
    let Some(gpu) = gpu() else { return };
    let bytes = stored_numbers(N);
    // Bytes that are not asked for, so that numbers begin at odd places of the file.
    let stored = Stored::new(&[&[0xab; 3], &bytes[..]].concat());
    let expected: Vec<[u8; M]> =
        bytes.as_chunks().0.iter().map(|&number| expected(number)).collect();
    assert_eq!(convert.card_bytes(bytes.len() as u64), (expected.len() * M) as u64);
    for slot_bytes in [4_096, 1 << 20] {
        let to = gpu.zeros(expected.len() * M + 5).unwrap();
        let piece = Piece { convert, ..stored.piece(3..bytes.len() as u64 + 3, &to, 5) };
        let mut uploader = Uploader::with_slots(&gpu, 3, 2, slot_bytes).unwrap();
        uploader.upload(&[piece], silent).unwrap();
        let found = all(&to);
        assert_eq!(found[..5], [0; 5]);
        for ((from, &found), &expected) in
            bytes.as_chunks::<N>().0.iter().zip(found[5..].as_chunks::<M>().0).zip(&expected)
        {
            let is_same = found == expected || is_nan(found) && is_nan(expected);
            assert!(is_same, "{convert:?} of {from:?}: {found:?}, not {expected:?}");
        }
    }
}

fn is_nan_f16(bytes: [u8; 2]) -> bool {
    f16::from_le_bytes(bytes).is_nan()
}

fn is_nan_bf16(bytes: [u8; 2]) -> bool {
    bf16::from_le_bytes(bytes).is_nan()
}

fn is_nan_f32(bytes: [u8; 4]) -> bool {
    f32::from_le_bytes(bytes).is_nan()
}

#[test]
fn f32_becomes_f16() {
    let expected = |number| f16::from_f32(f32::from_le_bytes(number)).to_le_bytes();
    check(Convert::F32ToF16, expected, is_nan_f16);
}

#[test]
fn f32_becomes_bf16() {
    let expected = |number| bf16::from_f32(f32::from_le_bytes(number)).to_le_bytes();
    check(Convert::F32ToBF16, expected, is_nan_bf16);
}

#[test]
fn f16_becomes_f32() {
    let expected = |number| f16::from_le_bytes(number).to_f32().to_le_bytes();
    check(Convert::F16ToF32, expected, is_nan_f32);
}

#[test]
fn f16_becomes_bf16() {
    let expected = |number| bf16::from_f32(f16::from_le_bytes(number).to_f32()).to_le_bytes();
    check(Convert::F16ToBF16, expected, is_nan_bf16);
}

#[test]
fn bf16_becomes_f32() {
    let expected = |number| bf16::from_le_bytes(number).to_f32().to_le_bytes();
    check(Convert::BF16ToF32, expected, is_nan_f32);
}

#[test]
fn bf16_becomes_f16() {
    let expected = |number| f16::from_f32(bf16::from_le_bytes(number).to_f32()).to_le_bytes();
    check(Convert::BF16ToF16, expected, is_nan_f16);
}

#[derive(Debug)]
enum Stopped {
    Cancelled,
    Failed(#[expect(dead_code, reason = "it is shown where a test fails")] Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[test]
fn who_is_told_of_progress_can_end_it() {
    let Some(gpu) = gpu() else { return };
    let bytes = random(1_000_003, 4);
    let stored = Stored::new(&bytes);
    let mut uploader = Uploader::with_slots(&gpu, 4, 2, 4_096).unwrap();
    let to = gpu.zeros(bytes.len()).unwrap();
    for most in [1, 100_000, 1_000_003] {
        let pieces = [stored.piece(0..1_000_003, &to, 0)];
        let mut num_after = 0;
        let ended = uploader.upload(&pieces, |done| {
            num_after += usize::from(done >= most);
            if done >= most { Err(Stopped::Cancelled) } else { Ok(()) }
        });
        assert!(matches!(ended, Err(Stopped::Cancelled)), "{ended:?}");
        assert_eq!(num_after, 1);
    }
    let to = gpu.zeros(bytes.len()).unwrap();
    uploader.upload(&[stored.piece(0..1_000_003, &to, 0)], silent).unwrap();
    assert!(all(&to) == bytes);
}

#[test]
fn a_panic_of_who_is_told_ends_it() {
    let Some(gpu) = gpu() else { return };
    let bytes = random(1_000_003, 5);
    let stored = Stored::new(&bytes);
    let mut uploader = Uploader::with_slots(&gpu, 4, 2, 4_096).unwrap();
    let to = gpu.zeros(bytes.len()).unwrap();
    let pieces = [stored.piece(0..1_000_003, &to, 0)];
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        uploader.upload(&pieces, |_| -> kernels::Result<()> { panic!("as it is meant to") })
    }));
    assert!(panicked.is_err());
    uploader.upload(&pieces, silent).unwrap();
    assert!(all(&to) == bytes);
}

#[test]
fn a_file_that_is_too_short_is_named() {
    let Some(gpu) = gpu() else { return };
    let bytes = random(50_000, 6);
    let stored = Stored::new(&bytes);
    let to = gpu.zeros(100_000).unwrap();
    let mut uploader = Uploader::with_slots(&gpu, 2, 2, 4_096).unwrap();
    for (range, convert) in [
        (0..50_001, Convert::None),
        (60_000..60_002, Convert::None),
        (0..50_004, Convert::F32ToF16),
    ] {
        let piece = Piece { convert, ..stored.piece(range.clone(), &to, 0) };
        let error = uploader.upload(&[piece], silent).unwrap_err();
        let (name, end) = (stored.path.display(), range.end);
        let expected = format!("{name} ends after 50000 bytes, where {end} are expected");
        assert_eq!(error.to_string(), expected);
    }
    uploader.upload(&[stored.piece(0..50_000, &to, 0)], silent).unwrap();
    assert!(all(&to)[..50_000] == bytes);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path(), File::open(folder.path()).unwrap());
    let to = gpu.zeros(10).unwrap();
    let from = Source::File { file: &file, path, range: 0..10 };
    let piece = Piece { from, to: &to, offset: 0, convert: Convert::None, order: None };
    let error = Uploader::new(&gpu, 1).unwrap().upload(&[piece], silent).unwrap_err();
    assert!(matches!(&error, Error::Read { path: named, .. } if Path::new(named) == path));
}

#[test]
#[should_panic(expected = "10 times 1 bytes at 1 of 10")]
fn a_piece_fits_its_buffer() {
    let Some(gpu) = gpu() else { panic!("10 times 1 bytes at 1 of 10") };
    let stored = Stored::new(&[1; 10]);
    let to = gpu.zeros(10).unwrap();
    let _ = Uploader::new(&gpu, 1).unwrap().upload(&[stored.piece(0..10, &to, 1)], silent);
}

#[test]
fn what_is_in_memory_arrives_and_is_not_counted_as_read() {
    let Some(gpu) = gpu() else { return };
    let (memory, in_file) = (random(100_001, 7), random(5_000, 8));
    let stored = Stored::new(&in_file);
    let to = gpu.zeros(105_001).unwrap();
    let from = Source::Memory(&memory);
    let pieces = [
        Piece { from, to: &to, offset: 5_000, convert: Convert::None, order: None },
        stored.piece(0..5_000, &to, 0),
    ];
    let mut read = 0;
    let mut uploader = Uploader::with_slots(&gpu, 3, 2, 4_096).unwrap();
    let mut progress = |bytes| {
        read = bytes;
        Ok::<(), Error>(())
    };
    uploader.upload(&pieces, &mut progress).unwrap();
    assert!(all(&to) == [in_file, memory].concat());
    assert_eq!(read, 5_000);
}

/// Rows in another order, with elements of one, two and four bytes, and rows longer than a page.
#[test]
fn rows_arrive_in_the_order_that_is_asked_for() {
    let Some(gpu) = gpu() else { return };
    let order: Vec<u32> = (0..24).map(|row| row * 7 % 24).collect();
    for row_bytes in [4, 100, 12_288] {
        let bytes = random(24 * row_bytes, 9);
        let stored = Stored::new(&[&[1; 7], &bytes[..]].concat());
        for convert in [Convert::None, Convert::BF16ToF16, Convert::F32ToF16] {
            let to = gpu.zeros(convert.card_bytes(bytes.len() as u64) as usize).unwrap();
            let sorted: Vec<u8> = order
                .iter()
                .flat_map(|&row| bytes[row as usize * row_bytes..][..row_bytes].to_vec())
                .collect();
            let mut uploader = Uploader::with_slots(&gpu, 3, 2, 16_384).unwrap();
            let from = Source::Memory(&sorted);
            let expected = Piece { from, to: &to, offset: 0, convert, order: None };
            uploader.upload(std::slice::from_ref(&expected), silent).unwrap();
            let numbers = all(&to);
            let order = Some(Order { row_bytes, rows: &order });
            for from in
                [Source::Memory(&bytes), stored.piece(7..7 + bytes.len() as u64, &to, 0).from]
            {
                let to = gpu.zeros(to.bytes()).unwrap();
                let piece = Piece { from, to: &to, order, ..expected.clone() };
                uploader.upload(&[piece], silent).unwrap();
                assert!(all(&to) == numbers, "{convert:?} of rows of {row_bytes}");
            }
        }
    }
}

#[test]
fn blocks_are_parted_on_the_way() {
    let Some(gpu) = gpu() else { return };
    for (form, columns) in [(Form::Q8_0, 64), (Form::Q8_0, 4_160), (Form::Q4K, 2_304)] {
        let bytes = random(30 * form.stored_bytes(columns), 10);
        let stored = Stored::new(&bytes);
        let expected = Matrix::upload(&gpu, form, &bytes, columns).unwrap();
        let found = Matrix::alloc(&gpu, form, 30, columns).unwrap();
        let convert = Convert::Blocks { form, columns };
        let all_bytes = 0..bytes.len() as u64;
        let piece = Piece { convert, ..stored.piece(all_bytes, found.buffer(), 0) };
        Uploader::with_slots(&gpu, 3, 2, 8_192).unwrap().upload(&[piece], silent).unwrap();
        assert!(all(found.buffer()) == all(expected.buffer()), "{form:?} of {columns} columns");
    }
}
