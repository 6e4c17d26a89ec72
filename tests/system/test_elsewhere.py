"""Poplar built and tested in the next Debian, whose libraries are newer, and in one for processors of
32 bits: what a C library asks the kernel for is another matter in each, and a worker's filter has
to know. Trees of their own, entered by chroot; `LONG=1 make trees` makes them."""

import os
import shutil
import subprocess

import pytest

import poplar
from manual import TOP
from trees import PATH, Tree, needs

SYSTEM = "test_session test_tls test_lmtp test_auth test_store test_takeover test_retention"


@pytest.mark.accounts
@pytest.mark.unsanitized("it builds for itself")
@pytest.mark.skipif(os.environ.get("LONG") != "1", reason="takes minutes: LONG=1")
@pytest.mark.skipif(poplar.CHROOT, reason="no chroot in a chroot")
@pytest.mark.parametrize("name", [pytest.param(n, marks=needs(n)) for n in ("next", "narrow")])
def test_built_there(tmp_path, name):
    tree = Tree(name, tmp_path, "/root", "/var/tmp")
    shutil.copytree(TOP, tree.root / "root/poplar", symlinks=True,
                    ignore=shutil.ignore_patterns("build", ".git"))
    folders = ["unit", "faults"] if name == "next" else ["unit"]  # which are for 64 bits
    tests = " ".join(file.stem for folder in folders
                     for file in sorted((TOP / "tests" / folder).glob("test_*.c")))
    command = (f"cd /root/poplar && make -s -j2 tests && JOBS=2 ONLY='converse {tests} {SYSTEM}'"
               " tests/support/check.sh build")
    personality = ["setarch", "i386"] if name == "narrow" else []
    with open(tmp_path / "said", "w+", encoding="utf-8") as said:
        done = subprocess.run([*personality, "chroot", tree.root, "sh", "-c", command],
                              env={"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"},
                              stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        said.seek(0)
        print(said.read()[-20000:])
    assert done.returncode == 0
