"""What an administrator sees of the running server, who may see it, and who may give orders: poplarctl
status, sessions, metrics, kick; throttling and certificates as they show there."""

import datetime
import grp
import json
import os
import re
import socket
import struct
import subprocess
import time

import pytest

import poplar
from logins import while_throttled
from manual import TOP
from poplar import wait_until

USAGE, NOINPUT, NOUSER, UNAVAILABLE, TEMPFAIL, NOPERM = 64, 66, 67, 69, 75, 77
DENY = ("auth required @BUILD@/tests/pam_poplar_test.so expect=right\n"
        "account required pam_permit.so\n")

root_only = pytest.mark.skipif(not poplar.ROOT, reason="needs root: other users")


def shown(p, *command):
    return json.loads(p.ctl("--json", *command).stdout)


def metrics(p):
    """Every sample by its name and labels, read by an OpenMetrics parser that is not ours."""
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    text = p.ctl("metrics").stdout.decode()
    return {(s.name, *sorted(s.labels.values())): s.value
            for family in parser.text_string_to_metric_families(text) for s in family.samples}


def test_sessions(server):
    """Each door and state, with and without TLS, in the table and for programs."""
    p = server()
    assert p.sessions() == []
    client = p.login()
    early = p.connect(tls=False)
    late = p.pop3(tls=False)
    late.user("bob")
    late.pass_("secret")
    found = wait_until(lambda: len(found := p.sessions()) == 3 and found, "three sessions")
    alice, = [s for s in found if s["user"] == "alice"]
    assert alice["door"] == "pop3s" and alice["state"] == "mail" and alice["tls"] == "TLSv1.3"
    assert alice["peer"].startswith("127.0.0.1:") and alice["seconds"] < 60
    assert alice["pid"] in p.workers()
    bob, = [s for s in found if s["user"] == "bob"]
    assert bob["door"] == "pop3" and bob["tls"] == "TLSv1.3"
    other, = [s for s in found if s["user"] == ""]
    assert other["door"] == "pop3" and other["tls"] == "" and other["state"] == "greeted"
    table = p.ctl("sessions").stdout.decode().splitlines()
    assert table[0].split() == ["Session", "Process", "State", "Door", "TLS", "Age", "Peer", "User"]
    assert len(table) == 4
    assert [row.split()[0] for row in table[1:]] == sorted(row.split()[0] for row in table[1:])
    assert re.search(r"mail +pop3s +TLSv1.3 +0:00:\d\d +127.0.0.1:\d+ +alice$", table[1])
    client.quit()
    late.quit()
    early.close()
    wait_until(lambda: p.sessions() == [], "the end of all sessions")


def test_many_sessions(server):
    """More than fit into any one record or buffer."""
    p = server(workers_max_per_source="300")
    clients = [p.connect(tls=False) for _ in range(150)]
    assert len(p.sessions()) == 150
    for client in clients:
        client.close()


def test_kick_a_user(server):
    """All sessions of a user end, before their next command; what they deleted stays."""
    p = server(tls_required="not-on-loopback")
    p.add("alice", b"Subject: one\r\n\r\nbody\r\n")
    client = p.login()
    client.dele(1)
    other = p.login("bob")
    result = p.ctl("kick", "ALICE@localhost")
    assert result.stdout == b"1 session ended\n"
    assert p.sessions(user="alice") == [] and len(p.sessions(user="bob")) == 1
    with pytest.raises(Exception):
        client.noop()
    p.wait_log(r"kicked: peer=127.0.0.1:\d+ user=alice")
    p.wait_log(r"session ended: .*user=alice reason=(kicked|ended)")  # killed, if it took a second
    again = p.login()
    assert again.stat()[0] == 1
    assert other.noop().startswith(b"+OK")
    # At once after it nobody holds the maildrop: a script may go on.
    p.ctl("kick", "alice")
    p.ctl("mailbox", "delete", "--yes", "alice")


def test_kick_by_number(server):
    """Whoever it is: not logged in, stuck, gone meanwhile."""
    p = server()
    early = p.connect(tls=False)
    session, = p.sessions()
    assert shown(p, "kick", str(session["session"])) == {"ended": 1}
    assert early.rest() == b""
    gone = p.ctl("kick", str(session["session"]), check=False)
    assert gone.returncode == NOINPUT and b"no such session" in gone.stderr
    # One that cannot end by itself has a second.
    client = p.login()
    session, = p.sessions(user="alice")
    os.kill(session["pid"], 19)  # SIGSTOP
    p.ctl("kick", str(session["session"]))
    wait_until(lambda: not os.path.exists(f"/proc/{session['pid']}"), "its end")
    client.close()


def test_kick_what_is_not_there(server):
    p = server(auth_require_nss="yes", auth_canonical="pam")
    result = p.ctl("kick", "nobody-of-that-name", check=False)
    assert result.returncode == NOUSER and b"no such user" in result.stderr
    known = "alice" if poplar.NAMESPACES else "nobody"
    if poplar.NAMESPACES:
        assert p.ctl("kick", known).stdout == b"0 sessions ended\n"
    assert p.ctl("kick", check=False).returncode == USAGE
    for digits in ("0", "9" * 20, "9" * 200):  # a number, and no session's
        result = p.ctl("kick", digits, check=False)
        assert result.returncode == NOINPUT and b"there is no such session" in result.stderr


def test_status(server):
    p = server()
    client = p.login()
    text = p.ctl("status").stdout.decode()
    assert re.search(r"^sessions +1 of 1024: 1 logged in", text, re.M)
    assert re.search(r"^certificate +\S+pop.example.test.pem: (29|30) days left, until 20", text,
                     re.M)
    found = shown(p, "status")
    assert found["pid"] == p.process.pid and not found["stopping"]
    assert abs(found["started"] - time.time()) < 300
    assert found["sessions"] == {"now": 1, "max": 1024, "logged_in": 1, "delivering": 0,
                                 "waiting": 0}
    assert found["logins"]["ok"] == 1
    assert found["throttled_sources"] == found["attacked_users"] == found["traced_users"] == []
    certificate, = found["certificates"]
    assert certificate["file"] == str(p.certificate) and certificate["days_left"] in (29, 30)
    client.quit()
    p.ctl("debug", "alice", "on")
    assert shown(p, "status")["traced_users"] == ["alice"]
    assert b"traced       alice" in p.ctl("status").stdout


def make_certificate(p, name, days):
    """A certificate that expires so many days from now, also in the past."""
    now = datetime.datetime.now(datetime.timezone.utc)
    start, end = ((now + datetime.timedelta(days=d)).strftime("%Y%m%d%H%M%SZ")
                  for d in (min(days, 0) - 10, days))
    base = p.directory / f"ca-{name}"
    base.mkdir()
    (base / "index").write_text("")
    (base / "serial").write_text("01\n")
    (base / "conf").write_text("[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\n"
                               "new_certs_dir=.\ndefault_md=sha256\npolicy=p\n"
                               "[p]\ncommonName=supplied\n")
    run = lambda *words: subprocess.run(["openssl", *words], cwd=base, check=True,
                                        capture_output=True)
    run("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-subj", f"/CN={name}", "-keyout", "key", "-out", "request")
    run("ca", "-batch", "-selfsign", "-config", "conf", "-keyfile", "key", "-in", "request",
        "-out", "pem", "-notext", "-startdate", start, "-enddate", end)
    return base / "pem", base / "key"


def test_days_of_each_certificate(server):
    """Fresh, about to expire, expired: one that has expired is served, with a warning; a renewed one
    shows after the reload."""
    p = server(start=False)
    expired, key = make_certificate(p, "old.example.test", -3)
    soon, soon_key = make_certificate(p, "soon.example.test", 5)
    p.write_config(extra=f"[tls old]\ncertificate={expired}\nkey={key}\n"
                         f"[tls soon]\ncertificate={soon}\nkey={soon_key}\n")
    p.start()
    p.wait_log("old.*the certificate expired on 20")
    found = {c["name"]: c for c in shown(p, "status")["certificates"]}
    assert found[""]["days_left"] in (29, 30)
    assert found["old"]["days_left"] in (-4, -3)
    assert found["soon"]["days_left"] in (4, 5)
    text = p.ctl("status").stdout.decode()
    assert re.search(r"certificate +\S+/ca-old\S+: EXPIRED, on 20\d\d-\d\d-\d\d; renew it", text)
    assert re.search(r"certificate +\S+/ca-soon\S+: [45] days left, until \S+; renew it", text)
    numbers = metrics(p)
    days = {k[2]: v for k, v in numbers.items() if k[0] == "poplar_certificate_days_left"}
    assert days["soon"] == pytest.approx(5, abs=0.1) and days["old"] == pytest.approx(-3, abs=0.1)
    fresh, fresh_key = make_certificate(p, "fresh.example.test", 60)
    fresh.rename(expired)
    fresh_key.rename(key)
    p.ctl("reload")
    found = {c["name"]: c for c in shown(p, "status")["certificates"]}
    assert found["old"]["days_left"] in (59, 60)


def test_a_strange_path_in_metrics(server):
    """Quotes and backslashes in a label: still one sample, as the format wants it."""
    p = server(start=False)
    strange = p.directory / 'we"ird\\dir, le="1"}'
    strange.mkdir()
    certificate, key = p.certificate.rename(strange / "pem"), p.key.rename(strange / "key")
    p.write_config(tls_certificate=certificate, tls_key=key)
    p.start()
    found = [k for k in metrics(p) if k[0] == "poplar_certificate_days_left"]
    assert len(found) == 1
    assert found[0][2].replace("\\\\", "\\") == str(certificate)


def fail(p, user="alice", password="wrong", tls=False):
    raw = p.connect(tls=tls)
    raw.ask(b"USER " + user.encode())
    answer = raw.ask(b"PASS " + password.encode())
    raw.close()
    return answer


def test_throttling_shows(server):
    """In the status, the numbers and the log."""
    p = server(stack=DENY, tls_required="no")
    answers = []

    def guess(secret):
        answers.append(fail(p, password=secret.decode()))
        return answers[-1]

    def shows():
        found, text, numbers = shown(p, "status"), p.ctl("status").stdout.decode(), metrics(p)
        return numbers["poplar_throttled", "source"] == 1 and (found, text, numbers)
    found, text, numbers = while_throttled(guess, shows)
    throttled = sum(b"[SYS/TEMP]" in answer for answer in answers)
    denied = len(answers) - throttled
    p.wait_log(r"throttled: peer=127.0.0.1:\d+ failed too often")
    source, = found["throttled_sources"]
    assert source["source"] == "127.0.0.1" and 0 < source["seconds_left"] <= 15
    assert denied >= 20
    assert (found["logins"]["denied"], found["logins"]["throttled"]) == (denied, throttled)
    assert re.search(r"^throttled +127.0.0.1: its logins are refused, for \d+ s more", text, re.M)
    assert numbers["poplar_logins_total", "denied"] == denied
    assert numbers["poplar_logins_total", "throttled"] == throttled


def test_an_exempt_source_shows_nowhere(server):
    p = server(stack=DENY, tls_required="no", auth_throttle_exempt="127.0.0.1")
    for i in range(55):
        assert b"[AUTH]" in fail(p, password=f"wrong{i}")
    found = shown(p, "status")
    assert found["logins"]["denied"] == 55
    assert found["throttled_sources"] == found["attacked_users"] == []
    assert "throttled" not in p.log_text()


def test_an_attacked_user_shows(server):
    """From many sources, none of which is throttled by itself."""
    p = server(stack=DENY, tls_required="no", listen_proxy_from="127.0.0.1")
    guesses = 0

    def attacked():
        """By fifty guesses; one is forgotten in a quarter of a minute."""
        nonlocal guesses
        raw = p.connect(tls=False, greeting=False)
        raw.send(f"PROXY TCP4 192.0.{guesses // 250}.{guesses % 250 + 1} 127.0.0.1 4000 110\r\n".encode())
        assert raw.line().startswith(b"+OK")
        raw.ask(b"USER alice")
        assert raw.ask(b"PASS wrong%d" % guesses).startswith(b"-ERR [AUTH]")
        raw.close()
        guesses += 1
        found = shown(p, "status")
        assert found["throttled_sources"] == []
        return found["attacked_users"] and b"attacked     alice: " in p.ctl("status").stdout and found
    found = wait_until(attacked, "an attacked name")
    assert guesses >= 50
    p.wait_log("attacked: user=alice")
    assert [u["user"] for u in found["attacked_users"]] == ["alice"]


def test_metrics(server):
    """Numbers move with what happens; the text is OpenMetrics by a strict reader."""
    p = server(tls_required="not-on-loopback")
    before = metrics(p)
    assert before["poplar_logins_total", "ok"] == 0
    assert before["poplar_build_info", "0.1"] == 1
    p.add("alice", b"Subject: one\r\n\r\nbody\r\n")
    client = p.login()
    client.retr(1)
    client.dele(1)
    assert metrics(p)["poplar_sessions_logged_in",] == 1
    client.quit()
    now = wait_until(lambda: (m := metrics(p))["poplar_sessions_ended_total", "quit"] and m, "its end")
    assert now["poplar_logins_total", "ok"] == 1
    assert now["poplar_messages_total", "retrieved"] == 1
    assert now["poplar_messages_total", "deleted"] == 1
    assert now["poplar_octets_total", "out"] > 20
    assert now["poplar_login_duration_seconds_count",] == 1
    assert now["poplar_login_duration_seconds_bucket", "+Inf"] == 1
    assert now["poplar_connections_total", "served"] == 1
    p.ctl("reload")
    p.config.rename(p.directory / "kept")
    assert p.ctl("reload", check=False, cwd="/").returncode != 0
    (p.directory / "kept").rename(p.config)
    now = metrics(p)
    assert now["poplar_generations_retired_total", "reload"] == 1
    assert now["poplar_reloads_total", "done"] == 1
    samples = shown(p, "metrics")
    assert {"name": "poplar_logins_total", "labels": {"outcome": "ok"}, "value": 1} in samples


def test_metrics_for_node_exporter(server):
    """Its textfile collector reads Prometheus' older format and throws the whole file away at a type
    that this does not have."""
    types = set(re.findall(r"^# TYPE \w+ (.*)$", server().ctl("metrics").stdout.decode(), re.M))
    assert types and types <= {"counter", "gauge", "histogram", "summary", "untyped"}


def test_the_page_has_every_metric(server):
    page = (TOP / "packaging/man/poplarctl.8").read_text()
    families = {s["name"] for s in shown(server(), "metrics")}
    assert families
    for name in families:
        assert re.search(rf"\b{re.sub('_(bucket|sum|count)$', '', name)}\b", page), name


def test_metrics_of_crashes_and_deliveries(server):
    p = server(delivery_accept="any")
    client = p.login()
    session, = p.sessions(user="alice")
    os.kill(session["pid"], 11)
    client.close()
    wait_until(lambda: metrics(p)["poplar_worker_crashes_total",] == 1, "a crash")
    assert metrics(p)["poplar_generations_retired_total", "crash"] == 1
    deliver = [poplar.BUILD / "poplar-deliver", "--config", p.config, "alice"]
    subprocess.run(deliver, input=b"Subject: x\n\nbody\n", check=True)
    now = wait_until(lambda: (m := metrics(p))["poplar_deliveries_total", "delivered"] and m,
                     "a delivery")
    assert now["poplar_recipients_total", "ok"] >= 1
    p.ctl("mailbox", "set", "alice", "quota_messages=1")
    assert subprocess.run(deliver, input=b"Subject: x\n\nbody\n").returncode == TEMPFAIL
    now = wait_until(lambda: (m := metrics(p))["poplar_deliveries_total", "deferred"] and m, "another")
    assert now["poplar_deliveries_total", "refused"] == 0
    p.write_config(store_over_quota="reject")
    p.ctl("reload")
    assert subprocess.run(deliver, input=b"Subject: x\n\nbody\n").returncode != 0
    now = wait_until(lambda: (m := metrics(p))["poplar_deliveries_total", "refused"] and m, "a third")
    assert now["poplar_deliveries_total", "deferred"] == 1


# Who may look, and who may give orders.

@pytest.fixture
def looker(server):
    """A server, and poplarctl as the user carol with or without the group of the mail."""
    if not poplar.NAMESPACES:
        pytest.skip("needs root and namespaces for accounts")
    p = server(auth_processes_min="1")
    p.directory.chmod(0o755)

    def ask(*command, group=True):
        groups = ["--groups", "poplar"] if group else ["--clear-groups"]
        return subprocess.run(["setpriv", "--reuid", "carol", "--regid", "carol", *groups,
                               poplar.BUILD / "poplarctl", "--config", p.config, *command],
                              capture_output=True)
    return p, ask


@root_only
def test_the_group_may_look(looker):
    p, ask = looker
    for command in ("status", "sessions", "metrics"):
        result = ask(command)
        assert result.returncode == 0, (command, result.stderr)
        assert result.stdout == p.ctl(command).stdout or command != "sessions"
    client = p.login()
    number = str(p.sessions()[0]["session"])
    for command in (("kick", "alice"), ("kick", number), ("reload",), ("debug", "alice", "on")):
        result = ask(*command)
        assert result.returncode == NOPERM, (command, result)
        assert b"only root may do this" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert client.noop().startswith(b"+OK")
    assert shown(p, "status")["traced_users"] == []
    assert "reloaded" not in p.log_text()


@root_only
def test_others_may_not_even_look(looker):
    p, ask = looker
    for command in (("status",), ("sessions",), ("metrics",), ("kick", "alice"), ("reload",)):
        result = ask(*command, group=False)
        assert result.returncode == NOPERM, (command, result)
        assert b"run poplarctl as root" in result.stderr
    status = os.stat(p.run / "control")
    assert status.st_mode & 0o777 == 0o660 and status.st_uid == 0
    assert status.st_gid == grp.getgrnam("poplar").gr_gid


@root_only
def test_lookers_take_nothing_from_root(looker):
    """A member of the group that opens every connection it gets keeps nobody else out."""
    p, ask = looker
    script = ("import socket, sys\nheld = []\n"
              "for _ in range(40):\n"
              " s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
              " s.connect(sys.argv[1])\n held.append(s)\n"
              "print('held', flush=True)\nsys.stdin.read()\n")
    holder = subprocess.Popen(["setpriv", "--reuid", "carol", "--regid", "carol", "--groups",
                               "poplar", "/usr/bin/python3", "-c", script, str(p.run / "control")],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        result = ask("status")
        assert result.returncode == TEMPFAIL and b"try again" in result.stderr
        assert p.sessions() == []
        p.ctl("reload")
    finally:
        holder.communicate()
    wait_until(lambda: ask("status").returncode == 0, "room for the next")


def records():
    """What a visitor might send: each row of the contract with nothing in it, oversized, with octets
    left over; what is no row; and well-formed questions that make no sense. True: is answered."""
    def rogue(option):
        return subprocess.run([poplar.BUILD / "tests/rogue", option], check=True,
                              capture_output=True, text=True).stdout.splitlines()
    numbers = {k: int(v) for k, v in map(str.split, rogue("--names"))}
    rows = {line.split()[1]: int(line.split()[0]) for line in rogue("--rows")}
    for name, number in rows.items():
        if name != "reload":
            yield False, bytes([number])
        yield False, bytes([number]) + bytes(40000)
        yield False, bytes([number]) + b"\xff" * 40
    yield False, b""
    yield False, b"\0"
    yield False, b"\xff\xff"

    def status(fingerprint, part, start):
        return (bytes([rows["status"]]) + struct.pack("<IQIIIQ", 8, fingerprint, 4, part, 8, start))
    for part in (0, 1, 2, 3, 4, 5, 6, 7, 2 ** 32 - 1):
        for start in (0, 2 ** 32, 2 ** 64 - 1):
            yield True, status(numbers["fingerprint"], part, start)
    yield True, status(1, 1, 0)
    yield True, bytes([rows["kick"]]) + struct.pack("<IQ", 8, 2 ** 64 - 1)
    yield True, bytes([rows["kick"]]) + struct.pack("<IQ", 8, 0)


@pytest.mark.skipif(not (poplar.BUILD / "tests/rogue").exists(), reason="no tests/rogue: make tests")
def test_visitors_that_make_no_sense(server):
    """Are let go, and cost nobody anything; those that ask by the rules are answered."""
    p = server()
    client = p.login()
    before = len(os.listdir(f"/proc/{p.process.pid}/fd"))
    for answered, octets in records():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as visitor:
            visitor.settimeout(20)
            visitor.connect(str(p.run / "control"))
            visitor.send(octets)
            assert bool(visitor.recv(10000)) == answered, octets[:50]
    wait_until(lambda: len(os.listdir(f"/proc/{p.process.pid}/fd")) <= before, "no descriptor more")
    assert client.noop().startswith(b"+OK")
    assert len(p.sessions()) == 1


def test_not_running(server):
    p = server(start=False)
    for command in (["status"], ["sessions"], ["metrics"], ["kick", "alice"], ["reload"]):
        result = p.ctl(*command, check=False)
        assert result.returncode == UNAVAILABLE and b"does not run" in result.stderr, command
        assert result.stdout == b""
