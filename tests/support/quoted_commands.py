"""The commands that README and docs quote, as blocks of shell and as words in a sentence."""

from __future__ import annotations

import re
from pathlib import Path

from sluice.settings import PROJECT

PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "SECURITY.md",
    *sorted((PROJECT / "docs").rglob("*.md")),
]
CODE = re.compile(r"^```[^\n]*\n(.*?)^```|`([^`]+)`|^ {4}([^\n]*)", re.M | re.S)
QUOTED = re.compile(r"(?:^|bin/|&& |; )(?:[A-Z_]+=\S+ )*(sluice|make) ([a-z][^\n#|&;]*)", re.M)
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
INDENTED = re.compile(r"(?:^|\n)\n((?: {4}[^\n]*\n)+)")
PROGRAMS = (
    "sluice make curl psql docker python pip uv airflow git export eval cd kubectl sudo apt npm"
)
# A program at the beginning of a line, behind any variables that are set for it.
SHELL = re.compile(rf"^(?:\w+=\S* )*(?:\S*/)?(?:{'|'.join(PROGRAMS.split())})\s", re.M)


def quoted(page: Path, program: str) -> list[str]:
    """The words after a program's name, of each call in fenced, indented or inline code."""
    code = "\n".join("".join(parts) for parts in CODE.findall(page.read_text()))
    return [words for name, words in QUOTED.findall(code) if name == program]


def named_only(program: str) -> set[str]:
    """What all pages call a program with in sentences and in no block of shell."""
    named = {" ".join(call.split()) for page in PAGES for call in quoted(page, program)}
    text = "\n".join(block for page in PAGES for block in blocks(page))
    return named - {
        " ".join(words.split()) for name, words in QUOTED.findall(text) if name == program
    }


def blocks(page: Path) -> list[str]:
    """The blocks of shell, which are fenced as bash."""
    return [text for language, text in FENCED.findall(page.read_text()) if language == "bash"]


def unmarked(page: Path) -> list[str]:
    """Code that looks like shell and is not fenced as bash, so that nothing runs it."""
    text = page.read_text()
    other = [code for language, code in FENCED.findall(text) if language != "bash"]
    other += [re.sub(r"^ {4}", "", code, flags=re.M) for code in INDENTED.findall(text)]
    return [code for code in other if SHELL.search(code)]
