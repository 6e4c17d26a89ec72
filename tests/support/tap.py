"""A tap on the wire between a real client and Poplar: it ends TLS on both sides with the test's own
certificate and keeps what crosses, so that the octets that arrive can be told from what the client
then makes of them."""

import select
import socket
import ssl
import threading

from poplar import PATIENCE


class Tap:
    """Listens on a port; each connection is relayed to the server's TLS door, or to its clear door
    with STLS."""

    def __init__(self, server, tls):
        self.server, self.tls = server, tls
        self.sessions = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            session = Session(self, client)
            self.sessions.append(session)
            session.start()

    def retrieved(self):
        """The content of every whole message that was read, dots unstuffed, in the order of all sessions."""
        contents = []
        for session in self.sessions:
            session.join(20 * PATIENCE)
            contents += session.retrieved()
        return contents


def receive(end):
    """What has come; None when it was TLS's own, a ticket: who waited here for more would leave
    the client unheard that is about to say something."""
    timeout = end.gettimeout()
    end.setblocking(False)
    try:
        return end.recv(65536)
    except ssl.SSLWantReadError:
        return None
    except OSError:
        return b""
    finally:
        end.settimeout(timeout)


class Session(threading.Thread):
    """One relayed connection."""

    MULTI_LINE = {b"CAPA", b"RETR", b"TOP"}  # and LIST, UIDL, AUTH without argument

    def __init__(self, tap, client):
        super().__init__(daemon=True)
        self.tap, self.client = tap, client
        self.asked = self.answered = b""

    def run(self):
        door = self.tap.server.tls_port if self.tap.tls else self.tap.server.port
        self.server = socket.create_connection(("127.0.0.1", door), 20 * PATIENCE)
        if self.tap.tls:
            self.wrap()
            self.keep_answer(1)
        else:
            self.keep_answer(1)
            self.clear()
        self.pump()
        self.client.close()
        self.server.close()

    def wrap(self):
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours.load_cert_chain(self.tap.server.certificate, self.tap.server.key)
        self.client = ours.wrap_socket(self.client, server_side=True)
        self.server = self.tap.server.tls_context().wrap_socket(self.server,
                                                                server_hostname="localhost")

    def keep_answer(self, lines=0):
        """Relay an answer line by line: so many lines, or to the terminator."""
        line = b""
        while lines > 0 or line != b".\r\n":
            line = b""
            while not line.endswith(b"\n"):
                octet = self.server.recv(1)
                if not octet:
                    return
                line += octet
            self.answered += line
            self.client.sendall(line)
            lines -= 1
            if lines == 0:
                return

    def clear(self):
        """Before STLS: one command at a time."""
        while True:
            line = b""
            while not line.endswith(b"\n"):
                octet = self.client.recv(1)
                if not octet:
                    return
                line += octet
            self.asked += line
            self.server.sendall(line)
            word = line.split()[0].upper()
            self.keep_answer(0 if word == b"CAPA" else 1)
            if word == b"STLS":
                self.wrap()
                return

    def pump(self):
        ends = {self.client: self.server, self.server: self.client}
        while True:
            ready = [s for s in ends if isinstance(s, ssl.SSLSocket) and s.pending()]
            ready = ready or select.select(list(ends), [], [], 20 * PATIENCE)[0]
            if not ready:
                return
            for end in ready:
                octets = receive(end)
                if octets is None:
                    continue
                if not octets:
                    return
                if end is self.client:
                    self.asked += octets
                else:
                    self.answered += octets
                try:
                    ends[end].sendall(octets)
                except OSError:
                    return

    def retrieved(self):
        contents = []
        rest = self.answered.partition(b"\r\n")[2]  # the greeting
        for command in self.asked.split(b"\r\n")[:-1]:
            words = command.upper().split()
            status, _, rest = rest.partition(b"\r\n")
            multi = words[0] in self.MULTI_LINE or (
                len(words) == 1 and words[0] in (b"LIST", b"UIDL", b"AUTH"))
            if not multi or not status.startswith(b"+OK"):
                continue
            if rest.startswith(b".\r\n"):
                content, rest = b"", rest[3:]
            else:
                content, _, rest = rest.partition(b"\r\n.\r\n")
                content += b"\r\n"
            # fetchmail reads mail that stays by TOP with a count no message reaches.
            if words[0] == b"RETR" or (words[0] == b"TOP" and int(words[2]) > 10 ** 6):
                content = content[1:] if content.startswith(b".") else content
                contents.append(content.replace(b"\r\n.", b"\r\n"))
        return contents
