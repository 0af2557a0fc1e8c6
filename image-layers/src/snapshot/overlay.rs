//! Each layer a directory with overlayfs markers.

use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::apply::index;
use crate::apply::merge::Merged;
use crate::apply::metadata::{self, Ownership, open_directory};
use crate::apply::place::{Markers, metadata_of};
use crate::apply::tree::{NodeId, Tree};
use crate::diff::{Content, Form, diff};
use crate::{Error, LowerLayer, Result, RootfsMount};

use super::directory::{new_root, open, open_content, settle_directory, stage_directory};
use super::{Blob, DiffStats, Snapshotter};

#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) owners: Ownership,
}

/// Name of the content inside a snapshot.
const CONTENT: &str = "fs";

impl Snapshotter for Overlay {
    fn content(&self) -> &'static str {
        CONTENT
    }

    fn stage(&self, blob: Blob<'_>, scratch: &Path) -> Result<Tree> {
        stage_directory(blob, &scratch.join(CONTENT), &self.owners)
    }

    fn settle(&self, tree: &mut Tree, below: &Merged, scratch: &Path, umask_is_zero: bool) -> Result<()> {
        settle_directory(
            tree,
            below,
            &scratch.join(CONTENT),
            markers(&self.owners),
            &self.owners,
            umask_is_zero,
        )
    }

    fn prepare(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount> {
        prepare_upper(chain, writable, &self.owners)?;
        self.mount(chain, writable)
    }

    fn mount(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount> {
        Ok(mount(lower(chain, |dir| LowerLayer::Directory(dir.join(CONTENT)))?, Some(writable), &self.owners))
    }

    fn view(&self, chain: &[PathBuf]) -> Result<RootfsMount> {
        let mut lower = lower(chain, |dir| LowerLayer::Directory(dir.join(CONTENT)))?;
        match (lower.pop(), lower.is_empty()) {
            (Some(LowerLayer::Directory(source)), true) => {
                Ok(RootfsMount::Directory { source, read_only: true })
            }
            (Some(bottom), false) => {
                lower.push(bottom);
                Ok(mount(lower, None, &self.owners))
            }
            _ => Err(no_layers()),
        }
    }

    fn diff(&self, chain: &[PathBuf], writable: &Path, out: &mut dyn Write) -> Result<DiffStats> {
        let below = Merged::load(chain, CONTENT)?;
        let content = |id| open_content(&below, id);
        diff_upper(writable, &self.owners, &below, &content, out)
    }
}

/// What the upper directory of an overlay changes.
pub(super) fn diff_upper(
    writable: &Path,
    owners: &Ownership,
    below: &Merged,
    content: Content<'_>,
    out: &mut dyn Write,
) -> Result<DiffStats> {
    diff(open(&writable.join("upper"))?, Form::Upper(markers(owners)), owners, below, content, out)
}

/// The upper and work directories of an overlay. The upper root is what the container sees as its root, so it gets the
/// metadata of the image's.
pub(super) fn prepare_upper(chain: &[PathBuf], writable: &Path, owners: &Ownership) -> Result<()> {
    let upper = new_root(&writable.join("upper"))?;
    drop(new_root(&writable.join("work"))?);
    let root = match chain.last() {
        Some(top) => index::read_root(&top.join(index::FILE))?,
        None => Tree::new(),
    };
    let meta = metadata_of(&root, NodeId::ROOT);
    metadata::finish_file(std::os::fd::AsFd::as_fd(&upper), &meta, owners, false)
        .map_err(Error::io("set metadata of", writable))
}

/// What is to be stacked, the top one first. An opaque root hides all below it; overlayfs does not know that for roots.
pub(super) fn lower(chain: &[PathBuf], layer: impl Fn(&Path) -> LowerLayer) -> Result<Vec<LowerLayer>> {
    let mut lower = Vec::new();
    for dir in chain.iter().rev() {
        lower.push(layer(dir));
        let root = index::read_root(&dir.join(index::FILE))?;
        if root.node(NodeId::ROOT).has(crate::apply::tree::flags::OPAQUE) {
            break;
        }
    }
    Ok(lower)
}

pub(super) fn mount(lower: Vec<LowerLayer>, writable: Option<&Path>, owners: &Ownership) -> RootfsMount {
    let (upper, work) = (writable.map(|dir| dir.join("upper")), writable.map(|dir| dir.join("work")));
    match upper {
        Some(source) if lower.is_empty() => RootfsMount::Directory { source, read_only: false },
        upper => RootfsMount::Overlay {
            lower,
            upper,
            work,
            userxattr: markers(owners) == Markers::User,
            volatile: false,
        },
    }
}

pub(super) fn no_layers() -> Error {
    Error::UnsupportedLayer { what: "a read-only root of an image without layers".to_owned() }
}

/// Why overlays whose upper directory is in `dir` could not be mounted. Root finds out by mounting one; an ordinary user
/// has to look at what the mount in a user namespace will need.
pub(super) fn refusal(dir: &Path) -> Option<String> {
    let scratch = match Scratch::make(dir) {
        Ok(scratch) => scratch,
        Err(errno) => return Some(format!("cannot write to {}: {errno}", dir.display())),
    };
    if is_trusted() {
        return match scratch.mount() {
            // It mounts without attributes too, and then cannot replace directories.
            Ok(_) => scratch.lacks("trusted.overlay.opaque"),
            Err(Errno::NODEV) => Some("the kernel has no overlayfs".to_owned()),
            Err(Errno::PERM) => Some("mounting overlayfs needs CAP_SYS_ADMIN of the host".to_owned()),
            Err(errno) => {
                Some(format!("overlayfs cannot have its upper directory in {}: {errno}", dir.display()))
            }
        };
    }
    let known = std::fs::read_to_string("/proc/filesystems").map_or(true, |all| all.contains("\toverlay\n"));
    if !known {
        return Some("the kernel has no overlayfs, or root has to load its module first".to_owned());
    }
    if kernel_version() < (5, 11) {
        return Some("overlayfs in a user namespace needs Linux 5.11".to_owned());
    }
    scratch.lacks("user.overlay.opaque")
}

/// The running kernel's major and minor version.
fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// A directory for a probe, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    /// Why an attribute that overlayfs needs cannot be set.
    fn lacks(&self, attribute: &str) -> Option<String> {
        let set = rustix::fs::setxattr(&self.0, attribute, b"y", rustix::fs::XattrFlags::empty());
        let dir = self.0.parent().unwrap_or(&self.0);
        set.err()
            .map(|errno| format!("the file system of {} cannot store {attribute}: {errno}", dir.display()))
    }

    fn make(dir: &Path) -> rustix::io::Result<Scratch> {
        for attempt in 0.. {
            let path = dir.join(format!(".probe-{}-{attempt}", std::process::id()));
            match rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU) {
                Err(Errno::EXIST) if attempt < 1000 => {}
                result => return result.map(|()| Scratch(path)),
            }
        }
        Err(Errno::EXIST)
    }

    /// Mounts an overlay at no place: it goes with the descriptor.
    fn mount(&self) -> rustix::io::Result<std::os::fd::OwnedFd> {
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_set_string, fsopen};
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let root = open_directory(rustix::fs::CWD, self.0.as_os_str().as_encoded_bytes())?;
        // Paths may be long and hold what means something in options; a descriptor does not.
        let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&root));
        for (option, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
            rustix::fs::mkdirat(&root, name, rustix::fs::Mode::RWXU)?;
            fsconfig_set_string(&context, option, format!("{through}/{name}"))?;
        }
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = super::remove_tree(&self.0);
    }
}

/// Which attributes overlayfs will look at: those of the initial user namespace's root, or anybody's.
pub(super) fn markers(owners: &Ownership) -> Markers {
    // What is made for a user namespace looks the same whoever has made it.
    if is_trusted() && !owners.is_mapped() { Markers::Trusted } else { Markers::User }
}

fn is_trusted() -> bool {
    rustix::process::geteuid().is_root() && in_initial_user_namespace()
}

fn in_initial_user_namespace() -> bool {
    use std::os::unix::fs::MetadataExt;
    // Fixed since Linux 3.8 (PROC_USER_INIT_INO): a map of all ids to themselves may be that of another namespace.
    const INITIAL: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").map_or(true, |namespace| namespace.ino() == INITIAL)
}
