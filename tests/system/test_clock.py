"""A clock that is set while the server runs, by hours and by years, forward and back. Nothing that is
waited for goes by it; what it dates stays whole. All of it where the vDSO knows no time of day, and
the sandbox has one system call for it."""

import json
import struct

import pytest

import poplar
from logins import attempt, deliver, logged_in, while_throttled
from poplar import log_in
from test_tls import visit

pytestmark = [pytest.mark.native("valgrind has preloads of its own"),
              pytest.mark.unsanitized("a sanitizer wants to be loaded first"),
              pytest.mark.skipif(not (poplar.BUILD / "tests/clock.so").exists(), reason="not built")]

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"
HOUR, YEAR = 3600, 365 * 86400
STEPS = (HOUR, -HOUR, 2 * YEAR, -2 * YEAR, 30 * YEAR, -56 * YEAR, 0)


@pytest.fixture
def clock(server, tmp_path, monkeypatch):
    """A server whose clock, and that of the tools, p.set() puts so many seconds off."""
    file = tmp_path / "clock"
    file.write_bytes(struct.pack("=q", 0))

    def make(**settings):
        p = server(start=False, tls_required="no", **settings)
        monkeypatch.setenv("LD_PRELOAD", str(poplar.BUILD / "tests/clock.so"))
        monkeypatch.setenv("CLOCK_OFFSET", str(file))

        def put(seconds):
            with open(file, "r+b") as written:
                written.write(struct.pack("=q", seconds))
        p.set = put
        return p.start()
    return make


def test_sessions_go_on(clock):
    """Logged in or not, fetching, delivering; tickets are good, or another handshake is."""
    p = clock(auth_failure_delay="1s", auth_throttle_exempt="127.0.0.0/8", delivery_accept="any")
    p.add("alice", MESSAGE)
    held, early = log_in(p), p.connect(tls=False)
    context = p.tls_context()
    _, ticket = visit(p, context)
    for step in STEPS:
        p.set(step)
        assert held.ask(b"NOOP").startswith(b"+OK")
        assert held.ask(b"RETR 1").startswith(b"+OK") and b"".join(held.multi()) == MESSAGE
        _, ticket = visit(p, context, ticket)
        deliver(p, "bob")
        assert logged_in(attempt(p, "bob", then=b"STAT", tls=False))
    assert visit(p, context, ticket)[0]
    assert early.ask(b"USER alice").startswith(b"+OK")
    assert held.ask(b"DELE 1").startswith(b"+OK") and held.ask(b"QUIT").startswith(b"+OK")
    assert len(p.ctl("message", "list", "bob").stdout.splitlines()) == len(STEPS) + 2
    assert p.ctl("mailbox", "check", "--all").stdout.count(b": sound") == 2
    p.ctl("reload")
    p.ctl("status")


def test_throttled_for_as_long_as_before(clock):
    """Whoever guessed is neither let in by it nor locked out for years."""
    p = clock(stack="auth required @BUILD@/tests/pam_poplar_test.so expect=secret\n"
              "account required pam_permit.so\n")

    def log_in_there(secret="secret"):
        return attempt(p, "alice", secret, tls=False, source="127.0.0.9")

    def kept_out():
        for step in STEPS:
            p.set(step)
            if logged_in(log_in_there()):
                return False
        return "127.0.0.9" in p.ctl("status").stdout.decode()
    while_throttled(log_in_there, kept_out)


def test_what_was_deleted_can_be_restored(clock):
    """However the clock stood: what it takes for old comes back, what is of the future stays."""
    p = clock(store_expire_after="30d", store_undelete_for="7d")
    for step in (0, 2 * YEAR, -2 * YEAR):
        p.set(step)
        p.add("alice", MESSAGE)
    p.set(2 * YEAR)
    raw = log_in(p)
    assert raw.ask(b"STAT").startswith(b"+OK 1 ")
    assert raw.ask(b"DELE 1").startswith(b"+OK") and raw.ask(b"QUIT").startswith(b"+OK")
    raw.close()
    for step in (0, -2 * YEAR, 0):
        p.set(step)
        p.ctl("expire")
    deleted = json.loads(p.ctl("--json", "message", "list", "--deleted", "alice").stdout)
    assert [message["id"] for message in deleted] == [1, 2, 3]
    years = [round((message["deleted"] - message["received"]) / YEAR) for message in deleted]
    assert years == [2, 0, 4]  # it is the clock of the workers, too
    done = p.ctl("message", "restore", "alice", "1", "2", "3")
    assert b"1 of them is older than [store] expire_after" in done.stderr
    raw = log_in(p)
    assert raw.ask(b"STAT").startswith(b"+OK 2 ") and raw.ask(b"QUIT").startswith(b"+OK")
    raw.close()
