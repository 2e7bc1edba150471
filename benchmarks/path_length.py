"""What a path's length costs: seconds of a segment, peak memory and the job folder at 40 to 1000
frames.

    python benchmarks/path_length.py [--frames 40 100 300 1000] [--width 64] [--steps 10]
    python benchmarks/path_length.py --last --frames 40 1000 --width 512 --steps 300

Every length is a whole job, from the picture to its report, in a process of its own. The camera
trucks sideways at the same speed, so that every segment invents about as much. Seconds are the
job's processor time, which a busy machine does not change much. Bars: the last tenth of the
segments of the longest path at most 1.15 times a segment of the shortest; peak memory at 1000
frames at most 1.3 times that at 100.

With --last only the last segment is run, from a made state: a wall painted with the picture, one
Gaussian a pixel, that all cameras before it see, and the picture as every frame. Memory is then
that of the segment and of reading the state.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SPEED_M = 0.02  # a frame
_SEEN_FROM_THE_END = 200  # earlier frames share nothing with the last segment; any picture will do


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[40, 100, 300, 1000])
    parser.add_argument("--picture", type=Path, default=ROOT / "engine" / "demo" / "image.jpg")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps a segment")
    parser.add_argument("--denoising", type=int, default=0, help="steps of the prior; 0: its own")
    parser.add_argument("--prior", default="patch")
    parser.add_argument("--last", action="store_true", help="the last segment, from a made state")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # a job folder to run here
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(_last(args.one) if args.last else _one(args.one)))
        return
    print(
        "| frames | segments | CPU s a segment, median | last tenth | the rest, CPU s | peak MB "
        "| MB on disk |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    found = [(count, _measure(args, count)) for count in args.frames]
    (short, first), (long_, last) = found[0], found[-1]
    print(
        f"\nlast tenth at {long_} frames against the median at {short}: "
        f"{last['tenth'] / first['median']:.2f} (bar 1.15)"
    )
    at = dict(found)
    if 100 in at:
        print(
            f"peak memory at {long_} frames against 100: "
            f"{last['peak_mb'] / at[100]['peak_mb']:.2f} (bar 1.3)"
        )
    print(
        f"MB on disk a frame: {first['disk_mb'] / short:.3f} at {short}, "
        f"{last['disk_mb'] / long_:.3f} at {long_}"
    )


def _measure(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """Prepare a job of `count` frames and run it in a process of its own."""
    from engine.job.run import prepared_job

    values = {
        "prior": args.prior,
        "width": args.width,
        "refine_steps": args.steps,
        "steps": args.denoising,
        "move_frames": count,
        "depth": "box",
        "box_width": 0.0,
        "device": "cpu",
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "job"
        move = f"truck:{SPEED_M * (count - 1):g}"
        with prepared_job(folder, args.picture, move, "standard", values) as job:
            if args.last:
                _make_state(job)
        words = [sys.executable, __file__, "--one", str(folder), *["--last"] * args.last]
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    spent = found["segments"][1:] or found["segments"]  # the first also compiles
    found["median"] = statistics.median(spent)
    found["tenth"] = statistics.median(spent[-max(1, len(spent) // 10) :])
    found["disk_mb"] = size / 2**20
    print(
        f"| {count} | {len(found['segments'])} | {found['median']:.2f} | {found['tenth']:.2f} | "
        f"{found['rest_s']:.1f} | {found['peak_mb']:.0f} | {found['disk_mb']:.1f} |",
        flush=True,
    )
    return found


def _make_state(job: Any) -> None:
    """Every segment but the last, as if it had been run: see the module."""
    import torch

    from engine.bridge.segments import plan_segments
    from engine.job import inputs
    from engine.job.folder import GAUSSIANS, save_gaussians
    from engine.media import images
    from engine.method.scaffold import pixel_gaussians
    from engine.scene.gaussians import sh_dc_from_colour

    job.start()
    start = inputs.load(job, torch.device("cpu")).inputs
    image, K, knobs = start.image, start.K[0], job.settings
    *before, _ = plan_segments(len(start.K), knobs.cameras.segment_length, knobs.cameras.overlap)
    _, h, w = image.shape
    depth = float(start.gaussians.means[:, 2].median())
    moved = -float(start.camera_from_world[before[-1].stop - 1, 0, 3]) * float(K[0, 0]) / depth
    columns = w + round(moved)
    row, column = (
        t.flatten() for t in torch.meshgrid(torch.arange(h), torch.arange(columns), indexing="ij")
    )
    wall = pixel_gaussians(
        row, column, torch.full(row.shape, depth), K, torch.eye(4), knobs.refine.sh_degree
    )
    painted = torch.cat([image, image.flip(2)], dim=2).repeat(1, 1, columns // (2 * w) + 1)
    wall = wall._replace(sh_dc=sh_dc_from_colour(painted[:, :, :columns].flatten(1).T))
    images.save_png(job.folder / "far.png", image)
    for index, segment in enumerate(before):
        with job.new_segment(index) as partial:
            (partial / "frames").mkdir()
            for i in range(segment.start, segment.stop):
                file = partial / "frames" / f"{i:04d}.png"
                if i + _SEEN_FROM_THE_END < len(start.K):
                    shutil.copyfile(job.folder / "far.png", file)
                    continue
                left = round(moved * i / (before[-1].stop - 1))
                images.save_png(file, painted[:, :, left : left + w])
            if index == len(before) - 1:
                save_gaussians(partial / GAUSSIANS, wall)
            (partial / "stats.json").write_text("{}")


def _last(folder: Path) -> dict[str, Any]:
    """Run the one segment that is missing: its CPU seconds, the peak of this process's memory."""
    import torch

    from engine import priors
    from engine.job import inputs
    from engine.job.folder import Job
    from engine.job.segment import JobRecord
    from engine.method import pipeline

    job = Job(folder)
    job.start()
    start = inputs.load(job, torch.device("cpu")).inputs
    prior = priors.make_prior(job.settings, start.image, "cpu")
    record = JobRecord(job, len(start.K), torch.device("cpu"), lambda *_, **__: None)
    began = time.process_time()
    before = record.gaussians(start.gaussians).count
    after = pipeline.generate(start, prior, job.settings, record).count
    print(f"{before} Gaussians before, {after} after", file=sys.stderr)
    return {
        "segments": [time.process_time() - began],
        "rest_s": 0.0,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _one(folder: Path) -> dict[str, Any]:
    """Run a job here: CPU seconds of each segment, of all else, and the peak of this process's
    memory.
    """
    from engine.job.run import run_job

    began = last = time.process_time()
    segments: list[float] = []

    def report(stage: str, done: int, total: int, *_: Any, **__: Any) -> None:
        nonlocal last
        if stage == "prior":
            last = time.process_time()
        elif re.fullmatch(r"segment \d+ of \d+", stage) and done == len(segments) + 1:
            segments.append(time.process_time() - last)
            last = time.process_time()

    run_job(folder, report)
    return {
        "segments": segments,
        "rest_s": time.process_time() - began - sum(segments),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
