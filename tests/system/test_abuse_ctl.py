"""What a user gets out of an administrator who runs poplarctl, as root, on files and in directories
that are the user's: nobody else's mail, no file written, changed or deleted for him."""

import contextlib
import itertools
import json
import os
import pwd
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest

from poplar import make_maildir
from test_abuse_maildrop import guard, multiply
from test_ctl_careless import Held, preloads

pytestmark = pytest.mark.accounts

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"
SECRET = b"From x@example.test Sat Jan  1 00:00:00 2022\nSubject: secret\n\nbob's\n"
LINK = b"a symbolic link of a user's is on the way"


@pytest.fixture
def p(server):
    return server(start=False, tls_required="no")


@pytest.fixture
def home(tmp_path):
    """Alice's, where she does as she likes."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.chown(home, "alice")
    return home


def link(at, to, owner="alice"):
    at.symlink_to(to)
    os.chown(at, pwd.getpwnam(owner).pw_uid, -1, follow_symlinks=False)
    return at


def refused(p, *words, status=66):
    done = p.ctl(*words, check=False)
    assert done.returncode == status and LINK in done.stderr, done
    assert b"secret" not in p.ctl("message", "list", "--json", "alice", check=False).stdout


def hot_journal(database, names):
    """A rollback journal that changes nothing of a database, of a transaction over several: the file
    that it names goes when it was rolled back."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        page_size, pages = (db.execute(f"PRAGMA {what}").fetchone()[0]
                            for what in ("page_size", "page_count"))
    magic = bytes.fromhex("d9d505f920a163d7")
    head = (magic + struct.pack(">IIIII", 0, 1, pages, 512, page_size)).ljust(512, b"\0")
    name = os.fsencode(names)
    return (head + struct.pack(">I", 0x40000000 // page_size + 1) + name
            + struct.pack(">II", len(name), sum(name)) + magic)


def test_a_backup_with_orders_for_sqlite(p, home):
    p.add("alice", MESSAGE)
    file = home / "backup"
    precious = home.parent / "precious"
    precious.write_text("of root")
    p.ctl("mailbox", "backup", "alice", file)
    orders = hot_journal(file, precious)
    (home / "backup-wal").write_bytes(b"x" * 100)  # to have it opened for writing
    journal = home / "backup-journal"
    journal.write_bytes(orders)
    for words in (("mailbox", "restore", "--yes", "alice", file),
                  ("mailbox", "salvage", file, home.parent / "salvaged")):
        done = p.ctl(*words)
        assert b"1 message" in done.stdout
    assert precious.read_text() == "of root"
    assert sorted(path.name for path in home.iterdir()) == ["backup", "backup-journal",
                                                            "backup-wal"]
    # What would have it opened for writing is elsewhere.
    (home / "backup-wal").unlink()
    (home / "x").write_bytes(b"x" * 100)
    link(home / "backup-wal", "x")
    journal.write_bytes(orders)
    for words in (("mailbox", "restore", "--yes", "alice", file),
                  ("mailbox", "salvage", file, home.parent / "again")):
        p.ctl(*words, check=False)
        assert precious.read_text() == "of root", words
        assert journal.exists(), words
    refused(p, "mailbox", "restore", "--yes", "alice", file)


def test_mail_of_others_by_links(p, home, tmp_path):
    p.ctl("mailbox", "create", "alice")
    (tmp_path / "mbox").write_bytes(SECRET)
    box = make_maildir(tmp_path / "Maildir")
    (box / "new/1.x").write_bytes(SECRET)
    refused(p, "import", "alice", link(home / "mbox", tmp_path / "mbox"))
    refused(p, "import", "alice", link(home / "Maildir", "../Maildir"))
    link(home / "up", "..")
    refused(p, "import", "alice", home / "up/Maildir")
    p.add("bob", MESSAGE)
    p.ctl("mailbox", "backup", "bob", tmp_path / "bob")
    refused(p, "mailbox", "restore", "--yes", "alice", link(home / "backup", tmp_path / "bob"))
    refused(p, "mailbox", "salvage", link(home / "raw", tmp_path), home / "salvaged")


def test_trees_and_lists_of_others_by_links(p, home, tmp_path):
    p.ctl("mailbox", "create", "alice")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/alice").write_bytes(SECRET)
    refused(p, "import", "--all", link(home / "tree", tmp_path / "tree"))
    (tmp_path / "list").write_text("1 secret\n")
    (home / "mbox").write_bytes(SECRET.replace(b"secret", b"own"))
    link(home / "up", tmp_path)
    for path in (link(home / "list", tmp_path / "list"), home / "up/list"):
        refused(p, "import", "--uidl-list", path, "alice", home / "mbox")
    own = link(tmp_path / "link", tmp_path / "list", "root")
    p.ctl("import", "--uidl-list", own, "bob", home / "mbox")
    assert b"secret" in p.ctl("message", "list", "bob").stdout


def test_files_without_end(p, home):
    """Any length can be had for nothing. What has it is named, and everybody else's mail comes in."""
    def endless(at, begin=b""):
        at.write_bytes(begin)
        os.truncate(at, 8 << 40)

    box = make_maildir(home / "carol/Maildir")
    (box / "new/1.x").write_bytes(MESSAGE)
    endless(box / "new/2.x", MESSAGE)
    (home / "dave").mkdir()
    endless(home / "dave/cyrus.index")
    endless(home / "alice", SECRET)
    make_maildir(home / "erin")
    endless(home / "erin/dovecot-uidlist")
    (home / "bob").write_bytes(SECRET)
    done = p.ctl("import", "--all", home, check=False, timeout=60)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 65 and b"bob: imported 1 message" in done.stdout, done
    assert b"carol: imported 1 message" in done.stdout
    assert all(any(f"{home}/{name}: {words}" in line for line in lines) for name, words in (
        ("alice", "is large and has holes"), ("dave", "cyrus.index: File too large"),
        ("carol/Maildir/new/2.x", "is large and has holes"),
        ("erin", "its list of UIDLs: dovecot-uidlist: File too large"))), lines


@preloads
@pytest.mark.parametrize("path, message, size", [("mbox", SECRET, 26),
                                                ("Maildir/new/1.x", MESSAGE, len(MESSAGE))])
def test_a_file_that_grows(p, home, path, message, size):
    """Whoever appends to it at each read would have it read for ever."""
    make_maildir(home / "Maildir")
    file, tried = home / path, 0
    for number in range(1, 100):
        file.write_bytes(message)
        held = Held(p, "read", "--json", "import", "--dry-run", "alice", home / path.split("/")[0],
                    number=number, may_end=True)
        opened = [os.readlink(fd) for fd in Path(f"/proc/{held.process.pid}/fd").iterdir()]
        with file.open("ab") as more:
            more.write(b"more\n")
        out = held.go_on()[1]
        if held.ended:
            break
        if str(file) in opened:
            tried += 1
            assert json.loads(out)["octets"] == size
    assert tried > 1


def test_links_of_the_administrator(p, home, tmp_path):
    """They are as good as what they lead to: also one to another, relative ones, a standard
    descriptor."""
    (home / "mbox").write_bytes(SECRET)
    link(tmp_path / "homes", home, "root")
    link(tmp_path / "there", "./homes/", "root")
    for path in ("there/mbox", "homes/../homes/./mbox", "there//mbox"):
        done = p.ctl("import", "--dry-run", "alice", tmp_path / path)
        assert b"1 message" in done.stdout
    with open(home / "mbox", "rb") as mbox:
        assert b"1 message" in p.ctl("import", "--dry-run", "alice", "/dev/stdin", stdin=mbox).stdout
    link(tmp_path / "circle", "circle", "root")
    done = p.ctl("import", "alice", tmp_path / "circle", check=False)
    assert done.returncode == 66


def test_export_through_a_link(p, home, tmp_path):
    p.add("alice", MESSAGE)
    (tmp_path / "empty").mkdir()
    refused(p, "export", "alice", link(home / "out", tmp_path / "empty"), status=73)
    refused(p, "export", "alice", home / "out/box", status=73)
    assert list((tmp_path / "empty").iterdir()) == []
    p.ctl("export", "alice", home / "box")
    assert len(list((home / "box/new").iterdir())) == 1


@preloads
def test_groups_of_root(p):
    """They are no help to who is the store user in what he touches."""
    p.ctl("mailbox", "create", "alice")
    held = Held(p, "fdatasync", "mailbox", "set", "alice", "pop3=off", extra_groups=[0, 4])
    groups = p.proc_status(held.process.pid)["Groups"]
    held.go_on()
    assert groups.split() == []


def held_at_open(p, path):
    """A backup, where its file is there and is opened once more."""
    for number in range(1, 50):
        held = Held(p, "open", "mailbox", "backup", "alice", path, number=number)
        if path.with_name(path.name + ".unfinished").exists():
            return held
        held.go_on()
        path.unlink()
    raise AssertionError("it is not opened")


@preloads
def test_a_backup_in_the_place_of_others(p, home, tmp_path):
    """The directory is the user's, who changes it while the backup is written."""
    p.add("alice", MESSAGE)
    p.add("bob", MESSAGE)
    bobs = p.maildrop("bob") / "mail.db"
    before = bobs.read_bytes()
    link(home / "there", bobs.parent)
    for path in (home / "there/mail.db", link(home / "d", bobs.parent) / "x"):
        done = p.ctl("mailbox", "backup", "alice", path, check=False)
        assert done.returncode == 73 and LINK in done.stderr
    assert p.ctl("mailbox", "backup", "--all", home / "there", check=False).returncode == 73
    # When SQLite is about to open what it writes to.
    held = held_at_open(p, home / "b")
    (home / "b.unfinished").rename(home / "mine")
    link(home / "b.unfinished", bobs)
    held.go_on()
    assert bobs.read_bytes() == before
    # It may be a database of the user's, with orders for SQLite beside it.
    precious = tmp_path / "precious"
    precious.write_text("of root")
    p.ctl("mailbox", "backup", "alice", home / "mine")
    orders = hot_journal(home / "mine", precious)
    held = held_at_open(p, home / "b")
    (home / "mine").rename(home / "b.unfinished")
    (home / "b.unfinished-journal").write_bytes(orders)
    held.go_on()
    assert precious.read_text() == "of root"
    (home / "b").unlink()
    # The same with the directory.
    (home / "b").mkdir()
    held = held_at_open(p, home / "b/mail.db")
    (home / "b").rename(home / "moved")
    link(home / "b", bobs.parent)
    shutil.copy(bobs, bobs.parent / "mail.db.unfinished")
    assert held.go_on()[0] == 0
    assert bobs.read_bytes() == (bobs.parent / "mail.db.unfinished").read_bytes() == before
    assert [path.name for path in (home / "moved").iterdir()] == ["mail.db"]


@preloads
def test_a_backup_that_changes_while_it_is_opened(p, home, tmp_path):
    """At each file that is opened in turn: it is no other's database then, and none with orders."""
    p.add("alice", MESSAGE)
    p.add("bob", SECRET)
    precious = tmp_path / "precious"
    precious.write_text("of root")
    p.ctl("mailbox", "backup", "alice", tmp_path / "of-alice")
    p.ctl("mailbox", "backup", "bob", tmp_path / "of-bob")
    orders = hot_journal(tmp_path / "of-alice", precious)
    tried = [0, 0]
    for call, swapped in itertools.product(("open", "stat", "lstat", "fstat"), (False, True)):
        for number in range(1, 50):
            shutil.rmtree(home)
            home.mkdir()
            shutil.chown(home, "alice")
            shutil.copy(tmp_path / "of-alice", home / "backup")
            held = Held(p, call, "mailbox", "restore", "--yes", "alice", home / "backup",
                        number=number, may_end=True)
            if held.ended:
                break
            tried[swapped] += 1
            if swapped:
                (home / "backup").rename(home / "moved")
                link(home / "backup", tmp_path / "of-bob")
            else:
                (home / "backup-wal").write_bytes(b"x" * 100)
                (home / "backup-journal").write_bytes(orders)
            held.go_on()
            assert precious.read_text() == "of root", (call, number)
            assert b"bob" not in p.ctl("message", "show", "alice", "1").stdout, (call, number)
    assert min(tried) > 5


def endless(database, tree):
    """A tree of a database is made one of six levels more, in which each page has the next in as many
    places as fit. Its rows are as they were, but there is no end to them."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root, = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (tree,)).fetchone()
    octets = bytearray(database.read_bytes())
    size, = struct.unpack(">H", octets[16:18])
    leaf = octets[(root - 1) * size : root * size]
    first, = struct.unpack(">H", leaf[8:10])
    index = leaf[0] == 10
    key = leaf[first : first + 1 + leaf[first]] if index else b"\x01"

    def level(below):
        cell = struct.pack(">I", below) + key
        n = (size - 12) // (len(cell) + 2)
        places = [size - (i + 1) * len(cell) for i in range(n)]
        page = struct.pack(f">BHHHBI{n}H", 2 if index else 5, 0, n, places[-1], 0, below, *places)
        return page + bytes(size - len(page) - n * len(cell)) + cell * n

    octets += leaf
    for _ in range(5):
        octets += level(len(octets) // size)
    octets[(root - 1) * size : root * size] = level(len(octets) // size)
    octets[28:32] = struct.pack(">I", len(octets) // size)
    database.write_bytes(octets)


@pytest.mark.parametrize("tree", ["message", "chunk", "sqlite_autoindex_message_1", "message_deleted"])
def test_a_tree_without_end(p, tmp_path, tree):
    """Nor does root wait for ever."""
    for _ in range(3):
        p.add("alice", b"Subject: one\r\n\r\nbody\r\n")
    p.ctl("message", "delete", "alice", "1")
    p.ctl("mailbox", "compact", "alice")
    endless(p.maildrop("alice") / "mail.db", tree)
    for words in (["list"], ["check", "alice"], ["compact", "alice"], ["upgrade", "alice"],
                  ["backup", "alice", tmp_path / "backup"], ["salvage", "alice", tmp_path / "out"]):
        done = p.ctl("mailbox", *words, check=False, timeout=60)
        assert done.returncode in (0, 65), done
        assert words[0] != "check" or done.returncode == 65


def test_a_tree_out_of_order(p):
    """The last page before all others: who looks for an id above its own finds the first. The groups of
    a maildrop of an older version are made at its opening, by such looks, and that has an end."""
    p.add("alice", MESSAGE)
    drop = p.maildrop("alice")
    multiply(drop, 300)
    with contextlib.closing(sqlite3.connect(drop / "mail.db", isolation_level=None)) as db:
        db.execute("DROP TABLE listing")
        db.execute("PRAGMA user_version = 65538")
        totals, = db.execute("SELECT messages, octets, plain_octets, 1000 FROM state").fetchall()
        db.execute("UPDATE state SET last_id = ?, guard = ?", (totals[3], guard(*totals)))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root, = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'message'").fetchone()
    with open(drop / "mail.db", "r+b") as file:
        octets = file.read()
        start = (root - 1) * 4096
        n, _, _, last, cell = struct.unpack_from(">HHBIH", octets, start + 3)
        first = octets[start + cell : start + cell + 4]
        file.seek(start)
        file.write(struct.pack(">BHHHBI", 5, 0, 1, 4084, 0, *struct.unpack(">I", first)) +
                   struct.pack(">H", 4084))
        file.seek(start + 4084)
        file.write(struct.pack(">I", last) + b"\x84\x80\x80\x80\0")
    assert n > 1
    done = p.ctl("mailbox", "list", check=False, timeout=30)
    assert done.returncode == 65 and b"message 1 is where" in done.stderr, done
