"""Poplar as process 1 of a container: a tree of its own, read-only but for /run and the maildrops,
without /dev/log and without systemd, with the capabilities that packaging/container names. The
container is made of namespaces and chroot, with the configuration and the PAM service of
packaging/container; no engine is needed."""

import os
import poplib
import re
import signal
import smtplib
import ssl
import subprocess
from pathlib import Path

import pytest

import poplar
from manual import TOP
from trees import PATH, TREES, Tree, needs
from poplar import Raw, kill, wait_until

pytestmark = [pytest.mark.accounts, needs("runtime"),
              pytest.mark.unsanitized("the tree has no sanitizer's library"),
              pytest.mark.skipif(poplar.CHROOT, reason="a container cannot be entered from a chroot")]

HERE = TOP / "packaging/container"
FILE = (HERE / "Containerfile").read_text()
CAPABILITIES = re.search(r"--cap-add=(\S+)", FILE)[1].split(",")
USER, PASSWORD = "alice@example.org", "a container's"
MESSAGE = b"Subject: one\r\n\r\nbody\r\n"


class Container:
    """The tree, and poplard in namespaces of its own."""

    def __init__(self, directory):
        self.tree = Tree("runtime", directory, "/var/lib")
        self.tree.accounts("poplar", "poplar-worker")
        self.log_file = directory / "log"
        self.process = None
        certificate, key = poplar.make_certificate(directory, "pop.example.org", "localhost")
        self.context = ssl.create_default_context(cafile=str(certificate))
        for file, name in ((HERE / "poplar.conf", "poplar.conf"), (certificate, "certificate.pem"),
                           (key, "key.pem")):
            self.tree.write(f"/etc/poplar/{name}", file.read_text(), mode=0o600)
        self.tree.write("/etc/pam.d/poplar", (HERE / "pam/poplar").read_text())
        hashed = subprocess.run(["openssl", "passwd", "-6", PASSWORD], check=True,
                                capture_output=True, text=True).stdout.strip()
        self.tree.write("/etc/poplar/passwd", f"{USER}:{hashed}\n", mode=0o600)
        self.state = directory / "state"
        self.state.mkdir(mode=0o700)
        poplar.shutil.chown(self.state, "poplar", "poplar")
        self.tree.share(self.state, "/var/lib/poplar")
        self.tree.share(poplar.BUILD, "/tmp/programs")

    def close_root(self):
        """Nothing can be written but below /run and in the maildrops."""
        for target in self.tree.mounted[1:]:
            path = "/" + str(target.relative_to(self.tree.root))
            if path not in ("/run", "/var/lib/poplar"):
                subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)

    def command(self, *arguments, capabilities=CAPABILITIES, as_user=()):
        """setpriv goes first: the engine's part, not ours."""
        bounding = ",".join(["-all", *("+" + c for c in capabilities)])
        return ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={self.tree.root}/proc",
                "chroot", str(self.tree.root), "setpriv", "--inh-caps=-all",
                f"--bounding-set={bounding}", *as_user, "/tmp/programs/poplard", *arguments]

    def start(self, **options):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(self.command(**options), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env={"PATH": PATH})
        self.wait_log("serving")
        return self

    def pid(self):
        """Of poplard, as it is seen from outside."""
        parent = self.process.pid
        child, = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(child)

    def enter(self, *command):
        """As `podman exec` does it."""
        return subprocess.run(["nsenter", "--target", str(self.pid()), "--mount", "--pid", "chroot",
                               self.tree.root, *command], check=True, capture_output=True,
                              env={"PATH": PATH + ":/tmp/programs"})

    def log_text(self):
        return self.log_file.read_text(errors="replace")

    def wait_log(self, pattern):
        def seen():
            assert self.process.poll() is None, self.log_text()
            return re.search(pattern, self.log_text())
        return wait_until(seen, f"{pattern} in {self.log_text()}")

    def login(self):
        client = poplib.POP3_SSL("127.0.0.1", 995, timeout=60, context=self.context)
        client.user(USER)
        client.pass_(PASSWORD)
        return client

    def deliver(self):
        with smtplib.LMTP(str(self.tree.root / "run/poplar/lmtp.sock")) as client:
            client.sendmail("", [USER], MESSAGE)

    def stop(self, number=signal.SIGTERM):
        os.kill(self.pid(), number)
        return self.process.wait(60)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        self.tree.close()


@pytest.fixture
def container(tmp_path):
    made = Container(tmp_path)
    yield made
    if made.log_file.exists():
        print(made.log_text())
    made.close()


@pytest.mark.parametrize("more", [[], ["sys_chroot"]], ids=["landlock", "chroot"])
def test_serves(container, more):
    """From the first mail to its deletion, read-only, with the capabilities of the page."""
    container.close_root()
    container.start(capabilities=CAPABILITIES + more)
    assert Path(f"/proc/{container.pid()}/status").read_text().count("\nNSpid:\t") == 1
    assert container.enter("poplarctl", "status").stdout
    container.enter("poplarctl", "mailbox", "create", USER)
    container.deliver()
    client = container.login()
    assert client.stat()[0] == 1
    client.dele(1)
    client.quit()
    plain = poplib.POP3("127.0.0.1", 110, timeout=60)
    plain.stls(container.context)
    plain.user(USER)
    with pytest.raises(poplib.error_proto):
        plain.pass_("wrong")
    plain.close()
    assert container.login().stat()[0] == 0
    assert "workers run without" not in container.log_text()
    container.wait_log(r"(?m)^poplard: .*session ended: .*user=alice@example.org reason=quit")


def test_nothing_else_is_written(container):
    """Beside the maildrops and the sockets in /run."""
    container.close_root()
    container.start()
    container.enter("poplarctl", "mailbox", "create", USER)
    container.deliver()
    container.login().quit()
    assert sorted(path.name for path in (container.tree.root / "run/poplar").iterdir()) == [
        "control", "lmtp.sock"]
    assert [path.name for path in container.state.iterdir()] == ["mail"]
    assert not (container.tree.root / "dev/log").exists()


def test_reaps_strangers(container):
    """What nobody waits for any more falls to process 1."""
    container.start()

    def strangers():
        """Dead or alive; a zombie has its name in brackets."""
        listed = subprocess.run(["ps", "--ppid", str(container.pid()), "-o", "args="], check=True,
                                capture_output=True, text=True).stdout
        return listed.count("sleep")
    subprocess.run(["nsenter", "--target", str(container.pid()), "--pid", "sh", "-c",
                    "for i in 1 2 3 4 5; do sleep 2 & done"], check=True)
    wait_until(lambda: strangers() == 5, "they are process 1's")
    wait_until(lambda: strangers() == 0, "they are reaped")
    assert container.enter("poplarctl", "status").stdout
    container.enter("poplarctl", "mailbox", "create", USER)
    container.login().quit()


def test_stops_and_reloads(container):
    """SIGHUP reloads; SIGTERM ends with status 0, and a session in progress by the grace rule."""
    container.start()
    container.enter("poplarctl", "mailbox", "create", USER)
    client = container.login()
    os.kill(container.pid(), signal.SIGHUP)
    container.wait_log("reloaded")
    assert client.stat()[0] == 0
    raw = Raw(client.sock)
    os.kill(container.pid(), signal.SIGTERM)
    container.wait_log("stopping, 1 session under way")
    assert raw.ask(b"QUIT").startswith(b"+OK")
    assert container.process.wait(60) == 0


def test_killed_workers_come_back(container):
    """Without systemd to restart anything."""
    container.start()
    container.enter("poplarctl", "mailbox", "create", USER)

    def children():
        listed = subprocess.run(["ps", "--ppid", str(container.pid()), "-o", "pid="],
                                capture_output=True, text=True).stdout
        return {int(pid) for pid in listed.split()}
    for _ in range(3):
        before = children()
        for pid in before:
            kill(pid)
        wait_until(lambda: not children() & before, "they are reaped")
        container.login().quit()


def refused(container, **options):
    result = subprocess.run(container.command(**options), capture_output=True, text=True, timeout=60,
                            env={"PATH": PATH})
    return result.returncode, result.stderr


def test_unprivileged_start(container):
    """Refused, with the reason, and whoever mends that is told the next one."""
    lines = (container.tree.root / "etc/passwd").read_text().splitlines()
    uid = next(line.split(":")[2] for line in lines if line.startswith("poplar:"))
    as_user = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")

    def why():
        status, text = refused(container, as_user=as_user, capabilities=[])
        assert status != 0
        return text
    assert "/etc/poplar/poplar.conf: Permission denied; run this as root" in why()
    for name in ("poplar.conf", "key.pem", "passwd", "certificate.pem"):
        os.chown(container.tree.root / "etc/poplar" / name, int(uid), int(uid))
    (container.tree.root / "run/poplar").mkdir()
    os.chown(container.tree.root / "run/poplar", int(uid), int(uid))
    ports = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    before = ports.read_text()
    ports.write_text("1024")
    assert "pop3=*:110: Permission denied; ports below 1024 need root" in why()
    ports.write_text("0")  # as docker has it
    assert "[server] worker_user=poplar-worker: only root can run workers as somebody else" in why()
    ports.write_text(before)


def test_image_has_what_programs_need():
    """The packages that the Containerfile installs hold every library that is linked."""
    named = set(re.search(r"--no-install-recommends \\\n(.*?)&&", FILE, re.S)[1]
                .replace("\\", "").split())
    installed = {line.split(":")[0] for line in
                 subprocess.run(["chroot", TREES / "runtime", "dpkg-query", "-W", "-f",
                                 "${Package}:${Architecture}\n"], check=True, capture_output=True,
                                text=True).stdout.splitlines()}
    assert named <= installed, "the tree has what the image has"
    for program in ("poplard", "poplar-auth", "poplar-worker", "poplarctl", "poplar-deliver"):
        linked = subprocess.run(["ldd", poplar.BUILD / program], check=True, capture_output=True,
                                text=True).stdout
        for library in re.findall(r"=> \S*/(\S+) ", linked):
            assert list((TREES / "runtime/usr/lib").glob(f"*/{library}")), library


def test_image_is_what_make_installs(tmp_path):
    """The Containerfile's own line, over the programs of this build, gives what it starts with."""
    line = re.search(r"(?m)^RUN (make B=.*\\\n.*install)$", FILE)[1].replace("\\\n", " ")
    image = tmp_path / "image"
    command = line.replace("/image", str(image)).replace("B=/build", f"-o all B={poplar.BUILD}")
    subprocess.run(["sh", "-ec", command], check=True, cwd=TOP, capture_output=True)
    entry = re.search(r'ENTRYPOINT \["/(.*)"\]', FILE)[1]
    for program in (entry, "usr/sbin/poplarctl", "usr/libexec/poplar/poplar-worker"):
        assert os.access(image / program, os.X_OK), program
    assert sorted(path.name for path in image.iterdir()) == ["etc", "usr"], "/lib is a link there"
    assert (image / "etc/pam.d/poplar").read_text() == (HERE / "pam/poplar").read_text()
