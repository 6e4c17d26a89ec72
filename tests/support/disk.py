"""Disks that fill up."""

import contextlib
import os
import subprocess

import poplar


@contextlib.contextmanager
def small_disk(p, megabytes):
    """Runs a server, not started yet, with its state_dir on a file system of its own. p.use_up() takes
    what is free there, but for so many octets; p.free() gives it back."""
    owner = p.state.stat()
    subprocess.run(["mount", "-t", "tmpfs", "-o",
                    f"size={megabytes}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}", "tmpfs",
                    p.state], check=True)

    def use_up(leave=0):
        with open(p.state / "ballast", "wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            file.truncate(max(0, os.fstat(file.fileno()).st_size // 4096 * 4096 - leave))

    p.use_up = use_up
    p.free = (p.state / "ballast").unlink
    try:
        yield p.start()
    finally:
        p.stop()
        poplar.unmount(p.state)
