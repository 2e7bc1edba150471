"""GPU memory that the engine expects of every video prior and finisher at its trained size,
arrangement by arrangement.

    python benchmarks/prior_memory.py

Networks are built at full size without memory, so that weights are counted, not guessed; working
memory is each prior's own figure, from a pretended device (tests/pretended_cuda). Nothing is
measured here, and no GPU is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import full_size  # noqa: E402
from engine.bridge.errors import UserError  # noqa: E402
from engine.models import choice, memory, registry  # noqa: E402
from engine.models.memory import GIB, Demand, Rung  # noqa: E402

CLIPS = (  # prior, frames, height, width
    ("viewcrafter_25", 25, 576, 1024),
    ("viewcrafter_16", 16, 576, 1024),
    ("viewcrafter_25_512", 25, 320, 512),
    ("wan_vace_1.3b", 25, 480, 832),
    ("wan_vace_1.3b", 81, 480, 832),
    ("wan_fun_inp_1.3b", 25, 480, 832),
    ("wan_vace_14b_fast", 25, 480, 832),
    ("fixanything", 29, 480, 832),
    ("fixanything", 65, 480, 832),
    ("wan_vace_14b", 25, 720, 1280),
    ("ltx_13b_fast", 25, 480, 832),
    ("svd", 25, 576, 1024),
    ("ltx", 25, 512, 704),
    ("cogvideox_i2v", 25, 480, 720),
)


def demands() -> Iterator[tuple[str, str, Demand]]:
    """(prior, clip, demand) at the trained size of the released configurations."""
    known: dict[str, full_size.Networks] = {}
    for name, frames, height, width in CLIPS:
        same = name.replace("_fast", "").replace("_16", "_25").replace("_512", "")
        if same not in known:
            known[same] = full_size.networks_of(name, torch.float16, "meta")
        demand = full_size.demand_of(name, known[same], frames, height, width)
        if registry.prior(name).options.get("guidance") == 1.0:
            demand = replace(demand, branches=2)
        yield name, f"{frames} x {height} x {width}", demand


def of_finishers() -> Iterator[tuple[str, str, Demand]]:
    """The same of every finisher, a frame at a time."""
    unet, vae = full_size.finisher_networks(torch.float16, "meta")
    for name, row in registry.FINISHERS.items():
        height, width = row.trained
        yield name, f"{height} x {width}", full_size.finisher_demand(name, unet, vae, height, width)


def main() -> None:
    columns = (
        "all on the GPU",
        "idle networks away",
        "tiles too",
        "8 bits too",
        "layers streamed, tiles",
    )
    print(
        "| prior | clip | weights | fastest | 1 branch: "
        + " | ".join(columns)
        + " |\n"
        + "|---" * (4 + len(columns))
        + "|"
    )
    rows = [*demands(), *of_finishers()]
    for name, clip, demand in rows:
        tile, casts = demand.can_tile, demand.can_store_8bit
        rungs = [
            Rung(1, "none"),
            Rung(1, "parts"),
            Rung(1, "parts", tile),
            Rung(1, "parts", tile, True) if casts else None,
            Rung(1, "layers", tile),
        ]
        cells = [demand.denoiser + demand.companions, memory.ladder(demand)[0].estimate]
        cells += [memory.estimate(rung, demand) if rung else 0 for rung in rungs]
        print(
            f"| `{name}` | {clip} | "
            f"{' | '.join(f'{value / GIB:.1f}' if value else '' for value in cells)} |"
        )
    print("\n" + "\n".join(by_card(rows)))
    print("\nFigures that `auto` weighs (docs/video_priors.md):\n" + "\n".join(figures()))
    print("\nregistry.py: least_gib (idle networks away, tiles) and fixed_gib (of that, weights)")
    for name, clip, demand in rows:
        least, fixed = needed(demand)
        row = registry.WITH_FILES.get(name) or registry.prior(name)
        print(f"{name}, {clip}: {least:.1f}, {fixed:.1f}; now {row.least_gib}, {row.fixed_gib}")


CARDS_GIB = (6, 8, 12, 16, 24)
LEFT = 0.9  # of a card, by a desktop and Blender


def by_card(rows: Iterable[tuple[str, str, Demand]]) -> list[str]:
    """The arrangement that each card gets: branches at a time, and what is done besides."""
    lines = [f"| prior | clip | {' | '.join(f'{gib} GB' for gib in CARDS_GIB)} |"]
    lines.append("|---" * (2 + len(CARDS_GIB)) + "|")
    for name, clip, demand in rows:
        cells = [_short(int(LEFT * gib * GIB), demand) for gib in CARDS_GIB]
        lines.append(f"| `{name}` | {clip} | {' | '.join(cells)} |")
    return lines


def _short(free: int, demand: Demand) -> str:
    try:
        rung = memory.plan(free, demand)
    except UserError:
        return "no"
    words = [str(rung.branches), {"none": "", "parts": "away", "layers": "streamed"}[rung.offload]]
    words += ["8 bits"] if rung.store_8bit else ["tiles"] if rung.tiling else []
    return ", ".join(word for word in words if word)


H100 = 989.0  # 1e12 operations a second, by NVIDIA
FAKE = "fake-measured"  # on a pretended device: tests/pretended_cuda
MEMORY = {  # whose full-size networks ran there
    "viewcrafter_25": "measured",
    "wan_vace_1.3b": "measured",
    "svd": "measured",
    **dict.fromkeys(("viewcrafter_25_512", "wan_fun_inp_1.3b", "wan_vace_14b"), FAKE),
    **dict.fromkeys(("fixanything", "ltx", "cogvideox_i2v"), FAKE),
}


def figures() -> list[str]:
    """The rows of the table of figures in docs/video_priors.md, one a prior that is a network."""
    rows = []
    for name, row in registry.PRIORS.items():
        if row.operations <= 0:
            continue
        taken = choice.seconds(row, choice.Wish(tera=H100))
        told = f"{max(round(taken), 1)} s" if taken < 90 else f"{taken / 60:.0f} min"
        source = "measured" if row.measured else "estimated"
        memory_of = MEMORY.get(name, "estimated from its sister")
        use = "yes" if choice.free_to_use(row) else "with conditions"
        rows.append(
            f"| `{name}` | {row.steps} | {told} | {source} | {row.least_gib} | "
            f"{memory_of} | {use} | {'name alone' if row.untried else 'auto'} |"
        )
    return rows


def needed(demand: Demand) -> tuple[float, float]:
    """GiB that must be free for the last arrangement without streaming, and of that for weights;
    the largest networks in 8 bits.
    """
    rung = Rung(1, "parts", demand.can_tile, demand.denoiser > 16 * GIB)
    share = GIB * (1.0 - memory.OTHERS)
    nothing = replace(demand, branch=0, code=0, code_tiled=0, held=0)
    return memory.estimate(rung, demand) / share, memory.estimate(rung, nothing) / share


if __name__ == "__main__":
    main()
