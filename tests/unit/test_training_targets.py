"""Images that training aims at: targets, styles, the VAE's encoders, and the evaluation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from training import evaluation, renderings, styles, vae
from training.autoencoder import SHAPE, Autoencoder, fill
from training.choices import OPTIONS, Choices, choose
from training.composition import SIZE, Images
from training.data.captions import COLOURS
from training.data.prose.paints import PAINTS
from training.data.scenes import LAYOUTS, Layout, Stage, plain
from training.data.sprites import LENGTH
from training.evaluation import Evaluator
from training.grounds import render
from training.latents import pack
from training.network import TOKENS
from training.renderings import Rendered
from training.stream import COLUMNS, Batch
from training.styles import STYLES, Style
from training.targets import Targets

OPAQUE = -1 << 24
"""Black, as one packed pixel."""


def rendered() -> Rendered:
    """Two kinds of ground, of three variants and of one, and two solid subjects."""
    stages = [Stage(0.5)] * 3 + [Stage(None, plain=True)]
    boxes, subject = renderings._table(stages)
    greys = torch.tensor([0x101010, 0x202020, 0x303030, 0xC0C0C0], dtype=torch.int32) + OPAQUE
    subjects = torch.tensor([0x2020C0, 0x20C020], dtype=torch.int32) + OPAQUE  # red, green
    images = Images(
        greys[:, None, None].repeat(1, SIZE, SIZE),
        torch.zeros(4, SIZE, SIZE, dtype=torch.int32),
        torch.eye(3, 4).expand(4, -1, -1),
        torch.zeros(4, 3),
        subjects[:, None].repeat(1, LENGTH),
    )
    contacts = torch.tensor([[0.0, 0.5], [0.0, 0.4]])
    return Rendered(images, contacts, boxes, subject, torch.tensor([0, 3]), torch.tensor([3, 1]))


class Codec(nn.Module):
    """Encodes by colours of squares of 32 px, and back."""

    dtype = torch.float32

    def encode(self, x: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(x, 32)
        return torch.cat([small, small.new_zeros(len(x), 29, *small.shape[2:])], 1)

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate(z[:, :3], scale_factor=32)


def targets(paint: styles.Paint = styles.paint_plain) -> Targets:
    return Targets(rendered(), paint, Codec(), compiled=False)  # type: ignore[arg-type]


def row(
    first: int, second: int, layout: Layout, paint: int, paint2: int, *grounds: int
) -> list[int]:
    return [first, second, LAYOUTS.index(layout), paint, paint2, *(grounds * OPTIONS)[:OPTIONS]]


def chosen(option: int, variant: int, place: int) -> Choices:
    return Choices(*(torch.tensor([value]) for value in (option, variant, place)))


def test_rows_and_choices_decide_what_is_shown() -> None:
    made, pair = targets(), Layout(2, relation="left of")
    rows = torch.tensor([row(1, 0, pair, -1, 3, 0, 1)])
    assert rows.shape == (1, len(COLUMNS) + OPTIONS)
    shown = made.shown(rows, chosen(0, 2, 1))
    assert shown.ground.tolist() == [2] and sorted(shown.concepts[0, :2].tolist()) == [0, 1]
    of_second = shown.paints[0, shown.concepts[0, :2].tolist().index(0)]
    paint = list(PAINTS.values())[3].rgb
    assert (of_second * 255).tolist() == pytest.approx(paint)
    assert shown.paints[0, shown.concepts[0, :2].tolist().index(1)].tolist() == [-1, -1, -1]
    # Where there are fewer variants, they are used in turn.
    assert made.shown(rows, chosen(0, 3, 1)).ground.tolist() == [0]
    assert made.shown(rows, chosen(1, 2, 1)).ground.tolist() == [3]
    assert not torch.equal(made.shown(rows, chosen(0, 2, 0)).boxes, shown.boxes)


def test_targets_are_latents_of_the_painted_image() -> None:
    made = targets(lambda rgb: 1 - rgb)
    rows, choice = torch.tensor([row(0, 0, Layout(1, None, "centre"), -1, -1, 1)]), chosen(0, 0, 0)
    image = made.images(made.shown(rows, choice))
    assert image.shape == (1, 3, SIZE, SIZE)
    assert (image[0, :, 8, 8] * 255).round().tolist() == [0x3F] * 3
    assert (image[0, :, 512, 512] * 255).round().tolist() == [0x3F, 0xDF, 0xDF]
    latents = made(rows, choice)
    assert latents.shape == (1, *TOKENS)
    assert torch.allclose(latents, pack(Codec().encode(image * 2 - 1)), atol=1e-5)
    small = nn.functional.avg_pool2d(image, 32)
    assert torch.allclose(nn.functional.avg_pool2d(made.decode(latents), 32), small, atol=1e-5)


def test_a_plain_ground_is_its_colour_and_layers_are_packed_and_premultiplied() -> None:
    pytest.importorskip("resvg_py")
    colour = COLOURS[4].rgb
    back, front = render(plain(colour))
    assert back.shape == front.shape == (SIZE, SIZE) and not front.any()
    value = int(back[5, 5])
    assert [value >> shift & 255 for shift in (0, 8, 16, 24)] == [*colour, 255]


def gradient(edge: int = 256) -> Tensor:
    """An image with shading, outlines, and colours: a red disc on a blue slope."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, edge)] * 2, indexing="ij")
    disc = ((x**2 + y**2) < 0.3).float()
    ground = torch.stack([0.2 + 0.1 * y, 0.4 + 0.1 * y, 0.8 + 0.1 * x])
    return (disc * torch.tensor([0.9, 0.3, 0.1])[:, None, None] + (1 - disc) * ground)[None]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_style_is_a_function_of_the_whole_image(style: Style) -> None:
    image = gradient()
    made = style.look.paint(image)
    assert made.shape == image.shape
    assert float(made.min()) >= 0 and float(made.max()) <= 1
    assert float((made - image).abs().mean()) > 0.005
    other = image.flip(3) * 0.8
    together = style.look.paint(torch.cat([image, other]))
    assert torch.allclose(together[:1], made, atol=1e-5)
    assert torch.allclose(together[1:], style.look.paint(other), atol=1e-5)
    assert len(style.triggers) == 2 and style.look.set in ("fluent", "flat")


def test_flat_has_few_levels_and_ink_two_colours() -> None:
    image = gradient()
    flat = styles.paint_flat(image) * 5
    assert float((flat - flat.round()).abs().median()) < 1e-3
    assert float(((image * 5) - (image * 5).round()).abs().median()) > 0.1
    ink = styles.paint_ink(image)
    share = (ink - torch.tensor(styles.INK).view(1, 3, 1, 1)) / (
        torch.tensor(styles.PAPER) - torch.tensor(styles.INK)
    ).view(1, 3, 1, 1)
    assert torch.allclose(share[:, :1].expand(-1, 3, -1, -1), share, atol=1e-4)
    assert 0.005 < float((share < 0.2).float().mean()) < 0.5
    # Where all is dark the ink is white: outlines are lighter than the ground.
    night = styles.paint_ink(
        (image - 0.2).clamp(min=0) * torch.tensor([1, 0.1, 0.1])[:, None, None]
    )
    assert float(night[..., 128, 128].mean()) < 0.2 < 0.8 < float(night.max())


def test_neon_is_dark_with_bright_outlines_in_the_colour_of_what_they_are_around() -> None:
    image = gradient()
    neon = styles.paint_neon(image)
    assert float(neon[..., 4:20, 4:20].mean()) < 0.5 * float(image[..., 4:20, 4:20].mean())
    rim = 128 + int(0.3**0.5 * 128)
    assert float(neon[0, :, 128, rim - 4 : rim + 4].amax()) > 0.8
    assert float(neon[0, :, 128, 128].mean()) < 0.4


def test_pixel_art_has_one_of_few_colours_in_each_square() -> None:
    made = styles.paint_pixel(gradient() * torch.rand(1, 3, 256, 256))
    squares = made.unfold(2, 16, 16).unfold(3, 16, 16).flatten(4)
    assert float((squares - squares[..., :1]).abs().max()) == 0
    assert len(made.unique()) <= 9 and len(squares.unique()) > 1


def test_both_encoders_give_32_channels_at_a_thirty_second() -> None:
    torch.manual_seed(0)
    model = Autoencoder().train()
    x = torch.rand(8, 3, 128, 64) * 2 - 1
    with torch.no_grad():
        latents = model.encode(x)
        assert latents.shape == model.encode_stock(x).shape == (8, SHAPE["z_dim"], 4, 2)
        assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(32), atol=1e-4)
        assert torch.allclose(latents.std((0, 2, 3), correction=0), torch.ones(32), atol=1e-2)
        fast = model.fast(x)
        for _ in range(600):
            model.norm(fast)
        model.eval()
        # Without training the running statistics count, also those of a single image.
        assert torch.allclose(model.encode(x), latents, atol=0.05)
        assert torch.allclose(model.encode(x[:1]), model.encode(x[:2])[:1], atol=1e-5)
        still, noisy = (model(x[:2], torch.full((2,), level)) for level in (0.0, 1.0))
        assert torch.equal(still, model.decode(model.encode(x[:2])))
        assert still.shape == (2, 3, 128, 64) and not torch.allclose(still, noisy)


def test_the_vae_is_what_was_saved_and_an_incomplete_file_is_an_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = Autoencoder(), Autoencoder()
    first.norm.running_mean += 3
    vae.save(first, tmp_path)
    fill(second, tmp_path / "vae_frames.safetensors")
    for name, value in second.state_dict().items():
        expected = first.state_dict()[name]
        exact = expected if name.startswith("norm.") else expected.bfloat16().float()
        assert torch.equal(value, exact), name
    del first.fast
    vae.save(first, tmp_path)
    with pytest.raises(RuntimeError, match="fast"):
        fill(second, tmp_path / "vae_frames.safetensors")


def test_rates_of_reconstruction_see_what_differs() -> None:
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    assert float(vae.loss_of(x, x)) == 0
    assert vae.psnr(x * 0.5, x * 0.5 + 0.2) == pytest.approx(20, abs=0.1)
    # A shift of an edge counts more than the same error spread evenly.
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    moved = edge.roll(1, 3)
    even = edge + (moved - edge).abs().mean()
    assert float(vae.loss_of(edge, moved)) > 1.5 * float(vae.loss_of(edge, even))


class Fixed:
    """Stands for `Targets`: an image is the colour that the row says, and decoding finds it."""

    def shown(self, rows: Tensor, choices: Choices) -> Tensor:
        return torch.stack([rows[:, 0] / 100, choices.place / 4, rows[:, 0] * 0.0], 1)

    def images(self, colours: Tensor) -> Tensor:
        return colours[:, :, None, None].expand(-1, -1, SIZE, SIZE)

    def decode(self, packed: Tensor) -> Tensor:
        return self.images(packed[:, 0, :3])


class Drawing(nn.Module):
    """Draws the right image, with an error in some of a batch."""

    def __init__(self, error: Tensor) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor, text: Tensor, sigma: Tensor) -> Tensor:
        goal = torch.zeros_like(x)
        goal[:, 0, 0] = text[:, 0] / 100 + self.error
        goal[:, 0, 1] = text[:, 1]
        return (x - goal) / sigma[:, None, None]


def test_the_evaluation_compares_with_what_captions_and_noise_stand_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Tensor] = []
    generator = torch.Generator().manual_seed(7)
    ids = iter(range(100))

    def stream() -> Batch:
        rows = torch.tensor([[next(ids)] for _ in range(4)])
        return Batch(rows, rows)

    def encode(text: nn.Module, ids: Tensor) -> Tensor:
        # The text says the place, too: what the noise decides is known to this network.
        noise = torch.randn(len(ids), *TOKENS, generator=generator)
        drawn.append(noise)
        return torch.cat([ids, choose(noise).place[:, None] / 4], 1)

    monkeypatch.setattr(evaluation, "encode", encode)
    made = Evaluator(stream, SimpleNamespace(), Fixed(), 14)  # type: ignore[arg-type]
    assert sum(map(len, drawn)) == 16
    sheet = tmp_path / "sheet.jpg"
    scores = made(Drawing(torch.zeros(4)), 4, sheet)
    assert scores.distance == pytest.approx(0, abs=1e-3)
    assert scores.worst == pytest.approx(0, abs=1e-3)
    with Image.open(sheet) as image:
        assert image.size == (8 * 256, 2 * 2 * 256)  # targets above images, twice
    wrong = made(Drawing(torch.tensor([0.3, 0.0, 0.0, 0.0])), 4, sheet)
    assert wrong.distance == pytest.approx(0.3 / 3**0.5 / 4, abs=1e-3)
    assert wrong.worst == pytest.approx(0.3 / 3**0.5, abs=1e-3)
