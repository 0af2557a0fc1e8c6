//! One start: from the request until `true` has exited in a full container, was reaped, and everything is removed.
//!
//! Ours runs in this process; the peers get the very same specification as a bundle. All in turn, in one run:
//! `cargo bench -p benches --bench start`. Needs root for the peers.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use benches::{busybox_root, peer_works};
use container_core::{Container, ContainerBuilder};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

fn builder(root: &Path) -> ContainerBuilder {
    Container::builder().rootfs(root).command(["/bin/true"]).memory(256 << 20).cpus(1.0).pids(512)
}

fn peer(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(directory.join("state")).arg("run").arg("--bundle").arg(directory).arg("bench");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn start(criterion: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let Some(root) = busybox_root(scratch.path()).expect("a root file system") else { return };

    let ours = builder(&root);
    let mut group = criterion.benchmark_group("start");
    group.sample_size(30).measurement_time(Duration::from_secs(8));
    group.bench_function("container-core", |bencher| {
        bencher.iter(|| assert!(ours.clone().status().expect("a start").success()));
    });
    group.bench_function("container-core, 30 ms apart", |bencher| {
        let pause = || thread::sleep(Duration::from_millis(30));
        bencher.iter_batched(pause, |()| ours.clone().status().expect("a start"), BatchSize::PerIteration);
    });

    let spec = ours.id("bench").spec().expect("a specification");
    fs::write(scratch.path().join("config.json"), serde_json::to_vec(&spec).expect("JSON"))
        .expect("a bundle");
    for program in ["crun", "runc"] {
        if !peer_works(&mut peer(program, scratch.path())) {
            continue;
        }
        group.bench_function(program, |bencher| {
            bencher.iter(|| assert!(peer(program, scratch.path()).status().expect("a peer").success()));
        });
    }
    group.finish();
}

criterion_group!(benches, start);
criterion_main!(benches);
