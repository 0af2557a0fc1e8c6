//! Mount options: the strings of a spec or an fstab to the flag words of `mount(2)` and `mount_setattr(2)`, in one table.
//!
//! The names are those of mount(8) and of the runtime specification, with the recursive `r...` forms of Linux 5.12 and the words
//! `idmap`, `ridmap`, `tmpcopyup`, `src-nofollow`, `dest-nofollow` and `copy-symlink` that runc and crun have. What is not in
//! the table is data for the file system.

use libc::{
    MS_DIRSYNC, MS_I_VERSION, MS_LAZYTIME, MS_MANDLOCK, MS_NOATIME, MS_NODEV, MS_NODIRATIME, MS_NOEXEC,
    MS_NOSUID, MS_POSIXACL, MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME, MS_SHARED, MS_SILENT, MS_SLAVE,
    MS_STRICTATIME, MS_SYNCHRONOUS, MS_UNBINDABLE,
};

use crate::error::{Error, Result};

/// `MS_NOSYMFOLLOW` of Linux 5.10.
pub(crate) const MS_NOSYMFOLLOW: u64 = 256;

/// The attribute word of `mount_setattr(2)`.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    /// Access time handling is a field of three values, not three bits.
    pub(crate) const ATIME: u64 = 0x70;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const IDMAP: u64 = 0x10_0000;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// How a mount shares mounts made below it later, with its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Propagation {
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`.
    pub(crate) kind: u64,
    /// For the mounts below it too.
    pub(crate) recursive: bool,
}

/// A bind mount, or one with all mounts below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The mount alone.
    Single,
    /// The mount and those below it.
    Recursive,
}

/// What a list of mount options says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// `MS_*` bits to set: per-mount and per-file-system ones, as mount(2) takes them. Without bind, remount and propagation.
    pub(crate) flags: u64,
    /// `MS_*` bits the list clears in so many words (`rw`, `suid` ...). A bind mount inherits what is neither set nor cleared.
    pub(crate) cleared: u64,
    /// Attributes to set on this mount and all below it (`rro` ...).
    pub(crate) recursive_set: u64,
    /// Attributes to clear on this mount and all below it (`rrw` ...).
    pub(crate) recursive_clear: u64,
    /// Is it a bind mount, and how far.
    pub(crate) bind: Option<Scope>,
    /// Change a mount that is there.
    pub(crate) remount: bool,
    /// Propagation changes in the order given.
    pub(crate) propagation: Vec<Propagation>,
    /// Map the owners of files by the mappings of the mount, or by the container's own.
    pub(crate) idmap: Option<Scope>,
    /// Start a tmpfs with what the image has at its place.
    pub(crate) tmpcopyup: bool,
    /// The source is a symbolic link and is itself to be mounted.
    pub(crate) source_nofollow: bool,
    /// The destination is a symbolic link and is itself to be covered.
    pub(crate) destination_nofollow: bool,
    /// Where the source is a symbolic link make the same link in the container instead of mounting.
    pub(crate) copy_symlink: bool,
    /// Options for the file system, in order: `size=64k`, `newinstance`.
    pub(crate) data: Vec<String>,
}

enum Word {
    Set(u64),
    Clear(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    Spread(u64),
    Bind(Scope),
    Idmap(Scope),
    Remount,
    TmpCopyUp,
    SourceNoFollow,
    DestinationNoFollow,
    CopySymlink,
    Nothing,
}

use Word::*;

/// Every option that is not for the file system.
#[rustfmt::skip]
const TABLE: &[(&str, Word)] = &[
    ("defaults", Nothing), ("auto", Nothing), ("noauto", Nothing), ("user", Nothing), ("nouser", Nothing), ("owner", Nothing),
    ("group", Nothing), ("_netdev", Nothing), ("nofail", Nothing),
    ("ro", Set(MS_RDONLY)), ("rw", Clear(MS_RDONLY)),
    ("nosuid", Set(MS_NOSUID)), ("suid", Clear(MS_NOSUID)),
    ("nodev", Set(MS_NODEV)), ("dev", Clear(MS_NODEV)),
    ("noexec", Set(MS_NOEXEC)), ("exec", Clear(MS_NOEXEC)),
    ("sync", Set(MS_SYNCHRONOUS)), ("async", Clear(MS_SYNCHRONOUS)),
    ("dirsync", Set(MS_DIRSYNC)),
    ("mand", Set(MS_MANDLOCK)), ("nomand", Clear(MS_MANDLOCK)),
    ("noatime", Set(MS_NOATIME)), ("atime", Clear(MS_NOATIME)),
    ("nodiratime", Set(MS_NODIRATIME)), ("diratime", Clear(MS_NODIRATIME)),
    ("relatime", Set(MS_RELATIME)), ("norelatime", Clear(MS_RELATIME)),
    ("strictatime", Set(MS_STRICTATIME)), ("nostrictatime", Clear(MS_STRICTATIME)),
    ("nosymfollow", Set(MS_NOSYMFOLLOW)), ("symfollow", Clear(MS_NOSYMFOLLOW)),
    ("iversion", Set(MS_I_VERSION)), ("noiversion", Clear(MS_I_VERSION)),
    ("lazytime", Set(MS_LAZYTIME)), ("nolazytime", Clear(MS_LAZYTIME)),
    ("silent", Set(MS_SILENT)), ("loud", Clear(MS_SILENT)),
    ("acl", Set(MS_POSIXACL)), ("noacl", Clear(MS_POSIXACL)),
    ("bind", Bind(Scope::Single)), ("rbind", Bind(Scope::Recursive)),
    ("remount", Remount),
    ("private", Spread(MS_PRIVATE)), ("rprivate", Spread(MS_PRIVATE | MS_REC)),
    ("shared", Spread(MS_SHARED)), ("rshared", Spread(MS_SHARED | MS_REC)),
    ("slave", Spread(MS_SLAVE)), ("rslave", Spread(MS_SLAVE | MS_REC)),
    ("unbindable", Spread(MS_UNBINDABLE)), ("runbindable", Spread(MS_UNBINDABLE | MS_REC)),
    ("rro", RecursiveSet(attr::RDONLY)), ("rrw", RecursiveClear(attr::RDONLY)),
    ("rnosuid", RecursiveSet(attr::NOSUID)), ("rsuid", RecursiveClear(attr::NOSUID)),
    ("rnodev", RecursiveSet(attr::NODEV)), ("rdev", RecursiveClear(attr::NODEV)),
    ("rnoexec", RecursiveSet(attr::NOEXEC)), ("rexec", RecursiveClear(attr::NOEXEC)),
    ("rnodiratime", RecursiveSet(attr::NODIRATIME)), ("rdiratime", RecursiveClear(attr::NODIRATIME)),
    ("rnoatime", RecursiveSet(attr::NOATIME)), ("ratime", RecursiveClear(attr::NOATIME)),
    ("rstrictatime", RecursiveSet(attr::STRICTATIME)), ("rnostrictatime", RecursiveClear(attr::STRICTATIME)),
    // relatime is the value 0 of the field: to set it is to clear the field, and to clear it changes nothing.
    ("rrelatime", RecursiveClear(attr::ATIME)), ("rnorelatime", Nothing),
    ("rnosymfollow", RecursiveSet(attr::NOSYMFOLLOW)), ("rsymfollow", RecursiveClear(attr::NOSYMFOLLOW)),
    ("idmap", Idmap(Scope::Single)), ("ridmap", Idmap(Scope::Recursive)),
    ("tmpcopyup", TmpCopyUp),
    ("src-nofollow", SourceNoFollow), ("dest-nofollow", DestinationNoFollow), ("copy-symlink", CopySymlink),
];

/// The bits of mount(2) that belong to a mount point and not to the file system behind it.
const PER_MOUNT: &[(u64, u64)] = &[
    (MS_RDONLY, attr::RDONLY),
    (MS_NOSUID, attr::NOSUID),
    (MS_NODEV, attr::NODEV),
    (MS_NOEXEC, attr::NOEXEC),
    (MS_NODIRATIME, attr::NODIRATIME),
    (MS_NOSYMFOLLOW, attr::NOSYMFOLLOW),
];

impl MountOptions {
    /// Reads a list of options; a later word wins over an earlier one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a word with a NUL byte in it: it could only be cut short silently.
    pub(crate) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            if option.contains('\0') {
                return Err(Error::invalid(format!("mount option {option:?}"), "it contains a NUL byte"));
            }
            match TABLE.iter().find(|(name, _)| *name == option) {
                Some((_, word)) => parsed.apply(word),
                None if option.is_empty() => {}
                None => parsed.data.push(option.to_owned()),
            }
        }
        Ok(parsed)
    }

    fn apply(&mut self, word: &Word) {
        match *word {
            Set(bits) => {
                self.flags |= bits;
                self.cleared &= !bits;
            }
            Clear(bits) => {
                self.flags &= !bits;
                self.cleared |= bits;
            }
            RecursiveSet(bits) => {
                // A field of values, not bits: whatever was there has to be cleared in the same call (mount_setattr(2)).
                let clear = if bits & attr::ATIME != 0 { attr::ATIME } else { 0 };
                self.recursive_set = self.recursive_set & !clear | bits;
                self.recursive_clear = self.recursive_clear & !bits | clear;
            }
            RecursiveClear(bits) => {
                self.recursive_set &= !bits;
                self.recursive_clear |= if bits & attr::ATIME != 0 { attr::ATIME } else { bits };
            }
            Spread(flags) => {
                self.propagation.push(Propagation { kind: flags & !MS_REC, recursive: flags & MS_REC != 0 })
            }
            Bind(scope) => self.bind = Some(scope),
            Idmap(scope) => self.idmap = Some(scope),
            Remount => self.remount = true,
            TmpCopyUp => self.tmpcopyup = true,
            SourceNoFollow => self.source_nofollow = true,
            DestinationNoFollow => self.destination_nofollow = true,
            CopySymlink => self.copy_symlink = true,
            Nothing => {}
        }
    }

    /// The `MS_*` bits for the file system (superblock) itself.
    pub(crate) fn superblock_flags(&self) -> u64 {
        self.flags
            & (MS_SYNCHRONOUS
                | MS_DIRSYNC
                | MS_MANDLOCK
                | MS_I_VERSION
                | MS_LAZYTIME
                | MS_SILENT
                | MS_POSIXACL
                | MS_RDONLY)
    }

    /// The attributes this list sets on the mount point itself.
    pub(crate) fn attributes_set(&self) -> u64 {
        let atime = match self.flags & (MS_NOATIME | MS_STRICTATIME) {
            0 => 0,
            flags if flags & MS_NOATIME != 0 => attr::NOATIME,
            _ => attr::STRICTATIME,
        };
        PER_MOUNT.iter().filter(|(ms, _)| self.flags & ms != 0).fold(atime, |bits, (_, attr)| bits | attr)
    }

    /// The attributes this list clears on the mount point itself: the access time field too when it sets it. Words that only take
    /// back what was not given (`atime`, `norelatime`) leave it as it is, as mount(8) does.
    pub(crate) fn attributes_clear(&self) -> u64 {
        let times = MS_NOATIME | MS_STRICTATIME | MS_RELATIME;
        let atime = if self.flags & times != 0 { attr::ATIME } else { 0 };
        PER_MOUNT.iter().filter(|(ms, _)| self.cleared & ms != 0).fold(atime, |bits, (_, attr)| bits | attr)
    }
}

/// Every word the parser understands, for `features` of an OCI runtime.
pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        MountOptions::parse(options.iter().copied()).unwrap()
    }

    #[test]
    fn a_later_word_wins() {
        let options = parse(&["ro", "nosuid", "rw", "suid", "nosuid"]);
        assert_eq!(options.flags, MS_NOSUID);
        assert_eq!(options.cleared, MS_RDONLY);
        assert_eq!(options.attributes_set(), attr::NOSUID);
        assert_eq!(options.attributes_clear(), attr::RDONLY);
    }

    #[test]
    fn unknown_words_are_data_in_order() {
        let options = parse(&["size=64k", "nosuid", "mode=1777", "newinstance"]);
        assert_eq!(options.data, ["size=64k", "mode=1777", "newinstance"]);
    }

    #[test]
    fn access_time_is_a_field() {
        assert_eq!(parse(&["noatime"]).attributes_set(), attr::NOATIME);
        assert_eq!(parse(&["strictatime"]).attributes_set(), attr::STRICTATIME);
        assert_eq!(parse(&["relatime"]).attributes_set(), 0);
        assert_eq!(parse(&["relatime"]).attributes_clear(), attr::ATIME);
        let options = parse(&["rnoatime"]);
        assert_eq!((options.recursive_set, options.recursive_clear), (attr::NOATIME, attr::ATIME));
        let options = parse(&["rnoatime", "rstrictatime"]);
        assert_eq!((options.recursive_set, options.recursive_clear), (attr::STRICTATIME, attr::ATIME));
        let options = parse(&["rstrictatime", "rrelatime"]);
        assert_eq!((options.recursive_set, options.recursive_clear), (0, attr::ATIME));
    }

    #[test]
    fn recursive_words() {
        let options = parse(&["rbind", "rro", "rnosuid", "rrw"]);
        assert_eq!(options.bind, Some(Scope::Recursive));
        assert_eq!(options.recursive_set, attr::NOSUID);
        assert_eq!(options.recursive_clear, attr::RDONLY);
        assert_eq!(options.flags, 0);
    }

    #[test]
    fn propagation_keeps_its_order() {
        let options = parse(&["rslave", "shared"]);
        let kinds: Vec<_> = options.propagation.iter().map(|p| (p.kind, p.recursive)).collect();
        assert_eq!(kinds, [(MS_SLAVE, true), (MS_SHARED, false)]);
    }

    #[test]
    fn words_of_the_runtimes() {
        let options = parse(&[
            "bind",
            "ridmap",
            "tmpcopyup",
            "src-nofollow",
            "dest-nofollow",
            "copy-symlink",
            "remount",
        ]);
        assert_eq!(options.idmap, Some(Scope::Recursive));
        assert!(options.tmpcopyup && options.source_nofollow && options.destination_nofollow);
        assert!(options.copy_symlink && options.remount);
        assert!(options.data.is_empty());
    }

    #[test]
    fn a_nul_byte_is_refused() {
        assert!(matches!(MountOptions::parse(["size=1\0"]), Err(Error::Invalid { .. })));
    }

    #[test]
    fn every_recursive_word_has_its_plain_twin() {
        let names: Vec<_> = known().collect();
        for (name, word) in TABLE {
            if matches!(word, RecursiveSet(_) | RecursiveClear(_)) {
                assert!(names.contains(&&name[1..]), "{name}");
            }
        }
    }
}
