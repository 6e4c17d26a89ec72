#!/bin/sh
# run.sh DIR SECONDS [TARGET...] - run the fuzz targets of DIR for so long each, one after the other
# (JOBS=n: so many at once), from the committed seeds and what earlier runs found (DIR/corpus).
#
# A finding ends with status 1 and stands in DIR/found/TARGET-*: it goes into seeds/TARGET with the
# fix, and into a unit test.
set -u
top=$(cd "$(dirname "$0")" && pwd)
dir=$(cd "$1" && pwd)
seconds=$2
shift 2
if [ $# -eq 0 ]; then
    for target in "$dir"/fuzz_*; do
        case $target in *.o | *.d) continue ;; esac
        set -- "$@" "$(basename "$target" | sed s/^fuzz_//)"
    done
fi
mkdir -p "$dir/found" "$dir/logs"
# What the targets work on; they are ended without a chance to clean up.
FUZZ_SCRATCH=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" fuzz-XXXXXX)
export FUZZ_SCRATCH
trap 'rm -rf "$FUZZ_SCRATCH"' EXIT

run_one() { # run_one TARGET
    mkdir -p "$dir/corpus/$1" "$top/seeds/$1"
    dictionary=$top/dictionaries/$1.dict
    log=$dir/logs/$1
    "$dir/fuzz_$1" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$dir/found/$1-" $([ -f "$dictionary" ] && echo "-dict=$dictionary") \
        "$dir/corpus/$1" "$top/seeds/$1" >"$log" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "$status" -eq 0 ]; then
        echo "$1: ${runs:-0} inputs, nothing found"
    else
        echo "$1: status $status, see $log"
        grep -m 1 -E 'broken:|runtime error|ERROR:|SUMMARY' "$log"
    fi
    return $status
}

if [ "${JOBS:-1}" -gt 1 ]; then
    printf '%s\n' "$@" | JOBS=1 xargs -n 1 -P "$JOBS" "$0" "$dir" "$seconds" || exit 1
    exit 0
fi
failed=0
for target in "$@"; do
    run_one "$target" || failed=1
done
exit $failed
