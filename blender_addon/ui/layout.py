"""Where the panels lie, and drawing that Blender's layouts lack before 5.3: text of more than one
line.
"""

from __future__ import annotations

import re
import textwrap

import bpy

_ICON_LETTERS, _BOX_LETTERS = 4, 2  # what an icon, and the edges of a box, take of a line


class InSidebar:
    """Panels of the 3D view's sidebar, in our tab."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Scene Splatter"


def draw_wrapped(layout: bpy.types.UILayout, text: str, width: int, icon: str = "NONE") -> None:
    """Labels for `text`, broken at about `width` characters; the icon stands before the first and
    takes some of them.
    """
    width -= _ICON_LETTERS * (icon != "NONE")
    column = layout.column(align=True)
    column.scale_y = 0.8
    for number, line in enumerate(lines_of(text, width)):
        column.label(
            text=line, icon=icon if number == 0 else ("BLANK1" if icon != "NONE" else "NONE")
        )


def lines_of(text: str, width: int) -> list[str]:
    """At least one line, none longer than `width` characters: broken at spaces; paths that are
    longer than a line are broken after their slashes.
    """
    lines = [""]
    for word in text.split():
        parts = [word] if len(word) <= width else re.findall(r"[^/\\]*[/\\]+|[^/\\]+", word)
        for number, part in enumerate(parts):
            gap = " " if number == 0 and lines[-1] else ""
            if len(lines[-1]) + len(gap) + len(part) <= width:
                lines[-1] += gap + part
            else:
                lines += textwrap.wrap(part, width)
    return lines[1:] if len(lines) > 1 and not lines[0] else lines


def sidebar_width(context: bpy.types.Context) -> int:
    """Characters that fit into a line of the region that is drawn."""
    region = context.region
    scale = context.preferences.system.ui_scale
    return max(int(region.width / (6.5 * scale)) - 6, 16) if region is not None else 40


def box_width(context: bpy.types.Context) -> int:
    """Characters that fit into a line of a box there."""
    return sidebar_width(context) - _BOX_LETTERS


def clock(seconds: float) -> str:
    """1:05 or 1:02:05."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
