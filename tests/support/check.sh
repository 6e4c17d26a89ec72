#!/bin/sh
# check.sh BUILD_DIR - run every test and print one closing line with the totals. ONLY="NAME..." runs
# just these: test_wire, test_lmtp, converse.
#
# A test is a program (cmocka) or a file of tests/system (pytest). Several run at once, since most of
# what the system tests do is to wait; each is reported whole when it has ended.
set -u
umask 022 # clients run as other users too
cd "$(dirname "$0")/../.."
build=$1
scratch=$(mktemp -d)
chmod 755 "$scratch"
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/totals"

if [ "$(id -u)" != 0 ] || ! tests/support/apart.sh true 2>/dev/null; then
    echo "Not root, or without namespaces: tests that need system accounts are skipped."
fi

# In a chroot, whoever joins a mount namespace finds himself outside.
here=$(stat -c %d:%i /)
joined=$(nsenter --mount=/proc/self/ns/mnt stat -c %d:%i / 2>/dev/null) || joined=$here
[ "$joined" = "$here" ] || export POPLAR_CHROOT=1

wanted() { # wanted NAME: asked for by ONLY, or all are
    [ -z "${ONLY:-}" ] && return
    case " $ONLY " in *" $1 "*) ;; *) return 1 ;; esac
}

for unit in $(tests/support/programs.sh "$build"); do
    wanted "$(basename "$unit")" && echo "$unit"
done >"$scratch/units"
# What takes long is begun first; the size of a file is a fair guess.
for file in $(ls -S tests/system/test_*.py); do
    wanted "$(basename "$file" .py)" && echo "$file"
done >"$scratch/all"
# Not under valgrind: what asks for the sandbox, which forbids nothing there; what walks over every
# fault and call, which it would do for hours; crowds; and what has a tree, a machine or a package
# of its own, without valgrind in it.
if [ -n "${MEMCHECK:-}" ]; then
    # valgrind takes the soft limit of descriptors for the hard one, and poplard wants more than 1,024.
    ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"
    for list in units all; do
        grep -v -e sandbox -e _calls -e _cuts -e _faults -e floods -e kill_loops -e booted \
            -e container -e kerberos -e ldap -e sssd -e apparmor -e budget -e fuzz -e install \
            -e rpm -e testssl "$scratch/$list" >"$scratch/left"
        mv "$scratch/left" "$scratch/$list"
    done
fi
# How a crowd is borne is seen on a machine that does nothing else, and how long a login takes.
measured=floods
[ "${LONG:-}" != 1 ] || measured='floods\|abuse_login'
grep "$measured" "$scratch/all" >"$scratch/alone"
grep -v "$measured" "$scratch/all" >"$scratch/files"

export POPLAR_BUILD="$build" POPLAR_TOTALS="$scratch/totals"
jobs=${JOBS:-$(($(nproc) + 1))}
cat "$scratch/files" "$scratch/units" | xargs -r -n 1 -P "$jobs" tests/support/one.sh
xargs -r -n 1 tests/support/one.sh <"$scratch/alone"

asked=$(cat "$scratch/files" "$scratch/units" "$scratch/alone" | wc -l)
set -- $(cat "$scratch"/totals/* /dev/null |
    awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0, NR }')
passed=$1 failed=$2 skipped=$3 ended=$4
failed=$((failed + asked - ended)) # a test that left no totals did not come to its end
echo
if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
