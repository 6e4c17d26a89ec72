"""What the system tests share: a private /etc with accounts, and servers to talk to."""

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import memcheck  # noqa: E402
import poplar  # noqa: E402

SANITIZED = os.environ.get("SANITIZED") == "1"

ACCOUNTS = {"alice": "secret", "bob": "bob's own pass word", "carol": "carolcarol"}


def raise_loopback():
    """A new network namespace has its loopback down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(s, 0x8914, request)  # SIOCSIFFLAGS


def private_etc():
    """Our mount namespace gets a copy of /etc, in which accounts come and go unseen."""
    copy = Path(os.environ["POPLAR_SCRATCH"]) / "etc"
    subprocess.run(["cp", "-a", "/etc", copy], check=True)
    subprocess.run(["mount", "--bind", copy, "/etc"], check=True)
    with open("/etc/hosts", "a", encoding="ascii") as hosts:
        hosts.write("127.0.0.1 localhost\n")
    for system in ("poplar", "poplar-worker"):
        subprocess.run(["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent",
                        "--shell", "/usr/sbin/nologin", system], check=True)
    for user, password in ACCOUNTS.items():
        subprocess.run(["useradd", "--no-create-home", "--home-dir", f"/home/{user}", user],
                       check=True)
        subprocess.run(["chpasswd"], input=f"{user}:{password}\n", text=True, check=True)


def reachable_programs():
    """Some tests run the programs as other users, for whom the way to a clone may be closed."""
    build = Path(os.environ["POPLAR_SCRATCH"]) / "build"
    build.mkdir()
    subprocess.run(["mount", "--bind", poplar.BUILD, build], check=True)
    poplar.BUILD = poplar.BINARIES = build


def programs_under_valgrind(config):
    config.memcheck = memcheck.Memcheck(Path(os.environ["POPLAR_SCRATCH"]), poplar.BUILD)
    poplar.BUILD = config.memcheck.programs


def pytest_configure(config):
    config.addinivalue_line("markers", "accounts: needs real system accounts in a private /etc")
    config.addinivalue_line("markers", "memory: measures memory, which sanitizers and valgrind multiply")
    config.addinivalue_line("markers", "unsanitized(why): not of a sanitized build, nor under valgrind")
    config.addinivalue_line("markers", "native(why): not under valgrind")
    config.addinivalue_line("markers", "uncounted: not of a build that counts its branches")
    # A shell that has no jobs ignores it for what it puts into the background, and so would all here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if poplar.NAMESPACES:
        raise_loopback()
        private_etc()
        reachable_programs()
    config.memcheck = None
    if poplar.MEMCHECK:
        programs_under_valgrind(config)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("accounts") and not poplar.NAMESPACES:
            item.add_marker(pytest.mark.skip(reason="needs root and namespaces for accounts"))
        if item.get_closest_marker("memory") and (SANITIZED or poplar.MEMCHECK):
            item.add_marker(pytest.mark.skip(reason="sanitizers and valgrind multiply memory"))
        for mark, left_out in (("unsanitized", SANITIZED or poplar.MEMCHECK),
                               ("native", poplar.MEMCHECK)):
            marker = item.get_closest_marker(mark)
            if marker and left_out:
                item.add_marker(pytest.mark.skip(reason=marker.args[0]))
        if item.get_closest_marker("uncounted") and os.environ.get("COUNTING") == "1":
            item.add_marker(pytest.mark.skip(reason="this build counts its branches"))


@pytest.fixture(autouse=True)
def open_directories(tmp_path):
    """Some clients run as other users: the way to a test's own directory is open to them."""
    for directory in (tmp_path, tmp_path.parent):
        directory.chmod(0o755)


def fail_on_errors(config):
    if config.memcheck:
        errors = config.memcheck.errors()
        assert not errors, errors


@pytest.fixture(autouse=True, scope="module")
def no_memory_errors_at_the_end(pytestconfig):
    """Nor of servers that end after the last test."""
    yield
    fail_on_errors(pytestconfig)


@pytest.fixture(autouse=True)
def no_memory_errors(pytestconfig):
    yield
    fail_on_errors(pytestconfig)


@pytest.fixture
def server(tmp_path):
    """A factory: server(stack=..., section_key=...) gives a running Poplar, ended afterwards."""
    made = []

    def make(start=True, **options):
        p = poplar.Poplar(tmp_path, **options)
        made.append(p)
        return p.start() if start else p

    yield make
    for p in made:
        p.stop()
        print(p.log_text())  # shown when the test failed


@pytest.fixture(scope="module")
def unix(tmp_path_factory):
    """One server for a module, with pam_unix logins of real accounts."""
    directory = tmp_path_factory.mktemp("unix")
    directory.chmod(0o755)
    with poplar.Poplar(directory, pam_unix=True) as p:
        yield p
    print(p.log_text())
