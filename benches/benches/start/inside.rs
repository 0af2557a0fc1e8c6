//! What starts containers in its own process, and takes its own time.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use container_core::cgroup::{Controller, Controllers};
use container_core::launch::{self, Io, Running};
use container_core::oci_spec::runtime::Spec;
use container_core::plan::{Extras, Facts, LowerLayer, Rootfs, UpperLayer};
use container_core::{Container, Plan, Pool, Signal, Stdio};
use rustix::process::{WaitId, WaitIdOptions};

use super::bundle::Bundle;

/// Makes `count` starts and prints how many microseconds each took.
pub(crate) fn run(contender: &str, bundle: &Path, count: usize, pause: Duration) {
    let bundle = Bundle::open(bundle);
    match contender {
        "ours-large" => {
            let memory = vec![1u8; 1 << 30];
            for _ in 0..50 {
                std::thread::spawn(|| std::thread::sleep(Duration::from_secs(1000)));
            }
            Ours::new(&bundle, "plain").measure(count, pause);
            std::hint::black_box(memory);
        }
        "ours" => Ours::new(&bundle, "plain").measure(count, pause),
        "ours-3" => {
            let mut ours = Ours::new(&bundle, "plain");
            // As the floor, which leaves the devices alone.
            ours.controllers = [Controller::Memory, Controller::Cpu, Controller::Pids].into_iter().collect();
            let resources = ours.spec.linux().as_ref().and_then(|linux| linux.resources().clone());
            if let (Some(mut resources), Some(linux)) = (resources, ours.spec.linux_mut()) {
                resources.set_devices(None);
                linux.set_resources(Some(resources));
            }
            ours.measure(count, pause);
        }
        "ours-storm" => storm(&bundle, count),
        "ours-sleep" => sleep(&bundle, count),
        "handle" => {
            let builder = Container::builder().rootfs(bundle.directory.join("rootfs")).command(["/bin/true"]);
            let builder = builder.memory(256 << 20).cpus(1.0).pids(512);
            measure(count, pause, |_| assert!(builder.clone().status().unwrap().success()));
        }
        "pool" | "pool-sandbox" => {
            let builder = match contender {
                "pool" => Container::builder().bundle(bundle.directory.join("plain")),
                _ => Container::builder()
                    .rootfs(bundle.directory.join("rootfs"))
                    .command(["/bin/true"])
                    .sandbox(),
            };
            let builder = builder.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let pool = Pool::new(builder, 4).unwrap();
            measure(count, pause, |_| assert!(pool.run().unwrap().success()));
        }
        #[cfg(feature = "peers")]
        "libcontainer" => peers::libcontainer(&bundle, count, pause),
        #[cfg(feature = "peers")]
        "hakoniwa" => peers::hakoniwa(&bundle, count, pause),
        other => panic!("no contender {other}"),
    }
}

fn measure(count: usize, pause: Duration, mut start: impl FnMut(usize)) {
    // The first ones make what later ones find: threads, stacks, caches.
    (0..3).for_each(&mut start);
    for n in 3..3 + count {
        std::thread::sleep(pause);
        let started = Instant::now();
        start(n);
        println!("{}", started.elapsed().as_micros());
    }
}

#[derive(Clone, Debug)]
struct Ours {
    spec: Spec,
    facts: Facts,
    directory: std::path::PathBuf,
    bundle: std::path::PathBuf,
    controllers: Controllers,
}

impl Ours {
    fn new(bundle: &Bundle, name: &str) -> Self {
        use Controller::{Cpu, Devices, Memory, Pids};
        Self {
            spec: bundle.spec(name),
            facts: Facts::gather().unwrap(),
            directory: bundle.directory.clone(),
            bundle: bundle.directory.join(name),
            controllers: [Memory, Cpu, Pids, Devices].into_iter().collect(),
        }
    }

    /// From the specification to a running command.
    fn start(&self, id: &str) -> Running {
        let layer = self.directory.join("layers").join(id);
        fs::create_dir(&layer).unwrap();
        let [upper, work] = ["upper", "work"].map(|name| layer.join(name));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let mut extras = Extras::new(id);
        extras.bundle.clone_from(&self.bundle);
        extras.controllers = self.controllers;
        extras.rootfs = Some(Rootfs::Overlay {
            lower: vec![LowerLayer::Directory(self.directory.join("rootfs"))],
            upper: Some(UpperLayer::Directories { upper, work }),
            userxattr: false,
            volatile: true,
        });
        let plan = Plan::new(&self.spec, &extras, &self.facts).unwrap();
        launch::spawn(&plan, Io::default()).unwrap()
    }

    fn run(&self, id: &str) {
        end(&self.start(id));
    }

    fn measure(&self, count: usize, pause: Duration) {
        let id = |n| format!("bench-{}-{n}", std::process::id());
        (0..3).for_each(|n| self.run(&id(n)));
        for n in 3..3 + count {
            std::thread::sleep(pause);
            let started = Instant::now();
            self.run(&id(n));
            println!("{}", started.elapsed().as_micros());
            // As the floor: whoever throws a layer away need not be waited for.
            self.throw_away(&id(n));
        }
    }

    fn throw_away(&self, id: &str) {
        fs::remove_dir_all(self.directory.join("layers").join(id)).unwrap();
    }
}

/// Waits for the command and removes the group.
fn end(running: &Running) {
    let pidfd = running.pidfd.as_fd();
    rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).unwrap();
    if let Some(group) = &running.cgroup {
        group.remove().unwrap();
    }
}

fn storm(bundle: &Bundle, count: usize) {
    let ours = Ours::new(bundle, "plain");
    let half = |who: &str| {
        for n in 0..count / 2 {
            let id = format!("storm-{}-{who}-{n}", std::process::id());
            ours.run(&id);
            ours.throw_away(&id);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| half("a"));
        half("b");
    });
    println!("1");
}

fn sleep(bundle: &Bundle, count: usize) {
    let ours = Ours::new(bundle, "sleep");
    let started = Instant::now();
    let all: Vec<Running> =
        (0..count).map(|n| ours.start(&format!("sleep-{}-{n}", std::process::id()))).collect();
    println!("{}", started.elapsed().as_secs_f64() * 1e6 / count as f64);
    for running in all {
        rustix::process::pidfd_send_signal(&running.pidfd, Signal::KILL).unwrap();
        end(&running);
    }
}

#[cfg(feature = "peers")]
mod peers {
    use std::fs;
    use std::time::Duration;

    use super::{Bundle, measure};

    /// youki's crate.
    pub(super) fn libcontainer(bundle: &Bundle, count: usize, pause: Duration) {
        use libcontainer::container::builder::ContainerBuilder;
        use libcontainer::syscall::syscall::SyscallType;
        let (bundle, state) = (bundle.directory.join("plain"), bundle.directory.join("libcontainer"));
        measure(count, pause, |n| {
            let id = format!("libcontainer-{}-{n}", std::process::id());
            let builder = ContainerBuilder::new(id, SyscallType::default()).with_root_path(&state).unwrap();
            let mut container =
                builder.as_init(&bundle).with_systemd(false).with_detach(false).build().unwrap();
            let pid = nix::unistd::Pid::from_raw(container.pid().unwrap().as_raw());
            container.start().unwrap();
            nix::sys::wait::waitpid(pid, None).unwrap();
            container.delete(true).unwrap();
        });
    }

    /// No control groups, no masks: it has those only with systemd and version 2.
    pub(super) fn hakoniwa(bundle: &Bundle, count: usize, pause: Duration) {
        use hakoniwa::seccomp::{Action, Arch, Filter};
        use hakoniwa::{Container, Namespace, Runctl};
        let names = fs::read_to_string(bundle.directory.join("names")).unwrap();
        measure(count, pause, |_| {
            let mut filter = Filter::new(Action::Errno(1));
            for arch in [Arch::X8664, Arch::X86, Arch::X32] {
                filter.add_arch(arch);
            }
            for name in names.lines() {
                filter.add_rule(Action::Allow, name);
            }
            filter.add_rule(Action::Allow, "socket").add_rule(Action::Allow, "clone");
            let mut container = Container::new();
            for kind in [Namespace::Network, Namespace::Ipc, Namespace::Uts, Namespace::Cgroup] {
                container.unshare(kind);
            }
            container
                .rootdir(bundle.directory.join("rootfs"))
                .runctl(Runctl::RootdirRW)
                .devfsmount("/dev")
                .bindmount_ro("/sys", "/sys")
                .tmpfsmount("/dev/shm")
                .hostname("bench")
                .seccomp_filter(filter);
            assert!(container.command("/bin/true").status().unwrap().success());
        });
    }
}
