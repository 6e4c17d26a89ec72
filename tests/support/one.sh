#!/bin/sh
# one.sh TEST - run one test, a program or a pytest file, print what it said when it has ended, and
# leave "passed failed skipped" in POPLAR_TOTALS. The rest of check.sh's loop.
set -u
test=$1
name=$(basename "$test" .py)
scratch=$(mktemp -d)
chmod 755 "$scratch"
out=$scratch/out
trap 'rm -rf "$scratch"' EXIT

report() { # report PASSED FAILED SKIPPED STATUS
    bad=$2
    [ "$4" -ne 0 ] && [ "$bad" -eq 0 ] && bad=1 # it did not come to its end
    echo "$1 $bad $3" >"$POPLAR_TOTALS/$(echo "$test" | tr / :)"
    {
        echo "$name: $1 passed, $bad failed$([ "$3" -eq 0 ] || echo ", $3 skipped") ($took s)"
        if [ "$bad" -gt 0 ]; then
            cat "$out"
        else
            grep '^SKIPPED' "$out"
        fi
    } | flock "$POPLAR_TOTALS" cat
}

run() {
    began=$(date +%s)
    "$@" >"$out" 2>&1 </dev/null
    status=$?
    took=$(($(date +%s) - began))
}

case $1 in
*.py)
    python=/usr/bin/python3
    [ -x "$python" ] || python=python3
    set -- "$python" -m pytest -p no:cacheprovider -ra -q --basetemp="$scratch/t" "$1"
    export POPLAR_SCRATCH="$scratch" PYTHONDONTWRITEBYTECODE=1
    # For a sanitized build: the sandbox knows no sigaltstack, and who ends by exit() frees nothing.
    export ASAN_OPTIONS="use_sigaltstack=0:detect_leaks=0"
    if [ "$(id -u)" = 0 ] && tests/support/apart.sh true 2>/dev/null; then
        run tests/support/apart.sh env POPLAR_NAMESPACES=1 "$@"
    else
        run "$@"
    fi
    number() { # number WORD: the figure before WORD in pytest's last line
        tail -n 1 "$out" | sed 's/^/ /' | sed -n "s/.*[^0-9]\([0-9][0-9]*\) $1.*/\1/p" | grep . || echo 0
    }
    # 5: every test was left out, by a mark or a condition in the file.
    [ "$status" -ne 5 ] || status=0
    report "$(number passed)" "$(($(number failed) + $(number error)))" "$(number skipped)" "$status"
    ;;
*)
    # Nor can the leaks of a process be looked for from inside the sandbox. A worker's end frees all
    # that it has, and the connections that were made ready for others.
    leaks="--leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"
    if grep -q '"one_harness.h"' "tests/unit/$name.c" 2>/dev/null ||
        [ "$name" = converse ] || [ "$name" = test_calls_worker ]; then
        export ASAN_OPTIONS=detect_leaks=0
        leaks=
    fi
    [ "$name" != test_warm ] || leaks=
    under=
    [ -z "${MEMCHECK:-}" ] ||
        under="env LD_PRELOAD=$(realpath "$POPLAR_BUILD")/tests/valgrind.so
            valgrind -q --error-exitcode=99 $leaks"
    run $under "$1"
    # A process of the test's may have seen an error and been ended by a signal.
    ! grep -q '^==[0-9]*== [A-Z0-9]' "$out" || status=99
    # One line of each a group.
    good=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s).*/\1/p' "$out" | awk '{ n += $1 } END { print n + 0 }')
    bad=$(grep -c '^\[  FAILED  \] [a-z]' "$out")
    none=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test(s).*/\1/p' "$out" | tail -n 1)
    report "$good" "$((bad / 2))" "${none:-0}" "$status" # each is named twice
    ;;
esac
