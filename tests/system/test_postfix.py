"""Mail from SMTP to POP3 through a real Postfix, whose `lmtp` is chrooted as Debian ships it: what it
delivers, keeps in its queue, sends back; and poplar-deliver where Postfix's local(8) runs it."""

import json
import re
import smtplib
from email.header import decode_header, make_header
from pathlib import Path

import pytest

import manual
from fetch import PASSWORDS, bounced, letter, mail_of
from poplar import free_port, wait_until
from trees import Tree, needs

pytestmark = [pytest.mark.accounts, needs("postfix")]

SOCKET = "poplar/lmtp.sock"  # seen from Postfix's queue directory, which is also its chroot


class Postfix:
    """Postfix in its tree, in front of a Poplar."""

    def __init__(self, directory):
        self.tree = Tree("postfix", directory, "/var/spool/postfix", "/var/lib/postfix")
        self.tree.accounts(*PASSWORDS)
        self.tree.lend_account("postfix")
        self.socket = self.tree.root / "var/spool/postfix" / SOCKET
        self.port = free_port()

    def start(self, **settings):
        settings = {"myhostname": "mx.example.test", "mydestination": "example.test, localhost",
                    "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4", "alias_maps": "",
                    "maillog_file": "/var/log/mail.log", "mailbox_command": "",
                    "mailbox_transport": f"lmtp:unix:{SOCKET}", "local_recipient_maps": ""
                    } | settings
        # Debian's own chroot set-up: what the chrooted daemons read of /etc.
        self.tree.run("/usr/lib/postfix/configure-instance.sh", "-")
        self.tree.run("postconf", "-e", *[f"{k}={v}" for k, v in settings.items()])
        self.tree.run("postconf", "-MX", "smtp/inet")
        self.tree.run("postconf", "-M", f"{self.port}/inet={self.port} inet n - y - - smtpd")
        assert self.tree.run("postconf", "-Fh", "lmtp/unix/chroot").stdout == b"y\n"
        self.tree.serve("postfix", "start-fg", ports=[self.port])
        return self

    def send(self, sender, recipients, message, options=()):
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.sendmail(sender, recipients, message, mail_options=options)

    def queue(self):
        """The recipients that still wait, with the reason of each that was tried."""
        lines = self.tree.run("postqueue", "-j").stdout.splitlines()
        return {to["address"]: to.get("delay_reason", "")
                for line in lines for to in json.loads(line)["recipients"]}

    def wait_queue(self, wanted):
        """Wait until those are left which match: {address: pattern of the reason}."""
        def settled():
            queue = self.queue()
            return queue.keys() == wanted.keys() and all(
                re.search(pattern, queue[address]) for address, pattern in wanted.items())
        wait_until(settled, lambda: f"the queue: {self.queue()}\n{self.tree.logs()}", 60)

    def flush(self):
        self.tree.run("postqueue", "-f")

    def close(self):
        print(self.tree.logs())
        self.tree.close()


@pytest.fixture
def postfix(tmp_path):
    made = Postfix(tmp_path)
    yield made
    made.close()


@pytest.fixture
def poplar_behind(server, postfix):
    """A Poplar that Postfix reaches inside its chroot."""
    def start(**settings):
        p = server(pam_unix=True, auth_throttle_exempt="127.0.0.0/8", start=False,
                   server_local_domains="example.test, localhost", **settings)
        p.write_config(listen_lmtp=f"{p.lmtp}, {postfix.socket}")
        p.config.chmod(0o644)
        return p.start()
    return start


def test_there_and_back(postfix, poplar_behind):
    """SMTP, Postfix, LMTP, store, POP3S, fetchmail; dots, 8 bit and long lines on the way."""
    p = poplar_behind()
    postfix.start()
    text = ".\n..dots\né 8 bit\n" + "x" * 990 + "\n"
    postfix.send("carol@example.test", ["alice@example.test"], letter("one", text),
                 ["BODY=8BITMIME"])
    postfix.wait_queue({})
    message, = mail_of(p)
    assert message["Return-Path"] == "<carol@example.test>"
    assert message["Delivered-To"] == "alice"
    ours, *theirs = message.get_all("Received")[-3:]
    assert "with LMTP id" in ours and "(Postfix)" in theirs[0]
    assert message.get_payload(decode=True).replace(b"\r\n", b"\n") == text.encode()
    assert mail_of(p) == []
    assert f"relay=mx.example.test[{SOCKET}]" in postfix.tree.logs()


@pytest.mark.parametrize("transport", ["mailbox_transport", "local_transport"])
def test_one_of_two_over_quota(postfix, poplar_behind, transport):
    """The other gets its mail; the full one's stays in the queue, until there is room. Postfix's
    local(8) sends a transaction for each, its queue manager one for both."""
    p = poplar_behind(store_quota_messages="1")
    postfix.start(**{transport: f"lmtp:unix:{SOCKET}"})
    p.add("alice", b"Subject: was there first\r\n\r\n")
    postfix.send("carol@example.test", ["alice@example.test", "bob@example.test"], letter("both"))
    postfix.wait_queue({"alice@example.test": r"452 4\.2\.2 The maildrop is full"})
    assert [m["Subject"] for m in mail_of(p, "bob")] == ["both"]
    assert [m["Subject"] for m in mail_of(p)] == ["was there first"]
    postfix.flush()
    postfix.wait_queue({})
    assert [m["Subject"] for m in mail_of(p)] == ["both"]
    assert mail_of(p, "bob") == [] and mail_of(p, "carol") == []


def test_over_quota_sent_back(postfix, poplar_behind):
    """over_quota=reject: the sender gets a report, which comes from the null sender."""
    p = poplar_behind(store_quota_messages="1", store_over_quota="reject")
    postfix.start()
    p.add("alice", b"Subject: was there first\r\n\r\n")
    postfix.send("carol@example.test", ["alice@example.test", "bob@example.test"], letter("both"))
    postfix.wait_queue({})
    report = bounced(p)
    assert "Final-Recipient: rfc822; alice@example.test\n" in report and "Status: 5.2.2\n" in report
    assert "552 5.2.2 The maildrop is full" in report
    assert [m["Subject"] for m in mail_of(p, "bob")] == ["both"]


def test_unknown_sent_back(postfix, poplar_behind):
    p = poplar_behind()
    postfix.start()
    postfix.send("carol@example.test", ["nobody-here@example.test", "bob@example.test"],
                 letter("both"))
    postfix.wait_queue({})
    report = bounced(p)
    assert "nobody-here@example.test" in report and "Status: 5.1.1\n" in report
    assert "550 5.1.1 No such user" in report
    assert len(mail_of(p, "bob")) == 1


def test_directory_down(postfix, poplar_behind):
    """While nobody can be looked up everything waits, unknown recipients as well."""
    p = poplar_behind()
    postfix.start()
    services, passwd = Path("/etc/nsswitch.conf"), Path("/etc/passwd")
    before = services.read_text()
    services.write_text("passwd: files\ngroup: files\n")
    passwd.rename("/etc/passwd.away")
    try:
        postfix.send("carol@example.test", ["alice@example.test", "nobody-here@example.test"],
                     letter("waits"))
        postfix.wait_queue({"alice@example.test": r"451 4\.3\.0",
                            "nobody-here@example.test": r"451 4\.3\.0"})
    finally:
        Path("/etc/passwd.away").rename(passwd)
        services.write_text(before)
    postfix.flush()
    postfix.wait_queue({})
    assert [m["Subject"] for m in mail_of(p)] == ["waits"]
    assert "nobody-here@example.test" in bounced(p)


def test_server_down(postfix, poplar_behind):
    p = poplar_behind()
    postfix.start()
    p.stop()
    postfix.send("carol@example.test", ["alice@example.test"], letter("waits"))
    postfix.wait_queue({"alice@example.test": r"connect to .*Connection refused|No such file"})
    p.start()
    postfix.flush()
    postfix.wait_queue({})
    assert [m["Subject"] for m in mail_of(p)] == ["waits"]


def test_smtputf8(postfix, poplar_behind):
    """An address and a header in UTF-8 all the way; a client that did not ask for UTF8 gets ASCII."""
    p = poplar_behind()
    postfix.start()
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as client:
        client.ehlo()
        client.command_encoding = "utf-8"
        client.sendmail("émile@example.test", ["alice+é@example.test"],
                        letter("élan").replace(b"carol", "émile".encode()), ["SMTPUTF8"])
    postfix.wait_queue({})
    client = p.login()
    client.utf8()
    number = client.stat()[0]
    message = b"\n".join(client.retr(number)[1])
    client.quit()
    assert message.startswith("Return-Path: <émile@example.test>\nDelivered-To: alice\n".encode())
    assert "Subject: élan".encode() in message and b"with UTF8LMTP id" in message
    plain, = mail_of(p)
    assert str(make_header(decode_header(plain["Subject"]))) == "élan"
    assert plain.as_bytes().isascii()


@pytest.mark.parametrize("sender", ["<é@x.example>".encode(), b'<""@x.example>', b"<@x.example>",
                                    b"<" + b"x" * 900 + b"@x.example>", b"<a\x7fb@x.example>"],
                         ids=lambda octets: repr(octets)[:20])
def test_senders_that_postfix_takes(postfix, poplar_behind, sender):
    """None of them is a reason to send the mail back; nor is a detail in UTF-8."""
    p = poplar_behind()
    postfix.start(local_transport=f"lmtp:unix:{SOCKET}")
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=60) as client:
        client.ehlo()
        client.command_encoding = "latin-1"
        assert client.docmd("MAIL", "FROM:" + sender.decode("latin-1"))[0] == 250
        for to in (b"alice@example.test", "alice+é@example.test".encode()):
            assert client.docmd("RCPT", f"TO:<{to.decode('latin-1')}>")[0] == 250
        assert client.data(letter("taken"))[0] == 250
    wait_until(lambda: postfix.queue() == {}, "an empty queue")
    assert [m["Subject"] for m in mail_of(p)] == ["taken"] and "=bounced" not in postfix.tree.logs()


def test_too_large(postfix, poplar_behind):
    """LMTP's SIZE is announced: Postfix sends it back without saying it first."""
    p = poplar_behind(store_max_message="20K")
    postfix.start(bounce_size_limit="1000")
    postfix.send("carol@example.test", ["alice@example.test"], letter("large", "x\n" * 10_000))
    postfix.wait_queue({})
    assert "Status: 5.3.4\n" in bounced(p)


# poplar-deliver, which local(8) runs as the recipient.

def pipe_into(postfix, p):
    """The command that an administrator would write, as it is in the tree."""
    postfix.tree.share(p.run, "/run/poplar")
    return f"{postfix.tree.put_program('poplar-deliver')} --socket /run/poplar/lmtp.sock"


def test_forward_file(postfix, poplar_behind):
    """A user's own .forward; an exit status of sysexits.h keeps the mail or sends it back."""
    p = poplar_behind(store_quota_messages="1")
    program = pipe_into(postfix, p)
    for user in ("alice", "bob"):
        postfix.tree.write(f"/home/{user}/.forward", f'"|{program} alice"\n', user)
    postfix.start(mailbox_transport="")
    postfix.send("carol@example.test", ["alice@example.test"], letter("forwarded", "From here\n"))
    postfix.wait_queue({})
    p.wait_log(r"delivered user=alice octets=\d+ from=<carol@example.test> to=<alice>")
    postfix.send("carol@example.test", ["alice@example.test", "bob@example.test"], letter("more"))
    postfix.wait_queue({"alice@example.test": "temporary failure"})
    p.wait_log("refused to=<alice> .* reason=not-by-this-peer")  # bob may not
    message, = mail_of(p)
    assert message["Subject"] == "forwarded" and "(unix:" in message["Received"]
    postfix.flush()
    postfix.wait_queue({})
    assert [m["Subject"] for m in mail_of(p)] == ["more"]


def test_mailbox_command(postfix, poplar_behind):
    """For all users at once, each as himself; the detail of an address is no matter."""
    p = poplar_behind()
    program = pipe_into(postfix, p)
    postfix.start(mailbox_transport="", mailbox_command=f'{program} -f "$SENDER" "$USER"')
    postfix.send("carol@example.test", ["alice+detail@example.test", "bob@example.test"],
                 letter("both"))
    postfix.wait_queue({})
    for user in ("alice", "bob"):
        message, = mail_of(p, user)
        assert message["Return-Path"] == "<carol@example.test>"
        assert message["Delivered-To"] == user


def test_procmail(postfix, poplar_behind):
    """Debian's own mailbox_command, and the manual's recipe for what is kept."""
    p = poplar_behind(store_quota_messages="1")
    recipe, = (text for text in manual.examples("poplar-deliver.8", "EXAMPLES") if ":0" in text)
    recipe = recipe.replace("/usr/bin/poplar-deliver", pipe_into(postfix, p))
    postfix.tree.write("/home/alice/.procmailrc",
                       f":0\n* ^Subject: junk\n/dev/null\n\n{recipe}", "alice")
    postfix.start(mailbox_transport="", mailbox_command='procmail -a "$EXTENSION"')
    postfix.send("carol@example.test", ["alice@example.test"], letter("junk"))
    postfix.send("carol@example.test", ["alice@example.test"], letter("kept"))
    postfix.wait_queue({})
    postfix.send("carol@example.test", ["alice@example.test"], letter("waits"))
    postfix.wait_queue({"alice@example.test": "452 4.2.2 The maildrop is full"})
    message, = mail_of(p)
    assert (message["Subject"], message["Return-Path"]) == ("kept", "<carol@example.test>")
    assert message.get_payload() == "body\n"
    postfix.flush()
    postfix.wait_queue({})
    assert [m["Subject"] for m in mail_of(p)] == ["waits"]
