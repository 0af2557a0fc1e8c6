//! A root file system out of the host's own programs, for examples that need no image: an empty directory with the host's
//! `/usr`, `/bin` and `/lib` shown read-only.

use std::path::{Path, PathBuf};
use std::{fs, io};

use container_core::{Container, ContainerBuilder, Mount};

/// The directory. It is removed when this is dropped.
#[derive(Debug)]
pub struct HostRoot {
    path: PathBuf,
}

const PROGRAMS: [&str; 5] = ["usr", "bin", "sbin", "lib", "lib64"];

impl HostRoot {
    /// Makes the directory.
    ///
    /// # Errors
    /// When the directory for temporary files cannot be written.
    pub fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("container-example-{}", std::process::id()));
        fs::create_dir(&path)?;
        let root = Self { path };
        for name in ["etc", "tmp", "code", "proc", "sys", "dev"] {
            fs::create_dir(root.path.join(name))?;
        }
        fs::write(
            root.path.join("etc/passwd"),
            "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
        )?;
        for name in PROGRAMS {
            let host = Path::new("/").join(name);
            match fs::read_link(&host) {
                Ok(target) => std::os::unix::fs::symlink(target, root.path.join(name))?,
                Err(_) if host.is_dir() => fs::create_dir(root.path.join(name))?,
                Err(_) => {}
            }
        }
        Ok(root)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A container with it.
    pub fn container(&self) -> ContainerBuilder {
        let mut builder = Container::builder().rootfs(&self.path);
        for name in PROGRAMS {
            let host = Path::new("/").join(name);
            if host.is_dir() && fs::read_link(&host).is_err() {
                builder = builder
                    .mount(Mount::new("none", &host, &host).options(["bind", "ro", "nosuid", "nodev"]));
            }
        }
        builder
    }
}

impl Drop for HostRoot {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
