"""Other servers, each run from a Debian tree of its own (tests/support/tree.sh) by chroot, in the
tests' namespaces."""

import contextlib
import os
import pwd
import signal
import subprocess
from pathlib import Path

import pytest

import poplar
from poplar import wait_until

TREES = Path(os.environ.get("POPLAR_TREES", "/var/tmp/poplar-trees"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def needs(name):
    return pytest.mark.skipif(not (TREES / name / ".made").exists(),
                              reason=f"no {name} to run: `make trees` could not make its tree")


def is_listening(port):
    """From the kernel's table: to try it out would be a session of its own."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
               for line in lines)


class Tree:
    """One tree, read-only but for copies of some of its directories, which are gone with it."""

    def __init__(self, name, directory, *writable):
        self.root = Path(directory) / name
        self.root.mkdir()
        self.mounted, self.running, self.lent = [], [], []
        self.mount("--bind", TREES / name, target=self.root)
        self.mount("-o", "remount,bind,ro", target=self.root)
        self.mount("--bind", "/proc", target=self.root / "proc")
        for path in ("/etc", "/run", "/tmp", "/var/tmp", "/home", "/var/log", *writable):
            target = self.root / path.lstrip("/")
            self.mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", target=target)
            subprocess.run(["cp", "-a", f"{TREES / name}{path}/.", target], check=True)
        for path in ("tmp", "var/tmp"):  # where TMPDIR may be
            (self.root / path).chmod(0o1777)
        for log in (self.root / "var/log").rglob("*"):  # of its making
            if log.is_file():
                log.unlink()

    def mount(self, *arguments, target):
        subprocess.run(["mount", *arguments, target], check=True)
        if target not in self.mounted:
            self.mounted.append(target)

    def share(self, source, path):
        """What lies here is there too."""
        target = self.root / path.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        self.mount("--bind", source, target=target)

    def accounts(self, *names):
        """Accounts that are here are there too, with homes of their own."""
        for database in ("passwd", "group", "shadow"):
            lines = Path("/etc", database).read_text().splitlines(keepends=True)
            with open(self.root / "etc" / database, "a", encoding="ascii") as file:
                file.writelines(line for line in lines if line.split(":")[0] in names)
        for name in names:
            account = pwd.getpwnam(name)
            home = self.root / account.pw_dir.lstrip("/")
            if account.pw_dir == "/nonexistent":
                continue
            home.mkdir()
            os.chown(home, account.pw_uid, account.pw_gid)

    def lend_account(self, name):
        """An account that is there is here too, with its number."""
        for line in (self.root / "etc/passwd").read_text().splitlines():
            user, _, uid = line.split(":")[:3]
            if user == name:
                subprocess.run(["useradd", "--system", "--non-unique", "--uid", uid,
                                "--no-create-home", name], check=True)
                self.lent.append(name)

    def write(self, path, text, owner=None, mode=0o644):
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        if owner:
            account = pwd.getpwnam(owner)
            os.chown(file, account.pw_uid, account.pw_gid)
        return file

    def put_program(self, name):
        """One of ours, with the libraries that it was linked with, as /usr/local/bin/NAME."""
        program = poplar.BINARIES / name
        linked = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        libraries = [word for line in linked.splitlines() for word in line.split()
                     if word.startswith("/")]
        there = self.root / "tmp/poplar"
        there.mkdir(mode=0o755, exist_ok=True)
        subprocess.run(["cp", "-L", program, *libraries, there], check=True)
        loader, = (Path(path).name for path in libraries if "/ld-" in path)
        self.write(f"/tmp/{name}", f"#!/bin/sh\nexec /tmp/poplar/{loader} "
                   f'--library-path /tmp/poplar /tmp/poplar/{name} "$@"\n', mode=0o755)
        return f"/tmp/{name}"

    def run(self, *command, check=True, **options):
        options = {"capture_output": True, "timeout": 120, "env": {"PATH": PATH}} | options
        result = subprocess.run(["chroot", self.root, *command], **options)
        assert not check or result.returncode == 0, (command, result.stdout, result.stderr)
        return result

    def daemon(self, *command, ports=()):
        """Start a server that goes to the background, and wait for its ports."""
        self.run(*command, capture_output=False, stdin=subprocess.DEVNULL,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for port in ports:
            wait_until(lambda: is_listening(port), command)

    def serve(self, *command, ports):
        """Start a server that stays in the foreground, and wait for its ports."""
        with open(self.root / "var/log/output", "ab") as out:
            process = subprocess.Popen(["chroot", self.root, *command], stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=out, env={"PATH": PATH})
        self.running.append(process)
        for port in ports:
            wait_until(lambda: is_listening(port) or process.poll() is not None, command)
        assert process.poll() is None, self.logs()
        return process

    def logs(self):
        return "".join(path.read_text(errors="replace")
                       for path in sorted((self.root / "var/log").rglob("*")) if path.is_file())

    def inside(self):
        """The processes that have the tree, or a part of it, for their root."""
        found = []
        for root in Path("/proc").glob("[0-9]*/root"):
            with contextlib.suppress(OSError):
                if root.readlink().is_relative_to(self.root):
                    found.append(int(root.parent.name))
        return found

    def stop(self):
        """End all that runs in it; a server's children may outlive it."""
        def ended():
            pids = self.inside()
            for pid in pids:
                poplar.kill(pid, signal.SIGTERM)
            return not pids
        wait_until(ended, f"the end of all in {self.root}")
        for process in self.running:
            process.wait(60)
        self.running = []

    def close(self):
        self.stop()
        for target in reversed(self.mounted):
            poplar.unmount(target)
        for name in self.lent:
            subprocess.run(["userdel", name], check=True)


class PoplarInTree(poplar.Poplar):
    """Poplar itself in a tree, with the accounts and the PAM modules of that."""

    def __init__(self, tree, directory, stack, **settings):
        self.tree = tree
        directory.mkdir(mode=0o755)
        tree.share(poplar.BUILD, "/tmp/programs")
        tree.share(directory, str(directory))
        tree.accounts("poplar", "poplar-worker")
        super().__init__(directory, pam_unix=True, **settings)
        tree.write("/etc/pam.d/poplar", stack)

    def command(self, *arguments):
        return ["chroot", str(self.tree.root), "/tmp/programs/poplard", "--config",
                str(self.config), *arguments]

    def ctl(self, *arguments, check=True, **options):
        return self.tree.run("/tmp/programs/poplarctl", "--config", self.config, *arguments,
                             check=check, **options)
