"""Every fuzz target over its seeds, and over everything that ever failed, then for a few seconds on
its own. The targets are there where clang is (`make check` builds them); else this is skipped."""

import os
import pathlib
import subprocess
import tempfile

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = TOP / os.environ.get("POPLAR_BUILD", "build") / "fuzz" / "tests"
SECONDS = 60 if os.environ.get("LONG") == "1" else 2


@pytest.mark.parametrize("source", sorted((TOP / "tests/fuzz").glob("fuzz_*.c")), ids=lambda s: s.stem)
def test_target(source, tmp_path):
    target = BUILD / source.stem
    if not target.exists():
        pytest.skip("no clang, so no fuzz targets")
    name = source.stem.removeprefix("fuzz_")
    seeds = TOP / "tests/fuzz/seeds" / name
    assert list(seeds.iterdir())
    command = [target, "-timeout=60", "-rss_limit_mb=4096", f"-artifact_prefix={tmp_path}/"]
    dictionary = TOP / "tests/fuzz/dictionaries" / f"{name}.dict"
    if dictionary.exists():
        command.append(f"-dict={dictionary}")
    # They are ended without a chance to clean up.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as s:
        environment = os.environ | {"FUZZ_SCRATCH": s}
        run_twice(command, seeds, tmp_path, environment)


def run_twice(command, seeds, tmp_path, environment):
    for arguments in (["-runs=0", seeds], [f"-max_total_time={SECONDS}", tmp_path, seeds]):
        done = subprocess.run(command + arguments, capture_output=True, text=True, cwd=tmp_path,
                              env=environment, timeout=SECONDS + 120)
        assert done.returncode == 0, done.stderr[-4000:]
