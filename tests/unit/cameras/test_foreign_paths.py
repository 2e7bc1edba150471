"""Camera paths as other programs really write them: read whole and in order, with a line about what
was left out.
"""

from __future__ import annotations

import json
import math
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engine.bridge import camera_file
from engine.bridge.errors import UserError
from engine.bridge.reading import natural_order
from engine.cameras import trajectory
from tests.unit.cameras.test_trajectory import (
    as_colmap,
    as_real_estate,
    as_transforms,
    assert_same,
    example,
)

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"]


def _again(file: Path, encoding: str, newline: str = "\n", **replaced: str) -> Path:
    text = file.read_text("utf-8")
    for old, new in replaced.items():
        text = text.replace(old, new)
    file.write_bytes(text.replace("\n", newline).encode(encoding))
    return file


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_any_encoding_and_line_end(tmp_path, encoding, newline):
    wanted = example()
    for folder, write in (("a", as_transforms), ("b", as_real_estate)):
        (tmp_path / folder).mkdir()
        file = write(wanted, tmp_path / folder)
        assert_same(trajectory.load(_again(file, encoding, newline), image_size=(640, 360)), wanted)
    (tmp_path / "c").mkdir()
    as_colmap(wanted, tmp_path / "c")
    for file in (tmp_path / "c").rglob("*.txt"):
        _again(file, encoding, newline, frame="Straße")
    assert_same(trajectory.load(tmp_path / "c"), wanted)


def test_decimal_commas(tmp_path):
    file = as_real_estate(example(), tmp_path)
    head, *lines = file.read_text().splitlines()
    for body in ([line.replace(".", ",") for line in lines], [",".join(x.split()) for x in lines]):
        file.write_text("\n".join([head, *body]))
        assert_same(trajectory.load(file, image_size=(640, 360)), example())


def test_real_estate_without_its_first_line_and_out_of_order(tmp_path):
    file = as_real_estate(example(), tmp_path)
    lines = file.read_text().splitlines()[1:]
    stamped = [f"{33333 * i} {line.split(maxsplit=1)[1]}" for i, line in enumerate(lines)]
    file.write_text("\n".join(stamped))
    assert_same(trajectory.load(file, image_size=(640, 360)), example())
    file.write_text("# clip 7\nframes of it\n" + "\n".join(reversed(stamped)))
    read = trajectory.load(file, image_size=(640, 360))
    assert_same(read, example())
    assert "order of their times" in read.notes[0]


@pytest.mark.parametrize(
    "shape", ["no time", "no zeros", "neither", "name behind", "name before", "brackets"]
)
def test_real_estate_lines_of_other_shapes_are_the_same_cameras(tmp_path, shape):
    file = as_real_estate(example(), tmp_path)
    lines = []
    for index, line in enumerate(file.read_text().splitlines()[1:]):
        words = line.split()
        if shape in ("no zeros", "neither"):
            del words[5:7]
        if shape in ("no time", "neither"):
            del words[0]
        words += [f"frame {index}.png".split()[-1]] if shape == "name behind" else []
        words = [f"frame_{index}.png", *words] if shape == "name before" else words
        lines.append(f"[{', '.join(words)}]" if shape == "brackets" else " ".join(words))
    file.write_text("\n".join(lines))
    assert_same(trajectory.load(file, image_size=(640, 360)), example())


@pytest.mark.parametrize("style", ["one line", "points", "blank", "mixed"])
def test_colmap_images_by_the_shape_of_their_lines(tmp_path, style):
    as_colmap(example(5), tmp_path)
    (file,) = tmp_path.rglob("images.txt")
    poses = [line for line in file.read_text().splitlines() if len(line.split()) > 9]
    after = {
        "one line": [None],
        "points": ["1.5 2 7 3 4 -1"],
        "blank": [""],
        "mixed": [None, "", "1 2 3"],
    }
    lines = []
    for i, pose in enumerate(poses):
        lines.append(pose)
        points = after[style][i % len(after[style])]
        lines += [] if points is None else [points]
    file.write_text("# Image list\n" + "\n".join(lines))
    assert_same(trajectory.load(tmp_path), example(5))


@pytest.mark.parametrize(
    "camera",
    ["OPENCV {w} {h} 500 500 {cx} {cy} 0.1 -0.02 0 0", "SIMPLE_RADIAL {w} {h} 500 {cx} {cy} 0.01"],
)
def test_distortion_is_left_out_and_said(tmp_path, camera):
    read = trajectory.load(as_colmap(example(), tmp_path, camera))
    assert_same(read, example())
    assert "distortion" in read.notes[0]
    (tmp_path / "t").mkdir()
    read = trajectory.load(as_transforms(example(), tmp_path / "t", k1=0.03))
    assert_same(read, example())
    assert "k1 0.03" in read.notes[0]


def test_a_lens_that_no_picture_was_taken_with_is_no_harm(tmp_path):
    as_colmap(example(), tmp_path)
    (cameras,) = tmp_path.rglob("cameras.txt")
    with open(cameras, "a") as file:
        file.write("77 OPENCV_FISHEYE 640 360 500 500 320 180 0 0 0 0\n")
    assert_same(trajectory.load(tmp_path), example())


@pytest.mark.parametrize(
    "said", [{"orthographic": True}, {"is_fisheye": 1}, {"camera_model": "EQUIRECTANGULAR"}]
)
def test_a_lens_that_is_no_pinhole_is_named(tmp_path, said):
    file = as_transforms(example(), tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    with pytest.raises(UserError, match=r"fisheye|orthographic|panorama"):
        trajectory.load(file)


def _with_frames(file: Path, change) -> Path:
    data = json.loads(file.read_text())
    data["frames"] = change(data["frames"])
    file.write_text(json.dumps(data))
    return file


def test_frames_go_by_their_names_numbers_as_numbers(tmp_path):
    names = [f"images\\frame_{i}.jpg" for i in (8, 9, 10, 11)]

    def shuffled(frames):
        named = [f | {"file_path": n} for f, n in zip(frames, names, strict=True)]
        return random.Random(1).sample(named, len(named))

    read = trajectory.load(_with_frames(as_transforms(example(), tmp_path), shuffled))
    assert_same(read, example())
    assert "order of their file names" in read.notes[0]
    assert sorted(names, key=natural_order) == names


def test_an_order_that_is_no_path_is_said(tmp_path):
    path = example(30)
    order = np.random.default_rng(0).permutation(30)
    shuffled = path._replace(world_from_camera=path.world_from_camera[order])
    camera_file.write(tmp_path / "a.json", shuffled)
    assert "jumps" in trajectory.load(tmp_path / "a.json").notes[0]
    camera_file.write(tmp_path / "b.json", path)
    assert trajectory.load(tmp_path / "b.json").notes == ()


def test_many_orders_that_are_no_path_are_said(tmp_path):
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(24)
        line = np.tile(np.eye(4), (24, 1, 1))
        line[:, 0, 3] = 0.1 * order
        shuffled = example(24)._replace(world_from_camera=line)
        assert "jumps" in trajectory.order_jumps(shuffled), seed


@pytest.mark.parametrize("laps", [1, 2, 5])
def test_a_path_that_passes_the_same_places_again_is_a_path(laps):
    out_and_back = np.tile([*range(12), *range(10, 0, -1)], laps)
    line = np.tile(np.eye(4), (len(out_and_back), 1, 1))
    line[:, 2, 3] = 0.1 * out_and_back
    assert trajectory.order_jumps(example(len(line))._replace(world_from_camera=line)) == ""
    angle = np.linspace(0, 2 * np.pi * laps, 37 * laps)  # each lap between the places of the others
    circle = np.tile(np.eye(4), (len(angle), 1, 1))
    circle[:, 0, 3], circle[:, 2, 3] = np.sin(angle), np.cos(angle)
    assert trajectory.order_jumps(example(len(circle))._replace(world_from_camera=circle)) == ""


def test_sizes_that_differ_become_one(tmp_path):
    def odd(frames):
        frames[1] |= {
            "w": 642,
            "h": 361,
            "fl_x": 501.5625,
            "fl_y": 501.3889,
            "cx": 321,
            "cy": 180.5,
        }
        return frames

    read = trajectory.load(_with_frames(as_transforms(example(), tmp_path), odd))
    assert_same(read, example(), 1e-4)
    assert "1 of 4 cameras had another size" in read.notes[0]


def _training(path: camera_file.CameraPath) -> list[dict]:
    return [
        {
            "id": i,
            "img_name": f"{i:05d}",
            "width": path.width,
            "height": path.height,
            "position": m[:3, 3].tolist(),
            "rotation": m[:3, :3].tolist(),
            "fx": k[0, 0],
            "fy": k[1, 1],
        }
        for i, (k, m) in enumerate(zip(path.K, path.world_from_camera, strict=True))
    ]


@pytest.mark.parametrize("read", [trajectory.load, camera_file.read])
def test_cameras_of_a_training_are_read_in_order(tmp_path, read):
    file = tmp_path / "cameras.json"
    entries = _training(example(6))
    file.write_text(json.dumps(entries[4:] + entries[:4]))  # the test cameras come first there
    assert_same(read(file), example(6))
    for index, entry in enumerate(entries):  # other writers: nameless, angles for focal lengths
        entry |= {"FoVx": 2 * math.atan(entry["width"] / 2 / entry.pop("fx"))}
        entry |= {"FoVy": 2 * math.atan(entry["height"] / 2 / entry.pop("fy")), "id": index}
        del entry["img_name"]
    file.write_text(json.dumps(entries[4:] + entries[:4]))
    assert_same(read(file), example(6), 1e-9)
    for wrong, words in (
        ({"id": 0, "position": [0, 0]}, "not a list of cameras"),
        ({"position": [0, 0], "rotation": []}, "width of camera 0"),
    ):
        file.write_text(json.dumps([wrong]))
        with pytest.raises(UserError, match=words):
            read(file)


def test_notes_travel_with_our_own_file(tmp_path):
    path = example()._replace(notes=("Lens distortion was left out.",))
    camera_file.write(tmp_path / "a.json", path)
    assert camera_file.read(tmp_path / "a.json").notes == path.notes


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!doctype html><html></html>", "web page"),
        (b"<?xml version='1.0'?><document/>", "XML"),
        (b"\x93NUMPY\1\0", "NumPy"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "JPEG"),
        (
            b"\n".join([b"1 0 0 0 0 1 0 0 0 0 1 0"] * 3 + [b""] * 2 + [b"1 0 0 0 0 1 0 0 0 0 1 0"]),
            "KITTI",
        ),
        (b"# Bundle file v0.3\n2 3\n", "Bundler"),
        (b"NVM_V3\n\n8\n", "VisualSFM"),
        (b"#name,x,y,alt,heading,pitch,roll\nf.png,1,2,3,0,0,0", "RealityCapture"),
        (b'{ "sfm_data_version": "0.3", "views": [] }', "OpenMVG"),
        (b'[{"cameras": {"v2": {"projection_type": "perspective"}}, "shots": {}}]', "OpenSfM"),
        (b'{"fx": 1, "cx": 2, "t_00": 1, "t_01": 0}', "Polycam"),
        (b'{"error": "Repository not found"}', "server's answer"),
        (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "server's answer"),
    ],
)
def test_foreign_files_are_named(tmp_path, data, words):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        trajectory.load(tmp_path / "a.txt")
    assert caught.value.hint


def test_an_npz_whose_arrays_are_a_flood_is_refused_before(tmp_path):
    import tracemalloc

    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        head = b"\x93NUMPY\1\0" + struct.pack("<H", 118)
        text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (20000000, 4), }"
        archive.writestr("w2c.npy", head + text.ljust(117) + b"\n" + bytes(200 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match="bytes"):
        trajectory.load(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ['{"frames": [' + "[" * 100_000, '{"w": ' + "9" * 5000 + "}", "1e999 " * 19]
)
def test_nesting_and_numbers_without_end_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError):
        trajectory.load(tmp_path / "a.json")
    with pytest.raises(UserError):
        camera_file.read(tmp_path / "a.json")


def test_a_name_too_long_is_a_user_error():
    with pytest.raises(UserError):
        trajectory.load("x" * 5000 + ".json")
