"""kill -9 at random moments, under load: mail comes in by LMTP and is fetched and deleted by POP3
while workers, auth processes, the nursery and the master itself are killed again and again, and so
are the administrator's commands.

Whatever was acknowledged stays so: no message is lost, none is there twice, none that was deleted
comes back. The seed is printed; LONG=1 goes on for ten minutes. The numbers in the names are those
of the list of abuse cases."""

import collections
import contextlib
import itertools
import os
import poplib
import random
import signal
import socket
import subprocess
import threading
import time

import pytest

import poplar
from poplar import kill, wait_until

LONG = os.environ.get("LONG") == "1"
SECONDS = 600 if LONG else 15
USERS = [f"user{n}" for n in range(4)]
EX_TEMPFAIL = 75
# What a client sees of a server that dies under it.
BROKEN = (OSError, EOFError, poplib.error_proto)


class Ledger:
    """What was said to clients: which messages are acknowledged, and which deletions."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sent = {}          # number -> (user, octets)
        self.delivered = set()  # acknowledged
        self.deleted = set()    # the same
        self.doomed = set()     # QUIT was sent, and never answered
        self.wrong = []

    def note(self, numbers, kind):
        with self.lock:
            kind.update(numbers)

    def blame(self, what):
        with self.lock:
            self.wrong.append(what)


def message(number, chance):
    return (b"Subject: %d\r\n\r\n" % number
            + b"".join(b"%d.%d\r\n" % (number, line) for line in range(chance.choice([1, 30, 9000])))
            + b"end of %d\r\n" % number)


def number_of(octets):
    for line in octets.splitlines():
        if line.startswith(b"Subject: "):
            return int(line[9:])
    return None


class Delivery(poplar.Raw):
    """An LMTP client."""

    def __init__(self, p):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(str(p.lmtp))
        super().__init__(s)
        self.want(b"220", self.line())
        self.sock.sendall(b"LHLO x\r\n")
        while self.line().startswith(b"250-"):
            pass

    @staticmethod
    def want(code, line):
        if not line.startswith(code):
            raise OSError(f"answered {line!r}")

    def deliver(self, user, octets):
        self.want(b"250", self.ask(b"MAIL FROM:<x@example.test>"))
        self.want(b"250", self.ask(b"RCPT TO:<%s>" % user.encode()))
        self.want(b"354", self.ask(b"DATA"))
        self.send(octets + b".\r\n")
        return self.line()


def deliver_load(p, ledger, over, numbers, seed):
    chance = random.Random(seed)
    client = None
    while not over.is_set():
        try:
            client = client or Delivery(p)
            for _ in range(chance.randrange(1, 6)):
                number, user = next(numbers), chance.choice(USERS)
                octets = message(number, chance)
                with ledger.lock:
                    ledger.sent[number] = (user, octets)
                answer = client.deliver(user, octets)
                if answer.startswith(b"250"):
                    ledger.note([number], ledger.delivered)
                elif not answer.startswith(b"4"):
                    raise OSError("no answer")
        except BROKEN:
            client = None
            time.sleep(0.01)


def fetch_once(p, ledger, user, chance):
    """One session: look at all, delete some, leave in one way or another."""
    client = p.login(user, tls=chance.random() < 0.3)
    seen = []
    for n in range(1, client.stat()[0] + 1):
        octets = b"".join(line + b"\r\n" for line in client.retr(n)[1])
        number = number_of(octets)
        if number not in ledger.sent or ledger.sent[number][0] != user:
            ledger.blame(f"{user} has a message {number} that nobody sent there")
        elif not octets.endswith(ledger.sent[number][1]):
            ledger.blame(f"message {number} of {user} is not what was sent")
        seen.append(number)
    if len(seen) != len(set(seen)):
        ledger.blame(f"{user} has a message twice: {sorted(seen)}")
    back = ledger.deleted & set(seen)
    if back:
        ledger.blame(f"{user} has deleted messages again: {back}")
    gone = [n for n in range(1, len(seen) + 1) if chance.random() < 0.6]
    for n in gone:
        client.dele(n)
    if chance.random() < 0.1:
        client.close()
        return
    numbers = [seen[n - 1] for n in gone]
    # From here on they may go, whatever happens to the answer.
    ledger.note(numbers, ledger.doomed)
    if client.quit().startswith(b"+OK"):
        ledger.note(numbers, ledger.deleted)


def fetch_load(p, ledger, over, user, seed):
    chance = random.Random(seed)
    while not over.is_set():
        with contextlib.suppress(*BROKEN):
            fetch_once(p, ledger, user, chance)
        time.sleep(chance.random() / 20)


def tool_load(p, ledger, over, numbers, seed):
    """The administrator's commands, half of them killed. Nobody has asked for mail to be deleted by
    them: what they acknowledge is what they bring in."""
    chance = random.Random(seed)
    while not over.is_set():
        user, coming = chance.choice(USERS), {}
        words = chance.choice([["message", "add", user], ["import", user], ["mailbox", "compact", user],
                               ["mailbox", "check", user], ["expire", user],
                               ["mailbox", "backup", user, str(p.directory / f"{user}.backup")]])
        if words[0] in ("message", "import"):
            count = 1 if words[0] == "message" else chance.randrange(1, 20)
            coming = {number: message(number, chance) for number in itertools.islice(numbers, count)}
        with ledger.lock:
            ledger.sent |= {number: (user, octets) for number, octets in coming.items()}
        if words[0] == "import":
            box = p.directory / f"box-{min(coming)}"
            box.write_bytes(b"".join(b"From x@example.test Sat Jan  1 00:00:00 2022\r\n%s\r\n" % octets
                                     for octets in coming.values()))
            words.append(str(box))
        with subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, *words],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) as tool:
            try:
                said = tool.communicate(b"".join(coming.values()) if words[0] == "message" else b"",
                                        chance.choice([60, chance.random() / 30]))[1]
            except subprocess.TimeoutExpired:
                tool.kill()
                continue
        if tool.returncode == 0:
            ledger.note(coming, ledger.delivered)
        elif tool.returncode != EX_TEMPFAIL:
            ledger.blame(f"{words}: {tool.returncode}: {said}")


class Killer:
    """Kills one process after the other; the master is started again as a service manager would."""

    def __init__(self, p, chance):
        self.p, self.chance = p, chance
        self.killed = collections.Counter()

    def victims(self):
        kind = self.chance.choices(["serving", "worker", "auth", "nursery", "master"],
                                   [12, 3, 3, 1, 1])[0]
        find = {"serving": self.p.serving, "worker": self.p.workers, "auth": self.p.auths,
                "nursery": self.p.nursery, "master": lambda: [self.p.process.pid]}[kind]
        return kind, find()

    def once(self):
        kind, pids = self.victims()
        if not pids:
            return
        self.killed[kind] += 1
        if kind == "master":
            self.p.stop(signal.SIGKILL)
            self.p.start()
        else:
            kill(self.chance.choice(pids))


def settled(p, user):
    """What is in a maildrop at last."""
    def once():
        try:
            return p.login(user)
        except BROKEN:
            return None
    client = wait_until(once, f"a login of {user}")
    found = []
    for n in range(1, client.stat()[0] + 1):
        octets = b"".join(line + b"\r\n" for line in client.retr(n)[1])
        found.append((number_of(octets), octets))
    client.quit()
    return found


def test_95_kill_anybody_under_load(server):
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 32)))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    p = server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8",
               workers_max_per_source="200", delivery_accept="any")
    for user in USERS:
        p.ctl("mailbox", "create", user)
    ledger, over = Ledger(), threading.Event()
    numbers = itertools.count(1)  # next() of it is one step, whatever thread asks
    threads = [threading.Thread(target=deliver_load, args=(p, ledger, over, numbers, seed + n))
               for n in range(2)]
    threads += [threading.Thread(target=fetch_load, args=(p, ledger, over, user, seed + 10 + n))
                for n, user in enumerate(USERS)]
    threads += [threading.Thread(target=tool_load, args=(p, ledger, over, numbers, seed + 20))]
    for thread in threads:
        thread.start()
    killer = Killer(p, chance)
    end = time.monotonic() + SECONDS

    def enough():
        return (len(ledger.delivered) > 20 and len(ledger.deleted) > 5
                and sum(killer.killed.values()) > 20)
    try:
        while time.monotonic() < end or not enough():
            assert time.monotonic() < end + 120, "too little happens"
            killer.once()
            time.sleep(chance.random() / 5)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    print(f"killed {dict(killer.killed)}; {len(ledger.delivered)} messages acknowledged, "
          f"{len(ledger.deleted)} deletions")
    wait_until(lambda: len(p.nursery()) == 1 and len(p.auths()) >= 2 and len(p.workers()) >= 4,
               "everything is there again")

    assert not ledger.wrong
    found = collections.Counter()
    for user in USERS:
        for number, octets in settled(p, user):
            assert ledger.sent[number][0] == user
            assert octets.endswith(ledger.sent[number][1])
            found[number] += 1
        p.ctl("mailbox", "check", user)
    assert not [n for n, times in found.items() if times > 1], "doubled"
    assert not [n for n in ledger.delivered - ledger.doomed if n not in found], "lost"
    assert not [n for n in ledger.deleted if n in found], "deleted, and there again"


def uidls(p, user):
    """Number and UIDL of each message of a maildrop; what it holds must be what was sent."""
    client = p.login(user, tls=False)
    names = {int(line.split()[0]): line.split()[1] for line in client.uidl()[1]}
    found = {number_of(b"".join(line + b"\r\n" for line in client.top(n, 0)[1])): names[n]
             for n in names}
    assert len(found) == len(names), "doubled"
    client.quit()
    return found


def test_95_kill_an_import(server):
    """poplarctl import killed at any moment, and begun again until it comes to its end: each message
    is there once, and keeps the UIDL under which it was seen first."""
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 32)))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    p = server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8",
               workers_max_per_source="200")
    total, kills, known = 3000, 0, {}
    box = p.directory / "box"
    with open(box, "wb") as file:
        for number in range(1, total + 1):
            file.write(b"From x@example.test Sat Jan  1 00:00:00 2022\n"
                       b"Subject: %d\n\n%s\n\n" % (number, b"x" * chance.randrange(2000)))
    p.add("alice", b"Subject: 0\n\nthere before\n")
    done = False
    while not done:
        tool = subprocess.Popen([poplar.BUILD / "poplarctl", "--config", p.config, "import",
                                 "alice", box], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        try:
            assert tool.wait(120 if kills == 40 else chance.uniform(0.005, 0.25) if kills else 0.005) == 0
            done = kills > 0
            if not done:  # we stood still meanwhile
                known = {}
                p.ctl("mailbox", "delete", "--yes", "alice")
                p.add("alice", b"Subject: 0\n\nthere before\n")
        except subprocess.TimeoutExpired:
            tool.kill()
            tool.wait()
            kills += 1
        if not done and kills % 4 == 0:
            now = uidls(p, "alice")
            assert known.items() <= now.items()
            known = now
    now = uidls(p, "alice")
    assert known.items() <= now.items()
    assert set(now) == set(range(total + 1))
    p.ctl("mailbox", "check", "alice")
    print(f"killed {kills} times")


@pytest.mark.parametrize("door", ["pop3", "lmtp"])
def test_82_locks_are_free_again(server, door):
    """The next session gets the maildrop of one whose worker was killed; within a second where the
    machine has one to spare."""
    p = server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8",
               workers_max_per_source="200", delivery_accept="any")
    p.add("alice", message(1, random.Random(1)))
    waits = []
    for turn in range(100 if LONG else 15):
        if door == "pop3":
            client = p.login(tls=False)
            client.dele(1)
        else:
            client = Delivery(p)
            client.want(b"250", client.ask(b"MAIL FROM:<x@example.test>"))
            client.want(b"250", client.ask(b"RCPT TO:<alice>"))
            client.want(b"354", client.ask(b"DATA"))
            client.send(b"x\r\n" * 1000)
        pid, = wait_until(p.serving, "its worker")
        if door == "lmtp":  # while it stores, or not yet
            client.send(b".\r\n")
            time.sleep(turn / 2000)
        kill(pid)
        since = time.monotonic()

        def again():
            try:
                return p.login(tls=False)
            except BROKEN:
                return None
        client = wait_until(again, "a login")
        waits.append(time.monotonic() - since)
        assert client.stat()[0] >= 1
        client.quit()
        wait_until(lambda: not p.serving(), "the session ends")
    print(f"the lock was free after {sorted(waits)[len(waits) // 2] * 1000:.0f} ms (median), "
          f"{max(waits) * 1000:.0f} ms at most")


@pytest.mark.parametrize("kind", ["workers", "auths", "nursery"])
def test_95_respawn(server, kind):
    """As many as before are there again soon, and a login works meanwhile or shortly after."""
    p = server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8")
    find = getattr(p, kind)
    least = {"workers": 4, "auths": 2, "nursery": 1}[kind]
    times = []
    for _ in range(20 if LONG else 4):
        before = wait_until(lambda: len(found := find()) >= least and found, kind)
        since = time.monotonic()
        for pid in before:
            kill(pid)
        wait_until(lambda: len(set(find()) - set(before)) >= least, f"new {kind}")
        times.append(time.monotonic() - since)
        client = p.login(tls=False)
        client.quit()
    print(f"{kind} were there again after {sorted(times)[len(times) // 2] * 1000:.0f} ms (median)")
