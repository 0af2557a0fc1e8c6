//! A limit in the form the kernel takes it: a value for a file.

use std::borrow::Cow;

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
            for setting in waiting {
                match dir.write(&setting.file, &setting.value) {
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
