"""Two sessions of one user, and what the log tells of one user's sessions when asked."""

import os
import re

import pytest

from poplar import log_in, wait_until

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"


def test_takeover(server):
    """The older session ends without its deletions; the newer one has the maildrop."""
    p = server(session_lock="takeover")
    p.add("alice", MESSAGE)
    old = p.login()
    old.dele(1)
    new = p.login("Alice")
    assert new.stat()[0] == 1
    with pytest.raises(Exception):
        old.noop()
    new.dele(1)
    new.quit()
    assert p.login().stat()[0] == 0
    p.wait_log(r"gives way to session \d+ of user=alice")
    p.wait_log("session ended: .*user=alice reason=(takeover|ended)")  # killed, if it took a second


def test_takeover_of_a_session_that_does_not_read(server):
    """One that hangs in a write is killed after a second."""
    p = server(session_lock="takeover")
    p.add("alice", b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n" + b"0123456789\r\n" * 2000000)
    old = p.connect()
    old.ask(b"USER alice")
    assert old.ask(b"PASS secret").startswith(b"+OK")
    old.send(b"RETR 1\r\n")
    assert old.line().startswith(b"+OK")  # and no more is read
    new = p.login()
    assert new.stat()[0] == 1
    new.quit()


def test_takeover_leaves_a_tools_lock_alone(server):
    import fcntl
    import struct

    p = server(session_lock="takeover")
    p.add("alice", MESSAGE)
    lock = next(p.state.glob("mail/*/*/alice/lock"))
    with open(lock, "r+b") as file:
        # F_OFD_SETLK on byte 0, as poplarctl would
        fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))
        with pytest.raises(Exception, match="IN-USE"):
            p.login()
    p.login().quit()


def test_takeover_before_the_login_delay_is_over(server):
    """Who would be refused for it takes nothing from who was there first."""
    p = server(session_lock="takeover", session_login_delay="1h")
    p.add("alice", MESSAGE)
    old = p.login()
    old.dele(1)
    with pytest.raises(Exception, match="IN-USE"):
        p.login()
    old.quit()
    with pytest.raises(Exception, match="LOGIN-DELAY"):
        p.login()
    p.write_config(session_login_delay="0")
    p.ctl("reload")
    old, new = p.login(), p.login()
    assert new.stat()[0] == 0
    with pytest.raises(Exception):
        old.noop()


def test_takeover_in_turn(server):
    """A row of sessions, each ending the one before."""
    p = server(session_lock="takeover")
    p.add("alice", MESSAGE)
    clients = [p.login() for _ in range(10)]
    assert clients[-1].stat()[0] == 1
    wait_until(lambda: len(re.findall("reason=(takeover|ended)", p.log_text())) == 9, "nine ends")
    assert len(re.findall("gives way to session", p.log_text())) == 9


def test_coming_back_at_once(server):
    """QUIT, connect, log in, as fast as can be: nobody holds the maildrop when QUIT is answered. While
    an auth process is kept from running on, the next one must not find its copies of the lock."""
    p = server(tls_required="not-on-loopback", auth_processes_min="4")
    p.add("alice", MESSAGE)
    for auth in p.auths():
        os.setpriority(os.PRIO_PROCESS, auth, 19)
    for _ in range(1000):
        raw = p.connect(tls=False, greeting=False)
        raw.send(b"USER alice\r\nPASS secret\r\nQUIT\r\n")
        answers = [raw.line() for _ in range(4)]
        raw.close()
        assert answers[2].startswith(b"+OK"), answers


@pytest.mark.parametrize("line", [b"PASS canary", b"pass canary", b" PASS canary", b"PASS\tcanary",
                                  b"AUTH PLAIN canary", b"  auth\tPLAIN canary"], ids=repr)
def test_trace_without_secrets(server, line):
    """However badly one is typed."""
    p = server()
    p.ctl("debug", "alice", "on")
    raw = log_in(p, tls=True)
    assert raw.ask(line).startswith(b"-ERR")
    assert raw.ask(b"RSET").startswith(b"+OK")
    p.wait_log("trace: C: RSET")
    assert "canary" not in p.log_text() and "********" in p.log_text()


def test_trace_of_one_user(server):
    """Switched on and off while the session runs; nobody else's, and no password."""
    p = server()
    p.add("alice", MESSAGE)
    p.add("bob", MESSAGE)
    alice, bob = p.login("alice"), p.login("bob")
    alice.stat()
    p.ctl("debug", "ALICE", "on")
    alice.uidl()
    bob.list()
    assert "trace:" in p.wait_log("trace: C: UIDL S: \\+OK.*").group(0)
    with pytest.raises(Exception):
        alice.pass_("canary-of-a-confused-client")
    p.wait_log(r"trace: C: PASS \*+ S: -ERR")
    assert "canary" not in p.log_text()
    assert "C: LIST" not in p.log_text()
    alice.quit()
    again = p.login("alice")
    again.noop()
    p.wait_log("trace: C: NOOP S: \\+OK")
    p.ctl("debug", "alice", "off")
    again.rset()
    again.quit()
    bob.quit()
    p.wait_log("user=bob reason=quit")
    assert "C: RSET" not in p.log_text()


def test_trace_from_the_first_command(server):
    """Also of a client that does not wait for the answer to its password; another's is not traced."""
    p = server(tls_required="not-on-loopback")
    p.ctl("debug", "alice", "on")
    for user in (b"alice", b"bob") * 10:
        raw = p.connect(tls=False)
        raw.send(b"USER " + user + b"\r\nPASS secret\r\nNOOP\r\nQUIT\r\n")
        assert b"+OK logged in" in raw.rest()
        raw.close()
    wait_until(lambda: p.log_text().count("session ended") == 20, "all have ended")
    assert p.log_text().count("trace: C: NOOP S: +OK") == 10
