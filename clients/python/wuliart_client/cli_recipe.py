"""Recipes on the command line: shown by `wuliart info FILE`, followed by `generate --like FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from wuliart_client._image import Picture
from wuliart_client._recipe import read_recipe
from wuliart_client._requests import Style
from wuliart_client._server_info import ModelInfo
from wuliart_client.cli_terminal import visible
from wuliart_contract.recipe import Recipe, RecipeError


def load(path: Path) -> Recipe:
    """The recipe of a file. Raises RecipeError, naming the file."""
    try:
        return read_recipe(path)
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from None
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def fill(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Takes from the recipe what the command line leaves open."""
    if arguments.prompt is None:
        arguments.prompt = recipe.prompt
    if arguments.seed is None:
        arguments.seed = recipe.seed
    if arguments.steps is None:
        arguments.steps = recipe.steps
    if not arguments.styles:
        arguments.styles = [Style(style.name, style.weight) for style in recipe.styles]


def changes(recipe: Recipe, picture: Picture, model: ModelInfo) -> list[str]:
    """Why a picture drawn after a recipe may differ although everything asked for is the same."""
    found = []
    if recipe.model != model.name:
        found.append(f"it was drawn by the model {recipe.model}, this server has {model.name}")
    if recipe.schedule != model.schedule:
        found.append(
            f"it was drawn with the schedule {recipe.schedule}, this server has {model.schedule}"
        )
    before = {style.name: style.content_hash for style in recipe.styles}
    found += [
        f"the file of the style {use.name} has changed since"
        for use in picture.adapters
        if before.get(use.name, use.content_hash) != use.content_hash
    ]
    return found


def table(recipe: Recipe) -> Table:
    """A row for each fact."""
    grid = Table.grid(padding=(0, 2))
    rows = [
        ("prompt", recipe.prompt),
        ("seed", str(recipe.seed)),
        ("steps", str(recipe.steps)),
        *(
            ("style", f"{style.name}:{style.weight:g} (sha256 {style.content_hash[:12]}…)")
            for style in recipe.styles
        ),
        ("model", recipe.model),
        ("schedule", recipe.schedule),
        ("drawn by", f"WuliArt {recipe.version}"),
    ]
    for name, value in rows:
        grid.add_row(visible(name), visible(value))
    return grid
