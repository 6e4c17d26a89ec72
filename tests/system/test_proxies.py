"""haproxy and nginx's mail proxy in front, and the PROXY header: the client's own address reaches log,
PAM and limits, from the proxies that [listen] proxy_from names and from nobody else.

Each proxy runs from a tree of its own (tests/support/tree.sh), in the tests' namespaces."""

import contextlib
import http.server
import poplib
import socket
import struct
import threading

import pytest

from logins import while_throttled
from poplar import PATIENCE, Raw, free_port, wait_until
from trees import Tree, needs

pytestmark = pytest.mark.accounts

PROXY = "127.0.0.9"  # where haproxy connects from; nginx cannot be told, it comes from 127.0.0.1
ALICE, BOB = "127.0.0.7", "127.0.0.8"
LETTER = b"Subject: one\r\n\r\nbody\r\n"


@pytest.fixture
def in_tree(tmp_path):
    """in_tree(tree, ports, command...) runs a server in its tree, where our directory is /mnt, and
    waits for its ports."""
    shared, made = tmp_path / "mnt", []
    shared.mkdir()

    def start(name, ports, *command):
        made.append(Tree(name, tmp_path))
        made[-1].share(shared, "/mnt")
        made[-1].serve(*command, ports=ports)
    yield start
    for tree in made:
        print(tree.logs())
        tree.close()


@pytest.fixture
def proxied(server, tmp_path):
    """A factory: Poplar behind a proxy, for alice and bob with the password "secret". What PAM was
    told of the last one is in `items`."""
    def make(proxy_from=PROXY, **settings):
        items = tmp_path / "items"
        module = "@BUILD@/tests/pam_poplar_test.so"
        p = server(stack=f"auth required {module} items={items} expect=secret\n"
                         "account required pam_permit.so\n",
                   listen_proxy_from=proxy_from, **settings)
        p.items = items
        for user in ("alice", "bob"):
            p.add(user, LETTER)
        return p
    return make


def connect(port, source, tls=None, greeting=True):
    """A client of an address of its own; tls is a context."""
    raw = Raw(socket.create_connection(("127.0.0.1", port), 20 * PATIENCE, (source, 0)))
    if tls:
        raw.start_tls(tls)
    if greeting:
        line = raw.line()
        assert line.startswith(b"+OK"), line
    return raw


def log_in(raw, user="alice", password="secret"):
    assert raw.ask(b"USER %s" % user.encode()).startswith(b"+OK")
    return raw.ask(b"PASS %s" % password.encode())


def use_mail(raw):
    """A whole session."""
    assert log_in(raw).startswith(b"+OK")
    assert raw.ask(b"STAT") == b"+OK 1 %d\r\n" % len(LETTER)
    assert raw.ask(b"RETR 1").startswith(b"+OK")
    assert b"".join(raw.multi()) == LETTER
    assert raw.ask(b"QUIT").startswith(b"+OK")
    raw.close()


def capabilities(raw):
    assert raw.ask(b"CAPA").startswith(b"+OK")
    return [line.split()[0] for line in raw.multi()]


# haproxy. Its ways in, by name: what its client speaks to it, what it says to Poplar.

WAYS = {
    "clear-v1": ("", "pop3", "send-proxy"),
    "through-v1": ("", "pop3s", "send-proxy"),
    "through-v2": ("", "pop3s", "send-proxy-v2-ssl"),
    "ended-v1": ("ssl crt /mnt/both.pem", "pop3", "send-proxy"),
    "ended-v2": ("ssl crt /mnt/both.pem", "pop3", "send-proxy-v2-ssl"),
    "clear-v2": ("", "pop3", "send-proxy-v2-ssl"),
    "misled-v2": ("ssl crt /mnt/both.pem", "pop3s", "send-proxy-v2-ssl"),
}


@pytest.fixture
def haproxy(in_tree, tmp_path):
    """haproxy(poplar) gives the port of each way in."""
    def start(p, check=""):
        ports = {way: free_port() for way in WAYS}
        config = """
defaults
  mode tcp
  timeout connect 20s
  timeout client 60s
  timeout server 60s
"""
        for way, (front, door, header) in WAYS.items():
            to = p.tls_port if door == "pop3s" else p.port
            config += f"""
listen {way}
  bind 127.0.0.1:{ports[way]} {front}
  source {PROXY}
  server poplar 127.0.0.1:{to} {header} {check}
"""
        shared = tmp_path / "mnt"
        (shared / "both.pem").write_bytes(p.certificate.read_bytes() + p.key.read_bytes())
        (shared / "haproxy.cfg").write_text(config)
        in_tree("haproxy", ports.values(), "haproxy", "-db", "-f", "/mnt/haproxy.cfg")
        return ports
    return start


@needs("haproxy")
@pytest.mark.parametrize("way", ["clear-v1", "clear-v2", "through-v1", "through-v2", "ended-v2"])
def test_haproxy(proxied, haproxy, way):
    """Log and PAM know the client's address, and how TLS came about."""
    p = proxied()
    raw = connect(haproxy(p)[way], ALICE, p.tls_context() if not way.startswith("clear") else None)
    if way.startswith("clear"):
        assert b"USER" not in capabilities(raw)
        assert raw.ask(b"STLS").startswith(b"+OK")
        raw.start_tls(p.tls_context())
    port = raw.sock.getsockname()[1]
    use_mail(raw)
    ended = p.wait_log(r"session ended: peer=(\S+) .*reason=quit.* tls=(\S+)")
    assert ended[1] == f"{ALICE}:{port}"
    assert ended[2] == ("proxy" if way == "ended-v2" else "TLSv1.3")
    assert f" rhost={ALICE} " in p.items.read_text()


@needs("haproxy")
@pytest.mark.native("haproxy asks more often than can be answered")
def test_haproxy_asks_whether_poplar_lives(proxied, haproxy):
    """Its own checks come with a header too, of nobody."""
    p = proxied()
    ports = haproxy(p, "check inter 100ms")
    for _ in range(5):
        seen = p.log_text().count("session ended")
        wait_until(lambda: p.log_text().count("session ended") > seen + 5, "checks")
    assert "malformed" not in p.log_text()
    use_mail(connect(ports["ended-v2"], ALICE, p.tls_context()))


@needs("haproxy")
@pytest.mark.parametrize("assume", [False, True])
def test_header_without_tls_state(proxied, haproxy, assume):
    """Version 1 cannot say that the client used TLS: proxy_tls does."""
    p = proxied(**({"listen_proxy_tls": "assume"} if assume else {}))
    raw = connect(haproxy(p)["ended-v1"], ALICE, p.tls_context())
    if assume:
        assert b"USER" in capabilities(raw)
        use_mail(raw)
    else:
        assert b"USER" not in capabilities(raw)
        assert raw.ask(b"USER alice").startswith(b"-ERR")
        assert not p.items.exists()


@needs("haproxy")
def test_proxy_that_ends_tls_for_pop3s(proxied, haproxy):
    """It is the wrong port for it: its client waits for a greeting, and we for TLS."""
    p = proxied(session_login_timeout="1s")
    raw = connect(haproxy(p)["misled-v2"], ALICE, p.tls_context(), greeting=False)
    assert raw.rest() == b""
    p.wait_log(rf"session ended: peer={ALICE}:\d+ door=pop3s .*have it speak to pop3")


@needs("haproxy")
def test_sessions_count_for_the_client(proxied, haproxy):
    """max_per_source is about clients; their proxy may have any number."""
    p = proxied(workers_max_per_source=2)
    port = haproxy(p)["ended-v2"]
    held = [connect(port, ALICE, p.tls_context()) for _ in range(2)]
    refused = connect(port, ALICE, p.tls_context(), greeting=False)
    assert refused.rest() == b"-ERR [SYS/TEMP] too many connections, wait and try again\r\n"
    p.wait_log(rf"refused peer={ALICE}:\d+ behind proxy={PROXY}:\d+.*max_per_source")
    held += [connect(port, BOB, p.tls_context()) for _ in range(2)]
    held.pop(0).close()
    p.wait_log(rf"session ended: peer={ALICE}:\d+ .*reason=disconnect")
    use_mail(connect(port, ALICE, p.tls_context()))


def is_kept_out(make):
    """Throttled by wrong passwords, whoever make() is is refused with the right one, too."""
    def guess(secret):
        raw = make()
        line = log_in(raw, password=secret.decode())
        assert line.startswith(b"-ERR"), line
        raw.close()
        return line
    return while_throttled(guess, lambda: log_in(make()).startswith(b"-ERR"))


@needs("haproxy")
def test_failures_count_for_the_client(proxied, haproxy):
    """He who fails to log in is throttled, and nobody else behind his proxy."""
    p = proxied()
    port = haproxy(p)["ended-v2"]
    assert is_kept_out(lambda: connect(port, ALICE, p.tls_context()))
    assert f"throttled: peer={ALICE}:" in p.log_text()
    assert log_in(connect(port, BOB, p.tls_context())).startswith(b"+OK")


# The header alone, as no proxy would send it.

V1 = f"PROXY TCP4 {ALICE} 127.0.0.1 4000 110\r\n".encode()
V2 = (b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", 12) + socket.inet_aton(ALICE)
      + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 4000, 110))


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_header_from_elsewhere(proxied, tls, header):
    """Who is in no proxy_from is not believed, and not heard."""
    p = proxied()
    raw = connect(p.tls_port if tls else p.port, ALICE, greeting=not tls)
    raw.send(header)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        raw.send(b"CAPA\r\n")
    answer = raw.rest()  # over TLS perhaps an alert
    assert b"+OK" not in answer and b"-ERR" not in answer
    told = "reason=tls " if tls else "reason=foreign-protocol .*is not in .listen. proxy_from"
    p.wait_log(rf"session ended: peer={ALICE}:\d+ .*{told}")
    assert ":4000" not in p.log_text()


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_header_inside_tls(proxied, header):
    """Nor is one that comes inside TLS, whoever sends it."""
    p = proxied()
    raw = connect(p.tls_port, ALICE, p.tls_context())
    raw.send(header)
    assert raw.rest() == b""
    p.wait_log(rf"session ended: peer={ALICE}:\d+ .*reason=foreign-protocol")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("start", [b"", V1[:20], V2[:14]], ids=["nothing", "v1", "v2"])
def test_header_that_does_not_come(proxied, tls, start):
    """A proxy that says nothing, or half of it, is not greeted, and let go at the deadline."""
    p = proxied(session_login_timeout="1s")
    raw = connect(p.tls_port if tls else p.port, PROXY, greeting=False)
    raw.send(start)
    assert raw.rest() in (b"", b"-ERR logging in took too long\r\n")
    p.wait_log(rf"session ended: peer={PROXY}:\d+ .*reason=login-timeout")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_second_header(proxied, tls):
    """As of one proxy behind another: it is in proxy_from."""
    p = proxied()
    raw = connect(p.tls_port if tls else p.port, PROXY, greeting=False)
    raw.send(V2)
    if tls:
        raw.start_tls(p.tls_context())
    raw.line()
    raw.send(V2)
    assert raw.rest() == b""
    p.wait_log(rf"session ended: peer={ALICE}:\d+ .*detail=\"a second PROXY header")


def test_tls_that_does_not_come(proxied):
    """Who leaves, or whom we end, says nothing of his proxy."""
    p = proxied(listen_proxy_tls="assume")
    raw = connect(p.tls_port, PROXY, greeting=False)
    raw.send(V2)
    raw.close()
    ended = p.wait_log(rf"session ended: peer={ALICE}:\d+ .*reason=disconnect.*")
    assert "detail" not in ended[0]


@pytest.mark.parametrize("octets", [b"CAPA\r\n", b"PROXY TCP4 me you 1 2\r\n", b"\x16\x03\x01\x02"],
                         ids=["command", "malformed", "hello"])
def test_no_header(proxied, octets):
    """A proxy that was not told to send a header must not speak for its clients. It is ours: a warning."""
    p = proxied(server_log_level="warning")
    raw = connect(p.port, PROXY, greeting=False)
    raw.send(octets + b" " * 20)
    assert raw.rest() == b""
    p.wait_log(rf"session ended: peer={PROXY}:\d+ .*reason=foreign-protocol")


# nginx. It takes the login itself, asks an HTTP server where to go, and logs in there.

class Director(http.server.BaseHTTPRequestHandler):
    """Everybody may go to Poplar."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Auth-Status", "OK")
        self.send_header("Auth-Server", "127.0.0.1")
        self.send_header("Auth-Port", str(self.server.poplar.port))
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def nginx(in_tree, tmp_path):
    """nginx(poplar) gives its ports: with STLS, and TLS from the start."""
    servers = []

    def start(p):
        director = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Director)
        director.poplar = p
        servers.append(director)
        threading.Thread(target=director.serve_forever, daemon=True).start()
        shared, ports = tmp_path / "mnt", {"stls": free_port(), "tls": free_port()}
        for source, name in (p.certificate, "cert"), (p.key, "key"):
            (shared / name).write_bytes(source.read_bytes())
        (shared / "nginx.conf").write_text(f"""
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off; worker_processes 1; pid /mnt/pid; error_log stderr notice;
events {{ }}
mail {{
  auth_http 127.0.0.1:{director.server_port}/;
  proxy_protocol on;
  proxy_pass_error_message on;
  pop3_auth plain;
  ssl_certificate /mnt/cert; ssl_certificate_key /mnt/key;
  server {{ listen 127.0.0.1:{ports["stls"]}; protocol pop3; starttls on; }}
  server {{ listen 127.0.0.1:{ports["tls"]} ssl; protocol pop3; }}
}}
""")
        in_tree("nginx", ports.values(), "nginx", "-e", "stderr", "-c", "/mnt/nginx.conf")
        return ports
    yield start
    for director in servers:
        director.shutdown()
        director.server_close()


def behind_nginx(ports, p, way, source):
    raw = connect(ports[way], source, p.tls_context() if way == "tls" else None)
    if way == "stls":
        assert raw.ask(b"STLS").startswith(b"+OK")
        raw.start_tls(p.tls_context())
    return raw


@needs("nginx")
@pytest.mark.parametrize("way", ["stls", "tls"])
def test_nginx(proxied, nginx, way):
    p = proxied("127.0.0.1", listen_proxy_tls="assume")
    raw = behind_nginx(nginx(p), p, way, ALICE)
    port = raw.sock.getsockname()[1]
    use_mail(raw)
    ended = p.wait_log(r"session ended: peer=(\S+) .*reason=quit.* tls=(\S+)")
    assert (ended[1], ended[2]) == (f"{ALICE}:{port}", "proxy")
    assert f" rhost={ALICE} " in p.items.read_text()


@needs("nginx")
def test_nginx_without_tls_state(proxied, nginx):
    """Its header is of version 1: without proxy_tls=assume its clients may not log in."""
    p = proxied("127.0.0.1")
    assert log_in(behind_nginx(nginx(p), p, "tls", ALICE)).startswith(b"-ERR")
    assert not p.items.exists()


@needs("nginx")
def test_nginx_limits(proxied, nginx):
    p = proxied("127.0.0.1", listen_proxy_tls="assume", workers_max_per_source=1)
    ports = nginx(p)
    assert is_kept_out(lambda: behind_nginx(ports, p, "tls", ALICE))
    assert f"throttled: peer={ALICE}:" in p.log_text()
    held = behind_nginx(ports, p, "tls", BOB)
    assert log_in(held, "bob").startswith(b"+OK")
    assert not log_in(behind_nginx(ports, p, "tls", BOB)).startswith(b"+OK")
    p.wait_log(rf"refused peer={BOB}:\d+ behind proxy=127\.0\.0\.1:\d+.*max_per_source")


@needs("nginx")
def test_poplib_behind_nginx(proxied, nginx):
    """A client that does not know."""
    p = proxied("127.0.0.1", listen_proxy_tls="assume")
    client = poplib.POP3_SSL("127.0.0.1", nginx(p)["tls"], timeout=20 * PATIENCE,
                             context=p.tls_context())
    client.user("alice")
    client.pass_("secret")
    assert client.list()[1] == [b"1 %d" % len(LETTER)]
    client.dele(1)
    client.quit()
    assert b"0 messages" in p.ctl("message", "list", "alice").stdout
