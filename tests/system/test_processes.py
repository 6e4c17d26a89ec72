"""The processes: what a worker is in /proc, what happens when any of them is killed, reload, stop,
limits. The numbers in the names are those of the list of abuse cases."""

import contextlib
import json
import os
import pwd
import re
import resource
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

import poplar
from poplar import log_in, make_certificate, wait_until

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"
SOON = 20 * poplar.PATIENCE  # seconds, not the ten minutes that one may wait for

root_only = pytest.mark.skipif(not poplar.ROOT, reason="needs root: users, and who may look at "
                               "workers, are separated")


def works(server, user="alice"):
    """A login and a fetch succeed."""
    client = server.login(user)
    count = client.stat()[0]
    if count:
        assert client.retr(1)[1]
    client.quit()
    return count


@pytest.mark.native("valgrind has descriptors of its own")
@root_only
def test_worker_in_proc(server):
    """No capability, a filter, no new privileges, nothing open but its channel and its client."""
    p = server()
    p.add("alice", MESSAGE)
    client = p.login()
    pid = p.serving()[0]
    status = p.proc_status(pid)
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[capabilities], 16) == 0
    numbers = sorted(int(n) for n in os.listdir(f"/proc/{pid}/fd"))
    assert numbers == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert int(status["CapBnd"], 16) != (1 << 41) - 1
    uids = set(status["Uid"].split())
    assert len(uids) == 1 and uids != {"0"}
    assert status["Groups"] == ""
    assert os.readlink(f"/proc/{pid}/root") != "/"
    assert os.listdir(f"/proc/{pid}/root") == []
    client.quit()


@root_only
def test_capabilities_of_who_stays_root(server):
    """Master and auth have none that poplard has given up, and nothing to hand on: newer systemd
    gives services what it bounds them by to inherit."""
    p = server(start=False)
    given = ["setpriv", "--inh-caps=+kill,+setuid"]
    p.command = lambda *more: given + poplar.Poplar.command(p, *more)
    p.start()
    for pid in (p.process.pid, *p.auths()):
        status = p.proc_status(pid)
        bounds = int(status["CapBnd"], 16)
        assert bounds & 1 << 21 == 0  # CAP_SYS_ADMIN
        for capabilities in ("CapPrm", "CapEff"):
            assert int(status[capabilities], 16) & ~bounds == 0, (pid, capabilities)
        for capabilities in ("CapInh", "CapAmb"):
            assert int(status[capabilities], 16) == 0, (pid, capabilities)


@pytest.mark.native("valgrind has descriptors of its own")
@root_only
def test_idle_worker_holds_nothing(server):
    p = server()
    pid = wait_until(lambda: p.workers(), "an idle worker")[0]
    assert sorted(int(n) for n in os.listdir(f"/proc/{pid}/fd")) == [0, 1, 2, 3]


def test_workers_are_the_masters_children(server):
    p = server()
    wait_until(lambda: len(p.workers()) >= 4, "idle_min workers")
    assert len(p.nursery()) == 1
    wait_until(lambda: len(p.auths()) == 2, "processes_min auth processes")


@pytest.mark.parametrize("victim", ["worker", "auth", "nursery"])
def test_82_95_kill_a_child(server, victim):
    """It is replaced, no lock stays, the next login works."""
    p = server()
    p.add("alice", MESSAGE)
    wait_until(lambda: len(p.auths()) >= 2, "auth processes")
    client = p.login()
    serving = p.serving()[0]
    pids = {"worker": [serving], "auth": p.auths(), "nursery": p.nursery()}[victim]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    if victim == "worker":
        with pytest.raises(Exception):
            client.noop()
        wait_until(lambda: works_or_in_use(p), "the lock is free again")
    else:
        assert client.noop().startswith(b"+OK")  # who was logged in goes on
        assert client.retr(1)[1]
        # A login that meets one which the master takes for alive yet is told to try again.
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "they are reaped")
        assert works(p, "bob") == 0
        client.quit()
    assert works(p) == 1
    wait_until(lambda: len(p.nursery()) == 1 and len(p.auths()) >= 2 and len(p.workers()) >= 4,
               "everything is there again")


def test_95_clients_of_workers_that_are_gone(server):
    """A connection that comes while the master has not heard yet of the end of its idle workers is
    served by those that replace them."""
    p = server(tls_required="not-on-loopback")
    for _ in range(5):
        wait_until(lambda: len(p.workers()) >= 4, "idle workers")
        os.kill(p.process.pid, signal.SIGSTOP)
        try:
            idle = p.workers()
            for pid in idle:
                os.kill(pid, signal.SIGKILL)
            clients = [poplar.Raw(socket.create_connection(("127.0.0.1", p.port), 20))
                       for _ in range(4)]
            wait_until(lambda: all(p.proc_status(pid)["State"][0] == "Z" for pid in idle),
                       "they have ended")
        finally:
            os.kill(p.process.pid, signal.SIGCONT)
        for client in clients:
            assert client.line().startswith(b"+OK")
            assert client.ask(b"QUIT").startswith(b"+OK")
            client.close()
    assert b"session ended: peer= " not in p.log_file.read_bytes()


@root_only
def test_95_clients_that_were_not_taken(server):
    """So is one that was given to a worker which ended before it took it. Who was greeted is not
    greeted again, and what nobody got is counted nowhere."""
    p = server(tls_required="not-on-loopback", workers_max_per_source="4")

    def told(part, name):
        return json.loads(p.ctl("--json", "status").stdout)[part][name]

    greeted = p.connect(tls=False)
    wait_until(lambda: len(p.workers()) >= 4, "idle workers")
    nursery, workers = p.nursery(), p.workers()
    for pid in nursery + workers:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(p.proc_status(pid)["State"][0] == "T" for pid in nursery + workers),
               "none can take anything")
    clients = [socket.create_connection(("127.0.0.1", p.port), 20) for _ in range(3)]
    wait_until(lambda: told("sessions", "now") == 4, "they are given to workers")
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: told("sessions", "waiting") == 3, "and back")
    for pid in nursery:
        os.kill(pid, signal.SIGCONT)
    for client in map(poplar.Raw, clients):
        assert client.line().startswith(b"+OK")
        assert client.ask(b"QUIT").startswith(b"+OK")
        assert client.rest() == b""
        client.close()
    assert greeted.rest() == b""
    wait_until(lambda: told("sessions", "now") == 0, "all are over")
    assert told("since_start", "connections") == 4


@root_only
def test_95_a_client_that_was_taken_is_its_workers_alone(server):
    """Else its connection would end when the master hears of it, and not when the worker ends it."""
    p = server(tls_required="not-on-loopback")

    def sockets():
        fds = f"/proc/{p.process.pid}/fd"
        return {os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)}

    raw = p.connect(tls=False)
    port = f":{raw.sock.getsockname()[1]:04X} "
    line, = [line for line in Path("/proc/net/tcp").read_text().splitlines()
             if port in line and f":{p.port:04X} " in line.split(port)[0]]
    wait_until(lambda: f"socket:[{line.split()[9]}]" not in sockets(), "it is let go")
    assert raw.ask(b"QUIT").startswith(b"+OK")
    assert raw.rest() == b""


def works_or_in_use(server):
    try:
        return works(server)
    except Exception as error:
        assert "IN-USE" in str(error)
        return False


def test_kill_the_master(server):
    """Nobody outlives it; the next poplard starts on the same state."""
    p = server()
    p.add("alice", MESSAGE)
    client = p.login()
    client.dele(1)
    children = p.children()
    p.stop(signal.SIGKILL)
    wait_until(lambda: not any(p.lives(pid) for pid in children), "children end")
    with pytest.raises(Exception):
        client.noop()
    p.start()
    assert works(p) == 1  # the deletion without QUIT did not happen


def test_105_crash_retires_the_generation(server):
    """A worker's crash ends its idle siblings and brings a nursery of another layout; logged-in
    sessions go on."""
    p = server()
    p.add("alice", MESSAGE)
    client = p.login()
    serving = p.serving()[0]
    nursery = p.nursery()
    workers = wait_until(lambda: len(found := p.workers()) > 2 and found, "workers")
    siblings = [w for w in workers if w != serving]
    os.kill(siblings[0], signal.SIGSEGV)
    wait_until(lambda: (p.nursery() or nursery) != nursery, "a new nursery")
    wait_until(lambda: not set(siblings) & set(p.workers()), "the siblings end")
    assert client.retr(1)[1]
    client.quit()
    assert works(p) == 1
    p.wait_log("a worker crashed")


def test_105_crash_in_a_generation_that_is_retired(server):
    """After a reload too: who shares the layout of the crashed one and is not logged in ends."""
    p = server()
    client = p.login()
    before = set(p.serving())
    crashing = p.connect(tls=False)
    crasher, = set(p.serving()) - before
    sibling = p.connect(tls=False)
    p.ctl("reload")
    stays = p.connect(tls=False)
    os.kill(crasher, signal.SIGSEGV)
    assert crashing.rest() == b""
    assert sibling.rest() == b""
    assert stays.ask(b"NOOP").startswith(b"-ERR")
    client.noop()
    client.quit()


@pytest.mark.native("five starts of a nursery take their time")
def test_97_crash_loop_backs_off(server):
    """Every crash of the nursery is followed by the next one later than the one before."""
    p = server()
    seen, began = set(), time.monotonic()

    def waits():
        for pid in p.children("poplar-worker"):
            if pid not in seen and not p.is_forked(pid):
                seen.add(pid)
                poplar.kill(pid)
        return [int(ms) for ms in re.findall(r"new nursery in (\d+) ms", p.log_text())]
    told = wait_until(lambda: 1000 in (found := waits()) and found, "the longest wait")
    assert (time.monotonic() - began) * 1000 >= sum(told[: told.index(1000)])
    # A worker that was about to be ready may fail with its nursery, and one that was ready for a
    # second has not failed.
    assert told[0] < 1000 and told == sorted(told)
    assert len(seen) <= len(re.findall("(?:starting a )?new nursery", p.log_text())) + 1
    wait_until(lambda: p.nursery(), "a nursery")
    assert works(p) == 0


def test_second_session_is_refused(server):
    p = server()
    p.add("alice", MESSAGE)
    first = p.login()
    with pytest.raises(Exception, match="IN-USE"):
        p.login()
    first.quit()
    assert works(p) == 1


@pytest.mark.native("valgrind has one layout for all")
@root_only
def test_105_sessions_per_layout(server):
    """One exec a session, for those who want it: each worker has a nursery of its own."""
    p = server(workers_sessions_per_layout="1", workers_idle_min="2")
    for _ in range(3):
        assert works(p) == 0
    layouts = set()
    for pid in wait_until(lambda: len(found := p.workers()) >= 2 and found, "idle workers"):
        with open(f"/proc/{pid}/maps") as maps:
            layouts.add(next(line.split("-")[0] for line in maps if "poplar-worker" in line))
    assert len(layouts) >= 2


def test_layout_max_age(server):
    """A layout ends with its time; sessions in it go on."""
    p = server(workers_layout_max_age="1s")
    client = p.login()
    first, = wait_until(lambda: len(found := p.nursery()) == 1 and found, "one nursery")
    wait_until(lambda: len(found := p.nursery()) == 1 and found != [first], "another nursery")
    assert "starting a new nursery: layout_max_age is over" in p.log_text()
    client.noop()
    client.quit()
    assert works(p) == 0


def test_97_an_old_nursery_without_a_successor(server, tmp_path):
    """The next one ends at once when its time is over: it serves on, and is not followed by one attempt
    after the other."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("poplar-worker", "poplar-auth"):
        replace_program(programs, name, hangs=False)
    p = server(server_program_dir=programs, workers_layout_max_age="11s")
    client = p.login()
    first, = p.nursery()
    (programs / "poplar-worker").unlink()
    (programs / "poplar-worker").write_text("#!/bin/sh\nexit 1\n")
    (programs / "poplar-worker").chmod(0o755)
    p.wait_log("new nursery in 1000 ms: ")
    client.noop()
    assert works(p, "bob") == 0
    (programs / "poplar-worker").unlink()
    replace_program(programs, "poplar-worker", hangs=False)
    wait_until(lambda: len(found := p.nursery()) == 1 and found != [first], "another nursery")
    assert works(p, "bob") == 0
    client.quit()


def test_reload_brings_a_certificate(server, tmp_path):
    """SIGHUP: new connections see the new certificate, the session in progress lives on."""
    p = server()
    p.add("alice", MESSAGE)
    client = p.login()
    before = p.certificate.read_bytes()
    make_certificate(tmp_path, "pop.example.test", "localhost")  # the same path, a new key
    assert p.certificate.read_bytes() != before
    with pytest.raises(Exception):
        p.pop3()
    p.process.send_signal(signal.SIGHUP)
    p.wait_notified("READY=1")
    assert works(p, "bob") == 0
    assert client.retr(1)[1]
    client.quit()


def served(p, context):
    """The certificate that a client gets."""
    raw = p.connect(tls=False)
    assert raw.ask(b"STLS").startswith(b"+OK")
    raw.start_tls(context)
    with raw.sock as sock:
        return sock.getpeercert(True)


@pytest.mark.parametrize("reload", [True, False], ids=["refused", "not asked for"])
def test_71_the_old_certificate_stays(server, tmp_path, reload):
    """Also in the nurseries that come after the one that has read it."""
    p = server()
    context = p.tls_context()
    before = served(p, context)
    p.certificate.write_text("this is no certificate\n")
    p.key.unlink()
    if reload:
        assert p.ctl("reload", check=False).returncode == 78
    for _ in range(2):
        first, = wait_until(p.nursery, "a nursery")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(found := p.nursery()) == 1 and found != [first], "another nursery")
        assert served(p, context) == before
    make_certificate(tmp_path, "pop.example.test", "localhost")
    os.kill(p.nursery()[0], signal.SIGKILL)
    assert served(p, context) == before
    p.ctl("reload")
    assert served(p, p.tls_context()) != before


@pytest.mark.parametrize("damage", ["config", "certificate", "key", "user", "store_user", "run_dir",
                                    "pam"])
def test_71_reload_of_something_broken(server, damage):
    """Nothing changes, and the reason is told."""
    p = server()
    p.add("alice", MESSAGE)
    client = p.login()
    good = p.config.read_text()
    if damage == "config":
        p.config.write_text(good + "\n[server]\nnonsense=1\n")
        reason = r"poplar.conf:\d+: \[server\] nonsense: no such key"
    elif damage == "certificate":
        p.certificate.write_text("this is no certificate\n")
        reason = "pop.example.test.pem"
    elif damage == "key":
        p.key.unlink()
        reason = r"poplar.conf:\d+: \[tls\] key=.*No such file"
    elif damage == "user":
        p.write_config(server_worker_user="nobody-of-this-name")
        reason = "nobody-of-this-name"
    elif damage == "store_user":  # for whose group the control socket is
        p.write_config(server_store_user="nobody")
        reason = r"poplar.conf:\d+: \[server\] store_user=nobody: is \S+ until.*restart poplard"
    elif damage == "run_dir":
        p.write_config(server_run_dir=p.directory / "elsewhere")
        reason = r"poplar.conf:\d+: \[server\] run_dir=.*restart poplard"
    else:
        p.write_config(auth_pam_service="missing")
        reason = "missing"
    p.process.send_signal(signal.SIGHUP)
    p.wait_log("reload failed.*" + reason)
    assert p.ctl("reload", check=False).returncode != 0
    assert client.retr(1)[1]
    client.quit()
    if damage not in ("certificate", "key"):
        assert works(p) == 1
    else:
        raw = p.connect(tls=False)
        assert raw.ask(b"NOOP").startswith(b"-ERR")
        assert raw.ask(b"QUIT").startswith(b"+OK")


def test_poplarctl_reload_and_status(server):
    p = server()
    assert b"idle worker" in p.ctl("status").stdout
    p.ctl("reload")
    assert works(p) == 0


def test_99_storm_of_reloads(server):
    """No session is lost, and in the end one nursery serves."""
    p = server()
    p.add("alice", MESSAGE)
    client = p.login()
    for _ in range(200):
        p.process.send_signal(signal.SIGHUP)
    assert client.retr(1)[1]
    p.wait_log("reloaded")
    client.quit()
    wait_until(lambda: len(p.nursery()) == 1, "one nursery")
    assert works(p) == 1


def test_99_sessions_in_a_storm_of_reloads(server):
    """Who had just connected, who fetches a message, who is idle, in the clear and by TLS: they go
    on. Who comes meanwhile is served."""
    p = server(tls_required="not-on-loopback", workers_max_per_source="200",
               auth_throttle_exempt="127.0.0.0/8")
    large = MESSAGE + b"0123456789abcdef0123456789abcdef\r\n" * 200_000
    for user in ("alice", "bob"):
        p.add(user, large)
    waiting = [p.connect(tls) for tls in (False, True)]
    fetching = [log_in(p, "alice"), log_in(p, "bob", tls=True)]
    idle = [log_in(p, "carol"), log_in(p, "dora", tls=True)]
    for raw in fetching:
        raw.send(b"RETR 1\r\n")
        assert raw.line().startswith(b"+OK")
    over = threading.Event()

    def storm():
        while not over.wait(0.02):
            p.process.send_signal(signal.SIGHUP)

    reloads = threading.Thread(target=storm)
    reloads.start()
    try:
        n = 0
        while n < 40 or len(re.findall("poplard: reloaded", p.log_text())) < 5:
            raw = log_in(p, f"user{n % 5}", tls=n % 2 == 1)
            assert raw.ask(b"STAT").startswith(b"+OK 0 ")
            assert raw.ask(b"QUIT").startswith(b"+OK")
            raw.close()
            n += 1
    finally:
        over.set()
        reloads.join()
    for user, raw in zip(("erin", "fred"), waiting):
        assert raw.ask(b"USER " + user.encode()).startswith(b"+OK")
        assert raw.ask(b"PASS secret").startswith(b"+OK")
    for raw in fetching:
        assert b"".join(raw.multi()) == large
    for raw in (*waiting, *fetching, *idle):
        assert raw.ask(b"NOOP").startswith(b"+OK")
        assert raw.ask(b"QUIT").startswith(b"+OK")
        raw.close()
    wait_until(lambda: len(p.nursery()) == 1, "one nursery")


def test_reload_moves_a_door(server):
    p = server()
    old = p.port
    p.port = poplar.free_port()
    p.write_config()
    p.ctl("reload")
    assert works(p) == 0
    assert p.login(tls=False).quit()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", old), 5)


def test_reload_widens_a_door(server):
    """Which cannot be while the narrow one is open; that is told, and nothing changes."""
    p = server()
    p.write_config(listen_pop3=f"*:{p.port}")
    result = p.ctl("reload", check=False)
    assert result.returncode == os.EX_CONFIG
    assert b"this poplard has the port, by another address: restart it" in result.stderr
    assert works(p) == 0
    p.stop()
    p.start()
    assert works(p) == 0


def test_stop_lets_sessions_end(server):
    """SIGTERM: no new connection, the session may finish within the grace; then poplard ends."""
    p = server(server_stop_grace="10m")
    p.add("alice", MESSAGE)
    client = p.login()
    client.dele(1)
    process = p.process
    process.send_signal(signal.SIGTERM)
    p.wait_log("stopping, 1 session")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", p.tls_port), 5)
    client.quit()
    assert process.wait(SOON) == 0
    p.stop()
    p.start()
    assert works(p) == 0


def test_stop_twice(server):
    """Who asks again waits for nobody."""
    p = server(server_stop_grace="10m")
    p.add("alice", MESSAGE)
    client = p.login()
    client.dele(1)
    p.process.send_signal(signal.SIGTERM)
    p.wait_log("stopping, 1 session")
    p.process.send_signal(signal.SIGTERM)
    assert p.process.wait(SOON) == 0
    p.stop()
    p.start()
    assert works(p) == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=lambda s: s.name)
def test_signals_to_all_processes(server, number):
    """As a terminal sends them, and `systemctl kill`: what they mean is the master's to know."""
    p = server(start=False, server_stop_grace="1m")
    real = p.command
    p.command = lambda *more: ["setsid", *real(*more)]
    p.start()
    client = p.login()
    os.killpg(p.process.pid, number)
    p.wait_notified("READY=1" if number == signal.SIGHUP else "STOPPING=1")
    client.noop()
    client.quit()
    p.wait_log("user=alice reason=quit")
    assert "was ended by signal" not in p.log_text()


def test_stop_before_anything_is_served(tmp_path):
    """Its nursery never says that it is ready; nobody waits for that."""
    programs = tmp_path / "programs"
    programs.mkdir()
    replace_program(programs, "poplar-worker", hangs=True)
    replace_program(programs, "poplar-auth", hangs=False)
    p = poplar.Poplar(tmp_path, server_program_dir=programs)
    starting = subprocess.Popen(p.command(), stderr=subprocess.PIPE)
    wait_until(lambda: b"sleep" in subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(starting.pid)], capture_output=True).stdout,
               "the nursery")
    starting.send_signal(signal.SIGTERM)
    assert starting.communicate(timeout=SOON)[1] == b""
    assert starting.returncode == 0


def test_stop_serves_who_was_accepted(server):
    """A connection that was taken in, and waits for a worker when SIGTERM comes, is still served."""
    p = server(server_stop_grace="10m", workers_idle_min="1", workers_idle_max="1")
    nursery, = wait_until(p.nursery, "a nursery")
    os.kill(nursery, signal.SIGSTOP)
    clients = []
    while not re.search(rb"; ([3-9]|1\d) connections waiting", p.ctl("status").stdout):
        clients.append(p.connect(tls=False, greeting=False))
        assert len(clients) < 20
    p.process.send_signal(signal.SIGTERM)
    p.wait_log("stopping, ")
    os.kill(nursery, signal.SIGCONT)
    for raw in clients:
        assert raw.line().startswith(b"+OK")
        assert raw.ask(b"QUIT").startswith(b"+OK")
    assert p.process.wait(SOON) == 0


def test_stop_does_not_wait_for_refusals(server):
    """Who is there only to be told that his login failed does not hold up the end."""
    p = server(server_stop_grace="10m", auth_failure_delay="60s", session_login_timeout="10m",
               stack="auth required pam_deny.so\naccount required pam_permit.so\n")
    raw = p.connect()
    raw.ask(b"USER alice")
    raw.send(b"PASS wrong\r\n")
    p.wait_log("login failed: .*user=alice")
    p.process.send_signal(signal.SIGTERM)
    assert p.process.wait(45) == 0
    assert raw.rest() == b""


def replace_program(directory, name, hangs):
    """A program of a program_dir: ours, or one that never says that it is ready."""
    fresh = directory / "fresh"
    if hangs:
        fresh.write_text("#!/bin/sh\nexec sleep 1000\n")
        fresh.chmod(0o755)
    else:
        fresh.symlink_to(poplar.BUILD / name)
    fresh.rename(directory / name)


def test_processes_that_are_never_ready(tmp_path):
    """A start and a reload fail in time with the reason; a nursery is tried again. All of them at
    once, for the time that they have is half a minute."""
    made = []

    def make(name):
        directory = tmp_path / name
        (directory / "programs").mkdir(parents=True)
        for program in ("poplar-worker", "poplar-auth"):
            replace_program(directory / "programs", program, hangs=False)
        made.append(poplar.Poplar(directory, server_program_dir=directory / "programs"))
        return made[-1], directory / "programs"

    try:
        starting, programs = make("starting")
        replace_program(programs, "poplar-worker", hangs=True)
        start = subprocess.Popen(starting.command(), stderr=subprocess.PIPE, text=True)
        reloading, programs = make("reloading")
        reloading.start()
        replace_program(programs, "poplar-auth", hangs=True)
        reload = subprocess.Popen([poplar.BUILD / "poplarctl", "--config", reloading.config,
                                   "reload"], stderr=subprocess.PIPE, text=True)
        recovering, programs = make("recovering")
        recovering.start()
        replace_program(programs, "poplar-worker", hangs=True)
        nursery, = wait_until(lambda: len(found := recovering.nursery()) == 1 and found,
                              "only the nursery has no filter")
        os.kill(nursery, signal.SIGKILL)
        error = start.communicate(timeout=30 + SOON)[1]
        assert start.returncode != 0 and "poplar-worker) was not ready in time" in error
        assert len(error.splitlines()) == 1
        error = reload.communicate(timeout=30 + SOON)[1]
        assert reload.returncode != 0 and "auth process was not ready in time" in error
        assert works(reloading) == 0
        replace_program(programs, "poplar-worker", hangs=False)
        recovering.wait_log("was not ready in time")
        wait_until(recovering.nursery, "a nursery that is ready")
        assert works(recovering) == 0
    finally:
        for p in made:
            p.stop()


@pytest.mark.parametrize("status", [0, 200])
@pytest.mark.parametrize("program", ["poplar-worker", "poplar-auth"])
def test_processes_that_end_at_once(server, tmp_path, program, status):
    """Without a word, and with what is no reason: neither start nor reload is a success then."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("poplar-worker", "poplar-auth"):
        replace_program(programs, name, hangs=False)
    p = server(server_program_dir=programs)
    (programs / program).unlink()
    (programs / program).write_text(f"#!/bin/sh\nexit {status}\n")
    (programs / program).chmod(0o755)
    reload = p.ctl("reload", check=False)
    assert reload.returncode == (status or 70) and b" ended by itself" in reload.stderr, reload
    assert works(p) == 0
    p.stop()
    for _ in range(10):
        start = subprocess.run(p.command(), capture_output=True, timeout=60)
        assert start.returncode == 70 and start.stderr.endswith(b" ended by itself\n"), start


def test_a_nursery_of_the_configuration_before(server, tmp_path):
    """One that was started before a reload, and is ready only after it, serves nobody."""
    programs = tmp_path / "programs"
    programs.mkdir()
    replace_program(programs, "poplar-auth", hangs=False)
    replace_program(programs, "poplar-worker", hangs=False)
    p = server(server_program_dir=programs)
    late = programs / "late"
    late.write_text(f"#!/bin/sh\ntouch {programs}/begun\n"
                    f"until [ -e {programs}/go ]; do sleep 0.05; done\n"
                    f"touch {programs}/gone\nexec {poplar.BUILD}/poplar-worker\n")
    late.chmod(0o755)
    late.rename(programs / "poplar-worker")
    os.kill(p.nursery()[0], signal.SIGKILL)
    wait_until((programs / "begun").exists, "the next one")
    replace_program(programs, "poplar-worker", hangs=False)
    p.write_config(server_hostname="second.example.test")
    p.ctl("reload")
    (programs / "go").touch()
    wait_until((programs / "gone").exists, "it goes on")
    wait_until(lambda: len(p.nursery()) == 1, "one nursery")
    for _ in range(5):
        with p.connect(tls=False, greeting=False).sock as sock:
            assert b"second.example.test" in sock.recv(200)


def held_back(programs, go, then):
    """An auth process that waits until the file is there, in the place of ours."""
    fresh = programs / "fresh"
    fresh.write_text(f"#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.05; done\nexec {then}\n")
    fresh.chmod(0o755)
    fresh.rename(programs / "poplar-auth")


@pytest.fixture
def slow_reload(server, tmp_path):
    """A server of which a reload waits for a file, and then runs this as its auth process."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("poplar-auth", "poplar-worker"):
        replace_program(programs, name, hangs=False)

    def make(then, **settings):
        p = server(server_program_dir=programs, **settings)
        held_back(programs, programs / "go", then)
        p.process.send_signal(signal.SIGHUP)
        wait_until(lambda: p.children("/bin/sh "), "the one that waits for a file")
        return p, programs
    return make


def test_stop_during_a_reload(slow_reload):
    """The reload is off: no door opens again while sessions are let end. Who ends the LMTP socket has a
    copy of the others for a moment."""
    def refuses():
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", p.tls_port), 5).close()
            return False
        return True

    p, programs = slow_reload(poplar.BUILD / "poplar-auth", server_stop_grace="10m",
                              auth_processes_min="1")
    client = p.login()
    p.process.send_signal(signal.SIGTERM)
    p.wait_log("stopping, 1 session")
    (programs / "go").touch()
    wait_until(refuses, "closed doors")
    client.noop()
    assert refuses()
    client.quit()
    assert p.process.wait(SOON) == 0
    assert "poplard: reloaded" not in p.log_text()


def test_reload_while_another_fails(slow_reload):
    """Who mends the configuration in the meantime, and says so, is heard."""
    p, programs = slow_reload("false")
    p.write_config(server_hostname="second.example.test")
    p.process.send_signal(signal.SIGHUP)
    replace_program(programs, "poplar-auth", hangs=False)
    (programs / "go").touch()
    p.wait_log("reload failed")
    p.wait_log("poplard: reloaded")
    with p.connect(tls=False, greeting=False).sock as sock:
        assert b"second.example.test" in sock.recv(200)


def asking(p, n):
    """So many calls of poplarctl reload, of which the server has heard: it holds their
    connections, and expects no more from them."""
    def held():
        proc = Path(f"/proc/{p.process.pid}")
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        control = {f"socket:[{words[6]}]" for words in lines
                   if words[5] == "03" and words[-1] == str(p.run / "control")}
        watched = {fd for info in (proc / "fdinfo").iterdir()
                   for fd in re.findall(r"tfd: +(\d+)", info.read_text())}
        fds = set(os.listdir(proc / "fd")) - watched
        return [fd for fd in fds if os.readlink(proc / "fd" / fd) in control]
    made = [subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, "reload"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(n)]
    wait_until(lambda: len(held()) == n, "all are heard")
    return made


def test_reloads_asked_for_during_another(slow_reload):
    """They are one, which begins after they were asked for, and whose outcome they tell."""
    p, programs = slow_reload("false")
    asked = asking(p, 3)
    p.write_config(server_hostname="second.example.test")
    replace_program(programs, "poplar-auth", hangs=False)
    (programs / "go").touch()
    for ctl in asked:
        assert ctl.communicate(timeout=SOON) == (b"reloaded\n", b"")
        assert ctl.returncode == 0
    assert len(re.findall("reload failed", p.log_text())) == 1
    assert len(re.findall("poplard: reloaded", p.log_text())) == 1
    with p.connect(tls=False, greeting=False).sock as sock:
        assert b"second.example.test" in sock.recv(200)


def test_stop_with_reloads_to_come(slow_reload):
    p, _ = slow_reload("false")
    asked = asking(p, 2)
    p.process.send_signal(signal.SIGTERM)
    for ctl in asked:
        assert ctl.communicate(timeout=SOON)[1] == b"poplarctl: poplard is stopping\n"
        assert ctl.returncode == 75
    assert p.process.wait(SOON) == 0


def test_stop_ends_sessions_after_the_grace(server):
    """Their deletions are not carried out."""
    p = server(server_stop_grace="1s")
    p.add("alice", MESSAGE)
    client = p.login()
    client.dele(1)
    p.stop()
    assert p.status == 0
    assert re.search("session ended: peer=127.0.0.1:[0-9]+ user=alice reason=ended", p.log_text())
    with pytest.raises(Exception):
        client.noop()
    p.start()
    assert works(p) == 1


def test_92_max_per_source(server):
    p = server(workers_max_per_source="3")
    held = [p.connect(tls=False) for _ in range(3)]
    refused = p.connect(tls=False, greeting=False)
    assert refused.rest() == b"-ERR [SYS/TEMP] Too many connections, wait and try again\r\n"
    for _ in range(20):  # over TLS in as many words as there are without a handshake
        with pytest.raises(ssl.SSLError, match="TLSV1_ALERT_INTERNAL_ERROR"):
            p.connect()
    held[0].ask(b"QUIT")
    wait_until(lambda: accepted(p), "room for one more")


def accepted(p):
    raw = p.connect(tls=False, greeting=False)
    return raw.line().startswith(b"+OK")


def test_91_crowd_gives_way(server):
    """Every slot taken by connections that do not log in: the oldest goes, a login works."""
    p = server(workers_max_sessions="4")
    held = [p.connect(tls=False) for _ in range(4)]
    assert works(p) == 0
    assert held[0].line() == b""
    p.wait_log("gives way")


def test_logged_in_sessions_do_not_give_way(server):
    p = server(workers_max_sessions="2")
    clients = [p.login("alice"), p.login("bob")]
    refused = p.connect(tls=False, greeting=False)
    assert refused.rest().startswith(b"-ERR [SYS/TEMP]")
    for client in clients:
        client.quit()


def leave_none(p):
    """The master gets no descriptor any more, also not the number of one that it closes. The limits
    before."""
    before = resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    return before


@pytest.mark.native("valgrind has descriptors of its own")
def test_93_accept_without_descriptors_does_not_spin(server):
    """Out of descriptors the master pauses and comes back; it burns no processor meanwhile."""
    p = server()
    before = leave_none(p)
    raw = p.connect(tls=False, greeting=False)
    p.wait_log("accept: Too many open files")

    def ticks():
        fields = open(f"/proc/{p.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    used = ticks()
    p.wait_log("(?s)accept: Too many open files.*accept: Too many open files")
    assert ticks() - used < os.sysconf("SC_CLK_TCK") / 4
    resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE, before)
    assert raw.line().startswith(b"+OK")


@pytest.mark.native("valgrind has descriptors of its own")
def test_93_control_socket_without_descriptors_does_not_spin(server):
    """Nor over the control socket; who waits there is served once there is room."""
    p = server()
    before = leave_none(p)
    asking = subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, "status"],
                              stdout=subprocess.PIPE)

    def ticks():
        fields = open(f"/proc/{p.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    p.wait_log("control socket: Too many open files")
    used = ticks()
    p.wait_log("(?s)control socket: Too many.*control socket: Too many")
    assert ticks() - used < os.sysconf("SC_CLK_TCK") / 4
    resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE, before)
    assert b"idle worker" in asking.communicate(timeout=SOON)[0]


@pytest.mark.native("valgrind has descriptors of its own")
@pytest.mark.parametrize("limit", [8, 16, 32, 256])
def test_too_few_descriptors(server, limit):
    """It does not start to fail later, and says what it wants."""
    p = server(start=False)
    done = subprocess.run(["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *p.command()],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == os.EX_CONFIG and done.stderr.count("\n") == 1, done
    assert re.fullmatch(rf"poplard: built-in default: \[workers\] max_sessions=1024: wants 12\d\d "
                        rf"descriptors with all else, the limit is {limit}; raise it \(.*\n",
                        done.stderr), done


@pytest.mark.native("valgrind has descriptors of its own")
def test_descriptors_for_few_sessions(server):
    """A limit that is low is no hindrance to who wants little; a reload may not want more."""
    p = server(start=False, workers_max_sessions="20", workers_idle_max="20",
               auth_processes_max="10")
    real = p.command
    p.command = lambda *more: ["sh", "-c", 'ulimit -n 160; exec "$@"', "sh", *real(*more)]
    p.start()
    clients = [p.login(f"user{n}") for n in range(20)]
    p.write_config(workers_max_sessions="100")
    done = p.ctl("reload", check=False)
    assert done.returncode == os.EX_CONFIG and b"max_sessions=100: wants " in done.stderr, done
    for client in clients:
        client.quit()
    wait_until(lambda: b" 0 of 20: " in p.ctl("status").stdout, "the sessions are over")
    assert works(p) == 0


def test_a_limit_on_the_size_of_files(server):
    """What cannot be stored for one is refused as for want of room, and is no crash."""
    p = server(start=False, delivery_accept="any")
    real = p.command
    p.command = lambda *more: ["prlimit", "--fsize=1000000", *real(*more)]
    p.start()
    with smtplib.LMTP(str(p.lmtp)) as lmtp:
        with pytest.raises(smtplib.SMTPResponseException) as refused:
            lmtp.sendmail("x@example.test", ["alice"], b"Subject: large\r\n\r\n" +
                          b"0123456789\r\n" * 200000)
    assert 400 <= refused.value.smtp_code < 500
    p.add("bob", MESSAGE)
    assert works(p, "bob") == 1
    assert "signal" not in p.log_text()


def test_one_line_a_session(server):
    p = server()
    p.add("alice", MESSAGE)
    client = p.login()
    client.retr(1)
    client.dele(1)
    client.quit()
    line = p.wait_log(r"session ended: .*user=alice.*").group(0)
    for field in ("reason=quit", "retrieved=1", "deleted=1", "tls=TLSv1.3", "door=pop3s",
                  "peer=127.0.0.1:"):
        assert field in line
    assert len(re.findall("session ended", p.log_text())) == 1


def test_sni(server, tmp_path):
    """Two certificates; the name the client asks for decides, an unknown one gets the first."""
    certificate, key = make_certificate(tmp_path, "mail.example.org")
    p = server(extra=f"[tls second]\ncertificate={certificate}\nkey={key}\n")

    def served(name):
        import ssl
        context = ssl._create_unverified_context()
        with socket.create_connection(("127.0.0.1", p.tls_port), 10) as s:
            with context.wrap_socket(s, server_hostname=name) as t:
                return ssl.DER_cert_to_PEM_cert(t.getpeercert(True)).split()

    assert served("mail.example.org") == certificate.read_text().split()
    assert served("pop.example.test") == p.certificate.read_text().split()
    assert served("other.example.net") == p.certificate.read_text().split()


def test_programs_by_hand():
    """What only poplard starts says so, and what prints notices that it could not."""
    def run(program, *arguments, **options):
        return subprocess.run([poplar.BUILD / program, *arguments], text=True,
                              timeout=20 * poplar.PATIENCE,
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    for program, arguments in (("poplar-worker", ()), ("poplar-worker", ("x",)),
                               ("poplar-worker", ("--sandbox", "x")), ("poplar-auth", ())):
        result = run(program, *arguments)
        assert result.returncode == os.EX_USAGE, (program, arguments, result)
        assert "is started by poplard" in result.stderr
    done = run("poplard", "--config=", "--check")
    assert done.returncode == os.EX_USAGE and "--config needs a value" in done.stderr, done
    for program in ("poplard", "poplar-deliver", "poplarctl"):
        for option, words in (("version", rf"{program} \S+\n"), ("help", rf"usage: {program} (?s:.)*")):
            for written in (f"--{option}", "-V" if option == "version" else "-h"):
                said = run(program, written, stdout=subprocess.PIPE).stdout
                assert re.fullmatch(words, said), (program, written, said)


@pytest.mark.native("valgrind opens the standard descriptors that are closed")
def test_programs_print_in_vain(server):
    """On a full disk, or on an output that is closed: the exit status says so, and one line why."""
    config = server(start=False).config
    for words in (["poplard", "--help"], ["poplard", "--version"],
                  ["poplard", "--config", config, "--check"], ["poplar-worker", "--sandbox"],
                  ["poplar-deliver", "--help"], ["poplar-deliver", "--version"],
                  ["poplarctl", "--version"]):
        for output, why in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
            done = subprocess.run(["sh", "-c", f'exec "$@" {output}', "sh",
                                   poplar.BUILD / words[0], *words[1:]], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (
                os.EX_IOERR, f"{words[0]}: standard output: {why}\n"), (words, output)


INHERITED = {
    "closed": 'exec "$@" <&- >&- 2>&-',
    "limited": 'ulimit -Sn 200; exec "$@"',
    "sigchld": "exec python3 -c 'import os, signal, sys; "
               "signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
               "os.execv(sys.argv[1], sys.argv[1:])' \"$@\"",
    "blocked": "exec python3 -c 'import os, signal, sys; "
               "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); "
               "os.execv(sys.argv[1], sys.argv[1:])' \"$@\"",
    "open to all": 'umask 000; exec "$@"',
    "closed to all": 'umask 777; exec "$@"',
    "nowhere": 'd=$(mktemp -d); cd "$d"; rmdir "$d"; exec "$@"',
    "elsewhere": 'LC_ALL=tr_TR.UTF-8 TZ=:/nonexistent OPENSSL_CONF=/nonexistent exec "$@"',
    "without limits": 'exec prlimit --core=0 --memlock=0 --sigpending=0 "$@"',
}


@pytest.mark.parametrize("before", INHERITED.values(), ids=INHERITED)
@pytest.mark.native("valgrind keeps the limit of descriptors to itself")
def test_what_poplard_inherits(server, before):
    """Descriptors 0 to 2 that are closed are no client's, a soft limit is not the last word,
    signals that whoever started it ignored or blocked are heard, and what is made has modes of our own."""
    p = server(start=False)
    real = p.command
    p.command = lambda *more: ["sh", "-c", before, "sh", *real(*more)]
    p.start()
    assert works(p) == 0
    wait_until(lambda: not p.sessions(), "the session is over")
    for fd in range(3):
        assert "socket" not in os.readlink(f"/proc/{p.process.pid}/fd/{fd}")
    limits = re.search(r"Max open files +(\d+) +(\d+)",
                       open(f"/proc/{p.process.pid}/limits").read())
    assert limits[1] == limits[2]
    modes = {path.relative_to(p.directory).as_posix(): path.stat().st_mode & 0o777
             for path in p.run.iterdir()}
    control = 0o660 if (p.run / "control").group() == "poplar" else 0o600
    assert modes == {"run/lmtp.sock": 0o666, "run/control": control}, modes
    assert not any(path.stat().st_mode & 0o77 for path in p.state.rglob("*"))
    p.ctl("reload")
    assert works(p) == 0


@pytest.mark.parametrize("before", [None, "glibc.malloc.perturb=1"])
@root_only
def test_how_the_c_library_is_tuned(server, monkeypatch, before):
    """For the nursery alone, and where nobody has told it anything else."""
    if before:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    p = server()
    nursery, = p.nursery()

    def told(pid):
        with open(f"/proc/{pid}/environ", encoding="ascii", errors="replace") as environment:
            variables = dict(v.split("=", 1) for v in environment.read().split("\0") if v)
        return variables.get("GLIBC_TUNABLES")
    assert all(told(auth) == before for auth in p.children("poplar-auth"))
    assert told(nursery).startswith(before or "glibc.malloc.tcache_count=0")  # it may be cut when read


@root_only
@pytest.mark.accounts
def test_a_machine_that_says_little(server):
    """Without a name, hosts, services, time zone, name service switch and IPv6."""
    p = server(start=False, listen_pop3=None, listen_pop3s=None, server_hostname=None,
               server_local_domains=None, tls_required="no")
    p.port, p.tls_port = 110, 995
    real, apart = p.command, (
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; echo localhost >/proc/sys/kernel/hostname; "
        "for f in hosts services localtime nsswitch.conf machine-id; do "
        "[ ! -e /etc/$f ] || mount --bind /dev/null /etc/$f; done; exec \"$@\"")
    p.command = lambda *more: ["unshare", "--mount", "--uts", "sh", "-c", apart, "sh", *real(*more)]
    try:
        p.start()
        with smtplib.LMTP(str(p.lmtp)) as lmtp:
            lmtp.sendmail("x@example.test", ["alice@localhost"], MESSAGE)
        assert works(p) == 1
    finally:
        subprocess.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0"], check=True)


@pytest.mark.accounts
@pytest.mark.parametrize("given", ["pop3", "pop3s"])
def test_one_door_of_ones_own_without_ipv6(server, given):
    """The other one's built-in addresses go on to be those that the host has."""
    p = server(start=False, **{f"listen_{other}": None for other in ("pop3", "pop3s") if other != given})
    p.port, p.tls_port = (p.port, 995) if given == "pop3" else (110, p.tls_port)
    subprocess.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=True)
    try:
        p.start()
        for tls in (False, True):
            p.connect(tls).close()
    finally:
        subprocess.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0"], check=True)


@pytest.mark.accounts
def test_without_root(server):
    """As somebody tries it out: all of it runs as him, who is told what that lacks; mail comes and
    goes, after a crash and a reload, too."""
    p = server(start=False, server_worker_user="alice", server_store_user="alice",
               delivery_trusted="alice")
    for place in (p.directory, p.state, p.run, p.confdir, p.config, p.key, p.certificate):
        shutil.chown(place, "alice")
    command = p.command()
    p.command = lambda: ["setpriv", "--reuid=alice", "--regid=alice", "--clear-groups", "--", *command]
    before = os.umask(0)  # for the socket that stands for systemd's
    try:
        p.start()
    finally:
        os.umask(before)
    alice = pwd.getpwnam("alice").pw_uid
    p.wait_log(f"not root: everything runs as uid {alice}, without the separation of users")
    p.wait_log(r"a user of their own \(not started as root\)")
    p.add("bob", MESSAGE)
    with smtplib.LMTP(str(p.lmtp)) as client:
        client.sendmail("x@example.test", ["bob"], MESSAGE)
    assert works(p, "bob") == 2
    os.kill(p.workers()[0], signal.SIGSEGV)
    p.wait_log(r"worker \d+ was ended by signal")
    wait_until(lambda: works(p, "bob") == 2, "a new generation serves")
    p.ctl("reload")
    assert works(p, "bob") == 2
    for pid in (p.process.pid, *p.children("poplar-worker"), *p.auths()):
        status = p.proc_status(pid)
        assert status["Seccomp"] == "gone" or status["Uid"].split() == [str(alice)] * 4
