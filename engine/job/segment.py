"""The record of a run in its job folder: frames, maps, numbers and previews of each segment, and
what a resume reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..bridge.errors import UserError
from ..bridge.progress import Report, StepReport
from ..bridge.segments import Segment, plan_segments
from ..bridge.settings import SceneSettings
from ..bridge.whole_file import whole_file
from ..media import images
from ..method import masks
from ..method.enhance import Enhanced
from ..method.refine import RefineResult
from ..method.views import Views
from ..scene.gaussians import Gaussians
from ..scene.psnr import psnr
from . import heap
from .folder import GAUSSIANS, Job, load_gaussians, save_gaussians, write_json
from .frame_quality import drift_psnr, gradient_ratio, seam_ratio
from .meter import Meter

_PREVIEW_PX = 256  # longest side
_SCALE_WHITE_PX = 4.0  # Gaussian size that the scale map shows white


class FramesOnDisk:
    """The newest version of every enhanced frame of a job, read when it is asked for."""

    def __init__(self, device: torch.device) -> None:
        self._files: list[Path] = []
        self._device = device

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        """[3, h, w] in 0..1, on the computing device."""
        return images.load_image(self._files[index], photo=False).pixels.to(self._device)

    def replace(self, start: int, files: list[Path]) -> None:
        """Take these files for the frames from `start` on."""
        self._files = self._files[:start] + files


class JobRecord:
    """Where `pipeline.generate` keeps what it makes: the folder of a job."""

    def __init__(
        self,
        job: Job,
        count: int,
        device: torch.device,
        report: Report,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        """`count` cameras; `report(stage, done, total, preview=file)` may raise to cancel; `rest()`
        is called after every stage, to give memory back.
        """
        self.rest = rest
        path = job.settings.cameras
        self._segments = plan_segments(count, path.segment_length, path.overlap)
        self._job, self._device, self._report = job, device, report
        self.finished = job.finished_segments()
        self._redo = job.redo()
        self.remembered = self._remembered()
        self.frames = FramesOnDisk(device)
        job.drop_old_gaussians()  # killed, the last engine may have kept one more
        for index, segment in enumerate(self._segments[: self.finished]):
            files = self._files(index)
            if [file.stem for file in files] != [f"{i:04d}" for i in range(*segment[:2])]:
                raise UserError(
                    f"{job.segment_folder(index)} holds other frames than {segment.start} to "
                    f"{segment.stop - 1}: it was cut by another version of the engine.",
                    "Finish it with that version, or begin anew with --restart, which keeps it.",
                )
            self.frames.replace(segment.start, files)

    def gaussians(self, first: Gaussians) -> Gaussians:
        """Return the Gaussians after `remembered` segments, or `first` where that is none."""
        if not self.remembered:
            return first
        file = self._job.segment_folder(self.remembered - 1) / GAUSSIANS
        return load_gaussians(file, self._device)

    def _remembered(self) -> int:
        """A variant's copies of earlier segments lack their Gaussians where the job that was redone
        had dropped them.
        """
        if self._redo is None or self.finished > self._redo.kept:
            return self.finished
        return self._job.remembered(self.finished)

    @contextmanager
    def again(self, index: int) -> Iterator[tuple[SceneSettings, FramesOnDisk, StepReport]]:
        """Give what finished segment `index` was refined with: its settings, all frames as they
        were then, and a callback for progress.
        """
        frames = FramesOnDisk(self._device)
        for earlier in range(index + 1):
            frames.replace(self._segments[earlier].start, self._files(earlier))
        settings = self._job.settings
        if self._redo is not None:
            settings = self._redo.settings_of(index, settings)
        yield settings, frames, self.tell(f"learning segment {index + 1} again from its frames")
        self.rest()
        heap.give_back()

    def _files(self, index: int) -> list[Path]:
        return sorted((self._job.segment_folder(index) / "frames").glob("*.png"))

    @contextmanager
    def segment(self, index: int, segment: Segment) -> Iterator[SegmentRecord]:
        """Open the record of one segment; it is on disk, whole, when the block ends well."""
        name = f"segment {index + 1} of {len(self._segments)}"
        with self._job.new_segment(index) as folder:
            page = SegmentRecord(folder, segment, name, self)
            yield page
        self.frames.replace(segment.start, self._files(index))
        self._job.drop_old_gaussians()
        self.show(page.last, name, index + 1, len(self._segments))

    def show(self, frame: Tensor, stage: str, done: int = 1, total: int = 1) -> None:
        """Report, with the newest picture [3, h, w] of the end of the path for whoever watches."""
        share = min(1.0, _PREVIEW_PX / max(frame.shape[1:]))
        width, height = (max(1, round(side * share)) for side in (frame.shape[2], frame.shape[1]))
        preview = self._job.folder / "preview.npy"
        try:
            with whole_file(preview) as partial:
                np.save(partial, images.to_bytes(images.resize(frame, width, height)))
        except OSError as error:
            raise UserError(
                f"{preview} cannot be written: {error.strerror or error}.",
                "Free some space on that disk, then resume.",
            ) from error
        self._report(stage, done, total, preview=preview)

    def tell(self, stage: str) -> StepReport:
        """Progress within a stage."""
        return lambda done, total: self._report(stage, done, total)


class SegmentRecord:
    """The record of one segment, which writes piece by piece into its folder."""

    last: Tensor  # [3, h, w] the last frame as the refined Gaussians show it

    def __init__(self, folder: Path, segment: Segment, name: str, record: JobRecord) -> None:
        self._folder, self._segment, self._name, self._record = folder, segment, name, record
        self._meter = Meter()
        self._stats: dict[str, Any] = {}
        for part in ("frames", "maps"):
            (folder / part).mkdir()

    @contextmanager
    def stage(self, name: str) -> Iterator[StepReport]:
        """Measure a stage; gives the callback for progress within it."""
        with self._meter(name):
            yield self._record.tell(f"{self._name}: {name}")
        self._record.rest()
        heap.give_back()

    def rendered(self, views: Views) -> None:
        """Keep what the Gaussians showed before the segment."""
        self._views = views
        self._record.show(views.rgb[-1] * views.alpha[-1], f"{self._name}: render")

    def enhanced(self, enhanced: Enhanced) -> None:
        """Write the segment's frames and maps, and measure what needs the segment before it."""
        views, segment, unknown = self._views, self._segment, ~masks.known(enhanced.mu)
        first = 1 if segment.start == 0 and len(views.rgb) > 1 else 0
        before = [self._record.frames[i] for i in range(segment.start, segment.new)]
        overlap = torch.stack(before) if before else enhanced.frames[:0]
        files = []
        for offset, frame in enumerate(enhanced.frames):
            files.append(self._folder / "frames" / f"{segment.start + offset:04d}.png")
            images.save_png(files[-1], frame)
        self._write_maps(enhanced)
        self._stats = {
            "start": segment.start,
            "stop": segment.stop,
            "new": segment.new,
            "unknown_share": float(unknown.float().mean()),
            "lambda_mean": float(enhanced.lam.mean()),
            "mu_mean": float(enhanced.mu.mean()),
            # frame 0 is the picture on both sides
            "drift_psnr": drift_psnr(*(t[first:] for t in (enhanced.frames, views.rgb, ~unknown))),
            "unseen_detail": gradient_ratio(enhanced.frames, unknown),
            "seam": seam_ratio(overlap, enhanced.frames),
        }
        self._record.frames.replace(segment.start, files)
        self._frames = enhanced.frames
        del self._views
        self._record.show(enhanced.frames[-1], f"{self._name}: generate")

    def refined(self, refined: RefineResult, after: Views) -> None:
        """Write the Gaussians and the segment's numbers; none of them needs ground truth."""
        self.last = after.rgb[-1]
        gaussians = refined.gaussians
        view_psnr = [psnr(*pair) for pair in zip(after.rgb, self._frames, strict=True)]
        save_gaussians(self._folder / GAUSSIANS, gaussians)
        stats = self._stats | {
            "seconds": self._meter.seconds,
            "peak_mb": self._meter.peak_mb,
            "peak_vram_mb": self._meter.peak_vram_mb,
            "losses": [float(x) for x in refined.losses],
            "gaussians": gaussians.count,
            "opacity_mean": float(torch.sigmoid(gaussians.opacities_logit).mean()),
            "view_psnr": view_psnr,
        }
        write_json(self._folder / "stats.json", stats)

    def _write_maps(self, enhanced: Enhanced) -> None:
        """First, middle and last frame of everything that led to the blend."""
        views, size = self._views, enhanced.frames.shape[2:]
        lam = F.interpolate(enhanced.lam[:, None], size=size, mode="nearest")[:, 0]
        lam = lam[torch.linspace(0, lam.shape[0] - 1, len(enhanced.frames)).round().long()]
        rows = {
            "render": views.rgb * views.alpha[:, None],
            "consistent": enhanced.consistent,
            "free": enhanced.free,
            "blend": enhanced.frames,
            "lambda": _grey(lam),
            "mu": _grey(enhanced.mu),
            "scale": _grey((views.scale_px / _SCALE_WHITE_PX).clamp(0.0, 1.0)),
        }
        last = len(enhanced.frames) - 1
        for name, clip in rows.items():
            for position, offset in {"first": 0, "middle": last // 2, "last": last}.items():
                images.save_png(self._folder / "maps" / f"{name}_{position}.png", clip[offset])


def _grey(values: Tensor) -> Tensor:
    return values[:, None].expand(-1, 3, -1, -1)
