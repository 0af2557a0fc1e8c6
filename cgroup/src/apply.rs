//! Setting the limits of a group.

use rustix::io::Errno;

use crate::controller::{Controller, Version};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::group::{Cgroup, GroupDir};
use crate::limits::Limits;
use crate::setting::Settings;

/// A limit that [`Cgroup::apply_best_effort`] left out.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The controller it belongs to.
    pub controller: Controller,
    /// Why.
    pub error: Error,
}

impl Cgroup {
    /// Sets limits. Those that are not mentioned stay as they are.
    ///
    /// # Errors
    /// The first limit that could not be set: [`Error::Limit`] with controller, file, value and errno;
    /// [`Error::NoController`], [`Error::Unsupported`], [`Error::InvalidLimit`] or [`Error::BelowUsage`]. Limits before it, in
    /// the order of [`Controllers::iter`](crate::Controllers::iter), are in force then.
    pub fn apply(&self, limits: &Limits) -> Result<()> {
        self.apply_each(limits, &mut |_, error| Err(error))
    }

    /// Sets what can be set and returns what could not, each with its reason.
    #[must_use = "the list says which limits do not hold"]
    pub fn apply_best_effort(&self, limits: &Limits) -> Vec<Skipped> {
        let mut skipped = Vec::new();
        let collected = self.apply_each(limits, &mut |controller, error| {
            skipped.push(Skipped { controller, error });
            Ok(())
        });
        debug_assert!(collected.is_ok(), "every error was taken");
        skipped
    }

    fn apply_each(
        &self,
        limits: &Limits,
        refused: &mut dyn FnMut(Controller, Error) -> Result<()>,
    ) -> Result<()> {
        for controller in limits.controllers().iter() {
            if let Err(error) = limits.check(controller) {
                refused(controller, error)?;
                continue;
            }
            let Some((dir, version)) = self.dir_of(controller) else {
                if limits.needs(controller) {
                    refused(controller, self.no_controller(controller))?;
                }
                continue;
            };
            if let (Controller::Devices, Version::V2, Some(rules)) = (controller, version, &limits.devices) {
                if let Err(error) = crate::v2::devices::set(dir, rules) {
                    refused(controller, error)?;
                }
                continue;
            }
            let settings = match version {
                Version::V1 => crate::v1::limits::settings(controller, limits, dir),
                Version::V2 => crate::v2::limits::settings(controller, limits, dir),
            };
            match settings {
                Ok(settings) => settings
                    .write(dir, &mut |error| refused(controller, self.explain(controller, dir, error)))?,
                Err(error) => refused(controller, error)?,
            }
        }
        self.write_unified(limits, refused)
    }

    fn write_unified(
        &self,
        limits: &Limits,
        refused: &mut dyn FnMut(Controller, Error) -> Result<()>,
    ) -> Result<()> {
        for (file, value) in &limits.unified {
            let named = file.split('.').next().and_then(Controller::from_name);
            // `cgroup.*` files are the core's; errors about them have to name some controller.
            let controller = named.unwrap_or(Controller::Misc);
            let is_elsewhere =
                named.is_some_and(|named| self.hierarchy.version_of(named) == Some(Version::V1));
            let Some(dir) = self.unified_dir().filter(|_| !is_elsewhere) else {
                let reason = "raw entries need cgroup v2, and here it is a matter of v1";
                refused(controller, Error::InvalidLimit { limit: "unified", value: file.clone(), reason })?;
                continue;
            };
            if file.contains('/') || !file.contains('.') || file.chars().any(char::is_control) {
                let reason = "it must be the name of a file in the group's directory, such as memory.high";
                refused(controller, Error::InvalidLimit { limit: "unified", value: file.clone(), reason })?;
                continue;
            }
            let mut settings = Settings::of(controller);
            // Files that take one line a write, such as io.max, may be given several at once.
            value.lines().for_each(|line| settings.add(file.clone(), line));
            settings.write(dir, &mut |error| refused(controller, self.explain(controller, dir, error)))?;
        }
        Ok(())
    }

    /// Why a limit of `controller` cannot be set at all.
    pub(crate) fn no_controller(&self, controller: Controller) -> Error {
        let reason = match self.hierarchy.version_of(controller) {
            None => {
                "no mounted hierarchy carries it, or it is not delegated to this group's parent".to_owned()
            }
            Some(version) => format!("the group was made without it (cgroup {version})"),
        };
        Error::NoController { controller, reason }
    }

    /// A file that does not exist for want of its controller is that controller's story.
    fn explain(&self, controller: Controller, dir: &Dir, error: Error) -> Error {
        if error.raw_os_error() != Some(Errno::NOENT.raw_os_error()) {
            return error;
        }
        let Some((_, errno)) = self.refused.iter().find(|(refused, _)| *refused == controller) else {
            let has = |own: &GroupDir| std::ptr::eq(&own.dir, dir) && own.controllers.contains(controller);
            return if self.dirs.iter().any(has) { error } else { self.no_controller(controller) };
        };
        let why = match *errno {
            Errno::BUSY | Errno::OPNOTSUPP => {
                "an ancestor has processes of its own, so it may not hand controllers to its children"
            }
            Errno::ACCESS | Errno::PERM => {
                "enabling it needs write access to an ancestor: delegation is missing"
            }
            Errno::NOENT => "an ancestor does not have it to hand on",
            Errno::ROFS => "the cgroup file system is read-only",
            _ => "the kernel refused to enable it",
        };
        let reason = format!("{why} ({}: {errno})", dir.path().display());
        Error::NoController { controller, reason }
    }
}
