"""Scenes in which training images show their subjects.

`paint` makes a scene's two layers as SVG text, and `arrange` says where subjects stand;
`training.composition` puts it all together. `python -m training.data.scenes` renders a contact
sheet.
"""

# The painters register themselves with SETTINGS.
from training.data.scenes import deep, indoors, land, skies, town, water, weather, woods  # noqa: F401
from training.data.scenes.anchors import LAYOUTS, PLACES, Anchor, Layout, Stage, arrange
from training.data.scenes.scene import SETTINGS, Scene, Setting, paint, plain

__all__ = [
    "LAYOUTS",
    "PLACES",
    "SETTINGS",
    "Anchor",
    "Layout",
    "Scene",
    "Setting",
    "Stage",
    "arrange",
    "paint",
    "plain",
]
