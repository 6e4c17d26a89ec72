"""poplarctl against a running server: backups during sessions, what is refused while a maildrop is in
use, messages brought back, raw copies put back, expiry, moving in while clients look on."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest

import poplar
from manual import examples
from poplar import log_in, wait_until

TEMPFAIL, DATAERR, NOUSER = 75, 65, 67
MESSAGE = b"Subject: %d\r\n\r\nbody\r\n"

root_only = pytest.mark.skipif(not poplar.ROOT, reason="needs root: files of another user")


@pytest.fixture
def store(server):
    """A server that lets everybody in, in the clear too."""
    def make(**settings):
        return server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8", **settings)
    return make


def bye(raw):
    answer = raw.ask(b"QUIT")
    raw.close()
    assert answer.startswith(b"+OK"), answer


def uidls(p, user="alice"):
    """The UIDLs that a client sees, in order."""
    raw = log_in(p, user)
    assert raw.ask(b"UIDL").startswith(b"+OK")
    found = [line.split()[1].decode() for line in raw.multi()]
    bye(raw)
    return found


def fill(p, n, user="alice", first=0):
    for i in range(first, first + n):
        p.add(user, MESSAGE % i)


def ctl_json(p, *arguments):
    return json.loads(p.ctl("--json", *arguments).stdout)


def refused(p, status, *arguments):
    result = p.ctl(*arguments, check=False)
    assert result.returncode == status, result.stderr
    return result.stderr.decode()


def test_backup_during_a_session(store, tmp_path):
    """A session is under way, mail comes in: the backup is of one moment, and sound."""
    p = store()
    fill(p, 5)
    raw = log_in(p)
    assert raw.ask(b"DELE 1").startswith(b"+OK")
    copy = tmp_path / "copy.db"
    p.ctl("mailbox", "backup", "alice", copy)
    fill(p, 1, first=5)
    bye(raw)
    assert len(uidls(p)) == 5
    with sqlite3.connect(f"file:{copy}?immutable=1", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT messages FROM state").fetchone() == (5,)


def test_restore_after_the_disaster(store, tmp_path):
    """A restored maildrop has the UIDLs that it had, and gives no new message an old one."""
    p = store()
    fill(p, 3)
    before = uidls(p)
    p.ctl("mailbox", "backup", "--all", tmp_path / "all")
    fill(p, 2, first=3)
    between = uidls(p)
    p.ctl("mailbox", "delete", "--yes", "alice")
    assert uidls(p) == []
    p.ctl("mailbox", "restore", "--yes", "alice", tmp_path / "all" / "alice")
    assert uidls(p) == before
    fill(p, 2, first=5)
    after = uidls(p)
    assert after[:3] == before
    assert not set(after[3:]) & set(between)


def test_what_a_session_keeps_from_happening(store):
    """What changes what a client sees waits for nobody and says so; the rest goes on."""
    p = store()
    fill(p, 2)
    raw = log_in(p)
    backup = p.directory / "copy.db"
    p.ctl("mailbox", "backup", "alice", backup)
    for arguments in (("mailbox", "delete", "--yes", "alice"), ("message", "delete", "alice", "1"),
                      ("message", "restore", "alice", "1"),
                      ("mailbox", "restore", "--yes", "alice", backup)):
        assert "a session holds the maildrop" in refused(p, TEMPFAIL, *arguments)
    for arguments in (("mailbox", "check", "alice"), ("mailbox", "compact", "alice"),
                      ("mailbox", "show", "alice"), ("message", "list", "alice"),
                      ("mailbox", "set", "alice", "quota_messages=10"), ("user", "alice")):
        p.ctl(*arguments)
    assert raw.ask(b"STAT").startswith(b"+OK 2 ")
    bye(raw)
    wait_until(lambda: p.ctl("mailbox", "delete", "--yes", "alice", check=False).returncode == 0,
               "the end of the session")
    assert not list(p.state.glob("mail/*/*/*"))


def test_a_deleted_message_comes_back(store):
    """After a client's DELE and QUIT: in the next session, with the UIDL that it had."""
    p = store()
    fill(p, 3)
    before = uidls(p)
    raw = log_in(p)
    raw.ask(b"DELE 2")
    bye(raw)
    assert uidls(p) == [before[0], before[2]]
    deleted, = ctl_json(p, "message", "list", "--deleted", "alice")
    assert deleted["uidl"] == before[1]
    p.ctl("message", "restore", "alice", str(deleted["id"]))
    assert uidls(p) == before
    assert ctl_json(p, "mailbox", "show", "alice")["restorable"] == 0


def test_a_raw_copy_put_back(store):
    """Deliver, copy the files away, deliver, put the files back, deliver: no UIDL repeats."""
    p = store()
    fill(p, 2)
    seen = set(uidls(p))
    drop = p.maildrop("alice")
    saved = p.directory / "saved"
    shutil.copytree(drop, saved)
    fill(p, 2, first=2)
    seen |= set(uidls(p))
    assert len(seen) == 4
    p.stop()
    for file in saved.iterdir():
        shutil.copyfile(file, drop / file.name)
    p.start()
    fill(p, 2, first=4)
    after = uidls(p)
    assert len(after) == 4
    assert not set(after[2:]) & seen


@root_only
def test_expire(store):
    """What is too old goes, what was deleted long ago goes for good, what is in use is passed over."""
    p = store(store_expire_after="1d", store_undelete_for="1d")
    old = p.directory / "old.eml"
    old.write_bytes(MESSAGE % 0)
    subprocess.run(["touch", "-d", "3 days ago", old], check=True)
    for user in ("alice", "bob"):
        p.ctl("import", user, old)
        p.add(user, MESSAGE % 1)
    raw = log_in(p, "bob")
    result = ctl_json(p, "expire")
    assert result["maildrops"] == 2 and result["in_use"] == 1 and result["expired"] == 1
    assert len(ctl_json(p, "message", "list", "alice")) == 1
    bye(raw)
    # A deletion of long ago.
    drop = p.maildrop("alice")
    with sqlite3.connect(drop / "mail.db") as database:
        database.execute("UPDATE message SET deleted = deleted - 100000 WHERE deleted > 0")
    database.close()
    result = ctl_json(p, "expire", "alice")
    assert result["removed"] == 1
    assert len(uidls(p)) == 1


def test_limits_of_its_own(store):
    p = store(store_quota_messages="2")
    p.ctl("mailbox", "create", "alice")
    p.ctl("mailbox", "set", "alice", "quota_messages=3")
    fill(p, 3)
    assert "over quota" in refused(p, 73, "import", "alice", write(p, "x.eml", MESSAGE % 3))
    p.ctl("mailbox", "set", "alice", "quota_messages=")
    assert ctl_json(p, "user", "alice")["quota_messages"] == 2
    fill(p, 2, "bob")
    assert "over quota" in refused(p, 73, "import", "bob", write(p, "x.eml", MESSAGE % 3))


def test_pop3_switched_off(store):
    """Told to who has the password, and to nobody else; mail comes in meanwhile."""
    p = store(delivery_accept="any")
    p.stack("auth required @BUILD@/tests/pam_poplar_test.so expect=secret\n"
            "account required pam_permit.so\n")
    fill(p, 1)
    p.ctl("mailbox", "backup", "alice", p.directory / "on.db")
    p.ctl("mailbox", "set", "alice", "pop3=off")
    p.ctl("mailbox", "backup", "alice", p.directory / "off.db")
    raw = p.connect(tls=False)
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS wrong") == b"-ERR [AUTH] user name or password is wrong\r\n"
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS secret") == b"-ERR [AUTH] POP3 is switched off for this account\r\n"
    assert raw.line() == b""
    p.wait_log("session ended: .*user=alice reason=pop3-off")
    p.ctl("mailbox", "set", "alice", "pop3=off")  # nobody holds it
    assert ctl_json(p, "user", "alice")["pop3"] is False
    assert ctl_json(p, "mailbox", "show", "alice")["limits"] == {"pop3": "off"}
    assert b"pop3         off" in p.ctl("user", "alice").stdout
    subprocess.run([poplar.BUILD / "poplar-deliver", "--config", p.config, "alice"],
                   input=MESSAGE % 1, check=True)
    log_in(p, "bob").close()
    p.ctl("mailbox", "set", "alice", "pop3=on")
    assert len(uidls(p)) == 2
    # It comes from a backup like all limits; who locked somebody out is told that he is no more.
    for backup, said in (("off", ""), ("off", ""), ("on", "POP3 is on again, as in the backup"), ("on", "")):
        restored = p.ctl("mailbox", "restore", "--yes", "alice", p.directory / f"{backup}.db")
        assert said in restored.stderr.decode() and bool(said) == bool(restored.stderr)
        assert ctl_json(p, "user", "alice")["pop3"] is (backup == "on")
    for wrong, word in (("pop3=no", "must be on or off"), ("pop=off", "pop3=on|off"),
                        ("pop3", "pop3=on|off"), ("quota_messages=many", "quota_messages")):
        assert word in refused(p, 64, "mailbox", "set", "alice", wrong)


def write(p, name, octets):
    path = p.directory / name
    path.write_bytes(octets)
    return path


def make_maildir(p, n):
    """A Maildir as Dovecot leaves it, with its list."""
    maildir = p.directory / "Maildir"
    for folder in ("cur", "new", "tmp"):
        (maildir / folder).mkdir(parents=True, exist_ok=True)
    lines = ["3 V1275660208 N1000 G3085f01b7f11094c501100008c4a11c1"]
    for i in range(n):
        name = f"{1700000000 + i}.M{i}P1.host,S=20"
        (maildir / "cur" / f"{name}:2,S").write_bytes(b"Subject: %d\n\nbody\n" % i)
        lines.append(f"{i + 1} :{name}")
    (maildir / "dovecot-uidlist").write_text("\n".join(lines) + "\n")
    return maildir


def test_moving_in_while_a_client_is_there(store):
    """A client's list does not move while mail moves in; afterwards it knows every UIDL."""
    p = store()
    p.add("alice", MESSAGE % 0)
    maildir = make_maildir(p, 300)
    raw = log_in(p)
    result = ctl_json(p, "import", "alice", maildir)
    assert result["messages"] == 300 and result["kept_uidls"] == 300
    assert raw.ask(b"STAT").startswith(b"+OK 1 ")
    bye(raw)
    assert uidls(p)[1:] == [f"{i + 1:08x}{1275660208:08x}" for i in range(300)]
    result = ctl_json(p, "import", "alice", maildir)
    assert result["messages"] == 0 and result["known"] == 300


def test_interrupted_import_goes_on(store):
    """Ended in the middle, then run again: every message once."""
    p = store()
    maildir = make_maildir(p, 3000)
    process = subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, "import", "alice",
                                maildir], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: list(p.state.glob("mail/*/*/alice")), "a maildrop")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    p.ctl("import", "alice", maildir)
    found = uidls(p)
    assert len(found) == 3000 and len(set(found)) == 3000


@root_only
def test_a_tree_with_links(store):
    """No link in a tree of users' directories leads to another's mail."""
    p = store(auth_strip_domain="never")
    tree = p.directory / "home"
    (tree / "alice" / "Maildir").mkdir(parents=True)
    maildir = make_maildir(p, 2)
    shutil.copytree(maildir, tree / "alice" / "Maildir", dirs_exist_ok=True)
    (tree / "mallory").mkdir()
    (tree / "mallory" / "Maildir").symlink_to(tree / "alice" / "Maildir")
    (tree / "eve").symlink_to(tree / "alice")
    (tree / "oscar" / "Maildir").mkdir(parents=True)
    (tree / "oscar" / "Maildir" / "cur").symlink_to(tree / "alice" / "Maildir" / "cur")
    (tree / "oscar" / "Maildir" / "new").mkdir()
    result = json.loads(p.ctl("--json", "import", "--all", tree).stdout)
    assert [(r["user"], r["messages"]) for r in result] == [("alice", 2)]
    assert [m["user"] for m in ctl_json(p, "mailbox", "list")] == ["alice"]


def test_check_and_salvage(store):
    """A damaged maildrop is named, refused by the server, salvaged, and served again; what limits it
    had is said."""
    p = store()
    p.ctl("import", "alice", make_maildir(p, 200))
    before = uidls(p)
    assert ctl_json(p, "mailbox", "check", "--all") == [
        {"user": "alice", "sound": True, "damages": []}]
    p.ctl("mailbox", "compact", "alice")
    with open(p.maildrop("alice") / "mail.db", "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"garbage")
    refused(p, DATAERR, "mailbox", "check", "alice")
    raw = p.connect(tls=False)
    raw.ask(b"USER alice")
    if raw.ask(b"PASS secret").startswith(b"+OK"):  # the rows are looked at when they are needed
        assert raw.ask(b"UIDL").startswith(b"-ERR [SYS/PERM]")
    raw.close()
    p.ctl("mailbox", "set", "alice", "quota_octets=1M", "pop3=off")
    salvaged = p.directory / "salvaged"
    limits = p.ctl("mailbox", "salvage", "alice", salvaged).stderr.decode()
    wait_until(lambda: p.ctl("mailbox", "delete", "--yes", "alice", check=False).returncode == 0,
               "the end of the session")
    p.ctl("import", "alice", salvaged)
    assert uidls(p) == before
    limits = limits.partition("to give them back: ")[2]
    p.ctl(*limits.split())
    assert ctl_json(p, "mailbox", "show", "alice")["limits"] == {"quota_octets": 1 << 20,
                                                                 "pop3": "off"}


def example(p, words):
    """The commands of the page that have these words among them, for alice here."""
    script, = (e for e in examples("poplarctl.8", "EXAMPLES") if words in e)
    for there, here in (("frank", "alice"), ("dave", "alice"), ("/media/mail", f"{p.directory}/all"),
                        ("/root", f"{p.directory}"),
                        ("poplarctl", f"{poplar.BUILD}/poplarctl --config {p.config}")):
        script = script.replace(there, here)
    return script


def test_one_message_out_of_a_backup(store):
    p = store()
    for subject in (b"The invoice", b"Another"):
        p.add("alice", b"Subject: %b\r\n\r\nbody\r\n" % subject)
    p.ctl("mailbox", "backup", "--all", p.directory / "all")
    p.ctl("mailbox", "delete", "--yes", "alice")
    fill(p, 1)
    subprocess.run(["sh", "-ec", example(p, "grep")], check=True)
    subjects = [p.ctl("message", "show", "alice", str(m["id"])).stdout.splitlines()[0]
                for m in ctl_json(p, "message", "list", "alice")]
    assert subjects == [b"Subject: 0", b"Subject: The invoice"]


def no_header(drop):
    with open(drop / "mail.db", "r+b") as file:
        file.write(bytes(100))


@pytest.mark.parametrize(("ruin", "left"), [
    (no_header, 4), (lambda drop: (drop / "lock").unlink(), 4),
    (lambda drop: os.truncate(drop / "mail.db", 0), 3),
    (lambda drop: (drop / "mail.db").unlink(), 3)], ids=["no header", "no lock", "empty", "no database"])
def test_back_to_work(store, ruin, left):
    """What cannot be opened is not restored over, for it may hold newer mail: what is said then are the
    steps of the page, by which comes back what the backup has and what is left."""
    p = store()
    fill(p, 3)
    p.ctl("mailbox", "backup", "--all", p.directory / "all")
    fill(p, 1, first=3)
    p.ctl("mailbox", "compact", "alice")
    before = uidls(p)
    ruin(p.maildrop("alice"))
    script = example(p, "mailbox delete --yes frank")
    steps = re.findall("salvage|delete|restore|import", script)
    for words in (["message", "list", "alice"],
                  ["mailbox", "restore", "--yes", "alice", p.directory / "all/alice"]):
        said = p.ctl(*words, check=False).stderr.decode()
        assert re.findall("salvage|delete|restore|import", said) == steps, said
    subprocess.run(["sh", "-c", script], check=False)
    assert uidls(p) == before[:left]


def test_a_flipped_bit(store):
    """In a text, where SQLite sees nothing: check names the message, salvage brings it back with a
    word; a backup of it takes no other's place, and is not put in place."""
    p = store()
    fill(p, 3)
    before = uidls(p)
    p.ctl("mailbox", "compact", "alice")
    p.ctl("mailbox", "backup", "alice", p.directory / "sound.db")
    drop = p.maildrop("alice") / "mail.db"
    octets = drop.read_bytes()
    at = octets.index(MESSAGE % 1)
    with open(drop, "r+b") as file:
        file.seek(at + 2)
        file.write(bytes([octets[at + 2] ^ 4]))
    written = (p.directory / "sound.db").read_bytes()
    flipped = p.directory / "sound.db.damaged"
    for _ in range(2):  # the second in the place of the first
        error = refused(p, DATAERR, "mailbox", "backup", "alice", p.directory / "sound.db")
        assert "message 2: not what was stored" in error and str(flipped) in error
        assert (p.directory / "sound.db").read_bytes() == written
    result = p.ctl("--json", "mailbox", "check", "alice", check=False)
    assert result.returncode == DATAERR
    assert json.loads(result.stdout)["damages"] == [
        "message 2: not what was stored: its text or its row has changed"]
    result = p.ctl("--json", "mailbox", "salvage", "alice", p.directory / "salvaged", check=False)
    assert result.returncode == DATAERR
    assert f"message 2, UIDL {before[1]}: not what was stored" in result.stderr.decode()
    assert json.loads(result.stdout) == {"messages": 3, "rebuilt": 0, "altered": 1, "lost": 0,
                                         "deleted": 0}
    refused(p, DATAERR, "mailbox", "restore", "--yes", "alice", flipped)
    refused(p, DATAERR, "mailbox", "salvage", flipped, p.directory / "salvaged from a backup")
    p.ctl("mailbox", "restore", "--yes", "alice", p.directory / "sound.db")
    p.ctl("mailbox", "check", "alice")
    assert uidls(p) == before


def test_accounts_that_are_gone(store):
    """Mail of an account that no longer exists can be seen, saved and deleted; none comes in."""
    p = store()
    fill(p, 1, "ghost")
    p.stop()
    p.write_config(auth_require_nss="yes", auth_canonical="pam")
    p.start()
    assert ctl_json(p, "mailbox", "show", "ghost")["messages"] == 1
    p.ctl("mailbox", "backup", "ghost", p.directory / "ghost.db")
    refused(p, NOUSER, "import", "ghost", write(p, "x.eml", MESSAGE % 3))
    p.ctl("mailbox", "delete", "--yes", "ghost")
    refused(p, NOUSER, "mailbox", "show", "ghost")


def test_ids_survive_time(store):
    """The undelete window ends: what is past it cannot be restored."""
    p = store(store_undelete_for="1s")
    fill(p, 1)
    raw = log_in(p)
    raw.ask(b"DELE 1")
    bye(raw)
    deleted, = ctl_json(p, "message", "list", "--deleted", "alice")
    wait_until(lambda: time.time() > deleted["deleted"] + 1, "the end of the window")
    wait_until(lambda: ctl_json(p, "expire")["removed"], "its removal")
    refused(p, 66, "message", "restore", "alice", str(deleted["id"]))


def test_an_older_maildrop_is_brought_up_to_date(store):
    """By the first login, inside the sandbox; and by poplarctl for all."""
    p = store()
    for user in ("alice", "bob"):
        fill(p, 1, user)
        with sqlite3.connect(p.maildrop(user) / "mail.db") as database:
            database.executescript("DROP TABLE setting; DROP TABLE imported; DROP TABLE listing;"
                                   "ALTER TABLE message DROP COLUMN digest;"
                                   "PRAGMA user_version=65536")
        database.close()
    assert len(uidls(p)) == 1
    with sqlite3.connect(p.maildrop("alice") / "mail.db") as database:
        assert database.execute("PRAGMA user_version").fetchone()[0] > 65536
        assert database.execute("SELECT count(*) FROM setting").fetchone() == (0,)
    database.close()
    assert {m["version"] for m in ctl_json(p, "mailbox", "upgrade", "--all")} == {"1.3"}
    assert len(uidls(p, "bob")) == 1
