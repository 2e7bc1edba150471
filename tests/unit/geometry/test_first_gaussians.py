"""Where the first Gaussians come from: Flash3D as the original computes it, and files."""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.__main__ import main
from engine.bridge import splat_file
from engine.bridge.axes import between, transform_splats
from engine.bridge.errors import UserError
from engine.bridge.settings import GeometrySettings
from engine.geometry import initial
from engine.geometry.networks import flash3d
from engine.rasterize import rasterize
from engine.scene.gaussians import Gaussians
from tests import tiny_models as tiny

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
SMALL = flash3d.Flash3DConfig(64, (1, 1, 1, 1), gaussian_channels=(8, 8, 8, 16, 16))
K = torch.tensor([[70.0, 0, 48], [0, 72.0, 32], [0, 0, 1]])


def state_of(config: flash3d.Flash3DConfig) -> dict[str, torch.Tensor]:
    network = flash3d.Flash3D(config)
    state = tiny.seeded({n: s for n, s in tiny.shapes(network).items() if "num_batches" not in n})
    state = {n: t.abs() + 0.5 if "running_var" in n else t for n, t in state.items()}
    return state | {n: t for n, t in network.state_dict().items() if "num_batches" in n}


def save(path: Path, config: flash3d.Flash3DConfig = SMALL, **changes) -> Path:
    """The layout of the released file, with the parts that are not read."""
    model = {f"models.unidepth_extended.{n}": t for n, t in state_of(config).items()}
    model |= {
        "models.unidepth_extended.unidepth.x": torch.zeros(2),
        "backproject_depth.0.ones": torch.ones(1, 1, 5),
    }
    model |= {"models.unidepth_extended.encoder.encoder.fc.bias": torch.zeros(1000)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"model": model | changes, "version": "1.0", "optimiser": {"state": {}}, "step": 7}, path
    )
    return path


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    image = torch.from_numpy(rng.random((1, 3, 64, 96)).astype(np.float32))
    return image, torch.from_numpy((1 + 4 * rng.random((1, 1, 64, 96))).astype(np.float32))


@torch.no_grad()
def test_flash3d_equals_the_original(tmp_path):
    network = flash3d.load(save(tmp_path / "m.pth"), SMALL)
    made = flash3d.gaussians_of(*network(*inputs()), K)
    with np.load(GOLDEN / "flash3d.npz") as golden:
        for name, found in (
            ("xyz", made.means),
            ("opacity", torch.sigmoid(made.opacities_logit)[:, None]),
            ("scaling", made.scales_log.exp()),
            ("rotation", torch.nn.functional.normalize(made.quats, dim=1)),
            ("dc", made.sh_dc),
            ("rest", made.sh_rest),
        ):
            expected = golden[name]
            assert expected.std() > 1e-3
            assert np.abs(found[::97].numpy() - expected).max() < 1e-5 * max(
                1.0, np.abs(expected).max()
            ), name


def test_full_size_flash3d_has_the_released_names_and_shapes():
    with gzip.open(GOLDEN / "flash3d_keys.json.gz") as file:
        released = {name: tuple(shape) for name, shape in json.load(file).items()}
    with torch.device("meta"):
        network = flash3d.Flash3D(flash3d.Flash3DConfig())
    assert tiny.shapes(network) == released
    decoder = network.models["gauss_decoder_0"]
    assert round(sum(p.numel() for p in decoder.parameters()) / 1e6, 2) == 9.02


def test_a_gaussian_lies_where_its_pixel_looks(tmp_path):
    """Pixels become a list with channels last: colours and places of two far-apart pixels are their
    own.
    """
    raw = torch.zeros(2, 23, 4, 6)
    raw[1, 11:14, 3, 5] = torch.tensor(
        [0.1, 0.2, 0.3]
    )  # constant colour of the second layer's last pixel
    raw[:, 7] = 1.0
    depths = torch.stack([torch.full((4, 6), 2.0), torch.full((4, 6), 3.0)])
    k = torch.tensor([[5.0, 0, 3], [0, 5.0, 2], [0, 0, 1]])
    made = flash3d.gaussians_of(depths, raw, k)
    assert made.count == 48
    assert torch.equal(made.sh_dc[-1], torch.tensor([0.1, 0.2, 0.3])) and not made.sh_dc[:-1].any()
    assert torch.allclose(made.means[-1], 3.0 * torch.tensor([(5.5 - 3) / 5, (3.5 - 2) / 5, 1.0]))
    assert torch.allclose(made.scales_log.exp(), torch.tensor(0.01))


def test_predictions_take_any_size_and_sky(tmp_path):
    network = flash3d.load(save(tmp_path / "m.pth"), SMALL)
    image, depth = inputs()
    image, depth = image[0, :, :50, :70], depth[0, 0, :50, :70].clone()
    depth[:10] = torch.inf
    made = flash3d.predict(network, image, depth, K)
    assert made.count <= 2 * 128 * 160 and made.count > 128 * 160
    assert all(bool(torch.isfinite(t).all()) for t in made) and bool((made.means[:, 2] > 0).all())
    seen = rasterize(initial.of_degree(made, 0), K[None], torch.eye(4)[None], 70, 50)
    assert seen.alpha.mean() > 0.1


def test_what_is_wrong_with_the_file_is_said(tmp_path):
    with pytest.raises(UserError, match="not found"):
        flash3d.load(tmp_path / "absent.pth")
    with pytest.raises(UserError, match=r"has unknown 1 of .* tensors: stranger"):
        flash3d.load(
            save(tmp_path / "a.pth", **{"models.unidepth_extended.stranger": torch.zeros(1)}), SMALL
        )
    with pytest.raises(UserError, match=r"lacks .* tensors"):
        flash3d.load(save(tmp_path / "b.pth"), flash3d.Flash3DConfig(blocks=(1, 1, 1, 2)))
    whole = (tmp_path / "b.pth").read_bytes()
    (tmp_path / "c.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        flash3d.load(tmp_path / "c.pth", SMALL)
    torch.save({"state_dict": {}}, tmp_path / "d.pth")
    with pytest.raises(UserError, match="no Flash3D checkpoint"):
        flash3d.load(tmp_path / "d.pth", SMALL)


def make(name: str, folder: Path, degree: int = 0) -> initial.FirstGaussians:
    image, depth = inputs()
    settings = GeometrySettings(initialiser=name)
    return initial.first_gaussians(
        settings, image[0], depth[0, 0], K, sh_degree=degree, blending="display", folder=folder
    )


def splats(z: float, degree_rest: int = 3) -> splat_file.Splats:
    rng = np.random.default_rng(0)
    n = 50
    means = rng.standard_normal((n, 3)).astype(np.float32) * 0.2 + np.array([0, 0, z], np.float32)
    quats = np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1))
    scales, opacity = np.full((n, 3), -3, np.float32), np.full(n, 2, np.float32)
    return splat_file.Splats(
        means,
        quats,
        scales,
        opacity,
        rng.random((n, 3), np.float32),
        rng.random((n, degree_rest, 3), np.float32),
    )


def test_a_given_scene_is_taken_as_it_is(tmp_path):
    given = splats(3.0)
    splat_file.write_ply(tmp_path / "sharp.ply", given)
    first = make("sharp.ply", tmp_path, 2)
    assert np.array_equal(first.gaussians.means.numpy(), given.means)
    assert first.gaussians.sh_rest.shape == (50, 8, 3)
    assert (
        np.array_equal(first.gaussians.sh_rest[:, :3].numpy(), given.sh_rest)
        and not first.gaussians.sh_rest[:, 3:].any()
    )
    assert make("sharp.ply", tmp_path).gaussians.sh_rest.shape == (50, 0, 3)
    assert "sharp.ply" in first.text


def seen_by_the_camera() -> tuple[torch.Tensor, torch.Tensor, Gaussians]:
    """A picture with an up and a left, its depth, and Gaussians that show both."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 96), indexing="ij")
    image = torch.stack([x, y, 0.5 * (1 - x)])
    depth = 2 + y
    first = initial.first_gaussians(
        GeometrySettings(), image, depth, K, sh_degree=0, blending="display", folder=Path()
    )
    return image, depth, first.gaussians


def of_file(gaussians: Gaussians, path: Path, scale: float = 1.0, axes: str = "opencv") -> None:
    arrays = splat_file.Splats(*(t.numpy() for t in gaussians))
    matrix = np.eye(4)
    matrix[:3, :3] = scale * between("opencv", axes)
    splat_file.write_ply(path, transform_splats(arrays, matrix))


@pytest.mark.parametrize("blending", ["display", "linear"])
def test_how_well_a_given_scene_shows_the_picture_is_said(tmp_path, blending):
    image, depth, gaussians = seen_by_the_camera()
    of_file(gaussians, tmp_path / "near.ply", 0.5)
    made = initial.first_gaussians(
        GeometrySettings(initialiser="near.ply"),
        image,
        depth,
        K,
        sh_degree=0,
        blending=blending,
        folder=tmp_path,
    )
    assert "0.50 times as far as the depth says" in made.text and "100 % of it" in made.text
    found = initial.first_view(made.gaussians, image, depth, K, blending)
    assert f"{found.psnr:.1f} dB" in made.text and found.psnr > 30
    other = initial.first_view(made.gaussians, 1 - image, depth, K, blending)
    assert other.psnr < 12


@pytest.mark.parametrize("axes", ["blender", "gltf"])
def test_a_scene_in_other_axes_is_refused_with_the_command_that_turns_it(
    tmp_path, monkeypatch, axes
):
    image, depth, gaussians = seen_by_the_camera()
    of_file(gaussians, tmp_path / "other.ply", axes=axes)
    settings = GeometrySettings(initialiser="other.ply")
    rest = {"sh_degree": 0, "blending": "display", "folder": tmp_path}
    with pytest.raises(UserError, match=f"has other axes.*those of {axes}") as refused:
        initial.first_gaussians(settings, image, depth, K, **rest)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(refused.value.hint.split("python -m engine ")[1])) == 0
    settings = GeometrySettings(initialiser="turned.ply")
    assert "100 % of it" in initial.first_gaussians(settings, image, depth, K, **rest).text


def test_a_given_scene_goes_into_the_job_folder(tmp_path, monkeypatch):
    """So that a job can be moved and resumed from elsewhere."""
    from engine.commands.generate import DEMO
    from engine.job.run import prepared_job

    splat_file.write_ply(tmp_path / "mine.ply", splats(3.0))
    monkeypatch.chdir(tmp_path)
    asked = (DEMO / "image.jpg", "dolly:1", "draft", {"initialiser": "mine.ply"})
    with prepared_job(tmp_path / "out", *asked) as job:
        pass
    assert job.settings.geometry.initialiser == "input/initial.ply"
    monkeypatch.chdir("/")
    (tmp_path / "mine.ply").unlink()
    image, depth = inputs()
    first = initial.first_gaussians(
        job.settings.geometry,
        image[0],
        depth[0, 0],
        K,
        sh_degree=0,
        blending="display",
        folder=job.folder,
    )
    assert first.gaussians.count == 50
    with pytest.raises(UserError, match=r"mine\.ply does not exist"):
        prepared_job(tmp_path / "out2", *asked).__enter__()
    assert not (tmp_path / "out2").exists()


def test_a_scene_behind_the_camera_is_refused(tmp_path):
    splat_file.write_ply(tmp_path / "behind.ply", splats(-3.0))
    with pytest.raises(UserError, match=r"0 % of the Gaussians of behind\.ply lie before"):
        make("behind.ply", tmp_path)
    with pytest.raises(UserError):
        make("absent.ply", tmp_path)
    with pytest.raises(UserError, match="Unknown initialiser 'magic'"):
        make("magic", tmp_path)


def test_layers_are_the_default(tmp_path):
    first = make("layers", tmp_path)
    assert isinstance(first.gaussians, Gaussians) and "behind its edges" in first.text


def test_flash3d_without_weights_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="weights download flash3d"):
        make("flash3d", tmp_path)


def test_flash3d_is_taken_from_the_weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    save(tmp_path / "flash3d" / "model_re10k_v2.pth")
    monkeypatch.setattr(
        flash3d, "Flash3DConfig", lambda: SMALL
    )  # the released sizes take half a minute on a small machine
    first = make("flash3d", tmp_path, 1)
    assert first.gaussians.sh_degree == 1 and "research only" in first.text
