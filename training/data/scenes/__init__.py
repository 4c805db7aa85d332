"""Scenes in which training images show their subjects.

`paint` makes a scene's two layers as SVG text, `arrange` says where subjects stand, and
`composing.compose` (which needs torch) puts it all together. `python -m training.data.scenes`
renders a contact sheet.
"""

# The painters register themselves with SETTINGS.
from training.data.scenes import deep, indoors, land, skies, town, water, weather, woods  # noqa: F401
from training.data.scenes.anchors import Anchor, Stage, anchors, arrange
from training.data.scenes.scene import SETTINGS, Scene, Setting, paint, plain

__all__ = [
    "SETTINGS",
    "Anchor",
    "Scene",
    "Setting",
    "Stage",
    "anchors",
    "arrange",
    "paint",
    "plain",
]
