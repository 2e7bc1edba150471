"""What stands in the scenes of benchmarks/make_scenes.py, where the cameras are and how they
move.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

from scene_parts import ball, box, cone, light, material, rod, sky, surface

Move = tuple[
    float, float, float, float, float
]  # right, up, forward in metres; yaw to the right, pitch up in degrees


class View(NamedTuple):
    """The input camera and the end of each path."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fov_deg: float
    paths: dict[str, Move]
    exposure: float = 0.0


def _paths(small: Move, medium: Move, hard: Move) -> dict[str, Move]:
    return {"small": small, "medium": medium, "hard": hard}


def room() -> None:
    """A living room: sofa, table, shelves with books, rug, pictures, a window's light."""
    draw = random.Random(1)
    wall = material("noise", (0.62, 0.58, 0.5), (0.68, 0.63, 0.55), scale=1.5)
    oak, dark = (
        material("wood", (0.33, 0.18, 0.08), (0.45, 0.27, 0.13), scale=1.2),
        material("plain", (0.05, 0.04, 0.04)),
    )
    box(
        (7, 7, 0.1),
        (0, 0, -0.1),
        material("wood", (0.3, 0.16, 0.07), (0.42, 0.25, 0.12), scale=2.5, rough=0.4),
    )
    box((7, 7, 0.1), (0, 0, 2.8), material("plain", (0.8, 0.8, 0.78)))
    for size, at in (
        ((7, 0.1, 2.8), (0, 3, 0)),
        ((0.1, 7, 2.8), (-3.2, 0, 0)),
        ((0.1, 7, 2.8), (3.2, 0, 0)),
        ((7, 0.1, 2.8), (0, -3.4, 0)),
    ):
        box(size, at, wall)
    box(
        (2.6, 1.9, 0.02),
        (0.1, 0.5, 0),
        material("cells", (0.5, 0.08, 0.06), (0.75, 0.6, 0.4), scale=4),
    )
    cloth = material("noise", (0.07, 0.16, 0.2), (0.1, 0.22, 0.27), scale=18)
    for size, at in (
        ((2.1, 0.9, 0.42), (-0.8, 2.2, 0)),
        ((2.1, 0.25, 0.85), (-0.8, 2.62, 0)),
        ((0.22, 0.9, 0.62), (-1.9, 2.2, 0)),
        ((0.22, 0.9, 0.62), (0.3, 2.2, 0)),
    ):
        box(size, at, cloth)
    box(
        (0.5, 0.16, 0.45),
        (-1.4, 2.3, 0.42),
        material("checks", (0.7, 0.45, 0.1), (0.8, 0.75, 0.6), scale=12),
        (-15, 0, 10),
    )
    box((1.1, 0.6, 0.05), (0.0, 0.7, 0.42), oak)
    for x, y in ((-0.5, 0.45), (0.5, 0.45), (-0.5, 0.95), (0.5, 0.95)):
        box((0.06, 0.06, 0.42), (x, y, 0), oak)
    ball(0.12, (0.2, 0.7, 0.59), material("plain", (0.6, 0.1, 0.05), rough=0.2))
    for z in (0.1, 0.6, 1.1, 1.6, 2.1):
        box((1.3, 0.35, 0.04), (2.2, 2.75, z), oak)
        for i in range(12 if z < 2 else 0):
            book = material(
                "plain", (draw.random() * 0.6, draw.random() * 0.5, draw.random() * 0.5)
            )
            box((0.07, 0.22, draw.uniform(0.28, 0.42)), (1.65 + 0.095 * i, 2.7, z + 0.04), book)
    for x, z in ((-2.2, 1.4), (-0.8, 1.5), (0.6, 1.4)):
        box((0.75, 0.05, 0.6), (x, 2.93, z), dark)
        art = material(
            "cells" if x < 0 else "noise",
            (draw.random(), draw.random(), draw.random()),
            (0.9, 0.8, 0.5),
            scale=6,
        )
        box((0.65, 0.02, 0.5), (x, 2.9, z + 0.05), art)
    cone(0.16, 0.1, 0.3, (-2.5, 2.4, 0), material("plain", (0.5, 0.2, 0.1)))
    leaf = material("noise", (0.03, 0.15, 0.03), (0.08, 0.3, 0.06), scale=10)
    for _ in range(14):
        ball(
            0.14,
            (-2.5 + draw.uniform(-0.3, 0.3), 2.4 + draw.uniform(-0.2, 0.2), draw.uniform(0.4, 1.2)),
            leaf,
            (1, 1, 0.5),
            2,
        )
    light("AREA", (-3.0, -1.0, 1.8), 180, (1.0, 0.93, 0.82), size=1.8, turn_deg=(0, -75, 0))
    light("AREA", (0, 0.5, 2.7), 70, size=2.5)


def street() -> None:
    """A street between brick and plaster houses with windows, cars and trees."""
    draw = random.Random(2)
    sky((0.75, 0.8, 0.85), (0.2, 0.4, 0.8), 1.0)
    light("SUN", (0, 0, 10), 3.5, (1.0, 0.92, 0.8), size=1, turn_deg=(40, -35, 0))
    box(
        (7, 90, 0.1),
        (0, 35, -0.1),
        material("noise", (0.05, 0.05, 0.055), (0.09, 0.09, 0.09), scale=3),
    )
    pavement = material("checks", (0.28, 0.27, 0.26), (0.34, 0.33, 0.31), scale=1.4)
    glass, frame = (
        material("plain", (0.05, 0.08, 0.12), rough=0.1),
        material("plain", (0.7, 0.7, 0.68)),
    )
    for side in (-1, 1):
        box((2.4, 90, 0.15), (side * 4.7, 35, -0.05), pavement)
        y = -4.0
        while y < 60:
            length, height = draw.uniform(5, 9), draw.uniform(6, 12)
            tint = (draw.uniform(0.3, 0.6), draw.uniform(0.2, 0.45), draw.uniform(0.15, 0.35))
            wall = material(
                *(
                    ("bricks", tint, (0.5, 0.48, 0.45))
                    if draw.random() < 0.6
                    else ("noise", tint, [0.8 * c for c in tint])
                ),
                scale=2,
                upright=True,
            )
            box((5, length, height), (side * 8.4, y + length / 2, 0), wall)
            for floor in range(int(height // 2.6)):
                for i in range(int(length // 1.8)):
                    at = (side * 5.9, y + 1.1 + 1.8 * i, 0.9 + 2.6 * floor)
                    box((0.1, 1.05, 1.5), at, frame)
                    box((0.14, 0.85, 1.3), (at[0], at[1], at[2] + 0.1), glass)
            y += length + 0.3
    for x, y, tint in (
        (2.5, 8, (0.5, 0.03, 0.03)),
        (-2.5, 11, (0.03, 0.08, 0.3)),
        (2.5, 17, (0.6, 0.6, 0.62)),
        (-2.6, 22, (0.1, 0.1, 0.1)),
    ):
        paint, tyre = material("plain", tint, rough=0.25), material("plain", (0.02, 0.02, 0.02))
        box((1.7, 4.0, 0.6), (x, y, 0.35), paint)
        box((1.5, 2.0, 0.55), (x, y - 0.1, 0.95), glass)
        for dx, dy in ((-0.8, -1.3), (-0.8, 1.3), (0.8, -1.3), (0.8, 1.3)):
            cone(0.33, 0.33, 0.2, (x + dx - 0.1, y + dy, 0.33), tyre, (0, 90, 0))
    bark, leaf = (
        material("noise", (0.1, 0.06, 0.03), (0.18, 0.12, 0.07), scale=9),
        material("noise", (0.04, 0.12, 0.02), (0.14, 0.28, 0.05), scale=6),
    )
    for x, y in ((-4.2, 7), (4.3, 13), (-4.2, 17), (4.2, 25)):
        cone(0.14, 0.1, 2.6, (x, y, 0), bark)
        for _ in range(9):
            ball(
                0.75,
                (x + draw.uniform(-0.8, 0.8), y + draw.uniform(-0.8, 0.8), draw.uniform(2.6, 4.2)),
                leaf,
                (1, 1, 0.8),
                2,
            )
    for y in range(0, 60, 5):
        box((0.15, 2.2, 0.01), (0, y, 0), material("plain", (0.7, 0.7, 0.65)))


def landscape() -> None:
    """Hills, rocks and conifers under an evening sky."""
    draw = random.Random(3)
    sky((0.9, 0.65, 0.45), (0.25, 0.4, 0.7), 0.9)
    light("SUN", (0, 0, 10), 3.0, (1.0, 0.8, 0.6), size=1, turn_deg=(62, 0, 50))
    waves = [
        (draw.uniform(0.02, 0.16), draw.uniform(0.02, 0.16), draw.uniform(0, 6.28))
        for _ in range(14)
    ]

    def height(x: float, y: float) -> float:
        rough = sum(math.sin(a * x + b * y + c) / (6 * (a + b)) for a, b, c in waves) * 0.16
        return rough * min(1.0, math.hypot(x, y + 6) / 25) + max(0.0, y - 50) * 0.16

    n, size = 121, 160.0
    grid = [
        [height((i / (n - 1) - 0.5) * size, 60 + (j / (n - 1) - 0.5) * size) for i in range(n)]
        for j in range(n)
    ]
    surface(
        grid, size, (0, 60, 0), material("noise", (0.06, 0.12, 0.03), (0.32, 0.26, 0.1), scale=0.35)
    )
    stone = material("noise", (0.14, 0.13, 0.12), (0.4, 0.38, 0.35), scale=2.5)
    for _ in range(40):
        x, y = draw.uniform(-14, 14), draw.uniform(3, 40)
        ball(
            draw.uniform(0.2, 0.9), (x, y, height(x, y)), stone, (1, draw.uniform(0.7, 1.4), 0.7), 2
        )
    trunk, green = (
        material("plain", (0.08, 0.05, 0.03)),
        material("noise", (0.015, 0.06, 0.02), (0.06, 0.16, 0.05), scale=4),
    )
    for _ in range(55):
        x, y = draw.uniform(-30, 30), draw.uniform(9, 70)
        if abs(x) < 1.5 + 0.05 * y:
            continue
        base, tall = height(x, y), draw.uniform(2.5, 6)
        cone(0.15, 0.1, 1.0, (x, y, base), trunk)
        for i in range(3):
            cone(
                tall * (0.28 - 0.06 * i),
                0.02,
                tall * 0.45,
                (x, y, base + 0.6 + tall * 0.22 * i),
                green,
                sides=9,
            )


def corridor() -> None:
    """A corridor with pillars and side openings: most of what appears was hidden."""
    draw = random.Random(4)
    stone = material("bricks", (0.5, 0.44, 0.34), (0.28, 0.25, 0.2), scale=1.6, upright=True)
    box(
        (12, 24, 0.1),
        (0, 9, -0.1),
        material("checks", (0.5, 0.46, 0.4), (0.2, 0.12, 0.09), scale=1.5),
    )
    box((12, 24, 0.1), (0, 9, 3.2), material("plain", (0.6, 0.58, 0.54)))
    box((12, 0.2, 3.2), (0, 18, 0), material("noise", (0.3, 0.1, 0.08), (0.45, 0.2, 0.12), scale=2))
    for side in (-1, 1):
        for i in range(6):
            box((0.5, 1.7, 3.2), (side * 2.2, -0.5 + 3.2 * i, 0), stone)
            tint = (draw.uniform(0.2, 0.7), draw.uniform(0.2, 0.6), draw.uniform(0.2, 0.6))
            box(
                (0.1, 3.2, 3.2),
                (side * 5.2, 1.1 + 3.2 * i, 0),
                material("cells", tint, [0.6 * c for c in tint], scale=2.5),
            )
            light("POINT", (side * 3.8, 1.1 + 3.2 * i, 2.6), 45, (1.0, 0.85, 0.65), size=2)
            if i % 2 == 0:
                cone(
                    0.35,
                    0.25,
                    0.9,
                    (side * 3.4, 1.1 + 3.2 * i, 0),
                    material("noise", (0.1, 0.2, 0.3), (0.5, 0.6, 0.6), scale=7),
                )
    for y in (3.2, 7.5):
        cone(
            0.3,
            0.3,
            3.2,
            (-0.9 if y < 5 else 0.9, y, 0),
            material("noise", (0.55, 0.5, 0.45), (0.7, 0.66, 0.6), scale=3),
        )
    light("AREA", (0, 2, 3.1), 60, size=2)


def railing() -> None:
    """Thin structures: railings, a bicycle-like wheel of spokes and a bare tree before a wall."""
    draw = random.Random(5)
    sky((0.8, 0.85, 0.9), (0.35, 0.5, 0.8), 1.0)
    light("SUN", (0, 0, 10), 3.0, size=2, turn_deg=(35, 30, 0))
    box(
        (30, 30, 0.1),
        (0, 8, -0.1),
        material("checks", (0.35, 0.33, 0.3), (0.42, 0.4, 0.36), scale=1),
    )
    box(
        (30, 0.3, 4.2),
        (0, 9, 0),
        material("bricks", (0.48, 0.2, 0.13), (0.55, 0.5, 0.45), scale=1.7, upright=True),
    )
    iron = material("plain", (0.03, 0.05, 0.04), rough=0.4)
    for i in range(41):
        rod((-4 + 0.2 * i, 3.6, 0), (-4 + 0.2 * i, 3.6, 1.1), 0.018, iron)
    for z in (0.12, 1.1):
        rod((-4, 3.6, z), (4, 3.6, z), 0.03, iron)
    for i in range(18):
        angle = i * math.tau / 18
        rod(
            (1.5, 5.2, 0.6),
            (1.5 + 0.6 * math.cos(angle), 5.2, 0.6 + 0.6 * math.sin(angle)),
            0.01,
            iron,
        )
        rod(
            (1.5 + 0.6 * math.cos(angle), 5.2, 0.6 + 0.6 * math.sin(angle)),
            (1.5 + 0.6 * math.cos(angle + 0.35), 5.2, 0.6 + 0.6 * math.sin(angle + 0.35)),
            0.025,
            iron,
        )
    bark = material("noise", (0.12, 0.08, 0.05), (0.25, 0.18, 0.12), scale=12)

    def branch(
        at: tuple[float, float, float],
        way: tuple[float, float, float],
        length: float,
        radius: float,
    ) -> None:
        end = tuple(a + length * b for a, b in zip(at, way, strict=True))
        rod(at, end, radius, bark, 0.65 * radius)
        if radius > 0.012:
            for _ in range(3):
                turned = [w + draw.uniform(-0.65, 0.65) for w in way]
                norm = math.hypot(*turned)
                branch(
                    end,
                    (turned[0] / norm, 0.7 * turned[1] / norm, abs(turned[2]) / norm),
                    0.72 * length,
                    0.6 * radius,
                )

    branch((-1.8, 5.8, 0), (0.05, 0.0, 1.0), 1.2, 0.1)
    for x in (-3.2, 3.2):
        box((1.0, 0.1, 1.6), (x, 8.82, 1.2), material("plain", (0.75, 0.75, 0.72)))
        box((0.84, 0.14, 1.44), (x, 8.8, 1.28), material("plain", (0.05, 0.08, 0.12), rough=0.2))
    box(
        (1.6, 0.5, 0.45),
        (-0.2, 7.2, 0),
        material("wood", (0.35, 0.22, 0.1), (0.5, 0.33, 0.17), scale=2),
    )


def market() -> None:
    """Strong texture everywhere: stacked crates, cloth and patterned floor."""
    draw = random.Random(6)
    sky((0.8, 0.8, 0.8), (0.6, 0.7, 0.9), 0.8)
    light("SUN", (0, 0, 10), 2.5, size=4, turn_deg=(30, -30, 0))
    box(
        (20, 20, 0.1),
        (0, 6, -0.1),
        material("cells", (0.12, 0.1, 0.09), (0.6, 0.52, 0.42), scale=3),
    )
    box(
        (20, 0.2, 5),
        (0, 9.5, 0),
        material("bricks", (0.5, 0.3, 0.2), (0.7, 0.65, 0.55), scale=2.2, upright=True),
    )
    kinds = ("checks", "cells", "wood", "bricks", "noise")
    for row in range(4):
        for column in range(7):
            x, y = (
                (column - 3) * 1.25 + draw.uniform(-0.2, 0.2),
                3.6 + 1.4 * row + draw.uniform(-0.2, 0.2),
            )
            if column == 3 and row < 3:
                continue
            for level in range(draw.choice((1, 1, 2, 2, 3))):
                first, second = (
                    [
                        draw.uniform(0.3, 0.9)
                        if c == draw.randrange(3)
                        else draw.uniform(0.02, 0.4)
                        for c in range(3)
                    ],
                    [draw.uniform(0.3, 0.9) for _ in range(3)],
                )
                made = material(
                    draw.choice(kinds), first, second, scale=draw.uniform(4, 11), upright=True
                )
                box((0.8, 0.8, 0.7), (x, y, 0.7 * level), made, (0, 0, draw.uniform(-25, 25)))
    for x in (-2.6, 2.4):
        fruit = material("noise", (0.7, 0.25, 0.02), (0.85, 0.45, 0.05), scale=9)
        for _ in range(26):
            ball(
                0.11,
                (
                    x + draw.uniform(-0.4, 0.4),
                    2.9 + draw.uniform(-0.3, 0.3),
                    draw.uniform(0.08, 0.3),
                ),
                fruit,
                detail=2,
            )


def studio() -> None:
    """Almost no texture: a white room with a few smooth bodies."""
    white = material("plain", (0.75, 0.75, 0.74))
    for size, at in (
        ((12, 12, 0.1), (0, 3, -0.1)),
        ((12, 0.1, 5), (0, 7, 0)),
        ((0.1, 12, 5), (-4, 3, 0)),
        ((0.1, 12, 5), (4, 3, 0)),
        ((12, 12, 0.1), (0, 3, 4)),
    ):
        box(size, at, white)
    ball(0.6, (-0.9, 3.4, 0.6), material("plain", (0.7, 0.68, 0.66), rough=0.4), detail=5)
    box((0.9, 0.9, 1.5), (1.0, 4.2, 0), material("plain", (0.55, 0.6, 0.66)), (0, 0, 30))
    cone(0.5, 0.5, 0.8, (0.1, 2.6, 0), material("plain", (0.68, 0.6, 0.52)), sides=48)
    cone(0.6, 0.0, 1.6, (-2.3, 5.2, 0), material("plain", (0.6, 0.66, 0.6)), sides=48)
    light("AREA", (-2.5, 0.0, 3.9), 260, (1.0, 0.97, 0.92), size=2.5, turn_deg=(15, -20, 0))
    light("AREA", (3.0, 2.0, 3.9), 60, (0.85, 0.92, 1.0), size=1.5)


def night() -> None:
    """An alley at night, lit by coloured signs and lamps."""
    draw = random.Random(8)
    sky((0.004, 0.005, 0.012), (0.001, 0.001, 0.004), 1.0)
    box(
        (14, 40, 0.1),
        (0, 14, -0.1),
        material("noise", (0.03, 0.03, 0.035), (0.1, 0.1, 0.11), scale=1.2, rough=0.25),
    )
    for side in (-1, 1):
        for i in range(7):
            tint = [draw.uniform(0.15, 0.5) for _ in range(3)]
            box(
                (2, 3.9, draw.uniform(4, 8)),
                (side * 3.4, 4 * i, 0),
                material("bricks", tint, (0.1, 0.1, 0.1), scale=2.2, upright=True),
            )
            hue = draw.choice(
                (
                    (1.0, 0.1, 0.25),
                    (0.1, 0.5, 1.0),
                    (1.0, 0.55, 0.1),
                    (0.2, 1.0, 0.45),
                    (0.8, 0.2, 1.0),
                )
            )
            box(
                (0.08, 1.1, 0.5),
                (side * 2.3, 4 * i + draw.uniform(-1, 1), draw.uniform(1.9, 2.8)),
                material("glow", hue, glow=5),
            )
            light("POINT", (side * 1.9, 4 * i, 2.4), 45, hue, size=1)
            box(
                (0.06, 0.9, 1.2),
                (side * 2.38, 4 * i + 1.3, 0.9),
                material("glow", (1.0, 0.75, 0.4), glow=1.2),
            )
        for i in range(4):
            box(
                (0.7, 0.7, 0.8),
                (side * draw.uniform(1.7, 2.0), 3 + 4.5 * i + side, 0),
                material("wood", (0.2, 0.12, 0.06), (0.4, 0.25, 0.12), scale=4),
                (0, 0, draw.uniform(-20, 20)),
            )
    box(
        (14, 0.2, 9), (0, 29, 0), material("noise", (0.15, 0.13, 0.2), (0.3, 0.25, 0.35), scale=0.7)
    )
    light("POINT", (0, 26, 3.5), 500, (1.0, 0.7, 0.4), size=3)


def desk() -> None:
    """A table top from near: books, mug, lamp, monitor and a keyboard."""
    draw = random.Random(9)
    box(
        (6, 0.1, 3),
        (0, 1.6, -0.8),
        material("noise", (0.28, 0.36, 0.4), (0.34, 0.42, 0.45), scale=3),
    )
    box(
        (2.4, 1.1, 0.06),
        (0, 0.5, -0.06),
        material("wood", (0.4, 0.24, 0.12), (0.55, 0.36, 0.2), scale=6, rough=0.4),
    )
    black = material("plain", (0.02, 0.02, 0.025), rough=0.3)
    box((0.75, 0.04, 0.45), (0.1, 0.8, 0.14), black)
    box(
        (0.7, 0.02, 0.4),
        (0.1, 0.775, 0.165),
        material("cells", (0.05, 0.2, 0.5), (0.2, 0.6, 0.7), scale=14),
    )
    cone(0.03, 0.03, 0.16, (0.1, 0.84, 0), black)
    cone(0.14, 0.12, 0.02, (0.1, 0.84, 0), black)
    box(
        (0.45, 0.15, 0.02),
        (0.05, 0.35, 0),
        material("checks", (0.04, 0.04, 0.04), (0.2, 0.2, 0.2), scale=45),
    )
    z = 0.0
    for _ in range(6):
        thick = draw.uniform(0.02, 0.05)
        tint = (draw.uniform(0.05, 0.7), draw.uniform(0.05, 0.5), draw.uniform(0.05, 0.5))
        box(
            (0.26, 0.19, thick),
            (-0.55, 0.55, z),
            material("noise", tint, [0.8 * c for c in tint], scale=20),
            (0, 0, draw.uniform(-20, 20)),
        )
        z += thick
    cone(
        0.045,
        0.045,
        0.1,
        (-0.28, 0.32, 0),
        material("plain", (0.75, 0.3, 0.1), rough=0.2),
        sides=32,
    )
    cone(
        0.05,
        0.04,
        0.13,
        (0.62, 0.55, 0),
        material("bricks", (0.8, 0.8, 0.75), (0.2, 0.2, 0.5), scale=18, upright=True),
        sides=32,
    )
    for _ in range(7):
        rod(
            (0.62, 0.55, 0.1),
            (0.62 + draw.uniform(-0.06, 0.06), 0.55 + draw.uniform(-0.05, 0.05), 0.26),
            0.005,
            material("plain", [draw.random() for _ in range(3)]),
        )
    cone(0.09, 0.09, 0.02, (0.95, 0.75, 0), black)
    rod((0.95, 0.75, 0), (1.0, 0.75, 0.42), 0.012, black)
    cone(0.1, 0.04, 0.12, (0.93, 0.7, 0.36), material("plain", (0.7, 0.65, 0.1)))
    light("POINT", (0.9, 0.62, 0.38), 4, (1.0, 0.85, 0.6), size=0.6)
    light("AREA", (-1.2, -0.6, 1.8), 38, size=1.0, turn_deg=(30, -30, 0))


SCENES: dict[str, tuple[View, Callable[[], None]]] = {
    "room": (
        View(
            (0.2, -2.6, 1.5),
            (-0.1, 2.0, 1.05),
            62,
            _paths((0.25, 0, 0.2, 0, 0), (0.5, 0.1, -0.4, 8, -2), (0.9, 0.2, 0.6, 32, -4)),
        ),
        room,
    ),
    "street": (
        View(
            (0.3, -1.0, 1.7),
            (0.0, 15, 2.3),
            60,
            _paths((0, 0, 1.5, 0, 0), (-0.8, 0.4, 1.0, -8, 0), (1.2, 0.8, 3.0, 30, 2)),
        ),
        street,
    ),
    "landscape": (
        View(
            (0, -4, 2.4),
            (0, 30, 2.6),
            60,
            _paths((0.4, 0.2, 0.8, 0, 0), (0.8, 0.5, -1.0, -8, -2), (-1.0, 0.8, 2.0, -30, -5)),
        ),
        landscape,
    ),
    "corridor": (
        View(
            (0, -1.6, 1.6),
            (0, 8, 1.4),
            65,
            _paths((0.25, 0, 0.4, 0, 0), (-0.7, 0, 0.9, 6, 0), (0.9, 0.2, 2.2, 28, 0)),
        ),
        corridor,
    ),
    "railing": (
        View(
            (0.2, -0.2, 1.6),
            (0, 7, 1.2),
            58,
            _paths((0.3, 0, 0, 0, 0), (-0.6, 0.2, -0.5, -5, 0), (1.1, 0.3, 0.6, 26, 0)),
        ),
        railing,
    ),
    "market": (
        View(
            (0, -0.3, 1.9),
            (0, 6, 0.9),
            58,
            _paths((0.3, 0.1, 0, 0, 0), (0.5, 0.2, -0.5, 7, 0), (-1.0, 0.4, 0.9, -28, 0)),
        ),
        market,
    ),
    "studio": (
        View(
            (0, -1.2, 1.5),
            (0, 4, 0.9),
            60,
            _paths((-0.25, 0, 0.2, 0, 0), (0.6, 0.2, -0.4, 7, 0), (-1.0, 0.3, 0.8, -28, -3)),
        ),
        studio,
    ),
    "night": (
        View(
            (0, -3, 1.7),
            (0, 12, 1.9),
            62,
            _paths((0.2, 0, 0.6, 0, 0), (-0.4, 0.2, 1.0, -8, 0), (0.6, 0.3, 2.6, 28, 0)),
            0.6,
        ),
        night,
    ),
    "desk": (
        View(
            (0.05, -0.55, 0.42),
            (0.05, 0.7, 0.12),
            55,
            _paths((0.06, 0, 0.05, 0, 0), (-0.2, 0.06, -0.05, -6, 0), (0.3, 0.1, 0.15, 24, -4)),
        ),
        desk,
    ),
}
