"""What the hot paths cost in instructions, which neither the machine's speed nor its load changes. A
budget is some half above what was counted: it tells a step up in cost, not a percent."""

import re
import shutil
import subprocess

import pytest

from poplar import BUILD

# Instructions of tests/bench/budget.c, with the libraries of Debian 12.
BUDGETS = {"parser": 1_600_000, "stuffing": 600_000, "listing": 600_000, "login": 68_000}


@pytest.mark.uncounted
@pytest.mark.skipif(not shutil.which("valgrind"), reason="no valgrind")
@pytest.mark.skipif(b"__asan_init" in (BUILD / "tests/budget").read_bytes()
                    if (BUILD / "tests/budget").exists() else True, reason="a sanitized build")
@pytest.mark.parametrize("part", BUDGETS)
def test_budget(part):
    result = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no",
         "--toggle-collect=budget_work", BUILD / "tests/budget", part],
        capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    counted = int(re.search(r"Collected : (\d+)", result.stderr)[1])
    print(f"{part}: {counted} instructions")
    assert 0 < counted <= BUDGETS[part]
