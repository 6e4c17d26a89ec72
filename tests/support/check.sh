#!/bin/sh
# check.sh BUILD_DIR - run every test and print one closing line with the totals.
#
# As root the conversations and system tests run in namespaces of their own: their accounts, their
# /etc, their loopback and their processes are gone with the last of them, however they end.
set -u
cd "$(dirname "$0")/../.."
build=$1
passed=0 failed=0 skipped=0
scratch=$(mktemp -d)
chmod 755 "$scratch" # clients run as other users too
out=$scratch/out
trap 'rm -rf "$scratch"' EXIT

number() { # number WORD: the figure before WORD in pytest's last line
    sed -n "s/.*[^0-9]\([0-9][0-9]*\) $1.*/\1/p" "$out" | tail -n 1
}

for unit in "$build"/tests/test_* "$build/tests/converse"; do
    case $unit in *.so | *.d | *.o) continue ;; esac
    [ -x "$unit" ] && [ -f "$unit" ] || continue
    "$unit" >"$out" 2>&1
    status=$?
    # One line of each a group.
    good=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s).*/\1/p' "$out" | awk '{ n += $1 } END { print n + 0 }')
    bad=$(grep -c '^\[  FAILED  \] [a-z]' "$out")
    none=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test(s).*/\1/p' "$out" | tail -n 1)
    [ "$bad" -gt 0 ] && bad=$((bad / 2)) # each is named twice
    [ "$status" -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
    echo "$(basename "$unit"): $good passed, $bad failed"
    [ "$status" -eq 0 ] || cat "$out"
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + ${none:-0}))
done

python=/usr/bin/python3
[ -x "$python" ] || python=python3
set -- "$python" -m pytest -p no:cacheprovider -ra -q --basetemp="$scratch/t" \
    tests/system
export POPLAR_BUILD="$build" POPLAR_SCRATCH="$scratch" PYTHONDONTWRITEBYTECODE=1
propagation=private
# In a plain chroot the root is no mount point, whose propagation could be changed; where nothing is
# shared there is no need to.
if ! unshare --mount true 2>/dev/null && ! grep -q 'shared:' /proc/1/mountinfo; then
    propagation=unchanged
fi
apart="unshare --mount --propagation $propagation --pid --net --ipc --fork --kill-child --mount-proc"
if [ "$(id -u)" = 0 ] && $apart true 2>/dev/null; then
    $apart env POPLAR_NAMESPACES=1 "$@" 2>&1 | tee "$out"
else
    echo "Not root, or without namespaces: tests that need system accounts are skipped."
    "$@" 2>&1 | tee "$out"
fi
summary=$(tail -n 1 "$out")
case $summary in
*passed* | *failed* | *error* | *skipped*) ;;
*) failed=$((failed + 1)) ;; # pytest itself did not come to its end
esac
printf ' %s\n' "$summary" >"$out"
good=$(number passed) bad=$(number failed) errors=$(number error) none=$(number skipped)
passed=$((passed + ${good:-0})) failed=$((failed + ${bad:-0} + ${errors:-0}))
skipped=$((skipped + ${none:-0}))

echo
if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
