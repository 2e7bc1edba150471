"""The viewer in a real browser: it shows what the engine draws, obeys hands, and asks nobody."""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import formats
from engine.__main__ import main
from engine.bridge import camera_file
from engine.bridge.errors import UserError
from engine.cameras import trajectory
from engine.commands import view
from engine.formats.scene import Metadata, SplatScene
from engine.geometry.layers import gaussians_from_depth
from engine.job.results import to_splats
from engine.media import images
from engine.outputs import passes
from engine.outputs.viewer import page
from engine.outputs.viewer.contents import contents
from engine.outputs.viewer.server import Server
from tests.browser import chromium

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "engine" / "demo" / "image.jpg"
LEAST_DB = 30.0
WINDOW = (480, 320)  # wide enough for a place beside the buttons

pytestmark = pytest.mark.skipif(
    chromium.found() is None, reason=f"no browser is installed ({', '.join(chromium.NAMES)})"
)


@pytest.fixture(scope="module")
def browser():
    with chromium.running() as running:
        yield running


@pytest.fixture(autouse=True)
def forgets(request):
    """Each test sees the events of its own pages."""
    yield
    if "browser" in request.fixturenames:
        request.getfixturevalue("browser").events.clear()


def _scene(width: int, antialiased: bool = False) -> SplatScene:
    """The demo's picture on a floor and a wall, one Gaussian a pixel, as a job begins."""
    picture = images.load_image(PICTURE).pixels
    height = round(width * picture.shape[1] / picture.shape[2])
    image = images.resize(picture, width, height)
    rows = torch.arange(height)[:, None].expand(height, width) + 0.5
    floor = 1.6 * width / (rows - 0.52 * height).clamp_min(1e-3) / (2 * np.tan(np.radians(30)))
    depth = floor.clamp(max=9.0) + 0.02 * (image.mean(dim=0) - 0.5)
    K = torch.tensor([[_focal(width), 0, width / 2], [0, _focal(width), height / 2], [0, 0, 1]])
    made = gaussians_from_depth(image, depth, K.float()).gaussians
    return SplatScene(to_splats(made), Metadata(antialiased=antialiased))


def _continued(scene: SplatScene) -> SplatScene:
    """The scene and, beside what its picture shows, the same once more."""
    beside = scene.splats.means + np.array([10.4, 0, 0], np.float32)
    both = zip(scene.splats, scene.splats._replace(means=beside), strict=True)
    return SplatScene(type(scene.splats)(*(np.concatenate(pair) for pair in both)))


def _focal(width: int) -> float:
    return width / 2 / np.tan(np.radians(30))


def _path(width: int, move: str = "dolly:1+truck:0.6", frames: int = 9):
    picture = images.load_image(PICTURE).pixels
    height = round(width * picture.shape[1] / picture.shape[2])
    K = np.array([[_focal(width), 0, width / 2], [0, _focal(width), height / 2], [0, 0, 1]])
    return trajectory.move(move, K=K, width=width, height=height, frames=frames, depth_m=5.0)


def _drawn(scene: SplatScene, path, index: int) -> np.ndarray:
    """The engine's picture."""
    ready = passes.drawable(scene, torch.device("cpu"))
    drawn = passes.draw_passes(
        ready,
        path.K[index],
        path.world_from_camera[index],
        path.width,
        path.height,
        linear=False,
    )
    return drawn.rgb.clamp(0, 1).numpy()


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2) + 1e-10))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(scene, path, page as a file): few splats, since without a card each costs much to draw; a
    path that plays for longer than any test.
    """
    scene, path = _continued(_scene(112)), _path(160, "truck:2")._replace(fps=0.01)
    file = tmp_path_factory.mktemp("page") / "scene.html"
    shown = contents(scene, "<img src=x onerror=alert(1)>", cameras=path, picture=PICTURE)
    page.write(file, shown)
    return scene, path, file


@pytest.fixture(scope="module")
def coarse(small, tmp_path_factory):
    """The page of `small` with next to no splats: where the camera stands is all that counts."""
    scene, path, _ = small
    file = tmp_path_factory.mktemp("coarse") / "scene.html"
    page.write(file, contents(scene, "coarse", cameras=path, count=1000))
    return file


def _opened(browser, url: str, path) -> chromium.Page:
    return browser.open(url, path.width, path.height)


def _shows_what_the_engine_draws(browser, made: Path, scene: SplatScene, path) -> None:
    opened = _opened(browser, made.as_uri(), path)
    for index in (0, path.count - 1):
        shown = opened.pixels(f"viewer.show({index})")
        assert _psnr(shown, _drawn(scene, path, index)) >= LEAST_DB
    assert browser.complaints() == []
    assert browser.requests() == [made.as_uri()], "no request but for the page itself"


def test_the_canvas_shows_what_the_engine_draws(browser, small):
    scene, path, file = small
    _shows_what_the_engine_draws(browser, file, scene, path)


def test_the_page_of_a_job_shows_what_the_engine_draws(browser, tmp_path):
    quick = "--width 96 --move-frames 4 --refine-steps 8 --steps 2 --prior patch --device cpu"
    assert main(["generate", "--path", "truck:1", "--out", str(tmp_path), *quick.split()]) == 0
    path = camera_file.read(tmp_path / "cameras.json")
    scene = formats.read(tmp_path / "scene.ply").in_axes("opencv", 1.0)
    _shows_what_the_engine_draws(browser, tmp_path / "scene.html", scene, path)


def test_the_page_of_a_capture_shows_what_the_engine_draws(browser, tmp_path, shared_data):
    """A real capture with view-dependent colour, in axes of its own."""
    file = shared_data / "splats" / "leica-sofort" / "leica-sofort-top8192.ply"
    scene = formats.read(file).in_axes("opencv", 1.0)
    middle = np.median(scene.splats.means, axis=0)
    path = _path(240, "orbit:40", frames=3)
    path.world_from_camera[:, :3, 3] += middle - [0, 0, 5]
    camera_file.write(tmp_path / "path.json", path)
    made = tmp_path / "capture.html"
    assert main(["convert", str(file), str(made), "--cameras", str(tmp_path / "path.json")]) == 0
    _shows_what_the_engine_draws(browser, made, scene, path)


def test_an_antialiased_scene_too(browser, tmp_path):
    scene, path = _scene(192, antialiased=True), _path(192, "orbit:12", frames=2)
    page.write(tmp_path / "scene.html", contents(scene, "fine", cameras=path))
    opened = _opened(browser, (tmp_path / "scene.html").as_uri(), path)
    shown = opened.pixels(f"viewer.show({path.count - 1})")
    assert _psnr(shown, _drawn(scene, path, path.count - 1)) >= LEAST_DB


def test_view_dependent_colour_and_a_camera_off_centre(browser, tmp_path):
    scene, path = _scene(112), _path(160)
    rng = np.random.default_rng(0)
    rest = rng.normal(0, 0.03, (scene.count, 15, 3)).astype(np.float32)
    scene = SplatScene(scene.splats._replace(sh_rest=rest))
    path.K[:, 0, 2] += 12
    page.write(tmp_path / "scene.html", contents(scene, "SH", cameras=path))
    opened = _opened(browser, (tmp_path / "scene.html").as_uri(), path)
    assert _psnr(opened.pixels("viewer.show(4)"), _drawn(scene, path, 4)) >= LEAST_DB


def _ahead(z: float) -> str:
    """Whether the camera has flown so far."""
    return f"viewer.pose().position[2] > {z}"


def test_keys_mouse_and_wheel_move_the_camera(browser, coarse):
    opened = browser.open(coarse.as_uri(), *WINDOW)
    home = opened.run("viewer.pose()")
    opened.press("KeyW", _ahead(home["position"][2] + 0.1))
    flown = opened.run("viewer.pose()")
    assert flown["position"][2] > home["position"][2] + 0.05
    assert flown["rotation"] == pytest.approx(home["rotation"])
    opened.drag((60, 160), (160, 160))
    looked = opened.run("viewer.pose()")
    assert looked["position"] == flown["position"]
    assert abs(looked["rotation"][1]) > 0.05, "the mouse turns about the upright axis"
    assert abs(looked["rotation"][2]) < 1e-6, "and the horizon stays level"
    opened.wheel(60, 160, -100)
    assert opened.run("viewer.pose()")["position"] != looked["position"]
    opened.run("document.getElementById('orbit').click()")
    before = opened.run("viewer.pose()")
    opened.drag((60, 160), (90, 150))
    after = opened.run("viewer.pose()")
    assert after["position"] != before["position"]
    opened.run("document.getElementById('home').click()")
    assert opened.run("viewer.pose()") == home
    opened.press("Space")
    assert opened.run("viewer.state().playing")
    opened.press("Space")
    assert not opened.run("viewer.state().playing")
    assert browser.complaints() == []


def test_colours_on_a_key_and_fewer_splats_change_the_picture(browser, small):
    _, path, file = small
    opened = _opened(browser, file.as_uri(), path)
    pictures = [opened.pixels("viewer.show(8)")]
    for key in ("Digit2", "Digit3"):
        opened.press(key)
        pictures.append(opened.pixels())
    known, invented = np.array([70, 170, 255]) / 255, np.array([255, 140, 40]) / 255
    assert (pictures[1] @ (known - invented) < -0.05).mean() > 0.02, "something was invented"
    assert _psnr(pictures[0], pictures[1]) < 25
    assert not opened.run("document.getElementById('key').hidden")
    opened.press("Digit1")
    assert _psnr(opened.pixels(), pictures[0]) > 50, "and back"
    opened.run(
        "(() => { const c = document.getElementById('count'); c.value = 20;"
        " c.dispatchEvent(new Event('input')); })()"
    )
    assert opened.run("viewer.state().share") == 0.2
    assert _psnr(opened.pixels(), pictures[0]) < 30
    assert browser.complaints() == []


def test_a_path_drawn_by_hand_is_our_camera_file(browser, small, coarse, tmp_path):
    _, path, _ = small
    opened = browser.open(coarse.as_uri(), *WINDOW)
    opened.press("KeyW", _ahead(0.1))
    opened.press("KeyK")
    opened.drag((60, 160), (120, 170))
    opened.press("KeyK")
    assert opened.run("viewer.state().keys") == 3, "the picture's own view comes first"
    (tmp_path / "mine.json").write_text(opened.run("viewer.ownPathFile()"))
    mine = camera_file.read(tmp_path / "mine.json")
    assert mine.count == 49 and (mine.width, mine.height) == (path.width, path.height)
    np.testing.assert_allclose(mine.world_from_camera[0], path.world_from_camera[0], atol=1e-6)
    np.testing.assert_allclose(mine.K[0], path.K[0], rtol=1e-6)
    last = opened.run("Paths.matrixOf(viewer.pose())")
    np.testing.assert_allclose(mine.world_from_camera[-1], last, atol=1e-6)
    steps = np.linalg.norm(np.diff(mine.world_from_camera[:, :3, 3], axis=0), axis=1)
    assert steps[0] < 0.3 * steps.max(), "it begins at rest"


def test_nothing_of_the_scene_is_taken_for_markup(browser, small):
    _, path, file = small
    opened = _opened(browser, file.as_uri(), path)
    assert opened.run("document.title") == "<img src=x onerror=alert(1)>"
    assert opened.run("document.querySelectorAll('img').length") == 1
    refused = opened.run("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert refused == "refused", "the policy lets no request leave"


@pytest.fixture
def served():
    """A function that serves a source until the test ends, and gives the address."""
    servers = []

    def serve(source, variants=None) -> str:
        server = Server(source, variants=variants)
        threading.Thread(target=server.serve, daemon=True).start()
        servers.append(server)
        return server.address

    yield serve
    for server in servers:
        server.shut_down()
        server.close()


def test_the_served_page_shows_the_same_and_asks_its_server_alone(browser, small, served, tmp_path):
    scene, path, _ = small
    formats.write(tmp_path / "scene.ply", scene)
    camera_file.write(tmp_path / "path.json", path)
    source = view.open_source(tmp_path / "scene.ply", tmp_path / "path.json", None, None, 24)
    address = served(source)
    opened = _opened(browser, address, path)
    assert _psnr(opened.pixels("viewer.show(3)"), _drawn(scene, path, 3)) >= LEAST_DB
    assert browser.complaints() == []
    assert all(url.startswith(address) for url in browser.requests())


def test_a_variant_is_chosen_from_the_list_and_shown_from_the_same_place(
    browser, small, served, tmp_path
):
    scene, path, _ = small
    paler = SplatScene(scene.splats._replace(sh_dc=scene.splats.sh_dc * 0.4))
    camera_file.write(tmp_path / "path.json", path)
    sources = {}
    for name, shown in (("v1", scene), ("v2", paler)):
        formats.write(tmp_path / f"{name}.ply", shown)
        file = tmp_path / f"{name}.ply"
        sources[name] = view.open_source(file, tmp_path / "path.json", None, None, 24)
    address = served(sources["v1"], sources)
    opened = _opened(browser, address, path)
    opened.run("viewer.show(3)")
    assert opened.run("[...document.querySelectorAll('#variants option')].map((o) => o.value)") == [
        "v1",
        "v2",
    ]
    for name, shown in (("v2", paler), ("v1", scene)):
        opened.run(
            f"(() => {{ const list = document.getElementById('variants'); list.value = '{name}';"
            " list.dispatchEvent(new Event('change')); })()"
        )
        opened.arrive(f"location.pathname.endsWith('/{name}/')")
        assert _psnr(opened.pixels(), _drawn(shown, path, 3)) >= LEAST_DB, name
        assert opened.run("document.getElementById('variants').value") == name
    assert browser.complaints() == []
    assert all(url.startswith(address) for url in browser.requests())


def test_a_damaged_view_in_the_address_shows_the_first_one(browser, small, served, tmp_path):
    scene, path, _ = small
    formats.write(tmp_path / "v1.ply", scene)
    camera_file.write(tmp_path / "path.json", path)
    source = view.open_source(tmp_path / "v1.ply", tmp_path / "path.json", None, 500, 24)
    opened = _opened(browser, served(source, {"v1": source}) + "#%E0%A4%A", path)
    assert "the view in the address cannot be read" in opened.run(
        "document.getElementById('status').textContent"
    )
    now = opened.run("viewer.pose()")
    assert now == opened.run("(viewer.show(0), viewer.pose())")
    for text in json.dumps(now), "7":
        assert opened.run(f"Paths.viewOf({json.dumps(text)})") == json.loads(text)
    flat, far = {**now, "K": {**now["K"], "fx": 0}}, {**now, "position": [1e999, 0, 0]}
    turned = {**now, "rotation": [0, 0, 0, 0]}
    for damaged in ("{", "4.5", "null", '"a"', "[]", "{}", *map(json.dumps, (flat, far, turned))):
        assert opened.run(f"Paths.viewOf({json.dumps(damaged)})") is None, damaged
    assert browser.complaints() == []


def test_numbered_files_play(browser, small, served, tmp_path):
    scene, _, _ = small
    for number in (1, 2, 3):
        moved = scene.splats.means + np.array([0.5 * number, 0, 0], np.float32)
        frame = SplatScene(scene.splats._replace(means=moved))
        formats.write(tmp_path / f"smoke_{number:04d}.ply", frame)
    address = served(view.open_source(tmp_path, None, None, 2000, 12))
    opened = browser.open(address, 160, 100)
    first = opened.pixels()
    opened.press("Space")
    opened.wait("viewer.state().sequenceFrame > 0")
    opened.press("Space")
    assert not opened.run("viewer.state().playing")
    opened.run(
        "(() => { const f = document.getElementById('frame'); f.value = 2;"
        " f.dispatchEvent(new Event('input')); })()"
    )
    opened.wait("viewer.state().sequenceFrame === 2")
    assert _psnr(opened.pixels(), first) < 40
    assert browser.complaints() == []


def _status(url: str, host: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_strangers_get_nothing(small, served, tmp_path):
    scene, _, _ = small
    formats.write(tmp_path / "scene.ply", scene)
    address = served(view.open_source(tmp_path / "scene.ply", None, None, 5000, 24))
    root, _ = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)([\w-]{22})/", address).groups()
    assert _status(address) == 200
    assert _status(root) == _status(root + "x" * 22 + "/") == 404
    assert _status(address + "../../etc/passwd") == _status(address + "scene/1.spz") == 404
    assert _status(address, host="evil.example:80") == 404, "a name that was rebound to loopback"
    with urllib.request.urlopen(address + "state.json", timeout=10) as answer:
        assert json.load(answer)["version"] == "1"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_port_that_is_taken_is_said(small):
    first = Server(None)
    try:
        with pytest.raises(UserError, match="cannot be used") as raised:
            Server(None, first.port)
        assert "--port" in raised.value.hint
    finally:
        first.close()


def test_the_library_is_the_one_on_record():
    import hashlib

    folder = ROOT / "engine" / "outputs" / "viewer"
    record = json.loads((folder / "spark.json").read_text())
    library = (folder / "spark.js").read_bytes()
    assert hashlib.sha256(library).hexdigest() == record["sha256"]
    assert len(library) == record["bytes"]
    lock = json.loads((ROOT / "scripts" / "viewer" / "package-lock.json").read_text())["packages"]
    for name, version in record["packages"].items():
        assert lock[f"node_modules/{name}"]["version"] == version
    licences = (folder / "spark_licences.txt").read_text()
    assert all(
        f"{name} {version} (MIT)" in licences for name, version in record["packages"].items()
    )


def test_the_page_is_base64_and_json_that_end_no_script(small):
    text = small[2].read_text()
    data = re.search(r'id="page">(.*?)</script>', text)[1]
    assert "<" not in data and json.loads(data)["title"].startswith("<img")
    base64.b64decode(re.search(r'id="splats">(.*?)</script>', text)[1], validate=True)
