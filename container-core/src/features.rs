//! What this library can do with a runtime specification, as the document that runtimes print for `features`.

use oci_spec::runtime::{
    Apparmor, Arch, Cgroup, Features, IDMap, IntelRdt, LinuxFeature, LinuxNamespaceType, LinuxSeccompAction,
    MemoryPolicy, MountExtensions, NetDevices, Seccomp, Selinux,
};

use crate::{capability, mount_options};

/// The version of the runtime specification that this library implements.
pub const SPEC_VERSION: &str = "1.3.0";

/// The features of this library, in the form of the runtime specification (`features.md`). They do not depend on the host:
/// what is listed is understood, and an error says so where the kernel cannot do it.
///
/// ```
/// let features = container_core::features();
/// assert_eq!(features.oci_version_min(), "1.0.0");
/// assert!(features.mount_options().as_ref().is_some_and(|names| names.iter().any(|name| name == "rro")));
/// ```
pub fn features() -> Features {
    let strings = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>());
    let mut mount_options: Vec<String> = mount_options::known().map(str::to_owned).collect();
    mount_options.sort();
    let mut features = Features::default();
    features
        .set_oci_version_min("1.0.0".to_owned())
        .set_oci_version_max(SPEC_VERSION.to_owned())
        .set_hooks(strings(&[
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ]))
        .set_mount_options(Some(mount_options))
        .set_linux(Some(linux()));
    features
}

fn linux() -> LinuxFeature {
    use LinuxNamespaceType::{Cgroup as CgroupNamespace, Ipc, Mount, Network, Pid, Time, User, Uts};
    let mut cgroup = Cgroup::default();
    cgroup
        .set_v1(Some(true))
        .set_v2(Some(true))
        .set_systemd(Some(false))
        .set_systemd_user(Some(false))
        .set_rdma(Some(true));
    let mut apparmor = Apparmor::default();
    apparmor.set_enabled(Some(true));
    let mut selinux = Selinux::default();
    selinux.set_enabled(Some(true));
    let mut rdt = IntelRdt::default();
    rdt.set_enabled(Some(false));
    let mut idmap = IDMap::default();
    idmap.set_enabled(Some(true));
    let mut extensions = MountExtensions::default();
    extensions.set_idmap(Some(idmap));
    let mut devices = NetDevices::default();
    devices.set_enabled(Some(true));
    let strings = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>());
    let mut policy = MemoryPolicy::default();
    policy
        .set_modes(strings(&[
            "MPOL_DEFAULT",
            "MPOL_BIND",
            "MPOL_INTERLEAVE",
            "MPOL_LOCAL",
            "MPOL_PREFERRED",
            "MPOL_PREFERRED_MANY",
            "MPOL_WEIGHTED_INTERLEAVE",
        ]))
        .set_flags(strings(&["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]));
    let mut linux = LinuxFeature::default();
    linux
        .set_namespaces(Some(vec![CgroupNamespace, Ipc, Mount, Network, Pid, Time, User, Uts]))
        .set_capabilities(Some((0..64).map_while(capability::name).map(str::to_owned).collect()))
        .set_cgroup(Some(cgroup))
        .set_seccomp(Some(seccomp()))
        .set_apparmor(Some(apparmor))
        .set_selinux(Some(selinux))
        .set_intel_rdt(Some(rdt))
        .set_memory_policy(Some(policy))
        .set_mount_extensions(Some(extensions))
        .set_net_devices(Some(devices));
    linux
}

fn seccomp() -> Seccomp {
    use LinuxSeccompAction::{
        ScmpActAllow, ScmpActErrno, ScmpActKill, ScmpActKillProcess, ScmpActKillThread, ScmpActLog,
        ScmpActNotify, ScmpActTrace, ScmpActTrap,
    };
    let strings = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>());
    let flags = [
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ];
    let mut seccomp = Seccomp::default();
    seccomp
        .set_enabled(Some(true))
        .set_actions(Some(vec![
            ScmpActAllow,
            ScmpActErrno,
            ScmpActKill,
            ScmpActKillProcess,
            ScmpActKillThread,
            ScmpActLog,
            ScmpActNotify,
            ScmpActTrace,
            ScmpActTrap,
        ]))
        .set_operators(strings(&[
            "SCMP_CMP_EQ",
            "SCMP_CMP_GE",
            "SCMP_CMP_GT",
            "SCMP_CMP_LE",
            "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ",
            "SCMP_CMP_NE",
        ]))
        .set_archs(Some(vec![
            Arch::ScmpArchX86_64,
            Arch::ScmpArchX86,
            Arch::ScmpArchX32,
            Arch::ScmpArchAarch64,
            Arch::ScmpArchArm,
        ]))
        .set_known_flags(strings(&flags))
        .set_supported_flags(strings(&flags));
    seccomp
}

#[cfg(test)]
mod tests {
    use super::features;

    #[test]
    fn the_document_has_the_words_of_the_specification() {
        let json = serde_json::to_value(features()).unwrap();
        let has = |pointer: &str, word: &str| {
            let list =
                json.pointer(pointer).and_then(|list| list.as_array()).unwrap_or_else(|| panic!("{pointer}"));
            assert!(list.iter().any(|item| item == word), "{pointer} lacks {word}: {list:?}");
        };
        has("/hooks", "startContainer");
        has("/mountOptions", "rbind");
        has("/linux/namespaces", "time");
        has("/linux/capabilities", "CAP_SYS_ADMIN");
        has("/linux/capabilities", "CAP_CHECKPOINT_RESTORE");
        has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
        has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
        assert_eq!(json["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    }
}
