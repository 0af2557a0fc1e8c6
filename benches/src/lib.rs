//! What the benches share: a small root file system, and peers that are measured in the same run where they are installed.

pub mod images;

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A root file system of one static busybox. `None`, said visibly, where the host has none (Debian: `busybox-static`).
pub fn busybox_root(directory: &Path) -> io::Result<Option<PathBuf>> {
    let Some(busybox) =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.is_file())
    else {
        println!("SKIPPED: no static busybox on this host");
        return Ok(None);
    };
    let root = directory.join("rootfs");
    for name in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for applet in ["true", "sh", "cat", "sleep"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(Some(root))
}

/// Runs a peer's command once. A peer that is not installed, or does not work on this host, is left out, visibly.
pub fn peer_works(command: &mut Command) -> bool {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!(
                "SKIPPED: {name}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
            false
        }
        Err(error) => {
            println!("SKIPPED: {name}: {error}");
            false
        }
    }
}
