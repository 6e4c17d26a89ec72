"""make install, and what systemd's own tools say of the units that it installs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import poplar

TOP = Path(__file__).resolve().parents[2]
PACKAGING = TOP / "packaging"

# Where kinds of files belong, below the prefix of the fixture.
PLACES = {
    "systemd/*.socket": "units", "systemd/*.service": "units", "systemd/*.timer": "units",
    "systemd/*.conf": "share/poplar", "systemd/*.catalog": "catalog",
    "sysusers.d/*": "sysusers", "tmpfiles.d/*": "tmpfiles", "completion/*": "completion",
    "man/*.5": "share/man/man5", "man/*.7": "share/man/man7", "man/*.8": "share/man/man8",
    "poplar.conf": "etc/poplar", "pam/poplar": "etc/pam.d", "ufw/*": "etc/ufw/applications.d",
    "fail2ban/poplar.conf": "etc/fail2ban/filter.d", "apparmor/*": "etc/apparmor.d",
}


def make(target, prefix, **more):
    """The programs are those of this build, as they are: `-o all` has make take them for new."""
    places = {"PREFIX": prefix, "SYSCONFDIR": f"{prefix}/etc", "UNITDIR": f"{prefix}/units",
              "SYSUSERSDIR": f"{prefix}/sysusers", "TMPFILESDIR": f"{prefix}/tmpfiles",
              "CATALOGDIR": f"{prefix}/catalog", "COMPLETIONDIR": f"{prefix}/completion"} | more
    return subprocess.run(["make", "-C", TOP, "-o", "all", target, f"B={poplar.BUILD}",
                           *(f"{name}={value}" for name, value in places.items())],
                          check=True, capture_output=True, text=True).stdout


def files(directory):
    return {str(f.relative_to(directory)) for f in directory.rglob("*") if f.is_file()}


@pytest.fixture
def installed(tmp_path):
    make("install", tmp_path)
    return tmp_path


def test_everything_goes_where_it_is_told(installed):
    expected = {"sbin/poplard", "sbin/poplarctl", "bin/poplar-deliver", "libexec/poplar/poplar-auth",
                "libexec/poplar/poplar-worker", "share/poplar/certbot-hook",
                "share/doc/poplar/README.md", "etc/fail2ban/jail.d/poplar.conf"}
    for pattern, place in PLACES.items():
        expected |= {f"{place}/{f.name}" for f in PACKAGING.glob(pattern)}
    assert files(installed) == expected
    assert (installed / "etc/poplar/poplar.conf.d").is_dir()
    assert (installed / "sbin/poplard").stat().st_mode & 0o7777 == 0o755
    assert (installed / "etc/poplar/poplar.conf").stat().st_mode & 0o7777 == 0o644


def test_names_in_files_are_those_of_the_places(installed):
    unit = (installed / "units/poplar.service").read_text()
    assert f"ExecStart={installed}/sbin/poplard\n" in unit
    conf = (installed / "etc/poplar/poplar.conf").read_text()
    assert f"certificate={installed}/etc/poplar/certificate.pem\n" in conf
    profile = (installed / "etc/apparmor.d/usr.sbin.poplard").read_text()
    assert f"profile poplard {installed}/sbin/poplard " in profile
    assert f"  {installed}/libexec/poplar/poplar-{{auth,worker}} mrix" in profile
    for name in files(installed):
        if not name.startswith(("sbin/", "bin/", "libexec/")):
            text = (installed / name).read_text()
            assert not re.search(r"@[A-Z]+@", text), name
            for place in ("/usr/share/poplar", "/usr/libexec/poplar", "/usr/bin/poplar-deliver",
                          "(?<!%s)/etc/poplar/" % installed):
                assert not re.search(place, text), (name, place)
    forward = (installed / "share/man/man8/poplar-deliver.8").read_text()
    assert f'"|{installed}/bin/poplar-deliver alice"' in forward


def test_destdir_is_put_before_and_stays_out_of_files(tmp_path):
    make("install", "/opt/poplar", DESTDIR=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"opt"}
    for name in files(tmp_path):
        assert str(tmp_path).encode() not in (tmp_path / name).read_bytes(), name


def test_the_installed_configuration_is_right_once_it_has_a_certificate(installed):
    conf = installed / "etc/poplar/poplar.conf"
    assert poplar.check(installed / "sbin/poplard", conf) == []


def test_installing_again_keeps_configuration_and_uninstalling_too(installed):
    conf = installed / "etc/poplar/poplar.conf"
    conf.write_text("[tls]\nrequired=no\n")
    assert f"{conf} is there, kept" in make("install", installed)
    make("uninstall", installed)
    assert files(installed) == {"etc/poplar/poplar.conf", "etc/pam.d/poplar",
                                "etc/ufw/applications.d/poplar",
                                "etc/fail2ban/filter.d/poplar.conf",
                                "etc/apparmor.d/usr.sbin.poplard",
                                "etc/fail2ban/jail.d/poplar.conf"}
    assert conf.read_text() == "[tls]\nrequired=no\n"


# systemd's judgement. Another version counts otherwise: the figures are those of Debian 12.

def analyze(*arguments):
    return subprocess.run(["systemd-analyze", "--no-pager", *arguments], capture_output=True,
                          text=True)


def version():
    if not shutil.which("systemd-analyze"):
        return None
    return re.match(r"systemd (\d+)", analyze("--version").stdout)[1]


has_systemd = pytest.mark.skipif(version() is None, reason="needs systemd-analyze")
has_252 = pytest.mark.skipif(version() != "252", reason="needs systemd 252 to count by")


@has_systemd
def test_units_verify(installed):
    units = sorted((installed / "units").iterdir())
    assert len(units) == 6
    done = analyze("verify", "--man=no", *units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def exposure(unit):
    text = analyze("security", "--offline=true", unit).stdout
    return float(re.search(r"Overall exposure level for [^:]*: ([0-9.]+)", text)[1]), text


@has_252
def test_exposure(installed):
    score, text = exposure(installed / "units/poplar.service")
    assert score <= 1.7, text
    score, text = exposure(installed / "units/poplar-expire.service")
    assert score <= 0.7, text


@has_252
def test_exposure_with_the_network_for_pam(installed):
    dropins = installed / "units/poplar.service.d"
    dropins.mkdir()
    shutil.copy(installed / "share/poplar/network-pam.conf", dropins)
    score, text = exposure(installed / "units/poplar.service")
    assert 1.7 < score <= 2.5, text
