"""The completion for bash offers what poplarctl takes, and nothing that it would refuse."""

import re
import subprocess

import pytest

import poplar
from manual import TOP

COMPLETION = TOP / "packaging/completion/poplarctl"
FILES = {"file-a", "file-b", "file c"}
EVERYWHERE = {"--config", "--json", "--help", "--version"}
# Of accounts there is one.
SCRIPT = """
compopt() { :; }
source "$1"; shift
compgen() {
    if [ "$1" = -u ]; then
        [[ $# -lt 3 || root == "$3"* ]] && echo root
    else builtin compgen "$@"
    fi
}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_poplarctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(directory, line):
    """For a line with the cursor at its end, taken apart as bash does."""
    words = [word for part in line.split(" ") for word in re.split("(=)", part) if word]
    if line.endswith(" "):
        words.append("")
    done = subprocess.run(["bash", "-c", SCRIPT, "bash", COMPLETION, *words], cwd=directory,
                          capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.splitlines()) - {""}


def helped(*words):
    return subprocess.run([poplar.BUILD / "poplarctl", *words, "--help"], capture_output=True,
                          text=True, check=True).stdout


def commands():
    """Each command's words, the kinds of its arguments, its options, as its own help has them."""
    for line in helped().split("Options:")[0].splitlines():
        if found := re.match(r"  ([a-z]+(?: [a-z]+)?)(?= |$)", line):
            name = found[1]
            usage = helped(*name.split())
            kinds = re.search(rf"{name}(?: \[OPTION\.\.\.\])? ?(.*)", usage)[1].split()
            yield pytest.param(name, kinds, set(re.findall(r"^  (--[a-z-]+)", usage, re.M)), id=name)


@pytest.fixture
def here(tmp_path):
    for name in FILES:
        (tmp_path / name).touch()
    return tmp_path


FIRST = {"status", "sessions", "kick", "metrics", "reload", "debug", "user", "import", "export",
         "expire", "mailbox", "message", "help"}
ANSWERS = {"USER": {"root"}, "[USER...]": {"root"}, "USER|SESSION...": {"root"},
           "USER|FILE": {"root"} | FILES, "FILE": FILES, "DIR": FILES, "PATH...": FILES,
           "on|off": {"on", "off"}, "ID": set(), "ID...": set(), "<FILE": set(), "[COMMAND]": FIRST,
           "KEY=VALUE...": {"quota_octets=", "quota_messages=", "pop3="}}


@pytest.mark.parametrize("name, kinds, options", commands())
def test_command(here, name, kinds, options):
    assert offered(here, f"poplarctl {name} --") == options
    assert EVERYWHERE <= options
    line = f"poplarctl --json {name} "
    for kind in kinds:
        assert offered(here, line) == ANSWERS[kind], kind
        line += {"USER": "root ", "on|off": "on "}.get(kind, "file-a ")
    assert offered(here, line) == (ANSWERS[kinds[-1]] if kinds and "..." in kinds[-1] else set())
    if "--all" in options:
        assert offered(here, f"poplarctl {name} --all ") == \
            (ANSWERS[kinds[1]] if len(kinds) > 1 else set())


@pytest.mark.parametrize("line, wanted", [
    ("poplarctl ", FIRST),
    ("poplarctl me", {"metrics", "message"}),
    ("poplarctl --", EVERYWHERE),
    ("poplarctl message ", {"add", "list", "show", "delete", "restore"}),
    ("poplarctl help mes", {"message"}),
    ("poplarctl help message s", {"show"}),
    ("poplarctl --config=file-a mailbox sh", {"show"}),
    ("poplarctl --config ", FILES),
    ("poplarctl --config=", FILES),
    ("poplarctl --config=file-", {"file-a", "file-b"}),
    ("poplarctl import --format ", {"eml", "mbox", "maildir", "cyrus"}),
    ("poplarctl import --format=m", {"mbox", "maildir"}),
    ("poplarctl export --format ", {"mbox", "maildir"}),
    ("poplarctl import --format=mbox root file-", {"file-a", "file-b"}),
    ("poplarctl import --uidl-format=%08Xu ", {"root"}),
    ("poplarctl import --uidl-format ", set()),
    ("poplarctl import --uidl-list ", FILES),
    ("poplarctl mailbox set root pop3=", {"on", "off"}),
    ("poplarctl mailbox set root pop3=of", {"off"}),
    ("poplarctl mailbox set root quota_octets=", set()),
    ("poplarctl mailbox set root quota_octets=1", set()),
    ("poplarctl mailbox set root quota_octets=1 p", {"pop3="}),
    ("poplarctl nonsense ", set()),
])
def test_line(here, line, wanted):
    assert offered(here, line) == wanted
