"""What the man pages show literally, for tests that do what they say."""

import re
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted((TOP / "packaging/man").iterdir())
README = TOP / "README.md"


def plain(text):
    """Without the roff that literal text needs."""
    text = text.replace(r"\(ga", "`").replace(r"\(aq", "'")
    return re.sub(r"\\&|\\$\n", "", text, flags=re.M).replace(r"\e", "\\").replace(r"\\", "\\")


def literals(text):
    """What a page, or a part of one, shows as it is to be typed: .Bd -literal to .Ed."""
    return [plain(found) for found in
            re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", text, re.M | re.S)]


def examples(page, heading):
    """The literal texts under a heading, .Sh or .Ss, up to the next."""
    text = (TOP / "packaging/man" / page).read_text()
    part = re.search(rf"^\.S[hs] {re.escape(heading)}$(.*?)(?=^\.S[hs] |\Z)", text, re.M | re.S)
    assert part, f"{page} has no part {heading}"
    return literals(part[1])
