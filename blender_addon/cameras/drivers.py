"""Drivers that keep a modifier's camera inputs equal to the scene camera, frame by frame.

Geometry nodes can ask for the camera's place on every version, but not for its lens and the
render's size. The formulas are those of `cameras.intrinsics`.
"""

from __future__ import annotations

import bpy

_RENDER, _CAMERA = "render", "camera.data"

# variable of the expressions: path below the scene, value where there is no camera
_VARIABLES = {
    "rx": (f"{_RENDER}.resolution_x", 1920.0),
    "ry": (f"{_RENDER}.resolution_y", 1080.0),
    "pc": (f"{_RENDER}.resolution_percentage", 100.0),
    "ax": (f"{_RENDER}.pixel_aspect_x", 1.0),
    "ay": (f"{_RENDER}.pixel_aspect_y", 1.0),
    "ln": (f"{_CAMERA}.lens", 50.0),
    "sw": (f"{_CAMERA}.sensor_width", 36.0),
    "sh": (f"{_CAMERA}.sensor_height", 24.0),
    "ft": (f"{_CAMERA}.sensor_fit", 0.0),  # 0 auto, 1 horizontal, 2 vertical
    "dx": (f"{_CAMERA}.shift_x", 0.0),
    "dy": (f"{_CAMERA}.shift_y", 0.0),
}
_W, _H = "floor(rx*pc/100)", "floor(ry*pc/100)"
_WIDE = f"(ft==1 or (ft==0 and ax*{_W}>=ay*{_H}))"
_VIEW = f"({_W} if {_WIDE} else ay/ax*{_H})"  # pixels that the sensor's size spans
_SENSOR = "(sh if ft==2 else sw)"

EXPRESSIONS = {
    "Focal X": f"ln*{_VIEW}/{_SENSOR}",
    "Focal Y": f"ln*{_VIEW}/{_SENSOR}*ax/ay",
    "Width": _W,
    "Height": _H,
    "Centre X": f"{_W}/2-dx*{_VIEW}",
    "Centre Y": f"{_H}/2+dy*{_VIEW}*ax/ay",
}


def add_camera_drivers(modifier: bpy.types.NodesModifier, identifiers: dict[str, str]) -> None:
    """Drive the inputs named in EXPRESSIONS; `identifiers` gives each one's socket identifier."""
    for name, expression in EXPRESSIONS.items():
        identifier = identifiers[name]
        if hasattr(modifier, "properties"):  # 5.2 and later
            curve = getattr(modifier.properties.inputs, identifier).driver_add("value")
        else:
            curve = modifier.driver_add(f'["{identifier}"]')
        driver = curve.driver
        driver.type = "SCRIPTED"
        for variable, (path, fallback) in _VARIABLES.items():
            if variable in expression:
                new = driver.variables.new()
                new.name = variable
                new.type = "CONTEXT_PROP"
                target = new.targets[0]
                target.context_property = "ACTIVE_SCENE"
                target.data_path = path
                target.use_fallback_value = True
                target.fallback_value = fallback
        driver.expression = expression
