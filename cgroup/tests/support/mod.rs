//! What the tests of this crate share: a place to make groups in, or a visible reason for not running.
#![allow(unreachable_pub, reason = "shared by several test binaries")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use cgroup::{Cgroup, CgroupPath, Controller, Controllers, Hierarchy};

/// Says that a test does not run here, and fails where the environment promises that it does.
pub fn skip(need: &str, reason: &str) {
    // Past the capture of output that successful tests have.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIPPED: {reason}\n"));
    let required = std::env::var("CONTAINER_TESTS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word.trim() == need), "{need} is required here: {reason}");
}

/// A name no other test has, in this process or another.
pub fn unique(name: &str) -> CgroupPath {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    CgroupPath::new(format!("cgroup-test-{name}-{}-{count}", std::process::id())).unwrap()
}

/// The hierarchies, if the caller may make groups for each of `wanted`.
pub fn hierarchy_with(wanted: &[Controller]) -> Option<Hierarchy> {
    let hierarchy = match Hierarchy::discover() {
        Ok(hierarchy) => hierarchy,
        Err(error) => {
            skip("cgroup", &format!("{error}"));
            return None;
        }
    };
    for controller in wanted {
        if !hierarchy.available().contains(*controller) {
            skip("cgroup", &format!("{controller}: not mounted, not writable, or not delegated"));
            return None;
        }
    }
    Some(hierarchy)
}

/// A group that is killed and removed when the test ends, however it ends.
pub struct Guard(pub Cgroup);

impl Guard {
    pub fn new(hierarchy: &Hierarchy, name: &str, controllers: &[Controller]) -> Self {
        let controllers: Controllers = controllers.iter().copied().collect();
        Self(Cgroup::create_with(hierarchy, &unique(name), controllers).unwrap())
    }

    /// The text of one of the group's files, in the hierarchy of `controller`.
    pub fn read(&self, controller: Controller, file: &str) -> String {
        let path = self.file(controller, file);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    pub fn file(&self, controller: Controller, file: &str) -> std::path::PathBuf {
        let hierarchy = Hierarchy::discover().unwrap();
        let wanted = hierarchy.mount_of(controller).unwrap().mountpoint();
        let found = self.0.directories().find(|(mount, _)| mount.mountpoint() == wanted);
        found.unwrap().1.join(file)
    }
}

impl std::ops::Deref for Guard {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.thaw();
        let _ = self.0.kill();
        let removed = self.0.remove();
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// A process that is killed and reaped when the test ends.
pub struct Process(pub Child);

impl Process {
    pub fn shell(script: &str) -> Self {
        Self(Command::new("/bin/sh").arg("-c").arg(script).spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The signal that ended it.
    pub fn signal(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.0.wait().unwrap().signal()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
