"""The AppArmor profile: it compiles, and it allows every file that poplard and its children were
seen to open, from start to stop. Whether a kernel enforces it is not tried here."""

import re
import shutil
import smtplib
import subprocess
from pathlib import Path

import pytest

import poplar
from manual import TOP, examples

pytestmark = pytest.mark.skipif(not shutil.which("apparmor_parser"),
                                reason="needs apparmor_parser")

PROFILE = TOP / "packaging/apparmor/usr.sbin.poplard"
ENABLED = Path("/sys/module/apparmor/parameters/enabled")


def parser(*arguments):
    return subprocess.run(["apparmor_parser", *arguments, PROFILE], capture_output=True, text=True)


def test_profile_compiles():
    result = parser("--skip-kernel-load", "--skip-cache")
    complaints = [line for line in result.stderr.splitlines() if not line.startswith("Cache ")]
    assert (result.returncode, complaints) == (0, [])
    assert parser("--names").stdout == "poplard\n"


def test_kernel_enforces_the_profile():
    if not ENABLED.exists() or ENABLED.read_text().strip() != "Y":
        pytest.skip("this kernel does not enforce AppArmor")
    pytest.skip("AppArmor is here, but a profile is loaded into the machine's kernel: try it with "
                "the package")


class Rules:
    """The path rules of the profile, all that it includes with them, as regular expressions."""

    def __init__(self):
        text = parser("--preprocess").stdout
        self.variables = {}
        for name, values in re.findall(r"^(@\{\w+\})\s*\+?=\s*(.*)$", text, re.M):
            self.variables.setdefault(name, []).extend(values.replace('"', "").split())
        self.rules = []
        rule = r"^\s*(?:owner\s+|audit\s+)*\"?([/@][^\s\"]*)\"?\s+([a-zA-Z]+)\s*,"
        for path, permissions in re.findall(rule, text, re.M):
            self.rules.append((re.compile(self.expression(path)), set(permissions)))
        assert len(self.rules) > 100

    def expression(self, glob):
        """apparmor.d(5), "Globbing"."""
        out, depth = "", 0
        for token in re.findall(r"@\{\w+\}|\*\*|\[[^]]*\]|.", glob):
            if token.startswith("@{"):
                values = [value.rstrip("/") for value in self.variables[token]]
                out += "(?:" + "|".join(self.expression(value) for value in values) + ")"
            elif token == "**":
                out += ".*"
            elif token in "*?":
                out += "[^/]" + ("*" if token == "*" else "")
            elif token == "{":
                out, depth = out + "(?:", depth + 1
            elif token == "}":
                out, depth = out + ")", depth - 1
            elif token == "," and depth:
                out += "|"
            else:
                out += token if token.startswith("[") else re.escape(token)
        return out

    def allow(self, path, wanted):
        granted = set().union(*(permissions for expression, permissions in self.rules
                                if expression.fullmatch(path)))
        return wanted <= granted


def test_globs():
    """Of the reading of rules itself."""
    rules = Rules()
    assert rules.allow("/var/lib/poplar/mail/00/11/alice/mail.db-wal", {"r", "w", "k"})
    assert rules.allow("/etc/pam.d/poplar", {"r"})
    assert not rules.allow("/etc/pam.d/poplar", {"w"})
    assert not rules.allow("/etc/poplar/poplar.conf", {"w"})
    assert not rules.allow("/var/lib/poplarx", {"r"})
    assert not rules.allow("/home/alice/.bashrc", {"r"})
    assert not rules.allow("/run/poplar/other", {"w"})
    assert rules.allow("/run/poplar/empty-Ab12/", {"w"})


WRITES = ("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "rename", "renameat", "renameat2",
          "bind", "connect", "chmod", "fchmodat")


def opened(trace):
    """What was opened, made, removed or connected to, and how, by the lines of strace -y."""
    for line in trace.splitlines():
        call = re.match(r"\d+\s+(\w+)\((.*)\)\s+= (\d+)(?:<(.*?)>)?", line)
        if not call:
            continue
        name, arguments, _, result = call.groups()
        if name in ("open", "openat", "openat2") and result:
            mode = {"w"} if re.search(r"O_(WRONLY|RDWR|CREAT)", arguments) else set()
            mode |= set() if "O_WRONLY" in arguments or "O_PATH" in arguments else {"r"}
            directory = "O_DIRECTORY" in arguments or Path(result).is_dir()
            yield result.replace(" (deleted)", "").rstrip("/") + "/" * directory, mode
        elif name == "execve":
            yield re.match(r'"([^"]*)"', arguments)[1], {"x"}
        elif name in ("bind", "connect"):
            path = re.search(r'sun_path="([^"]*)"', arguments)
            if path:
                yield path[1], {"w"}
        elif name in WRITES:
            for directory, path in re.findall(r'(?:AT_FDCWD|\d+)?(?:<([^>]*)>, )?"([^"]*)"',
                                              arguments):
                whole = path if path.startswith("/") else f"{directory}/{path}"
                slash = "/" if "mkdir" in name or "rmdir" in name or "AT_REMOVEDIR" in arguments else ""
                yield whole + slash, {"w"}


@pytest.mark.accounts
@pytest.mark.uncounted  # which opens files of its own
@pytest.mark.unsanitized("a sanitizer opens files of its own")
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_profile_allows_what_is_opened(server, tmp_path):
    Path("/etc/poplar").mkdir(exist_ok=True)
    tallies = tmp_path / "tallies"
    tallies.mkdir()
    p = server(start=False, pam_unix=True)
    stack = examples("poplar-pam.7", "Lock after failures")[0]
    Path("/etc/pam.d/poplar").write_text(stack.replace(" deny=10", f" dir={tallies} deny=10"))
    trace = tmp_path / "trace"
    real = p.command
    p.command = lambda *more: [
        "strace", "-f", "-y", "-s", "4096", "-o", str(trace), "-e", "signal=none", "-e",
        "trace=" + ",".join(("open", "openat", "openat2", "execve", *WRITES)), *real(*more)]
    p.start()
    poplard, = p.children("poplard")
    with smtplib.LMTP(str(p.lmtp)) as client:
        client.sendmail("", ["alice"], b"Subject: one\r\n\r\nbody\r\n")
    for tls in (True, False):
        client = p.login(tls=tls)
        assert client.stat()[0] == 1
        client.quit()
    with pytest.raises(Exception, match="password is wrong"):
        p.login(password="wrong")
    p.login("bob", "bob's own pass word").quit()  # a maildrop is made
    p.ctl("reload")
    p.login().quit()
    subprocess.run(["kill", str(poplard)], check=True)
    p.process.wait(60)

    places = {str(p.state): "/var/lib/poplar", str(p.run): "/run/poplar",
              str(p.config): "/etc/poplar/poplar.conf", str(p.certificate): "/etc/poplar/cert.pem",
              str(p.key): "/etc/poplar/key.pem", str(tallies): "/run/faillock",
              str(p.directory / "notify"): "/run/systemd/notify",
              str(poplar.BUILD / "poplard"): "/usr/sbin/poplard",
              str(poplar.BUILD / "poplar-"): "/usr/libexec/poplar/poplar-"}
    rules, seen = Rules(), set()
    for path, mode in list(opened(trace.read_text()))[1:]:  # the first is strace's exec of poplard
        for here, there in places.items():
            if path.startswith(here):
                path = there + path[len(here):]
        seen.add((path, "".join(sorted(mode))))
    forbidden = sorted(f"{path} {mode}" for path, mode in seen
                       if not rules.allow(path, set(mode)))
    assert not forbidden, "\n".join(forbidden)
    for path, mode in (("/etc/shadow", "r"), ("/usr/libexec/poplar/poplar-auth", "x"),
                       ("/etc/poplar/key.pem", "r"), ("/run/poplar/lmtp.sock", "w"),
                       ("/run/faillock/alice", "rw")):
        assert (path, mode) in seen, "the trace saw what must be seen"
