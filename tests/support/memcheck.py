"""The programs under valgrind (`make memcheck`): where tests, and poplard, look for them stand
scripts that run them so. Each writes to a file of its own, open before a process is confined, which
what it forks shares; the test in whose time an error is named there fails."""

import re
import shutil

PROGRAMS = ("poplard", "poplar-auth", "poplar-worker", "poplarctl", "poplar-deliver")

SCRIPT = """#!/bin/sh
LD_PRELOAD="${{LD_PRELOAD:-}} {build}/tests/valgrind.so"
MEMCHECK_SLOWNESS=5 # the server's own bounds; tests have more patience
TMPDIR={own} # valgrind's files, named by pid, are there: another test's have the same pids
export LD_PRELOAD MEMCHECK_SLOWNESS TMPDIR
exec {valgrind} -q --vgdb=no --read-inline-info=no --child-silent-after-fork=no --log-file={logs}/{program}.$$ \\
    {build}/{program} "$@"
"""


class Memcheck:
    def __init__(self, directory, build):
        """Write to `directory` what runs the programs of `build`, which all users can reach."""
        self.logs, own = directory / "valgrind", directory / "valgrind-own"
        for place in self.logs, own:
            place.mkdir()
            place.chmod(0o1777)
        self.seen = {}
        self.programs = directory / "programs"
        self.programs.mkdir()
        for entry in build.iterdir():
            made = self.programs / entry.name
            if entry.name in PROGRAMS:
                made.write_text(SCRIPT.format(build=build, valgrind=shutil.which("valgrind"), own=own,
                                              logs=self.logs, program=entry.name))
                made.chmod(0o755)
            else:
                made.symlink_to(entry)

    def errors(self):
        """What valgrind has said since it was asked last, if an error is in it."""
        news = ""
        for log in sorted(self.logs.iterdir()):
            octets = log.read_bytes()
            news += octets[self.seen.get(log, 0):].decode(errors="replace")
            self.seen[log] = len(octets)
        return news if re.search(r"^==\d+== [A-Z]", news, re.MULTILINE) else ""
