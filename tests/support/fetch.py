"""Mail on both sides of a mail transport in the tests: what is sent, and what fetchmail then gets."""

import email
import subprocess

PASSWORDS = {"alice": "secret", "bob": "bob's own pass word", "carol": "carolcarol"}


def letter(subject, body="body\n", sender="carol@example.test"):
    text = (f"From: <{sender}>\nTo: <somebody@example.test>\nSubject: {subject}\n\n{body}")
    return text.replace("\n", "\r\n").encode()


def mail_of(p, user="alice"):
    """What fetchmail gets over POP3S, and takes away: parsed messages."""
    box = p.directory / "box"
    box.mkdir(exist_ok=True)
    mda = p.directory / "mda"
    mda.write_text(f"#!/bin/sh\nexec cat >$(mktemp {box}/XXXXXXXX)\n")
    mda.chmod(0o755)
    config = p.directory / "fetchmailrc"
    config.touch(0o600)
    config.write_text(f"""
set invisible
set idfile "{p.directory}/ids"
set pidfile "{p.directory}/pid"
poll localhost protocol POP3 port {p.tls_port} timeout 60 bad-header accept
  user {user} password "{PASSWORDS[user]}" ssl sslcertfile "{p.certificate}" sslcertck
  norewrite pass8bits fetchall
  mda "{mda}"
""")
    result = subprocess.run(["fetchmail", "--fetchmailrc", config, "--nosyslog"], timeout=100,
                            capture_output=True, text=True,
                            env={"HOME": str(p.directory), "FETCHMAILHOME": str(p.directory),
                                 "PATH": "/usr/bin:/bin"})
    assert result.returncode in (0, 1), result.stdout + result.stderr  # 1: there was none
    found = [email.message_from_bytes(path.read_bytes()) for path in sorted(box.iterdir())]
    for path in box.iterdir():
        path.unlink()
    return found


def bounced(p, user="carol"):
    """The one delivery report in a maildrop, from the null sender, as text."""
    report, = mail_of(p, user)
    assert report["Return-Path"] == "<>"
    assert report.get_content_type() == "multipart/report"
    return report.as_string()
