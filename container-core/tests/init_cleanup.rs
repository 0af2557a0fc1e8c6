//! What a container with an init leaves behind, which is nothing.

mod fixture;

use container_core::{Created, End, Error};
use fixture::{Root, Traces};

#[test]
fn nothing_is_left() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    root.command(&["true"]).init(true).status().unwrap();
    fixture::executable(&root, "tmp/empty", b"");
    let before = Traces::now();
    let done = root.shell("sleep 7421 & setsid sleep 7422 & exit 3").init(true).run().unwrap();
    assert_eq!(done.end, End::Exited(3));
    assert_eq!((fixture::running(&["sleep", "7421"]), fixture::running(&["sleep", "7422"])), (0, 0));
    drop(root.command(&["sleep", "7423"]).init(true).spawn().unwrap());
    drop(root.command(&["sleep", "7423"]).init(true).create().unwrap());
    assert_eq!(fixture::running(&["sleep", "7423"]), 0);
    let empty = root.command(&["/tmp/empty"]).init(true);
    for started in [empty.spawn().map(drop), empty.create().and_then(Created::start).map(drop)] {
        assert!(matches!(started, Err(Error::Exec { .. })), "{started:?}");
    }
    assert!(matches!(root.command(&["/no/such"]).init(true).create(), Err(Error::Exec { .. })));
    assert_eq!(Traces::now(), before);
}
