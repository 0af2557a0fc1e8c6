//! After any number of containers, however they ended, nothing is left (LC-H20, H29, issue: 200 runs, a third made to fail).
#![cfg(feature = "images")]

mod fixture;

use container_core::{Container, ContainerBuilder, End, Error, Mount};
use fixture::Traces;
use image_layers::Store;

/// A failure that belongs to one step, and whether an error is the right one.
type Failure = (&'static str, fn(ContainerBuilder) -> ContainerBuilder, fn(&Error) -> bool);

fn failures() -> Vec<Failure> {
    let setup = |e: &Error| matches!(e, Error::Setup { .. });
    vec![
        ("command", |b| b.command(["/no/such"]), |e| matches!(e, Error::Exec { .. })),
        ("bind source", |b| b.bind("/no/such/source", "/mnt"), setup),
        ("mount option", |b| b.mount(Mount::tmpfs("/mnt").option("no_such_option=1")), setup),
        ("file system", |b| b.mount(Mount::new("nosuchfs", "none", "/mnt")), setup),
        ("user", |b| b.user("nobody-here"), |e| matches!(e, Error::UnknownUser { .. })),
        ("working directory", |b| b.current_dir("/etc/passwd/x"), setup),
        ("sysctl", |b| b.sysctl("net.no_such_thing", "1"), setup),
        (
            "host name",
            |b| b.hostname("x".repeat(100)),
            |e| matches!(e, Error::Setup { .. } | Error::Invalid { .. }),
        ),
        ("script", |b| b.command(["/srv/kept"]), |e| matches!(e, Error::Exec { .. })),
    ]
}

#[test]
fn two_hundred_runs_leave_nothing() {
    if !fixture::containers() {
        return;
    }
    let directory = tempfile::Builder::new().prefix("container-core-test-").tempdir().unwrap();
    let store = Store::open_or_create(directory.path().join("store")).unwrap();
    let image = fixture::image(&store);
    let states = directory.path().join("state");
    let prefix = format!("container-core-clean-{}", std::process::id());
    let builder = |n: usize| {
        fixture::with_tools(Container::builder().image(&store, &image))
            .id(format!("{prefix}-{n}"))
            .state_directory(&states)
            .command(["/bin/sh", "-c", "echo hello > /srv/new; exit 7"])
    };
    // The first start makes what stays for the program's life: the launcher thread and what it holds.
    assert_eq!(builder(0).output().unwrap().end, End::Exited(7));
    let files = |path: &std::path::Path| std::fs::read_dir(path).unwrap().count();
    let (before, layers) = (Traces::now(), files(&store.path().join("layers")));

    let failures = failures();
    for n in 1..=200 {
        if n % 3 == 0 {
            let (name, change, right) = failures[(n / 3) % failures.len()];
            let error = change(builder(n)).output().expect_err(name);
            assert!(right(&error), "{name}: {error:?}");
        } else if n % 7 == 0 {
            drop(builder(n).command(["/bin/sleep", "100"]).spawn().unwrap());
        } else {
            assert_eq!(builder(n).output().unwrap().end, End::Exited(7));
        }
    }
    assert_eq!(Traces::now(), before);
    assert_eq!(files(&store.path().join("layers")), layers);
    assert_eq!(files(&states), 0, "state directory");
    assert!(fixture::cgroups_named(&prefix).is_empty(), "{:?}", fixture::cgroups_named(&prefix));
}
