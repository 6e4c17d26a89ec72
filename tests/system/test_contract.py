"""Records between processes, out of order, malformed or untrue, against a running master: the
sender is killed, the master lives and says so once, and honest children then serve again.

The rogue children are tests/support/rogue.c; what they do wrong is written here. The numbers in
the names are those of the list of abuse cases."""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import time
from types import SimpleNamespace

import pytest

import poplar
from poplar import BUILD, wait_until

pytestmark = pytest.mark.skipif(not (BUILD / "tests/rogue").exists(),
                                reason="tests/rogue is not built: make tests")

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"


def run_rogue(option):
    if not (BUILD / "tests/rogue").exists():
        return ""
    return subprocess.run([BUILD / "tests/rogue", option], check=True, capture_output=True,
                          text=True).stdout


def read_rows():
    """The table of the contract, as the C code has it."""
    rows = []
    for line in run_rogue("--rows").splitlines():
        words = line.split()
        numbers = [int(words[0]), *map(int, words[2:9])]
        keys = ("type", "frm", "to", "states", "max_size", "min_fds", "max_fds", "once")
        rows.append(SimpleNamespace(name=words[1], fields=words[9].strip('"'),
                                    **dict(zip(keys, numbers))))
    return rows


ROWS = read_rows()
ROW = {row.name: row for row in ROWS}
NUMBERS = {k: int(v) for k, v in map(str.split, run_rogue("--names").splitlines())}


class Record:
    """One record as octets, and how many descriptors go with it."""

    def __init__(self, octets, fds=0):
        self.octets, self.fds = octets, fds

    def __str__(self):
        return f"{self.fds} {self.octets.hex()}"


def field(kind, value):
    octets = {"u": lambda: struct.pack("<I", value), "q": lambda: struct.pack("<Q", value),
              "s": lambda: value, "b": lambda: value}[kind]()
    return struct.pack("<I", len(octets)) + octets


def record(name, *values, fds=None):
    """Well-formed; with no values given, harmless ones."""
    row = ROW[name]
    if not values:
        if name == "ready":
            values = (NUMBERS["fingerprint"],)
        else:
            values = [0 if kind in "uq" else b"x" for kind in row.fields]
    octets = bytes([row.type]) + b"".join(map(field, row.fields, values))
    return Record(octets, row.min_fds if fds is None else fds)


def malformed(row):
    """Each way in which this row's record can be wrong by itself, with the word for it."""
    good = record(row.name)
    yield "trailing", Record(good.octets + b"\0", good.fds)
    if row.fields:
        yield "truncated", Record(good.octets[:-1], good.fds)
        yield "no field", Record(good.octets[:1], good.fds)
        yield "length", Record(good.octets[:1] + b"\xff\xff\xff\xff" + good.octets[5:], good.fds)
    yield "oversized", Record(good.octets + bytes(row.max_size + 1 - len(good.octets)), good.fds)
    yield "beyond any", Record(good.octets + bytes(NUMBERS["message_max"]), good.fds)
    yield "more descriptors", Record(good.octets, row.max_fds + 1)
    yield "many descriptors", Record(good.octets, 16)
    if row.min_fds:
        yield "fewer descriptors", Record(good.octets, row.min_fds - 1)
    if "s" in row.fields:
        values = [0 if kind in "uq" else b"a\0b" for kind in row.fields]
        yield "text with NUL", record(row.name, *values)


def wrong_records(role, state):
    """Every row by this sender in this state: as it is where the table forbids it, else in every
    malformed way; and what is no row at all."""
    for row in ROWS:
        allowed = (row.frm & NUMBERS[role] and row.to & NUMBERS["master"]
                   and row.states & NUMBERS[state])
        if not allowed:
            yield row.name, [record(row.name)]
            continue
        for how, bad in malformed(row):
            yield f"{row.name}, {how}", [bad]
    for number in (0, len(ROWS) + 1, 255):
        yield f"type {number}", [Record(bytes([number]))]
    yield "empty", [Record(b"")]
    yield "empty with descriptors", [Record(b"", 4)]


class Rogues:
    """A server whose program_dir holds rogues in place of some of the real programs."""

    def __init__(self, make, directory, *names, **settings):
        self.programs = directory / "programs"
        self.programs.mkdir()
        self.script = self.programs / "script"
        self.server = make(start=False, server_program_dir=self.programs, workers_idle_min="1",
                           workers_idle_max="1", auth_processes_min="1",
                           auth_throttle_exempt="127.0.0.0/8", **settings)
        for name in ("poplar-worker", "poplar-auth"):
            self.put(name, real=name not in names)

    def put(self, name, real=True):
        path = self.programs / name
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        path.symlink_to(BUILD / (name if real else "tests/rogue"))

    def start(self):
        self.server.start()
        self.master = self.server.process.pid
        return self.server

    def tell(self, who, *lines):
        """Leave a script for a role at a moment."""
        for taken in self.programs.glob("script.*"):
            taken.unlink()
        unfinished = self.programs / "unfinished"
        unfinished.write_text("\n".join((who, *lines)) + "\n")
        unfinished.rename(self.script)

    def taken(self):
        """The pid of whoever took the script, once it did."""
        def find():
            for path in self.programs.glob("script.*"):
                return int(path.suffix[1:])
            return None
        return wait_until(find, "the script is taken")

    def gone(self, pid):
        state = self.server.proc_status(pid).get("State", "Z")
        return state[0] == "Z"

    def punished(self, pid, what):
        wait_until(lambda: self.gone(pid), f"{what}: {pid} is killed\n{self.server.log_text()}")
        self.alive(what)

    def alive(self, what):
        assert self.server.process.poll() is None, f"{what}: the master died"
        assert self.server.process.pid == self.master

    def honest_again(self):
        """The real programs come back, by a reload; then everything works."""
        p = self.server
        with contextlib.suppress(FileNotFoundError):
            self.script.unlink()
        self.put("poplar-worker")
        self.put("poplar-auth")
        p.ctl("reload")
        client = p.login()
        assert client.retr(1)[1]
        client.quit()
        self.alive("after the reload")

    def lines(self, pattern):
        return re.findall(pattern, self.server.log_text())


@pytest.fixture
def rogues(server, tmp_path):
    def make(*names, **settings):
        r = Rogues(server, tmp_path, *names, **settings)
        r.server.ctl("message", "add", "alice", input=MESSAGE)
        return r
    return make


@contextlib.contextmanager
def refusing(r):
    """PAM lets nobody in; afterwards everybody again, as an honest worker finds."""
    r.server.stack("auth required pam_deny.so\naccount required pam_permit.so\n")
    yield
    r.server.stack("auth required pam_permit.so\naccount required pam_permit.so\n")
    r.honest_again()


CREDENTIALS = (b"PASS", b"alice", b"secret")

# How a worker that has its client gets where the state is.
WAY = {
    "client": [],
    "login": [f"send {record('login-wanted')}" if ROWS else ""],
    "mail": [f"send {record('login-wanted')}", f"await {ROW['exchange'].type}",
             f"exchange {record('begin', *CREDENTIALS)}", "verdict"] if ROWS else [],
    "done": [f"send {record('summary')}"] if ROWS else [],
}


def killed_for(r, what, way, lines, client):
    """A worker says these lines, with a client that is made for it. It is killed for the last, and that
    is told once."""
    before = len(r.lines("it sent a record"))
    r.tell(way, *lines)
    with client():
        pid = r.taken()
        r.punished(pid, what)
    said = wait_until(lambda: r.lines("it sent a record")[before:], what)
    assert len(said) == 1, what
    assert r.lines(rf"killing worker {pid}: it sent a record \w+"), what


@pytest.mark.parametrize("state", ["starting", "idle", *WAY])
def test_103_records_of_a_worker(rogues, state):
    """Every row that a worker may not send (now), and every malformed one that it may."""
    r = rogues("poplar-worker", workers_max_sessions="8")
    p = r.start()
    client = {"starting": lambda: another_worker(r), "idle": contextlib.nullcontext}.get(
        state, lambda: p.connect(tls=False, greeting=False).sock)
    for what, records in wrong_records("worker", state):
        killed_for(r, what, f"worker {'client' if state in WAY else state}",
                   [*WAY.get(state, []), *(f"send {one}" for one in records)], client)
    r.honest_again()


@pytest.mark.parametrize("state", ["delivery", "done"])
def test_records_of_a_worker_that_delivers(rogues, state):
    """The same of a worker whose client speaks LMTP, before and after its last word."""
    r = rogues("poplar-worker", workers_max_sessions="8")
    p = r.start()
    for what, records in wrong_records("worker", state):
        killed_for(r, what, "worker client",
                   [*WAY.get(state, []), *(f"send {one}" for one in records)], lambda: deliverer(p))
    r.honest_again()


@contextlib.contextmanager
def deliverer(p):
    """A client of the LMTP socket."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(p.lmtp))
        yield s


@contextlib.contextmanager
def another_worker(r):
    """A client takes the idle worker, so that another one is made."""
    with r.server.connect(tls=False, greeting=False).sock:
        yield


@pytest.mark.parametrize("state", ["starting", "idle"])
def test_103_records_of_a_nursery(rogues, state):
    """The same of the nursery. One that starts fails the reload that wanted it, and no more."""
    r = rogues("poplar-worker")
    p = r.start()
    for what, records in wrong_records("nursery", state):
        before = len(r.lines("killing the nursery: it sent a record"))
        r.tell(f"nursery {state}", *[f"send {one}" for one in records])
        if state == "starting":
            assert p.ctl("reload", check=False).returncode != 0, what
        pid = r.taken()
        r.punished(pid, what)
        wait_until(lambda: r.lines("killing the nursery: it sent a record")[before:], what)
        if state != "starting":
            p.ctl("reload")  # else each comes later than the one before
            wait_until(lambda: sum(not p.is_forked(pid) for pid in p.children("poplar-worker")) == 1,
                       "the one before has ended")
    r.honest_again()


@pytest.mark.parametrize("role, name", [("nursery", "poplar-worker"), ("auth", "poplar-auth")])
def test_who_stays_after_the_end_of_its_channel(rogues, role, name):
    """A reload replaces it. An honest one ends by itself then, another is ended."""
    r = rogues(name)
    p = r.start()
    r.tell(f"{role} idle")
    pid = r.taken()
    p.ctl("reload")
    r.punished(pid, "who was replaced")
    assert r.lines(f"killing .*{pid}: it goes on after the end of its channel")
    r.honest_again()


@pytest.mark.parametrize("state", ["starting", "idle", "busy"])
def test_103_records_of_an_auth_process(rogues, state):
    """The same of an auth process: its client is told that logins cannot be checked."""
    r = rogues("poplar-auth", auth_processes_max="1")
    p = r.start()
    for what, records in wrong_records("auth", state):
        before = len(r.lines("killing auth process"))
        r.tell(f"auth {state}", *[f"send {one}" for one in records])
        if state == "starting":
            assert p.ctl("reload", check=False).returncode != 0, what
        elif state == "busy":
            raw = p.connect()
            raw.ask(b"USER alice")
            assert raw.ask(b"PASS secret").startswith(b"-ERR [SYS/TEMP]"), what
            raw.close()
        pid = r.taken()
        r.punished(pid, what)
        said = wait_until(lambda: r.lines("killing auth process")[before:], what)
        assert len(said) == 1, what
        if state != "starting":
            refused_politely(p)
    r.honest_again()


def refused_politely(server):
    """An exchange that goes by the rules, though with no success: no back-off follows."""
    raw = server.connect()
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS secret").startswith(b"-ERR [SYS/TEMP]")
    raw.close()


def test_103_records_on_an_exchange(rogues):
    """What a worker may not tell auth: auth lives, the master kills the worker."""
    r = rogues("poplar-worker", auth_processes_max="1")
    p = r.start()
    auth = wait_until(lambda: p.auths(), "an auth process")
    bad = [(row.name, record(row.name)) for row in ROWS if row.name != "begin"]
    bad += [(f"begin, {how}", octets) for how, octets in malformed(ROW["begin"])]
    bad += [("type 0", Record(b"\0")), ("type 255", Record(b"\xff"))]
    for what, one in bad:
        before = len(r.lines("it sent a bad record to auth"))
        r.tell("worker client", f"send {record('login-wanted')}",
               f"await {ROW['exchange'].type}", f"exchange {one}")
        with p.connect(tls=False, greeting=False).sock:
            pid = r.taken()
            r.punished(pid, what)
        assert len(r.lines("it sent a bad record to auth")) == before + 1, what
        assert p.auths() == auth, what
    r.honest_again()


@pytest.mark.parametrize("values", [
    (b"PASS", b"alice", b""),
    (b"PASS", b"alice", b"a\0b"),
    (b"PASS", b"alice", b"a\r\nb"),
    (b"PASS", b"alice", b"x" * 501),
    (b"PASS", b"", b"secret"),
    (b"PASS", b"../../etc/passwd", b"secret"),
    (b"PASS", b"a/b", b"secret"),
    (b"PASS", b".", b"secret"),
    (b"PASS", b"..", b"secret"),
    (b"PASS", b"x" * 251, b"secret"),
    (b"PASS", b"al\tice", b"secret"),
    (b"M" * 40, b"alice", b"secret"),
], ids=lambda v: repr(b"|".join(v))[:30])
def test_credentials_that_no_worker_would_send(rogues, values):
    """Well-formed, but beyond the bounds that an honest worker keeps: refused, whoever PAM would
    let in, and nothing is made outside the maildrops."""
    r = rogues("poplar-worker")
    p = r.start()
    r.tell("worker client", f"send {record('login-wanted')}", f"await {ROW['exchange'].type}",
           f"exchange {record('begin', *values)}", "verdict", "exit 0")
    with p.connect(tls=False, greeting=False).sock:
        r.taken()
        p.wait_log("login failed: .*reason=denied")
    assert os.listdir(p.state) == ["mail"]
    r.honest_again()


def test_records_of_poplarctl(rogues):
    """A visitor of the control socket who breaks the contract is shown out; the next is served."""
    r = rogues()
    p = r.start()
    own = [row for row in ROWS if row.frm & NUMBERS["ctl"]]
    bad = [(row.name, record(row.name)) for row in ROWS if row not in own]
    bad += [(f"{row.name}, {how}", one) for row in own for how, one in malformed(row)]
    bad += [("type 0", Record(b"\0")), ("empty", Record(b""))]
    for what, one in bad:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(20)
            s.connect(str(p.run / "control"))
            socket.send_fds(s, [one.octets], [0] * one.fds)
            with contextlib.suppress(ConnectionResetError):
                assert s.recv(100) == b"", what
    assert b"sessions" in p.ctl("status").stdout
    r.honest_again()


# What only the master can see to be wrong, or to be a lie.

def works(p):
    client = p.login()
    assert client.retr(1)[1]
    client.quit()


def abuse(r, *lines, moment="worker client"):
    """Run a script in a worker with a client; the worker is killed."""
    r.tell(moment, *lines)
    with r.server.connect(tls=False, greeting=False).sock:
        pid = r.taken()
        r.punished(pid, lines)
    return pid


def serves(r):
    """Rogue workers are still made, and reach clients."""
    r.tell("worker client", "exit 0")
    with r.server.connect(tls=False, greeting=False).sock:
        r.taken()
    wait_until(lambda: not r.script.exists(), "a worker is served")


def test_worker_of_another_build(rogues):
    """A worker whose fingerprint differs from its nursery's is no honest worker."""
    r = rogues("poplar-worker")
    r.start()
    for _ in range(20):  # each that is not let go of would count as starting for ever
        r.tell("worker starting", f"send {record('ready', 1)}")
        with another_worker(r):
            r.punished(r.taken(), "fingerprint")
    serves(r)
    r.honest_again()


@pytest.mark.parametrize("secret, attempts", [(b"secret", 9), (b"secret%d", 3)])
def test_login_without_end(rogues, secret, attempts):
    """Attempts are counted by the master: the worker that goes on after the last is killed. Of guesses
    there are three, of what is repeated some more."""
    r = rogues("poplar-worker")
    r.start()
    script = []
    for n in range(20):
        begin = record("begin", b"PASS", b"alice", secret.replace(b"%d", b"%d" % n))
        script += [*WAY["mail"][:2], f"exchange {begin}", "verdict", f"await {ROW['settled'].type}"]
    with refusing(r):
        abuse(r, *script)
        assert len(r.lines("login failed")) == attempts
        assert len(r.lines("killing worker")) == 1


def test_login_while_the_answer_is_withheld(rogues):
    """The delay of a failure is the master's too: no second attempt in its time."""
    r = rogues("poplar-worker", auth_failure_delay="60s")
    r.start()
    with refusing(r):
        abuse(r, *WAY["mail"], f"send {record('login-wanted')}")


def test_summary_while_the_answer_is_withheld(rogues):
    """The session is over, its login is still to be settled: the master must not stumble."""
    r = rogues("poplar-worker", auth_failure_delay="1s")
    p = r.start()
    with refusing(r):
        r.tell("worker client", *WAY["mail"], f"send {record('summary')}")
        with p.connect(tls=False, greeting=False).sock:
            pid = r.taken()
            r.punished(pid, "a summary, then nothing")  # it stays, and is killed for it


def test_summary_while_waiting_for_an_auth_process(rogues):
    """The session is over before an auth process was free for it."""
    r = rogues("poplar-worker", auth_processes_max="1")
    p = r.start()
    auth = wait_until(lambda: p.auths(), "an auth process")[0]
    os.kill(auth, signal.SIGSTOP)
    r.tell("worker client", f"send {record('login-wanted')}")
    first = p.connect(tls=False, greeting=False)
    r.taken()
    wait_until(lambda: b"1 busy" in p.ctl("status").stdout, "the auth process is taken")
    r.tell("worker client", f"send {record('login-wanted')}", f"send {record('summary')}")
    second = p.connect(tls=False, greeting=False)
    r.taken()
    p.wait_log("session ended")
    os.kill(auth, signal.SIGKILL)
    first.close()
    second.close()
    wait_until(lambda: p.auths() and p.auths() != [auth], "another auth process")
    r.honest_again()


def test_guesses_of_who_has_gone(rogues):
    """A summary ends the session for the master, not the login under way: what auth says of that
    counts, though there is nobody left to be told. Else each connection had a guess for nothing."""
    r = rogues("poplar-worker")
    r.server.write_config(auth_throttle_exempt=None)
    p = r.start()
    with refusing(r):
        n = 0
        while not r.lines("throttled: peer=127.0.0.1"):
            r.tell("worker client", f"send {record('login-wanted')}",
                   f"await {ROW['exchange'].type}",
                   f"exchange {record('begin', b'PASS', b'alice', b'wrong%d' % n)}",
                   f"send {record('summary')}", "verdict", "exit 0")
            with p.connect(tls=False, greeting=False).sock as sock:
                r.taken()
                assert sock.recv(100) == b""
            wait_until(
                lambda: len(r.lines("login failed: peer=127.0.0.1:[0-9]+ user=alice")) == n + 1,
                "it is told and counted")
            p.ctl("status")  # what follows from it is told by now, too
            n += 1
        assert n >= 20
        p.write_config(auth_throttle_exempt="127.0.0.0/8")


def test_grants_without_end(rogues):
    """PROTO_GRANT_AGAIN: some are honest, more are not."""
    r = rogues("poplar-worker")
    r.start()
    again = [f"send {record('grant-again')}", f"await {ROW['exchange'].type}", "verdict"]
    pid = abuse(r, *WAY["mail"], *again * 20)
    assert len(r.lines(f"killing worker {pid}")) == 1
    assert r.lines(f"killing worker {pid}: it asks too often")
    r.honest_again()


def test_grants_at_once(rogues):
    """Either the second comes while the first is owed, or there are more than may be."""
    r = rogues("poplar-worker")
    p = r.start()
    pid = abuse(r, *WAY["mail"], *[f"send {record('grant-again')}"] * 8)
    assert r.lines(f"killing worker {pid}: it asks too often")
    assert p.process.poll() is None
    r.honest_again()


LOGIN, GRANT, ASK, TAKE, OPEN, FIRST = 1, 2, 3, 4, 5, 6  # enum proto_service


def asking(name, service):
    """A worker asks about a recipient, and waits for the verdict."""
    return [f"send {record('recipient', name, service)}", f"await {ROW['exchange'].type}",
            "verdict"]


@pytest.mark.parametrize("name, service", [
    (b"alice", 0), (b"alice", LOGIN), (b"alice", GRANT), (b"alice", FIRST + 1),
    (b"alice", 0xffffffff), (b"x" * 321, ASK)])
def test_recipients_that_nobody_would_ask_for(rogues, name, service):
    """The record is well-formed; what it asks for is nothing that there is."""
    r = rogues("poplar-worker")
    p = r.start()
    r.tell("worker client", f"send {record('recipient', name, service)}")
    with deliverer(p):
        pid = r.taken()
        r.punished(pid, "a recipient")
    assert len(r.lines(f"killing worker {pid}: it asks about a recipient that cannot be")) == 1
    r.honest_again()


def test_recipients_asked_for_at_once(rogues):
    """One is served, one may wait: the worker may have lacked the memory to hear how that ended. More
    is no honest worker."""
    r = rogues("poplar-worker", auth_processes_max="1")
    p = r.start()
    auth = wait_until(lambda: p.auths(), "an auth process")[0]
    os.kill(auth, signal.SIGSTOP)
    ask = f"send {record('recipient', b'alice', ASK)}"
    r.tell("worker client", *[ask] * 3)
    with deliverer(p):
        pid = r.taken()
        r.punished(pid, "three at once")
    assert len(r.lines(f"killing worker {pid}: it asks too often")) == 1
    os.kill(auth, signal.SIGCONT)
    r.honest_again()
    assert p.process.poll() is None


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"../../etc/passwd", b"a/b", b"al\tice",
                                  b"alice\n", b"\xff\xfe", b"x" * 320, b"@", b"+", b"%2e%2e"])
def test_recipients_that_no_worker_would_name(rogues, name):
    """Within the contract, beyond what an honest worker lets through: whatever auth makes of it,
    nothing is made outside the maildrops."""
    r = rogues("poplar-worker", delivery_accept="any")
    p = r.start()
    r.tell("worker client", *asking(name, ASK), *asking(name, TAKE), *asking(name, OPEN),
           *asking(name, FIRST), "exit 0")
    with deliverer(p):
        pid = r.taken()
        wait_until(lambda: r.gone(pid), "the worker's end")
    assert os.listdir(p.state) == ["mail"]
    for path in p.state.glob("mail/??/??/*"):
        assert sorted(os.listdir(path)) == ["lock", "mail.db", "mail.db-shm", "mail.db-wal"]
    r.honest_again()


@pytest.mark.skipif(not poplar.ROOT, reason="needs root: connections of another user")
def test_deliverer_that_claims_another_user(rogues):
    """Who is at the other end is known from the kernel: a worker that its client took over gets no
    maildrop that this client could not deliver to."""
    r = rogues("poplar-worker", delivery_trusted="root", auth_canonical="pam")
    p = r.start()
    for uid, service, said in ((0, OPEN, "ok, files"), (0, TAKE, "ok, files"),
                               (0, ASK, "ok, no files"),
                               (65534, ASK, "not-by-this-peer, no files"),
                               (65534, TAKE, "not-by-this-peer, no files"),
                               (65534, OPEN, "not-by-this-peer, no files")):
        r.tell("worker client", *asking(b"alice", service), f"send {record('grant-again')}")
        os.seteuid(uid)
        try:
            with deliverer(p):
                r.punished(r.taken(), "a grant")
        finally:
            os.seteuid(0)
        assert r.lines("rogue: verdict (.*)")[-1] == said
    r.honest_again()


def test_summary_with_forged_lines(rogues):
    """What a worker says of its session is escaped: it cannot write lines of its own."""
    r = rogues("poplar-worker")
    p = r.start()
    forged = b"a\nFORGED\x1b[31m\xff\xc2\x9b"
    r.tell("worker client", f"send {record('log', 3, forged)}",
           f"send {record('summary', 1, 0, 0, 0, 0, 0, forged, forged, forged, forged)}", "exit 0")
    with p.connect(tls=False, greeting=False).sock:
        r.taken()
        p.wait_log("session ended")
    assert not [line for line in p.log_text().split("\n") if line.startswith("FORGED")]
    assert not set("\x1b\x9b\ufffd") & set(p.log_text())
    r.honest_again()


@pytest.mark.parametrize("who", ["nursery", "auth"])
def test_log_with_forged_lines(rogues, who):
    r = rogues(f"poplar-{'worker' if who == 'nursery' else 'auth'}")
    p = r.start()
    r.tell(f"{who} idle", f"send {record('log', 3, bytes(10 * [10]) + b'FORGED')}")
    r.taken()
    p.wait_log("FORGED")
    assert not [line for line in p.log_text().split("\n") if line.startswith("FORGED")]
    r.honest_again()


def test_101_flood_of_log_records(rogues):
    """Limited, and each line that is left out counted, also where no other comes that the count could
    go before; the master does its work meanwhile. Where it is too slow for more than it would log,
    all are there."""
    r = rogues("poplar-worker")
    p = r.start()
    records, start = 5000, time.monotonic()
    r.tell("worker client", *[f"send {record('log', 4, b'flood')}"] * records)

    def told():
        return len(r.lines("flood")) + sum(map(int, r.lines(r"(\d+) log lines? dropped")))
    with p.connect(tls=False, greeting=False).sock:
        r.taken()
        assert b"sessions" in p.ctl("status").stdout
        wait_until(lambda: told() >= records, lambda: f"the count: {told()}", 60)
    assert len(r.lines("flood")) <= 500 * (time.monotonic() - start + 2)  # it begins within a second
    r.honest_again()


@pytest.mark.parametrize("moment", ["worker idle", "worker client",
                                    "nursery starting", "nursery idle", "auth starting",
                                    "auth idle", "auth busy"])
def test_closed_channel(rogues, moment):
    """Who closes the channel to the master and stays has no further use: it is killed, and what
    it stood for is made anew."""
    r = rogues("poplar-auth" if "auth" in moment else "poplar-worker")
    p = r.start()
    r.tell(moment, "close")
    if moment.endswith("starting"):
        assert p.ctl("reload", check=False).returncode != 0
    raw = p.connect(tls=False, greeting=False) if moment == "worker client" else None
    if moment == "auth busy":
        raw = p.connect()
        raw.ask(b"USER alice")
        assert raw.ask(b"PASS secret").startswith(b"-ERR [SYS/TEMP]")
    r.punished(r.taken(), moment)
    if raw:
        raw.close()
    if "auth" not in moment:
        serves(r)
    r.honest_again()


def test_worker_that_leaves_before_it_is_ready(rogues):
    """Nobody knows its pid yet; the master lets go of it, and says so: else nobody would learn why all
    wait. Once a second is enough."""
    r = rogues("poplar-worker")
    r.start()
    left, start = [], time.monotonic()
    for _ in range(20):
        r.tell("worker starting", "exit 1")
        with another_worker(r):
            left.append(r.taken())
    said = r.lines(r"worker \d+ ended before it was ready, with status 1")
    assert f"worker {left[0]} " in said[0] and len(said) <= time.monotonic() - start + 1
    serves(r)
    r.honest_again()


@pytest.mark.unsanitized("it takes signal 11")
def test_crash_while_workers_start(rogues):
    """A crash ends its whole generation, also the workers that are not ready: they must not count
    as starting for ever, or none would be made any more."""
    r = rogues("poplar-worker")
    r.server.write_config(workers_idle_min="2", workers_idle_max="2")
    p = r.start()

    def settled():
        """The nursery and two idle workers; none before them that is about to end."""
        found = sorted(p.children("poplar-worker"))
        return len(found) == 3 and b" 2 idle workers" in p.ctl("status").stdout and found
    nursery, *workers = wait_until(settled, "idle workers")
    for _ in range(3):
        r.tell("worker starting", f"await {ROW['assign'].type}")
        os.kill(workers[0], signal.SIGKILL)
        r.taken()  # it waits, and never says that it is ready
        os.kill(workers[1], signal.SIGSEGV)
        before = nursery
        nursery, *workers = wait_until(settled, "idle workers")
        assert before not in (nursery, *workers)
    serves(r)
    r.honest_again()


def test_nursery_answers_for_its_workers(rogues):
    """A worker's channel on which the nursery itself says ready: it is not a worker."""
    r = rogues("poplar-worker")
    p = r.start()
    nursery = min(p.children("poplar-worker"))
    r.tell("nursery fork", f"steal {record('ready')}")
    with another_worker(r):
        assert r.taken() == nursery
        r.punished(nursery, "the nursery said ready for a worker")
    serves(r)
    r.honest_again()


def test_worker_that_is_not_ours(rogues):
    """A process that is no child of the master's says ready: the master could never reap it."""
    r = rogues("poplar-worker")
    p = r.start()
    r.tell("nursery fork", "spawn")
    with another_worker(r):
        nursery = r.taken()
    p.wait_log("dropping worker .*not the master's child")
    os.kill(nursery, signal.SIGKILL)
    serves(r)
    r.honest_again()


def test_94_fork_failures(rogues):
    """A nursery that cannot fork, or says so: reported, tried again, no spinning."""
    r = rogues("poplar-worker")
    p = r.start()
    r.tell("nursery idle", *[f"send {record('fork-failed', 11)}"] * 3)
    r.taken()
    p.wait_log("cannot fork a worker: Resource temporarily unavailable")
    r.honest_again()


LIES = {
    "another session": [("outcome", 999, 0, b"alice", 0)],
    "success without a name": [("outcome", 1, 0, b"", 0)],
    "a name too long": [("outcome", 1, 0, b"x" * 300, 0)],
    "no such outcome": [("outcome", 1, 4000, b"alice", 0)],
    "an outcome twice": [("outcome", 1, 1, b"", 0)] * 2,
}


@pytest.mark.parametrize("lie", LIES)
def test_outcomes_that_cannot_be(rogues, lie):
    """Auth is believed about users, not about what contradicts the master's own tables."""
    r = rogues("poplar-auth", auth_processes_max="1")
    p = r.start()
    r.tell("auth busy", *[f"send {record(*values)}" for values in LIES[lie]])
    raw = p.connect()
    raw.ask(b"USER alice")
    raw.send(b"PASS secret\r\n")
    r.punished(r.taken(), lie)
    assert raw.line().startswith(b"-ERR [SYS/TEMP]") or lie == "an outcome twice"
    raw.close()
    assert len(r.lines("killing auth process")) == 1
    r.honest_again()


@pytest.mark.parametrize("outcome", range(12))
def test_verdict_without_files(rogues, outcome):
    """An auth process that tells the worker of success without the files, or nonsense: the worker
    treats it as no verdict; nobody crashes."""
    r = rogues("poplar-auth")
    p = r.start()
    r.tell("auth busy", f"send {record('outcome', 1, 1, b'', 0)}",
           f"exchange {record('verdict', outcome, b'alice')}",
           f"send {record('vacant')}")
    raw = p.connect()
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS secret").startswith(b"-ERR ")
    raw.close()
    assert not r.lines("was ended by signal")
    r.honest_again()


@pytest.mark.parametrize("said", [
    [(0, 1)], [(0, 3)], [(0, 5)], [(1, 4)], [(1, 2)], [(0, 4)], [(0, 4), (0, 4)], [(1, 4), (0, 4)],
], ids=lambda said: "-".join(f"{outcome}with{files}" for outcome, files in said))
def test_files_that_do_not_fit_the_verdict(rogues, said):
    """Nor too few files or too many, files without a success, files that are no maildrop: the worker
    gives them back and has no verdict, or no maildrop; nobody crashes, and nobody is logged in."""
    r = rogues("poplar-auth")
    p = r.start()
    records = [record("verdict", outcome, b"alice", fds=files) for outcome, files in said]
    r.tell("auth busy", f"send {record('outcome', 1, 1, b'', 0)}",
           *[f"exchange {one}" for one in records], "close")
    raw = p.connect()
    raw.ask(b"USER alice")
    assert not raw.ask(b"PASS secret").startswith(b"+OK")
    raw.close()
    assert not r.lines(r"worker \d+ was ended by signal")
    r.honest_again()


@pytest.mark.native("its life is longer than the second in which an end is a failure")
def test_97_crash_loop_of_auth_processes_backs_off(rogues):
    """One that is ready and then breaks the contract, again and again: later each time."""
    r = rogues("poplar-auth")
    p = r.start()
    times = []
    for _ in range(4):
        r.tell("auth idle", f"send {record('serve')}")
        r.punished(r.taken(), "auth")
        times.append(len(r.lines("killing auth process")))
    assert times == [1, 2, 3, 4]
    p.wait_log("(?s)in 100 ms.*in 200 ms.*in 400 ms.*new auth process in 800 ms")
    r.honest_again()


@pytest.mark.parametrize("program", ["poplar-worker", "poplar-auth"])
def test_upgrade_without_a_restart(rogues, program):
    """A package was upgraded underneath and nobody restarted poplard: it says so, once, and goes on
    with its own programs, which it has kept open; also when they have to be started anew."""
    r = rogues()
    p = r.start()
    works(p)
    role = "nursery" if program == "poplar-worker" else "auth"
    r.put(program, real=False)
    r.tell(f"{role} starting", f"send {record('ready', 1)}")
    for n in range(3):
        running = p.nursery() if role == "nursery" else p.auths()
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: set(p.nursery() if role == "nursery" else p.auths()) - set(running),
                   lambda: f"another one\n{p.log_text()}")
        works(p)
    r.taken()
    assert len(r.lines(f"poplard: {program} is of another version than the running poplard")) == 1
    r.honest_again()


@pytest.mark.parametrize("program", ["poplar-worker", "poplar-auth"])
def test_version_mismatch(rogues, program):
    """Programs of another build than the running master (a package was upgraded underneath): the
    reload fails with the remedy, the old ones serve on; a first start fails the same way."""
    r = rogues()
    p = r.start()
    client = p.login()
    r.put(program, real=False)
    role = "nursery" if program == "poplar-worker" else "auth"
    r.tell(f"{role} starting", f"send {record('ready', 1)}")
    result = p.ctl("reload", check=False)
    assert result.returncode != 0
    assert f"{program} is of another version than the running poplard: restart poplard" \
        in result.stderr.decode() + result.stdout.decode()
    assert len(r.lines("reload failed.*restart poplard")) == 1
    assert client.retr(1)[1]
    client.quit()
    r.honest_again()
