"""The report in a real browser: on a desk and on a phone, from a folder of any name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engine.job import report
from tests.browser import chromium

pytestmark = pytest.mark.skipif(
    chromium.found() is None, reason=f"no browser is installed ({', '.join(chromium.NAMES)})"
)
PICTURES = ["input.png", "input_render.png", "plots/loss.png", "plots/psnr.png", "plots/ssim.png"]
PICTURES += [
    f"segments/000/maps/{name}_{place}.png"
    for name in report._MAPS
    for place in ("first", "middle", "last")
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report as a job of 512x288 has it, in a folder with a space and an umlaut."""
    folder = tmp_path_factory.mktemp("job") / "Wohn zimmer ü"
    for name in PICTURES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (770, 330) if "plots" in name else (512, 288)).save(folder / name)
    segment = {"start": 0, "stop": 25, "unknown_share": 0.1, "lambda_mean": 0.5, "mu_mean": 0.5}
    segment |= {"gaussians": 167224, "opacity_mean": 0.5, "seconds": {"render": 1.0}}
    finding = {"name": "Geometry", "measured": "along the path 0 % bend", "advice": "", "ok": True}
    data = {
        "facts": {"path": "a/very/long/name/" * 12, "depth": "small network"},
        "verdict": "python -m engine weights download moge_2_small.",
        "findings": [finding],
        "segments": [segment | {"peak_mb": {}}],
        "input_psnr": 30.0,
    }
    page = folder / "report.html"
    page.write_text(report._page(data), encoding="utf-8")
    return page


@pytest.mark.parametrize(("width", "height", "phone"), [(1400, 900, False), (390, 844, True)])
def test_no_picture_is_lost_and_nothing_lies_beside_the_screen(written, width, height, phone):
    with chromium.running() as browser:
        page = browser.open(written.as_uri(), width, height, phone=phone)
        page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.run("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.wait("[...document.images].every(i => i.complete)")
        lost = page.run("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
        assert lost == [] and page.run("document.images.length") == len(PICTURES) + 2
        assert page.run("document.documentElement.scrollWidth") == width
