"""Accounts of a directory by way of a real sssd, from a tree in which Poplar runs too: one maildrop
for each spelling of a name, who may log in, and what clients and mail transports are told while the
directory is down.

Behind sssd stands its proxy provider, over accounts (libnss-extrausers) and passwords (pam_pwdfile)
that nothing else on the system sees, with the spellings of names that its AD and IPA providers have.
The stack is poplar-pam(7)'s."""

import subprocess

import pytest

from logins import ACCOUNT, DENIED, UNAVAILABLE, attempt, deliver, refused
from manual import examples
from poplar import wait_until
from trees import PoplarInTree, Tree, needs

pytestmark = [pytest.mark.accounts, needs("sssd"),
              pytest.mark.unsanitized("the tree has no sanitizer's library")]

SSSD = r"""
[sssd]
services = nss, pam
domains = example.org
{sssd}
[domain/example.org]
id_provider = proxy
proxy_lib_name = extrausers
auth_provider = proxy
proxy_pam_target = directory
access_provider = simple
simple_deny_users = dora
case_sensitive = false
re_expression = (((?P<domain>[^\\]+)\\(?P<name>.+))|((?P<name>[^@]+)@(?P<domain>.+))|(?P<name>[^@\\]+))$
{domain}
"""


class Directory:
    """sssd in its tree, with a Poplar beside it."""

    def __init__(self, directory):
        self.tree = Tree("sssd", directory, "/var/lib/sss", "/var/lib/extrausers")
        hashed = subprocess.run(["openssl", "passwd", "-6", "a directory's"], check=True,
                                capture_output=True, text=True).stdout.strip()
        users = ("alice", "dora")
        self.tree.write("/var/lib/extrausers/passwd", "".join(
            f"{user}:x:{70000 + n}:70000::/home/{user}:/usr/sbin/nologin\n"
            for n, user in enumerate(users)))
        self.tree.write("/var/lib/extrausers/group", "staff:x:70000:\n")
        self.tree.write("/etc/directory", "".join(f"{user}:{hashed}\n" for user in users))
        self.tree.write("/etc/pam.d/directory", "auth required pam_pwdfile.so pwdfile=/etc/directory\n"
                        "account required pam_permit.so\n")
        self.process = None

    def start(self, sssd="", domain=""):
        self.tree.write("/etc/sssd/sssd.conf", SSSD.format(sssd=sssd, domain=domain), mode=0o600)
        self.process = self.tree.serve("sssd", "-i", "--logger=stderr", ports=[])
        name = "alice@example.org"
        wait_until(lambda: self.tree.run("getent", "passwd", name, check=False).returncode == 0,
                   f"sssd knows {name}")

    def stop(self):
        """sssd alone, which ends its children."""
        self.process.terminate()
        self.process.wait(60)
        wait_until(lambda: "/sssd/" not in self.programs(), "the end of sssd's children")

    def programs(self):
        listed = subprocess.run(["ps", "-eo", "args="], check=True, capture_output=True, text=True)
        return listed.stdout


@pytest.fixture
def directory(tmp_path):
    made = Directory(tmp_path)
    yield made
    print(made.tree.logs())
    made.tree.close()


@pytest.fixture
def served(directory, tmp_path):
    """A factory: sssd, and Poplar with a stack of poplar-pam(7)."""
    running = []

    def make(stack=None, sssd="", domain="", **settings):
        directory.start(sssd, domain)
        settings = {"server_local_domains": "example.org",
                    "auth_throttle_exempt": "127.0.0.1"} | settings
        p = PoplarInTree(directory.tree, tmp_path / "poplar",
                         stack or examples("poplar-pam.7", "While the directory is down")[0],
                         **settings)
        running.append(p)
        return p.start()
    yield make
    for p in running:
        p.stop()
        print(p.log_text())


def log_in(p, user, password="a directory's"):
    return attempt(p, user, password, then=b"STAT")


ONE = b"+OK 1 "


def test_each_spelling_is_one_maildrop(served):
    p = served()
    deliver(p, "Alice@Example.ORG")
    for name in ("alice", "Alice", "alice@example.org", "ALICE@EXAMPLE.ORG", r"example.org\alice",
                 r"EXAMPLE.ORG\Alice"):
        assert log_in(p, name).startswith(ONE), name
        assert b"alice" in p.ctl("user", name).stdout
        assert log_in(p, name, "wrong") == DENIED, name
    assert [path.name for path in p.state.glob("mail/??/??/*")] == ["alice"]
    for name in (r"elsewhere\alice", "alice@elsewhere.example"):
        assert log_in(p, name).startswith(b"-ERR "), "sssd may take this for a failure of its own"
    assert log_in(p, "nobody@example.org") == DENIED
    assert refused(p, "nobody@example.org") == 550


def test_qualified_names(served):
    """use_fully_qualified_names: the maildrop has the name with the domain, and a short one is none."""
    p = served(domain="use_fully_qualified_names = true", auth_strip_domain="never")
    deliver(p, "Alice@Example.ORG")
    for name in ("alice@example.org", "ALICE@EXAMPLE.ORG", r"Example.org\Alice"):
        assert log_in(p, name).startswith(ONE), name
    assert [path.name for path in p.state.glob("mail/??/??/*")] == ["alice@example.org"]
    assert log_in(p, "alice") == DENIED
    assert refused(p, "alice") == 550


def test_who_may_log_in(served):
    """sssd's own access control; mail for the user comes in all the same."""
    p = served()
    assert log_in(p, "dora") == ACCOUNT
    assert log_in(p, "dora", "wrong") == DENIED
    deliver(p, "dora@example.org")


def test_local_accounts_too(served):
    p = served()
    p.tree.accounts("bob")
    assert log_in(p, "bob", "bob's own pass word").startswith(b"+OK 0 ")
    assert log_in(p, "bob", "wrong") == DENIED


def test_directory_is_down(served, directory):
    """Whoever is unknown for that reason is told to try later, and mail waits in its queue."""
    p = served()
    p.tree.accounts("bob")
    assert log_in(p, "alice").startswith(b"+OK 0 ")
    directory.stop()
    assert log_in(p, "dora") == UNAVAILABLE
    assert refused(p, "dora@example.org") == 451
    assert log_in(p, "bob", "bob's own pass word").startswith(b"+OK 0 ")
    directory.start()
    assert log_in(p, "alice").startswith(b"+OK 0 ")
    deliver(p, "dora@example.org")


def test_common_stack_hides_that_it_is_down(served, directory):
    """What poplar-pam(7) warns of."""
    p = served(examples("poplar-pam.7", "DESCRIPTION")[0])
    assert log_in(p, "alice").startswith(b"+OK 0 ")
    directory.stop()
    assert log_in(p, "alice") == DENIED


def test_no_process_is_replaced(served):
    """Its client library keeps a connection in each process, which is no reason to replace one."""
    p = served(auth_processes_min="1", auth_processes_max="1")
    before = p.auths()
    for _ in range(5):
        assert log_in(p, "alice").startswith(b"+OK 0 ")
    assert p.auths() == before
    assert "a PAM module changed this process" not in p.log_text()
