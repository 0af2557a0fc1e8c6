use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where a group lies in every hierarchy.
///
/// *Absolute* (leading `/`): below the directory where each hierarchy is mounted, which is what the OCI runtime
/// specification calls an absolute `cgroupsPath`. *Relative*: below the group the caller itself is in, see
/// [`Hierarchy::base`](crate::Hierarchy::base).
///
/// Empty components and `.` are dropped; `..`, control characters and names longer than 255 bytes are refused.
///
/// ```
/// let path: cgroup::CgroupPath = "jobs//job-1/".parse()?;
/// assert_eq!(path.to_string(), "jobs/job-1");
/// assert!(!path.is_absolute());
/// assert!("../escape".parse::<cgroup::CgroupPath>().is_err());
/// # Ok::<(), cgroup::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CgroupPath {
    absolute: bool,
    components: String,
}

impl CgroupPath {
    /// Reads a path.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] for a path that no hierarchy can have.
    pub fn new(path: impl AsRef<str>) -> Result<Self> {
        let path = path.as_ref();
        let invalid = |reason| Error::InvalidPath { path: path.to_owned(), reason };
        let absolute = path.starts_with('/');
        let mut components = String::with_capacity(path.len());
        for component in path.split('/').filter(|component| !component.is_empty() && *component != ".") {
            if component == ".." {
                return Err(invalid("'..' would leave the place it is put in"));
            }
            if component.len() > 255 {
                return Err(invalid("a component is longer than 255 bytes"));
            }
            if component.bytes().any(|byte| byte.is_ascii_control()) {
                return Err(invalid("a component holds a control character"));
            }
            if !components.is_empty() {
                components.push('/');
            }
            components.push_str(component);
        }
        if !absolute && components.is_empty() {
            return Err(invalid("it is empty"));
        }
        if components.len() > 3000 {
            return Err(invalid("it is longer than 3000 bytes"));
        }
        Ok(Self { absolute, components })
    }

    /// Whether the path starts at the top of what is mounted.
    #[must_use]
    pub fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// The components joined by `/`, without a leading one; empty for `/`.
    #[must_use]
    pub fn components(&self) -> &str {
        &self.components
    }

    /// The path of a group `name` below this one.
    ///
    /// # Errors
    /// [`Error::InvalidPath`], see [`CgroupPath::new`].
    pub fn join(&self, name: &str) -> Result<Self> {
        Self::new(format!("{self}/{name}"))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.absolute { "/" } else { "" }, self.components)
    }
}

impl FromStr for CgroupPath {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self> {
        Self::new(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_form() {
        for (given, want) in
            [("/", "/"), ("/a/./b/", "/a/b"), ("a", "a"), ("./a//b", "a/b"), ("/a b/ü", "/a b/ü")]
        {
            assert_eq!(CgroupPath::new(given).unwrap().to_string(), want);
        }
        for bad in ["", ".", "a/../b", "..", "a\nb", "a\0b", &"x".repeat(256), &"x/".repeat(2000)] {
            assert!(CgroupPath::new(bad).is_err(), "{bad:?}");
        }
    }
}
