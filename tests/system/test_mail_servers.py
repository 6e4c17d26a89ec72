"""Mail from SMTP to POP3 through sendmail and OpenSMTPD, each with what poplar-deliver(8) shows for
it. Their trees are made with LONG=1."""

import re
import smtplib

import pytest

import manual
from fetch import PASSWORDS, letter, mail_of
from poplar import free_port, wait_until
from trees import Tree, needs

pytestmark = pytest.mark.accounts


class Server:
    """One of them in its tree, in front of a Poplar."""

    def __init__(self, directory, p):
        self.tree = Tree(self.name, directory, *self.writable)
        self.tree.accounts(*PASSWORDS)
        self.tree.share(p.run, "/run/poplar")
        self.port = free_port()
        shown, = (text for text in manual.examples("poplar-deliver.8", "EXAMPLES")
                  if self.mark in text)
        program = f"{self.tree.put_program('poplar-deliver')} --socket /run/poplar/lmtp.sock"
        self.start(shown.replace("/usr/bin/poplar-deliver", program))

    def send(self, sender, recipients, message):
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.sendmail(sender, recipients, message)

    def settle(self, *waiting):
        """Try what waits, until it is what is expected."""
        def settled():
            self.tree.run(*self.flush, check=False)
            listing = self.tree.run(*self.list, text=True).stdout
            return set(re.findall(self.listed, listing, re.M)) == set(waiting)
        wait_until(settled, lambda: f"{self.tree.run(*self.list).stdout}\n{self.tree.logs()}", 60)


class Sendmail(Server):
    name, mark = "sendmail", "FEATURE"
    writable = ("/var/spool", "/var/lib/sendmail")
    flush, list, listed = ("sendmail", "-q"), ("sendmail", "-bp"), r"^\s+<(\S+)>$"

    def start(self, shown):
        file = self.tree.root / "etc/mail/sendmail.mc"
        kept = [line for line in file.read_text().splitlines(keepends=True)
                if "MSP-v4" not in line and not re.search(  # what needs a resolver, and waits
                    "(greet_pause|ratecontrol|conncontrol|access_db|delay_checks|dialup)", line)]
        more = ("FEATURE(`accept_unresolvable_domains')dnl\nFEATURE(`nocanonify')dnl\n"
                "define(`confSERVICE_SWITCH_FILE', `/etc/mail/service.switch-nodns')dnl\n"
                "define(`confDOMAIN_NAME', `mx.example.test')dnl\n" + shown)
        text = "".join(kept).replace("Port=smtp", f"Port={self.port}")
        file.write_text(text.replace("MAILER_DEFINITIONS", more + "MAILER_DEFINITIONS"))
        self.tree.write("/etc/mail/local-host-names", "example.test\nlocalhost\n")
        self.tree.run("sh", "-c", "m4 /etc/mail/sendmail.mc >/etc/mail/sendmail.cf && newaliases")
        (self.tree.root / "run/sendmail/mta").mkdir(parents=True, exist_ok=True)
        self.tree.serve("sendmail", "-bD", ports=[self.port])


class Opensmtpd(Server):
    name, mark = "opensmtpd", "action"
    writable = ("/var/spool", "/var/lib/opensmtpd")
    flush, list = ("smtpctl", "schedule", "all"), ("smtpctl", "show", "queue")
    listed = r"^\w+\|(?:[^|]*\|){5}([^|]+)"

    def start(self, shown):
        self.tree.write("/etc/mailname", "mx.example.test\n")
        file = self.tree.root / "etc/smtpd.conf"
        text = file.read_text().replace("listen on localhost", f"listen on 127.0.0.1 port {self.port}")
        text = re.sub(r'^action "local".*\n', shown + 'match from any for domain "example.test" '
                      'action "local"\n', text, flags=re.M)
        file.write_text(text)
        self.tree.serve("smtpd", "-d", ports=[self.port])


@pytest.fixture(params=[pytest.param(kind, marks=needs(kind.name), id=kind.name)
                        for kind in (Sendmail, Opensmtpd)])
def front(request, server, tmp_path):
    """A factory: one of them, and the Poplar behind it."""
    made = []

    def make(**settings):
        p = server(pam_unix=True, auth_throttle_exempt="127.0.0.0/8",
                   server_local_domains="example.test, localhost", **settings)
        made.append(request.param(tmp_path, p))
        return made[-1], p
    yield make
    for s in made:
        print(s.tree.logs())
        s.tree.close()


def test_one_of_two_over_quota(front):
    """The one gets its mail, the other's waits until there is room."""
    s, p = front(store_quota_messages="1")
    p.add("alice", b"Subject: was there first\r\n\r\n")
    s.send("carol@example.test", ["alice@example.test", "bob+detail@example.test"],
           letter("both", ".dot\n\nFrom here\n"))
    s.settle("alice@example.test")
    message, = mail_of(p, "bob")
    assert (message["Subject"], message.get_all("Return-Path")) == ("both", ["<carol@example.test>"])
    assert message.get_payload().replace("\r\n", "\n") == ".dot\n\nFrom here\n"
    assert [m["Subject"] for m in mail_of(p)] == ["was there first"]
    s.settle()
    assert [m["Subject"] for m in mail_of(p)] == ["both"]


def test_sent_back(front):
    """A full maildrop with over_quota=reject."""
    s, p = front(store_quota_messages="1", store_over_quota="reject")
    p.add("alice", b"Subject: was there first\r\n\r\n")
    s.send("carol@example.test", ["alice@example.test", "bob@example.test"], letter("both"))
    s.settle()
    report, = mail_of(p, "carol")
    assert report["Return-Path"] == "<>"
    assert "552 5.2.2 The maildrop is full" in report.as_string()
    assert [m["Subject"] for m in mail_of(p, "bob")] == ["both"]
