"""The machine around the server: a systemd that hears nothing, children that take nothing, too few
processes. What goes wrong there may not hold up who is served."""

import contextlib
import os
import socket
import subprocess

import pytest

import poplar
from poplar import wait_until

STACK = ("auth required @BUILD@/tests/pam_poplar_test.so expect=secret\n"
         "account required pam_permit.so\n")


class Systemd:
    """The socket by which it would be told, heard when we like."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.heard = []

    def hear(self, wanted):
        """Read until somebody says so."""
        def said():
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.heard += self.socket.recv(8192).decode().split("\n")
            return any(line.startswith(wanted) for line in self.heard)
        wait_until(said, lambda: (wanted, self.heard))

    def fill(self):
        """Nothing more fits in, other services say much."""
        del self.heard[:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"STATUS=another", self.path)


@pytest.fixture
def told(server, monkeypatch):
    """A server and its systemd."""
    p = server(start=False, stack=STACK, tls_required="no", server_stop_grace="1s")
    systemd = Systemd(p.directory / "notify")
    environment = os.environ | {"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "1500000"}
    with open(p.log_file, "wb") as log, \
            subprocess.Popen(p.command(), stdin=subprocess.DEVNULL, stderr=log,
                             env=environment) as p.process:
        try:
            systemd.hear("READY=1")
            yield p, systemd
            p.process.terminate()
            assert p.process.wait(20 * poplar.PATIENCE) == 0
        finally:
            p.process.kill()
            p.process.wait()
            p.process = None
            systemd.socket.close()


def test_a_systemd_that_hears_nothing(told):
    """It is frozen, say. Clients are served, and it hears how things stand when it can."""
    p, systemd = told
    systemd.fill()
    for _ in range(3):
        session = p.login("alice", tls=False)
        wait_until(lambda: p.sessions(user="alice"), "the session")
        session.quit()
        wait_until(lambda: not p.sessions(), "its end")
    p.ctl("reload", timeout=20 * poplar.PATIENCE)
    p.login("alice", tls=False).quit()
    systemd.hear("READY=1")
    systemd.hear("WATCHDOG=1")
    systemd.fill()
