//! Image references: `registry/repository:tag@digest`, with the defaults everybody knows from Docker.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, Error, Result};

const DEFAULT_REGISTRY: &str = "docker.io";

/// The name of an image.
///
/// Without a registry it is in `docker.io`; a name of one component there is in `library/`; without tag and digest the
/// tag is `latest`. The first component is a registry when it holds a dot, a colon or an upper-case letter, or is
/// `localhost`, and a slash follows.
///
/// ```
/// use image_layers::Reference;
/// let name: Reference = "busybox".parse()?;
/// assert_eq!(name.to_string(), "docker.io/library/busybox:latest");
/// # Ok::<(), image_layers::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host, and port where one is given, of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Where there is a digest too, the digest decides.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(input: &str) -> Result<Reference> {
        let invalid = |reason| Error::InvalidReference { input: input.chars().take(300).collect(), reason };
        if input.is_empty() {
            return Err(invalid("empty"));
        }
        let (name, digest) = match input.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (input, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !valid_host(registry) {
            return Err(invalid("malformed registry"));
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if path.len() == 64 && path.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(invalid("64 hex digits are an image id, not a name"));
        }
        let repository = match registry == DEFAULT_REGISTRY && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("the repository must be lower-case"));
        }
        if !repository.split('/').all(valid_component) {
            return Err(invalid("malformed repository"));
        }
        if registry.len() + 1 + repository.len() > 255 {
            return Err(invalid("the name is longer than 255 characters"));
        }
        if !tag.is_none_or(valid_tag) {
            return Err(invalid("malformed tag"));
        }
        let tag = tag.or(if digest.is_none() { Some("latest") } else { None });
        Ok(Reference { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

fn is_registry(first: &str) -> bool {
    first == "localhost" || first.bytes().any(|b| b == b'.' || b == b':' || b.is_ascii_uppercase())
}

/// `host[:port]`; the host a name, an IPv4 address or a bracketed IPv6 address.
fn valid_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => return valid_port(port),
                None => return port.is_empty(),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    port.is_none_or(valid_port)
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn valid_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

/// Lower-case letters and digits, in groups joined by one dot, one or two underscores, or any number of dashes.
fn valid_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !component.starts_with(alphanumeric) || !component.ends_with(alphanumeric) {
        return false;
    }
    component
        .split(alphanumeric)
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn valid_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completed() {
        let hex = "0123456789abcdef".repeat(4);
        for (input, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("localhost:5000", "docker.io/library/localhost:5000".into()),
            ("localhost:5050/repo:tag", "localhost:5050/repo:tag".into()),
            ("[::1]:5000/x:1", "[::1]:5000/x:1".into()),
            ("Foo/bar", "Foo/bar:latest".into()),
            ("index.docker.io/me/app", "docker.io/me/app:latest".into()),
            (&format!("a/b:t@sha256:{hex}"), format!("docker.io/a/b:t@sha256:{hex}")),
            ("a__b/c--d:_t.1-2", "docker.io/a__b/c--d:_t.1-2".into()),
        ] {
            let parsed: Reference = input.parse().unwrap();
            assert_eq!(parsed.to_string(), full);
            assert_eq!(full.parse::<Reference>().unwrap(), parsed);
        }
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "/x",
            "x/",
            "a//b",
            "UPPER",
            "a:",
            "a:.t",
            "a@",
            "a@sha256:abc",
            "x:y:z",
            "a..b",
            "-a",
            "a_",
            "a___b",
            "a b",
            "../x",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
