//! `state`: what is known of one container, as the runtime specification prints it and with what runc adds.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use container_core::state::Status;

use crate::context::{Context, Found};
use crate::failure::Failure;

/// The document that `state` and `list` print. The order of the fields is runc's: clients' tests compare text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report<'a> {
    oci_version: &'a str,
    pub id: &'a str,
    /// 0 for a stopped container.
    pub pid: i32,
    pub status: Status,
    pub bundle: &'a Path,
    rootfs: &'a Path,
    pub created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    pub owner: String,
}

impl<'a> Report<'a> {
    pub fn new(found: &'a Found) -> Self {
        let (record, status) = (&found.record, found.status());
        Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: if status == Status::Stopped { 0 } else { record.pid },
            status,
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner: owner(found.entry.path()),
        }
    }
}

pub fn state(context: &Context, id: &str) -> Result<(), Failure> {
    let found = context.find(id)?;
    let text = serde_json::to_string_pretty(&Report::new(&found))
        .map_err(|error| Failure::because("print the state", error))?;
    println!("{text}");
    Ok(())
}

/// Who created the container: the owner of its state directory, by name where the host knows one.
fn owner(directory: &Path) -> String {
    let Ok(metadata) = std::fs::metadata(directory) else { return String::new() };
    let uid = metadata.uid().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&uid)).then(|| name.to_owned())
    });
    name.unwrap_or(uid)
}
