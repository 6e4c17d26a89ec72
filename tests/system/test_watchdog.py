"""systemd's watchdog: fed while nursery and auth answer, whatever a directory server does."""

import os
import signal

import pytest

from poplar import wait_until


@pytest.fixture
def watched(server, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1500000")
    return server


def fed(p, times=2):
    """So many more feedings come."""
    for _ in range(times):
        p.wait_notified("WATCHDOG=1")


def test_fed_while_all_is_well(watched):
    fed(watched(), 3)


@pytest.mark.parametrize("who", ["nursery", "auth"])
def test_not_fed_while_a_child_hangs(watched, who):
    p = watched()
    fed(p)
    pids = p.nursery() if who == "nursery" else p.auths()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    p.wait_log("(the nursery|an idle auth process) does not answer: systemd's watchdog is not fed")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    del p.notified[:]
    fed(p)


def test_fed_while_pam_hangs(watched):
    """Every auth process waits for a module, as for a directory server that is down."""
    p = watched(stack="auth required @BUILD@/tests/pam_poplar_test.so hang\n"
                      "account required pam_permit.so\n", auth_processes_max="2",
                auth_throttle_exempt="127.0.0.0/8")  # strangers have half of them at most
    waiting = [p.connect() for _ in range(3)]
    for raw in waiting:
        raw.send(b"USER alice\r\nPASS secret\r\n")
    wait_until(lambda: b"(2 busy)" in p.ctl("status").stdout, "both are busy")
    fed(p, 3)
    assert "does not answer" not in p.log_text()
