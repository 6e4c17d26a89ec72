#!/bin/sh
# run.sh BUILD_DIR [OPTIONS OF bench.py] - the bench in mount, process and network namespaces of its
# own, its peers from trees (tests/support/tree.sh). Needs root.
set -eu
cd "$(dirname "$0")/../.."
build=$1
shift

[ "$(id -u)" = 0 ] || { echo "bench: needs root, for accounts and namespaces" >&2; exit 77; }
tests/support/tree.sh bench-dovecot dovecot-core dovecot-pop3d dovecot-lmtpd || true
tests/support/tree.sh bench-popa3d popa3d openbsd-inetd || true

kept=${POPLAR_BENCH:-/var/tmp/poplar-bench}
mkdir -p -m 755 "$kept"
# What root runs and reads is root's: /var/tmp is open to all.
[ "$(stat -c %u:%a "$kept")" = 0:755 ] || { echo "bench: $kept is not root's alone" >&2; exit 77; }
# On one file system with the kept mail; mounts in it end with the namespace.
scratch=$(mktemp -d "$kept/run-XXXXXX")
chmod 755 "$scratch"
trap 'rm -rf "$scratch"' EXIT
python=/usr/bin/python3
[ -x "$python" ] || python=python3
propagation=private
unshare --mount true 2>/dev/null || propagation=unchanged
ulimit -n "$(ulimit -H -n)"
env POPLAR_BUILD="$build" POPLAR_SCRATCH="$scratch" POPLAR_NAMESPACES=1 PYTHONDONTWRITEBYTECODE=1 \
    BENCH_COMMIT="$(git describe --always --dirty 2>/dev/null || true)" \
    unshare --mount --propagation "$propagation" --pid --net --ipc --fork --kill-child --mount-proc \
    "$python" tests/bench/bench.py --kept "$kept" "$@"
