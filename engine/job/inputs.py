"""From a job folder's files to what the pipeline starts from: picture, cameras, first geometry."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..cameras import trajectory
from ..cameras.intrinsics import choose_intrinsics
from ..geometry import make_depth_source
from ..geometry.initial import first_gaussians
from ..media import images
from ..method.pipeline import Inputs
from ..priors import working_multiple
from .folder import Job

MAX_WORKING_PIXELS = 4096 * 4096


class Start(NamedTuple):
    """Everything the pipeline needs but the prior."""

    inputs: Inputs
    path: (
        CameraPath  # the cameras as they are used: metres, first camera the identity, working size
    )
    facts: dict[str, Any]  # provenance for the report


def load(job: Job, device: torch.device, picture: images.ImageFile | None = None) -> Start:
    """Read picture and path, estimate depth, scale the path, make the first Gaussians. Raises UserError.

    `picture`: the job's picture, if it has been read before.
    """
    settings = job.settings
    picture = picture or images.load_image(job.image)
    h, w = picture.pixels.shape[1:]
    width, height = images.working_size(
        (w, h), settings.output.width, working_multiple(settings.video.prior)
    )
    refuse_strip(width, height)
    if width * height > MAX_WORKING_PIXELS:
        raise UserError(f"The working size {width}x{height} is too large.", "Lower width.")
    image = images.resize(picture.pixels, width, height).to(device)
    source = make_depth_source(settings.geometry, device, folder=job.folder, image_size=(w, h))
    given = (
        None
        if job.path.suffix == ".txt"
        else trajectory.scaled_to(trajectory.load(job.path, image_size=(w, h)), width, height)
    )
    K, fov_sentence = choose_intrinsics(
        settings.geometry.fov, given, picture.fov_deg, source, image
    )
    estimate = source.estimate(image, K)
    depth = estimate.depth_m
    path = given if given is not None else _moved(job, K.cpu().numpy(), width, height, depth)
    path = _with_focal(trajectory.every(path, settings.cameras.frame_step), K.cpu().numpy())
    path, scale_sentence = trajectory.scale_to_depth(
        path, depth.cpu().numpy(), settings.cameras.motion_scale
    )
    warnings = trajectory.check_path(path, depth.cpu().numpy())
    gaussians, gaussians_sentence = first_gaussians(
        settings.geometry,
        image,
        depth,
        K,
        sh_degree=settings.refine.sh_degree,
        blending=settings.output.blending,
        folder=job.folder,
    )
    cameras = torch.from_numpy(np.linalg.inv(path.world_from_camera)).float().to(device)
    facts = {
        "picture": f"{job.image.name}, {w}x{h}, worked on at {width}x{height}",
        **_lines("note on the picture", picture.notes),
        "field of view": fov_sentence,
        "path": f"{path.count} cameras. {scale_sentence}",
        **_lines("note on the path", path.notes),
        **_lines("warning", warnings),
        **_lines("note on the depth", estimate.notes),
        "depth": f"{estimate.name} ({estimate.licence}), {'metric' if estimate.metric else 'up to scale'}",
        "first geometry": gaussians_sentence,
        "device": str(device),
        "seed": settings.output.seed,
    }
    return Start(
        Inputs(image, torch.from_numpy(path.K).float().to(device), cameras, gaussians), path, facts
    )


def refuse_strip(width: int, height: int) -> None:
    """UserError for a working size so narrow that its frames could not be read again."""
    if min(width, height) < images.FEWEST_PX:
        raise UserError(
            f"The picture is a strip: it would be worked on at {width}x{height} pixels.",
            f"Crop it, or raise width until both sides have {images.FEWEST_PX} pixels.",
        )


def _lines(name: str, texts: Any) -> dict[str, str]:
    return {f"{name} {i + 1}": text for i, text in enumerate(texts)}


def _moved(job: Job, K: np.ndarray, width: int, height: int, depth: torch.Tensor) -> CameraPath:
    """The path of a named move; an orbit turns round the scene's median depth."""
    finite = depth[torch.isfinite(depth) & (depth > 0)]
    spec = job.path.read_text(encoding="utf-8").strip()
    return trajectory.move(
        spec,
        K=K,
        width=width,
        height=height,
        frames=job.settings.cameras.move_frames,
        depth_m=float(finite.median()),
    )


def _with_focal(path: CameraPath, K: np.ndarray) -> CameraPath:
    """The path with its focal lengths scaled so that the first camera has K's: the user's field of view wins."""
    factor = math.sqrt(K[0, 0] * K[1, 1] / (path.K[0, 0, 0] * path.K[0, 1, 1]))
    if abs(factor - 1.0) < 1e-9:
        return path
    Ks = path.K.copy()
    Ks[:, [0, 1], [0, 1]] *= factor
    return path._replace(K=Ks)
