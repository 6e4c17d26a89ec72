"""The servers under test, each with its own process tree in a control group of its own: Poplar from
the build directory, the others from trees of their own (tests/support/tree.sh), entered by chroot.

All of them log people in by the same PAM stack, pam_permit, keep mail on the same file system, log
to a file and have the same certificate."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import mail
from poplar import BUILD, Poplar, wait_until

TREES = Path(os.environ.get("POPLAR_TREES", "/var/tmp/poplar-trees"))
STACK = "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
MAIL_ID = 990  # owns mail in the trees


def is_listening(port):
    with open("/proc/net/tcp", encoding="ascii") as table:
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
                   for line in table.readlines()[1:])


class Group:
    """A control group: what a process tree used, its dead included. Without one of our own, /proc:
    what the living used and what they waited for."""

    base = None

    @classmethod
    def find(cls):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, where, kind, *_ = line.split()
            if kind == "cgroup2" and os.access(where, os.W_OK):
                cls.base = Path(where) / f"poplar-bench-{os.getpid()}-{time.time_ns() & 0xffff:x}"
                with contextlib.suppress(OSError):
                    cls.base.mkdir()
                    return True
        cls.base = None
        return False

    def __init__(self, name):
        self.directory = self.base / name if self.base else None
        self.root = None  # without a group: pid of the tree's root
        if self.directory:
            self.directory.mkdir()

    @contextlib.contextmanager
    def entered(self):
        """What is started inside is in the group, and so are its children."""
        if self.directory:
            (self.directory / "cgroup.procs").write_text("0")
        try:
            yield
        finally:
            if self.directory:
                (self.base.parent / "cgroup.procs").write_text("0")

    def pids(self):
        if self.directory:
            return [int(p) for p in (self.directory / "cgroup.procs").read_text().split()]
        parents, found = {}, [self.root]
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        for pid in found:
            found += parents.get(pid, [])
        return found

    def cpu(self):
        """Seconds of processor time so far."""
        if self.directory:
            for line in (self.directory / "cpu.stat").read_text().splitlines():
                if line.startswith("usage_usec "):
                    return int(line.split()[1]) / 1e6
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(f) for f in fields[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """kB: proportional set size and page tables, of all processes."""
        pss = tables = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    pss += int(line.split()[1]) if line.startswith("Pss:") else 0
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    tables += int(line.split()[1]) if line.startswith("VmPTE:") else 0
        return pss, tables

    def escaped(self):
        """Descendants of the group's processes that are not in it."""
        if not self.directory:
            return []

        def outside():
            """What has ended and is not reaped is in no group any more."""
            inside = set(self.pids())
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):
                    state, parent = stat.read_text().rpartition(")")[2].split()[:2]
                    pid = int(stat.parent.name)
                    if int(parent) in inside and pid not in inside and state not in "ZX":
                        yield pid

        # One that was born or ended meanwhile is not there the second time.
        return sorted(set(outside()) & set(outside()))

    def remove(self):
        if self.directory:
            with contextlib.suppress(OSError):
                self.directory.rmdir()


class Server:
    """What the bench needs of one."""

    store = None  # which kind of golden copies
    port = tls_port = lmtp = None
    description = ""

    def __init__(self, name, world):
        self.name, self.world = name, world
        self.group = Group(name)

    def restart(self):
        self.stop()
        self.group = Group(self.name)
        self.start()

    def live(self, kind, n):
        """The path of a live maildrop."""
        raise NotImplementedError

    def owner(self, kind, n):
        return None

    def fill(self, kind, users):
        """Fresh maildrops for the first so many users of a kind."""
        golden = self.golden(kind)
        for n in range(1, users + 1):
            mail.copy(golden, self.live(kind, n), self.owner(kind, n))

    def refill_first(self, kind):
        """As fill() for one user, as cheaply as can be: no index, nothing seen before."""
        self.fill(kind, 1)


class PoplarServer(Server):
    store = "poplar"

    def __init__(self, name, world, **settings):
        super().__init__(name, world)
        directory = world.directory / name
        directory.mkdir(parents=True)
        directory.chmod(0o755)
        self.poplar = Poplar(directory, pam_unix=True, **{  # /etc/pam.d and real accounts
            "server_log_level": "info", "tls_required": "no", "workers_max_sessions": "4096",
            "workers_max_per_source": "4096"} | settings)
        add_accounts(Path("/etc"))
        self.port, self.tls_port = self.poplar.port, self.poplar.tls_port
        self.lmtp = str(self.poplar.lmtp)
        self.description = subprocess.run([BUILD / "poplard", "--version"], capture_output=True,
                                          text=True).stdout.strip()

    def start(self):
        with self.group.entered():
            self.poplar.start()
        self.group.root = self.poplar.process.pid

    def stop(self):
        self.poplar.stop()
        self.group.remove()

    def live(self, kind, n):
        name, h = mail.user(kind, n), 0x811c9dc5
        for c in name.encode():
            h = (h ^ c) * 0x01000193 & 0xffffffff
        h ^= h >> 16
        return self.poplar.state / f"mail/{h >> 8 & 0xff:02x}/{h & 0xff:02x}/{name}"

    def golden(self, kind):
        def make(kind, to):
            maildir = self.world.maildir(kind)
            name = mail.user(kind, 1)
            self.poplar.ctl("mailbox", "create", name)
            if mail.KINDS[kind][0]:
                self.poplar.ctl("import", name, str(maildir))
            made, = self.poplar.state.glob(f"mail/??/??/{name}")
            shutil.copytree(made, to, copy_function=shutil.copy2)
            shutil.rmtree(made)
        template = (BUILD / "store/template.c").read_bytes()
        return self.world.golden.get("poplar", kind, make, str(hash_of(template)))

    def owner(self, kind, n):
        return "poplar:poplar"

    def fill(self, kind, users):
        super().fill(kind, users)
        # The way down to a maildrop is the store user's as well.
        subprocess.run(["chown", "-R", "poplar:poplar", self.poplar.state / "mail"], check=True)


def hash_of(octets):
    import zlib
    return zlib.crc32(octets)


def add_accounts(etc):
    """Lines, not useradd: there are a thousand. First come those that the small scenarios use: for the
    last of them getpwnam() reads 43 kB."""
    passwd, shadow = [f"vmail:x:{MAIL_ID}:{MAIL_ID}::/nonexistent:/bin/false"], []
    kinds = [(users, k, kind) for k, (kind, (*_, users)) in enumerate(mail.KINDS.items())]
    for users, k, kind in sorted(kinds):
        for n in range(1, users + 1):
            name, uid = mail.user(kind, n), 2000 + 2000 * k + n
            passwd.append(f"{name}:x:{uid}:{MAIL_ID}::/nonexistent:/bin/false")
            shadow.append(f"{name}:*:20000::::::")
    for file, lines in (("passwd", passwd), ("shadow", shadow), ("group", [f"vmail:x:{MAIL_ID}:"])):
        with open(etc / file, "a", encoding="ascii") as out:
            out.write("\n".join(lines) + "\n")
    for service in ("poplar", "dovecot", "popa3d"):
        (etc / "pam.d" / service).write_text(STACK)


class Tree:
    """A tree, entered by chroot: read-only, with an /etc and a /srv of ours."""

    def __init__(self, tree, world):
        self.root = world.directory / f"tree-{tree}"
        self.root.mkdir()
        self.mount("--bind", TREES / f"bench-{tree}", self.root)
        self.mount("-o", "remount,bind,ro", self.root)
        etc = world.directory / f"etc-{tree}"
        subprocess.run(["cp", "-a", TREES / f"bench-{tree}" / "etc", etc], check=True)
        add_accounts(etc)
        self.mount("--bind", etc, self.root / "etc")
        for place in ("run", "tmp"):
            self.mount("-t", "tmpfs", "none", self.root / place)
        for place in ("dev", "proc"):
            self.mount("--rbind", f"/{place}", self.root / place)
        srv, self.srv = world.directory / f"srv-{tree}", self.root / "srv"
        srv.mkdir()
        srv.chmod(0o755)
        self.mount("--bind", srv, self.srv)
        self.etc = etc

    @staticmethod
    def mount(*arguments):
        subprocess.run(["mount", *arguments], check=True)

    def popen(self, *command, **options):
        return subprocess.Popen(["chroot", self.root, *command], stdin=subprocess.DEVNULL, **options)


class ForeignServer(Server):
    command = ()

    def start(self):
        self.log = open(self.world.directory / f"{self.name}.out", "ab")
        with self.group.entered():
            self.process = self.tree.popen(*self.command, stdout=self.log, stderr=self.log)
        self.group.root = self.process.pid
        for port in filter(None, (self.port, self.tls_port)):
            wait_until(lambda: is_listening(port) or self.process.poll() is not None, self.name)
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended: " + Path(self.log.name).read_text())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        wait_until(lambda: not self.group.pids(), f"the end of {self.name}") if self.group.directory \
            else None
        self.group.remove()


DOVECOT = """
base_dir = /run/{name}
state_dir = /run/{name}-state
instance_name = {name}
protocols = pop3 lmtp
listen = 127.0.0.1
log_path = /srv/{name}.log
ssl = yes
ssl_cert = </etc/bench.pem
ssl_key = </etc/bench.key
disable_plaintext_auth = no
mail_location = {location}
first_valid_uid = 100
mail_max_userip_connections = 0
passdb {{
  driver = pam
  args = dovecot
}}
userdb {{
  driver = static
  args = uid=vmail gid=vmail home=/srv/home/%u allow_all_users=yes
}}
service auth {{
  client_limit = 20000
}}
service anvil {{
  client_limit = 20000
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = {tls_port}
    ssl = yes
  }}
  process_limit = 4096
  {login}
}}
service pop3 {{
  process_limit = 4096
  {pop3}
}}
{more}
"""

MODES = {
    # Each login and each session a process of its own, as it comes.
    "default": {"login": "", "pop3": "", "more": ""},
    # Dovecot's documentation, "Login processes": high-performance mode.
    "performance": {"login": "service_count = 0\n  process_min_avail = 2\n  client_limit = 4096",
                    "pop3": "", "more": ""},
    "strongest": {"login": "service_count = 0\n  process_min_avail = 2\n  client_limit = 4096",
                  "pop3": "service_count = 1000\n  process_min_avail = 16",
                  "more": "protocol pop3 {\n  pop3_no_flag_updates = yes\n"
                          "  maildir_very_dirty_syncs = yes\n}\n"},
}


class Dovecot(ForeignServer):
    def __init__(self, name, world, mode, store):
        super().__init__(name, world)
        self.tree, self.store = world.tree("dovecot"), store
        self.port, self.tls_port = world.port(), world.port()
        location = {"maildir": f"maildir:/srv/{name}/%u", "sdbox": f"sdbox:/srv/{name}/%u"}[store]
        conf = self.tree.etc / f"{name}.conf"
        conf.write_text(DOVECOT.format(name=name, location=location, port=self.port,
                                       tls_port=self.tls_port, **MODES[mode]))
        shutil.copy(world.certificate, self.tree.etc / "bench.pem")
        shutil.copy(world.key, self.tree.etc / "bench.key")
        self.home = self.tree.srv / name
        for made in (self.home, self.tree.srv / "home"):
            made.mkdir(exist_ok=True)
            os.chown(made, MAIL_ID, MAIL_ID)
        self.lmtp = str(self.tree.root / f"run/{name}/lmtp")
        self.command = ("/usr/sbin/dovecot", "-F", "-c", f"/etc/{name}.conf")
        version = subprocess.run(["chroot", self.tree.root, "/usr/sbin/dovecot", "--version"],
                                 capture_output=True, text=True).stdout
        self.description = f"Dovecot {version.split()[0]}"

    def live(self, kind, n):
        return self.home / mail.user(kind, n)

    def owner(self, kind, n):
        return f"{MAIL_ID}:{MAIL_ID}"

    def golden(self, kind):
        if self.store == "maildir":
            return self.world.maildir(kind)

        def make(kind, to):
            if mail.KINDS[kind][0] == 0:
                to.mkdir()
                return
            name = "golden" + kind
            source = self.tree.srv / "source"
            mail.copy(self.world.maildir(kind), source, self.owner(kind, 1))
            self.tree.popen("doveadm", "-c", f"/etc/{self.name}.conf", "import", "-u", name,
                            "maildir:/srv/source", "", "all").wait()
            shutil.rmtree(source)
            subprocess.run(["cp", "-a", self.home / name, to], check=True)
            shutil.rmtree(self.home / name)
            for index in to.rglob("dovecot*"):
                kept = to.with_name(f"{kind}.index") / index.relative_to(to)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(index, kept)
        return self.world.golden.get("sdbox", kind, make, "with index")

    def fill(self, kind, users):
        if kind not in mail.LARGE:
            super().fill(kind, users)
            return
        golden, live = self.golden(kind), self.live(kind, 1)
        parts = ("new", "tmp", "cur") if self.store == "maildir" else ("",)
        for part in parts:
            (live / part).mkdir(parents=True, exist_ok=True)
        subprocess.run(["chown", "-R", self.owner(kind, 1), live], check=True)
        Tree.mount("--bind", golden / parts[-1], live / parts[-1])

    def refill_first(self, kind):
        """The messages stay; what was learnt of them goes."""
        live, index = self.live(kind, 1), self.golden(kind).with_name(f"{kind}.index")
        for old in list(live.glob("dovecot*")) + list(live.glob("mailboxes/INBOX/*/dovecot*")):
            old.unlink()
        for kept in index.rglob("dovecot*") if self.store == "sdbox" else ():
            to = live / kept.relative_to(index)
            shutil.copy2(kept, to)
            os.chown(to, MAIL_ID, MAIL_ID)


class Popa3d(ForeignServer):
    """A classic: from inetd (its own listener admits fifty sessions a source in ten seconds), mbox,
    one process a session, no TLS."""

    store, port = "mbox", 110
    command = ("/usr/sbin/inetd", "-i", "/etc/bench.inetd")

    def __init__(self, name, world):
        super().__init__(name, world)
        self.tree = world.tree("popa3d")
        (self.tree.etc / "bench.inetd").write_text(
            "127.0.0.1:110 stream tcp nowait.1000000 root /usr/sbin/popa3d popa3d\n")
        self.spool = world.directory / "spool"
        self.spool.mkdir()
        self.spool.chmod(0o1777)
        Tree.mount("--bind", self.spool, self.tree.root / "var/mail")
        self.description = "popa3d " + subprocess.run(
            ["chroot", self.tree.root, "dpkg-query", "-W", "-f", "${Version}", "popa3d"],
            capture_output=True, text=True).stdout

    def live(self, kind, n):
        return self.spool / mail.user(kind, n)

    def owner(self, kind, n):
        k = list(mail.KINDS).index(kind)
        return f"{2000 + 2000 * k + n}:{MAIL_ID}"

    def golden(self, kind):
        return self.world.golden.get("mbox", kind, mail.make_mbox)


class World:
    """Directories, ports, the certificate and the golden mail that servers share."""

    def __init__(self, directory, kept, certificate, key):
        self.directory = Path(directory)
        self.golden = mail.Golden(kept)
        self.certificate, self.key = certificate, key
        self.trees = {}
        self.next_port = 11000

    def port(self):
        self.next_port += 1
        return self.next_port

    def tree(self, name):
        if name not in self.trees:
            self.trees[name] = Tree(name, self)
        return self.trees[name]

    def maildir(self, kind):
        return self.golden.get("maildir", kind, mail.make_maildir)


def has_tree(name):
    return (TREES / f"bench-{name}" / ".made").exists()
