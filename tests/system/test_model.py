"""A long walk: sessions, deliveries and the administrator's commands in any order, beside a model
of what the maildrops must hold after each step. What a client, poplarctl and an export say is
compared with the model to the octet.

The same way each time; MODEL_SEED=n walks another. LONG=1 walks for a quarter of an hour, from a
seed by chance, which is printed."""

import json
import os
import random
import signal
import time

from poplar import kill, on_the_wire, wait_until
from test_kill_loops import Delivery

LONG = os.environ.get("LONG") == "1"
STEPS, SECONDS = (100000, 900) if LONG else (400, 60)
USERS = ["alice", "bob", "carol"]
EX_TEMPFAIL = 75


class Mail:
    """One message as clients see it; its id and UIDL are learnt when it is first seen, and stay."""

    def __init__(self, octets, whole, uidl=None):
        self.octets, self.whole = octets, whole  # whole: nothing was put before it
        self.uidl, self.id = uidl, None


class Box:
    """What a maildrop must hold."""

    def __init__(self):
        self.mail, self.deleted = [], []
        self.fetched = set()  # what a client has retrieved
        self.backup = None    # these three
        self.client = None    # the session that has it

    def delete(self, gone):
        self.mail = [m for m in self.mail if m not in gone]
        self.deleted += gone


class Session:
    """A client in TRANSACTION, and what it must see: what was there when it logged in."""

    def __init__(self, raw, box):
        self.raw, self.mail = raw, list(box.mail)
        self.before = {n for n, m in enumerate(self.mail, 1) if m in box.fetched}
        self.fetched, self.marked = set(), set()

    def left(self):
        return [(n, m) for n, m in enumerate(self.mail, 1) if n not in self.marked]


def header_end(octets):
    """Where the first empty line ends."""
    if octets.startswith(b"\r\n"):
        return 2
    at = octets.find(b"\r\n\r\n")
    return len(octets) if at < 0 else at + 4


class Walk:
    def __init__(self, p, seed):
        self.p, self.chance = p, random.Random(seed)
        self.boxes = {user: Box() for user in USERS}
        self.given = set()  # all UIDLs that ever were, whatever is restored
        self.trail = []
        self.steps = {}

    # What mail looks like.

    def octets(self):
        chance = self.chance
        lines = [chance.choice([b"", b".", b"..", b".x", b"x", b"From x", b"\xff\x00\xfe", b"x\ry",
                                b"y" * chance.randrange(3000), b"Subject: z", b" folded"])
                 for _ in range(chance.choice([0, 1, 2, 5, 20, 300]))]
        return b"".join(line + b"\r\n" for line in lines)

    # The administrator's view.

    def listed(self, user, *options):
        return json.loads(self.p.ctl("--json", "message", "list", *options, user).stdout)

    def learn(self, user):
        """The list, as poplarctl gives it, is that of the model; new UIDLs were never given out."""
        box = self.boxes[user]
        for mail, options in ((box.mail, ()), (box.deleted, ("--deleted",))):
            rows = sorted(self.listed(user, *options), key=lambda row: row["id"])
            mail.sort(key=lambda m: (m.id is None, m.id))
            assert len(rows) == len(mail)
            for row, m in zip(rows, mail):
                if m.id is None:
                    self.see_first(user, row, m)
                assert ((row["id"], row["uidl"], row["octets"], row["retrieved"] > 0)
                        == (m.id, m.uidl, len(m.octets), m in box.fetched))

    def see_first(self, user, row, m):
        shown = self.p.ctl("message", "show", "--crlf", user, str(row["id"])).stdout
        assert shown == m.octets if m.whole else shown.endswith(m.octets)
        assert m.uidl or row["uidl"] not in self.given
        m.octets, m.uidl, m.id = shown, m.uidl or row["uidl"], row["id"]
        self.given.add(m.uidl)

    # Steps. Each returns what it did, in words.

    def deliver(self, user):
        client, words = Delivery(self.p), []
        for _ in range(self.chance.choice([1, 1, 3])):
            to = self.chance.sample(USERS, self.chance.randrange(1, 3))
            octets = self.octets()
            client.want(b"250", client.ask(b"MAIL FROM:<x@example.test> BODY=8BITMIME"))
            for one in to:
                tail = self.chance.choice(["", "+detail", "@localhost"])
                client.want(b"250", client.ask(f"RCPT TO:<{one}{tail}>".encode()))
            client.want(b"354", client.ask(b"DATA"))
            client.send((b"\r\n" + octets).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
            for one in to:
                client.want(b"250", client.line())
                self.boxes[one].mail.append(Mail(octets, False))
            words += to
        client.close()
        return f"to {words}"

    def add(self, user):
        octets = b"x\r\n" + self.octets()
        if self.chance.random() < 0.5:
            octets = octets.replace(b"\r\n", b"\n")[:-1]
        self.p.add(user, octets)
        self.boxes[user].mail.append(Mail(on_the_wire(octets), True))

    def log_in(self, user):
        box = self.boxes[user]
        self.learn(user)
        raw = self.p.connect(self.chance.random() < 0.2)
        assert raw.ask(b"USER " + user.encode()).startswith(b"+OK")
        answer = raw.ask(b"PASS x")
        if box.client:
            assert answer.startswith(b"-ERR [IN-USE]")
            raw.close()
            return "in use"
        assert answer.startswith(b"+OK"), answer
        box.client = Session(raw, box)
        return f"{len(box.mail)} messages"

    def talk(self, user):
        """Some commands of a session."""
        client = self.boxes[user].client
        if not client:
            return self.log_in(user)
        words = []
        for _ in range(self.chance.randrange(1, 12)):
            command = self.chance.choice([self.stat, self.list_all, self.list_one, self.retr, self.top,
                                          self.dele, self.dele, self.rset, self.say_last])
            words.append(f"{command.__name__} {command(client)}")
        return ", ".join(words)

    def some(self, client):
        """A number, mostly that of a message; whether there is one."""
        n = self.chance.randrange(0, len(client.mail) + 2)
        return n, 1 <= n <= len(client.mail) and n not in client.marked

    def stat(self, client):
        left = [m for _, m in client.left()]
        assert client.raw.ask(b"STAT") == b"+OK %d %d\r\n" % (
            len(left), sum(len(m.octets) for m in left))

    def list_all(self, client):
        for command, value in ((b"LIST", lambda m: b"%d" % len(m.octets)),
                               (b"UIDL", lambda m: m.uidl.encode())):
            assert client.raw.ask(command).startswith(b"+OK")
            assert client.raw.multi() == [b"%d %s\r\n" % (n, value(m)) for n, m in client.left()]

    def list_one(self, client):
        n, there = self.some(client)
        size, uidl = client.raw.ask(b"LIST %d" % n), client.raw.ask(b"UIDL %d" % n)
        if not there:
            assert size.startswith(b"-ERR") and uidl.startswith(b"-ERR")
            return
        m = client.mail[n - 1]
        assert size == b"+OK %d %d\r\n" % (n, len(m.octets))
        assert uidl == b"+OK %d %s\r\n" % (n, m.uidl.encode())

    def retr(self, client):
        n, there = self.some(client)
        answer = client.raw.ask(b"RETR %d" % n)
        assert answer.startswith(b"+OK" if there else b"-ERR")
        if there:
            assert b"".join(client.raw.multi()) == client.mail[n - 1].octets
            client.fetched.add(n)
        return n

    def top(self, client):
        n, there = self.some(client)
        lines = self.chance.choice([0, 1, 3, 1 << 31])
        answer = client.raw.ask(b"TOP %d %d" % (n, lines))
        assert answer.startswith(b"+OK" if there else b"-ERR")
        if there:
            octets = client.mail[n - 1].octets
            at = header_end(octets)
            for _ in range(min(lines, octets.count(b"\n"))):
                at = octets.find(b"\n", at) + 1 or len(octets)
            assert b"".join(client.raw.multi()) == octets[:at]
        return n, lines

    def dele(self, client):
        n, there = self.some(client)
        assert client.raw.ask(b"DELE %d" % n).startswith(b"+OK" if there else b"-ERR")
        if there:
            client.marked.add(n)
        return n

    def rset(self, client):
        if self.chance.random() < 0.5:
            return "not"
        assert client.raw.ask(b"RSET").startswith(b"+OK")
        client.fetched, client.marked = set(), set()

    def say_last(self, client):
        last = max(client.before | client.fetched | client.marked, default=0)
        assert client.raw.ask(b"LAST") == b"+OK %d\r\n" % last

    def leave(self, user):
        """By QUIT, or in one of the ways in which nothing is deleted."""
        box = self.boxes[user]
        client, box.client = box.client, None
        if not client:
            return "nobody there"
        way = self.chance.choice(["quit", "quit", "quit", "close", "kick", "kill"])
        if way == "quit":
            assert client.raw.ask(b"QUIT").startswith(b"+OK")
            box.delete([m for n, m in enumerate(client.mail, 1) if n in client.marked])
            box.fetched |= {client.mail[n - 1] for n in client.fetched}
        elif way == "kick":
            self.p.ctl("kick", user)
        elif way == "kill":
            session, = self.p.sessions(user=user)
            os.kill(session["pid"], signal.SIGKILL)
        client.raw.close()
        wait_until(lambda: not self.p.sessions(user=user), "the session ends")
        return way

    def held(self, user, *arguments):
        """Run a command that waits for nobody; whether it may be done."""
        done = self.p.ctl(*arguments, check=False)
        assert done.returncode == (EX_TEMPFAIL if self.boxes[user].client else 0), done
        return done.returncode == 0

    def remove(self, user):
        self.learn(user)
        box = self.boxes[user]
        gone = self.chance.sample(box.mail, min(len(box.mail), self.chance.randrange(1, 4)))
        if gone and self.held(user, "message", "delete", user, *(str(m.id) for m in gone)):
            box.delete(gone)
        return [m.id for m in gone]

    def bring_back(self, user):
        box = self.boxes[user]
        self.learn(user)
        back = self.chance.sample(box.deleted, min(len(box.deleted), self.chance.randrange(1, 4)))
        if back and self.held(user, "message", "restore", user, *(str(m.id) for m in back)):
            box.deleted = [m for m in box.deleted if m not in back]
            box.mail += back
        return [m.id for m in back]

    def back_up(self, user):
        self.learn(user)
        box = self.boxes[user]
        self.p.ctl("mailbox", "backup", user, self.p.directory / f"{user}.backup")
        box.backup = list(box.mail), list(box.deleted), set(box.fetched)

    def restore(self, user):
        box = self.boxes[user]
        if not box.backup:
            return "no backup"
        self.learn(user)  # what goes now has had its UIDL
        if self.held(user, "mailbox", "restore", "--yes", user, self.p.directory / f"{user}.backup"):
            box.mail, box.deleted, box.fetched = (kind(kept) for kind, kept in zip(
                (list, list, set), box.backup))

    def export(self, user):
        box = self.boxes[user]
        self.learn(user)
        to = self.p.directory / f"export-{len(self.trail)}"
        self.p.ctl("export", "--crlf", user, to)
        for sub, seen in (("new", False), ("cur", True)):
            assert (sorted(file.read_bytes() for file in (to / sub).iterdir())
                    == sorted(m.octets for m in box.mail if (m in box.fetched) == seen))
        return self.bring_in(user, to) if self.chance.random() < 0.3 else None

    def bring_in(self, user, maildir):
        """An export of another's mail, or of the same one's, comes back: only what is new."""
        to = self.chance.choice(USERS)
        mine, theirs = self.boxes[user], self.boxes[to]
        self.learn(to)
        self.p.ctl("import", to, maildir)
        there = {m.uidl for m in theirs.mail + theirs.deleted}
        for m in mine.mail:
            if m.uidl not in there:
                theirs.mail.append(Mail(m.octets, True, m.uidl))
                if m in mine.fetched:
                    theirs.fetched.add(theirs.mail[-1])
        return f"into {to}"

    def tidy(self, user):
        what = self.chance.choice([("mailbox", "compact", "--all"), ("expire",), ("reload",),
                                   ("mailbox", "check", "--all"), ("mailbox", "upgrade", "--all")])
        self.p.ctl(*what)
        return " ".join(what)

    def look(self, user):
        self.learn(user)

    def shake(self, user):
        """A process of the server's dies, or all of it."""
        what = self.chance.choice(["nursery", "auth", "idle", "server"])
        if what == "server":
            for box in self.boxes.values():
                box.client = None
            self.p.stop(self.chance.choice([signal.SIGTERM, signal.SIGKILL]))
            self.p.start()
            return what
        pids = {"nursery": self.p.nursery, "auth": self.p.auths,
                "idle": lambda: set(self.p.workers()) - set(self.p.serving())}[what]()
        if pids:
            pid = self.chance.choice(sorted(pids))
            kill(pid)  # an idle one may end by itself at any time
            wait_until(lambda: not self.p.proc_status(pid).get("Pid"), "its end")
        return what

    WEIGHTS = {deliver: 10, add: 6, log_in: 6, talk: 30, leave: 14, remove: 4, bring_back: 4,
               back_up: 2, restore: 2, export: 3, tidy: 3, look: 4, shake: 1}

    def step(self):
        what, = self.chance.choices(list(self.WEIGHTS), list(self.WEIGHTS.values()))
        user = self.chance.choice(USERS)
        self.trail.append(f"{what.__name__} {user}")
        self.trail[-1] += f": {what(self, user)}"
        self.steps[what.__name__] = self.steps.get(what.__name__, 0) + 1


def test_walk(server):
    seed = int(os.environ.get("MODEL_SEED", random.randrange(1 << 32) if LONG else 20))
    print(f"MODEL_SEED={seed}")
    p = server(tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8",
               workers_max_per_source="200", delivery_accept="any")
    for user in USERS:
        p.ctl("mailbox", "create", user)
    walk = Walk(p, seed)
    end = time.monotonic() + SECONDS
    try:
        for _ in range(STEPS):
            walk.step()
            if time.monotonic() > end:
                break
        for user in USERS:
            walk.leave(user)
            walk.look(user)
        p.ctl("mailbox", "check", "--all")
    except BaseException:
        print("\n".join(walk.trail[-40:]))
        raise
    print(walk.steps)
