"""Maildrops on disk against a running server: damage, vanished and planted files, a full disk,
locks held from outside, an outside SQLite, kills in the middle, content octet for octet. The
numbers in the names are those of the list of abuse cases."""

import contextlib
import fcntl
import itertools
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time

import pytest

import poplar
from disk import small_disk
from poplar import log_in, on_the_wire, wait_until

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"
FILES = ("lock", "mail.db", "mail.db-wal", "mail.db-shm")
SESSION, WRITE = 0, 1  # bytes of the lock file

root_only = pytest.mark.skipif(not poplar.ROOT, reason="needs root: files and workers of others")


@pytest.fixture
def store(server):
    """A server that lets everybody in, in the clear too."""
    def make(**settings):
        return server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8",
                      workers_max_per_source="200", **settings)
    return make


def attempt(p, user="alice"):
    """Log in once: the session, and the answer to PASS."""
    raw = p.connect(tls=False)
    raw.ask(b"USER " + user.encode())
    return raw, raw.ask(b"PASS secret")


def refused(p, code, user="alice"):
    """PASS is answered by this code, once the session before is over."""
    def once():
        raw, answer = attempt(p, user)
        raw.close()
        return answer if code == "IN-USE" or not answer.startswith(b"-ERR [IN-USE]") else None
    answer = wait_until(once, "not in use")
    assert answer.startswith(b"-ERR [" + code.encode() + b"]"), answer


def bye(raw):
    answer = raw.ask(b"QUIT")
    raw.close()
    return answer


def retrieve(raw, number):
    assert raw.ask(b"RETR %d" % number).startswith(b"+OK")
    return b"".join(raw.multi())


def mail_of(p, user="alice"):
    """UIDL and content of every message, by one session."""
    raw = log_in(p, user)
    assert raw.ask(b"UIDL").startswith(b"+OK")
    uidls = [line.split()[1] for line in raw.multi()]
    mail = {uidl: retrieve(raw, n) for n, uidl in enumerate(uidls, 1)}
    assert bye(raw).startswith(b"+OK")
    return mail


SUBJECTS = itertools.count()


def fill(p, n, user="alice", size=1000):
    """n messages that were never there: import skips what is."""
    box = p.directory / "box"
    with open(box, "wb") as file:
        for _ in range(n):
            file.write(b"From x@example.test Sat Jan  1 00:00:00 2022\n"
                       b"Subject: %d\n\n" % next(SUBJECTS)
                       + b"0123456789abcdef\n" * (size // 17) + b"\n")
    p.ctl("import", user, str(box))


def outside(path, sql="SELECT count(*) FROM sqlite_master", close=True):
    """A plain SQLite, as an administrator's: it knows none of our locks, and closing last it takes
    -wal and -shm away."""
    database = sqlite3.connect(path, timeout=60)
    try:
        result = database.execute(sql).fetchall()
        database.commit()
        return result
    finally:
        if close:
            database.close()


def settle(drop):
    """All content in mail.db, the other files as an outsider leaves them: gone."""
    outside(drop / "mail.db", "PRAGMA wal_checkpoint(TRUNCATE)")


@contextlib.contextmanager
def held(drop, byte):
    """A lock held from outside."""
    with open(drop / "lock", "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK,
                    struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        yield


def alive(p):
    """Nobody crashed, and others get their mail."""
    assert "ended by signal" not in p.log_text()
    assert len(mail_of(p, "bob")) == 1


# Damage.

def put(drop, octets):
    """These are mail.db now, with the owner it had."""
    path = drop / "mail.db"
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(octets)
    for name in FILES[2:]:
        with contextlib.suppress(FileNotFoundError):
            (drop / name).unlink()


def foreign(directory, *statements):
    """Another application's database."""
    path = directory / "foreign.db"
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    return path.read_bytes()


def changed(drop, sound, *statements):
    """Our database after an outsider's SQL."""
    put(drop, sound)
    for statement in statements:
        outside(drop / "mail.db", statement)
    settle(drop)
    return (drop / "mail.db").read_bytes()


DAMAGE = {
    "empty": lambda d, s: b"",
    "one octet": lambda d, s: s[:1],
    "half a header": lambda d, s: s[:50],
    "header only": lambda d, s: s[:100],
    "first page only": lambda d, s: s[:4096],
    "half": lambda d, s: s[: len(s) // 2 // 4096 * 4096],
    "cut in mid-page": lambda d, s: s[: len(s) // 2 // 4096 * 4096 + 1000],
    "last octet missing": lambda d, s: s[:-1],
    "zeros": lambda d, s: bytes(len(s)),
    "zeros behind the header": lambda d, s: s[:100] + bytes(len(s) - 100),
    "garbage": lambda d, s: random.Random(1).randbytes(len(s)),
    "garbage behind the header": lambda d, s: s[:100] + random.Random(2).randbytes(len(s) - 100),
    "an mbox": lambda d, s: b"From alice Sat Jan  1 00:00:00 2022\nSubject: x\n\nbody\n" * 100,
    "another application's": lambda d, s: foreign(d, "CREATE TABLE t (a)"),
    "another's WAL mode": lambda d, s: foreign(d, "PRAGMA journal_mode=WAL", "CREATE TABLE t(a)"),
    "rollback journal": lambda d, s: changed(d, s, "PRAGMA journal_mode=DELETE"),
    "application_id": lambda d, s: changed(d, s, "PRAGMA application_id=1"),
    "future schema": lambda d, s: changed(d, s, "PRAGMA user_version=131072"),
    "distant schema": lambda d, s: changed(d, s, "PRAGMA user_version=2147483647"),
    "no schema": lambda d, s: changed(d, s, "PRAGMA user_version=0"),
    "no totals": lambda d, s: changed(d, s, "DELETE FROM state"),
    "totals of nothing": lambda d, s: changed(d, s, "UPDATE state SET messages=0, octets=0"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_77_80_damaged_database(store, kind):
    """[SYS/PERM], a line in the log, the file as it was, other users unhurt; a sound copy put back
    is served at once. Never an empty maildrop."""
    p = store()
    fill(p, 10, size=5000)
    p.add("bob", MESSAGE)
    mail = mail_of(p)
    drop = p.maildrop("alice")
    settle(drop)
    sound = (drop / "mail.db").read_bytes()
    bad = DAMAGE[kind](drop, sound)
    assert bad != sound
    put(drop, bad)
    refused(p, "SYS/PERM")
    refused(p, "SYS/PERM")
    p.wait_log(r"(mail.db|maildrop)")
    assert (drop / "mail.db").read_bytes() == bad
    assert p.ctl("message", "add", "alice", input=MESSAGE, check=False).returncode != 0
    assert (drop / "mail.db").read_bytes() == bad
    alive(p)
    put(drop, sound)
    assert mail_of(p) == mail


def test_77_no_table_of_messages(store):
    """Login reads the totals only; the list is refused, not empty."""
    p = store()
    fill(p, 3)
    drop = p.maildrop("alice")
    settle(drop)
    bad = changed(drop, (drop / "mail.db").read_bytes(), "DROP TABLE message")
    put(drop, bad)
    for command in (b"LIST", b"UIDL", b"RETR 1", b"DELE 1"):
        raw = log_in(p)
        assert raw.ask(b"STAT").startswith(b"+OK 3 ")
        assert raw.ask(command).startswith(b"-ERR [SYS/PERM]")
        assert raw.rest() == b""
    assert (drop / "mail.db").read_bytes() == bad


@pytest.mark.parametrize("n", [3, 300])
def test_77_messages_are_missing(store, n):
    """What is left is not shown as if it were all: clients forget what is not in a list. The groups of
    the list are made from the messages, where one is missing."""
    p = store()
    fill(p, n, size=100)
    mail = mail_of(p)
    drop = p.maildrop("alice")
    settle(drop)
    sound = (drop / "mail.db").read_bytes()
    put(drop, changed(drop, sound, "DELETE FROM listing"))
    assert mail_of(p) == mail
    bad = changed(drop, sound, "DELETE FROM listing", "DELETE FROM message WHERE id = 2")
    for command in (b"LIST", b"UIDL", b"RETR 1", b"DELE 1"):
        put(drop, bad)
        raw = log_in(p)
        assert raw.ask(b"STAT").startswith(b"+OK %d " % n)
        assert raw.ask(command).startswith(b"-ERR [SYS/PERM]")
        assert raw.rest() == b""
        wait_until(lambda: not p.serving(), "the session ends")
        assert (drop / "mail.db").read_bytes() == bad


def judge(p, n, sizes):
    """One session on a maildrop with a flipped bit: how it went. What is answered at all is right,
    but for the text of messages, which may hold the flipped bit."""
    raw, answer = attempt(p)
    if not answer.startswith(b"+OK"):
        assert answer.startswith((b"-ERR [SYS/PERM]", b"-ERR [SYS/TEMP]")), answer
        raw.close()
        return "refused"
    assert raw.ask(b"STAT").startswith(b"+OK %d %d\r\n" % (n, sum(sizes)))
    answer = raw.ask(b"LIST")
    if answer.startswith(b"+OK"):
        assert [int(line.split()[1]) for line in raw.multi()] == sizes
        for number in range(1, n + 1):
            answer = raw.ask(b"RETR %d" % number)
            if answer.startswith(b"-ERR [SYS/"):
                raw.close()
                return "a message refused"
            assert answer.startswith(b"+OK %d " % sizes[number - 1])
            octets = b""
            while (line := raw.line()) not in (b".\r\n", b""):
                octets += line
            if line == b"":
                raw.close()
                return "a message broken off"
            assert len(octets) >= sizes[number - 1]
        assert raw.ask(b"NOOP").startswith(b"+OK")
    else:
        assert answer.startswith(b"-ERR [SYS/"), answer
    raw.close()
    return "served"


def spoil(path, sound, positions):
    """One bit at a time; a list of where and which."""
    for position, bit in positions:
        with open(path, "r+b") as file:
            file.seek(position)
            file.write(bytes([sound[position] ^ 1 << bit]))
        yield position, bit
        with open(path, "r+b") as file:
            file.seek(position)
            file.write(sound[position : position + 1])


def test_77_flipped_bits(store):
    """In every octet of the header, and anywhere: an error or the right answer, no crash, and the
    next session of another user is served."""
    p = store(session_login_timeout="20s")
    fill(p, 10, size=3000)
    p.add("bob", MESSAGE)
    drop = p.maildrop("alice")
    sizes = [len(octets) for octets in mail_of(p).values()]
    settle(drop)
    sound = (drop / "mail.db").read_bytes()
    chance = random.Random(77)
    positions = [(n, chance.randrange(8)) for n in range(100)]
    positions += [(n, chance.randrange(8)) for n in range(100, 200)]
    positions += [(chance.randrange(len(sound)), chance.randrange(8))
                  for _ in range(800 if os.environ.get("LONG") == "1" else 300)]
    seen = {}
    for where in spoil(drop / "mail.db", sound, positions):
        how = judge(p, 10, sizes)
        seen[how] = seen.get(how, 0) + 1
        assert p.process.poll() is None
        assert "ended by signal" not in p.log_text(), where
        wait_until(lambda: not p.serving(), "the session ends")
        put(drop, sound)
    assert seen["refused"] > 20 and seen["served"] > 100, seen
    alive(p)
    assert [len(octets) for octets in mail_of(p).values()] == sizes


def test_77_damaged_under_a_session(store):
    """Damage that comes while a session is on: [SYS/PERM] when it is met, the log says it."""
    p = store()
    fill(p, 3, size=200_000)
    p.add("bob", MESSAGE)
    drop = p.maildrop("alice")
    settle(drop)
    sound = (drop / "mail.db").read_bytes()
    raw = log_in(p)
    assert raw.ask(b"LIST").startswith(b"+OK")
    raw.multi()
    with open(drop / "mail.db", "r+b") as file:
        file.seek(4096)
        file.write(random.Random(3).randbytes(len(sound) - 4096))
    answer = raw.ask(b"RETR 2")
    assert answer.startswith(b"-ERR [SYS/PERM]")
    assert raw.rest() == b""
    p.wait_log("session ended: .*user=alice.*reason=store .*detail=\"damaged maildrop")
    alive(p)


# Vanished and planted files.

@pytest.mark.parametrize("names", [FILES[2:3], FILES[3:], FILES[2:]], ids=lambda n: "+".join(n))
def test_vanished_between_sessions(store, names):
    """-wal and -shm are made anew."""
    p = store()
    fill(p, 3)
    mail = mail_of(p)
    drop = p.maildrop("alice")
    for _ in range(5):  # a session in another second than the one before notes that in the WAL
        outside(drop / "mail.db", "PRAGMA wal_checkpoint(TRUNCATE)")
        assert mail_of(p) == mail
        if (drop / "mail.db-wal").stat().st_size == 0:
            break
    assert (drop / "mail.db-wal").stat().st_size == 0
    for name in names:
        (drop / name).unlink()
    assert mail_of(p) == mail
    assert sorted(os.listdir(drop)) == sorted(FILES)


@pytest.mark.parametrize("name", ["lock", "mail.db"])
def test_vanished_for_good(store, name):
    """Without the lock file or the database it is no maildrop: nothing is made up in its place."""
    p = store()
    fill(p, 3)
    p.add("bob", MESSAGE)
    mail = mail_of(p)
    drop = p.maildrop("alice")
    (drop / name).rename(p.directory / name)
    refused(p, "SYS/PERM")
    p.wait_log(f"{name}: missing")
    assert not (drop / name).exists()
    alive(p)
    (p.directory / name).rename(drop / name)
    assert mail_of(p) == mail


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_vanished_during_a_session(store, name, how):
    """What the session would write could never be found again: QUIT is not answered +OK, and every
    message is there when the file is back."""
    p = store()
    fill(p, 3)
    drop = p.maildrop("alice")
    settle(drop)
    mail = mail_of(p)
    raw = log_in(p)
    assert raw.ask(b"DELE 1").startswith(b"+OK")
    kept = p.directory / "kept"
    kept.write_bytes((drop / name).read_bytes())
    shutil.copystat(drop / name, kept)
    owner = (drop / name).stat()
    if how == "removed":
        (drop / name).unlink()
    else:
        os.chown(kept, owner.st_uid, owner.st_gid)
        shutil.copy(kept, drop / "new")
        os.chown(drop / "new", owner.st_uid, owner.st_gid)
        os.rename(drop / "new", drop / name)
    assert bye(raw).startswith(b"-ERR [SYS/TEMP]")
    p.wait_log("session ended: .*deleted=0")
    if how == "removed" and name in ("lock", "mail.db"):
        os.chown(kept, owner.st_uid, owner.st_gid)
        shutil.move(kept, drop / name)
        os.chown(drop / name, owner.st_uid, owner.st_gid)
    assert mail_of(p) == mail


def test_vanished_directory(store):
    """Gone between sessions: an empty maildrop is made, as for a new user. During one: QUIT cannot
    delete, nobody crashes."""
    p = store()
    fill(p, 3)
    p.add("bob", MESSAGE)
    raw = log_in(p)
    raw.ask(b"DELE 1")
    shutil.rmtree(p.maildrop("alice"))
    assert bye(raw).startswith(b"-ERR [SYS/TEMP]")
    assert mail_of(p) == {}
    shutil.rmtree(p.maildrop("alice"))
    assert mail_of(p) == {}
    alive(p)


def test_no_maildrop_where_none_is_made(store):
    p = store(store_create="no")
    refused(p, "AUTH")
    assert os.listdir(p.state) == []


@root_only
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "directory", "socket", "device",
                                  "owner", "dangling"])
def test_planted_files(store, name, kind):
    """Not a regular file of the store user's with one link: refused, and what it leads to is not
    touched."""
    p = store()
    fill(p, 1)
    p.add("bob", MESSAGE)
    mail = mail_of(p)
    drop = p.maildrop("alice")
    settle(drop)
    mail_of(p)
    path, other = drop / name, p.directory / "other"
    owner = path.stat()
    path.rename(other)
    octets = other.read_bytes()
    if kind == "symlink":
        path.symlink_to(other)
    elif kind == "dangling":
        path.symlink_to(p.directory / "nothing")
    elif kind == "hard link":
        os.link(other, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    else:
        shutil.copy(other, path)
        os.chmod(path, 0o666)
    if kind not in ("symlink", "dangling", "hard link", "owner"):
        os.chown(path, owner.st_uid, owner.st_gid)
    refused(p, "SYS/PERM")
    assert other.read_bytes() == octets
    assert not (p.directory / "nothing").exists()
    alive(p)
    path.rmdir() if kind == "directory" else path.unlink()
    other.rename(path)
    assert mail_of(p) == mail


@root_only
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_planted_directories(store, level):
    """A symbolic link on the way is not followed."""
    p = store()
    fill(p, 1)
    drop = p.maildrop("alice")
    path = [drop, drop.parent, drop.parent.parent, drop.parent.parent.parent][level]
    moved = p.directory / "moved"
    path.rename(moved)
    path.symlink_to(moved)
    refused(p, "SYS/PERM")
    path.unlink()
    moved.rename(path)
    assert len(mail_of(p)) == 1


# A full disk.

@pytest.fixture
def filling(server):
    if not poplar.NAMESPACES:
        pytest.skip("needs root and a mount namespace")
    p = server(start=False, tls_required="not-on-loopback")
    with small_disk(p, 8):
        yield p


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16384, 32768])
def test_86_full_disk_at_quit(filling, leave):
    """The deletions are not acknowledged, or they are and done; the mail is kept; when there is
    room again, all goes on."""
    p = filling
    fill(p, 50, size=20_000)
    mail = mail_of(p)
    settle(p.maildrop("alice"))
    assert mail_of(p) == mail
    raw = log_in(p)
    p.use_up(leave)
    for n in range(1, 51):
        assert raw.ask(b"DELE %d" % n).startswith(b"+OK")
    answer = bye(raw)
    if leave == 0:
        assert answer.startswith(b"-ERR [SYS/TEMP]")
    kept = {} if answer.startswith(b"+OK") else mail
    assert answer.startswith((b"+OK", b"-ERR [SYS/TEMP]"))
    p.free()
    assert mail_of(p) == kept
    assert "ended by signal" not in p.log_text()
    fill(p, 1)
    raw = log_in(p)
    raw.ask(b"DELE 1")
    assert bye(raw).startswith(b"+OK")


def test_86_reading_on_a_full_disk(filling):
    """Mail can be fetched while nothing can be written, also by a session that begins then."""
    p = filling
    fill(p, 5, size=20_000)
    mail = mail_of(p)
    raw = log_in(p)
    p.use_up()
    assert retrieve(raw, 1)
    raw.close()
    wait_until(lambda: not p.serving(), "the session ends")
    raw = log_in(p)
    assert [retrieve(raw, n) for n in range(1, 6)] == list(mail.values())
    raw.close()
    p.free()
    assert mail_of(p) == mail


def test_86_import_on_a_full_disk(filling):
    """Fails with the reason; what was there is there, nothing of the rest in part."""
    p = filling
    fill(p, 5, size=20_000)
    mail = mail_of(p)
    p.use_up(leave=65536)
    box = p.directory / "big.eml"
    box.write_bytes(b"Subject: big\n\n" + b"0123456789abcdef\n" * 60_000)
    result = p.ctl("import", "alice", str(box), check=False)
    assert result.returncode == 75, result
    assert b"disk full" in result.stderr
    result = p.ctl("message", "add", "alice", input=box.read_bytes(), check=False)
    assert result.returncode == 75, result
    p.free()
    assert mail_of(p) == mail
    p.ctl("import", "alice", str(box))
    found = list(mail_of(p).values())
    assert found[:-1] == list(mail.values()) and found[-1] == on_the_wire(box.read_bytes())


def test_86_new_maildrop_on_a_full_disk(filling):
    """[SYS/TEMP], and nothing half-made stays behind."""
    p = filling
    p.use_up()
    refused(p, "SYS/TEMP", "newcomer")
    assert not [name for _, _, names in os.walk(p.state) for name in names if name != "ballast"]
    p.free()
    assert mail_of(p, "newcomer") == {}


# Locks from outside.

def test_87_write_lock_held(store):
    """[SYS/TEMP] at QUIT after the store's patience, nothing lost; deliveries the same."""
    p = store()
    fill(p, 3)
    mail = mail_of(p)
    drop = p.maildrop("alice")
    raw = log_in(p)
    assert raw.ask(b"DELE 1").startswith(b"+OK")
    with held(drop, WRITE):
        delivery = threading.Thread(target=lambda: results.append(
            p.ctl("message", "add", "alice", input=MESSAGE, check=False).returncode))
        results = []
        delivery.start()
        raw.sock.settimeout(60)
        assert bye(raw).startswith(b"-ERR [SYS/TEMP]")
        delivery.join(60)
        assert results == [75]
        p.wait_log("session ended: .*deleted=0.*write lock is held by another")
        raw = log_in(p)  # reading needs no lock
        assert retrieve(raw, 1) == next(iter(mail.values()))
        raw.close()
    assert mail_of(p) == mail


def test_87_sqlite_lock_held(store):
    """The same where a plain SQLite has a transaction open, and does not end it."""
    p = store()
    fill(p, 3)
    mail = mail_of(p)
    raw = log_in(p)
    assert raw.ask(b"DELE 1").startswith(b"+OK")
    database = sqlite3.connect(p.maildrop("alice") / "mail.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    raw.sock.settimeout(60)
    assert bye(raw).startswith(b"-ERR [SYS/TEMP]")
    assert p.ctl("message", "add", "alice", input=MESSAGE, check=False).returncode == 75
    raw = log_in(p)
    assert retrieve(raw, 1) == next(iter(mail.values()))
    raw.close()
    database.execute("ROLLBACK")
    database.close()
    assert mail_of(p) == mail


@root_only
def test_write_lock_held_for_a_while(store):
    """Within the patience it is waited for."""
    p = store()
    fill(p, 3)
    drop = p.maildrop("alice")
    raw = log_in(p)
    raw.ask(b"DELE 1")
    with held(drop, WRITE):
        raw.send(b"QUIT\r\n")
        pid, = p.serving()
        wait_until(lambda: (poplar.Path(f"/proc/{pid}/wchan").read_text() or "poll")
                   .find("poll") >= 0 and pid in p.serving(), "the worker waits")
    assert raw.line().startswith(b"+OK")
    assert len(mail_of(p)) == 2


def test_81_session_lock_held_by_a_tool(store):
    """[IN-USE], as by another session; free again, a login works."""
    p = store()
    fill(p, 1)
    drop = p.maildrop("alice")
    with held(drop, SESSION):
        refused(p, "IN-USE")
        p.add("alice", MESSAGE)  # a delivery goes on
    assert len(mail_of(p)) == 2


def test_81_82_second_login(store):
    """[IN-USE] while the first is on; a kill frees the lock."""
    p = store()
    fill(p, 1)
    raw = log_in(p)
    refused(p, "IN-USE")
    session, = p.sessions(user="alice")
    os.kill(session["pid"], signal.SIGKILL)
    raw.close()
    assert len(mail_of(p)) == 1


# An outside SQLite.

def test_outside_sqlite_between_sessions(store):
    """It closes last and takes -wal and -shm away, with what they held moved into mail.db."""
    p = store()
    expected = set()
    for n in range(10):
        fill(p, 2)
        raw = log_in(p)
        raw.ask(b"UIDL")
        uidls = [line.split()[1] for line in raw.multi()]
        assert set(uidls) > expected
        assert raw.ask(b"DELE 1").startswith(b"+OK")
        assert bye(raw).startswith(b"+OK")
        expected = set(uidls[1:])
        drop = p.maildrop("alice")
        outside(drop / "mail.db")
        assert not (drop / "mail.db-wal").exists()
        assert set(mail_of(p)) == expected


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs the sqlite3 command")
def test_outside_command_during_a_session(store):
    """The sqlite3 command comes and goes while a session is on and mail arrives: it is not the last
    to close, and what is acknowledged afterwards is there."""
    p = store()
    fill(p, 5)
    raw = log_in(p)
    raw.ask(b"UIDL")
    uidls = [line.split()[1] for line in raw.multi()]
    drop = p.maildrop("alice")
    for _ in range(3):
        result = subprocess.run(["sqlite3", drop / "mail.db", "SELECT count(*) FROM message;"],
                                check=True, capture_output=True)
        assert int(result.stdout) >= 5
        p.add("alice", MESSAGE)
        assert (drop / "mail.db-wal").exists()
    raw.ask(b"DELE 2")
    assert bye(raw).startswith(b"+OK")
    subprocess.run(["sqlite3", drop / "mail.db", "PRAGMA wal_checkpoint;"], check=True,
                   capture_output=True)
    mail = mail_of(p)
    assert len(mail) == 7
    assert set(mail) > set(uidls[:1] + uidls[2:]) and uidls[1] not in mail


MEDDLE = """
import select, sqlite3, sys
turns = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    database = sqlite3.connect(sys.argv[1], timeout=60)
    try:
        database.execute("SELECT count(*) FROM message").fetchall()
        turns += 1
    except sqlite3.OperationalError:
        pass
    database.close()
print(turns)
"""


@root_only
def test_outside_sqlite_all_the_time(store):
    """It opens and closes without pause, while sessions delete and mail is delivered. Whoever finds
    the files replaced again and again is told to try later; every deletion and every message that
    was acknowledged holds."""
    p = store()
    fill(p, 1)
    drop = p.maildrop("alice")
    expected = set(mail_of(p))
    # As the store's user: what root makes is root's until SQLite has given it away.
    meddler = subprocess.Popen([sys.executable, "-c", MEDDLE, drop / "mail.db"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               user=drop.stat().st_uid)
    deleted = 0
    try:
        for n in range(60):
            message = b"Subject: %d\r\n\r\n%d\r\n" % (n, n)
            wait_until(lambda: p.ctl("message", "add", "alice", input=message,
                                     check=False).returncode == 0, "a delivery")
            raw = log_in(p, later=(b"-ERR [IN-USE]", b"-ERR [SYS/TEMP]"))
            assert raw.ask(b"UIDL").startswith(b"+OK")
            uidls = [line.split()[1] for line in raw.multi()]
            assert expected < set(uidls) and len(uidls) == len(expected) + 1
            expected = set(uidls)
            if n % 2:
                assert raw.ask(b"DELE 1").startswith(b"+OK")
            answer = bye(raw)
            if answer.startswith(b"+OK") and n % 2:
                expected.remove(uidls[0])
                deleted += 1
            else:
                assert answer.startswith((b"+OK", b"-ERR [SYS/TEMP]")), answer
    finally:
        turns = int(meddler.communicate()[0])
    assert turns > 60 and deleted > 15
    assert set(mail_of(p)) == expected
    assert outside(drop / "mail.db", "PRAGMA integrity_check") == [("ok",)]


# Readers and deliveries.

@pytest.mark.native("a hundred megabytes in two hundred deliveries")
def test_88_slow_reader(store):
    """A client stops in the middle of a message while 200 deliveries come in: the WAL stays small,
    and the client gets the rest."""
    p = store(session_idle_timeout="10m")
    big = HEAD + b"".join(b"%08d 0123456789abcdef\r\n" % n for n in range(800_000))
    p.ctl("message", "add", "alice", input=big)
    drop = p.maildrop("alice")
    raw = log_in(p)
    assert raw.ask(b"RETR 1").startswith(b"+OK")
    arriving = b"Subject: arriving\r\n\r\n" + b"0123456789abcdef0123456789abcdef\r\n" * 15_000
    largest = 0
    for _ in range(200):
        p.add("alice", arriving)
        largest = max(largest, (drop / "mail.db-wal").stat().st_size)
    assert p.serving()  # and it has not sent all: neither side buffers so much
    assert largest < 64 << 20
    assert b"".join(raw.multi()) == big
    assert raw.ask(b"STAT") == b"+OK 1 %d\r\n" % len(big)
    bye(raw)
    raw = log_in(p)
    assert raw.ask(b"STAT") == b"+OK 201 %d\r\n" % (len(big) + 200 * len(arriving))
    bye(raw)


def test_83_delivery_during_a_session(store):
    """The session's numbers, sizes and UIDLs stay; also where LIST comes only after a delivery."""
    p = store()
    fill(p, 3)

    def look(raw):
        found = [raw.ask(b"STAT")]
        for command in (b"LIST", b"UIDL"):
            found += [raw.ask(command), *raw.multi()]
        return found

    early, late = log_in(p), None
    before = look(early)
    for _ in range(3):
        p.add("alice", MESSAGE)
        assert look(early) == before
    assert early.ask(b"RETR 4").startswith(b"-ERR")
    assert early.ask(b"DELE 3").startswith(b"+OK")
    assert bye(early).startswith(b"+OK")
    late = log_in(p)
    stat = late.ask(b"STAT")
    assert stat.startswith(b"+OK 5 ")
    p.add("alice", MESSAGE)
    assert late.ask(b"LIST").startswith(b"+OK 5 ")
    assert len(late.multi()) == 5
    assert late.ask(b"STAT") == stat
    bye(late)
    assert len(mail_of(p)) == 6


# Kills.

def test_84_kill_before_quit(store):
    """kill -9 between DELE and QUIT: nothing is deleted, the lock is free."""
    p = store()
    fill(p, 50)
    mail = mail_of(p)
    raw = log_in(p)
    raw.send(b"".join(b"DELE %d\r\n" % n for n in range(1, 51)))
    for _ in range(50):
        assert raw.line().startswith(b"+OK")
    pid, = p.serving()
    os.kill(pid, signal.SIGKILL)
    assert raw.rest() == b""
    assert mail_of(p) == mail


@pytest.mark.native("sixty kills and what comes before each")
def test_85_kill_around_quit(store):
    """kill -9 at any moment around QUIT: all fifty or none, all if it was acknowledged."""
    p = store()
    fill(p, 50)
    drop = p.maildrop("alice")
    chance = random.Random(85)
    longest, outcomes = 0.01, {0: 0, 50: 0}
    for turn in range(60):
        raw = log_in(p)
        if raw.ask(b"STAT").startswith(b"+OK 0 "):
            bye(raw)
            fill(p, 50)
            raw = log_in(p)
        raw.send(b"".join(b"DELE %d\r\n" % n for n in range(1, 51)))
        for _ in range(50):
            assert raw.line().startswith(b"+OK")
        pid, = wait_until(p.serving, "the worker")
        start = time.monotonic()
        raw.send(b"QUIT\r\n")
        if turn < 3:  # how long it takes undisturbed
            assert raw.line().startswith(b"+OK")
            longest = max(longest, time.monotonic() - start) if turn else time.monotonic() - start
            raw.close()
            continue
        moment = start + chance.uniform(0, longest * 1.5)
        while time.monotonic() < moment:
            pass
        poplar.kill(pid)
        acknowledged = raw.rest().startswith(b"+OK")
        raw.close()
        after = log_in(p)
        left = int(after.ask(b"STAT").split()[1])
        assert after.ask(b"LIST").startswith(b"+OK %d " % left)
        assert len(after.multi()) == left
        bye(after)
        outcomes[left] += 1  # a KeyError is a part of fifty
        assert not (acknowledged and left)
        longest *= 1.25 if left else 0.8  # the first three may have had a slow machine
    assert outside(drop / "mail.db", "PRAGMA integrity_check") == [("ok",)]
    assert min(outcomes.values()) > 0, outcomes


# Content.

def test_76_many_messages(store):
    """LIST and UIDL are complete and right; all can be deleted at once."""
    p = store()
    count = 20_000
    box = p.directory / "mbox"
    with open(box, "wb") as file:
        for n in range(count):
            file.write(b"From x@example.test Sat Jan  1 00:00:00 2022\nSubject: %d\n\n%s\n\n"
                       % (n, b"x" * (n % 100)))
    p.ctl("import", "alice", str(box))
    sizes = [len(b"Subject: %d\r\n\r\n%s\r\n" % (n, b"x" * (n % 100))) for n in range(count)]
    raw = log_in(p)
    raw.send(b"STAT\r\nLIST\r\nUIDL\r\n")
    assert raw.line() == b"+OK %d %d\r\n" % (count, sum(sizes))
    assert raw.line().startswith(b"+OK")
    assert raw.multi() == [b"%d %d\r\n" % pair for pair in enumerate(sizes, 1)]
    assert raw.line().startswith(b"+OK")
    lines = raw.multi()
    assert [int(line.split()[0]) for line in lines] == list(range(1, count + 1))
    assert len({line.split()[1] for line in lines}) == count
    for n in (1, 2, 9_999, 20_000):
        assert retrieve(raw, n) == b"Subject: %d\r\n\r\n%s\r\n" % (n - 1, b"x" * ((n - 1) % 100))
    deleting = threading.Thread(target=raw.send, args=(
        b"".join(b"DELE %d\r\n" % n for n in range(1, count + 1)),))
    deleting.start()
    for _ in range(count):
        assert raw.line().startswith(b"+OK")
    deleting.join()
    raw.sock.settimeout(60)
    assert bye(raw).startswith(b"+OK")
    assert mail_of(p) == {}


HEAD = b"Subject: x\r\n\r\n"
CONTENT = {
    "dots": HEAD + b".\r\n..\r\n.x\r\n...\r\n.\r\n.\r\n\r\n.",
    "dots, bare LF": HEAD + b".\n..\n.x\n",
    "only a dot": b".",
    "only dots": b".\r\n.\r\n.\r\n",
    "a dot at every chunk's edge": HEAD + b"".join(b"." + b"x" * 61 + b"\r\n" for _ in range(5000)),
    "a line of dots": HEAD + b"x" + b"." * 200_000 + b"\r\n",
    "dots and line ends everywhere": HEAD + b".\r\n" * 100_000,
    "NUL": HEAD + b"a\0b\r\n\0\r\n\0",
    "bare CR": HEAD + b"a\rb\r\r\n\r\r\r\nx\r",
    "bare LF": b"Subject: x\n\nline\n\nline\n",
    "mixed line ends": HEAD + b"a\nb\r\nc\rd\n\r\n\n\re\r",
    "LF CR": HEAD + b"a\n\rb\n\r",
    "empty": b"",
    "one line end": b"\r\n",
    "one LF": b"\n",
    "one CR": b"\r",
    "header only": b"Subject: x\r\n",
    "no header": b"\r\nbody\r\n",
    "no final newline": HEAD + b"end",
    "a line of 1,023": HEAD + b"x" * 1021 + b"\r\n",
    "a line of 1,024": HEAD + b"x" * 1022 + b"\r\n",
    "lines around the chunk": HEAD + b"".join(b"y" * n + b"\r\n" for n in range(32_700, 32_800)),
    "all octets": HEAD + bytes(range(256)) * 10,
    "looks like the protocol": HEAD + b"+OK\r\n-ERR\r\n.\r\nQUIT\r\n",
    "From lines": HEAD + b"From x\r\n>From y\r\n>>From z\r\n",
}


@pytest.mark.parametrize("way", ["message add", "import"])
def test_72_73_74_content(store, way):
    """What goes in comes out octet for octet, line ends as CRLF; its size is told right."""
    p = store()
    content = CONTENT.copy()
    if way == "message add":  # most likely a mistake, and refused
        assert p.ctl("message", "add", "alice", input=content.pop("empty"), check=False).returncode
    else:  # the same as one before: import skips what is there
        del content["one LF"]
    for octets in content.values():
        if way == "message add":
            p.add("alice", octets)
        else:
            path = p.directory / "one.eml"
            path.write_bytes(octets)
            p.ctl("import", "--format=eml", "alice", str(path))
    for tls in (False, True):
        raw = log_in(p, tls=tls)
        assert raw.ask(b"LIST").startswith(b"+OK")
        sizes = [int(line.split()[1]) for line in raw.multi()]
        for number, (name, octets) in enumerate(content.items(), 1):
            wanted = on_the_wire(octets)
            assert retrieve(raw, number) == wanted, name
            assert sizes[number - 1] == len(wanted), name
            assert raw.ask(b"TOP %d 1000000" % number).startswith(b"+OK")
            assert b"".join(raw.multi()) == wanted, name
            assert raw.ask(b"NOOP").startswith(b"+OK"), name
        bye(raw)


def swallowed(raw, octets):
    """Whether the answer that comes, after its first line, is these octets, which have no dots to
    stuff: in pieces, for one line may be all of it."""
    at, octets = 0, octets + b".\r\n"
    while at < len(octets):
        got = raw.buffer or raw.sock.recv(1 << 20)
        raw.buffer = b""
        if not got or octets[at : at + len(got)] != got:
            return False
        at += len(got)
    return True


@pytest.mark.memory
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_74_a_line_of_100_megabytes(store, tls):
    """Neither RETR nor TOP ever holds a line in memory, nor does who put it there."""
    p = store(store_max_message="200M")
    octets = HEAD + b"0123456789abcdef" * (100 << 16) + b"\r\n"
    little = 32 << 20
    p.ctl("message", "add", "alice", input=octets,
          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (little, little)))
    raw = log_in(p, tls=tls)
    assert raw.ask(b"LIST") == b"+OK 1 messages\r\n"
    assert raw.multi() == [b"1 %d\r\n" % len(octets)]
    pid, = p.serving()

    def most():
        return int(p.proc_status(pid)["VmHWM"].split()[0])

    before = most()
    for command in (b"RETR 1", b"TOP 1 1"):
        assert raw.ask(command).startswith(b"+OK")
        assert swallowed(raw, octets)
    assert most() - before < 1024
    bye(raw)
