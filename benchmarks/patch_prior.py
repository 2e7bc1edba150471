"""How good and how dear is the embedded video prior?

    python benchmarks/patch_prior.py PICTURE [PICTURE ...] [--width 256] [--frames 25] [--strips
    DIR]

Per picture: (1) a band of a quarter at the right and an oval in the middle are hidden, the band
also from the bank; what is invented is compared with the truth (PSNR; energy of the horizontal
gradients as a share of the truth's, 1 is right, small is mush) and with the smooth fill by push and
pull. (2) A synthetic clip (floor, wall and an object; the camera moves to the side by 1.5 m) is
generated as a clip and as frames alone; the warp error in what both frames of a pair invented says
how well they agree. Times are of both runs together.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.media.images import load_image, save_png
from engine.priors.base import Clip
from engine.priors.patch.prior import PatchPrior
from engine.priors.patch.warp import draw_into, project


def working_size(picture: Tensor, width: int) -> Tensor:
    """[3, h, w] resized to `width`, its middle cut to 16:9."""
    _, h, w = picture.shape
    target = min(h, round(w * 9 / 16))
    top = (h - target) // 2
    cut = picture[:, top : top + target]
    return F.interpolate(
        cut[None], size=(round(width * 9 / 16), width), mode="bilinear", antialias=True
    )[0].clamp(0, 1)


def intrinsics(h: int, w: int, fov_deg: float = 60.0) -> Tensor:
    focal = w / 2 / math.tan(math.radians(fov_deg / 2))
    return torch.tensor([[focal, 0, w / 2], [0, focal, h / 2], [0, 0, 1.0]])


def scene_depth(h: int, w: int, K: Tensor) -> Tensor:
    """A floor 1.6 m below the camera, a wall 12 m away, an oval object 2.5 m away; [h, w]
    metres.
    """
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    slope = (y - 0.45 * h) / K[1, 1]
    depth = torch.where(slope > 1.6 / 12, 1.6 / slope.clamp(min=1e-4), torch.full_like(slope, 12.0))
    return torch.where(
        ((x / w - 0.6) / 0.09) ** 2 + ((y / h - 0.62) / 0.18) ** 2 < 1,
        torch.full_like(depth, 2.5),
        depth,
    )


def travelling_clip(picture: Tensor, frames: int, path_m: float = 1.5) -> Clip:
    """The picture seen from a camera that moves to the right, by drawing its surface into every
    frame.
    """
    _, h, w = picture.shape
    K, whole = intrinsics(h, w), torch.ones(h, w, dtype=torch.bool)
    depth = scene_depth(h, w, K)
    cameras = torch.eye(4).repeat(frames, 1, 1)
    cameras[:, 0, 3] = torch.linspace(0, path_m, frames)
    renders, knowns, depths = [], [], []
    for camera in cameras:
        seen, source = draw_into(
            project(depth, K, torch.eye(4), K, camera), whole, (h, w), z_ratio=1.12
        )
        known = torch.isfinite(seen)
        renders.append(look_up(picture, source) * known)
        knowns.append(known.float()[None])
        depths.append(torch.where(known, seen, torch.zeros(()))[None])
    return Clip(
        picture,
        torch.stack(renders),
        torch.stack(knowns),
        torch.stack(depths),
        K.expand(frames, 3, 3),
        cameras,
        "",
    )


def look_up(picture: Tensor, source: Tensor) -> Tensor:
    h, w = source.shape[:2]
    grid = torch.stack([source[..., 0] / w, source[..., 1] / h], dim=-1) * 2 - 1
    return F.grid_sample(
        picture[None], grid[None], mode="bicubic", padding_mode="border", align_corners=False
    )[0].clamp(0, 1)


def generate(prior: PatchPrior, clip: Clip, runs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(frames [f, 3, h, w], completed depth [f, 1, h, w]) by the sampler's deterministic loop
    without momentum.
    """
    condition = prior.condition(clip)
    levels = prior.levels(0)
    shape = (3, clip.render.shape[0], *clip.render.shape[-2:])
    x = (levels[0].b * torch.randn(shape, generator=prior.generator(seed))).repeat(runs, 1, 1, 1, 1)
    for i, then in enumerate(levels[1:]):
        x0, eps = prior.predict(x, i, condition)
        x = then.a * x0 + then.b * eps
    return prior.decode(x[0]), condition.depth


def smooth_fill(picture: Tensor, known: Tensor) -> Tensor:
    """Push and pull: the fill without any structure. picture [3, h, w], known [1, h, w]."""
    levels = [torch.cat([picture * known, known])[None]]
    while min(levels[-1].shape[-2:]) > 1:
        levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True))
    filled = levels[-1][:, :3] / levels[-1][:, 3:].clamp(min=1e-6)
    for level in reversed(levels[:-1]):
        up = F.interpolate(filled, size=level.shape[-2:], mode="bilinear", align_corners=False)
        weight = level[:, 3:].clamp(max=1)
        filled = torch.lerp(up, level[:, :3] / level[:, 3:].clamp(min=1e-6), weight)
    return filled[0]


def hidden(picture: Tensor) -> tuple[Clip, Tensor]:
    """A clip of one frame with a band and an oval unknown, and a picture for the bank without the
    band.
    """
    _, h, w = picture.shape
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    known = ((x < 0.75) & (((x - 0.35) / 0.08) ** 2 + ((y - 0.6) / 0.2) ** 2 > 1)).float()[None]
    cut, bank = int(0.75 * w), picture.clone()
    bank[:, :, cut:] = picture[:, :, 2 * cut - w : cut].flip(-1)
    clip = Clip(
        bank,
        (picture * known)[None],
        known[None],
        torch.full((1, 1, h, w), 5.0),
        intrinsics(h, w)[None],
        torch.eye(4)[None],
        "",
    )
    return clip, bank


def psnr_in(a: Tensor, b: Tensor, where: Tensor) -> float:
    return -10 * math.log10(float(((a - b).square() * where).sum() / (3 * where.sum())))


def gradient_energy(picture: Tensor, where: Tensor) -> float:
    both = where[..., 1:] * where[..., :-1]
    return float(((picture[..., 1:] - picture[..., :-1]).square() * both).sum() / both.sum())


def warp_error(frames: Tensor, clip: Clip, depth: Tensor) -> float:
    """Mean absolute difference between frames a quarter of the clip apart, where both were
    unknown.
    """
    unknown, hop, errors = clip.known < 0.5, max(1, frames.shape[0] // 4), []
    for g in range(frames.shape[0] - hop):
        f = g + hop
        points = project(
            depth[f, 0], clip.K[f], clip.world_from_camera[f], clip.K[g], clip.world_from_camera[g]
        )
        seen, source = draw_into(points, unknown[f, 0], (frames.shape[2], frames.shape[3]))
        both = torch.isfinite(seen) & unknown[g, 0]
        if int(both.sum()) > 50:
            errors.append(
                float(
                    ((look_up(frames[f], source) - frames[g]).abs() * both).sum() / (3 * both.sum())
                )
            )
    return sum(errors) / max(len(errors), 1)


def alone(prior: PatchPrior, clip: Clip) -> Tensor:
    """Every frame as a clip of its own, with noise of its own: [f, 3, h, w]."""
    fields = (clip.render, clip.known, clip.depth, clip.K, clip.world_from_camera)
    return torch.cat(
        [
            generate(prior, Clip(clip.image, *(v[f : f + 1] for v in fields), ""), 1, f)[0]
            for f in range(clip.render.shape[0])
        ]
    )


def measure(path: Path, arguments: argparse.Namespace) -> str:
    picture = working_size(load_image(path).pixels, arguments.width)
    single, bank = hidden(picture)
    filled, _ = generate(PatchPrior(bank), single, 1)
    where = 1 - single.known[0]
    smooth = smooth_fill(single.render[0], single.known[0])
    truth = gradient_energy(picture, where)
    cells = [psnr_in(filled[0], picture, where), psnr_in(smooth, picture, where)]
    shares = [gradient_energy(v, where) / truth for v in (filled[0], smooth)]

    clip = travelling_clip(picture, arguments.frames)
    start, cpu = time.perf_counter(), time.process_time()
    frames, depth = generate(PatchPrior(picture), clip, 2)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    together = warp_error(frames, clip, depth)
    apart = math.nan
    if not arguments.quick:
        few = list(range(0, arguments.frames, max(1, arguments.frames // 4)))
        sparse = Clip(
            clip.image,
            *(
                v[few]
                for v in (clip.render, clip.known, clip.depth, clip.K, clip.world_from_camera)
            ),
            "",
        )
        apart = warp_error(alone(PatchPrior(picture), sparse), sparse, depth[few])
    if arguments.strips:
        arguments.strips.mkdir(parents=True, exist_ok=True)
        rows = [torch.cat([single.render[0], filled[0]], dim=2)]
        rows += [
            torch.cat([clip.render[f], frames[f]], dim=2)
            for f in (arguments.frames // 2, arguments.frames - 1)
        ]
        save_png(arguments.strips / f"{path.stem}.png", torch.cat(rows, dim=1))
    return (
        f"| {path.stem} | {cells[0]:.1f} / {cells[1]:.1f} | {shares[0]:.2f} / {shares[1]:.2f} | "
        f"{together:.4f} / {apart:.4f} "
        f"| {1 - float(clip.known.mean()):.2f} | {wall:.1f} | {cpu:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument(
        "--strips", type=Path, help="write a picture of every case into this folder"
    )
    parser.add_argument("--quick", action="store_true", help="without the frames made alone")
    arguments = parser.parse_args()
    compared = (
        "PSNR dB, prior / smooth",
        "gradient energy, prior / smooth",
        "warp error, clip / alone",
    )
    titles = ("picture", *compared, "unknown", "wall s", "CPU s")
    print("|", " | ".join(titles), "|")
    print("|---" * len(titles) + "|")
    for path in arguments.pictures:
        print(measure(path, arguments), flush=True)


if __name__ == "__main__":
    main()
