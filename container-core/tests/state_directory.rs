//! Containers and the programs that hold them: dropping, detaching, dying, names (LC-H14 to LC-H16, H30).

mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use container_core::{Container, Error, Signal, state::Status};
use fixture::Root;

/// Runs one of the ignored functions below in a program of its own.
fn program(name: &str, root: &Path, states: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("TEST_ROOT", root)
        .env("TEST_STATES", states)
        .spawn()
        .unwrap()
}

fn given() -> (PathBuf, PathBuf) {
    (std::env::var_os("TEST_ROOT").unwrap().into(), std::env::var_os("TEST_STATES").unwrap().into())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let before = Instant::now();
    while !holds() {
        assert!(before.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn sleepers(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes
        .filter(|path| std::fs::read(path.join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
        .count()
}

#[test]
#[ignore = "run by h14 in a program of its own"]
fn five_that_die_with_the_host() {
    let (root, states) = given();
    let containers: Vec<_> = (0..5)
        .map(|n| {
            fixture::with_tools(Container::builder().rootfs(&root))
                .command(["/bin/sh", "-c", "(setsid sleep 7101 &); sleep 7101"])
                .id(format!("five-{n}"))
                .state_directory(&states)
                .die_with_host(true)
                .spawn()
                .unwrap()
        })
        .collect();
    // A thread that starts one and ends takes nothing with it (LC-H15).
    let kept = std::thread::spawn(move || {
        fixture::with_tools(Container::builder().rootfs(&root))
            .command(["sleep", "7102"])
            .id(format!("unrecorded-{}", std::process::id()))
            .spawn()
            .unwrap()
    });
    let kept = kept.join().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(kept.try_wait().unwrap().is_none());
    std::fs::write(states.join("ready"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
    drop(containers);
}

#[test]
fn h14_nothing_outlives_a_killed_host_program() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let states = tempfile::tempdir().unwrap();
    let mut host = program("five_that_die_with_the_host", root.path(), states.path());
    until("the program is ready", || states.path().join("ready").exists());
    assert_eq!((sleepers("7101"), sleepers("7102")), (10, 1));
    host.kill().unwrap();
    host.wait().unwrap();
    let before = Instant::now();
    until("every process is gone", || sleepers("7101") + sleepers("7102") == 0);
    println!("gone after {:?}", before.elapsed());
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert_eq!(Container::list(states.path()).unwrap(), []);
    assert_eq!(std::fs::read_dir(states.path()).unwrap().count(), 1, "only the file `ready` of this test");
    assert!(fixture::cgroups_named("five-").is_empty());

    // The one without a state directory has no record that anybody could clean up by: its control group is left to us.
    let unrecorded = format!("unrecorded-{}", host.id());
    until("its control group is removed", || {
        for group in fixture::cgroups_named(&unrecorded) {
            let _ = std::fs::remove_dir(group);
        }
        fixture::cgroups_named(&unrecorded).is_empty()
    });
}

#[test]
#[ignore = "run by h15 in a program of its own"]
fn starts_until_it_is_killed() {
    let (root, states) = given();
    let builder = fixture::with_tools(Container::builder().rootfs(&root)).command(["sleep", "7105"]);
    let mut containers = Vec::new();
    loop {
        let id = format!("window-{}-{}", std::process::id(), containers.len());
        containers.push(builder.clone().id(id).state_directory(&states).die_with_host(true).spawn().unwrap());
        std::fs::write(states.join("ready"), "").unwrap();
    }
}

#[test]
fn h15_killed_in_the_middle_of_a_start() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for n in 0..fixture::times(10, 50) as u64 {
        let states = tempfile::tempdir().unwrap();
        let mut host = program("starts_until_it_is_killed", root.path(), states.path());
        until("it has begun", || states.path().join("ready").exists());
        // Any moment of a start, which takes a few milliseconds.
        std::thread::sleep(Duration::from_micros(n * 1_370 % 12_000));
        host.kill().unwrap();
        host.wait().unwrap();
        until("every process is gone", || sleepers("7105") == 0);
        std::fs::remove_file(states.path().join("ready")).unwrap();
        until("the state directory is empty", || {
            Container::list(states.path()).unwrap();
            std::fs::read_dir(states.path()).unwrap().count() == 0
        });
        let name = format!("window-{}-", host.id());
        // The group of the one that was being started was not recorded yet when its maker died.
        for group in fixture::cgroups_named(&name) {
            let _ = std::fs::remove_dir(group);
        }
        assert!(fixture::cgroups_named(&name).is_empty());
    }
}

#[test]
#[ignore = "run by h16 in a program of its own"]
fn one_that_is_left() {
    let (root, states) = given();
    let container = fixture::with_tools(Container::builder().rootfs(&root))
        .command(["/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"])
        .id("left")
        .state_directory(&states)
        .spawn()
        .unwrap();
    container.detach().unwrap();
}

#[test]
fn h16_detached_and_opened_by_another_program() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let states = tempfile::tempdir().unwrap();
    assert!(program("one_that_is_left", root.path(), states.path()).wait().unwrap().success());

    let list = Container::list(states.path()).unwrap();
    assert_eq!((list.len(), list[0].id.as_str(), list[0].status), (1, "left", Status::Running));
    let container = Container::open(states.path(), "left").unwrap();
    assert_eq!(container.exec(["echo", "inside"]).output().unwrap().stdout, b"inside\n");
    assert_eq!(container.pid(), list[0].pid);
    drop(container);
    // Dropping an opened one changes nothing.
    let mut container = Container::open(states.path(), "left").unwrap();
    match container.stop(Duration::from_secs(10)) {
        Ok(status) => assert_eq!(status.code(), Some(5)),
        Err(Error::StatusLost { .. }) => println!("this kernel does not keep the status"),
        Err(other) => panic!("{other:?}"),
    }
    container.remove().unwrap();
    assert!(matches!(Container::open(states.path(), "left"), Err(Error::NotFound { .. })));
    assert_eq!(std::fs::read_dir(states.path()).unwrap().count(), 0);

    let container = root.command(&["sleep", "60"]).spawn().unwrap();
    assert!(matches!(container.detach(), Err(Error::Invalid { .. })), "nobody could find it again");
}

#[test]
#[ignore = "run by h30 in a program of its own"]
fn one_that_is_killed_alone() {
    let (root, states) = given();
    let container = fixture::with_tools(Container::builder().rootfs(&root))
        .command(["sleep", "7103"])
        .id("job-1")
        .state_directory(&states)
        .spawn()
        .unwrap();
    std::fs::write(states.join("ready"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
    drop(container);
}

#[test]
fn h30_a_name_that_a_dead_program_used() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let states = tempfile::tempdir().unwrap();
    let again = || root.command(&["true"]).id("job-1").state_directory(states.path()).output();
    let mut host = program("one_that_is_killed_alone", root.path(), states.path());
    until("the program is ready", || states.path().join("ready").exists());
    host.kill().unwrap();
    host.wait().unwrap();

    // Its container lives: the name is taken, by this process.
    let Err(Error::InUse { id, pid }) = again() else { panic!("the name should be in use") };
    assert_eq!((id.as_str(), sleepers("7103")), ("job-1", 1));
    assert_eq!(std::fs::read(format!("/proc/{pid}/cmdline")).unwrap(), b"sleep\x007103\0");

    // It is dead, and its number belongs to somebody else: this very program.
    let record = states.path().join("job-1/state.json");
    Container::open(states.path(), "job-1").unwrap().kill(Signal::KILL).unwrap();
    until("it is gone", || sleepers("7103") == 0);
    let text = std::fs::read_to_string(&record).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["pid"] = std::process::id().into();
    std::fs::write(&record, json.to_string()).unwrap();
    assert!(again().unwrap().status.success());
    assert_eq!(std::fs::read_dir(states.path()).unwrap().count(), 1);

    // The host was started anew: number and start time would fit, the boot does not.
    std::fs::remove_file(states.path().join("ready")).unwrap();
    let mut host = program("one_that_is_killed_alone", root.path(), states.path());
    until("the program is ready again", || states.path().join("ready").exists());
    host.kill().unwrap();
    host.wait().unwrap();
    let container = Container::open(states.path(), "job-1").unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    json["bootId"] = "another".into();
    json["cgroups"] = serde_json::json!([]);
    std::fs::write(&record, json.to_string()).unwrap();
    // Its group would be gone too; here it is in the way.
    let again = root.command(&["true"]).id("job-1").state_directory(states.path());
    let again = again.cgroup(format!("container-core-h30-{}", std::process::id())).output();
    assert!(again.unwrap().status.success());
    assert_eq!(sleepers("7103"), 1, "no process is signalled for a record of another boot");
    let group =
        container.cgroup().map(|group| group.directories().map(|(_, at)| at.to_owned()).collect::<Vec<_>>());
    container.kill(Signal::KILL).unwrap();
    until("it is gone", || sleepers("7103") == 0);
    for directory in group.into_iter().flatten() {
        until("its group is removed", || std::fs::remove_dir(&directory).is_ok() || !directory.exists());
    }
}

#[test]
fn h16_dropping_in_every_way() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let start = || root.shell("(setsid sleep 7104 &); sleep 7104").spawn().unwrap();
    drop(start());
    assert_eq!(sleepers("7104"), 0);
    let container = start();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _container = container;
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(panicked.is_err());
    assert_eq!(sleepers("7104"), 0);
}
