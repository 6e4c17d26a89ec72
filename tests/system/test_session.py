"""A session against input that no client library would send: framing, numbers, states, logins.
The numbers in the names are those of the list of abuse cases (test_abuse_list.py)."""

import contextlib
import fcntl
import itertools
import os
import re
import socket
import ssl
import struct
import subprocess
import time
from pathlib import Path

import pytest

import poplar
from poplar import log_in, wait_until

MESSAGES = [b"Subject: %d\r\n\r\nbody %d\r\n" % (n, n) for n in (1, 2, 3)]

DOORS = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for the module: every password is right, logins in the clear are allowed from
    loopback. Alice has three messages, which nobody here deletes."""
    directory = tmp_path_factory.mktemp("session")
    directory.chmod(0o755)
    with poplar.Poplar(directory, tls_required="not-on-loopback", workers_max_per_source="200",
                       auth_throttle_exempt="127.0.0.0/8") as p:
        for message in MESSAGES:
            p.add("alice", message)
        yield p
    print(p.log_text())


@pytest.fixture(scope="module")
def accounts(tmp_path_factory):
    """The same with pam_unix and real accounts."""
    directory = tmp_path_factory.mktemp("accounts")
    directory.chmod(0o755)
    with poplar.Poplar(directory, pam_unix=True, auth_throttle_exempt="127.0.0.0/8") as p:
        yield p
    print(p.log_text())


def in_one_write(raw, octets):
    raw.send(octets)


def octet_by_octet(raw, octets):
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for octet in octets:
        raw.send(bytes([octet]))


def line_by_line(raw, octets):
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for line in octets.splitlines(True):
        raw.send(line)


MANNERS = pytest.mark.parametrize("send", [in_one_write, octet_by_octet, line_by_line])


def converse(p, tls, octets, send=in_one_write):
    """Say all this; the answers until the server closes, without the greeting."""
    raw = p.connect(tls)
    with contextlib.suppress(OSError):  # it may close before it has heard all
        send(raw, octets)
    answers = raw.rest()
    raw.close()
    return answers.split(b"\r\n")[:-1]


def signs(answers):
    """+ and - for each answer that is no line of a list."""
    return "".join(line.decode("latin-1")[0] for line in answers
                   if line.startswith((b"+OK", b"-ERR")))


def close(raw):
    raw.ask(b"QUIT")
    raw.close()


LOGIN = b"USER alice\r\nPASS secret\r\n"


# Framing.

@DOORS
@MANNERS
def test_1_longest_lines(shared, tls, send):
    """255 octets with the line end, 512 for USER and PASS, are processed; one more is not."""
    capa = [b"CAPA" + b" " * (n - 6) + b"\r\n" for n in (255, 256)]
    user = [b"USER bob" + b" " * (n - 10) + b"\r\n" for n in (512, 513)]
    password = [b"PASS " + b"p" * n + b"\r\n" for n in (500, 501)]
    assert signs(converse(shared, tls, capa[0] + b"QUIT\r\n", send)) == "++"
    assert signs(converse(shared, tls, capa[1] + b"QUIT\r\n", send)) == "-+"
    assert signs(converse(shared, tls, user[0] + b"QUIT\r\n", send)) == "++"
    assert signs(converse(shared, tls, user[1] + b"QUIT\r\n", send)) == "-+"
    assert signs(converse(shared, tls, b"USER bob\r\n" + password[0] + b"QUIT\r\n", send)) == "+++"
    assert signs(converse(shared, tls, b"USER bob\r\n" + password[1] + b"QUIT\r\n", send)) == "+-+"


@DOORS
@pytest.mark.parametrize("size, send", [
    *[(size, octet_by_octet) for size in (256, 300, 511, 512, 513)],
    *[(size, in_one_write) for size in (256, 511, 512, 513, 4095, 4096, 4097, 8192, 60000)]])
@pytest.mark.parametrize("tail", [b"QUIT", b"\rQUIT", b" DELE 1", b"\0QUIT"])
def test_1_tail_is_no_command(shared, tls, send, size, tail):
    line = b"x" * (size - len(tail)) + tail + b"\r\n"
    answers = converse(shared, tls, line + b"CAPA\r\nQUIT\r\n", send)
    assert signs(answers) == "-++"


@DOORS
def test_1_line_too_long_after_login(shared, tls):
    raw = log_in(shared, tls=tls)
    raw.send(b"NOOP" + b" " * 250 + b"\r\nNOOP " + b"y" * 300 + b"DELE 1\r\nSTAT\r\nQUIT\r\n")
    answers = raw.rest().split(b"\r\n")
    assert [a[:4] for a in answers] == [b"-ERR", b"-ERR", b"+OK ", b"+OK ", b""]
    assert answers[2].startswith(b"+OK 3 ")


@DOORS
@pytest.mark.memory
def test_2_no_line_end(shared, tls):
    """10 MB without a line end: closed long before, and not kept in memory."""
    raw = shared.connect(tls)
    pid, = wait_until(shared.serving, "the worker")

    def anonymous():
        return int(shared.proc_status(pid)["RssAnon"].split()[0]) * 1024

    assert raw.ask(b"x" * 1000).startswith(b"-ERR")  # now its buffers are in use
    before = anonymous()
    raw.send(b"x" * 60000)
    raw.send(b"\r\n")
    assert raw.line().startswith(b"-ERR")
    assert anonymous() - before < 65536
    sent = 0
    with pytest.raises(OSError):
        while sent < 10_000_000:
            raw.send(b"x" * 10000)
            sent += 10000
    shared.wait_log("reason=line-too-long")
    raw.close()


@pytest.mark.parametrize("tls", [False, True, None], ids=["clear", "tls", "handshake"])
def test_3_62_one_octet_at_a_time(server, tls):
    """An octet now and then keeps nobody from the deadline, in a handshake neither."""
    p = server(session_login_timeout="5s")
    if tls is None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = p.tls_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        octets = outgoing.read()
        raw = p.connect(tls=False, greeting=False)
        raw.close()
        raw = poplar.Raw(socket.create_connection(("127.0.0.1", p.tls_port), 20))
    else:
        octets = b"x" * 200
        raw = p.connect(tls)
    assert len(octets) >= 200
    raw.sock.settimeout(0.1)
    answer = None
    for octet in octets:
        with contextlib.suppress(TimeoutError, ssl.SSLError):
            raw.sock.sendall(bytes([octet]))
            answer = raw.sock.recv(1000)
            break
    assert answer is not None, "still open after 20 seconds"
    if tls is not None:
        assert answer.startswith(b"-ERR")
    p.wait_log("reason=login-timeout")
    raw.close()


@DOORS
def test_3_commands_without_a_login(server, tls):
    """Nor does a client that talks all the time, and never logs in."""
    p = server(session_login_timeout="5s")
    raw = p.connect(tls)
    said = 0
    with contextlib.suppress(OSError):
        while raw.ask(b"CAPA").startswith(b"+OK"):
            raw.multi()
            said += 1
            time.sleep(0.05)
            assert said < 400, "still open after 20 seconds"
    assert said > 5
    p.wait_log("reason=login-timeout")
    raw.close()


@DOORS
@MANNERS
@pytest.mark.parametrize("line", [b"CA\0PA", b"\0CAPA", b"CAPA\0", b"USER alice\0x", b"USER \0",
                                  b"PASS sec\0ret", b"PASS secret\0", b"CA\tPA", b"CAPA\r",
                                  b"USER a\rb", b"\x7f", b"USER \xff\xfe", b"USER \xc0\xaf",
                                  b"USER \xed\xa0\x80", b"USER \xf4\x90\x80\x80", b"\xff\xff"])
def test_4_5_6_14_octets_that_are_no_text(shared, tls, send, line):
    """NUL, control characters, malformed UTF-8: -ERR, and PAM, that would say yes, is not asked."""
    answers = converse(shared, tls, b"USER bob\r\n" + line + b"\r\nQUIT\r\n", send)
    assert signs(answers) == "+-+"


@DOORS
@pytest.mark.parametrize("line", [b"ST\0AT", b"RETR 1\0", b"RETR \x001", b"DELE 1\t", b"TOP 1\t0",
                                  b"LIST \xff", b"UIDL \xc0\xb1", b"RETR 1\r"])
def test_4_14_the_same_after_login(shared, tls, line):
    raw = log_in(shared, tls=tls)
    assert raw.ask(line).startswith(b"-ERR")
    assert raw.ask(b"STAT").startswith(b"+OK 3 ")
    close(raw)


@DOORS
@MANNERS
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_7_bare_line_feeds(shared, tls, send, end):
    """Each ends a line, the same before and after TLS; mixed as well."""
    commands = [b"USER alice", b"PASS secret", b"NOOP", b"DELE 1", b"RSET", b"STAT", b"QUIT"]
    close(log_in(shared, tls=tls))
    octets = b"".join(c + (end if n % 2 else b"\n") for n, c in enumerate(commands))
    answers = converse(shared, tls, octets, send)
    assert signs(answers) == "+++++++"


def test_7_empty_lines(shared):
    """An empty line is a command that does not exist: one -ERR."""
    assert signs(converse(shared, True, b"\r\n\nQUIT\r\n")) == "--+"


NO_NUMBERS = [b"0", b"00", b"-0", b"-1", b"+1", b"1abc", b"abc", b"1.0", b"1,", b"0x1", b"1e0",
              b"4294967297", b"4294967298", b"18446744073709551617", b"18446744073709551616",
              b"18446744073709551615", b"9223372036854775808", b"340282366920938463463374607431768"
              b"211457", b"9" * 200, b"0" * 200, "\uff11".encode(), "\u0661".encode(), b"'1'",
              b"4", b"%31", b"*", b"1-2", b"1:3"]


@DOORS
@pytest.mark.parametrize("command", ["RETR %b", "DELE %b", "LIST %b", "UIDL %b", "TOP %b 0"])
def test_9_10_numbers(shared, tls, command):
    """What is not exactly the number of a message is never taken for another's."""
    for word in NO_NUMBERS:
        raw = log_in(shared, "alice", tls)
        assert raw.ask(command.encode() % word).startswith(b"-ERR"), word
        assert raw.ask(b"STAT").startswith(b"+OK 3 "), word
        raw.send(b"QUIT\r\n")
        assert raw.rest().startswith(b"+OK")
        raw.close()


def test_9_leading_zeros(shared):
    """A number all the same."""
    raw = log_in(shared, tls=True)
    assert raw.ask(b"LIST 01") == raw.ask(b"LIST 1")
    assert raw.ask(b"LIST " + b"0" * 200 + b"2").startswith(b"+OK 2 ")
    close(raw)


@DOORS
def test_12_top(shared, tls):
    raw = log_in(shared, tls=tls)
    for line in (b"TOP 1", b"TOP", b"TOP 1 -1", b"TOP 1 +1", b"TOP 1 x", b"TOP 1 1 1", b"TOP 1 1x"):
        assert raw.ask(line).startswith(b"-ERR"), line
    for count in (b"1000000000000000000000000000000", b"18446744073709551616", b"4294967296"):
        assert raw.ask(b"TOP 1 " + count).startswith(b"+OK")
        assert b"".join(raw.multi()) == MESSAGES[0]
    assert raw.ask(b"TOP 1 0").startswith(b"+OK")
    assert b"".join(raw.multi()) == b"Subject: 1\r\n\r\n"
    close(raw)


@DOORS
def test_13_arguments(shared, tls):
    """Too many and too few: -ERR; trailing blanks are none."""
    raw = log_in(shared, tls=tls)
    for line in (b"STAT x", b"DELE 1 2", b"QUIT x", b"RSET 1", b"NOOP 1", b"LIST 1 2", b"UIDL 1 2",
                 b"RETR 1 2", b"RETR", b"DELE", b"CAPA x"):
        assert raw.ask(line).startswith(b"-ERR"), line
    for line in (b"STAT ", b"LIST 1  ", b"  STAT"[2:], b"uidl 1", b"Noop  "):
        assert raw.ask(line).startswith(b"+OK"), line
    close(raw)
    raw = shared.connect(tls)
    for line in (b"USER", b"QUIT x"):
        assert raw.ask(line).startswith(b"-ERR"), line
    raw.close()


@DOORS
@MANNERS
def test_16_bad_commands(shared, tls, send):
    """Three before login, twenty after, then the end; what follows is not obeyed."""
    answers = converse(shared, tls, b"WHAT\r\n" * 10 + LOGIN, send)
    assert signs(answers) == "---"
    close(log_in(shared, tls=tls))
    # Who closes with octets unread resets the connection, and answers still on their way are lost
    # with it: more than fit a first window, where each travels alone. So nothing follows there.
    more = 10 if send is in_one_write else 0
    answers = converse(shared, tls, LOGIN + b"WHAT\r\n" * (20 + more), send)
    assert signs(answers) == "++" + "-" * 20
    close(log_in(shared, tls=tls))


@DOORS
@MANNERS
@pytest.mark.parametrize("first", [b"GET / HTTP/1.1", b"POST / HTTP/1.0", b"CONNECT h:25 HTTP/1.1",
                                   b"get / http/1.1", b"PRI * HTTP/2.0", b"OPTIONS * HTTP/1.1"])
def test_17_http(shared, tls, send, first):
    """Closed at once, without a word; nothing in the request is taken for a command."""
    assert converse(shared, tls, first + b"\r\nHost: x\r\n\r\n" + LOGIN, send) == []


def test_18_tls_on_the_clear_port(shared):
    """One -ERR, and nothing of the hello comes back."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = shared.tls_context().wrap_bio(incoming, outgoing, server_hostname="QUIT.example.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    raw = shared.connect(tls=False)
    raw.send(hello)
    answer = raw.rest()
    assert answer.startswith(b"-ERR") and answer.count(b"\r\n") == 1
    assert b"QUIT" not in answer and not re.search(rb"[^\x20-\x7e\r\n]", answer)


def test_19_clear_on_the_tls_port(shared):
    """No greeting, no answer to a command."""
    for octets in (b"CAPA\r\n", b"QUIT\r\n", LOGIN, b"\r\n" * 100):
        raw = poplar.Raw(socket.create_connection(("127.0.0.1", shared.tls_port), 20))
        raw.send(octets)
        answer = raw.rest()
        assert b"+OK" not in answer and b"-ERR" not in answer
        raw.close()


def test_19_nothing_on_the_tls_port(server):
    p = server(session_login_timeout="1s")
    raw = poplar.Raw(socket.create_connection(("127.0.0.1", p.tls_port), 20))
    assert raw.rest() == b""
    raw.close()


@DOORS
@pytest.mark.parametrize("line", [b"AUTH " + b"A" * 10000, b"APOP " + b"a" * 300,
                                  b"APOP alice 0123456789abcdef0123456789abcdef",
                                  b"XTND " + b"x" * 60, b"XTND SCAN"], ids=lambda v: str(len(v)))
def test_21_commands_of_others(shared, tls, line):
    for send in (in_one_write, line_by_line, octet_by_octet)[: 2 if len(line) > 1000 else 3]:
        assert signs(converse(shared, tls, line + b"\r\nQUIT\r\n", send)) == "-+"


def unsent(port):
    """Octets that the kernel holds of what the one session of a port was to be sent."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    queues, = [fields[4] for fields in sockets
               if fields[1].endswith(f":{port:04X}") and fields[3] == "01"]
    return int(queues.split(":")[0], 16)


@DOORS
@pytest.mark.memory
def test_22_a_client_that_never_reads(server, tls):
    """Pipelined commands without end, no answer read: the worker's memory stays as it is, the
    kernel's is little, so that its owner sees what a slow client takes, and the write has a
    deadline."""
    p = server(session_idle_timeout="5s", tls_required="not-on-loopback")
    raw = p.connect(tls, room=4096)
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS secret").startswith(b"+OK")
    pid, = p.serving()
    assert raw.ask(b"NOOP").startswith(b"+OK")
    before = int(p.proc_status(pid)["RssAnon"].split()[0])
    raw.sock.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 500_000_000:
            raw.sock.sendall(b"NOOP\r\n" * 10_000)
            sent += 60_000
    assert int(p.proc_status(pid)["RssAnon"].split()[0]) - before < 256
    assert 0 < unsent(p.tls_port if tls else p.port) < 1 << 18
    p.wait_log("reason=write-timeout")
    raw.close()


def test_pipelining_everything(shared):
    """A whole session in one write, its answers in order."""
    close(log_in(shared, tls=True))
    octets = (b"CAPA\r\n" + LOGIN + b"STAT\r\nLIST\r\nUIDL\r\nRETR 1\r\nTOP 2 0\r\nDELE 3\r\n"
              b"LIST 3\r\nRSET\r\nNOOP\r\nQUIT\r\n")
    for tls, send in itertools.product((False, True), (in_one_write, octet_by_octet)):
        assert signs(converse(shared, tls, octets, send)) == "+" * 9 + "-+++"
        close(log_in(shared, tls=True))


# Every command in every state.

STATES = {
    # command: before login (clear, TLS required; clear; TLS), after USER, after login
    b"CAPA": "+++++", b"STLS": "++-.-", b"USER bob": "-+++-", b"PASS secret": "---+-",
    b"PASS": "-----", b"QUIT": "+++++", b"STAT": "----+", b"LIST": "----+", b"LIST 1": "----+",
    b"UIDL": "----+", b"UIDL 1": "----+", b"RETR 1": "----+", b"TOP 1 0": "----+",
    b"DELE 1": "----+", b"RSET": "----+", b"NOOP": "----+", b"APOP a b": "-----",
    b"XTND": "-----", b"": "-----", b"HELO": "-----", b"LOGIN alice secret": "-----",
}


@pytest.mark.parametrize("state", range(5),
                         ids=["clear-tls-required", "clear", "tls", "user", "mail"])
def test_every_command_in_every_state(shared, server, state):
    p = server() if state == 0 else shared
    for command, expected in STATES.items():
        if expected[state] == ".":
            continue
        if state == 4:
            raw = log_in(p, tls=True)
        else:
            raw = p.connect(tls=state >= 2)
        if state == 3:
            assert raw.ask(b"USER bob").startswith(b"+OK")
        answer = raw.ask(command)
        assert answer[:1].decode() == expected[state], (command, answer)
        raw.close()
    wait_until(lambda: not p.serving(), "the sessions end")


def capabilities(raw):
    assert raw.ask(b"CAPA").startswith(b"+OK")
    return {line.split()[0].decode() for line in raw.multi()}


ALWAYS = {"TOP", "UIDL", "RESP-CODES", "PIPELINING", "EXPIRE", "IMPLEMENTATION"}


def test_56_capabilities_are_true(shared, server):
    """USER is refused, and not announced, in the clear where TLS is required; STLS is announced
    until TLS is there."""
    p = server()
    raw = p.connect(tls=False)
    found = capabilities(raw)
    assert ALWAYS | {"STLS"} <= found and not {"USER", "SASL"} & found
    answer = raw.ask(b"USER alice")
    assert answer.startswith(b"-ERR") and b"TLS" in answer
    assert raw.ask(b"PASS secret").startswith(b"-ERR")
    assert raw.ask(b"STLS").startswith(b"+OK")
    raw.start_tls(p.tls_context())
    found = capabilities(raw)
    assert ALWAYS | {"USER"} <= found and "STLS" not in found
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS secret").startswith(b"+OK")
    found = capabilities(raw)
    assert ALWAYS | {"USER"} <= found and "STLS" not in found
    close(raw)
    raw = shared.connect(tls=False)
    assert {"USER", "STLS"} <= capabilities(raw)
    raw.close()


@pytest.mark.skipif(not poplar.NAMESPACES, reason="needs a network namespace for an address")
def test_56_not_on_loopback(server):
    """From elsewhere than loopback, required=not-on-loopback wants TLS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        address = struct.pack("16sHH4s8s", b"lo:1", socket.AF_INET, 0,
                              socket.inet_aton("192.0.2.1"), b"")
        fcntl.ioctl(s, 0x8916, address)  # SIOCSIFADDR
    port = poplar.free_port()
    server(tls_required="not-on-loopback", listen_pop3=f"192.0.2.1:{port}")
    raw = poplar.Raw(socket.create_connection(("192.0.2.1", port), 20, ("192.0.2.1", 0)))
    assert raw.line().startswith(b"+OK")
    assert "USER" not in capabilities(raw)
    assert raw.ask(b"USER alice").startswith(b"-ERR")
    raw.close()
    raw = poplar.Raw(socket.create_connection(("192.0.2.1", port), 20, ("127.0.0.1", 0)))
    assert raw.line().startswith(b"+OK")
    assert "USER" in capabilities(raw)
    raw.close()


# Login.

@DOORS
@MANNERS
def test_24_password_first(shared, tls, send):
    """PASS before USER, twice in a row, after a USER that was refused."""
    assert signs(converse(shared, tls, b"PASS secret\r\nQUIT\r\n", send)) == "-+"
    assert signs(converse(shared, tls, b"USER a/b\r\nPASS secret\r\nQUIT\r\n", send)) == "--+"
    assert signs(converse(shared, tls, b"USER bob\r\nUSER ..\r\nPASS secret\r\nQUIT\r\n",
                          send)) == "+--+"


BAD_NAMES = [b"x" * 251, b"../../etc/x", b"a/b", b"/", b".", b"..", b"a\tb", b"a\x01b", b"a\x7fb",
             b"a\x1bb", "a\u0085b".encode()]


@DOORS
@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda n: repr(n)[:20])
def test_26_27_28_names(shared, tls, name):
    """Refused before auth is asked, which would let everybody in; nothing is made of them."""
    before = len(re.findall("login failed", shared.log_text()))
    raw = shared.connect(tls)
    assert raw.ask(b"USER " + name).startswith(b"-ERR")
    assert raw.ask(b"PASS secret").startswith(b"-ERR")
    raw.close()
    assert len(re.findall("login failed", shared.log_text())) == before
    assert os.listdir(shared.state) == ["mail"]


@DOORS
def test_26_name_of_10000_octets(shared, tls):
    octets = b"USER " + b"n" * 10000 + b"\r\nPASS x\r\nQUIT\r\n"
    assert signs(converse(shared, tls, octets)) == "--+"


def test_26_longest_name(shared):
    """250 octets are a name, but percent-encoded they may be too long for a file's."""
    raw = log_in(shared, "n" * 250, tls=True)
    close(raw)
    assert shared.maildrop("n" * 250)
    raw = shared.connect()
    assert raw.ask(b"USER " + b"%" * 250).startswith(b"+OK")
    assert raw.ask(b"PASS secret").startswith(b"-ERR [SYS/PERM]")
    close(raw)


@pytest.mark.parametrize("name, directory", [
    ("%u%{home}", "%25u%25{home}"), ("' OR 1=1--", "' or 1=1--"), ("*)(uid=*", "*)(uid=*"),
    ("${HOME}", "${home}"), ("$(id)", "$(id)"), ("`id`", "`id`"), ("%2e%2e", "%252e%252e"),
    (".hidden", "%2Ehidden"), ("a;b|c&d", "a;b|c&d"), ("caf\u00e9", "caf\u00e9"), ("~", "~"),
    ("-rf", "-rf"), ("a b", "a b"), ("x..", "x..")])
def test_30_31_32_names_taken_literally(shared, name, directory):
    close(log_in(shared, name, tls=True))
    found = {os.path.basename(path) for path in shared.state.glob("mail/??/??/*")}
    assert directory in found


@pytest.mark.accounts
@pytest.mark.parametrize("password", [b"tab\there", b"two  blanks", b" first", b"last ", b"\t",
                                      "gr\u00fc\u00dfe".encode(), b"\xff\xfe", b"\x01\x02",
                                      b"a" * 500],
                         ids=lambda v: repr(v)[:20])
def test_29_38_passwords_verbatim(accounts, password):
    """Blanks, tabs, octets beyond ASCII: passed on as they are, trailing blanks too."""
    subprocess.run(["chpasswd"], input=b"carol:" + password + b"\n", check=True)
    try:
        for wrong in (password + b" ", b" " + password, password[:-1] or b"x"):
            raw = accounts.connect()
            raw.ask(b"USER carol")
            assert raw.ask(b"PASS " + wrong).startswith(b"-ERR"), wrong
            raw.close()
        raw = accounts.connect()
        raw.ask(b"USER carol")
        assert raw.ask(b"PASS " + password).startswith(b"+OK")
        close(raw)
    finally:
        subprocess.run(["chpasswd"], input=b"carol:carolcarol\n", check=True)


@DOORS
@MANNERS
def test_36_37_passwords_refused(shared, tls, send):
    """Too long, or empty: PAM, which would say yes to everything, is not asked."""
    user = b"USER bob\r\n"
    for line, limit in ((b"PASS " + b"p" * 100_000, 1), (b"PASS " + b"p" * 501, 1), (b"PASS", 1),
                        (b"PASS ", 1)):
        if send is octet_by_octet and len(line) > 1000:
            continue
        answers = converse(shared, tls, user + line + b"\r\nQUIT\r\n", send)
        if len(line) > 65536:
            assert signs(answers) in ("+-", "+")
        else:
            assert signs(answers) == "+-+", line[:10]


@pytest.mark.accounts
def test_37_no_password_where_none_is_needed(accounts):
    """An account without a password, and a stack that says nullok: still no login."""
    subprocess.run(["useradd", "--no-create-home", "nopass"], check=True)
    subprocess.run(["passwd", "-d", "nopass"], check=True, capture_output=True)
    stack = poplar.Path("/etc/pam.d/poplar")
    before = stack.read_text()
    stack.write_text("auth required pam_unix.so nullok\naccount required pam_unix.so\n")
    try:
        for password in (b"", b" ", b"x"):
            raw = accounts.connect()
            raw.ask(b"USER nopass")
            assert raw.ask(b"PASS " + password).startswith(b"-ERR"), password
            raw.close()
    finally:
        stack.write_text(before)
        subprocess.run(["userdel", "nopass"], check=True, capture_output=True)


def test_34_canonical_name(server):
    """A module changes PAM_USER: that name decides maildrop, lock and log."""
    if not (poplar.BUILD / "tests/pam_poplar_test.so").exists():
        pytest.skip("tests/pam_poplar_test.so is not built: make tests")
    p = server(stack="auth required @BUILD@/tests/pam_poplar_test.so rename=renamed\n"
                     "account required pam_permit.so\n")
    p.add("renamed", MESSAGES[0])
    raw = log_in(p, tls=True)
    assert raw.ask(b"STAT").startswith(b"+OK 1 ")
    other = p.connect()
    other.ask(b"USER bob")
    assert other.ask(b"PASS secret").startswith(b"-ERR [IN-USE]")
    other.close()
    close(raw)
    assert p.maildrop("renamed")
    assert not list(p.state.glob("mail/??/??/alice"))
    p.wait_log("session ended: .*user=renamed")


@DOORS
def test_55_disconnect_before_the_answer(shared, tls):
    """The client is gone between PASS and its answer: no lock stays."""
    for _ in range(20):
        raw = shared.connect(tls)
        raw.send(b"USER dora\r\nPASS secret\r\n")
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
    close(log_in(shared, "dora", tls))


@DOORS
def test_52_failures_per_connection(server, tls):
    """Three failed logins are the last of a connection, pipelined or not."""
    p = server(stack="auth required pam_deny.so\naccount required pam_permit.so\n",
               tls_required="not-on-loopback", auth_throttle_exempt="127.0.0.0/8")
    attempts = b"".join(b"USER alice\r\nPASS wrong%d\r\n" % n for n in range(10))
    for send in (in_one_write, octet_by_octet, line_by_line):
        answers = converse(p, tls, attempts, send)
        assert signs(answers) == "+-+-+-"
        assert all(a.startswith(b"-ERR [AUTH]") for a in answers[1::2])


def test_idle_session_is_ended(server):
    """No commands for idle_timeout: closed without a word (RFC 1939), and nothing deleted."""
    p = server(session_idle_timeout="1s")
    p.add("alice", MESSAGES[0])
    for command, answer in ((b"DELE 1", b"+OK "), (b"STAT", b"+OK 1 ")):
        raw = p.connect()
        raw.send(b"USER alice\r\nPASS secret\r\n" + command + b"\r\n")
        answers = raw.rest().splitlines()
        assert len(answers) == 3 and answers[-1].startswith(answer)
        raw.close()
    wait_until(lambda: len(re.findall("reason=idle", p.log_text())) == 2, "two ends")
