//! What a build writes down while it is under way, so that it can be gone on with after a crash.
//!
//! A journal is a text file beside the new files, of which the first line says what is built: by
//! which version, of which recipe, from which files as they were then, and into which files. After it
//! comes a line for each stretch of a new file that is finished. Every line ends in a checksum of its
//! own, so that one that was torn, or never reached the disk, is told from one that was meant.
//!
//! Nothing is synced on the way, neither the journal nor what it speaks of: a line holds a checksum of
//! the bytes that were meant, and a stretch that did not reach the disk before a crash does not have
//! them. It is done again. So a line that is lost costs work, and one that came too early costs
//! nothing. Stretches that the kernel copied never were in our hands; they have no checksum and are
//! compared with their source. Stretches that share the source's blocks have no line: sharing them
//! again takes no time and changes nothing.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::arithmetic::CastReport;
use crate::error::{Error, Result};
use crate::journal_head::Head;
use crate::open_file::OpenFile;

/// The file's name in the folder that a build writes into; it never comes to the output.
pub const FILE: &str = ".dus-journal";

/// The name under which a shorter journal is written before it replaces the longer one.
const NEXT_FILE: &str = ".dus-journal.next";

/// The length of a line, at most, in an ordinary build.
pub(crate) const LINE_BYTES: u64 = 80;

/// A stretch of a new file that is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The shard's index.
    pub shard: usize,
    /// Its bytes there.
    pub range: Range<u64>,
    /// The checksum of the bytes that were meant; none where the kernel copied them.
    pub checksum: Option<u32>,
    /// What a cast lost in them: a build that goes on counts it too.
    pub cast: CastReport,
}

impl Stretch {
    fn encode(&self) -> String {
        let Range { start, end } = self.range;
        let checksum = self.checksum.map_or_else(|| "-".to_owned(), |sum| format!("{sum:08x}"));
        let CastReport { lossy, flushed, overflowed, inexact } = self.cast;
        let shard = self.shard;
        format!("{shard} {start} {end} {checksum} {lossy} {flushed} {overflowed} {inexact}")
    }

    fn decode(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [shard, start, end, checksum, lossy, flushed, overflowed, inexact] = words[..] else {
            return None;
        };
        let number = |word: &str| word.parse::<u64>().ok();
        let checksum = match checksum {
            "-" => None,
            sum => Some(u32::from_str_radix(sum, 16).ok()?),
        };
        let cast = CastReport {
            lossy: number(lossy)?,
            flushed: number(flushed)?,
            overflowed: number(overflowed)?,
            inexact: number(inexact)?,
        };
        let range = number(start)?..number(end)?;
        (!range.is_empty()).then_some(Self { shard: shard.parse().ok()?, range, checksum, cast })
    }
}

/// A line of `text`, with its checksum.
fn line(text: &str) -> String {
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))
}

/// The text of a line, if it is as it was written.
fn unwrap_line(line: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(line).ok()?;
    let (text, checksum) = text.rsplit_once(' ')?;
    let is_whole = checksum.len() == 8
        && u32::from_str_radix(checksum, 16) == Ok(crc32fast::hash(text.as_bytes()));
    is_whole.then_some(text)
}

/// What an interrupted build wrote down.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it was to make.
    pub head: Head,
    /// What it had finished.
    pub stretches: Vec<Stretch>,
}

impl Record {
    /// Reads the journal in the folder `dir`; `None` where there is none that can be understood.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        match path.symlink_metadata() {
            // Only a file is one; a pipe would be waited for.
            Ok(metadata) if metadata.is_file() => {}
            _ => return Ok(None),
        }
        match fs::read(&path) {
            Ok(bytes) => Ok(Self::decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { path, doing: "read", source }),
        }
    }

    /// Understands a journal; lines that are not as they were written are left out.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.split(|&byte| byte == b'\n');
        let head = Head::decode(unwrap_line(lines.next()?)?)?;
        let mut stretches: Vec<Stretch> =
            lines.filter_map(unwrap_line).filter_map(Stretch::decode).collect();
        stretches.sort_by_key(|stretch| (stretch.shard, stretch.range.start, stretch.range.end));
        Some(Self { head, stretches })
    }

    /// How many bytes of the new files it says are finished.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let (mut bytes, mut last) = (0, (0, 0));
        for Stretch { shard, range, .. } in &self.stretches {
            // They are sorted, and should not overlap; what does counts once.
            let begin = if last.0 == *shard { range.start.max(last.1) } else { range.start };
            bytes += range.end.saturating_sub(begin);
            last = (*shard, range.end.max(begin));
        }
        bytes
    }
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal(OpenFile);

impl Journal {
    /// Begins a journal in the folder `dir`, where there is none.
    pub fn begin(dir: &Path, head: &Head) -> Result<Self> {
        Self::create(dir.join(FILE), head, &[])
    }

    /// Begins anew with what is whole of an interrupted build, in place of that one's journal.
    ///
    /// Until the new one is on the disk, the old one stands.
    pub fn begin_again(dir: &Path, head: &Head, stretches: &[Stretch]) -> Result<Self> {
        let (next, path) = (dir.join(NEXT_FILE), dir.join(FILE));
        let Self(mut open) = Self::create(next, head, stretches)?;
        open.file.sync_all().map_err(open.failed("synced"))?;
        fs::rename(&open.path, &path).map_err(open.failed("renamed"))?;
        open.path = path;
        Ok(Self(open))
    }

    fn create(path: PathBuf, head: &Head, stretches: &[Stretch]) -> Result<Self> {
        let created = File::options().append(true).create_new(true).open(&path);
        let open = match created {
            Ok(file) => OpenFile { path, file },
            Err(source) => return Err(Error::Io { path, doing: "created", source }),
        };
        let journal = Self(open);
        journal.write(&line(&head.encode()))?;
        journal.add(stretches)?;
        Ok(journal)
    }

    /// Notes stretches that are finished.
    pub fn add(&self, stretches: &[Stretch]) -> Result<()> {
        let lines: String = stretches.iter().map(|stretch| line(&stretch.encode())).collect();
        self.write(&lines)
    }

    /// Appends in one call, so that lines of several threads do not mix.
    fn write(&self, lines: &str) -> Result<()> {
        (&self.0.file).write_all(lines.as_bytes()).map_err(self.0.failed("written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches() -> Vec<Stretch> {
        let cast = CastReport { lossy: 3, flushed: 2, overflowed: 1, inexact: 0 };
        let nothing = CastReport::default();
        vec![
            Stretch { shard: 0, range: 8..4096, checksum: Some(0xab), cast: nothing },
            Stretch { shard: 0, range: 4096..9000, checksum: None, cast: nothing },
            Stretch { shard: 12, range: 1..2, checksum: Some(u32::MAX), cast },
        ]
    }

    fn written() -> Vec<u8> {
        let head = line(r#"{"dus":"0.1.0","recipe":{"layers":"dus(1)"}}"#);
        let lines: String = stretches().iter().map(|stretch| line(&stretch.encode())).collect();
        (head + &lines).into_bytes()
    }

    #[test]
    fn what_was_written_is_read() {
        let record = Record::decode(&written()).unwrap();
        assert_eq!(record.stretches, stretches());
        assert_eq!(record.bytes(), 9000 - 8 + 1);
    }

    /// However it is cut off, no line is taken for another one.
    #[test]
    fn a_torn_line_is_left_out() {
        let whole = written();
        let head_length = whole.iter().position(|&byte| byte == b'\n').unwrap();
        for length in 0..whole.len() {
            let record = Record::decode(&whole[..length]);
            assert_eq!(record.is_some(), length >= head_length, "{length}");
            let Some(record) = record else { continue };
            let num_whole = record.stretches.len();
            assert_eq!(record.stretches, stretches()[..num_whole], "{length}");
            let ended = whole[..length].split(|&byte| byte == b'\n').count() - 1;
            // A line that lacks nothing but its end is whole, too.
            assert!(num_whole + 1 == ended || num_whole == ended, "{length}");
        }
    }

    #[test]
    fn a_line_with_a_wrong_bit_is_left_out() {
        let whole = written();
        let head_length = whole.iter().position(|&byte| byte == b'\n').unwrap();
        for at in head_length + 1..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 1;
            let record = Record::decode(&spoilt).unwrap();
            assert!(record.stretches.len() < 3, "{at}");
            assert!(record.stretches.iter().all(|stretch| stretches().contains(stretch)), "{at}");
        }
        for at in 0..head_length {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 1;
            assert_eq!(Record::decode(&spoilt), None, "{at}");
        }
    }

    #[test]
    fn what_overlaps_counts_once() {
        let stretch =
            |shard, range| Stretch { shard, range, checksum: None, cast: CastReport::default() };
        let record = |stretches| Record { head: Head::decode("{}").unwrap(), stretches };
        let all = vec![stretch(0, 0..10), stretch(0, 5..7), stretch(0, 8..12), stretch(1, 3..4)];
        assert_eq!(record(all).bytes(), 13);
        assert_eq!(record(Vec::new()).bytes(), 0);
    }
}
