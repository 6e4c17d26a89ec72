"""strace, put to processes that run already."""

import contextlib
import subprocess


@contextlib.contextmanager
def strace(pids, *options):
    """All that they do from now on goes by it. Gives the lines that it wrote, once it is over."""
    command = ["strace", *options, *(word for pid in pids for word in ("-p", str(pid)))]
    said = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          bufsize=0) as tracer:
        try:
            # That there is a tracer can be seen before it has interrupted the call in which a process
            # waits; what came then would not go by it. Once interrupted, that call is made again.
            for _ in pids:
                line = tracer.stderr.readline()
                assert b" attached" in line, line + tracer.stderr.read()
            yield said
        finally:
            tracer.terminate()
            said += tracer.communicate(timeout=60)[1].decode(errors="replace").splitlines()
