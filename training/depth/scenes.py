"""Makes random scenes of simple solids and photographs them: picture, true depth, sky and camera.

Rooms, halls, streets, facades, gardens, landscapes, valleys, towers, tables and single things close
by. What varies
on purpose is what real photographs vary in: lens, pitch, height of the camera, light, exposure,
textures that say nothing of the shape, bright walls, dark skies, reflections, clutter.

    python training/depth/scenes.py textures.npy sheet.png      draws a sheet of examples
"""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

import numpy as np

from .solids import (
    BOX,
    BRICKS,
    CLOUDY,
    CYLINDER,
    ELLIPSOID,
    FACADE,
    GABLE,
    LEAVES,
    PHOTO,
    PLAIN,
    PLANKS,
    STRIPES,
    TILES,
)

KINDS = (
    *("room", "hall", "street", "facade", "garden", "landscape", "table", "thing", "around"),
    *("valley", "tower"),
)
SHAPES = ((96, 64), (64, 96), (112, 56), (80, 80))  # width, height
SHAPE_SHARES = (0.56, 0.20, 0.12, 0.12)
_SHARES = (0.27, 0.07, 0.14, 0.09, 0.10, 0.06, 0.07, 0.05, 0.07, 0.03, 0.05)


class Sample(NamedTuple):
    """One made photograph."""

    image: np.ndarray  # [h, w, 3] float32, 0..1, display values
    depth: np.ndarray  # [h, w] float32, metres along z, inf: sky
    focal_px: float
    pitch_deg: float  # above 0: the camera looks down
    roll_deg: float
    kind: int


class Material(NamedTuple):
    texture: int
    first: np.ndarray
    second: np.ndarray
    scale: float
    gloss: float = 0.0


class Scene:
    """Primitives gathered one after the other."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.rows: list[list[float]] = []

    def colour(self, spread: float = 0.4, low: float = 0.05, high: float = 0.9) -> np.ndarray:
        b = self.rng.uniform(low, high)
        return np.clip(b * (1 + spread * self.rng.uniform(-1, 1, 3)), 0.02, 1)

    def material(self, texture=None, first=None, second=None, scale=None, gloss=None) -> Material:
        r = self.rng
        if texture is None:
            texture = r.choice(
                [CLOUDY, PLANKS, TILES, BRICKS, STRIPES, PLAIN, PHOTO],
                p=[0.14, 0.07, 0.05, 0.05, 0.04, 0.25, 0.40],
            )
        first = self.colour() if first is None else first
        second = self.colour() if second is None else second
        if r.random() < 0.5:
            second = np.clip(first * r.uniform(0.5, 1.5), 0.02, 1)
        if gloss is None:
            gloss = r.uniform(0.1, 0.6) if r.random() < 0.08 else 0.0
        return Material(
            int(texture),
            first,
            second,
            math.exp(r.uniform(-1, 1.5)) if scale is None else scale,
            gloss,
        )

    def add(self, kind, centre, half, yaw, material, glow=0.0, inside=0.0) -> None:
        hx, hy, hz = half
        if kind == CYLINDER:
            radius = math.hypot(max(hx, hz), hy)
        elif kind == ELLIPSOID:
            radius = max(half)
        else:
            radius = math.sqrt(hx * hx + hy * hy + hz * hz)
        self.rows.append(
            [
                kind,
                *centre,
                *half,
                math.cos(yaw),
                math.sin(yaw),
                material.texture,
                *material.first,
                *material.second,
                material.scale,
                glow,
                inside,
                float(self.rng.integers(0, 10000)),
                material.gloss,
                radius * 1.0001,
            ]
        )

    def standing(self, x, z, y, w, h, d, yaw, material, kind=BOX, glow=0.0) -> None:
        """A solid of w x h x d whose foot is at height y."""
        self.add(kind, (x, y + h / 2, z), (w / 2, h / 2, d / 2), yaw, material, glow)

    def ground(self, material, half=600.0, y=0.0) -> None:
        self.add(BOX, (0, y - 0.5, 0), (half, 0.5, half), 0.0, material)


def turned(x, z, yaw, ox, oz):
    """A place given in axes turned by yaw round (ox, oz)."""
    c, s = math.cos(yaw), math.sin(yaw)
    return ox + c * x - s * z, oz + s * x + c * z


def furniture(s: Scene, x: float, z: float, yaw: float, y: float = 0.0) -> None:
    r, k, m = s.rng, s.rng.integers(0, 9), s.material()

    def part(dx, dz, up, w, h, d, mm=m, kind=BOX):
        px, pz = turned(dx, dz, yaw, x, z)
        s.standing(px, pz, y + up, w, h, d, yaw, mm, kind)

    if k <= 1:  # table
        w, d, h = r.uniform(0.6, 2.2), r.uniform(0.5, 1.2), r.uniform(0.4, 0.8)
        t, leg = r.uniform(0.03, 0.08), r.uniform(0.03, 0.08)
        if r.random() < 0.25:
            part(0, 0, h - t, w, t, w, kind=CYLINDER)
            part(0, 0, 0, 0.1, h, 0.1)
        else:
            part(0, 0, h - t, w, t, d)
            for a in (-1, 1):
                for b in (-1, 1):
                    part(a * (w / 2 - leg), b * (d / 2 - leg), 0, leg, h - t, leg)
        for _ in range(r.integers(0, 6)):
            small_thing(
                s,
                *turned(r.uniform(-0.4, 0.4) * w, r.uniform(-0.4, 0.4) * d, yaw, x, z),
                y + h,
                0.25,
            )
        for _ in range(r.integers(0, 4)):
            chair(
                s,
                *turned(r.uniform(-0.5, 0.5) * w, r.choice([-1, 1]) * (d / 2 + 0.25), yaw, x, z),
                y,
                yaw,
            )
    elif k == 2:
        chair(s, x, z, y, yaw)
    elif k == 3:  # sofa or bed
        w, d, h = r.uniform(1.2, 2.4), r.uniform(0.7, 2.0), r.uniform(0.3, 0.5)
        part(0, 0, 0, w, h, d)
        part(0, d / 2 - 0.1, h, w, r.uniform(0.2, 0.5), 0.2)
        if r.random() < 0.5:
            part(-w / 2 + 0.1, 0, h, 0.2, 0.2, d)
            part(w / 2 - 0.1, 0, h, 0.2, 0.2, d)
        for _ in range(r.integers(0, 4)):
            px, pz = turned(r.uniform(-0.35, 0.35) * w, d / 2 - 0.3, yaw, x, z)
            s.add(
                ELLIPSOID,
                (px, y + h + 0.15, pz),
                (0.22, 0.18, 0.12),
                yaw + r.uniform(-0.4, 0.4),
                s.material(),
            )
    elif k == 4:  # shelf or cabinet, open or shut
        w, d, h = r.uniform(0.5, 2.0), r.uniform(0.25, 0.6), r.uniform(0.6, 2.3)
        if r.random() < 0.5:
            part(0, 0, 0, w, h, d)
            for _ in range(r.integers(0, 5)):
                part(
                    r.uniform(-0.3, 0.3) * w,
                    -d / 2,
                    r.uniform(0.05, 0.8) * h,
                    w * r.uniform(0.2, 0.5),
                    h * r.uniform(0.1, 0.25),
                    0.03,
                    s.material(),
                )
        else:
            part(0, d / 2, 0, w, h, 0.03)
            for a in (-1, 1):
                part(a * w / 2, 0, 0, 0.03, h, d)
            for i in range(4):
                part(0, 0, i * (h - 0.03) / 3, w, 0.03, d)
                for _ in range(r.integers(0, 4)):
                    if i < 3:
                        part(
                            r.uniform(-0.4, 0.4) * w,
                            0,
                            i * (h - 0.03) / 3 + 0.03,
                            r.uniform(0.05, 0.3) * w,
                            r.uniform(0.3, 0.9) * (h / 3 - 0.06),
                            d * 0.6,
                            s.material(),
                        )
    elif k == 5:  # lamp
        h = r.uniform(1.0, 1.8)
        part(0, 0, 0, 0.04, h, 0.04)
        glow = s.material(PLAIN, np.array([1, 0.95, 0.8]), np.array([1, 0.9, 0.7]))
        s.add(ELLIPSOID, (x, y + h, z), (0.18, 0.18, 0.18), 0, glow, r.uniform(0.8, 1.5))
    elif k == 6:  # plant
        part(0, 0, 0, 0.3, 0.3, 0.3, kind=CYLINDER)
        h = r.uniform(0.5, 1.5)
        for _ in range(r.integers(2, 6)):
            green = s.material(
                LEAVES,
                np.array([0.05, 0.12, 0.03]),
                np.array([0.2, 0.4, 0.1]) * r.uniform(0.5, 1.5),
                r.uniform(1, 3),
            )
            s.add(
                ELLIPSOID,
                (x + r.normal() * 0.15, y + 0.3 + h * r.uniform(0.3, 1), z + r.normal() * 0.15),
                tuple(r.uniform(0.1, 0.4, 3)),
                r.uniform(0, 3),
                green,
            )
    elif k == 7:
        person(s, x, z, y)
    else:
        part(0, 0, 0, *r.uniform(0.2, 1.2, 3), kind=r.choice([BOX, CYLINDER]))


def chair(s: Scene, x, z, y, yaw) -> None:
    r, m = s.rng, s.material()
    w, h = r.uniform(0.35, 0.6), r.uniform(0.4, 0.5)
    s.standing(x, z, y + h - 0.05, w, 0.06, w, yaw, m)
    for a in (-1, 1):
        for b in (-1, 1):
            s.standing(
                *turned(a * (w / 2 - 0.03), b * (w / 2 - 0.03), yaw, x, z), y, 0.04, h, 0.04, yaw, m
            )
    s.standing(
        *turned(0, r.choice([-1, 1]) * (w / 2 - 0.03), yaw, x, z),
        y + h,
        w,
        r.uniform(0.3, 0.7),
        0.05,
        yaw,
        m,
    )


def small_thing(s: Scene, x, z, y, size) -> None:
    r = s.rng
    q = r.uniform(0.15, 1.0, 3) * size
    kind = r.choice([BOX, ELLIPSOID, CYLINDER])
    h = q[1] * r.uniform(0.4, 1.6)
    s.standing(x, z, y, q[0], h, q[0] if kind != BOX else q[2], r.uniform(0, 3), s.material(), kind)
    if kind == CYLINDER and r.random() < 0.4:  # a bottle's neck
        s.standing(x, z, y + h, q[0] * 0.4, h * 0.5, q[0] * 0.4, 0, s.material(), CYLINDER)


def person(s: Scene, x, z, y=0.0) -> None:
    r, h = s.rng, s.rng.uniform(1.45, 1.95)
    shirt, legs = s.material(r.choice([PLAIN, PHOTO])), s.material(PLAIN)
    yaw = r.uniform(0, 3)
    step = r.uniform(0.0, 0.15)
    for a in (-1, 1):
        s.add(
            ELLIPSOID, (*[x + a * 0.09, y + h * 0.25], z + a * step), (0.09, h * 0.27, 0.1), 0, legs
        )
        px, pz = turned(a * 0.27, 0, yaw, x, z)
        s.add(ELLIPSOID, (px, y + h * 0.6, pz), (0.06, h * 0.19, 0.07), yaw, shirt)
    s.add(ELLIPSOID, (x, y + h * 0.63, z), (0.22, h * 0.21, 0.14), yaw, shirt)
    skin = np.array([0.7, 0.5, 0.4]) * r.uniform(0.3, 1.1)
    s.add(
        ELLIPSOID, (x, y + h * 0.92, z), (0.09, 0.12, 0.1), 0, s.material(PLAIN, skin, skin * 0.9)
    )


def tree(s: Scene, x, z, y=0.0, low=2.0, high=9.0) -> None:
    r = s.rng
    h = r.uniform(low, high)
    bark = s.material(CLOUDY, np.array([0.15, 0.1, 0.06]), np.array([0.3, 0.2, 0.12]), 3.0)
    s.standing(x, z, y, 0.1 + 0.03 * h, h * 0.75, 0.1 + 0.03 * h, 0, bark, CYLINDER)
    dark = np.array([0.05, 0.1, 0.02]) * r.uniform(0.6, 2)
    leaf = np.array([0.25, 0.4, 0.1]) * r.uniform(0.5, 1.6) * (1 + 0.3 * r.uniform(-1, 1, 3))
    if r.random() < 0.15:
        leaf = np.array([0.5, 0.3, 0.1]) * r.uniform(0.5, 1.3)
    if r.random() < 0.1:  # bare branches
        return
    for _ in range(r.integers(2, 10)):
        q = h * r.uniform(0.12, 0.3)
        m = s.material(LEAVES, dark, np.clip(leaf, 0, 1), r.uniform(0.5, 2))
        s.add(
            ELLIPSOID,
            (x + r.normal() * h * 0.15, y + h * r.uniform(0.5, 1.0), z + r.normal() * h * 0.15),
            (q, q * r.uniform(0.6, 1.2), q),
            r.uniform(0, 3),
            m,
        )


def bush(s: Scene, x, z) -> None:
    r, q = s.rng, s.rng.uniform(0.2, 1.2)
    g = np.array([0.15, 0.3, 0.08]) * r.uniform(0.4, 1.8) * (1 + 0.3 * r.uniform(-1, 1, 3))
    for _ in range(r.integers(1, 4)):
        s.add(
            ELLIPSOID,
            (x + r.normal() * q * 0.6, q * 0.5, z + r.normal() * q * 0.6),
            (q, q * r.uniform(0.5, 1), q),
            0,
            s.material(LEAVES, g * 0.3, np.clip(g, 0, 1), r.uniform(1, 3)),
        )


def car(s: Scene, x, z, yaw) -> None:
    r = s.rng
    m = s.material(PLAIN, gloss=0.3)
    length, w, tall = r.uniform(3.5, 5.0), r.uniform(1.6, 1.95), r.uniform(1.3, 1.9)
    s.standing(x, z, 0.25, w, tall * 0.42, length, yaw, m)
    s.standing(
        x,
        z,
        0.25 + tall * 0.42,
        w * 0.88,
        tall * 0.36,
        length * r.uniform(0.45, 0.75),
        yaw,
        s.material(PLAIN, np.full(3, 0.08), np.full(3, 0.2), gloss=0.6),
    )
    s.standing(x, z, 0.25 + tall * 0.78, w * 0.85, 0.05, length * 0.45, yaw, m)
    dark = s.material(PLAIN, np.full(3, 0.03), np.full(3, 0.05), gloss=0.0)
    for a in (-1, 1):
        for b in (-1, 1):
            px, pz = turned(a * w * 0.48, b * length * 0.32, yaw, x, z)
            s.add(ELLIPSOID, (px, 0.32, pz), (0.12, 0.32, 0.32), yaw, dark)
        px, pz = turned(a * w * 0.35, -length / 2, yaw, x, z)
        s.add(
            BOX,
            (px, 0.6, pz),
            (0.15, 0.06, 0.02),
            yaw,
            s.material(PLAIN, np.array([1, 0.3, 0.2]), np.array([1, 0.9, 0.7])),
            r.uniform(0.3, 2) if r.random() < 0.5 else 0,
        )


def house(s: Scene, x, z, w, h, d, yaw) -> None:
    r = s.rng
    m = s.material(
        r.choice([FACADE, FACADE, PHOTO, BRICKS, PLAIN]), scale=math.exp(r.uniform(-1.6, -0.4))
    )
    if m.texture in (PHOTO, BRICKS, PLAIN):
        m = m._replace(scale=math.exp(r.uniform(-1, 1)))
    s.standing(x, z, 0, w, h, d, yaw, m)
    if m.texture != FACADE:  # windows and a door as solids of their own
        glass = s.material(PLAIN, np.full(3, r.uniform(0.02, 0.3)), gloss=0.5)
        frame = s.material(PLAIN)
        storeys, bays = max(int(h / 3), 1), max(int(w / 2.2), 1)
        if storeys * bays <= 24:
            for i in range(storeys):
                for j in range(bays):
                    px, pz = turned((j + 0.5) / bays * w - w / 2, -d / 2, yaw, x, z)
                    s.add(BOX, (px, 3 * i + 1.7, pz), (0.55, 0.75, 0.02), yaw, frame)
                    s.add(BOX, (px, 3 * i + 1.7, pz), (0.45, 0.65, 0.03), yaw, glass)
    if r.random() < 0.6:
        rise = r.uniform(0.2, 0.6) * min(w, d)
        turn = math.pi / 2 if r.random() < 0.5 else 0.0
        ww, dd = (w, d) if turn == 0.0 else (d, w)
        s.standing(
            x,
            z,
            h,
            ww * 1.08,
            rise,
            dd * 1.06,
            yaw + turn,
            s.material(
                r.choice([TILES, STRIPES, PHOTO]), np.array([0.4, 0.15, 0.1]) * r.uniform(0.4, 1.6)
            ),
            GABLE,
        )
    elif r.random() < 0.5:
        s.standing(x, z, h, w * 1.06, 0.3, d * 1.06, yaw, s.material(PLAIN))


def portal(s: Scene, x, z, yaw, w, h, t, m: Material) -> None:
    """A wall w wide with an opening, sometimes an arch of straight pieces, sometimes shut by a
    door.
    """
    r = s.rng
    ow, oh = w * r.uniform(0.2, 0.6), h * r.uniform(0.5, 0.85)
    off = r.uniform(-0.2, 0.2) * w
    left, right = w / 2 + off - ow / 2, w / 2 - off - ow / 2
    s.standing(*turned(-w / 2 + left / 2, 0, yaw, x, z), 0, left, h, t, yaw, m)
    s.standing(*turned(w / 2 - right / 2, 0, yaw, x, z), 0, right, h, t, yaw, m)
    s.standing(*turned(off, 0, yaw, x, z), oh, ow, h - oh, t, yaw, m)
    if r.random() < 0.6:  # rounded corners: the opening narrows towards its top
        for i in range(1, 6):
            up = oh - ow / 2 * (1 - i / 6)
            cut = ow / 2 * (1 - math.sqrt(max(1 - (i / 6) ** 2, 0)))
            for a in (-1, 1):
                s.standing(
                    *turned(off + a * (ow / 2 - cut / 2), 0, yaw, x, z),
                    up,
                    cut,
                    ow / 12 + 0.01,
                    t,
                    yaw,
                    m,
                )
    for k in range(r.integers(0, 4)):  # steps of the frame
        e = 0.12 * (k + 1)
        mm = s.material(
            r.choice([PLAIN, CLOUDY, PHOTO]), np.clip(m.first * r.uniform(0.7, 1.4), 0.02, 1)
        )
        for a in (-1, 1):
            s.standing(
                *turned(off + a * (ow / 2 + e - 0.06), -t / 2 - 0.1 * (4 - k) / 2, yaw, x, z),
                0,
                0.12,
                oh + e,
                0.1 * (4 - k),
                yaw,
                mm,
            )
        s.standing(
            *turned(off, -t / 2 - 0.1 * (4 - k) / 2, yaw, x, z),
            oh + e - 0.12,
            ow + 2 * e,
            0.12,
            0.1 * (4 - k),
            yaw,
            mm,
        )
    if r.random() < 0.55:
        door = s.material(r.choice([PLANKS, PHOTO, PLAIN]))
        s.standing(*turned(off, t * r.uniform(-0.3, 0.4), yaw, x, z), 0, ow, oh, 0.08, yaw, door)
        for _ in range(r.integers(0, 8)):
            s.standing(
                *turned(off + r.uniform(-0.4, 0.4) * ow, -0.06, yaw, x, z),
                r.uniform(0.1, 0.7) * oh,
                ow * r.uniform(0.1, 0.3),
                oh * 0.12,
                0.06,
                yaw,
                s.material(PLAIN),
            )


def _room(s: Scene, yaw: float, eye_height: float, big: bool):
    r = s.rng
    if big:
        w, d, h = r.uniform(8, 26), r.uniform(10, 45), r.uniform(4, 13)
    else:
        w, d, h = r.uniform(2.3, 8), r.uniform(2.5, 11), r.uniform(2.2, 4.0)
    eye_height = min(eye_height, h - 0.4)
    cx, cz = r.uniform(-0.38, 0.38) * w, r.uniform(-0.48, 0.05) * d
    x, z = turned(-cx, -cz, yaw, 0, 0)
    wall = s.material(
        r.choice(
            [PLAIN, CLOUDY, PHOTO, BRICKS, PLANKS, STRIPES], p=[0.5, 0.1, 0.2, 0.07, 0.07, 0.06]
        ),
        s.colour(0.25, 0.2, 1.0),
    )
    floor = s.material(
        r.choice([PLANKS, TILES, CLOUDY, PHOTO, PLAIN], p=[0.3, 0.15, 0.15, 0.25, 0.15]),
        gloss=r.uniform(0.1, 0.7) if r.random() < 0.35 else 0,
    )
    s.add(BOX, (x, -0.05, z), (w / 2, 0.05, d / 2), yaw, floor)
    s.add(
        BOX,
        (x, h + 0.05, z),
        (w / 2, 0.05, d / 2),
        yaw,
        s.material(PLAIN if r.random() < 0.8 else None, s.colour(0.1, 0.4, 1)),
    )
    for a in (-1, 1):
        s.add(
            BOX, (*_at(a * (w / 2 + 0.05), 0, yaw, x, z, h / 2),), (0.05, h / 2, d / 2), yaw, wall
        )
        if a > 0 and not big and r.random() < 0.4:
            _next_room(s, yaw, w, d, h, (x, z), wall, floor)
            continue
        s.add(
            BOX,
            (*_at(0, a * (d / 2 + 0.05), yaw, x, z, h / 2),),
            (w / 2, h / 2, 0.05),
            yaw,
            wall if r.random() < 0.75 else s.material(),
        )
    for _ in range(r.integers(2, 12)):
        side, glow = r.integers(0, 4), (r.uniform(0.8, 2.5) if r.random() < 0.35 else 0.0)
        ww, hh, y = r.uniform(0.2, 1.8), r.uniform(0.2, 1.6), r.uniform(0.9, 2.2)
        if big:
            ww, hh, y = r.uniform(0.6, 3), r.uniform(0.6, 5), r.uniform(1.5, 0.7 * h + 1)
        elif r.random() < 0.25:
            ww, hh, y, glow = 0.9, 2.05, 1.03, 0.0
        t, m = (
            r.uniform(0.01, 0.06),
            s.material(PHOTO if r.random() < 0.5 else None, scale=r.uniform(0.5, 2)),
        )
        a = -1 if side % 2 == 0 else 1
        if side < 2:
            place, half = (
                _at(a * (w / 2 - t), r.uniform(-0.45, 0.45) * d, yaw, x, z, y),
                (t, hh / 2, ww / 2),
            )
        else:
            place, half = (
                _at(r.uniform(-0.45, 0.45) * w, a * (d / 2 - t), yaw, x, z, y),
                (ww / 2, hh / 2, t),
            )
        s.add(BOX, place, half, yaw, m, glow)
    if big:
        columns, m = r.integers(0, 7), s.material(r.choice([PLAIN, PHOTO, CLOUDY]))
        cw = r.uniform(0.3, 1.2)
        for i in range(columns):
            for a in (-1, 1):
                px, pz = turned(a * w * 0.3, (i + 0.5) / columns * d - d / 2, yaw, x, z)
                if px * px + pz * pz > 2:
                    s.standing(px, pz, 0, cw, h, cw, yaw, m, r.choice([BOX, CYLINDER]))
        if r.random() < 0.4:  # a gallery
            for a in (-1, 1):
                s.standing(
                    *turned(a * w * 0.42, 0, yaw, x, z),
                    h * 0.5,
                    w * 0.16,
                    0.4,
                    d,
                    yaw,
                    s.material(),
                )
        if r.random() < 0.4:  # stairs
            sx, sz, sw = r.uniform(-0.3, 0.3) * w, r.uniform(0, 0.4) * d, r.uniform(1.5, 5)
            m = s.material()
            for i in range(r.integers(5, 14)):
                s.standing(
                    *turned(sx, sz + i * 0.35, yaw, x, z), 0, sw, 0.18 * (i + 1), 0.36, yaw, m
                )
    for _ in range(r.integers(2, 14) if not big else r.integers(4, 26)):
        a, b = r.uniform(-0.45, 0.45) * w, r.uniform(-0.45, 0.45) * d
        if r.random() < 0.5 and not big:
            if r.random() < 0.5:
                a = math.copysign(w / 2 - 0.35, a)
            else:
                b = math.copysign(d / 2 - 0.35, b)
        px, pz = turned(a, b, yaw, x, z)
        if px * px + pz * pz < 0.8:
            continue
        furniture(
            s,
            px,
            pz,
            yaw
            + r.integers(0, 4) * math.pi / 2
            + (r.uniform(-0.3, 0.3) if r.random() < 0.4 else 0),
        )
    if r.random() < 0.3:  # hanging lamps
        for _ in range(r.integers(1, 4)):
            px, pz = turned(r.uniform(-0.4, 0.4) * w, r.uniform(-0.4, 0.4) * d, yaw, x, z)
            y = h - r.uniform(0.3, 0.35 * h)
            s.standing(px, pz, y, 0.02, h - y, 0.02, 0, s.material(PLAIN))
            q = r.uniform(0.1, 0.4) * (3 if big else 1)
            s.add(
                ELLIPSOID,
                (px, y, pz),
                (q, q * r.uniform(0.4, 1), q),
                0,
                s.material(PLAIN, np.ones(3) * 0.9, np.ones(3)),
                r.uniform(0, 2),
            )
    lx, lz = turned(r.uniform(-0.4, 0.4) * w, r.uniform(-0.4, 0.4) * d, yaw, x, z)
    power = 1.0 if not big else h * h / 9
    return (
        eye_height,
        np.array([lx, h - 0.3, lz]),
        np.array([1.0, 0.9, 0.75]) * r.uniform(0.3, 1.6) * power,
    )


def _next_room(s: Scene, yaw, w, d, h, at, wall: Material, floor: Material) -> None:
    """A far wall with an opening, and a second room behind it."""
    r, (x, z) = s.rng, at
    width = min(r.uniform(0.75, 1.2) if r.random() < 0.5 else r.uniform(1.2, 0.9 * w), 0.8 * w)
    top = h if r.random() < 0.2 else r.uniform(1.95, min(2.4, h - 0.05))
    left = r.uniform(0.02, 1.0) * (w - width)
    depth, wide = r.uniform(1.2, 6.0), w * r.uniform(1.0, 1.6)
    for a, b in ((-w / 2, left - w / 2), (left + width - w / 2, w / 2)):
        s.standing(*turned((a + b) / 2, d / 2 + 0.05, yaw, x, z), 0, b - a, h, 0.1, yaw, wall)
    if top < h:
        place = turned(left + width / 2 - w / 2, d / 2 + 0.05, yaw, x, z)
        s.standing(*place, top, width, h - top, 0.1, yaw, wall)
    middle = d / 2 + 0.1 + depth / 2
    other = wall if r.random() < 0.5 else s.material(PLAIN, s.colour(0.25, 0.2, 1.0))
    under = floor if r.random() < 0.6 else s.material()
    half = (wide / 2 + 0.1, 0.05, depth / 2 + 0.1)
    s.add(BOX, _at(0, middle, yaw, x, z, -0.05), half, yaw, under)
    s.add(BOX, _at(0, middle, yaw, x, z, h + 0.05), half, yaw, s.material(PLAIN))
    for a in (-1, 1):
        place = turned(a * (wide / 2 + 0.05), middle, yaw, x, z)
        s.standing(*place, 0, 0.1, h, depth + 0.2, yaw, other)
    place = turned(0, middle + depth / 2 + 0.1, yaw, x, z)
    s.standing(*place, 0, wide + 0.2, h, 0.1, yaw, other)
    for _ in range(r.integers(0, 4)):  # pictures, a window, a door on its far wall
        q = r.uniform(0.3, 1.3, 2)
        px, pz = turned(r.uniform(-0.4, 0.4) * wide, middle + depth / 2 + 0.03, yaw, x, z)
        glow = r.uniform(0.8, 2.5) if r.random() < 0.3 else 0.0
        s.standing(px, pz, r.uniform(0.0, 1.3), q[0], q[1], 0.06, yaw, s.material(), glow=glow)
    for _ in range(r.integers(0, 5)):
        px, pz = turned(
            r.uniform(-0.42, 0.42) * wide, middle + r.uniform(-0.4, 0.4) * depth, yaw, x, z
        )
        furniture(s, px, pz, yaw + r.integers(0, 4) * math.pi / 2)


def _at(dx, dz, yaw, x, z, y):
    px, pz = turned(dx, dz, yaw, x, z)
    return px, y, pz


def _street(s: Scene, yaw: float) -> None:
    r = s.rng
    water = r.random() < 0.12
    ground = s.material(
        r.choice([CLOUDY, TILES, PLAIN, PHOTO]),
        s.colour(0.1, 0.1, 0.6),
        gloss=r.uniform(0.3, 0.8) if r.random() < 0.15 else 0.0,
    )
    if water:
        ground = s.material(PLAIN, np.array([0.05, 0.1, 0.1]), gloss=0.9)
    s.ground(ground)
    sw, yaw = r.uniform(1.5, 13), yaw * 0.6
    for side in (-1, 1):
        if r.random() < 0.12:
            continue
        along, off = -10.0, r.uniform(0, 2)
        typical = r.uniform(3, 25) if r.random() < 0.8 else r.uniform(20, 60)
        while along < r.uniform(40, 160):
            length = r.uniform(4, 22)
            h, d = typical * r.uniform(0.6, 1.4), r.uniform(6, 20)
            if r.random() < 0.85:
                px, pz = turned(
                    side * (sw + off + d / 2 + r.uniform(0, 1.5)), along + length / 2, yaw, 0, 0
                )
                house(s, px, pz, length * 0.98, h, d, yaw - side * math.pi / 2)
            else:
                for _ in range(2):
                    px, pz = turned(side * (sw + 3), along + r.uniform(0, length), yaw, 0, 0)
                    if px * px + pz * pz > 9:
                        tree(s, px, pz)
            along += length
        px, pz = turned(side * sw * 0.8, 60, yaw, 0, 0)
        s.add(BOX, (px, 0.07, pz), (sw * 0.18, 0.07, 90), yaw, s.material())
    if r.random() < 0.6:
        px, pz = turned(r.uniform(-1, 1) * sw, math.exp(r.uniform(2.2, 4.8)), yaw, 0, 0)
        house(s, px, pz, r.uniform(8, 40), r.uniform(4, 40), 10, yaw + r.uniform(-0.4, 0.4))
    if r.random() < 0.12:  # a bridge or a gate across
        px, pz = turned(0, r.uniform(12, 60), yaw, 0, 0)
        portal(s, px, pz, yaw, 2 * sw + 8, r.uniform(5, 14), r.uniform(1, 6), s.material(PHOTO))
    for _ in range(r.integers(0, 10) if not water else 0):
        px, pz = turned(
            r.choice([-1, 1]) * sw * r.uniform(0.3, 0.7), math.exp(r.uniform(1.1, 3.9)), yaw, 0, 0
        )
        car(s, px, pz, yaw + (r.uniform(-0.3, 0.3) if r.random() < 0.2 else 0))
    for _ in range(r.integers(0, 9)):
        px, pz = turned(r.uniform(-1, 1) * sw, math.exp(r.uniform(0.7, 3.5)), yaw, 0, 0)
        person(s, px, pz)
    for _ in range(r.integers(0, 7)):
        px, pz = turned(
            r.choice([-1, 1]) * sw * r.uniform(0.6, 0.95), math.exp(r.uniform(1, 3.9)), yaw, 0, 0
        )
        if r.random() < 0.6:
            m = s.material(PLAIN)
            h = r.uniform(3, 9)
            s.standing(px, pz, 0, 0.14, h, 0.14, 0, m, CYLINDER)
            if r.random() < 0.6:
                s.standing(
                    px,
                    pz,
                    h,
                    r.uniform(0.3, 2.5),
                    r.uniform(0.1, 0.8),
                    0.15,
                    yaw,
                    s.material(),
                    glow=r.uniform(0, 1.5) if r.random() < 0.3 else 0,
                )
        else:
            tree(s, px, pz)


def _facade(s: Scene, yaw: float) -> None:
    """A wall close by, seen straight or at a slant, with things in front."""
    r = s.rng
    s.ground(s.material(r.choice([CLOUDY, TILES, PLAIN, PHOTO])))
    far, slant = math.exp(r.uniform(0.9, 2.9)), r.normal() * 0.45
    w, h = far * r.uniform(2.5, 6), far * r.uniform(0.4, 2.5)
    x, z = r.uniform(-0.3, 0.3) * far, far
    wall = s.material(r.choice([PHOTO, PHOTO, BRICKS, PLAIN, CLOUDY]), s.colour(0.2, 0.15, 1.0))
    if r.random() < 0.6:
        portal(s, x, z, slant, w, max(h, 2.6), r.uniform(0.3, 2.0), wall)
        if r.random() < 0.7:  # something behind the opening
            house(s, x, z + far * r.uniform(0.6, 3), w, r.uniform(3, 12), 6, slant)
            for _ in range(r.integers(0, 4)):
                tree(s, x + r.uniform(-1, 1) * far, z + far * r.uniform(0.5, 3))
    else:
        house(s, x, z + 3 * math.cos(slant), w, max(h, 2.6), 6, slant)
    for _ in range(r.integers(0, 9)):  # reliefs, pilasters, signs
        t, mm = r.uniform(0.03, 0.5), s.material()
        px, pz = turned(r.uniform(-0.45, 0.45) * w, -t / 2 - r.uniform(0, 0.3), slant, x, z)
        s.standing(
            px,
            pz,
            r.uniform(0, 0.5) * h,
            r.uniform(0.02, 0.15) * w,
            r.uniform(0.1, 0.8) * h,
            t,
            slant,
            mm,
            r.choice([BOX, CYLINDER]),
        )
    steps = r.integers(0, 6)
    for i in range(steps):
        px, pz = turned(0, -0.3 * (steps - i), slant, x, z)
        s.standing(px, pz, 0, w * 0.5, 0.16 * (i + 1), 0.6, slant, wall)
    for _ in range(r.integers(0, 6)):
        d, a = far * r.uniform(0.3, 0.95), r.uniform(-0.6, 0.6)
        what = r.integers(0, 4)
        px, pz = d * math.sin(a), d * math.cos(a)
        if what == 0:
            person(s, px, pz)
        elif what == 1:
            bush(s, px, pz)
        elif what == 2:
            small_thing(s, px, pz, 0, r.uniform(0.3, 1.2))
        elif d > 4:
            car(s, px, pz, slant + math.pi / 2)


def _greens(s: Scene) -> Material:
    r = s.rng
    g = np.array([0.2, 0.3, 0.08]) * r.uniform(0.4, 1.8) * (1 + 0.5 * r.uniform(-1, 1, 3))
    return s.material(
        r.choice([CLOUDY, LEAVES, PHOTO, PLAIN]),
        np.clip(g, 0.02, 1),
        np.clip(g * 1.6, 0.02, 1),
        math.exp(r.uniform(-1.5, 1.0)),
    )


def _garden(s: Scene, yaw: float) -> None:
    """Middle distances in the open: lawns, hedges, walls, benches, trees, a house behind."""
    r = s.rng
    s.ground(_greens(s) if r.random() < 0.6 else s.material())
    if r.random() < 0.6:  # a path or a pool
        px, pz = turned(r.uniform(-2, 2), r.uniform(0, 8), yaw, 0, 0)
        s.add(
            BOX,
            (px, 0.01, pz),
            (r.uniform(0.5, 2), 0.02, r.uniform(3, 20)),
            yaw,
            s.material(gloss=0.9 if r.random() < 0.25 else 0),
        )
    if r.random() < 0.7:
        d = math.exp(r.uniform(1.8, 3.6))
        px, pz = turned(r.uniform(-0.4, 0.4) * d, d, yaw, 0, 0)
        what = r.random()
        if what < 0.4:
            house(s, px, pz, r.uniform(4, 25), r.uniform(2.5, 10), r.uniform(4, 10), yaw)
        elif what < 0.7:
            s.standing(
                px,
                pz,
                0,
                r.uniform(5, 40),
                r.uniform(0.6, 4),
                0.5,
                yaw,
                s.material(r.choice([PHOTO, BRICKS, LEAVES, PLANKS])),
            )
        else:
            portal(
                s,
                px,
                pz,
                yaw,
                r.uniform(4, 16),
                r.uniform(3, 9),
                r.uniform(0.4, 3),
                s.material(PHOTO),
            )
    for _ in range(r.integers(0, 12)):
        d, a = math.exp(r.uniform(1.2, 4.2)), r.uniform(-0.9, 0.9)
        tree(s, d * math.sin(a), d * math.cos(a))
    for _ in range(r.integers(0, 9)):
        d, a = math.exp(r.uniform(0.7, 3)), r.uniform(-0.8, 0.8)
        bush(s, d * math.sin(a), d * math.cos(a))
    for _ in range(r.integers(0, 8)):
        d, a = math.exp(r.uniform(0.6, 2.8)), r.uniform(-0.7, 0.7)
        px, pz, what = d * math.sin(a), d * math.cos(a), r.integers(0, 4)
        if what == 0:
            person(s, px, pz)
        elif what == 1:
            furniture(s, px, pz, r.uniform(0, 6))
        elif what == 2:
            s.standing(
                px,
                pz,
                0,
                *r.uniform(0.2, 1.5, 3),
                r.uniform(0, 3),
                s.material(),
                r.choice([BOX, CYLINDER]),
            )
        else:
            q = r.uniform(0.1, 0.25) * d
            s.add(
                ELLIPSOID,
                (px, q * 0.2, pz),
                (q, q * r.uniform(0.3, 1), q),
                r.uniform(0, 3),
                s.material(r.choice([CLOUDY, PHOTO]), s.colour(0.1, 0.1, 0.7)),
            )
    if r.random() < 0.4:  # a fence
        d, m = math.exp(r.uniform(1.2, 2.6)), s.material(PLAIN)
        for i in range(24):
            s.standing(*turned((i - 12) * 0.5, d, yaw, 0, 0), 0, 0.07, 1.1, 0.07, yaw, m)
        for y in (0.4, 0.9):
            s.standing(*turned(0, d, yaw, 0, 0), y, 12, 0.08, 0.05, yaw, m)


def _landscape(s: Scene, yaw: float) -> None:
    r = s.rng
    s.ground(
        _greens(s)
        if r.random() < 0.7
        else s.material(PLAIN, np.array([0.05, 0.12, 0.15]) * r.uniform(0.4, 2), gloss=0.9),
        4000,
    )
    for _ in range(r.integers(1, 10)):  # hills
        d, a = math.exp(r.uniform(3.3, 6.8)), yaw + r.uniform(-1.2, 1.2)
        q = d * r.uniform(0.2, 0.9)
        m = s.material(
            r.choice([CLOUDY, LEAVES, PHOTO]),
            s.colour(0.3, 0.05, 0.6),
            None,
            r.uniform(0.2, 2) * 20 / d,
        )
        s.add(
            ELLIPSOID,
            (d * math.sin(a), -0.1 * q, d * math.cos(a)),
            (q, d * r.uniform(0.04, 0.45), q * r.uniform(0.4, 1)),
            r.uniform(0, 3),
            m,
        )
    for _ in range(r.integers(0, 14)):
        d, a = math.exp(r.uniform(1.4, 4.5)), r.uniform(-0.8, 0.8)
        tree(s, d * math.sin(a), d * math.cos(a))
    for _ in range(r.integers(0, 9)):
        d, a = math.exp(r.uniform(0.9, 4)), r.uniform(-0.7, 0.7)
        q = r.uniform(0.1, 0.2) * d
        s.add(
            ELLIPSOID,
            (d * math.sin(a), q * 0.2, d * math.cos(a)),
            (q, q * r.uniform(0.3, 1), q),
            r.uniform(0, 3),
            s.material(r.choice([CLOUDY, PHOTO]), s.colour(0.1, 0.1, 0.6)),
        )
    for _ in range(r.integers(0, 4)):
        d, a = math.exp(r.uniform(2.4, 4.8)), r.uniform(-0.8, 0.8)
        house(
            s,
            d * math.sin(a),
            d * math.cos(a),
            r.uniform(3, 14),
            r.uniform(2.5, 10),
            r.uniform(3, 14),
            r.uniform(0, 3),
        )
    if r.random() < 0.3:
        for _ in range(r.integers(1, 5)):
            d, a = math.exp(r.uniform(1, 3)), r.uniform(-0.6, 0.6)
            person(s, d * math.sin(a), d * math.cos(a))
    if r.random() < 0.2:  # a tower
        d, a = math.exp(r.uniform(3, 5.5)), r.uniform(-0.5, 0.5)
        q = d * r.uniform(0.01, 0.05)
        s.standing(
            d * math.sin(a),
            d * math.cos(a),
            0,
            q,
            d * r.uniform(0.2, 0.7),
            q,
            0,
            s.material(),
            r.choice([BOX, CYLINDER]),
        )


def _valley(s: Scene, yaw: float) -> tuple[float, float]:
    """Slopes and ridges seen from high up, no floor near the camera: (height of the camera, pitch
    in degrees).
    """
    r = s.rng
    up = math.exp(r.uniform(2.2, 5.3))
    s.ground(_greens(s), 9000)

    def slope(d: float) -> Material:
        first = s.colour(0.3, 0.05, 0.6) if r.random() < 0.5 else _greens(s).first
        scale = r.uniform(0.2, 2) * 20 / d
        return s.material(r.choice([CLOUDY, LEAVES, PHOTO]), first, None, scale)

    for _ in range(r.integers(0, 3)):  # lakes, fields
        d, a = up * r.uniform(1.2, 8), r.uniform(-0.7, 0.7)
        q = d * r.uniform(0.1, 0.5)
        m = s.material(gloss=0.9 if r.random() < 0.6 else 0.0, scale=10 / d)
        s.add(CYLINDER, (d * math.sin(a), 0.0, d * math.cos(a)), (q, 0.05, q * 0.6), yaw, m)
    for _ in range(r.integers(3, 14)):
        d, a = up * math.exp(r.uniform(0.4, 3.4)), r.uniform(-1.3, 1.3)
        q, tall = d * r.uniform(0.25, 0.8), up * r.uniform(0.2, 1.1) + d * r.uniform(0, 0.3)
        half = (q, min(tall, 0.6 * q), q * r.uniform(0.4, 1))
        s.add(ELLIPSOID, (d * math.sin(a), 0, d * math.cos(a)), half, r.uniform(0, 3), slope(d))
    if r.random() < 0.65:  # the slope that one stands on, with stones
        below, q = r.uniform(1.4, 8), up * r.uniform(0.6, 2.5)
        x, z = r.uniform(-0.8, 0.8) * q, r.uniform(-0.6, 0.5) * q
        s.add(ELLIPSOID, (x, 0, z), (q, up - below, q), 0, slope(15))
        for _ in range(r.integers(0, 9)):
            d, a = math.exp(r.uniform(1.0, 3.0)), r.uniform(-0.8, 0.8)
            px, pz, size = d * math.sin(a), d * math.cos(a), d * r.uniform(0.06, 0.25)
            inside = 1 - ((px - x) ** 2 + (pz - z) ** 2) / (q * q)
            if inside > 0.05:
                place = (px, (up - below) * math.sqrt(inside), pz)
                s.add(r.choice([BOX, ELLIPSOID]), place, (size, size * 0.7, size), a, slope(8))
    return up, r.uniform(-5, 13)


def _tower(s: Scene, yaw: float) -> float:
    """Towers, spires, masts and chimneys before the sky, seen from their foot or from afar: pitch
    in degrees.
    """
    r = s.rng
    s.ground(_greens(s) if r.random() < 0.4 else s.material(gloss=r.choice([0.0, 0.0, 0.9])))
    aim = 0.0
    for i in range(r.integers(1, 5)):
        d = math.exp(r.uniform(2.0, 4.8))
        a, tall, wide = r.normal() * 0.3, d * r.uniform(0.35, 1.5), d * r.uniform(0.03, 0.16)
        x, z, turn, m = d * math.sin(a), d * math.cos(a), r.uniform(0, 3), s.material()
        aim = math.degrees(math.atan2(tall * r.uniform(0.2, 0.7), d)) if i == 0 else aim
        if r.random() < 0.35:  # of struts
            t = max(0.1 * wide, 0.006 * d)
            for b in (-1, 1):
                for c in (-1, 1):
                    place = turned(b * wide / 2, c * wide / 2, turn, x, z)
                    s.standing(*place, 0, t, tall, t, turn, m)
            for k in range(1, 12):
                for b in (-1, 1):
                    place = turned(0, b * wide / 2, turn, x, z)
                    s.standing(*place, tall * k / 12, wide, t, t, turn, m)
            continue
        y, kind = 0.0, r.choice([BOX, BOX, CYLINDER])
        for _ in range(r.integers(1, 5)):  # storeys, each narrower or wider than the last
            h = tall * r.uniform(0.2, 0.6)
            s.standing(x, z, y, wide, h, wide, turn, m, kind)
            y, wide = y + h, wide * r.uniform(0.6, 1.15)
            m = m if r.random() < 0.6 else s.material()
        roof = r.random()
        if roof < 0.35:
            s.standing(x, z, y, wide * 1.1, wide * r.uniform(0.5, 2.5), wide * 1.1, turn, m, GABLE)
        elif roof < 0.7:
            for k in range(6):
                q = wide * (1 - k / 6)
                s.standing(x, z, y + k * wide * 0.3, q, wide * 0.3, q, turn, m, kind)
        elif roof < 0.85:
            s.add(ELLIPSOID, (x, y, z), (wide * 0.6, wide * r.uniform(0.4, 1), wide * 0.6), 0, m)
    for _ in range(r.integers(0, 9)):  # what lies at their feet
        d, a, what = math.exp(r.uniform(1.6, 4.6)), r.uniform(-0.9, 0.9), r.integers(0, 4)
        x, z = d * math.sin(a), d * math.cos(a)
        if what == 0 and d > 12:
            house(s, x, z, r.uniform(4, 18), r.uniform(3, 0.3 * d + 3), 8, r.uniform(0, 3))
        elif what == 1:
            tree(s, x, z)
        elif what == 2:  # a lamp
            m = s.material(PLAIN, np.array([1, 0.9, 0.7]), np.array([1, 0.8, 0.5]))
            s.add(ELLIPSOID, (x, r.uniform(0.2, 4), z), (0.012 * d,) * 3, 0, m, r.uniform(1, 3))
        else:
            s.standing(x, z, 0, *(d * r.uniform(0.02, 0.2, 3)), r.uniform(0, 3), s.material())
    return -aim + r.normal() * 3


def _table(s: Scene, yaw: float) -> None:
    """A top with things on it, the floor far below or the ground itself, a wall behind or none."""
    r = s.rng
    drop = r.choice([0.0, r.uniform(0.4, 0.9)])
    if drop > 0:
        s.add(
            BOX,
            (r.uniform(-0.3, 0.3), -0.03, r.uniform(0.5, 1.2)),
            (r.uniform(0.5, 2.5), 0.03, r.uniform(0.4, 1.6)),
            yaw,
            s.material(),
        )
    s.ground(s.material(), 60, -drop)
    if r.random() < 0.6:
        d = r.uniform(0.8, 4.5)
        px, pz = turned(0, d, yaw * 0.5, 0, 0)
        s.add(BOX, (px, 0, pz), (30, 6, 0.1), yaw * 0.5, s.material())
    size = math.exp(r.uniform(-2.2, -0.5))
    for _ in range(r.integers(1, 24)):
        d, a = math.exp(r.uniform(-1.0, 0.7)), r.uniform(-0.7, 0.7)
        small_thing(s, d * math.sin(a), d * math.cos(a), 0, size * r.uniform(0.5, 2))
    if drop > 0:
        for _ in range(r.integers(0, 5)):
            d, a = r.uniform(1.2, 4), r.uniform(-0.9, 0.9)
            furniture(s, d * math.sin(a), d * math.cos(a), r.uniform(0, 6), -drop)


def _thing(s: Scene, yaw: float) -> None:
    """One large thing close by: of many pieces, on some ground, before some background."""
    r = s.rng
    s.ground(s.material(r.choice([CLOUDY, TILES, PLANKS, PLAIN, PHOTO])), 200)
    d = math.exp(r.uniform(0.4, 1.6))
    x, z, size = r.uniform(-0.3, 0.3) * d, d, d * r.uniform(0.25, 0.8)
    what = r.integers(0, 4)
    if what == 0:
        car(s, x, max(z, 3.6) + 1.5, r.uniform(0, 6.3))
    elif what == 1:
        for i in range(r.integers(1, 4)):
            person(s, x + (i - 1) * 0.8, z + r.uniform(-0.3, 0.3))
    else:  # a machine, a statue, a heap
        for _ in range(r.integers(4, 22)):
            q = r.uniform(0.08, 0.6, 3) * size
            px, py, pz = (
                x + r.normal() * size * 0.3,
                abs(r.normal()) * size * 0.4,
                z + r.normal() * size * 0.3,
            )
            s.add(
                r.choice([BOX, ELLIPSOID, CYLINDER]),
                (px, max(py, q[1] * 0.5), pz),
                tuple(q / 2 + 0.01),
                r.uniform(0, 3),
                s.material(),
            )
    back = d * math.exp(r.uniform(0.2, 1.8))
    kind = r.integers(0, 3)
    if kind == 0:
        px, pz = turned(0, back + size, yaw * 0.5, 0, 0)
        s.add(BOX, (px, 0, pz), (40, r.uniform(2, 9), 0.1), yaw * 0.5, s.material())
        for _ in range(r.integers(0, 8)):
            q = r.uniform(0.1, 1.0, 3)
            s.standing(
                r.uniform(-1, 1) * back,
                back + size - q[2],
                r.choice([0, r.uniform(0, 2)]),
                *q,
                yaw * 0.5,
                s.material(),
            )
    elif kind == 1:
        for _ in range(r.integers(3, 12)):
            a, f = r.uniform(-0.8, 0.8), back * r.uniform(1, 3)
            (tree if r.random() < 0.6 else bush)(s, f * math.sin(a), f * math.cos(a))
    else:
        house(
            s, r.uniform(-1, 1) * back, back + 6, r.uniform(6, 30), r.uniform(3, 12), 6, yaw * 0.5
        )


def _around(s: Scene, yaw: float) -> tuple[float, float]:
    """One thing in the middle, looked down at as by somebody who walks round it: (height of the
    camera, pitch in degrees).
    """
    r = s.rng
    ground = s.material(r.choice([CLOUDY, TILES, PLANKS, PLAIN, PHOTO, BRICKS]))
    s.ground(_greens(s) if r.random() < 0.25 else ground, 200)
    d = math.exp(r.uniform(0.2, 1.6))
    size, turn = d * r.uniform(0.2, 0.6), r.uniform(0, 6.3)
    height = min(d * math.tan(math.radians(r.uniform(8, 52))), r.uniform(1.3, 3.2))
    what, top = r.integers(0, 5), 0.0
    if what <= 1:  # a table, round or not, with things on it
        tall, wide, m = (
            r.uniform(0.4, 0.85) * min(1.0, size),
            size * r.uniform(0.8, 1.6),
            s.material(),
        )
        if r.random() < 0.5:
            s.standing(0, d, tall - 0.05, wide, 0.05, wide, turn, m, CYLINDER)
            foot = wide * r.uniform(0.05, 0.5)
            s.standing(0, d, 0, foot, tall - 0.05, foot, turn, m, CYLINDER)
        else:
            deep = wide * r.uniform(0.5, 1.0)
            s.standing(0, d, tall - 0.05, wide, 0.05, deep, turn, m)
            for a in (-1, 1):
                for b in (-1, 1):
                    place = turned(a * wide * 0.45, b * deep * 0.45, turn, 0, d)
                    s.standing(*place, 0, 0.06 * wide, tall - 0.05, 0.06 * wide, turn, m)
        for _ in range(r.integers(1, 5)):
            px, pz = turned(r.normal() * wide * 0.15, r.normal() * wide * 0.12, turn, 0, d)
            small_thing(s, px, pz, tall, wide * r.uniform(0.1, 0.4))
        top = tall
    elif what == 2:  # a heap of pieces: a machine, a statue, a toy
        m = s.material()
        for _ in range(r.integers(3, 18)):
            q = r.uniform(0.1, 0.6, 3) * size
            px, pz = r.normal() * size * 0.25, d + r.normal() * size * 0.25
            kind = r.choice([BOX, ELLIPSOID, CYLINDER])
            up = max(abs(r.normal()) * size * 0.35, q[1] / 2)
            mm = m if r.random() < 0.6 else s.material()
            s.add(kind, (px, up, pz), tuple(q / 2), r.uniform(0, 3), mm)
        top = size * 0.4
    elif what == 3:
        for _ in range(r.integers(1, 4)):
            furniture(s, r.normal() * 0.4 * d, d * r.uniform(0.9, 1.3), r.uniform(0, 6.3))
        top = 0.4
    else:  # plants in pots, stones, things on the ground
        for _ in range(r.integers(1, 8)):
            px, pz = r.normal() * size * 0.6, d + r.normal() * size * 0.6
            if r.random() < 0.4:
                bush(s, px, pz)
            else:
                small_thing(s, px, pz, 0, size * r.uniform(0.2, 0.9))
        top = size * 0.2
    if r.random() < 0.5:  # another ground round it: a terrace, a carpet
        q = d * r.uniform(0.5, 2.0)
        s.add(CYLINDER, (0, -0.02, d), (q, 0.03, q), 0, s.material())
    back = d * math.exp(r.uniform(0.3, 1.8))
    for _ in range(r.integers(0, 9)):  # hedges, chairs, pots behind
        a, f = r.uniform(-0.9, 0.9), back * r.uniform(0.7, 1.3)
        px, pz, which = f * math.sin(a), f * math.cos(a), r.integers(0, 4)
        if which == 0:
            bush(s, px, pz)
        elif which == 1:
            furniture(s, px, pz, r.uniform(0, 6.3))
        elif which == 2:
            small_thing(s, px, pz, 0, r.uniform(0.2, 0.8) * d * 0.5)
        elif f > 3:
            tree(s, px, pz)
    behind = r.random()
    if behind < 0.35:
        px, pz = turned(0, back * 1.3 + 3, yaw * 0.6, 0, 0)
        house(s, px, pz, r.uniform(6, 30), r.uniform(3, 9), 6, yaw * 0.6)
    elif behind < 0.75:
        for a in (-1, 1) if r.random() < 0.4 else (0,):
            px, pz = turned(a * back, (1 - abs(a)) * back * 1.3, yaw * 0.6, 0, 0)
            half = (0.1, 5, 30) if a else (30, r.uniform(0.8, 6), 0.1)
            s.add(BOX, (px, 0, pz), half, yaw * 0.6, s.material())
    return height, math.degrees(math.atan2(height - top, d)) + r.normal() * 4


_DAY = 0.83  # share of the skies that are no night's


def _daylight(r: np.random.Generator):
    sky = np.zeros(12)
    pale = np.array([0.75, 0.82, 0.9]) * r.uniform(0.6, 1.3)
    kind = r.random()
    sky[0:3] = pale
    if kind < 0.47:
        sky[3:6] = np.array([0.25, 0.45, 0.8]) * r.uniform(0.3, 1.3)
    elif kind < 0.71:  # overcast
        sky[0:3] = sky[3:6] = np.full(3, r.uniform(0.4, 1.5)) * (1 + 0.06 * r.uniform(-1, 1, 3))
    elif kind < _DAY:  # low sun
        sky[0:3], sky[3:6] = (
            np.array([1, 0.6, 0.3]) * r.uniform(0.5, 1.2),
            np.array([0.3, 0.3, 0.6]) * r.uniform(0.2, 1),
        )
    else:  # night, what stands in it lit by floodlights or not
        sky[0:3] = np.array([0.1, 0.12, 0.2]) * r.uniform(0.1, 1.5)
        sky[3:6] = sky[0:3] * r.uniform(0.2, 0.8)
    sky[6:9] = (r.uniform(0.6, 1.2) if kind < _DAY else 0.15) * (1 + 0.08 * r.uniform(-1, 1, 3))
    sky[9], sky[10], sky[11] = r.uniform(0.5, 3), r.uniform(0.25, 0.8), r.uniform(1, 5)
    up, round_ = math.radians(r.uniform(10, 75)), r.uniform(0, 2 * math.pi)
    sun = np.array([math.cos(up) * math.cos(round_), math.sin(up), math.cos(up) * math.sin(round_)])
    light = (
        np.array([1.0, 0.95, 0.85])
        * r.uniform(0.3, 1.8)
        * (0.1 if kind > 0.5 and r.random() < 0.7 else 1)
    )
    ambient = np.array([0.8, 0.9, 1.0]) * r.uniform(0.35, 0.8)
    if kind >= _DAY and r.random() < 0.5:
        warm = np.array([1.0, r.uniform(0.7, 1.0), r.uniform(0.4, 1.0)])
        up = math.radians(r.uniform(-5, 40))
        sun = np.array(
            [math.cos(up) * math.cos(round_), math.sin(up), math.cos(up) * math.sin(round_)]
        )
        light, ambient = warm * r.uniform(0.5, 1.8), warm * r.uniform(0.02, 0.25)
    elif kind >= _DAY:
        light, ambient = light * 0.1, np.array([1.0, 0.85, 0.6]) * r.uniform(0.2, 0.6)
    return sky, sun, light, ambient


def _camera(r: np.random.Generator, kind: str, w: int, h: int):
    """Lens and stance: (focal length in px, height in m, pitch, roll in degrees)."""
    fov = r.uniform(45, 85) if r.random() < 0.7 else r.uniform(22, 100)
    focal = max(w, h) / 2 / math.tan(math.radians(fov) / 2)
    if kind in ("landscape",) and r.random() < 0.5:
        height, pitch = math.exp(r.uniform(0.3, 3.2)), r.normal() * 6
    elif kind == "table":
        height = math.exp(r.uniform(-1.6, 0.1))
        pitch = r.uniform(-2, 50)
    else:
        height = r.uniform(1.2, 1.8) if r.random() < 0.65 else math.exp(r.uniform(-0.9, 1.5))
        q = r.random()
        pitch = (
            r.normal() * 5 if q < 0.55 else (r.uniform(0, 40) if q < 0.85 else r.uniform(-22, 0))
        )
    return focal, height, pitch, r.normal() * 1.8


def made_scene(rng: np.random.Generator, w: int, h: int):
    s, r = Scene(rng), rng
    number = int(r.choice(len(KINDS), p=_SHARES))
    kind = KINDS[number]
    focal, height, pitch, roll = _camera(r, kind, w, h)
    yaw = r.uniform(-0.9, 0.9)
    sky, lamp, light, ambient = _daylight(r)
    fog, indoor, reach = 0.0, 0.0, 3.0
    if kind in ("room", "hall"):
        height, lamp, light = _room(s, yaw, height, kind == "hall")
        ambient = (
            np.array([1.0, 0.95, 0.9]) * r.uniform(0.2, 0.7) * (1 + 0.15 * r.uniform(-1, 1, 3))
        )
        indoor, reach = 1.0, 1.5 if kind == "room" else 4.0
    elif kind == "street":
        _street(s, yaw)
        fog = math.exp(r.uniform(-9, -4.3))
    elif kind == "facade":
        _facade(s, yaw)
    elif kind == "garden":
        _garden(s, yaw)
        fog = math.exp(r.uniform(-9, -4.5))
    elif kind == "landscape":
        _landscape(s, yaw)
        fog, reach = math.exp(r.uniform(-9, -5)), 8.0
    elif kind == "table":
        _table(s, yaw)
        height, reach = max(height, 0.2), 0.6
    elif kind == "valley":
        height, pitch = _valley(s, yaw)
        fog, reach = math.exp(r.uniform(-9, -5.5)), 20.0
    elif kind == "tower":
        pitch = _tower(s, yaw) if r.random() < 0.7 else min(pitch, _tower(s, yaw) + 12)
        fog = math.exp(r.uniform(-9, -5))
    elif kind == "around":
        height, pitch = _around(s, yaw)
        reach = 1.0
    else:
        _thing(s, yaw)
    return (
        number,
        np.array(s.rows, np.float64),
        focal,
        height,
        pitch,
        roll,
        sky,
        lamp,
        light,
        ambient,
        fog,
        indoor,
        reach,
    )


def worth_making(depth: np.ndarray, indoor: bool, rng: np.random.Generator) -> bool:
    """Whether a coarse depth map [h, w] is one that somebody would take a photograph of: most often
    something stands before something else in it.
    """
    seen = np.isfinite(depth)
    if seen.mean() < 0.2 or (indoor and not seen.all()):
        return False
    near = np.percentile(depth[seen], 5)
    if near < 0.12 or np.median(depth[seen]) < 0.3:
        return False
    if np.percentile(depth[seen], 95) / near < 1.15 and rng.random() < 0.8:
        return False
    g = np.log(np.where(seen, depth, 1e3))
    steps = [np.abs(np.diff(np.diff(g, axis=k), axis=k)) > 0.15 for k in (0, 1)]
    return bool(np.mean([s.mean() for s in steps]) > 0.03 or rng.random() < 0.25)


def developed(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Display values 0..1 of linear light [h, w, 3]: a camera's exposure and curve, often with
    burnt-out or drowned parts.
    """
    exposure = rng.uniform(0.45, 1.1) / (np.percentile(light, rng.uniform(70, 96)) + 1e-3)
    image = light * exposure * (1 + 0.12 * rng.uniform(-1, 1, 3))
    image = image / (1 + rng.uniform(0, 0.3) * image)
    return np.clip(image, 0, 1) ** (1 / rng.uniform(1.8, 2.5))


def sample(seed: int, bank: np.ndarray, w: int, h: int) -> Sample:
    """The photograph of this seed, w x h pixels; bank float32 [n, s, s, 3] linear textures."""
    from . import raycast  # numba, which Blender's Python need not have

    rng = np.random.default_rng(seed)
    for _ in range(20):
        number, P, focal, height, pitch, roll, sky, lamp, light, ambient, fog, indoor, reach = (
            made_scene(rng, w, h)
        )
        cp, sp = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
        cr, sr = math.cos(math.radians(roll)), math.sin(math.radians(roll))
        right, ahead, down = np.array([1.0, 0, 0]), np.array([0, -sp, cp]), np.array([0, -cp, -sp])
        R = np.stack([right * cr + down * sr, down * cr - right * sr, ahead], 1)
        shot = (R, np.array([0.0, height, 0.0]), lamp, light, ambient, sky)
        rest = (int(rng.integers(1 << 30)), bank, indoor, fog, reach)
        # A look at a quarter of the size tells whether the picture is worth making.
        a, b = w // 4, h // 4
        _, depth = raycast.render(P, a, b, focal / 4, focal / 4, a / 2, b / 2, *shot, *rest)
        if not worth_making(depth, indoor > 0, rng):
            continue
        image, depth = raycast.render(P, w, h, focal, focal, w / 2, h / 2, *shot, *rest)
        if not indoor or np.isfinite(depth).all():
            break
    image = developed(image, rng)
    return Sample(image.astype(np.float32), depth.astype(np.float32), focal, pitch, roll, number)


def facts(made: Sample) -> tuple[float, float, float, float]:
    """(focal length in px, pitch, roll in radians, kind) as the pools of `train.py` keep them."""
    return made.focal_px, math.radians(made.pitch_deg), math.radians(made.roll_deg), made.kind


def _sheet(bank_path: str, out: str, first: int = 1000) -> None:
    import time

    from PIL import Image

    bank = np.load(bank_path).astype(np.float32)
    sample(0, bank, 160, 112)
    started, tiles = time.process_time(), []
    for k in range(40):
        made = sample(first + k, bank, 160, 112)
        d = np.where(np.isfinite(made.depth), made.depth, 1e3)
        g = np.log(d)
        low, high = np.percentile(g, 2), np.percentile(g[d < 900], 98)
        shade = np.clip(1 - (g - low) / (high - low + 1e-6), 0, 1)
        tiles.append(np.concatenate([made.image, np.repeat(shade[..., None], 3, 2)], 1))
    print(f"{(time.process_time() - started) / 40:.3f} s a picture")
    rows = [np.concatenate(tiles[a : a + 5], 1) for a in range(0, 40, 5)]
    Image.fromarray((np.concatenate(rows, 0) * 255).astype(np.uint8)).save(out)


if __name__ == "__main__":
    _sheet(sys.argv[1], sys.argv[2])
