//! A file system in a file, mounted for as long as a test runs.

#![allow(dead_code, reason = "each test that includes this file uses some of it")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system, unmounted when dropped.
pub(crate) struct Image {
    dir: TempDir,
}

impl Image {
    /// Makes a file system by `mkfs`, such as `mkfs.xfs -q`, in a sparse file of `mebibytes`, and mounts
    /// it; says so and returns `None` where that cannot be: it takes root, the tool and the kernel.
    pub(crate) fn mounted(mkfs: &[&str], mebibytes: u64) -> Option<Self> {
        let image = Self { dir: tempfile::tempdir().unwrap() };
        let file = image.dir.path().join("image");
        File::create(&file).unwrap().set_len(mebibytes << 20).unwrap();
        fs::create_dir(image.path()).unwrap();
        let mut make = Command::new(mkfs[0]);
        make.args(&mkfs[1..]).arg(&file);
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&file).arg(image.path());
        image.after([make, mount], mkfs[0])
    }

    /// Mounts a tmpfs of `mebibytes`, likewise.
    pub(crate) fn tmpfs(mebibytes: u64) -> Option<Self> {
        let image = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(image.path()).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"]).arg(image.path());
        image.after([mount], "tmpfs")
    }

    fn after<const N: usize>(self, commands: [Command; N], what: &str) -> Option<Self> {
        for mut command in commands {
            let failed = match command.output() {
                Ok(output) if output.status.success() => continue,
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => format!("{}: {error}", command.get_program().display()),
            };
            eprintln!("skipped: no {what} can be made and mounted here: {failed}");
            return None;
        }
        Some(self)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// The bytes in use, once all that was written is on the disk.
    pub(crate) fn used_bytes(&self) -> u64 {
        let root = File::open(self.path()).unwrap();
        rustix::fs::syncfs(&root).unwrap();
        let stat = rustix::fs::fstatvfs(&root).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let unmount = |flags: &[&str], path: &Path| {
            let output = Command::new("umount").args(flags).arg(path).output();
            output.is_ok_and(|output| output.status.success())
        };
        // The second takes it away also while something in it is still open.
        let _ = unmount(&[], &self.path()) || unmount(&["-l"], &self.path());
    }
}
