"""render: draw a splat file along a camera path, as pictures for compositing or as a video."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bridge.axes import PRESETS, preset
from ..bridge.camera_file import CameraPath
from ..bridge.errors import UserError
from ..bridge.progress import Report
from .request import Field, checked
from .request import read as read_request

if TYPE_CHECKING:
    from ..formats.sequence import Sequence

log = logging.getLogger(__name__)

LAYERS = ("rgba", "depth", "normal")
KINDS = ("png", "exr", "multilayer", "mp4")
_FIELDS = {
    "scene": Field("", str),
    "cameras": Field("", str),
    "output": Field("", str),
    "kind": Field("", str, choices=KINDS),
    "layers": Field(list(LAYERS), list, choices=LAYERS),
    "linear": Field(None, bool),
    "width": Field(0, int, 0, 32768),
    "frames": Field("", str),
    "fps": Field(0.0, float, 0, 1000),
    "first_frame": Field(1, int, -1_000_000, 1_000_000),
    "blending": Field("auto", str, choices=("auto", "display", "linear")),
    "background": Field([0.0, 0.0, 0.0], list, -1000, 1000),
    "holdout": Field("", str),
    "holdout_levels": Field(32, int, 2, 4096),
    "axes": Field("blender", str, choices=tuple(PRESETS)),
    "device": Field("auto", str, choices=("auto", "cpu", "cuda")),
}
_DEPTH_PNG_UNIT_M = 0.001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of render."""
    parser.add_argument(
        "scene",
        metavar="SCENE",
        help="a splat file of any known format, or a folder of numbered .ply files",
    )
    parser.add_argument(
        "cameras",
        metavar="CAMERAS",
        help="a camera path of any known format, or a .usd with a camera",
    )
    parser.add_argument("output", metavar="OUT", help="a folder for frames, or a .mp4")
    parser.add_argument("--kind", choices=KINDS, help="default: mp4 for a .mp4, else png")
    parser.add_argument(
        "--layers",
        nargs="+",
        choices=LAYERS,
        default=list(LAYERS),
        help="which passes (default: all)",
    )
    parser.add_argument(
        "--linear",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="linear colour (default: for EXR)",
    )
    parser.add_argument(
        "--width",
        type=int,
        default=0,
        help="width of the frames in pixels; height follows (default: the path's)",
    )
    parser.add_argument(
        "--frames",
        help="which of the path's frames, counted from 1: 5, 1-20, 1-100x4 or 1-3,7 (default: all)",
    )
    parser.add_argument(
        "--fps",
        type=float,
        default=0.0,
        help="frames a second of numbered .ply files (default: the path's, one a camera)",
    )
    parser.add_argument(
        "--first-frame",
        type=int,
        default=1,
        help="number of the path's first frame in file names (default 1)",
    )
    parser.add_argument(
        "--blending",
        choices=("auto", "display", "linear"),
        default="auto",
        help="default: as the file says",
    )
    parser.add_argument(
        "--background",
        type=float,
        nargs=3,
        default=[0.0, 0.0, 0.0],
        metavar=("R", "G", "B"),
        help="behind a video, 0..1",
    )
    parser.add_argument(
        "--holdout",
        metavar="PATTERN",
        help="depth passes of the scene that hide splats, e.g. depth_####.exr",
    )
    parser.add_argument(
        "--holdout-levels",
        type=int,
        default=32,
        help="how many depths the holdout is cut at (default 32)",
    )
    parser.add_argument(
        "--axes",
        choices=PRESETS,
        default="blender",
        help="axes in which normals are written (default blender)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(args: argparse.Namespace) -> int:
    """Render, and print where the frames are."""
    request = {name: getattr(args, name) for name in _FIELDS}
    result = render_frames(request, Path.cwd(), _say_progress)
    sys.stdout.write(
        f"{result['output']}: {result['count']} frames of {result['width']}x{result['height']}\n"
    )
    return 0


def _say_progress(
    stage: str, done: int, total: int, text: str = "", preview: Path | None = None
) -> None:
    log.info("%s %d/%d %s", stage, done, total, text)


def run_job(folder: Path, report: Report, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """The server's job: what `settings`, or render.json in the folder, asks for. Paths are relative
    to the folder.
    """
    settings = settings or read_request(folder, "render.json")
    return render_frames(settings, folder, report)


def render_frames(request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Draw the frames that `request` asks for (keys of the command line, dashes as underscores).

    Frames that cannot be drawn leave the earlier ones; each file appears only when whole.
    Returns {"output", "count", "width", "height", "files"}.
    """
    values = checked(request, _FIELDS, "render")
    if not (values["scene"] and values["cameras"] and values["output"]):
        raise UserError("render needs a scene, cameras and an output.", "Name all three.")
    output = folder / values["output"]
    kind = values["kind"] or ("mp4" if output.suffix.lower() == ".mp4" else "png")
    if not values["layers"] or len(values["background"]) != 3:
        raise UserError(
            f"render cannot make {kind} with {values['layers']}.",
            f"Kinds: {', '.join(KINDS)}; layers: {', '.join(LAYERS)}.",
        )
    if (kind == "mp4") != (output.suffix.lower() == ".mp4"):
        raise UserError(
            f"{kind} frames cannot go to {output.name}.",
            "Name a .mp4 for a video, a folder for frames.",
        )
    path = sized(load_cameras(folder / values["cameras"]), values["width"])
    files = _sequence_of(folder / values["scene"])
    if files is not None and path.count == 1:
        path = _held(path, files.numbers[-1] - files.numbers[0] + 1, values["fps"])
    numbers = frame_numbers(values["frames"], path.count)
    report("render", 0, len(numbers), "reading the scene")
    scene_of = _scenes(folder / values["scene"], files, path.fps, values)
    linear = values["linear"] if values["linear"] is not None else kind in ("exr", "multilayer")
    frames = _frames(scene_of, path, numbers, linear, values, folder, report)
    written = (
        _write_video(output, frames, path.fps, values["background"])
        if kind == "mp4"
        else _write_frames(output, frames, kind, values)
    )
    return {
        "output": str(output),
        "count": len(numbers),
        "width": path.width,
        "height": path.height,
        "files": written,
    }


def _sequence_of(scene: Path) -> Sequence | None:
    """The numbered files of a folder; None for one splat file (SOG may be a folder)."""
    if not scene.is_dir() or (scene / "meta.json").is_file():
        return None
    from ..formats.sequence import sequence

    return sequence(scene)


def _held(path: CameraPath, frames: int, fps: float) -> CameraPath:
    """One camera that stands still, once for each frame of a sequence."""
    K, world = path.K.repeat(frames, axis=0), path.world_from_camera.repeat(frames, axis=0)
    return path._replace(K=K, world_from_camera=world, fps=fps or path.fps)


def _scenes(
    file: Path, files: Sequence | None, path_fps: float, values: dict[str, Any]
) -> Callable[[int], Any]:
    """A function from a camera's index to the scene of its time; the last one read is kept."""
    if files is None:
        scene = _drawable(file, values)
        return lambda camera: scene
    fps = values["fps"] or path_fps

    @lru_cache(maxsize=1)
    def numbered(index: int) -> Any:
        return _drawable(files.files[index], values)

    return lambda camera: numbered(files.at(camera * fps / path_fps))


def _drawable(file: Path, values: dict[str, Any]) -> Any:
    from .. import formats
    from ..models.device import choose
    from ..outputs.passes import drawable
    from ..rasterize import drawing_device

    device = drawing_device(choose(values["device"]))
    return drawable(formats.read(file), device, values["blending"])


def load_cameras(path: Path) -> CameraPath:
    """A camera path of any format that `trajectory.load` knows, or the first camera of a splat, USD
    or glTF file.
    """
    if path.suffix.lower() in (".usd", ".usda", ".usdc", ".usdz", ".glb", ".gltf"):
        return _cameras_of_stage(path)
    from ..cameras import trajectory

    return trajectory.load(path)


def _cameras_of_stage(path: Path) -> CameraPath:
    if path.suffix.lower() in (".glb", ".gltf"):
        from .. import formats

        found = formats.read(path).cameras
    else:
        from ..formats import usd

        found = usd.cameras_of(path)
    if found is None:
        raise UserError(f"{path} holds no camera.", "Export it with its camera.")
    return found


def sized(path: CameraPath, width: int) -> CameraPath:
    """The path at another width, its height following. 0 keeps its own."""
    if width < 0 or width > 32768:
        raise UserError(
            f"A width of {width} pixels is not possible.",
            "Give 1 to 32768, or 0 for the path's own.",
        )
    if width in (0, path.width):
        return path
    from ..cameras import trajectory

    return trajectory.scaled_to(path, width, max(1, round(path.height * width / path.width)))


def frame_numbers(spec: str | None, count: int) -> list[int]:
    """Frames counted from 0 of a spec such as "5", "1-20", "1-100x4" or "1-3,7" (counted from 1).
    None: all.
    """
    if not spec:
        return list(range(count))
    numbers: list[int] = []
    for part in spec.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?:x(\d+))?)?", part.strip())
        first, last, step = (
            (int(g) if g else None for g in match.groups()) if match else (None, None, None)
        )
        if first is None or not 1 <= first <= (last or first) <= count or step == 0:
            raise UserError(
                f"{part!r} names no frames of the path's {count}.",
                "Write 5, 1-20, 1-100x4 or 1-3,7.",
            )
        numbers += range(first - 1, last or first, step or 1)
    return sorted(set(numbers))


def _frames(
    scene_of: Callable[[int], Any],
    path: CameraPath,
    numbers: list[int],
    linear: bool,
    values: dict[str, Any],
    folder: Path,
    report: Report,
) -> Iterator:
    """(file number, Passes) of each frame."""
    from ..outputs import passes

    for done, i in enumerate(numbers):
        number = values["first_frame"] + i
        report("render", done, len(numbers), f"frame {number}")
        holdout = (
            holdout_map(folder / values["holdout"], number, path.width, path.height)
            if values["holdout"]
            else None
        )
        yield (
            number,
            passes.draw_passes(
                scene_of(i),
                path.K[i],
                path.world_from_camera[i],
                path.width,
                path.height,
                linear=linear,
                holdout_m=holdout,
                holdout_levels=values["holdout_levels"],
            ),
        )
    report("render", len(numbers), len(numbers), "done")


def holdout_map(pattern: Path, number: int, width: int, height: int) -> np.ndarray:
    """[h, w] metres along the axis from a depth file; # in the name stands for the frame's digits.

    EXR is metres, PNG millimetres, NPY metres. Sampled to the frame's size without mixing depths.
    """
    from ..geometry.depth_file import ENDINGS, read_values

    name = re.sub(r"#+", lambda m: str(number).zfill(len(m.group())), pattern.name)
    path = pattern.with_name(name)
    if not os.path.exists(path):
        raise UserError(
            f"The holdout depth {path} does not exist.", "Check the pattern and the frame numbers."
        )
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{path} is not a depth map.", f"Give one of {', '.join(ENDINGS)}.")
    depth = read_values(path).astype(np.float64)
    if ending == ".png":
        depth = np.where(depth == 0, np.inf, depth * _DEPTH_PNG_UNIT_M)
    if depth.ndim != 2 or not depth.size:
        raise UserError(f"{path} is not a depth map.", "Save one channel.")
    rows = ((np.arange(height) + 0.5) * depth.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * depth.shape[1] / width).astype(int)
    return depth[np.ix_(rows, columns)]


def _write_video(output: Path, frames: Iterator, fps: float, background: list[float]) -> list[str]:
    import torch

    from ..media.images import save_video

    behind = torch.tensor(background, dtype=torch.float32)
    pictures = (
        (p.rgb.cpu() + (1 - p.alpha.cpu()[..., None]) * behind).permute(2, 0, 1) for _, p in frames
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    save_video(output, pictures, fps)
    return [str(output)]


def _write_frames(folder: Path, frames: Iterator, kind: str, values: dict[str, Any]) -> list[str]:
    from ..bridge.whole_file import replacing_path

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    turn = preset(values["axes"]).from_opencv
    for number, p in frames:
        arrays = {
            "rgba": np.concatenate([p.rgb.cpu().numpy(), p.alpha.cpu().numpy()[..., None]], axis=2),
            "depth": p.depth.cpu().numpy(),
            "normal": p.normal.cpu().numpy() @ turn.T.astype(np.float32),
        }
        for name, write in _files(arrays, kind, values["layers"]):
            target = folder / f"{name}_{number:04d}.{'png' if kind == 'png' else 'exr'}"
            with replacing_path(target) as temporary:
                write(temporary)
            files.append(str(target))
    return files


def _files(
    arrays: dict[str, np.ndarray], kind: str, layers: list[str]
) -> list[tuple[str, Callable[[Path], None]]]:
    """(file stem, writer) of a frame's files."""
    from ..media.images import write_exr

    if kind == "png":
        return [(name, partial(_save_png, name=name, values=arrays[name])) for name in layers]
    if kind == "multilayer":
        channels = {
            f"ViewLayer.{group}.{c}": v
            for name in layers
            for group, c, v in _channels(name, arrays[name])
        }
        return [("layers", partial(write_exr, channels=channels))]
    plain = {name: {c: v for _, c, v in _channels(name, arrays[name])} for name in layers}
    return [(name, partial(write_exr, channels=plain[name])) for name in layers]


def _channels(name: str, values: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """(Blender's pass, channel, [h, w]) of a layer."""
    if name == "depth":
        return [("Depth", "Z", values)]
    group, letters = ("Combined", "RGBA") if name == "rgba" else ("Normal", "XYZ")
    return [(group, letter, values[..., i]) for i, letter in enumerate(letters)]


def _save_png(path: Path, name: str, values: np.ndarray) -> None:
    """rgba straight 8 bit; depth 16 bit millimetres, 0 for nothing or beyond 65.5 m; normal 8 bit
    around 128.
    """
    from PIL import Image

    if name == "depth":
        millimetres = np.where(values >= 65.5, 0, np.rint(values / _DEPTH_PNG_UNIT_M))
        Image.fromarray(millimetres.astype(np.uint16)).save(path, format="PNG")
        return
    if name == "rgba":
        alpha = values[..., 3:]
        values = np.concatenate([values[..., :3] / np.maximum(alpha, 1e-6), alpha], axis=2)
    else:
        values = values * 0.5 + 0.5
    Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)).save(
        path, format="PNG", compress_level=3
    )
