"""A control group of our own, of either version, where this machine lets us make one."""

import contextlib
import tempfile
from pathlib import Path

import pytest

import poplar

ROOT = Path("/sys/fs/cgroup")
# What a limit is called in version 1, where each controller has a hierarchy.
FIRST = {"memory.max": "memory.limit_in_bytes", "pids.max": "pids.max"}


def remove(group):
    """Whether it could be: who was in it may still be about to end."""
    with contextlib.suppress(OSError):
        group.rmdir()
        return True
    return False


@contextlib.contextmanager
def limited(limit):
    """A group that can have this limit, as a function to set it. What is started inside is in the
    group, as are its children; all must have ended when this does."""
    controller = limit.split(".")[0]
    above = ROOT / controller
    if not above.is_dir():
        above, name = ROOT, limit
        with contextlib.suppress(OSError):
            (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
    else:
        name = FIRST[limit]
    try:
        group = Path(tempfile.mkdtemp(prefix="poplar-test-", dir=above))
    except OSError as error:
        pytest.skip(f"no control groups to be had: {error}")
    try:
        if not (group / name).exists():
            pytest.skip(f"no {controller} controller")
        yield Group(group, name)
    finally:
        poplar.wait_until(lambda: remove(group), f"the end of all in {group}")


class Group:
    def __init__(self, path, limit):
        self.path, self.limit = path, limit

    @contextlib.contextmanager
    def inside(self):
        """We are, so that who is started is."""
        (self.path / "cgroup.procs").write_text("0")
        try:
            yield
        finally:
            (self.path.parent / "cgroup.procs").write_text("0")

    def set(self, value):
        (self.path / self.limit).write_text(str(value))

    def used(self):
        """What counts towards the limit now."""
        name = {"memory.limit_in_bytes": "memory.usage_in_bytes"}.get(
            self.limit, self.limit.replace(".max", ".current"))
        return int((self.path / name).read_text())
