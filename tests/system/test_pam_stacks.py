"""The stacks that poplar-pam(7) tells of, taken from the page, with the real modules and accounts:
pam_unix, pam_faillock, pam_listfile, pam_access, pam_time, pam_shells, pam_pwdfile and
pam_google_authenticator."""

import base64
import hashlib
import hmac
import re
import struct
import subprocess
import time
from pathlib import Path

import pytest

import poplar
from logins import ACCOUNT, DENIED, EXPIRED, MISCONFIGURED, attempt, deliver, logged_in, refused
from manual import TOP, examples

pytestmark = pytest.mark.accounts

SERVICE = Path("/etc/pam.d/poplar")


def run(*command, text=None):
    return subprocess.run(command, input=text, text=True, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One server; its stack is rewritten by each test, and read anew for each login."""
    directory = tmp_path_factory.mktemp("stacks")
    directory.chmod(0o755)
    Path("/etc/poplar").mkdir(exist_ok=True)
    run("groupadd", "--force", "staff")
    run("usermod", "-a", "-G", "staff", "alice")
    with poplar.Poplar(directory, pam_unix=True, auth_throttle_exempt="127.0.0.0/8") as p:
        yield p
    print(p.log_text())


def stack(heading, n=0, **changes):
    """A stack of the page, with other paths or numbers where a test wants them."""
    text = examples("poplar-pam.7", heading)[n]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, str(new))
    SERVICE.write_text(text)
    return text


@pytest.mark.parametrize("scheme, prefix", [("YESCRYPT", "$y$"), ("SHA512", "$6$")])
def test_common_stacks(served, scheme, prefix):
    """Debian's own stacks, over both kinds of hash."""
    stack("DESCRIPTION")
    run("useradd", "--no-create-home", "dora")
    run("chpasswd", "-c", scheme, text="dora:a password of dora's\n")
    hashed = next(line for line in Path("/etc/shadow").read_text().splitlines()
                  if line.startswith("dora:")).split(":")[1]
    assert hashed.startswith(prefix)
    assert logged_in(attempt(served, "dora", "a password of dora's"))
    assert logged_in(attempt(served, "DORA@localhost", "a password of dora's"))
    assert attempt(served, "dora", "another") == DENIED
    run("userdel", "dora")


# As authselect writes it for a machine that knows local accounts.
PASSWORD_AUTH = """\
auth        required      pam_env.so
auth        required      pam_faildelay.so delay=2000000
auth        sufficient    pam_unix.so nullok
auth        required      pam_deny.so
account     required      pam_unix.so
password    required      pam_deny.so
session     optional      pam_keyinit.so revoke
session     required      pam_limits.so
session     required      pam_unix.so
"""


def test_fedora(served):
    """The service that the RPM brings, over password-auth, also with a session."""
    file = Path("/etc/pam.d/password-auth")
    file.write_text(PASSWORD_AUTH)
    shipped = (TOP / "packaging/pam/poplar.fedora").read_text()
    assert set(stack("DESCRIPTION", 1).split()) <= set(shipped.split()), "as the page has it"
    SERVICE.write_text(shipped)
    for session in ("no", "yes"):
        served.write_config(auth_session=session)
        served.ctl("reload")
        assert logged_in(attempt(served, "alice", "secret"))
        assert attempt(served, "alice", "wrong") == DENIED
    served.write_config(auth_session="no")
    served.ctl("reload")
    file.unlink()
    assert attempt(served, "alice", "secret") == MISCONFIGURED
    served.wait_log("includes password-auth, which is not there")


def test_lock_after_failures(served, tmp_path):
    """Locked, an account answers as to a wrong password; a success forgets failures before."""
    tallies = tmp_path / "tallies"
    tallies.mkdir()
    stack("Lock after failures", **{" deny=10": f" dir={tallies} deny=3"})

    def count(user):
        listed = run("faillock", "--dir", tallies, "--user", user).splitlines()
        return sum(line.endswith(" V") for line in listed)
    for _ in range(2):
        assert attempt(served, "alice", "wrong") == DENIED
    assert count("alice") == 2
    assert logged_in(attempt(served, "alice", "secret"))
    assert count("alice") == 0
    for _ in range(3):
        assert attempt(served, "Alice@localhost", "wrong") == DENIED
    assert count("alice") == 3, "each spelling counts for the same account"
    assert attempt(served, "alice", "secret") == DENIED
    assert logged_in(attempt(served, "carol", "carolcarol"))
    run("faillock", "--dir", tallies, "--user", "alice", "--reset")
    assert logged_in(attempt(served, "alice", "secret"))
    assert sorted(file.name for file in tallies.iterdir()) == ["alice", "carol"]


def encoded(*parts):
    return base64.b64encode(b"\0".join(parts))


def test_lock_by_a_mail_program(served, tmp_path):
    """Thunderbird tries a password by every mechanism there is, one after the other. To PAM, which
    locks after three failures, and to fail2ban that is one."""
    tallies = tmp_path / "tallies"
    tallies.mkdir()
    stack("Lock after failures", **{" deny=10": f" dir={tallies} deny=3"})
    before = len(served.log_text())

    def mistype(secret, name=b"alice"):
        raw = served.connect()
        answers = [raw.ask(b"AUTH PLAIN " + encoded(b"", name, secret))]
        raw.ask(b"AUTH LOGIN")
        raw.ask(encoded(b"ALICE@localhost"))
        answers.append(raw.ask(encoded(secret)))
        raw.ask(b"USER alice")
        answers.append(raw.ask(b"PASS " + secret))
        assert answers == [DENIED] * 3
        raw.close()

    def count(user="alice"):
        listed = run("faillock", "--dir", tallies, "--user", user).splitlines()
        return sum(line.endswith(" V") for line in listed)
    mistype(b"secert")
    assert count() == 1
    told = served.log_text()[before:]
    assert len(re.findall("(?m)reason=denied$", told)) == 1
    assert len(re.findall("(?m)login failed: .*user=alice reason=denied repeated=yes$", told)) == 2
    assert logged_in(attempt(served, "alice", "secret")) and count() == 0

    raw = served.connect()
    for secret in (b"one", b"other", b"one"):
        raw.ask(b"USER bob")
        assert raw.ask(b"PASS " + secret) == DENIED
    assert count("bob") == 3, "of guesses each counts"
    mistype(b"secert", name=b"carol")
    assert count("carol") == count("alice") == 1, "and so does each name"


def test_by_group(served):
    Path("/etc/poplar/groups").write_text("staff\n")
    text = stack("By group")
    assert logged_in(attempt(served, "alice", "secret"))
    assert logged_in(attempt(served, "ALICE@localhost", "secret"))
    assert attempt(served, "bob", "bob's own pass word") == DENIED

    listfile, *rest = text.splitlines(True)
    SERVICE.write_text(listfile.replace("auth ", "account ") + "".join(rest))
    assert logged_in(attempt(served, "alice", "secret"))
    assert attempt(served, "bob", "bob's own pass word") == ACCOUNT
    assert attempt(served, "bob", "wrong") == DENIED

    Path("/etc/poplar/groups").unlink()
    assert not logged_in(attempt(served, "alice", "secret")), "onerr=fail: without the file nobody"


def test_by_address(served):
    stack("By address")
    rules = examples("poplar-pam.7", "By address")[1]
    assert "192.0.2.0/24" in rules
    Path("/etc/poplar/access.conf").write_text(rules.replace("192.0.2.0/24", "127.0.7.0/24"))
    assert logged_in(attempt(served, "alice", "secret", source="127.0.7.9"))
    assert attempt(served, "alice", "secret", source="127.0.8.9") == ACCOUNT
    assert attempt(served, "alice", "wrong", source="127.0.8.9") == DENIED
    assert logged_in(attempt(served, "carol", "carolcarol", source="127.0.8.9"))
    assert attempt(served, "bob", "bob's own pass word", source="127.0.7.9") == ACCOUNT


def test_by_time(served):
    stack("By time")
    rules = examples("poplar-pam.7", "By time")[1]
    assert rules == "poplar;*;*;Wk0700-2000\n"
    Path("/etc/security/time.conf").write_text(rules)

    def is_open():
        now = time.localtime()
        return now.tm_wday < 5 and 7 <= now.tm_hour < 20
    before = is_open()
    answer = attempt(served, "alice", "secret")
    if before == is_open():  # not just at one of these hours
        assert logged_in(answer) if before else answer == ACCOUNT

    Path("/etc/security/time.conf").write_text("poplar;*;bob;!Al0000-2400\n")
    assert logged_in(attempt(served, "alice", "secret"))
    assert attempt(served, "bob", "bob's own pass word") == ACCOUNT
    Path("/etc/security/time.conf").write_text("sshd;*;bob;!Al0000-2400\n")
    assert logged_in(attempt(served, "bob", "bob's own pass word")), "a rule of another service's"


def test_by_shell(served):
    """Without a rule the shell does not count."""
    run("usermod", "--shell", "/usr/sbin/nologin", "carol")
    stack("DESCRIPTION")
    assert logged_in(attempt(served, "carol", "carolcarol"))
    stack("By shell")
    assert attempt(served, "carol", "carolcarol") == DENIED
    assert logged_in(attempt(served, "alice", "secret"))
    run("usermod", "--shell", "/bin/sh", "carol")


def test_virtual_users(server, tmp_path):
    """Names without an account, as the page sets them up, from the password to the mail."""
    settings, service, _ = examples("poplar-pam.7", "Virtual users")
    Path("/etc/pam.d/poplar-example-net").write_text(service)
    hashed = run("openssl", "passwd", "-6", "-stdin", text="a virtual secret")
    Path("/etc/poplar").mkdir(exist_ok=True)
    Path("/etc/poplar/example.net.passwd").write_text(f"alice@example.net:{hashed}")
    p = server(pam_unix=True, extra=settings)
    p.ctl("mailbox", "create", "alice@example.net")
    deliver(p, "Alice@Example.NET")
    refused(p, "nobody@example.net")
    client = p.login("alice@example.net", "a virtual secret")
    assert client.stat()[0] == 1
    client.quit()
    assert logged_in(attempt(p, "ALICE@EXAMPLE.NET", "a virtual secret"))
    assert attempt(p, "alice", "a virtual secret") == DENIED
    client = p.login("alice", "secret")
    assert client.stat()[0] == 0, "the account alice is somebody else"
    client.quit()


@pytest.mark.parametrize("aging, wanted", [
    (["-d", "0"], EXPIRED),
    (["-d", "2020-01-01", "-M", "30"], EXPIRED),
    (["-d", "2020-01-01", "-M", "30", "-I", "5"], ACCOUNT),
    (["-E", "2020-01-01"], ACCOUNT),
    (["-d", "2020-01-01", "-M", "30000", "-E", "2100-01-01"], None),
])
def test_expiry(served, aging, wanted):
    """Told to who has the right password, and to nobody else."""
    stack("DESCRIPTION")
    run("useradd", "--no-create-home", "emil")
    run("chpasswd", text="emil:emil's\n")
    run("chage", *aging, "emil")
    answer = attempt(served, "emil", "emil's")
    assert answer == wanted if wanted else logged_in(answer)
    assert attempt(served, "emil", "wrong") == DENIED
    run("userdel", "emil")


def code(secret, at):
    """RFC 6238, six digits."""
    digest = hmac.digest(base64.b32decode(secret), struct.pack(">Q", int(at) // 30), hashlib.sha1)
    offset = digest[-1] & 15
    number = struct.unpack(">I", digest[offset:offset + 4])[0] & 0x7FFFFFFF
    return f"{number % 1000000:06}"


def test_code_with_the_password(served, tmp_path):
    secrets = tmp_path / "otp"
    secrets.mkdir(mode=0o700)
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEH"
    secret += "=" * (-len(secret) % 8)
    for user in ("alice", "bob"):
        file = secrets / user
        file.write_text(f"{secret.rstrip('=')}\n\" DISALLOW_REUSE\n\" WINDOW_SIZE 9\n\" TOTP_AUTH\n")
        file.chmod(0o600)
    stack("A code with the password", **{"/var/lib/poplar-otp": secrets})
    now = code(secret, time.time())
    near = {code(secret, time.time() + 30 * step) for step in range(-10, 30)}
    wrong = next(digits for digits in map("{:06}".format, range(100)) if digits not in near)
    assert attempt(served, "alice", "secret") == DENIED
    assert attempt(served, "alice", code(secret, time.time() - 60)) == DENIED
    assert attempt(served, "alice", "secret" + wrong) == DENIED
    assert logged_in(attempt(served, "alice", "secret" + now))
    assert attempt(served, "alice", "secret" + now) == DENIED, "once"
    assert attempt(served, "bob", "wrong" + now) == DENIED
    assert logged_in(attempt(served, "bob", "bob's own pass word" + code(secret, time.time() + 30)))
    assert attempt(served, "carol", "carolcarol" + now) == DENIED, "has no secret"
