//! After any number of containers, however they ended, nothing is left (LC-H20, H29, issue: 200 runs, a third made to fail).
#![cfg(feature = "images")]

mod fixture;

use container_core::{Container, End};
use fixture::Traces;
use image_layers::Store;

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
    // The first start of a kind, with and without a user namespace, makes what stays for the program's life: the launcher thread
    // and what it holds.
    assert_eq!(builder(0).output().unwrap().end, End::Exited(7));
    let failures = fixture::failures::all();
    for failure in &failures {
        (failure.change)(builder(0)).output().expect_err(failure.name);
    }
    let files = |path: &std::path::Path| std::fs::read_dir(path).unwrap().count();
    let (before, layers) = (Traces::now(), files(&store.path().join("layers")));

    for n in 1..=200 {
        if n % 3 == 0 {
            let failure = &failures[(n / 3) % failures.len()];
            let error = (failure.change)(builder(n)).output().expect_err(failure.name);
            assert!((failure.right)(&error), "{}: {error:?}", failure.name);
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
