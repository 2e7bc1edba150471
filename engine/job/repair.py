"""The last stage of a job with a finisher: repaired/, made once and taken up by every resume.

    repaired/frames/0001.png ...  the repaired render of every frame but the first
    repaired/gaussians.npz        the scene after the last refinement
    repaired/stats.json           its numbers, and of which segments it was made

It appears by a rename, whole, as a segment does; `Job.repaired` says whether it may be trusted.
"""

from __future__ import annotations

from typing import Any

import torch

from ..bridge.progress import Report
from ..bridge.settings import SceneSettings
from ..finishers import make_finisher
from ..media import images
from ..method import repair
from ..method.pipeline import Inputs
from ..models import memory
from ..scene.gaussians import Gaussians
from ..scene.psnr import psnr
from . import heap
from .folder import (
    GAUSSIANS,
    REPAIRED_STATS,
    Job,
    load_gaussians,
    read_json,
    save_gaussians,
    write_json,
)
from .meter import Meter
from .segment import FramesOnDisk

FINISHER = "finisher"  # the fact of a report
STAGE = "repair"


def run(job: Job, inputs: Inputs, gaussians: Gaussians, report: Report, device: str) -> Gaussians:
    """Return the scene after repair, from repaired/ where that is whole. `gaussians` are those
    after the last segment. Networks run on `device`. Raises UserError, and what `report` raises.
    """
    folder = job.repaired()
    if folder is not None:
        report(STAGE, 1, 1, "The frames were repaired before.")
        return load_gaussians(folder / GAUSSIANS, gaussians.means.device)
    if inputs.K.shape[0] < 2:
        report(STAGE, 1, 1, "The path has the picture's own camera alone: nothing to repair.")
        return gaussians
    meter, settings, count = Meter(), job.settings, inputs.K.shape[0]
    size = (inputs.image.shape[1], inputs.image.shape[2])
    with job.new_repaired() as partial:
        (partial / "frames").mkdir()
        whole = 2 * count  # of the stage: one half each
        report(STAGE, 0, whole, f"{settings.refine.finisher} looks at every frame")
        with meter("repair"):
            finisher = make_finisher(settings, size, device)
            assert finisher is not None
            for text in memory.described(finisher).values():
                report(STAGE, 0, whole, text)
            files, changes, shown = [], [], []
            for index, (render, frame) in enumerate(
                repair.repaired(gaussians, inputs, finisher, settings), 1
            ):
                files.append(partial / "frames" / f"{index:04d}.png")
                images.save_png(files[-1], frame)
                changes.append(psnr(render, frame))
                if index in (count // 2, count - 1):
                    shown.append((f"render_{index:04d}.png", files[-1].name))
                    images.save_png(partial / shown[-1][0], render)
                report(STAGE, index, whole)
            finisher.rest()
            del finisher
            heap.give_back()
        frames = FramesOnDisk(inputs.image.device)
        frames.replace(0, files)
        steps = settings.refine.finisher_steps * job.finished_segments()

        def told(done: int, total: int) -> None:
            report(STAGE, count + done * count // total, whole)

        with meter("refine"):
            refined = repair.learned(gaussians, frames, inputs, settings, steps, told)
        after = refined.gaussians
        save_gaussians(partial / GAUSSIANS, after)
        write_json(
            partial / REPAIRED_STATS,
            {
                "of": job.state_of_segments(),
                "seconds": meter.seconds,
                "peak_mb": meter.peak_mb,
                "peak_vram_mb": meter.peak_vram_mb,
                "losses": [float(x) for x in refined.losses],
                "gaussians": after.count,
                "opacity_mean": float(torch.sigmoid(after.opacities_logit).mean()),
                "changed_psnr": changes,
                "shown": shown,
                "input_psnr": [
                    psnr(repair.drawn(g, inputs, settings, 0), inputs.image)
                    for g in (gaussians, after)
                ],
                "repaired_psnr": [
                    _mean_psnr(g, frames, inputs, settings) for g in (gaussians, after)
                ],
            },
        )
    heap.give_back()
    return after


def _mean_psnr(
    gaussians: Gaussians, frames: FramesOnDisk, inputs: Inputs, settings: SceneSettings
) -> float:
    """How near the scene is to the repaired frames, dB."""
    each = [
        psnr(repair.drawn(gaussians, inputs, settings, i + 1), frames[i])
        for i in range(len(frames))
    ]
    return sum(each) / len(each)


def stats(job: Job) -> dict[str, Any] | None:
    """The numbers of a repair that is done; None where there is none."""
    folder = job.repaired() if job.settings.finishes else None
    return None if folder is None else read_json(folder / REPAIRED_STATS)


def sentence(settings: SceneSettings, stats: dict[str, Any] | None) -> str:
    """What the repair did, for the report."""
    if stats is None:
        return f"{settings.refine.finisher}: nothing to repair"
    before, after = stats["input_psnr"]
    away, near = stats["repaired_psnr"]
    return (
        f"{settings.refine.finisher} repaired {len(stats['changed_psnr'])} frames, learned with "
        f"weight {settings.refine.finisher_weight:g}: the scene was {away:.1f} dB from them and is "
        f"{near:.1f} dB; the input view went from {before:.1f} to {after:.1f} dB"
    )
