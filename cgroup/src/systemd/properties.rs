//! Limits as systemd's unit properties (org.freedesktop.systemd1(5), systemd.resource-control(5)).

use zbus::Variant;

use crate::convert::swap_only;
use crate::limits::{Limits, Max};

pub(super) type Properties = Vec<(String, Variant<'static>)>;

/// The properties that say what `limits` say. What systemd has no property for is left to the group's files, as is everything
/// that they refuse: the answer of the kernel is better than systemd's.
pub(super) fn of(limits: &Limits) -> Properties {
    let mut properties = Properties::new();
    let mut add = |name: &str, value: Variant<'static>| properties.push((name.to_owned(), value));
    let memory = &limits.memory;
    for (name, max) in [
        ("MemoryMin", memory.min),
        ("MemoryLow", memory.low),
        ("MemoryHigh", memory.high),
        ("MemoryMax", memory.max),
        ("MemorySwapMax", swap_only(memory.max, memory.swap).ok().flatten()),
        ("TasksMax", limits.pids),
    ] {
        if let Some(max) = max {
            add(name, number(max).into());
        }
    }
    let cpu = &limits.cpu;
    if let Some(period) = cpu.period {
        add("CPUQuotaPeriodUSec", period.into());
    }
    match cpu.quota {
        None => {}
        Some(Max::Unlimited) => add("CPUQuotaPerSecUSec", u64::MAX.into()),
        Some(Max::At(quota)) => {
            let per_second = u128::from(quota) * 1_000_000 / u128::from(cpu.period.unwrap_or(100_000).max(1));
            add("CPUQuotaPerSecUSec", u64::try_from(per_second).unwrap_or(u64::MAX).into());
        }
    }
    if let Some(weight) = cpu.weight {
        add("CPUWeight", weight.as_weight().into());
    }
    if let Some(weight) = limits.io.weight {
        add("IOWeight", weight.as_weight().into());
    }
    for (name, list) in [("AllowedCPUs", &limits.cpuset.cpus), ("AllowedMemoryNodes", &limits.cpuset.mems)] {
        if let Some(mask) = list.as_deref().and_then(mask) {
            add(name, mask.into());
        }
    }
    properties
}

/// systemd says "infinity" with the largest number.
fn number(max: Max) -> u64 {
    match max {
        Max::Unlimited => u64::MAX,
        Max::At(value) => value,
    }
}

/// A list such as `0-3,7` as a bit mask, lowest number first; `None` for what is no list of numbers below 8192, the most
/// CPUs a kernel can have.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.trim().is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= 8192 {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|number| mask[number / 8] |= 1 << (number % 8));
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_systemds_words() {
        let limits =
            Limits::new().memory(1 << 20).swap(7).cpus(1.5).pids(Max::Unlimited).cpuset_cpus("0-1,9");
        let text: Vec<_> = of(&limits).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let want = [
            "MemoryMax=uint64 1048576",
            "MemorySwapMax=uint64 7",
            "TasksMax=uint64 18446744073709551615",
            "CPUQuotaPeriodUSec=uint64 100000",
            "CPUQuotaPerSecUSec=uint64 1500000",
        ];
        assert_eq!(text[..5], want);
        assert_eq!(mask("0-1,9").unwrap(), [3, 2]);
        assert_eq!(mask("x"), None);
        assert_eq!(mask("5-2"), None);
        assert_eq!(mask("99999999"), None);
    }
}
