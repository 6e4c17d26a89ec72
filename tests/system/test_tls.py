"""TLS at its edges: what may follow STLS, versions and ciphers, ALPN, tickets, truncation. The
numbers in the names are those of the list of abuse cases. LONG=1 does more of it."""

import contextlib
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import time

import pytest

import poplar
from poplar import wait_until

LONG = os.environ.get("LONG") == "1"

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    directory.chmod(0o755)
    with poplar.Poplar(directory, tls_required="not-on-loopback",
                       workers_max_per_source="200") as p:
        p.add("alice", MESSAGE)
        yield p
    print(p.log_text())


def close(raw):
    raw.ask(b"QUIT")
    raw.close()


@pytest.mark.parametrize("pieces", [1, 2, 1000])
@pytest.mark.parametrize("after", [b"CAPA\r\n", b"CAPA", b"USER alice\r\n",
                                   b"USER alice\r\nPASS secret\r\nQUIT\r\n", b"x" * 300 + b"\r\n"],
                         ids=lambda v: repr(v)[2:8])
def test_58_what_follows_stls_in_the_clear(shared, pieces, after):
    """It is neither answered inside TLS nor remembered. What the server had not read when it began
    TLS is no handshake, and ends it."""
    raw = shared.connect(tls=False)
    octets = b"STLS\r\n" + after
    if pieces == 1:
        raw.send(octets)
    else:
        raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # closed already: see below
            for octet in octets if pieces == 1000 else ():
                raw.send(bytes([octet]))
        if pieces == 2:
            raw.send(octets[:3])
            raw.send(octets[3:])
    assert raw.line().startswith(b"+OK")
    try:
        raw.start_tls(shared.tls_context())
        if raw.sock.version() is None:  # to Python a closed socket is not connected
            raise OSError
    except OSError:
        assert pieces == 1000  # came after the server had turned to TLS
        raw.close()
        return
    assert raw.ask(b"PASS secret").startswith(b"-ERR")  # whose? no USER was said in TLS
    answer = raw.ask(b"NOOP")
    assert answer.startswith(b"-ERR") and b"log in" in answer
    raw.send(b"QUIT\r\n")
    assert raw.rest().count(b"\r\n") == 1


def test_58_name_from_before_is_forgotten(shared):
    raw = shared.connect(tls=False)
    assert raw.ask(b"USER alice").startswith(b"+OK")
    assert raw.ask(b"STLS").startswith(b"+OK")
    raw.start_tls(shared.tls_context())
    assert raw.ask(b"PASS secret").startswith(b"-ERR")
    close(raw)


def test_58_no_second_greeting(shared):
    """RFC 2595: none after STLS."""
    raw = shared.connect(tls=False)
    raw.ask(b"STLS")
    raw.start_tls(shared.tls_context())
    assert raw.ask(b"QUIT").startswith(b"+OK goodbye")
    assert raw.rest() == b""


def test_61_stls_where_it_is_not(shared):
    """Twice, inside TLS, after login in the clear."""
    raw = shared.connect(tls=False)
    raw.ask(b"STLS")
    raw.start_tls(shared.tls_context())
    assert raw.ask(b"STLS").startswith(b"-ERR")
    close(raw)
    raw = shared.connect()
    assert raw.ask(b"STLS").startswith(b"-ERR")
    close(raw)
    raw = shared.connect(tls=False)
    raw.ask(b"USER alice")
    assert raw.ask(b"PASS secret").startswith(b"+OK")
    assert raw.ask(b"STLS").startswith(b"-ERR")
    close(raw)


def test_62_no_hello_after_stls(server):
    """The deadline to log in holds while a handshake is waited for."""
    p = server(session_login_timeout="4s")
    raw = p.connect(tls=False)
    assert raw.ask(b"STLS").startswith(b"+OK")
    assert raw.rest() == b""
    p.wait_log("reason=login-timeout")


def anonymous(server, pid):
    return int(server.proc_status(pid)["RssAnon"].split()[0])


@pytest.mark.memory
def test_64_names_without_end(shared):
    """Each connection asks for another name: neither master nor nursery grows."""
    pids = [shared.process.pid, *shared.nursery()]

    def visit(numbers):
        for n in numbers:
            context = ssl._create_unverified_context()
            with socket.create_connection(("127.0.0.1", shared.tls_port), 20) as s:
                with context.wrap_socket(s, server_hostname=f"host{n}.{'x' * 60}.example") as t:
                    assert t.recv(3) == b"+OK"

    visit(range(100))
    before = [anonymous(shared, pid) for pid in pids]
    visit(range(100, 10_100 if LONG else 600))
    after = [anonymous(shared, pid) for pid in pids]
    assert all(b <= a + 256 for a, b in zip(before, after)), (before, after)


@pytest.mark.parametrize("name", ["*.example.test", "a" * 63 + ".test", "xn--nxasmq6b.test",
                                  "-x.test", "pop.example.test"])
def test_64_odd_names(shared, name):
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", shared.tls_port), 20) as s:
        with context.wrap_socket(s, server_hostname=name) as t:
            assert t.recv(3) == b"+OK"


def s_client(p, *arguments, say=b"QUIT\r\n", starttls=False):
    port = p.port if starttls else p.tls_port
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-quiet", "-ign_eof",
               *(["-starttls", "pop3"] if starttls else []), *arguments]
    result = subprocess.run(command, input=say, capture_output=True, timeout=60)
    return result.stdout, result.stderr


STARTTLS = pytest.mark.parametrize("starttls", [False, True], ids=["tls", "stls"])


@STARTTLS
@pytest.mark.parametrize("protocols", [None, ["pop3"], ["h2", "pop3"], ["http/1.1", "pop3"]])
def test_66_alpn_taken(shared, protocols, starttls):
    """None: accepted; pop3 anywhere in the list: selected."""
    context = shared.tls_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    raw = poplar.Raw(socket.create_connection(
        ("127.0.0.1", shared.port if starttls else shared.tls_port), 20))
    if starttls:
        raw.line()
        raw.ask(b"STLS")
    raw.start_tls(context)
    assert raw.sock.selected_alpn_protocol() == ("pop3" if protocols else None)
    if not starttls:
        assert raw.line().startswith(b"+OK")
    assert raw.ask(b"QUIT").startswith(b"+OK")
    raw.close()


@STARTTLS
@pytest.mark.parametrize("protocols", [["h2"], ["http/1.1"], ["h2", "http/1.1"], ["imap"], ["pop"]])
def test_66_alpn_refused(shared, protocols, starttls):
    """For another protocol: a fatal alert, no greeting."""
    context = shared.tls_context()
    context.set_alpn_protocols(protocols)
    raw = poplar.Raw(socket.create_connection(
        ("127.0.0.1", shared.port if starttls else shared.tls_port), 20))
    if starttls:
        raw.line()
        raw.ask(b"STLS")
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        raw.start_tls(context)
        raw.line()
    raw.close()


def test_66_alpn_ignored_where_configured(server):
    p = server(tls_alpn="ignore")
    context = p.tls_context()
    context.set_alpn_protocols(["h2"])
    raw = poplar.Raw(socket.create_connection(("127.0.0.1", p.tls_port), 20))
    raw.start_tls(context)
    assert raw.sock.selected_alpn_protocol() is None
    assert raw.line().startswith(b"+OK")
    raw.close()


@STARTTLS
@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_67_old_versions(shared, version, starttls):
    out, err = s_client(shared, version, "-cipher", "ALL:@SECLEVEL=0", starttls=starttls)
    assert b"+OK goodbye" not in out
    assert b"alert protocol version" in err, err


@STARTTLS
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_67_new_versions(shared, version, starttls):
    out, err = s_client(shared, version, starttls=starttls)
    assert b"+OK goodbye" in out, err


@pytest.mark.parametrize("ciphers", ["RC4", "3DES", "eNULL", "aNULL", "EXPORT", "DES", "MD5",
                                     "kRSA", "AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "CAMELLIA",
                                     "DHE+AESGCM"])
def test_67_ciphers(shared, ciphers):
    """Nothing without forward secrecy and authenticated encryption. What this OpenSSL cannot even
    offer is offered by hand."""
    out, err = s_client(shared, "-tls1_2", "-cipher", f"{ciphers}:@SECLEVEL=0")
    assert b"+OK" not in out
    if b"no cipher match" in err or b"no ciphers available" in err:
        numbers = {"RC4": 0x0005, "3DES": 0x000a, "EXPORT": 0x0003, "DES": 0x0009, "MD5": 0x0004}
        answer = offer(shared, numbers[ciphers])
        assert answer[:1] == b"\x15" and answer[5:7] == b"\x02\x28", answer  # handshake_failure


def offer(p, cipher):
    """A hello of TLS 1.2 with this cipher only; the server's first record."""
    extensions = (struct.pack(">HHHH", 0x000a, 4, 2, 0x0017)      # groups: P-256
                  + struct.pack(">HHHH", 0x000d, 4, 2, 0x0403))   # signatures: ECDSA with SHA-256
    body = (b"\x03\x03" + bytes(32) + b"\0" + struct.pack(">HH", 2, cipher) + b"\x01\0"
            + struct.pack(">H", len(extensions)) + extensions)
    hello = b"\x01" + struct.pack(">I", len(body))[1:] + body
    with socket.create_connection(("127.0.0.1", p.tls_port), 20) as s:
        s.sendall(b"\x16\x03\x01" + struct.pack(">H", len(hello)) + hello)
        octets = b""
        while part := s.recv(4096):
            octets += part
        return octets


def test_67_renegotiation(shared):
    """A client of TLS 1.2 asks for it: refused, in the clear and in words of TLS."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{shared.tls_port}", "-tls1_2", "-crlf"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen = b""
    while b"+OK Poplar" not in seen:
        seen += os.read(process.stdout.fileno(), 65536)
    process.stdin.write(b"R\n")
    process.stdin.flush()
    rest, _ = process.communicate(timeout=60)
    assert b"RENEGOTIATING" in rest
    assert b"no renegotiation" in rest
    assert b"handshake failure" in rest or b"no renegotiation" in rest


def test_67_minimum_of_1_3(server):
    p = server(tls_minimum="TLSv1.3")
    out, err = s_client(p, "-tls1_2")
    assert b"+OK" not in out and b"alert protocol version" in err
    out, err = s_client(p, "-tls1_3")
    assert b"+OK goodbye" in out


@pytest.mark.parametrize("end, way", [
    ("close", "clear"), ("close", "stls"), ("close", "tls"),
    ("reset", "clear"), ("reset", "stls"), ("reset", "tls"),
    ("notify", "stls"), ("notify", "tls")])  # TLS's own goodbye
def test_68_84_end_without_quit(server, end, way):
    """However the connection ends after DELE, nothing is deleted."""
    p = server(tls_required="not-on-loopback")
    p.add("alice", MESSAGE)
    raw = p.connect(tls=way == "tls")
    if way == "stls":
        assert raw.ask(b"STLS").startswith(b"+OK")
        raw.start_tls(p.tls_context())
    raw.ask(b"USER alice")
    raw.ask(b"PASS secret")
    assert raw.ask(b"DELE 1").startswith(b"+OK")
    if end == "notify":
        raw.sock.setblocking(False)
        try:
            raw.sock.unwrap()
        except ssl.SSLWantReadError:  # the answer is not there yet: the server says goodbye too
            select.select([raw.sock], [], [], 20 * poplar.PATIENCE)
            assert os.read(raw.sock.fileno(), 100), "RFC 8446, 6.1"
    elif end == "reset":
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        raw.sock.shutdown(socket.SHUT_RDWR)
    raw.close()
    p.wait_log("session ended: .*deleted=0")
    raw = poplar.log_in(p, tls=True)
    assert raw.ask(b"STAT").startswith(b"+OK 1 ")
    close(raw)


def test_68_half_a_record(server):
    """A record cut in the middle of QUIT is no QUIT."""
    p = server()
    p.add("alice", MESSAGE)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = p.tls_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", p.tls_port), 20) as s:
        def step(call, *arguments):
            while True:
                try:
                    result = call(*arguments)
                    s.sendall(outgoing.read())
                    return result
                except ssl.SSLWantReadError:
                    s.sendall(outgoing.read())
                    incoming.write(s.recv(65536))

        def ask(line):
            step(tls.write, line + b"\r\n")
            return step(tls.read, 1000)

        step(tls.do_handshake)
        assert step(tls.read, 1000).startswith(b"+OK")
        assert ask(b"USER alice").startswith(b"+OK")
        assert ask(b"PASS secret").startswith(b"+OK")
        assert ask(b"DELE 1").startswith(b"+OK")
        tls.write(b"QUIT\r\n")
        record = outgoing.read()
        s.sendall(record[:-1])
    p.wait_log("session ended: .*deleted=0")
    client = p.login()
    assert client.stat()[0] == 1
    client.quit()


# Tickets.

def visit(p, context, session=None):
    """One short session; whether it was resumed, and the ticket for the next."""
    with socket.create_connection(("127.0.0.1", p.tls_port), 20) as s:
        with context.wrap_socket(s, server_hostname="localhost", session=session) as t:
            assert t.recv(1000).startswith(b"+OK")
            t.sendall(b"QUIT\r\n")
            assert t.recv(1000).startswith(b"+OK")
            return t.session_reused, t.session


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def context_of(p, version):
    context = p.tls_context()
    context.minimum_version = context.maximum_version = version
    return context


@VERSIONS
def test_70_tickets_across_workers(shared, version):
    """Each connection has a worker of its own; tickets are for all of them."""
    context = context_of(shared, version)
    reused, session = visit(shared, context)
    assert not reused
    for _ in range(5):
        reused, session = visit(shared, context, session)
        assert reused


@VERSIONS
def test_70_tickets_across_reload(server, version):
    """The keys are the master's: a new nursery knows them."""
    p = server()
    context = context_of(p, version)
    _, session = visit(p, context)
    p.ctl("reload")
    assert visit(p, context, session)[0]


@VERSIONS
def test_70_tickets_after_restart(server, version):
    """The keys are never on disk: a full handshake."""
    p = server()
    context = context_of(p, version)
    _, session = visit(p, context)
    p.stop()
    p.start()
    reused, session = visit(p, context, session)
    assert not reused
    assert visit(p, context, session)[0]


@VERSIONS
def test_70_tickets_after_a_crash(server, version):
    """A crash may be a probe for what is in memory: the keys change."""
    p = server()
    context = context_of(p, version)
    _, session = visit(p, context)
    nursery = p.nursery()
    os.kill(wait_until(p.workers, "an idle worker")[0], signal.SIGSEGV)
    wait_until(lambda: (p.nursery() or nursery) != nursery, "a new nursery")
    wait_until(lambda: not visit(p, context, session)[0], "other keys")


def age_of_ticket_key(p):
    """Where the master keeps since when it has the present key: behind that key and the one before,
    which are random. Told by values that can be such a time, in memory that no file is behind: a
    library's table of what is as random had such a value, for the minute in which it was one."""
    now = time.monotonic_ns() // 1_000_000
    with open(f"/proc/{p.process.pid}/maps") as maps, open(f"/proc/{p.process.pid}/mem", "rb") as mem:
        for line in maps:
            where, access, _, _, inode = line.split()[:5]
            start, end = (int(x, 16) for x in where.split("-"))
            if access[:2] != "rw" or inode != "0":
                continue
            mem.seek(start)
            octets = mem.read(end - start)
            for at in range(160, len(octets) - 8, 8):
                value, = struct.unpack_from("<Q", octets, at)
                keys = octets[at - 160 : at]
                if now - 60_000 <= value <= now and len(set(keys)) > 80:
                    return start + at
    raise AssertionError("no key in the master's memory")


@pytest.mark.skipif(not poplar.ROOT, reason="needs root to make another process look older")
@pytest.mark.unsanitized("too much memory to look through")
@VERSIONS
def test_70_ticket_past_its_window(server, version):
    """Keys change once an hour, the one before is taken as well: a ticket of two hours ago makes a
    full handshake, and gets another. An hour passes in the master's memory."""
    p = server()
    context = context_of(p, version)
    place = age_of_ticket_key(p)

    def an_hour_passes():
        with open(f"/proc/{p.process.pid}/mem", "r+b", buffering=0) as mem:
            mem.seek(place)
            born, = struct.unpack("<Q", mem.read(8))
            past = struct.pack("<Q", (born - 3_600_000) % 2**64)  # it may be before the machine's start
            mem.seek(place)
            mem.write(past)

            def rotated():
                mem.seek(place)
                return mem.read(8) != past
            wait_until(rotated, "another key")

    _, session = visit(p, context)
    an_hour_passes()
    assert visit(p, context, session)[0]
    an_hour_passes()
    reused, fresh = visit(p, context, session)
    assert not reused
    assert visit(p, context, fresh)[0]


@VERSIONS
def test_70_spoilt_tickets(shared, version):
    """A ticket with a wrong octet: a full handshake, no failure."""
    context = context_of(shared, version)
    _, session = visit(shared, context)
    file = shared.directory / "ticket.pem"
    flag = "-tls1_2" if version == ssl.TLSVersion.TLSv1_2 else "-tls1_3"
    # -sess_out is written when the ticket comes; with TLS 1.3 that is after the handshake
    subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{shared.tls_port}", flag,
                    "-quiet", "-ign_eof", "-sess_out", file], input=b"QUIT\r\n",
                   capture_output=True, timeout=60)
    der = subprocess.run(["openssl", "sess_id", "-in", file, "-outform", "DER"], check=True,
                         capture_output=True).stdout
    text = subprocess.run(["openssl", "sess_id", "-in", file, "-noout", "-text"], check=True,
                          capture_output=True, text=True).stdout
    ticket = bytes.fromhex("".join(
        line.split(" - ")[1][:48].replace("-", " ").replace(" ", "")
        for line in text.split("TLS session ticket:")[1].split("\n\n")[0].splitlines()
        if " - " in line))
    assert ticket in der and len(ticket) > 100
    for position in (0, 16, 40, len(ticket) - 1):
        spoilt = bytearray(ticket)
        spoilt[position] ^= 1
        bad = shared.directory / "bad.pem"
        pem = subprocess.run(["openssl", "sess_id", "-inform", "DER", "-out", bad],
                             input=der.replace(ticket, bytes(spoilt)), capture_output=True)
        assert pem.returncode == 0, pem.stderr
        result = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{shared.tls_port}", flag, "-ign_eof",
             "-sess_in", bad], input=b"QUIT\r\n", capture_output=True, timeout=60)
        assert b"+OK goodbye" in result.stdout and b"\nNew, TLSv1" in result.stdout, position


# Certificates.

def test_a_key_that_everybody_may_read(server):
    """It serves, and a start and a reload warn."""
    p = server(start=False)
    p.key.chmod(0o644)
    p.start()
    warning = f"{p.certificate}: everybody may read the key"
    assert warning in p.log_text()
    p.key.chmod(0o640)
    p.ctl("reload")
    assert p.log_text().count(warning) == 1
    p.login().quit()


def test_71_reload_with_another_certificates_key(server, tmp_path):
    """The old one stays, the failure is reported with the place in the configuration."""
    p = server()
    p.add("alice", MESSAGE)
    good = p.key.read_bytes()
    _, other = poplar.make_certificate(tmp_path, "other.example.test")
    p.key.write_bytes(other.read_bytes())
    result = p.ctl("reload", check=False)
    assert result.returncode != 0
    assert b"poplar.conf:" in result.stderr and b"does not belong" in result.stderr
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", p.tls_port), 20) as s:
        with context.wrap_socket(s) as t:
            assert ssl.DER_cert_to_PEM_cert(t.getpeercert(True)).split() == \
                p.certificate.read_text().split()
    p.key.write_bytes(good)
    p.ctl("reload")
    client = p.login()
    assert client.stat()[0] == 1
    client.quit()


def test_no_tls_in_the_kernel():
    """These ask the kernel for it, where OpenSSL was built for that, as some distributions do: the
    sandbox ends who does."""
    named = subprocess.run(["nm", "-D", "--undefined-only", poplar.BINARIES / "poplar-worker"],
                           check=True, capture_output=True, text=True).stdout
    assert "SSL_set_bio" in named
    assert "SSL_set_fd" not in named and "BIO_new_socket" not in named
