"""engine/cameras/trajectory.py: every format gives the same cameras, scale rules hold, segments
cover the path.
"""

from __future__ import annotations

import gzip
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bridge import camera_file, moves
from engine.bridge.camera_file import CameraPath
from engine.bridge.errors import UserError
from engine.bridge.segments import plan_segments
from engine.cameras import trajectory

GL = np.diag([1.0, -1.0, -1.0, 1.0])


def turn(axis: int, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    m, i, j = np.eye(4), (axis + 1) % 3, (axis + 2) % 3
    m[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return m


def example(frames: int = 4, width: int = 640, height: int = 360) -> CameraPath:
    """A path whose first camera is nowhere special."""
    poses = np.stack([turn(1, 10 * i) @ turn(0, 5 * i + 3) @ turn(2, 2) for i in range(frames)])
    poses[:, :3, 3] = [[0.3 * i + 1, -0.1 * i, 2 + 0.2 * i] for i in range(frames)]
    K = np.tile(np.array([[500.0, 0, width / 2], [0, 500, height / 2], [0, 0, 1]]), (frames, 1, 1))
    return CameraPath(K, poses, width, height, 24.0, "unknown")


def assert_same(got: CameraPath, wanted: CameraPath, tolerance: float = 1e-6) -> None:
    assert (got.width, got.height) == (wanted.width, wanted.height)
    assert np.allclose(got.K, wanted.K, atol=tolerance * 1000)
    assert np.allclose(got.world_from_camera, wanted.world_from_camera, atol=tolerance)


# --- the same cameras through every format ------------------------------------------------------


def as_ours(path: CameraPath, folder: Path) -> Path:
    camera_file.write(folder / "path.json", path)
    return folder / "path.json"


def as_real_estate(path: CameraPath, folder: Path) -> Path:
    lines = ["https://www.youtube.com/watch?v=x"]
    for i, (K, w2c) in enumerate(zip(path.K, np.linalg.inv(path.world_from_camera), strict=True)):
        k = [
            K[0, 0] / path.width,
            K[1, 1] / path.height,
            K[0, 2] / path.width,
            K[1, 2] / path.height,
        ]
        lines.append(
            " ".join(
                [str(round(i * 1e6 / 24)), *(f"{v:.9f}" for v in [*k, 0, 0, *w2c[:3].ravel()])]
            )
        )
    (folder / "path.txt").write_text("\n".join(lines) + "\n")
    return folder / "path.txt"


def as_nerfstudio(path: CameraPath, folder: Path) -> Path:
    fov = [math.degrees(2 * math.atan(path.height / 2 / K[1, 1])) for K in path.K]
    cameras = [
        {"camera_to_world": m.ravel().tolist(), "fov": f, "aspect": 1}
        for m, f in zip(path.world_from_camera @ GL, fov, strict=True)
    ]
    data = {
        "camera_type": "perspective",
        "render_width": path.width,
        "render_height": path.height,
        "fps": 24,
        "seconds": 4,
        "camera_path": cameras,
    }
    (folder / "camera_path.json").write_text(json.dumps(data))
    return folder / "camera_path.json"


def as_transforms(path: CameraPath, folder: Path, **top: Any) -> Path:
    frames = [
        {"file_path": f"{i}.png", "transform_matrix": m.tolist()}
        for i, m in enumerate(path.world_from_camera @ GL)
    ]
    data = {
        "w": path.width,
        "h": path.height,
        "fl_x": 500,
        "fl_y": 500,
        "cx": path.width / 2,
        "cy": path.height / 2,
        "frames": frames,
    } | top
    (folder / "transforms.json").write_text(
        json.dumps({k: v for k, v in data.items() if v is not None})
    )
    return folder / "transforms.json"


def as_colmap(
    path: CameraPath, folder: Path, camera: str = "PINHOLE {w} {h} 500 500 {cx} {cy}"
) -> Path:
    text = camera.format(w=path.width, h=path.height, cx=path.width / 2, cy=path.height / 2)
    (folder / "cameras.txt").write_text(f"# comment\n7 {text}\n")
    lines = ["# comment"]
    for i in reversed(range(path.count)):  # COLMAP's order is not the path's
        w2c = np.linalg.inv(path.world_from_camera[i])
        w = math.sqrt(1 + np.trace(w2c[:3, :3])) / 2
        x, y, z = [(w2c[a, b] - w2c[b, a]) / (4 * w) for a, b in ((2, 1), (0, 2), (1, 0))]
        lines += [
            f"{i + 1} {w} {x} {y} {z} {' '.join(map(str, w2c[:3, 3]))} 7 a view {i + 8}.png",
            "" if i % 2 else "1.0 2.0 -1 3 4 5",
        ]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


def as_official(path: CameraPath, folder: Path, end: str = "npz") -> Path:
    K = path.K / [[path.width], [path.height], [1]]
    data = {
        "intrinsics": np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1),
        "w2c": np.linalg.inv(path.world_from_camera)[:, :3],
    }
    if end == "npz":
        np.savez(folder / "camera.npz", **data)
    else:
        (folder / "camera.json").write_text(
            json.dumps({key: value.tolist() for key, value in data.items()})
        )
    return folder / f"camera.{end}"


def as_matrices(path: CameraPath, folder: Path) -> Path:
    data = {
        "viewmats": np.linalg.inv(path.world_from_camera),
        "Ks": path.K,
        "width": path.width,
        "height": path.height,
    }
    np.savez(folder / "cameras.npz", **data)
    return folder / "cameras.npz"


WRITERS = {
    "ours": as_ours,
    "real_estate": as_real_estate,
    "nerfstudio": as_nerfstudio,
    "transforms": as_transforms,
    "colmap": as_colmap,
    "official_npz": as_official,
    "official_json": lambda p, f: as_official(p, f, "json"),
    "matrices": as_matrices,
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("size", [None, (640, 360), (1280, 720)])
def test_every_format_gives_the_same_cameras(
    tmp_path: Path, kind: str, size: tuple[int, int] | None
) -> None:
    wanted = example() if size != (1280, 720) else trajectory.scaled_to(example(), 1280, 720)
    file = WRITERS[kind](example(), tmp_path)
    if size is None and kind in ("real_estate", "official_npz", "official_json"):
        wanted = trajectory.scaled_to(example(), 1024, 576)  # these do not say their size
    assert_same(trajectory.load(file, image_size=size), wanted)


@pytest.mark.parametrize("kind", WRITERS)
def test_what_decides_is_the_content_not_the_name(tmp_path: Path, kind: str) -> None:
    if kind == "colmap":
        pytest.skip("a COLMAP model is two files with fixed names")
    renamed = WRITERS[kind](example(), tmp_path).rename(tmp_path / "thing.dat")
    assert_same(trajectory.load(renamed, image_size=(640, 360)), example())


@pytest.mark.parametrize("kind", ["ours", "nerfstudio", "transforms", "colmap", "matrices"])
def test_another_aspect_is_refused_where_the_file_says_its_size(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"640x360.*640x480") as caught:
        trajectory.load(WRITERS[kind](example(), tmp_path), image_size=(640, 480))
    assert "Crop" in caught.value.hint


@pytest.mark.parametrize("size", [(480, 480), (360, 640), (1280, 360)])
def test_normalised_intrinsics_are_cropped_to_the_picture(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Pixels stay square, and neither side shows more than the source frame did."""
    path = trajectory.load(as_real_estate(example(), tmp_path), image_size=size)
    fx, fy = path.K[0, 0, 0], path.K[0, 1, 1]
    assert fx == pytest.approx(fy) and np.allclose(path.K[:, :2, 2], [size[0] / 2, size[1] / 2])
    widths = size[0] / fx / (640 / 500), size[1] / fy / (360 / 500)
    assert max(widths) == pytest.approx(1) and min(widths) < 1


def test_frames_of_colmap_come_in_the_order_of_numbered_names(tmp_path: Path) -> None:
    assert_same(
        trajectory.load(as_colmap(example(5), tmp_path)), example(5)
    )  # names 8, 9, 10, 11, 12


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        ("OPENCV_FISHEYE {w} {h} 500 500 {cx} {cy} 0 0 0 0", "fisheye"),
        ("EQUIRECTANGULAR {w} {h} 1", "panorama"),
        ("MYSTERY {w} {h} 1", "not a pinhole"),
        ("PINHOLE {w} {h} 500 500", "parameters"),
        ("PINHOLE {w} tall 500 500 1 1", "height"),
        ("PINHOLE {w} {h} wide 500 1 1", "damaged"),
    ],
)
def test_colmap_cameras_that_are_no_pinhole_are_refused(
    tmp_path: Path, camera: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        trajectory.load(as_colmap(example(), tmp_path, camera))
    assert caught.value.hint


@pytest.mark.parametrize(
    "camera",
    [
        "SIMPLE_PINHOLE {w} {h} 500 {cx} {cy}",
        "SIMPLE_RADIAL {w} {h} 500 {cx} {cy} 0",
        "OPENCV {w} {h} 500 500 {cx} {cy} 0 0 0 0",
    ],
)
def test_colmap_cameras_without_distortion_are_pinholes(tmp_path: Path, camera: str) -> None:
    assert_same(trajectory.load(as_colmap(example(), tmp_path, camera)), example())


def test_colmap_without_cameras_says_so(tmp_path: Path) -> None:
    (as_colmap(example(), tmp_path) / "cameras.txt").unlink()
    for path in (tmp_path, tmp_path / "images.txt"):
        with pytest.raises(UserError, match=r"needs cameras\.txt"):
            trajectory.load(path)


def test_nerf_angle_takes_the_picture_size(tmp_path: Path) -> None:
    angle = 2 * math.atan(320 / 500)
    file = as_transforms(
        example(),
        tmp_path,
        camera_angle_x=angle,
        fl_x=None,
        fl_y=None,
        w=None,
        h=None,
        cx=None,
        cy=None,
    )
    assert_same(trajectory.load(file, image_size=(640, 360)), example())


def test_transforms_intrinsics_per_frame(tmp_path: Path) -> None:
    file = as_transforms(example(), tmp_path)
    data = json.loads(file.read_text())
    for i, frame in enumerate(data["frames"]):
        frame["cx"] = 300 + i
    file.write_text(json.dumps(data))
    assert np.array_equal(trajectory.load(file).K[:, 0, 2], [300, 301, 302, 303])


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"camera_model": "OPENCV_FISHEYE"}, "fisheye"),
        ({"camera_model": "EQUIRECTANGULAR"}, "panorama"),
        ({"is_fisheye": True}, "fisheye"),
        ({"w": None}, "size"),
        ({"fl_x": None, "fl_y": None}, "fl_x"),
        ({"frames": []}, "no frames"),
        ({"frames": [3]}, "Frame 0"),
        ({"frames": [{}]}, "transform_matrix of frame 0"),
        ({"fl_x": "wide"}, "fl_x"),
        ({"w": 640.5}, "w of"),
    ],
)
def test_bad_transforms_are_refused(tmp_path: Path, top: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        trajectory.load(as_transforms(example(), tmp_path, **top))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"camera_type": "fisheye"}, "fisheye"),
        ({"render_width": None}, "render_width"),
        ({"camera_path": []}, "no frames"),
        ({"camera_path": [{"fov": 0, "camera_to_world": np.eye(4).ravel().tolist()}]}, "fov"),
        ({"camera_path": [{"fov": 50, "camera_to_world": [1, 2]}]}, "camera_to_world"),
    ],
)
def test_bad_nerfstudio_paths_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = as_nerfstudio(example(), tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=words):
        trajectory.load(file)


class Bomb:
    def __reduce__(self):
        return (Path("bomb_went_off").touch, ())


def test_pickles_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps({"intrinsics": Bomb(), "poses": []})
    (tmp_path / "a.pickle.gz").write_bytes(gzip.compress(payload))
    (tmp_path / "a.dat").write_bytes(payload)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1], protocol=0))
    np.savez("a.npz", w2c=np.array([Bomb()], object), intrinsics=np.zeros((1, 4)))
    for name, words in {
        "a.pickle.gz": "pickle",
        "a.dat": "pickle",
        "a.pkl": "pickle",
        "a.npz": "not hold plain numbers",
    }.items():
        with pytest.raises(UserError, match=words):
            trajectory.load(tmp_path / name)
    assert not (tmp_path / "bomb_went_off").exists()


NO_PATHS = [
    b"",
    b"  \n",
    b"{",
    b"{}",
    b"[]",
    b"hello",
    b"1\n2",
    b"PK\x03\x04",
    b"\xff\xd8\xff\xe0 a photo",
    b"1 2\n3 x\n4 5\n",
    b"https://x\n1 2 3\n",
    b"https://x\n",
    b'{"w2c": 3, "intrinsics": 4}',
    b'{"w2c": [], "intrinsics": []}',
    b'{"w2c": [1e999], "intrinsics": [1]}',
]


@pytest.mark.parametrize("content", NO_PATHS)
def test_files_that_are_no_path_are_user_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "thing.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"thing\.txt"):
        trajectory.load(tmp_path / "thing.txt", image_size=(640, 360))


def test_missing_files_and_folders_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist") as caught:
        trajectory.load(tmp_path / "crane:1")
    assert all(name in caught.value.hint for name in moves.DEFAULTS)
    with pytest.raises(UserError, match="no COLMAP model"):
        trajectory.load(tmp_path)
    as_transforms(example(), tmp_path)
    with pytest.raises(UserError) as caught:
        trajectory.load(tmp_path)
    assert "transforms.json" in caught.value.hint


# --- ViewCrafter's paths ------------------------------------------------------------------------


def test_viewcrafter_goes_right_up_and_forward(tmp_path: Path) -> None:
    for text, axis, sign in (
        ("0 30\n0 0\n0 0", 0, 1),
        ("0 0\n0 -30\n0 0", 1, -1),
        ("0 0\n0 0\n0 -0.3", 2, 1),
    ):
        (tmp_path / "a.txt").write_text(text)
        path = trajectory.load(tmp_path / "a.txt", image_size=(1024, 576))
        end = path.world_from_camera[-1, :3, 3]
        assert (
            path.count == 25
            and path.unit == "depth"
            and np.array_equal(path.world_from_camera[0], np.eye(4))
        )
        assert sign * end[axis] > 0.2
        assert np.allclose(
            (np.linalg.inv(path.world_from_camera) @ [0, 0, 1, 1])[:, :2], 0
        )  # the point stays in the middle


# --- transforms of a path -----------------------------------------------------------------------


def test_relative_to_first_keeps_relative_poses() -> None:
    a, b = example(), trajectory.relative_to_first(example())
    assert np.array_equal(b.world_from_camera[0], np.eye(4))
    between = [np.linalg.inv(p.world_from_camera[1]) @ p.world_from_camera[3] for p in (a, b)]
    assert np.allclose(between[0], between[1])


def test_scaled_cameras_see_the_same_in_the_resized_frame() -> None:
    point = np.array([0.3, -0.2, 2.0])
    a, b = example(), trajectory.scaled_to(example(), 256, 144 + 8)
    pa, pb = a.K[0] @ point, b.K[0] @ point
    assert np.allclose(pa[:2] / pa[2] / [640, 360], pb[:2] / pb[2] / [256, 152])


def test_every_kth_frame_keeps_the_duration() -> None:
    path = trajectory.every(example(9), 2)
    assert (
        path.count == 5
        and path.fps == 12
        and np.array_equal(path.world_from_camera, example(9).world_from_camera[::2])
    )


# --- scale --------------------------------------------------------------------------------------


DEPTH = np.array([[2.0, 4.0, 4.0, 8.0, np.inf, 0.0, np.nan]])


def straight(unit: str, length: float = 2.0) -> CameraPath:
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, 2, 3] = np.linspace(0, length, 5)
    return example(5)._replace(world_from_camera=turn(1, 33) @ poses, unit=unit)


def reach(path: CameraPath) -> float:
    return float(np.linalg.norm(path.world_from_camera[:, :3, 3], axis=1).max())


@pytest.mark.parametrize(
    ("unit", "motion_scale", "wanted"),
    [
        ("m", 0.0, 2.0),
        ("m", 0.5, 1.0),
        ("depth", 0.0, 8.0),
        ("unknown", 3.0, 6.0),
        ("unknown", 0.0, 0.3 * 4.0),
        ("re10k", 0.0, 2 * np.percentile([2, 4, 4, 8], 5) / (1.25 + 2)),
    ],
)
def test_scale_rules(unit: str, motion_scale: float, wanted: float) -> None:
    path, sentence = trajectory.scale_to_depth(straight(unit), DEPTH, motion_scale)
    assert reach(path) == pytest.approx(wanted) and path.unit == "m"
    assert f"{wanted / 2:.4g} m" in sentence


def test_cameras_round_an_object_put_it_at_the_median_depth() -> None:
    poses = trajectory.move(
        "orbit:60@7", K=example().K[0], width=640, height=360, frames=6
    ).world_from_camera
    path = example(6)._replace(world_from_camera=turn(0, 20) @ poses)
    assert trajectory.focus_distance(path) == pytest.approx(7)
    scaled, _ = trajectory.scale_to_depth(path, DEPTH)
    assert trajectory.focus_distance(scaled) == pytest.approx(4)


@pytest.mark.parametrize("spec", ["pan:40", "dolly:3", "truck:2+pan:20"])
def test_other_moves_have_no_focus(spec: str) -> None:
    poses = trajectory.move(
        spec, K=example().K[0], width=640, height=360, frames=6
    ).world_from_camera
    assert trajectory.focus_distance(example(6)._replace(world_from_camera=poses)) is None


def test_a_still_path_keeps_its_unit() -> None:
    assert reach(trajectory.scale_to_depth(straight("unknown", 0.0), DEPTH)[0]) == 0


# --- segments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "n", "k", "wanted"),
    [
        (1, 25, 10, [(0, 1, 0)]),
        (24, 25, 10, [(0, 24, 0)]),
        (25, 25, 10, [(0, 25, 0)]),
        (26, 25, 10, [(0, 25, 0), (1, 26, 25)]),
        (40, 25, 10, [(0, 25, 0), (15, 40, 25)]),
        (41, 25, 10, [(0, 25, 0), (16, 41, 25)]),
        (45, 25, 10, [(0, 25, 0), (10, 35, 25), (20, 45, 35)]),
        (56, 25, 10, [(0, 25, 0), (15, 40, 25), (31, 56, 40)]),
    ],
)
def test_segments(m: int, n: int, k: int, wanted: list[tuple[int, int, int]]) -> None:
    assert [tuple(s) for s in plan_segments(m, n, k)] == wanted


def test_the_papers_example_has_six_segments() -> None:
    assert len(plan_segments(100, 25, 10)) == 6


@pytest.mark.parametrize(("m", "n", "k"), [(0, 25, 10), (10, 0, 0), (10, 5, 5), (10, 5, -1)])
def test_impossible_segments_are_programming_errors(m: int, n: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        plan_segments(m, n, k)


# --- checks -------------------------------------------------------------------------------------


def forward(*z: float) -> CameraPath:
    poses = np.tile(np.eye(4), (len(z), 1, 1))
    poses[:, 2, 3] = z
    return example(len(z))._replace(world_from_camera=poses, unit="m")


def test_good_paths_have_no_warnings() -> None:
    assert trajectory.check_path(forward(*np.linspace(0, 1, 20)), np.full((36, 64), 4.0)) == []
    assert trajectory.check_path(forward(0.0), np.full((36, 64), 4.0)) == []


def test_jumps_turns_and_stillness_are_named() -> None:
    assert (
        "jumps between frames 2 and 3"
        in trajectory.check_path(forward(0, 0.1, 0.2, 5, 5.1, 5.2))[0]
    )
    poses = np.stack([np.eye(4), turn(1, 40)])
    assert (
        "turns 40 degrees" in trajectory.check_path(example(2)._replace(world_from_camera=poses))[0]
    )
    assert trajectory.check_path(forward(0, 0, 0)) == ["The camera does not move."]


def test_cameras_that_never_see_the_scene_are_refused() -> None:
    away = example(3)._replace(world_from_camera=np.stack([np.eye(4), turn(1, 180), turn(1, 170)]))
    with pytest.raises(UserError, match="sees the scene"):
        trajectory.check_path(away, np.full((36, 64), 4.0))


def test_seen_share_of_a_plane() -> None:
    """Half way to a plane, a quarter of it is in the frame; turned away, nothing."""
    share = trajectory.seen_share(forward(0, 2.0), np.full((360, 640), 4.0))
    assert share[0] == 1 and share[1] == pytest.approx(0.25, abs=0.03)


# --- the shared files ---------------------------------------------------------------------------


def test_every_shared_path_loads_scales_and_checks(shared_data: Path) -> None:
    files = [
        *shared_data.glob("cameras_re10k/*.txt"),
        *shared_data.glob("official/*/cameras/*"),
        *shared_data.glob("official/*/trajs/*"),
        *shared_data.glob("posed/*/transforms.json"),
        *shared_data.glob("posed/*/sparse/0"),
        shared_data / "posed/garden_points/test_garden.npz",
    ]
    assert len(files) > 25
    for file in files:
        path, _ = trajectory.scale_to_depth(trajectory.load(file), np.full((9, 16), 4.0))
        trajectory.check_path(path, np.full((9, 16), 4.0))
        assert 0.1 < reach(path) < 20, file


def test_official_npz_and_json_agree_with_their_own_relative_poses(shared_data: Path) -> None:
    for npz in shared_data.glob("official/scene_splatter/cameras/*.npz"):
        a, b = (
            trajectory.load(file, image_size=(640, 360)) for file in (npz, npz.with_suffix(".json"))
        )
        with np.load(npz) as data:
            relative = trajectory.relative_to_first(a).world_from_camera
            assert np.abs(relative - data["c2w_rel0"]).max() < 1e-5
        assert np.allclose(a.world_from_camera, b.world_from_camera, atol=1e-6) and np.allclose(
            a.K, b.K
        )


@pytest.mark.parametrize("name", ["cyprus_arch", "banana", "lund_door"])
def test_colmap_models_agree_with_their_transforms(shared_data: Path, name: str) -> None:
    """Two files, two axis conventions, two worlds: the cameras are the same after applied_transform
    and applied_scale.
    """
    folder = shared_data / "posed" / name
    a, b = trajectory.load(folder / "transforms.json"), trajectory.load(folder / "sparse" / "0")
    data = json.loads((folder / "transforms.json").read_text())
    order = np.argsort([frame["file_path"] for frame in data["frames"]])
    moved = np.vstack([data["applied_transform"], [0, 0, 0, 1]]) @ b.world_from_camera
    moved[:, :3, 3] *= data["applied_scale"]
    assert np.abs(a.world_from_camera[order] - moved).max() < 1e-6
    assert np.abs(a.K[order] - b.K).max() < 1e-6


@pytest.mark.parametrize("name", ["cyprus_arch", "banana", "lund_door"])
def test_sparse_points_lie_before_the_cameras_and_in_their_frames(
    shared_data: Path, name: str
) -> None:
    plyfile = pytest.importorskip("plyfile")
    vertices = plyfile.PlyData.read(shared_data / "posed" / name / "sparse_pc.ply")["vertex"]
    points = np.stack([vertices["x"], vertices["y"], vertices["z"], np.ones(len(vertices["x"]))])
    path = trajectory.load(shared_data / "posed" / name / "transforms.json")
    seen = (np.linalg.inv(path.world_from_camera) @ points)[:, :3]
    pixels = path.K @ seen
    pixels = pixels[:, :2] / pixels[:, 2:]
    inside = (
        (seen[:, 2] > 0)
        & (pixels > 0).all(1)
        & (pixels[:, 0] < path.width)
        & (pixels[:, 1] < path.height)
    )
    assert inside.mean(1).min() > 0.2 and inside.any(0).mean() > 0.999


def test_metres_are_known_for_sets_with_depth(shared_data: Path) -> None:
    for name, unit in (("motorcycle_stereo", "m"), ("dining_rgbd", "m"), ("banana", "unknown")):
        assert trajectory.load(shared_data / "posed" / name / "transforms.json").unit == unit
