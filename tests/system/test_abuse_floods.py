"""Floods: more connections than there are slots, handshakes that stop half-way, clients at an octet
a second, no descriptors, too much to log, and a great many sessions one after the other. The
numbers in the names are those of the list of abuse cases. LONG=1 does more of it, and measures."""

import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import ssl
import threading
import time

import pytest

import poplar
from poplar import wait_until

# A client in a thread of its own that cannot go on is a failure.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

LONG = os.environ.get("LONG") == "1"

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"

DOORS = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])


@pytest.fixture(autouse=True)
def descriptors():
    """As many as are allowed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def floods(server):
    """A server for which every password is right, also in the clear."""
    def make(**settings):
        return server(**({"tls_required": "not-on-loopback", "server_log_level": "info",
                          "auth_throttle_exempt": "127.0.0.0/8", "server_stop_grace": "0"} |
                         settings))
    return make


class Crowd:
    """Connections that say nothing, each from an address of its own unless told otherwise."""

    def __init__(self, port):
        self.port = port
        self.sockets = []

    def come(self, n, source=None):
        for _ in range(n):
            number = len(self.sockets)
            s = socket.socket()
            self.sockets.append(s)
            s.bind((source or f"127.{1 + number // 62500}.{number // 250 % 250}"
                              f".{1 + number % 250}", 0))
            s.settimeout(60)
            s.connect(("127.0.0.1", self.port))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for s in self.sockets:
            s.close()


def status(p):
    """What poplarctl says of sessions and connections."""
    told = json.loads(p.ctl("--json", "status").stdout)
    return {"sessions": told["sessions"]["now"], "waiting": told["sessions"]["waiting"],
            "refused": told["since_start"]["refused"]}


def settled(p):
    wait_until(lambda: status(p)["waiting"] == 0, "nobody waits for a worker", 60)


def log_in(p, tls, user="alice", source="127.200.0.1"):
    """How long a login takes, from the connection to its answer, and the session."""
    start = time.monotonic()
    raw = poplar.Raw(socket.create_connection(("127.0.0.1", p.tls_port if tls else p.port), 60,
                                              (source, 0)))
    raw.sock.settimeout(60)
    if tls:
        raw.start_tls(p.tls_context())
    assert raw.line().startswith(b"+OK")
    assert raw.ask(b"USER " + user.encode()).startswith(b"+OK")
    assert raw.ask(b"PASS secret").startswith(b"+OK")
    return time.monotonic() - start, raw


def bye(raw):
    assert raw.ask(b"QUIT").startswith(b"+OK")
    raw.close()


def processor(pid):
    """Seconds that a process has used."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Connections.

def test_91_all_who_wait_are_served_when_no_more_come(floods):
    """The nursery falls behind by more orders than its queue holds; then nobody else comes, whose
    arrival would have it asked again."""
    p = floods()
    nursery, = wait_until(lambda: len(found := p.nursery()) == 1 and found, "a nursery")
    idle = len(p.workers())
    with Crowd(p.port) as crowd:
        os.kill(nursery, signal.SIGSTOP)
        try:
            crowd.come(idle + 700)
            wait_until(lambda: status(p)["waiting"] == 700, "700 wait", 60)
        finally:
            os.kill(nursery, signal.SIGCONT)
        for s in crowd.sockets:
            assert s.recv(100).startswith(b"+OK")
        assert status(p)["refused"] == 0


@pytest.mark.unsanitized("sanitized workers start too slowly")
@pytest.mark.parametrize("tls, n", [(False, 10_000), (True, 10_000 if LONG else 2500)],
                         ids=["clear", "tls"])
def test_91_thousands_that_say_nothing(floods, tls, n):
    """There are slots for a thousand: the oldest give way, no connection is refused, who is logged
    in stays, and a login works while they come as well as when all have."""
    p = floods()
    took, held = log_in(p, tls, "bob", "127.200.0.2")
    print(f"alone: {took * 1000:.0f} ms")
    with Crowd(p.tls_port if tls else p.port) as crowd:
        crowd.come(n - 1000)
        came = threading.Thread(target=crowd.come, args=(1000,))
        came.start()
        took, raw = log_in(p, tls)
        print(f"while they come: {took * 1000:.0f} ms")
        bye(raw)
        came.join()
        settled(p)
        took, raw = log_in(p, tls)
        print(f"when they are there: {took * 1000:.0f} ms; the master used "
              f"{processor(p.process.pid):.1f} s")
        assert took < (2 if LONG else 30)
        now = status(p)
        assert now["refused"] == 0 and now["sessions"] <= 1024
        assert held.ask(b"NOOP").startswith(b"+OK")
        bye(raw)
        # The latest are those that are still there.
        if not tls:
            assert crowd.sockets[-1].recv(100).startswith(b"+OK")
    bye(held)


@pytest.mark.skipif(not LONG, reason="takes gigabytes: LONG=1")
@pytest.mark.memory
def test_91_ten_thousand_held(floods):
    """With a slot for each of them, all stay."""
    p = floods(workers_max_sessions="11000", session_login_timeout="10m")
    with Crowd(p.port) as crowd:
        for _ in range(20):
            crowd.come(500)
            settled(p)
        assert status(p)["sessions"] >= 10_000
        for tls in (False, True):
            took, raw = log_in(p, tls)
            print(f"tls={tls}: {took * 1000:.0f} ms; the master used "
                  f"{processor(p.process.pid):.1f} s")
            assert took < 2
            bye(raw)
        workers = p.workers()
        pss = sum(proportional(pid) for pid in workers[:20]) / 20
        print(f"an idle session before login: {pss:.0f} KiB of PSS")
        for s in crowd.sockets:
            assert s.recv(100).startswith(b"+OK")
    wait_until(lambda: status(p)["sessions"] == 0, "all leave", 120)


def test_91_a_source_that_crowds(floods):
    """Of many sources the one with most connections gives way, not who came first."""
    p = floods(workers_max_sessions="40", workers_max_per_source="30")
    with Crowd(p.port) as early, Crowd(p.port) as crowd:
        early.come(10)
        crowd.come(30, source="127.99.0.1")
        for _ in range(5):
            took, raw = log_in(p, False)
            bye(raw)
        early.sockets[0].setblocking(False)
        for s in early.sockets:
            assert s.recv(100).startswith(b"+OK")
        assert not select.select(early.sockets, [], [], 0)[0]  # nobody of them was let go
    assert "peer=127.99.0.1:" in p.wait_log("gives way").string


@pytest.mark.parametrize("what", ["told later", "not checked yet"])
def test_91_sources_that_guess(floods, what):
    """Who has failed, and waits to be told, or whose guess waits behind others of its source, keeps
    nobody out. The same guess again and again is not throttled."""
    later = what == "told later"
    p = floods(workers_max_sessions="40", workers_max_per_source="10", auth_throttle_exempt=None,
               auth_failure_delay="60s", auth_processes_min="2", auth_processes_max="2",
               auth_timeout="60s",
               stack=f"auth required @BUILD@/tests/pam_poplar_test.so {'' if later else 'hang'} "
                     "expect=secret\naccount required pam_permit.so\n")
    with Crowd(p.port) as crowd:
        for source in range(4):
            crowd.come(10, source=f"127.99.0.{source + 1}")
        for s in crowd.sockets:
            s.sendall(b"USER mallory\r\nPASS wrong\r\n")
        if later:
            wait_until(lambda: p.log_text().count("login failed") == 40, "all have failed")
        else:
            wait_until(lambda: b"poplar_logins_waiting 39\n" in p.ctl("metrics").stdout,
                       "all but one wait to be checked")
        for n in range(5):
            s = socket.create_connection(("127.0.0.1", p.port), 60, (f"127.200.0.{n + 1}", 0))
            crowd.sockets.append(s)
            assert s.recv(100).startswith(b"+OK")
    assert len(re.findall("peer=127.99.0.* gives way", p.log_text())) == 5


@DOORS
def test_92_two_hundred_from_one_address(floods, tls):
    """Sixty-four are served, as configured; the others are told so, where they can be; other
    addresses are served."""
    p = floods()
    with Crowd(p.tls_port if tls else p.port) as crowd:
        crowd.come(200, source="127.0.0.9")
        wait_until(lambda: status(p)["refused"] == 136, "the others are refused")
        took, raw = log_in(p, tls)
        bye(raw)
        if not tls:
            lines = [s.recv(100) for s in crowd.sockets]
            assert sum(line.startswith(b"+OK") for line in lines) == 64
            assert sum(line.startswith(b"-ERR [SYS/TEMP] ") for line in lines) == 136
    wait_until(lambda: status(p)["sessions"] == 0, "all leave")


def test_62_a_thousand_half_open_handshakes(floods):
    """With half a hello, or none. A slot each, and no longer than the time to log in; a login works
    meanwhile."""
    p = floods(session_login_timeout="8s")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = p.tls_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    with Crowd(p.tls_port) as crowd:
        crowd.come(1000)
        for s in crowd.sockets[::2]:
            with contextlib.suppress(OSError):  # its time may be over
                s.sendall(hello[: len(hello) // 2])
        settled(p)
        for tls in (False, True):
            took, raw = log_in(p, tls)
            print(f"tls={tls}: {took * 1000:.0f} ms")
            bye(raw)
        assert status(p)["refused"] == 0
        for s in crowd.sockets:
            with contextlib.suppress(ConnectionError):
                assert b"+OK" not in s.recv(100)
    wait_until(lambda: status(p)["sessions"] == 0, "all are let go")
    assert "ended by signal" not in p.log_text()


# An octet a second.

def everything(raw):
    """All that comes until the peer closes, in pieces that are large."""
    pieces = [raw.buffer]
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while got := raw.sock.recv(1 << 20):
            pieces.append(got)
    return b"".join(pieces)


def test_88_an_octet_a_second(floods):
    """Readers and writers that slow, of several maildrops, while mail comes in: the WAL stays small,
    deliveries and others' sessions are not held up, and nobody loses a line."""
    p = floods(session_idle_timeout="10m", session_login_timeout="10m")
    large = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 4 + b"\r\n"
    large += b"%08d 0123456789abcdef0123456789abcdef\r\n" % 7 * 200_000
    arriving = b"Subject: arriving\r\n\r\n" + b"0123456789abcdef0123456789abcdef\r\n" * 15_000
    users = [f"user{n}" for n in range(4)]
    sessions = []
    for user in users:
        p.ctl("message", "add", user, input=large)
        for tls in (False, True):
            if tls and user != users[0]:
                continue
            name = user if not tls else "user0tls"
            if tls:
                p.ctl("message", "add", name, input=large)
            raw = p.connect(tls, room=4096)
            raw.ask(b"USER " + name.encode())
            assert raw.ask(b"PASS secret").startswith(b"+OK")
            raw.send(b"RETR 1\r\n")
            sessions.append((name, raw))
    writers = [p.connect(tls=False, source=f"127.0.7.{n + 1}") for n in range(20)]
    stop = threading.Event()

    def slowly():
        line = b"NOOP" + b" " * 200 + b"\r\n"
        for octet in line:
            if stop.wait(1):
                return
            for _, raw in sessions:
                raw.buffer += raw.sock.recv(1)
            for raw in writers:
                raw.send(bytes([octet]))

    largest = 0

    def look():
        nonlocal largest
        wals = [p.maildrop(name) / "mail.db-wal" for name, _ in sessions]
        while not stop.wait(0.002):
            largest = max(largest, *(wal.stat().st_size for wal in wals))

    threads = [threading.Thread(target=slowly), threading.Thread(target=look)]
    for t in threads:
        t.start()
    try:
        for n in range(200 if LONG else 40):
            for name, _ in sessions:
                p.add(name, arriving)
            if n % 10 == 0:
                took, raw = log_in(p, False, "carol")
                bye(raw)
    finally:
        stop.set()
        for t in threads:
            t.join()
    print(f"the largest WAL had {largest >> 10} KiB")
    assert 0 < largest <= 64 << 20
    for name, raw in sessions:
        raw.sock.settimeout(60)
        raw.send(b"QUIT\r\n")
        assert everything(raw).split(b"\r\n", 1)[1] == large + b".\r\n+OK goodbye\r\n"
        raw.close()
    for raw in writers:
        raw.close()


# Descriptors.

def test_93_no_descriptors_left(floods):
    """The master has a few left: what it cannot take waits outside or is told to come back, it does
    not spin, who is logged in goes on; with room again all are served."""
    p = floods(workers_idle_min="1", workers_idle_max="1")
    p.add("bob", MESSAGE)
    took, held = log_in(p, False, "bob")
    early = p.connect(tls=False, source="127.0.8.1")
    master = p.process.pid
    before = resource.prlimit(master, resource.RLIMIT_NOFILE)
    resource.prlimit(master, resource.RLIMIT_NOFILE,
                     (max(map(int, os.listdir(f"/proc/{master}/fd"))) + 8, before[1]))
    with Crowd(p.port) as crowd:
        crowd.come(60)
        p.wait_log("accept: Too many open files")
        used = processor(master)
        start = time.monotonic()
        early.ask(b"USER alice")
        answer = early.ask(b"PASS secret")
        assert answer.startswith((b"+OK", b"-ERR [SYS/TEMP]")), answer
        assert held.ask(b"RETR 1").startswith(b"+OK")
        held.multi()
        wait_until(lambda: len(re.findall("accept: Too many", p.log_text())) > 4, "it pauses")
        assert processor(master) - used < 0.25 * (time.monotonic() - start) + 0.1
        resource.prlimit(master, resource.RLIMIT_NOFILE, before)
        for s in crowd.sockets:
            assert s.recv(100).startswith((b"+OK", b"-ERR [SYS/TEMP]"))
    took, raw = log_in(p, True, "carol")
    for one in (raw, held, early):
        bye(one)


# Log.

def test_101_more_than_the_log_takes(floods):
    """A line or two for each of a great many short sessions: what is too much for a second is
    counted, and the server does its work."""
    p = floods(server_log_level="debug")
    start = time.monotonic()
    stop = threading.Event()

    def knock(n):
        while not stop.is_set():
            with contextlib.suppress(OSError):
                s = socket.create_connection(("127.0.0.1", p.port), 20, (f"127.0.9.{n}", 0))
                s.sendall(b"GET / HTTP/1.0\r\n\r\n" if n % 2 else b"QUIT\r\n")
                s.close()

    threads = [threading.Thread(target=knock, args=(n + 1,)) for n in range(4)]
    for t in threads:
        t.start()
    try:
        for _ in range(5):
            took, raw = log_in(p, False)
            bye(raw)
    finally:
        stop.set()
        for t in threads:
            t.join()
    text = p.log_text()
    written = len(text.splitlines())
    dropped = sum(map(int, re.findall(r"(\d+) log lines? dropped", text)))
    print(f"{written} lines written, {dropped} dropped, in {time.monotonic() - start:.1f} s")
    assert written <= 501 * (time.monotonic() - start + 2)


# Memory.

def proportional(pid):
    """KiB of PSS."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def written(pid):
    """KiB that this process has written to, whoever of its children still shares them just now."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous:"))


def session(p, n):
    """One of several kinds, all of them short."""
    kind = n % 8
    source = f"127.{10 + n // 62500 % 100}.{n // 250 % 250}.{1 + n % 250}"
    with contextlib.suppress(ConnectionError):
        raw = p.connect(tls=kind == 0, source=source)
        if kind == 1:  # a password that is wrong
            raw.ask(b"USER mallory%d" % n)
            raw.ask(b"PASS wrong%d" % n)
        elif kind == 2:  # a line that is too long, then gone
            raw.ask(b"x" * 400)
        elif kind == 3:  # pipelined
            raw.send(b"USER alice%d\r\nPASS secret\r\nSTAT\r\nLIST\r\nQUIT\r\n" % (n % 50))
            raw.rest()
        elif kind == 4:
            raw.send(b"CONNECT x:25 HTTP/1.1\r\n")
            raw.rest()
        else:
            raw.ask(b"USER alice%d" % (n % 50))
            raw.ask(b"PASS secret")
            raw.ask(b"STAT")
            raw.ask(b"QUIT")
        raw.close()


@pytest.mark.skipif(not poplar.ROOT, reason="needs root to see the memory of others")
@pytest.mark.memory
def test_memory_of_many_sessions(floods):
    """Master, auth and nursery are no larger after them than after the first few. Auth processes
    that PAM's modules may make grow are replaced, as configured; here they stay."""
    p = floods(stack="auth required @BUILD@/tests/pam_poplar_test.so expect=secret\n"
                     "account required pam_permit.so\n", auth_requests_per_process="1000000",
               workers_layout_max_age="10h", auth_processes_max="2")

    def visit(numbers):
        threads = [threading.Thread(target=lambda k=k: [session(p, n) for n in numbers[k::4]])
                   for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    def look():
        settled(p)
        wait_until(lambda: status(p)["sessions"] == 0, "all have ended", 60)
        return {f"{name} {pid}": (written(pid), proportional(pid))
                for name, pids in (("master", [p.process.pid]), ("nursery", p.nursery()),
                                   ("auth", p.auths())) for pid in pids}

    sessions = 100_000 if LONG else 3000
    visit(range(1000))
    first = look()
    visit(range(1000, 1000 + sessions))
    last = look()
    for who in first:
        print(f"{who}: written {first[who][0]} KiB, PSS {first[who][1]} KiB; after {sessions} more "
              f"sessions {last[who][0]} and {last[who][1]}")
    assert first.keys() == last.keys()
    for who in first:
        assert last[who][0] <= first[who][0] + 256, who
