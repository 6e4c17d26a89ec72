#!/bin/sh
# analyse.sh COMPILER_FLAGS... - three static analysers over all that is shipped; each must be
# silent. What they are not asked is said here and in .clang-tidy, with the reason.
set -u
cd "$(dirname "$0")/../.."
sources=$(ls daemon/*.c auth/*.c worker/*.c store/*.c)
bad=0

each() { # each COMMAND: by itself for every file, called %% in the command; "$@" are the flags
    command=$1
    shift
    printf '%s\n' $sources | xargs -I %% -P "$(nproc)" sh -c "$command" each "$@"
}

# Of several files in one run, clang-tidy 14 takes every va_list for uninitialised.
echo "clang-tidy"
each 'clang-tidy --quiet %% -- "$@" 2>/dev/null' "$@" || bad=1

# ctuuninitvar: a record is received into a struct that is not filled before, on purpose.
echo "cppcheck"
cppcheck --quiet --std=c11 --enable=warning,performance,portability --error-exitcode=1 \
    --suppress=ctuuninitvar --suppress=missingIncludeSystem -I. $sources || bad=1

# malloc-leak: gcc 12 loses sight of what is handed out through a pointer to a pointer; leaks are
# for the sanitized build to find.
echo "gcc -fanalyzer"
each 'gcc -O1 -fanalyzer -Wno-analyzer-malloc-leak -Werror -c -o /dev/null "$@" %%' "$@" || bad=1

[ "$bad" -eq 0 ] || { echo "analyse: the findings above"; exit 1; }
echo "analyse: clean"
