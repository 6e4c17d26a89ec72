"""openssl s_client and testssl.sh at both TLS doors, with certificates of a CA of the test's own.

testssl.sh must find nothing of severity LOW or worse, but for the short list below. LONG=1 runs all
that it has, at each door with each kind of key, instead of the sections that matter most."""

import json
import os
import subprocess

import pytest

pytestmark = pytest.mark.accounts

LONG = os.environ.get("LONG") == "1"
NAME = "pop.example.test"

KEYS = {"ecdsa": ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"), "rsa": ("rsa:2048",)}

# What may be found, and why.
EXCEPTED = {
    "cert_revocation": "the test's CA tells of no revocation: it has no server for it",
    "engine_problem": "about the machine's OpenSSL, which cannot do GOST",
    "sessionresumption_ticket": "its s_client may leave before TLS 1.3 hands out tickets, and the next "
                                "one then lacks a file; test_tls.py tries tickets",
}

# Each section that ran says one of these last; without them nothing was looked at.
SECTIONS = {"TLS1_3", "cipherlist_STRONG", "cert_chain_of_trust", "heartbleed", "RC4"}
LONG_SECTIONS = SECTIONS | {"PFS", "cipher_order", "clientsimulation-openssl_303"}

# Of the clients that testssl.sh plays, those that a mail program may be or be built with. Browsers
# and others that were recorded with HTTP's ALPN are refused, as they should be.
CLIENTS = ("java_8u161", "java1703", "openssl_102e", "openssl_303", "libressl_283")


def make_signed(directory, kind):
    """A CA, and a certificate of its for the server; paths of CA, certificate and key."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    certificate, key, request = (directory / f"signed.{end}" for end in ("pem", "key", "csr"))
    extensions = directory / "extensions"
    extensions.write_text(f"subjectAltName=DNS:{NAME}\nbasicConstraints=CA:FALSE\n"
                          "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    openssl("req", "-x509", "-newkey", *KEYS[kind], "-nodes", "-days", "400", "-subj", "/CN=Test CA",
            "-addext", "keyUsage=critical,keyCertSign", "-keyout", ca_key, "-out", ca)
    openssl("req", "-newkey", *KEYS[kind], "-nodes", "-subj", f"/CN={NAME}", "-keyout", key,
            "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-days", "180",
            "-extfile", extensions, "-out", certificate)
    return ca, certificate, key


@pytest.fixture
def signed(server, tmp_path):
    """signed(kind): a server with a certificate of that kind, and its CA."""
    def make(kind, **settings):
        ca, certificate, key = make_signed(tmp_path, kind)
        return server(tls_certificate=certificate, tls_key=key, **settings), ca
    return make


def s_client(p, ca, tls, *arguments):
    """What openssl s_client says of a handshake, and whether it came about."""
    port = p.tls_port if tls else p.port
    result = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME,
         "-verify_hostname", NAME, "-verify_return_error", "-CAfile", ca,
         *(() if tls else ("-starttls", "pop3")), *arguments],
        input=b"QUIT\r\n", capture_output=True, timeout=60)
    return result.returncode == 0, (result.stdout + result.stderr).decode(errors="replace")


@pytest.mark.parametrize("tls", [False, True], ids=["stls", "tls"])
@pytest.mark.parametrize("kind", KEYS)
def test_s_client(signed, kind, tls):
    p, ca = signed(kind)
    cipher = f"ECDHE-{kind.upper()}-AES256-GCM-SHA384"
    for arguments, wanted in (
            (["-tls1_3", "-alpn", "pop3"], "ALPN protocol: pop3"),
            (["-tls1_2"], f"Cipher is {cipher}"),
            (["-tls1_2", "-cipher", cipher.replace("256", "128").replace("384", "256")],
             "Secure Renegotiation IS supported")):
        good, said = s_client(p, ca, tls, *arguments)
        assert good and wanted in said and "Verify return code: 0 (ok)" in said, said
    # The client's library must be willing to try what the server must refuse.
    old = "DEFAULT:@SECLEVEL=0"
    for arguments in (["-tls1_1", "-cipher", old], ["-tls1", "-cipher", old],
                      ["-tls1_2", "-cipher", "AES256-GCM-SHA384:@SECLEVEL=0"],
                      ["-tls1_2", "-cipher", "ECDHE+AES+SHA:@SECLEVEL=0"],
                      ["-tls1_2", "-cipher", "aNULL:eNULL:@SECLEVEL=0"],
                      ["-alpn", "h2"]):
        good, said = s_client(p, ca, tls, *arguments)
        assert not good and "alert" in said, (arguments, said)


def test_ciphers_of_ones_own(signed):
    """Old clients know no curves: what is there for them works in the sandbox, too."""
    p, ca = signed("rsa", tls_ciphers="ECDHE+AESGCM:DHE+AESGCM")
    cipher = "DHE-RSA-AES256-GCM-SHA384"
    good, said = s_client(p, ca, True, "-tls1_2", "-cipher", cipher)
    assert good and f"Cipher is {cipher}" in said, said


def scan(p, ca, tls, directory, *sections):
    """testssl.sh's findings by their names."""
    file = directory / "findings.json"
    port = p.tls_port if tls else p.port
    result = subprocess.run(
        ["testssl", "--jsonfile", file, "--nodns", "none", "--ip", "127.0.0.1", "--add-ca", ca,
         "--warnings", "off", "--color", "0", "--openssl-timeout", "20", "--connect-timeout", "20",
         *(() if tls else ("-t", "pop3")), *sections, f"{NAME}:{port}"],
        cwd=directory, env=os.environ | {"HOME": str(directory), "OPENSSL": "/usr/bin/openssl"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400)
    print(result.stdout)
    return {finding["id"]: finding for finding in json.loads(file.read_text())}


ALL = [(tls, kind) for tls in (False, True) for kind in KEYS]


@pytest.mark.parametrize("tls, kind", ALL if LONG else [(False, "rsa"), (True, "ecdsa")],
                         ids=lambda v: v if isinstance(v, str) else "tls" if v else "stls")
def test_testssl(signed, tls, kind, tmp_path):
    """Protocols, ciphers, the certificate, vulnerabilities; with LONG=1 everything."""
    p, ca = signed(kind)
    found = scan(p, ca, tls, tmp_path, *([] if LONG else ["-p", "-s", "-S", "-U"]))
    missing = (LONG_SECTIONS if LONG else SECTIONS) - set(found)
    assert not missing, missing
    bad = [(f["severity"], f["id"], f["finding"]) for f in found.values()
           if f["severity"] not in ("OK", "INFO", "DEBUG") and f["id"] not in EXCEPTED]
    assert not bad, bad
    assert found["cert_chain_of_trust"]["finding"].startswith("passed")
    for client in CLIENTS if LONG else ():
        assert found[f"clientsimulation-{client}"]["finding"].startswith("TLSv1."), client
