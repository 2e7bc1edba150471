"""Trains the small depth network on scenes that are made while it learns. Stops and goes on at any
time.

    python -m training.depth.train textures.npy RUN_FOLDER --samples 150000 [--device cuda]

RUN_FOLDER holds the checkpoint, the pool of made pictures and curve.csv. One thread, unless
--threads says otherwise. Ctrl-C or a kill lose at most --save-every seconds.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.geometry.networks.small import Answer, SmallDepth, ray_field

from . import scenes
from .muon import Muon
from .scenes import SHAPE_SHARES, SHAPES

_UNKNOWN_LENS = 0.3
_FAR_M = 400.0
_NEWEST = 0.25  # share of a batch from the newest tenth of the pool


class Renders:
    """Pictures of one shape that `blender_scenes.py` has rendered; all are shown alike often."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as kept:
            self.image, self.depth, self.facts = kept["image"], kept["depth"], kept["facts"]

    def pick(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, len(self.image), size)


class Pool:
    """The newest made pictures of one shape, on disk, shown several times each in changing
    light.
    """

    def __init__(self, folder: Path, w: int, h: int, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.size, self.w, self.h = size, w, h
        self.image = self._file(folder / f"image_{w}x{h}_{size}.u8", np.uint8, (size, h, w, 3))
        self.depth = self._file(folder / f"depth_{w}x{h}_{size}.f16", np.float16, (size, h, w))
        self.facts = self._file(folder / f"facts_{w}x{h}_{size}.f32", np.float32, (size, 4))
        self.count = 0  # made so far

    @staticmethod
    def _file(path: Path, kind: type, shape: tuple[int, ...]) -> np.ndarray:
        return np.memmap(path, kind, "r+" if path.exists() else "w+", shape=shape)

    def put(self, made: scenes.Sample) -> None:
        i = self.count % self.size
        self.image[i] = np.rint(made.image * 255)
        self.depth[i] = np.minimum(made.depth, 6e4)
        self.facts[i] = scenes.facts(made)
        self.count += 1

    def pick(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Places [size], the newest more often."""
        there = min(self.count, self.size)
        any_of = rng.integers(0, there, size)
        newest = (self.count - 1 - rng.integers(0, max(there // 10, 1), size)) % self.size
        return np.sort(np.where(rng.random(size) < _NEWEST, newest, any_of))


def changed(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures [n, 3, h, w] in other light, through other cameras: nothing of their shapes
    changes.
    """
    n, _, h, w = image.shape

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (n, 1, 1, 1)).astype(np.float32))

    def some(share: float) -> Tensor:
        return torch.from_numpy((rng.random((n, 1, 1, 1)) < share).astype(np.float32))

    gains = torch.from_numpy(np.exp(rng.normal(0, 0.14, (n, 3, 1, 1))).astype(np.float32))
    x = image.clamp(0, 1) ** torch.exp(draw(-0.55, 0.55)) * gains
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * draw(0.1, 1.5)
    x = torch.where(some(0.12) > 0, grey.expand_as(x), x)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * draw(0.55, 1.35) + middle + draw(-0.14, 0.14)
    # Light that falls off or slants over the picture.
    yy = torch.linspace(-1, 1, h)[None, None, :, None]
    xx = torch.linspace(-1, 1, w)[None, None, None, :]
    x = x * (
        1
        + some(0.5)
        * (draw(-0.35, 0.35) * xx + draw(-0.35, 0.35) * yy - draw(0, 0.25) * (xx * xx + yy * yy))
    )
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, soft, some(0.6) * draw(-0.5, 1.0))  # below 0: sharpened
    if rng.random() < 0.2:  # the same shapes in another texture: one random filter a batch
        kernel = torch.from_numpy(rng.normal(0, 1, (3, 3, 3, 3)).astype(np.float32)) / 5
        other = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel)
        other = (other - other.mean((2, 3), keepdim=True)) / (
            other.std((2, 3), keepdim=True) + 1e-3
        )
        other = other * 0.25 + 0.45
        x = torch.where(some(0.5) > 0, torch.lerp(x, other, draw(0.3, 1.0)), x)
    if rng.random() < 0.35:  # stains from other pictures of the batch, low in contrast
        stain = torch.from_numpy(rng.permutation(n))
        x = torch.lerp(x, x[stain].flip(3), some(0.5) * draw(0.05, 0.3))
    noise = torch.from_numpy(rng.normal(0, 1, x.shape).astype(np.float32))
    x = x + noise * some(0.6) * draw(0.0, 0.05)
    return x.clamp(0, 1)


def batch(pool: Pool | Renders, size: int, rng: np.random.Generator):
    """image, rays, depth [n, h, w] (inf: sky), camera truth [n, 3]."""
    pick = pool.pick(size, rng)
    image = torch.from_numpy(pool.image[pick]).permute(0, 3, 1, 2).float() / 255
    depth = torch.from_numpy(pool.depth[pick].astype(np.float32))
    facts = torch.from_numpy(np.array(pool.facts[pick]))
    focal, pitch, roll = facts[:, 0].clone(), facts[:, 1].clone(), facts[:, 2].clone()
    h, w = image.shape[2:]
    if rng.random() < 0.5:
        image, depth, roll = image.flip(3), depth.flip(2), -roll
    if (
        rng.random() < 0.5
    ):  # a part of the picture, enlarged: another lens; its middle stays the middle
        scale = float(rng.uniform(0.62, 1.0))
        ch, cw = int(h * scale), int(w * scale)
        y0, x0 = (h - ch) // 2, (w - cw) // 2
        image = F.interpolate(
            image[:, :, y0 : y0 + ch, x0 : x0 + cw], size=(h, w), mode="bilinear", antialias=True
        )
        depth = F.interpolate(
            depth[:, None, y0 : y0 + ch, x0 : x0 + cw], size=(h, w), mode="nearest"
        )[:, 0]
        focal = focal * (w / cw)
    depth = torch.where(depth > 5e4, torch.inf, depth)
    image = changed(image, rng)
    truth = torch.stack([pitch, roll, torch.log(focal / max(h, w))], 1)
    known = torch.from_numpy((rng.random(size) > _UNKNOWN_LENS).astype(np.float32))
    shown = torch.where(known > 0, focal / max(h, w), torch.tensor(0.87))
    return image, ray_field(shown, known, h, w), depth, truth


def loss_of(answer: Answer, depth: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """-> (what is minimised, mean of |log p - log g| after the median is taken out)."""
    sky = ~torch.isfinite(depth)
    mask = (~sky & (depth < _FAR_M)).float()
    target = torch.log(depth.clamp(0.05, _FAR_M))
    p = answer.log_depth
    error = torch.where(mask > 0, p - target, torch.nan)
    shift = torch.nanmedian(error.flatten(1), 1).values.nan_to_num()[:, None, None].detach()
    error = torch.nan_to_num(error)
    mass = mask.sum((1, 2)).clamp(min=100)
    aligned = ((error - shift) * mask).abs()
    relative = aligned.sum((1, 2)) / mass
    # Over-long depth is what tears: exp(error) - 1, bounded.
    long = (torch.exp((error - shift).clamp(-2, 1.0)) - 1).abs() * mask
    far = long.sum((1, 2)) / mass
    absolute = ((error.abs()) * mask).sum((1, 2)) / mass
    slope = p.new_zeros(())
    for stride in (1, 2, 4, 8):
        e, m = (error * mask)[:, ::stride, ::stride], mask[:, ::stride, ::stride]
        for dim in (1, 2):
            k = e.shape[dim] - 1
            both = m.narrow(dim, 1, k) * m.narrow(dim, 0, k)
            d = (e.narrow(dim, 1, k) - e.narrow(dim, 0, k)).abs() * both
            slope = slope + d.sum() / both.sum().clamp(min=1) / 8
    doubt = answer.log_doubt.clamp(-4, 1.5)
    spread = (aligned.detach() * torch.exp(-doubt) + doubt) * mask
    spread = spread.sum((1, 2)) / mass
    sky_loss = F.binary_cross_entropy_with_logits(answer.sky, sky.float())
    spreads = answer.camera[:, 3:].clamp(-4, 1.5)
    off = (answer.camera[:, :3] - truth).abs()
    camera = (off * torch.exp(-spreads) + spreads).mean()
    total = (
        relative.mean()
        + 0.4 * far.mean()
        + 0.12 * absolute.mean()
        + 0.8 * slope
        + 0.1 * spread.mean()
        + 0.4 * sky_loss
        + 0.06 * camera
    )
    return total, relative.mean().detach()


def optimisers_of(net: SmallDepth, rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices inside, AdamW for all that leads out and for what is no matrix."""
    inside, rest = [], []
    for name, weight in net.named_parameters():
        leads_out = name.startswith(("head", "coarse", "camera"))
        (rest if leads_out or weight.ndim < 2 else inside).append(weight)
    return Muon(inside, rate, 0.02), torch.optim.AdamW(rest, rate, weight_decay=0.02)


def rate(seen: int, done: float, top: float, fall: float = 0.35) -> float:
    """Learning rate: a short rise, a plateau, a fall over the last share `fall`; done: 0 to 1."""
    rise = min(1.0, seen / 3000)
    fallen = min(1.0, max(0.0, 1.0 - (1.0 - done) / fall))
    return top * rise * max(0.5 * (1 + math.cos(math.pi * fallen)), 0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("textures", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=150_000, help="shown to the network in all")
    parser.add_argument(
        "--until", default="", help="HH:MM at which the plan ends whatever was reached"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument(
        "--fall", type=float, default=0.35, help="share of the plan in which the rate falls"
    )
    parser.add_argument("--repeats", type=float, default=5.0, help="times a made picture is shown")
    parser.add_argument("--pool", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save-every", type=float, default=60.0)
    parser.add_argument("--renders", type=Path, help="folder that blender_scenes.py has filled")
    parser.add_argument("--renders-share", type=float, default=0.22, help="of the batches")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.run.mkdir(parents=True, exist_ok=True)
    bank = np.load(arguments.textures).astype(np.float32)
    net = SmallDepth().to(arguments.device)
    if arguments.device == "cpu":
        net = net.to(memory_format=torch.channels_last)
    mean = SmallDepth()
    mean.load_state_dict(net.state_dict())
    optimisers = optimisers_of(net, arguments.rate)
    pools = [
        Pool(arguments.run / "pool", w, h, max(int(arguments.pool * s), 64))
        for (w, h), s in zip(SHAPES, SHAPE_SHARES, strict=True)
    ]
    renders = [Renders(arguments.renders / f"{w}x{h}.npz") for w, h in SHAPES if arguments.renders]
    seen = made = steps = 0
    path = arguments.run / "checkpoint.pt"
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        mean.load_state_dict(state["mean"])
        for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        seen, made, steps = state["seen"], state["made"], state["steps"]
        for pool, count in zip(pools, state["counts"], strict=True):
            pool.count = count
        print(f"goes on after {seen} samples", flush=True)
    rng = np.random.default_rng([arguments.seed, steps])
    end = None
    if arguments.until:
        hour, minute = map(int, arguments.until.split(":"))
        now = time.localtime()
        end = time.time() + (hour * 60 + minute - now.tm_hour * 60 - now.tm_min) * 60 - now.tm_sec
    begun, saved, shown, begun_seen = time.time(), time.time(), [], seen
    while True:
        done = seen / arguments.samples
        if end is not None:
            done = max(done, (time.time() - begun) / (end - begun))
        if done >= 1.0:
            break
        while (
            made * arguments.repeats < seen + 8 * arguments.batch
            or min(p.count for p in pools) < 48
        ):
            k = int(rng.choice(len(pools), p=SHAPE_SHARES))
            pools[k].put(scenes.sample(arguments.seed * 10_000_000 + made, bank, *SHAPES[k]))
            made += 1
        from_blender = renders and rng.random() < arguments.renders_share
        shelf = renders if from_blender else pools
        pool = shelf[int(rng.choice(len(SHAPES), p=SHAPE_SHARES))]
        image, rays, depth, truth = (
            t.to(arguments.device) for t in batch(pool, arguments.batch, rng)
        )
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate(seen, done, arguments.rate, arguments.fall)
        net.train()
        loss, relative = loss_of(
            net(image.contiguous(memory_format=torch.channels_last), rays), depth, truth
        )
        if not bool(torch.isfinite(loss)):
            print("a batch without a finite loss was left out", flush=True)
            net.zero_grad()
            continue
        net.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        for optimiser in optimisers:
            optimiser.step()
        seen, steps = seen + arguments.batch, steps + 1
        with torch.no_grad():
            keep = min(0.998, 1 - 10 / (10 + steps))
            for ours, theirs in zip(
                mean.state_dict().values(), net.state_dict().values(), strict=True
            ):
                if ours.dtype.is_floating_point:
                    ours.lerp_(theirs.cpu(), 1 - keep)
        shown.append((float(loss.detach()), float(relative)))
        if time.time() - saved > arguments.save_every:
            saved = time.time()
            a, b = np.mean(shown[-400:], 0)
            with open(arguments.run / "curve.csv", "a", newline="") as file:
                csv.writer(file).writerow(
                    [
                        seen,
                        made,
                        f"{a:.4f}",
                        f"{b:.4f}",
                        f"{rate(seen, done, arguments.rate, arguments.fall):.2e}",
                    ]
                )
            print(
                f"{100 * done:.0f} %: {seen} seen, {made} made, loss {a:.3f}, relative {b:.3f}, "
                f"{(seen - begun_seen) / (time.time() - begun):.1f}/s",
                flush=True,
            )
            save(path, net, mean, optimisers, seen, made, steps, pools)
            shown = shown[-400:]
    save(path, net, mean, optimisers, seen, made, steps, pools)
    print("done", flush=True)


def save(path: Path, net, mean, optimisers, seen: int, made: int, steps: int, pools) -> None:
    state = {
        "net": net.state_dict(),
        "mean": mean.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "seen": seen,
        "made": made,
        "steps": steps,
        "counts": [p.count for p in pools],
    }
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


if __name__ == "__main__":
    main()
