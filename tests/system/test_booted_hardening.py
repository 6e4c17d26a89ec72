"""What poplar.service's sandbox closes, proved in a booted Debian from /proc and by trying, and that
logins through real PAM modules work in it all the same."""

import json
import os
import poplib
import re
import resource
from pathlib import Path

import pytest

import booted
from manual import examples
from poplar import wait_until

pytestmark = pytest.mark.skipif(booted.missing() is not None, reason=str(booted.missing()))

PROBE = Path(__file__).resolve().parent.parent / "support/probe.py"
DENIED = "-ERR [AUTH] user name or password is wrong"
EXPIRED = "-ERR [AUTH] the password has expired and must be changed first"
ACCOUNT = "-ERR [AUTH] this account may not log in now"
UNAVAILABLE = "-ERR [SYS/TEMP] logins cannot be checked at the moment, wait and try again"
CAPABILITIES = {"DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7}
# Of descriptors, as the unit says; less where not even root may raise the limit that we have.
LIMITS = (65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
SHIPPED = "@include common-auth\n@include common-account\n"


@pytest.fixture(scope="module")
def debian():
    system = booted.Booted()
    try:
        system.install(booted.package())
        # Logins from here are not slowed down, however many fail.
        system.write("/etc/poplar/poplar.conf.d/test.conf",
                     "[auth]\nfailure_delay=0\nthrottle_exempt=127.0.0.1, ::1\n")
        system.run("systemctl", "reload", "poplar.service")
        system.add_user("alice", "secret", "YESCRYPT")
        system.add_user("bob", "secret", "SHA512")
        system.run("usermod", "-a", "-G", "staff", "bob")
        yield system
        print(system.journal())
    finally:
        system.stop()


@pytest.fixture
def stack(debian):
    """Gives the service another stack; afterwards it is the shipped one."""
    service = "/etc/pam.d/poplar"
    shipped = debian.path(service).read_text()
    yield lambda text: debian.write(service, text)
    debian.write(service, shipped)


def log_in(debian, user, password="secret", **options):
    """The answer to PASS: "+OK", or all of an error."""
    client = debian.pop3(**options)
    client.user(user)
    try:
        client.pass_(password)
    except poplib.error_proto as e:
        return e.args[0].decode()
    client.quit()
    return "+OK"


# The sandbox, as /proc tells of it.

def service_processes(debian):
    """Name, pid, status of every process of the service."""
    wait_until(lambda: len(debian.processes()) >= 5, "nursery, workers and auth processes")
    master = debian.main_pid()
    found = [("poplard", master, debian.status(master))]
    return found + [(status["Name"], pid, status) for pid, status in debian.processes()]


def test_privileges_of_every_process(debian):
    allowed = sum(1 << number for number in CAPABILITIES.values())
    for name, pid, status in service_processes(debian):
        assert status["NoNewPrivs"] == "1", (name, pid)
        assert status["Seccomp"] == "2", (name, pid)
        assert int(status["CapBnd"], 16) & ~allowed == 0, (name, status["CapBnd"])
        for field in ("CapInh", "CapAmb"):
            assert int(status[field], 16) == 0, (name, field)
        if name == "poplar-worker":
            assert int(status["CapPrm"], 16) == 0
            assert status["Uid"].split() == [status["Uid"].split()[0]] * 4 != ["0"] * 4
        else:
            assert int(status["CapBnd"], 16) == allowed, name
    assert "workers run without" not in debian.journal()


def test_namespaces_of_every_process(debian):
    def namespace(pid, kind):
        return os.readlink(debian.path(f"/proc/{pid}/ns/{kind}"))
    master = debian.main_pid()
    for kind in ("mnt", "net", "ipc", "uts"):
        assert namespace(master, kind) != namespace(1, kind), kind
    for name, pid, _ in service_processes(debian):
        if name != "poplar-worker":  # root alone may look at theirs
            assert namespace(pid, "net") == namespace(master, "net"), name


def test_the_file_system_is_read_only_but_for_three_directories(debian):
    mounts = {}
    for line in debian.path(f"/proc/{debian.main_pid()}/mountinfo").read_text().splitlines():
        fields = line.split()
        mounts[fields[4]] = (set(fields[5].split(",")), fields[-1])
    assert "ro" in mounts["/"][0]
    # nspawn binds files of its own, read-only below.
    apart = ("/dev", "/proc", "/sys", "/run/host/")
    writable = {path for path, (options, _) in mounts.items()
                if "rw" in options and not path.startswith(apart)}
    assert writable == {"/var/lib/poplar", "/run/poplar", "/run/faillock", "/tmp", "/var/tmp"}
    assert "hidepid=invisible" in mounts["/proc"][1] and "subset=pid" in mounts["/proc"][1]


def test_limits(debian):
    limits = debian.path(f"/proc/{debian.main_pid()}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)
    assert int(re.search(r"Max open files +\d+ +(\d+) ", limits)[1]) in LIMITS
    assert int(debian.show("poplar.service", "TasksMax")) > 1024
    # Out of memory ends one process, not the service.
    assert debian.show("poplar.service", "OOMPolicy") == "continue"
    masters = int(debian.path(f"/proc/{debian.main_pid()}/oom_score_adj").read_text())
    for pid, _ in debian.processes("poplar-worker") + debian.processes("poplar-auth"):
        assert int(debian.path(f"/proc/{pid}/oom_score_adj").read_text()) == masters + 100


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the probe knows x86-64's system calls")
def test_what_is_closed_is_closed(debian):
    """A probe runs in place of poplard, by the same unit."""
    debian.write("/usr/local/lib/probe.py", PROBE.read_text())
    debian.write("/tmp/of others", "")
    debian.write("/home/alice/private", "")
    unit = debian.path("/lib/systemd/system/poplar.service").read_text()
    kept = [line for line in unit.splitlines()
            if not line.startswith(("Type=", "Exec", "Sockets=", "Restart", "Watchdog", "Also="))]
    at = kept.index("[Service]") + 1
    kept[at:at] = ["Type=oneshot", "ExecStart=/usr/bin/python3 -B /usr/local/lib/probe.py secret"]
    debian.write("/etc/systemd/system/probe.service", "\n".join(kept))
    debian.run("systemctl", "daemon-reload")
    started = debian.run("systemctl", "start", "probe.service", check=False)
    assert started.returncode == 0, debian.run("journalctl", "-u", "probe").stdout
    tried = json.loads(debian.path("/run/poplar/probe.json").read_text())
    assert set(tried.pop("dev")) <= {
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "log",
        "hugepages", "fd", "stdin", "stdout", "stderr", "core", "char", "block"}
    no_family, read_only = "EAFNOSUPPORT", "EROFS"
    assert tried.pop("files") in LIMITS
    assert tried.pop("write and execute") in ("EPERM", "EACCES")  # the kernel's own word since 6.3
    assert tried == {
        "write /usr": read_only, "write /etc": read_only, "write /run": read_only,
        "write /var/log": read_only, "write /sys": read_only,
        "write /var/lib/poplar": "ok", "write /run/poplar": "ok", "write /run/faillock": "ok",
        "inet": no_family, "inet6": no_family, "netlink": no_family, "packet": no_family,
        "unix": "ok", "openat2": "ok", "landlock": "ok", "setuid": "ok ok", "unix_chkpwd": "ok",
        "home": [], "root's home": [], "tmp": [], "proc": [],
        "core": 0, "umask": 0o077,
    } | dict.fromkeys(
        ("chown", "mknod", "user namespace", "chroot", "mount", "real time", "personality",
         "clock", "host name", "setpriority", "mlockall", "keyctl", "reboot",
         "module", "kernel log", "swapon", "bpf", "perf", "ptrace", "iopl"), "EPERM")


# Logins in it.

@pytest.mark.parametrize("user,method", [("alice", "$y$"), ("bob", "$6$")])
def test_pam_unix(debian, user, method):
    assert debian.path("/etc/pam.d/poplar").read_text().endswith(SHIPPED)
    assert f"{user}:{method}" in debian.path("/etc/shadow").read_text()
    assert log_in(debian, user) == "+OK"
    assert log_in(debian, user, "wrong") == DENIED


def test_users_without_a_shell(debian):
    debian.run("useradd", "-s", "/usr/sbin/nologin", "nora")
    debian.run("chpasswd", input="nora:secret\n")
    assert log_in(debian, "nora") == "+OK"


def test_pam_faillock(debian, stack):
    stack(examples("poplar-pam.7", "Lock after failures")[0].replace("deny=10", "deny=3"))
    tally = debian.path("/run/faillock/alice")
    for _ in range(3):
        assert log_in(debian, "alice", "wrong") == DENIED
    assert tally.exists()
    assert "RHOST 127.0.0.1" in debian.run("faillock", "--user", "alice").stdout
    assert log_in(debian, "alice") == DENIED
    debian.run("faillock", "--user", "alice", "--reset")
    assert log_in(debian, "alice") == "+OK"
    # Others write to the same tally, which sshd gives to its user.
    debian.run("chown", "alice", "/run/faillock/alice")
    assert log_in(debian, "alice", "wrong") == DENIED
    assert "RHOST 127.0.0.1" in debian.run("faillock", "--user", "alice").stdout


def test_pam_access(debian, stack):
    stack(examples("poplar-pam.7", "By address")[0])
    debian.write("/etc/poplar/access.conf", "+:(staff):127.0.0.0/8\n-:ALL:ALL\n")
    assert log_in(debian, "bob") == "+OK"
    assert log_in(debian, "bob", host="::1") == ACCOUNT
    assert log_in(debian, "alice") == ACCOUNT
    assert log_in(debian, "alice", "wrong") == DENIED


def test_pam_listfile(debian, stack):
    stack(examples("poplar-pam.7", "By group")[0])
    debian.write("/etc/poplar/groups", "staff\n")
    assert log_in(debian, "bob") == "+OK"
    assert log_in(debian, "alice") == DENIED


def test_expiry(debian):
    debian.run("useradd", "erin")
    debian.run("chpasswd", input="erin:secret\n")
    assert log_in(debian, "erin") == "+OK"
    debian.run("chage", "-d", "0", "erin")
    assert log_in(debian, "erin") == EXPIRED
    assert log_in(debian, "erin", "wrong") == DENIED
    debian.run("chage", "-d", "2026-01-01", "-E", "2026-01-02", "erin")
    assert log_in(debian, "erin") == ACCOUNT


def test_sssd(debian, stack):
    """Accounts that sssd alone knows; its sockets are reached from a service without a network."""
    debian.write("/var/lib/extrausers/passwd", "sam:x:70001:70001::/home/sam:/usr/sbin/nologin\n")
    debian.write("/var/lib/extrausers/group", "sam:x:70001:\n")
    hashed = debian.run("openssl", "passwd", "-6", "a directory's").stdout
    debian.write("/etc/directory", f"sam:{hashed}")
    debian.write("/etc/pam.d/directory", "auth required pam_pwdfile.so pwdfile=/etc/directory\n"
                                         "account required pam_permit.so\n")
    debian.write("/etc/sssd/sssd.conf", """
[sssd]
services = nss, pam
domains = directory
[domain/directory]
id_provider = proxy
proxy_lib_name = extrausers
auth_provider = proxy
proxy_pam_target = directory
""", mode=0o600)
    debian.run("systemctl", "start", "sssd.service")
    stack(examples("poplar-pam.7", "While the directory is down")[0])
    assert log_in(debian, "sam", "a directory's") == "+OK"
    assert log_in(debian, "sam", "wrong") == DENIED
    debian.deliver("sam", "Subject: by sssd\n\nHello.\n")
    assert log_in(debian, "alice") == "+OK"
    debian.run("systemctl", "stop", "sssd.service", "sssd-*.socket")
    assert log_in(debian, "sam", "a directory's") == UNAVAILABLE
    assert debian.is_active()
