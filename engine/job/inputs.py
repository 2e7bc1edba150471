"""From a job folder's files to what the pipeline starts from: picture, cameras, first geometry."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.settings import DEPARTURES, SceneSettings
from ..cameras import trajectory
from ..cameras.intrinsics import choose_intrinsics
from ..geometry import make_depth_source
from ..geometry.base import DOUBTS
from ..geometry.depth_file import resample_depth
from ..geometry.initial import first_gaussians
from ..geometry.small_depth import TINY
from ..geometry.straight import straightness
from ..media import images
from ..method.pipeline import Inputs
from ..models import choice, weights
from ..priors import working_multiple
from ..rasterize import drawing_device
from .folder import Job
from .report import GEOMETRY, GUESS

MAX_WORKING_PIXELS = 4096 * 4096
_BETTER_DEPTH = "moge_2_small"  # the smallest download that changes most


class Loaded(NamedTuple):
    """Everything that the pipeline needs but the prior, as `load` read it."""

    inputs: Inputs
    # the cameras in metres, the first the identity, for films of the picture's aspect
    path: CameraPath
    facts: dict[str, Any]  # provenance for the report


def load(job: Job, device: torch.device, picture: images.ImageFile | None = None) -> Loaded:
    """Read picture and path, estimate depth, scale the path, make the first Gaussians. Raises
    UserError.

    Networks run on `device`; what comes back is where the Gaussians are drawn. `picture`: the job's
    picture, if it has been read before.
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
    # A working size squeezes the picture a little; lens and depth are read from it unsqueezed.
    shown = images.shown_size((w, h), max(width, height))
    picture_shown = images.resize(picture.pixels, *shown).to(device)
    image = images.resize(picture.pixels, width, height).to(device)
    source = make_depth_source(settings.geometry, device, folder=job.folder, image_size=(w, h))
    named = move_in(job.path)
    given = (
        None
        if named
        else trajectory.scaled_to(trajectory.load(job.path, image_size=(w, h)), *shown)
    )
    K_shown, fov_sentence = choose_intrinsics(
        settings.geometry.fov, given, picture.fov_deg, source, picture_shown
    )
    if given is None:  # pixels are square in the picture; whole pixels may have squeezed it
        K_shown[1, 1] *= shown[1] * w / (shown[0] * h)
    estimate = source.estimate(picture_shown, K_shown)
    path = (
        given
        if given is not None
        else _moved(named, job, K_shown.cpu().numpy(), shown, estimate.depth_m)
    )
    depth = resample_depth(estimate.depth_m.cpu(), width, height)
    path = trajectory.every(path, settings.cameras.frame_step)
    path = trajectory.scaled_to(_with_focal(path, K_shown.cpu().numpy()), width, height)
    path, scale_sentence = trajectory.scale_to_depth(
        path, depth.numpy(), settings.cameras.motion_scale
    )
    warnings = trajectory.check_path(path, depth.numpy())
    Ks, depth = torch.from_numpy(path.K).float().to(device), depth.to(device)
    gaussians, gaussians_sentence = first_gaussians(
        settings.geometry,
        image,
        depth,
        Ks[0],
        sh_degree=settings.refine.sh_degree,
        blending=settings.output.blending,
        folder=job.folder,
    )
    cameras = torch.from_numpy(np.linalg.inv(path.world_from_camera)).float().to(device)
    straight = straightness(image, depth, Ks[0], cameras)
    home = drawing_device(device)
    notes = [*estimate.notes, *_tiny(w, h, estimate.guess)]
    doubts = [note for note in notes if note.startswith(DOUBTS)]
    if not straight.fits:
        doubts.insert(0, straight.sentence)
    facts = {
        "picture": f"{job.image.name}, {w}x{h}, worked on at {width}x{height}",
        **_lines("note on the picture", picture.notes),
        "field of view": fov_sentence,
        "path": f"{path.count} cameras. {scale_sentence}",
        **_lines("note on the path", path.notes),
        **_lines("warning", warnings),
        **_lines("note on the depth", notes),
        "straight edges": straight.sentence,
        **({GEOMETRY: "; ".join(doubts)} if doubts else {}),
        **({GUESS: f"{estimate.guess}{_better_depth(settings)}"} if estimate.guess else {}),
        "depth": f"{estimate.name} ({estimate.licence}), "
        f"{'metric' if estimate.metric else 'up to scale'}",
        "first geometry": gaussians_sentence,
        **_lines("departure from the paper", _departures(settings)),
        "device": _place(device, home),
        "seed": settings.output.seed,
    }
    start = Inputs(
        image.to(home), Ks.to(home), cameras.to(home), gaussians.map(lambda t: t.to(home))
    )
    return Loaded(start, trajectory.scaled_to(path, *shown), facts)


def _place(device: torch.device, home: torch.device) -> str:
    """Where a job computes, for the report."""
    if home == device:
        return str(device)
    return f"{device} for the networks; Gaussians are drawn and refined on the {home}"


def _better_depth(settings: SceneSettings) -> str:
    """What one small download would change; nothing once a learned depth model is here."""
    if choice.best_depth(commercial=settings.video.licences == "commercial") != "small":
        return ""
    better = weights.known(_BETTER_DEPTH)
    licence = better.licence.partition(":")[0]
    return (
        f" One small download ({better.size_gb:g} GB, {licence}) gives far better depth: "
        f"python -m engine weights download {better.name}."
    )


def _tiny(width: int, height: int, guess: str) -> list[str]:
    """A word where depth was guessed from a picture of few pixels: the source saw it enlarged."""
    if not guess or min(width, height) >= TINY:
        return []
    return [f"{DOUBTS[0]}: the picture has only {width} x {height} pixels"]


def refuse_strip(width: int, height: int) -> None:
    """Raise UserError for a working size so narrow that its frames could not be read again."""
    if min(width, height) < images.FEWEST_PX:
        raise UserError(
            f"The picture is a strip: it would be worked on at {width}x{height} pixels.",
            f"Crop it, or raise width until both sides have {images.FEWEST_PX} pixels.",
        )


def _departures(settings: SceneSettings) -> tuple[str, ...]:
    """What a job with the paper's recipe does otherwise than the paper; others do not claim to
    be it.
    """
    return DEPARTURES if settings.refine.recipe == "paper" else ()


def _lines(name: str, texts: Any) -> dict[str, str]:
    return {f"{name} {i + 1}": text for i, text in enumerate(texts)}


def move_in(path: Path) -> str:
    """The named move that a path file holds, "" where it holds cameras."""
    if path.suffix != ".txt":
        return ""
    words = path.read_text(encoding="utf-8", errors="replace").strip()
    return words if trajectory.is_move(words) else ""


def _moved(
    spec: str, job: Job, K: np.ndarray, size: tuple[int, int], depth: torch.Tensor
) -> CameraPath:
    """The path of a named move; an orbit turns round the scene's median depth."""
    finite = depth[torch.isfinite(depth) & (depth > 0)]
    return trajectory.move(
        spec,
        K=K,
        width=size[0],
        height=size[1],
        frames=job.settings.cameras.move_frames,
        depth_m=float(finite.median()),
    )


def _with_focal(path: CameraPath, K: np.ndarray) -> CameraPath:
    """The path with its focal lengths scaled so that the first camera has K's: the user's field
    of view wins.
    """
    factor = math.sqrt(K[0, 0] * K[1, 1] / (path.K[0, 0, 0] * path.K[0, 1, 1]))
    if abs(factor - 1.0) < 1e-9:
        return path
    Ks = path.K.copy()
    Ks[:, [0, 1], [0, 1]] *= factor
    return path._replace(K=Ks)
