"""Mail comes in: LMTP (RFC 2033) over the unix socket, and poplar-deliver in front of it, against a
running server with real accounts."""

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import smtplib
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

import poplar
from disk import small_disk
from poplar import Raw, wait_until

pytestmark = pytest.mark.accounts

MESSAGE = b"From: x@example.org\r\nSubject: one\r\n\r\nbody\r\n"


class Lmtp(Raw):
    """A client that says what it is told, and reads whole replies."""

    def __init__(self, path, hello=True):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(60)
        sock.connect(str(path))
        super().__init__(sock)
        self.sock.settimeout(60)
        self.greeting = self.reply()
        if hello:
            assert self.say(b"LHLO client.example")[:3] == b"250"

    def reply(self):
        """The lines of one reply, without line ends."""
        lines = []
        while True:
            lines.append(self.line().rstrip(b"\r\n"))
            if lines[-1][3:4] != b"-":
                return b"\n".join(lines)

    def say(self, command):
        self.send(command + b"\r\n")
        return self.reply()

    def begin(self, *recipients, sender=b"<sender@example.org>", parameters=b""):
        """MAIL and RCPT; the replies to RCPT."""
        assert self.say(b"MAIL FROM:" + sender + parameters)[:5] == b"250 2"
        return [self.say(b"RCPT TO:<" + r + b">") for r in recipients]

    def data(self, message, answers=1):
        """A whole message, dots doubled; the replies to it."""
        assert self.say(b"DATA")[:3] == b"354"
        self.send(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
        return [self.reply() for _ in range(answers)]

    def deliver(self, *recipients, message=MESSAGE, **options):
        replies = self.begin(*recipients, **options)
        assert all(r[:3] == b"250" for r in replies), replies
        return self.data(message, len(recipients))


@pytest.fixture
def start(server):
    def make(**settings):
        return server(**{"pam_unix": True, "tls_required": "no", "server_stop_grace": "0",
                         "auth_throttle_exempt": "127.0.0.0/8"} | settings)
    return make


PASSWORDS = {"alice": "secret", "bob": "bob's own pass word"}


@contextlib.contextmanager
def session(p, user="alice"):
    """A logged-in POP3 session; it ends with QUIT."""
    raw = p.connect()
    assert raw.ask(b"USER " + user.encode()).startswith(b"+OK")
    answer = raw.ask(b"PASS " + PASSWORDS.get(user, "any").encode())
    assert answer.startswith(b"+OK"), answer
    yield raw
    assert raw.ask(b"QUIT").startswith(b"+OK")
    raw.close()


def mail_of(p, user="alice"):
    """Every message, by a session of its own."""
    with session(p, user) as raw:
        count = int(raw.ask(b"STAT").split()[1])
        found = []
        for n in range(1, count + 1):
            assert raw.ask(b"RETR %d" % n).startswith(b"+OK")
            found.append(b"".join(raw.multi()))
    return found


def body(message):
    """Without what delivery put before it."""
    head = re.match(rb"Return-Path: <[^\r]*>\r\nDelivered-To: [^\r]*\r\n"
                    rb"Received: from [^\r]*\r\n\tby [^\r]*\r\n\tfor [^\r]*\r\n", message)
    assert head, message[:400]
    return message[head.end():]


@contextlib.contextmanager
def as_user(name):
    """Connections made meanwhile are that user's, to whom asks the kernel."""
    os.seteuid(pwd.getpwnam(name).pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def write_lock(p, user):
    with open(p.maildrop(user) / "lock", "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK,
                    struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1, 1, 0))
        yield


# The conversation.

def test_whole_conversation(start):
    p = start()
    c = Lmtp(p.lmtp, hello=False)
    assert c.greeting.startswith(b"220 pop.example.test ")
    offered = c.say(b"LHLO client.example").split(b"\n")
    assert {line[4:] for line in offered[1:]} == {
        b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"CHUNKING",
        b"SIZE 52428800"}
    assert c.deliver(b"alice@pop.example.test") == [b"250 2.0.0 Delivered"]
    assert c.say(b"QUIT")[:5] == b"221 2"
    assert c.rest() == b""
    message, = mail_of(p)
    assert body(message) == MESSAGE
    lines = message.split(b"\r\n")
    assert lines[0] == b"Return-Path: <sender@example.org>"
    assert lines[1] == b"Delivered-To: alice"
    assert lines[2] == b"Received: from client.example (unix:0)"
    assert re.fullmatch(rb"\tby pop.example.test \(Poplar\) with LMTP id \d+", lines[3])
    assert re.fullmatch(rb"\tfor <alice@pop.example.test>; \w{3}, \d+ \w{3} \d{4} [\d:]{8} [+-]\d{4}",
                        lines[4])
    p.wait_log(r"delivered user=alice octets=\d+ from=<sender@example.org> "
               r"to=<alice@pop.example.test>")
    p.wait_log(r"session ended: peer=unix:0 door=lmtp reason=quit delivered=1 refused=0 ")


def test_smtplib(start):
    """Python's own client."""
    p = start()
    with smtplib.LMTP(str(p.lmtp)) as c:
        c.sendmail("sender@example.org", ["alice"], MESSAGE)
    assert [body(m) for m in mail_of(p)] == [MESSAGE]


def test_recipients(start):
    """Names, cases, domains and details end in the account's maildrop, and no others are there."""
    p = start()
    c = Lmtp(p.lmtp)
    names = [b"alice", b"ALICE", b"alice@localhost", b"Alice@POP.example.test", b"alice+lists",
             b"alice+a+b@localhost", b'"alice"@localhost']
    for name in names:
        assert c.deliver(name) == [b"250 2.0.0 Delivered"], name
    assert c.say(b"MAIL FROM:<>")[:5] == b"250 2"
    for name in [b"nobody-here", b"alice@elsewhere.example", b"+alice", b"root", b"daemon",
                 b"alicealice", b'"al ice"', b'"../../etc/passwd"', b'"."', b"alice-lists",
                 b"x" * 300]:
        assert c.say(b"RCPT TO:<" + name + b">") == b"550 5.1.1 No such user", name
    assert c.say(b"DATA")[:9] == b"503 5.5.1"
    assert len(mail_of(p)) == len(names)
    assert not list(p.state.glob("mail/??/??/*+*"))
    p.wait_log(r"refused to=<nobody-here> from=<> reason=no-such-user")


def test_reload_decides_of_recipients_at_once(start):
    """For a transport's connection that goes on, too, as poplar.conf(5) says."""
    p = start()
    c = Lmtp(p.lmtp)
    assert c.begin(b"nobody-here") == [b"550 5.1.1 No such user"]
    p.write_config(delivery_accept="any")
    p.ctl("reload")
    assert c.say(b"RSET")[:3] == b"250"
    assert c.deliver(b"nobody-here") == [b"250 2.0.0 Delivered"]


def test_a_reload_after_the_socket_was_removed(start):
    """Who tidies /run takes its name away; a reload that succeeds has it back, one that fails does
    not serve there."""
    p = start()
    p.lmtp.unlink()
    certificate = p.certificate.read_text()
    p.certificate.write_text("none")
    assert p.ctl("reload", check=False).returncode == os.EX_CONFIG
    assert not p.lmtp.exists()
    p.certificate.write_text(certificate)
    for _ in range(2):
        p.ctl("reload")
        assert Lmtp(p.lmtp).deliver(b"alice") == [b"250 2.0.0 Delivered"]
    p.stop()
    assert not p.lmtp.exists()


def test_detail_of_an_account_that_has_the_delimiter(start):
    """The full name first: only where that is no account is there a detail in it."""
    p = start(delivery_recipient_delimiter="-, +")
    for name in ("dash", "dash-board"):
        subprocess.run(["useradd", "--no-create-home", name], check=True)
    try:
        c = Lmtp(p.lmtp)
        assert c.deliver(b"dash-board", b"dash-x", b"dash+board") == [b"250 2.0.0 Delivered"] * 3
        assert int(p.ctl("message", "list", "dash-board").stdout.split()[-4]) == 1
        assert sorted(d.name for d in p.state.glob("mail/??/??/*")) == ["dash", "dash-board"]
    finally:
        for name in ("dash", "dash-board"):
            subprocess.run(["userdel", name], check=True)


def test_no_delimiter(start):
    p = start(delivery_recipient_delimiter="")
    assert Lmtp(p.lmtp).begin(b"alice+x") == [b"550 5.1.1 No such user"]


def test_two_recipients_of_which_one_is_over_quota(start):
    p = start(store_quota_messages="1")
    p.add("alice", MESSAGE)
    c = Lmtp(p.lmtp)
    assert c.deliver(b"alice", b"bob") == [b"452 4.2.2 The maildrop is full",
                                           b"250 2.0.0 Delivered"]
    assert (len(mail_of(p)), len(mail_of(p, "bob"))) == (1, 1)
    p.wait_log(r"not delivered user=alice .* reason=over quota")


def test_over_quota_rejected(start):
    p = start(store_quota_octets="1K", store_over_quota="reject")
    c = Lmtp(p.lmtp)
    assert c.deliver(b"alice", message=MESSAGE + b"x" * 1000 + b"\r\n") == [
        b"552 5.2.2 The maildrop is full"]
    assert c.deliver(b"alice") == [b"250 2.0.0 Delivered"]
    assert len(mail_of(p)) == 1


def test_one_maildrop_named_twice(start):
    """Stored once, answered for each (RFC 2033 section 4.2)."""
    p = start()
    c = Lmtp(p.lmtp)
    assert c.deliver(b"alice", b"bob", b"ALICE@localhost", b"alice+x") == [
        b"250 2.0.0 Delivered"] * 4
    assert (len(mail_of(p)), len(mail_of(p, "bob"))) == (1, 1)


def test_many_recipients(start):
    p = start()
    c = Lmtp(p.lmtp)
    replies = c.begin(*[b"alice+%d" % n for n in range(101)])
    assert [r[:9] for r in replies] == [b"250 2.1.5"] * 100 + [b"452 4.5.3"]
    assert c.data(MESSAGE, 100) == [b"250 2.0.0 Delivered"] * 100
    assert len(mail_of(p)) == 1


def asked(p):
    """How often auth was asked about a recipient."""
    found = re.findall(r'poplar_recipients_total{[^}]*} (\d+)', p.ctl("metrics").stdout.decode())
    return sum(map(int, found))


def held(p):
    """The files of a maildrop that the one worker has."""
    worker, = p.serving()
    return [to for fd in Path(f"/proc/{worker}/fd").iterdir() if "/mail/" in (to := os.readlink(fd))]


def test_one_question_a_message(start):
    """For the first recipient what is there of a maildrop comes with the answer to RCPT."""
    p = start()
    Lmtp(p.lmtp).deliver(b"alice", b"bob")

    def cost(*recipients):
        c, before = Lmtp(p.lmtp), asked(p)
        c.deliver(*recipients)
        c.close()
        return asked(p) - before
    # A machine that is slow just now takes a second for it, and asks once more.
    wait_until(lambda: cost(b"alice") == 1, "one question")
    wait_until(lambda: cost(b"alice", b"bob") == 3, "three questions")


def test_held_for_a_moment(start):
    """A maildrop stays for the next message to the same address, and for no silent client."""
    p = start()
    c = Lmtp(p.lmtp)

    def burst():
        before = asked(p)
        for _ in range(3):
            c.deliver(b"alice")
        sent.extend(range(3))
        return asked(p) - before
    sent = []
    wait_until(lambda: burst() <= 1, "three messages for one question")
    wait_until(lambda: not held(p), "the maildrop let go")
    before = asked(p)
    c.deliver(b"alice")
    assert asked(p) > before
    assert c.begin(b"alice") == [b"250 2.1.5 Recipient ok"]
    wait_until(lambda: not held(p), "the maildrop let go, within a transaction")
    assert c.data(MESSAGE) == [b"250 2.0.0 Delivered"]
    # To and fro, by two names, and by another session in between.
    other = Lmtp(p.lmtp)
    for _ in range(3):
        assert c.deliver(b"alice", b"bob", b"alice+x") == [b"250 2.0.0 Delivered"] * 3
        assert other.deliver(b"bob", b"alice") == [b"250 2.0.0 Delivered"] * 2
    assert len(mail_of(p)) == len(sent) + 2 + 3 * 2
    assert len(mail_of(p, "bob")) == 3 * 2


def test_deleted_while_held(start):
    """Mail never goes into a maildrop that is no more."""
    p = start()
    c = Lmtp(p.lmtp)
    for begun in (False, True):
        c.deliver(b"alice")
        if begun:
            c.begin(b"alice")
        p.ctl("mailbox", "delete", "--yes", "alice")
        answers = c.data(MESSAGE) if begun else c.deliver(b"alice")
        assert answers == [b"250 2.0.0 Delivered"]
        assert len(mail_of(p)) == 1
        p.ctl("mailbox", "delete", "--yes", "alice")


def test_null_sender_and_source_route(start):
    p = start()
    c = Lmtp(p.lmtp)
    c.deliver(b"alice", sender=b"<>")
    c.deliver(b"alice", sender=b"<@one.example,@two.example:x@example.org>")
    first, second = mail_of(p)
    assert first.startswith(b"Return-Path: <>\r\n")
    assert second.startswith(b"Return-Path: <x@example.org>\r\n")


@pytest.mark.parametrize("first, stays", [
    (b"Return-Path: <other@example.org>\r\n", False), (b"return-path:\r\n", False),
    (b"RETURN-PATH: <>\r\n\r\n", False), (b"Return-Path: <x@y>\r\n (folded)\r\n", True),
    (b"Return-Path : <x@y>\r\n", True), (b"Return-Path: " + b"x" * 2000 + b"\r\n", True)],
    ids=lambda v: repr(v)[:20])
def test_return_path_of_the_message(unix, first, stays):
    """Sendmail and others write one themselves: that which the envelope makes takes its place."""
    c = Lmtp(unix.lmtp)
    assert c.deliver(b"bob", message=first + MESSAGE) == [b"250 2.0.0 Delivered"]
    octets = first + MESSAGE
    c.begin(b"bob")
    c.send(b"BDAT %d LAST\r\n" % len(octets) + octets)
    assert c.reply() == b"250 2.0.0 Delivered"
    c.say(b"QUIT")
    with session(unix, "bob") as raw:
        for n in (1, 2):
            assert raw.ask(b"RETR %d" % n).startswith(b"+OK")
            message = b"".join(raw.multi())
            assert message.startswith(b"Return-Path: <sender@example.org>\r\n")
            assert body(message) == (octets if stays else octets.partition(b"\n")[2])
            raw.ask(b"DELE %d" % n)


def test_pipelining(start):
    """All in one segment, two messages."""
    p = start()
    c = Lmtp(p.lmtp, hello=False)
    c.send(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<nobody-here>\r\nRCPT TO:<alice>\r\nDATA\r\n"
           b"one\r\n.\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<alice>\r\nRCPT TO:<bob>\r\nDATA\r\n"
           b".\r\nNOOP\r\nQUIT\r\n")
    replies = [c.reply()[:3] for _ in range(14)]
    assert replies == [b"250", b"250", b"550", b"250", b"354", b"250", b"250", b"250", b"250",
                       b"250", b"354", b"250", b"250", b"250"]
    assert c.reply()[:3] == b"221"
    assert [body(m) for m in mail_of(p)] == [b"one\r\n", b""]


def test_octet_by_octet(start):
    p = start()
    c = Lmtp(p.lmtp)
    c.begin(b"alice")
    assert c.say(b"DATA")[:3] == b"354"
    for octet in b"..a\r\n\r\n...\r\nx\r.\r\n.\r\n":
        c.send(bytes([octet]))
    assert c.reply() == b"250 2.0.0 Delivered"
    assert body(mail_of(p)[0]) == b".a\r\n\r\n..\r\nx\r.\r\n"


def test_chunks(start):
    """RFC 3030: octets as they are, dots and all."""
    p = start()
    c = Lmtp(p.lmtp)
    c.begin(b"alice", b"bob")
    c.send(b"BDAT 7\r\n.\r\nx\r\n.BDAT 0\r\nBDAT 6 last\r\n\r\n..\r\nNOOP\r\n")
    replies = [c.reply() for _ in range(5)]
    assert replies == [b"250 2.0.0 Chunk taken"] * 2 + [b"250 2.0.0 Delivered"] * 2 + [
        b"250 2.0.0 Ok"]
    for user in ("alice", "bob"):
        assert body(mail_of(p, user)[0]) == b".\r\nx\r\n.\r\n..\r\n"


def test_content(start):
    """8 bit, NUL, bare line ends, long lines: bare LF is made a line end, the rest is kept."""
    p = start()
    c = Lmtp(p.lmtp)
    lines = [bytes(range(256)).replace(b"\r", b"").replace(b"\n", b""), b"a\0b", b"x" * 200_000,
             b".", b"..", b"tail without end"]
    message = b"Subject: \xe9\r\n\r\n" + b"\r\n".join(lines) + b"\r\n"
    c.deliver(b"alice", message=message, parameters=b" BODY=8BITMIME")
    c.begin(b"alice")
    c.send(b"BDAT 11 LAST\r\na\nb\n.\nc\rd\ne")
    assert c.reply() == b"250 2.0.0 Delivered"
    first, second = mail_of(p)
    assert body(first) == message
    assert body(second) == b"a\r\nb\r\n.\r\nc\rd\r\ne\r\n"


def test_no_smuggling(start):
    """A bare LF ends no message: what somebody wrote after it stays text."""
    p = start()
    c = Lmtp(p.lmtp)
    for end in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r"):
        c.begin(b"alice")
        assert c.say(b"DATA")[:3] == b"354"
        c.send(b"x" + end + b"MAIL FROM:<>\r\nRCPT TO:<bob>\r\nDATA\r\nfaked\r\n.\r\n")
        assert c.reply() == b"250 2.0.0 Delivered", end
        assert c.say(b"NOOP")[:3] == b"250"
    assert all(b"faked" in m for m in mail_of(p))
    assert mail_of(p, "bob") == []


def test_utf8(start):
    """RFC 6531: addresses in UTF-8 with SMTPUTF8; and without, which transports pass on as well."""
    p = start()
    c = Lmtp(p.lmtp)
    for parameters in (b" SMTPUTF8", b""):
        assert c.deliver(b"alice", sender="<é@example.org>".encode(), parameters=parameters,
                         message="Subject: é\r\n\r\nx\r\n".encode()) == [b"250 2.0.0 Delivered"]
        assert c.begin("é".encode(), parameters=parameters) == [b"550 5.1.1 No such user"]
        c.say(b"RSET")
    assert c.deliver("alice+é".encode()) == [b"250 2.0.0 Delivered"]
    raw = p.connect(tls=False)
    assert raw.ask(b"UTF8").startswith(b"+OK")
    raw.ask(b"USER alice")
    raw.ask(b"PASS secret")
    for number, sender, to in [(1, "é@example.org", "alice"), (2, "é@example.org", "alice"),
                               (3, "sender@example.org", "alice+é")]:
        assert raw.ask(b"RETR %d" % number).startswith(b"+OK")
        message = b"".join(raw.multi())
        assert message.startswith(f"Return-Path: <{sender}>".encode())
        assert b"with UTF8LMTP id" in message and f"\tfor <{to}>; ".encode() in message
    assert raw.ask(b"QUIT").startswith(b"+OK")
    with session(p) as plain:
        for number in (1, 2, 3):
            assert plain.ask(b"RETR %d" % number).startswith(b"+OK")
            assert b"".join(plain.multi()).isascii()


@pytest.mark.parametrize("sender, written", {
    b"<@x.example>": b"", b'<""@x.example>': b"", b"<a@b@x.example>": b"", b"<a b@x.example>": b"",
    b"<a>b@x.example>": b"", b"<" + b"x" * 310 + b"@x.example>": b"x" * 310 + b"@x.example",
    b"<" + b"x" * 2000 + b"@x.example>": b"", b"<a\xe9\x7f\0@x.example>": b"a???@x.example",
}.items(), ids=lambda octets: repr(octets)[:20])
def test_senders_that_are_none(unix, sender, written):
    """What a transport took of the world is no reason to send the mail back to where it came from."""
    c = Lmtp(unix.lmtp)
    assert c.deliver(b"bob", sender=sender, parameters=b" SIZE=10") == [b"250 2.0.0 Delivered"]
    with session(unix, "bob") as raw:
        assert raw.ask(b"RETR 1").startswith(b"+OK")
        message = b"".join(raw.multi())
        raw.ask(b"DELE 1")
    assert message.startswith(b"Return-Path: <" + written + b">\r\nDelivered-To: bob\r\n")


# What is refused.

def test_too_large(start):
    """The rest is swallowed, and the connection goes on."""
    p = start(store_max_message="100K")
    c = Lmtp(p.lmtp)
    big = b"x" * 998 + b"\r\n"
    assert c.say(b"MAIL FROM:<> SIZE=102401") == b"552 5.3.4 Message too large"
    assert c.say(b"MAIL FROM:<> SIZE=18446744073709551617") == b"552 5.3.4 Message too large"
    assert c.deliver(b"alice", b"bob", message=big * 3000) == [b"552 5.3.4 Message too large"] * 2
    assert c.deliver(b"alice", message=big * 103) == [b"552 5.3.4 Message too large"]
    assert c.deliver(b"alice", message=big * 102) == [b"250 2.0.0 Delivered"]
    c.begin(b"alice")
    c.send(b"BDAT 102000\r\n" + big * 102 + b"BDAT 401\r\n" + b"x" * 401 + b"BDAT 2 LAST\r\n\r\n")
    assert [c.reply()[:9] for _ in range(3)] == [b"250 2.0.0", b"552 5.3.4", b"552 5.3.4"]
    assert c.deliver(b"alice") == [b"250 2.0.0 Delivered"]
    assert len(mail_of(p)) == 2


BAD = {
    b"EHLO x": b"500 5.5.1", b"HELO x": b"500 5.5.1", b"TURN": b"500 5.5.1", b"": b"500 5.5.1",
    b"LHLO": b"501 5.5.4", b"LHLO a b": b"501 5.5.4", b"LHLO a)": b"501 5.5.4",
    b"RCPT TO:<alice>": b"503 5.5.1", b"DATA": b"503 5.5.1", b"MAIL TO:<x>": b"501 5.5.4",
    b"MAIL FROM:x": b"501 5.5.4", b"MAIL FROM:<x@": b"501 5.1.7",
    b"MAIL FROM:<x> BODY=BINARYMIME": b"501 5.5.4", b"MAIL FROM:<x> AUTH=<>": b"555 5.5.4",
    b"MAIL FROM:<x> SIZE=1x": b"501 5.5.4", b"NO\0OP": b"500 5.5.2", b"NOOP \xff": b"500 5.5.2",
    b"DATA now": b"501 5.5.4", b"QUIT now": b"501 5.5.4", b"RSET now": b"501 5.5.4", b"VRFY": b"501 5.5.4",
    b"NOOP " + b"x" * 506: b"500 5.5.2", b"MAIL FROM:<" + b"x" * 4096 + b">": b"500 5.5.2",
    b"RCPT TO:<" + b"x" * 506 + b">": b"500 5.5.2", b"RCPT TO:<\xff>": b"500 5.5.2",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_command(unix, command):
    c = Lmtp(unix.lmtp)
    assert c.say(command)[:9] == BAD[command]
    assert c.say(b"VRFY alice")[:3] == b"252"
    assert c.say(b"NOOP " + b"x" * 505) == b"250 2.0.0 Ok"
    assert c.say(b"quit ")[:3] == b"221"


def test_order(unix):
    c = Lmtp(unix.lmtp, hello=False)
    assert c.say(b"MAIL FROM:<>")[:9] == b"503 5.5.1"
    c.say(b"LHLO x")
    c.begin(b"alice")
    assert c.say(b"MAIL FROM:<>")[:9] == b"503 5.5.1"
    assert c.say(b"RCPT TO:<alice> X=Y")[:9] == b"555 5.5.4"
    assert c.say(b"RCPT TO:<>")[:9] == b"501 5.1.3"
    c.send(b"BDAT 1\r\nx")
    assert c.reply()[:3] == b"250"
    assert c.say(b"DATA")[:9] == b"503 5.5.1"
    assert c.say(b"LHLO again")[:3] == b"250"  # RFC 5321 section 4.1.4: as RSET
    assert c.say(b"DATA")[:9] == b"503 5.5.1"
    c.send(b"BDAT 6 LAST\r\nRSET\r\nBDAT 6\r\nQUIT\r\nNOOP\r\n")  # swallowed, as commands they are not
    assert [c.reply()[:3] for _ in range(3)] == [b"503", b"503", b"250"]
    assert c.say(b"QUIT")[:3] == b"221"


@pytest.mark.parametrize("argument", [b"", b"x", b"-1", b"18446744073709551616", b"6 FIRST"])
def test_bad_chunk(unix, argument):
    """Where a chunk ends cannot be known: nothing that follows is a command."""
    c = Lmtp(unix.lmtp)
    c.begin(b"alice")
    assert c.say(b"BDAT " + argument)[:9] == b"501 5.5.4"
    assert c.rest() == b""


def test_endless_line(unix):
    c = Lmtp(unix.lmtp)
    with contextlib.suppress(OSError):
        for _ in range(20):
            c.send(b"x" * 10_000)
    assert c.rest().startswith(b"500 5.5.2")


def test_bad_commands_without_end(start):
    p = start()
    c = Lmtp(p.lmtp)
    replies = [c.say(b"NONSENSE")[:9] for _ in range(20)]
    assert replies == [b"500 5.5.1"] * 19 + [b"421 4.7.0"]
    assert c.rest() == b""
    p.wait_log("door=lmtp reason=bad-commands")


def test_idle(start):
    p = start(session_idle_timeout="3s")
    c = Lmtp(p.lmtp)
    assert c.rest() == b"421 4.4.2 Nothing said for too long\r\n"
    c = Lmtp(p.lmtp)
    c.begin(b"alice")
    assert c.say(b"DATA")[:3] == b"354"
    c.send(b"half a message\r\n")
    assert c.rest().startswith(b"421 4.4.2")
    p.wait_log("door=lmtp reason=idle")
    assert mail_of(p) == []


def test_client_leaves(start):
    """In the middle of a message: nothing is stored. After the dot: all of it may be."""
    p = start()
    for sent in (b"DATA\r\nhalf", b"DATA\r\nhalf\r\n.", b"DATA\r\nhalf\r\n.\r", b"BDAT 9 LAST\r\nhalf"):
        c = Lmtp(p.lmtp)
        c.begin(b"alice")
        c.send(sent)
        c.close()
    wait_until(lambda: len(re.findall("door=lmtp reason=disconnect", p.log_text())) == 4, "the ends")
    assert mail_of(p) == []


# Who may deliver to whom.

def test_only_into_ones_own(start):
    p = start()
    with as_user("alice"):
        c = Lmtp(p.lmtp)
    assert c.begin(b"alice", b"alice+x@localhost", b"bob", b"nobody-here") == [
        b"250 2.1.5 Recipient ok", b"250 2.1.5 Recipient ok",
        b"550 5.7.1 Not into this maildrop by you", b"550 5.1.1 No such user"]
    assert c.data(MESSAGE, 2) == [b"250 2.0.0 Delivered"] * 2
    message, = mail_of(p)
    assert b"(unix:%d)" % pwd.getpwnam("alice").pw_uid in message
    assert mail_of(p, "bob") == []
    p.wait_log(r"refused to=<bob> .* reason=not-by-this-peer")


def test_trusted_user(start):
    p = start(delivery_trusted="no-such-account, bob")
    with as_user("bob"):
        c = Lmtp(p.lmtp)
    assert c.deliver(b"alice") == [b"250 2.0.0 Delivered"]
    with as_user("carol"):
        c = Lmtp(p.lmtp)
    assert c.begin(b"alice") == [b"550 5.7.1 Not into this maildrop by you"]


def test_connections_of_one_user(start):
    """Nobody but root takes every slot; logins go on."""
    p = start(workers_max_per_source="3")
    with as_user("alice"):
        held = [Lmtp(p.lmtp) for _ in range(3)]
        assert Lmtp(p.lmtp, hello=False).greeting == (
            b"421 4.3.2 Too many connections, try again later")
    held += [Lmtp(p.lmtp) for _ in range(5)]
    with as_user("bob"):
        assert Lmtp(p.lmtp).deliver(b"bob") == [b"250 2.0.0 Delivered"]
    assert len(mail_of(p, "bob")) == 1


def test_connections_of_one_user_that_wait(start):
    """Those without a worker yet count, too: who connects faster than workers are forked would
    have every slot."""
    p = start(workers_max_per_source="6", workers_idle_min="4")
    wait_until(lambda: len(p.workers()) == 4, "workers that stand by")
    nursery, = p.nursery()
    os.kill(nursery, signal.SIGSTOP)
    try:
        with as_user("alice"):
            crowd = [socket.socket(socket.AF_UNIX) for _ in range(20)]
            for sock in crowd:
                sock.connect(str(p.lmtp))
        p.wait_log(r"(?s)(refused peer=unix:%d: \[workers\] max_per_source.*){14}"
                   % pwd.getpwnam("alice").pw_uid)
    finally:
        os.kill(nursery, signal.SIGCONT)
    greetings = [sock.makefile("rb").readline()[:3] for sock in crowd]
    assert sorted(greetings) == [b"220"] * 6 + [b"421"] * 14


def test_accept_maildrop(start):
    """A recipient is who has a maildrop already."""
    p = start(delivery_accept="maildrop")
    p.add("bob", MESSAGE)
    c = Lmtp(p.lmtp)
    assert c.begin(b"alice", b"bob", b"bob+x") == [
        b"550 5.1.1 No such user", b"250 2.1.5 Recipient ok", b"250 2.1.5 Recipient ok"]
    assert c.data(MESSAGE, 2) == [b"250 2.0.0 Delivered"] * 2
    assert not list(p.state.glob("mail/??/??/alice"))


def test_create_no(start):
    p = start(store_create="no")
    assert Lmtp(p.lmtp).begin(b"alice") == [b"550 5.1.1 No such user"]


def test_accept_any(start):
    """Virtual users: whatever name a maildrop may have."""
    p = start(pam_unix=False, delivery_accept="any", extra_domain="[domain virt.example]\n")
    c = Lmtp(p.lmtp)
    assert c.deliver(b"someone@virt.example", b"Someone+x@VIRT.example") == [
        b"250 2.0.0 Delivered"] * 2
    assert c.begin(b'"a/b"@virt.example', b"root") == [b"550 5.1.1 No such user"] * 2
    assert [d.name for d in p.state.glob("mail/??/??/*")] == ["someone@virt.example"]
    with as_user("alice"):
        c = Lmtp(p.lmtp)
    assert c.begin(b"someone@virt.example") == [b"550 5.7.1 Not into this maildrop by you"]


# What fails is the queue's to keep.

def test_directory_down(start):
    """A look-up that fails is never "no such user"; some modules call that ENOENT."""
    p = start()
    c = Lmtp(p.lmtp)
    services, passwd = Path("/etc/nsswitch.conf"), Path("/etc/passwd")
    before = services.read_text()
    services.write_text("passwd: files\ngroup: files\n")  # the one that fails is the last
    passwd.rename("/etc/passwd.away")
    try:
        assert c.begin(b"alice", b"nobody-here") == [
            b"451 4.3.0 Mail cannot be taken now, try later"] * 2
        passwd.symlink_to("passwd")
        assert c.say(b"RCPT TO:<alice>")[:9] == b"451 4.3.0"
    finally:
        Path("/etc/passwd.away").rename(passwd)
        services.write_text(before)
    p.wait_log(r"look-up of account 'alice' failed")
    assert c.say(b"RSET") and c.deliver(b"alice") == [b"250 2.0.0 Delivered"]


def test_auth_dies(start):
    p = start()
    auths = wait_until(lambda: len(found := p.auths()) == 2 and found, "processes_min auth processes")
    for pid in auths:
        os.kill(pid, signal.SIGSTOP)
    c = Lmtp(p.lmtp)
    c.say(b"MAIL FROM:<>")
    c.send(b"RCPT TO:<alice>\r\n")
    wait_until(lambda: re.search(rb", [1-9]\d* busy;", p.ctl("status").stdout), "an exchange")
    for pid in auths:
        os.kill(pid, signal.SIGKILL)
    assert c.reply()[:9] == b"451 4.3.0"
    wait_until(lambda: c.say(b"RCPT TO:<alice>")[:3] == b"250", "new ones")
    assert c.data(MESSAGE) == [b"250 2.0.0 Delivered"]


def test_a_client_that_does_not_wait(start):
    """It will come again with the same mail for each recipient that it had no answer for: those who
    did not get it yet get it then, and once."""
    p = start()
    c = Lmtp(p.lmtp)
    p.add("alice", MESSAGE)
    c.begin(b"alice", b"bob", b"carol")
    with write_lock(p, "alice"):
        c.send(b"DATA\r\n" + MESSAGE + b".\r\n")
        c.close()
    p.wait_log(r"delivered user=alice ")
    p.wait_log(r"reason=disconnect")
    assert not re.search(r"delivered user=(bob|carol) ", p.log_text())


def test_damaged(start):
    """Mail does not bounce because a file is damaged; others get theirs."""
    p = start()
    p.add("alice", MESSAGE)
    drop = p.maildrop("alice")
    with open(drop / "mail.db", "r+b") as file:
        file.write(b"x" * 4096)
    c = Lmtp(p.lmtp)
    assert c.deliver(b"alice", b"bob") == [b"451 4.3.0 Mail cannot be taken now, try later",
                                           b"250 2.0.0 Delivered"]
    p.wait_log(r"not delivered user=alice .* reason=damaged maildrop: ")


def test_planted_files(start):
    """A link in the maildrop's place: auth says so at RCPT already, and it is not 550."""
    p = start()
    p.add("alice", MESSAGE)
    drop = p.maildrop("alice")
    (drop / "lock").unlink()
    (drop / "lock").symlink_to("/etc/shadow")
    assert Lmtp(p.lmtp).begin(b"alice")[0][:9] == b"451 4.3.0"
    p.wait_log(r"lock: a symbolic link")


def test_stale_files(start):
    """-wal went while nobody looked: the next opener has another."""
    p = start()
    c = Lmtp(p.lmtp)
    for _ in range(3):
        assert c.deliver(b"alice") == [b"250 2.0.0 Delivered"]
        subprocess.run([sys.executable, "-c", "import sqlite3, sys\n"
                        "c = sqlite3.connect(sys.argv[1])\n"
                        "c.execute('PRAGMA wal_checkpoint(TRUNCATE)')\nc.close()",
                        p.maildrop("alice") / "mail.db"], check=True)
        for file in p.maildrop("alice").iterdir():
            os.chown(file, p.state.stat().st_uid, p.state.stat().st_gid)
    assert len(mail_of(p)) == 3


def test_locked(start):
    """Somebody holds the write lock: busy, and nothing is half-stored."""
    p = start()
    p.add("alice", MESSAGE)
    c = Lmtp(p.lmtp)
    with write_lock(p, "alice"):
        assert c.deliver(b"alice", b"bob") == [
            b"451 4.3.2 The maildrop cannot be had now, try later", b"250 2.0.0 Delivered"]
    assert c.deliver(b"alice") == [b"250 2.0.0 Delivered"]
    assert len(mail_of(p)) == 2


def test_answers_come_one_by_one(start):
    """Each after its own commit, and at once: bob has his mail while alice's maildrop is locked."""
    p = start()
    p.add("alice", MESSAGE)
    c = Lmtp(p.lmtp)
    c.begin(b"bob", b"alice", b"carol")
    assert c.say(b"DATA")[:3] == b"354"
    with write_lock(p, "alice"):
        c.send(MESSAGE + b".\r\n")
        assert c.reply() == b"250 2.0.0 Delivered"
        assert len(mail_of(p, "bob")) == 1
        assert not list(p.state.glob("mail/??/??/carol"))
    assert [c.reply() for _ in range(2)] == [b"250 2.0.0 Delivered"] * 2
    assert len(mail_of(p)) == 2


@pytest.mark.parametrize("files", [["mail.db"], ["mail.db", "mail.db-wal"]])
@pytest.mark.parametrize("before, between", [(2, 2), (5, 60), (60, 5), (150, 150)])
def test_a_raw_file_put_back(start, files, before, between):
    """Under the running server, with its WAL or, as nobody should, without: whatever state that is,
    no UIDL ever names two messages."""
    p = start()
    c = Lmtp(p.lmtp)
    named = {}

    def deliver(n, may_be_damaged=False):
        for _ in range(n):
            token = b"%d" % (len(sent) + 1)
            sent.append(token)
            message = b"Token: " + token + b"\r\n\r\n" + b"x" * 900 + b"\r\n"
            [answer] = c.deliver(b"alice", message=message)
            assert answer == b"250 2.0.0 Delivered" or may_be_damaged and answer[:4] == b"451 ", answer

    def look():
        """What a client sees. Of a damaged maildrop it is shown less, and the session may end."""
        raw = p.connect()
        raw.ask(b"USER alice")
        answer = raw.ask(b"PASS secret")
        assert answer.startswith((b"+OK", b"-ERR [SYS/PERM]")), answer
        listed = raw.multi() if answer.startswith(b"+OK") and raw.ask(b"UIDL")[:3] == b"+OK" else []
        for number, uidl in map(bytes.split, listed):
            text = b""
            with contextlib.suppress(OSError):
                raw.send(b"RETR " + number + b"\r\n")
                while (line := raw.line()) not in (b".\r\n", b"") and line[:4] != b"-ERR":
                    text += line
            if token := re.search(rb"Token: (\d+)\r\n", text):
                assert named.setdefault(uidl, token[1]) == token[1]
        with contextlib.suppress(OSError):
            raw.ask(b"QUIT")

    sent = []
    deliver(before)
    look()
    assert len(named) == before
    drop = p.maildrop("alice")
    for file in files:
        shutil.copyfile(drop / file, p.directory / file)
    deliver(between)
    look()
    assert len(named) == before + between
    for file in files:
        shutil.copyfile(p.directory / file, drop / file)
    # Ids go through those that were given before. A database without its WAL lacks what was copied
    # into it since; when that is found out, the sender keeps the mail.
    deliver(before + between, may_be_damaged=len(files) == 1)
    look()
    assert len(files) == 1 or len(named) == 2 * (before + between)


def test_during_a_session(start):
    """83: the session's list does not move; the next one has the message."""
    p = start()
    c = Lmtp(p.lmtp)
    c.deliver(b"alice")
    with session(p) as raw:
        assert raw.ask(b"STAT").startswith(b"+OK 1 ")
        assert c.deliver(b"alice") == [b"250 2.0.0 Delivered"]
        assert raw.ask(b"STAT").startswith(b"+OK 1 ")
        assert raw.ask(b"DELE 1").startswith(b"+OK")
        assert c.deliver(b"alice") == [b"250 2.0.0 Delivered"]
    assert len(mail_of(p)) == 2


KEPT = 17 << 20  # free room that mail is not given: for deletions, and for one message more


@pytest.fixture
def filling(start):
    p = start(start=False, store_max_message="1M", server_log_level="warning")
    with small_disk(p, 24):
        yield p


@pytest.mark.parametrize("lines", [10, 1000, 5000])
def test_disk_full_of_mail(filling, lines):
    """Mail comes in until it is given no more room. Then the user can delete, and mail comes in
    again."""
    p = filling
    p.use_up(KEPT + (2 << 20))
    c = Lmtp(p.lmtp)
    message = b"Subject: one\r\n\r\n" + (b"z" * 70 + b"\r\n") * lines
    delivered = 0
    while c.begin(b"alice")[0].startswith(b"250"):
        assert c.data(message)[0].startswith(b"250")
        delivered += 1
    assert delivered > 2
    for user in (b"alice", b"bob"):
        assert c.say(b"RSET")[:3] == b"250"
        assert c.begin(user) == [b"452 4.3.1 No room on the disk, try later"]
    p.wait_log("MB of room are left, mail is taken from 17 on")
    with session(p) as raw:
        assert raw.ask(b"STAT").split()[1] == b"%d" % delivered
        for n in range(1, delivered + 1):
            assert raw.ask(b"DELE %d" % n).startswith(b"+OK")
    with session(p) as raw:
        assert raw.ask(b"STAT").startswith(b"+OK 0 0")
    assert b"alice: sound" in p.ctl("mailbox", "check", "alice").stdout
    p.free()
    assert Lmtp(p.lmtp).deliver(b"alice", b"bob") == [b"250 2.0.0 Delivered"] * 2


@pytest.mark.parametrize("leave", [0, 4096, 16384])
def test_disk_full(filling, leave):
    """Under the maildrop and under the message on its way, once it was accepted; all goes on when
    there is room."""
    p = filling
    for message in (b"x" * 60_000 + b"\r\n", (b"x" * 998 + b"\r\n") * 1000):
        c = Lmtp(p.lmtp)
        assert c.begin(b"alice", b"bob") == [b"250 2.1.5 Recipient ok"] * 2
        p.use_up(leave)
        assert [r[:9] for r in c.data(message, 2)] == [b"452 4.3.1"] * 2
        p.free()
    p.wait_log("not delivered to=<alice> from=<.*> reason=no-room")
    p.wait_log("not delivered from=<.*> recipients=2: .* No space left")
    assert c.deliver(b"alice", message=message) == [b"250 2.0.0 Delivered"]
    assert len(mail_of(p)) == 1
    assert mail_of(p, "bob") == []


@pytest.mark.parametrize("ways", ["no room", "too large"])
def test_room_of_what_is_never_stored(filling, ways):
    """It is for others at once: the client may take its time to say the rest of it."""
    p = filling
    assert Lmtp(p.lmtp).deliver(b"bob") == [b"250 2.0.0 Delivered"]
    c = Lmtp(p.lmtp)
    assert c.begin(b"alice")[0].startswith(b"250")
    assert c.say(b"DATA")[:3] == b"354"
    size = (900 if ways == "no room" else 1200) << 10
    p.use_up(size - 80_000)
    c.send((b"x" * 998 + b"\r\n") * (size // 1000))

    def free():
        disk = os.statvfs(p.state)
        return disk.f_bavail * disk.f_bsize
    wait_until(lambda: fcntl.ioctl(c.sock, termios.TIOCOUTQ, bytes(4)) == bytes(4), "it is read")
    wait_until(lambda: free() >= size - 90_000, lambda: f"free: {free()}")
    with session(p, "bob") as raw:
        assert raw.ask(b"DELE 1").startswith(b"+OK")
    c.send(b"\r\n.\r\n")
    assert c.reply()[:3] == (b"452" if ways == "no room" else b"552")


@contextlib.contextmanager
def freezing_disk(p, tmp_path):
    """Runs a server, not started yet, with its state_dir on a file system that freeze() holds up, as
    for a snapshot, until thaw()."""
    owner, image = p.state.stat(), tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, p.state], capture_output=True).returncode != 0:
        pytest.skip("no loop device to mount")
    os.chown(p.state, owner.st_uid, owner.st_gid)
    p.state.chmod(0o700)
    p.freeze = lambda: subprocess.run(["fsfreeze", "-f", p.state], check=True)
    p.thaw = lambda: subprocess.run(["fsfreeze", "-u", p.state], capture_output=True)
    try:
        yield p.start()
    finally:
        p.thaw()
        p.stop()
        poplar.unmount(p.state)


@pytest.mark.parametrize("used", [False, True])
def test_disk_hangs(start, tmp_path, used):
    """Who wants nothing of it is served; mail waits, and comes in when it is there again. `used`: one
    session has its spool file from before."""
    with freezing_disk(start(start=False, store_max_message="1M"), tmp_path) as p:
        if used:
            assert Lmtp(p.lmtp).deliver(b"alice") == [b"250 2.0.0 Delivered"]
            with session(p, "bob"):
                pass
        p.freeze()
        clients = [Lmtp(p.lmtp) for _ in range(12)]
        for client in clients:
            client.say(b"MAIL FROM:<>")
            client.send(b"RCPT TO:<alice>\r\n")
        raw = p.connect()
        assert raw.ask(b"CAPA").startswith(b"+OK")
        wait_until(lambda: re.search(rb", [1-9]\d* busy;", p.ctl("status").stdout), "mail waits")
        p.thaw()
        for client in clients:
            assert client.reply()[:3] in (b"250", b"451")
            client.sock.close()
        wait_until(lambda: Lmtp(p.lmtp).deliver(b"alice") == [b"250 2.0.0 Delivered"],
                   "mail comes in")


def test_worker_killed(start):
    """Anywhere: what was not acknowledged to the last is not there, or there whole."""
    p = start()
    c = Lmtp(p.lmtp)
    c.begin(b"alice")
    assert c.say(b"DATA")[:3] == b"354"
    c.send(b"x" * 1_000_000)
    worker, = p.serving()
    os.kill(worker, signal.SIGKILL)
    assert c.rest() == b""
    assert mail_of(p) == []
    assert Lmtp(p.lmtp).deliver(b"alice") == [b"250 2.0.0 Delivered"]


# The socket.

def test_socket_comes_and_goes(start):
    p = start()
    status = p.lmtp.stat()
    assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o666
    held = Lmtp(p.lmtp)
    p.process.send_signal(signal.SIGHUP)
    p.wait_notified("READY=1")
    assert p.lmtp.stat().st_ino == status.st_ino
    assert Lmtp(p.lmtp).deliver(b"alice") == [b"250 2.0.0 Delivered"]
    assert held.deliver(b"alice") == [b"250 2.0.0 Delivered"]
    elsewhere = p.directory / "made" / "socket"
    p.write_config(listen_lmtp=elsewhere)
    p.process.send_signal(signal.SIGHUP)
    p.wait_notified("READY=1")
    assert Lmtp(elsewhere).deliver(b"alice") == [b"250 2.0.0 Delivered"]
    assert not p.lmtp.exists()
    p.write_config(listen_lmtp="")
    p.process.send_signal(signal.SIGHUP)
    p.wait_notified("READY=1")
    assert not elsewhere.exists()
    assert len(mail_of(p)) == 3


def test_socket_left_over(start):
    """One that nobody serves is replaced; another server's, or a file, is an error."""
    p = start()
    p.stop(signal.SIGKILL)
    assert p.lmtp.exists()
    p.start()
    assert Lmtp(p.lmtp).deliver(b"alice") == [b"250 2.0.0 Delivered"]
    before = p.lmtp.stat().st_ino
    (p.directory / "second").mkdir()
    second = poplar.Poplar(p.directory / "second", listen_lmtp=p.lmtp)
    result = subprocess.run(second.command(), capture_output=True, text=True)
    assert result.returncode == 78
    assert f"[listen] lmtp={p.lmtp}: another server holds this socket" in result.stderr
    file = p.directory / "file"
    file.write_text("precious")
    second.write_config(listen_lmtp=file)
    result = subprocess.run(second.command(), capture_output=True, text=True)
    assert result.returncode == 78 and "no socket" in result.stderr
    second.write_config(listen_lmtp="lmtp.sock")
    result = subprocess.run(second.command(), capture_output=True, text=True)
    assert result.returncode == 78 and "must be an absolute path" in result.stderr
    assert file.read_text() == "precious" and p.lmtp.stat().st_ino == before
    assert Lmtp(p.lmtp).deliver(b"alice") == [b"250 2.0.0 Delivered"]


PASS_ON = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
s.listen()
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="lmtp")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_socket_from_systemd(start):
    """It takes the place of the configured one; POP3 is bound as configured."""
    p = start(start=False, listen_lmtp=None)
    passed = p.directory / "passed"
    command = p.command
    p.command = lambda *more: [sys.executable, "-c", PASS_ON, str(passed), *command(*more)]
    p.start()
    assert Lmtp(passed).deliver(b"alice") == [b"250 2.0.0 Delivered"]
    assert not p.lmtp.exists()
    p.process.send_signal(signal.SIGHUP)
    p.wait_notified("READY=1")
    assert Lmtp(passed).deliver(b"alice") == [b"250 2.0.0 Delivered"]
    assert len(mail_of(p)) == 2
    p.write_config(listen_lmtp=p.lmtp)
    assert p.ctl("reload", check=False).returncode == 78


# poplar-deliver.

def deliver(p, *arguments, message=MESSAGE, user=None, where=None, **options):
    where = where if where is not None else ["--config", str(p.config)]
    return subprocess.run([poplar.BUILD / "poplar-deliver", *where, *arguments], input=message,
                          user=user, capture_output=True, **options)


def test_pipe(start):
    """As a user into one's own; LF becomes CRLF, dots are kept, a "From " line goes."""
    p = start()
    p.config.chmod(0o644)
    lines = b"Subject: x\n\n.\n..\n.x\nFrom here\n\xe9\0\nno end"
    for before in (b"From x@y Sat Nov 21 12:00:00 2026\n", b"From \r\n", b""):
        result = deliver(p, "-f", "x@y.example", "alice", message=before + lines, user="alice")
        assert (result.returncode, result.stderr) == (0, b"")
    socket_too = deliver(p, "--from", "<>", "alice@localhost", message=lines, user="alice",
                         where=["--socket", p.lmtp])
    assert socket_too.returncode == 0
    nobody = deliver(p, "-f", "MAILER-DAEMON", "alice", message=lines, user="alice")  # Postfix's pipe(8)
    assert nobody.returncode == 0
    messages = mail_of(p)
    assert [body(m) for m in messages] == [lines.replace(b"\n", b"\r\n") + b"\r\n"] * 5
    assert messages[0].startswith(b"Return-Path: <x@y.example>\r\n")
    for message in messages[3:]:
        assert message.startswith(b"Return-Path: <>\r\n")


@pytest.mark.parametrize("line, sender", {
    b"From x@y.example Sat Nov 21 12:00:00 2026": b"x@y.example",
    b"From x": b"x", b"From MAILER-DAEMON Sat Nov 21 12:00:00 2026": b"", b"From  x@y.example": b"",
    b'From "x \\" y"@z.example Sat': b'"x \\" y"@z.example', b'From "x y': b"",
    b"From x@y.example\r": b"x@y.example", b"From x\0@y.example": b"", b"From x@(": b"",
    b"From " + b"x" * 320: b"x" * 320, b"From " + b"x" * 321: b"",
    "From é@y.example Sat".encode(): "é@y.example".encode(), b"From \xe9@y.example Sat": b"?@y.example",
    b"Return-Path: <x@y.example>": b"x@y.example", b"RETURN-PATH:x@y.example \r": b"x@y.example",
    b"Return-Path:\t<x@y.example>": b"x@y.example",
    b"Return-Path: <>": b"", b"return-path:  <MAILER-DAEMON>": b"",
    b'Return-Path: <"x y"@z.example> (a comment)': b'"x y"@z.example',
    b"From x@y.example Sat\nReturn-Path: <z@y.example>": b"x@y.example",
}.items(), ids=lambda octets: repr(octets)[:30])
def test_pipe_sender(unix, line, sender):
    """Without -f the "From " line tells the envelope sender, if it is one, and where there is none
    the Return-Path; with it, nothing does."""
    for more, wanted in (([], sender), (["-f", "a@b.example"], b"a@b.example")):
        assert deliver(unix, *more, "bob", message=line + b"\nSubject: x\n\n").returncode == 0
        with session(unix, "bob") as raw:
            raw.ask(b"UTF8")
            assert raw.ask(b"RETR 1").startswith(b"+OK")
            message = b"".join(raw.multi())
            raw.ask(b"DELE 1")
        assert message.startswith(b"Return-Path: <" + wanted + b">\r\n")
        assert body(message) == b"Subject: x\r\n\r\n"


@pytest.mark.parametrize("text", [b"", b"F", b"From", b"From ", b"From x", b"\n", b".", b".\n",
                                  b"Fro\n", b"FrFrom \n", b"Return-", b"Return-Pat:\nx", b"a\r\nb\r\n", b"a\rb", b"\r"])
def test_pipe_small(unix, text):
    user = "bob"
    assert deliver(unix, user, message=text).returncode == 0
    expected = re.sub(rb"\AFrom [^\n]*\n?", b"", text)
    with session(unix, user) as raw:
        assert raw.ask(b"RETR 1").startswith(b"+OK")
        assert body(b"".join(raw.multi())) == poplar.on_the_wire(expected)
        raw.ask(b"DELE 1")


def test_pipe_statuses(start):
    p = start(store_quota_messages="1", store_over_quota="reject", store_max_message="10K")
    p.config.chmod(0o644)
    assert deliver(p, "alice").returncode == 0
    assert deliver(p, "nobody-here").returncode == 67
    assert deliver(p, "bob", user="alice").returncode == 77
    over = deliver(p, "alice")
    assert over.returncode == 73 and b"552 5.2.2 The maildrop is full" in over.stderr
    assert deliver(p, "bob", message=b"x" * 20_000).returncode == 69
    assert deliver(p, "-f", "x\n@y.example", "bob").returncode == 65
    assert deliver(p, "bo\nb").returncode == 65
    assert deliver(p).returncode == 64
    assert deliver(p, "--nonsense", "bob").returncode == 64
    assert deliver(p, "bob", "alice").returncode == 64
    assert deliver(p, "--socket", "/x", "bob").returncode == 64
    assert deliver(p, "bob", where=["--socket", "/nonexistent"]).returncode == 75
    assert deliver(p, "bob", where=["--config", "/nonexistent"]).returncode == 75
    p.write_config(store_over_quota="defer")
    p.ctl("reload")
    assert deliver(p, "alice").returncode == 75
    with subprocess.Popen([poplar.BUILD / "poplar-deliver", "--config", p.config, "bob"],
                          stdin=subprocess.PIPE) as broken:
        broken.stdin.write(b"half a message\n")
        broken.stdin.flush()
        wait_until(p.serving, "the connection")
        broken.kill()
    assert mail_of(p, "bob") == []
    # Maildrop, for one, takes a pipe that breaks for a failure that passes.
    with subprocess.Popen([poplar.BUILD / "poplar-deliver", "--config", p.config, "nobody-here"],
                          stdin=subprocess.PIPE) as refused:
        refused.stdin.write(b"more than a pipe holds\n" * 50_000)
    assert refused.returncode == 67
    p.stop()
    assert deliver(p, "bob").returncode == 75


def test_pipe_names_that_need_quotes(start):
    p = start(pam_unix=False, delivery_accept="any")
    for name in ("two words", 'a"b', "DOMAIN\\user", "<x>"[1:-1], "semi;colon"):
        assert deliver(p, name).returncode == 0, name
        drop, = [d for d in p.state.glob("mail/??/??/*") if d.name == name.lower()]
        assert drop.is_dir()


@pytest.mark.parametrize("chunks", [False, True], ids=["data", "chunks"])
def test_nul(start, chunks):
    """[delivery] nul=reject: each recipient is refused, for good; the connection is not. Kept by
    default, octet for octet."""
    message = b"Subject: one\r\n\r\nNU\0L\r\n"

    def deliver(c):
        if not chunks:
            return c.deliver(b"alice", b"bob", message=message)
        c.begin(b"alice", b"bob")
        c.send(b"BDAT %d LAST\r\n" % len(message) + message)
        return [c.reply(), c.reply()]
    p = start(delivery_nul="reject")
    c = Lmtp(p.lmtp)
    assert deliver(c) == [b"554 5.6.0 The message has a NUL, which is not taken here"] * 2
    assert c.deliver(b"alice") == [b"250 2.0.0 Delivered"]
    with session(p) as raw:
        assert raw.ask(b"STAT").startswith(b"+OK 1 ")
    p.write_config(delivery_nul="keep")
    p.ctl("reload")
    c = Lmtp(p.lmtp)
    assert deliver(c) == [b"250 2.0.0 Delivered"] * 2
    with session(p) as raw:
        assert raw.ask(b"RETR 2").startswith(b"+OK")
        assert b"NU\0L\r\n" in raw.multi()


# Much of it.

@pytest.mark.memory
def test_large_message_in_constant_memory(start):
    """100 MB: the worker stays below 8 MiB above an idle session's, coming in and going out; so
    does poplar-deliver."""
    p = start(store_max_message="200M")
    c = Lmtp(p.lmtp)

    def peak(pid):
        return int(p.proc_status(pid)["VmHWM"].split()[0])
    worker, = p.serving()
    idle = peak(worker)
    c.begin(b"alice")
    assert c.say(b"DATA")[:3] == b"354"
    line = b"x" * 1_048_574 + b"\r\n"
    for _ in range(100):
        c.send(line)
    c.send(b".\r\n")
    assert c.reply() == b"250 2.0.0 Delivered"
    delivery = peak(worker) - idle
    assert delivery < 8192
    c.close()
    with open("/dev/zero", "rb") as zero, subprocess.Popen(
            [poplar.BUILD / "poplar-deliver", "--config", p.config, "bob"],
            stdin=subprocess.PIPE) as pipe:
        tool = 0
        for _ in range(20):
            pipe.stdin.write(zero.read(1 << 20))
            tool = max(tool, int(p.proc_status(pipe.pid)["VmHWM"].split()[0]))
        pipe.stdin.close()
        assert pipe.wait(60) == 0
    assert tool < 8192
    with session(p) as raw:
        size = int(raw.ask(b"STAT").split()[2])
        assert size > 100 << 20
        worker, = wait_until(lambda: (found := p.serving())[1:] == [] and found, "one worker")
        idle = peak(worker)
        assert raw.ask(b"RETR 1").startswith(b"+OK")
        got = 0
        while (text := raw.line()) != b".\r\n":
            got += len(text)
        assert got == size
        assert peak(worker) - idle < 8192


SENDERS, USERS, FETCHERS = 20, 50, 20
EACH = 500 if os.environ.get("LONG") == "1" else 100  # messages of a sender


def test_many_at_once(start):
    """2,000 messages (LONG=1: 10,000) over 20 connections to 50 users, 20 sessions fetch and delete
    meanwhile: each that was acknowledged is there, or was fetched, once and whole."""
    p = start(pam_unix=False, delivery_accept="any", workers_max_per_source="100")
    users = [f"user{n}" for n in range(USERS)]
    sent, fetched, problems = [], [], []
    sending = threading.Event()
    sending.set()

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except BaseException as problem:  # noqa: BLE001 a thread's failure is the test's
            problems.append(problem)

    def send(k):
        c = Lmtp(p.lmtp)
        for n in range(EACH):
            user = users[(k * 7 + n) % USERS]
            token = f"{k}-{n}-{user}".encode()
            text = b"Token: " + token + b"\r\n\r\n" + b"x" * (n * 37 % 3000) + b"\r\n"
            if c.deliver(user.encode(), message=text) == [b"250 2.0.0 Delivered"]:
                sent.append(token)

    def take(user, raw):
        got = []
        count = int(raw.ask(b"STAT").split()[1])
        for n in range(1, count + 1):
            assert raw.ask(b"RETR %d" % n).startswith(b"+OK")
            text = body(b"".join(raw.multi()))
            token = re.match(rb"Token: (\S+)\r\n\r\nx*\r\n\Z", text)
            assert token and token[1].endswith(user.encode()), text[:80]
            got.append(token[1])
            assert raw.ask(b"DELE %d" % n).startswith(b"+OK")
        return got

    def fetch(k):
        rounds = 0
        while sending.is_set() or rounds == 0:
            rounds += 1
            for user in users[k::FETCHERS]:
                with session(p, user) as raw:
                    got = take(user, raw)
                fetched.extend(got)

    senders = [threading.Thread(target=guarded, args=(send, k)) for k in range(SENDERS)]
    fetchers = [threading.Thread(target=guarded, args=(fetch, k)) for k in range(FETCHERS)]
    for thread in senders + fetchers:
        thread.start()
    for thread in senders:
        thread.join(600)
    sending.clear()
    for thread in fetchers:
        thread.join(600)
    assert not problems, problems[:3]
    assert len(sent) == SENDERS * EACH
    for user in users:
        with session(p, user) as raw:
            fetched.extend(take(user, raw))
    assert sorted(fetched) == sorted(sent)
