//! What this machine has of memory.

use std::path::Path;

/// The bytes of this machine's memory that a process may still take; `None` where nobody says.
///
/// That is what the system has, or what the process's control group leaves, whichever is less.
#[must_use]
pub fn free_bytes() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let group = Path::new("/sys/fs/cgroup");
    let number = |file: &str| -> Option<u64> {
        std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
    };
    let left = || {
        // "max" is no number: there is no bound.
        let (max, current) = (number("memory.max")?, number("memory.current")?);
        let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        Some(max.saturating_sub(current.saturating_sub(cached(&stat))))
    };
    match (system, left()) {
        (Some(system), Some(left)) => Some(system.min(left)),
        (system, left) => system.or(left),
    }
}

/// The bytes of memory that this process had at most so far; `None` where nobody says.
#[must_use]
pub fn peak_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Has [`peak_bytes`] begin with what the process has now, where the system can do that.
pub fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// `MemAvailable` of `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    field(meminfo, "MemAvailable:")
}

/// What of a file in `/proc` is called `name`, which is counted in KiB there.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Of a group's `memory.stat`, the bytes of files that were read or written: they make room.
fn cached(stat: &str) -> u64 {
    let fields = stat.lines().filter_map(|line| line.split_once(' '));
    let files = fields.filter(|(name, _)| ["inactive_file", "active_file"].contains(name));
    files.filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_a_groups_memory_make_room() {
        let stat = "anon 5000\nfile 900\nshmem 200\ninactive_file 300\nactive_file 400\n";
        assert_eq!(cached(stat), 700);
        assert_eq!(cached(""), 0);
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        let text = "MemTotal:  100 kB\nMemFree:  7 kB\nMemAvailable:   42 kB\n";
        assert_eq!(available(text), Some(43_008));
        let meminfo = "MemTotal:       16265572 kB\nMemAvailable:    9843016 kB\n";
        assert_eq!(available(meminfo), Some(9_843_016 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }
}
