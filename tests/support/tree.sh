#!/bin/sh
# tree.sh NAME PACKAGE... - make, or find made, a small Debian with these packages in it, for the
# servers that tests put in front of Poplar: those are never installed on the machine itself. With
# SUITE or ARCH in the environment it is another Debian, or one for another processor.
#
# Runs as root, before the tests, where the network still is. Prints the tree's path; 77 when this
# machine cannot make one, with the reason. Trees stay under ${POPLAR_TREES:-/var/tmp/poplar-trees}
# for the next run; whoever runs them does so by chroot, from a read-only mount of his own. It
# leaves no mount behind and starts no service, in the tree or out of it.
set -eu

usual=bookworm
suite=${SUITE:-$usual}
arch=${ARCH:-$(dpkg --print-architecture)}
base=base
[ "$suite $arch" = "$usual $(dpkg --print-architecture)" ] || base=base-$suite-$arch
trees=${POPLAR_TREES:-/var/tmp/poplar-trees}
[ $# -ge 2 ] || { echo "usage: tree.sh NAME PACKAGE..." >&2; exit 64; }
name=$1
shift

cannot() {
    echo "tree.sh: no tree '$name': $*" >&2
    exit 77
}

[ "$(id -u)" = 0 ] || cannot "not root"
mkdir -p -m 755 "$trees"
# What root runs is root's: /var/tmp is open to all.
[ "$(stat -c %u:%a "$trees")" = 0:755 ] || cannot "$trees is not root's alone, mode 755"

# One maker at a time; the lock goes with the process. Mounts and processes that packages leave
# behind end with the namespaces. (In a plain chroot the root is no mount point to be made private.)
if [ "${TREE_APART:-}" != "$trees" ]; then
    command -v debootstrap >/dev/null || cannot "debootstrap is missing"
    propagation=private
    unshare --mount true 2>/dev/null || propagation=unchanged
    apart="unshare --mount --propagation $propagation --pid --fork --kill-child --mount-proc"
    $apart true 2>/dev/null || cannot "no namespaces here"
    exec env TREE_APART="$trees" $apart flock "$trees/lock" "$0" "$name" "$@"
fi

made() { # made TREE WANTED...: it is there, whole, and holds just that
    tree=$1
    shift
    [ "$(cat "$trees/$tree/.made" 2>/dev/null)" = "$suite $*" ]
}

if made "$name" "$@"; then
    echo "$trees/$name"
    exit 0
fi

log=$(mktemp)
trap 'rm -rf "$log" "$trees"/*.new' EXIT
rm -rf "$trees"/*.new # of a maker that was killed

try() {
    "$@" >"$log" 2>&1 </dev/null || { tail -n 5 "$log" >&2; cannot "failed: $*"; }
}

finish() { # finish TREE WANTED...: the tree under its temporary name gets its own
    tree=$1
    shift
    echo "$suite $*" >"$trees/$tree.new/.made"
    rm -rf "${trees:?}/$tree"
    mv "$trees/$tree.new" "$trees/$tree"
}

eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
export http_proxy="${http_proxy:-}"
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    sed -n "s/^\([^ ]*\) $usual main$/\1/p" | head -n 1)
[ -n "$mirror" ] || cannot "apt knows no mirror of $usual"

inside() { # inside TREE SHELL_TEXT [WORD...]: run it there, below its temporary name
    tree=$trees/$1.new
    shift
    cp -L /etc/resolv.conf "$tree/etc/resolv.conf" 2>/dev/null || true # not everywhere
    # What sets packages up may look for other processes; the mount is gone with the command.
    try unshare --mount --propagation unchanged sh -c 'mount --bind /proc "$1/proc" && shift && exec "$@"' \
        sh "$tree" chroot "$tree" env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c "$1" "$@"
}

if ! made "$base" minbase; then
    echo "Making a $suite tree under $trees" >&2
    try debootstrap --arch="$arch" --variant=minbase "$suite" "$trees/$base.new" "$mirror"
    printf '#!/bin/sh\nexit 101\n' >"$trees/$base.new/usr/sbin/policy-rc.d"
    chmod 755 "$trees/$base.new/usr/sbin/policy-rc.d"
    # A tree that a power cut spoils is made again.
    echo force-unsafe-io >"$trees/$base.new/etc/dpkg/dpkg.cfg.d/unsafe-io"
    inside "$base" 'apt-get update'
    finish "$base" minbase
fi

echo "Installing in a tree: $*" >&2
cp -a "$trees/$base" "$trees/$name.new"
# The base's lists may have grown old meanwhile.
inside "$name" 'install() { apt-get install -y --no-install-recommends "$@"; }
    { install "$@" || { apt-get update && install "$@"; }; } && apt-get clean' "$@"
finish "$name" "$@"
echo "$trees/$name"
