"""The RPM spec, on a system that is not RPM's own: it parses, its list of files is what it installs,
its scriptlets do what they say. LONG=1 builds the packages."""

import os
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

import poplar
from manual import TOP

pytestmark = pytest.mark.skipif(not shutil.which("rpmspec"), reason="needs rpm")

SPEC = TOP / "packaging/rpm/poplar.spec"
needs_lint = pytest.mark.skipif(not shutil.which("rpmlint"), reason="needs rpmlint")
DIRECTIVE = re.compile(r"%(?:dir|ghost|doc|config(?:\([^)]*\))?|attr\([^)]*\))\s+")


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, (command, result.stdout, result.stderr)
    return result.stdout


@pytest.fixture(scope="module")
def buildroot(tmp_path_factory):
    return tmp_path_factory.mktemp("buildroot")


@pytest.fixture(scope="module")
def sections(buildroot):
    """The spec with its macros expanded, by the headings of its sections."""
    result = subprocess.run(["rpmspec", f"--load={TOP}/packaging/rpm/macros", "--define",
                             f"buildroot {buildroot}", "-P", SPEC], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    parts = re.split(r"(?m)^(%(?:description|prep|build|install|check|pre|post|preun|postun|files|"
                     r"changelog))$", "%preamble\n" + result.stdout)
    return dict(zip(["%preamble", *parts[1::2]], parts[0::2]))


def test_version(sections):
    version = re.search(r"(?m)^VERSION := (.*)$", (TOP / "Makefile").read_text())[1]
    assert re.search(rf"(?m)^Version:\s+{re.escape(version)}$", sections["%preamble"])
    assert f"- {version}-1" in sections["%changelog"]


@needs_lint
def test_rpmlint_has_nothing_to_say():
    """But that a file is no address, and that there is no tag of long ago."""
    assert " 0 errors, 2 warnings" in run("rpmlint", SPEC)


def test_files_are_what_is_installed(sections, buildroot):
    make = f"make -o all B={poplar.BUILD}"  # the programs of this build, as they are
    run("sh", "-e", "-c", sections["%install"].replace("/usr/bin/make", make), cwd=TOP)
    installed = {f"/{f.relative_to(buildroot)}" for f in buildroot.rglob("*") if f.is_file()}
    assert "/usr/sbin/poplard" in installed
    listed, unmatched = set(), []
    for line in sections["%files"].splitlines():
        alone = "%dir" in line
        pattern = DIRECTIVE.sub("", line.split("#")[0]).strip()
        if not pattern.startswith("/"):
            assert not pattern or (TOP / pattern.removeprefix("%license ")).exists(), line
            continue
        found = list(buildroot.glob(pattern[1:]))
        # Pages are compressed behind the spec's back.
        unmatched += [] if found else [line]
        for path in found:
            inside = [path] if path.is_file() else [] if alone else path.rglob("*")
            listed |= {f"/{f.relative_to(buildroot)}" for f in inside if f.is_file()}
    assert not unmatched
    assert listed == installed


def test_files_are_fedoras(sections, buildroot):
    """Paths that are put into files at their installation."""
    config = (buildroot / "etc/poplar/poplar.conf").read_text()
    assert "certificate=/etc/pki/tls/certs/poplar.pem\nkey=/etc/pki/tls/private/poplar.pem" in config
    assert "password-auth" in (buildroot / "etc/pam.d/poplar").read_text()
    assert "ExecStart=/usr/sbin/poplard" in (
        buildroot / "usr/lib/systemd/system/poplar.service").read_text()
    assert os.access(buildroot / "usr/share/poplar/certbot-hook", os.X_OK)


@pytest.mark.parametrize("name", ["%pre", "%post", "%preun", "%postun"])
def test_scriptlets_are_shell(sections, name):
    run("sh", "-n", "-c", sections[name])


@pytest.mark.accounts
def test_accounts_are_made_once(sections):
    for user in ("poplar", "poplar-worker"):
        run("userdel", user)
    for _ in range(2):
        run("sh", "-c", sections["%pre"])
    for user in ("poplar", "poplar-worker"):
        entry = run("getent", "passwd", user).split(":")
        assert int(entry[2]) < 1000 and entry[6] == "/sbin/nologin\n"
        assert run("id", "-gn", user) == f"{user}\n"


@pytest.mark.accounts
def test_certificate_to_begin_with(sections):
    """Made where there is none, and only there."""
    key = Path("/etc/pki/tls/private/poplar.pem")
    certificate = Path("/etc/pki/tls/certs/poplar.pem")
    for directory in (key.parent, certificate.parent):
        directory.mkdir(parents=True, exist_ok=True)
    seen = set()
    for _ in range(2):
        run("sh", "-c", sections["%post"], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        assert key.stat().st_mode & 0o777 == 0o600
        assert certificate.stat().st_mode & 0o777 == 0o644
        seen.add(key.read_bytes())
    assert len(seen) == 1


@pytest.mark.skipif(os.environ.get("LONG") != "1", reason="takes minutes; LONG=1 runs it")
def test_packages_are_built(tmp_path):
    made = run(TOP / "packaging/rpm.sh", tmp_path, "--nocheck").split()
    package, = (name for name in made if "/poplar-0" in name and not name.endswith(".src.rpm"))
    assert len([name for name in made if name.endswith(".src.rpm")]) == 1
    assert "/usr/libexec/poplar/poplar-worker" in run("rpm", "-qpl", package).split()
    needs = run("rpm", "-qp", "--requires", package)
    for library in ("libpam.so.0", "libseccomp.so.2", "libsqlite3.so.0", "libsystemd.so.0"):
        assert library in needs
    if shutil.which("rpmlint"):
        told = TOP / "packaging/rpm/lint-of-packages"  # a filter without use is an error too
        assert " 0 errors, 0 warnings" in run("rpmlint", "--rpmlintrc", told, *made)
