"""Attacks on logins against a running server: floods of failures, the throttle, AUTH gone wrong, and
what can be learned from the time of an answer. The numbers in the names are those of the list of
abuse cases. LONG=1 also measures."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import random
import select
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time

import pytest

import logins
import poplar
from logins import DENIED, ask, is_throttled, logged_in, while_throttled
from poplar import wait_until

LONG = os.environ.get("LONG") == "1"

MODULE = "@BUILD@/tests/pam_poplar_test.so"
PERMIT = "account required pam_permit.so\n"

DOORS = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])


@pytest.fixture
def guarded(server):
    """One password is right; logins in the clear are allowed, and throttled as they come."""
    def make(**settings):
        return server(stack=f"auth required {MODULE} expect=secret\n" + PERMIT,
                      **({"tls_required": "not-on-loopback"} | settings))
    return make


def attempt(p, source, user=b"alice", password=b"secret", tls=False):
    return logins.attempt(p, user, password, tls=tls, source=source)


def fail(p, source, times, user=b"alice", secret="wrong%d"):
    """So many failures from one source, three a connection; the last answer."""
    answer = b""
    for n in range(times):
        if n % 3 == 0:
            raw = p.connect(tls=False, source=source)
        answer = ask(raw, user, (secret % n if "%" in secret else secret).encode())
        if n % 3 == 2 or n == times - 1:
            raw.close()
    return answer


def keeps_out(p, source, look):
    """That source is throttled, and look() is true then."""
    return while_throttled(lambda secret: attempt(p, source, password=secret), look)


# The throttle.

@DOORS
@pytest.mark.native("a thousand failures take longer than one is remembered")
def test_48_a_thousand_failures(guarded, tls):
    """Twenty reach auth, then that source waits, and its right password does too. Others do not.
    Time forgives: one failure in a quarter of a minute."""
    p = guarded()
    answers, began = [], time.monotonic()
    for n in range(1000 if not tls else 60):
        if n % 3 == 0:
            raw = p.connect(tls, source="127.0.0.66")
        answers.append(ask(raw, b"alice", b"wrong%d" % n))
        if n % 3 == 2:
            raw.close()
    raw.close()
    heard = answers.count(DENIED)
    assert answers[:20] == [DENIED] * 20
    assert heard <= 20 + (time.monotonic() - began) // 15, "more than time has forgiven"
    assert all(answer == DENIED or is_throttled(answer) for answer in answers), set(answers)
    assert p.log_text().count("login failed") == heard
    p.wait_log("throttled: peer=127.0.0.66:.*")
    assert p.log_text().count("throttled:") <= 1 + heard - 20  # told when it begins
    assert keeps_out(p, "127.0.0.66", lambda: is_throttled(attempt(p, "127.0.0.66", tls=tls)))
    assert logged_in(attempt(p, "127.0.0.67", tls=tls))

    def told():
        return json.loads(p.ctl("--json", "status").stdout)
    assert keeps_out(p, "127.0.0.66", lambda: "127.0.0.66" in json.dumps(told()["throttled_sources"]))
    assert told()["logins"]["denied"] == p.log_text().count("login failed")
    if not tls:
        wait_until(lambda: logged_in(attempt(p, "127.0.0.66")), "time forgives")
        assert time.monotonic() - began > 14

        def is_as_full():
            return (not is_throttled(fail(p, "127.0.0.66", 1))
                    and is_throttled(attempt(p, "127.0.0.66")))
        wait_until(is_as_full, "the one that was forgotten makes it as full as before")


@DOORS
def test_52_throttled_logins_of_a_connection(guarded, tls):
    """What is refused without asking PAM counts for the connection, too, as what is repeated does:
    nobody stays to ask all the time."""
    p = guarded()

    def refused():
        raw = p.connect(tls, source="127.0.0.66")
        raw.send(b"USER alice\r\nPASS secret\r\n" * 100)
        answers = raw.rest().splitlines(keepends=True)
        raw.close()
        return all(map(is_throttled, answers[1::2])) and answers
    assert len(keeps_out(p, "127.0.0.66", refused)) == 18
    p.wait_log("session ended: peer=127.0.0.66:.* reason=login-failures")


def add_address(address):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        request = socket.inet_pton(socket.AF_INET6, address) + struct.pack(
            "Ii", 128, socket.if_nametoindex("lo"))
        fcntl.ioctl(s, 0x8916, request)  # SIOCSIFADDR


@pytest.mark.skipif(not poplar.NAMESPACES, reason="needs a network namespace for addresses")
def test_49_addresses_of_one_48(guarded):
    """An address of its own for each failure, a network of its own too: one source all the same."""
    addresses = [f"2001:db8:49:{n:x}::{n + 1:x}" for n in range(25)]
    there, other = "2001:db8:1::1", "2001:db8:4a::1"
    try:
        for address in (there, other, *addresses):
            add_address(address)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    port = poplar.free_port()
    guarded(listen_pop3=f"[::]:{port}", tls_required="no")

    def visit(source, password):
        raw = poplar.Raw(socket.create_connection((there, port), 20, (source, 0)))
        assert raw.line().startswith(b"+OK")
        answer = ask(raw, b"alice", password)
        raw.send(b"QUIT\r\n")
        raw.rest()
        raw.close()
        return answer

    for n, address in enumerate(addresses[:20]):
        assert visit(address, b"wrong%d" % n) == DENIED
    for address in addresses:
        assert while_throttled(lambda secret: visit(addresses[0], secret),
                               lambda: is_throttled(visit(address, b"secret")))
    assert logged_in(visit(other, b"secret"))


def test_51_a_client_that_nobody_told(guarded):
    """The same wrong password again and again is no attack; the right one then works at once."""
    p = guarded()
    for _ in range(100):
        assert fail(p, "127.0.0.5", 1, secret="the old one") == DENIED
    assert logged_in(attempt(p, "127.0.0.5"))
    assert "throttled" not in p.log_text()
    # But from there, too, guessing is guessing.
    assert keeps_out(p, "127.0.0.5", lambda: is_throttled(attempt(p, "127.0.0.5")))


def test_48_a_name_that_many_attack(guarded):
    """Four failures each from fifteen sources against one name: the next source has four, but its
    owner, elsewhere, logs in as ever, and other names count as ever."""
    p = guarded()
    for n in range(15):
        assert fail(p, f"127.0.1.{n + 1}", 4, secret=f"wrong{n}-%d") == DENIED
    assert is_throttled(fail(p, "127.0.2.1", 5))
    assert not is_throttled(fail(p, "127.0.2.2", 5, user=b"bob"))
    assert logged_in(attempt(p, "127.0.2.3"))


def test_48_exempt(guarded):
    """[auth] throttle_exempt: a proxy's or a webmail's address."""
    p = guarded(auth_throttle_exempt="127.0.3.0/24")
    assert fail(p, "127.0.3.1", 40) == DENIED
    assert keeps_out(p, "127.0.4.1", lambda: True)


@pytest.mark.parametrize("how", [
    pytest.param("crash", marks=pytest.mark.unsanitized("it takes signal 11")), "exit"])
def test_43_crashes_count(server, how):
    """Who ends auth processes is slowed down as who guesses is, also if he leaves at once: each end
    costs everybody a new one. No name is attacked by that, for none is known but by the client's own
    word, which is shown."""
    p = server(stack=f"auth [success=ignore default=1] pam_succeed_if.so quiet user = unlucky\n"
                     f"auth required {MODULE} {how}\nauth required pam_permit.so\n" + PERMIT,
               tls_required="not-on-loopback", auth_processes_min="1", auth_processes_max="1")
    crashes = 0

    def crash(secret):
        nonlocal crashes
        raw = p.connect(tls=False, source="127.0.0.66")
        assert raw.ask(b"USER unlucky").startswith(b"+OK")
        raw.send(b"PASS " + secret + b"\r\n")
        answer = raw.line() if crashes % 2 or crashes >= 20 else b""
        raw.close()
        if not is_throttled(answer):
            assert answer == b"" or answer.startswith(b"-ERR [SYS/TEMP] logins cannot be checked")
            crashes += 1
            wait_until(lambda: p.log_text().count("reason=crashed") == crashes, "it is counted")
            assert logged_in(attempt(p, "127.0.0.67"))
        return answer
    assert while_throttled(crash, lambda: is_throttled(attempt(p, "127.0.0.66")))
    assert crashes >= 20
    assert "throttled: peer=127.0.0.66:" in p.log_text()
    assert "attacked: " not in p.log_text()
    assert p.log_text().count(" user=- reason=crashed claimed=unlucky\n") == crashes
    assert json.loads(p.ctl("--json", "status").stdout)["logins"]["crashed"] == crashes


# AUTH.

def plain(*parts):
    return base64.b64encode(b"\0".join(parts))


WRONG = {
    "no base64": b"!!!!", "a cut quantum": b"AGFsaWNlAHNlY3JldA", "blanks inside": b"AGFs aWNl",
    "more behind the padding": b"AGFsaWNlAHNlY3JldA==AAAA", "padding alone": b"====",
    "no NUL": base64.b64encode(b"alice"), "one NUL": plain(b"alice", b"secret"),
    "three NULs": plain(b"", b"alice", b"secret", b"x"), "no name": plain(b"", b"", b"secret"),
    "no password": plain(b"", b"alice", b""), "nothing": b"=", "empty": b"",
    "somebody else's name": plain(b"bob", b"alice", b"secret"),
    "a path": plain(b"", b"../alice", b"secret"), "malformed UTF-8": plain(b"", b"\xff", b"secret"),
    "a name too long": plain(b"", b"x" * 251, b"secret"), "cancelled": b"*",
    "a password too long": plain(b"", b"alice", b"x" * 501),
}


@pytest.mark.parametrize("way", ["clear", "stls", "tls"])
def test_53_authentication_gone_wrong(server, way):
    """-ERR for each, though PAM would let everybody in; the connection goes on; nothing is made."""
    p = server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8")

    def connect():
        raw = p.connect(tls=way == "tls")
        if way == "stls":
            assert raw.ask(b"STLS").startswith(b"+OK")
            raw.start_tls(p.tls_context())
        return raw

    for what, response in WRONG.items():
        for initial in (True, False):
            if initial and response == b"":
                continue
            raw = connect()
            if initial:
                answer = raw.ask(b"AUTH PLAIN " + response)
            else:
                assert raw.ask(b"AUTH PLAIN") == b"+ \r\n", what
                answer = raw.ask(response)
            assert answer.startswith(b"-ERR"), (what, answer)
            assert raw.ask(b"STAT").startswith(b"-ERR"), what
            assert raw.ask(b"QUIT").startswith(b"+OK"), what
            raw.close()
    assert "login failed" not in p.log_text()
    assert os.listdir(p.state / "mail") == [] if (p.state / "mail").exists() else True
    raw = connect()
    assert raw.ask(b"AUTH PLAIN " + plain(b"", b"alice", b"secret")).startswith(b"+OK")
    raw.close()


@pytest.mark.accounts
def test_27_tally_files(server, tmp_path):
    """pam_faillock writes a file by the user's name: it is the account's, whatever the client
    called it, and nothing is written elsewhere."""
    tally = tmp_path / "tally" / "here"
    tally.mkdir(parents=True)
    stack = (f"auth required pam_faillock.so preauth audit dir={tally} deny=1000\n"
             "auth sufficient pam_unix.so\n"
             f"auth [default=die] pam_faillock.so authfail audit dir={tally} deny=1000\n"
             f"account required pam_faillock.so dir={tally}\naccount required pam_unix.so\n")
    p = server(stack=stack, auth_canonical="nss", auth_require_nss="yes",
               auth_throttle_exempt="127.0.0.0/8")
    for name in (b"alice", b"ALICE", b"alice@localhost", b"../alice", b"../../bob", b"./alice",
                 b"alice/", b"..", b"%2e%2e%2fbob", b"nosuchuser", b"..\\bob"):
        raw = p.connect()
        assert ask(raw, name, b"wrong").startswith(b"-ERR"), name
        raw.close()
    assert sorted(os.listdir(tally)) == ["alice"]
    assert os.listdir(tally.parent) == ["here"]


# Time.

def hashed(user, password, method):
    """An account whose password is kept as this method's hash."""
    subprocess.run(["useradd", "--no-create-home", user], check=True, capture_output=True)
    subprocess.run(["chpasswd", "-c", method], input=f"{user}:{password}\n", text=True, check=True,
                   capture_output=True)


@pytest.fixture
def accounts():
    made = []

    def make(user, password, method="YESCRYPT"):
        hashed(user, password, method)
        made.append(user)

    yield make
    for user in made:
        subprocess.run(["userdel", user], check=True, capture_output=True)


class Timed:
    """A login as it was answered, and how long that took."""

    def __init__(self, p, source, user, password):
        self.raw = p.connect(tls=False, source=source)
        assert self.raw.ask(b"USER " + user).startswith(b"+OK")
        self.password = password

    def begin(self):
        self.started = time.monotonic()
        self.raw.send(b"PASS " + self.password + b"\r\n")
        return self

    def end(self):
        """The answer."""
        self.raw.sock.settimeout(120)
        self.answer = self.raw.line()
        self.took = time.monotonic() - self.started
        self.raw.close()
        return self.answer

    def finish(self):
        """The same, and the session ended in order."""
        self.raw.sock.settimeout(120)
        self.answer = self.raw.line()
        self.took = time.monotonic() - self.started
        self.raw.send(b"QUIT\r\n")
        self.raw.rest()
        self.raw.close()
        return self


def failures(p):
    return p.log_text().count("login failed")


def begun(p):
    """From where the logins came that auth has begun to check, in order."""
    return (p.directory / "begun").read_text().split()


def pending(p):
    """How many logins wait for auth, or are there."""
    auth = json.loads(p.ctl("--json", "status").stdout)["auth"]
    return auth["busy"] + auth["logins_waiting"]


@contextlib.contextmanager
def stopped(pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            wait_until(lambda: poplar.Poplar.proc_status(pid)["State"][0] == "T", "it stands still")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("sources, known", [(1, False), (10, False), (100, True),
                                            (100, False)])
@pytest.mark.native("who comes first is decided by milliseconds")
def test_47_50_failures_by_the_hundred(server, sources, known):
    """A hundred at once, a directory that is slow and few processes: a good login does not wait
    behind them. Sources that fail or have many under way come after others; where each has but one,
    those from where a login succeeded before come first, and a new one in turn with the oldest."""
    p = server(start=False, tls_required="not-on-loopback", workers_max_per_source="200",
               auth_processes_min="4", auth_processes_max="4")
    p.stack(f"auth required {MODULE} begun={p.directory}/begun slow=200\n"
            f"auth required {MODULE} expect=secret\n" + PERMIT)
    p.start()
    if known:
        assert logged_in(attempt(p, "127.9.0.1"))
    flood = [Timed(p, f"127.0.1.{1 + n % sources}", b"user%d" % n, b"wrong") for n in range(100)]
    for one in flood:
        one.begin()
    wait_until(lambda: failures(p) >= 4, "the flood is under way")
    with stopped(p.auths()):
        under_way = pending(p)
        before = len(begun(p))
        good = Timed(p, "127.9.0.1", b"alice", b"secret").begin()
        wait_until(lambda: pending(p) == under_way + 1, "the master knows of it")
        assert len(begun(p)) == before
    assert logged_in(good.finish().answer)
    assert "127.9.0.1" in begun(p)[before : before + 8]
    answers = [one.end() for one in flood]
    if sources == 1:  # what waits is refused once its source is known for what it is
        assert sum(map(is_throttled, answers)) >= 75
        assert failures(p) <= 25
    else:
        assert answers == [DENIED] * 100


def test_47_55_failures_of_who_hangs_up(server):
    """Checks that nobody waits for any more take as much as others of what strangers may have: the
    other half is for those from where a login succeeded before. And they count."""
    p = server(start=False, tls_required="not-on-loopback", auth_processes_min="4",
               auth_processes_max="4")
    p.stack(f"auth required {MODULE} begun={p.directory}/begun slow=3000\n"
            f"auth required {MODULE} expect=secret\n" + PERMIT)
    p.start()
    assert logged_in(attempt(p, "127.9.0.1"))
    flood = [Timed(p, f"127.0.1.{1 + n}", b"user%d" % n, b"wrong").begin() for n in range(12)]
    wait_until(lambda: b"2 busy" in p.ctl("status").stdout, "strangers have half")
    for one in flood:
        one.raw.close()
    wait_until(lambda: "login failed" in p.log_text(), "some of it is done")
    before = len(begun(p))
    assert logged_in(attempt(p, "127.9.0.1"))
    assert "127.9.0.1" in begun(p)[before : before + 5]
    wait_until(lambda: failures(p) == 12, "all are told")


@pytest.mark.accounts
@pytest.mark.skipif(not LONG, reason="measures: LONG=1")
@pytest.mark.parametrize("sources", [1, 4, 200])
def test_47_50_measured(server, accounts, sources):
    """The same with yescrypt and 200; a good login takes what the processors have left."""
    accounts("gwen", "right")
    p = server(pam_unix=True, tls_required="not-on-loopback", workers_max_per_source="200",
               auth_failure_delay="2s")
    places = [f"127.9.0.{2 + n}" for n in range(20)]

    def good(place):
        return Timed(p, place, b"gwen", b"right").begin().finish()

    alone = [good(place) for place in places]
    flood = [Timed(p, f"127.0.1.{1 + n % sources}", b"alice", b"wrong%d" % n) for n in range(200)]
    for one in flood:
        one.begin()
    meanwhile = [good(place) for place in places]
    denied = sum(one.end() == DENIED for one in flood)
    assert all(logged_in(one.answer) for one in alone + meanwhile)
    usual = statistics.median(one.took for one in alone)
    took = sorted(one.took for one in meanwhile)
    print(f"{sources} sources: alone {usual * 1000:.0f} ms, meanwhile median "
          f"{statistics.median(took) * 1000:.0f} ms, at most {took[-1] * 1000:.0f} ms; "
          f"{denied} denied")
    assert took[-1] < 32 * usual + 1  # its share of the processors, had all processes work


@pytest.mark.accounts
@pytest.mark.skipif(not LONG, reason="measures: LONG=1")
def test_48_50_measured(server, accounts):
    """One source fails a thousand times and more, on four connections at a time; from elsewhere a
    good login takes at most twice what it takes alone."""
    accounts("gwen", "right")
    p = server(pam_unix=True, tls_required="not-on-loopback", auth_failure_delay="1s")
    enough, attempts = threading.Event(), itertools.count(1)

    def guess():
        while (turn := next(attempts)) <= 1000 // 3 or not enough.is_set():
            fail(p, "127.0.0.66", 3, secret=f"{turn}-%d")

    def good(n):
        return Timed(p, f"127.9.0.{n + 2}", b"gwen", b"right").begin().finish()

    alone = [good(n) for n in range(30)]
    guessers = [threading.Thread(target=guess) for n in range(4)]
    for guesser in guessers:
        guesser.start()
    try:
        p.wait_log("throttled: peer=127.0.0.66")
        meanwhile = [good(n) for n in range(30)]
    finally:
        enough.set()
        for guesser in guessers:
            guesser.join()
    assert all(logged_in(one.answer) for one in alone + meanwhile)
    usual, took = (statistics.median(one.took for one in ones) for ones in (alone, meanwhile))
    print(f"alone {usual * 1000:.0f} ms, meanwhile {took * 1000:.0f} ms (medians); of some "
          f"{next(attempts) * 3} failures {failures(p)} reached auth")
    assert took <= 2 * usual


class Trial:
    """Logins that fail, one after the other on a connection, timed by whoever watches the socket."""

    def __init__(self, p):
        self.p = p
        self.raw, self.left = None, 0

    def begin(self, kind, user, password):
        if self.left == 0:
            if self.raw:
                self.raw.close()
            self.raw, self.left = self.p.connect(tls=False), 3
        self.kind = kind
        self.left -= 1
        assert self.raw.ask(b"USER " + user).startswith(b"+OK")
        self.start = time.monotonic()
        self.raw.send(b"PASS " + password + b"\r\n")

    def end(self):
        took = time.monotonic() - self.start
        assert self.raw.line() == DENIED
        return took


@pytest.mark.accounts
@pytest.mark.skipif(not LONG, reason="measures, for a quarter of an hour: LONG=1")
def test_39_time_tells_nothing(server, accounts):
    """Who does not exist and who mistyped, by kind of hash and of password: a thousand of each, in
    random order, and their medians are within a millisecond."""
    samples, at_once = 1000, 8
    accounts("yescrypt", "secret")
    accounts("sha512", "secret", "SHA512")
    accounts("longest", "x" * 500)
    p = server(pam_unix=True, tls_required="not-on-loopback", auth_failure_delay="1s",
               auth_throttle_exempt="127.0.0.0/8", workers_max_per_source="200",
               server_log_level="warning")
    kinds = {}
    for user, password in ((b"yescrypt", b"wrong"), (b"sha512", b"wrong"),
                           (b"longest", b"y" * 500)):
        kinds["wrong " + user.decode()] = user, password
        kinds["unknown " + user.decode()] = b"no" + user, password
    todo = list(kinds) * samples
    random.Random(39).shuffle(todo)
    took = {kind: [] for kind in kinds}
    idle, busy = [Trial(p) for _ in range(at_once)], {}
    while todo or busy:
        if todo and idle:
            trial = idle.pop()
            kind = todo.pop()
            trial.begin(kind, *kinds[kind])
            busy[trial.raw.sock] = trial
            continue
        for sock in select.select(list(busy), [], [], 60)[0]:
            trial = busy.pop(sock)
            took[trial.kind].append(trial.end())
            idle.append(trial)
    medians = {kind: statistics.median(times) * 1000 for kind, times in took.items()}
    for kind, median in medians.items():
        print(f"{kind}: {median:.2f} ms, {len(took[kind])} samples")
    assert max(medians.values()) - min(medians.values()) < 1
