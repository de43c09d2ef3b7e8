//! A small disk of its own, to be filled up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, mounted until this is dropped.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Mounts one of this many bytes at `dir`; `None`, with the reason printed, where nobody may mount.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
    pub fn mount(dir: &Path, bytes: usize) -> Option<Self> {
        fs::create_dir_all(dir).expect("the folder can be made");
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir: dir.to_owned() }),
            Ok(output) => {
                eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr).trim_end());
                None
            }
            Err(error) => {
                eprintln!("skipped: no mount: {error}");
                None
            }
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes all room that is left, but for `free` bytes; the file that does so can be removed.
    #[must_use]
    pub fn fill(&self, free: usize) -> PathBuf {
        let hog = self.dir.join("hog");
        // A write beyond the end of the disk leaves as much as there was room for.
        let _ = fs::write(&hog, vec![0; 64 << 20]);
        let file = fs::OpenOptions::new().write(true).open(&hog).expect("the file was made");
        let taken = file.metadata().expect("it can be asked for its length").len();
        file.set_len(taken.saturating_sub(free as u64)).expect("a file can be made shorter");
        hog
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.dir).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_as_large_as_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::mount(&dir.path().join("disk"), 1 << 20) else { return };
        let hog = disk.fill(100_000);
        assert!(hog.metadata().unwrap().len() > 900_000);
        fs::write(disk.dir().join("small"), vec![0; 50_000]).unwrap();
        assert!(fs::write(disk.dir().join("large"), vec![0; 100_000]).is_err());
    }
}
