"""The README's settings table is the one that settings.py declares. `python
tests/unit/house/test_readme.py` rewrites it.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from engine.bridge import settings  # noqa: E402

README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- settings -->\n).*?(<!-- /settings -->)", re.DOTALL)


def settings_table() -> str:
    head = ["| setting | default | range | unit | what it does |", "|---|---|---|---|---|"]
    lines = [*head]
    rows = sorted(settings.table(), key=lambda row: not row.basic)
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.basic != row.basic:
            lines += ["", "<details><summary>The other settings</summary>", "", *head]
        low, high = row.limits
        reach = (
            ", ".join(row.choices)
            if row.choices
            else ""
            if math.isinf(low)
            else f"{low:g} to {high:g}"
        )
        default = (
            {True: "on", False: "off"}.get(row.default, row.default)
            if row.type is bool
            else row.default
        )
        lines.append(f"| `{row.name}` | {default} | {reach} | {row.unit} | {row.text} |")
    changed = [
        f"`{name}`: " + ", ".join(f"{k} {v}" for k, v in values.items())
        for name, values in settings.PRESETS.items()
        if values
    ]
    return "\n".join(
        [
            *lines,
            "",
            "</details>",
            "",
            f"Presets change: {'; '.join(changed)}.",
            "",
            "Preset `paper` departs from the paper in these points, as the report of each of its "
            "jobs says too:",
            "",
            *(f"- {text}" for text in settings.DEPARTURES),
            "",
        ]
    )


def test_the_settings_table_is_true():
    found = BLOCK.search(README.read_text(encoding="utf-8"))
    assert found is not None
    assert found.group(0) == f"<!-- settings -->\n{settings_table()}<!-- /settings -->", (
        "run python tests/unit/house/test_readme.py"
    )


def test_every_linked_file_exists():
    for name in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(
        BLOCK.sub(lambda m: m.group(1) + settings_table() + m.group(2), text), encoding="utf-8"
    )
