use std::fmt;

use crate::error::{Error, Result};

/// The name of a scope and of the slice it is in (systemd.unit(5)).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeName {
    unit: String,
    slice: Option<String>,
}

impl ScopeName {
    /// Names a scope; `.scope` may be left out. Characters that a unit name cannot have are escaped as systemd does.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] when nothing is left or it gets longer than the 255 bytes systemd takes.
    pub fn new(name: &str) -> Result<Self> {
        let name = name.strip_suffix(".scope").unwrap_or(name);
        let invalid = |reason| Error::InvalidPath { path: name.to_owned(), reason };
        let unit = format!("{}.scope", escape(name));
        if name.is_empty() {
            return Err(invalid("a scope needs a name"));
        }
        if unit.len() > 255 {
            return Err(invalid("a unit name is at most 255 bytes long"));
        }
        Ok(Self { unit, slice: None })
    }

    /// Puts it into a slice such as `machine.slice`. Default: `system.slice` of the system's systemd, `app.slice` or the root
    /// slice of a user's.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] when it is no name of a slice.
    pub fn in_slice(mut self, slice: &str) -> Result<Self> {
        let invalid = |reason| Error::InvalidPath { path: slice.to_owned(), reason };
        let stem = slice.strip_suffix(".slice").ok_or_else(|| invalid("a slice's name ends with .slice"))?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        // Dashes are the path: every part between them is a slice of its own.
        let is_path = stem == "-" || stem.split('-').all(|part| !part.is_empty());
        if !is_path || !stem.bytes().all(is_plain) || slice.len() > 255 {
            return Err(invalid("it is no name of a slice"));
        }
        self.slice = Some(slice.to_owned());
        Ok(self)
    }

    /// Reads the form that container engines put into `cgroupsPath` of an OCI specification: `slice:prefix:name`.
    ///
    /// ```
    /// let name = cgroup::systemd::ScopeName::from_oci("machine.slice:libpod:abc")?;
    /// assert_eq!((name.unit(), name.slice()), ("libpod-abc.scope", Some("machine.slice")));
    /// # Ok::<(), cgroup::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidPath`] when it is not of that form.
    pub fn from_oci(path: &str) -> Result<Self> {
        let reason = "systemd's form of a cgroup path is slice:prefix:name";
        let invalid = || Error::InvalidPath { path: path.to_owned(), reason };
        let mut parts = path.split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        if name.is_empty() {
            return Err(invalid());
        }
        let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
        let scope = Self::new(&full)?;
        if slice.is_empty() { Ok(scope) } else { scope.in_slice(slice) }
    }

    /// The unit's name, with `.scope`.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The slice's name, with `.slice`; `None` for systemd's default.
    #[must_use]
    pub fn slice(&self) -> Option<&str> {
        self.slice.as_deref()
    }
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.unit)
    }
}

/// `\x20` for what a unit name cannot have, the backslash itself included.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || b":_-@".contains(&byte) || (byte == b'.' && index > 0);
        if is_plain { escaped.push(char::from(byte)) } else { escaped.push_str(&format!("\\x{byte:02x}")) }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(ScopeName::new("a b/c.scope").unwrap().unit(), "a\\x20b\\x2fc.scope");
        assert_eq!(ScopeName::new(".x").unwrap().unit(), "\\x2ex.scope");
        assert!(ScopeName::new("").is_err() && ScopeName::new(&"x".repeat(250)).is_err());
        for bad in ["machine", "a--b.slice", "-a.slice", "a/b.slice", ".slice"] {
            assert!(ScopeName::new("x").unwrap().in_slice(bad).is_err(), "{bad}");
        }
        let name = ScopeName::from_oci(":cri:x").unwrap();
        assert_eq!((name.unit(), name.slice()), ("cri-x.scope", None));
        assert_eq!(ScopeName::from_oci("-.slice::x").unwrap().slice(), Some("-.slice"));
        for bad in ["a:b", "a.slice:b:", "a.slice:b:c:d", "/abs"] {
            assert!(ScopeName::from_oci(bad).is_err(), "{bad}");
        }
    }
}
