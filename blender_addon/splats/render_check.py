"""What must be set for Gaussians to render as they are, said in plain words, and set on request."""

from __future__ import annotations

import bpy

from . import applying, exact_colours, splat_object, view_colours

BOUNCES = 1024  # Blender's maximum; a ray through a dense scene meets hundreds of quads
_ENOUGH_BOUNCES = 256
_TRANSFORM = {"linear": "Standard", "display": "Raw"}


def render_warnings(scene: bpy.types.Scene, ob: bpy.types.Object) -> list[str]:
    """One sentence for everything in `scene` that makes `ob` render differently from the engine;
    empty if nothing does.
    """
    warnings = [*_about_object(ob), *_about_camera(scene), *_about_colour(scene, ob)]
    engine = scene.render.engine
    if engine == "CYCLES":
        warnings += _about_cycles(scene, ob)
    elif engine.startswith("BLENDER_EEVEE"):
        warnings += _about_eevee(scene, ob)
    else:
        warnings.append("This render engine shows no Gaussians: use Cycles or EEVEE.")
    return warnings


def prepare_scene(scene: bpy.types.Scene, ob: bpy.types.Object | None = None) -> None:
    """Let transparent rays go deep enough, and have splats keep their colours under the scene's
    view transform.

    With `ob` in a scene that does not want that (Keep Colours is off), take the view transform that
    shows its colours as they are.
    """
    if hasattr(scene, "cycles"):
        scene.cycles.transparent_max_bounces = BOUNCES
        scene.cycles.min_transparent_bounces = BOUNCES  # fewer: rays end by chance, which is noise
    view_colours.sync(scene)
    if ob is not None and not scene.scene_splatter_match_view:
        view = scene.view_settings
        view.view_transform = _TRANSFORM[drawn_blending(ob)]
        view.look, view.exposure, view.gamma, view.use_curve_mapping = "None", 0.0, 1.0, False
    if ob is not None:
        if hasattr(ob, "cycles"):
            ob.cycles.use_deform_motion = False
        for material in ob.data.materials:
            if material is not None and "scene_splatter_version" in material:
                material.surface_render_method = "BLENDED"


def drawn_blending(ob: bpy.types.Object) -> str:
    """The space in which `ob` is drawn now: linear or display."""
    modifier = splat_object.modifier_of(ob)
    if modifier is None:  # Blender 5.3 and later draw in linear light
        return "linear"
    return "linear" if splat_object.get_input(modifier, "Linear Light") else "display"


def _about_object(ob: bpy.types.Object) -> list[str]:
    warnings = []
    scale = ob.matrix_world.to_scale()
    if max(scale) > min(scale) * 1.001 or ob.matrix_world.to_3x3().determinant() <= 0:
        warnings.append(
            f"{ob.name} is stretched or mirrored: Gaussians stay right only under one scale for "
            "all axes."
        )
    if applying.applied_by_blender(ob) is not None:
        warnings.append(
            f"Blender's Apply moved the points of {ob.name} alone: their sizes, rotations and "
            "colours are left behind."
        )
    modifier = splat_object.modifier_of(ob)
    if modifier is None:
        if not splat_object.drawn_natively(ob):
            warnings.append(
                f"{ob.name} has lost its {splat_object.MODIFIER_NAME} modifier: it renders as "
                "plain points."
            )
    elif not modifier.show_render:
        warnings.append(f"The {modifier.name} modifier of {ob.name} is off in renders.")
    return warnings


def _about_camera(scene: bpy.types.Scene) -> list[str]:
    camera = scene.camera
    if camera is None:
        return ["The scene has no camera: Gaussians face the scene camera."]
    if camera.data.type != "PERSP":
        return [
            f"{camera.name} is no perspective camera: Gaussians are drawn for perspective only."
        ]
    return []


def _about_colour(scene: bpy.types.Scene, ob: bpy.types.Object) -> list[str]:
    made_for, drawn = ob.get(splat_object.BLENDING, "display"), drawn_blending(ob)
    warnings: list[str] = []
    if scene.scene_splatter_match_view and view_colours.is_matched(scene, ob):
        reason = view_colours.why_not(scene) or exact_colours.why_off(scene)
        return [reason] if reason else []
    if made_for != drawn:
        warnings.append(
            f"{ob.name} was made for {made_for} blending and is drawn with {drawn} blending: its "
            "edges and colours are off."
        )
    view = scene.view_settings
    wanted = _TRANSFORM[drawn]
    if view.view_transform != wanted:
        warnings.append(
            f"The view transform {view.view_transform} changes the colours: {wanted} shows them "
            "as they are."
        )
    if view.look != "None" or view.exposure != 0 or view.gamma != 1 or view.use_curve_mapping:
        warnings.append(
            "A look, exposure, gamma or curve of the colour management changes the colours."
        )
    if drawn == "display" and wanted == "Raw":
        warnings.append(
            f"{ob.name} holds display values: lights and meshes beside it look wrong under Raw. "
            "Linear splats have no such limit."
        )
    return warnings


def _about_cycles(scene: bpy.types.Scene, ob: bpy.types.Object) -> list[str]:
    warnings, cycles = [], scene.cycles
    if cycles.transparent_max_bounces < _ENOUGH_BOUNCES:
        warnings.append(
            f"Cycles stops after {cycles.transparent_max_bounces} transparent bounces: dense "
            f"parts turn dark. {BOUNCES} are needed."
        )
    if cycles.min_transparent_bounces < cycles.transparent_max_bounces:
        warnings.append(
            "Cycles ends transparent rays by chance, which is noise: raise Min Transparent "
            "Bounces to the maximum."
        )
    if scene.render.use_motion_blur and ob.cycles.use_deform_motion:
        warnings.append(
            f"Deformation motion blur of {ob.name} must be off: its quads are sorted anew in "
            "every frame."
        )
    return warnings


def _about_eevee(scene: bpy.types.Scene, ob: bpy.types.Object) -> list[str]:
    warnings = []
    ours = [m for m in ob.data.materials if m is not None and "scene_splatter_version" in m]
    if any(m.surface_render_method != "BLENDED" for m in ours):
        warnings.append("The splat material is dithered: set its Render Method to Blended.")
    shown = [
        o
        for o in scene.objects
        if splat_object.is_splat_object(o)
        and not o.hide_render
        and splat_object.modifier_of(o) is not None
    ]
    if len(shown) > 1:
        warnings.append(
            "EEVEE sorts whole objects: where two splat objects overlap, render with Cycles."
        )
    return warnings
