"""What a last refinement with weight 0.3 makes of finishers whose worth is known.

    python benchmarks/finisher.py

One drawn scene with the truth of every frame, a prior that knows the truth but drifts by two
pixels, and in place of a network finishers that are good by construction: the truth itself, half of
the way to it, truth that jumps by a pixel from frame to frame, and the render as it is (which says
what the extra steps alone do). No weights; minutes on two cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.bridge import camera_file, settings  # noqa: E402
from engine.evaluation import drawn, runner, scenes  # noqa: E402
from engine.evaluation.coarse import Coarse, Drift  # noqa: E402
from engine.job import inputs  # noqa: E402
from engine.job.folder import prepare  # noqa: E402
from engine.job.segment import JobRecord  # noqa: E402
from engine.method import pipeline, repair  # noqa: E402
from engine.scene.psnr import psnr  # noqa: E402

SIZE, FRAMES = (512, 288), 41
Repair = Callable[[Tensor, Tensor, int], Tensor]  # (render, truth, index of the frame)
KINDS: dict[str, Repair] = {
    "the render as it is": lambda render, truth, index: render,
    "the truth": lambda render, truth, index: truth,
    "half of the way to it": lambda render, truth, index: (render + truth) / 2,
    "the truth, jumping by 1 px": lambda render, truth, index: truth.roll((-1) ** index, -1),
}
TRIED = [("the truth", w) for w in (0.1, 0.3, 0.6, 1.0)] + [
    (kind, 0.3) for kind in KINDS if kind != "the truth"
]


class Known:
    """A finisher (engine/finishers/base.py) that is told the truth of each frame in turn."""

    name, licence = "known", "GPL-3.0-or-later"

    def __init__(self, kind: Repair, truth: runner.TrueFrames) -> None:
        self._kind, self._truth, self._index = kind, truth, 0

    def finish(self, frames: Tensor, reference: Tensor) -> Tensor:
        """The next frame [1, 3, h, w], repaired."""
        self._index += 1
        return self._kind(frames, self._truth.picture(self._index)[None], self._index)

    def rest(self) -> None:
        """Nothing is held."""


def _silent(done: int, total: int) -> None:
    """Nobody watches."""


def measured(name: str, folder: Path) -> Iterator[str]:
    """Rows of the table for a scene of drawn.py."""
    cameras = drawn.path(name, FRAMES, *SIZE)
    drawn.write(folder / name, name, str(FRAMES), cameras)
    view = scenes.load_scene(folder / name, str(FRAMES))
    np.save(folder / "depth.npy", view.depth_m)
    camera_file.write(folder / "path.json", view.path)
    given = {"image": view.image, "path": folder / "path.json", "depth": folder / "depth.npy"}
    chosen = settings.make(depth="input/depth.npy", device="cpu", prior="patch", finisher="difix")
    job = prepare(folder / "job", chosen, given, resume=False)
    job.start()
    start = inputs.load(job, torch.device("cpu")).inputs
    truth = runner.TrueFrames(view, start)
    prior = Coarse(start.image, truth, Drift(drift_px=2.0))
    record = JobRecord(job, FRAMES, torch.device("cpu"), lambda *_, **__: None)
    before = pipeline.generate(start, prior, job.settings, record)

    def row(what: str, gaussians, seconds: float = 0.0) -> str:
        shown = [repair.drawn(gaussians, start, chosen, i) for i in range(FRAMES)]
        path = np.mean([psnr(shown[i], truth.picture(i)) for i in range(1, FRAMES)])
        return f"| {what} | {path:.2f} | {psnr(shown[0], start.image):.2f} | {seconds:.0f} |"

    yield row("after the last segment", before)
    for kind, weight in TRIED:
        values = settings.make(
            depth="input/depth.npy", prior="patch", finisher="difix", finisher_weight=weight
        )
        finisher, began = Known(KINDS[kind], truth), time.process_time()
        frames = [frame for _, frame in repair.repaired(before, start, finisher, values)]
        steps = values.refine.finisher_steps * job.finished_segments()
        after = repair.learned(before, torch.stack(frames), start, values, steps, _silent).gaussians
        yield row(f"{kind}, weight {weight:g}", after, time.process_time() - began)


def main() -> None:
    names = sys.argv[1:] or list(drawn.SCENES)[:1]
    for name in names:
        print(f"{name}, {FRAMES} x {SIZE[1]} x {SIZE[0]}\n")
        print("| repaired frames | path, dB to the truth | input view, dB | CPU s |")
        print("|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for line in measured(name, Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
