"""What a finished job leaves for its user."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bridge import camera_file, splat_file
from ..bridge.splat_file import Splats
from ..media import images
from ..method.losses import ssim_map
from ..method.pipeline import render
from ..method.refine import refine
from ..scene.gaussians import Gaussians
from .folder import Job, atomic
from .inputs import Start
from .measures import consistency, psnr
from .report import write_report

log = logging.getLogger(__name__)

Report = Callable[..., None]
_REFIT_STEPS = 200


def write(job: Job, start: Start, gaussians: Gaussians, report: Report) -> dict[str, str]:
    """scene.ply, cameras.json, frames/, flythrough.mp4, report.json, report.html. Returns name -> file."""
    folder, settings = job.folder, job.settings
    camera_file.write(folder / "cameras.json", start.path)
    pool = _collect_frames(job)
    drawn, depth = [], []
    for index in range(start.path.count):
        report("fly-through", index, start.path.count)
        one = slice(index, index + 1)
        with torch.no_grad():
            view = render(
                gaussians,
                start.inputs.K[one],
                start.inputs.camera_from_world[one],
                start.inputs.image,
                settings,
            )
        drawn.append(view.rgb[0].cpu())
        depth.append(view.depth[0].cpu())
    images.save_video(folder / "flythrough.mp4", drawn, settings.output.fps or start.path.fps)
    images.save_png(folder / "input.png", start.inputs.image)
    images.save_png(folder / "input_render.png", drawn[0])
    _write_scene(job, start, gaussians, torch.stack(drawn), report)
    frames = torch.stack([images.load_image(file).pixels for file in pool])
    agreement, _ = consistency(
        frames, torch.stack(depth), start.inputs.K.cpu(), start.inputs.camera_from_world.cpu()
    )
    pairs = list(zip(drawn, frames, strict=True))
    path_psnr, path_ssim = (
        [psnr(*pair) for pair in pairs],
        [float(ssim_map(*pair).mean()) for pair in pairs],
    )
    data = write_report(
        folder,
        start.facts,
        psnr(drawn[0], start.inputs.image.cpu()),
        agreement,
        path_psnr,
        path_ssim,
    )
    report("done", 1, 1, text=data["verdict"])
    names = (
        "scene.ply",
        "scene_linear.ply",
        "cameras.json",
        "flythrough.mp4",
        "report.json",
        "report.html",
    )
    return {
        Path(n).stem if n != "report.json" else "numbers": str(folder / n)
        for n in names
        if (folder / n).exists()
    }


def to_splats(gaussians: Gaussians) -> Splats:
    """Gaussians as the arrays of a .ply."""
    return Splats(
        *(np.ascontiguousarray(t.detach().cpu().numpy(), dtype=np.float32) for t in gaussians)
    )


def _write_scene(
    job: Job, start: Start, gaussians: Gaussians, drawn: Tensor, report: Report
) -> None:
    """scene.ply for viewers that blend display values; scene_linear.ply beside it where the job blends in linear light.

    Blending in the other space changes every half-transparent edge, so the display version is
    refitted to the linear renders, not merely renamed.
    """
    notes = [f"scene_splatter {key}: {value}" for key, value in start.facts.items()]
    if job.settings.output.blending == "linear":
        splat_file.write_ply(
            job.folder / "scene_linear.ply",
            to_splats(gaussians),
            ["scene_splatter blending linear", *notes],
        )
        gaussians = refine(
            gaussians,
            drawn.to(start.inputs.image),
            start.inputs.K,
            start.inputs.camera_from_world,
            recipe="few_views",
            steps=_REFIT_STEPS,
            frame_weights=None,
            blending="display",
            sh_degree=job.settings.refine.sh_degree,
            max_gaussians=gaussians.count,
            seed=job.settings.output.seed,
            report=lambda stage, done, total, *_, **__: report(
                "refit for display blending", done, total
            ),
        ).gaussians
    splat_file.write_ply(
        job.folder / "scene.ply", to_splats(gaussians), ["scene_splatter blending display", *notes]
    )


def _collect_frames(job: Job) -> list[Path]:
    """Copy the newest version of every enhanced frame to frames/, in order."""
    target = job.folder / "frames"
    target.mkdir(exist_ok=True)
    newest: dict[str, Path] = {}
    for index in range(job.finished_segments()):
        newest |= {
            file.name: file for file in sorted((job.segment_folder(index) / "frames").glob("*.png"))
        }
    for name, file in newest.items():
        with atomic(target / name) as temporary:
            shutil.copyfile(file, temporary)
    return [target / name for name in sorted(newest)]


def provenance(spec: Any) -> dict[str, str]:
    """Lines about a prior for the report and the .ply."""
    use = (
        "commercial use allowed"
        if spec.commercial_use
        else "commercial use: no, or with conditions"
    )
    return {"prior": f"{spec.name} ({spec.licence}, {use})"}
