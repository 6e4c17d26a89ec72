#!/bin/sh
# coverage.sh BUILD_DIR - run every test on programs that count what they execute, and print which
# part of the branches of each shipped file that was; BUILD_DIR/coverage.txt shows every line.
#
# The counters are files mapped before the sandbox closes, and shared by what forks: so the real
# workers count too, in their real filter. Built by `make coverage`.
set -eu
cd "$(dirname "$0")/../.."
build=$1
counts=$(mktemp -d)
chmod 1777 "$counts" # programs of every user write theirs
trap 'rm -rf "$counts"' EXIT

status=0
COUNTING=1 LLVM_PROFILE_FILE="$counts/%4m%c.profraw" tests/support/check.sh "$build" || status=$?

llvm-profdata merge -sparse "$counts"/*.profraw -o "$build/coverage.profdata"
objects=
for program in "$build"/poplar-* "$build"/poplarctl $(tests/support/programs.sh "$build"); do
    objects="$objects -object $program"
done
llvm-cov show "$build/poplard" $objects -instr-profile="$build/coverage.profdata" \
    --show-branches=count daemon auth worker store >"$build/coverage.txt" 2>/dev/null
echo
echo "branches covered, file (all of them: $build/coverage.txt)"
llvm-cov report "$build/poplard" $objects -instr-profile="$build/coverage.profdata" \
    daemon auth worker store 2>/dev/null |
    awk '$11 ~ /^[0-9]+$/ && $11 > 0 { printf "%7s %5d of %5d  %s\n", $13, $11 - $12, $11, $1 }' | sort -k5
exit $status
