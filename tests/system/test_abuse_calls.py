"""System calls that fail in the running master, in auth, in the nursery, in a worker: each once and
again and again. The server lives or ends with a line that says why, does not spin, and a login
meanwhile works or is told to come back. The numbers in the names are those of the list of abuse
cases. LONG=1 tries more of them."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time

import pytest

import poplar
from poplar import wait_until
from strace import strace
from test_lmtp import Lmtp, as_user

pytestmark = pytest.mark.skipif(not poplar.ROOT or not shutil.which("strace"),
                                reason="needs root and strace")

LONG = os.environ.get("LONG") == "1"

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"


def tampered(pids, *rules, forks=False):
    """strace tampers with these processes' system calls: CALL:HOW, as its inject= has it; `forks`:
    also with those of their children from now on. Gives what it saw of them."""
    pids = [pids] if isinstance(pids, int) else pids
    calls = ",".join(f"?{rule.split(':')[0]}" for rule in rules)  # ?: not on every machine
    options = ["-e", f"trace={calls}", "-e", "signal=none"] + (["-f"] if forks else [])
    for rule in rules:
        options += ["-e", f"inject=?{rule}"]
    return strace(pids, *options)


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


def test_many_last_words(server):
    """All that a child said before its end is heard, however busy the master was meanwhile."""
    p = server(tls_required="not-on-loopback")
    p.ctl("debug", "alice", "on")
    raw = poplar.log_in(p)
    wait_until(lambda: raw.ask(b"NOOP") and "trace: C: NOOP" in p.log_text(), "a trace")
    worker, = p.serving()
    p.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(150):
            assert raw.ask(b"RSET").startswith(b"+OK")
        assert raw.ask(b"QUIT").startswith(b"+OK")
        wait_until(lambda: p.proc_status(worker)["State"][0] == "Z", "it has ended")
    finally:
        p.process.send_signal(signal.SIGCONT)
    p.wait_log("session ended: .*user=alice reason=(quit|lost)")
    assert "reason=lost" not in p.log_text()
    assert p.log_text().count("trace: C: RSET") == 150


@pytest.mark.accounts
def test_a_door_is_closed_whoever_has_a_copy(server):
    """A child that ends a refused connection has everything open that the master had. Whoever comes
    after a stop has begun is refused all the same, not let in by the kernel and then reset."""
    p = server(tls_required="not-on-loopback", workers_max_per_source="1", server_stop_grace="10m")
    held = p.login("bob", tls=False)
    with as_user("alice"):
        first = Lmtp(p.lmtp)
    with tampered(p.process.pid, "exit_group:delay_enter=5000000", forks=True):
        with as_user("alice"), socket.socket(socket.AF_UNIX) as refused:
            refused.connect(str(p.lmtp))
        wait_until(lambda: len(p.children("poplard")) == 1, "a child that does not end")
        p.process.send_signal(signal.SIGTERM)
        p.wait_log("stopping")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", p.port), 20)
    first.close()
    held.quit()
    assert p.process.wait(60) == 0


class Watched:
    """A server with a session that must not notice, and what has to be true of it at any time."""

    def __init__(self, make, **settings):
        self.p = make(**({"tls_required": "not-on-loopback", "auth_throttle_exempt": "127.0.0.0/8",
                          "workers_idle_min": "1", "workers_idle_max": "1",
                          "auth_processes_min": "1", "auth_processes_max": "2",
                          "server_log_level": "info"} | settings))
        self.p.add("bob", MESSAGE)
        self.p.add("alice", MESSAGE)
        self.held = self.log_in("bob")
        assert self.held

    def log_in(self, user, patience=20 * poplar.PATIENCE):
        """A session; None when the server, in time, was not able to."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            raw = None
            with contextlib.suppress(OSError):
                raw = poplar.Raw(socket.create_connection(("127.0.0.1", self.p.port), 2))
                raw.sock.settimeout(max(0.1, deadline - time.monotonic()))
                answers = [raw.line(), raw.ask(b"USER " + user.encode()), raw.ask(b"PASS secret")]
                if answers[2].startswith(b"+OK"):
                    raw.sock.settimeout(20 * poplar.PATIENCE)
                    return raw
                refused = next((a for a in answers if not a.startswith(b"+OK")), b"")
                assert refused == b"" or refused.startswith((b"-ERR [SYS/", b"-ERR [IN-USE]")), \
                    answers
            if raw:
                raw.close()
        return None

    def serves(self, what):
        """As before: who was there is, and newcomers are served."""
        assert self.p.process.poll() is None, f"{what}: the master ended: {self.p.log_text()}"
        assert self.held.ask(b"NOOP").startswith(b"+OK"), what
        raw = self.log_in("alice")
        assert raw, f"{what}: no login\n{self.p.log_text()}"
        assert raw.ask(b"STAT").startswith(b"+OK 1 "), what
        assert raw.ask(b"QUIT").startswith(b"+OK"), what
        raw.close()
        log = self.p.log_text().replace("defect: file-system ids did not come back", "")
        assert not re.search("signal (11|31)|defect", log), log


# The first of each list are tried always, the others with LONG=1.
IN_MASTER = [
    "accept4:EMFILE", "accept4:EPERM", "sendmsg:ENOBUFS", "recvmsg:ENOMEM", "socketpair:EMFILE",
    "epoll_ctl:ENOMEM", "clone,clone3,fork,vfork:EAGAIN", "timerfd_settime:EINVAL",
] + LONG * [
    "accept4:ENFILE", "accept4:ENOMEM", "accept4:ENOBUFS", "accept4:ECONNABORTED", "accept4:EINTR",
    "accept4:EPROTO", "sendmsg:EAGAIN", "sendmsg:ENOMEM", "sendmsg:EINTR", "sendmsg:ETOOMANYREFS",
    "recvmsg:EINTR", "socketpair:ENFILE", "socketpair:ENOMEM", "setsockopt:ENOMEM",
    "epoll_ctl:ENOSPC", "epoll_wait,epoll_pwait,epoll_pwait2:EINTR", "getsockname:ENOBUFS",
    "clone,clone3,fork,vfork:ENOMEM", "wait4,waitid:EINTR", "poll,ppoll:ENOMEM", "kill:EPERM",
    "close:EIO", "write:EIO", "write:ENOSPC", "openat:EMFILE", "openat:ENOSPC", "getrandom:EINTR",
]


def rules(spec, when):
    calls, _, error = spec.partition(":")
    return [f"{call}:error={error}:when={when}" for call in calls.split(",")]


@pytest.mark.parametrize("spec", IN_MASTER)
def test_93_94_calls_of_the_master_that_fail(server, spec):
    """Once, thrice in a row, and for as long as two logins, the end of a session, the loss of an
    auth process and of a worker take."""
    w = Watched(server, server_stop_grace="0")
    p = w.p
    for when in ("1", "2", "1..3", "2..20+3") if LONG else ("2", "2..20+3"):
        with tampered(p.process.pid, *rules(spec, when)):
            for _ in range(3):
                raw = w.log_in("alice", 3)
                if raw:
                    raw.close()
            for pid in p.auths()[:1]:
                poplar.kill(pid)
        w.serves(f"{spec} {when}")
    with tampered(p.process.pid, *rules(spec, "1+")) as seen:
        start = time.monotonic()
        raw = w.log_in("alice", 1)
        if raw:
            raw.close()
        while time.monotonic() < start + 1 and p.process.poll() is None:
            time.sleep(0.01)
        took = time.monotonic() - start
    failed = sum("INJECTED" in line for line in seen)
    print(f"{spec}: failed {failed} times in {took:.1f} s")
    if not spec.endswith(("EINTR", "ECONNABORTED")):  # these are tried again at once
        assert failed < 100 * took, "it spins"
    if p.process.poll() is not None:  # it may end, if it says why
        print(p.log_text()[-300:])
        assert p.process.returncode > 0, p.process.returncode
        p.stop()
        p.start()
        w.held = w.log_in("bob")
    w.serves(f"{spec}, for good")


def test_94_the_masters_loop(server):
    """A call of its own, which it makes at each tick, fails every other time: no session ends."""
    w = Watched(server)

    def age():
        return json.loads(w.p.ctl("--json", "status").stdout)["workers"]["generation_ms"]
    with tampered(w.p.process.pid, "timerfd_settime:error=EINVAL:when=1+2") as seen:
        began = age()
        wait_until(lambda: age() > began + 3000, "some ticks")
    assert any("INJECTED" in line for line in seen)
    w.serves("timerfd_settime every other time")


IN_AUTH = [
    "openat2:ENOSPC", "openat2:EMFILE", "fsync:EIO", "sendmsg:ENOBUFS", "recvmsg:ENOMEM",
] + LONG * [
    "openat2:EIO", "openat2:ENFILE", "openat2:ENOMEM", "openat2:EACCES", "openat2:EDQUOT",
    "fsync:ENOSPC", "fdatasync:EIO", "mkdirat:ENOSPC", "mkdirat:EDQUOT", "renameat,renameat2:EIO",
    "write:ENOSPC", "write:EDQUOT", "fcntl:ENOLCK", "fcntl:EIO", "newfstatat,fstat:EIO",
    "fstatfs:EIO", "recvmsg:EINTR", "sendmsg:EAGAIN", "sendmsg:EPIPE", "sendmsg:ETOOMANYREFS",
    "sendmsg:ENOMEM", "poll,ppoll:EINTR", "poll,ppoll:ENOMEM", "prctl:EPERM", "setfsuid:EPERM",
    "openat:EMFILE", "openat:EIO", "socket:EMFILE", "close:EIO", "mmap:ENOMEM",
]


@pytest.mark.parametrize("spec", IN_AUTH)
def test_86_93_calls_of_auth_that_fail(server, spec):
    """Once at each of its first places, and always: the login works or is told to come back, nothing
    is left half-made, and afterwards, by the same process or another, all work."""
    w = Watched(server, auth_processes_max="1", auth_timeout="3s")
    p = w.p
    moments = ("1", "2", "3", "4+5", "1+") if LONG else ("1", "1+")
    for n, when in enumerate(moments):
        pid, = wait_until(p.auths, "an auth process")
        with tampered(pid, *rules(spec, when)):
            for user in ("alice", f"new{n}"):
                raw = w.log_in(user, 4)
                if raw:
                    assert raw.ask(b"STAT").startswith(b"+OK "), (spec, when)
                    raw.ask(b"QUIT")
                    raw.close()
        w.serves(f"{spec} {when}")
        raw = w.log_in(f"new{n}")
        assert raw and raw.ask(b"STAT").startswith(b"+OK 0 0"), (spec, when, p.log_text())
        assert raw.ask(b"QUIT").startswith(b"+OK")
        raw.close()
    users = {path.name for path in p.state.glob("mail/??/??/*")}
    assert users == {"alice", "bob", *(f"new{n}" for n in range(len(moments)))}


IN_NURSERY = ["clone:EAGAIN", "recvmsg:ENOMEM"] + LONG * [
    "clone:ENOMEM", "recvmsg:EINTR", "poll,ppoll:EINTR", "poll,ppoll:ENOMEM", "close:EIO",
]


@pytest.mark.parametrize("spec", IN_NURSERY)
def test_94_calls_of_the_nursery_that_fail(server, spec):
    """A worker less, or another nursery: who waits is served as soon as it can be; it is told, and
    not tried without end."""
    w = Watched(server, workers_seccomp="log")  # strace makes another number of what is to fail
    p = w.p
    for when in ("1", "2", "1+"):
        nursery, = wait_until(lambda: len(found := p.nursery()) == 1 and found, "a nursery")
        with tampered(nursery, *rules(spec, when)) as seen:
            start = time.monotonic()
            for _ in range(2):
                raw = w.log_in("alice", 1)
                if raw:
                    raw.close()
            took = time.monotonic() - start
        failed = sum("INJECTED" in line for line in seen)
        print(f"{spec} {when}: failed {failed} times in {took:.1f} s")
        if not spec.endswith("EINTR"):
            assert failed < 100 * (took + 1), "it spins"
        w.serves(f"{spec} {when}")
    if spec.startswith("clone"):
        p.wait_log("cannot fork a worker: ")
