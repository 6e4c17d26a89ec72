"""poplarctl and poplar-deliver as people use them: on a terminal, into a full or closed output,
with words that mean nothing, without privilege, without a server, interrupted."""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

import pytest

import poplar

pytestmark = pytest.mark.skipif(not poplar.ROOT, reason="needs root: files of another user")

USAGE, DATA, NO_INPUT, NO_USER, UNAVAILABLE, CANNOT_CREATE, IO, TEMPORARY, NO_PERMISSION, CONFIG = \
    64, 65, 66, 67, 69, 73, 74, 75, 77, 78

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"
PIDFD_GETFD = 438


@pytest.fixture
def p(server):
    made = server(start=False, store_expire_after="30d", tls_required="not-on-loopback")
    made.config.chmod(0o644)
    return made


def refused(p, status, words, *arguments, **options):
    """One line on stderr with these words in it, and this exit status; what stdout got."""
    done = p.ctl(*arguments, check=False, **options)
    assert done.returncode == status, done
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and lines[0].startswith("poplarctl: ") and words in lines[0], done
    return done.stdout


def on_terminal(p, *arguments, says=b"", size=(24, 100)):
    """Run with a terminal for input and errors; its exit status and what it showed there."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    os.write(leader, says)
    process = subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, *arguments],
                               stdin=follower, stderr=follower, stdout=subprocess.PIPE)
    os.close(follower)
    shown = b""
    while True:
        try:
            got = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        shown += got
    os.close(leader)
    printed = process.stdout.read()
    process.stdout.close()
    return process.wait(60), shown.decode(), printed.decode()


# On a terminal.

@pytest.mark.parametrize("answer, done", [(b"y\n", True), (b"Yes\n", True), (b"n\n", False),
                                          (b"\n", False), (b"\x04", False)])
def test_asks(p, tmp_path, answer, done):
    p.add("alice", MESSAGE)
    p.ctl("mailbox", "backup", "alice", tmp_path / "one.db")
    p.add("alice", MESSAGE)
    status, shown, printed = on_terminal(p, "mailbox", "restore", "alice", tmp_path / "one.db",
                                         says=answer)
    assert "Put the 1 message of the backup in the place of the 2 that alice has? [y/N]" in shown
    assert ("nothing was done" in shown) != done and (status == 0) == done
    assert printed == ("restored 1 message, 22 octets\n" if done else "")
    status, shown, _ = on_terminal(p, "mailbox", "delete", "alice", says=answer)
    assert "Delete the maildrop of alice with all its mail? [y/N]" in shown
    assert (status == 0) == done
    assert bool(list(p.state.glob("mail/??/??/alice"))) != done


def test_asks_nobody_without_a_terminal(p, tmp_path):
    p.add("alice", MESSAGE)
    p.ctl("mailbox", "backup", "alice", tmp_path / "one.db")
    for command in (["restore", "alice", tmp_path / "one.db"], ["delete", "alice"]):
        refused(p, USAGE, "? Say --yes", "mailbox", *command, stdin=subprocess.DEVNULL)
    assert b"1 message," in p.ctl("message", "list", "alice").stdout
    assert json.loads(p.ctl("--json", "mailbox", "restore", "--yes", "alice",
                            tmp_path / "one.db").stdout) == {
        "user": "alice", "messages": 1, "octets": 22}
    assert json.loads(p.ctl("--json", "mailbox", "delete", "--yes", "alice").stdout) == {
        "user": "alice", "deleted": True}


def test_a_message_typed(p):
    status, shown, _ = on_terminal(p, "message", "add", "alice", says=b"Subject: x\n\nbody\n\x04")
    assert status == 0 and "reading the message from the terminal, Ctrl-D ends it" in shown
    assert p.ctl("message", "show", "alice", "1").stdout == b"Subject: x\n\nbody\n"


@pytest.mark.parametrize("size", [(24, 100), (24, 20), (24, 3000), (0, 0)])
def test_a_bar_while_it_takes_long(p, tmp_path, size):
    """It is drawn over itself, no wider than the terminal, and is gone at the end."""
    box = tmp_path / "box"
    today = time.asctime(time.gmtime()).encode()  # else it would say that the mail is to go soon
    with open(box, "wb") as file:
        for n in range(12000):  # more than a tenth of a second, also on a fast machine
            file.write(b"From x@example.test %s\nSubject: %d\n\n" % (today, n)
                       + b"x" * 1000 + b"\n\n")
    status, shown, printed = on_terminal(p, "import", "alice", box, size=size)
    assert status == 0 and printed.startswith("imported 12000 messages")
    drawn = [line for line in shown.split("\r") if line.startswith("importing")]
    assert drawn and "%" in "".join(drawn) or size[1] == 20
    assert all(len(line) < (size[1] or 80) for line in drawn)
    assert shown.split("\r")[-2].strip() == ""


# Output that is full or closed.

@pytest.fixture
def everything(p, tmp_path):
    p.add("alice", MESSAGE)
    p.add("alice", MESSAGE)
    p.ctl("message", "delete", "alice", "2")
    return p


PRINTING = [
    ["--version"], ["--help"], ["help", "import"], ["help", "mailbox", "restore"],
    ["message", "list", "alice"], ["message", "show", "alice", "1"], ["user", "alice"],
    ["mailbox", "list"], ["mailbox", "show", "alice"], ["mailbox", "check", "alice"],
    ["mailbox", "compact", "alice"], ["mailbox", "upgrade", "alice"], ["expire"],
]


@pytest.mark.native("valgrind opens the standard descriptors that are closed")
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_output_is_full_or_closed(everything, words):
    for form in ([], ["--json"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([poplar.BUILD / "poplarctl", "--config", everything.config,
                                   *form, *words], stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (
            IO, b"poplarctl: standard output: No space left on device\n"), words
        closed = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", poplar.BUILD / "poplarctl", "--config",
             everything.config, *form, *words], stderr=subprocess.PIPE)
        assert (closed.returncode, closed.stderr) == (
            IO, b"poplarctl: standard output: Bad file descriptor\n"), words


# Words.

@pytest.mark.parametrize("status, words, arguments", [
    (NO_INPUT, "no message 7", ["message", "show", "alice", "7"]),
    (USAGE, "0: no id", ["message", "show", "alice", "0"]),
    (USAGE, "+1: no id", ["message", "show", "alice", "+1"]),
    (USAGE, "1x: no id", ["message", "show", "alice", "1x"]),
    (USAGE, "an argument is empty", ["message", "show", "alice", ""]),
    (USAGE, "99999999999999999999: no id", ["message", "show", "alice", "9" * 20]),
    (USAGE, "x: no id", ["message", "delete", "alice", "1", "x"]),
    (NO_INPUT, "list the messages again", ["message", "delete", "alice", "1", "9"]),
    (NO_INPUT, "message 1 is not deleted", ["message", "restore", "alice", "2", "1"]),
    (USAGE, "must be quota_octets=SIZE", ["mailbox", "set", "alice", "quota"]),
    (USAGE, "must be quota_octets=SIZE", ["mailbox", "set", "alice", "quota_octet=1"]),
    (USAGE, "must be quota_octets=SIZE", ["mailbox", "set", "alice", "quota_octetz=1"]),
    (USAGE, "must be on or off", ["mailbox", "set", "alice", "pop3=perhaps"]),
    (USAGE, "quota_octets", ["mailbox", "set", "alice", "pop3=off", "quota_octets=many"]),
    (NO_USER, "bob: no maildrop yet; mailbox create makes it", ["mailbox", "set", "bob", "pop3=off"]),
    (NO_USER, "bob: no maildrop yet", ["export", "bob", "/nonexistent/x"]),
    (NO_USER, "bob: no maildrop yet", ["message", "list", "bob"]),
    (NO_USER, "bob: no maildrop yet", ["mailbox", "check", "bob"]),
    (NO_USER, "bob: no maildrop yet", ["expire", "bob"]),
    (NO_USER, "bob: no maildrop", ["mailbox", "delete", "--yes", "bob"]),
    (NO_USER, "bob: no maildrop", ["mailbox", "delete", "bob"]),
    (NO_USER, "bob: no maildrop", ["mailbox", "salvage", "bob", "/nonexistent/x"]),
    (NO_USER, "cannot be a user", ["user", "a/b"]),
    (NO_USER, "cannot be a user", ["message", "list", "a/b"]),
    (NO_USER, "cannot be a user", ["mailbox", "salvage", ".", "/nonexistent/x"]),
    (NO_USER, "cannot be a user", ["mailbox", "create", " "]),
    (NO_USER, "cannot be a user", ["kick", "a/b"]),
    (USAGE, "an argument is empty", ["mailbox", "create", ""]),
    (USAGE, "an argument is empty", ["kick", ""]),
    (USAGE, "an argument is empty", ["mailbox", "backup", "--all", ""]),
    (NO_USER, "cannot be a user", ["mailbox", "restore", "--yes", "a/b", "/nonexistent"]),
    (NO_USER, "cannot be a user", ["mailbox", "delete", "--yes", "a/b"]),
    (NO_USER, "cannot be a user", ["debug", "a/b", "on"]),
    (NO_USER, "too long for a maildrop's name", ["user", "%" * 100]),
    (USAGE, "debug alice maybe: on or off", ["debug", "alice", "maybe"]),
    (USAGE, "--format=eml: must be maildir or mbox", ["export", "--format=eml", "alice", "x"]),
    (USAGE, "--format=tar: must be", ["import", "--format=tar", "alice", "x"]),
    (USAGE, "--uidl=old: must be", ["import", "--uidl=old", "alice", "x"]),
    (USAGE, "--uidl-format=%z: knows", ["import", "--uidl-format=%z", "alice", "x"]),
    (USAGE, "--uidl-list is of one account", ["import", "--all", "--uidl-list", "x", "/tmp"]),
    (NO_INPUT, "/nonexistent: No such file", ["import", "--uidl-list", "/nonexistent", "alice",
                                              "/tmp"]),
    (NO_INPUT, "/nonexistent: No such file", ["import", "alice", "/nonexistent"]),
    (NO_INPUT, "/nonexistent: No such file", ["import", "--all", "/nonexistent"]),
    (NO_INPUT, "/nonexistent: No such file", ["mailbox", "restore", "--yes", "alice",
                                              "/nonexistent"]),
    (NO_INPUT, "/nonexistent/x: No such file", ["mailbox", "salvage", "/nonexistent/x", "/tmp/x"]),
    (CANNOT_CREATE, "/nonexistent/x", ["mailbox", "backup", "alice", "/nonexistent/x"]),
    (CANNOT_CREATE, "/nonexistent/x", ["mailbox", "backup", "--all", "/nonexistent/x"]),
    (CANNOT_CREATE, "/nonexistent/x", ["export", "alice", "/nonexistent/x"]),
    (CANNOT_CREATE, "/nonexistent/x", ["export", "--format=mbox", "alice", "/nonexistent/x"]),
    (CANNOT_CREATE, "neither empty nor a Maildir", ["export", "alice", "/etc"]),
    (CANNOT_CREATE, "Not a directory", ["export", "alice", "/etc/passwd"]),
    (USAGE, "frobnicate", ["help", "frobnicate"]),
    (USAGE, "frobnicate", ["frobnicate"]),
    (USAGE, "", ["mailbox"]),
    (USAGE, "", ["message", "shwo", "alice", "1"]),
    (USAGE, "", ["--"]),
    (USAGE, "", []),
], ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None)
def test_words(everything, status, words, arguments):
    printed = refused(everything, status, words, *arguments, stdin=subprocess.DEVNULL)
    assert printed == b""


def test_help_on_a_group(p):
    for words in (["mailbox", "--help"], ["help", "mailbox"]):
        shown = p.ctl(*words).stdout
        assert b"mailbox COMMAND" in shown and b"  mailbox backup USER FILE " in shown
        assert b"message" not in shown.split(b"Options:")[0].replace(b"messages", b"")


def test_a_message_named_twice(p):
    p.add("alice", MESSAGE)
    p.add("alice", MESSAGE)
    for command, done in (("delete", b'{"deleted":2}\n'), ("restore", b'{"restored":2}\n')):
        assert p.ctl("--json", "message", command, "alice", "2", "1", "2").stdout == done


@pytest.mark.accounts
def test_who_never_has_a_maildrop(p):
    p.write_config(auth_canonical="nss", auth_require_nss="yes", auth_first_uid="1000")
    refused(p, NO_USER, "root: uid 0 never has a maildrop", "message", "add", "root", input=b"x")
    refused(p, NO_USER, "nobody: uid 65534 never has a maildrop", "user", "nobody")
    refused(p, NO_USER, "daemon: uid 1 is below [auth] first_uid=1000", "user", "daemon")
    refused(p, NO_USER, "nobody-here: no such account; make it, or set [auth] canonical=pam",
            "user", "nobody-here")
    refused(p, NO_USER, "nobody@example.org: no such account, and example.org is not in [server] "
            "local_domains", "user", "nobody@example.org")
    p.write_config(auth_canonical="pam", auth_require_nss="yes")
    refused(p, NO_USER, "[auth] require_nss=yes wants one", "user", "nobody-here")
    p.write_config(server_store_user="nobody-here")
    refused(p, CONFIG, "[server] store_user=nobody-here: no such account", "mailbox", "create",
            "alice")


def test_no_configuration(p):
    done = subprocess.run([poplar.BUILD / "poplarctl", "status"], capture_output=True)
    assert done.returncode == CONFIG
    assert done.stderr.endswith(b"(--config names another file)\n"), done
    done = p.ctl("--config", "/nonexistent", "status", check=False)
    assert done.returncode == CONFIG and b"another file" not in done.stderr


# Without a server, or privilege.

@pytest.mark.parametrize("words", [["status"], ["sessions"], ["metrics"], ["reload"],
                                   ["debug", "alice", "on"], ["kick", "alice"]], ids=" ".join)
def test_no_server(p, words):
    refused(p, UNAVAILABLE, "poplard does not run with this configuration; start it first, or "
            "restart it if run_dir has changed", *words)
    p.write_config(server_run_dir="/" + "x" * 100)
    refused(p, CONFIG, "too long for a socket's path", *words)


@pytest.mark.accounts
def test_without_privilege(everything, tmp_path):
    p = everything
    for words, arguments in [
            ("the maildrops belong to poplar: run poplarctl as root", ["message", "list", "alice"]),
            ("run poplarctl as root, or as poplar", ["mailbox", "list"]),
            ("run poplarctl as root, or as poplar", ["expire"]),
            # What cannot be seen is not missing, and is not asked for.
            ("run poplarctl as root, or as poplar", ["mailbox", "delete", "alice"]),
            ("run poplarctl as root, or as poplar", ["mailbox", "salvage", "alice", "/nonexistent"]),
            ("run poplarctl as root, or as poplar", ["import", "--dry-run", "alice", "/nonexistent"]),
            ("run poplarctl as root, or as poplar", ["message", "add", "alice"])]:
        assert refused(p, NO_PERMISSION, words, *arguments, user="alice",
                       stdin=subprocess.DEVNULL) == b""
    told = p.ctl("user", "alice", user="alice", check=False)
    assert told.returncode == 0 and b"(only root can see)" in told.stdout
    assert b"messages" not in told.stdout  # nor that there are none
    told = json.loads(p.ctl("--json", "user", "alice", user="alice").stdout)
    assert set(told) == {"user", "pam_service", "maildrop", "state"}
    # A part of it that root made, by a copy say, is named.
    foreign = p.state / "mail/zz"
    foreign.mkdir(0o700)
    refused(p, NO_PERMISSION, f"{foreign}: Permission denied; run poplarctl as root, or as poplar, "
            "who must own all there", "expire", user="poplar")
    foreign.rmdir()
    # The store user may all that root may.
    assert b"1 message," in p.ctl("message", "list", "alice", user="poplar").stdout
    p.ctl("mailbox", "delete", "--yes", "alice", user="poplar")
    (tmp_path / "mbox").write_bytes(b"From x\n\nx\n")
    (tmp_path / "mbox").chmod(0o600)
    refused(p, NO_PERMISSION, "Permission denied", "import", "alice", tmp_path / "mbox",
            user="poplar")


# What lies about.

def test_what_is_no_maildrop(everything):
    """Whatever else is below mail/ is passed over with a word, and in nobody's way."""
    p = everything
    place = p.maildrop("alice").parent
    strange = ["%4", "%zz", "%00", "%", "%e", "bob", "%41lice", "x" * 255, "\x01" * 100]
    for name in strange + [".gone-0123456789abcdef"]:
        (place / name).mkdir()
    (p.state / "mail/file").write_text("")
    (p.state / "mail/00").symlink_to(place)
    strange += ["mail/file", "mail/00"]
    done = p.ctl("mailbox", "list")
    assert done.stdout.count(b"alice") == 1 and done.stdout.count(b"\n") == 2
    said = done.stderr.decode().splitlines()
    assert len(said) == len(strange) and all("no maildrop; passed over" in line for line in said)
    # Of the leftovers of deletions, those go that are old.
    (place / ".new-0123456789abcdef").mkdir()
    (place / ".new-0123456789abcdef/mail.db").write_text("x")
    (place / ".gone-file").write_text("")
    for name in (".new-0123456789abcdef", ".gone-file"):
        os.utime(place / name, (0, 0))
    shutil.chown(place / ".new-0123456789abcdef", "poplar" if poplar.NAMESPACES else "mail")
    p.ctl("expire")
    assert {d.name for d in place.iterdir() if d.name[0] == "."} == {".gone-0123456789abcdef",
                                                                     ".gone-file"}


def test_one_bad_maildrop_among_others(everything, tmp_path):
    """The others are served, and the exit status tells of the one."""
    p = everything
    for user in ("bob", "carol"):
        p.add(user, MESSAGE)
    database = p.maildrop("bob") / "mail.db"
    with sqlite3.connect(database) as broken:
        broken.execute("UPDATE state SET guard = guard + 1")
    broken.close()
    for words in (["list"], ["check", "--all"], ["compact", "--all"], ["upgrade", "--all"],
                  ["backup", "--all", tmp_path / "all"]):
        for form in ([], ["--json"]):
            shutil.rmtree(tmp_path / "all", ignore_errors=True)
            done = p.ctl(*form, "mailbox", *words, check=False)
            assert done.returncode == DATA, done
            assert b"alice" in done.stdout and b"carol" in done.stdout
            assert b"bob" in done.stderr + done.stdout
    done = p.ctl("expire", check=False)
    assert done.returncode == DATA and b"maildrop of bob" in done.stderr
    assert b"2 maildrops: " in done.stdout
    # No login finds it, and nothing half is told of it.
    refused(p, DATA, "damaged maildrop", "message", "list", "bob")
    refused(p, DATA, "damaged maildrop", "mailbox", "set", "bob", "pop3=off")
    for form in ([], ["--json"]):
        told = p.ctl(*form, "user", "bob", check=False)
        assert told.returncode == DATA and b"maildrop of bob" in told.stderr
    (p.maildrop("bob") / "lock").unlink()
    p.ctl("mailbox", "delete", "--yes", "bob")
    assert p.ctl("mailbox", "list").stdout.count(b"\n") == 3


def test_in_use(everything):
    """Held as a session holds it: what would change under its eyes waits, expire passes over."""
    p = everything
    with open(p.maildrop("alice") / "lock", "rb+") as lock:
        fcntl.fcntl(lock, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0))  # F_OFD_SETLK
        for words in (["message", "delete", "alice", "1"], ["message", "restore", "alice", "2"],
                      ["mailbox", "delete", "--yes", "alice"]):
            refused(p, TEMPORARY, "a session holds the maildrop", *words)
        assert json.loads(p.ctl("--json", "expire").stdout) == {
            "maildrops": 1, "in_use": 1, "expired": 0, "removed": 0}
        assert b"1 in use, passed over" in p.ctl("expire", "alice").stdout
        p.ctl("mailbox", "list")
    assert json.loads(p.ctl("--json", "message", "delete", "alice", "1").stdout) == {"deleted": 1}
    assert json.loads(p.ctl("--json", "message", "restore", "alice", "2").stdout) == {"restored": 1}
    assert [m["id"] for m in json.loads(p.ctl("--json", "message", "list", "alice").stdout)] == [2]


@pytest.mark.parametrize("kind", ["file", "link", "none"])
def test_backup_that_is_none(everything, tmp_path, kind):
    p = everything
    if kind == "file":
        (tmp_path / "x").write_bytes(b"no database")
        refused(p, DATA, "no backup of a maildrop", "mailbox", "restore", "--yes", "alice",
                tmp_path / "x")
    elif kind == "link":
        p.ctl("mailbox", "backup", "alice", tmp_path / "x")
        with sqlite3.connect(tmp_path / "x") as database:
            database.execute("UPDATE message SET header_size = 5 WHERE id = 1")
        database.close()
        done = p.ctl("mailbox", "restore", "--yes", "alice", tmp_path / "x", check=False)
        assert done.returncode == DATA and b"; mailbox salvage may" in done.stderr
    else:
        (tmp_path / "x").mkdir()
        refused(p, NO_INPUT, "x/mail.db: No such file", "mailbox", "restore", "--yes", "alice",
                tmp_path / "x")
    assert b"1 message," in p.ctl("message", "list", "alice").stdout


def test_backup_over_what_is_no_file(everything, tmp_path):
    """The name of a device, of a pipe or of a link goes on to lead to it: poplarctl is root's."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "link", "folder"):
        before = (tmp_path / name).lstat()
        refused(everything, CANNOT_CREATE, f"{name}: is there, and is no file", "mailbox", "backup",
                "alice", tmp_path / name)
        assert (tmp_path / name).lstat() == before
    assert len(list(tmp_path.glob("*.unfinished"))) == 0


def test_backup_into_the_working_directory(everything, tmp_path):
    """And into the root of a tree: a path has a slash at its begin, or none."""
    everything.ctl("mailbox", "backup", "alice", "one.db", cwd=tmp_path)
    assert (tmp_path / "one.db").stat().st_mode & 0o777 == 0o600
    everything.ctl("mailbox", "restore", "--yes", "bob", "one.db", cwd=tmp_path)
    assert b"1 message," in everything.ctl("message", "list", "bob").stdout


# Interrupted.

LONG_WORK = {
    "import": ["import", "alice", "@box"],
    "import-all": ["import", "--all", "@tree"],
    "check": ["mailbox", "check", "--all"],
    "compact": ["mailbox", "compact", "--all"],
    "backup": ["mailbox", "backup", "alice", "@out"],
    "restore": ["mailbox", "restore", "--yes", "alice", "@backup"],
    "salvage": ["mailbox", "salvage", "alice", "@out"],
    "export": ["export", "alice", "@out"],
    "export-mbox": ["export", "--format=mbox", "alice", "@out"],
    "expire": ["expire"],
}


@pytest.mark.unsanitized("a sanitizer stands where the library would")
@pytest.mark.parametrize("name", LONG_WORK)
def test_interrupted(everything, tmp_path, name):
    """By a signal at any of its reads, writes and statements: it ends by that signal, soon; the
    maildrop is sound, and what was interrupted goes through the second time."""
    p = everything
    p.add("bob", MESSAGE)
    (tmp_path / "tree").mkdir()
    for box in ("box", "tree/bob", "tree/carol"):
        (tmp_path / box).write_bytes(b"".join(
            b"From x@example.test Sat Jan  1 00:00:00 2022\nSubject: %d\n\nbody\n\n" % n
            for n in range(3)))
    p.ctl("mailbox", "backup", "alice", tmp_path / "backup")
    words = [w.replace("@", str(tmp_path) + "/") for w in LONG_WORK[name]]
    command = [poplar.BUILD / "poplarctl", "--config", p.config, *words]
    calls = tmp_path / "calls"
    ended = 0
    for call in ("read", "pread", "sqlite3_step", "open", "fstat"):
        for number in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            calls.unlink(missing_ok=True)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            (tmp_path / "out").unlink(missing_ok=True)
            done = subprocess.run(command, capture_output=True, timeout=60, env=os.environ | {
                "LD_PRELOAD": str(poplar.BUILD / "tests/failing.so"), "FAILING_LOG": str(calls),
                "FAILING": f"{call}:{number}:-{signal.SIGTERM.value}"})
            assert done.returncode in (0, -signal.SIGTERM), (call, number, done)
            if not calls.exists():
                break
            ended += done.returncode != 0
            if name == "backup" and (tmp_path / "out").exists():  # whole, or not there
                p.ctl("mailbox", "restore", "--yes", "carol", tmp_path / "out")
            if name == "export-mbox" and (tmp_path / "out").exists():
                assert (tmp_path / "out").read_bytes().endswith(b"\nbody\n\n")
            assert not (tmp_path / "out.unfinished").exists()
    assert ended > 2
    if name != "export-mbox" or not (tmp_path / "out").exists():
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").unlink(missing_ok=True)
        p.ctl(*words)
    p.ctl("mailbox", "check", "--all")


@pytest.mark.unsanitized("a sanitizer stands where the library would")
@pytest.mark.parametrize("name", ["import", "salvage", "add", "show"])
def test_interrupted_calls_go_on(everything, tmp_path, name):
    """EINTR is no failure."""
    p = everything
    words = {"add": ["message", "add", "alice"], "show": ["message", "show", "alice", "1"]}.get(
        name, [w.replace("@", str(tmp_path) + "/") for w in LONG_WORK.get(name, [])])
    (tmp_path / "box").write_bytes(b"From x@example.test Sat Jan  1 00:00:00 2022\n\nbody\n")
    calls = tmp_path / "calls"
    for call in ("read", "write") if name != "show" else ("write",):
        for number in (1, 2, 3):
            calls.unlink(missing_ok=True)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            done = subprocess.run(
                [poplar.BUILD / "poplarctl", "--config", p.config, *words], input=MESSAGE,
                capture_output=True, timeout=60, env=os.environ | {
                    "LD_PRELOAD": str(poplar.BUILD / "tests/failing.so"),
                    "FAILING_LOG": str(calls), "FAILING": f"{call}:{number}:{errno.EINTR}"})
            assert done.returncode == 0, (call, number, done)
            assert name != "show" or done.stdout == MESSAGE.replace(b"\r\n", b"\n")
            if not calls.exists():
                break


# poplar-deliver, in front of a server that says what it is told to.

@pytest.fixture
def says(tmp_path):
    """Run poplar-deliver against these replies, one for each of its steps; then the end."""
    def run(*replies, arguments=("alice",), message=MESSAGE, stdin=None,
            hangs_up=False):
        path = tmp_path / "lmtp"
        path.unlink(missing_ok=True)
        heard = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()

            def serve():
                with contextlib.suppress(OSError), listener.accept()[0] as peer, \
                        peer.makefile("rb") as lines:
                    for reply in replies:
                        peer.sendall(reply)
                        heard.append(lines.readline())
                        while (not hangs_up and reply.startswith(b"354")
                               and heard[-1] not in (b".\r\n", b"")):
                            heard.append(lines.readline())
            thread = threading.Thread(target=serve)
            thread.start()
            done = subprocess.run([poplar.BUILD / "poplar-deliver", "--socket", path, *arguments],
                                  capture_output=True, timeout=60,
                                  **{"stdin": stdin} if stdin else {"input": message})
            thread.join()
        return done, heard
    return run


BEGIN = [b"220 x\r\n", b"250-x\r\n250 y\r\n", b"250 ok\r\n", b"250 ok\r\n"]


@pytest.mark.parametrize("status, replies", [
    (0, [*BEGIN, b"354 go\r\n", b"250-2.0.0 a\r\n250 2.0.0 Delivered\r\n"]),
    (0, [*BEGIN, b"354\n", b"250\n"]),
    (75, [b"421 not now\r\n"]),
    (75, []),
    (75, BEGIN),
    (75, [*BEGIN, b"354 go\r\n"]),
    (75, [*BEGIN, b"354 go\r\n", b"452 4.2.2 full\r\n"]),
    (75, [*BEGIN, b"250 what\r\n"]),
    (75, [b"garbage\r\n"]),
    (75, [b"\0\r\n"]),
    (67, [*BEGIN[:3], b"550 5.1.1 no such user\r\n"]),
    (77, [*BEGIN[:3], b"550 5.7.1 not yours\r\n"]),
    (73, [*BEGIN[:3], b"552 5.2.2 full\r\n"]),
    (65, [*BEGIN[:3], b"553 5.1.3 no address\r\n"]),
    (65, [*BEGIN[:2], b"553 5.1.7 no address\r\n"]),
    (65, [*BEGIN[:2], b"553 5.6.7 no SMTPUTF8\r\n"]),
    (69, [*BEGIN[:3], b"550 no\r\n"]),
    (69, [*BEGIN[:3], b"550\r\n"]),
    (69, [b"554 5.3.2 no service\r\n"]),
    (69, [*BEGIN, b"354 go\r\n", b"554 5.6.0 refused\r\n"]),
], ids=repr)
def test_deliver_hears(says, status, replies):
    """The last line of a reply counts. What stays unsaid was not delivered."""
    done, _ = says(*replies)
    assert done.returncode == status, done
    said = done.stderr.decode().splitlines()
    assert len(said) == (1 if status else 0) and all(s.startswith("poplar-deliver: ") for s in said)


def test_deliver_says(says):
    """Senders and users as addresses; a sender that is none is no reason to send it back."""
    whole = [*BEGIN, b"354 go\r\n", b"250 ok\r\n"]
    for arguments, message, sender, user in [
            (["alice"], b"x\n", b"<>", b"<alice>"),
            (["<alice@example.test>"], b"x\n", b"<>", b"<alice@example.test>"),
            (["<alice"], b"x\n", b"<>", b'<"<alice">'),
            (["<"], b"x\n", b"<>", b'<"<">'),
            (["@example.test"], b"x\n", b"<>", b'<""@example.test>'),
            (['"a b"@example.test'], b"x\n", b"<>", b'<"a b"@example.test>'),
            (["-f", "a b", "alice"], b"x\n", b'<"a b">', b"<alice>"),
            (["alice"], b"From a@b.test Sat Jan  1 00:00:00 2022\nx\n", b"<a@b.test>", b"<alice>"),
            (["alice"], b"From a\tb Sat\nx\n", b"<>", b"<alice>"),
            (["alice"], b"From a", b"<a>", b"<alice>"),
            (["alice"], b"From " + b"x" * 500 + b"\nx\n", b"<>", b"<alice>")]:
        done, heard = says(*whole, arguments=arguments, message=message)
        assert done.returncode == 0, done
        assert heard[1] == b"MAIL FROM:" + sender + b" BODY=8BITMIME\r\n"
        assert heard[2] == b"RCPT TO:" + user + b"\r\n"
    done, heard = says(*whole, arguments=["-f", "é@example.test", "alice"])
    assert done.returncode == 0 and heard[1].endswith(b" SMTPUTF8\r\n")
    done, heard = says(*whole, arguments=["é"])
    assert done.returncode == 0 and heard[1] == b"MAIL FROM:<> BODY=8BITMIME SMTPUTF8\r\n"
    # The sender of the "From " line is refused, then none is named; one that was given stays.
    refused_first = [*BEGIN[:2], b"553 5.1.7 no\r\n", *BEGIN[2:], b"354 go\r\n", b"250 ok\r\n"]
    done, heard = says(*refused_first, message=b"From a@b Sat\nx\n")
    assert done.returncode == 0 and heard[1:3] == [b"MAIL FROM:<a@b> BODY=8BITMIME\r\n",
                                                   b"MAIL FROM:<> BODY=8BITMIME\r\n"]
    assert says(*refused_first, arguments=["-f", "a@b", "alice"])[0].returncode == DATA
    assert says(*refused_first, message=b"x\n")[0].returncode == DATA


def test_deliver_into_a_closed_door(says):
    """Who hangs up in the middle of a message has not taken it."""
    done, _ = says(*BEGIN, b"354 go\r\n", hangs_up=True, message=b"x" * 79 * 100_000)
    assert (done.returncode, done.stderr) == (TEMPORARY, b"poplar-deliver: the server is gone\n")


def patience(process):
    """Seconds and microseconds for which its socket waits to send; None: it has none yet."""
    pidfd = os.pidfd_open(process.pid)
    with os.fdopen(pidfd), contextlib.suppress(OSError):  # descriptors come and go
        for fd in Path(f"/proc/{process.pid}/fd").iterdir():
            if os.readlink(fd).startswith("socket:"):
                copy = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, int(fd.name), 0)
                with socket.socket(fileno=copy) as s:
                    return struct.unpack("qq", s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))
    return None


@pytest.mark.unsanitized("a sanitizer stands where the library would")
@pytest.mark.native("valgrind's is another process")
@pytest.mark.parametrize("program, kind, seconds, said", [
    ("poplar-deliver", socket.SOCK_STREAM, 600, b"does poplard hang? restart it"),
    ("poplarctl", socket.SOCK_SEQPACKET, 10, b"the server did not answer in time")])
def test_a_server_that_hangs(p, program, kind, seconds, said):
    """It takes no connection, and as many wait as may: that has an end, too."""
    path = p.run / ("control" if program == "poplarctl" else "lmtp")
    words = [poplar.BUILD / program, *(["--config", p.config, "status"] if program == "poplarctl"
                                       else ["--socket", path, "alice"])]
    with socket.socket(socket.AF_UNIX, kind) as listener, contextlib.ExitStack() as waiting:
        listener.bind(str(path))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = waiting.enter_context(socket.socket(socket.AF_UNIX, kind))
                client.setblocking(False)
                client.connect(str(path))
        with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
            poplar.wait_until(lambda: patience(process) == (seconds, 0), "it waits so long")
            process.kill()
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env=os.environ | {
        "LD_PRELOAD": str(poplar.BUILD / "tests/failing.so"), "FAILING": f"connect:1:{errno.EAGAIN}"})
    assert done.returncode == TEMPORARY and said in done.stderr, done


def test_deliver_words(p, tmp_path):
    def run(*arguments, **options):
        return subprocess.run([poplar.BUILD / "poplar-deliver", *arguments], input=MESSAGE,
                              capture_output=True, **options)
    assert run("--socket", "/" + "x" * 200, "alice").returncode == USAGE
    assert run("--socket", "", "alice").returncode == USAGE
    assert run("--config=", "alice").returncode == USAGE
    for user in ("", "a\x7fb", "a\x01b"):
        with socket.socket(socket.AF_UNIX) as listener:
            (tmp_path / "quiet").unlink(missing_ok=True)
            listener.bind(str(tmp_path / "quiet"))
            listener.listen()
            for arguments in ([user], ["-f", user or "\x01", "alice"]):
                assert run("--socket", tmp_path / "quiet", *arguments).returncode == DATA
    p.write_config(listen_lmtp="")
    done = run("--config", p.config, "alice")
    assert done.returncode == TEMPORARY and b"[listen] lmtp is empty; name a socket" in done.stderr
    # Without a configuration of its own to read: the place that is built in.
    done = run("alice")
    assert done.returncode == TEMPORARY and b"/run/poplar/lmtp.sock: No such file" in done.stderr


@pytest.mark.accounts
@pytest.mark.parametrize("closed", ["poplar.conf", "poplar.conf.d", "poplar.conf.d/closed.conf"])
def test_deliver_may_not_read_all(closed):
    """Whoever has a .forward file need not be able to read what a certificate was named in."""
    takes = b"/tmp/closed" if closed == "poplar.conf" else b"/tmp/open"
    folder = Path("/etc/poplar")
    (folder / "poplar.conf.d").mkdir(parents=True)
    try:
        (folder / "poplar.conf").write_text("[listen]\nlmtp=/tmp/open\n")
        (folder / "poplar.conf.d/closed.conf").write_text("[listen]\nlmtp=/tmp/closed\n")
        (folder / closed).chmod(0)

        def run(*arguments):
            return subprocess.run(["runuser", "-u", "alice", "--", poplar.BUILD / "poplar-deliver",
                                   *arguments, "alice"], input=MESSAGE, capture_output=True)
        done = run()
        assert done.returncode == TEMPORARY and takes + b": No such file" in done.stderr
        done = run("--config", folder / "poplar.conf")
        assert done.returncode == TEMPORARY and b"Permission denied" in done.stderr
    finally:
        shutil.rmtree(folder)


def test_deliver_reads_to_the_end(says, tmp_path):
    """A message that cannot be is not delivered in part."""
    folder = os.open(tmp_path, os.O_RDONLY)  # which is no file to read
    done, heard = says(*BEGIN, b"354 go\r\n", b"250 ok\r\n", stdin=folder)
    os.close(folder)
    assert done.returncode == TEMPORARY and b"the message cannot be read" in done.stderr
    assert b".\r\n" not in heard
