//! Whether a container can have a `/proc` of its own.

use std::path::Path;

/// Why the kernel mounts no procfs in a user namespace here, and what to do; `None`: it is not for this reason.
///
/// It shows nobody more than he can see already: there has to be a procfs of which nothing is covered (`mount_too_revealing` in
/// the kernel's `fs/namespace.c`). Outer containers cover parts of theirs.
pub(crate) fn covered_proc() -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let covers = covers(&table)?;
    Some(format!(
        "of this program's own /proc the kernel must see everything to mount another, and {} covered: start the outer \
         container with --security-opt unmask=ALL (Podman), --security-opt systempaths=unconfined (Docker) or procMount: \
         Unmasked (Kubernetes), or show its /proc inside too (bind /proc on /proc)",
        match covers.as_slice() {
            [] => "none is mounted at /proc, or parts of it are".to_owned(),
            [only] => format!("{only} is"),
            [first, .., last] => format!("{} paths from {first} to {last} are", covers.len()),
        }
    ))
}

/// What is mounted below a procfs, by the text of `mountinfo` (`proc_pid_mountinfo(5)`). `None` where a procfs with nothing below
/// it is there.
fn covers(table: &str) -> Option<Vec<String>> {
    // Mount points the kernel itself made in there for good, which hide nothing.
    const HARMLESS: [&str; 2] = ["sys/fs/binfmt_misc", "fs/nfsd"];
    let fields = |line: &str| -> Option<(String, String, String)> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ');
        let (root, point) = (front.nth(3)?.to_owned(), front.next()?.to_owned());
        Some((root, point, back.split(' ').next()?.to_owned()))
    };
    let mounts: Vec<_> = table.lines().filter_map(fields).collect();
    let mut found = Vec::new();
    for (root, point, kind) in &mounts {
        if kind != "proc" || root != "/" {
            continue;
        }
        let below = mounts.iter().filter_map(|(_, other, _)| {
            let rest = Path::new(other).strip_prefix(point).ok()?;
            let hides = !rest.as_os_str().is_empty() && !HARMLESS.iter().any(|name| rest == Path::new(name));
            hides.then(|| other.clone())
        });
        let below: Vec<_> = below.collect();
        if below.is_empty() {
            return None;
        }
        found = below;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn what_covers_parts_of_proc() {
        let own = "22 1 0:21 / /proc rw,nosuid - proc proc rw\n";
        assert_eq!(covers(own), None);
        let harmless = "23 22 0:22 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw\n";
        assert_eq!(covers(&format!("{own}{harmless}")), None);
        let masked =
            "24 22 0:23 / /proc/kcore ro - tmpfs tmpfs rw\n25 22 0:24 / /proc/keys ro - tmpfs tmpfs rw\n";
        assert_eq!(covers(&format!("{own}{masked}")).unwrap(), ["/proc/kcore", "/proc/keys"]);
        assert_eq!(covers("22 1 0:21 / / rw - ext4 x rw\n").unwrap(), [""; 0]);
        // A part of another one is not a procfs.
        assert!(covers("22 1 0:21 /sys /proc/sys ro - proc proc rw\n").is_some());
    }
}
