"""AUTH as real clients speak it: curl with each mechanism, tokens and certificates; and what the
real master and auth make of it, also behind a proxy's header."""

import base64
import re
import socket
import ssl
import subprocess

import pytest
from poplar import Raw

MAIL = b"Subject: by AUTH\r\n\r\nhello\r\n"
TOKEN = "ya29." + "A-b_c.d+e/f" * 70 + "==="  # what fits into a line of a PAM stack


def curl(server, *options, tls=True, user="alice:secret"):
    """Fetch message 1; what curl said on both streams, and its status."""
    url = f"pop3s://localhost:{server.tls_port}" if tls else f"pop3://localhost:{server.port}"
    return subprocess.run(["curl", "--silent", "--show-error", "--verbose", "--ssl-reqd",
                           "--cacert", server.certificate, "--user", user, *options, f"{url}/1"],
                          capture_output=True, timeout=60)


def sent(result):
    """The commands that curl sent, as it tells of them."""
    return re.findall(rb"^> (.*?)\r?$", result.stderr, re.M)


def serve(server, user="alice", **settings):
    p = server(**settings)
    p.add(user, MAIL)
    return p


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "stls"])
@pytest.mark.parametrize("ir", [[], ["--sasl-ir"]], ids=["asked", "at-once"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_curl_passwords(server, mechanism, ir, tls):
    p = serve(server, stack="auth required @BUILD@/tests/pam_poplar_test.so expect=secret\n"
                            "account required pam_permit.so\n")
    good = curl(p, "--login-options", f"AUTH={mechanism}", *ir, tls=tls)
    assert (good.returncode, good.stdout) == (0, MAIL), good.stderr
    assert any(line.startswith(b"AUTH " + mechanism.encode()) for line in sent(good))
    bad = curl(p, "--login-options", f"AUTH={mechanism}", *ir, tls=tls, user="alice:wrong")
    assert bad.returncode == 67  # CURLE_LOGIN_DENIED
    assert b"[AUTH]" in bad.stderr


@pytest.mark.parametrize("ir", [[], ["--sasl-ir"]], ids=["asked", "at-once"])
@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_curl_tokens(server, mechanism, ir):
    """The token is what PAM's modules get for a password."""
    p = serve(server, stack=f"auth required @BUILD@/tests/pam_poplar_test.so expect={TOKEN}\n"
                            "account required pam_permit.so\n",
              auth_mechanisms=mechanism.lower())
    options = ["--login-options", f"AUTH={mechanism}", *ir]
    good = curl(p, *options, "--oauth2-bearer", TOKEN, user="alice")
    assert (good.returncode, good.stdout) == (0, MAIL), good.stderr
    bad = curl(p, *options, "--oauth2-bearer", TOKEN[:-1], user="alice")
    assert bad.returncode == 67
    assert b"< + " in bad.stderr  # the challenge that says why
    if mechanism == "OAUTHBEARER":  # to the other challenge curl has no answer, it hangs up
        assert b"-ERR [AUTH]" in bad.stderr


def test_mechanism_that_a_reload_takes_away(server):
    """From a client to whom it was offered before: he hears nothing of a wrong password, and nothing
    is counted against him."""
    p = serve(server, stack="auth required @BUILD@/tests/pam_poplar_test.so expect=secret\n"
                            "account required pam_permit.so\n")
    client = p.connect()
    p.write_config(auth_mechanisms="login")
    p.ctl("reload")
    response = base64.b64encode(b"\0alice\0secret")
    for _ in range(4):
        assert client.ask(b"AUTH PLAIN " + response).startswith(b"-ERR [SYS/TEMP]")
    p.wait_log("a reload took it away")
    assert client.ask(b"USER alice").startswith(b"+OK")
    assert client.ask(b"PASS secret").startswith(b"+OK")


def authority(directory, name):
    """A certificate authority; paths of its certificate and key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", f"/CN={name}",
                    "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def issue(directory, by, subject, address=None):
    """A client's certificate with its key, in one file."""
    path, key, request = (directory / f"client.{end}" for end in ("pem", "key", "csr"))
    extensions = directory / "extensions"
    extensions.write_text("extendedKeyUsage=clientAuth\n"
                          + (f"subjectAltName=email:{address}\n" if address else ""))
    subprocess.run(["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject,
                    "-keyout", key, "-out", request], check=True, capture_output=True)
    subprocess.run(["openssl", "x509", "-req", "-in", request, "-CA", by[0], "-CAkey", by[1],
                    "-CAcreateserial", "-days", "3", "-extfile", extensions, "-out", path],
                   check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


# Authentication would fail: a certificate is all there is.
VOUCHED = "auth required pam_deny.so\naccount required pam_permit.so\n"


def test_curl_external(server, tmp_path):
    ca, other = authority(tmp_path, "clients"), authority(tmp_path, "others")
    p = serve(server, stack=VOUCHED, tls_client_ca=ca[0], tls_client_name="cn",
              auth_mechanisms="external")
    options = ["--login-options", "AUTH=EXTERNAL", "--sasl-ir"]
    alice = issue(tmp_path, ca, "/CN=alice")
    good = curl(p, *options, "--cert", alice, user="alice:")
    assert (good.returncode, good.stdout) == (0, MAIL), good.stderr
    asked = curl(p, "--login-options", "AUTH=EXTERNAL", "--cert", alice, tls=False, user="alice:")
    assert (asked.returncode, asked.stdout) == (0, MAIL), asked.stderr
    p.wait_log("user=alice")
    foreign = curl(p, *options, "--cert", alice, user="bob:")
    assert foreign.returncode != 0 and b"-ERR [AUTH]" in foreign.stderr
    for certificate in ([], ["--cert", issue(tmp_path, other, "/CN=alice")]):
        bad = curl(p, *options, *certificate, user="alice:")
        assert bad.returncode != 0
        assert b"< UIDL" in bad.stderr and b"< SASL" not in bad.stderr


def test_certificate_by_address(server, tmp_path):
    """The address is folded to the canonical name as any login; the account phase still decides."""
    ca = authority(tmp_path, "clients")
    p = serve(server, stack=VOUCHED, tls_client_ca=ca[0], auth_mechanisms="plain, external")
    path = issue(tmp_path, ca, "/CN=whoever", "Alice@Pop.Example.Test")
    context = p.tls_context()
    context.load_cert_chain(path)

    def connect():
        raw = Raw(socket.create_connection(("127.0.0.1", p.tls_port), 20))
        raw.start_tls(context)
        assert raw.line().startswith(b"+OK")
        return raw

    raw = connect()
    raw.ask(b"CAPA")
    assert b"SASL PLAIN EXTERNAL\r\n" in raw.multi()
    assert raw.ask(b"AUTH EXTERNAL").startswith(b"+ \r\n")
    assert raw.ask(b"*").startswith(b"-ERR ")  # it thinks better of it
    for other in (b"bob", b"Alicf@Pop.Example.Test", b"Alice@Pop.Example.Tes"):
        assert raw.ask(b"AUTH EXTERNAL " + base64.b64encode(other)).startswith(b"-ERR [AUTH] ")
    assert raw.ask(b"AUTH EXTERNAL =").startswith(b"+OK")
    assert raw.ask(b"STAT") == b"+OK 1 %d\r\n" % len(MAIL)
    raw.ask(b"QUIT")
    raw.close()
    p.wait_log("user=alice")
    p.stack("auth required pam_permit.so\naccount required pam_deny.so\n")
    raw = connect()
    assert raw.ask(b"AUTH EXTERNAL").startswith(b"+ \r\n")
    assert raw.ask(b"").startswith(b"-ERR [AUTH]")
    raw.close()


def test_certificate_of_no_user(server, tmp_path):
    """A name that no user has is as good as none."""
    ca = authority(tmp_path, "clients")
    p = serve(server, stack=VOUCHED, tls_client_ca=ca[0], tls_client_name="cn",
              auth_mechanisms="plain, external")
    for name, good in (("alice", True), (".", False), ("..", False), ("../alice", False),
                       (".alice", True)):
        context = p.tls_context()
        context.load_cert_chain(issue(tmp_path, ca, "/CN=" + name.replace("/", r"\/")))
        raw = Raw(socket.create_connection(("127.0.0.1", p.tls_port), 20))
        raw.start_tls(context)
        assert raw.line().startswith(b"+OK")
        raw.ask(b"CAPA")
        assert any(line.startswith(b"SASL PLAIN EXTERNAL") for line in raw.multi()) == good, name
        if not good:
            assert raw.ask(b"AUTH EXTERNAL =").startswith(b"-ERR no certificate came"), name
        raw.close()


def test_no_authority_no_external(server):
    """Without client_ca nobody can log in by saying so."""
    p = serve(server, stack=VOUCHED, auth_mechanisms="plain, external")
    raw = p.connect()
    raw.ask(b"CAPA")
    assert not any(b"EXTERNAL" in line for line in raw.multi())
    assert raw.ask(b"AUTH EXTERNAL " + base64.b64encode(b"alice")).startswith(b"-ERR")
    raw.close()


def test_bad_authority_refuses_to_start(server, tmp_path):
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish\n")
    half = tmp_path / "half.pem"  # one is good, the other is not
    half.write_bytes(authority(tmp_path, "good")[0].read_bytes() + b"-----BEGIN CERTIFICATE-----\n"
                     b"bm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n")
    for path, word in ((rubbish, "no PEM certificate"), (tmp_path / "none", "No such file"),
                       (half, "PEM certificate")):
        p = server(start=False, tls_client_ca=path)
        result = subprocess.run(p.command(), capture_output=True, text=True, timeout=60)
        assert result.returncode == 78, result.stderr
        assert f"[tls] client_ca={path}: " in result.stderr and word in result.stderr


def test_reload_changes_the_authority(server, tmp_path):
    """A ticket of a client that was verified before opens no door afterwards."""
    old, new = authority(tmp_path, "old"), authority(tmp_path, "new")
    p = serve(server, stack=VOUCHED, tls_client_ca=old[0], tls_client_name="cn",
              auth_mechanisms="external")
    path = issue(tmp_path, old, "/CN=alice")
    context = ssl.create_default_context(cafile=str(p.certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # Python has a ticket only of this one
    context.load_cert_chain(path)

    def visit(session=None):
        with socket.create_connection(("127.0.0.1", p.tls_port), 20) as s:
            with context.wrap_socket(s, server_hostname="localhost", session=session) as t:
                raw = Raw(t)
                assert raw.line().startswith(b"+OK")
                answer = raw.ask(b"AUTH EXTERNAL =")
                raw.ask(b"QUIT")
                return t.session, t.session_reused, answer[:3]

    ticket, reused, answer = visit()
    assert (reused, answer) == (False, b"+OK")
    assert visit(ticket)[1:] == (True, b"+OK")
    p.write_config(tls_client_ca=new[0])
    p.ctl("reload")
    assert visit(ticket)[1:] == (False, b"-ER")


def behind(server, header):
    raw = Raw(socket.create_connection(("127.0.0.1", server.port), 20))
    raw.send(header)
    return raw


V1 = b"PROXY TCP4 192.0.2.77 127.0.0.1 40000 110\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2 = (SIGNATURE + b"\x21\x21\0\x2c" + socket.inet_pton(socket.AF_INET6, "2001:db8:1:2::77") +
      socket.inet_pton(socket.AF_INET6, "2001:db8::1") + b"\x9c\x40\0\x6e" +
      b"\x20\0\5\1\0\0\0\0")


def test_proxied_address_everywhere(server, tmp_path):
    """The client's own address reaches log and PAM; TLS that the proxy ended counts."""
    items = tmp_path / "items"
    p = serve(server, listen_proxy_from="127.0.0.1",
              stack=f"auth required @BUILD@/tests/pam_poplar_test.so items={items}\n"
                    "account required pam_permit.so\n")
    raw = behind(p, V2)
    assert raw.line().startswith(b"+OK")
    assert raw.ask(b"AUTH PLAIN " + base64.b64encode(b"\0alice\0secret")).startswith(b"+OK")
    assert "rhost=2001:db8:1:2::77" in items.read_text()
    raw.ask(b"QUIT")
    p.wait_log(r"2001:db8:1:2::77\D.*tls=proxy|tls=proxy.*2001:db8:1:2::77")
    raw = behind(p, V1)
    assert raw.line().startswith(b"+OK")
    assert raw.ask(b"USER alice").startswith(b"-ERR [AUTH]")  # the proxy did not say TLS
    raw.ask(b"QUIT")
    p.wait_log(r"192\.0\.2\.77:40000")


def test_proxied_limits(server):
    """max_per_source counts clients, not their proxy."""
    p = server(listen_proxy_from="127.0.0.0/8", workers_max_per_source=2, workers_idle_min=4)
    sessions = []
    for n in range(6):
        raw = behind(p, b"PROXY TCP4 192.0.2.%d 127.0.0.1 40000 110\r\n" % (n // 2))
        assert raw.line().startswith(b"+OK"), n
        sessions.append(raw)
    refused = behind(p, b"PROXY TCP4 192.0.2.1 127.0.0.1 40001 110\r\n").rest()
    assert refused.startswith(b"-ERR [SYS/TEMP] too many connections"), refused
    for raw in sessions:
        raw.close()


@pytest.mark.parametrize("header", [V1, V2, SIGNATURE])
def test_unexpected_header(server, header):
    """From others than proxy_from: no reply to anything behind the greeting."""
    p = server(listen_proxy_from="192.0.2.1", tls_required="no")
    raw = behind(p, header + b"CAPA\r\nUSER alice\r\nPASS secret\r\n")
    assert raw.line().startswith(b"+OK Poplar")
    assert raw.rest() == b""
    assert "192.0.2.77" not in p.log_text()
