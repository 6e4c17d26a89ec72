"""System calls that fail in the running master, in auth, in the nursery, in a worker: each once and
again and again. The server lives or ends with a line that says why, does not spin, and a login
meanwhile works or is told to come back. The numbers in the names are those of the list of abuse
cases."""

import contextlib
import os
import re
import shutil
import signal
import subprocess

import pytest

import poplar
from poplar import wait_until

pytestmark = pytest.mark.skipif(not poplar.ROOT or not shutil.which("strace"),
                                reason="needs root and strace")

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"


@contextlib.contextmanager
def tampered(pids, *rules):
    """strace tampers with these processes' system calls: CALL:HOW, as its inject= has it. Gives
    what it saw of them."""
    pids = [pids] if isinstance(pids, int) else pids
    calls = ",".join(rule.split(":")[0] for rule in rules)
    command = ["strace", "-qq", "-e", f"trace={calls}", "-e", "signal=none"]
    for rule in rules:
        command += ["-e", f"inject={rule}"]
    for pid in pids:
        command += ["-p", str(pid)]
    seen = []
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for pid in pids:
            wait_until(lambda: int(poplar.Poplar.proc_status(pid).get("TracerPid", "1")),
                       f"strace holds {pid}")
        yield seen
    finally:
        tracer.terminate()
        seen += tracer.communicate(timeout=30)[1].decode(errors="replace").splitlines()


def test_two_ends_at_a_time(server):
    """Who ends while another's end is seen to has its last words heard all the same."""
    p = server()
    for _ in range(3):
        first, second = p.login("alice"), p.login("bob")
        with tampered(p.process.pid, "wait4:delay_enter=500000", "waitid:delay_enter=500000"):
            first.quit()
            wait_until(lambda: p.proc_status(p.process.pid)["State"][0] == "t",
                       "the master is held where it reaps")
            second.quit()
            wait_until(lambda: not p.serving(), "both have ended")
            wait_until(lambda: b" 0 of " in p.ctl("status").stdout, "and are reaped")
    assert len(re.findall("session ended: .*reason=quit", p.log_text())) == 6
    assert "reason=lost" not in p.log_text()
