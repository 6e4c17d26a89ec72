"""Poplar as a service of a booted Debian: sockets, mail, reload, watchdog, restarts, the journal."""

import contextlib
import json
import os
import poplib
import re
import ssl
import threading

import pytest

import booted
from manual import TOP, examples
from poplar import Raw, wait_until

pytestmark = pytest.mark.skipif(booted.missing() is not None, reason=str(booted.missing()))

LONG = os.environ.get("LONG") == "1"
SOCKETS = ("poplar-pop3.socket", "poplar-pop3s.socket", "poplar-lmtp.socket")
PASSWORD = "a fresh password"


@pytest.fixture(scope="module")
def debian():
    """One system for the module, with the package and an account made after it."""
    system = booted.Booted()
    try:
        system.install(booted.package())
        system.add_user("alice", PASSWORD)
        yield system
        print(system.journal())
    finally:
        system.stop()


@pytest.fixture
def configured(debian):
    """configured(text) adds settings, configured.unit(text) a drop-in; both are gone afterwards."""
    setting = "/etc/poplar/poplar.conf.d/test.conf"
    dropin = "/etc/systemd/system/poplar.service.d/test.conf"

    def settings(text):
        debian.write(setting, text)

    def unit(text):
        debian.write(dropin, text)
        debian.run("systemctl", "daemon-reload")

    settings.unit = unit
    yield settings
    for name in (setting, dropin):
        debian.path(name).unlink(missing_ok=True)
    debian.run("systemctl", "daemon-reload")
    debian.run("systemctl", "reset-failed", "poplar.service", check=False)
    restart_all(debian)


def restart_all(debian):
    """A socket does not start while its service runs; the service starts its sockets first."""
    debian.run("systemctl", "stop", "poplar.service", *SOCKETS)
    debian.run("systemctl", "start", "poplar.service")


def stat(client):
    return client.stat()[0]


def readme(lines):
    """README's commands, by how many there are."""
    blocks = re.findall(r"```sh\n(.*?)```", (TOP / "README.md").read_text(), re.S)
    return next(block for block in blocks if block.count("\n") == lines)


def test_installed_in_five_lines(debian):
    """The first two lines were the fixture's, without a network."""
    build, install, *rest = readme(5).splitlines()
    assert build == "make deb" and install.startswith("apt install ./build/deb/")
    rest = "\n".join(rest)
    assert "--user alice " in rest
    said = debian.sh(rest.replace("--user alice ", f"--user 'alice:{PASSWORD}' ")).stdout
    assert re.search(r"(?m)^Subject: hello\r?\n\r?\nWelcome.\r?$", said), said


# Sockets, and what comes through them.

def test_everything_is_up_after_the_installation(debian):
    for unit in (*SOCKETS, "poplar.service", "poplar-expire.timer"):
        assert debian.is_active(unit), unit
        assert debian.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
    assert debian.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""


def test_the_first_connection_to_a_stopped_service_is_served(debian):
    debian.run("systemctl", "stop", "poplar.service")
    assert debian.main_pid() == 0
    debian.login("alice", PASSWORD).quit()
    assert debian.is_active()


def test_mail_starts_a_stopped_service_too(debian):
    before = stat(debian.login("alice", PASSWORD))
    debian.run("systemctl", "stop", "poplar.service")
    debian.deliver("alice", "Subject: one\n\nOne.\n")
    raw = debian.lmtp()
    assert raw.line().startswith(b"220")
    for command, answer in ((b"LHLO test", None), (b"MAIL FROM:<>", b"250"),
                            (b"RCPT TO:<alice>", b"250"), (b"DATA", b"354"),
                            (b"Subject: two\r\n\r\nTwo.\r\n.", b"250"), (b"QUIT", b"221")):
        raw.send(command + b"\r\n")
        line = raw.line()
        while answer is None and line[3:4] == b"-":
            line = raw.line()
        assert line.startswith(answer or b"250"), line
    client = debian.login("alice", PASSWORD)
    assert stat(client) == before + 2
    assert b"Subject: two" in client.retr(before + 2)[1]
    client.quit()


def test_clear_port_and_both_families(debian):
    for host in ("127.0.0.1", "::1"):
        raw = Raw(debian.socket(110, host))
        assert raw.line().startswith(b"+OK")
        assert raw.ask(b"USER alice").startswith(b"-ERR")
        assert raw.ask(b"STLS").startswith(b"+OK")
        raw.sock = debian.tls_context().wrap_socket(raw.sock)
        assert raw.ask(b"USER alice").startswith(b"+OK")
        assert raw.ask(b"PASS " + PASSWORD.encode()).startswith(b"+OK")
        assert raw.ask(b"QUIT").startswith(b"+OK")
    # The sockets are of IPv6; who comes by IPv4 is logged as such.
    assert "peer=127.0.0.1:" in debian.journal()
    assert "::ffff:" not in debian.journal()


def test_without_ipv6(debian):
    """A bare port still is one where IPv6 is switched off."""
    debian.run("sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=1")
    try:
        restart_all(debian)
        debian.login("alice", PASSWORD).quit()
    finally:
        debian.run("sysctl", "-w", "net.ipv6.conf.all.disable_ipv6=0")
        restart_all(debian)


def test_the_lmtp_socket_outlives_the_service(debian):
    debian.run("systemctl", "stop", "poplar.service")
    assert debian.path("/run/poplar/lmtp.sock").is_socket()
    assert debian.path("/run/poplar").stat().st_mode & 0o7777 == 0o755
    debian.run("systemctl", "start", "poplar.service")


def test_other_doors(debian):
    """By the page: an address of its own for one, none for another, and in the end none at all."""
    unit, moved, closed, stopped = examples("poplard.8", "Sockets")
    dropin = "/etc/systemd/system/poplar-pop3s.socket.d/override.conf"
    debian.write(dropin, unit.replace("192.0.2.1", "127.0.0.2"))
    debian.sh("systemctl daemon-reload\n" + moved)
    try:
        debian.login("alice", PASSWORD, host="127.0.0.2").quit()
        with pytest.raises(ConnectionRefusedError):
            debian.socket(995)
        debian.sh(closed)
        with pytest.raises(ConnectionRefusedError):
            debian.socket(110)
        debian.login("alice", PASSWORD, host="127.0.0.2").quit()
        debian.sh(stopped)
        with pytest.raises(ConnectionRefusedError):
            debian.socket(995, "127.0.0.2")
    finally:
        debian.path(dropin).unlink()
        debian.sh("systemctl unmask poplar-pop3.socket; systemctl daemon-reload")
        restart_all(debian)
    debian.socket(110).close()


def test_without_sockets(debian, configured):
    """poplard binds ports itself; without the network it says what to do."""
    debian.run("systemctl", "mask", "--now", *SOCKETS)
    try:
        debian.run("systemctl", "stop", "poplar.service")  # and no client that waits starts it
        refused = debian.run("systemctl", "start", "poplar.service", check=False)
        assert refused.returncode != 0
        assert "nothing to listen on: set [listen] pop3 or pop3s, or start a socket unit" \
            in debian.journal()
        network = debian.path("/usr/share/poplar/network-pam.conf").read_text()
        configured.unit(network)
        configured("[listen]\npop3s=*:995\n")
        debian.run("systemctl", "start", "poplar.service")
        debian.login("alice", PASSWORD).quit()
        debian.deliver("alice", "Subject: own socket\n\nHello.\n")
    finally:
        debian.run("systemctl", "unmask", *SOCKETS)


@pytest.fixture
def postfix(debian):
    """Running before Poplar, by README's lines."""
    debian.run("systemctl", "start", "postfix")
    # As Debian sets it up: the mail name is not the host's. With more domains than one line holds.
    more = " ".join(f"customer-{n}.example" for n in range(20))
    debian.run("postconf", "myorigin=example.org", "mydestination=example.org, $myhostname, "
               f"localhost.localdomain localhost, {more}")
    debian.sh(readme(4))
    yield
    debian.run("systemctl", "stop", "postfix")
    debian.path("/etc/systemd/system/poplar-lmtp.socket.d/postfix.conf").unlink()
    debian.path("/etc/poplar/poplar.conf.d/domains.conf").unlink()
    debian.run("systemctl", "daemon-reload")
    restart_all(debian)


def test_postfix_in_four_lines(debian, postfix):
    debian.run("sendmail", "alice", input="Subject: by Postfix\n\nHello.\n")

    def arrived():
        client = debian.login("alice", PASSWORD)
        last = client.stat()[0]
        found = b"Subject: by Postfix" in client.retr(last)[1]
        client.quit()
        return found
    wait_until(arrived, f"the message, {debian.run('postqueue', '-p').stdout}", 30)
    for domain in ("Example.ORG", "customer-19.example"):
        debian.login(f"alice@{domain}", PASSWORD).quit()


def test_postfix_asks_for_virtual_users(debian, postfix, configured):
    """Whom nobody knows it refuses at once, and takes no mail that it would have to send back."""
    settings, service, main_cf = examples("poplar-pam.7", "Virtual users")
    configured(settings)
    debian.write("/etc/pam.d/poplar-example-net", service)
    # Nobody is of its own networks, the test included.
    lines = re.sub(r"\n +", " ", main_cf).replace("permit_mynetworks, ", "").splitlines()
    debian.run("postconf", "inet_protocols=ipv4", *lines)
    # No directory in the tree answers: who is unknown would have to wait for it.
    debian.sh("sed -i 's/ sss//' /etc/nsswitch.conf; systemctl restart postfix poplar")
    debian.run("poplarctl", "mailbox", "create", "dora@example.net")

    def connected():
        with contextlib.suppress(ConnectionRefusedError):
            return debian.socket(25)
        return None
    wait_until(connected, "Postfix listens", 30).close()
    for user, code in (("dora", 250), ("Dora+lists", 250), ("nobody", 550)):
        smtp = Raw(debian.socket(25))
        smtp.line()
        for command in (b"HELO localhost", b"MAIL FROM:<a@b.example>"):
            assert smtp.ask(command).startswith(b"250 ")
        answer = smtp.ask(f"RCPT TO:<{user}@example.net>".encode())
        assert answer.startswith(str(code).encode()), answer
        if code == 250:
            assert smtp.ask(b"DATA").startswith(b"354 ")
            assert smtp.ask(b"Subject: x\r\n\r\nx\r\n.").startswith(b"250 ")
        smtp.close()
    wait_until(lambda: "\n2 messages," in debian.run(
        "poplarctl", "message", "list", "dora@example.net").stdout, "both are there", 30)
    debian.sh("sed -i '/^passwd:/s/files/files sss/' /etc/nsswitch.conf")


def test_a_certificate_in_two_lines(debian):
    live = "/etc/letsencrypt/live/pop.example.org"
    debian.path(live).mkdir(parents=True)
    make_certificate(debian, f"{live}/fullchain.pem", f"{live}/privkey.pem")
    debian.sh("umask 077\n" + readme(2))
    assert seen_certificate(debian) == debian.path(f"{live}/fullchain.pem").read_text()
    debian.run("systemctl", "start", "poplar-expire.service")  # who is not root, and reads it
    # As certbot renews.
    make_certificate(debian, f"{live}/fullchain.pem", f"{live}/privkey.pem")
    debian.run("/etc/letsencrypt/renewal-hooks/deploy/poplar")
    assert seen_certificate(debian) == debian.path(f"{live}/fullchain.pem").read_text()
    debian.path("/etc/poplar/poplar.conf.d/certificate.conf").unlink()
    debian.run("systemctl", "reload", "poplar.service")


# Reload.

def make_certificate(debian, certificate, key):
    debian.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
               "-nodes", "-days", "30", "-subj", "/CN=renewed", "-keyout", key, "-out", certificate)


@pytest.fixture
def certificate(debian):
    """Our own certificate in the configuration; a function that renews it."""
    debian.path("/etc/poplar/renewed").mkdir(exist_ok=True)

    def renew():
        make_certificate(debian, "/etc/poplar/renewed/cert.pem", "/etc/poplar/renewed/key.pem")
    renew()
    setting = "/etc/poplar/poplar.conf.d/renewed.conf"
    debian.write(setting, "[tls]\ncertificate=/etc/poplar/renewed/cert.pem\n"
                          "key=/etc/poplar/renewed/key.pem\n")
    debian.run("systemctl", "reload", "poplar.service")
    yield renew
    debian.path(setting).unlink()
    debian.run("systemctl", "reload", "poplar.service")


def seen_certificate(debian):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(debian.socket(995)) as sock:
        return ssl.DER_cert_to_PEM_cert(sock.getpeercert(True))


def test_reload_shows_a_renewed_certificate_and_ends_no_session(debian, certificate):
    session = debian.login("alice", PASSWORD, certificate="/etc/poplar/renewed/cert.pem")
    before, master = seen_certificate(debian), debian.main_pid()
    certificate()
    debian.run("systemctl", "reload", "poplar.service")
    after = seen_certificate(debian)
    assert after != before
    assert after.strip() == debian.path("/etc/poplar/renewed/cert.pem").read_text().strip()
    assert session.noop().startswith(b"+OK")
    session.quit()
    assert debian.main_pid() == master


@pytest.mark.parametrize("broken", ["certificate", "configuration"])
def test_reload_fails_with_the_reason_and_changes_nothing(debian, certificate, broken):
    before, master = seen_certificate(debian), debian.main_pid()
    name = "/etc/poplar/renewed/cert.pem" if broken == "certificate" \
        else "/etc/poplar/poplar.conf.d/broken.conf"
    good = debian.path(name).read_text() if broken == "certificate" else ""
    debian.write(name, "nonsense\n")
    refused = debian.run("systemctl", "reload", "poplar.service", check=False)
    assert refused.returncode != 0
    reason = r"poplarctl\[\d+\]: poplarctl: .*cert\.pem" if broken == "certificate" \
        else r"poplarctl\[\d+\]: .*broken\.conf:1: neither \[section\] nor key=value"
    assert re.search(reason, debian.journal()), debian.journal()
    assert debian.is_active() and debian.main_pid() == master
    assert seen_certificate(debian) == before
    debian.write(name, good)
    debian.run("systemctl", "reload", "poplar.service")


# Failures.

def test_an_error_in_the_configuration_stops_once_and_waits(debian, configured):
    """No restart by itself, no storm when clients come, and they are served when it is mended."""
    configured("nonsense\n")

    def starts(*lines):
        return len(re.findall("Starting poplar.service", debian.journal(*lines)))
    everything = ("-n", "10000")
    before = starts(*everything)
    debian.run("systemctl", "restart", "poplar.service", check=False)
    assert debian.show("poplar.service", "ExecMainStatus") == "78"
    raw = Raw(debian.socket(110))
    wait_until(lambda: starts(*everything) >= before + 2, "the connection has it tried again")
    assert starts("--since=-3s") < 10
    configured("")
    debian.run("systemctl", "reset-failed", "poplar.service", check=False)
    debian.run("systemctl", "restart", "poplar.service")
    assert raw.line().startswith(b"+OK")


@pytest.mark.parametrize("status,hindered,free,why", [
    ("71", "mount -t tmpfs -o nr_inodes=1 tmpfs /run/poplar", "umount /run/poplar",
     "No space left on device; make room there"),
    ("73", "systemctl stop poplar.service; mkdir /run/poplar/control", "rmdir /run/poplar/control",
     "there is a file that is no socket"),
    ("73", "systemctl stop poplar.service; mv /run/poplar /run/away", "mv /run/away /run/poplar",
     "No such file or directory; make the directory")])
def test_what_hinders_a_start_is_waited_for(debian, status, hindered, free, why):
    """It is tried again without a hand, and not in a storm, until there is room in /run."""
    debian.sh(hindered)
    try:
        debian.run("systemctl", "restart", "poplar.service", check=False)

        def tries():
            return re.findall(f"^([0-9.]+) .*run_dir=/run/poplar: control: {why}",
                              debian.journal("--output=short-unix"), re.MULTILINE)
        wait_until(lambda: len(tries()) >= 3, "it is tried again")
        wait_until(lambda: debian.show("poplar.service", "ExecMainStatus") == status, "its status")
        first, _, third = tries()[:3]
        assert float(third) - float(first) >= 3
    finally:
        debian.sh(free)
    wait_until(debian.is_active, "room, and a server")
    debian.login("alice", PASSWORD).quit()


def test_a_file_system_for_mail_that_comes_late(debian):
    """Nothing is delivered to what is below it until it is there, and nobody sees no mail."""
    units = {"late.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\n"
                             "ExecStart=/bin/sh -c 'until [ -e /run/go ]; do sleep .1; done'\n",
             "var-lib-poplar.mount": "[Unit]\nDefaultDependencies=no\nRequires=late.service\n"
                                     "After=late.service\n[Mount]\nWhere=/var/lib/poplar\n"
                                     "What=tmpfs\nType=tmpfs\n"
                                     "Options=mode=0700,uid=poplar,gid=poplar\n"}
    for name, text in units.items():
        debian.write(f"/run/systemd/system/{name}", text)
    debian.run("systemctl", "daemon-reload")
    debian.run("systemctl", "stop", "poplar.service", *SOCKETS)
    debian.run("systemctl", "start", "--no-block", "var-lib-poplar.mount")
    try:
        debian.run("systemctl", "start", "poplar-lmtp.socket")
        raw = debian.lmtp()
        debian.run("systemctl", "start", "--no-block", "poplar-expire.service")
        for unit in ("poplar.service", "poplar-expire.service"):
            wait_until(lambda unit=unit: re.search(rf"{unit} +start +waiting",
                                                   debian.run("systemctl", "list-jobs").stdout),
                       f"{unit} is to start, and waits")
        debian.path("/run/go").touch()
        assert raw.line().startswith(b"220 ")
        raw.close()
        debian.deliver("alice", "Subject: late\n\nHello.\n")
        assert [*debian.path("/var/lib/poplar").glob("mail/??/??/alice")]
        assert debian.is_active("var-lib-poplar.mount")
    finally:
        debian.path("/run/go").touch()
        debian.run("systemctl", "stop", "poplar.service", "poplar-expire.service")
        debian.run("systemctl", "stop", "var-lib-poplar.mount")
        for name in units:
            debian.path(f"/run/systemd/system/{name}").unlink()
        debian.run("systemctl", "daemon-reload")
        restart_all(debian)


@pytest.mark.parametrize("program", ["poplard", "poplar-worker", "poplar-auth"])
def test_the_watchdog_ends_what_hangs(debian, configured, program):
    configured.unit("[Service]\nWatchdogSec=5s\n")
    debian.run("systemctl", "restart", "poplar.service")
    master = debian.main_pid()
    stopped = [master] if program == "poplard" else \
        [pid for pid, status in debian.processes(program)]
    debian.run("kill", "-STOP", *stopped)
    wait_until(lambda: debian.main_pid() not in (0, master), "a new poplard", 60)
    wait_until(debian.is_active, "it serves")
    assert "Watchdog timeout" in debian.journal()
    debian.login("alice", PASSWORD).quit()


class Clients(threading.Thread):
    """Connects again and again, and reads the greeting."""

    def __init__(self, debian):
        super().__init__(daemon=True)
        self.debian = debian
        self.over = False
        self.served = self.refused = self.dropped = 0

    def run(self):
        while not self.over:
            try:
                raw = Raw(self.debian.socket(110))
            except ConnectionRefusedError:
                self.refused += 1
                continue
            with contextlib.suppress(TimeoutError), contextlib.closing(raw):
                if raw.line().startswith(b"+OK"):
                    self.served += 1
                    continue
            self.dropped += 1


def storm(debian, script, times):
    clients = Clients(debian)
    clients.start()
    try:
        debian.sh(f"""
            i=0
            while [ $i -lt {times} ]; do i=$((i + 1)); {script}; done
        """)
        wait_until(debian.is_active, "it serves again")
        served = clients.served
        wait_until(lambda: clients.served > served + 1, "clients are served again")
    finally:
        clients.over = True
        clients.join()
    print(f"{times}: served {clients.served}, refused {clients.refused}, "
          f"dropped {clients.dropped}")
    return clients


def test_restarts_refuse_nobody(debian):
    clients = storm(debian, "systemctl restart poplar.service", 1000 if LONG else 10)
    assert (clients.refused, clients.dropped) == (0, 0)


def test_kills_refuse_nobody(debian):
    """Who was accepted already is cut off, which no queue can help."""
    times = 1000 if LONG else 10
    clients = storm(debian, """
        looks=0
        until [ "$(systemctl show --value -p ActiveState poplar.service)" = active ] &&
            pid=$(systemctl show --value -p MainPID poplar.service) &&
            [ "$pid" != 0 ] && [ "$pid" != "${last:-}" ]; do
            looks=$((looks + 1)); [ $looks -lt 1000 ] || exit 1; sleep 0.02
        done
        kill -9 "$pid"; last=$pid""", times)
    assert clients.refused == 0
    assert clients.dropped <= 2 * times


def test_a_restart_ends_sessions_by_the_grace_rule(debian, configured):
    """A session has [server] stop_grace to come to its own end, then deletes nothing. However long
    that is, systemd waits for it."""
    configured.unit("[Service]\nTimeoutStopSec=1s\n")
    configured("[server]\nstop_grace=3s\n")
    debian.run("systemctl", "restart", "poplar.service")
    debian.deliver("alice", "Subject: kept\n\nHello.\n")
    client = debian.login("alice", PASSWORD)
    before = stat(client)
    client.dele(1)
    master = debian.main_pid()
    debian.run("systemctl", "restart", "poplar.service")
    assert f"poplard[{master}]: stopped" in debian.journal()
    with pytest.raises((poplib.error_proto, OSError)):
        client.noop()
    after = debian.login("alice", PASSWORD)
    assert stat(after) == before
    after.quit()


# Expiry and the journal.

def deleted(debian):
    """How many messages could be restored."""
    text = debian.run("poplarctl", "message", "list", "alice", "--deleted").stdout
    return int(re.search(r"(\d+) messages?,", text)[1])


def test_expiry_is_the_timers(debian, configured):
    assert "poplar-expire.service" in debian.run(
        "systemctl", "list-timers", "--all", "--no-legend", "poplar-expire.timer").stdout
    debian.deliver("alice", "Subject: to be deleted\n\nHello.\n")
    client = debian.login("alice", PASSWORD)
    client.dele(1)
    client.quit()
    assert deleted(debian) > 0
    configured("[store]\nundelete_for=0\n")
    debian.run("systemctl", "start", "poplar-expire.service")
    assert debian.show("poplar-expire.service", "Result") == "success"
    assert debian.show("poplar-expire.service", "ExecMainExitTimestamp")
    assert deleted(debian) == 0


def test_a_state_dir_elsewhere(debian, configured):
    """Each unit sees it once its drop-in says so; until then a start says what to do."""
    debian.run("install", "-d", "-m", "0700", "-o", "poplar", "-g", "poplar", "/srv/mail")
    configured("[server]\nstate_dir=/srv/mail\n[store]\nundelete_for=0\n")
    refused = debian.run("poplarctl", "reload", check=False)
    assert refused.returncode == 78
    assert "[server] state_dir=/srv/mail: Read-only file system" in refused.stderr
    assert "ReadWritePaths=-/srv/mail" in refused.stderr
    debian.login("alice", PASSWORD).quit()

    dropin = "[Service]\nReadWritePaths=-/srv/mail\n"
    other = "/etc/systemd/system/poplar-expire.service.d/test.conf"
    debian.write(other, dropin)
    configured.unit(dropin)
    restart_all(debian)
    configured("[server]\nstate_dir=/srv/mail\n")
    debian.run("poplarctl", "reload")
    debian.deliver("alice", "Subject: elsewhere\n\nHello.\n")
    client = debian.login("alice", PASSWORD)
    assert stat(client) == 1
    client.dele(1)
    client.quit()
    assert deleted(debian) == 1
    configured("[server]\nstate_dir=/srv/mail\n[store]\nundelete_for=0\n")
    debian.run("mv", "/var/lib/poplar", "/var/lib/poplar.old")
    try:
        debian.run("systemctl", "start", "poplar-expire.service")
        assert deleted(debian) == 0
        restart_all(debian)
        debian.login("alice", PASSWORD).quit()
    finally:
        debian.run("mv", "/var/lib/poplar.old", "/var/lib/poplar")
        debian.path(other).unlink()


def test_the_journal_has_fields(debian):
    with pytest.raises(poplib.error_proto):
        debian.login("alice", "wrong")
    debian.login("alice", PASSWORD).quit()
    lines = [json.loads(line) for line in debian.journal("-o", "json").splitlines()]
    failed = [entry for entry in lines if entry.get("POPLAR_USER") == "alice"
              and "login failed" in entry["MESSAGE"]]
    assert failed, [entry["MESSAGE"] for entry in lines]
    assert failed[-1]["POPLAR_PEER"].startswith("127.0.0.1:")
    assert failed[-1]["POPLAR_SESSION"].isdigit()
    assert failed[-1]["POPLAR_REASON"] == "denied"
    explained = debian.run("journalctl", "-x", "-n", "1", f"MESSAGE_ID={failed[-1]['MESSAGE_ID']}",
                           "_COMM=poplard").stdout
    assert f"Subject: A login from {failed[-1]['POPLAR_PEER']} failed" in explained


def test_the_group_may_look(debian):
    """Under all of the unit's hardening the control socket is the group's, to look."""
    as_member = ("setpriv", "--reuid", "alice", "--regid", "alice", "--groups", "poplar",
                 "poplarctl")
    assert "serves since" in debian.run(*as_member, "status").stdout
    assert "# EOF" in debian.run(*as_member, "metrics").stdout
    refused = debian.run(*as_member, "reload", check=False)
    assert refused.returncode == 77 and "only root may do this" in refused.stderr
    stranger = debian.run("setpriv", "--reuid", "alice", "--regid", "alice", "--clear-groups",
                          "poplarctl", "status", check=False)
    assert stranger.returncode == 77 and "run poplarctl as root" in stranger.stderr
    certificate, = json.loads(debian.run("poplarctl", "--json", "status").stdout)["certificates"]
    assert certificate["days_left"] > 0
