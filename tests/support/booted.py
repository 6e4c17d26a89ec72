"""A Debian system that systemd booted, with Poplar's package in it, for tests to drive.

It runs by systemd-nspawn from a tree (tests/support/tree.sh) that it sees through an overlay in
memory, in the test's own namespaces: nothing of it is left when they end. Commands run inside by
nsenter; sockets are made in its network, files are reached below the root of its first process.
"""

import concurrent.futures
import ctypes
import os
import poplib
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

import poplar
from poplar import Raw, wait_until

TREE = Path(os.environ.get("POPLAR_TREES", "/var/tmp/poplar-trees")) / "booted"
CLONE_NEWNET = 0x40000000
CGROUPS = Path("/sys/fs/cgroup")
SNAKEOIL = "/etc/ssl/certs/ssl-cert-snakeoil.pem"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
               "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}


def package():
    """The Debian package of this build; None when it was not made."""
    return next(iter(sorted((poplar.BUILD / "deb").glob("poplar_*.deb"))), None)


def missing():
    """Why no system can be booted here; None when one can."""
    if not poplar.NAMESPACES:
        return "needs root and namespaces to boot a system"
    if poplar.CHROOT:
        return "a system cannot be booted from within a chroot"
    if not shutil.which("systemd-nspawn"):
        return "needs systemd-nspawn to boot a system"
    if not (TREE / ".made").exists():
        return "no tree to boot: `make trees` could not make it"
    if not package():
        return "no Debian package to install: `make trees` could not build it"
    return None


def hierarchies():
    """Every mounted hierarchy of control groups; systemd manages a part of each."""
    if (CGROUPS / "cgroup.procs").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists()]


class Booted:
    """One such system, from its start to its end."""

    def __init__(self):
        self.top = Path(tempfile.mkdtemp(dir=os.environ["POPLAR_SCRATCH"]))
        self.root = self.top / "root"
        self.name = f"poplar-booted-{os.urandom(4).hex()}"
        self.executor = concurrent.futures.ThreadPoolExecutor(1)
        self.log = self.top / "console"
        self.mount()
        self.boot()

    def mount(self):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", self.top], check=True)
        for name in ("upper", "work", "root"):
            (self.top / name).mkdir()
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                        f"lowerdir={TREE},upperdir={self.top}/upper,workdir={self.top}/work",
                        self.root], check=True)
        # The tree's packages were installed without a start; here is where services do start.
        (self.root / "usr/sbin/policy-rc.d").unlink()
        for other in ("postfix", "sssd", "console-getty", "e2scrub_reap"):
            for link in (self.root / "etc/systemd/system").glob(f"*.wants/{other}.service"):
                link.unlink()

    def boot(self):
        """In control groups of its own: two systems with the same would kill each other's."""
        for hierarchy in hierarchies():
            (hierarchy / self.name).mkdir()
        enter = "; ".join(f"echo 0 >{h}/{self.name}/cgroup.procs" for h in hierarchies())
        with self.log.open("wb") as log:
            self.nspawn = subprocess.Popen(
                ["sh", "-c", enter + '; exec "$@"', "sh", "systemd-nspawn", "--quiet", "-D", self.root,
                 "--boot", "--register=no", "--keep-unit", "--private-network", "--machine=booted",
                 # nspawn denies Landlock otherwise.
                 "--system-call-filter=landlock_create_ruleset landlock_add_rule "
                 "landlock_restrict_self"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.leader = wait_until(self.find_leader, "the system's first process")
        self.inside = Path(f"/proc/{self.leader}/root")
        wait_until(lambda: self.state() in ("running", "degraded"), self.lag, 180)

    def lag(self):
        """What the system said and still waits for, when it does not come up."""
        jobs = self.run("systemctl", "list-jobs", check=False)
        return (f"the system is up, now {self.state()!r}: {jobs.stdout}{jobs.stderr}"
                f"{self.log.read_text(errors='replace')}")

    def find_leader(self):
        if self.nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn: {self.log.read_text(errors='replace')}")
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text()
        for pid in children.split():
            if poplar.Poplar.proc_status(pid).get("NSpid", "").split()[-1:] == ["1"]:
                return int(pid)
        return None

    def state(self):
        return self.run("systemctl", "is-system-running", check=False).stdout.strip()

    def stop(self):
        # All that it runs ends with its first process; its disk is of no further use.
        os.kill(self.leader, signal.SIGKILL)
        self.nspawn.wait(60)
        self.executor.shutdown()
        for mounted in (self.root, self.top):
            subprocess.run(["umount", "--recursive", "--lazy", mounted], check=False)
        for hierarchy in hierarchies():
            for group in sorted((hierarchy / self.name).glob("**/"), reverse=True):
                wait_until(lambda group=group: self.remove_group(group), f"{group} is empty")

    @staticmethod
    def remove_group(group):
        try:
            group.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    # Commands and files.

    def run(self, *command, check=True, text=True, **options):
        done = subprocess.run(["nsenter", "-t", str(self.leader), "-a", "--", *map(str, command)],
                              capture_output=True, text=text, env=ENVIRONMENT, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}\n"
                                 + self.journal())
        return done

    def sh(self, script, **options):
        return self.run("sh", "-ec", script, **options)

    def path(self, name):
        return self.inside / str(name).lstrip("/")

    def write(self, name, text, mode=0o644):
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def install(self, deb):
        """As an administrator does, without a network: what it depends on is in the tree."""
        shutil.copy(deb, self.path("/root/"))
        return self.run("apt-get", "install", "-y", f"/root/{Path(deb).name}")

    def add_user(self, name, password, method=None):
        self.run("useradd", "--no-create-home", name)
        self.run("chpasswd", *(("--crypt-method", method) if method else ()),
                 input=f"{name}:{password}\n")

    # Units.

    def show(self, unit, name):
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def is_active(self, unit="poplar.service"):
        return self.show(unit, "ActiveState") == "active"

    def main_pid(self):
        """As the system itself counts; 0 when the service does not run."""
        return int(self.show("poplar.service", "MainPID"))

    def processes(self, program=None):
        """(pid, status of /proc) of poplard's children, or those of one program."""
        found = []
        for pid in self.run("ps", "-o", "pid=", "--ppid", str(self.main_pid()),
                            check=False).stdout.split():
            status = self.status(pid)
            if program is None or status.get("Name") == program:
                found.append((int(pid), status))
        return found

    def status(self, pid):
        try:
            lines = self.path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return {}
        return {k: v.strip() for k, v in (line.split(":", 1) for line in lines if ":" in line)}

    def journal(self, *arguments):
        """With all that was said before we ask."""
        self.run("journalctl", "--sync", check=False)
        return self.run("journalctl", "--no-pager", "-n", "200", "-u", "poplar.service", *arguments,
                        check=False).stdout

    # Clients, in its network.

    def in_network(self, function, *arguments):
        def enter():
            with open(f"/proc/{self.leader}/ns/net", "rb") as net:
                if ctypes.CDLL(None, use_errno=True).setns(net.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            return function(*arguments)
        return self.executor.submit(enter).result()

    def socket(self, port=995, host="127.0.0.1"):
        return self.in_network(socket.create_connection, (host, port), 20)

    def lmtp(self, path="/run/poplar/lmtp.sock"):
        raw = Raw(socket.socket(socket.AF_UNIX))
        raw.sock.connect(str(self.path(path)))
        return raw

    def tls_context(self, certificate=SNAKEOIL):
        context = ssl.create_default_context(cadata=self.path(certificate).read_text())
        context.check_hostname = False
        return context

    def pop3(self, certificate=SNAKEOIL, host="127.0.0.1"):
        """poplib over TLS, the certificate checked."""
        return Pop3(self.tls_context(certificate).wrap_socket(self.socket(995, host)))

    def login(self, user, password, **options):
        client = self.pop3(**options)
        client.user(user)
        client.pass_(password)
        return client

    def deliver(self, user, text, **options):
        return self.run("poplar-deliver", user, input=text, **options)


class Pop3(poplib.POP3):
    """poplib on a connection that is there already."""

    def __init__(self, sock):
        self.ready = sock
        super().__init__("booted")

    def _create_socket(self, timeout):
        return self.ready
