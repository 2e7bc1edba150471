"""What a prior is reckoned to need on a card where it never ran: arithmetic from figures of one.

Seconds of a denoising step = operations / (the card's rate x the share of it that is reached).
ViewCrafter, Wan VACE 1.3B and SVD were measured on an H100 (benchmarks/RESULTS.md); the operations
of the others (registry.py) are sums by hand: two for each weight and token, and attention. The
rates are NVIDIA's own for 16-bit matrices with sums in 32 bits. For every other card it is a guess
to a factor of two or three, which says so, and which the first job replaces by what it took
(`bridge/speeds.py`).
Standard library only.
"""

from __future__ import annotations

import re

from ..bridge.candidates import REACHED, Candidate
from ..bridge.estimate import TABLE, USUAL_STEPS
from ..bridge.speeds import Machine, Reckoned
from .nvidia import Card
from .registry import FINISHERS, PRIORS, needed_gib

_REPAIR = max(row.operations for row in FINISHERS.values())
_GIB_GB = 1.073741824
_RATES = (  # 1e12 operations a second; the first pattern that is found in a card's name
    (r"B300|GB300", 2250),
    (r"B200|GB200", 2250),
    (r"H100 PCIe", 756),
    (r"\bG?H[128]00\b", 989),
    (r"\bH20\b", 148),
    (r"\bA[18]00(?!0)", 312),
    (r"\bA30\b", 165),
    (r"V100|TITAN V", 112),
    (r"RTX PRO 6000", 500),
    (r"RTX PRO 5000", 258),
    (r"RTX PRO 4500", 211),
    (r"RTX PRO 4000", 147),
    (r"RTX PRO [123]\d00", 68),
    (r"L40|RTX (6000|5880) Ada", 362),
    (r"RTX 5000 Ada", 261),
    (r"RTX [234]\d00 (SFF )?Ada", 80),
    (r"\bL4\b", 121),
    (r"\bL20\b", 119),
    (r"A6000|A40\b", 155),
    (r"\bA10\b|A10G", 125),
    (r"A5500|A5000|A4500", 110),
    (r"A4000", 77),
    (r"A3000|A2000", 32),
    (r"A1000|A500|A400\b", 16),
    (r"\bA2\b|\bA16\b", 18),
    (r"\bT4\b", 65),
    (r"Quadro RTX [68]000", 130),
    (r"Quadro RTX [345]000", 60),
    (r"\bT[1-6]\d\d\b|\bT[12][02]00\b|\bMX ?\d|RTX 2050", 6),
    (r"5090", 209),
    (r"5080", 112),
    (r"5070 Ti", 88),
    (r"5070", 62),
    (r"5060 Ti", 47),
    (r"5060|5050", 38),
    (r"4090", 165),
    (r"4080", 98),
    (r"4070 Ti", 80),
    (r"4070", 58),
    (r"4060 Ti", 44),
    (r"4060|4050", 30),
    (r"3090", 71),
    (r"3080", 60),
    (r"3070", 41),
    (r"3060 Ti", 32),
    (r"3060|3050", 25),
    (r"2080 Ti|TITAN RTX", 54),
    (r"2080", 40),
    (r"2070", 30),
    (r"2060", 26),
    (r"GTX 16", 10),
)
_BY_GENERATION = {7: 30, 8: 50, 9: 800, 10: 2000, 11: 250, 12: 60}
_LAPTOP = 0.6
_MIG_PARTS = 7
_SLOW = 4  # 1e12 operations a second: cards before Turing, which have no units for matrices
# Seconds a unit on a card of 60e12 operations a second; of larger ones the square root is gained.
_REFERENCE = 60.0
_DRAWN_ON_CARD = {"refine": 0.042, "segment": 0.8, "refit": 12.0}
_START_S = 45.0  # weights from the disk to the card
# GPU memory where no network is there: as measured, and for each frame of a megapixel
_GAUSSIANS_GB = 0.6, 0.06
_FRAMES = 25  # of a segment, to which least_gib in the registry belongs


def rate(card: Card) -> float:
    """1e12 operations a second of a card, by its name, else by its generation."""
    share = _LAPTOP if re.search(r"laptop|mobile|max-q", card.name, re.IGNORECASE) else 1.0
    part = re.search(r"\bMIG (\d)g\.", card.name)  # of the seven that a card is cut into
    share *= int(part[1]) / _MIG_PARTS if part else 1.0
    generation = card.capability[0] if card.capability else 0
    if card.capability and card.capability < (7, 0):
        return _SLOW
    for pattern, tera in _RATES:
        if re.search(pattern, card.name, re.IGNORECASE):
            return tera * share
    return _BY_GENERATION.get(generation, _SLOW) * share


def reckon(
    card: Card,
    free_gib: float = 0.0,
    known: tuple[Candidate, ...] = (),
    *,
    card_draws: bool = True,
) -> Machine:
    """What is reckoned of every prior on a card. `free_gib` of its memory are free; `known`: the
    priors that "auto" may take; `card_draws`: Gaussians are drawn on the card.
    """
    tera = rate(card)
    gain = (_REFERENCE / tera) ** 0.5
    parts = {part: s * gain for part, s in _DRAWN_ON_CARD.items()} if card_draws else {}
    parts["repair"] = _REPAIR / (tera * REACHED)
    priors = {"patch": Reckoned(TABLE["generate"], USUAL_STEPS, *_GAUSSIANS_GB)}
    for name, row in PRIORS.items():
        if row.operations <= 0:
            continue
        seconds = row.operations / (tera * REACHED)
        small, large = (needed_gib(row, (width, width * 9 // 16)) for width in (512, 1024))
        pixels = (512 * 288 / 1e6, 1024 * 576 / 1e6)
        each = (large - small) / (pixels[1] - pixels[0])
        fixed = large - each * pixels[1]
        priors[name] = Reckoned(seconds, row.steps, fixed * _GIB_GB, each * _GIB_GB / _FRAMES)
    return Machine(card.name, free_gib, tera, known, {"start": _START_S, **parts}, priors)
