"""Mail from SMTP to POP3 through a real Exim: its lmtp transport, and poplar-deliver in a pipe."""

import re
import smtplib

import pytest

import manual
from fetch import PASSWORDS, bounced, letter, mail_of
from poplar import free_port, wait_until
from trees import Tree, needs

pytestmark = [pytest.mark.accounts, needs("exim")]

CONFIGURATION = """
primary_hostname = mx.example.test
domainlist local_domains = example.test
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
tls_advertise_hosts =
acl_smtp_rcpt = everything
log_file_path = /var/log/exim4/%slog
begin acl
everything:
  accept
begin routers
forward_file:
  driver = redirect
  check_local_user
  file = $home/.forward
  pipe_transport = pipe
maildrop:
  driver = accept
  domains = +local_domains
  {router}
begin transports
{lmtp}
pipe:
  driver = pipe
  return_fail_output
  temp_errors = 75
command:
  driver = pipe
  command = {program} $local_part_data
  message_suffix =
  return_fail_output
  temp_errors = 75
begin retry
* * F,1h,1s
"""

# Exim puts nothing on a command line that came from outside: the sender's address only stands in
# the "From " line.
ROUTERS = {
    "lmtp": "transport = poplar",
    "command": "check_local_user\n  transport = command",
}


class Exim:
    """Exim in its tree, in front of a Poplar."""

    def __init__(self, directory, p):
        self.tree = Tree("exim", directory, "/var/spool/exim4", "/var/lib/exim4")
        self.tree.accounts(*PASSWORDS)
        self.tree.lend_account("Debian-exim")
        self.tree.share(p.run, "/run/poplar")
        self.program = (f"{self.tree.put_program('poplar-deliver')} "
                        "--socket /run/poplar/lmtp.sock")
        self.port = free_port()

    def start(self, transport="lmtp"):
        shown, = (text for text in manual.examples("poplar-deliver.8", "EXAMPLES")
                  if "driver = lmtp" in text)
        if transport == "debian":
            self.configure_debian(shown)
        else:
            self.tree.write("/etc/exim4/exim4.conf", CONFIGURATION.format(
                port=self.port, program=self.program, router=ROUTERS[transport], lmtp=shown))
        self.tree.serve("exim4", "-bdf", ports=[self.port])

    def configure_debian(self, shown):
        """As the manual says for Debian's own configuration."""
        self.tree.write("/etc/exim4/conf.d/transport/30_poplar", shown)
        file = self.tree.root / "etc/exim4/update-exim4.conf.conf"
        text = file.read_text()
        for line in ["dc_use_split_config='true'", "dc_localdelivery='poplar'",
                     "dc_eximconfig_configtype='internet'",
                     "dc_other_hostnames='example.test'",
                     f"dc_local_interfaces='127.0.0.1.{self.port}'"]:
            key = line.partition("=")[0]
            text = re.sub(f"(?m)^{key}=.*", line, text)
        file.write_text(text)
        self.tree.run("update-exim4.conf")

    def send(self, recipients, message):
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.sendmail("carol@example.test", recipients, message)

    def queue(self):
        """The recipients that still wait, by name."""
        listing = self.tree.run("exim4", "-bp", text=True).stdout
        return {line.strip() for line in listing.splitlines() if line.startswith(" " * 10)}

    def settle(self, *waiting):
        """Try what waits, until it is what is expected."""
        def settled():
            self.tree.run("exim4", "-qff")
            return self.queue() == set(waiting)
        wait_until(settled, lambda: f"{self.queue()}\n{self.tree.logs()}", 60)

    def log(self, pattern):
        log = (self.tree.root / "var/log/exim4/mainlog").read_text()
        return re.search(pattern, log)


@pytest.fixture
def exim(server, tmp_path):
    """A factory: an Exim, not started, and the Poplar behind it."""
    made = []

    def make(**settings):
        p = server(pam_unix=True, auth_throttle_exempt="127.0.0.0/8",
                   server_local_domains="example.test, localhost", **settings)
        made.append(Exim(tmp_path, p))
        return made[-1], p
    yield make
    for e in made:
        print(e.tree.logs())
        e.tree.close()


@pytest.mark.parametrize("transport", ["lmtp", "debian", "command"])
def test_one_of_two_over_quota(exim, transport):
    """By LMTP and by a pipe: the one gets its mail, the other's waits until there is room."""
    e, p = exim(store_quota_messages="1")
    e.start(transport)
    p.add("alice", b"Subject: was there first\r\n\r\n")
    e.send(["alice@example.test", "bob@example.test"], letter("both", ".dot\n\nlast\n"))
    e.settle("alice@example.test")
    message, = mail_of(p, "bob")
    assert message["Subject"] == "both" and message["Return-Path"] == "<carol@example.test>"
    assert message.get_payload().replace("\r\n", "\n") == ".dot\n\nlast\n"
    assert e.log("== alice@example.test .*Child process of command transport returned 75"
                 if transport == "command" else r"== alice@example.test .*452 4\.2\.2")
    assert [m["Subject"] for m in mail_of(p)] == ["was there first"]
    e.settle()
    assert [m["Subject"] for m in mail_of(p)] == ["both"]


@pytest.mark.parametrize("transport", ["lmtp", "command"])
def test_sent_back(exim, transport):
    """An unknown recipient, and a full maildrop with over_quota=reject."""
    e, p = exim(store_quota_messages="1", store_over_quota="reject")
    e.start(transport)
    p.add("alice", b"Subject: was there first\r\n\r\n")
    e.send(["nobody-here@example.test", "bob@example.test"], letter("one"))
    e.settle()
    assert ("550 5.1.1 No such user" if transport == "lmtp" else "Unrouteable") in bounced(p)
    e.send(["alice@example.test"], letter("two"))
    e.settle()
    assert "552 5.2.2 The maildrop is full" in bounced(p)
    assert [m["Subject"] for m in mail_of(p, "bob")] == ["one"]


def test_server_down(exim):
    e, p = exim()
    e.start()
    p.stop()
    e.send(["alice@example.test"], letter("waits"))
    e.settle("alice@example.test")
    p.start()
    e.settle()
    assert [m["Subject"] for m in mail_of(p)] == ["waits"]


def test_forward_file(exim):
    """A user's own .forward, run as that user."""
    e, p = exim()
    e.tree.write("/home/alice/.forward", f'"|{e.program} alice"\n', "alice")
    e.start()
    e.send(["alice@example.test"], letter("forwarded"))
    e.settle()
    p.wait_log(r"delivered user=alice octets=\d+ from=<carol@example.test> to=<alice>")
    message, = mail_of(p)
    assert message["Subject"] == "forwarded" and "(unix:100" in message["Received"]
