"""The machine around the server: a systemd that hears nothing, children that take nothing, too few
processes. What goes wrong there may not hold up who is served."""

import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest

import cgroup
import poplar
from logins import UNAVAILABLE, ask, attempt, logged_in
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


def test_a_reason_that_is_no_text(told):
    """systemd drops what is not UTF-8, and a journal does not show it."""
    p, systemd = told
    with open(p.config, "ab") as config:
        config.write(b"[server]\ncaf\xe9=1\n")
    p.process.send_signal(signal.SIGHUP)
    systemd.hear("STATUS=Reload failed, the old configuration stays: ")
    assert any("caf?" in line for line in systemd.heard), systemd.heard
    p.wait_log(r"reload failed, .*caf\?")


@pytest.mark.native("the server's clock is slower there")
def test_a_reload_that_systemd_asks_for_by_signal(told):
    """Type=notify-reload: what is said to have begun before that, it takes for another reload's."""
    p, systemd = told
    for _ in range(5):
        del systemd.heard[:]
        before = time.monotonic_ns() // 1000
        p.process.send_signal(signal.SIGHUP)
        systemd.hear("READY=1")
        began, = [line for line in systemd.heard if line.startswith("MONOTONIC_USEC=")]
        assert before <= int(began.split("=")[1]) <= time.monotonic_ns() // 1000


# Memory.

@pytest.fixture
def memory():
    with cgroup.limited("memory.max") as group:
        yield group


@pytest.mark.uncounted
@pytest.mark.native("valgrind has memory of its own")
@pytest.mark.unsanitized("a sanitizer has memory of its own")
@pytest.mark.skipif(not poplar.ROOT, reason="needs root: a control group")
def test_43_a_module_that_takes_all_memory(memory, server):
    """The kernel ends its process: one login."""
    p = server(start=False, tls_required="no",
               stack="auth [success=ignore default=1] pam_succeed_if.so quiet user = hungry\n"
                     "auth required @BUILD@/tests/pam_poplar_test.so eat\n"
                     "auth required pam_permit.so\naccount required pam_permit.so\n")
    with memory.inside():
        p.start()
    held = p.login("carol", tls=False)
    memory.set(memory.used() + (64 << 20))
    assert ask(p.connect(tls=False), "hungry", "secret") == UNAVAILABLE
    p.wait_log("auth process .* was ended by signal 9")
    held.noop()
    p.login("alice", tls=False).quit()
    held.quit()


@pytest.mark.skipif(not poplar.ROOT, reason="needs root: others' processes are hidden")
def test_the_master_goes_last(server):
    """When memory is short."""
    p = server()

    def score(pid):
        with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    least = min(score(p.process.pid) + 100, 1000)
    assert {score(pid) for pid in p.children()} == {least}


# Room for a socket's name.

@pytest.fixture
def cramped(tmp_path):
    """A directory in which nothing can be made; give_room() ends that."""
    if not poplar.NAMESPACES:
        pytest.skip("needs root and namespaces")
    place = tmp_path / "cramped"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def give_room(place):
    subprocess.run(["mount", "-o", "remount,nr_inodes=100", place], check=True)


@pytest.mark.parametrize("door", ["lmtp", "control"])
def test_a_start_without_room(cramped, server, door):
    """A full /run is no error of the configuration either."""
    named = {"lmtp": {"listen_lmtp": cramped / "lmtp.sock"},
             "control": {"server_run_dir": cramped, "listen_lmtp": ""}}[door]
    p = server(start=False, stack=STACK, **named)
    done = subprocess.run(p.command(), capture_output=True, text=True, timeout=60)
    assert "No space left on device; make room" in done.stderr
    assert done.returncode == os.EX_OSERR
    give_room(cramped)
    p.start()
    p.login().quit()


def test_a_reload_without_room(cramped, server):
    p = server(stack=STACK)
    p.write_config(listen_lmtp=cramped / "lmtp.sock")
    failed = p.ctl("reload", check=False)
    assert failed.returncode == os.EX_OSERR and b"No space left on device" in failed.stderr
    p.login().quit()
    give_room(cramped)
    p.ctl("reload")
    assert (cramped / "lmtp.sock").is_socket()


# Processes.

@pytest.fixture
def pids():
    with cgroup.limited("pids.max") as group:
        yield group


@pytest.mark.unsanitized("the search for leaks at its end needs a thread")
@pytest.mark.skipif(not poplar.ROOT, reason="needs root: a control group")
def test_a_start_without_processes(pids, server):
    """That is no error of the configuration: whoever starts us tries again."""
    p = server(start=False)
    with pids.inside():
        pids.set(pids.used() + 1)
        done = subprocess.run(["sh", "-c", 'exec "$@"', "sh", *p.command()], capture_output=True,
                              text=True, timeout=60)
        pids.set("max")
    assert "poplar-worker: Resource temporarily unavailable" in done.stderr
    assert done.returncode == os.EX_OSERR


@pytest.mark.skipif(not poplar.ROOT, reason="needs root: a control group")
def test_out_of_processes(pids, server):
    """Sessions go on, who comes then waits, a reload changes nothing, and all is well again."""
    p = server(start=False, stack=STACK, tls_required="no", auth_processes_min="1",
               workers_idle_min="1", auth_requests_per_process="1")
    with pids.inside():
        p.start()
    held = p.login("carol", tls=False)
    wait_until(lambda: p.auths() and len(p.workers()) > 1, "all is there")
    pids.set(0)
    waiting = [p.connect(tls=False, greeting=False) for _ in range(5)]
    wait_until(lambda: len(p.serving()) == len(p.workers()), "who was idle has a client")
    p.wait_log("the nursery cannot fork a worker: Resource temporarily unavailable")
    failed = p.ctl("reload", check=False)
    assert failed.returncode == os.EX_OSERR
    assert b"Resource temporarily unavailable" in failed.stderr
    held.noop()
    served = p.serving()
    for pid in p.auths():
        os.kill(pid, signal.SIGKILL)
    p.wait_log("cannot start .*poplar-auth: Resource temporarily unavailable")
    held.noop()
    assert p.serving() == served
    pids.set("max")
    for raw in waiting:
        assert raw.line().startswith(b"+OK")
        raw.close()
    wait_until(lambda: logged_in(attempt(p)), "logins")
    held.quit()


# Children that take nothing.

@pytest.mark.parametrize("hanging", ["poplar-worker", "poplar-auth"])
def test_a_child_that_does_not_take_its_configuration(server, tmp_path, hanging):
    """Its program is on a disk that hangs, say, and the configuration is a long one."""
    p = server(stack=STACK, tls_required="no")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("poplar-worker", "poplar-auth"):
        (programs / name).symlink_to(poplar.BUILD / name)
    (programs / hanging).unlink()
    (programs / hanging).write_text("#!/bin/sh\nexec sleep 1000\n")
    (programs / hanging).chmod(0o755)
    p.write_config(server_program_dir=programs, extra="".join(
        f"[domain {n}.example.test]\npam_service=poplar\n" for n in range(1000)))
    p.process.send_signal(signal.SIGHUP)
    wait_until(lambda: p.children("sleep"), "the child that hangs")
    p.login("alice", tls=False).quit()
    for pid in p.children("sleep"):
        os.kill(pid, signal.SIGKILL)
    p.wait_log("reload failed")
    p.login("alice", tls=False).quit()
    (programs / hanging).unlink()
    (programs / hanging).symlink_to(poplar.BUILD / hanging)
    p.ctl("reload")
    p.login("alice", tls=False).quit()
    p.key.unlink()
    failed = p.ctl("reload", check=False)
    assert failed.returncode == os.EX_CONFIG and b"No such file" in failed.stderr
    p.login("alice", tls=False).quit()
