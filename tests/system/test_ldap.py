"""Accounts and passwords of a real LDAP server, by way of nslcd, in a tree in which Poplar runs too:
names, who may log in, expiry, and what clients and mail transports are told while one of the two is
down. The stack is poplar-pam(7)'s."""

import pytest

from logins import ACCOUNT, DENIED, EXPIRED, UNAVAILABLE, attempt, deliver, refused
from manual import examples
from trees import PoplarInTree, Tree, needs
from poplar import wait_until

pytestmark = [pytest.mark.accounts, needs("directory"),
              pytest.mark.unsanitized("the tree has no sanitizer's library")]

STACK = examples("poplar-pam.7", "While the directory is down")[0].replace("pam_sss", "pam_ldap")

# The attribute is of a schema that slapd does not bring.
AUTHZ = examples("poplar-pam.7", "OTHER DIRECTORIES")[0].replace("authorizedService", "description")

SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile /run/slapd.pid
database mdb
suffix "dc=example,dc=org"
directory /var/lib/ldap
access to attrs=userPassword by anonymous auth by * none
access to * by * read
"""
NSLCD = """
uid nslcd
gid nslcd
uri ldap://127.0.0.1/
base dc=example,dc=org
bind_timelimit 2
reconnect_retrytime 1
@AUTHZ@
"""
BASE = """\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: example

"""
USER = """\
dn: uid={user},dc=example,dc=org
objectClass: account
objectClass: posixAccount
objectClass: shadowAccount
uid: {user}
cn: {user}
uidNumber: {uid}
gidNumber: 70000
homeDirectory: /home/{user}
userPassword: {user}'s
description: {service}
{more}
"""
USERS = {"alice": ("poplar", ""), "dora": ("sshd", ""),
         "emil": ("poplar", "shadowLastChange: 10000\nshadowMax: 90\n")}


class Directory:
    def __init__(self, directory):
        self.tree = Tree("directory", directory, "/var/lib/ldap")
        self.tree.write("/etc/ldap/slapd.conf", SLAPD)
        self.tree.write("/etc/nslcd.conf", NSLCD.replace("@AUTHZ@", AUTHZ), mode=0o600)
        switch = self.tree.root / "etc/nsswitch.conf"
        switch.write_text(switch.read_text().replace("passwd:         files",
                                                     "passwd:         files ldap"))
        entries = BASE + "".join(
            USER.format(user=user, uid=70000 + n, service=service, more=more)
            for n, (user, (service, more)) in enumerate(USERS.items()))
        for old in (self.tree.root / "var/lib/ldap").iterdir():  # of the package's making
            old.unlink()
        self.tree.run("slapadd", "-f", "/etc/ldap/slapd.conf", input=entries.encode())
        (self.tree.root / "run/nslcd").mkdir(mode=0o755)
        self.tree.run("chown", "nslcd:nslcd", "/run/nslcd")
        self.slapd = self.nslcd = None

    def start_slapd(self):
        self.slapd = self.tree.serve("slapd", "-h", "ldap://127.0.0.1", "-f",
                                     "/etc/ldap/slapd.conf", "-d", "0", ports=[389])

    def start_nslcd(self):
        self.nslcd = self.tree.serve("nslcd", "-n", ports=[])
        self.wait_known()

    def wait_known(self):
        wait_until(lambda: self.tree.run("getent", "passwd", "alice", check=False).returncode == 0,
                   "nslcd knows alice")

    @staticmethod
    def stop(process):
        process.terminate()
        process.wait(60)


@pytest.fixture
def directory(tmp_path):
    made = Directory(tmp_path)
    made.start_slapd()
    made.start_nslcd()
    yield made
    print(made.tree.logs())
    made.tree.close()


@pytest.fixture
def served(directory, tmp_path):
    directory.tree.accounts("bob")
    with PoplarInTree(directory.tree, tmp_path / "poplar", STACK,
                      auth_throttle_exempt="127.0.0.1") as p:
        yield p
    print(p.log_text())


def log_in(p, user, password):
    return attempt(p, user, password, then=b"STAT")


def test_accounts(served):
    deliver(served, "Alice@localhost")
    for name in ("alice", "ALICE", "alice@localhost"):
        assert log_in(served, name, "alice's").startswith(b"+OK 1 ")
        assert log_in(served, name, "wrong") == DENIED
    assert log_in(served, "bob", "bob's own pass word").startswith(b"+OK 0 ")
    assert log_in(served, "*", "alice's") == DENIED
    assert log_in(served, "al*", "alice's") == DENIED
    assert log_in(served, "nobody-here", "alice's") == DENIED
    assert refused(served, "nobody-here") == 550
    assert "a PAM module changed this process" not in served.log_text()


def test_who_may_log_in(served):
    """pam_authz_search by the service's name; mail comes in all the same."""
    assert log_in(served, "dora", "dora's") == ACCOUNT
    assert log_in(served, "dora", "wrong") == DENIED
    deliver(served, "dora")


def test_expiry(served):
    assert log_in(served, "emil", "emil's") == EXPIRED
    assert log_in(served, "emil", "wrong") == DENIED


@pytest.mark.parametrize("down", ["slapd", "nslcd"])
def test_down(served, directory, down):
    """Whoever is unknown for that reason is told to try later, and mail waits in its queue."""
    assert log_in(served, "alice", "alice's").startswith(b"+OK 0 ")
    directory.stop(getattr(directory, down))
    assert log_in(served, "alice", "alice's") == UNAVAILABLE
    assert refused(served, "alice") == 451
    assert log_in(served, "bob", "bob's own pass word").startswith(b"+OK 0 ")
    getattr(directory, f"start_{down}")()
    directory.wait_known()
    assert log_in(served, "alice", "alice's").startswith(b"+OK 0 ")
    deliver(served, "alice")
