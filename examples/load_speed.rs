//! How fast files come to a card: `load_speed FOLDER MB [THREADSxSLOTSxMIB,...]`.
//!
//! It writes files like a checkpoint's shards to FOLDER, which are in the page cache then, and takes
//! them away in the end.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]
#![expect(unsafe_code, reason = "what it is compared with is a map, and the driver's own copy")]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, iter, ptr, thread};

use cudarc::driver::sys;
use kernels::{Buffer, Convert, Gpu, Piece, Source, Uploader};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const SHARD_BYTES: u64 = 4_000_000_000;
const TENSOR_BYTES: u64 = 117_440_512;
/// Each begins with its number in its file.
const STAMPED_BYTES: usize = 1 << 20;

struct Shard {
    path: PathBuf,
    file: File,
    bytes: u64,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let usage = "load_speed FOLDER MB [THREADSxSLOTSxMIB,...]";
    let folder = PathBuf::from(arguments.next().ok_or(usage)?).join("load-example");
    let bytes = arguments.next().ok_or(usage)?.parse::<u64>()? * 1_000_000;
    let uploaders = arguments.next().unwrap_or("1x2x2,4x2x2,8x2x2,12x2x2".to_owned());
    let uploaders = uploaders.split(',').map(|uploader| {
        let numbers = uploader.split('x').map(str::parse).collect::<Result<Vec<usize>, _>>();
        numbers.ok().and_then(|numbers| <[usize; 3]>::try_from(numbers).ok()).ok_or(usage)
    });
    let uploaders = uploaders.collect::<Result<Vec<_>, _>>()?;
    fs::create_dir_all(&folder)?;
    let measured = write(&folder, bytes).and_then(|shards| {
        let gpu = Gpu::open(0)?;
        println!("{}, {} cores", gpu.name()?, thread::available_parallelism()?);
        show("copy from pinned memory, nothing read", 40 << 28, copy_pinned(40, 1 << 28)?);
        by_ordinary_memory(&gpu, &shards[0])?;
        for [threads, num_slots, mebibytes] in uploaders {
            by_uploader(&gpu, &shards, threads, num_slots, mebibytes << 20)?;
        }
        Ok(())
    });
    fs::remove_dir_all(&folder)?;
    measured
}

fn show(what: &str, bytes: u64, took: Duration) {
    let seconds = took.as_secs_f64();
    let rate = bytes as f64 / seconds / 1e9;
    println!("{what:44} {:6.2} GB in {seconds:6.3} s  {rate:6.2} GB/s", bytes as f64 / 1e9);
}

fn write(folder: &Path, bytes: u64) -> Result<Vec<Shard>> {
    let begun = Instant::now();
    let starts = (0..bytes).step_by(SHARD_BYTES as usize);
    let shards = thread::scope(|scope| {
        let writers: Vec<_> = starts
            .enumerate()
            .map(|(number, start)| {
                let path = folder.join(format!("{number}"));
                scope.spawn(move || write_one(path, SHARD_BYTES.min(bytes - start)))
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("writers do not panic")).collect()
    });
    show("files written", bytes, begun.elapsed());
    shards
}

fn write_one(path: PathBuf, bytes: u64) -> Result<Shard> {
    let mut file = File::create(&path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let numbers = iter::repeat_with(next).take(STAMPED_BYTES / 8);
    let mut block: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    for number in 0..bytes.div_ceil(STAMPED_BYTES as u64) {
        block[..8].copy_from_slice(&number.to_le_bytes());
        let rest = bytes - number * STAMPED_BYTES as u64;
        file.write_all(&block[..STAMPED_BYTES.min(rest as usize)])?;
    }
    Ok(Shard { file: File::open(&path)?, path, bytes })
}

/// The link's own speed: `times` copies of `bytes` that lie in pinned memory.
fn copy_pinned(times: usize, bytes: usize) -> Result<Duration> {
    let (mut host, mut card) = (ptr::null_mut(), 0);
    // SAFETY: the card was opened on this thread; both stretches have `bytes` and are freed when all
    // copies are over.
    unsafe {
        sys::cuMemHostAlloc(&raw mut host, bytes, 0).result()?;
        sys::cuMemAlloc_v2(&raw mut card, bytes).result()?;
        let begun = Instant::now();
        for _ in 0..times {
            sys::cuMemcpyHtoDAsync_v2(card, host, bytes, ptr::null_mut()).result()?;
        }
        sys::cuStreamSynchronize(ptr::null_mut()).result()?;
        let took = begun.elapsed();
        sys::cuMemFreeHost(host).result()?;
        sys::cuMemFree_v2(card).result()?;
        Ok(took)
    }
}

fn by_ordinary_memory(gpu: &Arc<Gpu>, shard: &Shard) -> Result<()> {
    let mut to = gpu.zeros(shard.bytes as usize)?;
    gpu.synchronize()?;

    let begun = Instant::now();
    // SAFETY: nobody else writes to the file.
    let map = unsafe { memmap2::Mmap::map(&shard.file)? };
    for (number, part) in map.chunks(TENSOR_BYTES as usize).enumerate() {
        to.write(number * TENSOR_BYTES as usize, part)?;
    }
    show("pageable copy from a map, page by page", shard.bytes, begun.elapsed());
    let begun = Instant::now();
    for (number, part) in map.chunks(TENSOR_BYTES as usize).enumerate() {
        to.write(number * TENSOR_BYTES as usize, part)?;
    }
    show("pageable copy from a map that is all there", shard.bytes, begun.elapsed());

    let mut part = vec![1; TENSOR_BYTES as usize];
    let begun = Instant::now();
    for range in tensors(shard.bytes) {
        let part = &mut part[..(range.end - range.start) as usize];
        std::os::unix::fs::FileExt::read_exact_at(&shard.file, part, range.start)?;
        to.write(range.start as usize, part)?;
    }
    show("read, then pageable copy, one thread", shard.bytes, begun.elapsed());
    check(shard, &to)
}

fn tensors(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..bytes).step_by(TENSOR_BYTES as usize).map(move |at| at..bytes.min(at + TENSOR_BYTES))
}

fn by_uploader(
    gpu: &Arc<Gpu>,
    shards: &[Shard],
    threads: usize,
    num_slots: usize,
    slot_bytes: usize,
) -> Result<()> {
    let begun = Instant::now();
    let mut uploader = Uploader::with_slots(gpu, threads, num_slots, slot_bytes)?;
    let opened = begun.elapsed();
    println!("{threads} threads x {num_slots} x {} MiB pinned in {opened:.3?}", slot_bytes >> 20);
    for convert in [Convert::None, Convert::F32ToBF16, Convert::F32ToF16, Convert::BF16ToF16] {
        let shards = if convert == Convert::None { shards } else { &shards[..1] };
        let to: Vec<Buffer> = shards
            .iter()
            .map(|shard| gpu.zeros(convert.card_bytes(shard.bytes) as usize))
            .collect::<Result<_, _>>()?;
        gpu.synchronize()?;
        let mut pieces = Vec::new();
        for (Shard { file, path, bytes }, to) in shards.iter().zip(&to) {
            pieces.extend(tensors(*bytes).map(|range| {
                let offset = convert.card_bytes(range.start) as usize;
                let from = Source::File { file, path, range };
                Piece { from, to, offset, convert, order: None }
            }));
        }
        let begun = Instant::now();
        uploader.upload(&pieces, |_| Ok::<_, kernels::Error>(()))?;
        let bytes = shards.iter().map(|shard| shard.bytes).sum();
        show(&format!("  uploaded, {convert:?}"), bytes, begun.elapsed());
        if convert == Convert::None {
            for (shard, to) in shards.iter().zip(&to) {
                check(shard, to)?;
            }
        }
    }
    Ok(())
}

/// Whether all that was stamped is where it should be.
fn check(shard: &Shard, to: &Buffer) -> Result<()> {
    for number in 0..shard.bytes / STAMPED_BYTES as u64 {
        let mut found = [0; 8];
        to.read(number as usize * STAMPED_BYTES, &mut found)?;
        if found != number.to_le_bytes() {
            return Err(format!("{}: block {number} is not there", shard.path.display()).into());
        }
    }
    Ok(())
}
