"""What code that an attacker runs in a worker gets out of it: forbidden system calls, others' files
and processes, a second login, somebody else's mail. Each is refused, that worker dies, nobody else
notices. The numbers in the names are those of the list of abuse cases.

The worker is tests/support/exploit.c: the real one, and commands that run such code."""

import contextlib
import mmap
import os
import re
import signal
import smtplib
import socket
import struct
import subprocess

import pytest

import poplar
from poplar import BUILD, log_in, wait_until

pytestmark = pytest.mark.skipif(not (BUILD / "tests/exploited").exists(),
                                reason="tests/exploited is not built: make tests")

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"
CONTROL, CLIENT, GRANT = 3, 4, 6  # descriptors of a worker; lock, database, -wal, -shm from 6 on


@pytest.fixture
def exploited(server, tmp_path):
    """A server whose workers obey an attacker; bob is logged in all the while."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "poplar-worker").symlink_to(BUILD / "tests/exploited")
    (programs / "poplar-auth").symlink_to(BUILD / "poplar-auth")
    p = server(server_program_dir=programs, tls_required="not-on-loopback",
               auth_throttle_exempt="127.0.0.0/8", workers_max_per_source="200")
    for user in ("alice", "bob"):
        p.add(user, MESSAGE)
    return p


def call(raw, name, *arguments):
    """The system call's result and errno; None when the worker did not live to tell."""
    words = [a if isinstance(a, str) else str(a) for a in arguments]
    answer = raw.ask(b"XCALL " + " ".join([name, *words]).encode())
    match = re.fullmatch(rb"\+OK (-?\d+) (\d+)\r\n", answer)
    assert match or not answer, answer
    return match and tuple(map(int, match.groups()))


def crashes(p):
    return re.findall(r"worker (\d+) was ended by signal (\d+)", p.log_text())


RW, X = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_EXEC
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
EMPTY_PATH = 0x1000
FORBIDDEN = {
    "open": ("openat", -100, "=/etc/passwd", os.O_RDONLY),
    "open by a number": ("openat", GRANT, "=", os.O_RDONLY),
    "openat2": ("openat2", -100, "=/proc/self/maps", "@", 24),
    "/proc": ("openat", -100, "=/proc/1/environ", os.O_RDONLY),
    "a socket": ("socket", socket.AF_INET, socket.SOCK_STREAM, 0),
    "a netlink socket": ("socket", 16, socket.SOCK_RAW, 0),
    "connect": ("connect", CLIENT, "@", 16),
    "bind": ("bind", CLIENT, "@", 16),
    "accept": ("accept4", CLIENT, 0, 0, 0),
    "execve": ("execve", "=/bin/sh", 0, 0),
    "fork": ("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "a thread": ("clone", 0x50F00, "@", 0, 0, 0),
    "clone3": ("clone3", "@", 88),
    "ptrace": ("ptrace", 16, 1, 0, 0),
    "memory of others": ("process_vm_readv", 1, "@", 1, "@", 1, 0),
    "kill": ("kill", 1, 0),
    "kill all": ("kill", -1, signal.SIGKILL),
    "a signal to itself": ("tgkill", 1, 1, 0),
    "pidfd": ("pidfd_open", 1, 0),
    "prctl": ("prctl", 4, 1, 0, 0, 0),
    "another filter": ("seccomp", 1, 0, "@"),
    "ioctl": ("ioctl", CLIENT, 0x541B, "@"),
    "typing for the terminal": ("ioctl", 0, 0x5412, "@"),
    "dup": ("dup", CLIENT), "dup by fcntl": ("fcntl", GRANT, 0, 0),
    "fcntl on the client": ("fcntl", CLIENT, 4, 0),
    "signals for descriptors": ("fcntl", GRANT, 8, 1),
    "leases": ("fcntl", GRANT + 1, 1024, 0),
    "executable memory": ("mmap", 0, 4096, RW | X, PRIVATE, -1, 0),
    "an executable file": ("mmap", 0, 4096, mmap.PROT_READ | X, mmap.MAP_PRIVATE, GRANT + 1, 0),
    "mprotect": ("mprotect", "@", 4096, RW | X),
    "remap_file_pages": ("remap_file_pages", "@", 4096, X, 0, 0),
    "userfaultfd": ("userfaultfd", 0), "io_uring": ("io_uring_setup", 1, "@"),
    "bpf": ("bpf", 0, "@", 120), "perf": ("perf_event_open", "@", 0, -1, -1, 0),
    "keys": ("keyctl", 0, 0, 0, 0), "memfd": ("memfd_create", "=x", 0),
    "write elsewhere in it": ("pwrite64", CLIENT, "@", 1, 0),
    "the control channel's octets": ("pread64", CONTROL, "@", 1, 0),
    "truncate the client": ("ftruncate", CLIENT, 0),
    "stat by name": ("newfstatat", -100, "=/etc/passwd", "@", 0),
    "stat of a directory entry": ("newfstatat", GRANT, "=x", "@", 0),
    "unlink": ("unlinkat", -100, "=/etc/passwd", 0),
    "rename": ("renameat2", -100, "=a", -100, "=b", 0),
    "a directory": ("mkdirat", -100, "=x", 0o700),
    "setuid": ("setresuid", 0, 0, 0), "capabilities": ("capset", "@", "@"),
    "namespaces": ("unshare", 0x10000000), "chroot": ("chroot", "=."),
    "mount": ("mount", "=a", "=b", "=c", 0, 0), "rlimits": ("prlimit64", 0, 7, "@", 0),
    "a timer": ("timer_create", 0, "@", "@"), "sleep": ("nanosleep", "@", 0),
    "personality": ("personality", 0x0040000), "reboot": ("reboot", 0, 0, 0, 0),
    "a clock": ("clock_settime", 0, "@"), "sendto": ("sendto", CLIENT, "@", 1, 0, "@", 16),
    "shutdown": ("shutdown", CONTROL, 2),
}


@pytest.mark.parametrize("state", ["client", "mail"])
def test_102_forbidden_system_calls(exploited, state):
    """SIGSYS for each; the log says who and how, who is logged in goes on, the next is served."""
    p = exploited
    held = log_in(p, "bob")
    for n, (what, attempt) in enumerate(FORBIDDEN.items(), 1):
        raw = log_in(p) if state == "mail" else p.connect(tls=False)
        assert call(raw, *attempt) is None, what
        raw.close()
        wait_until(lambda: len(crashes(p)) == n, f"{what}: {p.log_text()[-500:]}")
        assert crashes(p)[-1][1] == str(int(signal.SIGSYS)), what
        assert held.ask(b"NOOP").startswith(b"+OK"), what
        p.ctl("reload")  # else each nursery comes later than the one before
    assert held.ask(b"RETR 1").startswith(b"+OK")
    assert b"".join(held.multi()) == MESSAGE
    raw = log_in(p)
    assert raw.ask(b"STAT").startswith(b"+OK 1 ")
    raw.close()


def test_102_memory_in_huge_pages(server, monkeypatch):
    """A worker lives that gets much memory at once where malloc wants huge pages for it: the wish is
    refused. Here it is told to want them; on some machines it does by itself."""
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    p = server(tls_required="no", delivery_accept="any")
    line = "X-Filler: \u00e9".encode() + b"." * 900 + b"\r\n"
    with smtplib.LMTP(str(p.lmtp)) as client:
        assert client.sendmail("x@example.test", ["alice"], line * 900 + b"\r\nbody\r\n",
                               ["SMTPUTF8", "BODY=8BITMIME"]) == {}
    raw = log_in(p)
    assert raw.ask(b"RETR 1").startswith(b"+OK")
    assert b"".join(raw.multi()).endswith(b"\r\nbody\r\n")
    raw.close()
    assert not crashes(p)


@pytest.mark.skipif(not poplar.ROOT, reason="needs root to see a worker's descriptors")
def test_102_allowed_system_calls(exploited):
    """What the filter lets through reaches nothing but the client, the master and one maildrop."""
    p = exploited
    held = log_in(p, "bob")
    for state in ("client", "mail"):
        raw = log_in(p) if state == "mail" else p.connect(tls=False)
        granted = range(GRANT, GRANT + 4) if state == "mail" else ()
        for fd in range(CLIENT + 1, 64):
            if fd not in granted:
                assert call(raw, "read", fd, "@", 1) == (-1, 9), fd  # EBADF
        assert call(raw, "read", 0, "@", 1) == (0, 0)  # /dev/null
        assert call(raw, "recvmsg", CONTROL, "@", 0x40) == (-1, 11)  # nobody says anything now
        assert call(raw, "madvise", 0, 4096, mmap.MADV_HUGEPAGE) == (-1, 38)  # ENOSYS, and no end
        for path in ("/etc/passwd", "/proc/1/environ", "/dev/null", "..", "../../etc/passwd"):
            found = call(raw, "newfstatat", GRANT, f"={path}", "@", EMPTY_PATH)
            assert found[0] == -1 or path == "..", (path, found)
        raw.close()
    pid, = [pid for pid in p.serving()
            if "bob" in os.readlink(f"/proc/{pid}/fd/{GRANT}")]
    opened = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    drop = str(p.maildrop("bob"))
    assert all(path.startswith((f"{drop}/", "socket:", "/dev/null", str(p.log_file), "pipe:"))
               for path in opened), opened
    assert not crashes(p)
    assert held.ask(b"NOOP").startswith(b"+OK")


def test_101_a_worker_writes_to_stderr(exploited):
    """Its lines would look like the master's: nothing of it arrives, but while defects are looked
    for."""
    p = exploited
    for level in ("info", "debug"):
        p.write_config(server_log_level=level)
        p.ctl("reload")
        raw = p.connect(tls=False)
        for fd in (1, 2):
            assert call(raw, "write", fd, f"=FORGED-{level}-{fd}", 8 + len(level)) == \
                (8 + len(level), 0)
        raw.ask(b"QUIT")
        raw.close()
    p.wait_log("FORGED-debug")
    assert "FORGED-info" not in p.log_text() and p.log_text().count("FORGED") == 1


@pytest.mark.skipif(not poplar.ROOT, reason="needs root: users are separated")
def test_102_without_the_filter(server, tmp_path):
    """The floors below it, seen by [workers] seccomp=log: no file, no process of others, no
    privilege, no further process or descriptor."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "poplar-worker").symlink_to(BUILD / "tests/exploited")
    (programs / "poplar-auth").symlink_to(BUILD / "poplar-auth")
    p = server(server_program_dir=programs, tls_required="not-on-loopback", workers_seccomp="log")
    raw = log_in(p)
    master = p.process.pid
    for attempt in (
            ("openat", -100, "=/etc/passwd", os.O_RDONLY), ("openat", -100, "=/proc/self/maps", 0),
            ("openat", -100, f"={p.certificate}", 0), ("openat", -100, f"={p.key}", 0),
            ("openat", -100, f"={p.state}", 0), ("openat", -100, "=new", os.O_CREAT | 1, 0o600),
            ("openat", -100, "=../../../etc/passwd", 0), ("mkdirat", -100, "=new", 0o700),
            ("execve", "=/bin/sh", 0, 0), ("chroot", "=."), ("mount", "=a", "=/", "=tmpfs", 0, 0),
            ("kill", master, signal.SIGTERM), ("kill", p.auths()[0], signal.SIGKILL),
            ("ptrace", 16, master, 0, 0), ("clone", signal.SIGCHLD, 0, 0, 0, 0),
            ("setresuid", 0, 0, 0), ("setresgid", 0, 0, 0), ("unshare", 0x20000)):
        result = call(raw, *attempt)
        assert result and result[0] == -1, (attempt, result)
    assert call(raw, "dup", CLIENT) == (5, 0)
    assert call(raw, "dup", CLIENT) == (10, 0)
    assert call(raw, "dup", CLIENT) == (-1, 24)  # EMFILE
    assert raw.ask(b"QUIT").startswith(b"+OK")
    assert os.listdir(p.state) == ["mail"]


def rows():
    """Types of records by name, as the C code has them."""
    text = subprocess.run([BUILD / "tests/rogue", "--rows"], check=True, capture_output=True,
                          text=True).stdout
    return {line.split()[1]: int(line.split()[0]) for line in text.splitlines()}


def record(name, *fields):
    """Numbers are of 32 bits, octets as they are."""
    octets = bytes([rows()[name]])
    for field in fields:
        value = field if isinstance(field, bytes) else struct.pack("<I", field)
        octets += struct.pack("<I", len(value)) + value
    return octets.hex()


FORGED = {
    # state, descriptors, record
    "a second login": ("mail", 0, "login-wanted"),
    "a delivery": ("mail", 0, "recipient", b"bob", 2),
    "a delivery before login": ("client", 0, "recipient", b"bob", 2),
    "a grant before login": ("client", 0, "grant-again"),
    "an address": ("client", 0, "real-address", b"192.0.2.1:4711"),
    "ready once more": ("mail", 0, "ready", bytes(8)),
    "the nursery's word": ("client", 0, "fork-failed", 11),
    "auth's word": ("client", 0, "outcome", bytes(8), 0, b"bob", bytes(8)),
    "the master's word": ("client", 0, "settled", 0),
    "poplarctl's word": ("mail", 0, "reload"),
    "credentials for the master": ("client", 0, "begin", b"PASS", b"bob", b"secret"),
    "descriptors with a line for the log": ("mail", 4, "log", 4, b"x"),
}


@pytest.mark.parametrize("way", ["clear", "tls"])
def test_103_forged_records(exploited, way):
    """From inside the sandbox: that worker is killed, once and with a line; nobody else is."""
    p = exploited
    held = log_in(p, "bob")
    for n, (what, (state, fds, *parts)) in enumerate(FORGED.items(), 1):
        raw = p.connect(tls=way == "tls")
        if state == "mail":
            def attempt():
                raw.ask(b"USER alice")
                return raw.ask(b"PASS secret").startswith(b"+OK")
            wait_until(attempt, what)
        with contextlib.suppress(ConnectionError):
            raw.send(f"XSEND {fds} {record(*parts)}\r\n".encode())
        wait_until(lambda: len(re.findall("killing worker", p.log_text())) == n, what)
        raw.rest()
        raw.close()
        assert held.ask(b"NOOP").startswith(b"+OK"), what
    assert not crashes(p)  # killed by the master: no reason to change the layout
    log_in(p).close()
    assert sorted(path.name for path in p.state.glob("mail/??/??/*")) == ["alice", "bob"]


def layout(pid):
    """Where a process has its program, its libraries, its stack and its heap."""
    found = {}
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            fields = line.split()
            if len(fields) > 5:
                name = os.path.basename(fields[5])
                found.setdefault(name, fields[0].split("-")[0])
    return {name: found[name] for name in ("poplar-worker", "exploited", "libc.so.6", "[stack]",
                                           "[heap]", "[vdso]") if name in found}


@pytest.mark.skipif(not poplar.ROOT, reason="needs root to see the layout of others")
def test_105_layout_after_a_crash(exploited):
    """Nothing that a crash taught about addresses is true of the generation that follows; the
    workers before it are gone but for who is logged in."""
    p = exploited
    held = log_in(p, "bob")
    seen = {}

    def look():
        nursery, = wait_until(lambda: len(found := p.nursery()) == 1 and found, "one nursery")
        for name, where in layout(nursery).items():
            seen.setdefault(name, []).append(where)
        return nursery

    for _ in range(5):
        nursery = look()
        before = set(p.workers()) - set(p.serving())
        raw = p.connect(tls=False)
        assert call(raw, "getppid") is None
        raw.close()
        wait_until(lambda: p.nursery() and p.nursery() != [nursery], "another nursery")
        wait_until(lambda: not before & set(p.workers()), "its workers end")
        assert held.ask(b"NOOP").startswith(b"+OK")
        look()
        p.ctl("reload")
    assert {"libc.so.6", "[stack]"} <= seen.keys(), seen.keys()  # a sanitizer has no heap there
    for name, places in seen.items():
        assert len(set(places)) == len(places) == 10, (name, places)
