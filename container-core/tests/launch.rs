//! A spec runs as it says: what the command sees of its world.

mod common;

use common::{Bundle, config, run, script};
use serde_json::json;

#[test]
fn the_command_is_alone_in_its_world() {
    let Some(text) = script(
        "echo pid $$; hostname; id -u; pwd; echo home $HOME; cat /etc/motd; ls /; \
         cat /proc/self/mountinfo | wc -l; ls -l /proc/self/fd; ip link; cat /proc/self/status",
    ) else {
        return;
    };
    println!("{text}");
    assert!(text.contains("pid 1\n"), "{text}");
    assert!(text.contains("case\n"), "{text}");
    assert!(text.contains("from the image\n"));
    assert!(text.contains("home /root\n"));
    assert!(text.contains("NoNewPrivs:\t1"));
    assert!(text.contains("LOOPBACK,UP"), "{text}");
}

#[test]
fn the_exit_status_is_the_commands() {
    let Some(bundle) = Bundle::new() else { return };
    assert_eq!(run(&bundle, &config("exit 7")).unwrap().status, 7);
    assert_eq!(run(&bundle, &config("kill -TERM $$; sleep 1")).unwrap().status, 0);
    assert_eq!(run(&bundle, &config("kill -KILL $$")).unwrap().status, 0);
}

#[test]
fn a_missing_command_is_an_error_that_names_it() {
    let Some(bundle) = Bundle::new() else { return };
    let mut spec = config("");
    spec["process"]["args"] = json!(["/no/such"]);
    let error = run(&bundle, &spec).unwrap_err();
    assert_eq!(error.to_string(), "exec /no/such");
}
