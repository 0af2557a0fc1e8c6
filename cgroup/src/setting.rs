//! A limit in the form the kernel takes it: a value for a file.

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::controller::Controller;
use crate::dir::Dir;
use crate::error::Error;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: Controller,
    pub(crate) file: Cow<'static, str>,
    pub(crate) value: String,
}

/// The settings of one controller, collected in the order they are to be written.
#[derive(Debug)]
pub(crate) struct Settings {
    controller: Controller,
    list: Vec<Setting>,
}

impl Settings {
    pub(crate) fn of(controller: Controller) -> Self {
        Self { controller, list: Vec::new() }
    }

    pub(crate) fn add(&mut self, file: impl Into<Cow<'static, str>>, value: impl ToString) {
        self.list.push(Setting { controller: self.controller, file: file.into(), value: value.to_string() });
    }

    /// Writes all of them; what the kernel refuses goes to `refused`.
    ///
    /// Some pairs only fit in one order, which depends on the values in force: raising a v1 memory limit above the limit of
    /// memory and swap needs the latter first, lowering needs it last; quota, period and burst are of the same kind. So what
    /// the kernel calls invalid waits until the others are written, as long as that makes progress. This asks for no present
    /// value and costs nothing when the first order fits.
    pub(crate) fn write(
        self,
        dir: &Dir,
        refused: &mut dyn FnMut(Error) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut waiting = self.list;
        loop {
            let before = waiting.len();
            let mut invalid = Vec::new();
            // Device rules go to one file, one a write.
            let mut open: Option<(Cow<'static, str>, OwnedFd)> = None;
            for setting in waiting {
                let file = match open.take().filter(|(name, _)| *name == setting.file) {
                    Some((_, file)) => Ok(file),
                    None => dir.open_file(&setting.file, OFlags::WRONLY),
                };
                let written = file.and_then(|file| {
                    rustix::io::retry_on_intr(|| rustix::io::write(&file, setting.value.as_bytes()))?;
                    open = Some((setting.file.clone(), file));
                    Ok(())
                });
                match written {
                    Ok(()) => {}
                    Err(Errno::INVAL) => invalid.push(setting),
                    Err(errno) => refused(setting.refused(dir, errno))?,
                }
            }
            if invalid.is_empty() {
                return Ok(());
            }
            if invalid.len() == before {
                return invalid.iter().try_for_each(|setting| refused(setting.refused(dir, Errno::INVAL)));
            }
            waiting = invalid;
        }
    }

    #[cfg(test)]
    pub(crate) fn lines(&self) -> Vec<String> {
        self.list.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
    }
}

impl Setting {
    pub(crate) fn refused(&self, dir: &Dir, errno: Errno) -> Error {
        Error::Limit {
            controller: self.controller,
            file: dir.path_of(&self.file),
            value: self.value.clone(),
            source: errno.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::Version;
    use crate::limits::{
        CpuWeight, DeviceNumber, HugetlbLimits, IoRates, IoWeight, Limits, Max, RdmaLimits, Swap,
    };

    /// A directory that has the given files, as the kernel's would.
    fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Dir) {
        let temporary = tempfile::tempdir().unwrap();
        for (file, text) in files {
            std::fs::write(temporary.path().join(file), text).unwrap();
        }
        let dir = Dir::open(temporary.path().to_owned()).unwrap();
        (temporary, dir)
    }

    fn lines(version: Version, controller: Controller, limits: &Limits, files: &[(&str, &str)]) -> String {
        let (_temporary, dir) = fake(files);
        let settings = match version {
            Version::V1 => crate::v1::limits::settings(controller, limits, &dir),
            Version::V2 => crate::v2::limits::settings(controller, limits, &dir),
        };
        settings.unwrap().lines().join("; ")
    }

    #[test]
    fn the_same_limits_on_both_versions() {
        use Controller::{Blkio, Cpu, Hugetlb, Memory, Pids, Rdma};
        let disk = DeviceNumber { major: 8, minor: 0 };
        let mut limits = Limits::new().memory(64).swap(32).cpus(1.5).pids(Max::Unlimited);
        limits.memory.low = Some(Max::At(16));
        limits.cpu.weight = Some(CpuWeight::Shares(1024));
        limits.cpu.idle = Some(true);
        limits.io.weight = Some(IoWeight::Blkio(500));
        limits.io.rates.insert(disk, IoRates::new().read_bps(Max::Unlimited).write_iops(7));
        limits.hugetlb.insert("2MB".to_owned(), HugetlbLimits::max(Max::At(5)));
        limits.rdma.insert("mlx".to_owned(), RdmaLimits::new(Some(Max::At(2)), Some(Max::Unlimited)));
        let table = [
            (
                Memory,
                "memory.limit_in_bytes=64; memory.memsw.limit_in_bytes=96; memory.soft_limit_in_bytes=16",
                "memory.low=16; memory.swap.max=32; memory.max=64",
            ),
            (
                Cpu,
                "cpu.cfs_period_us=100000; cpu.cfs_quota_us=150000; cpu.shares=1024; cpu.idle=1",
                "cpu.max=150000 100000; cpu.weight=100; cpu.idle=1",
            ),
            (Pids, "pids.max=max", "pids.max=max"),
            (
                Blkio,
                "blkio.weight=500; blkio.throttle.read_bps_device=8:0 0; blkio.throttle.write_iops_device=8:0 7",
                "io.weight=default 4950; io.max=8:0 rbps=max wiops=7",
            ),
            (Hugetlb, "hugetlb.2MB.limit_in_bytes=5", "hugetlb.2MB.max=5"),
            (Rdma, "rdma.max=mlx hca_handle=2 hca_object=max", "rdma.max=mlx hca_handle=2 hca_object=max"),
        ];
        for (controller, v1, v2) in table {
            assert_eq!(lines(Version::V1, controller, &limits, &[]), v1);
            assert_eq!(lines(Version::V2, controller, &limits, &[]), v2);
        }
    }

    #[test]
    fn what_is_there_decides_where_it_must() {
        let mut limits = Limits::new();
        limits.cpu.period = Some(50_000);
        let files = [("cpu.max", "20000 100000\n")];
        assert_eq!(lines(Version::V2, Controller::Cpu, &limits, &files), "cpu.max=20000 50000");

        let swap = Limits::new().swap(10);
        let files = [("memory.limit_in_bytes", "90\n")];
        assert_eq!(lines(Version::V1, Controller::Memory, &swap, &files), "memory.memsw.limit_in_bytes=100");

        let unlimited = Limits::new().memory(Max::Unlimited);
        assert_eq!(lines(Version::V2, Controller::Memory, &unlimited, &[]), "memory.max=max");
        let files = [("memory.memsw.limit_in_bytes", "5\n")];
        let want = "memory.limit_in_bytes=-1; memory.memsw.limit_in_bytes=-1";
        assert_eq!(lines(Version::V1, Controller::Memory, &unlimited, &files), want);

        let mut pages = Limits::new();
        pages.hugetlb.insert("2MB".to_owned(), HugetlbLimits::max(Max::At(5)));
        let files = [("hugetlb.2MB.rsvd.max", "max\n")];
        let want = "hugetlb.2MB.rsvd.max=5; hugetlb.2MB.max=5";
        assert_eq!(lines(Version::V2, Controller::Hugetlb, &pages, &files), want);

        let mut weight = Limits::new();
        weight.io.weight = Some(IoWeight::Weight(10_000));
        let files = [("io.bfq.weight", "default 100\n")];
        assert_eq!(lines(Version::V2, Controller::Blkio, &weight, &files), "io.bfq.weight=default 1000");
        let files = [("blkio.bfq.weight", "100\n")];
        assert_eq!(lines(Version::V1, Controller::Blkio, &weight, &files), "blkio.bfq.weight=1000");

        let mut check = Limits::new().memory(10);
        check.memory.check_before_update = true;
        check.memory.swap = Some(Swap::Total(Max::At(20)));
        let (_temporary, dir) = fake(&[("memory.current", "11\n")]);
        let refused = crate::v2::limits::settings(Controller::Memory, &check, &dir);
        assert!(matches!(refused, Err(Error::BelowUsage { limit: 10, usage: 11, .. })));
    }

    #[test]
    fn a_refused_write_names_everything() {
        let (_temporary, dir) = fake(&[]);
        let mut settings = Settings::of(Controller::Pids);
        settings.add("pids.max", 5);
        match settings.write(&dir, &mut Err) {
            Err(Error::Limit { controller: Controller::Pids, file, value, source }) => {
                assert_eq!((file, value), (dir.path_of("pids.max"), "5".to_owned()));
                assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
            }
            other => panic!("{other:?}"),
        }
    }
}
