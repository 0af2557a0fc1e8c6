//! Platforms: what an image is made for.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Operating system, processor architecture and its variant, in the words of Go (`linux`, `amd64`, `arm64/v8`...), as the
/// image specification has it.
///
/// ```
/// use image_layers::Platform;
/// let wanted: Platform = "linux/arm64".parse()?;
/// assert!(wanted.matches(&"linux/arm64/v8".parse()?)); // v8 is the default variant of arm64
/// assert!(!wanted.matches(&"linux/amd64".parse()?));
/// # Ok::<(), image_layers::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`, `windows`...
    pub os: String,
    /// `amd64`, `arm64`, `arm`...
    pub architecture: String,
    /// `v7`, `v8`..., where there are several.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program was compiled for.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether an image for `image` runs where `self` is wanted: the same system and architecture, and the same variant
    /// after defaults are filled in. For `arm` an older variant runs too.
    pub fn matches(&self, image: &Platform) -> bool {
        self.rank(image).is_some()
    }

    /// How far from the wish an image is: 0 exact, more for an older variant that runs too, `None` for one that does not.
    pub(crate) fn rank(&self, image: &Platform) -> Option<u32> {
        let (wanted, image) = (self.normalized(), image.normalized());
        if wanted.os != image.os || wanted.architecture != image.architecture {
            return None;
        }
        if wanted.variant == image.variant {
            return Some(0);
        }
        let number =
            |p: &Platform| p.variant.as_deref().and_then(|v| v.strip_prefix('v')?.parse::<u32>().ok());
        match (number(&wanted), number(&image)) {
            // arm v7 runs v6 and v5; amd64 v3 runs v2 and v1.
            (Some(w), Some(i)) if w > i && matches!(wanted.architecture.as_str(), "arm" | "amd64") => {
                Some(w - i)
            }
            _ => None,
        }
    }

    /// With the usual aliases and the default variant of the architecture filled in.
    fn normalized(&self) -> Platform {
        let os = match self.os.as_str() {
            "" => "linux".into(),
            "macos" => "darwin".into(),
            other => other.to_ascii_lowercase(),
        };
        let variant = self.variant.as_deref().filter(|v| !v.is_empty()).map(str::to_ascii_lowercase);
        let (architecture, variant) = match self.architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" | "amd64" => {
                ("amd64".to_owned(), Some(variant.unwrap_or_else(|| "v1".into())))
            }
            "i386" | "386" => ("386".into(), variant),
            "aarch64" | "arm64" => ("arm64".into(), Some(with_v(variant.unwrap_or_else(|| "v8".into())))),
            "armhf" => ("arm".into(), Some("v7".into())),
            "armel" => ("arm".into(), Some("v6".into())),
            "arm" => ("arm".into(), Some(with_v(variant.unwrap_or_else(|| "v7".into())))),
            other => (other.into(), variant),
        };
        Platform { os, architecture, variant }
    }
}

/// `8` is a spelling of `v8`.
fn with_v(variant: String) -> String {
    if variant.starts_with(|c: char| c.is_ascii_digit()) { format!("v{variant}") } else { variant }
}

impl Default for Platform {
    fn default() -> Self {
        Platform::host()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(input: &str) -> Result<Platform> {
        let parts: Vec<&str> = input.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(Error::InvalidPlatform { input: input.into() }),
        };
        let plain =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !(plain(os) && plain(architecture) && variant.is_none_or(plain)) {
            return Err(Error::InvalidPlatform { input: input.into() });
        }
        Ok(Platform { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Platform {
        s.parse().unwrap()
    }

    #[test]
    fn variants() {
        for (wanted, image, rank) in [
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/aarch64/8", "linux/arm64", Some(0)),
            ("linux/amd64", "linux/x86_64", Some(0)),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm", "linux/arm64", None),
            ("linux/amd64", "windows/amd64", None),
        ] {
            assert_eq!(p(wanted).rank(&p(image)), rank, "{wanted} {image}");
        }
    }

    #[test]
    fn text() {
        assert_eq!(p("linux/arm/v7").to_string(), "linux/arm/v7");
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
