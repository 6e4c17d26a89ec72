"""What outlives a session: the age of mail, the last login, what was retrieved; and mail with UTF-8
headers, whose sizes must be told before anybody looks at it."""

import email
import email.policy
import json
import os
import poplib
import time

import pytest

from poplar import CORPUS, on_the_wire

DAY = 86400
PLAIN = b"Subject: plain\r\n\r\nbody\r\n"
UTF8 = ("From: René Descartes <rené@exämple.org>\r\n"
        "To: Zoë <zoe@example.org>, plain@example.org\r\n"
        "Subject: Grüße aus 東京, " + "noch mehr Grüße " * 20 + "\r\n"
        "Message-ID: <ü@example.org>\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Disposition: inline; filename=\"résumé.txt\"\r\n"
        "\r\n"
        "größer\r\n.\r\n").encode()


def retrieve(client, number):
    """A message as it arrives, held against LIST's size for it."""
    octets = b"".join(line + b"\r\n" for line in client.retr(number)[1])
    assert int(client.list(number).split()[2]) == len(octets)
    return octets


def check_all(client, wanted=None):
    """Every message has the size that LIST says, and all together that of STAT."""
    count, octets = client.stat()
    messages = [retrieve(client, n) for n in range(1, count + 1)]
    assert sum(map(len, messages)) == octets
    assert wanted is None or messages == wanted
    return messages


def test_surrogates(server, tmp_path):
    """Without UTF8 a new message's header is ASCII and can be read; imported mail never changes."""
    p = server()
    imported = tmp_path / "imported.eml"
    imported.write_bytes(UTF8)
    corpus = (CORPUS / "mail" / "rfc6532__utf8_headers.eml").read_bytes()
    p.add("alice", UTF8)
    p.ctl("import", "alice", imported)
    p.add("alice", PLAIN)
    p.add("alice", corpus)

    client = p.login()
    messages = check_all(client)
    client.quit()
    assert messages[1:3] == [UTF8, PLAIN]
    header, _, body = messages[0].partition(b"\r\n\r\n")
    assert header.isascii() and max(map(len, header.split(b"\r\n"))) <= 76
    assert body == UTF8.partition(b"\r\n\r\n")[2]
    read = email.message_from_bytes(messages[0], policy=email.policy.default)
    assert read["Subject"].startswith("Grüße aus 東京, noch mehr Grüße noch")
    assert read["To"] == "Zoë <zoe@example.org>, plain@example.org"
    assert read["From"].addresses[0].addr_spec == "invalid@internationalized-address.invalid"
    assert read["From"].addresses[0].display_name == "René Descartes (rené@exämple.org)"
    assert read["Message-ID"] is None
    assert read.get_filename() == "résumé.txt"
    assert messages[3].partition(b"\r\n\r\n")[0].isascii()

    client = p.pop3()
    client.utf8()
    client.user("alice")
    client.pass_("secret")
    check_all(client, [UTF8, UTF8, PLAIN, on_the_wire(corpus)])
    client.quit()


def test_surrogates_are_deleted_like_others(server):
    p = server()
    p.add("alice", UTF8)
    p.add("alice", PLAIN)
    client = p.login()
    client.dele(1)
    assert client.stat() == (1, len(PLAIN))
    client.quit()
    client = p.login()
    check_all(client, [PLAIN])
    client.quit()


def test_expire(server, tmp_path):
    """Mail that is too old is gone before the session sees it; CAPA says how old that is."""
    p = server(store_expire_after="30d")
    for age in (40, 10, 31, 29):
        path = tmp_path / f"{age}.eml"
        path.write_bytes(b"Subject: %d days\r\n\r\n" % age)
        os.utime(path, (time.time() - age * DAY,) * 2)
        p.ctl("import", "alice", path)
    p.add("alice", PLAIN)
    assert p.ctl("message", "list", "alice").stdout.count(b"\n") == 7
    client = p.pop3()
    assert client.capa()["EXPIRE"] == ["30"]
    client.user("alice")
    client.pass_("secret")
    messages = check_all(client)
    assert [m.split(b"\r\n")[0] for m in messages] == [b"Subject: 10 days", b"Subject: 29 days",
                                                       b"Subject: plain"]
    client.quit()
    assert b"3 messages" in p.ctl("message", "list", "alice").stdout


def test_expire_of_many(server, tmp_path):
    """Hundreds at one login, all of them before the totals are told."""
    p = server(store_expire_after="1d", store_undelete_for="0")
    old = tmp_path / "mbox"
    old.write_bytes(b"".join(b"From x Thu Jan  1 00:00:%02d 2015\nSubject: %d\n\nx\n\n" % (n % 60, n)
                             for n in range(400)))
    p.ctl("import", "alice", old)
    p.add("alice", PLAIN)
    client = p.login()
    check_all(client, [PLAIN])
    client.quit()


def test_a_quota_of_what_is_deleted(server):
    """Mail that comes, is fetched and deleted, again and again: what is kept of it has an end."""
    p = server(store_quota_octets="300K")
    message = b"Subject: large\r\n\r\n" + b"0123456789\r\n" * 8000
    for n in range(6):
        p.add("alice", message)
        client = p.login()
        client.dele(1)
        client.quit()
        kept = json.loads(p.ctl("--json", "mailbox", "show", "alice").stdout)
        assert kept["messages"] == 0
        assert kept["restorable"] == min(n + 1, 3), kept
    assert kept["restorable_octets"] <= 300 * 1024
    p.ctl("mailbox", "set", "alice", "quota_octets=200K")
    p.ctl("expire")
    kept = json.loads(p.ctl("--json", "mailbox", "show", "alice").stdout)
    assert kept["restorable"] == 2


def test_expire_gives_room_back(server):
    """Where much has gone the file is smaller for it, and not only after a year of small steps."""
    p = server(store_undelete_for="0")
    for n in range(20):
        p.add("alice", b"Subject: large\r\n\r\n" + b"0123456789\r\n" * 160000)
    client = p.login()
    for n in range(19):
        client.dele(n + 1)
    client.quit()
    p.ctl("expire")
    about = json.loads(p.ctl("--json", "mailbox", "show", "alice").stdout)
    assert about["messages"] == 1 and about["restorable"] == 0
    assert about["file_octets"] < 5_000_000, about
    assert (p.maildrop("alice") / "mail.db").stat().st_size < 5_000_000
    check_all(p.login())


def test_login_delay(server):
    """Too soon is refused whatever worker asks, also after a restart; others are not concerned."""
    p = server(session_login_delay="1h")
    for user in ("alice", "bob"):
        p.add(user, PLAIN)
    client = p.pop3()
    assert client.capa()["LOGIN-DELAY"] == ["3600"]
    client.user("alice")
    client.pass_("secret")
    client.quit()
    for restart in (False, True):
        if restart:
            p.stop()
            p.start()
        client = p.pop3()
        client.user("alice")
        with pytest.raises(poplib.error_proto, match=r"-ERR \[LOGIN-DELAY\] "):
            client.pass_("secret")
        p.wait_log(r"reason=login-delay")
    client = p.login("bob")
    assert client.stat()[0] == 1
    client.quit()
    p.write_config(session_login_delay="0")
    p.ctl("reload")
    client = p.login()
    assert "LOGIN-DELAY" not in client.capa()
    client.quit()


def last(client):
    return int(client._shortcmd("LAST").split()[1])


def test_last(server):
    """The highest number retrieved is still known after a restart, if the session ended with QUIT."""
    p = server()
    for _ in range(3):
        p.add("alice", PLAIN)
    client = p.login()
    assert last(client) == 0
    client.retr(2)
    assert last(client) == 2
    client.quit()
    client = p.login()
    client.retr(3)
    assert last(client) == 3
    client.rset()
    assert last(client) == 2
    client.close()
    p.stop()
    p.start()
    client = p.login()
    assert last(client) == 2
    client.dele(1)
    client.quit()
    client = p.login()
    assert last(client) == 1
    client.quit()


def test_languages(server):
    p = server(server_languages="fr, en")
    client = p.connect(greeting=False)
    assert client.line() == b"+OK Poplar at pop.example.test pret\r\n"
    client.send(b"LANG\r\n")
    assert client.line().startswith(b"+OK")
    assert client.multi() == [b"en English\r\n", "fr Français\r\n".encode()]
    assert client.ask(b"LANG en").startswith(b"+OK en ")
    assert client.ask(b"LANG *") == "+OK fr les textes sont en français\r\n".encode()
    assert client.ask(b"QUIT") == b"+OK au revoir\r\n"
