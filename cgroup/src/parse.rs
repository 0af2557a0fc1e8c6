//! Parsers of the kernel's figures. All take text and none can panic; what is not there is `None` or left out, since every
//! kernel version adds fields. Fuzzed as a whole through [`crate::fuzzing`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::{DeviceNumber, Max};
use crate::stats::{IoDevice, Pressure, PressureAverages};

/// A file with one number.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A file with one number or `max`. v1 has no word for unlimited: it is the largest multiple of the page size.
pub(crate) fn max(text: &str) -> Option<Max> {
    const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;
    match text.trim() {
        "max" | "-1" => Some(Max::Unlimited),
        text => {
            text.parse().ok().map(|value| if value >= V1_UNLIMITED { Max::Unlimited } else { Max::At(value) })
        }
    }
}

/// Calls `each` for every `key value` line of a flat keyed file.
pub(crate) fn flat<'t>(text: &'t str, mut each: impl FnMut(&'t str, u64)) {
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(' ')
            && let Ok(value) = value.trim().parse()
        {
            each(key, value);
        }
    }
}

/// One field of a flat keyed file.
pub(crate) fn field(text: &str, wanted: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(' ')?.trim().parse().ok())
}

/// v1 `cpuacct.usage_all`: a header, then `cpu user system` a CPU, in nanoseconds. The sums of user and system.
pub(crate) fn usage_all(text: &str) -> Option<(Duration, Duration)> {
    let mut lines = text.lines();
    if lines.next()? != "cpu user system" {
        return None;
    }
    let mut sums = (Duration::ZERO, Duration::ZERO);
    for line in lines {
        let mut figures = line.split(' ').skip(1).map(|word| word.parse().ok().map(Duration::from_nanos));
        sums.0 = sums.0.checked_add(figures.next()??)?;
        sums.1 = sums.1.checked_add(figures.next()??)?;
    }
    Some(sums)
}

/// A pressure file (Documentation/accounting/psi.rst). `None` when it has no `some` line.
pub(crate) fn pressure(text: &str) -> Option<Pressure> {
    let averages = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        Some(PressureAverages {
            avg10: value("avg10")?.parse().ok()?,
            avg60: value("avg60")?.parse().ok()?,
            avg300: value("avg300")?.parse().ok()?,
            total: Duration::from_micros(value("total")?.parse().ok()?),
        })
    };
    // CPU has no "full" line before 5.13.
    Some(Pressure { some: averages("some")?, full: averages("full") })
}

fn device(text: &str) -> Option<DeviceNumber> {
    let (major, minor) = text.split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// v2 `io.stat`: `8:0 rbytes=1 wbytes=2 ...` a device.
pub(crate) fn io_stat(text: &str) -> BTreeMap<DeviceNumber, IoDevice> {
    let mut devices = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().peekable();
        // A device without figures shares its line with the next one on some kernels.
        while words.peek().is_some_and(|word| device(word).is_none()) {
            words.next();
        }
        let mut current = None;
        for word in words {
            if let Some(number) = device(word) {
                current = Some(number);
                continue;
            }
            let (Some(number), Some((key, value))) = (current, word.split_once('=')) else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            let figures: &mut IoDevice = devices.entry(number).or_default();
            let field = match key {
                "rbytes" => &mut figures.read_bytes,
                "wbytes" => &mut figures.write_bytes,
                "rios" => &mut figures.read_operations,
                "wios" => &mut figures.write_operations,
                "dbytes" => &mut figures.discard_bytes,
                "dios" => &mut figures.discard_operations,
                _ => continue,
            };
            *field = Some(value);
        }
    }
    devices
}

/// Which figure a word such as `Read` stands for.
pub(crate) type BlkioField = for<'d> fn(&'d mut IoDevice, &str) -> Option<&'d mut Option<u64>>;

/// v1 `blkio.throttle.io_service_bytes` and `io_serviced`: `8:0 Read 1` lines and a last `Total 3`.
pub(crate) fn blkio_stat(text: &str, devices: &mut BTreeMap<DeviceNumber, IoDevice>, field: BlkioField) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(number), Some(operation), Some(value)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (Some(number), Ok(value)) = (device(number), value.parse()) else { continue };
        if let Some(field) = field(devices.entry(number).or_default(), operation) {
            *field = Some(value);
        }
    }
}

/// `rdma.current`: `mlx4_0 hca_handle=2 hca_object=2000` a device.
pub(crate) fn nested(text: &str) -> BTreeMap<String, BTreeMap<String, u64>> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let pair = |word: &str| -> Option<(String, u64)> {
            let (key, value) = word.split_once('=')?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        Some((name, words.filter_map(pair).collect()))
    };
    text.lines().filter_map(line).collect()
}

/// Process ids, one a line. A process of an outer pid namespace shows as 0 and is left out.
pub(crate) fn pids(text: &str, into: &mut Vec<u32>) {
    into.extend(text.lines().filter_map(|line| line.trim().parse::<u32>().ok()).filter(|pid| *pid != 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number("42\n"), Some(42));
        assert_eq!(number("-1"), None);
        assert_eq!(max("max\n"), Some(Max::Unlimited));
        assert_eq!(max("9223372036854771712\n"), Some(Max::Unlimited));
        assert_eq!(max("1048576"), Some(Max::At(1 << 20)));
        assert_eq!(max(""), None);
        assert_eq!(field("oom 1\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), None);
    }

    #[test]
    fn per_cpu_usage() {
        let sums = Some((Duration::from_nanos(13), Duration::from_nanos(4)));
        assert_eq!(usage_all("cpu user system\n0 10 4\n1 3 0\n"), sums);
        for text in ["", "0 1 2\n", "cpu user system\n0 1\n", "cpu user system\n0 1 -2\n"] {
            assert_eq!(usage_all(text), None, "{text}");
        }
    }

    #[test]
    fn pressure_lines() {
        let text = "some avg10=1.50 avg60=0.02 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = pressure(text).unwrap();
        assert_eq!((pressure.some.avg10, pressure.some.total.as_micros()), (1.5, 12));
        assert_eq!(pressure.full.unwrap().total.as_micros(), 3);
        assert!(super::pressure("some avg10=x").is_none());
        assert!(super::pressure("").is_none());
    }

    #[test]
    fn io_lines() {
        let text = "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n7:0 8:0 rbytes=1\nx y=1\n";
        let devices = io_stat(text);
        assert_eq!(devices.len(), 2);
        assert_eq!(devices[&DeviceNumber { major: 8, minor: 16 }].write_bytes, Some(314_773_504));
        assert_eq!(devices[&DeviceNumber { major: 8, minor: 0 }].read_bytes, Some(1));

        let mut devices = BTreeMap::new();
        blkio_stat(
            "8:0 Read 4096\n8:0 Write 1\n8:0 Total 4097\nTotal 4097\n",
            &mut devices,
            |figures, word| match word {
                "Read" => Some(&mut figures.read_bytes),
                "Write" => Some(&mut figures.write_bytes),
                _ => None,
            },
        );
        let disk = devices[&DeviceNumber { major: 8, minor: 0 }];
        assert_eq!((disk.read_bytes, disk.write_bytes), (Some(4096), Some(1)));
    }

    #[test]
    fn lists() {
        let mut into = Vec::new();
        pids("1\n0\n77\n", &mut into);
        assert_eq!(into, [1, 77]);
        assert_eq!(nested("mlx4_0 hca_handle=2 hca_object=max\n")["mlx4_0"]["hca_handle"], 2);
    }
}
