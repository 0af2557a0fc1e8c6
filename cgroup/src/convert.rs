//! Every conversion between the scales of v1 (which the OCI runtime specification uses) and v2, in one table:
//!
//! | v1 | v2 | rule |
//! |---|---|---|
//! | `cpu.shares` 2..262144, default 1024 | `cpu.weight` 1..10000, default 100 | curve through minimum, default and maximum |
//! | `blkio.weight` 10..1000 | `io.weight` 1..10000 | linear: `1 + (w - 10) * 9999 / 990` |
//! | `memory.memsw.limit_in_bytes` counts memory and swap | `memory.swap.max` counts swap | difference to the memory limit |
//! | `-1` is no limit | `max` is no limit | [`v1_number`] |
//!
//! The curve for CPU shares is the one crun 1.23 and runc 1.4 introduced; the older linear rule gave a container with
//! default shares 39 of 100.

use crate::error::{Error, Result};
use crate::limits::{CpuWeight, IoWeight, Max, Swap};

const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
const WEIGHT: std::ops::RangeInclusive<u64> = 1..=10_000;
const BLKIO: std::ops::RangeInclusive<u64> = 10..=1000;

/// v1 shares as v2 weight. Values out of range are moved to its ends, as the v1 file does.
pub(crate) fn shares_to_weight(shares: u64) -> u64 {
    if shares <= *SHARES.start() {
        return *WEIGHT.start();
    }
    if shares >= *SHARES.end() {
        return *WEIGHT.end();
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

/// v2 weight as v1 shares: the most that converts back to at most that weight.
pub(crate) fn weight_to_shares(weight: u64) -> u64 {
    let (mut low, mut high) = (*SHARES.start(), *SHARES.end());
    while low < high {
        let middle = (low + high).div_ceil(2);
        if shares_to_weight(middle) <= weight { low = middle } else { high = middle - 1 }
    }
    low
}

/// v1 block weight as v2 weight.
pub(crate) fn blkio_to_io_weight(weight: u64) -> u64 {
    1 + (weight.clamp(*BLKIO.start(), *BLKIO.end()) - 10) * 9999 / 990
}

/// v2 weight as v1 block weight, rounded so that converting back and forth is stable.
pub(crate) fn io_to_blkio_weight(weight: u64) -> u64 {
    10 + ((weight.clamp(*WEIGHT.start(), *WEIGHT.end()) - 1) * 990).div_ceil(9999)
}

impl CpuWeight {
    /// The weight in the v2 scale.
    #[must_use]
    pub fn as_weight(self) -> u64 {
        match self {
            Self::Weight(weight) => weight,
            Self::Shares(shares) => shares_to_weight(shares),
        }
    }

    /// The weight in the v1 scale.
    #[must_use]
    pub fn as_shares(self) -> u64 {
        match self {
            Self::Weight(weight) => weight_to_shares(weight),
            Self::Shares(shares) => shares,
        }
    }
}

impl IoWeight {
    /// The weight in the v2 scale.
    #[must_use]
    pub fn as_weight(self) -> u64 {
        match self {
            Self::Weight(weight) => weight,
            Self::Blkio(weight) => blkio_to_io_weight(weight.into()),
        }
    }

    /// The weight in the v1 scale.
    #[must_use]
    pub fn as_blkio(self) -> u64 {
        match self {
            Self::Weight(weight) => io_to_blkio_weight(weight),
            Self::Blkio(weight) => weight.into(),
        }
    }
}

/// A bound as the v1 files write it.
pub(crate) fn v1_number(max: Max) -> String {
    match max {
        Max::Unlimited => "-1".to_owned(),
        Max::At(value) => value.to_string(),
    }
}

/// The bound of memory and swap together that v1 takes, `None` for "leave it". `memory` is the limit set at the same time,
/// or the present one when that is not changed.
pub(crate) fn swap_total(memory: Option<Max>, swap: Option<Swap>) -> Result<Option<Max>> {
    match (memory, swap) {
        // Without this, memory would stay limited by the old total.
        (Some(Max::Unlimited), None) => Ok(Some(Max::Unlimited)),
        (_, None) => Ok(None),
        (_, Some(Swap::Total(Max::Unlimited) | Swap::Only(Max::Unlimited))) => Ok(Some(Max::Unlimited)),
        (Some(Max::At(memory)), Some(Swap::Total(Max::At(total)))) if total < memory => Err(below(total)),
        (_, Some(Swap::Total(total))) => Ok(Some(total)),
        (Some(Max::At(memory)), Some(Swap::Only(Max::At(swap)))) => {
            Ok(Some(Max::At(memory.saturating_add(swap))))
        }
        (_, Some(Swap::Only(Max::At(swap)))) => Err(needs_memory(swap)),
    }
}

/// The bound of swap alone that v2 takes, `None` for "leave it".
pub(crate) fn swap_only(memory: Option<Max>, swap: Option<Swap>) -> Result<Option<Max>> {
    match (memory, swap) {
        // The same request as on v1, where unlimited memory drags the total along.
        (Some(Max::Unlimited), None) => Ok(Some(Max::Unlimited)),
        (_, None) => Ok(None),
        (_, Some(Swap::Only(swap))) => Ok(Some(swap)),
        (_, Some(Swap::Total(Max::Unlimited))) => Ok(Some(Max::Unlimited)),
        (Some(Max::At(memory)), Some(Swap::Total(Max::At(total)))) => {
            total.checked_sub(memory).map(|swap| Some(Max::At(swap))).ok_or_else(|| below(total))
        }
        (Some(Max::Unlimited), Some(Swap::Total(total))) => Ok(Some(total)),
        (None, Some(Swap::Total(Max::At(total)))) => Err(needs_memory(total)),
    }
}

fn below(total: u64) -> Error {
    Error::InvalidLimit {
        limit: "memory.swap",
        value: total.to_string(),
        reason: "memory and swap together must be at least the memory limit",
    }
}

fn needs_memory(value: u64) -> Error {
    Error::InvalidLimit {
        limit: "memory.swap",
        value: value.to_string(),
        reason: "it can only be converted to this cgroup version together with a memory limit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Max::{At, Unlimited};
    use Swap::{Only, Total};

    #[test]
    fn cpu_weight() {
        // The last column is what the published rule gives for OCI conformance (22000) and the defaults.
        let table =
            [(0, 1), (1, 1), (2, 1), (100, 17), (1024, 100), (3333, 256), (22_000, 1204), (262_144, 10_000)];
        for (shares, weight) in table {
            assert_eq!(shares_to_weight(shares), weight, "{shares}");
        }
        assert_eq!(shares_to_weight(u64::MAX), 10_000);
        for weight in 1..=10_000 {
            let shares = weight_to_shares(weight);
            assert!(SHARES.contains(&shares));
            assert!(shares_to_weight(shares) <= weight);
            assert!(shares == 262_144 || shares_to_weight(shares + 1) > weight);
        }
        for weight in [1, 100, 10_000] {
            assert_eq!(shares_to_weight(weight_to_shares(weight)), weight);
        }
    }

    #[test]
    fn io_weight() {
        for (blkio, io) in [(10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(blkio_to_io_weight(blkio), io);
        }
        for blkio in 10..=1000 {
            assert_eq!(io_to_blkio_weight(blkio_to_io_weight(blkio)), blkio);
        }
    }

    #[test]
    fn swap() {
        // memory, swap -> total (v1), only (v2); Err where the version cannot be told
        let table = [
            (None, None, Some(None), Some(None)),
            (Some(At(10)), None, Some(None), Some(None)),
            (Some(Unlimited), None, Some(Some(Unlimited)), Some(Some(Unlimited))),
            (Some(At(10)), Some(Total(At(30))), Some(Some(At(30))), Some(Some(At(20)))),
            (Some(At(10)), Some(Total(At(10))), Some(Some(At(10))), Some(Some(At(0)))),
            (Some(At(10)), Some(Total(At(9))), None, None),
            (Some(At(10)), Some(Only(At(5))), Some(Some(At(15))), Some(Some(At(5)))),
            (Some(At(10)), Some(Only(Unlimited)), Some(Some(Unlimited)), Some(Some(Unlimited))),
            (Some(At(10)), Some(Total(Unlimited)), Some(Some(Unlimited)), Some(Some(Unlimited))),
            (None, Some(Total(At(30))), Some(Some(At(30))), None),
            (None, Some(Only(At(5))), None, Some(Some(At(5)))),
            (Some(Unlimited), Some(Total(At(30))), Some(Some(At(30))), Some(Some(At(30)))),
            (Some(At(u64::MAX)), Some(Only(At(5))), Some(Some(At(u64::MAX))), Some(Some(At(5)))),
        ];
        for (memory, swap, total, only) in table {
            assert_eq!(swap_total(memory, swap).ok(), total, "{memory:?} {swap:?}");
            assert_eq!(swap_only(memory, swap).ok(), only, "{memory:?} {swap:?}");
        }
    }
}
