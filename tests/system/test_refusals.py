"""What a user of a real client is told, and does not have to do, when a login is refused: what will
pass is tried again by itself, and no password is asked for anew."""

import subprocess

import pytest

from poplar import log_in

pytestmark = pytest.mark.accounts

PERMIT = "account required pam_permit.so\n"
DOWN = "auth required pam_debug.so auth=authinfo_unavail\n" + PERMIT
DENY = "auth required pam_debug.so auth=auth_err\n" + PERMIT
AUTHFAIL, LOCKBUSY = 3, 9  # of fetchmail(1)


def fetchmail(p, directory):
    """One poll; its status and what it says. With AUTHFAIL a fetchmail that polls would ask no more
    until it is started anew, and write to its user."""
    config = directory / "fetchmailrc"
    config.write_text(f"""
set idfile "{directory}/ids"
set pidfile "{directory}/pid"
poll localhost protocol POP3 port {p.port} timeout 60
  user alice password secret keep sslproto TLS1.2+ sslcertfile "{p.certificate}" sslcertck mda "cat >/dev/null"
""")
    config.chmod(0o600)
    done = subprocess.run(["fetchmail", "--fetchmailrc", config, "--nosyslog"], timeout=60,
                          capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "HOME": str(directory), "LC_ALL": "C",
                               "FETCHMAILHOME": str(directory)})
    return done.returncode, done.stdout + done.stderr


def in_use(p):
    return log_in(p, tls=True)


def throttled(p):
    """The last of these is refused unasked."""
    for i in range(40):
        raw = p.connect(tls=True)
        raw.ask(b"USER bob")
        answer = raw.ask(b"PASS wrong%d" % i)
        raw.close()
        if answer.startswith(b"-ERR [SYS/TEMP]"):
            return None
    raise AssertionError(answer)


def full(p):
    """The only session that may be there is logged in."""
    return log_in(p, "bob", tls=True)


def twice(p):
    log_in(p, tls=True).ask(b"QUIT")


@pytest.mark.parametrize("settings, before, said", [
    ({}, in_use, "locked"),
    ({"stack": DOWN}, None, "checked at the moment"),
    ({"stack": DENY}, throttled, "too many failed logins"),
    ({"workers_max_sessions": "1"}, full, "many connections"),
    ({"session_login_delay": "1h"}, twice, "wait"),
], ids=["in-use", "directory-down", "throttled", "full", "login-delay"])
def test_fetchmail_goes_on(server, tmp_path, settings, before, said):
    p = server(**settings)
    kept = before(p) if before else None
    if before is twice:
        p.wait_log("session ended: .* user=alice reason=quit")
    status, words = fetchmail(p, tmp_path)
    while before is throttled and status == AUTHFAIL:  # a failure was forgotten in between
        throttled(p)
        status, words = fetchmail(p, tmp_path)
    assert status == LOCKBUSY and said in words, (status, words)
    if kept:
        kept.close()


def test_fetchmail_gives_up(server, tmp_path):
    p = server(stack=DENY)
    assert fetchmail(p, tmp_path)[0] == AUTHFAIL


