"""Learned depth: loaded from disk as released, fed as the library would feed it, metres kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.bridge.errors import UserError
from engine.bridge.settings import GeometrySettings
from engine.geometry import learned, make_depth_source
from tests import tiny_models as tiny

CPU = torch.device("cpu")
NAMES = tuple(learned.LEARNED)


def picture(h: int = 60, w: int = 84, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    image = torch.nn.functional.interpolate(
        torch.rand(1, 3, 5, 7, generator=g), size=(h, w), mode="bicubic"
    )[0].clamp(0, 1)
    return (image * 255).round() / 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for name in NAMES:
        changes = {"max_depth": 16} if name.endswith("outdoor") else {}
        tiny.save_depth_model(name, root / name, **changes)
    return root


@pytest.fixture
def sources(folder, monkeypatch):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(folder))
    monkeypatch.setattr(learned._DepthPro, "SIDE", 32)  # the small network's own size
    return lambda name: make_depth_source(GeometrySettings(depth=name), CPU)


@pytest.mark.parametrize("name", NAMES)
def test_every_source_gives_metres_for_every_pixel(sources, name):
    source, image = sources(name), picture()
    estimate = source.estimate(image, None)
    assert estimate.depth_m.shape == image.shape[1:]
    assert bool((estimate.depth_m > 0).all())
    finite = estimate.depth_m[torch.isfinite(estimate.depth_m)]
    assert finite.std() > 1e-3  # not a constant
    assert (estimate.metric, estimate.name) == (True, name)
    assert (estimate.licence == learned.weights.known(name).licence) and estimate.licence
    again = source.estimate(picture(), None)
    assert torch.equal(again.depth_m, estimate.depth_m)
    assert not torch.equal(source.estimate(picture(seed=1), None).depth_m, estimate.depth_m)


def as_bytes(image: Tensor):
    return (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize(("h", "w"), [(600, 800), (300, 900), (518, 518), (1080, 720)])
def test_depth_anything_is_fed_as_the_library_feeds_it(h, w):
    from transformers import DPTImageProcessorPil

    processor = DPTImageProcessorPil(
        size={"height": 518, "width": 518},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    image = picture(h, w)
    theirs = processor(images=as_bytes(image), return_tensors="pt").pixel_values
    fed: list[Tensor] = []

    class Spy(torch.nn.Module):
        class config:
            max_depth = 20

        def forward(self, x: Tensor):
            fed.append(x)
            return type("Output", (), {"predicted_depth": x[:, 0]})()

    depth = learned._DepthAnything(Spy(), outdoor=False)(image).depth_for(None)
    assert fed[0].shape == theirs.shape
    assert (fed[0] - theirs).abs().max() < 0.05  # theirs goes through bytes
    assert depth.shape == (h, w)


def test_zoedepth_equals_the_librarys_processor(folder):
    from transformers import ZoeDepthForDepthEstimation, ZoeDepthImageProcessorPil

    processor = ZoeDepthImageProcessorPil(ensure_multiple_of=32)
    network, image = (
        ZoeDepthForDepthEstimation.from_pretrained(folder / "zoedepth").eval(),
        picture(120, 200),
    )
    inputs = processor(images=as_bytes(image), return_tensors="pt")
    with torch.no_grad():
        raw = network(**inputs).predicted_depth
    padded = torch.nn.functional.interpolate(
        raw[None], size=(120 + 2 * 23, 200 + 2 * 30), mode="bicubic"
    )[0, 0]
    theirs = padded[23:-23, 30:-30]
    ours = learned.load("zoedepth", folder / "zoedepth", CPU).estimate(image, None).depth_m
    assert (ours - theirs).abs().max() < 1e-3 * theirs.max()


def test_depth_pro_in_16_bits_as_on_a_card_is_the_same_depth_and_lens(sources, folder):
    from transformers import DepthProForDepthEstimation

    source, image = sources("depth_pro"), picture()
    half = DepthProForDepthEstimation.from_pretrained(folder / "depth_pro", dtype=torch.float16)
    with torch.no_grad():
        seen = learned._DepthPro(half.eval())(image)
    assert seen.fov_deg == pytest.approx(source._look(image).fov_deg, rel=5e-3)
    whole = source.estimate(image, None).depth_m
    torch.testing.assert_close(seen.depth_for(None), whole, rtol=1e-2, atol=1e-3)


def test_a_depth_model_that_does_not_fit_is_said_with_a_smaller_one():
    def too_large(image: Tensor) -> learned.Reading:
        raise torch.OutOfMemoryError("CUDA out of memory")

    source = learned.LearnedDepth("depth_pro", "", CPU, too_large)
    with pytest.raises(UserError, match="depth_pro does not fit") as raised:
        source.estimate(picture(), None)
    assert "moge_2_small" in raised.value.hint


def test_depth_pro_gives_a_camera_and_depth_for_it(sources, folder):
    """The library's formulas: f = w / (2 tan(fov / 2)), depth = f / (w * inverse)."""
    from transformers import DepthProForDepthEstimation

    source, image = sources("depth_pro"), picture()
    K = source.intrinsics(image)
    estimate = source.estimate(image, None)
    network = DepthProForDepthEstimation.from_pretrained(folder / "depth_pro").eval()
    square = torch.nn.functional.interpolate(image[None], size=(32, 32), mode="bilinear")
    with torch.no_grad():
        output = network(square * 2 - 1)
    focal = 0.5 * 84 / torch.tan(torch.deg2rad(output.field_of_view[0]) / 2)
    assert float(K[0, 0]) == pytest.approx(float(focal), rel=1e-5)
    assert float(K[0, 0]) == float(K[1, 1]) and K[0, 2] == 42 and K[1, 2] == 30
    inverse = torch.nn.functional.interpolate(
        output.predicted_depth[None] * 84 / focal, size=(60, 84), mode="bilinear"
    )[0, 0]
    assert torch.allclose(estimate.depth_m, 1 / inverse.clamp(1e-4, 1e4), rtol=1e-4)
    twice = torch.diag(torch.tensor([2.0, 2.0, 1.0])) @ K
    known = source.estimate(image, twice)
    assert torch.allclose(
        known.depth_m, 2 * estimate.depth_m, rtol=1e-4
    )  # a longer lens: everything is farther away
    assert torch.equal(known.K, twice)


def test_models_without_a_camera_say_so(sources):
    assert sources("zoedepth").intrinsics(picture()) is None
    assert sources("depth_anything_3").intrinsics(picture()) is None
    assert sources("moge_2").intrinsics(picture()) is not None


def test_every_depth_model_among_the_weights_is_a_source():
    assert set(learned.LEARNED) == {
        name for name, entry in learned.registry.WITH_FILES.items() if entry.kind == "depth"
    }


def test_the_network_looks_once_at_a_picture(sources):
    source, image, looks = sources("depth_pro"), picture(), []
    model = source._model
    source._model = lambda x: (looks.append(x), model(x))[1]
    source.intrinsics(image), source.estimate(image, None)
    assert len(looks) == 1
    source.estimate(picture(seed=2), None)
    assert len(looks) == 2


def test_saturated_depth_outdoors_is_sky(sources):
    source = sources("depth_anything_v2_outdoor")
    raw = source._look(picture())
    depth = torch.where(torch.arange(84) < 20, 16.0, raw.depth_for(None).clamp(max=10.0))
    network = source._model.network
    network.forward = lambda pixels: type("Output", (), {"predicted_depth": depth[None]})()
    estimate = source.estimate(picture(seed=3), None)
    assert bool(torch.isinf(estimate.depth_m[:, :20]).all()) and bool(
        torch.isfinite(estimate.depth_m[:, 20:]).all()
    )
    assert any("sky" in note for note in estimate.notes)


def test_what_cannot_be_believed_is_refused(sources, folder, tmp_path):
    source = sources("depth_pro")
    raw = source._look(picture())
    source._model = lambda x: raw._replace(fov_deg=0.0)
    with pytest.raises(UserError, match="takes the field of view"):
        source.intrinsics(picture(seed=4))
    known = source.estimate(
        picture(seed=4), torch.diag(torch.tensor([60.0, 60.0, 1.0]))
    )  # who sets fov, as told, is served
    assert float(known.K[0, 0]) == 60.0 and bool((known.depth_m > 0).all())
    source._model = lambda x: raw._replace(
        depth_for=lambda focal: torch.full((60, 84), float("nan"))
    )
    with pytest.raises(UserError, match="not a number"):
        source.estimate(picture(seed=5), None)
    tiny.save_depth_model(
        "depth_anything_v2_indoor",
        tmp_path / "relative",
        depth_estimation_type="relative",
        max_depth=1,
    )
    with pytest.raises(UserError, match="without metres"):
        learned.load("depth_anything_v2_indoor", tmp_path / "relative", CPU)
    with pytest.raises(UserError, match="holds ZoeDepthForDepthEstimation, not DepthPro"):
        learned.load("depth_pro", folder / "zoedepth", CPU)


def test_absent_weights_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("SCENE_SPLATTER_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="weights download depth_pro"):
        make_depth_source(GeometrySettings(depth="depth_pro"), CPU)


def test_network_sizes_keep_the_aspect():
    assert learned.network_size(518, 518, (518, 518), 14) == (518, 518)
    assert learned.network_size(1036, 2072, (518, 518), 14) == (
        518,
        1036,
    )  # the smaller change of scale
    assert learned.network_size(259, 518, (518, 518), 14) == (252, 518)
