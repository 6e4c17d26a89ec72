"""Maildrops and the server's own end under attack: killed at each system call of QUIT, a disk that
fails under a commit, no room for shared memory, a million messages, a master that is killed again
and again. The numbers in the names are those of the list of abuse cases. LONG=1 does more of it."""

import os
import shutil
import signal
import socket
import sqlite3
import sys
import threading

import pytest

import poplar
from disk import small_disk
from poplar import log_in, wait_until
from strace import strace

LONG = os.environ.get("LONG") == "1"

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"

needs_strace = pytest.mark.skipif(not poplar.ROOT or not shutil.which("strace") or poplar.MEMCHECK,
                                  reason="needs root and strace, which would see valgrind's calls")

DOORS = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])


@pytest.fixture
def store(server):
    def make(**settings):
        return server(**({"tls_required": "not-on-loopback", "workers_max_per_source": "200",
                          "auth_throttle_exempt": "127.0.0.0/8"} | settings))
    return make


def count(p, user="alice"):
    raw = log_in(p, user)
    found = int(raw.ask(b"STAT").split()[1])
    assert raw.ask(b"LIST").startswith(b"+OK %d " % found)
    assert len(raw.multi()) == found
    assert raw.ask(b"QUIT").startswith(b"+OK")
    raw.close()
    return found


def worker_of(p, user):
    pid, = [pid for pid in p.serving()
            if f"/{user}/" in os.readlink(f"/proc/{pid}/fd/6")]
    return pid


def traced(pid, *expressions):
    return strace([pid], *(word for expression in expressions for word in ("-e", expression)))


# QUIT.

def doomed(p, messages, tls=False):
    """A session that has deleted all."""
    raw = log_in(p, tls=tls)
    for n in range(1, messages + 1):
        assert raw.ask(b"DELE %d" % n).startswith(b"+OK")
    return raw


@needs_strace
@DOORS
def test_85_killed_at_each_system_call_of_quit(store, tls):
    """All of it or nothing, and nothing of it where it was not acknowledged."""
    p = store()
    messages = 3
    for _ in range(messages):
        p.add("alice", MESSAGE * 200)
    drop = p.maildrop("alice")
    sound = {name: (drop / name).read_bytes() for name in ("mail.db", "mail.db-wal")}
    outcomes = {0: 0, messages: 0}
    n = 0
    done = False
    while not done:
        n += 1
        raw = doomed(p, messages, tls)
        pid = worker_of(p, "alice")
        with traced(pid, f"inject=all:signal=KILL:when={n}", "signal=none"):
            raw.send(b"QUIT\r\n")
            acknowledged = raw.rest().startswith(b"+OK")
            raw.close()
            wait_until(lambda: pid not in p.serving(), "it ends")
        left = count(p)
        outcomes[left] += 1  # a KeyError is a part of them
        assert not (acknowledged and left), n
        done = f"worker {pid} was ended by signal 9" not in p.log_text()
        if left == 0:
            with open(drop / "lock", "rb"):  # as it was, for the next
                for name, octets in sound.items():
                    (drop / name).write_bytes(octets)
                (drop / "mail.db-shm").write_bytes(b"")
    assert n > 10 and min(outcomes.values()) > 0, (n, outcomes)
    print(f"{n - 1} system calls; kept {outcomes[messages]} times, deleted {outcomes[0]} times")
    database = sqlite3.connect(drop / "mail.db")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


@needs_strace
@pytest.mark.parametrize("call, error", [
    ("fdatasync", "EIO"), ("fdatasync", "ENOSPC"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC"),
    ("pwrite64", "EDQUOT"), ("pread64", "EIO"), ("ftruncate", "EIO"), ("fcntl", "EIO")])
@pytest.mark.parametrize("when", ["1", "2", "1+"])
def test_86_a_disk_that_fails_at_quit(store, call, error, when):
    """-ERR and everything kept, or +OK and everything done; the next session sees which."""
    p = store(workers_seccomp="log")  # strace makes another number of a call that is to fail
    for _ in range(3):
        p.add("alice", MESSAGE)
    raw = doomed(p, 3)
    with traced(worker_of(p, "alice"), f"inject={call}:error={error}:when={when}") as said:
        raw.send(b"QUIT\r\n")
        answer = raw.rest()
        raw.close()
    met = any("INJECTED" in line for line in said)
    assert answer.startswith((b"+OK", b"-ERR [SYS/")), answer
    if (call, when) in (("fdatasync", "1"), ("fdatasync", "1+"), ("pwrite64", "1+")):
        assert met and answer.startswith(b"-ERR [SYS/TEMP]"), (answer, said)
    assert "ended by signal" not in p.log_text()
    assert count(p) == (0 if answer.startswith(b"+OK") else 3), said
    p.add("alice", MESSAGE)
    raw = log_in(p)
    raw.ask(b"DELE 1")
    assert raw.ask(b"QUIT").startswith(b"+OK")


@pytest.mark.skipif(not poplar.NAMESPACES, reason="needs root and a mount namespace")
def test_89_no_room_for_shared_memory(server):
    """A hole in -shm that the disk cannot fill ends that worker, as the kernel has it: it is told
    from a crash, nobody else ends, and with room again all is as it was."""
    p = server(start=False, tls_required="not-on-loopback")
    with small_disk(p, 8):
        for user in ("alice", "bob"):
            p.add(user, MESSAGE)
        held = log_in(p, "bob")
        waiting = p.connect()
        nursery = p.nursery()
        drop = p.maildrop("alice")
        with open(drop / "mail.db-shm", "r+b") as shm:
            shm.truncate(0)
            shm.truncate(32768)
        p.use_up()
        raw = p.connect(tls=False)
        raw.ask(b"USER alice")
        answer = raw.ask(b"PASS secret")
        assert answer == b"" or answer.startswith(b"-ERR [SYS/TEMP]"), answer
        raw.close()
        if answer == b"":
            p.wait_log(r"worker \d+ was ended by signal 7")
        assert held.ask(b"NOOP").startswith(b"+OK")
        assert held.ask(b"RETR 1").startswith(b"+OK")
        held.multi()
        assert waiting.ask(b"CAPA").startswith(b"+OK")
        waiting.multi()
        assert p.nursery() == nursery
        p.free()
        assert count(p) == 1
        p.add("alice", MESSAGE)
        assert count(p) == 2


# Many.

def guard(*totals):
    """What the totals' row has for their check value (store/schema.c)."""
    value = 0x504F504C41520001
    for part in totals:
        value = (value ^ part) * 0x9E3779B97F4A7C15 % (1 << 64)
        value ^= value >> 29
    return value - (1 << 64) if value >> 63 else value


def multiply(drop, messages):
    """The one message that is there so many times, with the longest of UIDLs; content for the first
    alone."""
    database = sqlite3.connect(drop / "mail.db")
    names = [row[1] for row in database.execute("PRAGMA table_info(message)")]
    rest = ", ".join(name for name in names if name not in ("id", "uidl"))
    (size, plain_size), = database.execute("SELECT size, plain_size FROM message").fetchall()
    database.execute(
        f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {messages})"
        f" INSERT INTO message (id, uidl, {rest})"
        f" SELECT i, printf('%070d', i), {rest} FROM n JOIN message ON id = 1")
    totals = messages, messages * size, messages * plain_size, messages
    database.execute("UPDATE state SET messages = ?, octets = ?, plain_octets = ?, last_id = ?,"
                     " guard = ?", (*totals, guard(*totals)))
    database.commit()
    database.close()


@pytest.mark.skipif(not poplar.ROOT, reason="needs root to see a worker's memory")
@DOORS
@pytest.mark.memory
def test_76_list_of_a_million(store, tls):
    """A tenth of that in the short run. LIST and UIDL are complete; what they take of memory is
    bounded by the number of messages, here with the longest of UIDLs."""
    messages = 1_000_000 if LONG else 100_000
    p = store()
    p.add("alice", MESSAGE)
    multiply(p.maildrop("alice"), messages)
    raw = p.connect(tls)
    raw.sock.settimeout(120)
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS secret").startswith(b"+OK")
    pid = worker_of(p, "alice")

    def anonymous():
        return int(p.proc_status(pid)["RssAnon"].split()[0]) * 1024

    before = anonymous()
    assert raw.ask(b"STAT") == b"+OK %d %d\r\n" % (messages, messages * len(MESSAGE))
    for command in (b"LIST", b"UIDL"):
        assert raw.ask(command).startswith(b"+OK")
        found = 0
        while (line := raw.line()) != b".\r\n":
            found += 1
            assert line.startswith(b"%d " % found)
        assert found == messages
    grown = anonymous() - before
    print(f"{messages} messages: {grown >> 10} KiB")
    assert grown < 192 * messages
    assert raw.ask(b"RETR 1").startswith(b"+OK")
    assert b"".join(raw.multi()) == MESSAGE
    assert raw.ask(b"QUIT").startswith(b"+OK")


# A master that is killed.

WRAPPER = """
import os, sys
names = sys.argv[1].split(",")
held = [int(fd) for fd in sys.argv[2].split(",")]
held = [os.dup2(fd, 100 + n, False) for n, fd in enumerate(held)]
for number, fd in enumerate(held, 3):
    os.dup2(fd, number)
os.closerange(3 + len(names), 200)
os.environ |= {"LISTEN_FDS": str(len(names)), "LISTEN_PID": str(os.getpid()),
               "LISTEN_FDNAMES": ":".join(names)}
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_96_killed_master(server):
    """Whoever holds its sockets starts it again: no connection is refused, and each that is made
    after the kill is served."""
    p = server(start=False, tls_required="not-on-loopback", server_program_dir=poplar.BUILD)
    p.add("alice", MESSAGE)
    sockets = []
    for port in (p.port, p.tls_port):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
        s.listen(4096)
        sockets.append(s)
    own = p.command()
    p.write_config(listen_pop3=None, listen_pop3s=None)
    p.pass_fds = [s.fileno() for s in sockets]
    p.command = lambda: [sys.executable, "-c", WRAPPER, "pop3,pop3s",
                         ",".join(map(str, p.pass_fds)), *own]
    refused, greeted, lost = [], [], []
    stop = threading.Event()

    def visit():
        while not stop.is_set():
            try:
                s = socket.create_connection(("127.0.0.1", p.port), 20)
            except OSError as error:
                refused.append(error)
                continue
            try:
                (greeted if s.recv(100).startswith(b"+OK") else lost).append(1)
            except OSError:
                lost.append(1)
            s.close()

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    p.start()
    for v in visitors:
        v.start()
    kills = 1000 if LONG else 15
    try:
        for _ in range(kills):
            before = len(greeted)
            p.stop(signal.SIGKILL)
            p.start()
            wait_until(lambda: len(greeted) > before + 4, "clients are greeted")
    finally:
        stop.set()
        for v in visitors:
            v.join()
    assert not refused, refused[0]
    print(f"{kills} kills: {len(greeted)} greeted, {len(lost)} cut off, none refused")
    assert count(p) == 1
    p.stop()
    for s in sockets:
        s.close()
