//! Names from an archive become components in one place, and one function tells what a name means.

use crate::{Error, Result};

/// The longest name a Linux file system takes.
const NAME_MAX: usize = 255;

/// The components of a name relative to the root: none empty, `.`, `..`, with `/` or NUL, or longer than 255 bytes. The
/// root itself has none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EntryPath<'a>(Vec<&'a [u8]>);

impl<'a> EntryPath<'a> {
    /// A leading `/` and `.` count for nothing. `..` goes back one component, which is no more than text here; a name
    /// that would climb over the root is refused.
    pub(crate) fn parse(name: &'a [u8]) -> Result<EntryPath<'a>> {
        let mut parts = Vec::new();
        for part in name.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    if parts.pop().is_none() {
                        return Err(Error::LayerEscape { entry: lossy(name) });
                    }
                }
                _ if part.contains(&0) => return Err(invalid(name, "a name with a NUL in it")),
                _ if part.len() > NAME_MAX => return Err(invalid(name, "a name longer than 255 bytes")),
                _ => parts.push(part),
            }
        }
        Ok(EntryPath(parts))
    }

    pub(crate) fn parts(&self) -> &[&'a [u8]] {
        &self.0
    }

    /// The last component and those before it.
    pub(crate) fn split(&self) -> Option<(&'a [u8], &[&'a [u8]])> {
        self.0.split_last().map(|(last, parents)| (*last, parents))
    }
}

/// What the last component of a name means in a layer
/// ([image specification](https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    Plain(&'a [u8]),
    /// Hides this name of the layers below.
    Whiteout(&'a [u8]),
    /// Hides all that the layers below have in this directory.
    Opaque,
    /// Bookkeeping of AUFS: skipped, with all below it.
    Reserved,
    /// The prefix with nothing, `.` or `..` behind it: it names nothing and must delete nothing.
    Nothing,
}

const WHITEOUT: &[u8] = b".wh.";
const RESERVED: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where AUFS kept files with several names: in the root of a layer, under numbers that the names link to.
pub(crate) const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

impl<'a> Name<'a> {
    pub(crate) fn classify(name: &'a [u8]) -> Name<'a> {
        match name.strip_prefix(WHITEOUT) {
            None => Name::Plain(name),
            Some(_) if name == OPAQUE => Name::Opaque,
            Some(_) if name.starts_with(RESERVED) => Name::Reserved,
            Some(b"" | b"." | b"..") => Name::Nothing,
            Some(hidden) => Name::Whiteout(hidden),
        }
    }

    /// The entry that hides `name`.
    pub(crate) fn whiteout(name: &[u8]) -> Vec<u8> {
        [WHITEOUT, name].concat()
    }

    /// The entry that hides what is below a directory.
    pub(crate) fn opaque() -> &'static [u8] {
        OPAQUE
    }
}

pub(crate) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

pub(crate) fn invalid(entry: &[u8], reason: impl Into<String>) -> Error {
    Error::InvalidLayer { entry: lossy(entry), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components() {
        let parts = |name: &'static str| EntryPath::parse(name.as_bytes()).map(|p| p.0);
        assert_eq!(parts("//etc/./a/").unwrap(), [b"etc", &b"a"[..]]);
        assert_eq!(parts("a/../b").unwrap(), [b"b"]);
        assert_eq!(parts("...").unwrap(), [b"..."]);
        for root in ["", ".", "./", "/", "a/.."] {
            assert!(parts(root).unwrap().is_empty());
        }
        for escape in ["..", "../x", "a/../../x", "/../x"] {
            assert!(matches!(parts(escape), Err(Error::LayerEscape { .. })), "{escape}");
        }
        assert!(parts("a\0b").is_err());
        assert!(EntryPath::parse(&[b'y'; 255]).is_ok());
        assert!(EntryPath::parse(&[b'y'; 256]).is_err());
    }

    #[test]
    fn names() {
        assert_eq!(Name::classify(b"a"), Name::Plain(b"a"));
        assert_eq!(Name::classify(b".whx"), Name::Plain(b".whx"));
        assert_eq!(Name::classify(b".wh.a"), Name::Whiteout(b"a"));
        assert_eq!(Name::classify(b".wh..hidden"), Name::Whiteout(b".hidden"));
        assert_eq!(Name::classify(b".wh..wh..opq"), Name::Opaque);
        for reserved in [&b".wh..wh.aufs"[..], b".wh..wh.plnk", b".wh..wh.", b".wh..wh..opqx"] {
            assert_eq!(Name::classify(reserved), Name::Reserved);
        }
        for nothing in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(Name::classify(nothing), Name::Nothing);
        }
        assert_eq!(Name::classify(&Name::whiteout(b"a")), Name::Whiteout(b"a"));
    }
}
