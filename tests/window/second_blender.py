"""Run in a second Blender, without a window, while the first one works on a job of the same
file.
"""

from __future__ import annotations

import importlib

import bpy

PACKAGE = "bl_ext.user_default.scene_splatter.blender_addon"
delivery, headless = (
    importlib.import_module(f"{PACKAGE}.{name}") for name in ("jobs.delivery", "jobs.headless")
)

assert delivery.waiting_job(bpy.context.scene) is None, (
    "the other Blender's running job was offered"
)
outcome = headless.generate()
assert outcome.problem is None and outcome.object_name, outcome
print("second Blender:", outcome.folder, outcome.object_name)
