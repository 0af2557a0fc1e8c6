//! Every parser of this crate behind one door, for the fuzz target and the property tests. Not part of the public interface.

use std::collections::BTreeMap;

use crate::limits::{DeviceNumber, Limits};
use crate::{cpu_time, parse, proc};

/// Runs every parser over `text`. None may panic; what they return is dropped.
pub fn parse_all(text: &str) {
    for mount in proc::mounts(text) {
        let _ = proc::path_below_mount(&mount, &proc::memberships(text));
    }
    let _ = proc::release(text);
    let _ = parse::number(text);
    let _ = parse::max(text);
    let _ = parse::field(text, "oom_kill");
    let _ = parse::pressure(text);
    let _ = parse::usage_all(text);
    let _ = parse::io_stat(text);
    let _ = parse::nested(text);
    parse::flat(text, |_, _| {});
    parse::blkio_stat(text, &mut BTreeMap::<DeviceNumber, _>::new(), |figures, _| {
        Some(&mut figures.read_bytes)
    });
    parse::pids(text, &mut Vec::new());
    let _ = cpu_time::count_list(text);
    if let Ok(path) = crate::CgroupPath::new(text) {
        let again = crate::CgroupPath::new(path.to_string());
        assert_eq!(again.ok().as_ref(), Some(&path), "the normal form is stable");
    }
    if let Some(access) = crate::Access::from_letters(text) {
        assert_eq!(crate::Access::from_letters(&access.to_string()), Some(access));
    }
    let limits = Limits::new().cpuset_cpus(text).cpuset_mems(text).unified(text, text);
    for controller in limits.controllers().iter() {
        let _ = limits.check(controller);
    }
    #[cfg(feature = "systemd")]
    {
        let _ = crate::systemd::ScopeName::new(text);
        let _ = crate::systemd::ScopeName::from_oci(text);
        crate::systemd::fuzzing(&limits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert;
    use crate::devices::{Access, DeviceKind, DeviceRule};
    use crate::limits::Max;

    /// Text like the kernel's, with everything that could be wrong about it.
    fn kernel_text() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            Just("some".to_owned()),
            Just("full".to_owned()),
            Just("max".to_owned()),
            Just("cgroup2".to_owned()),
            Just("cgroup".to_owned()),
            Just("-".to_owned()),
            Just("0::/".to_owned()),
            Just("Total".to_owned()),
            Just("oom_kill".to_owned()),
            Just("\\040\\1".to_owned()),
            any::<u64>().prop_map(|number| number.to_string()),
            any::<i64>().prop_map(|number| format!("total={number}")),
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| format!("{major}:{minor}")),
            "[a-z.]{0,8}=[0-9.]{0,22}",
            "[0-9,-]{0,12}",
            "\\PC{0,6}",
        ];
        let gap = prop_oneof![Just(" "), Just("\n"), Just(","), Just(":"), Just(""), Just("\t"), Just("/")];
        proptest::collection::vec((word, gap), 0..40)
            .prop_map(|words| words.into_iter().map(|(word, gap)| word + gap).collect())
    }

    fn rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop_oneof![Just(DeviceKind::All), Just(DeviceKind::Char), Just(DeviceKind::Block)];
        let number = || prop_oneof![Just(None), (0..3u32).prop_map(Some)];
        let letters = prop_oneof![Just("r"), Just("w"), Just("m"), Just("rw"), Just("rwm")];
        (any::<bool>(), kind, number(), number(), letters).prop_map(|(allow, kind, major, minor, letters)| {
            DeviceRule {
                allow,
                kind,
                major,
                minor,
                access: Access::from_letters(letters).unwrap_or_default(),
            }
        })
    }

    /// What the kernel's v1 device controller decides after the writes, by its own rules: an access is an exception when one
    /// entry covers it whole (among "allow") or touches it (among "deny").
    fn v1_decides(writes: &[(&str, String)], kind: char, wanted: Access, major: u32, minor: u32) -> bool {
        let mut allow = true;
        let mut exceptions: Vec<(char, String, String, Access)> = Vec::new();
        for (file, line) in writes {
            if line == "a" {
                allow = *file == "devices.allow";
                exceptions.clear();
                continue;
            }
            let words: Vec<&str> = line.split([' ', ':']).collect();
            let access = Access::from_letters(words[3]).unwrap();
            exceptions.push((
                words[0].chars().next().unwrap(),
                words[1].to_owned(),
                words[2].to_owned(),
                access,
            ));
        }
        let is = |text: &str, number: u32| text == "*" || text == number.to_string();
        let mut about = exceptions.iter().filter(|(k, a, b, _)| *k == kind && is(a, major) && is(b, minor));
        if allow {
            !about.any(|(.., access)| access.without(wanted) != *access)
        } else {
            about.any(|(.., access)| access.contains(wanted))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_parser_panics(text in kernel_text()) {
            parse_all(&text);
        }

        #[test]
        fn no_parser_panics_at_noise(text in any::<String>()) {
            parse_all(&text);
        }

        #[test]
        fn numbers_come_back(value in 0..0x7fff_ffff_ffff_0000u64) {
            prop_assert_eq!(parse::number(&format!("{value}\n")), Some(value));
            prop_assert_eq!(parse::max(&format!("{value}\n")), Some(Max::At(value)));
            prop_assert_eq!(parse::field(&format!("a {value}\nab 1\n"), "a"), Some(value));
        }

        #[test]
        fn io_figures_come_back(major in any::<u32>(), minor in any::<u32>(), read in any::<u64>(), write in any::<u64>()) {
            let device = DeviceNumber { major, minor };
            let text = format!("{device} rbytes={read} wbytes={write} rios=1 wios=2 dbytes=0 dios=0\n");
            let figures = parse::io_stat(&text)[&device];
            prop_assert_eq!((figures.read_bytes, figures.write_bytes), (Some(read), Some(write)));
        }

        #[test]
        fn weights_keep_their_order(one in any::<u64>(), other in any::<u64>()) {
            let (low, high) = (one.min(other), one.max(other));
            prop_assert!(convert::shares_to_weight(low) <= convert::shares_to_weight(high));
            prop_assert!(convert::weight_to_shares(low) <= convert::weight_to_shares(high));
            prop_assert!(convert::blkio_to_io_weight(low) <= convert::blkio_to_io_weight(high));
            prop_assert!(convert::io_to_blkio_weight(low) <= convert::io_to_blkio_weight(high));
        }

        /// v1 either decides as the rules say or says that it cannot.
        #[test]
        fn device_rules_mean_the_same_on_v1(rules in proptest::collection::vec(rule(), 0..6)) {
            let Ok(writes) = crate::devices::v1_writes(&rules) else { return Ok(()) };
            for (kind, kind_letter) in [(DeviceKind::Char, 'c'), (DeviceKind::Block, 'b')] {
                for (major, minor) in [(0, 0), (0, 1), (1, 0), (2, 2), (7, 7)] {
                    for letters in ["r", "w", "m", "rw"] {
                        let wanted = Access::from_letters(letters).unwrap_or_default();
                        let mut allowed = Access::NONE;
                        for rule in &rules {
                            let is_kind = rule.kind == DeviceKind::All || rule.kind == kind;
                            let is_node = rule.major.is_none_or(|own| own == major) && rule.minor.is_none_or(|own| own == minor);
                            if is_kind && is_node {
                                allowed = if rule.allow { allowed | rule.access } else { allowed.without(rule.access) };
                            }
                        }
                        let got = v1_decides(&writes, kind_letter, wanted, major, minor);
                        prop_assert_eq!(got, allowed.contains(wanted), "{:?} {} {}:{} {}", writes, kind_letter, major, minor, letters);
                    }
                }
            }
        }
    }
}
