"""Every command of poplarctl, and poplar-deliver, with one call failing, each place in turn: an
exit status and a line that says why, mail neither lost nor half there, a maildrop that is sound, and
a second try that works. LONG=1 goes to each place by each way that leads there."""

import contextlib
import errno
import json
import os
import pwd
import shutil
import sqlite3
import subprocess
from collections import Counter

import pytest

import poplar

pytestmark = [
    pytest.mark.skipif(not poplar.ROOT, reason="needs root: poplarctl takes the store user's ids"),
    pytest.mark.unsanitized("a sanitizer stands where the failing calls would"),
]

LONG = os.environ.get("LONG") == "1"
LIBRARY = poplar.BUILD / "tests/failing.so"
PATIENCE = 20 * poplar.PATIENCE

# What a call fails with. SQLite's: an I/O error, a damaged file, a full disk, no memory.
ERRORS = {
    "open": [errno.EMFILE], "read": [errno.EIO], "write": [errno.ENOSPC], "pread": [errno.EIO],
    "pwrite": [errno.ENOSPC], "fsync": [errno.EIO], "fdatasync": [errno.EIO],
    "ftruncate": [errno.EIO], "lseek": [errno.EIO], "fstat": [errno.EIO], "stat": [errno.EIO],
    "lstat": [errno.EIO], "fstatat": [errno.EIO], "fstatfs": [errno.EIO], "access": [errno.EACCES],
    "faccessat": [errno.EACCES], "mkdir": [errno.ENOSPC], "mkdirat": [errno.ENOSPC],
    "rename": [errno.EIO], "renameat": [errno.EIO], "renameat2": [errno.EIO, errno.EINVAL],
    "unlink": [errno.EIO], "unlinkat": [errno.EIO], "rmdir": [errno.EBUSY],
    "truncate": [errno.EIO], "readlinkat": [errno.EIO], "futimens": [errno.EPERM],
    "scandir": [errno.ENOMEM], "fdopendir": [errno.ENOMEM], "readdir": [errno.EIO], "tmpfile": [errno.EMFILE],
    "fflush": [errno.ENOSPC], "mkdtemp": [errno.ENOSPC], "realpath": [errno.EIO],
    "gethostname": [errno.EFAULT], "getpwnam": [errno.EIO], "getpwnam_r": [errno.EIO],
    "localtime_r": [errno.EOVERFLOW], "socket": [errno.EMFILE], "connect": [errno.EACCES, errno.EPERM,
                                                                      errno.ENOMEM],
    "poll": [errno.ENOMEM, errno.EINTR], "sendmsg": [errno.ENOBUFS], "recvmsg": [errno.ENOMEM],
    "dup": [errno.EMFILE], "fdopen": [errno.ENOMEM], "lock": [errno.ENOLCK],
    "malloc": [errno.ENOMEM],
    "sqlite3_open_v2": [sqlite3.SQLITE_NOMEM], "sqlite3_prepare": [sqlite3.SQLITE_CORRUPT],
    "sqlite3_step": [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT],
    "sqlite3_exec": [sqlite3.SQLITE_FULL], "sqlite3_column_type": [3], "sqlite3_value_type": [4],
    "sqlite3_backup_init": [0],
    "sqlite3_backup_step": [sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR],
    "sqlite3_libversion_number": [3006000],
    "EVP_MD_CTX_new": [0], "EVP_DigestInit_ex": [0], "EVP_DigestUpdate": [0],
    "EVP_DigestFinal_ex": [0],
}

# After these the product's own check looks at every maildrop; after the others SQLite's does.
CHANGING = {"pwrite", "fsync", "fdatasync", "ftruncate", "lock", "sqlite3_step", "sqlite3_exec",
            "sqlite3_backup_step", "renameat2"}

MAIL = [
    b"Subject: one\r\nX-UIDL: one\r\n\r\nbody\r\n",
    b"Subject: two\r\n\r\n" + b"0123456789abcdef" * 4 + b"\r\n.\r\n",
    b"Subject: large\r\n\r\n" + b"".join(b"%08d\r\n" % n for n in range(20000)),
    b"Subject: deleted\r\n\r\nbody\r\n",
]


class World:
    """Maildrops that are put back before each try, and what lies around them."""

    def __init__(self, directory):
        self.p = poplar.Poplar(directory, store_expire_after="30d", tls_required="not-on-loopback")
        self.work = directory / "work"
        self.log = directory / "calls"
        self.sources = directory / "sources"
        self.tried = set()
        make_sources(self.sources)
        for message in MAIL:
            self.p.add("alice", message)
        self.p.ctl("mailbox", "create", "bob")
        self.p.ctl("mailbox", "backup", "alice", self.sources / "backup.db")
        self.p.ctl("mailbox", "backup", "--all", self.sources / "backups")
        self.p.ctl("message", "delete", "alice", "4")
        self.p.ctl("import", "alice", self.sources / "old")  # to be expired
        self.kept = {}
        for path in (self.p.state / "mail").rglob("*"):
            about = path.stat()
            self.kept[path] = (None if path.is_dir() else path.read_bytes(), about.st_mode & 0o777)
        self.restore()

    def restore(self):
        shutil.rmtree(self.p.state / "mail")
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        owner = pwd.getpwnam("poplar" if poplar.NAMESPACES else "mail")
        for path, (content, mode) in {self.p.state / "mail": (None, 0o700), **self.kept}.items():
            if content is None:
                path.mkdir()
            else:
                path.write_bytes(content)
            path.chmod(mode)
            os.chown(path, owner.pw_uid, owner.pw_gid)

    def run(self, command, failing=None, log=False, message=None):
        """The command, with `message` as a file on standard input: from a pipe it would be read,
        and written, in more or fewer pieces each time, and the places be others."""
        environment = dict(os.environ, TMPDIR=str(self.work), LANG="C")
        if failing or log:
            self.log.unlink(missing_ok=True)
            environment |= {"LD_PRELOAD": str(LIBRARY), "FAILING_LOG": str(self.log)}
        if failing:
            environment["FAILING"] = failing
        with open(message or os.devnull, "rb") as given:
            try:
                return subprocess.run(command, env=environment, capture_output=True,
                                      timeout=PATIENCE, stdin=given)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"it hangs: {failing}, {self.calls()}") from None

    def calls(self):
        """The calls that were met, in order: name and place."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [tuple(line.partition(" ")[::2]) for line in lines]

    def mail(self):
        """What is in every maildrop, as a multiset: its user; user, kilobytes, deleted or not."""
        found = Counter()
        scratch = self.work.parent / "scratch"
        for path in (self.p.state / "mail").glob("??/??/[!.]*/mail.db"):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            for file in (path, path.with_name("mail.db-wal")):
                if file.exists():
                    shutil.copy(file, scratch)
            user = path.parent.name
            found[user] = 1
            with contextlib.closing(sqlite3.connect(scratch / "mail.db")) as database:
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                found.update((user, *row) for row in database.execute(
                    "SELECT size / 1000, deleted IS NOT NULL FROM message"))
        return found

    def ctl(self, *words):
        return [poplar.BUILD / "poplarctl", "--config", self.p.config, *words]

    def sound(self):
        """The product's own check of every maildrop there is."""
        done = self.run(self.ctl("mailbox", "check", "--all"))
        assert done.returncode == 0, done

    def places(self, command, **options):
        """Each place that a command comes by, with its call and that call's number: those that no
        command before this one came by, or with LONG=1 all."""
        self.run(command, log=True, **options)
        numbers, found = Counter(), []
        for call, place in self.calls():
            numbers[call] += 1
            # Who has no memory ends in one place, wherever that was.
            depth = None if LONG else 1 if call == "malloc" else 3
            key = call, tuple(place.split(",")[:depth])
            if call in ERRORS and key not in self.tried:
                self.tried.add(key)
                found.append((call, numbers[call], place))
        return found

    def walk(self, command, again=None, once=False, without=(), holds=lambda world: None, **options):
        """Fail at each place. `again` is the second try, where that is another command; none of
        one that can be done only `once` and was, though it failed later. `holds` is what must be
        true after either."""
        self.restore()
        before = self.mail()
        done = self.run(command, **options)
        assert done.returncode == 0, done
        after = self.mail()
        self.restore()
        tries, counts = 0, Counter()
        for call, number, place in self.places(command, **options):
            if call in without:
                continue
            for error in ERRORS[call]:
                self.restore()
                tries += 1
                counts[call] += 1
                went = self.fail(command, f"{call}:{number}:{error}", before, after, **options)
                holds(self)
                if went or once and self.mail() == after:
                    continue
                done = self.run(again or command, **options)
                assert done.returncode == 0, (call, number, error, place, done)
                assert self.mail() == after, (call, number, error, place)
                holds(self)
                if LONG or call in CHANGING:
                    self.sound()
        print(f"{tries} tries: {dict(counts)}")

    def fail(self, command, failing, before, after, met=True, **options):
        """One try that fails; or goes through, then that is told."""
        done = self.run(command, failing, **options)
        now = self.mail()
        what = failing, self.calls(), done
        assert self.calls() or not met, what
        if done.returncode == 0:
            assert now == after, what
            if "--json" in command:
                assert is_json(done.stdout), what
            return True
        said = done.stderr.decode().splitlines()
        name = os.path.basename(command[0])
        assert os.EX_USAGE <= done.returncode <= os.EX_CONFIG, what
        # What a check cannot read is damage, and that is its result.
        assert said or "check" in command and done.returncode == os.EX_DATAERR and done.stdout, what
        assert all(line.startswith(f"{name}: ") for line in said), what
        assert not any("defect" in line or "Success" in line for line in said), what
        assert not (before & after) - now and not now - (before | after), (what, now)
        return False


def is_json(octets):
    with contextlib.suppress(ValueError):
        json.loads(octets)
        return True
    return False


def make_sources(directory):
    """Mail to import, as each kind of server leaves it."""
    directory.mkdir()
    (directory / "one.eml").write_bytes(MAIL[0])
    (directory / "large.eml").write_bytes(MAIL[2])
    (directory / "piped").write_bytes(b"From a@example.test Sat Jan  1 00:00:00 2022\n" + MAIL[2])
    box = b"".join(b"From a@example.test Sat Jan  1 00:00:%02d 2022\nX-UIDL: box%d\n" % (n, n)
                   + message.replace(b"\r\n", b"\n") + b"\n" for n, message in enumerate(MAIL))
    (directory / "old").write_bytes(b"From a@example.test Sat Jan  1 00:00:00 2022\n" + MAIL[1])
    (directory / "box").write_bytes(box.replace(b"X-UIDL: box0", b"Content-Length: 5", 1))
    maildir = directory / "maildir"
    for name in ("cur", "new", "tmp"):
        (maildir / name).mkdir(parents=True)
    for n, message in enumerate(MAIL):
        (maildir / ("new" if n == 0 else "cur") / f"164100000{n}.M{n}P1.host").write_bytes(message)
    (maildir / "dovecot-uidlist").write_text("3 V1641000000 N5 G0123456789abcdef\n" + "".join(
        f"{n + 1} :164100000{n}.M{n}P1.host\n" for n in range(4)))
    (directory / "capture").write_text("".join(f"{n} cap{n}\n" for n in range(1, 5)))
    tree = directory / "tree"
    (tree / "example.test/carol").mkdir(parents=True)
    shutil.copytree(maildir, tree / "example.test/carol/Maildir")
    shutil.copy(directory / "box", tree / "dave")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    directory.chmod(0o755)
    return World(directory)


COMMANDS = {
    "add": ["message", "add", "carol"],
    "list": ["message", "list", "alice"],
    "list-json": ["--json", "message", "list", "alice"],
    "list-deleted": ["message", "list", "--deleted", "alice"],
    "show": ["message", "show", "alice", "3"],
    "show-json": ["--json", "message", "show", "alice", "3"],
    "delete": ["message", "delete", "alice", "1", "3"],
    "undelete": ["message", "restore", "alice", "4"],
    "user": ["user", "alice"],
    "user-json": ["--json", "user", "alice"],
    "mailbox-list": ["mailbox", "list"],
    "mailbox-list-json": ["--json", "mailbox", "list"],
    "mailbox-show": ["mailbox", "show", "alice"],
    "mailbox-create": ["mailbox", "create", "dave"],
    "mailbox-set": ["mailbox", "set", "alice", "quota_messages=5", "quota_octets=", "pop3=off"],
    "mailbox-check": ["mailbox", "check", "alice"],
    "mailbox-check-json": ["--json", "mailbox", "check", "--all"],
    "mailbox-compact": ["mailbox", "compact", "alice"],
    "mailbox-upgrade": ["mailbox", "upgrade", "--all"],
    "mailbox-delete": ["mailbox", "delete", "--yes", "alice"],
    "mailbox-restore": ["mailbox", "restore", "--yes", "alice", "@sources/backup.db"],
    "mailbox-restore-all": ["mailbox", "restore", "--yes", "--all", "@sources/backups"],
    "expire": ["expire"],
    "expire-json": ["--json", "expire", "alice"],
    "import-eml": ["import", "carol", "@sources/one.eml"],
    "import-mbox": ["import", "alice", "@sources/box"],
    "import-maildir": ["import", "alice", "@sources/maildir"],
    "import-gone": ["import", "--delete-gone", "alice", "@sources/maildir"],
    "import-capture": ["import", "--uidl-list", "@sources/capture", "alice", "@sources/maildir"],
    "import-all": ["--json", "import", "--all", "@sources/tree"],
    "import-dry": ["import", "--dry-run", "alice", "@sources/maildir"],
}

# Done twice, they say or do something else.
ONCE = {"add", "delete", "undelete", "mailbox-delete"}


def words_of(world, words):
    return world.ctl(*(str(world.sources / w.removeprefix("@sources/"))
                       if w.startswith("@sources/") else w for w in words))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_call_fails(world, name):
    world.walk(words_of(world, COMMANDS[name]), once=name in ONCE,
               message=world.sources / "large.eml" if name == "add" else None)


@pytest.mark.parametrize("name", ["mailbox-list", "mailbox-delete", "import-mbox", "import-maildir",
                                  "import-all", "user"])
def test_what_may_not_be_opened(world, name):
    """Each file and directory in turn; not more than one line is needed to say so."""
    command = words_of(world, COMMANDS[name])
    world.restore()
    before = world.mail()
    assert world.run(command).returncode == 0
    after = world.mail()
    for number in range(1, 200):
        world.restore()
        world.fail(command, f"open:{number}:{errno.EACCES}", before, after, met=False)
        if not world.calls():
            break
        world.sound()
    assert number > 3


def test_what_cannot_be_looked_at(world):
    """It is not taken for what is not there."""
    command = words_of(world, COMMANDS["import-dry"])
    world.restore()
    done = world.run(command, f"lstat:1:{errno.EIO}")
    assert [call for call, _ in world.calls()] == ["lstat"]
    assert b" 1 there already" in done.stdout


def test_export_to_a_maildir(world):
    """What is in cur/ and new/ is whole."""
    def holds(w):
        for path in w.work.glob("m*/[cn]*/*"):
            assert path.read_bytes().replace(b"\n", b"\r\n") in MAIL, path
    world.walk(world.ctl("export", "alice", world.work / "m1"),
               world.ctl("export", "alice", world.work / "m2"), holds=holds)


def test_export_to_an_mbox(world):
    """Whole under its name, or not there."""
    def holds(w):
        for path in w.work.glob("box"):
            assert path.read_bytes().count(b"\nFrom ") == 3
    command = world.ctl("export", "--format=mbox", "alice", world.work / "box")
    world.walk(command, ["sh", "-c", f'[ -e {world.work}/box ] || exec "$@"', "sh", *command],
               holds=holds)


@pytest.mark.parametrize("words", [["alice", "@work/one.db"], ["--all", "@work/all"]])
def test_backup(world, words):
    """Whole under its name, or not there."""
    def holds(w):
        for path in w.work.rglob("*.db"):
            with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
    words = [w.replace("@work", str(world.work)) for w in words]
    world.walk(world.ctl("mailbox", "backup", *words), holds=holds)


def test_salvage(world):
    def holds(w):
        for path in w.work.glob("s*/[cn]*/*"):
            assert path.read_bytes().replace(b"\n", b"\r\n") in MAIL, path
    world.walk(world.ctl("mailbox", "salvage", "alice", world.work / "s1"),
               world.ctl("mailbox", "salvage", "alice", world.work / "s2"), holds=holds)


@pytest.fixture(scope="module")
def served(world):
    with world.p:
        yield world


ASKING = {
    "status": ["status"],
    "status-json": ["--json", "status"],
    "sessions": ["sessions"],
    "sessions-json": ["--json", "sessions"],
    "metrics": ["metrics"],
    "metrics-json": ["--json", "metrics"],
    "debug": ["debug", "alice", "on"],
    "debug-off": ["debug", "alice", "off"],
    "reload": ["reload"],
    "kick": ["kick", "alice"],
}


@pytest.mark.parametrize("name", ASKING)
def test_a_call_fails_beside_a_server(served, name):
    served.walk(words_of(served, ASKING[name]))


def test_poplar_deliver(served):
    """A stream that fails to empty itself is not among them: it would be full of what the server
    waits for."""
    served.walk([poplar.BUILD / "poplar-deliver", "--config", served.p.config, "alice"], once=True,
                without=("fflush",), message=served.sources / "piped")
