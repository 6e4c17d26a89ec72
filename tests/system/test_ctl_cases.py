"""poplarctl in cases that are rare: maildrops of an older version that cannot be brought up to date,
messages that go while they are exported, names that are no text, limits, dry runs, several trees."""

import contextlib
import errno
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

import poplar
from manual import examples
from poplar import make_maildir, wait_until
from test_ctl_careless import Held

pytestmark = pytest.mark.skipif(not poplar.ROOT, reason="needs root: files of another user")

preloads = pytest.mark.unsanitized("a sanitizer stands where the library would")

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"


@pytest.fixture
def p(server):
    return server(start=False, tls_required="not-on-loopback", store_max_message="10K")


def told(p, *arguments, **options):
    return json.loads(p.ctl("--json", *arguments, **options).stdout)


def failing(p, what, *words, **options):
    """poplarctl with a call that fails, NAME:N:ERROR."""
    return subprocess.run([poplar.BUILD / "poplarctl", "--config", p.config, *words],
                          capture_output=True, timeout=60, env=os.environ | {
                              "LD_PRELOAD": str(poplar.BUILD / "tests/failing.so"),
                              "FAILING": what}, **options)


def database(p, user, *statements):
    with sqlite3.connect(p.maildrop(user) / "mail.db") as opened:
        for statement in statements:
            opened.execute(statement)
    opened.close()


def mbox(*messages):
    return b"".join(b"From x@example.test Sat Jan  1 00:00:00 2022\n" + m + b"\n" for m in messages)


@preloads
def test_an_older_maildrop_that_stays_so(p, tmp_path):
    """Where there is no room for it it is served as it is; what needs the new version says so, and
    works the next time."""
    p.add("alice", MESSAGE)
    older = ["DROP TABLE setting", "DROP TABLE imported", "DROP TABLE IF EXISTS listing",
             "ALTER TABLE message DROP COLUMN digest", "PRAGMA user_version=65536"]
    (tmp_path / "box").write_bytes(mbox(b"Subject: two\n\nbody\n"))
    for words in (["mailbox", "upgrade", "alice"], ["mailbox", "set", "alice", "pop3=off"],
                  ["import", "alice", tmp_path / "box"], ["message", "list", "alice"]):
        stayed = 0
        for number in range(1, 8):
            if not told(p, "mailbox", "show", "alice")["version"] == "1.0":
                database(p, "alice", *older)
            done = failing(p, f"sqlite3_exec:{number}:{sqlite3.SQLITE_FULL}", *words)
            with sqlite3.connect(p.maildrop("alice") / "mail.db") as opened:
                old = opened.execute("PRAGMA user_version").fetchone() == (65536,)
            opened.close()
            if words[1] == "list":
                stayed += done.returncode == 0 and old
            elif b"older version" in done.stderr or words[1] == "upgrade" and old:
                assert old and done.returncode == 75 and done.stderr.count(b"\n") == 1, done
                stayed += 1
        assert stayed, words
    assert told(p, "mailbox", "upgrade", "alice")["user"] == "alice"
    assert p.ctl("mailbox", "upgrade", "alice").stdout.startswith(b"alice: version 1.")
    assert told(p, "mailbox", "set", "alice", "pop3=off")["limits"] == {"pop3": "off"}
    assert told(p, "import", "alice", tmp_path / "box")["messages"] == 1


@preloads
@pytest.mark.parametrize("form", ["maildir", "mbox"])
def test_a_message_goes_while_it_is_exported(p, tmp_path, form):
    """It is skipped, and nothing of it stays. (Seen from here: a row that is not found.)"""
    messages = [b"Subject: %d\n\nbody\n" % n for n in range(3)]
    for message in messages:
        p.add("alice", message)
    skipped = 0
    for number in range(1, 60):
        to = tmp_path / str(number)
        done = failing(p, f"sqlite3_step:{number}:101", "export", f"--format={form}", "alice", to)
        if b"was deleted meanwhile; skipped" not in done.stderr:
            continue
        skipped += 1
        assert done.returncode == 0 and b"exported 2 messages, " in done.stdout, done
        assert b"1 skipped" in done.stdout
        if form == "maildir":
            got = [f.read_bytes() for f in sorted(to.glob("new/*"))]
            assert not list(to.glob("tmp/*")) and len(got) == 2 and set(got) < set(messages)
        else:
            got = told(p, "import", f"user{number}", to)
            assert (got["messages"], got["skipped"]) == (2, 0)
    assert skipped >= 3


@contextlib.contextmanager
def stopped(p, call, *words):
    """poplarctl, held at the first call of a kind; it goes on at the end."""
    process = subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, *words],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {
                                   "LD_PRELOAD": str(poplar.BUILD / "tests/failing.so"),
                                   "FAILING": f"{call}:1:-{signal.SIGSTOP.value}"})
    wait_until(lambda: p.proc_status(process.pid)["State"][0] == "T", "it is held")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.out, process.err = process.communicate(timeout=60)


@preloads
def test_what_comes_and_goes_during_an_export(p, tmp_path):
    """The messages that were there at its begin are exported, as far as they still are."""
    for n in range(3):
        p.add("alice", b"Subject: %d\n\nbody\n" % n)
    p.write_config(store_undelete_for="0")
    with stopped(p, "futimens", "export", "alice", tmp_path / "a") as process:
        p.add("alice", b"Subject: late\n\nbody\n")
        p.ctl("message", "delete", "alice", "2")
    assert process.returncode == 0 and b"exported 2 messages, " in process.out
    assert {f.read_bytes()[:10] for f in (tmp_path / "a/new").iterdir()} == {
        b"Subject: 0", b"Subject: 2"}
    done = p.ctl("message", "show", "alice", "2", check=False)
    assert done.returncode == 66 and b"alice: no message 2; list" in done.stderr


@preloads
def test_a_batch_that_cannot_be_committed(p, tmp_path):
    """None of it is there, nothing after it is tried, and the second time all of it comes."""
    (tmp_path / "box").write_bytes(mbox(*(b"Subject: %d\n\nx\n" % n for n in range(450))))
    p.ctl("mailbox", "create", "alice")
    done = failing(p, f"fdatasync:1:{errno.EIO}", "import", "alice", tmp_path / "box")
    assert done.returncode == 74 and b"maildrop of alice: commit: " in done.stderr, done
    assert b"imported 0 messages" in done.stdout
    assert told(p, "message", "list", "alice") == []
    done = failing(p, f"fdatasync:2:{errno.EIO}", "import", "alice", tmp_path / "box")
    there = len(told(p, "message", "list", "alice"))
    assert done.returncode == 74 and b"imported %d messages" % there in done.stdout
    assert 0 < there < 450 or b"imported 0" in done.stdout
    assert told(p, "import", "alice", tmp_path / "box")["messages"] == 450 - there
    assert told(p, "mailbox", "check", "alice")["sound"]


def test_batches_of_many_octets(p, tmp_path):
    (tmp_path / "box").write_bytes(mbox(*(b"Subject: %d\n\n" % n + (b"x" * 999 + b"\n") * 12_000
                                          for n in range(4))))
    assert told(p, "import", "--no-limits", "alice", tmp_path / "box")["messages"] == 4
    assert told(p, "mailbox", "check", "alice")["sound"]


@pytest.mark.accounts
def test_an_account_that_is_refused_now(p):
    """Its mail can be looked at and deleted, and no more can come by poplarctl."""
    p.write_config(auth_canonical="nss", auth_require_nss="yes")
    p.add("alice", MESSAGE)
    p.write_config(auth_first_uid="60000")
    assert len(told(p, "message", "list", "alice")) == 1
    done = p.ctl("message", "add", "alice", input=MESSAGE, check=False)
    assert done.returncode == 67 and b"is below [auth] first_uid=60000" in done.stderr
    p.ctl("mailbox", "delete", "--yes", "alice")


def test_files_that_are_not_what_they_must_be(p, tmp_path):
    p.add("alice", MESSAGE)
    file = p.maildrop("alice") / "mail.db"
    file.rename(tmp_path / "mail.db")
    file.symlink_to(tmp_path / "mail.db")
    done = p.ctl("message", "list", "alice", check=False)
    assert done.returncode == 72 and b"mail.db: a symbolic link" in done.stderr
    lock = p.maildrop("alice") / "lock"
    lock.unlink()
    lock.mkdir()
    done = p.ctl("mailbox", "delete", "--yes", "alice", check=False)
    assert done.returncode == 72 and b"lock: Is a directory" in done.stderr
    assert file.is_symlink()


@preloads
def test_rows_that_are_not_there(p):
    """Whichever: what hangs on it is damaged, or not there; never a number that is none."""
    p.add("alice", MESSAGE)
    for words in (["mailbox", "show", "alice"], ["user", "alice"], ["message", "list", "alice"],
                  ["mailbox", "check", "alice"]):
        damaged = 0
        for number in range(1, 40):
            done = failing(p, f"sqlite3_step:{number}:101", *words)
            assert done.returncode in (0, 65, 78), done  # 78: what a setting is now
            assert b"defect" not in done.stderr, done
            damaged += done.returncode == 65
        assert damaged > 0, words


def test_export_says_what_it_did(p, tmp_path):
    p.add("alice", MESSAGE)
    p.add("alice", MESSAGE)
    database(p, "alice", "UPDATE message SET retrieved = 1 WHERE id = 2")
    assert told(p, "export", "alice", tmp_path / "a") == {
        "messages": 2, "octets": 44, "skipped": 0}
    assert [len(list((tmp_path / "a" / d).iterdir())) for d in ("new", "cur", "tmp")] == [1, 1, 0]
    seen, = (tmp_path / "a/cur").iterdir()
    assert seen.name.endswith(":2,S")
    # Mail is added to what is there, with a word about the list.
    done = p.ctl("export", "--crlf", "alice", tmp_path / "a")
    assert b"held mail before, so no list of UIDLs" in done.stderr
    assert len(list((tmp_path / "a/new").iterdir())) == 2
    done = p.ctl("export", "--format=mbox", "alice", tmp_path / "a", check=False)
    assert done.returncode == 73 and b"a: File exists; name another" in done.stderr
    # A name that is fit for a Maildir, whatever the machine is called.
    done = subprocess.run(
        ["unshare", "--uts", "sh", "-c", 'echo a:b/c >/proc/sys/kernel/hostname; exec "$@"', "sh",
         poplar.BUILD / "poplarctl", "--config", p.config, "export", "alice", tmp_path / "b"],
        capture_output=True)
    assert done.returncode == 0, done
    name, = (tmp_path / "b/new").iterdir()
    assert name.name.endswith(".a_b_c")


@pytest.mark.accounts
def test_an_mbox_is_whole_or_not_there(p, tmp_path):
    """On a disk that becomes full in the middle of it, the second try finds nothing in its way."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        for message in (MESSAGE, b"x" * 100_000):
            p.ctl("message", "add", "--no-limits", "alice", input=message)
        done = p.ctl("export", "--format=mbox", "alice", small / "box", check=False)
        assert (done.returncode, done.stdout) == (75, b"") and not list(small.iterdir()), done
        assert done.stderr == b"poplarctl: %s/box: No space left on device\n" % bytes(small), done
        p.ctl("message", "delete", "alice", "2")
        p.ctl("export", "--format=mbox", "alice", small / "box")
        box = (small / "box").read_bytes()
        assert box.startswith(b"From ") and box.endswith(b"\nSubject: one\n\nbody\n\n"), box[-50:]
    finally:
        poplar.unmount(small)


@pytest.mark.skipif(not poplar.NAMESPACES, reason="needs root: process namespaces")
def test_exports_of_equal_processes(p, tmp_path):
    """In two containers both are process 1 of one host, perhaps in one second: neither's messages take
    the place of the other's."""
    p.add("alice", MESSAGE)

    def export(to):
        began = int(time.time())
        for _ in range(2):
            subprocess.run(["unshare", "--pid", "--fork", poplar.BUILD / "poplarctl", "--config",
                            p.config, "export", "alice", to], check=True)
        return began == int(time.time()) and len(list(to.glob("new/*"))) == 2
    assert any(export(tmp_path / str(n)) for n in range(10))
    assert all(len(list(box.glob("new/*"))) == 2 for box in tmp_path.glob("[0-9]"))


def test_names_that_are_no_text(p, tmp_path):
    """On a terminal they are escaped, and in JSON."""
    name = b"\xffalice\x1b"[:6]
    p.ctl("message", "add", name, input=MESSAGE)
    assert b"\\xffalice" in p.ctl("mailbox", "list").stdout
    assert told(p, "mailbox", "list")[0]["user"] == "\\xffalice"
    assert b"\\xffalice: sound" in p.ctl("mailbox", "check", name).stdout
    assert b"user         \\xffalice" in p.ctl("user", name).stdout
    assert b"\xff" not in p.ctl("user", name).stdout
    about = told(p, "user", name)
    assert about["user"] == "\\xffalice" and about["maildrop"].endswith("/\\xffalice")
    assert told(p, "mailbox", "create", name) == {"user": "\\xffalice", "created": False}
    assert told(p, "mailbox", "delete", "--yes", name)["deleted"]
    # One in a tree of mail is passed over in no other way than any other's.
    (tmp_path / "tree").mkdir()
    with open(os.fsencode(tmp_path) + b"/tree/" + name, "wb") as file:
        file.write(mbox(b"x\n"))
    assert told(p, "import", "--all", tmp_path / "tree")[0]["user"] == "\\xffalice"


def test_limits(p):
    p.add("alice", MESSAGE)
    shown = p.ctl("mailbox", "show", "alice").stdout
    assert b"quota_octets     none\n" in shown and b"pop3" not in shown
    p.ctl("mailbox", "set", "alice", "quota_octets=5K", "quota_messages=0", "pop3=off")
    shown = p.ctl("mailbox", "show", "alice").stdout
    assert b"quota_octets     5120 (of its own)\n" in shown
    assert b"quota_messages   none (of its own)\n" in shown and b"pop3             off\n" in shown
    user = p.ctl("user", "alice").stdout
    assert b"quota        5120 (of this maildrop)" in user and b"pop3         off" in user
    p.ctl("mailbox", "set", "alice", "quota_octets=", "quota_messages=", "pop3=")
    p.write_config(store_quota_messages="7")
    assert b"quota_messages   7\n" in p.ctl("mailbox", "show", "alice").stdout
    assert b"  messages   7\n" in p.ctl("user", "alice").stdout
    p.ctl("mailbox", "set", "alice", "pop3=on")
    assert told(p, "mailbox", "show", "alice")["limits"] == {}
    assert b"none yet" in p.ctl("user", "bob").stdout
    done = p.ctl("mailbox", "create", "alice")
    assert b"alice: has a maildrop already" in done.stderr


def test_a_message_from_anywhere(p, tmp_path):
    """A file, a pipe; empty, too large."""
    (tmp_path / "file").write_bytes(MESSAGE)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(b"x" * 20_000)
    with open(tmp_path / "file", "rb") as file:
        assert told(p, "message", "add", "alice", stdin=file) == {"id": 1}
    for status, words, source in [(65, b"standard input: empty", "empty"),
                                  (65, b"raise [store] max_message", "large")]:
        with open(tmp_path / source, "rb") as file:
            done = p.ctl("message", "add", "alice", stdin=file, check=False)
        assert done.returncode == status and words in done.stderr, done
        done = p.ctl("message", "add", "alice", input=(tmp_path / source).read_bytes(), check=False)
        assert done.returncode == status and words[-11:] in done.stderr, done
    p.ctl("message", "add", "--no-limits", "alice", input=b"x" * 20_000)
    done = p.ctl("message", "add", "a/b", input=MESSAGE, check=False)
    assert done.returncode == 67
    folder = os.open(tmp_path, os.O_RDONLY)
    done = p.ctl("message", "add", "alice", stdin=folder, check=False)
    os.close(folder)
    assert done.returncode == 66 and b"standard input: Is a directory" in done.stderr
    assert len(told(p, "message", "list", "alice")) == 2


def test_dry_runs(p, tmp_path):
    """They judge by the same rules, and make nothing."""
    (tmp_path / "box").write_bytes(mbox(b"Subject: one\n\nbody\n", b"x" * 20_000 + b"\n"))
    done = p.ctl("import", "--dry-run", "alice", tmp_path / "box", check=False)
    assert done.returncode == 65 and b"would import 1 message," in done.stdout
    assert b"larger than [store] max_message (--no-limits takes it); skipped" in done.stderr
    assert told(p, "import", "--dry-run", "--no-limits", "alice", tmp_path / "box")["messages"] == 2
    assert not (p.state / "mail").exists()
    assert told(p, "mailbox", "list") == []
    dry = told(p, "import", "--dry-run", "--delete-gone", "--no-limits", "alice", tmp_path / "box")
    assert dry["gone"] == 0 and dry["dry_run"]
    done = p.ctl("import", "alice", tmp_path / "box", check=False)
    assert done.returncode == 65 and b"imported 1 message," in done.stdout
    # What is known, but not by a UIDL, does not tell what is gone.
    done = p.ctl("import", "--delete-gone", "--no-limits", "alice", tmp_path / "box", check=False)
    assert done.returncode == 65 and b"what is gone cannot be told" in done.stderr
    done = p.ctl("import", "--delete-gone", "alice", tmp_path / "nothing", check=False)
    assert done.returncode == 66 and b"nothing was imported" in done.stderr
    done = p.ctl("import", "--delete-gone", "bob", tmp_path / "box", check=False)
    assert done.returncode == 65 and b"deleted" not in done.stdout  # not all of it was read
    assert len(told(p, "message", "list", "alice")) == 2


def test_lists_of_uidls(p, tmp_path):
    """A capture, matched by sizes as the old server showed the messages; another server's list;
    what is neither."""
    box = tmp_path / "box"
    box.write_bytes(mbox(b"X-IMAPbase: 5 2\nX-UID: 1\nStatus: RO\nSubject: one\n\nbody\n",
                         b"X-UID: 2\nSubject: two2\n\nbody\n"))
    capture = tmp_path / "capture"
    capture.write_text("1 a\n2 b\n1 22\n2 23\n")
    assert told(p, "import", "--uidl-list", capture, "alice", box)["kept_uidls"] == 2
    assert [m["uidl"] for m in told(p, "message", "list", "alice")] == ["a", "b"]
    capture.write_text("1 a\n2 b\n1 22\n2 99\n")
    done = p.ctl("import", "--uidl-list", capture, "bob", box)
    assert b"no message of the --uidl-list is this one for certain" in done.stdout
    box.write_bytes(box.read_bytes().replace(b"\n", b"\r\n"))
    capture.write_text("1 a\n2 b\n1 22\n2 23\n")
    assert told(p, "import", "--uidl-list", capture, "erin", box)["kept_uidls"] == 2
    (tmp_path / "three.eml").write_bytes(b"Subject: three\n\nbody\n")
    capture.write_text("1 a\n2 b\n3 c\n1 22\n2 23\n3 24\n")
    assert told(p, "import", "--uidl-list", capture, "gina", box,
                tmp_path / "three.eml")["kept_uidls"] == 3
    assert [m["uidl"] for m in told(p, "message", "list", "gina")] == ["a", "b", "c"]
    for text, words in [("", b"no UIDL in it"), ("+OK\n.\n", b"no UIDL in it"),
                        ("1 a\n3 b\n", b"a list must be whole")]:
        capture.write_text(text)
        done = p.ctl("import", "--uidl-list", capture, "carol", box, check=False)
        assert done.returncode == 65 and words in done.stderr, done
    maildir = tmp_path / "md"
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir(parents=True)
    (maildir / "new/1.a").write_bytes(b"Subject: x\n\nx\n")
    (maildir / "new/2.a").mkdir()
    (maildir / "cur/3.a:2,T").write_bytes(b"x\n")
    for text, uidl in [("/2 1 1\n1.a 15 5:6\n", "UID5-6"), ("3 V6\n5 :1.a\n", "0000000500000006")]:
        capture.write_text(text)
        user = f"user{len(text)}"
        done = p.ctl("import", "--uidl-list", capture, user, maildir, check=False)
        assert done.returncode == 66 and b"not a regular file; skipped" in done.stderr
        assert b"1 skipped" in done.stdout
        assert told(p, "message", "list", user)[0]["uidl"] == uidl
        done = p.ctl("import", "--uidl-list", capture, "fred", maildir, box, check=False)
        assert done.returncode == 64 and b"is no Maildir, whose files" in done.stderr
        assert b"nothing was imported" in done.stderr
    capture.write_text("1 a\n2 b\n1 15\n2 3\n")
    done = p.ctl("import", "--uidl-list", capture, "dave", maildir, check=False)
    assert done.returncode == 66 and b"2 keep the UIDL" in done.stdout


@preloads
def test_an_mbox_that_is_written_anew(p, tmp_path):
    """By a program that knows of no lock. What is not in it meanwhile is not gone."""
    box, held = tmp_path / "box", None
    messages = [b"X-UIDL: %d\n\n%s" % (n, b"0123456789abcde\n" * 500) for n in range(20)]
    box.write_bytes(mbox(*messages))
    p.ctl("import", "alice", box)
    for number in itertools.count(1):
        held = Held(p, "read", "import", "--delete-gone", "alice", box, number=number, may_end=True)
        opened = any(os.readlink(fd) == str(box)
                     for fd in Path(f"/proc/{held.process.pid}/fd").iterdir())
        if opened:
            os.truncate(box, len(mbox(messages[0])))
        status, _, err = held.go_on()
        if held.ended:
            break
        assert not opened or status in (66, 75) and "while it was read" in err, number
        assert told(p, "mailbox", "show", "alice")["messages"] == 20
        box.write_bytes(mbox(*messages))
    assert number > 3
    box.write_bytes(mbox(messages[0]))
    assert told(p, "import", "--delete-gone", "alice", box)["gone"] == 19


@preloads
def test_one_user_in_several_trees(p, tmp_path):
    """Who has mail in two places, or two names that are one here, keeps the mail of all of them, also
    when what is gone from them is deleted; a place that has two names is one."""
    p.write_config(server_local_domains="example.org")
    boxes = [make_maildir(tmp_path / box) for box in ("home/alice/Maildir", "vmail/alice",
                                                      "vmail/example.org/alice", "vmail/Alice")]
    for box in boxes:
        for number in (1, 2):
            (box / "cur" / f"{number}.{box.parent.name}.{box.name}:2,").write_bytes(
                b"Subject: %d of %s\n\nbody\n" % (number, str(box).encode()))
    (tmp_path / "link").symlink_to(tmp_path / "vmail")
    both = ("import", "--all", "--uidl=filename", tmp_path / "home", tmp_path / "vmail",
            tmp_path / "link")
    done = p.ctl("--json", *both)
    assert [(r["user"], r["messages"]) for r in json.loads(done.stdout)] == [("alice", 8)]
    assert done.stderr.count(b"leads to the same place as one before it; taken once") == 3
    (boxes[0] / "cur/1.alice.Maildir:2,").unlink()
    (boxes[2] / "cur/2.example.org.alice:2,").unlink()

    for done, status in ((p.ctl(*both, tmp_path / "nowhere", "--delete-gone", check=False), 66),
                         (failing(p, f"getpwnam_r:2:{errno.EIO}", *both[:-1], "--delete-gone"), 75)):
        assert done.returncode == status and b"nothing is deleted as gone" in done.stderr, done
        assert told(p, "mailbox", "show", "alice")["messages"] == 8
    assert [r["gone"] for r in told(p, *both, "--delete-gone")] == [2]
    assert told(p, "mailbox", "show", "alice")["messages"] == 6


def test_several_trees(p, tmp_path):
    """The first failure is the status; the rest is done."""
    for tree, user in (("a", "alice"), ("c", "carol")):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / user).write_bytes(mbox(b"Subject: one\n\nbody\n"))
        (tmp_path / tree / "none").mkdir()
    (tmp_path / "a/alice").write_bytes(b"")
    (tmp_path / "a/bob").write_bytes(mbox(b"x" * 20_000 + b"\n"))
    done = p.ctl("import", "--all", tmp_path / "a", tmp_path / "b", tmp_path / "c", check=False)
    assert done.returncode == 66, done
    said = done.stderr.decode()
    assert said.count("no mailbox; passed over") == 3 and "b: No such file" in said
    assert b"carol: imported 1 message," in done.stdout and b"bob: imported 0" in done.stdout
    assert told(p, "import", "--all", tmp_path / "c")[0]["known"] == 1
    done = p.ctl("expire", "alice", "carol", check=False)
    assert done.returncode == 67 and b"1 maildrop: 0 messages expired" in done.stdout


@preloads
def test_a_tree_that_cannot_be_read(p, tmp_path):
    """The same, of whatever kind; the first failure is the status."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for user in ("alice", "bob"):
        (tree / user).write_bytes(mbox(b"Subject: one\n\nbody\n"))
    done = failing(p, f"fstatat:1:{errno.EACCES}", "import", "--all", tree)
    assert done.returncode == 77 and done.stderr.count(b"Permission denied; passed over") == 1
    assert done.stdout.count(b"imported 1 message,") == 1
    done = failing(p, f"fstatat:2:{errno.EIO}", "import", "--all", tree)
    assert done.returncode == 66 and b"Input/output error; passed over" in done.stderr


@preloads
def test_without_md5(p, tmp_path):
    """A libcrypto that has none, as where FIPS is asked for: everything else is as ever."""
    (tmp_path / "box").write_bytes(mbox(b"Subject: one\n\nbody\n"))
    words = ["import", "--uidl=popa3d", "--dry-run", "alice", tmp_path / "box"]
    assert b"1 keeps the UIDL" in p.ctl(*words).stdout
    done = failing(p, "EVP_DigestInit_ex:2:0", *words)
    assert done.returncode == 0 and b"with a new UIDL: this libcrypto has no MD5" in done.stdout


@pytest.mark.accounts
def test_a_tree_that_may_not_be_read(p, tmp_path):
    """What it is cannot be told: no success, whatever else was imported."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "alice").write_bytes(mbox(b"Subject: one\n\nbody\n"))
    (tree / "secret").mkdir()
    (tree / "secret").chmod(0)
    done = p.ctl("import", "--all", tree, user="poplar", check=False)
    assert done.returncode == 77 and b"secret: Permission denied; passed over" in done.stderr
    assert b"alice: imported 1 message," in done.stdout


def test_to_another_machine(p, tmp_path):
    """By the page's example."""
    users = ["alice", "bob", "o'hara", "with blank", "100%", ".dot", "dora@example.net"]
    for user in users:
        p.add(user, MESSAGE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = poplar.Poplar(elsewhere, **p.settings)
    there, = (e for e in examples("poplarctl.8", "EXAMPLES") if "restore --all" in e)
    out, back = there.replace("/media/mail", str(tmp_path / "m")).split("\n", 1)
    for machine, line in ((p, out), (other, back)):
        command = f"{poplar.BUILD}/poplarctl --config {machine.config}"
        subprocess.run(["sh", "-ec", line.replace("poplarctl", command)], check=True)
    assert other.ctl("mailbox", "list").stdout.split(b"User\n")[1] == \
        p.ctl("mailbox", "list").stdout.split(b"User\n")[1]
    uidls = [[m.ctl("message", "list", u).stdout for u in users] for m in (p, other)]
    assert uidls[0] == uidls[1]

    # What is there already is asked for; what is no backup, or nobody's here, stops nothing.
    (tmp_path / "m/notes").write_text("x")
    (tmp_path / "m/bob/mail.db").write_bytes(b"x" * 4096)
    done = other.ctl("mailbox", "restore", "--all", tmp_path / "m", check=False)
    assert done.returncode == 64 and b"Say --yes" in done.stderr
    done = other.ctl("--json", "mailbox", "restore", "--yes", "--all", tmp_path / "m", check=False)
    assert done.returncode == 65
    assert b"/notes: no backup of a maildrop; passed over" in done.stderr
    assert b"bob/mail.db: no backup of a maildrop: file is not a database" in done.stderr
    assert [r["user"] for r in json.loads(done.stdout)] == sorted(set(users) - {"bob"}, key=str.encode)


def test_backups_of_who_is_one_user_here(p, tmp_path):
    """One is restored, that of the very name if there is one; the others are named, and take nothing
    of it away."""
    p.write_config(auth_strip_domain="never", auth_username="keep")
    p.add("alice", MESSAGE)
    for name in ("Alice", "alice@example.org", "carol@example.net", "carol@example.org"):
        p.add(name, b"Subject: two\r\n\r\n")
    p.add("bob", MESSAGE)
    p.ctl("mailbox", "backup", "--all", tmp_path / "all")
    (tmp_path / "all/carol").write_bytes(b"")  # is passed over, and so in nobody's way
    uidls = p.ctl("message", "list", "alice").stdout
    p.write_config(auth_strip_domain="always", auth_username="lowercase")
    done = p.ctl("--json", "mailbox", "restore", "--yes", "--all", tmp_path / "all", check=False)
    assert done.returncode == 65
    assert [r["user"] for r in json.loads(done.stdout)] == ["alice", "bob", "carol"]
    for said in ("Alice: is of alice", "alice@example.org: is of alice", "carol@example.org: is of carol"):
        assert f"/{said} here, as another is; not restored".encode() in done.stderr
    assert p.ctl("message", "list", "alice").stdout == uidls


def test_delete_of_what_no_name_means_any_more(p):
    """As the list has it; and not the maildrop that the rules now make of the name."""
    p.write_config(auth_username="keep", auth_strip_domain="never")
    names = ["Alice", "alice", "alice@example.org"]
    for name in names:
        p.add(name, MESSAGE)
    p.write_config(auth_strip_domain="always")
    for name in ("Alice", "alice@example.org"):
        names.remove(name)
        assert p.ctl("mailbox", "delete", "--yes", name).returncode == 0
        assert [m["user"] for m in told(p, "mailbox", "list")] == names
    p.ctl("mailbox", "delete", "--yes", "alice@example.com")
    assert told(p, "mailbox", "list") == []


def test_a_new_name(p, tmp_path):
    """By the page's example: to the client of an account that is called otherwise nothing is new."""
    p.add("jane", MESSAGE)
    before = p.ctl("message", "list", "jane").stdout
    renaming, = (e for e in examples("poplarctl.8", "EXAMPLES") if "jane" in e)
    script = renaming.replace("/root", str(tmp_path))
    script = script.replace("poplarctl", f"{poplar.BUILD}/poplarctl --config {p.config}")
    subprocess.run(["sh", "-ec", script], check=True)
    assert p.ctl("message", "list", "judy").stdout == before
    assert p.ctl("message", "list", "jane", check=False).returncode == 67
    assert not (tmp_path / "jane.db").exists()


def test_salvage_from_anywhere(p, tmp_path):
    """A maildrop in use, a backup, a raw copy."""
    p.add("alice", MESSAGE)
    p.ctl("mailbox", "backup", "--all", tmp_path / "all")
    p.ctl("mailbox", "backup", "alice", tmp_path / "one.db")
    folder, = (tmp_path / "all").iterdir()
    environment = {k: v for k, v in os.environ.items() if k != "TMPDIR"}
    for number, source in enumerate(["alice", folder, folder / "mail.db", tmp_path / "one.db"]):
        done = p.ctl("mailbox", "salvage", source, tmp_path / f"out{number}", env=environment)
        assert b"salvaged 1 message," in done.stdout
    assert told(p, "mailbox", "salvage", "alice", tmp_path / "out")["lost"] == 0
    (tmp_path / "bad").write_bytes(b"x" * 10_000)
    done = p.ctl("mailbox", "salvage", tmp_path / "bad", tmp_path / "outbad", check=False)
    assert done.returncode == 65 and b"nothing can be read" in done.stderr
    done = p.ctl("mailbox", "salvage", "a", tmp_path / "x", check=False)
    assert done.returncode == 67


@preloads
def test_salvage_past_a_bad_place(p, tmp_path):
    """On a disk, be it near the beginning: of what lies behind it nothing is lost."""
    for _ in range(40):
        p.add("alice", MESSAGE + b"0123456789\r\n" * 700)
    p.ctl("mailbox", "compact", "alice")
    done = failing(p, f"pread:2:{errno.EIO}", "--json", "mailbox", "salvage", "alice", tmp_path / "out")
    assert b"mail.db: Input/output error; going on without 4096 octets" in done.stderr, done
    assert json.loads(done.stdout)["lost"] <= 2


@pytest.mark.native("valgrind wants a temporary directory")
def test_salvage_without_a_temporary_directory(p, tmp_path):
    p.add("alice", MESSAGE)
    done = p.ctl("mailbox", "salvage", "alice", tmp_path / "x", check=False,
                 env=os.environ | {"TMPDIR": "/nonexistent"})
    assert done.returncode == 73 and b"/nonexistent/poplar-copy-" in done.stderr
