//! From a stored image to a root filesystem: our backends, the floor, and peers, in turn, in one run.
//!
//! `cargo bench -p benches --bench unpack [-- IMAGE...]`; with `--features peers` the crate `oci-image` takes part. The images
//! are made in code ([`benches::images`]), or imported from the image file that `BENCH_LAYOUT` names (arguments:
//! references in it). `BENCH_RUNS` is the number of rounds, 7 by default. `BENCH_ONLY` picks contenders by substrings.
//!
//! Each run starts in an empty directory below `TMPDIR`; its removal does not count. Beware of an ext4 without journal, which
//! gets ten times slower once files were deleted, and of a host that is short of free memory: then what is written has to wait
//! for pages. Ours and `oci-image` run in a process of their own that takes its own
//! time and peak memory, with the image imported and verified before, except where they `import` it from an archive as
//! part of the work; programs are timed from outside, containerd without the start of its daemon. Two floors: `decode +
//! sha256` writes nothing, `pipe + sha256` also makes the files with as few system calls as possible, trusting its input.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring program")]

mod floor;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use image_layers::{Export, Image, ImportOptions, SnapshotKind, Store, StoreOptions, UnpackOptions};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const ONE: &str = "--one";

/// Begins the names of contenders that take an archive and also store it, as podman and containerd do.
const IMPORT: &str = "import, ";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match &arguments[..] {
        [one, contender, layout, name, target] if one == ONE => {
            run_one(contender, Path::new(layout), name, Path::new(target));
        }
        _ => compare(&arguments),
    }
}

/// One way to unpack.
struct Contender {
    name: String,
    /// The layout's reference, an empty directory and the layer blobs become a command.
    command: Box<dyn Fn(&Path) -> Command>,
    /// Whether the command itself says how long it took.
    timed_inside: bool,
}

fn compare(wanted: &[String]) {
    // In small letters: podman takes a path for a repository's name.
    let name = format!("unpack-bench-{}", std::process::id());
    let scratch = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().unwrap();
    let runs = std::env::var("BENCH_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    let layout = scratch.path().join("images");
    for name in images(&Store::open_or_create(&layout).unwrap(), wanted) {
        let contenders = contenders(&layout, &name, scratch.path());
        println!("{name}: {runs} rounds, times in ms");
        let mut times = vec![Vec::new(); contenders.len()];
        let mut memory = vec![0; contenders.len()];
        for round in 0..=runs {
            for (n, contender) in contenders.iter().enumerate() {
                let target = scratch.path().join("target");
                fs::create_dir(&target).unwrap();
                let measured = measure(contender, &target);
                remove(&target);
                // The first round warms the caches up and finds out who works here.
                match measured {
                    Some((time, kib)) if round > 0 => {
                        times[n].push(time);
                        memory[n] = memory[n].max(kib);
                    }
                    _ => {}
                }
            }
        }
        report(&contenders, &mut times, &memory);
    }
}

/// Imports or builds the images to unpack; returns their references.
fn images(store: &Store, wanted: &[String]) -> Vec<String> {
    if let Some(layout) = std::env::var_os("BENCH_LAYOUT") {
        for name in wanted {
            let options = ImportOptions::new().reference(name).name(name.parse().unwrap());
            store.import(&layout, &options).unwrap();
        }
        return wanted.to_vec();
    }
    let mut names = Vec::new();
    for name in benches::images::NAMES {
        for tag in benches::images::TAGS {
            let full = format!("{name}:{tag}");
            if wanted.is_empty() || wanted.iter().any(|word| full.contains(word.as_str())) {
                benches::images::build(store, name, tag).unwrap();
                names.push(full);
            }
        }
    }
    names
}

fn report(contenders: &[Contender], times: &mut [Vec<f64>], memory: &[u64]) {
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let median = |times: &[f64]| times.get(times.len() / 2).copied();
    let floor = median(&times[0]);
    println!("  {:<18} {:>8} {:>8} {:>8} {:>10}", "", "least", "median", "/ floor", "peak MiB");
    for ((contender, times), memory) in contenders.iter().zip(&*times).zip(memory) {
        if let (Some(least), Some(median), Some(floor)) = (times.first(), median(times), floor) {
            let peak = if *memory > 0 { format!("{:.1}", *memory as f64 / 1024.0) } else { String::new() };
            println!(
                "  {:<18} {least:>8.0} {median:>8.0} {:>8.2} {peak:>10}",
                contender.name,
                median / floor
            );
        }
    }
}

fn contenders(layout: &Path, name: &str, scratch: &Path) -> Vec<Contender> {
    let blobs = blobs(layout, name);
    let archive = scratch.join("image.tar");
    let (_, image) = source(layout, name);
    let known_as = format!("localhost/bench/{}", name.replace(':', "-")).parse().unwrap();
    Export::new(&image).named(known_as).archive(&archive).unwrap();
    let (layout, name) = (layout.to_owned(), name.to_owned());
    let mut all = Vec::new();
    let inside = [
        "decode + sha256",
        "pipe + sha256",
        "erofs",
        "overlay",
        "oci-image",
        "import, erofs",
        "import, overlay",
    ];
    for inside in inside {
        if inside == "oci-image" && !cfg!(feature = "peers") {
            continue;
        }
        let source = if inside.starts_with(IMPORT) { archive.clone() } else { layout.clone() };
        let name = name.clone();
        let command = move |target: &Path| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg(ONE).arg(inside).arg(&source).arg(&name).arg(target);
            command
        };
        all.push(Contender { name: inside.to_owned(), command: Box::new(command), timed_inside: true });
    }
    let tar = move |target: &Path| {
        // One process for all layers would need a shell; `;` between them costs nothing.
        let mut command = Command::new("sh");
        let script = "t=$1; shift; for layer; do tar -C \"$t\" -xf \"$layer\" || exit; done";
        command.arg("-ec").arg(script).arg("tar").arg(target).args(&blobs);
        command
    };
    all.push(Contender { name: "tar -x".into(), command: Box::new(tar), timed_inside: false });
    let full = source(&layout, &name).1.references()[0].to_string();
    let source = format!("{}:{full}", layout.display());
    let image = source.clone();
    let umoci = move |target: &Path| {
        let mut command = Command::new("umoci");
        command.args(["raw", "unpack", "--image"]).arg(&image).arg(target.join("root"));
        command
    };
    all.push(Contender { name: "umoci raw unpack".into(), command: Box::new(umoci), timed_inside: false });
    let podman = move |target: &Path| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(target.join("root")).arg("--runroot").arg(target.join("run"));
        command.args(["pull", "-q"]).arg(format!("oci:{source}"));
        command
    };
    all.push(Contender { name: "podman pull".into(), command: Box::new(podman), timed_inside: false });
    let containerd = move |target: &Path| {
        let mut command = Command::new("sh");
        command.args(["-c", include_str!("containerd.sh"), "containerd.sh"]).arg(&archive).arg(target);
        command
    };
    all.push(Contender { name: "containerd".into(), command: Box::new(containerd), timed_inside: true });
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|word| !word.is_empty()).collect();
    let chosen =
        |name: &str| name.contains("decode") || only.is_empty() || only.iter().any(|w| name.contains(w));
    all.retain(|contender| chosen(&contender.name));
    all
}

/// The layer blobs of an image in a layout, under names that tell `tar` the compression.
fn blobs(layout: &Path, name: &str) -> Vec<PathBuf> {
    let (store, image) = source(layout, name);
    let path = |digest: &image_layers::Digest| store.path().join("blobs/sha256").join(digest.hex());
    image.layers().iter().map(|layer| path(&layer.digest)).collect()
}

/// Milliseconds and, where known, KiB of peak memory. `None`, said visibly, if it does not work here.
fn measure(contender: &Contender, target: &Path) -> Option<(f64, u64)> {
    let start = Instant::now();
    let output = (contender.command)(target).stdin(Stdio::null()).output();
    let took = start.elapsed().as_secs_f64() * 1e3;
    let output = match output {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            println!("  SKIPPED: {}: {}: {}", contender.name, output.status, said.trim());
            return None;
        }
        Err(error) => {
            println!("  SKIPPED: {}: {error}", contender.name);
            return None;
        }
    };
    if !contender.timed_inside {
        return Some((took, 0));
    }
    let said = String::from_utf8(output.stdout).unwrap();
    let (time, memory) = said.trim().split_once(' ').unwrap();
    Some((time.parse().unwrap(), memory.parse().unwrap()))
}

/// Removes a tree whatever is in it; podman leaves a mount.
fn remove(target: &Path) {
    let _ = Command::new("umount").arg("-l").arg(target.join("root/overlay")).stderr(Stdio::null()).status();
    let removed = Command::new("rm").arg("-rf").arg(target).status().unwrap();
    assert!(removed.success(), "rm -rf {}", target.display());
    // The next one must not be disturbed by what the kernel still has to write of this one.
    rustix::fs::syncfs(fs::File::open(target.parent().unwrap()).unwrap()).unwrap();
}

/// In a process of its own.
fn run_one(contender: &str, layout: &Path, name: &str, target: &Path) {
    let took = match contender {
        "decode + sha256" => {
            let blobs = blobs(layout, name);
            let start = Instant::now();
            floor::decode(&blobs).unwrap();
            start.elapsed()
        }
        "pipe + sha256" => {
            let blobs = blobs(layout, name);
            let start = Instant::now();
            floor::unpack(&blobs, &target.join("floor")).unwrap();
            start.elapsed()
        }
        #[cfg(feature = "peers")]
        "oci-image" => oci_image_store(layout, name, target),
        kind => {
            let importing = kind.strip_prefix(IMPORT);
            let kind: SnapshotKind = importing.unwrap_or(kind).parse().unwrap();
            let store = StoreOptions::new().backend(kind).open_or_create(target.join("store")).unwrap();
            let mut start = Instant::now();
            let options = ImportOptions::new();
            let options = if importing.is_some() { options } else { options.reference(name) };
            let image = store.import(layout, &options).unwrap().remove(0);
            if importing.is_none() {
                start = Instant::now();
            }
            store.unpack(&image, &UnpackOptions::default()).unwrap();
            start.elapsed()
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{:.2} {}", took.as_secs_f64() * 1e3, peak.trim().trim_end_matches(" kB"));
}

/// The images to unpack are in a store, which is a layout as well.
fn source(layout: &Path, name: &str) -> (Store, Image) {
    let store = Store::open_or_create(layout).unwrap();
    let image = store.resolve(name).unwrap();
    (store, image)
}

/// The best peer that is a crate: the layers into directories of its own store, DiffIDs checked.
#[cfg(feature = "peers")]
fn oci_image_store(layout: &Path, name: &str, target: &Path) -> std::time::Duration {
    let (store, image) = source(layout, name);
    let peer = oci_image::LayerStore::open(target).unwrap();
    let diff_ids = &image.config().diff_ids;
    let layers: Vec<_> = image
        .layers()
        .iter()
        .zip(diff_ids)
        .map(|(layer, diff_id)| {
            let digest: oci_image::Digest = layer.digest.to_string().parse().unwrap();
            let path = peer.blob_path(&digest);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // The blob is taken as stored: ours is imported before, too.
            let blob = store.path().join("blobs/sha256").join(layer.digest.hex());
            std::os::unix::fs::symlink(blob, path).unwrap();
            oci_image::ImageLayer { blob: digest, diff_id: diff_id.to_string().parse().unwrap() }
        })
        .collect();
    let image = image.digest().to_string().parse().unwrap();
    let start = Instant::now();
    peer.add_image(&image, &layers, &oci_image::UnpackOptions::default()).unwrap();
    start.elapsed()
}
