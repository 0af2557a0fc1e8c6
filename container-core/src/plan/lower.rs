//! The order of a container's launch, and why it is this one.

use oci_spec::runtime::Spec;

use super::mounts::Mounts;
use super::namespaces::{CGROUP, MOUNT, NET, Namespaces, PID, TIME, USER, UTS};
use super::operation::{FIRST_FREE, Operation, Request};
use super::phrases::namespace_names;
use super::{CgroupRequest, Extras, Facts, Plan, Rootfs, Services, c_string, process, rootfs};
use crate::error::{Error, Result};

pub(super) fn container(spec: &Spec, extras: &Extras, facts: &Facts) -> Result<Plan> {
    let linux = spec.linux().as_ref();
    let mut slots = FIRST_FREE;
    let namespaces = Namespaces::from_spec(spec, &mut slots)?;
    validate(spec, extras, facts, &namespaces)?;
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process", "there is none"))?;
    let mut services = Services::of(spec, extras, &namespaces)?;
    services.hooks.start_container = super::exec::start_hooks(spec, extras, facts)?;
    let hooks = &services.hooks;

    // A hook of createContainer resolves its path in the host's tree, but runs in the container's mount namespace: that one
    // must have the host's tree then. So must a caller that may not mount: it has no other tree to open sources in.
    let isolated = facts.privileged && namespaces.makes(MOUNT) && hooks.create_container.is_empty();

    let mut outside = Vec::new();
    for joined in &namespaces.joined {
        outside.push(Operation::OpenNamespace {
            slot: joined.slot,
            kind: joined.kind,
            path: joined.path.clone(),
        });
    }

    let mut inside = Vec::new();
    // Until exec this process has the host program's memory, or a copy of it, and its binary: nobody inside may look at it. An
    // ordinary user's process can hide only once its files in /proc are no longer needed.
    if facts.privileged {
        inside.push(Operation::Shield);
    }
    if extras.die_with_parent {
        inside.push(Operation::ParentDeath);
    }
    let time_offsets = time_offsets(spec, &namespaces)?;
    let clone_flags = enter_namespaces(&namespaces, time_offsets.is_some(), facts, extras, &mut inside);

    if let Some(score) = process.oom_score_adj() {
        inside.push(Operation::OomScore { value: c_string("process.oomScoreAdj", score.to_string())? });
    }
    if extras.all_cpus {
        inside.push(super::exec::all_cpus());
    }

    // Ids first: files made from here on belong to the container's root.
    if namespaces.maps.as_ref().is_some_and(super::Maps::has_root) || namespaces.joins(USER) {
        inside.push(Operation::BecomeRoot);
    }
    // A change of ids sets the mark to what the host has for such cases.
    inside.push(Operation::Shield);
    // What is made below has the mode that is asked for, whatever the caller's mask is.
    inside.push(Operation::Umask { mask: 0 });
    inside.push(Operation::Session);
    if extras.new_keyring {
        let name =
            (!extras.id.is_empty()).then(|| c_string("id", format!("_ses.{}", extras.id))).transpose()?;
        inside.push(Operation::Keyring { name });
    }
    if namespaces.makes(NET) {
        inside.push(Operation::Loopback);
    }
    let network_devices = network_devices(spec, &namespaces)?;
    if !network_devices.is_empty() {
        inside.push(Operation::Await(Request::NetworkDevices));
    }
    host_names(spec, &namespaces, &mut inside)?;

    let cgroup = cgroup(spec, extras, facts)?;
    // An image may have device nodes, and whoever may make nodes makes more: where no control group says which of them can be
    // opened, none in the root can.
    let no_devices = facts.privileged && !cgroup.as_ref().is_some_and(|request| request.rules_devices);
    let mut mounts = Mounts {
        no_devices,
        spec,
        extras,
        facts,
        namespaces: &namespaces,
        prepare: Vec::new(),
        attach: Vec::new(),
        late: Vec::new(),
        slots,
        idmaps: Vec::new(),
    };
    let own_mounts = namespaces.makes(MOUNT);
    if !own_mounts && matches!(extras.rootfs, Some(Rootfs::Overlay { .. })) {
        return Err(Error::invalid("rootfs", "an overlay needs a new mount namespace"));
    }
    mounts.root()?;
    if linux.and_then(|l| l.masked_paths().as_ref()).is_some_and(|paths| !paths.is_empty()) {
        mounts.prepare.extend([Operation::OpenNull, Operation::OpenEmpty]);
    }
    mounts.all()?;
    mounts.devices()?;
    let Mounts { prepare, mut attach, late, slots, idmaps, .. } = mounts;
    attach.extend(late);
    // The copy of the host's table must neither tell the host of mounts made here nor, once the sources are open, hear of
    // new ones. In a user namespace of its own the copy is a slave already, and stays one for binds that want it.
    if own_mounts && !isolated {
        inside.push(Operation::Isolate { flags: libc::MS_REC | libc::MS_SLAVE });
    }
    if facts.privileged {
        outside.extend(prepare);
    } else {
        inside.extend(prepare);
    }
    inside.push(rootfs::attach(spec, extras, isolated)?);
    inside.extend(attach);

    // Hooks see everything in place and the host's tree still there; masks come later so that hooks may still write below /proc.
    if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() || !hooks.create_container.is_empty() {
        inside.push(Operation::Await(Request::CreateHooks));
    }
    rootfs::sysctls(spec, &namespaces, &mut inside)?;
    if !extras.own_working_directory {
        let path = c_string("process.cwd", process.cwd().as_os_str())?;
        inside.push(Operation::MakeWorkingDirectory { path });
    }
    rootfs::finish(spec, extras, isolated, &namespaces, &mut inside)?;
    let start_hooks = !hooks.start_container.is_empty();
    process::lower(
        &process::Input { process, spec, extras, facts, namespaces: &namespaces, start_hooks, gate: true },
        &mut inside,
    )?;

    if namespaces.has_user() {
        services.limits = process::outer_limits(process)?;
    }
    services.maps = namespaces.maps.clone();
    services.time_offsets = time_offsets;
    services.network_devices = network_devices;
    let program = super::program::command(process, spec, extras)?;
    services.command = program.argv[0].clone();
    Ok(Plan {
        outside,
        inside,
        slots,
        clone_flags,
        isolated,
        privileged: facts.privileged,
        capable: facts.capable,
        root_stays_at: rootfs::stays_at(spec, extras, &namespaces),
        // Between a change of credentials and exec, the shared memory must be out of reach for processes that are there already:
        // nobody is in a pid namespace that is just being made. Two-stage launches have a process of their own in between.
        may_share_memory: !namespaces.needs_two_stages()
            && namespaces.makes(PID)
            // The kernel lets nobody join who shares memory.
            && !namespaces.joins(TIME)
            // The score is one for all who share memory.
            && process.oom_score_adj().is_none()
            && hooks.create_container.is_empty()
            && hooks.start_container.is_empty(),
        idmaps,
        cgroup,
        program,
        services,
    })
}

/// What has to agree before anything is looked at closer.
fn validate(spec: &Spec, extras: &Extras, facts: &Facts, namespaces: &Namespaces) -> Result<()> {
    if !extras.bundle.is_absolute() {
        return Err(Error::invalid(format!("bundle {}", extras.bundle.display()), "it has to be absolute"));
    }
    let linux = spec.linux().as_ref();
    if !facts.capable && !namespaces.has_user() {
        return Err(Error::unsupported(
            "a container without a user namespace",
            "it takes CAP_SYS_ADMIN; add `user` to linux.namespaces with mappings of your own ids",
        ));
    }
    let masked = linux.and_then(|l| l.masked_paths().as_ref()).is_some_and(|paths| !paths.is_empty());
    let read_only = linux.and_then(|l| l.readonly_paths().as_ref()).is_some_and(|paths| !paths.is_empty());
    if !namespaces.makes(MOUNT) {
        if masked || read_only {
            return Err(Error::invalid(
                "linux.maskedPaths and linux.readonlyPaths",
                "they need a new mount namespace, or they would change the host",
            ));
        }
        // The mounts of such a container are made where it lives, below its root directory, and stay there after it.
        if !facts.privileged {
            return Err(Error::unsupported(
                "a container without a mount namespace of its own",
                "it takes CAP_SYS_ADMIN",
            ));
        }
    }
    if linux.is_some_and(|l| l.intel_rdt().is_some()) {
        return Err(Error::unsupported(
            "linux.intelRdt",
            "this engine does not manage resctrl groups; put the container's first process into one yourself",
        ));
    }
    Ok(())
}

/// Namespaces, ids and control group. Gives the flags of the first clone.
fn enter_namespaces(
    namespaces: &Namespaces,
    offsets: bool,
    facts: &Facts,
    extras: &Extras,
    inside: &mut Vec<Operation>,
) -> u64 {
    // A control group namespace shows the group its maker is in: it has to be made after entering.
    let late = namespaces.new & CGROUP;
    let cgroup = !extras.no_cgroup && facts.cgroups.is_some();
    let join = |kind_wanted: fn(u64) -> bool, retry: bool| {
        namespaces.joined.iter().filter(move |joined| kind_wanted(joined.kind)).map(move |joined| {
            Operation::Join {
                slot: joined.slot,
                kind: joined.kind,
                retry,
                name: format!("{} {}", namespace_names(joined.kind), joined.path.to_string_lossy()),
            }
        })
    };
    let flags;
    if namespaces.needs_two_stages() {
        if cgroup {
            inside.push(Operation::EnterCgroup);
        }
        // Namespaces of the host can be joined with the host's rights only, those of the joined user namespace with its: each
        // is tried before, and what was refused once more after.
        let user = namespaces.joins(USER);
        inside.extend(join(|kind| kind != USER, user));
        if user {
            inside.extend(join(|kind| kind == USER, false));
            inside.push(Operation::JoinRetried);
        }
        if namespaces.makes(USER) {
            inside.push(Operation::Unshare { kinds: USER });
            inside.push(Operation::Await(Request::MapIds));
        }
        if namespaces.makes(TIME) {
            inside.push(Operation::Unshare { kinds: TIME });
            if offsets {
                inside.push(Operation::Await(Request::TimeOffsets));
            }
        }
        inside.push(Operation::Succeed { flags: namespaces.new & !(USER | TIME | CGROUP) });
        if extras.die_with_parent {
            inside.push(Operation::ParentDeath);
        }
        flags = 0;
    } else {
        if namespaces.makes(USER) {
            inside.push(Operation::Await(Request::MapIds));
        }
        if cgroup {
            inside.push(Operation::EnterCgroup);
        }
        inside.extend(join(|_| true, false));
        flags = namespaces.new & !CGROUP;
    }
    if late != 0 {
        inside.push(Operation::Unshare { kinds: late });
    }
    flags
}

fn time_offsets(spec: &Spec, namespaces: &Namespaces) -> Result<Option<std::ffi::CString>> {
    let offsets = spec.linux().as_ref().and_then(|l| l.time_offsets().as_ref());
    let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else { return Ok(None) };
    if !namespaces.makes(TIME) {
        return Err(Error::invalid(
            "linux.timeOffsets",
            "they need a new time namespace in linux.namespaces",
        ));
    }
    let mut lines = Vec::new();
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(
                format!("linux.timeOffsets: {clock}"),
                "clocks are monotonic and boottime",
            ));
        }
        lines.push(format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)));
    }
    lines.sort();
    c_string("linux.timeOffsets", lines.concat()).map(Some)
}

fn host_names(spec: &Spec, namespaces: &Namespaces, inside: &mut Vec<Operation>) -> Result<()> {
    let host = spec.hostname().as_ref().filter(|name| !name.is_empty());
    let domain = spec.domainname().as_ref().filter(|name| !name.is_empty());
    for (field, name) in [("hostname", host), ("domainname", domain)] {
        let Some(name) = name else { continue };
        if !namespaces.contains(UTS) {
            return Err(Error::invalid(
                format!("{field} {name}"),
                "it needs a uts namespace in linux.namespaces, or it would rename the host",
            ));
        }
        if name.len() > 64 {
            return Err(Error::invalid(format!("{field} {name}"), "the kernel takes 64 bytes at most"));
        }
        let name = c_string(field, name)?;
        inside.push(if field == "hostname" {
            Operation::HostName { name }
        } else {
            Operation::DomainName { name }
        });
    }
    Ok(())
}

fn network_devices(spec: &Spec, namespaces: &Namespaces) -> Result<Vec<(String, String)>> {
    let devices = spec.linux().as_ref().and_then(|l| l.net_devices().as_ref());
    let Some(devices) = devices.filter(|devices| !devices.is_empty()) else { return Ok(Vec::new()) };
    if !namespaces.contains(NET) {
        return Err(Error::invalid("linux.netDevices", "they need a network namespace in linux.namespaces"));
    }
    let mut out = Vec::new();
    for (name, device) in devices {
        let inside = device.name().clone().filter(|new| !new.is_empty()).unwrap_or_else(|| name.clone());
        for name in [name, &inside] {
            let bad = name.is_empty() || name.len() > 15 || name == "." || name == "..";
            if bad
                || name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c == '\0')
            {
                return Err(Error::invalid(
                    format!("linux.netDevices: {name:?}"),
                    "a device name has 1 to 15 bytes, without slash, colon, percent and blanks",
                ));
            }
        }
        out.push((name.clone(), inside));
    }
    out.sort();
    Ok(out)
}

fn cgroup(spec: &Spec, extras: &Extras, facts: &Facts) -> Result<Option<CgroupRequest>> {
    let linux_fields = spec.linux().as_ref();
    let mut resources = linux_fields.and_then(|l| l.resources().clone());
    // Access to devices is no ordinary user's to rule; the nodes inside are the host's own, with the host's permissions.
    if let Some(resources) = resources.as_mut().filter(|_| !facts.privileged) {
        resources.set_devices(None);
    }
    if extras.no_cgroup {
        return Ok(None);
    }
    let asks = resources.as_ref().is_some_and(limits_something);
    let Some(hierarchy) = facts.cgroups.clone() else {
        if asks && !extras.limits_best_effort {
            return Err(Error::unsupported("linux.resources", "no control group file system is mounted"));
        }
        return Ok(None);
    };
    let Some(path) = cgroup_path(spec, extras)? else { return Ok(None) };
    // Whoever may not make control groups can still run what needs none.
    let optional = !facts.privileged && !asks;
    Ok(Some(CgroupRequest {
        path,
        best_effort: extras.limits_best_effort,
        optional,
        rules_devices: facts.privileged
            && extras.controllers.contains(cgroup::Controller::Devices)
            && hierarchy.controllers().contains(cgroup::Controller::Devices),
        hierarchy,
        controllers: extras.controllers,
        take: extras.take_cgroup,
        resources,
    }))
}

/// The group the container gets: as the spec says, or one of its own below the caller's.
pub(super) fn cgroup_path(spec: &Spec, extras: &Extras) -> Result<Option<String>> {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
    match path.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => match path.to_str() {
            Some(path) => Ok(Some(path.to_owned())),
            None => Err(Error::invalid(format!("linux.cgroupsPath {}", path.display()), "it is not UTF-8")),
        },
        None => Ok((!extras.id.is_empty()).then(|| extras.id.clone())),
    }
}

/// Any limit but device rules, which ordinary users cannot set and engines always send.
fn limits_something(resources: &oci_spec::runtime::LinuxResources) -> bool {
    let mut rest = resources.clone();
    rest.set_devices(None);
    rest != oci_spec::runtime::LinuxResources::default() && {
        let empty: Result<oci_spec::runtime::LinuxResources, _> = serde_json::from_str("{}");
        empty.map_or(true, |empty| rest != empty)
    }
}
