"""The prose of the documents has 100 columns at most. `python tests/unit/house/test_documents.py`
wraps it.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = 100
# `evaluate` writes the other pages of docs/evaluation
WRITTEN_BY_HAND = ("README.md", "coarse_prior.md", "protocols.md")
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "training" / "README.md",
        *ROOT.glob("benchmarks/*.md"),
        *(ROOT / "docs" / "evaluation" / name for name in WRITTEN_BY_HAND),
    )
)
MADE = re.compile(r"<!-- (/?)\w+ -->")  # between such marks a program writes
ITEM = re.compile(r"\s*([-*]|\d+\.)\s+")
FIXED = re.compile(r"\s*\||#|<|!\[")  # tables, headings, HTML, pictures
WHOLE = re.compile(r"`[^`]{1,60}`|\[[^\]]{1,60}\]\([^)\s]*\)")  # code and links are not broken


def wrapped(text: str) -> str:
    """The same document with every paragraph and every item of a list wrapped."""
    lines: list[str] = []
    paragraph: list[str] = []
    fence = made = False

    def finish() -> None:
        if paragraph:
            lines.extend(_filled(paragraph))
            paragraph.clear()

    for line in text.split("\n"):
        mark, is_fence = MADE.fullmatch(line), line.lstrip().startswith("```")
        fence, made = fence != is_fence, mark[1] == "" if mark else made
        code = line.startswith("    ") and not paragraph
        if fence or is_fence or made or mark or code or not line.strip() or FIXED.match(line):
            finish()
            lines.append(line)
            continue
        if ITEM.match(line):
            finish()
        paragraph.append(line)
    finish()
    return "\n".join(lines)


def _filled(paragraph: list[str]) -> list[str]:
    item = ITEM.match(paragraph[0])
    first = item[0] if item else re.match(r"\s*", paragraph[0])[0]  # type: ignore[index]
    text = " ".join([paragraph[0][len(first) :].strip(), *(s.strip() for s in paragraph[1:])])
    # a no-break space holds together what must stay on one line
    held = WHOLE.sub(lambda found: found[0].replace(" ", "\0"), text)
    filled = textwrap.wrap(
        held,
        COLUMNS,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in filled]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_prose_is_wrapped(name):
    lines = (ROOT / name).read_text(encoding="utf-8").split("\n")
    kept = set(wrapped("\n".join(lines)).split("\n"))
    long = [line for line in lines if len(line) > COLUMNS and line not in kept]
    assert not long, "run python tests/unit/house/test_documents.py"


def test_wrapping_keeps_every_word_and_leaves_code_tables_and_links_alone():
    code, table = "    code  " + "x " * 80, "| a | " + "b " * 80 + "|"
    prose, item = "Words " + "and words " * 30, "- an item `with code` " + "of words " * 30
    text = f"# A heading\n\n{prose}\n\n{code}\n\n{table}\n\n{item}\n"
    after = wrapped(text)
    assert after.split() == text.split() and wrapped(after) == after
    lines = after.split("\n")
    assert code in lines and table in lines
    assert all(len(line) <= COLUMNS for line in lines if line not in (code, table))


if __name__ == "__main__":
    for document in DOCUMENTS:
        content = (ROOT / document).read_text(encoding="utf-8")
        (ROOT / document).write_text(wrapped(content), encoding="utf-8", newline="\n")
