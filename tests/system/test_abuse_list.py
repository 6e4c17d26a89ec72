"""The list of abuse cases: a few words for each number. A test whose name has the number shows what
the server makes of it; here, that no case is without one."""

import os
import re
import subprocess
import sys
from pathlib import Path

CASES = {
    # framing
    1: "lines longer than they may be", 2: "megabytes without a line end",
    3: "an octet now and then", 4: "NUL in a command", 5: "NUL in a name", 6: "NUL in a password",
    7: "bare line feeds", 9: "numbers that wrap around", 10: "numbers below 1",
    12: "TOP with too little and too much", 13: "arguments where there are none",
    14: "malformed UTF-8", 16: "one bad command after the other", 17: "HTTP",
    18: "TLS where clear text belongs", 19: "clear text where TLS belongs",
    21: "commands of other servers, at length", 22: "a client that never reads",
    # login
    24: "PASS before USER", 26: "names too long", 27: "names that are paths",
    28: "control characters in a name", 29: "a tab in a password", 30: "names with %",
    31: "names like SQL", 32: "names like LDAP filters", 34: "a module renames the user",
    36: "passwords too long", 37: "no password", 38: "blanks in a password",
    39: "who does not exist and who mistyped", 42: "a module hangs", 43: "a module misbehaves",
    44: "odd conversations", 46: "a new password is wanted", 47: "failures by the hundred at once",
    48: "failures by the thousand from one source", 49: "a source with many IPv6 addresses",
    50: "a good login meanwhile", 51: "a client that was not told of the new password",
    52: "failures on one connection", 53: "AUTH gone wrong", 55: "gone before the answer",
    56: "credentials in the clear", 57: "a password after its use",
    # TLS
    58: "commands behind STLS", 61: "STLS where it is none", 62: "a slow handshake",
    64: "server names without end", 66: "ALPN", 67: "old versions and ciphers",
    68: "TLS cut off", 70: "old tickets", 71: "a broken certificate at reload",
    # maildrop
    72: "lines of dots", 73: "odd octets and line ends", 74: "long lines", 76: "many messages",
    77: "flipped bits", 80: "a schema from the future", 81: "a second login",
    82: "a killed worker's lock", 83: "deliveries during a session", 84: "an end without QUIT",
    85: "killed within QUIT", 86: "a disk that fails", 87: "a lock held from outside",
    88: "a slow reader", 89: "no room for the shared memory file",
    # processes
    91: "a crowd that does not log in", 92: "too many from one source", 93: "no descriptors",
    94: "no processes", 95: "killed children", 96: "a killed master", 97: "crash loops",
    99: "a storm of reloads", 101: "a flood of log records", 102: "forbidden system calls",
    103: "records out of order", 105: "layouts of generations",
}


def test_every_case_has_a_test():
    """As pytest finds them: a test that another one of its name hides is none."""
    here = Path(__file__).resolve().parent
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only", here],
        env=os.environ | {"POPLAR_NAMESPACES": "", "MEMCHECK": ""}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    shown = {}
    for name in re.findall(r"::test_((?:\d+_)+\w+)", found.stdout):
        for number in re.match(r"(\d+_)+", name)[0].split("_")[:-1]:
            shown.setdefault(int(number), set()).add(name)
    assert shown.keys() <= CASES.keys(), sorted(shown.keys() - CASES.keys())
    missing = {number: words for number, words in CASES.items() if number not in shown}
    assert not missing
