"""Passwords that a Kerberos server checks, by pam_krb5 with poplar-pam(7)'s stack, against a real KDC
and kadmind in a tree in which Poplar runs too."""

import re

import pytest

from logins import DENIED, EXPIRED, UNAVAILABLE, attempt, logged_in
from manual import examples
from trees import PoplarInTree, Tree, needs

pytestmark = [pytest.mark.accounts, needs("directory"),
              pytest.mark.unsanitized("the tree has no sanitizer's library")]

STACK = examples("poplar-pam.7", "OTHER DIRECTORIES")[1]

KRB5 = """
[libdefaults]
default_realm = EXAMPLE.ORG
dns_lookup_kdc = false
dns_lookup_realm = false
rdns = false
[realms]
EXAMPLE.ORG = {
    kdc = 127.0.0.1
    admin_server = 127.0.0.1
}
"""
KDC = """
[realms]
EXAMPLE.ORG = {
    kdc_listen = 127.0.0.1:88
    kdc_tcp_listen = 127.0.0.1:88
    kadmind_listen = 127.0.0.1:749
    kpasswd_listen = 127.0.0.1:464
}
"""


class Realm:
    def __init__(self, directory):
        self.tree = Tree("directory", directory, "/var/lib/krb5kdc")
        self.tree.accounts("alice", "bob")
        self.tree.write("/etc/krb5.conf", KRB5)
        self.tree.write("/etc/krb5kdc/kdc.conf", KDC)
        self.tree.write("/etc/krb5kdc/kadm5.acl", "")
        self.tree.run("kdb5_util", "create", "-s", "-P", "the master's", "-r", "EXAMPLE.ORG")
        self.admin("addprinc -pw alice's alice")
        self.admin("addprinc -randkey host/pop.example.org")
        self.admin("ktadd -k /etc/krb5.keytab host/pop.example.org")
        self.running = []

    def admin(self, query):
        return self.tree.run("kadmin.local", "-r", "EXAMPLE.ORG", "-q", query).stdout.decode()

    def start(self):
        self.running = [self.tree.serve("krb5kdc", "-n", ports=[88]),
                        self.tree.serve("kadmind", "-nofork", ports=[749])]
        return self

    def stop(self):
        for process in self.running:
            process.terminate()
            process.wait(60)
        self.running = []


@pytest.fixture
def realm(tmp_path):
    made = Realm(tmp_path)
    yield made.start()
    print(made.tree.logs())
    made.tree.close()


@pytest.fixture
def served(realm, tmp_path):
    with PoplarInTree(realm.tree, tmp_path / "poplar", STACK,
                      auth_throttle_exempt="127.0.0.1") as p:
        yield p
    print(p.log_text())


def test_passwords(served):
    assert logged_in(attempt(served, "alice", "alice's"))
    assert logged_in(attempt(served, "ALICE@localhost", "alice's"))
    assert attempt(served, "alice", "wrong") == DENIED
    assert attempt(served, "alice", "secret") == DENIED, "that of /etc/shadow"
    assert attempt(served, "bob", "bob's own pass word") == DENIED, "has no principal"


@pytest.mark.parametrize("stack, wanted", [
    (STACK, EXPIRED), (STACK.replace(" defer_pwchange", ""), DENIED),
], ids=["deferred", "at once"])
def test_password_that_must_be_changed(served, realm, stack, wanted):
    """Told, and not changed behind the user's back: to pam_krb5's question for a new password the old
    one is no answer."""
    realm.tree.write("/etc/pam.d/poplar", stack)
    realm.admin("modprinc +needchange alice")

    def changed():
        return re.search("Last password change: (.*)", realm.admin("getprinc alice"))[1]
    before = changed()
    answer = attempt(served, "alice", "alice's")
    assert "REQUIRES_PWCHANGE" in realm.admin("getprinc alice")
    assert changed() == before
    assert answer == wanted
    assert attempt(served, "alice", "wrong") == DENIED


def test_server_is_down(served, realm):
    realm.stop()
    assert attempt(served, "alice", "alice's") == UNAVAILABLE
    realm.start()
    assert logged_in(attempt(served, "alice", "alice's"))
