"""certbot's deploy hook: run as certbot runs it after a renewal, over a directory laid out as certbot
lays it out, against a running poplard."""

import os
import shutil
import socket
import ssl
import subprocess

import pytest

import poplar
from manual import TOP
from poplar import make_certificate

HOOK = TOP / "packaging/certbot/poplar"


class Lineage:
    """live/NAME holds links to the newest of archive/NAME."""

    def __init__(self, directory):
        self.live, self.archive = directory / "live/pop", directory / "archive/pop"
        self.live.mkdir(parents=True)
        self.archive.mkdir(parents=True)
        self.fullchain, self.key = self.live / "fullchain.pem", self.live / "privkey.pem"
        self.n = 0

    def renew(self, key=None):
        self.n += 1
        certificate, own = make_certificate(self.archive, "pop.example.test", "localhost")
        for new, name, link in ((certificate, "fullchain", self.fullchain),
                                (key or own, "privkey", self.key)):
            target = self.archive / f"{name}{self.n}.pem"
            shutil.copy(new, target)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(target, self.live))
        self.key.resolve().chmod(0o600)
        return ssl.PEM_cert_to_DER_cert(certificate.read_text())


@pytest.fixture
def lineage(tmp_path):
    return Lineage(tmp_path)


def hook(p, lineage):
    environment = os.environ | {"PATH": f"{poplar.BUILD}:{os.environ['PATH']}",
                                "RENEWED_LINEAGE": str(lineage.live),
                                "RENEWED_DOMAINS": "pop.example.test"}
    return subprocess.run([HOOK, "--config", p.config], capture_output=True, text=True,
                          env=environment)


def served_by(p):
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", p.tls_port), 20) as sock:
        with context.wrap_socket(sock) as tls:
            return tls.getpeercert(binary_form=True)


def test_renewal(server, lineage):
    """The new certificate is served at once, and a session in progress goes on."""
    first = lineage.renew()
    p = server(tls_certificate=lineage.fullchain, tls_key=lineage.key)
    assert served_by(p) == first
    second = lineage.renew()
    assert second != first and served_by(p) == first, "nobody told it yet"
    held = p.connect(tls=False)
    result = hook(p, lineage)
    assert (result.returncode, result.stderr) == (0, "")
    assert str(lineage.live) in result.stdout
    assert served_by(p) == second
    assert held.ask(b"QUIT").startswith(b"+OK")


def test_renewal_that_cannot_be_used(server, lineage, tmp_path):
    """certbot logs the reason, and the old certificate stays."""
    first = lineage.renew()
    p = server(tls_certificate=lineage.fullchain, tls_key=lineage.key)
    other = tmp_path / "other"
    other.mkdir()
    lineage.renew(key=make_certificate(other, "pop.example.test")[1])
    result = hook(p, lineage)
    assert result.returncode == 78
    assert "[tls] key=" in result.stderr
    assert served_by(p) == first


def test_poplard_is_not_there(server, lineage):
    """No fault of the renewal: the next start reads the new one."""
    lineage.renew()
    p = server(start=False, tls_certificate=lineage.fullchain, tls_key=lineage.key)
    result = hook(p, lineage)
    assert (result.returncode, result.stderr) == (0, "")
    assert "not running" in result.stdout
    p.config.write_text("nonsense\n")
    result = hook(p, lineage)
    assert result.returncode == 78
    assert "poplar.conf:1" in result.stderr
