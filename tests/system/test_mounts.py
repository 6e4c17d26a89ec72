"""Where mail lies: file systems that turn read-only and back or have no room for one more file, and mail
on a file system of its own, behind a link, over another, with little allowed."""

import contextlib
import functools
import os
import smtplib
import subprocess
from pathlib import Path

import pytest

import poplar
from disk import small_disk
from logins import UNUSABLE, attempt
from poplar import log_in, wait_until

pytestmark = pytest.mark.skipif(not poplar.NAMESPACES, reason="needs root and a mount namespace")

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"


@contextlib.contextmanager
def mounted(on, *arguments):
    subprocess.run(["mount", *arguments, on], check=True)
    try:
        yield
    finally:
        poplar.unmount(on)


@contextlib.contextmanager
def disk(on, kind, megabytes, options=""):
    """A file system on a loop device, the owner's of what it is mounted on; gives the device's name."""
    owner, image = on.stat(), on.parent / f"{on.name}.image"
    if not poplar.shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"no mkfs.{kind}")
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", f"loop{options}", image, on], capture_output=True).returncode:
        pytest.skip(f"no loop device, or no {kind}, to mount")
    try:
        os.chown(on, owner.st_uid, owner.st_gid)
        on.chmod(0o700)
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            yield next(Path(words[-2]).name for words in map(str.split, mounts) if words[4] == str(on))
    finally:
        poplar.unmount(on)


@contextlib.contextmanager
def running(p):
    try:
        yield p.start()
    finally:
        p.stop()


def mail_of(p, user="alice"):
    """UIDL and content of every message, by one session."""
    raw = log_in(p, user)
    assert raw.ask(b"UIDL").startswith(b"+OK")
    mail = {}
    for number, line in enumerate(raw.multi(), 1):
        assert raw.ask(b"RETR %d" % number).startswith(b"+OK")
        mail[line.split()[1]] = b"".join(raw.multi())
    assert raw.ask(b"QUIT").startswith(b"+OK")
    raw.close()
    return mail


def deliver(p, message=MESSAGE, user="alice"):
    """The code that LMTP answers with."""
    with smtplib.LMTP(str(p.lmtp)) as client:
        try:
            client.sendmail("x@example.test", [user], message)
        except smtplib.SMTPRecipientsRefused as refused:
            return refused.recipients[user][0]
        except smtplib.SMTPDataError as refused:
            return refused.smtp_code
    return 250


def test_mail_on_a_file_system_of_its_own(server):
    """What is kept free for deletions is kept there; lost+found is in nobody's way; and that nothing
    can be written there is told."""
    p = server(start=False, tls_required="no", store_max_message="1M")
    mail = p.state / "mail"
    mail.mkdir(mode=0o700)
    poplar.shutil.chown(mail, "poplar")
    with disk(mail, "ext4", 48), running(p):
        codes = []
        while not codes or codes[-1] == 250:
            codes.append(deliver(p, b"Subject: large\r\n\r\n" + b"0123456789abcd\r\n" * 60_000))
        left = os.statvfs(mail)
        assert codes[-1] == 452 and len(codes) > 10
        assert left.f_bavail * left.f_frsize > 15 << 20
        p.wait_log(f"{mail}: 1[5-7] MB of room are left, mail is taken from 17 on")
        for user in ("root", "poplar"):
            done = subprocess.run(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                                   poplar.BUILD / "poplarctl", "--config", p.config, "expire"],
                                  capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), done
        raw = log_in(p)
        for number in range(1, len(codes)):
            assert raw.ask(b"DELE %d" % number).startswith(b"+OK")
        assert raw.ask(b"QUIT").startswith(b"+OK")
        raw.close()
        wait_until(lambda: subprocess.run(["mount", "-o", "remount,ro", mail],
                                          capture_output=True).returncode == 0, "nobody writes there")
        # Nor does it go away under the server, which would make new maildrops where it was.
        done = subprocess.run(["umount", mail], capture_output=True, text=True)
        assert done.returncode != 0 and "busy" in done.stderr
        done = p.ctl("reload", check=False)
        assert done.returncode == os.EX_CONFIG and f"{mail}: Read-only file system" in str(done.stderr)


@pytest.mark.parametrize("what, said", [
    ("link", "no directory, or a link"), ("file", "no directory"), ("root's", "belongs to uid 0")])
def test_mail_that_cannot_be_used(server, what, said):
    """Told at the start and by the tools, not by the first login."""
    p = server(start=False)
    mail, elsewhere = p.state / "mail", p.directory / "elsewhere"
    elsewhere.mkdir()
    if what == "link":
        mail.symlink_to(elsewhere)
    elif what == "file":
        mail.touch()
    else:
        mail.mkdir()
    for command in (p.command(), p.command("--check")):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == os.EX_CONFIG and f"{mail}: " in done.stderr, (command, done)
        assert said in done.stderr or "--check" in command
    if what != "root's":
        done = p.ctl("mailbox", "list", check=False)
        assert done.returncode == os.EX_OSFILE and done.stderr.count(b"\n") == 1
        assert f"{mail}: Not a directory\n" in done.stderr.decode()


# A disk that others have filled.

def fill(directory):
    """To the last block that is not root's; the file."""
    ballast = directory / "ballast"
    subprocess.run(["setpriv", "--reuid=poplar", "--regid=poplar", "--clear-groups", "sh", "-c",
                    'for size in 64k 4k; do dd if=/dev/zero bs=$size >>"$0" 2>&-; sync -f "$0"; done',
                    ballast], check=False)
    return ballast


@pytest.mark.parametrize("kind, megabytes", [("ext4", 100), ("btrfs", 256)])
def test_full_disk(server, kind, megabytes):
    """Also one on which nothing is changed in its place: mail can be read, and what cannot be done is
    said, and is done when there is room again."""
    p = server(start=False, tls_required="no", store_max_message="1M")
    with disk(p.state, kind, megabytes), running(p):
        for n in range(20):
            p.add("alice", MESSAGE + b"%d\r\n" % n * 10_000)
        mail = mail_of(p)
        raw = log_in(p)
        ballast = fill(p.state)
        assert raw.ask(b"RETR 1").startswith(b"+OK") and b"".join(raw.multi()) in mail.values()
        assert raw.ask(b"DELE 1").startswith(b"+OK")
        assert raw.ask(b"QUIT").startswith(b"-ERR [SYS/TEMP] the messages could not be deleted")
        raw.close()
        assert deliver(p) == 452
        for _ in range(2):
            assert mail_of(p) == mail
        ballast.unlink()
        subprocess.run(["sync", "-f", p.state], check=True)
        assert deliver(p) == 250
        raw = log_in(p)
        assert raw.ask(b"DELE 1").startswith(b"+OK") and raw.ask(b"QUIT").startswith(b"+OK")
        raw.close()
        assert len(mail_of(p)) == 20
    assert "ended by signal" not in p.log_text()


def test_room_for_the_way_only(server):
    """The message was taken in, and what is left has no room for a second copy of it."""
    p = server(start=False, tls_required="no", store_max_message="1M")
    with small_disk(p, 40), smtplib.LMTP(str(p.lmtp)) as lmtp:
        large = MESSAGE + b"0123456789\r\n" * 5000
        send = functools.partial(lmtp.sendmail, "x@example.test", ["alice"])
        assert send(large) == {}
        p.use_up(leave=80_000)
        with pytest.raises(smtplib.SMTPDataError) as refused:
            send(large)
        assert refused.value.args == (452, b"4.3.1 No room on the disk, try later")
        assert len(p.wait_log("not delivered user=alice .*").group(0).splitlines()) == 1
        p.free()
        assert send(large) == {}
    assert p.log_text().count("not delivered") == 1


# A file system that a program makes.

needs_fuse = pytest.mark.skipif(not poplar.shutil.which("bindfs") or not os.access("/dev/fuse", os.W_OK),
                                reason="needs bindfs and /dev/fuse")


@contextlib.contextmanager
def passed_on(p, *options):
    """state_dir by way of a program that hands everything through."""
    below, owner = p.directory / "below", p.state.stat()
    below.mkdir(mode=0o700)
    os.chown(below, owner.st_uid, owner.st_gid)
    subprocess.run(["bindfs", *options, below, p.state], check=True)
    try:
        yield
    finally:
        poplar.unmount(p.state)


@needs_fuse
@pytest.mark.parametrize("option,words", [("-odirect_io", "(mmap)"),
                                          ("--no-allow-other", "mount it with allow_other")])
def test_a_file_system_that_is_not_enough(server, option, words):
    """Told at the start: no login would ever find a maildrop that can be used."""
    p = server(start=False, tls_required="no")
    with passed_on(p, option):
        done = subprocess.run(p.command(), capture_output=True, text=True, timeout=60)
        assert done.returncode == os.EX_CONFIG
        assert f"[server] state_dir={p.state}: " in done.stderr and words in done.stderr


@needs_fuse
def test_a_file_system_of_a_program(server):
    """What is unlinked while it is open keeps a name there for a while."""
    p = server(start=False, tls_required="no")
    with passed_on(p), running(p):
        p.add("alice", MESSAGE)
        assert deliver(p) == 250
        assert len(mail_of(p)) == 2
        assert p.ctl("mailbox", "delete", "--yes", "alice").stderr == b""
        assert mail_of(p) == {}


# A disk that turns read-only.

TOOLS = (("message", "add", "alice"), ("message", "list", "alice"), ("mailbox", "check", "alice"),
         ("mailbox", "compact", "alice"), ("mailbox", "delete", "--yes", "alice"), ("expire",))


def refused_by_all(p):
    """Whatever wants to write: told so, and to try again where somebody can."""
    assert attempt(p, tls=False) == UNUSABLE
    assert attempt(p, "carol", tls=False) == UNUSABLE
    assert [deliver(p, user=user) for user in ("alice", "carol")] == [451, 451]
    for command in TOOLS:
        done = p.ctl(*command, check=False, input=MESSAGE)
        assert done.returncode in (os.EX_TEMPFAIL, os.EX_OSFILE), done
        assert done.stdout == b"" and b"Read-only file system" in done.stderr, done


def salvaged(p, to):
    """What can be read can be saved, also where no lock can be taken."""
    p.ctl("mailbox", "salvage", "alice", p.directory / to)
    return sorted(file.read_bytes().replace(b"\n", b"\r\n")
                  for file in (p.directory / to).glob("*/*"))


def test_mounted_read_only_for_a_while(server):
    """And back again, without a restart."""
    p = server(start=False, tls_required="no", store_max_message="1M")
    with small_disk(p, 40):
        p.add("alice", MESSAGE)
        assert deliver(p) == 250
        mail = mail_of(p)
        wait_until(lambda: subprocess.run(["mount", "-o", "remount,ro", p.state],
                                          capture_output=True).returncode == 0, "nobody writes there")
        refused_by_all(p)
        assert salvaged(p, "saved") == sorted(mail.values())
        subprocess.run(["mount", "-o", "remount,rw", p.state], check=True)
        assert mail_of(p) == mail
        assert [deliver(p, user=user) for user in ("alice", "carol")] == [250, 250]
        assert len(mail_of(p)) == 3 and len(mail_of(p, "carol")) == 1


def test_a_disk_that_fails_under_sessions(server):
    """The kernel lets nobody write any more while files are open: who reads is served, nothing is
    acknowledged that was not done, and after a check of the disk all is there."""
    p = server(start=False, tls_required="no", store_max_message="1M", server_stop_grace="1s")
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(disk(p.state, "ext4", 100, ",errors=remount-ro"))
        with running(p):
            for _ in range(3):
                p.add("alice", MESSAGE)
            raw, other = log_in(p), log_in(p, "bob")
            assert [deliver(p, user=user) for user in ("alice", "carol")] == [250, 250]
            half = stack.enter_context(smtplib.LMTP(str(p.lmtp)))
            half.ehlo()
            assert [half.mail("x@example.test")[0], half.rcpt("carol")[0], half.docmd("DATA")[0]] == [
                250, 250, 354]
            assert raw.ask(b"DELE 1").startswith(b"+OK")
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test")
            assert raw.ask(b"RETR 2").startswith(b"+OK") and b"".join(raw.multi()) == MESSAGE
            assert raw.ask(b"QUIT").startswith(b"-ERR [SYS/TEMP] the messages could not be deleted")
            assert other.ask(b"QUIT").startswith(b"+OK")
            half.send(MESSAGE + b".\r\n")
            assert half.getreply()[0] == 451
            refused_by_all(p)
            saved = salvaged(p, "saved")
            assert len(saved) == 4 and saved.count(MESSAGE) == 3
    assert subprocess.run(["fsck.ext4", "-fy", p.state.parent / "state.image"],
                          capture_output=True).returncode in (0, 1)
    with mounted(p.state, "-o", "loop", p.state.parent / "state.image"), running(p):
        assert sorted(mail_of(p).values()) == saved
        assert len(mail_of(p, "carol")) == 1
        assert p.ctl("mailbox", "check", "--all").stdout.count(b": sound") == 3
        assert deliver(p) == 250
