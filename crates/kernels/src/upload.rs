//! Stretches of files, and what is in memory already, brought into a card's memory.
//!
//! A copy from ordinary memory waits for the driver to move it through pinned memory of its own, one
//! piece after the other, and a mapped file is read page fault by page fault on top of that. Here
//! several threads read into pinned memory themselves, each into slots of its own, while the card
//! fetches what they read before. Large stretches are cut, so that all threads work on one.

#![expect(unsafe_code, reason = "the driver's functions have no other form")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::{ptr, slice, thread};

use cudarc::driver::sys;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::forms::Form;
use crate::gpu::{Buffer, Gpu, Plain, call};

/// Brings stretches of files into a card's memory, with threads and pinned memory that it keeps.
#[derive(Debug)]
pub struct Uploader {
    gpu: Arc<Gpu>,
    lanes: Vec<Lane>,
    slot_bytes: usize,
    /// When the work was done that was asked for before an upload.
    before: Event,
}

/// Bytes, and where they go.
#[derive(Debug, Clone)]
pub struct Piece<'a> {
    /// Where they are; whole elements where they are converted.
    pub from: Source<'a>,
    /// Where they go. There is room for all of them behind `offset`.
    pub to: &'a Buffer,
    /// The byte of `to` where they begin.
    pub offset: usize,
    /// What becomes of them on the way.
    pub convert: Convert,
    /// The order of their rows, if it is another there.
    pub order: Option<Order<'a>>,
}

/// Where bytes are.
#[derive(Debug, Clone)]
pub enum Source<'a> {
    /// A stretch of a file.
    File {
        /// What is read.
        file: &'a File,
        /// What the file is called in errors.
        path: &'a Path,
        /// The bytes of it.
        range: Range<u64>,
    },
    /// Here.
    Memory(&'a [u8]),
}

/// Rows of a matrix in another order.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The bytes of a row where it comes from, in whole elements.
    pub row_bytes: usize,
    /// For each row on the card the number of the one that it was.
    pub rows: &'a [u32],
}

/// What becomes of numbers on their way to the card.
///
/// They are rounded to the nearest, ties to even; what is too large becomes infinite. An element is a number,
/// and of blocks a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Convert {
    /// Bytes stay as they are.
    #[default]
    None,
    /// f32 in the file, f16 on the card.
    F32ToF16,
    /// f32 in the file, bf16 on the card.
    F32ToBF16,
    /// f16 in the file, f32 on the card.
    F16ToF32,
    /// f16 in the file, bf16 on the card.
    F16ToBF16,
    /// bf16 in the file, f32 on the card.
    BF16ToF32,
    /// bf16 in the file, f16 on the card.
    BF16ToF16,
    /// llama.cpp's blocks, parted as a [`Matrix`](crate::forms::Matrix) of this form has them.
    Blocks {
        /// Which blocks.
        form: Form,
        /// The numbers of a row.
        columns: usize,
    },
}

impl Uploader {
    /// One with `threads` threads.
    ///
    /// A thread brings 4 to 5 GB/s from the page cache, and 1.5 to 3 where it converts; the link of an
    /// H100, which carries 43, is full with 12.
    pub fn new(gpu: &Arc<Gpu>, threads: usize) -> Result<Self> {
        Self::with_slots(gpu, threads, 2, 2 << 20)
    }

    /// One whose threads have `num_slots` pinned slots each, of `slot_bytes` or a little more.
    ///
    /// Larger slots are not faster, and pinned memory is slow to come by: 64 MiB take 25 to 50 ms.
    pub fn with_slots(
        gpu: &Arc<Gpu>,
        threads: usize,
        num_slots: usize,
        slot_bytes: usize,
    ) -> Result<Self> {
        gpu.enter()?;
        // Whole pages, and so whole elements.
        let slot_bytes = slot_bytes.max(1).next_multiple_of(4096);
        let lane = |_| Lane::new(gpu, num_slots.max(1), slot_bytes);
        Ok(Self {
            gpu: Arc::clone(gpu),
            lanes: (0..threads.max(1)).map(lane).collect::<Result<_>>()?,
            slot_bytes,
            before: Event::new(gpu)?,
        })
    }

    /// Brings all `pieces` to the card, behind all work that was asked for before, and returns when
    /// they are there.
    ///
    /// `progress` is called on this thread, with the bytes of files that were read so far; an
    /// error of its own ends the upload, as one of a file or of the card does. What the buffers hold
    /// then is not known, but nothing is written to them any more. Where pieces overlap in a buffer, it
    /// is not known whose bytes stay.
    pub fn upload<E: From<Error>>(
        &mut self,
        pieces: &[Piece<'_>],
        mut progress: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let parts: Vec<Part<'_>> = pieces.iter().flat_map(|piece| self.parts(piece)).collect();
        let next = AtomicUsize::new(0);
        self.gpu.enter()?;
        self.before.record(self.gpu.stream())?;
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for lane in self.lanes.iter_mut().take(parts.len()) {
                let (before, parts, next, sender) = (&self.before, &parts, &next, sender.clone());
                scope.spawn(move || {
                    if let Err(error) = lane.run(before, parts, next, &sender) {
                        // Where nobody listens, there was an error before this one.
                        let _ = sender.send(Err(error));
                    }
                });
            }
            drop(sender);
            let mut done = 0;
            // Threads that find the receiver gone, after an error or a panic, stop.
            for read in receiver {
                done += read?;
                progress(done)?;
            }
            Ok(())
        })
    }

    /// `piece`, cut so that each part fits a slot, as it is in the file and as it is on the card.
    fn parts<'a>(&self, piece: &'a Piece<'a>) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let Piece { from, to, offset, convert, order } = piece;
        assert!(Arc::ptr_eq(&self.gpu, to.gpu()), "a buffer of another card");
        let (stored, there) = convert.element_bytes();
        // What is not cut: an element, and a row where their order is another.
        let (stored, there) = match order {
            None => (stored as u64, there as u64),
            Some(Order { row_bytes, rows }) => {
                let elements = row_bytes / stored;
                assert_eq!(elements * stored, *row_bytes, "{convert:?} of rows of {row_bytes}");
                assert_eq!(from.bytes(), (rows.len() * row_bytes) as u64, "rows of another matrix");
                (*row_bytes as u64, (elements * there) as u64)
            }
        };
        let num_units = from.bytes() / stored;
        assert_eq!(num_units * stored, from.bytes(), "{convert:?} of {from:?}");
        let (start, most) = (*offset as u64, to.bytes() as u64);
        let fits = most.checked_sub(start).is_some_and(|rest| num_units <= rest / there);
        assert!(fits, "{num_units} times {there} bytes at {start} of {most}");
        let at_once = self.slot_bytes as u64 / stored.max(there);
        assert!(at_once > 0, "{} bytes go through slots of {}", stored.max(there), self.slot_bytes);
        (0..num_units.div_ceil(at_once)).map(move |number| {
            let first = number * at_once;
            let num_units = at_once.min(num_units - first);
            Part {
                piece,
                from: first * stored,
                stored_bytes: (num_units * stored) as usize,
                to: piece.to.address() + start + first * there,
                card_bytes: (num_units * there) as usize,
            }
        })
    }
}

/// What is read and copied in one go.
#[derive(Debug)]
struct Part<'a> {
    piece: &'a Piece<'a>,
    /// Where it begins in the piece, as the rows are on the card.
    from: u64,
    stored_bytes: usize,
    to: u64,
    card_bytes: usize,
}

impl Part<'_> {
    /// The stretches of the piece that it is made of: where they begin, and their bytes.
    fn stretches(&self) -> impl Iterator<Item = (u64, usize)> {
        let whole = self.piece.order.is_none().then_some((self.from, self.stored_bytes));
        let rows = self.piece.order.iter().flat_map(|Order { row_bytes, rows }| {
            let first = self.from as usize / row_bytes;
            let rows = &rows[first..first + self.stored_bytes / row_bytes];
            rows.iter().map(|&row| (u64::from(row) * *row_bytes as u64, *row_bytes))
        });
        whole.into_iter().chain(rows)
    }

    /// What of it is read of a file.
    fn file_bytes(&self) -> u64 {
        match self.piece.from {
            Source::File { .. } => self.stored_bytes as u64,
            Source::Memory(_) => 0,
        }
    }
}

impl Source<'_> {
    fn bytes(&self) -> u64 {
        match self {
            Self::File { range, .. } => {
                assert!(range.start <= range.end, "bytes {range:?} of a file");
                range.end - range.start
            }
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills `to` with the bytes that begin at `from`.
    fn read(&self, from: u64, to: &mut [u8]) -> Result<()> {
        match self {
            Self::File { file, path, range } => read(file, path, range, from, to),
            Self::Memory(bytes) => {
                to.copy_from_slice(&bytes[from as usize..][..to.len()]);
                Ok(())
            }
        }
    }
}

impl Convert {
    /// The bytes on the card for `bytes` of the file.
    #[must_use]
    pub fn card_bytes(self, bytes: u64) -> u64 {
        let (file_bytes, card_bytes) = self.element_bytes();
        bytes / file_bytes as u64 * card_bytes as u64
    }

    /// The bytes of an element in the file, and on the card.
    fn element_bytes(self) -> (usize, usize) {
        match self {
            Self::None => (1, 1),
            Self::F32ToF16 | Self::F32ToBF16 => (4, 2),
            Self::F16ToF32 | Self::BF16ToF32 => (2, 4),
            Self::F16ToBF16 | Self::BF16ToF16 => (2, 2),
            Self::Blocks { form, columns } => (form.stored_bytes(columns), form.row_bytes(columns)),
        }
    }

    /// Converts `from`, which has as many elements as `to`; `wide` has room for as many numbers.
    fn convert(self, from: &[u8], to: &mut [u8], wide: &mut [f32]) {
        match self {
            Self::None => to.copy_from_slice(from),
            Self::Blocks { form, columns } => to.copy_from_slice(&form.parted(from, columns)),
            Self::F32ToF16 => numbers_mut::<f16>(to).convert_from_f32_slice(numbers(from)),
            Self::F32ToBF16 => numbers_mut::<bf16>(to).convert_from_f32_slice(numbers(from)),
            Self::F16ToF32 => numbers::<f16>(from).convert_to_f32_slice(numbers_mut(to)),
            Self::BF16ToF32 => numbers::<bf16>(from).convert_to_f32_slice(numbers_mut(to)),
            Self::F16ToBF16 => {
                numbers::<f16>(from).convert_to_f32_slice(wide);
                numbers_mut::<bf16>(to).convert_from_f32_slice(wide);
            }
            Self::BF16ToF16 => {
                numbers::<bf16>(from).convert_to_f32_slice(wide);
                numbers_mut::<f16>(to).convert_from_f32_slice(wide);
            }
        }
    }
}

/// What one thread works with.
#[derive(Debug)]
struct Lane {
    stream: Stream,
    slots: Vec<Slot>,
    scratch: Scratch,
}

impl Lane {
    fn new(gpu: &Arc<Gpu>, num_slots: usize, slot_bytes: usize) -> Result<Self> {
        let stream = Stream::new(gpu)?;
        let slot =
            |_| Ok(Slot { fetched: Event::new(gpu)?, memory: Pinned::new(gpu, slot_bytes)? });
        let slots = (0..num_slots).map(slot).collect::<Result<_>>()?;
        Ok(Self { stream, slots, scratch: Scratch::default() })
    }

    /// Copies parts until there are none, each one the `next` that no thread has, and tells `done` how
    /// many bytes each has in its file.
    fn run(
        &mut self,
        before: &Event,
        parts: &[Part<'_>],
        next: &AtomicUsize,
        done: &mpsc::Sender<Result<u64>>,
    ) -> Result<()> {
        self.stream.gpu.enter()?;
        self.stream.wait_for(before)?;
        let copied = self.copy(parts, next, done);
        // Also after an error: the buffers are the caller's again then.
        let fetched = self.stream.synchronize();
        copied.and(fetched)
    }

    fn copy(
        &mut self,
        parts: &[Part<'_>],
        next: &AtomicUsize,
        done: &mpsc::Sender<Result<u64>>,
    ) -> Result<()> {
        let mut number = 0;
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let num_slots = self.slots.len();
            let slot = &mut self.slots[number % num_slots];
            number += 1;
            self.scratch.read(part, &mut slot.memory()?[..part.card_bytes])?;
            slot.send(part.card_bytes, part.to, &self.stream)?;
            if done.send(Ok(part.file_bytes())).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Where elements are before they are converted, few enough that the processor's cache has them.
#[derive(Debug, Default)]
struct Scratch {
    stored: Vec<f32>,
    wide: Vec<f32>,
}

impl Scratch {
    /// Numbers that are converted at once.
    const NUM_NUMBERS: usize = 64 << 10;

    /// Reads `part` to `to`, converted.
    fn read(&mut self, part: &Part<'_>, mut to: &mut [u8]) -> Result<()> {
        let Piece { from: source, convert, .. } = part.piece;
        let (stored_bytes, card_bytes) = convert.element_bytes();
        for (from, bytes) in part.stretches() {
            let (here, rest) = to.split_at_mut(bytes / stored_bytes * card_bytes);
            to = rest;
            match convert {
                Convert::None => source.read(from, here)?,
                _ => self.convert(source, *convert, from, here)?,
            }
        }
        Ok(())
    }

    /// Fills `to` with the elements that begin at byte `from` of `source`, converted.
    fn convert(
        &mut self,
        source: &Source<'_>,
        convert: Convert,
        mut from: u64,
        to: &mut [u8],
    ) -> Result<()> {
        let (stored_bytes, card_bytes) = convert.element_bytes();
        // As many numbers as there is room for: a row that has more is converted by itself.
        let at_once = (Self::NUM_NUMBERS * 4 / stored_bytes.max(4)).max(1);
        let room = (at_once * stored_bytes).div_ceil(4).max(Self::NUM_NUMBERS);
        self.stored.resize(room, 0.0);
        self.wide.resize(Self::NUM_NUMBERS, 0.0);
        for to in to.chunks_mut(at_once * card_bytes) {
            let num_elements = to.len() / card_bytes;
            let stored = &mut bytes_mut(&mut self.stored)[..num_elements * stored_bytes];
            source.read(from, stored)?;
            let num_numbers = num_elements.min(Self::NUM_NUMBERS);
            convert.convert(stored, to, &mut self.wide[..num_numbers]);
            from += stored.len() as u64;
        }
        Ok(())
    }
}

/// Fills `to` with the bytes of a file's `range` that begin at `from` in it.
fn read(file: &File, path: &Path, range: &Range<u64>, from: u64, mut to: &mut [u8]) -> Result<()> {
    let mut from = range.start + from;
    while !to.is_empty() {
        match file.read_at(to, from) {
            Ok(0) => {
                let (path, end) = (path.to_owned(), range.end);
                let bytes = file.metadata().map_or(from, |metadata| metadata.len());
                return Err(Error::ShortFile { path, end, bytes });
            }
            Ok(bytes) => {
                from += bytes as u64;
                to = &mut to[bytes..];
            }
            Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        }
    }
    Ok(())
}

/// Pinned memory, and when the card has fetched what was in it.
#[derive(Debug)]
struct Slot {
    fetched: Event,
    memory: Pinned,
}

impl Slot {
    /// Its memory, when the card needs it no more.
    fn memory(&mut self) -> Result<&mut [u8]> {
        self.fetched.wait()?;
        // SAFETY: the memory is this slot's alone, and the card reads none of it, as the copy in `send`
        // is over.
        Ok(unsafe { slice::from_raw_parts_mut(self.memory.start, self.memory.bytes) })
    }

    /// Has the card fetch its first `bytes` to address `to`, behind what `stream` does.
    fn send(&mut self, bytes: usize, to: u64, stream: &Stream) -> Result<()> {
        assert!(bytes <= self.memory.bytes, "{bytes} bytes of {}", self.memory.bytes);
        call!(cuMemcpyHtoDAsync_v2(to, self.memory.start.cast(), bytes, stream.stream))?;
        self.fetched.record(stream.stream)
    }
}

/// Memory of this machine that the card may read and write by itself, at the same address.
#[derive(Debug)]
pub(crate) struct Pinned {
    gpu: Arc<Gpu>,
    pub(crate) start: *mut u8,
    bytes: usize,
}

// SAFETY: memory that belongs to no thread.
unsafe impl Send for Pinned {}
// SAFETY: a shared one gives no access.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let mut start: *mut c_void = ptr::null_mut();
        call!(cuMemHostAlloc(&raw mut start, bytes, 0))?;
        Ok(Self { gpu: Arc::clone(gpu), start: start.cast(), bytes })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.gpu.enter();
        let _ = call!(cuMemFreeHost(self.start.cast()));
    }
}

/// Copies in order, beside the card's other work.
#[derive(Debug)]
struct Stream {
    gpu: Arc<Gpu>,
    stream: sys::CUstream,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Stream {}
// SAFETY: as for `Gpu`.
unsafe impl Sync for Stream {}

impl Stream {
    fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        call!(cuStreamCreate(&raw mut stream, flags))?;
        Ok(Self { gpu: Arc::clone(gpu), stream })
    }

    /// Has what comes later wait for `event`.
    fn wait_for(&self, event: &Event) -> Result<()> {
        call!(cuStreamWaitEvent(self.stream, event.event, 0))
    }

    fn synchronize(&self) -> Result<()> {
        call!(cuStreamSynchronize(self.stream))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.gpu.enter();
        // It may still read slots, if a thread that used it panicked.
        let _ = self.synchronize();
        let _ = call!(cuStreamDestroy_v2(self.stream));
    }
}

/// A point in a stream's work.
#[derive(Debug)]
pub(crate) struct Event {
    gpu: Arc<Gpu>,
    event: sys::CUevent,
}

// SAFETY: as for `Gpu`.
unsafe impl Send for Event {}
// SAFETY: as for `Gpu`.
unsafe impl Sync for Event {}

impl Event {
    /// One whose waiters sleep, and leave the core to threads that read.
    fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        Self::with_flags(gpu, sys::CUevent_flags_enum::CU_EVENT_BLOCKING_SYNC as u32)
    }

    /// One whose waiters look at it again and again, and hear of it at once.
    pub(crate) fn prompt(gpu: &Arc<Gpu>) -> Result<Self> {
        Self::with_flags(gpu, 0)
    }

    fn with_flags(gpu: &Arc<Gpu>, flags: u32) -> Result<Self> {
        let mut event = ptr::null_mut();
        let flags = flags | sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        call!(cuEventCreate(&raw mut event, flags))?;
        Ok(Self { gpu: Arc::clone(gpu), event })
    }

    /// Puts it behind what `stream` was asked for.
    pub(crate) fn record(&self, stream: sys::CUstream) -> Result<()> {
        call!(cuEventRecord(self.event, stream))
    }

    /// Waits until the work before it is done; not at all where it was put nowhere.
    pub(crate) fn wait(&self) -> Result<()> {
        call!(cuEventSynchronize(self.event))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.gpu.enter();
        let _ = call!(cuEventDestroy_v2(self.event));
    }
}

fn numbers<T: Plain>(bytes: &[u8]) -> &[T] {
    // SAFETY: `Plain` numbers are any bytes.
    let (before, numbers, after) = unsafe { bytes.align_to() };
    assert!(before.is_empty() && after.is_empty(), "numbers begin where they may");
    numbers
}

fn numbers_mut<T: Plain>(bytes: &mut [u8]) -> &mut [T] {
    // SAFETY: `Plain` numbers are any bytes, and the other way round.
    let (before, numbers, after) = unsafe { bytes.align_to_mut() };
    assert!(before.is_empty() && after.is_empty(), "numbers begin where they may");
    numbers
}

fn bytes_mut<T: Plain>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: `Plain` numbers are any bytes, and the other way round.
    let (before, bytes, after) = unsafe { numbers.align_to_mut() };
    assert!(before.is_empty() && after.is_empty(), "bytes begin anywhere");
    bytes
}
