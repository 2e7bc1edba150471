"""Started by run_window_test.py inside Blender, with plan.json beside it: walks through the story
that the plan names.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import stage

stage.run(importlib.import_module(stage.PLAN["story"]).story())
