"""Named camera moves, e.g. "dolly:1.0+pan:-10" or "orbit:20@3": the same for the command line and
Blender.

A move is terms joined by "+": name, amount, and for an orbit the distance of the point it
turns around. Everything is seen from the first camera (x right, y down, z forward):
offsets are along its axes, and all terms of a move run at once from frame 0 to the last.

    dolly:M      M metres forward             pan:D     D degrees to the right
    truck:M      M metres to the right        tilt:D    D degrees upwards
    pedestal:M   M metres up                  roll:D    D degrees clockwise, as the viewer leans
    zoom:F       focal length times F         orbit:D@M D degrees round a point M metres ahead,
                                              to the right; rise:D@M the same, upwards
Negative amounts go the other way. Words after the terms say how: "orbit:30 linear" moves at one
speed, without it a move starts and stops gently ("ease"); "orbit:30 loop" comes back to the first
view in the second half of its frames.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from .camera_file import CameraPath
from .errors import UserError

DEFAULTS = {
    "dolly": 1.0,
    "truck": 0.5,
    "pedestal": 0.3,
    "pan": 15.0,
    "tilt": 10.0,
    "roll": 10.0,
    "orbit": 20.0,
    "rise": 10.0,
    "zoom": 1.5,
}
EASES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda t: t,
    "ease": lambda t: t * t * (3.0 - 2.0 * t),  # starts and ends at rest
}
LOOP = "loop"
_TERM = re.compile(r"(?P<name>[a-z]+)(?::(?P<amount>[^@]+))?(?:@(?P<distance>.+))?")
_LIMITS = {"m": 1e4, "deg": 3600.0}
_METRES = ("dolly", "truck", "pedestal")
_AROUND = ("orbit", "rise")


def is_move(text: str) -> bool:
    """Whether `text` reads like a named move rather than a file's name."""
    match = re.fullmatch(r"([a-z]+)([:+@ ].*)?", text.strip().lower())
    return match is not None and match[1] in DEFAULTS


def move(
    spec: str,
    *,
    K: np.ndarray,
    width: int,
    height: int,
    frames: int = 25,
    fps: float = 24.0,
    ease: str | None = None,
    depth_m: float = 4.0,
) -> CameraPath:
    """The path of a named move: `frames` cameras, the first one at the origin, in metres.

    K [3, 3] is the first camera's, in pixels. `depth_m` is how far an orbit's point lies
    ahead where the move does not say so (the scene's median depth is a good choice).
    `ease`, one of EASES, goes before the word in `spec`.
    Raises UserError for an unknown name, a number that is none, or too large an amount.
    """
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    if ease is not None and ease not in EASES:
        raise UserError(f"Unknown ease {ease!r}.", f"Choose one of {', '.join(EASES)}.")
    terms, words = parse(spec), _parts(spec)[1:]
    u = np.linspace(0.0, 1.0, frames)
    if LOOP in words:
        u = 1.0 - np.abs(1.0 - 2.0 * u)
    u = EASES[ease or next((w for w in words if w in EASES), "ease")](u)
    offset, turn = np.zeros((frames, 3)), np.tile(np.eye(4), (frames, 1, 1))
    around, focal = np.tile(np.eye(4), (frames, 1, 1)), np.ones(frames)
    for name, amount, distance in terms:
        step = u * amount
        if name in _METRES:
            offset += step[:, None] * np.array(
                {"dolly": (0, 0, 1), "truck": (1, 0, 0), "pedestal": (0, -1, 0)}[name], float
            )
        elif name == "zoom":
            focal = focal * amount**u  # constant relative speed
        elif name in _AROUND:
            d_phi, d_theta = (step, 0 * u) if name == "orbit" else (0 * u, -step)
            around = around @ around_point(d_phi, d_theta, 0 * u, distance or depth_m)
        else:
            turn = turn @ rotation({"pan": 1, "tilt": 0, "roll": 2}[name], step)
    poses = around @ translation(offset) @ turn
    Ks = np.tile(np.asarray(K, np.float64), (frames, 1, 1))
    Ks[:, [0, 1], [0, 1]] *= focal[:, None]
    return CameraPath(Ks, poses, width, height, fps, "m")


def parse(spec: str) -> list[tuple[str, float, float | None]]:
    """Terms (name, amount, distance or None) of a move. Raises UserError as `move` does."""
    joined, *words = _parts(spec)
    unknown = [word for word in words if word not in (*EASES, LOOP)]
    if unknown:
        raise UserError(
            f"A camera move does not know the word {unknown[0]!r}.",
            f"Words after a move are {', '.join((*EASES, LOOP))}, e.g. orbit:20 loop.",
        )
    terms = []
    for text in re.split(r"(?<!e)\+", joined):
        match = _TERM.fullmatch(text.strip())
        if not match or match["name"] not in DEFAULTS:
            raise UserError(
                f"Unknown camera move {text.strip()!r}.",
                f"Moves are {', '.join(DEFAULTS)}, e.g. dolly:1.0+pan:-10.",
            )
        name = match["name"]
        amount = DEFAULTS[name] if match["amount"] is None else _number(match["amount"], text)
        distance = None if match["distance"] is None else _number(match["distance"], text)
        if name not in _AROUND and distance is not None:
            raise UserError(
                f"{text!r} has a distance.",
                "Only orbit and rise turn round a point, e.g. orbit:20@3.",
            )
        if distance is not None and not 0 < distance <= _LIMITS["m"]:
            raise UserError(
                f"The distance in {text!r} must be above 0 and at most {_LIMITS['m']:g} m."
            )
        if name == "zoom" and not 0.05 <= amount <= 20:
            raise UserError(
                f"The zoom in {text!r} must lie between 0.05 and 20.",
                "1.5 makes things half as large again.",
            )
        if name != "zoom" and abs(amount) > _LIMITS["m" if name in _METRES else "deg"]:
            raise UserError(
                f"The amount in {text!r} is too large.",
                "Amounts are metres for dolly, truck and pedestal, else degrees.",
            )
        terms.append((name, amount, distance))
    return terms


def _parts(spec: str) -> list[str]:
    """The terms of a move as one text, then the words behind them."""
    return re.sub(r"\s*([+:@])\s*", r"\1", spec.strip().lower()).split() or [""]


def loops(spec: str) -> bool:
    """Whether a move comes back to where it began."""
    return LOOP in _parts(spec)[1:]


def _number(text: str, term: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"{text!r} in the camera move {term!r} is not a number.",
            "Write e.g. dolly:1.0 or orbit:20@3, and several with + between them.",
        )
    return value


def rotation(axis: int, angle_deg: np.ndarray) -> np.ndarray:
    """Right-handed turns about x, y or z (0, 1, 2): [f] degrees -> [f, 4, 4].

    In OpenCV axes a positive turn about x looks up, about y looks right, and about z
    leans clockwise.
    """
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    m = np.tile(np.eye(4), (len(c), 1, 1))
    m[:, i, i], m[:, i, j], m[:, j, i], m[:, j, j] = c, -s, s, c
    return m


def translation(offset: np.ndarray) -> np.ndarray:
    """[f, 3] -> [f, 4, 4]."""
    m = np.tile(np.eye(4), (len(offset), 1, 1))
    m[:, :3, 3] = offset
    return m


def around_point(
    d_phi_deg: np.ndarray, d_theta_deg: np.ndarray, d_r: np.ndarray, distance: float
) -> np.ndarray:
    """Cameras that look at the point `distance` ahead of the first one: [f] each -> [f, 4, 4].

    Spherical coordinates as in ViewCrafter's path files: d_phi moves the camera to the
    right, d_theta downwards, d_r away, as a share of the distance.
    """
    out = np.zeros((len(d_phi_deg), 3))
    out[:, 2] = -distance * (1.0 + d_r)
    pivot = np.zeros((len(d_phi_deg), 3))
    pivot[:, 2] = distance
    return (
        translation(pivot) @ rotation(1, -d_phi_deg) @ rotation(0, d_theta_deg) @ translation(out)
    )
