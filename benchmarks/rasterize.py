"""How fast is the CPU rasteriser, beside what? `python benchmarks/rasterize.py [--quick] [--peer
MODULE.py] [--only NAME ...]`

All contenders of a table run interleaved in one process, A B A B; the median (and the least) of the
rounds is shown, the first round dropped. One-thread rows are process CPU time, which other programs
on the machine disturb least; the row on threads is wall time and means something only on an idle
machine. Numbers kept: benchmarks/RESULTS.md.

--peer: a Python file with `render(means, quats, scales, opacities, sh_dc, sh_rest, K,
camera_from_world, width, height) -> rgb [h, w, 3]`, differentiable, activated values, to be
measured beside ours (for instance around OpenSplat's CPU rasteriser, which is AGPL and therefore
not here).
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # idle OpenMP threads of torch spin and spoil everybody's times
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import itertools

import torch

from benchmarks import torch_tiles
from engine.method.losses import photometric_loss, photometric_loss_torch, prepare_target
from engine.method.refine import RECIPES, refine
from engine.rasterize import gsplat_backend, rasterize
from engine.rasterize.cpu import backend as cpu_backend
from engine.rasterize.cpu import tiles as tiles_of_backend
from engine.rasterize.kernels.adam import make_adam
from engine.scene.gaussians import Gaussians, sh_dc_from_colour

SIZES = ((256, 160, 20_000), (512, 288, 200_000), (1024, 576, 1_000_000))
Scene = tuple[Gaussians, torch.Tensor, torch.Tensor, int, int]


def random_scene(n: int, width: int, height: int, degree: int = 3) -> Scene:
    """A cloud that fills the view, sigma about 1.5 px, opacity sigmoid(N(0, 1.5)), no order in
    memory.
    """
    g = torch.Generator().manual_seed(0)
    f = 0.8 * width
    z = 2 + 6 * torch.rand(n, generator=g)
    x, y = ((torch.rand(n, generator=g) - 0.5) * s * 1.1 / f * z for s in (width, height))
    scales = (1.5 * z / f).log()[:, None] + 0.4 * torch.randn(n, 3, generator=g)
    rest = 0.1 * torch.randn(n, (degree + 1) ** 2 - 1, 3, generator=g)
    gaussians = Gaussians(
        torch.stack([x, y, z], 1),
        torch.randn(n, 4, generator=g),
        scales,
        1.5 * torch.randn(n, generator=g),
        0.8 * torch.randn(n, 3, generator=g),
        rest,
    )
    return gaussians, _K(width, height), torch.eye(4)[None], width, height


def depth_scene(width: int, height: int, degree: int = 3) -> Scene:
    """One Gaussian per pixel of a wavy surface with a step, sigma 0.7 px, seen from the side a
    little.
    """
    g = torch.Generator().manual_seed(0)
    f, n = 0.8 * width, width * height
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    z = (
        3 + 0.8 * torch.sin(9 * x / width) + 0.6 * torch.cos(7 * y / height) + (x > width / 2)
    ).reshape(-1)
    means = torch.stack(
        [(x.reshape(-1) - width / 2) / f * z, (y.reshape(-1) - height / 2) / f * z, z], 1
    )
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    gaussians = Gaussians(
        means,
        quats,
        (0.7 * z / f).log()[:, None].repeat(1, 3),
        torch.logit(0.9 + 0.08 * torch.rand(n, generator=g)),
        sh_dc_from_colour(torch.rand(n, 3, generator=g)),
        0.1 * torch.randn(n, (degree + 1) ** 2 - 1, 3, generator=g),
    )
    camera_from_world = torch.eye(4)[None].clone()
    camera_from_world[0, 0, 3], camera_from_world[0, 2, 3] = 0.15, -0.1
    return gaussians, _K(width, height), camera_from_world, width, height


def _K(width: int, height: int) -> torch.Tensor:
    f = 0.8 * width
    return torch.tensor([[[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]]])


def interleaved(
    contenders: dict[str, Callable[[], tuple[float, ...]]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(median, least) milliseconds of each stage of each contender; a contender times itself."""
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in contenders}
    for i in range(rounds + 1):
        for name, run in contenders.items():
            stages = run()
            if i:
                times[name].append(stages)
    return {
        n: [(1e3 * statistics.median(s), 1e3 * min(s)) for s in zip(*rows, strict=True)]
        for n, rows in times.items()
    }


def forward_backward(
    draw: Callable[[Gaussians], torch.Tensor], scene: Scene, clock: Callable[[], float]
) -> Callable[[], tuple[float, ...]]:
    """A contender that draws and differentiates to all parameters: stages forward, forward +
    backward.
    """
    leaves = scene[0].map(lambda t: t.clone().requires_grad_())
    gradient: list[torch.Tensor] = []

    def run() -> tuple[float, float]:
        for t in leaves:
            t.grad = None
        a = clock()
        image = draw(leaves)
        b = clock()
        if not gradient:
            gradient.append(torch.rand(image.shape, generator=torch.Generator().manual_seed(1)))
        c = clock()
        image.backward(gradient[0])
        return b - a, b - a + clock() - c

    return run


def ours(scene: Scene, **options) -> Callable[[Gaussians], torch.Tensor]:
    _, K, camera_from_world, width, height = scene
    options = {"depth": False, **options}
    return lambda g: rasterize(g, K, camera_from_world, width, height, **options).rgb


def _tiles(scene: Scene) -> Callable[[Gaussians], torch.Tensor]:
    _, K, camera_from_world, width, height = scene
    return lambda g: torch_tiles.render(g, K[0], camera_from_world[0], width, height)


def _peer(path: str, scene: Scene) -> Callable[[Gaussians], torch.Tensor]:
    spec = importlib.util.spec_from_file_location("peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, K, w2c, width, height = scene
    return lambda g: module.render(
        g.means,
        g.quats,
        g.scales_log.exp(),
        torch.sigmoid(g.opacities_logit),
        g.sh_dc,
        g.sh_rest,
        K[0],
        w2c[0],
        width,
        height,
    )


def scenes(quick: bool) -> dict[str, Scene]:
    sizes = SIZES[:1] if quick else SIZES
    named = {f"random {n // 1000}k {w}x{h}": random_scene(n, w, h) for w, h, n in sizes}
    return {**named, **{f"depth {w * h // 1000}k {w}x{h}": depth_scene(w, h) for w, h, _ in sizes}}


def compare(args: argparse.Namespace) -> None:
    """Ours against torch tiles (and a peer), one thread."""
    os.environ["SCENE_SPLATTER_THREADS"] = "1"
    print(
        "| scene, 1 thread, CPU ms, median (least) | forward | forward + backward | (f+b)/f | "
        "torch tiles / ours f, f+b |"
    )
    print("|---|---|---|---|---|")
    for name, scene in scenes(args.quick).items():
        contenders = {"ours": forward_backward(ours(scene), scene, time.process_time)}
        if scene[0].count <= args.largest_for_torch:
            contenders["torch"] = forward_backward(_tiles(scene), scene, time.process_time)
        if args.peer:
            contenders["peer"] = forward_backward(_peer(args.peer, scene), scene, time.process_time)
        t = interleaved(contenders, args.rounds)
        for who, ((f, f0), (b, b0)) in t.items():
            ratio = (
                "" if who == "ours" else f"{f / t['ours'][0][0]:.1f}x, {b / t['ours'][1][0]:.1f}x"
            )
            print(
                f"| {name}, {who} | {f:.1f} ({f0:.1f}) | {b:.1f} ({b0:.1f}) | {b / f:.2f} | "
                f"{ratio} |",
                flush=True,
            )


class Inside:
    """`run_ranges` that also adds up the CPU time spent in it: the rest of a step runs on one
    thread whatever happens.
    """

    def __init__(self) -> None:
        self.total, self.original = 0.0, cpu_backend.run_ranges

    def __call__(self, *a: object) -> None:
        start = time.process_time()
        self.original(*a)
        self.total += time.process_time() - start

    def measure(self, count: int, step: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
        """Wall time, CPU time and CPU time inside, of one step on `count` threads, after another
        like it.

        Refinement draws step after step; after a step on one thread the other cores' caches are
        cold, which costs 3 ms at 147k.
        """
        os.environ["SCENE_SPLATTER_THREADS"] = str(count)
        step()
        self.total, cpu, wall = 0.0, time.process_time(), time.perf_counter()
        step()
        return time.perf_counter() - wall, time.process_time() - cpu, self.total


def threads(args: argparse.Namespace) -> None:
    """What more cores give: wall time, the CPU time that threads add, and Amdahl's limit from the
    serial share.
    """
    cores = len(os.sched_getaffinity(0))
    print(
        f"\n| forward + backward, ms | wall 1 | wall {cores} | CPU 1 | CPU {cores} | speed-up | "
        "serial share | 2 idle cores at best |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, scene in scenes(args.quick).items():
        step, inside = forward_backward(ours(scene), scene, time.process_time), Inside()
        cpu_backend.run_ranges = tiles_of_backend.run_ranges = inside
        t = interleaved(
            {str(n): functools.partial(inside.measure, n, step) for n in (1, cores)}, args.rounds
        )
        cpu_backend.run_ranges = tiles_of_backend.run_ranges = inside.original
        (wall_1, _), (cpu_1, _), (parallel, _) = t["1"]
        (wall_n, _), (cpu_n, _), _ = t[str(cores)]
        alone = cpu_1 - parallel
        best = cpu_1 / (alone + (cpu_n - alone) / 2)
        times = " | ".join(f"{t:.1f}" for t in (wall_1, wall_n, cpu_1, cpu_n))
        print(
            f"| {name} | {times} | {wall_1 / wall_n:.2f}x | {alone / cpu_1:.1%} | {best:.2f}x |",
            flush=True,
        )


def channels(args: argparse.Namespace) -> None:
    """Colour alone against colour + depth + 3 extra channels in one pass."""
    os.environ["SCENE_SPLATTER_THREADS"] = "1"
    print(
        "\n| scene, 1 thread, CPU ms f+b | colour | + depth + 3 extra | ratio |\n|---|---|---|---|"
    )
    for name, scene in scenes(args.quick).items():
        extra = torch.rand(scene[0].count, 3)

        def both(g: Gaussians, scene: Scene = scene, extra: torch.Tensor = extra) -> torch.Tensor:
            rendering = rasterize(g, *scene[1:], extra=extra.requires_grad_())
            return torch.cat([rendering.rgb, rendering.depth, rendering.extra], -1)

        t = interleaved(
            {
                k: forward_backward(d, scene, time.process_time)
                for k, d in (("c", ours(scene)), ("e", both))
            },
            args.rounds,
        )
        c, e = t["c"][1][0], t["e"][1][0]
        print(f"| {name} | {c:.1f} | {e:.1f} | {e / c:.2f} |", flush=True)


def loss_and_adam(args: argparse.Namespace) -> None:
    """The fused loss against convolutions, and the shares of one training step."""
    os.environ["SCENE_SPLATTER_THREADS"] = "1"
    print("\n| loss, 1 thread, CPU ms f+b | fused | torch conv2d | ratio |\n|---|---|---|---|")
    for w, h, _ in SIZES[: 1 if args.quick else 3]:
        x, y = torch.rand(3, h, w), torch.rand(3, h, w)
        target = prepare_target(y)

        def timed(
            f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor = x
        ) -> Callable[[], tuple[float, ...]]:
            def run() -> tuple[float, ...]:
                leaf, a = x.clone().requires_grad_(), time.process_time()
                f(leaf).backward()
                return (time.process_time() - a,)

            return run

        forms = {
            "f": lambda i, t=target: photometric_loss(i, t),
            "t": lambda i, y=y: photometric_loss_torch(i, y),
        }
        t = interleaved({k: timed(f) for k, f in forms.items()}, args.rounds)
        print(
            f"| {w}x{h} | {t['f'][0][0]:.2f} | {t['t'][0][0]:.1f} | "
            f"{t['t'][0][0] / t['f'][0][0]:.1f}x |",
            flush=True,
        )
    print(
        "\n| training step, SH 3, 1 thread, CPU ms | draw | loss | backward | Adam | loss + "
        "Adam, share |\n|---|---|---|---|---|---|"
    )
    for name, scene in scenes(args.quick).items():
        d, loss, b, a = (
            m for m, _ in interleaved({"step": training_step(scene)}, args.rounds)["step"]
        )
        print(
            f"| {name} | {d:.1f} | {loss:.1f} | {b:.1f} | {a:.1f} | "
            f"{(loss + a) / (d + loss + b + a):.0%} |",
            flush=True,
        )


def training_step(
    scene: Scene, clock: Callable[[], float] = time.process_time
) -> Callable[[], tuple[float, ...]]:
    """Stages draw, loss with its gradient, backward, Adam, on the scene's device. The CPU's loss
    computes its gradient with its value.
    """
    params = scene[0].map(lambda t: t.clone().requires_grad_())
    optimizer = make_adam([{"params": [t], "lr": 1e-6} for t in params], 1e-15)
    _, K, camera_from_world, width, height = scene
    target = prepare_target(torch.rand(3, height, width).to(params.means))

    def run() -> tuple[float, ...]:
        marks = [clock()]
        image = (
            rasterize(params, K, camera_from_world, width, height, depth=False)
            .rgb[0]
            .permute(2, 0, 1)
        )
        marks.append(clock())
        loss = photometric_loss(image, target)
        marks.append(clock())
        optimizer.zero_grad()
        loss.backward()
        marks.append(clock())
        optimizer.step()
        marks.append(clock())
        return tuple(b - a for a, b in itertools.pairwise(marks))

    return run


def cuda(args: argparse.Namespace) -> None:
    """gsplat on the GPU: one training step and one render at 1 M Gaussians, wall time."""
    reason = gsplat_backend.why_unusable()
    if reason:
        print(f"\ngsplat on CUDA: not measured: {reason}")
        return
    name = torch.cuda.get_device_name()
    print(
        f"\n| {name}, SH 3, wall ms, median (least) | render alone | draw | loss | backward | "
        "Adam |\n|---|---|---|---|---|---|"
    )

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    w, h, n = SIZES[0 if args.quick else 2]
    for label, (gaussians, K, camera_from_world, *size) in (
        ("random", random_scene(n, w, h)),
        ("one per pixel", depth_scene(w, h)),
    ):
        scene = (gaussians.map(torch.Tensor.cuda), K.cuda(), camera_from_world.cuda(), *size)

        def render(scene: Scene = scene) -> tuple[float]:
            start = clock()
            with torch.no_grad():
                rasterize(*scene, depth=False)
            return (clock() - start,)

        t = interleaved({"render": render, "step": training_step(scene, clock)}, args.rounds)
        cells = " | ".join(f"{m:.2f} ({least:.2f})" for m, least in (*t["render"], *t["step"]))
        print(f"| {label} {scene[0].count} {w}x{h} | {cells} |", flush=True)


def start_up(args: argparse.Namespace) -> None:
    """Cold compile and cached first render with its gradient, each in a fresh process, after torch
    and numba are imported.
    """
    code = (
        "import time, torch; now = lambda: (time.process_time(), time.perf_counter()); a = "
        "now(); import numba; b = now(); "
        "from engine.scene.gaussians import Gaussians; from engine.rasterize import rasterize; "
        "g = Gaussians(torch.rand(100, 3) + 1, torch.rand(100, 4), torch.zeros(100, 3) - 3, "
        "torch.zeros(100), torch.rand(100, 3), "
        "torch.zeros(100, 0, 3)); "
        "r = rasterize(g.map(lambda t: t.requires_grad_()), torch.tensor([[[50., 0, 32], [0, 50, "
        "32], [0, 0, 1]]]), torch.eye(4)[None], "
        "64, 64, depth=False); r.rgb.sum().backward(); c = now(); print(*(y - x for x, y in "
        "zip(a + b, b + c)))"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        for label in (
            "cold: compile, draw, differentiate",
            "cached, first process",
            "cached, second",
            "cached, third",
        ):
            out = subprocess.run(
                [sys.executable, "-c", code],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                cwd=Path(__file__).parents[1],
            ).stdout.split()
            numba_cpu, numba_wall, cpu, wall = map(float, out)
            print(
                f"{label}: {cpu:.2f} s CPU, {wall:.2f} s wall; import of numba before: "
                f"{numba_cpu:.2f}, {numba_wall:.2f}",
                flush=True,
            )


def memory(args: argparse.Namespace) -> None:
    """Peak memory of training steps at 1 M Gaussians, each degree in a fresh process."""
    for degree in (0, 3):
        code = (
            "from benchmarks.rasterize import *; s = training_step(random_scene(1_000_000, "
            f"1024, 576, {degree})); s(); s(); s(); peak()"
        )
        out = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        ).stdout
        print(
            f"peak memory, 1M Gaussians, SH {degree}, three training steps: {out.strip()}",
            flush=True,
        )


def peak() -> None:
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def demo(args: argparse.Namespace) -> None:
    """Refinement at draft resolution: 150 steps on 9 frames of 256x160, one Gaussian per pixel in
    two layers.
    """
    gaussians, K, camera_from_world, width, height = depth_scene(256, 160, 0)
    frames = (
        rasterize(gaussians, K, camera_from_world, width, height)
        .rgb.permute(0, 3, 1, 2)
        .clamp(0, 1)
        .repeat(9, 1, 1, 1)
    )
    wall, cpu = time.perf_counter(), time.process_time()
    refine(
        gaussians,
        frames,
        K.repeat(9, 1, 1),
        camera_from_world.repeat(9, 1, 1),
        recipe=RECIPES["few_views"],
        steps=150,
    )
    print(
        f"draft refinement, 150 steps, {gaussians.count} Gaussians: "
        f"{time.perf_counter() - wall:.1f} s wall, "
        f"{time.process_time() - cpu:.1f} s CPU"
    )


PARTS = (compare, threads, channels, loss_and_adam, start_up, memory, demo, cuda)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smallest size only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", default="", help="Python file with a peer's render()")
    parser.add_argument(
        "--largest-for-torch",
        type=int,
        default=250_000,
        help="Gaussians up to which the torch baseline takes part",
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=[p.__name__ for p in PARTS],
        choices=[p.__name__ for p in PARTS],
    )
    args = parser.parse_args()
    for part in PARTS:
        if part.__name__ in args.only:
            part(args)


if __name__ == "__main__":
    main()
