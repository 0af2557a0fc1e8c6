//! Parsers of the two files that say where the hierarchies are: `/proc/self/mountinfo` and `/proc/<pid>/cgroup`
//! (proc(5), cgroups(7)). Both take text, so they are tested and fuzzed without a kernel.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::controller::{Controller, Controllers, Version};

/// One line of mountinfo that is a cgroup file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountLine {
    pub(crate) version: Version,
    /// The kernel's number of the mount.
    pub(crate) id: u64,
    /// `major:minor` of the superblock: the identity of the hierarchy.
    pub(crate) device: (u32, u32),
    /// Which directory of the hierarchy is mounted, as the caller's cgroup namespace sees it.
    pub(crate) root: String,
    pub(crate) mountpoint: PathBuf,
    pub(crate) read_only: bool,
    /// v1 only; v2 lists its controllers in `cgroup.controllers`.
    pub(crate) controllers: Controllers,
    /// v1 only: `systemd` of `name=systemd`.
    pub(crate) name: Option<String>,
    /// v1 only: the controllers and name as mount options, in the kernel's order.
    pub(crate) options: String,
}

/// The cgroup mounts of a mountinfo, in mount order. Lines that are something else are passed over.
pub(crate) fn mounts(mountinfo: &str) -> Vec<MountLine> {
    mountinfo.lines().filter_map(mount_line).collect()
}

// 36 35 98:0 /root /mountpoint rw,noatime master:1 - type source rw,errors=continue
fn mount_line(line: &str) -> Option<MountLine> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let (_source, superblock) = (right.next()?, right.next()?);
    let mut left = left.split(' ');
    let (id, _parent) = (left.next()?, left.next()?);
    let (major, minor) = left.next()?.split_once(':')?;
    let root = String::from_utf8(unescape(left.next()?)).ok()?;
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(left.next()?)));
    let flags = left.next()?;
    let mut mount = MountLine {
        version,
        id: id.parse().ok()?,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        mountpoint,
        read_only: flags.split(',').chain(superblock.split(',')).any(|flag| flag == "ro"),
        controllers: Controllers::NONE,
        name: None,
        options: String::new(),
    };
    if version == Version::V1 {
        for option in superblock.split(',') {
            let controller = Controller::from_name(option);
            let name = option.strip_prefix("name=");
            // A controller this crate does not know (debug) still is a hierarchy of its own; it is only never used.
            if controller.is_none() && name.is_none() {
                continue;
            }
            mount.controllers =
                controller.map_or(mount.controllers, |controller| mount.controllers.with(controller));
            mount.name = name.map(str::to_owned).or(mount.name);
            if !mount.options.is_empty() {
                mount.options.push(',');
            }
            mount.options.push_str(option);
        }
    }
    Some(mount)
}

/// Undoes the kernel's `\040` escapes.
fn unescape(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |digit: u8| (b'0'..=b'7').contains(&digit).then(|| u32::from(digit - b'0'));
        let code = match tail {
            [a, b, c, ..] if byte == b'\\' => {
                octal(*a).zip(octal(*b)).zip(octal(*c)).map(|((a, b), c)| a * 64 + b * 8 + c)
            }
            _ => None,
        };
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// One line of `/proc/<pid>/cgroup`: which group a process is in, for one hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Membership<'a> {
    /// The controllers (and `name=`) joined by commas; empty for v2.
    pub(crate) hierarchy: &'a str,
    /// The group, as the reader's cgroup namespace sees it.
    pub(crate) path: &'a str,
}

/// The groups of a process. A deleted group's ` (deleted)` suffix is cut off.
pub(crate) fn memberships(text: &str) -> Vec<Membership<'_>> {
    let line = |line| -> Option<Membership<'_>> {
        let (id, rest) = str::split_once(line, ':')?;
        id.parse::<u32>().ok()?;
        let (hierarchy, path) = rest.split_once(':')?;
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        path.starts_with('/').then_some(Membership { hierarchy, path })
    };
    text.lines().filter_map(line).collect()
}

/// The group of a process in the hierarchy of `mount`, as a path below what is mounted; `None` when it lies outside.
pub(crate) fn path_below_mount(mount: &MountLine, memberships: &[Membership<'_>]) -> Option<String> {
    let member = memberships.iter().find(|member| match mount.version {
        Version::V2 => member.hierarchy.is_empty(),
        // The order of joined controllers differs between kernels, and one word is enough to know the hierarchy.
        Version::V1 => member.hierarchy.split(',').any(|word| match word.strip_prefix("name=") {
            Some(name) => mount.name.as_deref() == Some(name),
            None => {
                Controller::from_name(word).is_some_and(|controller| mount.controllers.contains(controller))
            }
        }),
    })?;
    below(&mount.root, member.path)
}

/// `path` seen from `root`, both as the cgroup namespace shows them; `None` when it does not lie below.
fn below(root: &str, path: &str) -> Option<String> {
    let parts = |path| str::split(path, '/').filter(|part: &&str| !part.is_empty());
    let mut path = parts(path).peekable();
    for component in parts(root) {
        // A namespace root that lies below the mount's root shows as `..`: the names between cannot be known,
        // and a `..` common to both is the same unknown directory.
        if path.next() != Some(component) {
            return None;
        }
    }
    if path.peek() == Some(&"..") {
        return None;
    }
    Some(path.collect::<Vec<_>>().join("/"))
}

/// Major and minor number of a kernel release such as `6.12.9-amd64`.
pub(crate) fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/my\\040memory ro,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 /a /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
99 31 0:39
98 31 x:y / / rw - cgroup cgroup rw
";

    #[test]
    fn mounts_of_a_hybrid_host() {
        let mounts = mounts(HYBRID);
        assert_eq!(mounts.len(), 4);
        let cpu: Controllers = [Controller::Cpu, Controller::Cpuacct].into_iter().collect();
        assert_eq!((mounts[0].version, mounts[0].controllers, mounts[0].device), (Version::V1, cpu, (0, 29)));
        assert_eq!(mounts[0].options, "cpu,cpuacct");
        assert_eq!(mounts[1].mountpoint, PathBuf::from("/sys/fs/cgroup/my memory"));
        assert!(mounts[1].read_only && !mounts[0].read_only);
        assert_eq!(
            (mounts[2].name.as_deref(), mounts[2].options.as_str()),
            (Some("systemd"), "name=systemd")
        );
        assert_eq!((mounts[3].version, mounts[3].root.as_str()), (Version::V2, "/a"));
    }

    #[test]
    fn own_group_below_each_mount() {
        let mounts = mounts(HYBRID);
        let own =
            memberships("7:cpuacct,cpu:/x\n4:memory:/p/q (deleted)\n9:name=systemd:/\n0::/a/b/c\nbad\n1:a\n");
        assert_eq!(own.len(), 4);
        let paths: Vec<_> = mounts.iter().map(|mount| path_below_mount(mount, &own)).collect();
        let want = [Some("x"), Some("p/q"), Some(""), Some("b/c")];
        assert_eq!(paths, want.map(|path| path.map(str::to_owned)));
        assert_eq!(path_below_mount(&mounts[3], &memberships("0::/elsewhere\n")), None);
    }

    #[test]
    fn namespaces() {
        assert_eq!(below("/", "/"), Some(String::new()));
        assert_eq!(below("/docker/x", "/docker/x/y"), Some("y".to_owned()));
        assert_eq!(below("/docker/x", "/docker/xy"), None);
        assert_eq!(below("/../..", "/"), None, "own group's name above the namespace root is unknown");
        assert_eq!(below("/..", "/../sibling"), Some("sibling".to_owned()));
        assert_eq!(below("/", "/../sibling"), None);
    }

    #[test]
    fn releases() {
        assert_eq!(release("6.12.9-amd64\n"), Some((6, 12)));
        assert_eq!(release("5.4+"), Some((5, 4)));
        assert_eq!(release("x"), None);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape("a\\040b\\011\\134"), b"a b\t\\");
        assert_eq!(unescape("\\04"), b"\\04");
        assert_eq!(unescape("\\777x\\"), b"\\777x\\");
    }
}
