//! What the operating system's file systems offer: the only file that calls it by platform.
//!
//! Elsewhere than on Linux nothing is shared or copied in the kernel; bytes are read and written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use rustix::fs as sys;

/// The bytes that a user may still write to the file system that holds `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = sys::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether an error says that this way of moving bytes does not work here, so that another may.
///
/// An I/O error or a full disk is none of these.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let unsupported = [
        Errno::NOSYS,
        Errno::XDEV,
        Errno::INVAL,
        Errno::PERM,
        Errno::OPNOTSUPP,
        Errno::NOTTY,
        Errno::TXTBSY,
    ];
    error.kind() == io::ErrorKind::Unsupported
        || Errno::from_io_error(error).is_some_and(|errno| unsupported.contains(&errno))
}

/// Whether files can be made in the folder `dir`.
pub(crate) fn is_writable(dir: &Path) -> io::Result<()> {
    Ok(sys::access(dir, sys::Access::WRITE_OK | sys::Access::EXEC_OK)?)
}

/// Takes the lock of `file` for as long as it is open; `false` if another process holds it.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    match sys::flock(file, sys::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    can_share, copies_by_splice, copy_range, exchange, is_mount_point, open_direct, read_ahead,
    rename_new, share_range,
};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{
    can_share, copies_by_splice, copy_range, exchange, is_mount_point, open_direct, read_ahead,
    rename_new, share_range,
};

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::AsRawFd;

    use rustix::ioctl;

    use super::{File, Path, Range, io, sys};

    /// Makes `target` from `target_offset` on share the extents of `range` of `source`.
    ///
    /// Offsets and length are multiples of the file system's block size.
    pub(crate) fn share_range(
        source: &File,
        range: &Range<u64>,
        target: &File,
        target_offset: u64,
    ) -> io::Result<()> {
        /// `struct file_clone_range` of `linux/fs.h`.
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct FileCloneRange {
            src_fd: i64,
            src_offset: u64,
            src_length: u64,
            dest_offset: u64,
        }
        const FICLONERANGE: ioctl::Opcode = ioctl::opcode::write::<FileCloneRange>(0x94, 13);

        let argument = FileCloneRange {
            src_fd: source.as_raw_fd().into(),
            src_offset: range.start,
            src_length: range.end - range.start,
            dest_offset: target_offset,
        };
        rustix::io::retry_on_intr(|| {
            #[expect(unsafe_code, reason = "rustix has no safe function for FICLONERANGE")]
            // SAFETY: the opcode takes a pointer to this struct, reads it during the call and
            // writes nothing through it; both descriptors are open for as long as it runs.
            unsafe {
                ioctl::ioctl(target, ioctl::Setter::<FICLONERANGE, FileCloneRange>::new(argument))
            }
        })?;
        Ok(())
    }

    /// Whether files in `dir` can share blocks with `source`: tried on a file without a name.
    pub(crate) fn can_share(source: &File, dir: &Path) -> io::Result<bool> {
        const BLOCK: u64 = checkpoint::header::BLOCK_BYTES;
        if source.metadata()?.len() < BLOCK {
            return Ok(false);
        }
        let flags = sys::OFlags::TMPFILE | sys::OFlags::RDWR | sys::OFlags::CLOEXEC;
        let nameless = match sys::open(dir, flags, sys::Mode::RUSR | sys::Mode::WUSR) {
            Ok(fd) => File::from(fd),
            Err(errno) => {
                let error = errno.into();
                return if super::is_unsupported(&error) { Ok(false) } else { Err(error) };
            }
        };
        nameless.set_len(BLOCK)?;
        match share_range(source, &(0..BLOCK), &nameless, 0) {
            Ok(()) => Ok(true),
            Err(error) if super::is_unsupported(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies up to the length of `range` inside the kernel, and returns how many bytes it did.
    pub(crate) fn copy_range(
        source: &File,
        range: &Range<u64>,
        target: &File,
        mut target_offset: u64,
    ) -> io::Result<u64> {
        let mut source_offset = range.start;
        let length = (range.end - range.start) as usize;
        let copied = rustix::io::retry_on_intr(|| {
            sys::copy_file_range(
                source,
                Some(&mut source_offset),
                target,
                Some(&mut target_offset),
                length,
            )
        })?;
        Ok(copied as u64)
    }

    /// Whether copying in the kernel is only a splice here, 64 KiB at a time, which takes longer than
    /// reading and writing: so it is on disks of this machine. Servers copy on their side.
    pub(crate) fn copies_by_splice(file: &File) -> bool {
        /// `statfs(2)`: ext2 to ext4, XFS, btrfs, F2FS, tmpfs, ZFS, bcachefs, overlayfs.
        const LOCAL: [i64; 8] = [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0xf2f5_2010,
            0x0102_1994,
            0x2fc1_2fc1,
            0xca45_1a4e,
            0x794c_7630,
        ];
        sys::fstatfs(file).is_ok_and(|stat| LOCAL.contains(&stat.f_type))
    }

    /// Opens the file at `path` for writes past the page cache, where the file system has them.
    pub(crate) fn open_direct(path: &Path) -> Option<File> {
        let flags = sys::OFlags::WRONLY | sys::OFlags::DIRECT | sys::OFlags::CLOEXEC;
        sys::open(path, flags, sys::Mode::empty()).ok().map(File::from)
    }

    /// Lets two folders change places in one step.
    pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
        Ok(sys::renameat_with(sys::CWD, one, sys::CWD, other, sys::RenameFlags::EXCHANGE)?)
    }

    /// Renames a file to a path at which nothing may stand.
    pub(crate) fn rename_new(file: &Path, to: &Path) -> io::Result<()> {
        Ok(sys::renameat_with(sys::CWD, file, sys::CWD, to, sys::RenameFlags::NOREPLACE)?)
    }

    /// Asks for `range` to be read into the cache in the background; nothing depends on it.
    pub(crate) fn read_ahead(source: &File, range: &Range<u64>) {
        let length = std::num::NonZeroU64::new(range.end - range.start);
        let _ = sys::fadvise(source, range.start, length, sys::Advice::WillNeed);
    }

    /// Whether a file system is mounted at `path`.
    pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
        let flags = sys::AtFlags::SYMLINK_NOFOLLOW;
        let stat = sys::statx(sys::CWD, path, flags, sys::StatxFlags::BASIC_STATS)?;
        Ok(stat.stx_attributes.contains(sys::StatxAttributes::MOUNT_ROOT))
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::os::unix::fs::MetadataExt;

    use super::{File, Path, Range, io};

    pub(crate) fn share_range(_: &File, _: &Range<u64>, _: &File, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn can_share(_: &File, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    pub(crate) fn copy_range(_: &File, _: &Range<u64>, _: &File, _: u64) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn copies_by_splice(_: &File) -> bool {
        true
    }

    pub(crate) fn open_direct(_: &Path) -> Option<File> {
        None
    }

    pub(crate) fn exchange(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn read_ahead(_: &File, _: &Range<u64>) {}

    pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
        let parent = path.canonicalize()?.parent().map(Path::to_owned);
        let Some(parent) = parent else { return Ok(true) };
        Ok(path.metadata()?.dev() != parent.metadata()?.dev())
    }
}
