"""POP3 servers that people move away from, each run from its tree, filled and read by the tests."""

import contextlib
import os
import poplib
import pwd
import re
import smtplib

from poplar import corpus, free_port
from trees import Tree

PASSWORD = "secret"


def messages(n, first=0):
    """n messages of the corpus, no two alike, as files have them: most with LF."""
    files = [path.read_bytes() for path in corpus()]
    return [b"X-Number: %d\n" % k + files[k % len(files)] for k in range(first, first + n)]


def with_lf(files):
    """As a transport leaves them that knows what a Maildir is."""
    return [re.sub(rb"\r+\n", b"\n", octets) for octets in files]


class OldServer:
    """One of them; `tree` is where it lives, `port` where it listens, without TLS."""

    name = None
    writable = ()
    wants_utf8 = False  # else clients get messages of its own in the place of some

    def __init__(self, directory):
        self.tree = Tree(self.name, directory, *self.writable)
        self.port = free_port()

    def close(self):
        print(self.tree.logs())
        self.tree.close()

    def home(self, user):
        return self.tree.root / "home" / user

    def login(self, user="alice", password=PASSWORD):
        client = poplib.POP3("127.0.0.1", self.port, timeout=60)
        if self.wants_utf8:
            client.utf8()
        client.user(user)
        client.pass_(password)
        return client

    def put_in_maildir(self, maildir, files, owner, first=0, host="mx"):
        """As a transport does that writes the Maildir itself: names in their order."""
        uid = pwd.getpwnam(owner).pw_uid if isinstance(owner, str) else owner
        for folder in ("", "cur", "new", "tmp"):
            (maildir / folder).mkdir(parents=True, exist_ok=True)
            os.chown(maildir / folder, uid, uid)
        for k, octets in enumerate(files, first):
            path = maildir / "new" / f"{1700000000 + k // 10}.M{k}P1.{host}"
            path.write_bytes(octets)
            os.chown(path, uid, uid)


def put_in_mbox(mbox, files):
    """As a transport appends to it."""
    with open(mbox, "ab") as file:
        for octets in files:
            quoted = re.sub(rb"(?m)^From ", b">From ", octets)
            if b"\n\n" not in quoted:  # a header alone has an end too
                quoted += b"\n\n"
            file.write(b"From x@y.example Mon Sep 17 00:00:00 2001\n" + quoted +
                       (b"\n" if quoted.endswith(b"\n") else b"\n\n"))


def read_all(client):
    """What a client sees of an account: (UIDL, octets by LIST, content) of each message, in order."""
    uidls = [line.split()[1].decode() for line in client.uidl()[1]]
    sizes = [int(line.split()[1]) for line in client.list()[1]]
    contents = [b"".join(line + b"\r\n" for line in client.retr(n)[1])
                for n in range(1, len(uidls) + 1)]
    client.quit()
    assert len(uidls) == len(sizes)
    return list(zip(uidls, sizes, contents))


class Dovecot(OldServer):
    """Dovecot, for system users with Maildirs unless it is told otherwise."""

    name = "dovecot"
    writable = ("/var/mail",)

    def start(self, **settings):
        self.settings = {
            "mail_location": "maildir:~/Maildir", "protocols": "pop3", "ssl": "no",
            "disable_plaintext_auth": "no", "log_path": "/var/log/dovecot.log",
            "listen": "127.0.0.1", "mail_privileged_group": "mail", "mail_access_groups": "mail",
            "passdb": f"{{\n driver = static\n args = password={PASSWORD}\n}}",
            "userdb": "{\n driver = passwd\n}"} | settings
        text = "".join(f"{key} {'' if value.startswith('{') else '= '}{value}\n"
                       for key, value in self.settings.items())
        self.tree.write("/etc/dovecot/dovecot.conf", text + f"""
service pop3-login {{
  inet_listener pop3 {{
    port = {self.port}
  }}
}}
""")
        self.tree.serve("dovecot", "-F", ports=[self.port])
        return self

    def deliver(self, files, user="alice"):
        """Through Dovecot's own delivery agent, which gives the UIDs at once."""
        for octets in files:
            self.tree.run("/usr/lib/dovecot/dovecot-lda", "-d", user, input=octets)


class Courier(OldServer):
    """Courier's POP3 server, for system users with Maildirs."""

    name = "courier"
    wants_utf8 = True

    def start(self):
        pop3d = self.tree.root / "etc/courier/pop3d"
        self.tree.write("/etc/courier/pop3d", pop3d.read_text() +
                        f"\nPORT={self.port}\nADDRESS=127.0.0.1\nMAXPERIP=40\n")
        (self.tree.root / "run/courier/authdaemon").mkdir(parents=True)
        self.tree.daemon("authdaemond", "start")
        self.tree.daemon("pop3d", "start", ports=[self.port])
        return self


class Popa3d(OldServer):
    """popa3d, over mboxes, on the one port that it knows."""

    name = "popa3d"
    writable = ("/var/mail",)

    def start(self):
        self.port = 110
        self.tree.daemon("popa3d", "-D", ports=[self.port])
        return self


class Cyrus(OldServer):
    """Cyrus, which is given its mail by LMTP and makes the mailbox then."""

    name = "cyrus"
    writable = ("/var/lib/cyrus", "/var/spool/cyrus")

    def start(self, **settings):
        settings = {"autocreate_post": "yes", "popminpoll": "0", "duplicatesuppression": "no"
                    } | settings
        known = (self.tree.root / "etc/imapd.conf").read_text()
        known = re.sub(rf"(?m)^({'|'.join(settings)}):.*\n", "", known)
        self.tree.write("/etc/imapd.conf",
                        known + "".join(f"{k}: {v}\n" for k, v in settings.items()))
        self.tree.write("/etc/cyrus.conf", f"""
START {{
  recover cmd="/usr/sbin/cyrus ctl_cyrusdb -r"
}}
SERVICES {{
  pop3 cmd="pop3d" listen="127.0.0.1:{self.port}" prefork=0
  lmtpunix cmd="lmtpd" listen="/run/cyrus/socket/lmtp" prefork=0
}}
EVENTS {{
}}
""")
        self.tree.run("saslpasswd2", "-p", "-c", "alice", input=PASSWORD.encode())
        (self.tree.root / "etc/sasldb2").chmod(0o644)
        for path in ("run/cyrus", "run/cyrus/socket", "run/cyrus/proc", "run/cyrus/lock"):
            self.tree.run("install", "-d", "-o", "cyrus", "-g", "mail", f"/{path}")
        self.tree.serve("cyrmaster", "-C", "/etc/imapd.conf", "-M", "/etc/cyrus.conf",
                        ports=[self.port])
        return self

    def deliver(self, files, user="alice"):
        """It refuses headers that are none; how many it took."""
        taken = 0
        with smtplib.LMTP(str(self.tree.root / "run/cyrus/socket/lmtp")) as client:
            for octets in files:
                with contextlib.suppress(smtplib.SMTPDataError):
                    client.sendmail("x@y.example", [user], octets, ["BODY=8BITMIME"])
                    taken += 1
        return taken

    def mailbox(self, user="alice"):
        """Where its files are."""
        path = self.tree.run("runuser", "-u", "cyrus", "--", "cyrus", "mbpath", f"user.{user}")
        return self.tree.root / path.stdout.decode().strip().lstrip("/")
