//! Limits that no kernel accepts, said in words before the kernel says EINVAL.

use crate::controller::Controller;
use crate::error::{Error, Result};
use crate::limits::{CpuWeight, IoWeight, Limits, Max};

impl Limits {
    pub(crate) fn check(&self, controller: Controller) -> Result<()> {
        match controller {
            Controller::Cpu => self.check_cpu(),
            Controller::Cpuset => {
                check_list("cpuset.cpus", self.cpuset.cpus.as_deref())?;
                check_list("cpuset.mems", self.cpuset.mems.as_deref())
            }
            Controller::Memory => match self.memory.swappiness {
                Some(value) if value > 200 => Err(invalid(
                    "memory.swappiness",
                    value,
                    "it must be from 0 to 100 (200 since kernel 5.8)",
                )),
                _ => Ok(()),
            },
            Controller::Blkio => {
                let weights = self.io.weight.iter().chain(self.io.device_weight.values());
                { weights }.try_for_each(|weight| match *weight {
                    IoWeight::Weight(weight) if !(1..=10_000).contains(&weight) => {
                        Err(invalid("io.weight", weight, "it must be from 1 to 10000"))
                    }
                    IoWeight::Blkio(weight) if !(10..=1000).contains(&weight) => {
                        Err(invalid("io.weight", weight, "a blkio weight must be from 10 to 1000"))
                    }
                    _ => Ok(()),
                })
            }
            Controller::Hugetlb => check_names("hugetlb", self.hugetlb.keys()),
            Controller::Rdma => check_names("rdma", self.rdma.keys()),
            Controller::Misc => check_names("misc", self.misc.keys()),
            Controller::NetPrio => check_names("network.priorities", self.network.priorities.keys()),
            _ => Ok(()),
        }
    }

    fn check_cpu(&self) -> Result<()> {
        let cpu = &self.cpu;
        if let Some(period) = cpu.period
            && !(1000..=1_000_000).contains(&period)
        {
            return Err(invalid("cpu.period", period, "it must be from 1000 to 1000000 microseconds"));
        }
        match (cpu.quota, cpu.burst) {
            (Some(Max::At(quota)), _) if quota < 1000 => {
                Err(invalid("cpu.quota", quota, "it must be at least 1000 microseconds"))
            }
            (Some(Max::At(quota)), Some(burst)) if burst > quota => {
                Err(invalid("cpu.burst", burst, "it must not be more than the quota"))
            }
            _ => match cpu.weight {
                Some(CpuWeight::Weight(weight)) if !(1..=10_000).contains(&weight) => {
                    Err(invalid("cpu.weight", weight, "it must be from 1 to 10000"))
                }
                _ => Ok(()),
            },
        }
    }

    /// Whether `controller` is needed by a typed limit, and not only named by a raw entry.
    pub(crate) fn needs(&self, controller: Controller) -> bool {
        self.unified.is_empty()
            || Self { unified: Default::default(), ..self.clone() }.controllers().contains(controller)
    }
}

fn invalid(limit: &'static str, value: impl ToString, reason: &'static str) -> Error {
    Error::InvalidLimit { limit, value: value.to_string(), reason }
}

/// A list like `0-3,7`. Whether the numbers exist is for the kernel to say.
fn check_list(limit: &'static str, list: Option<&str>) -> Result<()> {
    let Some(list) = list else { return Ok(()) };
    let is_number =
        |text: &str| !text.is_empty() && text.len() < 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_range = |range: &str| match range.split_once('-') {
        Some((first, last)) => is_number(first) && is_number(last),
        None => is_number(range),
    };
    // An empty list means the parent's on v2 and is refused by v1; it ends with a newline where read from a file.
    let list = list.trim();
    if list.is_empty() || list.split(',').all(|range| is_range(range.trim())) {
        Ok(())
    } else {
        Err(invalid(limit, list, "it must be a list of numbers and ranges, such as 0-3,7"))
    }
}

/// Names that become part of a file name or of a line.
fn check_names<'n>(limit: &'static str, mut names: impl Iterator<Item = &'n String>) -> Result<()> {
    let bad = |name: &&String| {
        name.is_empty()
            || name.contains(['/', ' ', '='])
            || name.chars().any(char::is_control)
            || name.len() > 64
    };
    match names.find(bad) {
        Some(name) => Err(invalid(limit, name, "it is no name of a resource")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range() {
        let bad = [
            (Controller::Cpu, Limits::new().cpus(0.001)),
            (Controller::Cpu, Limits::new().cpus(f64::NAN)),
            (Controller::Cpu, Limits::new().cpus(-1.0)),
            (Controller::Cpu, Limits::new().cpu_weight(0)),
            (Controller::Cpu, Limits::new().cpu_weight(10_001)),
            (Controller::Cpuset, Limits::new().cpuset_cpus("0-")),
            (Controller::Cpuset, Limits::new().cpuset_mems("all")),
        ];
        for (controller, limits) in bad {
            assert!(matches!(limits.check(controller), Err(Error::InvalidLimit { .. })), "{limits:?}");
        }
        let mut limits = Limits::new().cpus(1.0);
        limits.cpu.burst = Some(100_001);
        assert!(limits.check(Controller::Cpu).is_err());
        limits.hugetlb.insert("../x".to_owned(), Default::default());
        assert!(limits.check(Controller::Hugetlb).is_err());
        let fine = Limits::new().cpus(0.5).cpuset_cpus("0-1,3").cpuset_mems("0");
        assert!(Controller::ALL.iter().all(|controller| fine.check(*controller).is_ok()));
    }
}
