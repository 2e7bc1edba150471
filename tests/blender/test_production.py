"""Other formats, proxy mesh and passes: operators that hand the work to a real engine process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")
pytestmark = pytest.mark.blender

from scene_splatter.blender_addon.jobs import engine_location, results  # noqa: E402
from scene_splatter.blender_addon.jobs.side_job import SideJob  # noqa: E402
from scene_splatter.blender_addon.jobs.side_job_operator import side_job  # noqa: E402
from scene_splatter.blender_addon.publish import production  # noqa: E402
from scene_splatter.blender_addon.splats import splat_object  # noqa: E402
from scene_splatter.blender_addon.ui import other_formats  # noqa: E402
from scene_splatter.engine.bridge import splat_file  # noqa: E402

from tests.blender.splat_scene import add_splats, empty_scene, random_splats, render  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def _engine_python() -> Path | None:
    name = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    return next((p for p in (ROOT / ".venv" / name,) if p.is_file()), None)


@pytest.fixture
def splats(addon, tmp_path: Path, monkeypatch):
    """A saved scene with one splat object, active, and an engine that can be started."""
    python = _engine_python()
    if python is None:
        pytest.skip("the engine's environment .venv is missing")
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, str(python))
    scene = empty_scene(64, 48)
    scene.frame_start, scene.frame_end = 3, 4
    ob = add_splats(random_splats(200, 8))
    bpy.context.view_layer.objects.active = ob
    bpy.context.view_layer.update()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return bpy.context.view_layer.objects.active


def _run(operator, **arguments) -> None:
    assert operator("EXEC_DEFAULT", **arguments) == {"FINISHED"}, side_job.problem
    side_job.wait(300)
    assert not side_job.problem and side_job.outcome


@pytest.mark.parametrize("ending", [".spz", ".glb", ".usdc", ".compressed.ply"])
def test_out_and_in_again_stands_where_it_stood(splats, tmp_path, ending):
    splats.location = (1, 2, 3)
    bpy.context.view_layer.update()
    before = splat_object.to_splats(splats)
    matrix = np.array(splats.matrix_world)
    target = tmp_path / f"a{ending}"
    _run(bpy.ops.scene_splatter.export_format, filepath=str(target), file_format=ending)
    assert target.stat().st_size > 0
    names = set(bpy.data.objects.keys())
    _run(bpy.ops.scene_splatter.import_format, filepath=str(target))
    (name,) = set(bpy.data.objects.keys()) - names
    ob = bpy.data.objects[name]
    bpy.context.view_layer.update()
    after = splat_object.to_splats(ob)
    assert len(after.means) == 200 and after.sh_rest.shape[1] == 8 and name == "a"
    assert bpy.context.view_layer.objects.active == ob and ob.select_get(), "as a .ply's"

    def world(points, m):
        return points @ m[:3, :3].T + m[:3, 3]

    expected, found = world(before.means, matrix), world(after.means, np.array(ob.matrix_world))
    if ending == ".compressed.ply":  # its order is its own
        expected, found = (p[np.lexsort(np.round(p, 1).T)] for p in (expected, found))
        np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), atol=0.01)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-3)


def _shown(sh_dc: np.ndarray) -> np.ndarray:
    """Display values as far as a screen shows them: some formats keep no others."""
    return np.clip(0.5 + 0.28209479177387814 * sh_dc, 0, 1)


def _as_ply(files: list[Path]) -> list[splat_file.Splats]:
    """What the engine reads in each file, by one process for all."""
    made = [file.with_name(f"back_{i}.ply") for i, file in enumerate(files)]
    program = (
        "import sys; from pathlib import Path; from engine import formats\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    back = path.with_name(f'back_{sys.argv.index(str(path)) - 1}.ply')\n"
        "    formats.write(back, formats.read(path), formats.WriteOptions(axes='opencv'))\n"
    )
    command = [str(_engine_python()), "-c", program, *map(str, files)]
    subprocess.run(command, cwd=ROOT, check=True)
    return [splat_file.read_ply(path) for path in made]


@pytest.mark.slow
def test_splats_that_blender_imported_itself_go_to_every_format(splats, tmp_path):
    """Blender 5.3 reads .ply of splats and writes them to none; compared with what was imported,
    upright.
    """
    if not splat_object.is_native():
        pytest.skip("this Blender imports no splats: 5.3 and later do")
    made = random_splats(200, 8)
    splat_file.write_ply(tmp_path / "own.ply", made)
    bpy.ops.wm.ply_import(filepath=str(tmp_path / "own.ply"))
    bpy.ops.scene_splatter.stand_upright()
    bpy.context.view_layer.update()
    imported = bpy.context.view_layer.objects.active
    assert bpy.context.view_layer.objects.active == imported
    endings = (".spz", ".glb", ".usdc", ".compressed.ply", ".splat", ".sog", ".ply")
    targets = [tmp_path / f"out{ending}" for ending in endings]
    for target, ending in zip(targets, endings, strict=True):
        _run(bpy.ops.scene_splatter.export_format, filepath=str(target), file_format=ending)
    for target, back in zip(targets, _as_ply(targets), strict=True):
        assert len(back.means) == 200, target.name
        for found, given in (
            (back.means, made.means),
            (_shown(back.sh_dc), _shown(made.sh_dc)),
            (back.scales_log, made.scales_log),
        ):  # files with an order of their own, and few bits
            np.testing.assert_allclose(found.mean(0), given.mean(0), atol=0.05, err_msg=target.name)
            np.testing.assert_allclose(found.std(0), given.std(0), rtol=0.05, err_msg=target.name)


def test_axes_of_a_program_are_written(splats, tmp_path):
    splats.matrix_world.identity()
    bpy.context.view_layer.update()
    _run(
        bpy.ops.scene_splatter.export_format,
        filepath=str(tmp_path / "u.ply"),
        file_format=".ply",
        axes="unreal",
    )
    comments = splat_file.read_comments(tmp_path / "u.ply")
    assert "scene_splatter axes unreal" in comments
    local = splat_object.to_splats(splats).means  # Blender's axes now: x right, y forward, z up
    np.testing.assert_allclose(
        splat_file.read_ply(tmp_path / "u.ply").means,
        local[:, [1, 0, 2]] * 100,
        rtol=1e-4,
        atol=1e-3,
    )


def test_a_file_that_is_none_is_said_and_changes_nothing(splats, tmp_path):
    (tmp_path / "bad.spz").write_bytes(b"no splats in here")
    objects = set(bpy.data.objects.keys())
    with pytest.raises(RuntimeError, match="damaged"):
        bpy.ops.scene_splatter.import_format("EXEC_DEFAULT", filepath=str(tmp_path / "bad.spz"))
    assert set(bpy.data.objects.keys()) == objects and not side_job.running


def test_the_proxy_lies_on_the_splats_and_is_replaced(splats):
    splats.location = (0, 0, 1)
    bpy.context.view_layer.update()
    for use, flags in (("PLAIN", (False, False, True)), ("HOLDOUT", (False, True, False))):
        _run(bpy.ops.scene_splatter.make_proxy, faces=500, resolution=32, use=use)
        (proxy,) = (child for child in splats.children if production.PROXY in child)
        assert (proxy.is_shadow_catcher, proxy.is_holdout, proxy.hide_render) == flags
    assert 0 < len(proxy.data.polygons) <= 500
    matrix, splat_matrix = np.array(proxy.matrix_world), np.array(splats.matrix_world)
    vertices = np.array([v.co for v in proxy.data.vertices]) @ matrix[:3, :3].T + matrix[:3, 3]
    means = splat_object.to_splats(splats).means @ splat_matrix[:3, :3].T + splat_matrix[:3, 3]
    assert (vertices > means.min(axis=0) - 0.5).all() and (vertices < means.max(axis=0) + 0.5).all()


def test_a_shadow_catcher_leaves_the_splats_picture_alone_and_catches_in_a_layer_of_its_own(
    splats, tmp_path
):
    """Beside the splats it would hide those behind it. A roof above the splats darkens the proxy's
    layer, and that alone.
    """
    scene = bpy.context.scene
    cycles = "CYCLES"
    before = render(scene, cycles, tmp_path / "before.exr")
    _run(bpy.ops.scene_splatter.make_proxy, faces=500, resolution=32, use="SHADOW")
    main, apart = scene.view_layers[0], scene.view_layers[production.PROXY_LAYER]
    assert splats.name in main.objects and splats.name not in apart.objects
    (proxy,) = (child for child in splats.children if production.PROXY in child)
    assert proxy.name in apart.objects and proxy.name not in main.objects
    assert proxy.is_shadow_catcher and not proxy.is_holdout and not proxy.hide_render
    apart.use = False
    np.testing.assert_allclose(render(scene, cycles, tmp_path / "after.exr"), before, atol=1e-6)
    apart.use, main.use = True, False
    scene.render.film_transparent = True
    lamp = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    scene.collection.objects.link(lamp)
    lit = render(scene, cycles, tmp_path / "lit.exr")
    bpy.ops.mesh.primitive_plane_add(size=50, location=(0, 0, 30))
    shaded = render(scene, cycles, tmp_path / "shaded.exr")
    assert (
        lit[..., 3].max() < 0.01 and shaded[..., 3].max() > 0.5
    )  # a caught shadow is black with alpha


def test_a_published_proxy_is_not_rendered_and_a_new_one_can_be_made_for_the_link(splats, tmp_path):
    """The set goes into a library, the proxy with it; whoever links it has no view layer that keeps
    the two apart.
    """
    splat_file.write_ply(tmp_path / "scene.ply", random_splats(200, 0))
    ob = results.add(bpy.context.scene, results.read(tmp_path / "scene.ply"), shot="shot")
    bpy.context.view_layer.update()
    bpy.context.view_layer.objects.active = ob
    _run(bpy.ops.scene_splatter.make_proxy, faces=500, resolution=32, from_camera=False)
    assert bpy.ops.scene_splatter.publish(directory="//lib/") == {"FINISHED"}
    bpy.context.view_layer.update()
    linked = next(
        o
        for o in bpy.context.scene.objects
        if o.override_library and splat_object.is_splat_object(o)
    )
    (proxy,) = (child for child in linked.children if production.PROXY in child)
    assert proxy.override_library is not None and proxy.hide_render
    bpy.context.view_layer.objects.active = linked
    _run(bpy.ops.scene_splatter.make_proxy, faces=500, resolution=32, from_camera=False)
    (own,) = (
        child
        for child in linked.children
        if production.PROXY in child and child.override_library is None
    )
    assert (
        not own.hide_render
        and own.name in bpy.context.scene.view_layers[production.PROXY_LAYER].objects
    )
    assert linked.name not in bpy.context.scene.view_layers[production.PROXY_LAYER].objects


def test_passes_are_rendered_through_the_scene_camera(splats, tmp_path):
    _run(bpy.ops.scene_splatter.render_passes, directory=str(tmp_path / "passes"), kind="png")
    names = sorted(p.name for p in (tmp_path / "passes").iterdir())
    assert names == [f"{n}_{i:04d}.png" for n in ("depth", "normal", "rgba") for i in (3, 4)]
    image = bpy.data.images.load(str(tmp_path / "passes" / "rgba_0003.png"))
    assert tuple(image.size) == (64, 48)
    assert np.array(image.pixels).reshape(-1, 4)[:, 3].max() > 0.5


def test_an_engine_that_cannot_start_is_said(splats, monkeypatch):
    monkeypatch.setenv(engine_location.PYTHON_VARIABLE, "/nowhere/python")
    assert not bpy.ops.scene_splatter.export_format.poll()


def test_a_cancelled_errand_ends_and_clears_up(splats, tmp_path):
    work, cleared = SideJob(), []
    command = engine_location.engine_command(bpy.context)
    work.begin(
        "Rehearsal",
        command,
        "rehearsal",
        tmp_path,
        {"steps": 1000, "step_s": 0.02},
        lambda _: "done",
        lambda: cleared.append(1),
    )
    while work.running and not work.stage.startswith("rehearsal"):
        work.pump()
    work.cancel()
    work.wait(30)
    assert "cancelled" in work.outcome and cleared == [1]
    work.begin(
        "Rehearsal",
        command,
        "rehearsal",
        tmp_path,
        {"steps": 1, "end": "abort"},
        lambda _: "done",
        lambda: cleared.append(2),
    )
    work.wait(30)
    assert "ended unexpectedly" in work.problem and cleared == [1, 2]


def test_an_export_without_its_ending_does_not_replace_what_nobody_asked_about(splats, tmp_path):
    there = tmp_path / "a.glb"
    there.write_bytes(b"the user's")
    with pytest.raises(RuntimeError, match=r"a\.glb exists already"):
        bpy.ops.scene_splatter.export_format(
            "EXEC_DEFAULT", filepath=str(tmp_path / "a"), file_format=".glb"
        )
    assert there.read_bytes() == b"the user's"


@pytest.mark.parametrize(
    ("path", "ending", "named"),
    [
        ("a", ".glb", "a.glb"),
        ("a.GLB", ".glb", "a.GLB"),
        ("a.spz", ".glb", "a.glb"),
        ("shot.v2", ".spz", "shot.v2.spz"),
        ("a.compressed.ply", ".ply", "a.compressed.ply"),
        ("a.ply", ".compressed.ply", "a.compressed.ply"),
    ],
)
def test_the_browsers_name_follows_the_format(addon, path, ending, named):
    assert other_formats.with_ending(path, ending) == named
