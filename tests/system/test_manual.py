"""The man pages and README: well-formed, pointing at pages that are there, with examples that the
programs take. What poplar.conf(5) says of each key is tests/unit/test_manual.c's."""

import re
import subprocess

import pytest

import poplar
from manual import PAGES, README, TOP, literals


def section(page):
    return page.name.rsplit(".", 1)[1]


SECTIONS = "server|listen|workers|tls|auth|domain|session|store|delivery"


def configurations():
    """Each example of a configuration, with where it stands."""
    for page in PAGES:
        for n, text in enumerate(literals(page.read_text())):
            if re.match(rf"\[({SECTIONS})[] ]", text):
                yield pytest.param(text, id=f"{page.name}-{n}")
    for n, text in enumerate(re.findall(r"```ini\n(.*?)```", README.read_text(), re.S)):
        yield pytest.param(text, id=f"README-{n}")


# Matters of the place where it is read, and of taste.
TASTE = ("operating system explicitly specified", "referenced manual not found",
         "longer than 80 bytes")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_well_formed(page):
    result = subprocess.run(["mandoc", "-Tlint", page], capture_output=True, text=True)
    assert [line for line in result.stdout.splitlines()
            if not any(taste in line for taste in TASTE)] == []


# What a reader of pages looks for, beside what mandoc asks for.
EXPECTED = {"5": ["EXAMPLES", "FILES"], "7": [], "8": ["EXIT STATUS"]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_has_its_parts(page):
    for part in ["SEE ALSO", *EXPECTED[section(page)]]:
        assert f"\n.Sh {part}\n" in page.read_text(), part


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_pages_that_are_there(page):
    text = page.read_text()
    assert re.search(rf"^\.Dt {re.escape(page.stem).upper()} {section(page)}$", text, re.M)
    ours = {(p.stem, section(p)) for p in PAGES}
    for name, number in re.findall(r"^\.Xr (poplar\S*) (\d)", text, re.M):
        assert (name, number) in ours, f"{name}({number})"
    for name in re.findall(r"\bpackaging/[\w./-]+\w", text):
        assert (TOP / name).exists(), name


def test_readme_names_files_that_are_there():
    for name in re.findall(r"\b(?:packaging|daemon|auth|worker|store|tests)/[\w./*-]*[\w*]",
                           README.read_text()):
        assert list(TOP.glob(name)), name


@pytest.mark.parametrize("text", configurations())
def test_example_of_a_configuration(tmp_path, text):
    file = tmp_path / "poplar.conf"
    if "certificate=" not in text:
        text += "\n[tls]\nrequired=not-on-loopback\n"
    file.write_text(text)
    assert poplar.check(poplar.BUILD / "poplard", file) == []


@pytest.mark.parametrize("program", ["poplard", "poplar-deliver"])
def test_page_has_every_option(program):
    text = subprocess.run([poplar.BUILD / program, "--help"], capture_output=True,
                          text=True).stdout
    options = set(re.findall(r"--([a-z]+)", text))
    assert options
    page = (TOP / f"packaging/man/{program}.8").read_text()
    assert options <= set(re.findall(r"Fl -([a-z]+)", page))


def commands():
    """Each call of poplarctl that README or a page shows, with the file that shows it."""
    for file in (README, *PAGES):
        text = file.read_text()
        shown = re.findall(r"```\w*\n(.*?)```", text, re.S) + literals(text) + \
            re.findall(r"^\.Ql (.*)$", text, re.M)
        for call in re.findall(r"^ *(?:.*\| *)?(poplarctl [^#|<>&\n]*)", "\n".join(shown), re.M):
            yield pytest.param(call.split()[1:], id=f"{file.name}: {call.strip()}")


@pytest.mark.parametrize("words", commands())
def test_command_is_one(words):
    """It is there, and takes the options that it is shown with."""
    name = [word for word in words if not word.startswith("-")]
    name = name[:2 if name[0] in ("mailbox", "message") else 1]
    helped = subprocess.run([poplar.BUILD / "poplarctl", "help", *name], capture_output=True,
                            text=True)
    assert helped.returncode == 0, helped.stderr
    for option in re.findall(r"--[a-z-]+", " ".join(words)):
        assert f"  {option} " in helped.stdout, option


LIBRARIES = {"OpenSSL": {"ssl", "crypto"}, "SQLite": {"sqlite3"}, "libcrypto": {"crypto"}}


@pytest.mark.unsanitized("the sanitizers' libraries are linked too")
def test_readme_names_what_is_linked():
    rows = re.findall(r"^\| [^|]*`(poplar[a-z-]*)`\)? \|[^|]*\| ([^|]*) \|", README.read_text(), re.M)
    assert len(rows) == 5
    for program, links in rows:
        named = set()
        for name in links.split(", "):
            word = name.split()[0]
            named |= LIBRARIES.get(word, {word.removeprefix("lib")})
        needed = subprocess.run(["readelf", "-d", poplar.BINARIES / program], capture_output=True,
                                text=True, check=True).stdout
        assert named == set(re.findall(r"NEEDED.*\[lib(\w+)\.so", needed)) - {"c"}, program


def test_system_calls_are_counted_right():
    """poplar(7) and README say how many a worker may use."""
    text = subprocess.run([poplar.BUILD / "poplar-worker", "--sandbox"], capture_output=True,
                          text=True).stdout
    n, before = re.search(r"^(\d+) system calls, (\d+) of them", text, re.M).groups()
    assert f"{n} system calls" in (TOP / "packaging/man/poplar.7").read_text()
    assert f"{n} system calls, {before} of them of use before login" in README.read_text()
