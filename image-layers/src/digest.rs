//! Digests: parsed once, strictly, so that only a valid one ever becomes a file name or a request.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::Digest as _;

use crate::{Error, Result};

/// A digest algorithm that is registered in the OCI image specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, what everybody uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon of a digest.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// The digest of some content, `algorithm:hex`
/// ([descriptor specification](https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests)).
///
/// ```
/// use image_layers::Digest;
/// let digest = Digest::sha256(b"hello");
/// assert_eq!(digest.to_string().parse::<Digest>()?, digest);
/// assert!("sha256:../../etc/passwd".parse::<Digest>().is_err());
/// # Ok::<(), image_layers::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// The SHA-256 digest of `content`.
    pub fn sha256(content: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, content)
    }

    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Digest {
        let mut digester = Digester::new(algorithm);
        digester.update(content);
        digester.finish()
    }

    /// Which algorithm it is of.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon: lower-case hex of the algorithm's exact length.
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(input: &str) -> Result<Digest> {
        let invalid = |reason| Error::InvalidDigest { input: input.chars().take(200).collect(), reason };
        let (name, hex) = input.split_once(':').ok_or_else(|| invalid("no algorithm"))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ if !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+._-".contains(&b)) =>
            {
                return Err(Error::UnsupportedAlgorithm { algorithm: name.chars().take(64).collect() });
            }
            _ => return Err(invalid("malformed algorithm")),
        };
        if hex.len() != algorithm.hex_len() {
            return Err(invalid("wrong length"));
        }
        if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(invalid("not lower-case hex"));
        }
        Ok(Digest { algorithm, hex: hex.into() })
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Digest, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] piece by piece, with the processor's own instructions where it has them.
#[derive(Clone)]
pub struct Digester(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Digester {
    /// Starts a digest.
    pub fn new(algorithm: Algorithm) -> Digester {
        Digester(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Adds content.
    pub fn update(&mut self, content: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(content),
            State::Sha512(hasher) => hasher.update(content),
        }
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        let (algorithm, bytes): (_, Vec<u8>) = match self.0 {
            State::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            State::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        let mut hex = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                hex.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Digest { algorithm, hex: hex.into() }
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

/// A reader that checks size and digest of what passes through it. The read that reaches the end, or goes past the
/// promised size, fails when they differ; the failure is an [`io::Error`] around an [`Error`].
#[derive(Debug)]
pub struct Verifier<R> {
    inner: R,
    what: String,
    digester: Option<Digester>,
    expected: Digest,
    size: u64,
    seen: u64,
}

impl<R: Read> Verifier<R> {
    /// Checks that `inner` yields exactly `size` bytes with the digest `expected`; `what` names it in errors.
    pub fn new(inner: R, what: impl Into<String>, expected: Digest, size: u64) -> Verifier<R> {
        let digester = Some(Digester::new(expected.algorithm()));
        Verifier { inner, what: what.into(), digester, expected, size, seen: 0 }
    }
}

impl<R: Read> Read for Verifier<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buffer)?;
        self.seen += n as u64;
        if self.seen > self.size || (n == 0 && self.seen < self.size) {
            return Err(io::Error::other(Error::SizeMismatch {
                what: self.what.clone(),
                expected: self.size,
                actual: self.seen,
            }));
        }
        if n > 0 {
            if let Some(digester) = &mut self.digester {
                digester.update(&buffer[..n]);
            }
        } else if let Some(digester) = self.digester.take() {
            let actual = digester.finish();
            if actual != self.expected {
                return Err(io::Error::other(Error::DigestMismatch {
                    what: self.what.clone(),
                    expected: self.expected.clone(),
                    actual,
                }));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_values() {
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        let mut digester = Digester::new(Algorithm::Sha512);
        digester.update(b"abc");
        assert!(digester.finish().to_string().starts_with("sha512:ddaf35a193617abacc417349ae204131"));
    }

    #[test]
    fn only_exact_digests_parse() {
        assert!(EMPTY.parse::<Digest>().is_ok());
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:abc",
            ":abc",
            "../x:abc",
            &EMPTY.to_uppercase(),
            &format!("{EMPTY}0"),
        ] {
            assert!(matches!(bad.parse::<Digest>(), Err(Error::InvalidDigest { .. })), "{bad}");
        }
        assert!(EMPTY.replace('e', "E").parse::<Digest>().is_err());
        assert!(matches!("md5:abc".parse::<Digest>(), Err(Error::UnsupportedAlgorithm { .. })));
    }

    fn class(result: io::Result<u64>) -> crate::Class {
        let error = result.unwrap_err();
        error.get_ref().and_then(|e| e.downcast_ref::<Error>()).unwrap().class()
    }

    #[test]
    fn verifier_checks_size_and_digest() {
        let content = b"some content".as_slice();
        let read = |digest, size| io::copy(&mut Verifier::new(content, "x", digest, size), &mut io::sink());
        assert_eq!(read(Digest::sha256(content), 12).unwrap(), 12);
        assert_eq!(class(read(Digest::sha256(b"other"), 12)), crate::Class::Digest);
        assert_eq!(class(read(Digest::sha256(content), 11)), crate::Class::Size);
        assert_eq!(class(read(Digest::sha256(content), 13)), crate::Class::Size);
    }
}
