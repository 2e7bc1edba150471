"""Damaged files of every kind against every reader: a result or a UserError, in time and within
memory.

    python benchmarks/damaged_files.py [--cases 1000] [--seed 0] [--only WORD] [--keep FOLDER]

For each reader, files that it reads are damaged in seeded ways (bits, words, cuts, repeats; values
of JSON replaced by odd ones) and given to it. Counted are exceptions other than UserError, readings
over 10 s of processor time, and readings that take more memory than 128 MB and 30 times the file. A
process that dies counts as an exception; `--keep` keeps the files that failed. A .ksplat, which
nothing here writes, is damaged too where KSPLAT names one. The last line is the sum.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import multiprocessing
import os
import queue
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

MOST_S = 10.0
FREE_BYTES, BYTES_A_BYTE = 128 << 20, 30
WORDS = (
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
    b"\0\0\0\x80",
    b"\x00\xe1\xf5\x05",
    b"\0\0\xc0\x7f",
)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    10**400,
    2**31,
    2**63,
    "",
    "x" * 300,
    "\0",
    "../../etc/passwd",
    [],
    {},
    [[]],
    [None],
    {"a": []},
    0.5,
    "nan",
    "1,5",
    [1, 2, 3],
    "C:\\x\\y.png",
    "\ud800",
)


class Reader(NamedTuple):
    """A reader, how many of the cases it gets, and sound files for it: name -> bytes (a folder's,
    if there are several).
    """

    name: str
    read: Callable[[Path], object]
    files: dict[str, bytes]
    share: float = 1.0


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four of: a flipped bit, a telling byte or word, a cut, bytes lost, added or repeated.
    Headers are hit most.
    """
    if data[:1] in (b"{", b"[") and rng.random() < 0.6:
        with contextlib.suppress(ValueError):
            return _odd_json(json.loads(data), rng)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not out:
            break
        at = rng.randrange(min(len(out), rng.choice((32, 128, 1024, len(out)))))
        far = rng.randrange(len(out))
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice((0, 1, 127, 128, 255, *b'0123456789-e.,[]{}"\n '))
        elif kind == 2:
            out[at : at + 4] = rng.choice(WORDS)
        elif kind == 3:
            del out[far:]
        elif kind == 4:
            del out[far : far + rng.randrange(1, 64)]
        elif kind == 5:
            out[at:at] = rng.randbytes(rng.randrange(1, 16))
        elif kind == 6:
            out[at : at + 16] = out[far : far + 16]
        else:
            out[at:at] = out[far : far + rng.randrange(1, 400)] * rng.randrange(1, 50)
    return bytes(out)


def _odd_json(value: Any, rng: random.Random) -> bytes:
    """The JSON with one to three of its values replaced, dropped or nested without end."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        waiting = [value]
        while waiting:
            thing = waiting.pop()
            if isinstance(thing, dict | list):
                keys = list(thing) if isinstance(thing, dict) else range(len(thing))
                places += [(thing, key) for key in keys]
                waiting += [thing[key] for key in keys]
        if not places:
            return json.dumps(copy.deepcopy(rng.choice(ODD))).encode("utf-8", "surrogatepass")
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(rng.choice(ODD)))
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(value)
    if rng.random() < 0.03:
        text = text.replace("0", "[" * 20_000, 1)
    return text.encode("utf-8", "surrogatepass")


def readers(folder: Path) -> list[Reader]:
    """Every reader of the engine, with sound files made in `folder`."""
    return [
        *_splats(folder),
        *_cameras(folder),
        *_pictures(folder),
        *_job(folder),
        *_job_folder(folder),
        *_blender(folder),
    ]


def _made(folder: Path, name: str) -> dict[str, bytes]:
    files = {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.is_file()}
    return {name: files.pop(name), **files}


def _splats(folder: Path) -> list[Reader]:
    import gzip
    import zipfile

    from engine import formats
    from engine.bridge import splat_file
    from engine.formats import SplatScene, WriteOptions, usd
    from tests.format_samples import random_splats
    from tests.unit.formats.test_round_trips import _camera_path

    def written(
        name: str, cameras: bool = False, degree: int = 2, **options: Any
    ) -> dict[str, bytes]:
        place = Path(tempfile.mkdtemp(dir=folder))
        scene = SplatScene(random_splats(40, degree), cameras=_camera_path() if cameras else None)
        formats.write(place / name, scene, WriteOptions(**options))
        return _made(place, name)

    ply = written("a.ply")["a.ply"]
    table = np.frombuffer(ply.split(b"end_header\n", 1)[1], "<f4").reshape(40, -1)
    text = (
        ply.split(b"end_header\n")[0].replace(b"binary_little_endian", b"ascii") + b"end_header\n"
    )
    text += b"\n".join(b" ".join(b"%.6g" % v for v in row) for row in table) + b"\n"
    faces = ply.replace(
        b"element vertex", b"element face 2\nproperty list uchar int vertex_indices\nelement vertex"
    )
    faces = faces.replace(b"end_header\n", b"end_header\n" + (b"\3" + bytes(12)) * 2)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scene/point_cloud.ply", ply)
    found = [
        Reader("ply", formats.read, {"a.ply": ply}, 2),
        Reader("ply text", formats.read, {"a.ply": text}),
        Reader("ply lists", formats.read, {"a.ply": faces}),
        Reader("ply in Blender", splat_file.read, {"a.ply": ply}),
        Reader("compressed ply", formats.read, written("a.compressed.ply"), 2),
        Reader("splat", formats.read, written("a.splat")),
        Reader("spz 3", formats.read, written("a.spz", spz_version=3)),
        Reader("spz 4", formats.read, written("a.spz")),
        Reader("glb", formats.read, written("a.glb", True), 2),
        Reader("glb spz", formats.read, written("a.glb", compress_spz=True)),
        Reader("gltf", formats.read, written("a.gltf", True), 2),
        Reader("sog", formats.read, written("a.sog"), 2),
        Reader("sog folder", formats.read, written("meta.json")),
        Reader("ply.gz", formats.read, {"a.ply.gz": gzip.compress(ply)}),
        Reader("zip", formats.read, {"a.zip": packed.getvalue()}),
        Reader("usdc", formats.read, written("a.usdc", True), 0.05),
        Reader("usda", formats.read, written("a.usda", True), 0.05),
        Reader("usdz", formats.read, written("a.usdz", True), 0.03),
        Reader("usda cameras", usd.cameras_of, written("a.usda", True), 0.03),
    ]
    ksplat = Path(os.environ.get("KSPLAT", ""))
    if ksplat.is_file():
        found.append(Reader("ksplat", formats.read, {"a.ksplat": ksplat.read_bytes()}))
    return found


def _cameras(folder: Path) -> list[Reader]:
    from engine.bridge import camera_file
    from engine.cameras import trajectory
    from tests.unit.cameras import test_foreign_paths as foreign
    from tests.unit.cameras import test_trajectory as known

    path = known.example(6)

    def load(file: Path) -> object:
        return trajectory.load(file, image_size=(640, 360))

    def written(write: Callable[[Any, Path], Path]) -> dict[str, bytes]:
        place = Path(tempfile.mkdtemp(dir=folder))
        made = write(path, place)
        made = made if made.is_file() else next(place.rglob("images.*"))
        return _made(made.parent, made.name)

    training = json.dumps(foreign._training(path)).encode()
    arrays = io.BytesIO()
    n = np.tile(np.array([0.8, 1.4, 0.5, 0.5]), (6, 1))
    np.savez(arrays, w2c=np.linalg.inv(path.world_from_camera), intrinsics=n)
    spiral = {
        "camera_path": [
            {"fov": 50, "camera_to_world": m.ravel().tolist()} for m in path.world_from_camera
        ]
    }
    spiral |= {"render_width": 640, "render_height": 360, "fps": 24, "camera_type": "perspective"}
    return [
        Reader("own cameras", load, written(known.as_ours)),
        Reader("own cameras in Blender", camera_file.read, written(known.as_ours)),
        Reader("RealEstate10K", load, written(known.as_real_estate)),
        Reader("transforms.json", load, written(known.as_transforms)),
        Reader("COLMAP text", lambda f: load(f.parent), written(known.as_colmap)),
        Reader(
            "COLMAP cameras",
            lambda f: load(f.parent),
            dict(reversed(written(known.as_colmap).items())),
        ),
        Reader("COLMAP binary", lambda f: load(f.parent), _colmap_binary(path)),
        Reader("training cameras.json", load, {"cameras.json": training}),
        Reader("training cameras in Blender", camera_file.read, {"cameras.json": training}),
        Reader("camera_path.json", load, {"a.json": json.dumps(spiral).encode()}),
        Reader("camera NPZ", load, {"a.npz": arrays.getvalue()}),
        Reader("ViewCrafter text", load, {"a.txt": b"0 2 4 8\n0 0 0 0\n0 0.1 0.2 0.1\n"}),
    ]


def _colmap_binary(path: Any) -> dict[str, bytes]:
    import struct

    cameras = struct.pack("<QiiQQ4d", 1, 1, 1, 640, 360, 500, 500, 320, 180)
    images = struct.pack("<Q", path.count)
    for i in range(path.count):
        images += struct.pack("<i7di", i, 1, 0, 0, 0, 0.1 * i, 0, 0, 1) + b"f%d.png\0" % i
        images += struct.pack("<Q2dq", 1, 3.0, 4.0, -1)
    return {"images.bin": images, "cameras.bin": cameras}


def _pictures(folder: Path) -> list[Reader]:
    from PIL import Image, ImageCms

    from engine.commands.render import holdout_map
    from engine.geometry.depth_file import read_depth
    from engine.media.images import load_image, write_exr
    from tests.unit.media import test_foreign_pictures as foreign

    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8))

    def saved(ending: str, picture: Image.Image = rgb, **options: Any) -> dict[str, bytes]:
        out = io.BytesIO()
        picture.save(out, ending, **options)
        return {f"a.{ending.lower()}": out.getvalue()}

    exif = rgb.getexif()
    exif[274], exif[305] = 6, "here"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = foreign._png16(rng.integers(0, 65536, (20, 24, 3)).astype(np.uint16), profile)
    write_exr(folder / "a.exr", {c: rng.random((20, 24)).astype(np.float32) for c in "RGBA"})
    exr = (folder / "a.exr").read_bytes()
    write_exr(folder / "z.exr", {"Z": rng.random((20, 24)).astype(np.float32) + 1})
    grey = Image.fromarray((rng.integers(500, 5000, (20, 24))).astype(np.uint16))
    npy = io.BytesIO()
    np.save(npy, rng.random((20, 24)) + 1)

    def hold(file: Path) -> object:
        return holdout_map(file, 1, 32, 24)

    depths = {
        "exr": (folder / "z.exr").read_bytes(),
        "png": saved("PNG", grey)["a.png"],
        "npy": npy.getvalue(),
    }
    return [
        Reader("PNG", load_image, saved("PNG", icc_profile=profile)),
        Reader("PNG palette", load_image, saved("PNG", rgb.convert("P"))),
        Reader("PNG 16 bits", load_image, {"a.png": deep}, 0.2),
        Reader("JPEG", load_image, saved("JPEG", exif=exif, icc_profile=profile), 2),
        Reader("CMYK JPEG", load_image, saved("JPEG", rgb.convert("CMYK"))),
        Reader("TIFF", load_image, saved("TIFF", compression="tiff_lzw")),
        Reader("WebP", load_image, saved("WEBP", exif=exif)),
        Reader("AVIF", load_image, saved("AVIF"), 0.3),
        Reader("GIF", load_image, saved("GIF")),
        Reader("BMP", load_image, saved("BMP")),
        Reader("EXR", load_image, {"a.exr": exr}),
        *[Reader(f"depth {e}", read_depth, {f"a.{e}": data}) for e, data in depths.items()],
        *[Reader(f"holdout {e}", hold, {f"a.{e}": data}) for e, data in depths.items()],
    ]


def _job(folder: Path) -> list[Reader]:
    import torch

    from engine.bridge import settings
    from engine.commands import convert, mesh, render
    from engine.job import folder as job
    from engine.models import model_folder, tensor_file
    from engine.scene.gaussians import Gaussians
    from engine.service import batch
    from tests.format_samples import random_splats

    cpu = torch.device("cpu")
    job.save_gaussians(folder / "g.npz", Gaussians(*map(torch.from_numpy, random_splats(40, 1))))
    values = settings.to_json(settings.make("draft"))
    jobs = {
        "defaults": {"preset": "draft"},
        "jobs": [{"name": "a", "image": "a.png", "path": "dolly:1", "settings": {"width": 64}}],
    }
    drawing = {
        "scene": "none.ply",
        "cameras": "none.json",
        "output": "out",
        "layers": ["rgba"],
        "width": 64,
    }
    meshing = {"scene": "none.ply", "output": "out.ply", "faces": 500, "resolution": 32}
    turning = {"input": "none.ply", "output": "out.spz", "unit_scale": 2.0, "transform": [1.0] * 16}
    torch.save({"a": torch.zeros(5)}, folder / "a.pt")

    def quiet(*_: object, **__: object) -> None:
        return

    def read_settings(file: Path) -> object:
        return settings.from_json(job.read_json(file))

    def one(name: str, data: Any) -> dict[str, bytes]:
        return {name: json.dumps(data).encode()}

    return [
        Reader("settings.json", read_settings, one("settings.json", values), 2),
        Reader(
            "gaussians.npz",
            lambda f: job.load_gaussians(f, cpu),
            {"a.npz": (folder / "g.npz").read_bytes()},
        ),
        Reader("batch", batch.read, one("jobs.json", jobs)),
        Reader(
            "outcome.json",
            lambda f: batch._read_outcome(f.parent),
            one("outcome.json", {"name": "a"}),
        ),
        Reader(
            "render.json", lambda f: render.run_job(f.parent, quiet), one("render.json", drawing)
        ),
        Reader("mesh.json", lambda f: mesh.run_job(f.parent, quiet), one("mesh.json", meshing)),
        Reader(
            "convert.json", lambda f: convert.run_job(f.parent, quiet), one("convert.json", turning)
        ),
        Reader(
            "model_index.json",
            lambda f: model_folder.require(f.parent, "A"),
            one("model_index.json", {"_class_name": "A"}),
        ),
        Reader(
            "checkpoint",
            lambda f: tensor_file.read(f, "Again."),
            {"a.pt": (folder / "a.pt").read_bytes()},
        ),
    ]


def _job_folder(folder: Path) -> list[Reader]:
    """Every file that a resume, a report or a later job reads in a job's folder, or learns from."""
    from PIL import Image

    from engine.bridge import estimate, settings, speeds
    from engine.job import folder as job
    from engine.job.report import read_stats
    from engine.models import choice
    from engine.service import batch
    from tests.unit.cameras import test_trajectory as known

    whole = folder / "job"
    Image.new("RGB", (32, 24), "grey").save(folder / "image.png")
    known.as_ours(known.example(6), folder)
    inputs = {"image": folder / "image.png", "path": next(folder.glob("*.json"))}
    stats = {n: 1.0 for n in ("unknown_share", "lambda_mean", "mu_mean", "opacity_mean")}
    stats |= {"start": 0, "stop": 3, "new": 1, "gaussians": 9, "seam": None, "drift_psnr": 20.0}
    stats |= {"unseen_detail": 1.0, "losses": [1.0, 0.5], "seconds": {"refine": 2.0}}
    stats |= {"peak_mb": {"refine": 90.0}, "peak_vram_mb": {}, "view_psnr": [30.0]}
    made = job.prepare(whole, settings.make("draft"), inputs, resume=False)
    with job.locked(whole):
        made.start()
        made.keep_models({"prior": "patch", "depth": "box"})
        with made.new_segment(0) as segment:
            (segment / "gaussians.npz").write_bytes(b"Gaussians")
            job.write_json(segment / "stats.json", stats)
        (whole / "scene.ply").write_bytes(b"scene")
        made.keep_results({"scene": str(whole / "scene.ply")})
    names = ["job.json", "settings.json", "segments/000/files.json", "segments/000/stats.json"]
    names += ["segments/000/gaussians.npz", "scene.ply"]
    names += [f"input/{file.name}" for file in sorted((whole / "input").iterdir())]

    def resumed(file: Path) -> object:
        place = file.parent
        for entry in [e for e in place.iterdir() if "__" in e.name]:
            target = place.joinpath(*entry.name.split("__"))
            target.parent.mkdir(parents=True, exist_ok=True)
            entry.replace(target)
        with job.locked(place):
            found = job.Job(place)
            found.start()
            found.models()
            found.results()
            return found.put_changed_results_aside()

    work = estimate.work_of(settings.make("draft", device="cpu", prior="patch"), 40, 0.5)
    learned = folder / "learned"
    speeds.keep(work, estimate.Speeds({"refine": 0.1}, 8, True), "", learned)
    reckoned = {"patch": speeds.Reckoned(0.5, 50, 4.0, 0.4)}
    speeds.keep_machine(
        speeds.Machine("card", 8.0, 30.0, choice.known(), {"refine": 0.03}, reckoned), learned
    )
    told = _made(learned, "speeds.json")
    outcome = {"name": "a", "status": "done", "outputs": {"scene": "x"}, "files": {"x": "0"}}
    asked = batch.Request("a", image="x.png")
    flat = {name.replace("/", "__"): (whole / name).read_bytes() for name in names}
    hit_first = [{n: flat[n], **flat} for n in flat]

    return [
        Reader("stats.json", read_stats, {"stats.json": json.dumps(stats).encode()}),
        Reader("speeds.json", lambda f: speeds.speeds_for(work, f.parent), told),
        Reader(
            "machine.json",
            lambda f: speeds.speeds_for(work._replace(device="cuda", prior="auto"), f.parent),
            dict(reversed(told.items())),
        ),
        Reader(
            "outcome.json of a request",
            lambda f: batch.finished(f.parent, asked),
            {"outcome.json": json.dumps(outcome | {"request": asked.fingerprint()}).encode()},
        ),
        *[
            Reader(f"job folder: {next(iter(files)).replace('__', '/')}", resumed, files, 0.5)
            for files in hit_first
        ],
    ]


def _blender(folder: Path) -> list[Reader]:
    """What Blender reads of a job's folder without bpy."""
    import dataclasses
    import importlib

    package = folder / "as_package"
    package.mkdir()
    (package / "scene_splatter").symlink_to(ROOT, target_is_directory=True)
    sys.path.insert(0, str(package))
    folders = importlib.import_module("scene_splatter.blender_addon.jobs.folders")
    header = importlib.import_module("scene_splatter.blender_addon.cameras.picture_header")
    ticket = folders.Ticket("a.blend", "Scene", "shot", "Camera")
    report = {"facts": {"prior": "patch", "seed": 1}, "segments": [{"gaussians": 5}]}
    report |= {"findings": [], "verdict": "Good.", "input_psnr": 30.0, "seconds_total": 9.0}
    record = {"results": {"bytes": {"scene.ply": 5}}}

    def one(name: str, data: Any) -> dict[str, bytes]:
        return {name: json.dumps(data).encode()}

    return [
        Reader(
            "ticket",
            lambda f: folders.look_at(f.parent),
            one("blender.json", dataclasses.asdict(ticket)) | one("settings.json", {}),
        ),
        Reader("report.json", lambda f: folders.result_lines(f.parent), one("report.json", report)),
        Reader(
            "job.json in Blender",
            lambda f: folders.is_whole(f.parent / "scene.ply"),
            one("job.json", record) | {"scene.ply": b"scene"},
        ),
        *[
            Reader(f"{r.name} in Blender", header.read, r.files)
            for r in _pictures(folder)
            if r.name in ("PNG", "JPEG", "WebP", "TIFF", "AVIF")
        ],
    ]


def _peak_bytes() -> int:
    """Most resident memory since the last call of `_forget_peak`, where Linux tells; else 0."""
    with contextlib.suppress(OSError, StopIteration):
        text = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in text if line.startswith("VmHWM")).split()[1])
    return 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def attempt(reader: Reader, case: int, seed: int, place: Path) -> str:
    """What went wrong with one damaged file, empty if nothing. `place` is an empty folder for
    it.
    """
    from engine.bridge.errors import UserError

    rng = random.Random(f"{reader.name} {seed} {case}")
    names = list(reader.files)
    hit = names[0] if rng.random() < 0.8 else rng.choice(names)
    for name, data in reader.files.items():
        (place / name).write_bytes(damaged(data, rng) if name == hit else data)
    size = sum(f.stat().st_size for f in place.iterdir())
    _forget_peak()
    before, start = _peak_bytes(), _cpu_s()
    wrong = ""
    try:
        reader.read(place / names[0])
    except UserError as error:
        if not error.message.strip():
            wrong = "UserError without a message"
    except BaseException as error:
        wrong = f"{type(error).__name__}: {str(error)[:150]}"
    took, grew = _cpu_s() - start, _peak_bytes() - before
    if not wrong and took > MOST_S:
        wrong = f"over time: {took:.1f} s"
    if not wrong and grew > FREE_BYTES + BYTES_A_BYTE * size:
        wrong = f"over memory: {grew / 1e6:.0f} MB for {size} bytes"
    return wrong


def _cpu_s() -> float:
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _work(todo: list[tuple[str, range]], seed: int, answers: Any, keep: Path | None) -> None:
    """A process that tries the cases of all readers; where it dies, the last case that it began is
    the culprit.
    """
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "made").mkdir()
        known = {r.name: r for r in readers(Path(folder) / "made")}
        place = Path(folder) / "case"
        for name, cases in todo:
            for case in cases:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                answers.put((name, case, None))
                wrong = attempt(known[name], case, seed, place)
                if wrong and keep is not None:
                    target = keep / f"{name.replace(' ', '_')}_{seed}_{case}"
                    shutil.rmtree(target, ignore_errors=True)
                    shutil.copytree(place, target)
                answers.put((name, case, wrong))
    answers.put(("", -1, ""))


def run(
    counts: dict[str, int], seed: int, keep: Path | None, done: Callable[[str, list], None]
) -> None:
    """Try all cases; `done(name, [(case, what went wrong)])` is told of each reader when it is
    through.
    """
    left = {name: range(count) for name, count in counts.items()}
    faults: dict[str, list[tuple[int, str]]] = {name: [] for name in counts}
    context = multiprocessing.get_context("spawn")
    while left:
        answers = context.Queue()
        process = context.Process(target=_work, args=(list(left.items()), seed, answers, keep))
        process.start()
        name, case = next(iter(left)), 0
        while left:
            try:
                name, case, wrong = answers.get(timeout=5)
            except queue.Empty:
                if process.is_alive():
                    continue
                wrong = "the process died"
            if case < 0:
                break
            if wrong is None:
                continue
            if wrong:
                faults[name].append((case, wrong))
            if case + 1 >= counts[name]:
                done(name, faults[name])
                del left[name]
            else:
                left[name] = range(case + 1, counts[name])
            if wrong == "the process died":
                break
        process.join(20)


def main() -> None:
    """Try all readers and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000, help="damaged files a reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name holds this word")
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    args = parser.parse_args()
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        counts = {
            r.name: max(1, round(args.cases * r.share))
            for r in readers(Path(folder))
            if args.only in r.name
        }
    sums, start = np.zeros(4, int), time.monotonic()

    def done(name: str, faults: list[tuple[int, str]]) -> None:
        late = sum("over time" in wrong for _, wrong in faults)
        large = sum("over memory" in wrong for _, wrong in faults)
        row = np.array([counts[name], len(faults) - late - large, late, large])
        np.add(sums, row, out=sums)
        print(f"| {name} | {' | '.join(map(str, row))} |", flush=True)
        for case, wrong in faults[:12]:
            print(f"    case {case}: {wrong}", file=sys.stderr, flush=True)

    print("| reader | files | exceptions | over 10 s | over memory |\n|---|---|---|---|---|")
    run(counts, args.seed, args.keep, done)
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    print(f"| sum | {' | '.join(map(str, sums))} |")


if __name__ == "__main__":
    main()
