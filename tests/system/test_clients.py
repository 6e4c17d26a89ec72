"""Real clients fetch the whole corpus, through pam_unix, by STLS and over TLS: the octets that
arrive are the octets that went in, line ends as CRLF."""

import os
import re
import subprocess

import pytest

from poplar import GETMAIL, corpus, make_maildir, on_the_wire
from tap import Tap

pytestmark = pytest.mark.accounts

DOORS = pytest.mark.parametrize("tls", [False, True], ids=["stls", "tls"])


@pytest.fixture(scope="module")
def mail():
    """The corpus as it must arrive, in the order of its import."""
    return [on_the_wire(path.read_bytes()) for path in corpus()]


@pytest.fixture(scope="module")
def filled(unix):
    """The corpus in alice's maildrop."""
    assert len(corpus()) == 210
    result = unix.ctl("import", "alice", *corpus())
    assert b"210" in result.stdout + result.stderr
    return unix


@DOORS
def test_poplib(filled, mail, tls):
    client = filled.login(tls=tls)
    count, octets = client.stat()
    assert (count, octets) == (len(mail), sum(map(len, mail)))
    sizes = [int(line.split()[1]) for line in client.list()[1]]
    assert sizes == [len(m) for m in mail]
    for number, message in enumerate(mail, 1):
        lines = client.retr(number)[1]
        assert b"".join(line + b"\r\n" for line in lines) == message, corpus()[number - 1]
    client.quit()


@DOORS
def test_poplib_top(filled, mail, tls):
    client = filled.login(tls=tls)
    for number, message in enumerate(mail, 1):
        header, separator, body = message.partition(b"\r\n\r\n")
        if message.startswith(b"\r\n"):
            header, separator, body = b"", b"\r\n", message[2:]
        wanted = header + separator + b"".join(body.splitlines(True)[:0])
        for n in (0, 3, 10 ** 30):
            lines = re.findall(rb"[^\n]*\n", body)[: min(n, 10 ** 9)]
            wanted = header + separator + b"".join(lines)
            got = b"".join(line + b"\r\n" for line in client.top(number, n)[1])
            assert got == wanted, (corpus()[number - 1], n)
    client.quit()


@DOORS
def test_curl(filled, mail, tls, tmp_path):
    """curl fetches everything in one session: LIST, UIDL, every message."""
    url = f"pop3s://localhost:{filled.tls_port}" if tls else f"pop3://localhost:{filled.port}"
    config = tmp_path / "curlrc"
    lines = [f'cacert = "{filled.certificate}"', 'user = "alice:secret"', "ssl-reqd", "silent",
             "show-error"]
    for number in range(1, len(mail) + 1):
        lines += [f'url = "{url}/{number}"', f'output = "{tmp_path}/{number}"']
    config.write_text("\n".join(lines))
    subprocess.run(["curl", "--config", config], check=True, timeout=120)
    for number, message in enumerate(mail, 1):
        file = tmp_path / str(number)
        assert (file.read_bytes() if file.exists() else b"") == message, corpus()[number - 1]
    listing = subprocess.run(["curl", "--cacert", filled.certificate, "--user", "alice:secret",
                              "--ssl-reqd", "-s", f"{url}/"], check=True, capture_output=True)
    assert listing.stdout == b"".join(b"%d %d\r\n" % (i, len(m)) for i, m in enumerate(mail, 1))


def test_uidl_is_unique_and_stays(filled, mail):
    def uidl():
        client = filled.login()
        lines = client.uidl()[1]
        client.quit()
        return lines

    before = uidl()
    assert len(set(line.split()[1] for line in before)) == len(mail)
    for line in before:
        assert re.fullmatch(rb"\d+ [\x21-\x7e]{1,70}", line)
    filled.stop()
    filled.start()
    assert uidl() == before



# What follows delivers mail as it sees fit: fetchmail drops a first line "From ", mpop takes CR CR
# LF for CR LF, getmail writes headers anew. So the tap tells what arrived, and the client's own
# folder only how many.


@DOORS
def test_mpop(filled, mail, tls, tmp_path):
    """mpop into a Maildir; what it fetched it does not fetch again."""
    maildir = make_maildir(tmp_path / "Maildir")
    config = tmp_path / "mpoprc"
    with Tap(filled, tls) as tap:
        config.write_text(f"""
account default
host localhost
port {tap.port}
user alice
password secret
auth user
tls on
tls_starttls {"off" if tls else "on"}
tls_trust_file {filled.certificate}
keep on
received_header off
uidls_file {tmp_path}/uidls
delivery maildir {maildir}
""")
        config.chmod(0o600)
        command = ["mpop", "--file", config]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        assert tap.retrieved() == mail
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        assert len(tap.retrieved()) == len(list(maildir.glob("new/*"))) == len(mail)


@DOORS
def test_fetchmail(filled, mail, tls, tmp_path):
    """fetchmail with UIDLs kept; what it fetched it does not fetch again."""
    box = tmp_path / "box"
    box.mkdir()
    mda = tmp_path / "mda"
    mda.write_text(f"#!/bin/sh\nexec cat >$(mktemp {box}/XXXXXXXX)\n")
    mda.chmod(0o755)
    config = tmp_path / "fetchmailrc"
    environment = os.environ | {"HOME": str(tmp_path), "FETCHMAILHOME": str(tmp_path)}
    with Tap(filled, tls) as tap:
        config.write_text(f"""
set invisible
set idfile "{tmp_path}/ids"
set pidfile "{tmp_path}/pid"
poll localhost protocol POP3 port {tap.port} uidl timeout 60 bad-header accept
  user alice password secret
  {"ssl" if tls else "sslproto TLS1.2+"} sslcertfile "{filled.certificate}" sslcertck
  norewrite pass8bits keep
  mda "{mda}"
""")
        config.chmod(0o600)
        for status in (0, 1):  # 1: there was no mail
            result = subprocess.run(["fetchmail", "--fetchmailrc", config, "--nosyslog"],
                                    timeout=200, capture_output=True, text=True, env=environment)
            assert result.returncode == status, result.stdout + result.stderr
        assert tap.retrieved() == mail
    assert len(list(box.iterdir())) == len(mail)


def test_getmail(filled, mail, tmp_path):
    """getmail6 over TLS, the only way it knows; run as carol, it delivers for nobody who is root."""
    maildir = make_maildir(tmp_path / "Maildir")
    with Tap(filled, tls=True) as tap:
        (tmp_path / "getmailrc").write_text(f"""
[retriever]
type = SimplePOP3SSLRetriever
server = localhost
port = {tap.port}
username = alice
password = secret
ca_certs = {filled.certificate}
[destination]
type = Maildir
path = {maildir}/
[options]
read_all = false
verbose = 0
""")
        subprocess.run(["chown", "-R", "carol", tmp_path], check=True)
        for _ in range(2):
            result = subprocess.run(["runuser", "-u", "carol", "--", *GETMAIL, "--getmaildir",
                                     tmp_path], timeout=200, capture_output=True, text=True)
            assert result.returncode == 0, result.stdout + result.stderr
        assert tap.retrieved() == mail
    assert len(list(maildir.glob("new/*"))) == len(mail)
