"""MoGe-2 and Depth Anything 3: the originals' numbers, names and sizes; metres and field of view of
a known camera.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.bridge.errors import UserError
from engine.geometry import learned
from engine.geometry.networks import depth_anything_3, dinov2, moge
from tests import tiny_models as tiny

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
CPU = torch.device("cpu")


def random_picture(rng: np.random.Generator) -> Tensor:
    image = torch.from_numpy(rng.random((3, 60, 84)).astype(np.float32))
    return torch.nn.functional.avg_pool2d(image[None], 7, 1, 3)[0]


def relative(found: Tensor, expected: np.ndarray) -> float:
    assert expected.std() > 1e-2
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@torch.no_grad()
def test_moge_equals_the_original(tmp_path):
    network = moge.load(tiny.save_moge(tmp_path / "model.pt"))
    points, mask, metres = network(random_picture(np.random.default_rng(5)))
    with np.load(GOLDEN / "moge.npz") as golden:
        assert relative(points[:, ::3, ::3].permute(1, 2, 0), golden["points"]) < 2e-5
        assert relative(mask[::3, ::3], golden["mask"]) < 2e-5
        assert metres == pytest.approx(float(golden["scale"][0]), rel=1e-5)


@torch.no_grad()
def test_depth_anything_3_equals_the_original(tmp_path):
    network = depth_anything_3.load(tiny.save_depth_anything_3(tmp_path / "model.safetensors"))
    rng = np.random.default_rng(5)
    rng.random((3, 60, 84))
    depth, sky = network(
        torch.from_numpy(rng.standard_normal((1, 1, 3, 42, 70)).astype(np.float32))[0]
    )
    with np.load(GOLDEN / "depth_anything_3.npz") as golden:
        assert relative(depth[::3, ::3], golden["depth"]) < 2e-5
        assert relative(sky[::3, ::3], golden["sky"]) < 2e-5


def meta(name: str) -> dict[str, Tensor]:
    return {n: torch.empty(shape, device="meta") for n, shape in tiny.depth_keys()[name].items()}


def test_full_size_moge_has_the_released_names_and_shapes():
    state = meta("moge")
    network = moge.of_description(tiny.depth_keys()["moge_config"], state, "test")
    wanted = {n: tuple(t.shape) for n, t in moge.renamed(state).items()}
    assert tiny.shapes(network) == wanted
    normals = sum(t.numel() for n, t in state.items() if n.startswith("normal_head."))
    assert (
        round((sum(p.numel() for p in network.parameters()) + normals) / 1e6) == 331
    )  # as its authors say


def test_full_size_depth_anything_3_has_the_released_names_and_shapes():
    state = meta("depth_anything_3")
    network = depth_anything_3.of_sizes(state, "test")
    assert tiny.shapes(network) == {
        n: tuple(t.shape) for n, t in depth_anything_3.renamed(state).items()
    }
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == 334


def camera_points(f: float, h: int = 48, w: int = 64) -> tuple[Tensor, Tensor]:
    """Points [3, h, w] and depth [h, w] that a pinhole camera of f pixels sees."""
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    z = 2 + (x / 9).sin() + y / 30
    return torch.stack([(x - w / 2) / f * z, (y - h / 2) / f * z, z]), z


def test_shift_and_focal_are_the_originals():
    points, _ = camera_points(70.0)
    points[2] -= 0.7
    mask = (torch.arange(48) + 0.5 > 12)[:, None].expand(48, 64)
    shift, focal = moge.shift_and_focal(points, mask)
    with np.load(GOLDEN / "moge.npz") as golden:
        own_focal, own_shift, shift_at = (float(v) for v in golden["solver"])
    assert (shift, focal) == (
        pytest.approx(own_shift, abs=1e-5),
        pytest.approx(own_focal, rel=1e-5),
    )
    assert focal == pytest.approx(70.0 / 40.0, rel=1e-4) and shift == pytest.approx(0.7, abs=1e-4)
    assert moge.shift_and_focal(points, mask, 1.5)[0] == pytest.approx(shift_at, abs=1e-4)
    assert moge.shift_and_focal(points, torch.zeros_like(mask)) == (0.0, 1.0)


class Seer(torch.nn.Module):
    """Answers what a perfect MoGe would of a scene in units of `metres`."""

    def __init__(self, f: float, metres: float) -> None:
        super().__init__()
        self.points, self.depth = camera_points(f)
        self.metres = metres

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, float]:
        points = self.points.clone()
        points[2] -= 0.4
        mask = torch.ones_like(self.depth)
        mask[:10] = 0.1
        return points, mask, self.metres


def test_moge_gives_metres_the_field_of_view_and_sky():
    seer = Seer(70.0, 3.0)
    source = learned.LearnedDepth("moge_2", "MIT", CPU, lambda image: moge.read(seer, image))
    image = torch.rand(3, 48, 64)
    K = source.intrinsics(image)
    assert float(K[0, 0]) == pytest.approx(70.0, rel=1e-4) and float(K[1, 1]) == pytest.approx(
        70.0, rel=1e-4
    )
    estimate = source.estimate(image, None)
    assert bool(torch.isinf(estimate.depth_m[:10]).all())
    assert torch.allclose(estimate.depth_m[10:], 3.0 * seer.depth[10:], rtol=1e-4)
    known = source.estimate(image, torch.diag(torch.tensor([90.0, 90.0, 1.0])))
    assert (
        any("would say 49.1 degrees" in note for note in known.notes)
        and float(known.K[0, 0]) == 90.0
    )
    assert (
        float((known.depth_m / estimate.depth_m)[10:].mean()) > 1.05
    )  # a longer lens: everything is farther away


def test_depth_anything_3_counts_the_focal_length_in_the_pixels_it_saw():
    """The same scene at twice the pixels: twice the focal length, the same metres."""
    seen: list[tuple[int, ...]] = []

    def network(pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(pixels.shape[2:]))
        depth = torch.full(pixels.shape[2:], 6.0)
        sky = torch.zeros(pixels.shape[2:])
        sky[:100] = 0.9
        return depth, sky

    for side in (1, 2):
        source = learned.LearnedDepth(
            "x", "y", CPU, lambda image: depth_anything_3.read(network, image)
        )
        image = torch.rand(3, 378 * side, 504 * side)
        K = torch.diag(torch.tensor([400.0 * side, 400.0 * side, 1.0]))
        estimate = source.estimate(image, K)
        assert bool(torch.isinf(estimate.depth_m[: 90 * side]).all())
        assert float(estimate.depth_m[-1, -1]) == pytest.approx(6.0 * 400 / 300, rel=1e-4)
        assert source.intrinsics(image) is None
    assert seen == [(378, 504), (378, 504)]
    guess = source.estimate(image, None)  # nothing known: 60 degrees across
    focal = 504 / 2 / math.tan(math.radians(30))
    assert float(guess.depth_m[-1, -1]) == pytest.approx(6.0 * focal / 300, rel=1e-4)


def test_depth_anything_3_sizes_are_its_authors_rule():
    assert depth_anything_3.network_size(680, 1208) == (
        280,
        504,
    )  # 284 -> the nearer of 280 and 294
    assert depth_anything_3.network_size(1208, 680) == (504, 280)
    assert depth_anything_3.network_size(504, 371) == (504, 378)  # 371 is half-way: upwards
    assert depth_anything_3.network_size(3, 3000) == (14, 504)


def test_positions_are_stretched_a_tenth_of_a_patch_too_far(tmp_path):
    """As F.interpolate does for the authors' scale; the library's own way asks for a size and
    differs.
    """
    state = tiny.seeded(
        {
            n: tuple(s)
            for n, s in tiny.depth_keys()["moge_small"].items()
            if n.startswith("encoder.backbone.")
        }
    )
    state = {n.removeprefix("encoder.backbone."): t for n, t in state.items()}
    backbone = dinov2.empty(state, 2, "test")
    backbone.load_state_dict(dinov2.names(state), assign=True)
    table = backbone.embeddings.interpolate_pos_encoding(
        torch.zeros(1, 1 + 15, 128), 3 * 14, 5 * 14
    )
    grid = state["pos_embed"][:, 1:].reshape(1, 4, 4, 128).permute(0, 3, 1, 2)
    expected = (
        torch.nn.functional.interpolate(grid, scale_factor=(3.1 / 4, 5.1 / 4), mode="bicubic")
        .flatten(2)
        .transpose(1, 2)
    )
    assert torch.equal(table[:, 1:], expected) and torch.equal(
        table[:, :1], state["pos_embed"][:, :1]
    )
    assert torch.equal(
        backbone.embeddings.interpolate_pos_encoding(torch.zeros(1, 17, 128), 56, 56),
        state["pos_embed"],
    )


def changed(path: Path, change) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_what_is_wrong_with_moge_is_said(tmp_path):
    def fresh() -> Path:
        return tiny.save_moge(tmp_path / "model.pt")

    with pytest.raises(UserError, match="not found"):
        moge.load(tmp_path / "absent.pt")
    with pytest.raises(UserError, match="is a folder"):
        moge.load(tmp_path)
    with pytest.raises(UserError, match=r"lacks 1 of .*: neck\.input_blocks\.0\.bias"):
        moge.load(changed(fresh(), lambda c: c["model"].pop("neck.input_blocks.0.bias")))
    with pytest.raises(UserError, match=r"has unknown 1 of .*: stranger"):
        moge.load(changed(fresh(), lambda c: c["model"].update(stranger=torch.zeros(1))))
    with pytest.raises(UserError, match="with metres: its description lacks scale_head"):
        moge.load(changed(fresh(), lambda c: c["model_config"].pop("scale_head")))
    with pytest.raises(UserError, match=r"network that is not known here .*fourier"):
        moge.load(changed(fresh(), lambda c: c["model_config"].update(remap_output="fourier")))
    with pytest.raises(UserError, match="no MoGe-2 checkpoint"):
        moge.load(changed(fresh(), lambda c: c.pop("model_config")))
    with pytest.raises(UserError, match="holds no DINOv2 backbone"):
        moge.load(changed(fresh(), lambda c: c["model"].pop("encoder.backbone.pos_embed")))
    whole = fresh().read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        moge.load(tmp_path / "cut.pt")


def test_what_is_wrong_with_depth_anything_3_is_said(tmp_path):
    from safetensors.torch import load_file, save_file

    path = tiny.save_depth_anything_3(tmp_path / "model.safetensors")
    state = load_file(path)
    for name, change, message in (
        ("a", {"model.stranger": torch.zeros(1)}, r"has unknown 1 of .*: stranger"),
        (
            "b",
            {"model.head.scratch.output_conv1.bias": torch.zeros(3)},
            r"has other sizes of 1 of .*: shared\.bias",
        ),
    ):
        save_file(state | change, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=message):
            depth_anything_3.load(tmp_path / f"{name}.safetensors")
    save_file({n: t for n, t in state.items() if "projects" not in n}, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="no metric Depth Anything 3"):
        depth_anything_3.load(tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match="truncated or damaged"):
        depth_anything_3.load(tmp_path / "d.safetensors")
