"""The parts of `gpu_proof.sh`: each in a process of its own, with a time limit and lines in a
table.

A part that fails, hangs or runs out of memory leaves its line and the others go on. Weights are
random: pictures mean nothing, times and memory do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

GIB = 2**30
LINE = "LINE "


class Part(NamedTuple):
    """One part, and how long it may take."""

    name: str
    seconds: float
    arguments: tuple[str, ...] = ()


TINY_JOBS = (
    ("patch", "small", "few_views"),
    ("viewcrafter_25", "box", "paper"),
    ("wan_vace_1.3b", "box", "few_views"),
    ("wan_fun_inp_1.3b", "box", "few_views"),
    ("svd", "box", "few_views"),
    ("ltx", "box", "few_views"),
    ("cogvideox_i2v", "box", "few_views"),
)
# prior, frames, height, width, branches, offload, tiles
FULL = (
    ("viewcrafter_25", 25, 576, 1024, 4, "none", 0),
    ("viewcrafter_25", 25, 576, 1024, 1, "parts", 1),
    ("wan_vace_1.3b", 25, 480, 832, 4, "none", 0),
    ("wan_vace_1.3b", 81, 480, 832, 1, "parts", 1),
    ("svd", 25, 576, 1024, 4, "none", 0),
    ("cogvideox_i2v", 25, 480, 720, 1, "parts", 1),
)
_PATIENCE = 8  # times the limits of the parts, where a CPU does the work
CARDS_GIB = (8, 12, 16, 24)


def parts(rehearse: bool) -> list[Part]:
    """All parts in order; gsplat is compiled beside the first ones. On the CPU cases that differ in
    size alone are one, and there is time.
    """
    cases = FULL[:1] + FULL[2:3] if rehearse else FULL
    full = [Part("full", 45, tuple(map(str, case))) for case in cases]
    chosen = [
        Part("machine", 60),
        Part("tests", 90),
        Part("rasterisers", 90),
        Part("tiny", 100),
        Part("standard", 90),
        Part("job", 150),
        *full,
        Part("ladder", 75, ("viewcrafter_25",)),
        Part("ladder", 75, ("wan_vace_1.3b",)),
    ]
    return [p._replace(seconds=p.seconds * _PATIENCE) for p in chosen] if rehearse else chosen


# ---- what a part does: it yields (what, number or words, what was expected)
Lines = Iterator[tuple[str, str, str]]


class Place(NamedTuple):
    """Where a part runs."""

    device: str
    rehearse: bool
    out: Path

    def clock(self) -> float:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def restart(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> str:
        """Allocated and reserved at most since `restart`."""
        import torch

        if self.device != "cuda":
            return "no card"
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return f"{allocated / GIB:.1f} GiB, {reserved / GIB:.1f} reserved"


def machine(place: Place) -> Lines:
    import torch

    from engine.rasterize import gsplat_backend
    from engine.rasterize.warp import backend as warp_backend

    yield "torch", torch.__version__, ""
    if place.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        yield "card", torch.cuda.get_device_name(), f"sm_{torch.cuda.get_device_capability()}"
        yield "memory", f"{free / GIB:.1f} of {total / GIB:.1f} GiB free", ""
    yield "warp", warp_backend.why_unusable() or "draws", ""
    reason = "" if place.rehearse else gsplat_backend.why_no_kernels()
    yield "gsplat", "not asked for" if place.rehearse else reason or "kernels are there", ""


def tests(place: Place) -> Lines:
    """The tests that need a card; without one they are skipped by name."""
    import pytest

    class Counts:
        def __init__(self) -> None:
            self.outcomes: list[str] = []

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                kind = report.outcome if report.outcome != "failed" else f"FAILED {report.nodeid}"
                self.outcomes.append(kind)

    counts = Counts()
    pytest.main(["-q", "-rs", "-p", "no:cacheprovider", str(ROOT / "tests" / "gpu")], [counts])
    for outcome in dict.fromkeys(counts.outcomes):
        yield "tests/gpu", f"{counts.outcomes.count(outcome)} {outcome}", "none failed"


def _drains_films() -> bool:
    """Where imageio-ffmpeg is missing (its wheel is large), a stand-in takes the frames of films.
    Whether it is missing.
    """
    import importlib.util
    import tempfile
    import types

    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        return False
    drain = Path(tempfile.mkdtemp()) / "ffmpeg"
    # the last argument is the film; like ffmpeg it reads frames to their end
    drain.write_text('#!/bin/bash\nexec cat > "${@: -1}"\n', encoding="utf-8")
    drain.chmod(0o755)
    module = types.ModuleType("imageio_ffmpeg")
    module.get_ffmpeg_exe = lambda: str(drain)  # type: ignore[attr-defined]
    sys.modules["imageio_ffmpeg"] = module
    return True


def tiny(place: Place) -> Lines:
    import tempfile

    if _drains_films():
        yield "films", "NOT WRITTEN: imageio-ffmpeg is missing, their frames are drained", ""
    from engine.job import run
    from tests.unit.priors.test_every_prior import SAVERS

    for prior, depth, recipe in TINY_JOBS[:3] if place.rehearse else TINY_JOBS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            os.environ["SCENE_SPLATTER_WEIGHTS"] = str(folder / "weights")
            values = {
                "prior": prior,
                "depth": depth,
                "recipe": recipe,
                "width": 64,
                "move_frames": 8,
                "segment_length": 5,
                "overlap": 2,
                "steps": 2,
                # the paper's recipe adds Gaussians from step 500 on
                "refine_steps": 1000 if recipe == "paper" and not place.rehearse else 20,
                "device": place.device,
            }
            picture = ROOT / "engine" / "demo" / "image.jpg"
            if prior == "cogvideox_i2v":  # the tiny one knows 64 x 64 alone
                picture = _square(picture, folder)
            try:
                save = SAVERS[prior]
                if save is not None:
                    save(folder / "weights")
                before = place.clock()
                with run.prepared_job(
                    folder / "job", picture, "dolly:0.4", "draft", values
                ) as made:
                    run.work(made, lambda *args, **kwargs: None)
                seconds = place.clock() - before
                yield f"job {prior}, {depth}, {recipe}", f"{seconds:.1f} s", ""
            except Exception as error:
                yield f"job {prior}, {depth}, {recipe}", f"FAILED: {_first_line(error)}", ""


def _square(picture: Path, folder: Path) -> Path:
    from PIL import Image

    made = folder / "square.png"
    Image.open(picture).convert("RGB").resize((256, 256)).save(made)
    return made


def _tiny_prior(name: str, folder: Path) -> Any:
    """The tiny prior of the tests, for 5 frames of 64 x 64."""
    import torch

    from engine.bridge import settings
    from engine.models import registry
    from tests.unit.priors.test_every_prior import SAVERS

    os.environ["SCENE_SPLATTER_WEIGHTS"] = str(folder)
    SAVERS[name](folder)
    asked = settings.make(prior=name, segment_length=5, overlap=2)
    make = registry.factory(registry.prior(name), "engine.priors")
    return make(asked, torch.zeros(3, 64, 64), "cpu")


def full(place: Place, name: str, *numbers: str) -> Lines:
    import tempfile

    from benchmarks import full_size
    from engine.models import memory

    frames, height, width, branches = map(int, numbers[:4])
    rung = memory.Rung(branches, numbers[4], numbers[5] == "1")
    text = f"{name} {frames} x {height} x {width}, {branches} at a time, {rung.offload}"
    text += ", tiles" if rung.tiling else ""
    with tempfile.TemporaryDirectory() as scratch:
        place.restart()
        if place.rehearse:
            prior = _tiny_prior(name, Path(scratch))
            frames, height, width = prior.spec.frames(5), 64, 64
            expected = ""
        else:
            prior = full_size.make(name, frames, height, width, place="cuda", rung=rung)
            prior.residence.rest()  # as they lie after loading
            expected = f"at most {memory.estimate(rung, prior.residence.demand) / GIB:.1f} GiB"
        scene = full_size.clip(frames, height, width, place.device)
        for stage, work in full_size.stages(prior, scene, steps=2).items():
            place.restart()
            before = place.clock()
            work()
            seconds = (place.clock() - before) / (2 if stage == "predict" else 1)
            kind = "s a step" if stage == "predict" else "s"
            yield f"{text}: {stage}", f"{seconds:.2f} {kind}; {place.peak()}", expected


def ladder(place: Place, name: str) -> Lines:
    """Cards of several sizes, by a cap on this one: the rung that is planned, and the one before
    it, which the plan holds for too large. Smaller cards first: a run that is stopped has told what
    matters most. The log says what was begun when.
    """
    import torch

    from benchmarks import full_size
    from benchmarks.prior_memory import LEFT
    from engine.bridge.errors import UserError
    from engine.models import memory, registry

    def begun(what: str) -> None:
        print(f"{time.perf_counter() - start:.1f} s: {what}", flush=True)

    start = time.perf_counter()
    height, width = registry.prior(name).trained
    first: dict[str, Any] = {"rung": memory.Rung(1, "parts", True), "place": "cuda"}
    if place.rehearse:
        first = {"device": "cpu", "place": "meta"}
    begun(f"making {name}")
    with torch.device("meta" if place.rehearse else "cuda"):
        prior: Any = full_size.make(name, 25, height, width, **first)
    demand = prior.residence.demand
    rungs, tried = memory.ladder(demand), set()
    for gb in CARDS_GIB:
        given = int(LEFT * gb * GIB)
        try:
            planned = rungs.index(memory.plan(given, demand))
        except UserError as error:
            yield f"{name} with {gb} GB", f"refused: {error.message} {error.hint}", ""
            continue
        for rung in reversed(rungs[max(0, planned - 1) : planned + 1]):
            kind = "planned" if rung is rungs[planned] else "the one before"
            text = f"{name} with {gb} GB, {kind}: {rung.text()}"
            if place.rehearse:
                yield text, "", ""
                continue
            if rung.store_8bit or "layers" in (rung.offload, *tried):
                # set up before the weights are there; streamed layers stay streamed
                begun(f"making {name} again for {rung.text()}")
                prior = None
                place.restart()
                prior = full_size.make(name, 25, height, width, place="cuda", rung=rung)
                tried.clear()
            tried.add(rung.offload)
            home = prior.residence
            home.rung, home._steps_left = rung, 0
            begun(f"{text}: placing")
            home._place([home._denoiser, *home._companions], away=rung.offload != "none")
            place.restart()
            torch.cuda.set_per_process_memory_fraction(given / torch.cuda.mem_get_info()[1])
            try:
                before = place.clock()
                scene = full_size.clip(25, height, width)
                for stage, work in full_size.stages(prior, scene, steps=1).items():
                    begun(f"{text}: {stage}")
                    work()
                words = f"{place.clock() - before:.1f} s; {place.peak()}"
            except UserError:
                words = f"out of memory; {place.peak()}"
            scene = work = home = None
            torch.cuda.set_per_process_memory_fraction(1.0)
            yield text, words, f"at most {given / GIB:.1f} GiB"


def rasterisers(place: Place) -> Lines:
    from unittest import mock

    import torch

    import engine.rasterize as room
    from benchmarks.rasterize import depth_scene
    from engine.method.refine import refine
    from engine.rasterize import gsplat_backend, rasterize
    from engine.rasterize.warp import backend as warp_backend
    from engine.scene.gaussians import Gaussians

    size = (96, 64) if place.rehearse else (1024, 576)
    g, K, pose, width, height = depth_scene(*size, degree=1)
    backends = {"warp": warp_backend.why_unusable(), "gsplat": gsplat_backend.why_unusable()}
    if place.rehearse:
        backends["warp"] = ""  # on Warp's CPU device
    cpu = rasterize(g, K, pose, width, height).rgb
    milliseconds: dict[str, float] = {}
    for name, reason in backends.items():
        if reason:
            yield name, f"NOT RUN: {reason}", ""
            continue
        leaves = Gaussians(*(t.to(place.device).requires_grad_() for t in g))
        place.restart()

        def step(leaves: Gaussians = leaves, name: str = name) -> Any:
            drawn = rasterize(leaves, K, pose, width, height, backend=name, checked=True).rgb
            drawn.mean().backward()
            return drawn

        drawn = step()
        difference = (drawn.detach().cpu() - cpu).abs()
        error, share = float(difference.max()), float((difference > 1e-4).float().mean())
        rounds = 2 if place.rehearse else 50
        before = place.clock()
        for _ in range(rounds):
            step()
        milliseconds[name] = 1e3 * (place.clock() - before) / rounds
        yield (
            f"{name}, {g.count} Gaussians, {width} x {height}, there and back",
            f"{milliseconds[name]:.2f} ms; {place.peak()}; "
            f"largest difference {error:.1e}, {1e6 * share:.0f} of a million above 1e-4",
            # a Gaussian of opacity 1/255 at a pixel is in or out by rounding
            "2 x gsplat at most; below 3.9e-3, 1000 of a million",
        )
    if len(milliseconds) == 2:
        yield "warp / gsplat", f"{milliseconds['warp'] / milliseconds['gsplat']:.2f}", "at most 2"
    frames = torch.rand(3, 3, height, width)
    steps = 10 if place.rehearse else 300
    Ks, poses = K.expand(3, 3, 3), pose.expand(3, 4, 4)
    chosen = list(milliseconds) if place.device == "cuda" else ["cpu"]
    scene, frames = g.map(lambda t: t.to(place.device)), frames.to(place.device)
    for recipe in ("few_views", "paper"):
        for name in chosen:
            with mock.patch.object(room, "choose_backend", lambda device, name=name: name):
                refine(scene, frames, Ks, poses, recipe=recipe, steps=5)
                place.restart()
                before = place.clock()
                refine(scene, frames, Ks, poses, recipe=recipe, steps=steps)
                each = 1e3 * (place.clock() - before) / steps
                text = f"refinement, {recipe}, {name}"
                yield text, f"{each:.1f} ms a step; {place.peak()}", ""
                if place.device == "cuda":
                    print(f"{text}: where 20 steps go")
                    kinds = [torch.profiler.ProfilerActivity.CPU]
                    kinds += [torch.profiler.ProfilerActivity.CUDA]
                    with torch.profiler.profile(activities=kinds) as seen:
                        refine(scene, frames, Ks, poses, recipe=recipe, steps=20)
                    for key in ("cuda_time_total", "cpu_time_total"):
                        print(seen.key_averages().table(sort_by=key, row_limit=25))


def job(place: Place) -> Lines:
    """One segment of preset paper, with ViewCrafter's networks and random weights; depth and first
    Gaussians are those that ship.
    """
    import tempfile

    _drains_films()
    from benchmarks import full_size
    from engine import priors
    from engine.job import run
    from engine.job.folder import read_json

    steps, refined = (2, 20) if place.rehearse else (10, 1500)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        values = {
            "initialiser": "layers",
            "depth": "small",
            "steps": steps,
            "refine_steps": refined,
            "device": place.device,
        }
        if place.rehearse:
            values |= {"width": 64, "move_frames": 5, "segment_length": 5, "overlap": 2}
        else:
            values |= {"move_frames": 25, "segment_length": 25}

        def make(settings: Any, image: Any, device: str) -> Any:
            if place.rehearse:
                return _tiny_prior("viewcrafter_25", folder / "weights")
            height, width = image.shape[1:]
            return full_size.make("viewcrafter_25", 25, height, width, place="cuda")

        weights = folder / "weights" / "viewcrafter_25"
        weights.mkdir(parents=True)
        (weights / "model.ckpt").write_bytes(b"never read: the networks are made")
        os.environ["SCENE_SPLATTER_WEIGHTS"] = str(folder / "weights")
        priors.make_prior = make
        place.restart()
        before = place.clock()
        with run.prepared_job(
            folder / "job",
            ROOT / "engine" / "demo" / "image.jpg",
            "dolly:0.4",
            "paper",
            values,
        ) as made:
            run.work(made, lambda *args, **kwargs: None)
        yield "paper, one segment", f"{place.clock() - before:.1f} s; {place.peak()}", ""
        (written,) = (folder / "job" / "segments").glob("[0-9]*/stats.json")
        stats = read_json(written)
        for stage, seconds in stats["seconds"].items():
            many = {"generate": (steps, 50), "refine": (refined, 5000)}.get(stage)
            note = f"{many[0]} steps of {many[1]}" if many else ""
            peak = stats["peak_vram_mb"].get(stage, 0.0) / 1024
            yield f"  {stage}", f"{seconds:.1f} s; {peak:.1f} GiB; {note}", ""


def standard(place: Place) -> Lines:
    """What someone without weights gets on a card: preset standard of the demo's picture. The last
    frame lies beside the table, drawn and enhanced, to be looked at.
    """
    import tempfile

    from PIL import Image

    if _drains_films():
        yield "films", "NOT WRITTEN: imageio-ffmpeg is missing, their frames are drained", ""
    from engine.job import run
    from engine.job.folder import read_json

    values: dict[str, Any] = {"device": place.device}
    if place.rehearse:
        values |= {"width": 128, "move_frames": 9, "refine_steps": 20}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        place.restart()
        before = place.clock()
        picture = ROOT / "engine" / "demo" / "image.jpg"
        with run.prepared_job(folder / "job", picture, "dolly:0.4", "standard", values) as made:
            run.work(made, lambda *args, **kwargs: None)
        yield "standard", f"{place.clock() - before:.1f} s; {place.peak()}", ""
        for written in sorted((folder / "job" / "segments").glob("[0-9]*/stats.json")):
            stats = read_json(written)
            for stage, seconds in stats["seconds"].items():
                peak = stats["peak_vram_mb"].get(stage, 0.0) / 1024
                yield f"  {written.parent.name} {stage}", f"{seconds:.1f} s; {peak:.1f} GiB", ""
        *_, last = sorted((folder / "job" / "segments").glob("[0-9]*"))
        drawn, frame = last / "maps" / "render_last.png", max((last / "frames").glob("*.png"))
        for kind, file in (("render", drawn), ("frame", frame)):
            Image.open(file).save(place.out / f"standard_{kind}.png")


DO: dict[str, Callable[..., Lines]] = {
    "machine": machine,
    "tests": tests,
    "tiny": tiny,
    "full": full,
    "ladder": ladder,
    "rasterisers": rasterisers,
    "job": job,
    "standard": standard,
}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def run_part(place: Place, name: str, arguments: list[str]) -> None:
    """In a process of its own: lines go out as they are known."""
    try:
        for line in DO[name](place, *arguments):
            print(LINE + json.dumps(line), flush=True)
    except Exception as error:
        traceback.print_exc()
        text = " ".join([name, *arguments[:1]])
        print(LINE + json.dumps((text, f"FAILED: {_first_line(error)}", "")), flush=True)


def run_all(out: Path, limit_s: float, rehearse: bool, only: list[str]) -> int:
    """Every part, or `only` these, one after another; the table grows as they end. How many lines
    say FAILED.
    """
    flags = ["--rehearse"] if rehearse else []
    began, rows, failed = time.monotonic(), [], 0
    log = (out / "log.txt").open("w", encoding="utf-8")
    for part in parts(rehearse):
        if only and part.name not in only:
            continue
        left = limit_s - 5 - (time.monotonic() - began)
        allowed = min(part.seconds, left)
        text = " ".join([part.name, *part.arguments[:1]])
        if allowed < 5:
            rows.append((text, "NOT RUN: no time was left", ""))
            continue
        command = [sys.executable, __file__, *flags, "--out", str(out)]
        command += ["--part", part.name, *part.arguments]
        before = time.monotonic()
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=allowed,
                check=False,
            )
            said, ended = done.stdout, "" if done.returncode == 0 else f"exit {done.returncode}"
        except subprocess.TimeoutExpired as error:
            said = error.stdout or ""
            said = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
            ended = f"stopped after {allowed:.0f} s"
        log.write(f"== {' '.join(command[2:])}: {time.monotonic() - before:.1f} s {ended}\n{said}")
        log.flush()
        lines = [json.loads(x[len(LINE) :]) for x in said.splitlines() if x.startswith(LINE)]
        rows += lines
        if ended:
            rows.append((text, f"FAILED: {ended}", f"{part.seconds:.0f} s"))
        table = _table(rows, time.monotonic() - began)
        (out / "table.md").write_text(table, encoding="utf-8")
        print(f"{text}: {time.monotonic() - before:.1f} s, {len(lines)} lines", flush=True)
    table = _table(rows, time.monotonic() - began)
    (out / "table.md").write_text(table, encoding="utf-8")
    print(table)
    failed = sum("FAILED" in row[1] for row in rows)
    return failed


def _table(rows: list, seconds: float) -> str:
    cells = "\n".join(f"| {' | '.join(str(c).replace('|', '/') for c in row)} |" for row in rows)
    head = "| what | measured | expected |\n|---|---|---|"
    return f"{time.strftime('%Y-%m-%d')}, {seconds:.0f} s\n\n{head}\n{cells}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at small sizes")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_proof")
    parser.add_argument("--limit", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--only", nargs="+", default=[], help="names of parts")
    parser.add_argument("--part", nargs="+", help="run one part here")
    asked = parser.parse_args()
    place = Place("cpu" if asked.rehearse else "cuda", asked.rehearse, asked.out)
    if asked.part:
        run_part(place, asked.part[0], asked.part[1:])
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    failed = run_all(asked.out, asked.limit, asked.rehearse, asked.only)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
