//! The values of options: paths, numbers, switches, durations as Go writes them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::Failure;

pub fn path(p: &mut lexopt::Parser) -> Result<PathBuf, Failure> {
    Ok(PathBuf::from(p.value()?))
}

pub fn non_empty(path: PathBuf) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then_some(path)
}

pub fn text(p: &mut lexopt::Parser) -> Result<String, Failure> {
    utf8(p.value()?)
}

pub fn utf8(value: OsString) -> Result<String, Failure> {
    value.into_string().map_err(|value| Failure::usage(format!("not UTF-8: {}", value.to_string_lossy())))
}

pub fn number(p: &mut lexopt::Parser, what: &str) -> Result<u32, Failure> {
    let value = text(p)?;
    value.parse().map_err(|_| Failure::usage(format!("invalid value {value:?} for --{what}")))
}

/// A switch, which Go's clients may write `--debug=false`.
pub fn flag(p: &mut lexopt::Parser) -> Result<bool, Failure> {
    match p.optional_value() {
        None => Ok(true),
        Some(value) if value == "true" || value == "1" => Ok(true),
        Some(value) if value == "false" || value == "0" => Ok(false),
        Some(value) => {
            Err(Failure::usage(format!("invalid value {:?} for a switch", value.to_string_lossy())))
        }
    }
}

/// Whether the value is `second`; it must be that or `first`.
pub fn choice(p: &mut lexopt::Parser, what: &str, first: &str, second: &str) -> Result<bool, Failure> {
    let value = text(p)?;
    if value == first || value == second {
        return Ok(value == second);
    }
    Err(Failure::usage(format!("invalid {what} {value:?}: it must be {first:?} or {second:?}")))
}

/// A duration as Go writes it: `5s`, `100ms`, `1m30s`; a bare number means seconds.
pub fn duration(text: &str) -> Result<Duration, Failure> {
    let wrong = || Failure::usage(format!("invalid duration {text:?}: write it like 5s, 100ms or 1m30s"));
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let value: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        total += value
            * match &rest[digits..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" | "" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(wrong()),
            };
        rest = &rest[unit_end..];
    }
    match Duration::try_from_secs_f64(total) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        assert_eq!(duration("100ms").unwrap(), Duration::from_millis(100));
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("5").unwrap(), Duration::from_secs(5));
        for wrong in ["", "0s", "-1s", "5x", "s", "1..2s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
