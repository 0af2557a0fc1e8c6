# containerd.sh ARCHIVE TARGET: a daemon of its own in the empty directory TARGET imports and unpacks an archive.
# Says how many milliseconds that took, and the daemon's peak memory in KiB.
set -e
archive=$1 target=$2 socket=$2/socket
cat > "$target/config.toml" <<CONFIG
version = 2
root = "$target/root"
state = "$target/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$socket"
[ttrpc]
  address = "$target/ttrpc"
CONFIG
containerd --config "$target/config.toml" > "$target/log" 2>&1 &
daemon=$!
trap 'kill "$daemon"; wait "$daemon" || :' EXIT
tries=0
until ctr -a "$socket" version > "$target/version" 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then tail -1 "$target/log" >&2; exit 1; fi
    sleep 0.1
done
start=$(date +%s%N)
ctr -a "$socket" image import --snapshotter overlayfs "$archive" > "$target/import"
end=$(date +%s%N)
peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$daemon/status")
echo "$(((end - start) / 1000000)) $peak"
