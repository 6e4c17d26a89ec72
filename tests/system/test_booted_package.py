"""The Debian package through its life, in a booted Debian: installed, upgraded under a session,
removed, purged, installed again; and what lintian says of it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import booted
import poplar

pytestmark = pytest.mark.skipif(booted.missing() is not None, reason=str(booted.missing()))

SMOKE = Path(__file__).resolve().parents[2] / "packaging/debian/tests/smoke"
CONF = "/etc/poplar/poplar.conf"
UNITS = ("poplar-pop3.socket", "poplar-pop3s.socket", "poplar-lmtp.socket", "poplar.service",
         "poplar-expire.timer")
# What the fingerprint of the contract begins with, proto_fingerprint(): another value makes
# programs that do not understand ours.
FINGERPRINT = 0xcbf29ce484222325


@pytest.fixture
def debian():
    system = booted.Booted()
    try:
        yield system
        print(system.journal())
    finally:
        system.stop()


@pytest.fixture
def newer(tmp_path):
    """The package of a later version, with another contract between its programs."""
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "-R", booted.package(), tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", "Version: 99-1", control.read_text(), flags=re.M))
    changed = set()
    for program in tree.glob("usr/*/poplar*"):
        for file in [program] if program.is_file() else program.iterdir():
            octets = file.read_bytes()
            other = octets.replace(FINGERPRINT.to_bytes(8, "little"),
                                   (FINGERPRINT + 2).to_bytes(8, "little"))
            changed |= {file.name} if other != octets else set()
            file.write_bytes(other)
    assert changed >= {"poplard", "poplar-auth", "poplar-worker", "poplarctl"}
    deb = tmp_path / "poplar_99-1.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, deb], check=True,
                   capture_output=True)
    return deb


def version(debian):
    return debian.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Version}", "poplar",
                      check=False).stdout


def program(debian):
    return os.readlink(debian.path(f"/proc/{debian.main_pid()}/exe"))


def mail(debian):
    client = debian.login("alice", "secret")
    count = client.stat()[0]
    client.quit()
    return count


def test_from_installation_to_the_end(debian, newer):
    debian.install(booted.package())
    for unit in UNITS:
        assert debian.is_active(unit), unit
    state = debian.path("/var/lib/poplar").stat()
    assert state.st_mode & 0o7777 == 0o700
    passwd = debian.path("/etc/passwd").read_text()
    assert f"poplar:x:{state.st_uid}:{state.st_gid}:" in passwd
    assert re.search("^poplar-worker:x:.*:/usr/sbin/nologin$", passwd, re.M)
    debian.add_user("alice", "secret")
    debian.deliver("alice", "Subject: one\n\nOne.\n")

    # What distributions run to see whether a package works.
    debian.write("/root/smoke", SMOKE.read_text(), 0o755)
    assert debian.run("/root/smoke").stdout

    # Nothing is newer after that.
    said = debian.run("dpkg-reconfigure", "poplar")
    assert "from before" not in said.stdout + said.stderr

    # A later version comes under a session, and a configuration of the administrator's.
    debian.write(CONF, debian.path(CONF).read_text() + "\n[auth]\nfailure_delay=0\n")
    before, master = program(debian), debian.main_pid()
    session = debian.login("alice", "secret")
    said = debian.install(newer)
    assert version(debian) == "ii  99-1"
    assert "the version from before still serves; for the new one: systemctl restart poplar" \
        in said.stdout + said.stderr
    assert debian.path(CONF).read_text().endswith("failure_delay=0\n")
    assert (debian.main_pid(), program(debian)) == (master, f"{before} (deleted)")
    assert session.stat()[0] == 1
    debian.add_user("bob", "secret")
    other = debian.login("bob", "secret")
    debian.deliver("alice", "Subject: two\n\nTwo.\n")

    # The old one cannot go on with new children; it says so and keeps those it has.
    refused = debian.run("systemctl", "reload", "poplar.service", check=False)
    assert refused.returncode != 0
    assert "is of another version than the running poplard: restart poplard" in debian.journal()
    assert session.noop() and other.noop()
    other.quit()
    session.quit()
    assert mail(debian) == 2
    debian.run("systemctl", "restart", "poplar.service")
    assert program(debian) == before
    assert mail(debian) == 2

    # Removed, mail and configuration stay.
    debian.run("apt-get", "remove", "-y", "poplar")
    for unit in UNITS:
        assert not debian.is_active(unit), unit
    with pytest.raises(ConnectionRefusedError):
        debian.socket(995)
    assert not debian.path("/usr/sbin/poplard").exists()
    assert debian.path(CONF).exists()
    debian.install(newer)
    assert mail(debian) == 2

    # Purged, mail stays when nobody says otherwise.
    purged = debian.run("apt-get", "purge", "-y", "poplar")
    assert "the mail stays in /var/lib/poplar" in purged.stderr + purged.stdout
    assert not debian.path("/etc/poplar").exists()
    assert not debian.path("/run/poplar").exists()
    assert version(debian) in ("", "un  ")
    debian.install(booted.package())
    assert mail(debian) == 2

    # And goes when somebody does, also where a link leads and what is mounted in there.
    debian.run("systemctl", "stop", "poplar.service", "poplar-lmtp.socket")
    debian.sh("mv /var/lib/poplar /srv/state; ln -s /srv/state /var/lib/poplar; cd /srv/state; mv mail old;"
              " mkdir mail; mount -t tmpfs none mail; mv old/* mail")
    debian.run("debconf-set-selections", input="poplar poplar/purge-mail boolean true\n")
    debian.run("apt-get", "purge", "-y", "poplar")
    assert not debian.path("/var/lib/poplar").is_symlink()
    assert list(debian.path("/srv/state/mail").iterdir()) == []
    left = debian.sh("find / -xdev -path /proc -prune -o -name '*poplar*' -print").stdout.split()
    assert [name for name in left if not name.startswith(("/root/", "/var/log/"))] == []
    assert debian.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""


@pytest.mark.skipif(not shutil.which("lintian"), reason="needs lintian")
def test_lintian():
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning",
                           *(poplar.BUILD / "deb").glob("*.changes")],
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
