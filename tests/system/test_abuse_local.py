"""What an account of this machine, without any right here, can do to all: by the sockets that it may
connect to, and by what it sends along."""

import array
import contextlib
import grp
import os
import poplib
import signal
import socket
import struct

import pytest

from poplar import PATIENCE, wait_until
from test_lmtp import Lmtp, as_user

pytestmark = pytest.mark.accounts

LINGER_S = 600


@contextlib.contextmanager
def lingering():
    """A TCP socket whose last close waits for ten minutes: data is in it, and nobody takes any."""
    with socket.socket() as listener, socket.socket() as sender:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        sender.connect(listener.getsockname())
        taker, _ = listener.accept()
        with taker:
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.send(bytes(65536))
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
            yield sender


def send_away(sock, sent, octets=b"x"):
    """A descriptor of which nobody but who receives it has another."""
    sock.sendmsg([octets], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                             array.array("i", [sent.fileno()]))])
    sent.close()


@contextlib.contextmanager
def looking_away(p):
    """What is done meanwhile is done before the master sees any of it."""
    p.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        p.process.send_signal(signal.SIGCONT)


def greets(p):
    """The master does what it is there for."""
    with contextlib.closing(poplib.POP3("127.0.0.1", p.port, timeout=60)) as client:
        assert client.getwelcome().startswith(b"+OK")


def test_with_a_connection_that_is_refused(server):
    """The master closes it, and what is in it unread."""
    p = server(workers_max_per_source="2", tls_required="no")
    with lingering() as sent:
        with as_user("alice"):
            held = [Lmtp(p.lmtp) for _ in range(2)]
        with socket.socket(socket.AF_UNIX) as refused:
            with looking_away(p), as_user("alice"):
                refused.connect(str(p.lmtp))
                send_away(refused, sent)
            assert refused.recv(100).startswith(b"421 ")
            assert refused.recv(100) == b""
        greets(p)
        held[0].close()
        with as_user("alice"):
            wait_until(lambda: Lmtp(p.lmtp, hello=False).greeting.startswith(b"220"), "a slot")


def test_with_a_connection_that_is_served(server):
    """The worker closes it, which may have to wait; the master does not."""
    p = server(tls_required="no")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sent = stack.enter_context(lingering())
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(20)
            with looking_away(p), as_user("alice"):
                client.connect(str(p.lmtp))
                client.sendall(b"QUIT\r\n")
                send_away(client, sent)
            assert client.recv(100).startswith(b"220")
        greets(p)


def test_with_a_connection_that_waits_at_the_end(server):
    p = server(tls_required="no")
    with lingering() as sent, socket.socket(socket.AF_UNIX) as client:
        with looking_away(p), as_user("alice"):
            client.connect(str(p.lmtp))
            send_away(client, sent)
            os.seteuid(0)
            p.process.send_signal(signal.SIGTERM)
        assert p.process.wait(20 * PATIENCE) == 0


@pytest.mark.parametrize("crowd", [0, 8])
def test_with_a_look_at_the_status(server, crowd):
    """Who may look is in a group, and of no other trust. `crowd`: more look than may at once."""
    p = server(tls_required="no")
    path = str(p.run / "control")
    with contextlib.ExitStack() as stack:
        sent = stack.enter_context(lingering())
        guests = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                  for _ in range(crowd + 1)]
        with looking_away(p):
            os.setegid(grp.getgrnam("poplar").gr_gid)
            with as_user("alice"):
                for guest in guests:
                    guest.settimeout(20)
                    guest.connect(path)
            os.setegid(0)
            send_away(guests[-1], sent)
        if crowd:
            assert b"too many look at once" in guests[-1].recv(1000)
        else:
            with pytest.raises(ConnectionResetError):
                guests[-1].recv(1000)
        greets(p)
        assert b"sessions" in p.ctl("status").stdout
