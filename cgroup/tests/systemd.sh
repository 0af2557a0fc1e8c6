#!/bin/bash
# Runs the tests of tests/systemd.rs under a systemd of their own, in new pid, mount and cgroup namespaces. That systemd boots: it
# cleans and sets up what it sees. So this is for a throw-away virtual machine with root, systemd, dbus-daemon and cgroup v2, and
# does nothing unless IN_THROW_AWAY_VM is set.
#
#   cargo test -p cgroup --features systemd --test systemd --no-run    # says where the binary is
#   IN_THROW_AWAY_VM=1 cgroup/tests/systemd.sh PATH/TO/BINARY
set -eu
[ -n "${IN_THROW_AWAY_VM:-}" ] || { echo "SKIPPED: not in a throw-away virtual machine"; exit 0; }
test_binary=$(realpath "$1")
work=$(mktemp -d -p "$(dirname "$test_binary")") # /tmp is what a booting systemd empties
group=/sys/fs/cgroup/cgroup-test-systemd-$$
mkdir "$group"
trap 'rm -rf "$work"; find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true' EXIT

cat >"$work/t.service" <<END
[Unit]
DefaultDependencies=no
After=dbus.service dbus.socket
Wants=dbus.socket
[Service]
Type=oneshot
Environment=CONTAINER_TESTS_REQUIRE=systemd,cgroup
ExecStart=/bin/sh -c '"$test_binary" --nocapture >"$work/out" 2>&1; echo \$? >"$work/status"; systemctl exit 0'
END
printf '[Unit]\nWants=t.service dbus.service\nAllowIsolate=yes\n' >"$work/t.target"

# Joined before the cgroup namespace is made, which then has this group for its root.
cat >"$work/enter" <<END
echo 0 >$group/cgroup.procs
exec unshare -C bash $work/inside
END
cat >"$work/inside" <<END
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/systemd/system
cp $work/t.service $work/t.target /run/systemd/system/
export container=test
exec /lib/systemd/systemd --system --unit=t.target --log-target=console --log-level=warning --show-status=no
END
timeout 120 unshare -p -f -m --kill-child bash "$work/enter" >"$work/log" 2>&1 || true
cat "$work/out" 2>/dev/null || cat "$work/log"
exit "$(cat "$work/status" 2>/dev/null || echo 125)"
