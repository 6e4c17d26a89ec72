"""poplarctl and poplar-deliver started carelessly: by what has closed its standard descriptors, under
nohup, two at once, on a Maildir that a server moves about in."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

import poplar
from poplar import make_maildir, wait_until

pytestmark = pytest.mark.skipif(not poplar.ROOT, reason="needs root: files of another user")

preloads = pytest.mark.unsanitized("a sanitizer stands where the library would")

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"
LOCKS_OF_THE_MBOX = 2  # import's: to see that it is one, and to read it


@pytest.fixture
def p(server):
    return server(start=False, tls_required="not-on-loopback")


def mbox(*messages):
    return b"".join(b"From x@example.test Sat Jan  1 00:00:00 2022\n" + m + b"\n" for m in messages)


def subjects(p, user):
    listed = p.ctl("message", "list", user).stdout.splitlines()[1:-1]
    return [p.ctl("message", "show", user, row.split()[1]).stdout.split(b"\n")[0].decode()
            for row in listed]


def start(p, *words, **options):
    return subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, *words],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


class Held:
    """poplarctl, held at the Nth call of a kind until it is let go; it may end before that."""

    def __init__(self, p, call, *words, number=1, may_end=False, **options):
        self.process = start(p, *words, **options, env=os.environ | {
            "LD_PRELOAD": str(poplar.BUILD / "tests/failing.so"),
            "FAILING": f"{call}:{number}:-{signal.SIGSTOP.value}"})
        state = wait_until(lambda: re.match("[TZ]", p.proc_status(self.process.pid)["State"]),
                           "it is held, or has ended")
        self.ended = state.group() == "Z"
        assert may_end or not self.ended

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode(), err.decode()


@pytest.mark.native("valgrind opens the standard descriptors that are closed")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_standard_descriptors_closed(p, tmp_path, closed):
    """What is printed goes nowhere, and not into what is opened under such a number."""
    p.add("alice", MESSAGE)
    box = make_maildir(tmp_path / "maildir")
    (box / "new/1.link").symlink_to("/etc/passwd")  # which is told on stderr
    (box / "new/2.x").write_bytes(b"Subject: two\n\nx\n")
    for words, status in ((["import", "alice", box], 66), (["message", "list", "alice"], 0),
                          (["export", "alice", tmp_path / "out"], 0),
                          (["mailbox", "backup", "alice", tmp_path / "file"], 0)):
        done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", poplar.BUILD / "poplarctl",
                               "--config", p.config, *words], capture_output=True)
        printing = words[0] != "mailbox" and ">&-" in closed.split()
        assert done.returncode == (74 if printing else status), (words, done)
    assert (p.maildrop("alice") / "lock").stat().st_size == 0
    assert sorted(f.read_bytes() for f in (tmp_path / "out/new").iterdir()) == [
        b"Subject: one\n\nbody\n", b"Subject: two\n\nx\n"]
    p.ctl("mailbox", "check", "alice")
    p.ctl("mailbox", "restore", "--yes", "bob", tmp_path / "file")


@pytest.mark.native("valgrind opens the standard descriptors that are closed")
def test_deliver_without_input(server):
    """No message is not an empty one, and what the server says is none either."""
    p = server(delivery_accept="any")
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", poplar.BUILD / "poplar-deliver",
                           "--socket", p.lmtp, "alice"], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        75, b"poplar-deliver: the message cannot be read: Bad file descriptor\n")


@preloads
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=lambda s: s.name)
def test_what_is_ignored_stays_so(p, tmp_path, number):
    """nohup, and a script's '&', mean that it goes on."""
    (tmp_path / "box").write_bytes(mbox(*(b"Subject: %d\n\nx\n" % n for n in range(3))))
    before = signal.signal(number, signal.SIG_IGN)
    try:
        held = Held(p, "fdatasync", "import", "alice", tmp_path / "box")
    finally:
        signal.signal(number, before)
    held.process.send_signal(number)
    status, out, err = held.go_on()
    assert status == 0 and out.startswith("imported 3 messages") and err == ""


@preloads
def test_two_imports_at_once(p, tmp_path):
    """No message comes twice, whichever was first."""
    (tmp_path / "box").write_bytes(mbox(*(b"Subject: %d\n\nx\n" % n for n in range(3))))
    (tmp_path / "uidls").write_bytes(mbox(*(b"X-UIDL: u%d\nSubject: of %d\n\nx\n" % (n, n)
                                            for n in range(3))))
    p.ctl("mailbox", "create", "alice")
    for box in ("box", "uidls"):
        before = len(subjects(p, "alice"))
        # It has looked, and found nothing: next it would begin its first batch.
        held = Held(p, "lock", "import", "alice", tmp_path / box, number=LOCKS_OF_THE_MBOX + 1)
        p.ctl("import", "alice", tmp_path / box)
        status, out, err = held.go_on()
        assert (status, err) == (0, "") and "imported 0 messages" in out
        assert "3 there already" in out
        assert len(subjects(p, "alice")) == before + 3


@preloads
def test_mail_that_goes_after_it_was_matched(p, tmp_path):
    """With a --uidl-list: no message gets the UIDL of the one before it, and those that are still there
    keep theirs, where they went in the meantime, too."""
    boxes = make_maildir(tmp_path / "inbox"), make_maildir(tmp_path / "more")
    for n in range(7):
        (boxes[n // 4] / f"new/{n}.x").write_bytes(b"Subject: %d\n\n%b\n" % (n, b"x" * n))
    (tmp_path / "capture").write_text("".join(f"{n + 1} uidl-{n}\n" for n in range(7)) +
                                      "".join(f"{n + 1} {16 + n}\n" for n in range(7)))
    held = Held(p, "fsync", "import", "--uidl-list", tmp_path / "capture", "alice", *boxes)
    (boxes[0] / "new/1.x").unlink()
    (boxes[0] / "new/8.y").write_bytes(b"Subject: new\n\n\n")
    (boxes[1] / "new/5.x").rename(boxes[0] / "new/9.x")
    assert held.go_on()[0] == 0
    kept = {subject[9:]: m["uidl"] for subject, m in zip(
        subjects(p, "alice"), json.loads(p.ctl("--json", "message", "list", "alice").stdout))}
    assert not kept.pop("new").startswith("uidl-")
    assert kept == {f"{n}": f"uidl-{n}" for n in (0, 2, 3, 4, 5, 6)}


@preloads
def test_an_mbox_that_is_written_before_it_is_locked(p, tmp_path):
    """Who had the lock has finished then: no message is cut off where he was before."""
    box, whole = tmp_path / "box", mbox(b"Subject: one\n\nbody\n")
    box.write_bytes(whole[:-4])
    held = Held(p, "lock", "--json", "import", "alice", box, number=LOCKS_OF_THE_MBOX)
    box.write_bytes(whole)
    assert json.loads(held.go_on()[1])["octets"] == len(MESSAGE)


@preloads
@pytest.mark.parametrize("left, why", [(b"", "is empty"), (b"Subject: x\n\n", "is no mbox")])
def test_an_mbox_that_is_emptied_before_it_is_locked(p, tmp_path, left, why):
    """It is what it is then: of an empty one nothing is imported, and nothing is gone."""
    box = tmp_path / "box"
    box.write_bytes(mbox(b"X-UIDL: one\n\nbody\n"))
    p.ctl("import", "alice", box)
    held = Held(p, "lock", "import", "--delete-gone", "alice", box, number=LOCKS_OF_THE_MBOX + 1)
    box.write_bytes(left)
    status, _, err = held.go_on()
    assert status == 65 and why in err
    assert len(subjects(p, "alice")) == 1


@preloads
@pytest.mark.parametrize("words", [
    ["mailbox", "list"], ["mailbox", "check", "--all"], ["mailbox", "compact", "--all"],
    ["mailbox", "upgrade", "--all"], ["mailbox", "backup", "--all", "{BACKUPS}"], ["expire"]],
    ids=lambda words: words[min(len(words), 2) - 1])
def test_a_maildrop_goes_meanwhile(p, tmp_path, words):
    """Listed, and gone before its turn comes: nothing is wrong with that."""
    p.write_config(store_expire_after="30d")
    p.ctl("mailbox", "create", "alice")
    # mail/, its two levels and what is in them: each has ".", "..", one entry and an end.
    held = Held(p, "readdir", *(w.format(BACKUPS=tmp_path / "backups") for w in words), number=12)
    p.ctl("mailbox", "delete", "--yes", "alice")
    status, out, err = held.go_on()
    assert (status, err) == (0, ""), out


def test_files_may_not_grow(p, tmp_path):
    """As under ulimit -f: a file that may not is like a disk that is full, with nothing half done."""
    p.add("alice", b"Subject: large\r\n\r\n" + b"x\r\n" * 100000)
    for words in (["message", "add", "alice"], ["export", "alice", tmp_path / "a"],
                  ["mailbox", "backup", "alice", tmp_path / "b"]):
        done = subprocess.run(["prlimit", "--fsize=65536", poplar.BUILD / "poplarctl", "--config",
                               p.config, *words], input=b"y" * 100000, capture_output=True)
        assert done.returncode in (73, 74, 75) and done.stderr, (words, done)
        assert done.stderr.count(b"\n") == 1, done.stderr
    assert not list(tmp_path.glob("b*")) and not [f for f in (tmp_path / "a").rglob("*")
                                                  if f.is_file()]
    assert subjects(p, "alice") == ["Subject: large"]


@pytest.mark.native("it starts four hundred programs")
def test_nobody_reads_what_is_said(p, tmp_path):
    """As in a pager: whoever else has mail for the maildrop does not wait for that."""
    box = make_maildir(tmp_path / "maildir")
    for n in range(400):
        (box / f"new/{n}.x").write_bytes(b"Subject: %d\n\nx\n" % n)
        (box / f"new/{n}.y").symlink_to("/etc/passwd")  # of each something is said
    p.ctl("mailbox", "create", "alice")
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, "import", "alice", box],
                          stdout=subprocess.PIPE, stderr=writer) as process:
        os.close(writer)
        wait_until(lambda: Path(f"/proc/{process.pid}/wchan").read_text().startswith("pipe_") or
                   Path(f"/proc/{process.pid}/syscall").read_text().startswith("1 0x2 "), "it waits")
        added = p.ctl("message", "add", "alice", input=MESSAGE, check=False)
        with os.fdopen(reader, "rb") as said:
            lines = said.read().splitlines()
        assert process.stdout.read().startswith(b"imported 400 messages")
    assert added.returncode == 0, added
    assert process.returncode == 66 and len(lines) == 400
    assert len(subjects(p, "alice")) == 401


@pytest.mark.native("it draws what it has done after a tenth of a second")
def test_a_terminal_that_takes_nothing(p, tmp_path):
    """Ctrl-S was typed there, or the connection hangs: the work goes on, and nobody waits for it."""
    (tmp_path / "box").write_bytes(mbox(*(b"Subject: %d\n\nx\n" % n for n in range(3000))))
    reader, terminal = pty.openpty()
    termios.tcflow(terminal, termios.TCOOFF)
    process = subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, "import", "alice",
                                tmp_path / "box"], stdout=subprocess.PIPE, stderr=terminal)
    try:
        assert process.communicate(timeout=30)[0].startswith(b"imported 3000 messages")
    finally:
        process.kill()
        os.close(terminal)
        os.close(reader)


@pytest.mark.native("it reads as much as it can in a second")
def test_nothing_of_it_is_taken(p, tmp_path):
    """However long that takes, after one message that was: others have mail for the maildrop, too."""
    p.write_config(store_max_message="1K")
    box = make_maildir(tmp_path / "maildir")
    (box / "new/1.x").write_bytes(MESSAGE)
    (box / "new/2.x").touch()
    os.truncate(box / "new/2.x", 60 << 20)
    for n in range(3, 200):
        os.link(box / "new/2.x", box / f"new/{n}.x")
    with subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, "import", "alice", box],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: any(re.search(r"/new/(?!1\.)", os.path.realpath(f))
                               for f in Path(f"/proc/{process.pid}/fd").iterdir()), "it reads")
        added = p.ctl("message", "add", "alice", input=MESSAGE, check=False)
        still = process.poll() is None
        process.kill()
    assert still and added.returncode == 0, added
    assert len(subjects(p, "alice")) == 2


@preloads
def test_a_copy_that_is_interrupted(p, tmp_path):
    """At the first piece of it: nothing is made of a part, and none of it stays."""
    p.add("alice", b"Subject: large\r\n\r\n" + b"0123456789\r\n" * 20_000)
    p.ctl("mailbox", "compact", "alice")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        held = Held(p, "write", "mailbox", "salvage", "alice", tmp_path / "out")
    held.process.send_signal(signal.SIGINT)
    status, out, err = held.go_on()
    assert (status, out, err) == (-signal.SIGINT, "", "")
    assert list(temporary.iterdir()) == [] and not (tmp_path / "out").exists()


@preloads
def test_two_deletions_at_once(p):
    """The later one does not take what was made since for what it was to delete."""
    p.add("alice", MESSAGE)
    held = Held(p, "lock", "mailbox", "delete", "--yes", "alice")
    p.ctl("mailbox", "delete", "--yes", "alice")
    p.add("alice", MESSAGE)
    status, _, err = held.go_on()
    assert status == 75 and "just deleted the maildrop; try again" in err
    assert len(subjects(p, "alice")) == 1


@preloads
def test_two_backups_at_once(p, tmp_path):
    """One of them writes the file, the other says so; what a killed one left is no hindrance."""
    for n in range(3):
        p.add("alice", MESSAGE)
    file = tmp_path / "file"
    held = Held(p, "sqlite3_backup_step", "mailbox", "backup", "alice", file)
    done = p.ctl("mailbox", "backup", "alice", file, check=False)
    assert done.returncode == 75 and b"try again" in done.stderr, done
    status, _, err = held.go_on()
    assert (status, err) == (0, "")
    p.ctl("mailbox", "restore", "--yes", "bob", file)
    held = Held(p, "sqlite3_backup_step", "mailbox", "backup", "alice", file)
    held.process.kill()
    held.process.communicate()
    assert sorted(f.name for f in tmp_path.glob("file*")) == ["file", "file.unfinished"]
    p.ctl("mailbox", "backup", "alice", file)
    assert [f.name for f in tmp_path.glob("file*")] == ["file"]
    (tmp_path / "file.unfinished").symlink_to("/nonexistent")
    p.ctl("mailbox", "backup", "alice", file)
    (tmp_path / "file.unfinished").mkdir()
    done = p.ctl("mailbox", "backup", "alice", file, check=False)
    assert done.returncode == 73 and b"file.unfinished: " in done.stderr, done


@preloads
def test_an_mbox_that_somebody_makes_meanwhile(p, tmp_path):
    """It is not overwritten; nor is what lies under the name of one that was killed in the way."""
    for n in range(3):
        p.add("alice", MESSAGE)
    box = tmp_path / "box"
    held = Held(p, "fsync", "export", "--format=mbox", "alice", box)
    assert [f.name for f in tmp_path.glob("box*")] == ["box.unfinished"]
    done = p.ctl("export", "--format=mbox", "alice", box, check=False)
    assert done.returncode == 75 and b"another poplarctl writes it; try again" in done.stderr, done
    box.write_bytes(b"x")
    assert held.go_on() == (73, "", f"poplarctl: {box}: File exists; name another\n")
    assert box.read_bytes() == b"x" and [f.name for f in tmp_path.glob("box*")] == ["box"]
    box.unlink()
    held = Held(p, "fsync", "export", "--format=mbox", "alice", box)
    held.process.kill()
    held.process.communicate()
    p.ctl("export", "--format=mbox", "alice", box)
    assert box.read_bytes().count(b"From ") == 3
    assert [f.name for f in tmp_path.glob("box*")] == ["box"]


@preloads
def test_a_message_that_is_seen_meanwhile(p, tmp_path):
    """A server moves it from new/ to cur/ just between the two: it comes, and comes once."""
    box = make_maildir(tmp_path / "maildir")
    for n in range(3):
        (box / f"new/{n}.x").write_bytes(b"Subject: %d\n\nx\n" % n)
    (box / "cur/3.x:2,S").write_bytes(b"Subject: 3\n\nx\n")
    (box / "cur/4.x:2,S").write_bytes(b"Subject: 4\n\nx\n")
    (box / "new/4.x").write_bytes(b"Subject: another of this name\n\nx\n")
    held = Held(p, "fdopendir", "import", "alice", box, number=4)  # the survey is the first look
    (box / "new/1.x").rename(box / "cur/1.x:2,S")
    status, out, err = held.go_on()
    assert (status, err) == (0, "") and out.startswith("imported 6 messages"), out
    assert sorted(subjects(p, "alice")) == [
        *(f"Subject: {n}" for n in range(5)), "Subject: another of this name"]


@pytest.mark.parametrize("name", ["dovecot-uidlist", "courierpop3dsizelist"])
def test_a_list_that_cannot_be_read(p, tmp_path, name):
    """It is no reason to give every message a new UIDL."""
    box = make_maildir(tmp_path / "maildir")
    (box / "new/1.x").write_bytes(b"Subject: one\n\nx\n")
    (tmp_path / "list").write_text("3 V7 N2\n1 :1.x\n")
    for make in (lambda at: at.symlink_to(tmp_path / "list"), lambda at: at.mkdir()):
        make(box / name)
        done = p.ctl("import", "alice", box, check=False)
        assert done.returncode == 65 and name.encode() in done.stderr, done
        assert b"--uidl=none does without" in done.stderr and b"nothing was imported" in done.stderr
        (box / name).unlink() if (box / name).is_symlink() else shutil.rmtree(box / name)
    (box / name).mkdir()
    p.ctl("import", "--uidl=none", "alice", box)


def test_a_tree_with_files_that_are_no_mail(p, tmp_path):
    """In a tree a file is an mbox: nobody's notes become the mail of somebody who is called so."""
    (tmp_path / "home/bob").mkdir(parents=True)
    (tmp_path / "home/alice").write_bytes(mbox(b"Subject: one\n\nx\n"))
    (tmp_path / "home/bob/notes.txt").write_text("buy milk\n")
    (tmp_path / "home/bob/saved.eml").write_text("Subject: a message\n\nx\n")
    for dry in ([], ["--dry-run"]):
        done = p.ctl("import", "--all", *dry, tmp_path / "home", check=False)
        assert done.returncode == 65 and b"alice: " in done.stdout, done
        assert done.stderr.count(b"is no mbox: it does not begin with") == 2, done
    assert [row.split()[-1] for row in p.ctl("mailbox", "list").stdout.splitlines()[1:]] == [b"alice"]


def test_all_of_one_user(p, tmp_path):
    """A user's directory in the place of the one that it is in: nobody is called Maildir."""
    maildir = make_maildir(tmp_path / "home/alice/Maildir")
    (maildir / "new/1.x.y").write_bytes(MESSAGE)
    done = p.ctl("import", "--all", tmp_path / "home/alice", check=False)
    assert done.returncode == 64 and done.stdout == b"" and done.stderr.decode() == (
        f"poplarctl: {tmp_path}/home/alice: is one user's: --all takes the directory above; or say "
        f"import USER {tmp_path}/home/alice/Maildir\n")
    assert b"\nalice" not in p.ctl("mailbox", "list").stdout
    assert not list(p.state.glob("mail/*/*/*"))
    assert b"alice: imported 1 message" in p.ctl("import", "--all", tmp_path / "home").stdout


def test_a_file_that_is_listed_twice(p, tmp_path):
    """Dovecot appends to its list: of a file that went and was put back, the later line holds."""
    box = make_maildir(tmp_path / "maildir")
    names = [f"{n}.x" for n in range(20)]
    for name in names:
        (box / "cur" / f"{name}:2,S").write_bytes(b"Subject: %s\n\nx\n" % name.encode())
    (box / "dovecot-uidlist").write_text("3 V7 N41\n" + "".join(
        f"{uid + 1} :{name}\n" for uid, name in enumerate(names + names[::-1])))
    p.ctl("import", "alice", box)
    listed = p.ctl("message", "list", "alice").stdout.split(b"\n")[1:-2]
    assert [row.split()[-1] for row in listed] == [b"%08x00000007" % uid for uid in range(21, 41)]


def test_input_that_is_used_up(p, tmp_path):
    """A file of which everything was read before is as empty as any other."""
    (tmp_path / "file").write_bytes(MESSAGE)
    p.ctl("mailbox", "create", "alice")
    with open(tmp_path / "file", "rb") as file:
        file.seek(0, os.SEEK_END)
        done = p.ctl("message", "add", "alice", stdin=file, check=False)
    assert done.returncode == 65 and b"standard input: empty" in done.stderr, done
    assert subjects(p, "alice") == []


def test_mail_that_is_past_its_time(p, tmp_path):
    """What comes in older than expire_after, or is restored so, would be gone at the next login
    without anybody having seen it: whoever brings it is told."""
    p.write_config(store_expire_after="30d")
    for days in (1, 29, 31, 400):
        path = tmp_path / f"{days}.eml"
        path.write_bytes(b"Subject: %d\n\nx\n" % days)
        os.utime(path, (time.time() - days * 86400,) * 2)
    boxes = sorted(tmp_path.glob("*.eml"))
    for words in (["--dry-run"], []):
        done = p.ctl("import", *words, "alice", *boxes)
        assert done.stderr == (b"poplarctl: alice: 2 of them are older than [store] expire_after, and "
                               b"go at the next login; to keep them, raise it first\n"), done
    assert p.ctl("import", "alice", *boxes).stderr == b""  # they are there
    p.ctl("expire")
    ids = [row.split()[1] for row in
           p.ctl("message", "list", "--deleted", "alice").stdout.splitlines()[1:-1]]
    assert len(ids) == 2
    done = p.ctl("message", "restore", "alice", *ids)
    assert done.stderr == (b"poplarctl: alice: 2 of them are older than [store] expire_after, and "
                           b"go at the next login; to keep them, raise it first\n"), done
    p.write_config(store_expire_after="0")
    p.ctl("message", "delete", "alice", *ids)
    assert p.ctl("message", "restore", "alice", *ids).stderr == b""
    p.ctl("mailbox", "backup", "alice", tmp_path / "backup")
    p.write_config(store_expire_after="30d")
    p.ctl("expire")
    done = p.ctl("mailbox", "restore", "--yes", "alice", tmp_path / "backup")
    assert done.stderr == (b"poplarctl: alice: 2 of them are older than [store] expire_after, and "
                           b"go at the next login; to keep them, raise it first\n"), done


def test_a_limit_past_all_bounds(p):
    p.add("alice", MESSAGE)
    for key in ("quota_octets", "quota_messages"):
        p.ctl("mailbox", "set", "alice", f"{key}={2**63 - 1}")
        for value in (2**63, 2**64 - 1):
            done = p.ctl("mailbox", "set", "alice", f"{key}={value}", check=False)
            assert done.returncode == 64 and b"too large" in done.stderr, done
    p.add("alice", MESSAGE)


def test_salvage_of_no_file(p, tmp_path):
    """A device has no end."""
    os.mkfifo(tmp_path / "fifo")
    for source in ("/dev/null", tmp_path / "fifo"):
        done = p.ctl("mailbox", "salvage", source, tmp_path / "out", check=False, timeout=60)
        assert done.returncode == 66 and b"neither a file nor a directory" in done.stderr, done


@pytest.mark.parametrize("name, said", [("lock", b""), ("mail.db-wal", b"-wal: is no file; going on")])
def test_salvage_past_no_file(p, tmp_path, name, said):
    """Who owns the maildrops has root wait for nobody."""
    p.add("alice", MESSAGE)
    (p.maildrop("alice") / name).unlink()
    os.mkfifo(p.maildrop("alice") / name)
    assert said in p.ctl("mailbox", "salvage", "alice", tmp_path / "out", timeout=60).stderr


@pytest.mark.parametrize("below", ["fifo", "folder"])
def test_restore_of_no_file(p, tmp_path, below):
    """It would wait for who writes into it."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.mkfifo(tmp_path / "folder/mail.db")
    done = p.ctl("mailbox", "restore", "alice", tmp_path / below, check=False, timeout=60)
    assert done.returncode == 66 and b": is no file" in done.stderr, done


def test_a_backup_in_the_place_of_something_else(p, tmp_path):
    """Only a backup gives way to one: the names of two users are soon exchanged."""
    p.add("alice", MESSAGE)
    p.add("bob", b"Subject: two\r\n\r\nbody\r\n")
    p.ctl("mailbox", "compact", "bob")  # an empty -wal looks like an empty file
    (tmp_path / "letter").write_bytes(b"Dear Bob, it is all in here\n")
    drop = p.maildrop("bob")
    for path in (drop / "mail.db", drop / "mail.db-wal", drop / "lock", tmp_path / "letter"):
        done = p.ctl("mailbox", "backup", "alice", path, check=False)
        assert done.returncode == 73 and b"is no backup; name another" in done.stderr, done
    assert (tmp_path / "letter").read_bytes().startswith(b"Dear Bob")
    assert subjects(p, "bob") == ["Subject: two"]
    for place in (p.state / "mail", p.state / "mail/new"):
        done = p.ctl("mailbox", "backup", "--all", place, check=False)
        assert done.returncode == 73 and b"the maildrops themselves are there" in done.stderr, done
    assert not place.exists()
    assert b"passed over" not in p.ctl("mailbox", "list").stderr
    (tmp_path / "file").touch()
    (tmp_path / "lock").touch()
    for user in ("bob", "alice"):
        p.ctl("mailbox", "backup", user, tmp_path / "file")
    p.ctl("mailbox", "restore", "carol", tmp_path / "file")
    assert subjects(p, "carol") == ["Subject: one"]
