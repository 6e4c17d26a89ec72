"""What the log is for others than people: fields in the journal, the journal's catalog, the lines that
fail2ban acts on. The journal is a socket of our own, the catalog is compiled by systemd's tool, the
filter runs in the real fail2ban-regex, from a tree of its own (tests/support/tree.sh)."""

import contextlib
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

import poplar
from logins import DENIED, attempt_over, while_throttled
from poplar import wait_until

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
TREE = Path(os.environ.get("POPLAR_TREES", "/var/tmp/poplar-trees")) / "fail2ban"
STACK = ("auth required @BUILD@/tests/pam_poplar_test.so expect=secret\n"
         "account required pam_permit.so\n")

namespaces = pytest.mark.skipif(not poplar.NAMESPACES, reason="needs root and namespaces")


def entries():
    """The catalog: MESSAGE_ID, subject."""
    text = (PACKAGING / "systemd/poplar.catalog").read_text()
    return dict(re.findall(r"^-- ([0-9a-f]{32})\nSubject: (.+)$", text, re.M))


@pytest.mark.accounts
def test_log_level(server):
    """What is less than that of the configuration is nobody's to read, whoever says it."""
    p = server(stack=STACK, server_log_level="warning", server_log_to="stderr")
    subprocess.run([poplar.BUILD / "poplar-deliver", "--socket", p.lmtp, "alice"], check=True,
                   input=b"Subject: x\r\n\r\nx\r\n")
    p.login().quit()
    p.stack("auth required pam_no_such_module.so\n")
    with pytest.raises(Exception):
        p.login()
    p.wait_log("auth: ")
    assert "delivered" not in p.log_text() and "session ended" not in p.log_text()


@pytest.mark.skipif(not shutil.which("journalctl"), reason="no journalctl here")
def test_catalog_compiles(tmp_path):
    """By systemd's own compiler, without a complaint, every entry."""
    place = tmp_path / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(PACKAGING / "systemd/poplar.catalog", place)
    done = subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"],
                          capture_output=True, text=True, env=os.environ | {"SYSTEMD_LOG_LEVEL": "info"})
    assert done.returncode == 0 and done.stderr == ""
    listed = subprocess.run(["journalctl", f"--root={tmp_path}", "--list-catalog"],
                            check=True, capture_output=True, text=True).stdout
    assert dict(re.findall(r"^([0-9a-f]{32}) Poplar: (.+)$", listed, re.M)) == entries()


class Journal:
    """The socket that journald would have, over a /run of our own."""

    def __init__(self):
        self.records = []
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        os.makedirs("/run/systemd/journal")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("/run/systemd/journal/socket")

    def start(self):
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            octets = self.socket.recv(65536)
            if not octets:
                return
            self.records.append(dict(line.split("=", 1) for line in octets.decode().splitlines()))

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        subprocess.run(["umount", "-l", "/run"], check=True)

    def wait(self, pattern):
        """The first record whose message begins so."""
        def find():
            return next((r for r in self.records if re.match(pattern, r["MESSAGE"])), None)
        return wait_until(find, f"{pattern!r} in {[r['MESSAGE'] for r in self.records]}")


@pytest.fixture
def journal():
    room = Path("/proc/sys/net/unix/max_dgram_qlen")
    before = room.read_text()
    room.write_text("512")  # as systemd has it; else ten records
    made = Journal()
    room.write_text(before)  # a socket keeps what it was made with
    made.start()
    yield made
    made.close()


@namespaces
def test_a_start_that_fails(server, journal):
    """Its reason is in the journal once, and for who starts it by hand on the terminal as well."""
    p = server(start=False, server_log_to="journal")
    p.certificate.write_text("nothing")

    def start(stream):
        del journal.records[:]
        with open(p.log_file, "wb") as log:
            about = os.fstat(log.fileno())
            named = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"} if stream else {}
            done = subprocess.run(p.command(), stderr=log, env=os.environ | named, timeout=60)
        assert done.returncode == os.EX_CONFIG
        journal.wait(".*no PEM certificate")
        return p.log_text()
    assert start(True) == ""
    assert "no PEM certificate" in start(False)


@pytest.fixture
def stuck_journal():
    """That of a journald which waits for its disk, until start()."""
    made = Journal()
    yield made
    made.close()


@pytest.fixture
def stuck_syslog():
    """The socket of a syslogd that takes nothing, in a /dev of our own."""
    subprocess.run("mount -t tmpfs tmpfs /dev; mknod -m 666 /dev/null c 1 3;"
                   "mknod -m 666 /dev/random c 1 8; mknod -m 666 /dev/urandom c 1 9; mkdir /dev/shm",
                   shell=True, check=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind("/dev/log")
        made.settimeout(20)
        yield made
    subprocess.run(["umount", "-l", "/dev"], check=True)


def come_and_go(p, n=30):
    """Sessions of which the log has told, of a server that does its work."""
    for _ in range(n):
        raw = p.connect(tls=False)
        assert raw.ask(b"QUIT").startswith(b"+OK")
        raw.close()
    wait_until(lambda: json.loads(p.ctl("--json", "status").stdout)["sessions"]["now"] == 0,
               "all are told")


@namespaces
def test_fields(journal, server):
    """Each record has a MESSAGE_ID that the catalog explains, by its event; sessions have fields."""
    p = server(stack=STACK, server_log_to="journal", tls_required="no")
    catalog = entries()

    def subject(record):
        return catalog[record["MESSAGE_ID"]]

    started = journal.wait("serving")
    assert subject(started) == "The POP3 server serves" and started["PRIORITY"] == "5"
    raw = p.connect(tls=False)
    raw.ask(b"USER alice")
    raw.ask(b"PASS wrong")
    failed = journal.wait("login failed")
    assert subject(failed) == "A login from @POPLAR_PEER@ failed"
    assert failed["POPLAR_USER"] == "alice" and failed["POPLAR_REASON"] == "denied"
    assert failed["POPLAR_PEER"].startswith("127.0.0.1:") and failed["POPLAR_DOOR"] == "pop3"
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS secret").startswith(b"+OK")
    raw.ask(b"QUIT")
    ended = journal.wait("session ended")
    assert ended["POPLAR_SESSION"] == failed["POPLAR_SESSION"] == "1"
    assert ended["POPLAR_REASON"] == "quit" and ended["POPLAR_USER"] == "alice"
    client = p.login()
    p.ctl("kick", "alice")
    kicked = journal.wait("kicked")
    assert subject(kicked).startswith("An administrator ended session")
    assert kicked["POPLAR_SESSION"] == "2"
    client.close()
    p.ctl("reload")
    assert subject(journal.wait("reloaded")) == "The configuration was read again"
    p.write_config(server_hostname="")
    p.process.send_signal(signal.SIGHUP)
    assert subject(journal.wait("reload failed")) == "The configuration could not be read again"
    def guess(secret):
        raw = p.connect(tls=False)
        raw.ask(b"USER bob")
        answer = raw.ask(b"PASS " + secret)
        raw.close()
        return answer
    while_throttled(guess, lambda: True)
    throttled = journal.wait("throttled")
    assert subject(throttled) == "Too many logins failed" and throttled["POPLAR_USER"] == "bob"
    # the one before the reload may not have ended yet, and is missed by nobody
    nursery, = wait_until(lambda: (n := p.nursery())[1:] == [] and n, "one nursery")
    os.kill(nursery, signal.SIGSEGV)
    assert subject(journal.wait("the nursery was ended")) == ("A process of the POP3 server has "
                                                              "crashed")
    p.stop()
    assert subject(journal.wait("stopp")) == "The POP3 server stops"
    for record in journal.records:
        assert record["MESSAGE_ID"] in catalog, record
        assert record["SYSLOG_FACILITY"] == "2"


WITHOUT_LOGIN = {
    "clear": ("pop3", b"CAPA\r\nUSER alice\r\n", "logging in needs TLS: send STLS first"),
    "mechanism": ("pop3s", b"AUTH CRAM-MD5\r\n", "no such mechanism here"),
    "identity": ("pop3s", b"AUTH PLAIN Ym9iAGFsaWNlAHNlY3JldA==\r\n", "users act for themselves only"),
    "denied": ("pop3s", b"USER alice\r\nPASS wrong\r\n", "user name or password is wrong"),
    "probe": ("pop3", b"", None),
    "at last": ("pop3s", b"PASS x\r\nUSER alice\r\nPASS secret\r\nDELE 7\r\n", None),
}


@namespaces
@pytest.mark.parametrize("what", WITHOUT_LOGIN)
def test_why_nobody_logged_in(journal, server, what):
    """The last that a client was refused before it went: what to tell the user who asks."""
    door, said, why = WITHOUT_LOGIN[what]
    p = server(stack=STACK, server_log_to="journal")
    raw = p.connect(tls=door == "pop3s")
    raw.send(said + b"QUIT\r\n")
    raw.rest()
    ended = journal.wait("session ended")
    assert ended["PRIORITY"] == "6" and ended["POPLAR_REASON"] == "quit"
    found = re.search(' error="(.*)"$', ended["MESSAGE"])
    assert (found and found[1]) == why


@namespaces
@pytest.mark.parametrize("said", [b"", b"CAPA\r\n", b"QUIT\r\n", b"NOOP\r\n"])
@pytest.mark.parametrize("who", ["anybody", "throttle_exempt", "proxy_from"])
def test_who_asks_whether_poplar_lives(journal, server, who, said):
    """Monitors and proxies do every other second: where they are named, that is for who wants to see
    everything. What a monitor may not do, and what anybody else does, is told."""
    named = {"anybody": {}, "throttle_exempt": {"auth_throttle_exempt": "127.0.0.0/8"},
             "proxy_from": {"listen_proxy_from": "127.0.0.1"}}[who]
    p = server(stack=STACK, server_log_to="journal", **named)
    raw = p.connect(tls=False, greeting=False)
    if who == "proxy_from":
        raw.send(b"PROXY UNKNOWN\r\n")
    assert raw.line().startswith(b"+OK")
    raw.send(said)
    if said:
        raw.line()
    raw.close()
    expected = "6" if who == "anybody" or said.startswith(b"NOOP") else "7"
    assert journal.wait("session ended")["PRIORITY"] == expected


@namespaces
@pytest.mark.parametrize("said,priority", [(b"", "7"), (b"PROXY TCP", "4")])
def test_a_proxy_that_leaves_before_its_header(journal, server, said, priority):
    """One that only connects finds out what it wants to know; half a header is a mistake."""
    p = server(stack=STACK, server_log_to="journal", listen_proxy_from="127.0.0.1")
    raw = p.connect(tls=False, greeting=False)
    raw.send(said)
    raw.close()
    assert journal.wait("session ended")["PRIORITY"] == priority


@namespaces
def test_a_client_without_tls_is_no_warning(journal, server):
    """Who looks for what is wrong with the server does not find all the world's scanners."""
    p = server(stack=STACK, server_log_to="journal")
    raw = p.connect(tls=False)
    assert raw.ask(b"STLS").startswith(b"+OK")
    raw.send(b"GET / HTTP/1.1\r\n\r\n")
    raw.rest()
    ended = journal.wait("session ended")
    assert ended["POPLAR_REASON"] == "tls" and ' detail="http request"' in ended["MESSAGE"]
    assert ended["PRIORITY"] == "6"


@namespaces
def test_a_name_makes_no_field(journal, server):
    """What a client calls itself stays one line in one field."""
    p = server(stack=STACK, server_log_to="journal", tls_required="no")
    raw = p.connect(tls=False)
    raw.ask(b"USER alice reason=denied POPLAR_PEER=192.0.2.1 \\n")
    raw.ask(b"PASS wrong")
    failed = journal.wait("login failed")
    assert failed["POPLAR_PEER"].startswith("127.0.0.1:")
    assert set(failed) == {"MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "MESSAGE_ID", "POPLAR_SESSION",
                           "POPLAR_PEER", "POPLAR_USER", "POPLAR_DOOR", "POPLAR_REASON",
                           "SYSLOG_IDENTIFIER"}


def fields(line):
    """What key=value says in a line, as poplard(8) has it: blanks part them, but not in quotes."""
    parted = re.findall(r'(?:[^ "]|"[^"]*")+', line)
    found = [part.split("=", 1) for part in parted if re.match("[a-z]+=", part)]
    assert len(dict(found)) == len(found), line

    def value(text):
        text = text[1:-1].replace('""', '"') if text.startswith('"') else text
        return text.replace("\\\\", "\\")
    return {key: value(text) for key, text in found}


PLAIN = ["alice", "o'brien", "dom+alice", "é"]
NAMES = ["alice repeated=yes", 'alice" reason=ok "', '"', "a=b", "-", '""', '" user=bob x="', "alice\\",
         'x\\" user=bob "', "é user=bob", "=", "<a b=c", *PLAIN]


def test_a_name_makes_no_word(server):
    """No name ends or begins a field of the line, and a plain one stands there as it is."""
    p = server(stack=STACK, tls_required="no")
    for user in NAMES:
        raw = p.connect(tls=False)
        raw.ask(b"USER " + user.encode())
        assert raw.ask(b"PASS wrong") == DENIED
        raw.ask(b"USER " + user.encode())
        assert raw.ask(b"PASS secret").startswith(b"+OK")
        raw.send(b"QUIT\r\n")
        raw.rest()
        raw.close()
    wait_until(lambda: p.log_text().count("session ended") == len(NAMES), "all")
    for what, keys in (("login failed", {"peer", "user", "reason"}),
                       ("session ended", {"peer", "door", "user", "reason", "retrieved", "deleted",
                                          "in", "out", "ms", "tls", "cipher"})):
        lines = re.findall(f".*{what}: .*", p.log_text())
        assert sorted(fields(line)["user"] for line in lines) == sorted(NAMES)
        assert all(set(fields(line)) == keys for line in lines)
        for user in PLAIN:
            assert any(f" user={user} reason=" in line for line in lines)


@pytest.mark.accounts
def test_an_address_makes_no_word(server):
    """Nor do those of mail that comes in; those with a '=' stand there as they are."""
    p = server(stack=STACK)
    for sender, recipient in (('"x> to=<bob> reason=none y"@example.org', '"nobody here"@other.test'),
                              (r'"a\" to=<bob> \"b"@example.org', r'"x\" user=y \""@other.test'),
                              ("list+alice=example.org@example.org", "nosuchuser@other.test")):
        with smtplib.LMTP(str(p.lmtp), timeout=60) as client:
            client.docmd("LHLO me")
            assert client.docmd(f"MAIL FROM:<{sender}>")[0] == 250
            assert client.docmd(f"RCPT TO:<{recipient}>")[0] == 550
            assert client.docmd("RCPT TO:<alice>")[0] == 250
            assert client.data(b"Subject: x\r\n\r\nx\r\n")[0] == 250
    p.wait_log(r"delivered user=alice .* from=<list\+alice=example.org@example.org> to=<alice>\n")
    lines = [line for line in p.log_text().splitlines() if "refused " in line or "delivered " in line]
    assert len(lines) == 6
    for line in lines:
        found = fields(line)
        assert set(found) == ({"to", "from", "reason"} if "refused" in line
                              else {"user", "octets", "from", "to"}), line
        assert re.fullmatch("<.*@example.org>", found["from"]), line
        assert found["to"] == "<alice>" or re.fullmatch("<.*@other.test>", found["to"]), line


# fail2ban.

@pytest.fixture
def regex(tmp_path):
    """regex(lines) runs the shipped filter over them; gives the addresses that it found."""
    if not poplar.NAMESPACES:
        pytest.skip("needs root and namespaces")
    if not (TREE / ".made").exists():
        pytest.skip("no fail2ban to run: `make trees` could not make its tree")
    root, shared = tmp_path / "tree", tmp_path / "shared"
    root.mkdir()
    shared.mkdir()
    for arguments in (["--bind", TREE, root], ["-o", "remount,bind,ro", root],
                      ["--bind", shared, root / "mnt"], ["-t", "tmpfs", "tmpfs", root / "tmp"]):
        subprocess.run(["mount", *arguments], check=True)
    (shared / "filter.d").mkdir()
    shutil.copy(PACKAGING / "fail2ban/poplar.conf", shared / "filter.d")
    shutil.copy(TREE / "etc/fail2ban/filter.d/common.conf", shared / "filter.d")

    def run(lines):
        (shared / "log").write_text("".join(f"{line}\n" for line in lines))
        done = subprocess.run(["chroot", root, "fail2ban-regex", "--out", "ip", "/mnt/log",
                               "/mnt/filter.d/poplar.conf"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
        return [line for line in done.stdout.split() if line]
    yield run
    for target in (root / "tmp", root / "mnt", root):
        poplar.unmount(target)


def syslog(p):
    """The log's lines as syslog writes them: to stderr they have no time and no host."""
    stamp = time.strftime("%b %d %H:%M:%S")
    return [re.sub(r"^poplard:", f"{stamp} mx1 poplard[{4711}]:", line)
            for line in p.log_text().splitlines()]


def attempt(sock, user, password):
    raw = poplar.Raw(sock)
    assert raw.line().startswith(b"+OK")
    return attempt_over(raw, user, password)


def test_fail2ban(server, regex):
    """Wrong passwords are found, by IPv4 and IPv6, directly and behind a proxy, whatever the user is
    called; good logins, other refusals and other lines are not."""
    p = server(start=False, stack=STACK, tls_required="no", auth_throttle_exempt="127.0.0.0/8, ::1")
    p.write_config(listen_pop3=f"127.0.0.1:{p.port}, [::1]:{p.port}")
    p.start()
    at = {4: ("127.0.0.1", p.port), 6: ("::1", p.port)}
    assert attempt(socket.create_connection(at[4], 20), b"alice", b"secret").startswith(b"+OK")
    assert attempt(socket.create_connection(at[6], 20), b"alice", b"secret").startswith(b"+OK")
    assert regex(syslog(p)) == []
    held = p.login("carol")
    assert b"[IN-USE]" in attempt(socket.create_connection(at[4], 20), b"carol", b"secret")
    assert regex(syslog(p)) == []
    held.quit()
    assert b"[AUTH]" in attempt(socket.create_connection(at[4], 20), b"alice", b"wrong")
    p.wait_log("login failed: .*alice reason=denied")
    assert regex(syslog(p)) == ["127.0.0.1"]
    assert b"[AUTH]" in attempt(socket.create_connection(at[6], 20), b"nosuchuser", b"wrong")
    p.wait_log("login failed: .*nosuchuser reason=denied")
    assert regex(syslog(p)) == ["127.0.0.1", "::1"]
    for user in (b"x peer=192.0.2.9:1 user=y", b"login failed: peer=192.0.2.9:1 user=y reason=denied",
                 b"x reason=ok", b"\xc3\xa9 <HOST> %(x)s"):
        attempt(socket.create_connection(at[4], 20), user, b"wrong")
    wait_until(lambda: len(re.findall("session [0-9]+: login failed", p.log_text())) == 7, "all")
    assert regex(syslog(p)) == ["127.0.0.1", "::1"] + ["127.0.0.1"] * 4


def test_fail2ban_and_names(server, regex):
    """No name has another address banned, nor its own for what is no guess, nor spares it that."""
    p = server(stack=STACK, tls_required="no", auth_throttle_exempt="127.0.0.0/8")
    forged = "login failed: peer=192.0.2.9:1 user=y reason=denied"
    names = (*NAMES, forged, '" ' + forged, forged + " x")
    for user in names:
        assert attempt_over(p.connect(tls=False), user, "wrong") == DENIED
    wait_until(lambda: p.log_text().count(": login failed: peer=127") == len(names), "all")
    assert regex(syslog(p)) == ["127.0.0.1"] * len(names)
    p.stack("auth required @BUILD@/tests/pam_poplar_test.so exit\naccount required pam_permit.so\n")
    p.process.send_signal(signal.SIGHUP)
    p.wait_log("reloaded")
    for user in ("x reason=denied", '" ' + forged):
        attempt_over(p.connect(tls=False), user, "wrong")
    wait_until(lambda: p.log_text().count("reason=crashed claimed=") == 2, "both")
    assert regex(syslog(p)) == ["127.0.0.1"] * len(names)


def test_fail2ban_behind_a_proxy(server, regex):
    p = server(stack=STACK, tls_required="no", listen_proxy_from="127.0.0.1")
    for header in (b"TCP4 192.0.2.44 127.0.0.1 4000 110", b"TCP6 2001:db8::44 ::1 4000 110"):
        sock = socket.create_connection(("127.0.0.1", p.port), 20)
        sock.sendall(b"PROXY " + header + b"\r\n")
        attempt(sock, b"alice", b"wrong")
    wait_until(lambda: p.log_text().count("login failed") == 2, "both")
    assert regex(syslog(p)) == ["192.0.2.44", "2001:db8::44"]


def test_jail_is_understood(regex, tmp_path):
    """fail2ban reads the shipped jail with the filter: off as it comes, complete when switched on."""
    root = tmp_path / "tree"
    config = tmp_path / "shared" / "config"
    shutil.copytree(TREE / "etc/fail2ban", config)
    shutil.copy(PACKAGING / "fail2ban/poplar.conf", config / "filter.d")
    shutil.copy(PACKAGING / "fail2ban/poplar-jail.conf", config / "jail.d/poplar.conf")
    for present in (config / "jail.d").glob("defaults*"):
        present.unlink()

    def dump():
        done = subprocess.run(["chroot", root, "fail2ban-client", "-c", "/mnt/config", "-d"],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout
    assert "poplar" not in dump()
    (config / "jail.d/poplar.local").write_text("[poplar]\nenabled = true\n")
    text = dump()
    assert "['add', 'poplar', 'systemd']" in text
    assert "login failed: peer=" in text and "MESSAGE_ID=" in text


@pytest.mark.parametrize("to, missing", [("journal", "/run/systemd/journal/socket"),
                                         ("syslog", "/dev/log")])
def test_a_log_that_is_not_there(server, to, missing):
    """Lines would go nowhere, and nobody know: that at least is told where the starter looks."""
    if os.path.exists(missing):
        pytest.skip("it is here")
    p = server(server_log_to=to)
    p.wait_log(f"log_to={to}: {missing}: No such file or directory; until it is there nothing")


@namespaces
def test_a_journal_that_takes_nothing(stuck_journal, server):
    """Logins wait for no disk; what was lost is told when it can be."""
    p = server(stack=STACK, server_log_to="journal", tls_required="no")
    come_and_go(p)
    stuck_journal.start()
    assert int(stuck_journal.wait(r"\d+ log lines? dropped")["MESSAGE"].split()[0]) > 5
    come_and_go(p, 1)
    # And of a journald that was started anew.
    os.unlink("/run/systemd/journal/socket")
    stuck_journal.socket.shutdown(socket.SHUT_RDWR)
    come_and_go(p, 1)  # while nobody is there
    stuck_journal.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stuck_journal.socket.bind("/run/systemd/journal/socket")
    stuck_journal.records.clear()
    stuck_journal.start()
    come_and_go(p, 1)
    stuck_journal.wait("session ended")
    stuck_journal.wait(r"\d+ log lines? dropped")


@namespaces
def test_a_syslog_that_takes_nothing(stuck_syslog, server):
    p = server(stack=STACK, server_log_to="syslog", tls_required="no")
    come_and_go(p)
    seen = []

    def told():
        seen.append(stuck_syslog.recv(4096).decode())
        return re.fullmatch(r"<20>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d poplard\[%d\]: "
                            r"\d+ log lines? dropped" % p.process.pid, seen[-1])
    wait_until(told, lambda: seen)


@namespaces
def test_what_modules_tell_a_syslog_that_takes_nothing(stuck_syslog, server):
    """Who is denied is denied all the same. What can be told is told as the C library would. (Of
    pam_unix a later version asks a program of its own, which does wait.)"""
    p = server(start=False, pam_unix=True, tls_required="no", auth_timeout="10s")
    Path("/etc/pam.d/poplar").write_text("auth required pam_succeed_if.so uid < 1\n"
                                         "account required pam_permit.so\n")
    p.start()
    with contextlib.suppress(BlockingIOError), \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        while True:
            other.sendto(b"<86>another", "/dev/log")
    assert attempt_over(p.connect(tls=False), "alice", "wrong") == DENIED
    stuck_syslog.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            assert stuck_syslog.recv(4096) == b"<86>another"
    assert attempt_over(p.connect(tls=False), "alice", "wrong") == DENIED
    told = stuck_syslog.recv(4096).decode()
    assert re.fullmatch(r"<86>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d poplar-auth: "
                        r"pam_succeed_if\(poplar:auth\): requirement .* not met by user .alice.", told), told


@namespaces
@pytest.mark.parametrize("to", ["stderr", "syslog"])
def test_a_pipe_that_nobody_reads(server, to):
    """Nor where the log goes elsewhere, and that is not there, which is told on standard error."""
    if to == "syslog" and os.path.exists("/dev/log"):
        pytest.skip("it is here")
    p = server(start=False, stack=STACK, tls_required="no", server_log_to=to)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    with subprocess.Popen(p.command(), stdin=subprocess.DEVNULL, stderr=writing) as p.process:
        os.close(writing)
        try:
            def serves():
                with contextlib.suppress(ConnectionError):
                    return p.connect(tls=False)
            wait_until(serves, "the server")
            come_and_go(p)
            text = b""
            while to == "stderr" and not re.search(rb"log lines? dropped", text):
                text += os.read(reading, 65536).lstrip(b"x")
        finally:
            os.close(reading)
            p.process.terminate()
    p.process = None
