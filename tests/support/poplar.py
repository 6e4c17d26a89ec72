"""A real poplard for tests: its configuration, its processes, its log, and clients of its doors.

Used by tests/system and tests/protocol. Nothing here waits for a length of time where a condition
can be awaited; every wait has a bound.
"""

import contextlib
import itertools
import json
import os
import poplib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

# Where programs are to be started from, and where they are: under valgrind not the same.
BUILD = BINARIES = Path(os.environ.get("POPLAR_BUILD", "build")).resolve()
ROOT = os.geteuid() == 0
NAMESPACES = os.environ.get("POPLAR_NAMESPACES") == "1"
CHROOT = os.environ.get("POPLAR_CHROOT") == "1"
MEMCHECK = os.environ.get("MEMCHECK") == "1"
# Bounds tell who hangs from who lives. A machine may be slow, and have much else to do; valgrind
# lives slowly on any.
PATIENCE = 10 if MEMCHECK else 3
CORPUS = Path(__file__).resolve().parent.parent / "corpus"

# A message of the corpus may be one long line.
poplib._MAXLINE = 1 << 30


def corpus():
    """Every message of the corpus, in a fixed order."""
    return sorted(CORPUS.glob("*/*.eml"))


def on_the_wire(octets):
    """What a client must get for these octets: CRLF line ends, the last line ended."""
    octets = re.sub(rb"(?<!\r)\n", b"\r\n", octets)
    if octets and not octets.endswith(b"\r\n"):
        octets += b"\r\n"
    return octets


def wait_until(condition, what, seconds=20):
    """Poll until the condition gives something true; that is returned. `what` is words, or gives
    them once they are needed."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what() if callable(what) else what}")
        time.sleep(0.01)


def kill(pid, number=signal.SIGKILL):
    """Signal a process that may have ended by itself, as what stands by does."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def check(program, config):
    """What `poplard --check` says against a configuration, but for what is not there yet."""
    done = subprocess.run([program, "--config", config, "--check"], capture_output=True, text=True)
    assert (done.returncode == 0) == (done.stderr == ""), done
    return [line for line in done.stderr.splitlines()
            if not re.search(r"No such file|no readable file|no such account|only root can", line)]


def unmount(target):
    """Who used it and has ended may still be about to let go of it."""
    wait_until(lambda: subprocess.run(["umount", target], stderr=subprocess.DEVNULL).returncode == 0,
               f"nobody uses {target}")


PORTS = itertools.count(20000 + os.getpid() % 100 * 100)
KEPT = []


def free_port():
    """Below the range from which the kernel gives clients theirs. It is kept for whoever binds it with
    SO_REUSEADDR, as servers do: without namespaces other tests look for ports at the same time."""
    for port in PORTS:
        s = socket.socket()
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            s.close()
            continue
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        KEPT.append(s)
        return port


# getmail6 6.18 forks to deliver and only then catches SIGCHLD: when the child was faster, it waits a
# minute for nothing (1 of 400 deliveries on a busy machine). Here it waits for the child itself.
GETMAIL = ("/usr/bin/python3", "-c", """
import os, runpy
from getmailcore.baseclasses import ForkingBase
ForkingBase._prepare_child = lambda self: None
ForkingBase._wait_for_child = lambda self, pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
runpy.run_path("/usr/bin/getmail", run_name="__main__")
""")


def make_maildir(path):
    """An empty one."""
    for folder in ("cur", "new", "tmp"):
        (path / folder).mkdir(parents=True)
    return path


def make_certificate(directory, name, *more_names):
    """A self-signed certificate for the names and 127.0.0.1; paths of certificate and key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    names = ",".join(f"DNS:{n}" for n in (name, *more_names)) + ",IP:127.0.0.1"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "30", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True)
    return certificate, key


class Poplar:
    """One poplard under a directory of its own."""

    def __init__(self, directory, stack=None, pam_unix=False, **settings):
        self.directory = Path(directory)
        self.process = None
        self.pass_fds = ()  # what it inherits
        self.settings = settings
        self.port, self.tls_port = free_port(), free_port()
        self.state = self.directory / "state"
        self.run = self.directory / "run"
        self.lmtp = self.run / "lmtp.sock"
        self.confdir = self.directory / "pam.d"
        self.config = self.directory / "poplar.conf"
        self.log_file = self.directory / "log"
        self.certificate, self.key = make_certificate(self.directory, "pop.example.test",
                                                      "localhost")
        for made in (self.state, self.run, self.confdir):
            made.mkdir(exist_ok=True)
        self.state.chmod(0o700)
        if ROOT:
            shutil.chown(self.state, "poplar" if NAMESPACES else "mail")
        self.pam_unix = pam_unix
        if pam_unix:
            stack = "auth required pam_unix.so\naccount required pam_unix.so\n"
            Path("/etc/pam.d/poplar").write_text(stack)
        else:
            self.stack(stack or "auth required pam_permit.so\naccount required pam_permit.so\n")
        self.write_config()

    def stack(self, text, service="poplar"):
        """Write a PAM stack into the private directory. @BUILD@ is where the test modules are."""
        (self.confdir / service).write_text(text.replace("@BUILD@", str(BUILD)))

    def write_config(self, **changes):
        """Settings as section_key=value: server_stop_grace="1s". None leaves one out."""
        self.settings.update(changes)
        me = __import__("pwd").getpwuid(os.geteuid()).pw_name
        worker, store = (("poplar-worker", "poplar") if NAMESPACES else ("nobody", "mail"))
        values = {
            "server": {"hostname": "pop.example.test",
                       "local_domains": "pop.example.test, localhost",
                       "state_dir": self.state, "run_dir": self.run, "log_to": "stderr",
                       "log_level": "debug",
                       "worker_user": worker if ROOT else me, "store_user": store if ROOT else me},
            "listen": {"pop3": f"127.0.0.1:{self.port}", "pop3s": f"127.0.0.1:{self.tls_port}",
                       "lmtp": self.lmtp},
            "tls": {"certificate": self.certificate, "key": self.key},
            "auth": {"failure_delay": "0"},
        }
        if not ROOT:
            values["delivery"] = {"trusted": me}
        if MEMCHECK:
            values["server"]["program_dir"] = BUILD
        if not self.pam_unix:
            values["auth"] |= {"pam_confdir": self.confdir, "canonical": "pam",
                               "require_nss": "no"}
        extra = ""
        for name, value in self.settings.items():
            section, _, key = name.partition("_")
            if section == "extra":
                extra = value
            else:
                values.setdefault(section, {})[key] = value
        text = ""
        for section, keys in values.items():
            text += f"[{section}]\n"
            text += "".join(f"{k}={v}\n" for k, v in keys.items() if v is not None)
        self.config.write_text(text + extra)

    def command(self, *arguments):
        return [str(BUILD / "poplard"), "--config", str(self.config), *arguments]

    def start(self):
        """Start and wait for READY=1, as systemd would."""
        self.notified = []
        notify = self.directory / "notify"
        with contextlib.suppress(FileNotFoundError):
            notify.unlink()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(notify))
        self.notify.settimeout(0.1)
        self.log = open(self.log_file, "ab")
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, pass_fds=self.pass_fds,
                                        env=os.environ | {"NOTIFY_SOCKET": str(notify)})
        self.listener = threading.Thread(target=self.listen, args=(self.process,), daemon=True)
        self.listener.start()
        self.wait_notified("READY=1")
        return self

    def listen(self, process):
        """Read notifications for as long as the process lives, as systemd would."""
        while process.returncode is None:
            with contextlib.suppress(TimeoutError):
                self.notified += self.notify.recv(8192).decode().split("\n")

    def wait_notified(self, line):
        """Wait for a notification; what came up to it is forgotten."""
        def seen():
            if self.process.poll() is not None:
                raise AssertionError(f"poplard ended: {self.log_text()}")
            return line in self.notified
        wait_until(seen, f"{line}; {self.log_text()}")
        del self.notified[: self.notified.index(line) + 1]

    def stop(self, signal_number=signal.SIGTERM):
        if self.process:
            if self.process.poll() is None:
                self.process.send_signal(signal_number)
            self.status = self.process.wait(20 * PATIENCE)
            self.process = None
            self.listener.join()
            self.notify.close()
            self.log.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        self.stop()

    def log_text(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def wait_log(self, pattern, seconds=20):
        return wait_until(lambda: re.search(pattern, self.log_text()),
                          f"{pattern!r} in the log:\n{self.log_text()}", seconds)

    # The processes, as /proc tells of them.

    def children(self, program=None):
        found = []
        for line in subprocess.run(["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
                                   capture_output=True, text=True).stdout.splitlines():
            pid, _, arguments = line.strip().partition(" ")
            if "defunct" not in arguments and (program is None or program in arguments):
                found.append(int(pid))
        return found

    def workers(self):
        """Nursery and workers share a name; the nursery has one seccomp filter of ours, a worker
        two."""
        return self.filtered(2)

    def sessions(self, **wanted):
        """What `poplarctl sessions` says of those with these fields."""
        return [s for s in json.loads(self.ctl("--json", "sessions").stdout)
                if all(s[key] == value for key, value in wanted.items())]

    def serving(self):
        """The workers that have a client: by their descriptors or, where those are hidden from
        us, by what the server says."""
        if not ROOT:
            return sorted(s["pid"] for s in self.sessions())
        found = []
        for pid in self.workers():
            with contextlib.suppress(OSError):
                if "socket" in os.readlink(f"/proc/{pid}/fd/4"):
                    found.append(pid)
        return found

    def maildrop(self, user):
        """The directory of a user's maildrop, which must be there."""
        found, = self.state.glob(f"mail/??/??/{user}")
        return found

    def nursery(self):
        """A worker that was just born has no more filters than it, but was never exec'd."""
        return [pid for pid in self.filtered(1) if not self.is_forked(pid)]

    @staticmethod
    def is_forked(pid):
        """Whether a process runs what its parent ran: PF_FORKNOEXEC of Linux's sched.h."""
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            return bool(int(stat.rsplit(")", 1)[1].split()[6]) & 0x40)
        return True

    def filtered(self, n):
        """The children with so many filters more than the master."""
        def filters(pid):
            return int(self.proc_status(pid).get("Seccomp_filters", -1))
        n += filters(self.process.pid)
        return [p for p in self.children("poplar-worker") if filters(p) == n]

    def auths(self):
        return self.children("poplar-auth")

    @staticmethod
    def proc_status(pid):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            lines = []
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return {"Seccomp": "gone"} | {k: v.strip() for k, v in fields.items()}

    @classmethod
    def lives(cls, pid):
        """Not gone, nor a zombie that waits for whoever inherited it."""
        return cls.proc_status(pid).get("State", "Z")[0] != "Z"

    # Tools.

    def ctl(self, *arguments, check=True, **options):
        result = subprocess.run([BUILD / "poplarctl", "--config", self.config, *arguments],
                                capture_output=True, **options)
        if check and result.returncode != 0:
            raise AssertionError(f"poplarctl {arguments}: {result.stderr.decode()}")
        return result

    def add(self, user, octets):
        self.ctl("message", "add", user, input=octets)

    # Clients.

    def tls_context(self):
        return ssl.create_default_context(cafile=str(self.certificate))

    def pop3(self, tls=True, timeout=20 * PATIENCE):
        """poplib, over TLS from the first octet or by STLS."""
        if tls:
            return poplib.POP3_SSL("127.0.0.1", self.tls_port, timeout=timeout,
                                   context=self.tls_context())
        client = poplib.POP3("127.0.0.1", self.port, timeout=timeout)
        client.stls(self.tls_context())
        return client

    def login(self, user="alice", password="secret", tls=True):
        client = self.pop3(tls)
        client.user(user)
        client.pass_(password)
        return client

    def connect(self, tls=True, greeting=True, source=None, room=None):
        """A socket for octets, from any address of loopback, with little room for what comes; the
        greeting read and gone."""
        raw = Raw(socket.socket())
        if room:
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        if source:
            raw.sock.bind((source, 0))
        raw.sock.connect(("127.0.0.1", self.tls_port if tls else self.port))
        if tls:
            raw.start_tls(self.tls_context())
        if greeting:
            assert raw.line().startswith(b"+OK")
        return raw


def log_in(p, user="alice", tls=False, later=(b"-ERR [IN-USE]",)):
    """A session for octets in TRANSACTION; while the answer is one of `later`, the session before
    may still be about to end."""
    def once():
        raw = p.connect(tls)
        raw.ask(b"USER " + user.encode())
        answer = raw.ask(b"PASS secret")
        if answer.startswith(b"+OK"):
            return raw
        assert answer.startswith(tuple(later)), answer
        raw.close()
        return None
    return wait_until(once, "a login")


class Raw:
    """Lines and octets over a socket, for what no library would send."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(20 * PATIENCE)
        self.buffer = b""

    def start_tls(self, context, name="pop.example.test"):
        self.sock = context.wrap_socket(self.sock, server_hostname=name)

    def send(self, octets):
        self.sock.sendall(octets)

    def line(self):
        """One line with its CRLF; what is left when the peer closed."""
        while b"\n" not in self.buffer:
            try:
                got = self.sock.recv(65536)
            except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
                got = b""
            if not got:
                line, self.buffer = self.buffer, b""
                return line
            self.buffer += got
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line + b"\n"

    def ask(self, octets):
        """One command, one line of answer."""
        self.send(octets + b"\r\n")
        return self.line()

    def multi(self):
        """The lines of a multi-line answer after its first, dots unstuffed."""
        lines = []
        while (line := self.line()) != b".\r\n":
            assert line.endswith(b"\r\n"), line
            lines.append(line[1:] if line.startswith(b".") else line)
        return lines

    def rest(self):
        """All that comes until the peer closes."""
        octets = b""
        while line := self.line():
            octets += line
        return octets

    def close(self):
        self.sock.close()
