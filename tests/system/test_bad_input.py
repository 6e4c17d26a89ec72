"""Bad input: what is wrong with configuration, files, accounts, sockets and command lines is told
in one line that says what, where and what to do about it, with a status of sysexits, and nothing
half-started stays. Also the sockets that systemd passes, good ones and bad ones."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

import poplar
from logins import attempt_over, logged_in
from poplar import BUILD, make_certificate, wait_until

USAGE, DATAERR, NOINPUT, NOUSER, UNAVAILABLE = 64, 65, 66, 67, 69
OSFILE, CANTCREAT, NOPERM, CONFIG = 72, 73, 77, 78

MESSAGE = b"Subject: one\r\n\r\nbody\r\n"

STORE_USER = "poplar" if poplar.NAMESPACES else "mail"
root_only = pytest.mark.skipif(not poplar.ROOT, reason="needs root: it becomes another user")
without_root = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


@pytest.fixture
def broken(tmp_path):
    """A Poplar that is not started: each test breaks something first."""
    return poplar.Poplar(tmp_path)


def in_session(leader):
    """Processes of this session that still run: daemons' children do not leave theirs."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = open(f"/proc/{name}/stat").read().rsplit(")", 1)[1].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(name))
    return found


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def refused(p, status, *words, command=None, served=(), **options):
    """poplard ends by itself, with this status and one line that has these words in it. Nothing of
    it is left: no child, no control socket, no door (`served`: other servers' ports)."""
    before = set(os.listdir(p.run)) if p.run.is_dir() else set()
    process = subprocess.Popen([str(word) for word in command or p.command()],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True, **options)
    try:
        out, error = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"poplard did not end: {process.communicate()[1]}")
    assert out == ""
    # What this kernel lacks for the sandbox may be told beside it.
    error = re.sub(r"poplard: nursery: workers run without: .*\n", "", error)
    assert len(error.splitlines()) == 1, error
    assert error.startswith("poplard: ")
    for word in words:
        assert str(word) in error, error
    assert process.returncode == status, error
    wait_until(lambda: not in_session(process.pid), "its children are gone")
    assert (set(os.listdir(p.run)) if p.run.is_dir() else set()) == before
    assert [port for port in (p.port, p.tls_port) if listening(port)] == list(served)
    return error


def place(p, setting):
    """FILE:LINE of a setting as it stands in the configuration."""
    lines = p.config.read_text().splitlines()
    return f"{p.config}:{lines.index(setting) + 1}: "


def starts_again(p):
    """With the default settings; the proof that what was refused spoilt nothing."""
    with p:
        client = p.login()
        assert client.stat() == (0, 0)
        client.quit()


# The configuration.

@pytest.mark.parametrize("text, words", [
    ("[server]\nstatedir=/x\n", ("[server] statedir: no such key", "state_dir")),
    ("[tls]\ncert=/x\n", ("[tls] cert: no such key", "certificate")),
    ("[tls x]\nminimum=TLSv1.3\n", ("[tls x] minimum: no such key", "certificate, key")),
    ("[server]\npam_service=x\n", ("[server] pam_service: no such key", "belongs in [auth]")),
    ("[sever]\nhostname=x\n", ("[sever]: no such section", "server")),
    ("[Server]\nhostname=x\n", ("[Server]: no such section", "server")),
    ("[server x]\nhostname=x\n", ("[server x]: no such section",)),
    ("[domain]\npam_service=x\n", ("[domain]: no such section", "domain NAME")),
    ("[server]\nhostname\n", ("neither [section] nor key=value",)),
    ("[server]\nhostname=\n", ("hostname=: must not be empty",)),
    ("[server]\nstate_dir=state\n", ("state_dir=state: must be an absolute path",)),
    ("[server]\nlog_to=file\n", ("log_to=file: must be one of auto, journal, syslog, stderr",)),
    ("[auth]\nfirst_uid=many\n", ("first_uid=many: not a whole number",)),
    ("[auth]\nfirst_uid=-1\n", ("first_uid=-1: not a whole number",)),
    ("[auth]\nfirst_uid=0\n", ("first_uid=0: must be between 1 and",)),
    ("[auth]\ntimeout=5 minutes\n", ("timeout=5 minutes: not a time such as 30s",)),
    ("[auth]\nsession=true\n", ("session=true: must be yes or no",)),
    ("[auth]\npam_service=/etc/pam.d/x\n", ("must be a file name, not a path",)),
    ("[domain x.test]\npam_service=a/b\n", ("[domain x.test] pam_service=a/b",)),
    ("[auth]\nprocesses_min=40\n", ("processes_min is larger than processes_max",)),
    ("[workers]\nidle_min=40\n", ("idle_min is larger than idle_max",)),
    ("[workers]\nidle_max=1\n", ("idle_min is larger than idle_max",)),
    ("[store]\nmax_message=50MB\n", ("max_message=50MB: not a size such as",)),
    ("[store]\nmax_message=99999999999999999999\n", ("not a size such as",)),
    ("[store]\nquota_messages=1 # per user\n", ("not a whole number",)),
    ("[server]\nhostname=" + "x" * 300 + "\n", ("line longer than 198 octets",)),
    ("[server]\nhostname=a\0b\n", ("not a text file",)),
    ("[tls second]\ncertificate=/c\n", ("certificate is set without key",)),
], ids=lambda value: value.split("\n")[1].replace("\0", "NUL")[:24] if isinstance(value, str) else "")
@pytest.mark.parametrize("crlf", [False, True], ids=["lf", "crlf"])
def test_setting(broken, text, words, crlf):
    """The last line of the file is at fault, and is named."""
    good = broken.config.read_text()
    whole = good + text
    broken.config.write_bytes(whole.replace("\n", "\r\n" if crlf else "\n").encode())
    line = f"{broken.config}:{whole.count(chr(10))}: "
    error = refused(broken, CONFIG, line, *words)
    assert "\r" not in error
    if not crlf:
        check = refused(broken, CONFIG, command=[*broken.command(), "--check"])
        assert check == error
        ctl = subprocess.run([BUILD / "poplarctl", "--config", broken.config, "status"],
                             capture_output=True, text=True)
        assert ctl.returncode == CONFIG
        assert ctl.stderr.partition(": ")[2] == error.partition(": ")[2]


def test_first_mistake_is_told(broken):
    """A section that is not closed makes what follows it wrong too; it is the one to mend."""
    broken.config.write_text("[server\nhostname=x\n[auth]\nnonsense=1\n")
    refused(broken, CONFIG, f"{broken.config}:1: neither [section]")


def test_settings_before_a_section(broken):
    broken.config.write_text("hostname=x\n" + broken.config.read_text())
    refused(broken, CONFIG, f"{broken.config}:1: stands below no [section]", "server")


def test_snippet_is_named(broken, tmp_path):
    """Of poplar.conf.d, the file at fault; of several, the first."""
    snippets = tmp_path / "poplar.conf.d"
    snippets.mkdir()
    (snippets / "10-fine.conf").write_text("[auth]\nfirst_uid=500\n")
    (snippets / "20-bad.conf").write_text("# a comment\n[auth]\nfirst_gid=500\n")
    (snippets / "30-worse.conf").write_text("nonsense\n")
    refused(broken, CONFIG, f"{snippets}/20-bad.conf:3: [auth] first_gid: no such key",
            "first_uid")
    (snippets / "30-worse.conf").unlink()
    (snippets / "20-bad.conf").write_text("[workers]\nidle_max=2\n")
    refused(broken, CONFIG, f"{snippets}/20-bad.conf:2: [workers] idle_min is larger")


def test_config_of_an_odd_name(broken, tmp_path):
    """A pattern to a shell, a name to us: the snippets beside it are read."""
    odd = tmp_path / "a[b]*"
    (odd / "poplar.conf.d").mkdir(parents=True)
    config = broken.config.rename(odd / "poplar.conf")
    (odd / "poplar.conf.d/10-x.conf").write_text("[auth]\nfirst_gid=1\n")
    refused(broken, CONFIG, f"{odd}/poplar.conf.d/10-x.conf:2: [auth] first_gid: no such key",
            command=[BUILD / "poplard", "--config", config, "--check"])


def test_config_by_a_link(broken, tmp_path):
    """FILE.d is beside the name that was given, for a check, a start and a reload alike; and that name
    is read again, wherever it leads by then."""
    (tmp_path / "v1").mkdir()
    kept = tmp_path / "v1/kept.conf"
    broken.config.rename(kept)
    broken.config.symlink_to("v1/kept.conf")
    snippets = tmp_path / "poplar.conf.d"
    snippets.mkdir()
    (snippets / "10-x.conf").write_text("[auth]\nfirst_gid=1\n")
    words = f"{snippets}/10-x.conf:2: [auth] first_gid: no such key"
    assert refused(broken, CONFIG, words).splitlines() == checked(broken)
    (snippets / "10-x.conf").write_text("[server]\nlog_level=debug\nhostname=other.example.test\n")
    with broken:
        assert b"other.example.test" in broken.connect(greeting=False).line()
        (tmp_path / "v1").rename(tmp_path / "v2")
        broken.config.unlink()
        broken.config.symlink_to("v2/kept.conf")
        broken.ctl("reload")
        broken.login().quit()


def test_config_by_a_relative_name(broken, tmp_path):
    """It goes on to be the one that was meant."""
    with broken.config.open("a") as config:
        config.write("[auth]\nfirst_uid=0\n")
    refused(broken, CONFIG, "poplar.conf:", "first_uid=0",
            command=[BUILD / "poplard", "--config", "poplar.conf"], cwd=tmp_path)
    broken.write_config()
    broken.command = lambda *a: ["env", "-C", tmp_path, BUILD / "poplard", "--config", "poplar.conf", *a]
    with broken:
        broken.write_config(auth_first_uid="0")
        failed = broken.ctl("reload", check=False)
        assert failed.returncode == CONFIG and str(broken.config).encode() in failed.stderr


@pytest.mark.parametrize("octets", [b"", b"# nothing is set\n"], ids=["empty", "comment"])
def test_nothing_configured(broken, octets):
    broken.config.write_bytes(octets)
    refused(broken, CONFIG, broken.config, "[tls] certificate and key are not set", "required=")


@pytest.mark.parametrize("octets", [b"\0\xff\0garbage" * 10, b"\x7fELF\2\1\1\0" * 64],
                         ids=["noise", "program"])
def test_no_text_file(broken, octets):
    broken.config.write_bytes(octets)
    refused(broken, CONFIG, f"{broken.config}:1: ", "not a text file")


def test_no_utf_8(broken):
    """The journal would show such a line as a blob, and a terminal would obey."""
    with broken.config.open("ab") as config:
        config.write(b"[server]\ncaf\xe9\x1b=1\n")
    refused(broken, CONFIG, "[server] caf??: no such key")


def test_no_config(broken, tmp_path):
    poplard = BUILD / "poplard"
    refused(broken, CONFIG, "/nonexistent/p.conf: No such file",
            command=[poplard, "--config", "/nonexistent/p.conf"])
    refused(broken, CONFIG, f"{tmp_path}: Is a directory; name the file",
            command=[poplard, "--config", tmp_path])
    if not os.path.exists("/etc/poplar/poplar.conf"):
        refused(broken, CONFIG, "/etc/poplar/poplar.conf: No such file", "--config",
                command=[poplard])


def make_special(path, kind):
    """What is at a place where a file should be: to open a FIFO waits for who writes into it, a
    device need not have an end."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_config_that_is_no_file(broken, kind):
    """A start and who asks for one do not wait for it; nor does a reload, which changes nothing."""
    whole = broken.config.read_text()
    broken.config.unlink()
    make_special(broken.config, kind)
    words = f"{broken.config}: not a regular file; put one there, or name another"
    refused(broken, CONFIG, words)
    for program, argument, status in (("poplard", "--check", CONFIG), ("poplarctl", "status", CONFIG),
                                      ("poplar-deliver", "alice", os.EX_TEMPFAIL)):
        done = subprocess.run([BUILD / program, "--config", broken.config, argument],
                              capture_output=True, input="", text=True, timeout=60)
        assert done.returncode == status and words in done.stderr, done
    broken.config.unlink()
    broken.config.write_text(whole)
    snippets = broken.directory / "poplar.conf.d"
    snippets.mkdir()
    with broken:
        make_special(snippets / "10-x.conf", kind)
        done = broken.ctl("reload", check=False, timeout=60)
        assert done.returncode == CONFIG
        assert f"{snippets}/10-x.conf: not a regular file".encode() in done.stderr
        broken.login().quit()


@root_only
def test_unreadable_config(broken):
    broken.config.chmod(0o600)
    refused(broken, CONFIG, f"{broken.config}: Permission denied; run this as root",
            command=[*without_root, *broken.command()])


@pytest.mark.parametrize("arguments, words", [
    (["--chek"], ("--chek", "--help")),
    (["-x"], ("-x", "--help")),
    (["--check=yes"], ("--check=yes", "--help")),
    (["--config"], ("--config needs a value", "--help")),
    (["start"], ("unexpected argument 'start'", "--help")),
])
def test_options(broken, arguments, words):
    refused(broken, USAGE, *words, command=[BUILD / "poplard", *arguments])
    refused(broken, USAGE, *words, command=[*broken.command(), *arguments])


# Certificates and keys.

def test_certificate_without_key(broken):
    broken.write_config(tls_key=None)
    refused(broken, CONFIG, place(broken, f"certificate={broken.certificate}"),
            "[tls] certificate is set without key")
    broken.write_config(tls_key=broken.key, tls_certificate=None)
    refused(broken, CONFIG, place(broken, f"key={broken.key}"),
            "[tls] key is set without certificate")


def test_second_certificate_alone(broken):
    pair = f"[tls second]\ncertificate={broken.certificate}\nkey={broken.key}\n"
    broken.write_config(tls_key=None, tls_certificate=None, extra=pair)
    refused(broken, CONFIG, place(broken, f"certificate={broken.certificate}"),
            "[tls second]: set certificate and key in [tls] first")


def test_tls_port_without_certificate(broken):
    broken.write_config(tls_key=None, tls_certificate=None, tls_required="no")
    refused(broken, CONFIG, place(broken, f"pop3s=127.0.0.1:{broken.tls_port}"),
            "[listen] pop3s: needs a certificate", "remove pop3s")
    # Where nobody asked for it, the TLS port is left out.
    broken.write_config(listen_pop3s=None)
    with broken:
        raw = broken.connect(tls=False)
        assert raw.ask(b"USER alice").startswith(b"+OK")
        assert raw.ask(b"PASS secret").startswith(b"+OK")
        raw.ask(b"QUIT")
        assert not listening(995)


UNSEEN = "(if it is there: poplar.service sees nothing of /root, /home and /tmp)"


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_missing_file(broken, which, tmp_path):
    """What lies in /tmp may well be there for who looks, and not for the service."""
    missing = tmp_path / "missing.pem"
    broken.write_config(**{f"tls_{which}": missing})
    refused(broken, CONFIG, place(broken, f"{which}={missing}"),
            f"[tls] {which}={missing}: No such file or directory; put it there", UNSEEN)
    elsewhere = f"/etc/{missing.name}"
    broken.write_config(**{f"tls_{which}": elsewhere})
    assert UNSEEN not in refused(broken, CONFIG, place(broken, f"{which}={elsewhere}"))
    broken.write_config(**{f"tls_{which}": tmp_path})
    refused(broken, CONFIG, place(broken, f"{which}={tmp_path}"), "not a file")
    os.mkfifo(missing)  # nobody writes to it: opening it must not wait for that
    broken.write_config(**{f"tls_{which}": missing})
    refused(broken, CONFIG, place(broken, f"{which}={missing}"), "not a file")
    missing.unlink()
    make_special(missing, "socket")
    refused(broken, CONFIG, place(broken, f"{which}={missing}"), "not a file")


@pytest.mark.parametrize("octets", [b"", b"this is none\n", b"\0\xff" * 4096],
                         ids=["empty", "text", "binary"])
def test_garbage(broken, tmp_path, octets):
    garbage = tmp_path / "garbage"
    garbage.write_bytes(octets)
    broken.write_config(tls_certificate=garbage)
    refused(broken, CONFIG, place(broken, f"certificate={garbage}"), "no PEM certificate")
    broken.write_config(tls_certificate=broken.certificate, tls_key=garbage)
    refused(broken, CONFIG, place(broken, f"key={garbage}"), "no PEM private key")


def test_key_of_another_certificate(broken, tmp_path):
    key = make_certificate(tmp_path, "other.example.test")[1]
    broken.write_config(tls_key=key)
    refused(broken, CONFIG, place(broken, f"key={key}"), "does not belong to", broken.certificate)
    broken.write_config(tls_key=broken.key)
    starts_again(broken)


def test_certificate_and_key_swapped(broken):
    broken.write_config(tls_certificate=broken.key, tls_key=broken.certificate)
    refused(broken, CONFIG, place(broken, f"certificate={broken.key}"), "no PEM certificate")


def test_key_with_passphrase(broken, tmp_path):
    key = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkey", "-in", broken.key, "-aes128", "-passout", "pass:secret",
                    "-out", key], check=True, capture_output=True)
    broken.write_config(tls_key=key)
    refused(broken, CONFIG, place(broken, f"key={key}"), "passphrase", "openssl pkey")


def test_second_certificate_damaged(broken, tmp_path):
    """Of [tls NAME], too, the line is told."""
    extra = f"[tls second]\ncertificate={broken.certificate}\nkey={tmp_path}/none.key\n"
    broken.write_config(extra=extra)
    refused(broken, CONFIG, place(broken, f"key={tmp_path}/none.key"), "[tls second] key=")


def test_ciphers(broken):
    broken.write_config(tls_ciphers="NONSENSE")
    refused(broken, CONFIG, place(broken, "ciphers=NONSENSE"), "openssl ciphers")


@pytest.mark.skipif(poplar.ROOT and not shutil.which("setpriv"), reason="needs setpriv")
def test_key_that_may_not_be_read(broken):
    """Without root, the usual mistake of a developer, and of who hardens a service by User=."""
    mine = ()
    broken.write_config(listen_lmtp="")  # its directory is root's
    if poplar.ROOT:
        broken.config.chmod(0o644)
        mine = without_root
    broken.key.chmod(0o000)
    refused(broken, CONFIG, place(broken, f"key={broken.key}"),
            "Permission denied; start poplard as root (no User= in its unit)",
            command=[*mine, *broken.command()])


# Directories, accounts, programs.

def test_state_dir_missing(broken, tmp_path):
    missing = tmp_path / "none"
    broken.write_config(server_state_dir=missing)
    error = refused(broken, CONFIG, place(broken, f"state_dir={missing}"),
                    f"state_dir={missing}: No such file or directory", UNSEEN)
    if not poplar.ROOT:
        return
    remedy = re.search(r"make it: (install .*) \(", error)[1]  # as told, and it works
    subprocess.run(remedy, shell=True, check=True)
    starts_again(broken)


def test_state_dir_is_a_file(broken):
    broken.write_config(server_state_dir=broken.key)
    refused(broken, CONFIG, place(broken, f"state_dir={broken.key}"), "Not a directory")


def test_state_dir_mode(broken):
    for mode in (0o720, 0o702, 0o777):
        broken.state.chmod(mode)
        error = refused(broken, CONFIG, place(broken, f"state_dir={broken.state}"),
                        f"mode {mode:04o}")
    subprocess.run(error.rpartition("; ")[2], shell=True, check=True)
    starts_again(broken)


@root_only
def test_state_dir_owner(broken):
    os.chown(broken.state, 0, 0)
    error = refused(broken, CONFIG, place(broken, f"state_dir={broken.state}"),
                    "belongs to uid 0, not to", "if this is for maildrops only: chown")
    subprocess.run(error.partition("maildrops only: ")[2], shell=True, check=True)
    starts_again(broken)


@root_only
@pytest.mark.parametrize("user", ["worker_user", "store_user"])
def test_users(broken, user):
    broken.write_config(**{f"server_{user}": "poplar-nobody"})
    refused(broken, CONFIG, place(broken, f"{user}=poplar-nobody"), f"[server] {user}=",
            "no such account", "useradd --system")
    broken.write_config(**{f"server_{user}": "root"})
    refused(broken, CONFIG, place(broken, f"{user}=root"), f"[server] {user}=root", "root")


@pytest.mark.parametrize("section", ["auth", "domain"])
def test_pam_service_missing(broken, section):
    if section == "auth":
        broken.write_config(auth_pam_service="missing")
    else:
        broken.write_config(extra="[domain x.test]\npam_service=missing\n")
    name = "[auth]" if section == "auth" else "[domain x.test]"
    refused(broken, CONFIG, place(broken, "pam_service=missing"), f"{name} pam_service=missing",
            f"{broken.confdir}/missing", "auth required")
    broken.stack("auth required pam_permit.so\naccount required pam_permit.so\n", "missing")
    starts_again(broken)


def test_pam_service_that_libpam_cannot_use(broken):
    """It would let nobody in, and says why to the log alone."""
    good = "auth required pam_permit.so\naccount required pam_permit.so\n"
    broken.stack("auht required pam_permit.so\n" + good)
    refused(broken, CONFIG, "[auth] pam_service=poplar: ", "illegal module type: auht")
    broken.stack(good)
    starts_again(broken)


def test_pam_confdir_missing(broken):
    broken.write_config(auth_pam_confdir="/nonexistent")
    refused(broken, CONFIG, place(broken, "pam_confdir=/nonexistent"), "no such directory")


def test_pam_service_of_the_system_missing(broken):
    """Nothing is set, and nothing is there: the place to put it is told."""
    broken.write_config(auth_pam_confdir=None, auth_pam_service="poplar-test-none")
    refused(broken, CONFIG, place(broken, "pam_service=poplar-test-none"),
            "/etc/pam.d/poplar-test-none")


@pytest.mark.parametrize("there", [(), ("poplar-worker",), ("poplar-auth",)],
                         ids=["none", "worker", "auth"])
def test_program_dir(broken, tmp_path, there):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in there:
        (programs / name).symlink_to(BUILD / name)
    broken.write_config(server_program_dir=programs)
    lacking = "poplar-auth" if "poplar-worker" in there else "poplar-worker"
    refused(broken, OSFILE, place(broken, f"program_dir={programs}"), f"{lacking}: No such file")


def test_program_not_executable(broken, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("poplar-auth", "poplar-worker"):
        (programs / name).write_text("not a program\n")
    broken.write_config(server_program_dir=programs)
    refused(broken, OSFILE, place(broken, f"program_dir={programs}"), "Permission denied")


@pytest.mark.parametrize("run_dir, word", [
    ("/proc/none", "No such file"), ("/nonexistent/a/b", "No such file"),
    ("/dev/null", "Not a directory"), ("/tmp/" + "x" * 150, "longer than the"),
], ids=["proc", "nonexistent", "file", "long"])
def test_run_dir(broken, run_dir, word):
    broken.write_config(server_run_dir=run_dir)
    refused(broken, CANTCREAT, place(broken, f"run_dir={run_dir}"), "[server] run_dir=", word,
            "name another path")
    broken.write_config(server_run_dir=broken.run)
    starts_again(broken)


def test_run_dir_with_a_file(broken):
    """In the place of poplarctl's socket. It is somebody's, and stays."""
    file = broken.run / "control"
    file.write_text("precious")
    refused(broken, CANTCREAT, place(broken, f"run_dir={broken.run}"), f"run_dir={broken.run}: ",
            "control: there is a file that is no socket; remove it")
    assert file.read_text() == "precious"
    file.unlink()
    starts_again(broken)


@root_only
@pytest.mark.parametrize("which", ["run_dir", "owner", "lmtp"])
def test_a_place_of_others(broken, tmp_path, which):
    """Who may put a socket in the place of poplard's gets the mail. A directory that containers share
    is open to all, so that this is told, and no more."""
    place_of = broken.run if which != "lmtp" else tmp_path / "elsewhere"
    place_of.mkdir(exist_ok=True)
    assert checked(broken) == []
    if which == "owner":
        os.chown(broken.run, 65534, 65534)
    else:
        place_of.chmod(0o777)
    said = f"[server] run_dir={broken.run}: "
    if which == "lmtp":
        broken.write_config(listen_lmtp=place_of / "lmtp.sock")
        said = f"[listen] lmtp={place_of}/lmtp.sock: "
    warned(broken, said + "others can put a socket in the place of poplard's", "a directory of root's")


def test_mail_that_others_may_read(broken):
    """Of a copy from elsewhere, say, whose files are as open."""
    broken.state.chmod(0o750)
    warned(broken, f"[server] state_dir={broken.state}: others may look into it (mode 0750)",
           f"chmod 0700 {broken.state}")


def warned(broken, said, remedy):
    """A check and a start tell it, and serve."""
    line, = checked(broken)
    assert said in line and remedy in line
    with broken:
        broken.wait_log(re.escape(said))
        broken.login().quit()


def test_second_poplard(broken, tmp_path):
    """On the same ports, and on the same run_dir; the first one goes on."""
    elsewhere = tmp_path / "second"
    elsewhere.mkdir()
    elsewhere.chmod(0o755)
    second = poplar.Poplar(elsewhere, server_run_dir=broken.run)
    second.run.rmdir()
    second.run = broken.run
    with broken:
        refused(broken, CONFIG, place(broken, f"pop3=127.0.0.1:{broken.port}"),
                "Address already in use; another server holds this port",
                served=(broken.port, broken.tls_port))
        refused(second, CANTCREAT, place(second, f"run_dir={broken.run}"),
                "control: another server holds this socket", "stop it")
        client = broken.login()
        client.quit()
        assert b"idle worker" in broken.ctl("status").stdout
    with second:
        second.login().quit()


# Addresses.

@pytest.mark.parametrize("key", ["pop3", "pop3s"])
@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999",
                                     "127.0.0.1:pop3", "localhost:1110", "[::1:1110", "::1:1110",
                                     "*", ":1110", "127.0.0.1:-1", "127.0.0.1:1110x",
                                     "127.0.0.1: 1110", "127.0.0.1:+1110"])
def test_bad_address(broken, key, address):
    broken.write_config(**{f"listen_{key}": address})
    refused(broken, CONFIG, place(broken, f"{key}={address}"), f"[listen] {key}={address}: must be")


@pytest.mark.parametrize("path, words", [
    ("poplar/lmtp.sock", "must be an absolute path"),
    ("/" + "x" * 107, "longer than the 107 octets that the path of a socket may have")])
def test_bad_path(broken, path, words):
    broken.write_config(listen_lmtp=path)
    refused(broken, CONFIG, place(broken, f"lmtp={path}"), f"[listen] lmtp={path}: {words}")


def test_a_path_twice(broken):
    path = broken.run / "twice.sock"
    broken.write_config(listen_lmtp=f"{path}, {path}")
    refused(broken, CONFIG, place(broken, f"lmtp={path}, {path}"),
            f"[listen] lmtp={path}: it is named twice under [listen]")


def test_foreign_address(broken):
    broken.write_config(listen_pop3="192.0.2.1:1110")
    refused(broken, CONFIG, place(broken, "pop3=192.0.2.1:1110"), "this host has no such address")


def test_mistakes_before_ports(broken):
    """What is wrong in the file is told whether or not its ports are free."""
    with socket.create_server(("127.0.0.1", broken.port)):
        broken.write_config(tls_certificate=None, tls_key=None)
        refused(broken, CONFIG, broken.config, "[tls] certificate and key are not set",
                served=(broken.port,))


def test_port_in_use(broken):
    with socket.create_server(("127.0.0.1", broken.tls_port)):
        refused(broken, CONFIG, place(broken, f"pop3s=127.0.0.1:{broken.tls_port}"),
                "Address already in use; another server holds this port: stop it",
                served=(broken.tls_port,))
    starts_again(broken)


def test_address_twice(broken):
    address = f"127.0.0.1:{broken.port}"
    broken.write_config(listen_pop3s=address)
    refused(broken, CONFIG, place(broken, f"pop3s={address}"), "named twice under [listen]")


def test_address_within_another(broken):
    broken.write_config(listen_pop3=f"*:{broken.port}", listen_pop3s=f"127.0.0.1:{broken.port}")
    refused(broken, CONFIG, place(broken, f"pop3s=127.0.0.1:{broken.port}"),
            "an address before it under [listen] has the port")


@root_only
def test_low_port_without_root(broken):
    broken.config.chmod(0o644)
    broken.write_config(listen_pop3="127.0.0.1:110")
    start = open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read()
    if int(start) <= 110:
        pytest.skip("anybody may bind low ports here")
    refused(broken, CONFIG, place(broken, "pop3=127.0.0.1:110"), "Permission denied",
            "need root, or a socket unit", command=[*without_root, *broken.command()])


def test_nothing_to_listen_on(broken):
    broken.write_config(listen_pop3="", listen_pop3s="")
    refused(broken, CONFIG, broken.config, "nothing to listen on: set [listen]")


# Sockets from systemd. The wrapper does what systemd does: it opens them, and becomes poplard.

WRAPPER = """
import fcntl, os, socket, sys

kinds = {"udp": (socket.AF_INET, socket.SOCK_DGRAM), "tcp": (socket.AF_INET, socket.SOCK_STREAM),
         "six": (socket.AF_INET6, socket.SOCK_STREAM), "deaf": (socket.AF_INET, socket.SOCK_STREAM),
         "unix": (socket.AF_UNIX, socket.SOCK_STREAM)}
names, held = [], []
for spec in sys.argv[1].split(","):
    name, kind, place = spec.split("=")
    s = socket.socket(*kinds[kind])
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == "six":
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(place if kind == "unix" else ("::" if kind == "six" else "127.0.0.1", int(place)))
    if kind not in ("udp", "deaf"):
        s.listen()
    held.append(fcntl.fcntl(s.detach(), fcntl.F_DUPFD, 100))
    names.append(name)
for number, fd in enumerate(held, 3):
    os.dup2(fd, number)
    os.close(fd)
os.environ |= {"LISTEN_FDS": str(len(names)), "LISTEN_PID": str(os.getpid()),
               "LISTEN_FDNAMES": ":".join(names)}
os.execv(sys.argv[2], sys.argv[2:])
"""


def activated(p, *sockets, **settings):
    """The command that starts poplard on these sockets: NAME=KIND=PORT."""
    own = p.command()
    p.write_config(listen_pop3=None, listen_pop3s=None, **settings)
    return [sys.executable, "-c", WRAPPER, ",".join(sockets), *own]


def test_activation(broken):
    """A session over each of the sockets that were passed; a reload keeps them; they are systemd's,
    so nobody else's listen addresses appear."""
    command = activated(broken, f"pop3=tcp={broken.port}", f"pop3s=tcp={broken.tls_port}")
    broken.command = lambda: command
    broken.add("alice", MESSAGE)
    with broken:
        for tls in (False, True):
            client = broken.login(tls=tls)
            assert client.stat()[0] == 1
            client.quit()
        held = [broken.connect(tls=tls) for tls in (False, True)]
        broken.ctl("reload")
        for raw in held:
            assert raw.ask(b"QUIT").startswith(b"+OK")
        for tls in (True, False):
            broken.login(tls=tls).quit()
        bad = broken.config.read_text() + "[server]\nnonsense=1\n"
        broken.config.write_text(bad)
        assert broken.ctl("reload", check=False).returncode == CONFIG
        broken.login().quit()


def test_activation_of_one_door(broken):
    """Only what was passed is served, not the built-in addresses too."""
    command = activated(broken, f"pop3s=tcp={broken.tls_port}")
    broken.command = lambda: command
    with broken:
        broken.login().quit()
        assert not listening(broken.port)


def test_activation_of_both_families(broken, tmp_path):
    """One socket for IPv6 and IPv4: a client of the latter has its own address in the log and for
    PAM, not a mapped one."""
    seen = tmp_path / "items"
    broken.stack(f"auth required @BUILD@/tests/pam_poplar_test.so items={seen}\n"
                 "account required pam_permit.so\n")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    command = activated(broken, f"pop3s=six={broken.tls_port}")
    broken.command = lambda: command
    with broken:
        broken.login().quit()
        assert "rhost=127.0.0.1 " in seen.read_text() or "rhost=::1 " in seen.read_text()
        for address, user in (("127.0.0.1", "alice"), ("::1", "bob")):
            raw = poplar.Raw(socket.create_connection((address, broken.tls_port), 20))
            raw.start_tls(broken.tls_context())
            assert raw.line().startswith(b"+OK")
            assert logged_in(attempt_over(raw, user, "secret"))
            assert f"rhost={address} " in seen.read_text()
        broken.wait_log(r"peer=127\.0\.0\.1:\d+")
        assert "::ffff" not in broken.log_text()


def test_activation_and_addresses(broken):
    for setting in ("pop3", "pop3s"):
        port = poplar.free_port()
        command = activated(broken, f"pop3=tcp={broken.port}")
        broken.config.write_text(broken.config.read_text() +
                                 f"[listen]\n{setting}=127.0.0.1:{port}\n")
        refused(broken, CONFIG, place(broken, f"{setting}=127.0.0.1:{port}"),
                "[listen] is set, and systemd passed sockets too", command=command)
        assert not listening(port)


@pytest.mark.parametrize("name", ["other", "connection", "unknown", "poplar.socket", "POP3"])
def test_activation_of_a_strange_name(broken, name):
    command = activated(broken, f"pop3=tcp={broken.port}", f"{name}=tcp={broken.tls_port}")
    refused(broken, CONFIG, f"'{name}'", "FileDescriptorName=pop3, pop3s or lmtp", command=command)


@pytest.mark.parametrize("kind", ["udp", "unix", "deaf"])
def test_activation_of_no_listener(broken, kind, tmp_path):
    """Nothing that accept() would fail on for ever."""
    where = tmp_path / "socket" if kind == "unix" else broken.port
    command = activated(broken, f"pop3={kind}={where}")
    refused(broken, CONFIG, "'pop3'", "ListenStream=", command=command)


def test_activation_without_certificate(broken):
    command = activated(broken, f"pop3s=tcp={broken.tls_port}", tls_certificate=None,
                        tls_key=None, tls_required="no")
    refused(broken, CONFIG, broken.config, "pop3s", "needs a certificate", command=command)


def test_sockets_for_another_process(broken):
    """LISTEN_PID of a parent: they are not for poplard, which opens its own."""
    os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "pop3"}
    try:
        starts_again(broken)
    finally:
        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            del os.environ[name]


# poplard --check.

def checked(p, *command):
    """What --check says, a line each."""
    result = subprocess.run([*command, *p.command("--check")], capture_output=True, text=True)
    lines = result.stderr.splitlines()
    assert (result.returncode == 0) == (result.stdout == f"{p.config}: no errors\n")
    assert result.returncode in (0, CONFIG)
    return lines


def test_check_of_what_is_good(broken):
    assert checked(broken) == []
    assert os.listdir(broken.run) == []


@pytest.mark.parametrize("settings, words", [
    ({"server_worker_user": "nosuchuser"}, ("worker_user=nosuchuser: no such account", "useradd")),
    ({"server_worker_user": "root"}, ("worker_user=root: is root, or in root's group; name an",)),
    ({"server_store_user": "nosuchuser"}, ("store_user=nosuchuser: no such account", "useradd")),
    ({"server_store_user": "root"}, ("store_user=root: is root",)),
    ({"server_state_dir": "/nonexistent"}, ("state_dir=/nonexistent: No such file", "install -d")),
    ({"server_state_dir": "/etc"}, ("state_dir=/etc: must be a directory that is", "chown")),
    ({"server_program_dir": "/etc"}, ("program_dir=/etc: poplar-worker: No such file",)),
    ({"auth_pam_service": "nosuchservice"}, ("pam_service=nosuchservice: no readable file",)),
    ({"extra": "[domain x.test]\npam_service=other\n"}, ("[domain x.test] pam_service=other",)),
    ({"tls_certificate": "/nonexistent"}, ("[tls] certificate=/nonexistent: No such file",)),
    ({"tls_key": "/etc"}, ("[tls] key=/etc: not a file; name the PEM file",)),
    ({"tls_client_ca": "/nonexistent"}, ("[tls] client_ca=/nonexistent: No such file",)),
    ({"tls_client_ca": sys.executable}, ("[tls] client_ca=", ": more than 1 MiB; name the PEM",)),
    ({"listen_pop3": "localhost:110"}, ("pop3=localhost:110: must be ADDRESS:PORT",)),
    ({"tls_certificate": None, "tls_key": None, "listen_pop3s": None},
     (": [tls] certificate and key are not set",)),
    ({"listen_lmtp": "lmtp.sock"}, ("lmtp=lmtp.sock: must be an absolute path",)),
    ({"auth_throttle_exempt": "localhost"}, ("throttle_exempt=localhost: must be an address",)),
    ({"listen_proxy_from": "192.0.2.0/ 24"}, ("proxy_from=192.0.2.0/ 24: must be an address",)),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_check_finds(broken, settings, words):
    """What a start would stumble over, in its words, with the line it stands in."""
    broken.write_config(**settings)
    line, = checked(broken)
    assert line.startswith(f"poplard: {broken.config}:"), line
    for word in words:
        assert word in line, line
    assert os.listdir(broken.run) == []


def test_check_finds_all(broken):
    """Not only the first."""
    broken.write_config(server_state_dir="/nonexistent", tls_key="/nonexistent",
                        auth_pam_service="nosuchservice")
    assert len(checked(broken)) == 3


@root_only
def test_check_without_root(broken):
    """What cannot be seen is no fault, but is named."""
    broken.key.chmod(0o600)
    broken.config.chmod(0o644)
    line, = checked(broken, *without_root)
    assert line == f"poplard: {broken.key}: only root can check this"
    broken.write_config(tls_client_ca="/etc", auth_mechanisms="external")
    broken.config.chmod(0o644)
    lines = checked(broken, *without_root)
    assert len(lines) == 2 and "client_ca=/etc: not a file" in lines[1], lines


def test_external_for_nobody(broken):
    """Without issuers of certificates no client is offered it: no way in at all is a mistake, one
    beside others is worth a word. So are issuers of whom nobody hears."""
    broken.write_config(auth_mechanisms="external")
    words = (place(broken, "mechanisms=external"),
             "[auth] mechanisms=external: no client can use it without [tls] client_ca")
    error = refused(broken, CONFIG, *words, "name the issuers' file")
    assert error.splitlines() == checked(broken)
    broken.write_config(tls_client_ca=broken.certificate)
    assert checked(broken) == []
    broken.write_config(auth_mechanisms="external, plain", tls_client_ca=None)
    line, = checked(broken)
    assert line.startswith(f"poplard: {place(broken, 'mechanisms=external, plain')}")
    assert words[1] in line
    with broken:
        broken.wait_log(re.escape(words[1]))
        broken.login().quit()
        broken.write_config(auth_mechanisms="plain", tls_client_ca=broken.certificate)
        line, = checked(broken)
        assert "client_ca" in line and "keeps nobody out" in line
        broken.ctl("reload")
        broken.wait_log("keeps nobody out")


def test_check_of_a_service_that_is_none(broken):
    """A start would say the same, see test_pam.c."""
    (broken.confdir / "odd").mkdir()
    broken.write_config(auth_pam_service="odd")
    line, = checked(broken)
    assert "[auth] pam_service=odd: no readable file" in line
    (broken.confdir / "odd").rmdir()
    (broken.confdir / "odd").write_text("auth required pam_permit.so\n")
    line, = checked(broken)
    assert "[auth] pam_service=odd: the service has no account line" in line


@root_only
@pytest.mark.parametrize("user, what", [("root", "is root"), (STORE_USER, "is store_user, too")])
def test_a_worker_user_with_power(broken, user, what):
    """Workers are nobody's who owns anything; a check and a start say so alike."""
    broken.write_config(server_worker_user=user)
    line, = checked(broken)
    assert f"worker_user={user}: {what}" in line and "for this alone" in line
    refused(broken, CONFIG, f"worker_user={user}: {what}", "an account that is for this alone")


@pytest.mark.accounts
def test_a_worker_user_in_roots_group(broken):
    subprocess.run(["useradd", "--system", "--no-create-home", "--gid", "root", "grouped"], check=True)
    try:
        broken.write_config(server_worker_user="grouped")
        line, = checked(broken)
        assert "worker_user=grouped: is root, or in root's group; name an account" in line
        refused(broken, CONFIG, "worker_user=grouped: is root, or in root's group; name an account")
    finally:
        subprocess.run(["userdel", "grouped"], check=True, capture_output=True)


# poplarctl.

def ctl(p, status, *arguments, words=(), caller=(), **options):
    """One line on stderr with these words, this status, nothing on stdout."""
    command = [*caller, BUILD / "poplarctl", "--config", p.config, *arguments]
    r = subprocess.run([str(word) for word in command], capture_output=True,
                       **({"input": MESSAGE} | options))
    error = r.stderr.decode()
    assert len(error.splitlines()) == 1, error
    assert error.startswith("poplarctl: ")
    for word in words:
        assert str(word) in error, error
    assert r.stdout == b""
    assert r.returncode == status, error
    return error


@pytest.mark.parametrize("arguments, words", [
    ([], ("no command", "--help")),
    (["statsu"], ('"statsu"', 'did you mean "status"')),
    (["sttus"], ('did you mean "status"',)),
    (["mesage", "list", "alice"], ('did you mean "message list"',)),
    (["message", "lits", "alice"], ('did you mean "message list"',)),
    (["list", "alice"], ('did you mean "message list"',)),
    (["message"], ("message needs one of: add, list",)),
    (["message", "frobnicate", "x"], ("add, list",)),
    (["frobnicate"], ('no command "frobnicate"', "--help")),
    (["--jsn", "status"], ('did you mean "--json"',)),
    (["-x"], ('"-x"', "--help")),
    (["status", "now"], ("usage: poplarctl status",)),
    (["status", "--crlf"], ("status takes no --crlf",)),
    (["import", "alice"], ("usage: poplarctl import USER PATH",)),
    (["user"], ("usage: poplarctl user USER",)),
    (["export", "alice"], ("usage: poplarctl export USER DIR",)),
    (["import", "--format"], ("--format needs a value",)),
    (["import", "--format", "zip", "alice", "/dev/null"], ("eml, mbox, maildir or cyrus",)),
    (["help", "statsu"], ('did you mean "status"',)),
])
def test_ctl_usage(broken, arguments, words):
    ctl(broken, USAGE, *arguments, words=words)


@pytest.mark.parametrize("user", [".", "..", "a/b", "../../etc/x", "x" * 251, "a\tb", "a\nb"],
                         ids=lambda user: repr(user)[:20])
@pytest.mark.parametrize("command", [["user"], ["message", "list"], ["message", "add"]],
                         ids=" ".join)
def test_ctl_names_that_are_none(broken, user, command):
    error = ctl(broken, NOUSER, *command, user, words=("cannot be a user",))
    assert "\t" not in error  # nothing raw on a terminal
    assert os.listdir(broken.state) == []


def test_ctl_unknown_user(broken, tmp_path):
    """By the rules of a login: with accounts required, no maildrop is made for anybody else."""
    broken.write_config(auth_require_nss="yes", auth_canonical="nss")
    for command in (["user", "nosuch"], ["message", "add", "nosuch"], ["message", "list", "nosuch"],
                    ["import", "nosuch", broken.config], ["export", "nosuch", tmp_path / "out"]):
        ctl(broken, NOUSER, *command, words=("nosuch: no such account", "require_nss"))
    for command in (["user", "root"], ["message", "add", "root"]):
        ctl(broken, NOUSER, *command, words=("uid 0 never has a maildrop",))
    for command in (["user", "daemon"], ["message", "add", "daemon"]):
        ctl(broken, NOUSER, *command, words=("below [auth] first_uid=1000", "set"))
    assert os.listdir(broken.state) == []


def test_ctl_no_maildrop(broken, tmp_path):
    for command in (["message", "list", "alice"], ["export", "alice", tmp_path / "out"]):
        ctl(broken, NOUSER, *command, words=("alice: no maildrop yet",))
    assert not (tmp_path / "out").exists()


def test_ctl_missing_files(broken, tmp_path):
    """A mistyped path among good ones: nothing is imported."""
    good = tmp_path / "good.eml"
    good.write_bytes(MESSAGE)
    missing = tmp_path / "mising.eml"
    ctl(broken, NOINPUT, "import", "alice", missing,
        words=(f"{missing}: No such file", "nothing was imported"))
    ctl(broken, NOINPUT, "import", "alice", good, missing, words=(missing,))
    ctl(broken, DATAERR, "import", "alice", tmp_path, words=("no Maildir", "cur/"))
    ctl(broken, DATAERR, "import", "--format=mbox", "alice", good, words=("no mbox",))
    ctl(broken, DATAERR, "message", "add", "alice", input=b"", words=("standard input: empty",))
    assert os.listdir(broken.state) == []


def test_ctl_export_nowhere(broken, tmp_path):
    broken.add("alice", MESSAGE)
    ctl(broken, CANTCREAT, "export", "alice", "/proc/none/out", words=("/proc/none/out",))
    ctl(broken, CANTCREAT, "export", "alice", broken.key, words=(broken.key,))


@root_only
def test_ctl_not_allowed(broken, tmp_path):
    """Somebody without rights gets told whom to be; nothing is done."""
    tmp_path.chmod(0o755)
    (tmp_path / "good.eml").write_bytes(MESSAGE)
    with broken:
        broken.add("alice", MESSAGE)
        for command in (["message", "list", "alice"], ["message", "add", "alice"],
                        ["import", "alice", tmp_path / "good.eml"],
                        ["export", "alice", "/tmp/none"]):
            ctl(broken, NOPERM, *command, caller=without_root, words=("run poplarctl as root",))
        for command in ("status", "reload"):
            ctl(broken, NOPERM, command, caller=without_root, words=("run poplarctl as root",))
        assert len(broken.ctl("message", "list", "alice").stdout.splitlines()) == 3
        assert b"uidl" in broken.ctl("--json", "message", "list", "alice").stdout


def test_ctl_without_server(broken):
    for command in ("status", "reload"):
        ctl(broken, UNAVAILABLE, command, words=(f"{broken.run}/control", "start it first"))
    with broken:
        broken.stop(9)  # its socket stays behind
    for command in ("status", "reload"):
        ctl(broken, UNAVAILABLE, command, words=(f"{broken.run}/control", "start it first"))
    starts_again(broken)


def test_ctl_config(broken, tmp_path):
    missing = tmp_path / "none.conf"
    good = broken.config
    broken.config = missing
    ctl(broken, CONFIG, "status", words=(f"{missing}: No such file",))
    broken.config = tmp_path
    ctl(broken, CONFIG, "status", words=(f"{tmp_path}: Is a directory",))
    broken.config = good
    broken.write_config(server_state_dir=tmp_path / "none")
    ctl(broken, CONFIG, "message", "add", "alice",
        words=(place(broken, f"state_dir={tmp_path}/none"), "make it: install"))
    broken.write_config(server_state_dir=broken.state)
    if poplar.ROOT:
        broken.write_config(server_store_user="poplar-nobody")
        ctl(broken, CONFIG, "message", "list", "alice",
            words=(place(broken, "store_user=poplar-nobody"), "no such account"))


def test_ctl_output_that_fails(broken):
    """A full disk behind standard output is no success."""
    broken.add("alice", MESSAGE)
    with open("/dev/full", "wb") as full:
        r = subprocess.run([BUILD / "poplarctl", "--config", broken.config, "message", "list",
                            "alice"], stdout=full, stderr=subprocess.PIPE)
    assert r.returncode == 74
    assert b"standard output: No space left" in r.stderr
