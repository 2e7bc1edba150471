"""What a finished job leaves for its user."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bridge import camera_file, splat_file
from ..bridge.progress import Report
from ..bridge.splat_file import Splats
from ..bridge.variants import job_of
from ..bridge.whole_file import whole_file
from ..formats.scene import SplatScene
from ..media import images
from ..method.losses import ssim_map
from ..method.refine import refine
from ..method.views import Views, draw_views
from ..outputs.viewer import page
from ..outputs.viewer.contents import contents
from ..scene.gaussians import Gaussians
from ..scene.psnr import psnr
from . import comparison, repair
from .folder import Job
from .inputs import Loaded
from .newest import newest
from .report import PAGE, PathNumbers, write_report

_REFIT_STEPS = 200  # for each round
_REFIT_VIEWS = 64  # renders held at once
_PAGE_SPLATS = 3_000_000  # about 50 MB


def write(job: Job, loaded: Loaded, gaussians: Gaussians, report: Report) -> dict[str, str]:
    """Write scene.ply, scene.html, cameras.json, frames/, flythrough.mp4, report.json and
    report.html. Returns name -> file.

    One camera at a time: a path of a thousand frames takes the memory of one of ten.
    """
    folder = job.folder
    camera_file.write(folder / "cameras.json", loaded.path)
    numbers = PathNumbers()
    frames = _collect_frames(job)
    drawn = _fly_through(job, loaded, gaussians, frames, numbers, report)
    size = (
        loaded.path.width,
        loaded.path.height,
    )  # the picture's aspect, which a working size squeezes
    shown = (images.resize(frame, *size) for frame in drawn)
    images.save_video(folder / "flythrough.mp4", shown, loaded.path.fps)
    images.save_png(folder / "input.png", loaded.inputs.image)
    if not math.isnan(numbers.revisit_psnr):
        loaded.facts["seen again"] = (
            "the path comes back to its first view: the frame made there is "
            f"{numbers.revisit_psnr:.1f} dB from the picture"
        )
    gaussians = _write_scene(job, loaded, gaussians, report)
    report("page", 0, 1)
    _write_page(job, loaded, gaussians)
    variants = comparison.rows(job_of(folder), folder)
    data = write_report(
        folder, loaded.facts, numbers, comparison.table(variants, folder), repair.stats(job)
    )
    report("done", 1, 1, text=data["verdict"])
    names = {
        "scene": "scene.ply",
        "scene_linear": "scene_linear.ply",
        "page": "scene.html",
        "cameras": "cameras.json",
        "flythrough": "flythrough.mp4",
        "numbers": "report.json",
        "report": "report.html",
    }
    return {name: str(folder / file) for name, file in names.items() if (folder / file).exists()}


def _fly_through(
    job: Job,
    loaded: Loaded,
    gaussians: Gaussians,
    frames: list[Path],
    numbers: PathNumbers,
    report: Report,
) -> Iterator[Tensor]:
    """The final scene from every camera [3, h, w] on the CPU; `numbers` is filled in on the way."""
    inputs = loaded.inputs
    for index, file in enumerate(frames):
        report("fly-through", index, len(frames))
        view = _draw(job, loaded, gaussians, index)
        drawn, frame = view.rgb[0].cpu(), images.load_image(file, photo=False).pixels
        if index == 0:
            images.save_png(job.folder / "input_render.png", drawn)
            # a repaint may have changed what the picture shows: its own first frame is meant
            wanted = inputs.image.cpu() if job.mask is None else frame
            numbers.input_psnr = psnr(drawn, wanted)
        numbers.agreement.add(
            frame, view.depth[0].cpu(), inputs.K[index].cpu(), inputs.camera_from_world[index].cpu()
        )
        if index == len(frames) - 1 and comes_back(inputs.K, inputs.camera_from_world):
            numbers.revisit_psnr = psnr(frame, inputs.image.cpu())
        numbers.path_psnr.append(psnr(drawn, frame))
        numbers.path_ssim.append(float(ssim_map(drawn, frame).mean()))
        yield drawn


def comes_back(K: Tensor, camera_from_world: Tensor) -> bool:
    """Say whether the last of several cameras ([f, 3, 3] px, [f, 4, 4]) sees what the first one
    sees.
    """
    return (
        len(K) > 1
        and torch.allclose(K[-1], K[0], rtol=1e-3)
        and torch.allclose(camera_from_world[-1], camera_from_world[0], atol=1e-3)
    )


def _draw(job: Job, loaded: Loaded, gaussians: Gaussians, index: int) -> Views:
    one, inputs = slice(index, index + 1), loaded.inputs
    with torch.no_grad():
        return draw_views(
            gaussians, inputs.K[one], inputs.camera_from_world[one], inputs.image, job.settings
        )


def to_splats(gaussians: Gaussians) -> Splats:
    """Turn Gaussians into the arrays of a .ply."""
    return Splats(
        *(np.ascontiguousarray(t.detach().cpu().numpy(), dtype=np.float32) for t in gaussians)
    )


def _write_page(job: Job, loaded: Loaded, gaussians: Gaussians) -> None:
    """scene.html: the scene in a browser; of one too large for a page, the splats that fit."""
    shown = contents(
        SplatScene(to_splats(gaussians)),
        job.folder.resolve().name,
        cameras=loaded.path,
        picture=job.folder / "input.png",
        segments=newest(job.folder).segments,
        count=_PAGE_SPLATS if gaussians.count > _PAGE_SPLATS else None,
    )
    page.write(job.folder / PAGE, shown)


def _write_scene(job: Job, loaded: Loaded, gaussians: Gaussians, report: Report) -> Gaussians:
    """scene.ply for viewers that blend display values, which is returned; scene_linear.ply beside
    it where the job blends in linear light.
    """
    notes = [f"scene_splatter {key}: {value}" for key, value in loaded.facts.items()]
    if job.settings.output.blending == "linear":
        splat_file.write_ply(
            job.folder / "scene_linear.ply",
            to_splats(gaussians),
            ["scene_splatter blending linear", *notes],
        )
        gaussians = _for_display(job, loaded, gaussians, report)
    splat_file.write_ply(
        job.folder / "scene.ply", to_splats(gaussians), ["scene_splatter blending display", *notes]
    )
    return gaussians


def _for_display(job: Job, loaded: Loaded, gaussians: Gaussians, report: Report) -> Gaussians:
    """The scene for blending in display values, so that it looks as it does in linear light.

    Blending in the other space changes every half-transparent edge, so the scene is refitted to its
    own linear renders, not merely renamed. A long path is gone through in rounds, each over every
    k-th camera, so that no more than _REFIT_VIEWS renders are held.
    """
    inputs, count = loaded.inputs, loaded.path.count
    rounds = math.ceil(count / _REFIT_VIEWS)
    refitted = gaussians
    for turn in range(rounds):
        cameras = range(turn, count, rounds)
        drawn = torch.stack([_draw(job, loaded, gaussians, i).rgb[0] for i in cameras])

        def told(stage: str, done: int, total: int, *_: Any, turn: int = turn, **__: Any) -> None:
            report("refit for display blending", turn * total + done, rounds * total)

        refitted = refine(
            refitted,
            drawn,
            inputs.K[turn::rounds],
            inputs.camera_from_world[turn::rounds],
            recipe="few_views",
            steps=_REFIT_STEPS,
            frame_weights=None,
            blending="display",
            sh_degree=job.settings.refine.sh_degree,
            max_gaussians=gaussians.count,
            seed=job.settings.output.seed + turn,
            report=told,
        ).gaussians
    return refitted


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
        with whole_file(target / name) as temporary:
            shutil.copyfile(file, temporary)
    return [target / name for name in sorted(newest)]


def provenance(spec: Any) -> dict[str, str]:
    """Say in lines, for the report and the .ply, what a prior is (None: there was none)."""
    if spec is None:
        return {"prior": "none: the renders alone were learned from"}
    use = (
        "commercial use allowed"
        if spec.commercial_use
        else "commercial use: no, or with conditions"
    )
    return {"prior": f"{spec.name} ({spec.licence}, {use})"}
