"""The mail that every server gets the same of: made once, kept, copied into place before runs.

Kinds of maildrops, by the first letter of their users' names. Each store's golden copy is one
maildrop of a kind; live ones are copies of it."""

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

# messages and sizes in octets, smallest and largest; users
KINDS = {
    "u": (3, 2000, 6000, 1000),
    "p": (1000, 1000, 4000, 8),
    "d": (200, 2000, 600000, 2),
    "x": (100, 2000, 30000, 16),
    "j": (1000, 400, 800, 1),
    "k": (10000, 400, 800, 1),
    "h": (100000, 400, 800, 1),
    "l": (0, 0, 0, 16),
}

LARGE = {"k", "h"}  # not copied by whoever keeps a file a message: that takes minutes

VERSION = "2"  # of what is made here


def lines(rng, size):
    """Text in lines of mail's usual length; some begin with a dot."""
    made, total = [], 0
    while total < size:
        length = rng.randrange(40, 76)
        line = b"".join(rng.choice(WORDS) for _ in range(length // 8 + 1))[:length].rstrip()
        if rng.random() < 0.01:
            line = b"." + line
        made.append(line or b".")
        total += len(made[-1]) + 2
    return made


WORDS = [bytes(w, "ascii") + b" " for w in (
    "the", "poplar", "leaves", "tremble", "where", "letters", "wait", "and", "someone", "reads",
    "them", "slowly", "VGhpcyBpcyBiYXNlNjQ", "0123456789abcdef")]


def messages(kind):
    """The messages of a kind with LF line ends, the same at every run."""
    count, least, most, _ = KINDS[kind]
    rng = random.Random(f"poplar {VERSION} {kind}")
    block = b"\n".join(lines(rng, 1 << 20)) + b"\n"
    for n in range(count):
        size = int(least * (most / least) ** rng.random()) if most else 0
        head = (f"Return-Path: <bench@bench.example>\nReceived: from mail by bench.example; "
                f"Thu, 1 Jan 2026 00:00:00 +0000\nMessage-ID: <{kind}{n}@bench.example>\n"
                f"From: Bench <bench@bench.example>\nTo: {kind}@bench.example\n"
                f"Subject: letter {n} of {count}\nDate: Thu, 1 Jan 2026 00:00:00 +0000\n"
                "MIME-Version: 1.0\nContent-Type: text/plain\n\n").encode()
        start = block.index(b"\n", rng.randrange(len(block) // 3)) + 1
        end = block.index(b"\n", start + max(size - len(head), 40)) + 1
        yield head + block[start:end]


def on_the_wire(message):
    """Octets of a message as a client gets them: CRLF, stuffed."""
    return len(message) + message.count(b"\n") + message.count(b"\n.")


def wire_octets(kind):
    return sum(on_the_wire(m) for m in messages(kind))


def digest(kind):
    """Of all texts of a drain, with the lines that end them."""
    whole = hashlib.sha256()
    for m in messages(kind):
        whole.update(m.replace(b"\n.", b"\n..").replace(b"\n", b"\r\n") + b".\r\n")
    return whole.hexdigest()


def user(kind, n):
    return f"{kind}{n:04}"


def make_maildir(kind, to):
    for part in ("cur", "new", "tmp"):
        (to / part).mkdir(parents=True)
    for n, m in enumerate(messages(kind)):
        size, virtual = len(m), len(m) + m.count(b"\n")
        name = f"{1767225600 + n}.M{n}P1.bench,S={size},W={virtual}:2,"
        (to / "cur" / name).write_bytes(m)


def make_mbox(kind, to):
    with open(to, "wb") as out:
        for m in messages(kind):
            out.write(b"From bench@bench.example Thu Jan  1 00:00:00 2026\n" + m + b"\n")
    to.chmod(0o600)


def copy(golden, to, owner):
    """Put a maildrop in place, as if nobody had used it yet."""
    if to.is_dir():
        shutil.rmtree(to)
    elif to.exists():
        to.unlink()
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", golden, to], check=True)
    if owner:
        subprocess.run(["chown", "-R", owner, to], check=True)


class Golden:
    """Golden copies under one directory, by store and kind."""

    def __init__(self, directory):
        self.directory = Path(directory)

    def get(self, store, kind, make, stamp=""):
        """The path of one; make(kind, path) makes it, unless it is there with the same stamp."""
        path = self.directory / store / kind
        mark = self.directory / store / f"{kind}.made"
        text = f"{VERSION} {KINDS[kind]} {stamp}"
        if not (mark.exists() and mark.read_text() == text):
            print(f"making mail: {store} {kind}", flush=True)
            mark.unlink(missing_ok=True)
            if path.is_dir():
                shutil.rmtree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            make(kind, path)
            os.sync()
            mark.write_text(text)
        return path
