//! Containers prepared ahead.

mod fixture;

use std::time::{Duration, Instant};

use container_core::{End, Error, Pool, Stdio};
use fixture::{Root, Traces};

#[test]
fn each_is_used_once_and_the_pool_fills_up_again() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let builder = root
        .shell("echo $$; cat; cat /tmp/given")
        .writable_memory(1 << 20)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .timeout(Duration::from_secs(20));
    // What is wrong shows at once.
    assert!(matches!(Pool::new(root.command(&["true"]), 0), Err(Error::Invalid { .. })));
    assert!(matches!(Pool::new(root.command(&["true"]).id("fixed"), 2), Err(Error::Invalid { .. })));
    assert!(matches!(Pool::new(root.command(&["/no/such"]), 2), Err(Error::Exec { .. })));

    root.command(&["true"]).status().unwrap();
    let before = Traces::now();
    let pool = Pool::new(builder, 3).unwrap();
    let mut ids = Vec::new();
    for n in 0..20 {
        let mut created = pool.take().unwrap();
        ids.push(created.id().to_owned());
        if fixture::is_root() {
            created.container().write_file("/tmp/given", 0o644, format!("file {n}\n").as_bytes()).unwrap();
        } else {
            std::fs::write(root.path().join("tmp/given"), format!("file {n}\n")).unwrap();
        }
        let outcome = created.input(format!("input {n}\n").into_bytes()).run().unwrap();
        assert_eq!(outcome.end, End::Exited(0), "{outcome:?}");
        assert_eq!(String::from_utf8(outcome.stdout).unwrap(), format!("1\ninput {n}\nfile {n}\n"));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    let start = Instant::now();
    while pool.ready() < 3 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
    drop(pool);
    assert_eq!(Traces::now(), before);
}
