//! System calls on the files of containers. An ordinary user's containers may have files of subordinate ids, which the user can
//! reach only from inside a user namespace; the crate with the images knows how.

#[cfg(feature = "images")]
pub(super) use image_layers::reach::{
    Reach, chown, entries, fchmod, lgetxattr, linkat, mkdirat, openat, openat2, renameat, statat, symlinkat,
    unlinkat,
};

#[cfg(not(feature = "images"))]
pub(super) use plain::*;

/// As the caller, who may be refused.
#[cfg(not(feature = "images"))]
mod plain {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::fs::{self, AtFlags, Dir, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
    use rustix::io::Result;

    pub(crate) struct Reach(());

    impl Reach {
        pub(crate) fn keep() -> Self {
            Self(())
        }
    }

    impl Drop for Reach {
        fn drop(&mut self) {}
    }

    pub(crate) fn openat(dir: impl AsFd, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        fs::openat(dir, name, flags, mode)
    }

    pub(crate) fn openat2(
        dir: impl AsFd,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
        resolve: ResolveFlags,
    ) -> Result<OwnedFd> {
        fs::openat2(dir, path, flags, mode, resolve)
    }

    pub(crate) fn unlinkat(dir: impl AsFd, name: &[u8], flags: AtFlags) -> Result<()> {
        fs::unlinkat(dir, name, flags)
    }

    pub(crate) fn mkdirat(dir: impl AsFd, name: &[u8], mode: Mode) -> Result<()> {
        fs::mkdirat(dir, name, mode)
    }

    pub(crate) fn renameat(from: impl AsFd, name: &[u8], to: impl AsFd, new: &[u8]) -> Result<()> {
        fs::renameat(from, name, to, new)
    }

    pub(crate) fn linkat(from: impl AsFd, name: &[u8], to: impl AsFd, new: &[u8]) -> Result<()> {
        fs::linkat(from, name, to, new, AtFlags::empty())
    }

    pub(crate) fn symlinkat(target: &[u8], dir: impl AsFd, name: &[u8]) -> Result<()> {
        fs::symlinkat(target, dir, name)
    }

    pub(crate) fn chown(dir: impl AsFd, name: Option<&[u8]>, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match name {
            None => fs::fchown(dir, uid, gid),
            Some(name) => fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    pub(crate) fn fchmod(file: impl AsFd, mode: Mode) -> Result<()> {
        fs::fchmod(file, mode)
    }

    pub(crate) fn statat(dir: impl AsFd, name: &[u8]) -> Result<Stat> {
        fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    pub(crate) fn lgetxattr(path: &[u8], key: &[u8], buffer: &mut [u8]) -> Result<usize> {
        fs::lgetxattr(path, key, buffer)
    }

    pub(crate) fn entries(dir: BorrowedFd<'_>) -> Result<Dir> {
        Dir::read_from(dir)
    }
}
