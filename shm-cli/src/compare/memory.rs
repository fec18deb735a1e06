//! How much memory there is for us to take: what the machine has available,
//! and no more than a container or service may have.

use std::fs;
use std::path::Path;

use procfs::process::Process;
use procfs::{Current, Meminfo};

/// In bytes; none where the kernel does not tell.
pub(crate) fn available() -> Option<u64> {
    let machine = Meminfo::current().ok()?.mem_available?;
    Some(limit().map_or(machine, |limit| limit.min(machine)))
}

/// How the kernel shows the memory of control groups.
struct Hierarchy {
    root: &'static str,
    most: &'static str,
    used: &'static str,
    /// Of that, the files that the kernel lets go of first.
    cache: &'static str,
}

const VERSION_1: Hierarchy = Hierarchy {
    root: "/sys/fs/cgroup/memory",
    most: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

const VERSION_2: Hierarchy = Hierarchy {
    root: "/sys/fs/cgroup",
    most: "memory.max",
    used: "memory.current",
    cache: "inactive_file",
};

/// What is left to this process's control groups, and to those around them.
fn limit() -> Option<u64> {
    let groups = Process::myself().ok()?.cgroups().ok()?;
    let limits = groups.into_iter().filter_map(|group| {
        let hierarchy = match group.hierarchy {
            0 => VERSION_2,
            _ if group.controllers.iter().any(|c| c == "memory") => VERSION_1,
            _ => return None,
        };
        let path = group.pathname.trim_start_matches('/');
        hierarchy.limit(Path::new(hierarchy.root), Path::new(path))
    });
    limits.min()
}

impl Hierarchy {
    fn limit(&self, root: &Path, group: &Path) -> Option<u64> {
        let groups = group.ancestors().map(|group| root.join(group));
        groups.filter_map(|group| self.headroom(&group)).min()
    }

    /// None: there is no limit there.
    fn headroom(&self, group: &Path) -> Option<u64> {
        let read = |file: &str| fs::read_to_string(group.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        // The word `max`, where there is no limit, is no number.
        let (most, used) = (number(self.most)?, number(self.used)?);
        let stat = read("memory.stat").unwrap_or_default();
        let cache = stat.lines().find_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            (name == self.cache).then(|| bytes.parse::<u64>().ok())?
        });
        let used = used.saturating_sub(cache.unwrap_or(0));
        Some(most.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(directory: &Path, max: &str, current: &str) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("memory.max"), format!("{max}\n")).unwrap();
        fs::write(directory.join("memory.current"), current).unwrap();
        let stat = "anon 7\ninactive_file 100\n";
        fs::write(directory.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn the_narrowest_group_around_counts() {
        let root = tempfile::tempdir().unwrap();
        let of = |path: &str| VERSION_2.limit(root.path(), Path::new(path));
        group(&root.path().join("a"), "10000", "4000");
        assert_eq!(of("a"), Some(6100));
        group(&root.path().join("a/b"), "max", "4000");
        assert_eq!(of("a/b"), Some(6100));
        group(&root.path().join("a/b/c"), "3000", "2900");
        assert_eq!(of("a/b/c"), Some(200));
        group(&root.path().join("a/b/d"), "3000", "9000");
        assert_eq!(of("a/b/d"), Some(0));
        // As at the root of the machine.
        assert_eq!(of(""), None);
        assert_eq!(of("elsewhere"), None);
    }

    #[test]
    fn a_machine_tells_what_is_available() {
        assert!(available().is_some_and(|bytes| bytes > 0));
    }
}
