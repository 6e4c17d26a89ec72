#!/bin/sh
# programs.sh BUILD_DIR - name the test programs that are built there, one a line.
for program in "$1"/tests/test_* "$1/tests/converse"; do
    case $program in *.so | *.d | *.o) continue ;; esac
    [ -x "$program" ] && [ -f "$program" ] && echo "$program"
done
exit 0
