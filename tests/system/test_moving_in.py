"""Moving in from real servers: their UIDLs, in their order, with the same octets; what clients had
left on the old server they do not fetch again."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from manual import TOP
from oldservers import Courier, Cyrus, Dovecot, Popa3d, messages, put_in_mbox, read_all, with_lf
from poplar import GETMAIL, make_maildir, wait_until
from trees import needs

pytestmark = pytest.mark.accounts


@pytest.fixture
def p(server):
    return server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8")


@pytest.fixture
def old(tmp_path):
    """A factory: one of the old servers, with the account of alice in its tree."""
    made = []

    def make(kind):
        made.append(kind(tmp_path))
        made[-1].tree.accounts("alice")
        return made[-1]
    yield make
    for server in made:
        server.close()


def ctl_json(p, *arguments):
    return json.loads(p.ctl("--json", *arguments).stdout)


def same(before, after):
    """The same list in the same order, and the same octets."""
    assert [uidl for uidl, _, _ in after] == [uidl for uidl, _, _ in before]
    for (_, size, content), (_, told, shown) in zip(after, before):
        at = len(os.path.commonprefix([content, shown]))
        assert content[at:at + 60] == shown[at:at + 60], content[:at][-60:]
        assert size == len(content)
        # Dovecot does not count the line end that it gives to a last line without one; Courier
        # miscounts more.
        assert abs(size - told) <= 3


def taken(p, *arguments):
    """An import that keeps every UIDL: how many messages it took, how many it knew."""
    result = ctl_json(p, "import", *map(str, arguments))
    assert result["kept_uidls"] == result["messages"], result
    return result["messages"], result["known"]


@needs("dovecot")
def test_dovecot(p, old):
    """1,000 messages, some put there by Dovecot itself, the others found in the Maildir."""
    dovecot = old(Dovecot).start()
    maildir = dovecot.home("alice") / "Maildir"
    dovecot.put_in_maildir(maildir, messages(500), "alice")
    dovecot.deliver(messages(100, 500))
    dovecot.put_in_maildir(maildir, messages(400, 600), "alice", 600)
    before = read_all(dovecot.login())
    assert len(before) == 1000
    assert taken(p, "alice", maildir) == (1000, 0)
    same(before, read_all(p.login()))
    assert taken(p, "alice", maildir) == (0, 1000)
    assert read_all(dovecot.login()) == before


@needs("dovecot")
def test_dovecot_in_use(p, old):
    """The old server goes on until the switch: a session is open while mail moves out, more comes
    in, and a last import adds it, without a second copy of what was deleted in the new place."""
    dovecot = old(Dovecot).start()
    maildir = dovecot.home("alice") / "Maildir"
    dovecot.put_in_maildir(maildir, messages(50), "alice")
    session = dovecot.login()
    assert session.stat()[0] == 50
    assert taken(p, "alice", maildir) == (50, 0)
    session.dele(7)
    session.quit()
    dovecot.deliver(messages(3, 50))
    dovecot.put_in_maildir(maildir, messages(2, 53), "alice", 53)
    before = read_all(dovecot.login())
    assert len(before) == 54
    new = p.login()
    new.dele(1)
    new.quit()
    assert taken(p, "alice", maildir) == (5, 49)
    after = {uidl: content for uidl, _, content in read_all(p.login())}
    assert all(after[uidl] == content for uidl, _, content in before[1:])
    assert before[0][0] not in after


@needs("dovecot")
def test_dovecot_lists_its_mail(p, old):
    """What no client has asked for has no UIDL yet; the page says how it gets one."""
    listing = "doveadm mailbox status -A messages INBOX"
    assert f".Ql {listing} .\n" in (TOP / "packaging/man/poplarctl.8").read_text()
    dovecot = old(Dovecot).start()
    maildir = dovecot.home("alice") / "Maildir"
    dovecot.put_in_maildir(maildir, messages(5), "alice")
    assert ctl_json(p, "import", "--dry-run", "alice", str(maildir))["kept_uidls"] == 0
    dovecot.tree.run(*listing.replace("-A", "-u alice").split())
    assert taken(p, "alice", maildir) == (5, 0)
    same(read_all(dovecot.login()), read_all(p.login()))


@needs("dovecot")
def test_what_is_gone_from_the_old_server(p, old):
    """Between the imports a client fetched and deleted: what it has must not come again."""
    dovecot = old(Dovecot).start()
    maildir = dovecot.home("alice") / "Maildir"
    dovecot.put_in_maildir(maildir, messages(10), "alice")
    before = read_all(dovecot.login())
    p.add("alice", b"Subject: not from there\r\n\r\n")
    assert taken(p, "--delete-gone", "alice", maildir) == (10, 0)
    session = dovecot.login()
    for number in (2, 5):
        session.dele(number)
    session.quit()
    dovecot.deliver(messages(1, 10))
    said = p.ctl("import", "--delete-gone", "--dry-run", "alice", maildir).stdout.decode()
    assert "  2 to be deleted: gone from the old server\n" in said
    assert len(read_all(p.login())) == 11
    client = p.login()
    assert p.ctl("import", "--delete-gone", "alice", maildir, check=False).returncode == 75
    client.quit()
    # Without the UIDLs nobody knows what is gone.
    result = p.ctl("import", "--delete-gone", "--uidl=none", "--dry-run", "alice", maildir,
                   check=False)
    assert result.returncode == 65 and b"8 messages are known" in result.stderr
    result = ctl_json(p, "import", "--delete-gone", "alice", str(maildir))
    assert (result["messages"], result["known"], result["gone"]) == (1, 8, 2)
    after = read_all(p.login())
    assert [uidl for uidl, _, _ in after[1:]] == [uidl for uidl, _, _ in read_all(dovecot.login())]
    assert after[0][2].startswith(b"Subject: not from there")
    deleted = ctl_json(p, "message", "list", "--deleted", "alice")
    assert {m["uidl"] for m in deleted} == {before[1][0], before[4][0]}
    # What was deleted in the new place comes no more, whatever the old one has.
    client = p.login()
    client.dele(2)
    client.quit()
    assert ctl_json(p, "import", "--delete-gone", "alice", str(maildir))["messages"] == 0


@needs("courier")
def test_what_is_not_listed_waits(p, old):
    """While the old server runs, mail that nobody has asked it for is left to a later import, and
    then has the UIDL that its clients saw there meanwhile."""
    courier = old(Courier).start()
    maildir = courier.home("alice") / "Maildir"
    courier.put_in_maildir(maildir, with_lf(messages(5)), "alice")
    courier.login().quit()
    courier.put_in_maildir(maildir, with_lf(messages(3, 5)), "alice", 5)
    left = "3 not imported: without a UIDL of the old server"
    said = p.ctl("import", "--listed-only", "--dry-run", "alice", maildir).stdout.decode()
    assert "would import 5 messages" in said and left in said
    said = p.ctl("import", "--listed-only", "--delete-gone", "alice", maildir).stdout.decode()
    assert "imported 5 messages" in said and left in said and "0 deleted" in said
    before = read_all(courier.login())
    assert taken(p, "--listed-only", "alice", maildir) == (3, 5)
    same(before, read_all(p.login()))
    # What is known without its UIDL, for the list is lost, is there all the same.
    (maildir / "courierpop3dsizelist").unlink()
    courier.put_in_maildir(maildir, with_lf(messages(1, 8)), "alice", 8)
    result = p.ctl("import", "--listed-only", "--delete-gone", "alice", maildir, check=False)
    assert result.returncode == 65 and b"8 messages are known" in result.stderr
    assert len(read_all(p.login())) == 8
    assert ctl_json(p, "import", "alice", str(maildir))["messages"] == 1


def test_listings_that_cannot_be_trusted(p, tmp_path):
    """A directory that changes while it is listed may show a file nowhere that was there all the
    time, under another name: that is no message that is gone."""
    maildir = make_maildir(tmp_path / "md")
    for n in range(3):
        (maildir / "cur" / f"{n}.a:2,S").write_bytes(b"Subject: %d\n\n" % n)
    (maildir / "dovecot-uidlist").write_text("3 V9\n" + "".join(f"{n + 1} :{n}.a\n" for n in range(3)))
    assert taken(p, "alice", maildir) == (3, 0)
    (maildir / "cur/1.a:2,S").unlink()
    change = "import os, sys\nwhile True:\n    os.utime(sys.argv[1])\n"
    changing = subprocess.Popen([sys.executable, "-c", change, maildir / "new"])

    def refused():
        assert taken(p, "alice", maildir) == (0, 2)
        done = p.ctl("import", "--dry-run", "--delete-gone", "alice", maildir, check=False)
        return done.returncode == 75 and b"changed while it was read" in done.stderr
    try:
        wait_until(refused, "a listing that cannot be trusted")
    finally:
        changing.kill()
        changing.wait()
    assert len(read_all(p.login())) == 3
    assert ctl_json(p, "import", "--delete-gone", "alice", str(maildir))["gone"] == 1
    assert len(read_all(p.login())) == 2


@needs("dovecot")
@needs("courier")
def test_marked_as_deleted(p, old):
    """By an IMAP client that has not expunged them: POP3 clients see these messages, and go on to do
    so; those that Dovecot hides from them by a flag of its own can be expunged first."""
    dovecot = old(Dovecot).start(pop3_deleted_flag='"$POP3Deleted"')
    maildir = dovecot.home("alice") / "Maildir"
    dovecot.deliver(messages(6))
    dovecot.tree.run("doveadm", "flags", "add", "-u", "alice", r"\Deleted $Label1", "mailbox",
                     "INBOX", "1:2")
    session = dovecot.login()
    session.dele(5)
    session.quit()
    before = read_all(dovecot.login())
    assert len(before) == 5 and len(list(maildir.glob("cur/*"))) == 6
    assert len(list(maildir.glob("cur/*:2,*T*"))) == 2
    remedy, = re.findall(r"^doveadm expunge .*$",
                         (TOP / "packaging/man/poplarctl.8").read_text(), re.M)
    dovecot.tree.run("sh", "-c", remedy.replace("-A", "-u alice"))
    assert taken(p, "alice", maildir) == (5, 0)
    same(before, read_all(p.login()))
    assert taken(p, "--delete-gone", "alice", maildir) == (0, 5)
    courier = old(Courier).start()
    maildir = courier.home("alice") / "Maildir"
    courier.put_in_maildir(maildir, with_lf(messages(3)), "alice")
    courier.login().quit()
    first = min(maildir.glob("cur/*"))
    first.rename(maildir / "cur" / (first.name.partition(":")[0] + ":2,ST"))
    before = read_all(courier.login())
    assert len(before) == 3
    assert taken(p, "bob", maildir) == (3, 0)
    same(before, read_all(p.login("bob")))


@needs("dovecot")
def test_dry_run(p, old):
    """It says how many would keep their UIDL, why others would not, and makes nothing."""
    dovecot = old(Dovecot).start()
    maildir = dovecot.home("alice") / "Maildir"
    dovecot.put_in_maildir(maildir, messages(10), "alice")
    read_all(dovecot.login())
    dovecot.put_in_maildir(maildir, messages(2, 10), "alice", 10)  # no client saw these
    said = p.ctl("import", "--dry-run", "alice", maildir).stdout.decode()
    assert "would import 12 messages" in said and "10 keep the UIDL of the old server" in said
    assert "2 with a new UIDL: not in the old server's list: it never showed this message" in said
    result = ctl_json(p, "import", "--dry-run", "alice", str(maildir))
    assert (result["messages"], result["kept_uidls"]) == (12, 10)
    assert not list(p.state.glob("mail/*/*/*"))
    read_all(dovecot.login())
    assert taken(p, "alice", maildir) == (12, 0)
    said = p.ctl("import", "--dry-run", "alice", maildir).stdout.decode()
    assert "would import 0 messages" in said and "12 not imported: its UIDL is there" in said


# Dovecot as it may be set up: its settings, then what import is told, {MAILDIR} and {LIST} replaced.

WAYS = {
    "guid": ({"pop3_uidl_format": "%g"}, ["--uidl-format=%g", "{MAILDIR}"]),
    "decimal": ({"pop3_uidl_format": "%v-%u"}, ["--uidl-format=%v-%u", "{MAILDIR}"]),
    "file name": ({"pop3_uidl_format": "%f"}, ["--uidl=filename", "{MAILDIR}"]),
    "saved": ({"pop3_uidl_format": "%v.%u", "pop3_save_uidl": "yes"}, ["{MAILDIR}"]),
    "list elsewhere": ({"mail_location": "maildir:~/Maildir:CONTROL=/var/mail/control"},
                       ["--uidl-list", "{LIST}", "{MAILDIR}"]),
    "mbox": ({"mail_location": "mbox:~/mail:INBOX=/var/mail/alice"}, ["{MBOX}"]),
}


@needs("dovecot")
@pytest.mark.parametrize("way", WAYS)
def test_dovecot_set_up_otherwise(p, old, way):
    settings, arguments = WAYS[way]
    dovecot = old(Dovecot).start(**settings)
    mail = dovecot.tree.root / "var/mail"
    mail.chmod(0o1777)
    places = {"MAILDIR": dovecot.home("alice") / "Maildir", "MBOX": mail / "alice",
              "LIST": mail / "control/.INBOX/dovecot-uidlist"}
    dovecot.deliver(messages(40))
    before = read_all(dovecot.login())
    assert len(before) == 40
    assert taken(p, "alice", *[a.format(**places) for a in arguments]) == (40, 0)
    same(before, read_all(p.login()))


@needs("dovecot")
@pytest.mark.parametrize("place", ["maildir:~/Maildir", "mbox:~/mail:INBOX=/var/mail/alice"])
def test_dovecot_with_uidls_of_its_predecessor(p, old, place):
    """pop3_reuse_xuidl: some messages have a header with theirs, the others none."""
    dovecot = old(Dovecot).start(mail_location=place, pop3_reuse_xuidl="yes")
    (dovecot.tree.root / "var/mail").chmod(0o1777)
    dovecot.deliver([b"X-UIDL: from-qpopper-%d\n" % k + m if k % 3 else m
                     for k, m in enumerate(with_lf(messages(9)))])
    before = read_all(dovecot.login())
    assert sum(uidl.startswith("from-qpopper-") for uidl, _, _ in before) == 6
    path = (dovecot.home("alice") / "Maildir" if place.startswith("maildir") else
            dovecot.tree.root / "var/mail/alice")
    assert taken(p, "--uidl=x-uidl", "alice", path) == (9, 0)
    same(before, read_all(p.login()))
    assert taken(p, "--uidl=x-uidl", "alice", path) == (0, 9)


# What poplarctl(8) has Dovecot do, where its own files are no mail.

def remedy(dovecot, number):
    page = (TOP / "packaging/man/poplarctl.8").read_text()
    command = re.findall(r"^doveadm .*$", page, re.M)[number]
    dovecot.tree.run(*command.replace("USER", "alice").replace("DIR", "/home/alice/plain").split())
    return dovecot.home("alice") / "plain"


@needs("dovecot")
def test_dovecot_with_compressed_mail(p, old):
    """Nothing of it is taken for mail, and there is a way to what clients know."""
    dovecot = old(Dovecot).start(mail_plugins="zlib", plugin="{\n zlib_save = gz\n}")
    dovecot.deliver(messages(12))
    before = read_all(dovecot.login())
    maildir = dovecot.home("alice") / "Maildir"
    done = p.ctl("import", "alice", maildir, check=False)
    assert done.returncode == 66 and b"imported 0 messages, 0 octets, 12 skipped" in done.stdout
    assert done.stderr.count(b": is compressed, encrypted or packed, and no mail as it is; ") == 12
    for name in ("mail", "mail.eml"):
        (p.directory / name).write_bytes(next((maildir / "cur").iterdir()).read_bytes())
        done = p.ctl("import", "alice", p.directory / name, check=False)
        assert done.returncode == 65 and b"is compressed, encrypted or packed" in done.stderr, done
    assert taken(p, "alice", remedy(dovecot, 1)) == (12, 0)
    same(before, read_all(p.login()))


@needs("dovecot")
@pytest.mark.parametrize("kind, files, directories", [
    ("sdbox", "mailboxes/INBOX/dbox-Mails/u.*", ("", "mailboxes", "mailboxes/INBOX/dbox-Mails")),
    ("mdbox", "storage/m.*", ("", "mailboxes", "mailboxes/INBOX", "storage"))])
def test_dovecot_with_dbox(p, old, kind, files, directories):
    """The same."""
    dovecot = old(Dovecot).start(mail_location=f"{kind}:~/{kind}")
    dovecot.deliver(messages(12))
    before = read_all(dovecot.login())
    place = dovecot.home("alice") / kind
    found = list(place.glob(files))
    assert found
    for file in found:
        done = p.ctl("import", "alice", file, check=False)
        assert done.returncode == 65 and b"is compressed, encrypted or packed" in done.stderr, done
    for directory in directories:
        done = p.ctl("import", "alice", place / directory, check=False)
        assert done.returncode == 65 and b": is Dovecot's dbox, and no Maildir; " in done.stderr, done
    assert not list(p.state.glob("mail/*/*/*"))
    assert taken(p, "alice", remedy(dovecot, 0)) == (12, 0)
    same(before, read_all(p.login()))


@needs("dovecot")
def test_dovecot_with_an_mbox(p, old):
    """Debian's default. What looks like the beginning of a message or like Dovecot's notes, in mail
    that Dovecot stored, and that a transport appended."""
    dovecot = old(Dovecot).start(mail_location="mbox:~/mail:INBOX=/var/mail/%u")
    mbox = dovecot.tree.root / "var/mail/alice"
    mbox.parent.chmod(0o1777)
    line = b"From x@y.example Mon Sep 17 00:00:00 2001\n"
    dovecot.deliver([b"Subject: 1\n\nbody\n\nFrom here on\n\n>From there\n\n" + line + b"patch\n",
                     b"Status: RO\nX-UID: 77\nContent-Length: 3\n\n" + line + b"no end",
                     b"Subject: 3\n\n\n\n"])
    with open(mbox, "ab") as file:
        file.write(line + b"Subject: 4\nStatus: X\nX-UID: 99\nContent-Length: 5\n\nx\n\nFrom "
                   b"nowhere\n\n>From here\n\n" + line + b"X-Keywords: a\n b\nX-Status: A\n\n\n")
    before = read_all(dovecot.login())
    assert len(before) == 5
    assert taken(p, "alice", mbox) == (5, 0)
    same(before, read_all(p.login()))
    for name, octets in {"bob": mbox.read_bytes(), "bob.lock": b"1", "carol": b""}.items():
        (mbox.parent / name).write_bytes(octets)
    result = ctl_json(p, "import", "--all", str(mbox.parent))
    assert [(r["user"], r["messages"], r["known"]) for r in result] == [("alice", 0, 5),
                                                                       ("bob", 5, 0)]
    same(before, read_all(p.login("bob")))


@needs("dovecot")
def test_virtual_users(server, old):
    """A vmail tree, in one go: DOMAIN/USER/Maildir, and again after more came."""
    p = server(tls_required="not-on-loopback", auth_strip_domain="never")
    dovecot = old(Dovecot).start(
        mail_location="maildir:~/Maildir",
        userdb="{\n driver = static\n args = uid=1000 gid=1000 home=/home/vmail/%d/%n\n}")
    vmail = dovecot.tree.root / "home/vmail"
    vmail.mkdir()
    users = [f"{name}@{domain}" for name in ("ann", "bert", "cleo")
             for domain in ("one.example", "two.example")]
    before = {}
    for k, user in enumerate(users):
        name, domain = user.split("@")
        for folder in (vmail / domain, vmail / domain / name):
            folder.mkdir(exist_ok=True)
            os.chown(folder, 1000, 1000)
        dovecot.put_in_maildir(vmail / domain / name / "Maildir", messages(5, 10 * k), 1000)
        before[user] = read_all(dovecot.login(user))
    result = ctl_json(p, "import", "--all", str(vmail))
    assert [(r["user"], r["messages"], r["kept_uidls"]) for r in result] == [
        (user, 5, 5) for user in sorted(users)]
    for user in users:
        same(before[user], read_all(p.login(user)))
    name, domain = users[0].split("@")
    dovecot.put_in_maildir(vmail / domain / name / "Maildir", messages(1, 5), 1000, 5)
    read_all(dovecot.login(users[0]))
    result = ctl_json(p, "import", "--all", str(vmail))
    assert sum(r["messages"] for r in result) == 1


@needs("dovecot")
def test_capture(p, old):
    """A server whose files tell no UIDL: what it answers to UIDL and LIST is kept by curl."""
    dovecot = old(Dovecot).start()
    maildir = dovecot.home("alice") / "Maildir"
    dovecot.put_in_maildir(maildir, messages(200), "alice")
    before = read_all(dovecot.login())
    capture = p.directory / "capture"
    capture.write_bytes(b"".join(
        subprocess.run(["curl", "-s", "--user", "alice:secret",
                        f"pop3://127.0.0.1:{dovecot.port}", *more],
                       check=True, capture_output=True).stdout for more in (["-X", "UIDL"], [])))
    (maildir / "dovecot-uidlist").unlink()
    assert taken(p, "--uidl-list", capture, "alice", maildir) == (200, 0)
    same(before, read_all(p.login()))


@needs("courier")
def test_courier(p, old):
    """1,000 messages with its own list; it puts a CR before every LF, so there is none before."""
    courier = old(Courier).start()
    maildir = courier.home("alice") / "Maildir"
    courier.put_in_maildir(maildir, with_lf(messages(900)), "alice")
    courier.login().quit()
    courier.put_in_maildir(maildir, with_lf(messages(100, 900)), "alice", 450, "other")  # not the last
    before = read_all(courier.login())
    assert len(before) == 1000
    assert taken(p, "alice", maildir) == (1000, 0)
    same(before, read_all(p.login()))
    assert taken(p, "alice", maildir) == (0, 1000)
    assert len(courier.login().uidl()[1]) == 1000


@needs("popa3d")
def test_popa3d(p, old):
    """An mbox whose server makes its UIDLs of the messages; quoted lines are as clients saw them."""
    popa3d = old(Popa3d).start()
    mbox = popa3d.tree.root / "var/mail/alice"
    put_in_mbox(mbox, with_lf(messages(80)))
    shutil.chown(mbox, "alice")
    before = read_all(popa3d.login())
    assert len(before) == 80
    result = ctl_json(p, "import", "--uidl=popa3d", "alice", str(mbox))
    after = read_all(p.login())
    # It gives one UIDL to several messages that look alike, which no client can make use of.
    shown = [uidl for uidl, _, _ in before]
    first = {uidl: shown.index(uidl) for uidl in shown}
    assert (result["messages"], result["kept_uidls"]) == (80, len(first))
    assert len(first) > 40 and len({uidl for uidl, _, _ in after}) == 80
    known = [n for n in range(80) if first[shown[n]] == n]
    same([before[n] for n in known], [after[n] for n in known])


@needs("cyrus")
@pytest.mark.parametrize("style, arguments", {
    "cyrus": [], "uidonly": ["--uidl-format=%u"], "courier": ["--uidl-format=%v-%u"],
    "dovecot": ["--uidl-format=%08Xu%08Xv"]}.items())
def test_cyrus(p, old, style, arguments):
    """Its own index, for each style of UIDLs that it can be set to; an expunged one stays away."""
    cyrus = old(Cyrus).start(uidl_format=style)
    n = cyrus.deliver(with_lf(messages(60)))
    session = cyrus.login()
    session.dele(5)
    session.quit()
    before = read_all(cyrus.login())
    assert len(before) == n - 1 > 30
    assert taken(p, *arguments, "alice", cyrus.mailbox()) == (n - 1, 0)
    same(before, read_all(p.login()))


# Clients that leave mail on the server know it by its UIDLs.

CLIENTS = {
    "fetchmail": """
set invisible
set idfile "{home}/ids"
set pidfile "{home}/pid"
poll localhost protocol POP3 port {port} uidl timeout 60 bad-header accept
  user alice password secret
  sslproto "" norewrite pass8bits keep
  mda "/bin/sh -c 'cat >$(mktemp {maildir}/new/XXXXXXXX)'"
""",
    "mpop": """
account default
host localhost
port {port}
user alice
password secret
auth user
tls off
keep on
received_header off
uidls_file {home}/uidls
delivery maildir {maildir}
""",
    "getmail": """
[retriever]
type = SimplePOP3Retriever
server = localhost
port = {port}
username = alice
password = secret
[destination]
type = Maildir
path = {maildir}/
[options]
read_all = false
verbose = 0
""",
}
COMMANDS = {
    "fetchmail": ["fetchmail", "--fetchmailrc", "{config}", "--nosyslog"],
    "mpop": ["mpop", "--file", "{config}"],
    "getmail": ["runuser", "-u", "carol", "--", *GETMAIL, "--getmaildir", "{home}", "--rcfile",
                "{config}"],
}


class Client:
    """A mail client, set up once to keep mail on the server."""

    def __init__(self, name, directory, port):
        self.home = directory / name
        self.maildir = make_maildir(self.home / "Maildir")
        config = self.home / "config"
        config.touch(0o600)
        config.write_text(CLIENTS[name].format(home=self.home, port=port, maildir=self.maildir))
        self.command = [a.format(config=config, home=self.home) if a.startswith("{") else a
                        for a in COMMANDS[name]]
        subprocess.run(["chown", "-R", "carol" if name == "getmail" else "root", self.home],
                       check=True)

    def fetch(self):
        """How many messages it got now."""
        before = len(list(self.maildir.glob("new/*")))
        result = subprocess.run(self.command, capture_output=True, text=True, timeout=200,
                                env=os.environ | {"HOME": str(self.home),
                                                  "FETCHMAILHOME": str(self.home)})
        assert result.returncode in (0, 1), result.stdout + result.stderr  # 1: nothing new
        return len(list(self.maildir.glob("new/*"))) - before


@needs("dovecot")
def test_nothing_is_fetched_twice(p, old):
    """The switch, at the same address: what was left on the old server stays where it is, what came
    since then is fetched once."""
    dovecot = old(Dovecot).start()
    maildir = dovecot.home("alice") / "Maildir"
    dovecot.put_in_maildir(maildir, messages(60), "alice")
    clients = [Client(name, p.directory, dovecot.port) for name in CLIENTS]
    assert [client.fetch() for client in clients] == [60] * 3
    assert [client.fetch() for client in clients] == [0] * 3
    dovecot.deliver(messages(4, 60))
    read_all(dovecot.login())
    dovecot.tree.stop()
    assert taken(p, "alice", maildir) == (64, 0)
    p.write_config(listen_pop3=f"127.0.0.1:{dovecot.port}")
    p.ctl("reload")
    p.port = dovecot.port
    p.add("alice", b"Subject: since the switch\r\n\r\nbody\r\n")
    assert [client.fetch() for client in clients] == [5] * 3
    assert [client.fetch() for client in clients] == [0] * 3
    assert len(read_all(p.login(tls=False))) == 65
