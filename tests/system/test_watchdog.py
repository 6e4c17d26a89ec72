"""systemd's watchdog: fed while nursery and auth answer, whatever a directory server does."""

import json
import os
import re
import signal

import pytest

import poplar
from poplar import wait_until


@pytest.fixture
def watched(server, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1500000")
    return server


def fed(p, times=2):
    """So many more feedings come."""
    for _ in range(times):
        p.wait_notified("WATCHDOG=1")


def seconds(p):
    """How old its nursery is, by poplard's own clock."""
    return json.loads(p.ctl("--json", "status").stdout)["workers"]["generation_ms"] / 1000


def waiting(p):
    """Connections that have no worker yet."""
    return json.loads(p.ctl("--json", "status").stdout)["sessions"]["waiting"]


def test_fed_while_all_is_well(watched):
    fed(watched(), 3)


def test_fed_with_a_longer_time(server, monkeypatch):
    """As often as a third of it passes, not at each tick."""
    monkeypatch.setenv("WATCHDOG_USEC", "6000000")
    p = server()
    fed(p, 4)  # all there were, however late they are read
    assert seconds(p) >= 6


@pytest.mark.parametrize("who", ["nursery", "auth"])
def test_not_fed_while_a_child_hangs(watched, who):
    p = watched()
    fed(p)
    before = len(p.log_text())

    def told():
        return re.findall("(the nursery|an idle auth process) does not answer: systemd's watchdog is "
                          "not fed", p.log_text()[before:])
    pids = p.nursery() if who == "nursery" else wait_until(
        lambda: len(found := p.auths()) == 2 and found, "processes_min auth processes")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_until(told, "a line")
    since = seconds(p)
    wait_until(lambda: seconds(p) > since + 3, "three ticks more")
    assert len(told()) <= 2  # on a machine that stood still one of them before they were stopped
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    del p.notified[:]
    fed(p)


def test_not_fed_while_the_nursery_takes_nothing(server, monkeypatch):
    """It hangs, and before it was asked a rush of clients has filled its queue with orders."""
    monkeypatch.setenv("WATCHDOG_USEC", "4500000")
    p = server(workers_max_per_source="1024")
    fed(p)
    for pid in p.nursery():
        os.kill(pid, signal.SIGSTOP)
    clients = [p.connect(tls=False, greeting=False) for _ in range(600)]
    wait_until(lambda: waiting(p) > 500, "they wait")
    p.wait_log("the nursery does not answer")
    for pid in p.nursery():
        os.kill(pid, signal.SIGCONT)
    del p.notified[:]
    fed(p)
    assert all(raw.line().startswith(b"+OK") for raw in clients)


def test_not_fed_without_a_nursery(watched, tmp_path):
    """None can be started: who restarts the service may have better luck."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("poplar-worker", "poplar-auth"):
        (programs / name).symlink_to(poplar.BUILD / name)
    p = watched(server_program_dir=programs)
    fed(p)
    (programs / "poplar-worker").unlink()
    for pid in p.nursery():
        os.kill(pid, signal.SIGKILL)
    p.wait_log("cannot start .*/poplar-worker: No such file")
    p.wait_log("the nursery does not answer: systemd's watchdog is not fed")
    (programs / "poplar-worker").symlink_to(poplar.BUILD / "poplar-worker")
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
    wait_until(lambda: b", 2 busy;" in p.ctl("status").stdout, "both are busy")
    before = len(p.log_text())
    fed(p, 3)
    assert "auth process does not answer" not in p.log_text()[before:]
