"""Logins: real PAM stacks, modules that misbehave, names that are none, and what a client is told.
Every login here is a session against the running server. The numbers in the names are those of the
list of abuse cases."""

import base64
import glob
import os
import poplib
import re
import select
import signal
import subprocess
import threading
import time

import pytest

import poplar
from logins import (ACCOUNT, DENIED, EXPIRED, MISCONFIGURED, UNAVAILABLE, ask, attempt, logged_in,
                    octets)
from poplar import wait_until

MODULE = "@BUILD@/tests/pam_poplar_test.so"
PERMIT = "account required pam_permit.so\n"
MESSAGE = b"Subject: one\r\n\r\nbody\r\n"

# Failures are tried by the dozen here; the throttle has tests of its own.
HERE = {"auth_throttle_exempt": "127.0.0.1, ::1"}



def begin(p, user="alice", password="secret"):
    """A connection whose PASS is sent and not yet answered."""
    raw = p.connect()
    assert logged_in(raw.ask(b"USER " + octets(user)))
    raw.send(b"PASS " + octets(password) + b"\r\n")
    return raw


def answered(*raws):
    """Those that have something to read, now."""
    waiting = [raw for raw in raws if not raw.buffer]
    ready = select.select([raw.sock for raw in waiting], [], [], 0)[0]
    return [raw for raw in raws if raw.buffer or raw.sock in ready or
            (hasattr(raw.sock, "pending") and raw.sock.pending())]


def wait_busy(p, n):
    """n auth processes are in an exchange."""
    def busy():
        match = re.search(rb", (\d+) busy;", p.ctl("status").stdout)
        return match and int(match[1]) >= n
    wait_until(busy, f"{n} busy auth processes")


# pam_unix and real accounts.

@pytest.fixture(scope="module")
def accounts(tmp_path_factory):
    """pam_unix as it comes, with accounts of every kind."""
    if not poplar.NAMESPACES:
        pytest.skip("needs root and namespaces for accounts")

    def run(*command, text=None):
        subprocess.run(command, input=text, text=True, check=True, capture_output=True)

    def account(name, password, *more):
        run("useradd", "--no-create-home", *more, name)
        run("chpasswd", text=f"{name}:{password}\n")

    account("locked", "secret")
    run("passwd", "-l", "locked")
    account("expired", "secret")
    run("usermod", "-e", "1", "expired")
    account("aged", "secret")
    run("chage", "-d", "0", "aged")
    account("blanks", " two  words\t and a tab\t ")
    account("utf8", "pass\u00e9\u4e2d\U0001f511")
    account("long", "x" * 500)
    account("nopassword", "secret")
    run("passwd", "-d", "nopassword")
    account("system", "secret", "--uid", "950")
    account("nologin", "secret", "--shell", "/usr/sbin/nologin")
    account("nobody2", "secret", "--uid", "65534", "--non-unique")
    run("chpasswd", text="root:secret\n")
    directory = tmp_path_factory.mktemp("accounts")
    directory.chmod(0o755)
    p = poplar.Poplar(directory, pam_unix=True, **HERE)
    with p:
        yield p
    print(p.log_text())


@pytest.fixture
def nullok(accounts):
    """The same stack, for a while, taking accounts without a password."""
    service = "/etc/pam.d/poplar"
    good = open(service).read()
    with open(service, "w") as file:
        file.write("auth required pam_unix.so nullok\naccount required pam_unix.so\n")
    yield accounts
    with open(service, "w") as file:
        file.write(good)


@pytest.mark.parametrize("user, password, wanted", [
    ("alice", "secret", b"+OK"),
    ("bob", "bob's own pass word", b"+OK"),
    ("nologin", "secret", b"+OK"),  # mail needs no shell
    ("blanks", " two  words\t and a tab\t ", b"+OK"),
    ("utf8", "pass\u00e9\u4e2d\U0001f511", b"+OK"),
    ("long", "x" * 500, b"+OK"),
    ("alice", "Secret", DENIED),
    ("alice", "secret ", DENIED),
    ("alice", " secret", DENIED),
    ("alice", "secre", DENIED),
    ("blanks", "two words and a tab", DENIED),
    ("blanks", " two  words\t and a tab\t", DENIED),
    ("long", "x" * 499, DENIED),
    ("nosuchuser", "secret", DENIED),
    ("locked", "secret", DENIED),
    ("locked", "wrong", DENIED),
    ("expired", "secret", ACCOUNT),
    ("expired", "wrong", DENIED),
    ("aged", "secret", EXPIRED),
    ("aged", "wrong", DENIED),
    ("root", "secret", DENIED),
    ("root", "wrong", DENIED),
    ("system", "secret", DENIED),
    ("nobody2", "secret", DENIED),
    ("daemon", "secret", DENIED),
    ("nopassword", "anything", DENIED),
], ids=lambda value: repr(value)[:24])
def test_unix(accounts, user, password, wanted):
    """Only who holds the right password may see more than that something is wrong."""
    answer = attempt(accounts, user, password)
    assert answer.startswith(wanted), answer
    if wanted != b"+OK" and user not in ("alice", "blanks", "long"):
        assert not [f for f in maildrops(accounts) if os.path.basename(f) == user]


def maildrops(p):
    return glob.glob(f"{p.state}/mail/*/*/*")


def test_37_empty_password(nullok):
    """Even where the stack says nullok."""
    for user in ("nopassword", "alice", "nosuchuser"):
        for line in (b"PASS", b"PASS "):
            raw = nullok.connect()
            raw.ask(b"USER " + user.encode())
            answer = raw.ask(line)
            assert answer.startswith(b"-ERR"), (user, answer)
            raw.close()
        answers = {attempt(nullok, user, password) for password in ("x", "\t", "wrong")}
        assert answers == {DENIED}


def test_expired_account_comes_back(accounts):
    """Nothing of an account's state is remembered."""
    assert attempt(accounts, "expired") == ACCOUNT
    subprocess.run(["usermod", "-e", "", "expired"], check=True)
    try:
        assert logged_in(attempt(accounts, "expired"))
    finally:
        subprocess.run(["usermod", "-e", "1", "expired"], check=True)
    assert attempt(accounts, "expired") == ACCOUNT


def test_new_account_and_password(accounts):
    """Made while the server runs: it is there at once; the old password is gone at once."""
    assert attempt(accounts, "late", "one") == DENIED
    subprocess.run(["useradd", "--no-create-home", "late"], check=True)
    for old, new in (("", "one"), ("one", "two")):
        subprocess.run(["chpasswd"], input=f"late:{new}\n", text=True, check=True)
        assert logged_in(attempt(accounts, "late", new))
        assert attempt(accounts, "late", old or "wrong") == DENIED
    subprocess.run(["userdel", "late"], check=True)
    assert attempt(accounts, "late", "two") == DENIED


@pytest.mark.accounts
def test_first_uid(tmp_path, accounts):
    """Accounts below it log in when it is set lower; root and nobody never."""
    p = poplar.Poplar(tmp_path, pam_unix=True, auth_first_uid="950", **HERE)
    with p:
        assert logged_in(attempt(p, "system"))
        assert attempt(p, "root") == DENIED
        assert attempt(p, "nobody2") == DENIED
    p.write_config(auth_first_uid="1")
    with p:
        assert attempt(p, "root") == DENIED
        assert attempt(p, "nobody2") == DENIED
    p.write_config(auth_first_uid="60000")
    with p:
        assert attempt(p, "alice") == DENIED
        p.wait_log("below first_uid")


@pytest.mark.parametrize("tls", [False, True], ids=["stls", "tls"])
def test_names_of_an_account(accounts, tls):
    """Case, local domains: one maildrop. A domain that is not ours is another user."""
    accounts.add("alice", MESSAGE)
    counts = set()
    for name in ("alice", "ALICE", "Alice", "alice@localhost", "ALICE@LocalHost",
                 "alice@pop.example.test", "alice@localhost@localhost"):
        client = accounts.login(name, "secret", tls=tls)
        counts.add(client.stat()[0])
        client.quit()
    assert len(counts) == 1
    assert [os.path.basename(f) for f in maildrops(accounts)].count("alice") == 1
    for name in ("alice@example.org", "alice@", "@localhost", "@", "alice@localhost@example.org"):
        assert attempt(accounts, name).startswith(b"-ERR"), name


# Modules, in a directory of services of our own.

@pytest.fixture
def stack(server):
    """stack(TEXT, section_key=value) gives a running server with this stack."""
    return lambda text, **settings: server(stack=text, **(HERE | settings))


@pytest.mark.parametrize("status, wanted", [
    ("auth_err", DENIED), ("user_unknown", DENIED), ("maxtries", DENIED), ("perm_denied", DENIED),
    ("cred_insufficient", DENIED), ("acct_expired", DENIED), ("authinfo_unavail", UNAVAILABLE),
    ("service_err", UNAVAILABLE), ("system_err", UNAVAILABLE), ("buf_err", UNAVAILABLE),
    ("conv_err", UNAVAILABLE), ("abort", UNAVAILABLE), ("new_authtok_reqd", EXPIRED),
])
def test_debug_authentication(stack, status, wanted):
    p = stack(f"auth required pam_debug.so auth={status}\n" + PERMIT)
    assert attempt(p) == wanted


@pytest.mark.parametrize("status, wanted", [
    ("acct_expired", ACCOUNT), ("perm_denied", ACCOUNT), ("auth_err", ACCOUNT),
    ("new_authtok_reqd", EXPIRED), ("authtok_expired", EXPIRED), ("cred_expired", EXPIRED),
    ("user_unknown", DENIED), ("authinfo_unavail", UNAVAILABLE), ("system_err", UNAVAILABLE),
])
def test_46_debug_account(stack, status, wanted):
    p = stack(f"auth required pam_permit.so\naccount required pam_debug.so acct={status}\n")
    assert attempt(p) == wanted
    assert maildrops(p) == []


def test_session_phase(stack, tmp_path):
    """session=yes: setcred and the session run, in a process that is not the one that goes on."""
    seen = tmp_path / "session"
    text = "auth required pam_permit.so\n" + PERMIT + f"session required {MODULE} session={seen}\n"
    p = stack(text)
    assert logged_in(attempt(p))
    assert not seen.exists()
    p.write_config(auth_session="yes")
    p.ctl("reload")
    before = set(p.auths())
    assert logged_in(attempt(p))
    assert int(seen.read_text()) not in before | {p.process.pid}
    p.stack(text.replace(f"session={seen}", "session-fail"))
    assert attempt(p) == UNAVAILABLE


def matrix():
    found = glob.glob("/usr/lib/*/pam_wrapper/pam_matrix.so")
    found += glob.glob("/usr/lib*/pam_wrapper/pam_matrix.so")
    if not found:
        pytest.skip("needs libpam-wrapper")
    return found[0]


def test_matrix(stack, tmp_path):
    """A module that knows users of its own, and talks: none of its words reach a client."""
    module, users = matrix(), tmp_path / "matrix"
    users.write_text("neo:white rabbit:poplar\nsmith:me:other\n")
    p = stack(f"auth required {module} passdb={users} verbose\n"
              f"account required {module} passdb={users} verbose\n")
    assert logged_in(attempt(p, "neo", "white rabbit"))
    for user, password in (("neo", "white"), ("neo", "white rabbit "), ("trinity", "x")):
        assert attempt(p, user, password) == DENIED
    assert attempt(p, "smith", "me").startswith(b"-ERR [AUTH] ")


def test_pwdfile(stack, tmp_path):
    if not glob.glob("/lib/*/security/pam_pwdfile.so") + glob.glob("/lib*/security/pam_pwdfile.so"):
        pytest.skip("needs libpam-pwdfile")

    def line(user, password):
        crypted = subprocess.run(["openssl", "passwd", "-6", "-stdin"], input=password, text=True,
                                 capture_output=True, check=True).stdout.strip()
        return f"{user}:{crypted}\n"

    users = tmp_path / "users"
    users.write_text(line("zoe", "first") + line("zoe@mail.example", "second"))
    p = stack(f"auth required pam_pwdfile.so pwdfile={users}\n" + PERMIT)
    assert logged_in(attempt(p, "zoe", "first"))
    assert attempt(p, "zoe", "second") == DENIED
    assert logged_in(attempt(p, "zoe@mail.example", "second"))
    assert attempt(p, "yan", "first") == DENIED
    users.write_text(line("zoe", "changed"))
    assert attempt(p, "zoe", "first") == DENIED
    assert logged_in(attempt(p, "zoe", "changed"))
    users.unlink()
    assert attempt(p, "zoe", "changed").startswith(b"-ERR [")


@pytest.mark.parametrize("password", [" lead", "trail ", "in  side", "\ttab\t", "\t", " ",
                                      "%u%{home}", "' OR 1=1--", "*)(uid=*", "pass word PASS x"])
def test_29_38_password_arrives_verbatim(stack, password):
    """The module compares what it got with what was sent."""
    escaped = password.replace("\\", "\\\\").replace("]", "\\]").replace("\t", "~")
    p = stack(f"auth required {MODULE} [expect={escaped}]\n" + PERMIT)
    assert logged_in(attempt(p, password=password))
    assert attempt(p, password=password + " ") == DENIED


@pytest.mark.parametrize("user", ["%u%{home}", "' OR 1=1--", "*)(uid=*", "-rf", "alice;id",
                                  "$(id)", "\u00e9\u4e2d", "a b", "x" * 250])
def test_30_31_32_name_arrives_verbatim(stack, user, tmp_path):
    seen = tmp_path / "items"
    p = stack(f"auth required {MODULE} items={seen}\n" + PERMIT)
    answer = attempt(p, user)
    assert logged_in(answer), answer
    assert f" user={user.lower()} rhost=" in seen.read_text()
    assert len(maildrops(p)) == 1
    p.wait_log("session ended: .*reason=quit")


@pytest.mark.parametrize("user", [b"../../etc/x", b"a/b", b"/", b".", b"..", b"", b"x" * 251,
                                  b"a\tb", b"a\x01b", b"a\x7f", b"a\0b", b"\x1b[2J", b"\xff\xfe",
                                  b"@localhost", b"..@localhost", b"./@localhost"], ids=repr)
def test_26_27_28_names_that_are_none(stack, user, tmp_path):
    """Refused before any module hears of it; nothing is made anywhere."""
    seen = tmp_path / "items"
    p = stack(f"auth required {MODULE} items={seen}\n" + PERMIT)
    assert attempt(p, user).startswith(b"-ERR")
    assert not seen.exists()
    assert maildrops(p) == []
    assert logged_in(attempt(p))
    assert seen.exists()


@pytest.mark.parametrize("password", [b"", b"x" * 501, b"a\0b", b"a\rb", b"x" * 100000],
                         ids=["empty", "501", "nul", "cr", "100000"])
def test_36_37_passwords_that_are_none(stack, password, tmp_path):
    seen = tmp_path / "items"
    p = stack(f"auth required {MODULE} items={seen}\n" + PERMIT)
    raw = p.connect()
    assert logged_in(raw.ask(b"USER alice"))
    assert raw.ask(b"PASS " + password).startswith(b"-ERR")
    assert not seen.exists()
    raw.close()
    assert logged_in(attempt(p))


def test_items(stack, tmp_path):
    """What a module is told of the client is true."""
    seen = tmp_path / "items"
    p = stack(f"auth required {MODULE} items={seen}\n" + PERMIT)
    assert logged_in(attempt(p, "Carol@Localhost"))
    assert seen.read_text() == "service=poplar user=carol rhost=127.0.0.1 tty=poplar ruser=\n"


@pytest.mark.parametrize("kind", ["none", "many", "binary", "null"])
def test_44_odd_conversations(stack, kind):
    """No crash, no guess: the module gets an error, the client [SYS/TEMP], the next one its turn."""
    p = stack(f"auth required {MODULE} conv={kind}\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="1")
    auths = p.auths()
    for _ in range(3):
        assert attempt(p) == UNAVAILABLE
    p.stack(f"auth required {MODULE} expect=secret\n" + PERMIT)
    assert logged_in(attempt(p))
    assert p.auths() == auths  # nothing had to be replaced


@pytest.mark.parametrize("arguments", ["conv=text", "conv=prompt"])
def test_conversations_of_some_length(stack, arguments):
    """Texts for people, 32 prompts at once: served, and nothing of it is seen by the client."""
    p = stack(f"auth required {MODULE} {arguments}\n" + PERMIT)
    answer = attempt(p)
    assert logged_in(answer)
    assert b"cat" not in answer and b"fire" not in answer


def test_46_new_password_is_not_given(stack):
    """An account phase that asks for a password gets none: it would become the new one."""
    p = stack("auth required pam_permit.so\n" f"account required {MODULE} account-prompt\n")
    assert attempt(p).startswith(b"-ERR [")
    assert maildrops(p) == []


# Modules that hang, crash and change what is not theirs.

def test_42_hang(stack):
    """The login gets [SYS/TEMP] when its time is over; others succeed meanwhile."""
    p = stack(f"auth [success=ignore default=1] pam_succeed_if.so quiet user = hanging\n"
              f"auth required {MODULE} hang\nauth required pam_permit.so\n" + PERMIT,
              auth_timeout="3s", auth_processes_min="1")
    victims = p.auths()
    hanging = begin(p, "hanging")
    wait_busy(p, 1)
    for user in ("alice", "bob", "carol"):
        assert logged_in(attempt(p, user))
    assert not answered(hanging)
    assert hanging.line() == UNAVAILABLE
    assert logged_in(ask(hanging, "alice", "secret"))  # the connection goes on
    hanging.close()
    p.wait_log(r"auth process \d+.*timeout")
    wait_until(lambda: not set(victims) & set(p.auths()), "the process that hung is gone")
    assert logged_in(attempt(p, "bob"))


def test_42_hanging_pool(stack):
    """Every process that may be there hangs: who waits for one gets [SYS/TEMP] in bounded time,
    and the pool works again."""
    hang = f"auth required {MODULE} hang\n" + PERMIT
    p = stack(hang, auth_timeout="2s", auth_processes_min="1", auth_processes_max="2")
    stuck = [begin(p) for _ in range(4)]
    for raw in stuck:
        assert raw.line().startswith(b"-ERR [SYS/TEMP] ")
        raw.close()
    assert len(p.auths()) <= 2
    p.stack("auth required pam_permit.so\n" + PERMIT)
    wait_until(lambda: logged_in(attempt(p)), "logins work again")


@pytest.mark.parametrize("how, why", [
    pytest.param("crash", "signal 11", marks=pytest.mark.unsanitized("it takes signal 11")),
    ("exit", "ended by itself"), ("close=3", "(?i)auth")])
def test_43_crash(stack, how, why):
    """That login gets [SYS/TEMP]; the server and the next login live."""
    p = stack(f"auth [success=ignore default=1] pam_succeed_if.so quiet user = unlucky\n"
              f"auth required {MODULE} {how}\nauth required pam_permit.so\n" + PERMIT,
              auth_processes_min="1", auth_processes_max="1")
    held = p.login("carol")
    for _ in range(3):
        before = p.auths()
        raw = p.connect()
        assert ask(raw, "unlucky", "secret") == UNAVAILABLE
        assert logged_in(ask(raw, "alice", "secret"))
        raw.send(b"QUIT\r\n")
        raw.rest()
        assert not set(before) & set(p.auths())
    p.wait_log(why)
    assert held.noop().startswith(b"+OK")
    held.quit()


@pytest.mark.parametrize("how, why", [
    pytest.param("crash", "signal 11", marks=pytest.mark.unsanitized("it takes signal 11")),
    ("exit", "ended by itself")])
def test_43_crash_with_a_process_that_stays(stack, how, why, tmp_path):
    """A module's daemon holds all that its auth process held, the end of an exchange too. Who waits
    there hears of the end all the same, and may try again."""
    stays = tmp_path / "stays"
    p = stack(f"auth required {MODULE} stay={stays} {how}\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="1", session_login_timeout="1h")
    raw = p.connect()
    try:
        assert ask(raw, "alice", "secret") == UNAVAILABLE
    finally:
        os.kill(int(stays.read_text()), signal.SIGKILL)
    p.wait_log(why)
    p.stack("auth required pam_permit.so\n" + PERMIT)
    assert logged_in(ask(raw, "alice", "secret"))
    raw.close()


def test_42_hang_of_a_dead_master(stack):
    """Its process ends as well, in its first exchange, too."""
    p = stack(f"auth required {MODULE} hang\n" + PERMIT, auth_timeout="600s",
              session_login_timeout="1h")
    raw = begin(p)
    wait_busy(p, 1)
    pids = p.auths()
    p.stop(signal.SIGKILL)
    wait_until(lambda: not any(p.lives(pid) for pid in pids), "auth processes end")
    raw.close()


@pytest.mark.skipif(not poplar.ROOT, reason="needs root to see the descriptors of auth")
def test_43_closed_exchange(stack):
    """A module that closes a number once more than it should: whoever has that by now. The client hears
    of it, not of a login that nobody can be told of."""
    hang = f"auth required {MODULE} hang\n" + PERMIT
    p = stack(hang, auth_processes_min="1", auth_processes_max="1", auth_timeout="600s",
              session_login_timeout="1h")
    raw = begin(p)
    wait_busy(p, 1)
    pid, = p.auths()
    number = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd")
                 if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"))
    assert number > 3
    p.stack(f"auth required {MODULE} close={number}\n" + PERMIT)
    os.kill(pid, signal.SIGKILL)
    assert raw.line() == UNAVAILABLE
    assert ask(raw, "alice", "secret") == UNAVAILABLE
    p.wait_log("closed a descriptor of ours")
    p.stack("auth required pam_permit.so\n" + PERMIT)
    assert logged_in(ask(raw, "alice", "secret"))
    raw.close()


@pytest.mark.parametrize("how", ["leak", "umask", "chdir", "signal", "alarm", "child",
                                 "thread"])
def test_43_changed_process(stack, how):
    """The login is good, but its process serves nobody else."""
    p = stack(f"auth required {MODULE} {how}\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="1")
    seen = set()
    for _ in range(3):
        pids = wait_until(p.auths, "an auth process")
        assert logged_in(attempt(p))
        seen |= set(pids)
        wait_until(lambda: p.auths() and not set(p.auths()) & seen, "another auth process")
    assert len(seen) == 3
    p.wait_log("a PAM module changed this process")
    assert [oct(os.stat(f).st_mode & 0o777) for f in maildrops(p)] == ["0o700"]


@pytest.mark.skipif(not poplar.ROOT, reason="needs root: the module changes ids")
def test_43_changed_ids(stack):
    """Nothing is opened under foreign ids: that login fails, the next one has a fresh process."""
    p = stack(f"auth required {MODULE} ids\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="1")
    before = p.auths()
    assert attempt(p) == UNAVAILABLE
    assert maildrops(p) == []
    wait_until(lambda: p.auths() and not set(p.auths()) & set(before), "another auth process")
    p.stack("auth required pam_permit.so\n" + PERMIT)
    assert logged_in(attempt(p))
    assert {os.stat(f).st_uid for f in maildrops(p)} == {os.stat(p.state).st_uid}


@pytest.mark.native("valgrind has descriptors of its own")
def test_43_helper_of_a_module(stack, tmp_path):
    """A program that a module runs, maybe as somebody else, has none of what auth has open: who has
    its channel speaks for it."""
    seen = tmp_path / "helper"
    p = stack(f"auth required {MODULE} helper={seen}\n" + PERMIT)
    p.add("alice", MESSAGE)
    for _ in range(2):
        assert logged_in(attempt(p))
        found = re.findall(r" (\d+) -> (.*)", seen.read_text())
        assert found
        # The shell keeps where its output went before.
        assert not [f for f in found if int(f[0]) > 2 and f[1] != "/dev/null"], found


def test_43_output_of_a_module(stack):
    """It goes nowhere near a client."""
    p = stack(f"auth required {MODULE} stdout\n" + PERMIT)
    raw = p.connect()
    assert raw.ask(b"USER alice").startswith(b"+OK")
    answer = raw.ask(b"PASS secret")
    assert logged_in(answer) and b"module" not in answer
    raw.send(b"QUIT\r\n")
    rest = raw.rest()
    assert rest.count(b"\r\n") == 1 and b"module" not in rest


# The service's file.

def test_missing_service(stack):
    """Removed while the server runs: [SYS/PERM], an error in the log, and never PAM's `other`."""
    p = stack("auth required pam_permit.so\n" + PERMIT)
    assert logged_in(attempt(p))
    p.stack("auth required pam_permit.so\n" + PERMIT, "other")
    (p.confdir / "poplar").unlink()
    assert attempt(p) == MISCONFIGURED
    p.wait_log("pam_service=poplar: no readable file")
    assert len(maildrops(p)) == 1
    p.stack("auth required pam_permit.so\n" + PERMIT)
    assert logged_in(attempt(p))


@pytest.mark.parametrize("text", [
    "", "# nothing yet\n", "account required pam_permit.so\n", "session required pam_permit.so\n",
    "@include @PAM@/nothing\naccount required pam_permit.so\n",
    "auth include @PAM@/nothing\naccount required pam_permit.so\n",
    "-auth required pam_nonexistent.so\naccount required pam_permit.so\n",
], ids=["empty", "comment", "account", "session", "@include", "include", "optional"])
def test_service_without_authentication(stack, text):
    """PAM would take the missing lines from `other`, which here lets everybody in."""
    p = stack("auth required pam_permit.so\n" + PERMIT)
    p.stack("auth required pam_permit.so\n" + PERMIT, "other")
    p.stack("# no line at all\n", "nothing")
    p.stack(text.replace("@PAM@", str(p.confdir)))
    assert attempt(p) == MISCONFIGURED
    assert maildrops(p) == []


def test_service_without_account(stack):
    """The same for the account phase: an expired account must not get in by `other`."""
    p = stack("auth required pam_permit.so\n" + PERMIT)
    p.stack("auth required pam_permit.so\n" + PERMIT, "other")
    p.stack("auth required pam_permit.so\n")
    assert attempt(p) == MISCONFIGURED
    assert maildrops(p) == []


@pytest.mark.parametrize("text, wanted", [
    ("auth required pam_nonexistent.so\n" + PERMIT, MISCONFIGURED),
    ("auth required /nonexistent/pam.so\n" + PERMIT, MISCONFIGURED),
    ("auth required @BUILD@/poplard\n" + PERMIT, MISCONFIGURED),
    ("garbage\n", MISCONFIGURED),
    ("auth requird pam_permit.so\n" + PERMIT, MISCONFIGURED),  # to libpam a denial, as the next
    ("auht required pam_permit.so\nauth required pam_permit.so\n" + PERMIT, MISCONFIGURED),
    ("auth required pam_deny.so\n" + PERMIT, DENIED),
], ids=["module", "path", "program", "garbage", "control", "type", "deny"])
def test_broken_service(stack, text, wanted):
    """A mistake in the file lets nobody in, and the server says that it is its fault."""
    p = stack("auth required pam_permit.so\n" + PERMIT)
    p.stack(text)
    assert attempt(p) == wanted
    assert maildrops(p) == []
    p.stack("auth required pam_permit.so\n" + PERMIT)
    assert logged_in(attempt(p))


def test_module_that_is_missed_by_nobody(stack):
    """It may be there for others: no reason not to serve, but said."""
    p = stack("auth optional pam_nonexistent.so\nauth required pam_permit.so\n" + PERMIT)
    p.wait_log(r"pam_service=poplar: PAM unable to dlopen\(pam_nonexistent\.so\)")
    assert logged_in(attempt(p))


def test_include(stack):
    """@include, include and substack, as Debian's own services have them. By absolute paths: some
    versions of libpam look for others in /etc/pam.d even when they are told a directory."""
    p = stack("", start=False)
    here = p.confdir
    p.stack(f"@include {here}/common-auth\naccount include {here}/common-account\n")
    p.stack("auth required pam_permit.so\n", "common-auth")
    p.stack(PERMIT, "common-account")
    p.start()
    assert logged_in(attempt(p))
    p.stack("auth required pam_deny.so\n", "common-auth")
    assert attempt(p) == DENIED
    p.stack(f"auth substack {here}/deeper\naccount required pam_permit.so\n")
    p.stack(f"auth required {MODULE} expect=down\n", "deeper")
    assert attempt(p) == DENIED
    assert logged_in(attempt(p, password="down"))
    p.stack(f"@include {here}/poplar\n" * 5 + PERMIT)  # itself, without an end
    assert attempt(p) == MISCONFIGURED


def test_change_of_the_service(stack):
    """It takes effect at the next login, in the same processes, though their modules stay mapped."""
    p = stack(f"auth required {MODULE} expect=one\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="1")
    auths = p.auths()
    assert logged_in(attempt(p, password="one"))
    for text, password, good in ((f"auth required {MODULE} expect=two\n", "two", True),
                                 (f"auth required {MODULE} expect=two\n", "one", False),
                                 ("auth required pam_deny.so\n", "two", False),
                                 ("auth required pam_permit.so\n", "any", True)):
        p.stack(text + PERMIT)
        assert logged_in(attempt(p, password=password)) == good
    assert p.auths() == auths


def test_domains(stack, tmp_path):
    """[domain NAME]: users of their own, by a service of their own."""
    seen = tmp_path / "items"
    p = stack(f"auth required {MODULE} expect=plain\n" + PERMIT, start=False,
              extra="[domain mail.example]\npam_service=hosted\n"
                    "[domain two.example]\npam_service=second\n")
    p.stack(f"auth required {MODULE} expect=hosted items={seen}\n" + PERMIT, "hosted")
    p.stack(f"auth required {MODULE} expect=second\n" + PERMIT, "second")
    p.start()
    p.add("alice", MESSAGE)
    for user, password, count in (("alice", "plain", 1), ("alice@mail.example", "hosted", 0),
                                  ("Alice@MAIL.example", "hosted", 0),
                                  ("alice@two.example", "second", 0),
                                  ("alice@localhost", "plain", 1),
                                  ("alice@foreign.example", "plain", 0)):
        client = p.login(user, password)
        assert client.stat()[0] == count, user
        client.quit()
    assert seen.read_text().startswith("service=hosted user=alice@mail.example ")
    for user, password in (("alice", "hosted"), ("alice@mail.example", "plain"),
                           ("alice@mail.example", "second"), ("alice@foreign.example", "hosted")):
        assert attempt(p, user, password) == DENIED, user
    (p.confdir / "hosted").unlink()  # only that domain's logins
    assert attempt(p, "alice@mail.example", "hosted") == MISCONFIGURED
    assert logged_in(attempt(p, "alice", "plain"))


# Whom PAM means.

def test_34_renamed_user(stack):
    """The module's name decides maildrop, lock and log."""
    p = stack(f"auth [success=ignore default=1] pam_succeed_if.so quiet user = mask\n"
              f"auth required {MODULE} rename=bob\nauth required pam_permit.so\n" + PERMIT)
    p.add("bob", MESSAGE)
    client = p.login("mask")
    assert client.stat()[0] == 1
    assert attempt(p, "bob").startswith(b"-ERR [IN-USE] ")
    assert attempt(p, "mask").startswith(b"-ERR [IN-USE] ")
    assert logged_in(attempt(p, "alice"))
    client.dele(1)
    client.quit()
    p.wait_log("session ended: .*user=bob.*deleted=1")
    assert "user=mask" not in p.log_text()
    client = p.login("bob")
    assert client.stat()[0] == 0
    assert attempt(p, "mask").startswith(b"-ERR [IN-USE] ")
    client.quit()
    assert sorted(os.path.basename(f) for f in maildrops(p)) == ["alice", "bob"]


@pytest.mark.parametrize("tls", [False, True], ids=["stls", "tls"])
def test_34_renamed_user_to_the_administrator(stack, tls):
    """And whose session it is for takeover, poplarctl sessions, kick and debug."""
    p = stack(f"auth [success=ignore default=1] pam_succeed_if.so quiet user = mask\n"
              f"auth required {MODULE} rename=bob\nauth required pam_permit.so\n" + PERMIT,
              session_lock="takeover")
    p.ctl("debug", "bob", "on")
    for name, other in (("mask", "bob"), ("bob", "mask")):
        first = p.login(name, tls=tls)
        assert [s["user"] for s in p.sessions()] == ["bob"]
        second = p.login(other, tls=tls)
        with pytest.raises((poplib.error_proto, OSError)):
            first.noop()
        assert p.ctl("kick", "mask").stdout == b"0 sessions ended\n"
        assert second.noop().startswith(b"+OK")
        p.ctl("kick", "bob")
        with pytest.raises((poplib.error_proto, OSError)):
            second.noop()
    wait_until(lambda: p.log_text().count("session ended: ") == 4, "all have ended")
    ended = re.findall("session ended: .*", p.log_text())
    assert all(" user=bob " in line for line in ended), ended
    assert p.log_text().count("C: NOOP") == 2


@pytest.mark.parametrize("name, drop", [
    ("BOB", "bob"), ("bob@localhost", "bob"), ("root", None), ("daemon", None), ("../bob", None),
    ("a/b", None), ("..", None), ("x" * 251, None), ("x" * 800, None), ("@localhost", None),
], ids=lambda value: repr(value)[:20])
def test_renamed_to(stack, name, drop):
    """By the same rules as any other name."""
    p = stack(f"auth required {MODULE} rename={name}\n" + PERMIT)
    answer = attempt(p, "mask")
    if drop:
        assert logged_in(answer)
        assert [os.path.basename(f) for f in maildrops(p)] == [drop]
    else:
        assert answer == DENIED
        assert maildrops(p) == []


def test_in_use(stack):
    """Told only to who holds the right password; the lock ends with the session."""
    p = stack(f"auth required {MODULE} expect=secret\n" + PERMIT)
    client = p.login()
    assert attempt(p).startswith(b"-ERR [IN-USE] ")
    assert attempt(p, password="wrong") == DENIED
    client.quit()
    assert logged_in(attempt(p))


# The pool.

def test_recycling(stack):
    """requests_per_process: processes come and go, no login fails."""
    p = stack(f"auth required {MODULE} expect=secret\n" + PERMIT, auth_requests_per_process="2",
              auth_processes_min="1", auth_processes_max="2")
    seen = set()
    for _ in range(12):
        seen |= set(p.auths())
        assert logged_in(attempt(p))
        seen |= set(p.auths())
    assert len(seen) >= 6
    assert len(p.auths()) <= 2


def test_recycling_under_load(stack):
    p = stack(f"auth required {MODULE} slow=20\n" + PERMIT, auth_requests_per_process="1",
              auth_processes_min="1", auth_processes_max="4")
    answers = []
    threads = [threading.Thread(target=lambda n=n: answers.append(attempt(p, f"user{n}")))
               for n in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(answers) == 24 and all(map(logged_in, answers)), answers


def test_pool_grows(stack, tmp_path):
    """A slow directory: one process a login, up to processes_max; the rest wait their turn."""
    go = tmp_path / "go"
    p = stack(f"auth required {MODULE} until={go}\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="4")
    assert len(p.auths()) == 1
    raws = [begin(p, f"user{n}") for n in range(7)]
    wait_busy(p, 4)
    assert len(p.auths()) == 4
    go.touch()
    assert [raw.line() for raw in raws] == [b"+OK logged in\r\n"] * 7
    assert len(p.auths()) == 4
    for raw in raws:
        raw.close()


def test_95_kill_auth_in_an_exchange(stack):
    """kill -9: that login gets [SYS/TEMP] at once, and may try again on the same connection."""
    p = stack(f"auth required {MODULE} hang\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="1", auth_timeout="600s")
    raw = begin(p)
    wait_busy(p, 1)
    for pid in p.auths():
        os.kill(pid, signal.SIGKILL)
    assert raw.line() == UNAVAILABLE
    p.stack("auth required pam_permit.so\n" + PERMIT)
    assert logged_in(ask(raw, "alice", "secret"))
    raw.close()


def test_42_stopped_auth(stack):
    """SIGSTOP, as a debugger would: the login is not held up for ever."""
    p = stack("auth required pam_permit.so\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="1", auth_timeout="2s")
    pids = p.auths()
    os.kill(pids[0], signal.SIGSTOP)
    assert begin(p).line() == UNAVAILABLE
    wait_until(lambda: logged_in(attempt(p)), "a fresh process")
    assert p.auths() != pids


def test_55_client_leaves_during_its_login(stack, tmp_path):
    """Between PASS and its answer: no lock stays, no process is lost."""
    go = tmp_path / "go"
    p = stack(f"auth required {MODULE} until={go}\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="2")
    for _ in range(4):
        raw = begin(p)
        wait_busy(p, 1)
        raw.close()
        go.touch()
        wait_until(lambda: b", 0 busy;" in p.ctl("status").stdout, "nobody works for who left")
        go.unlink()
    p.stack("auth required pam_permit.so\n" + PERMIT)
    wait_until(lambda: logged_in(attempt(p)), "the maildrop is free")
    assert logged_in(attempt(p))


def test_worker_killed_during_its_login(stack, tmp_path):
    go = tmp_path / "go"
    p = stack(f"auth required {MODULE} until={go}\n" + PERMIT, auth_processes_min="1",
              auth_processes_max="2")
    raw = begin(p)
    wait_busy(p, 1)
    victim, = p.serving()
    os.kill(victim, signal.SIGKILL)
    assert raw.rest() == b""
    go.touch()
    p.stack("auth required pam_permit.so\n" + PERMIT)
    wait_until(lambda: logged_in(attempt(p)), "the maildrop is free")


# Failures.

@pytest.mark.parametrize("user", ["alice", "nosuchuser", "x" * 250])
def test_39_failure_delay(stack, user):
    """Never before its time. The clock is counted in whole milliseconds."""
    p = stack(f"auth required {MODULE} expect=secret\n" + PERMIT, auth_failure_delay="1s")
    raw = p.connect()
    for _ in range(2):
        before = time.monotonic()
        assert ask(raw, user, "wrong") == DENIED
        assert time.monotonic() - before >= 0.999
    assert logged_in(ask(raw, "alice", "secret"))
    raw.close()


def test_39_failures_of_every_kind_wait(stack):
    """Expired accounts too: what takes how long must not tell them apart."""
    for account, wanted in (("acct_expired", ACCOUNT), ("new_authtok_reqd", EXPIRED)):
        text = f"auth required pam_permit.so\naccount required pam_debug.so acct={account}\n"
        if account == "acct_expired":
            p = stack(text, auth_failure_delay="1s")
        p.stack(text)
        before = time.monotonic()
        assert attempt(p) == wanted
        assert time.monotonic() - before >= 0.999


def test_52_three_failures(stack):
    """They close the connection; the server goes on."""
    p = stack(f"auth required {MODULE} expect=secret\n" + PERMIT)
    raw = p.connect()
    for n in range(3):
        assert ask(raw, "alice", f"wrong{n}") == DENIED
    assert raw.rest() == b""
    p.wait_log("session ended: .*reason=login-failures")
    assert logged_in(attempt(p))


@pytest.mark.parametrize("account, password, answer", [("pam_permit.so", "wrong", DENIED),
                                                       ("pam_deny.so", "secret", ACCOUNT)])
def test_52_one_failure_by_every_mechanism(stack, account, password, answer):
    """Thunderbird tries each, then asks its user for another password and goes on where it is. That a
    connection ends meanwhile is more than it can bear: it forgets what it has fetched."""
    p = stack(f"auth required {MODULE} expect=secret\naccount required {account}\n")
    raw = p.connect()
    for _ in range(3):
        assert ask(raw, "alice", password) == answer
    p.stack(f"auth required {MODULE} expect=secret\n" + PERMIT)
    assert logged_in(ask(raw, "alice", "secret"))
    raw.close()


def test_52_repeated_without_end(stack):
    """What is no guess has an end, too."""
    p = stack(f"auth required {MODULE} expect=secret\n" + PERMIT)
    raw = p.connect()
    for _ in range(9):
        assert ask(raw, "alice", "wrong") == DENIED
    assert raw.rest() == b""
    p.wait_log("session ended: .*reason=login-failures")


def test_failures_do_not_hold_up_others(stack):
    """Twenty wait for their answers; a good login succeeds meanwhile, and no auth process waits."""
    p = stack(f"auth required {MODULE} expect=secret\n" + PERMIT, auth_failure_delay="50s",
              auth_processes_min="1", auth_processes_max="2", server_stop_grace="0")
    failing = [begin(p, f"user{n}", "wrong") for n in range(20)]
    wait_until(lambda: p.log_text().count("login failed") == 20, "twenty failures")
    for user in ("alice", "bob"):
        assert logged_in(attempt(p, user))
    assert answered(*failing) == []
    wait_until(lambda: b", 0 busy;" in p.ctl("status").stdout, "none is busy")
    assert answered(*failing) == []
    for raw in failing:
        raw.close()


def test_pam_does_not_sleep(stack):
    """A module's own delay after a failure would hold a process: it is taken over."""
    if not glob.glob("/lib/*/security/pam_faildelay.so") + glob.glob("/lib*/security/pam_faild*"):
        pytest.skip("needs pam_faildelay")
    p = stack("auth optional pam_faildelay.so delay=600000000\nauth required pam_deny.so\n" +
              PERMIT, auth_timeout="20s")
    assert attempt(p) == DENIED


def test_log_of_failures(stack):
    """One line each, with what an administrator looks for; never the password."""
    p = stack(f"auth required {MODULE} expect=secret\n" + PERMIT)
    assert attempt(p, "mallory", "canary-of-a-password") == DENIED
    assert logged_in(attempt(p))
    line = p.wait_log("login failed: .*").group(0)
    assert "user=mallory" in line and "peer=127.0.0.1:" in line
    p.wait_log("session ended: .*user=alice")
    assert "canary" not in p.log_text() and "secret" not in p.log_text()


# Secrets.

def memory(pid):
    """What of a process can be read: every mapping, as one string a mapping."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, permissions = line.split()[:2]
            if permissions[0] != "r" or "[vvar" in line or "[vsyscall" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                yield os.pread(mem.fileno(), end - start, start)
            except OSError:
                continue


def holds(pid, secret):
    return any(secret in part for part in memory(pid))


def log_in_by(raw, mechanism, user, password):
    """The last answer."""
    if mechanism == "PASS":
        return ask(raw, user, password)
    if mechanism == "PLAIN":
        return raw.ask(b"AUTH PLAIN " + base64.b64encode(b"\0" + user + b"\0" + password))
    assert raw.ask(b"AUTH LOGIN").startswith(b"+ ")
    assert raw.ask(base64.b64encode(user)).startswith(b"+ ")
    return raw.ask(base64.b64encode(password))


def encodings(secret):
    """What a piece of base64 that has this somewhere inside must hold: by where its octets begin in
    their groups of three."""
    return [base64.b64encode(secret[n : n + len(secret[n:]) // 3 * 3]) for n in range(3)]


@pytest.mark.unsanitized("what a sanitizer maps is too much to read")
@pytest.mark.skipif(not poplar.ROOT, reason="needs root to read the memory of others")
@pytest.mark.parametrize("way", ["clear", "stls", "tls"])
@pytest.mark.parametrize("mechanism", ["PASS", "PLAIN", "LOGIN"])
@pytest.mark.parametrize("good", [True, False], ids=["right", "wrong"])
def test_57_password_is_not_kept(stack, way, mechanism, good):
    """In no process, once the login is answered, neither plain nor in base64. The user's name, which
    is kept, shows that this looks in the right place."""
    password = b"canary:5b1f8e0c:" + os.urandom(12).hex().encode()
    user = b"user-" + os.urandom(4).hex().encode()
    # Asked for again and again, by a module itself and by libpam for it.
    p = stack(f"auth required {MODULE} conv=prompt\n"
              f"auth {'[default=ignore]' if good else 'required'} {MODULE} expect=another\n" +
              PERMIT, auth_processes_min="1", auth_processes_max="1",
              tls_required="not-on-loopback")
    raw = p.connect(tls=way == "tls")
    if way == "stls":
        assert raw.ask(b"STLS").startswith(b"+OK")
        raw.start_tls(p.tls_context())
    answer = log_in_by(raw, mechanism, user, password)
    assert logged_in(answer) == good
    serving = p.serving()
    assert len(serving) == 1
    wait_until(lambda: b", 0 busy;" in p.ctl("status").stdout, "auth has done with it")
    tail = password[-16:]  # also what is left of a copy that was overwritten in part
    for pid in [p.process.pid, *p.nursery(), *serving, *p.auths()]:
        for trace in (tail, *encodings(tail)):
            assert not holds(pid, trace), (open(f"/proc/{pid}/comm").read(), trace)
    if good:
        assert holds(p.process.pid, user)
    raw.close()


@pytest.mark.unsanitized("what a sanitizer maps is too much to read")
@pytest.mark.skipif(not poplar.ROOT, reason="needs root to read the memory of others")
def test_57_password_of_pam_unix_is_not_kept(accounts):
    """libcrypt and pam_unix leave nothing either, in the process that stays."""
    password = "canary:" + os.urandom(8).hex()
    subprocess.run(["chpasswd"], input=f"carol:{password}\n", text=True, check=True)
    raw = accounts.connect()
    assert logged_in(ask(raw, "carol", password))
    for pid in [accounts.process.pid, *accounts.nursery(), *accounts.serving(), *accounts.auths()]:
        assert not holds(pid, password[-16:].encode())
    raw.close()
