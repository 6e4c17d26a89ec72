"""Real clients list, fetch, leave on the server and delete, by STLS and over TLS, through pam_unix.
(test_clients.py has every octet of the corpus; this has what clients do to a maildrop.)"""

import contextlib
import os
import poplib
import pty
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from poplar import GETMAIL, on_the_wire, wait_until

pytestmark = pytest.mark.accounts

DOORS = pytest.mark.parametrize("tls", [False, True], ids=["stls", "tls"])
PERL = Path(__file__).resolve().parent.parent / "support" / "perl" / "pop3.pl"

HEADER = b"From: Ada <ada@example.test>\r\nTo: alice@example.test\r\n" \
         b"Date: Mon, 6 Jan 2025 10:00:%02d +0000\r\nMessage-ID: <%d@example.test>\r\n" \
         b"Subject: Letter number-%d\r\n\r\n"
BODIES = (b"One line.\r\n", b".\r\n..\r\n.dots to stuff\r\n", b"A line of a long letter.\r\n" * 3000)
MAIL = [HEADER % (i, i, i) + body for i, body in enumerate(BODIES, 1)]
NUMBERS = [b"number-1", b"number-2", b"number-3"]


def contents(server, delete=False):
    """What the maildrop holds. The session of a client that just left may still have it."""
    def session():
        with contextlib.suppress(poplib.error_proto):
            return server.login()
        return None
    client = wait_until(session, "the maildrop to be free")
    found = []
    for number in range(1, client.stat()[0] + 1):
        found.append(b"".join(line + b"\r\n" for line in client.retr(number)[1]))
        if delete:
            client.dele(number)
    port = client.sock.getsockname()[1]
    client.quit()
    server.wait_log(f"session ended: peer=127.0.0.1:{port} ")
    return found


@pytest.fixture
def letters(unix):
    """Three letters in alice's maildrop, and nothing else."""
    contents(unix, delete=True)
    for letter in MAIL:
        unix.add("alice", letter)
    assert contents(unix) == MAIL
    return unix


def run(*command, cwd=None, status=0, **environment):
    result = subprocess.run(command, timeout=60, capture_output=True, cwd=cwd,
                            env=os.environ | environment)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def port_of(server, tls):
    return server.tls_port if tls else server.port


def subjects(octets):
    """Which of the letters are in there, in their order."""
    return [word for line in octets.splitlines() if line.startswith(b"Subject: Letter ")
            for word in line.split()[2:]]


@DOORS
def test_poplib(letters, tls):
    client = letters.login(tls=tls)
    assert [line.split()[1] for line in client.list()[1]] == [b"%d" % len(m) for m in MAIL]
    assert len(client.uidl()[1]) == len(MAIL)
    client.retr(2)
    client.quit()
    assert contents(letters) == MAIL
    client = letters.login(tls=tls)
    client.dele(2)
    assert [line.split()[0] for line in client.list()[1]] == [b"1", b"3"]
    client.quit()
    assert contents(letters) == [MAIL[0], MAIL[2]]


@DOORS
def test_perl(letters, tls, tmp_path):
    file = tmp_path / "fetched"
    for action, left in ("leave", MAIL), ("delete", []):
        listed = run("perl", PERL, "tls" if tls else "stls", str(port_of(letters, tls)),
                     letters.certificate, "alice", "secret", action, file)
        assert [line.split()[:2] for line in listed.splitlines()] == [
            [b"%d" % i, b"%d" % len(m)] for i, m in enumerate(MAIL, 1)]
        # Net::POP3 gives lines as they came but for the line end.
        assert on_the_wire(file.read_bytes()) == b"".join(MAIL)
        assert contents(letters) == left


@DOORS
def test_curl(letters, tls):
    url = f"pop3{'s' if tls else ''}://localhost:{port_of(letters, tls)}"

    def curl(path, *arguments):
        return run("curl", "--cacert", letters.certificate, "--user", "alice:secret", "--ssl-reqd",
                   "-sS", f"{url}/{path}", *arguments)
    assert curl("") == b"".join(b"%d %d\r\n" % (i, len(m)) for i, m in enumerate(MAIL, 1))
    assert [curl(str(number)) for number in (1, 2, 3)] == MAIL
    assert curl("", "-X", "TOP 2 1").endswith(b"-2\r\n\r\n.\r\n")
    assert contents(letters) == MAIL
    curl("", "-X", "DELE 2", "--head")
    assert contents(letters) == [MAIL[0], MAIL[2]]


@DOORS
def test_fetchmail(letters, tls, tmp_path):
    config, box = tmp_path / "fetchmailrc", tmp_path / "box"

    def fetchmail(*arguments, keep, status=0):
        config.write_text(f"""
set invisible
set idfile "{tmp_path}/ids"
set pidfile "{tmp_path}/pid"
poll localhost protocol POP3 port {port_of(letters, tls)} uidl timeout 60
  user alice password secret {"keep" if keep else "fetchall nokeep"}
  {"ssl" if tls else "sslproto TLS1.2+"} sslcertfile "{letters.certificate}" sslcertck
  mda "cat >>{box}"
""")
        config.chmod(0o600)
        return run("fetchmail", "--fetchmailrc", config, "--nosyslog", *arguments, status=status,
                   HOME=str(tmp_path), FETCHMAILHOME=str(tmp_path), LC_ALL="C")
    assert b"3 messages" in fetchmail("--check", keep=True)
    fetchmail(keep=True)
    assert subjects(box.read_bytes()) == NUMBERS and contents(letters) == MAIL
    fetchmail(keep=True, status=1)  # seen, all of them
    box.unlink()
    fetchmail(keep=False)
    assert subjects(box.read_bytes()) == NUMBERS and contents(letters) == []


@DOORS
def test_mpop(letters, tls, tmp_path):
    config, box = tmp_path / "mpoprc", tmp_path / "box"

    def mpop(*arguments, keep):
        config.write_text(f"""
account default
host localhost
port {port_of(letters, tls)}
user alice
password secret
tls on
tls_starttls {"off" if tls else "on"}
tls_trust_file {letters.certificate}
keep {"on" if keep else "off"}
uidls_file {tmp_path}/uidls
delivery mbox {box}
""")
        config.chmod(0o600)
        return run("mpop", "--file", config, *arguments)
    assert b"3 messages" in mpop("--status-only", keep=True)
    mpop(keep=True)
    assert subjects(box.read_bytes()) == NUMBERS and contents(letters) == MAIL
    mpop(keep=False)  # has them: deletes only
    assert subjects(box.read_bytes()) == NUMBERS and contents(letters) == []


def test_getmail(letters, tmp_path):
    """Over TLS, the only way it knows; run as carol, it delivers for nobody who is root."""
    config, box = tmp_path / "getmailrc", tmp_path / "box"
    box.touch()

    def getmail(*arguments, delete):
        config.write_text(f"""
[retriever]
type = SimplePOP3SSLRetriever
server = localhost
port = {letters.tls_port}
username = alice
password = secret
ca_certs = {letters.certificate}
[destination]
type = Mboxrd
path = {box}
[options]
read_all = false
delete = {"true" if delete else "false"}
""")
        run("chown", "-R", "carol", tmp_path)
        return run("runuser", "-u", "carol", "--", *GETMAIL, "--getmaildir", tmp_path, *arguments)
    getmail(delete=False)
    assert subjects(box.read_bytes()) == NUMBERS and contents(letters) == MAIL
    getmail(delete=True)  # has them: deletes only
    assert subjects(box.read_bytes()) == NUMBERS and contents(letters) == []


def on_a_terminal(command, directory, seconds=60, **environment):
    """Run on a pseudo terminal; what it showed, and its exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.execvpe(command[0], [str(c) for c in command],
                   os.environ | {"TERM": "xterm", "LINES": "40", "COLUMNS": "120"} | environment)
    shown, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # its other end is closed
                break
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    return shown, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@DOORS
def test_neomutt(letters, tls, tmp_path):
    """The folder opened at the server: its index lists, a copy fetches, <delete> deletes."""
    (tmp_path / "muttrc").write_text(f"""
set ssl_force_tls=yes ssl_starttls=yes ssl_ca_certificates_file="{letters.certificate}"
set certificate_file="{letters.certificate}" pop_pass=secret
set confirmappend=no confirmcreate=no delete=yes quit=yes wait_key=no move=no mbox_type=mbox
set folder="{tmp_path}" record="" spoolfile="{tmp_path}/none" timeout=20 pop_reconnect=no
set index_format="%Z %s" sort=mailbox-order
""")
    url = f"pop{'s' if tls else ''}://alice@localhost:{port_of(letters, tls)}"

    def neomutt(keys):
        shown, status = on_a_terminal(["neomutt", "-n", "-F", tmp_path / "muttrc", "-f", url,
                                       "-e", f"push '{keys}'"], tmp_path, HOME=str(tmp_path))
        assert status == 0, shown
        return shown
    box = tmp_path / "box"
    shown = neomutt(f"<tag-pattern>~A<enter><tag-prefix><copy-message><kill-line>{box}<enter><quit>")
    assert all(number in shown for number in NUMBERS)
    assert subjects(box.read_bytes()) == NUMBERS and contents(letters) == MAIL
    neomutt("<delete-pattern>number-2<enter><quit>")
    assert contents(letters) == [MAIL[0], MAIL[2]]


@pytest.fixture
def display(tmp_path):
    """A screen that nobody sees, Xvfb's."""
    reader, writer = os.pipe()
    xvfb = subprocess.Popen(["Xvfb", "-displayfd", str(writer), "-screen", "0", "1024x768x24",
                             "-nolisten", "tcp"], pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    with open(reader, encoding="ascii") as numbers:
        number = numbers.readline().strip()
    assert number, "Xvfb gave no display"
    yield f":{number}"
    xvfb.terminate()
    xvfb.wait(60)


CLAWS_ACCOUNT = """[Account: 1]
config_version=4
account_name=alice
is_default=1
name=Alice
address=alice@example.test
protocol=0
receive_server=localhost
user_id=alice
local_inbox=#mh/Mailbox/inbox
set_popport=1
pop_port={port}
ssl_pop={ssl}
remove_mail={remove}
message_leave_time=0
receive_at_get_all=1
"""

CLAWS_FOLDERS = """<?xml version="1.0" encoding="UTF-8"?>
<folderlist>
    <folder type="mh" name="Mailbox" path="{mail}">
        <folderitem type="inbox" name="inbox" path="inbox" />
        <folderitem type="outbox" name="sent" path="sent" />
        <folderitem type="draft" name="draft" path="draft" />
        <folderitem type="queue" name="queue" path="queue" />
        <folderitem type="trash" name="trash" path="trash" />
    </folder>
</folderlist>
"""


def prepare_claws(server, tls, directory, remove):
    """The configuration that its wizard would leave, with the server's certificate accepted."""
    claws, mail, port = directory / "claws", directory / "Mail", port_of(server, tls)
    for folder in ("inbox", "sent", "draft", "queue", "trash"):
        (mail / folder).mkdir(parents=True, exist_ok=True)
    (claws / "certs").mkdir(parents=True, exist_ok=True)
    run("openssl", "x509", "-in", server.certificate, "-outform", "DER",
        "-out", claws / "certs" / f"localhost.{port}.cert")
    (claws / "accountrc").write_text(
        CLAWS_ACCOUNT.format(port=port, ssl=1 if tls else 2, remove=int(remove)))
    (claws / "passwordstorerc").write_text("[config]\nversion=0\n\n[account:1]\nrecv secret\n")
    (claws / "folderlist.xml").write_text(CLAWS_FOLDERS.format(mail=mail))
    (claws / "clawsrc").write_text("[Common]\nconfig_version=4\nunsafe_ssl_certs=0\n"
                                   "receive_dialog_mode=2\nno_receive_error_panel=1\n"
                                   "confirm_on_exit=0\nwarn_queued_on_exit=0\n")
    return claws, mail / "inbox"


@pytest.mark.skipif(not (shutil.which("claws-mail") and shutil.which("Xvfb")),
                    reason="no graphical client, it is large: LONG=1 make check installs it")
@DOORS
def test_claws_mail(letters, tls, tmp_path, display):
    """A graphical client, its window on a screen that nobody sees."""
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "DISPLAY": display,
                                "XDG_RUNTIME_DIR": str(tmp_path), "GSETTINGS_BACKEND": "memory",
                                "NO_AT_BRIDGE": "1", "GDK_BACKEND": "x11", "LC_ALL": "C.UTF-8"}

    def receive(remove):
        """It has the mail when that is filed, and its list of the server's names says which of
        it is still there. It is not asked to leave then: it has been seen to stay."""
        claws, inbox = prepare_claws(letters, tls, tmp_path, remove)
        kept, names = 0 if remove else len(MAIL), claws / "uidl" / "localhost-alice"

        def filed():
            return sorted(file for file in inbox.iterdir() if file.name.isdecimal())

        def done():
            return (names.exists() and len(names.read_text().splitlines()) == kept
                    and len(filed()) == len(NUMBERS))

        with open(tmp_path / "claws.log", "ab") as log, subprocess.Popen(
                ["claws-mail", "--alternate-config-dir", claws, "--receive-all"], env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log) as window:
            try:
                wait_until(done, "its mail, filed and noted", 60)
            finally:
                window.kill()
        return subjects(b"".join(file.read_bytes() for file in filed()))

    assert receive(remove=False) == NUMBERS and contents(letters) == MAIL
    assert receive(remove=True) == NUMBERS and contents(letters) == []
    assert letters.wait_log(r"user=alice reason=quit retrieved=0 deleted=3 ")
