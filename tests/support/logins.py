"""Logins of which the answer is wanted, what it may be, and mail by LMTP: the same whatever it is that
checks passwords and knows accounts."""

import itertools
import smtplib

import pytest

from poplar import wait_until

DENIED = b"-ERR [AUTH] user name or password is wrong\r\n"
EXPIRED = b"-ERR [AUTH] the password has expired and must be changed first\r\n"
ACCOUNT = b"-ERR [AUTH] this account may not log in now\r\n"
UNAVAILABLE = b"-ERR [SYS/TEMP] logins cannot be checked at the moment, wait and try again\r\n"
UNUSABLE = b"-ERR [SYS/TEMP] the maildrop cannot be used at the moment, wait and try again\r\n"
MISCONFIGURED = b"-ERR [SYS/PERM] logins are not set up on this server\r\n"


def octets(text):
    return text if isinstance(text, bytes) else text.encode()


def logged_in(answer):
    return answer.startswith(b"+OK")


def ask(raw, user, password):
    """USER, and PASS if it got that far: the last answer."""
    answer = raw.ask(b"USER " + octets(user))
    if logged_in(answer):
        answer = raw.ask(b"PASS " + octets(password))
    return answer


def attempt_over(raw, user, password, then=None):
    """One login on a connection that was greeted: the answer, or that to `then` where it worked. The
    session is over afterwards."""
    answer = ask(raw, user, password)
    if then and logged_in(answer):
        answer = raw.ask(then)
    raw.send(b"QUIT\r\n")
    raw.rest()
    raw.close()
    return answer


def attempt(p, user="alice", password="secret", then=None, tls=True, source=None):
    """The same on a connection of its own, from any address of loopback."""
    return attempt_over(p.connect(tls, source=source), user, password, then)


GUESSES = itertools.count()


def is_throttled(answer):
    return answer.startswith(b"-ERR [SYS/TEMP] ") and b"failed" in answer


def while_throttled(guess, look):
    """What is seen that is there while a source is throttled: guess(secret) fails as often as it takes,
    and look() gives something true then. One failure is forgotten in a quarter of a minute, which may
    be over in between: then it is done again."""
    def once():
        tries = 0
        while not is_throttled(guess(b"guess %d" % next(GUESSES))):
            tries += 1
            assert tries < 200, "never throttled"
        return look()
    return wait_until(once, "what a throttled source sees")


def deliver(p, *recipients):
    with smtplib.LMTP(str(p.lmtp)) as client:
        client.sendmail("", recipients, b"Subject: one\r\n\r\nbody\r\n")


def refused(p, recipient):
    """With which code, one that must be."""
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refusal:
        deliver(p, recipient)
    return refusal.value.recipients[recipient][0]
