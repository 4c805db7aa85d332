"""Compares the parts of training that could fail silently with stock diffusers and peft."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from training import base, latents, lora, paths, sampling, trained
from training import tokenizer as vocabulary
from training.assemble import build_scheduler, fit_preview
from training.autoencoder import Autoencoder, to_stock
from training.data.prose import lexicon
from training.muon import Muon
from training.network import SHAPE, TOKENS, Network
from training.text_encoder import HIDDEN, build_text_encoder, encode
from training.tokenizer import TEMPLATE, TEMPLATE_TOKENS, build_tokenizer
from wuliart_lora import parse_lora

SMALL = SHAPE | {"num_layers": 2}


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr(vocabulary, "CAPTIONS", 3000)
        return build_tokenizer(lexicon.read())


def randomised(network: nn.Module, std: float = 0.1) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(0, std, generator=generator)
    return network


def test_the_trainable_transformer_is_the_stock_one() -> None:
    network = randomised(Network(SMALL))
    stock = QwenImageTransformer2DModel(**SMALL)
    stock.load_state_dict(network.state_dict())
    x, text = torch.randn(2, 256, 128), torch.randn(2, 13, HIDDEN)
    sigma = torch.tensor([0.3, 1.0])
    with torch.no_grad():
        ours = network(x, text, sigma)
        theirs = stock(
            hidden_states=x,
            encoder_hidden_states=text,
            timestep=sigma,
            img_shapes=[[(1, 16, 16)]] * 2,
            return_dict=False,
        )[0]
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_the_stock_vae_gives_the_latents_and_images_of_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    x = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        for _ in range(3):
            model.encode(x)
    model.eval()
    # A norm far from mean 0 and deviation 1, so that a missing factor shows.
    model.norm.running_mean += torch.randn(32)
    model.norm.running_var *= torch.rand(32) + 0.5
    model.vae.post_quant_conv.bias.data.normal_()
    to_stock(model.state_dict(), tmp_path)
    stock = AutoencoderKLQwenImage.from_pretrained(tmp_path, torch_dtype=torch.float32)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (stock.config.latents_mean, stock.config.latents_std)
    )
    with torch.no_grad():
        ours = model.encode_stock(x)
        theirs = (stock.encode(x[:, :, None]).latent_dist.mode() - mean) / std
        assert (ours - theirs[:, :, 0]).abs().max() < 0.03 * ours.abs().max()
        decoded = stock.decode(theirs * std + mean).sample[:, :, 0]
        expected = model.decode(theirs[:, :, 0]).clamp(-1, 1)
    assert (decoded - expected).abs().mean() < 0.03 * expected.abs().mean()


def test_the_tokenizer_reads_names_as_words_and_the_template_as_stock(
    tokenizer: Qwen2Tokenizer,
) -> None:
    prefix = tokenizer(TEMPLATE.split("{}", maxsplit=1)[0])["input_ids"]
    assert len(prefix) == TEMPLATE_TOKENS
    for text in ("a fox on a blue background", "蓝色背景上的狐狸", "naïve ☃ 🦊"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("a fox on a blue background")["input_ids"]) == 6


def test_the_text_encoder_tells_captions_apart(tokenizer: Qwen2Tokenizer) -> None:
    torch.manual_seed(0)
    model = build_text_encoder(tokenizer)
    ids = torch.tensor(
        [tokenizer(TEMPLATE.format(f"a {name} on red"))["input_ids"] for name in ("fox", "dog")]
    )
    with torch.no_grad():
        states = encode(model, ids)
    assert states.shape[1] == ids.shape[1] - TEMPLATE_TOKENS
    assert (states[0] - states[1]).abs().max() > 0.1


def test_four_steps_are_the_documented_ones_and_the_schedulers() -> None:
    expected = torch.tensor([1, 0.9, 0.75, 0.5, 0])
    assert torch.allclose(sampling.schedule(4), expected)
    scheduler = build_scheduler()
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25], mu=scheduler.config.base_shift)
    assert torch.allclose(scheduler.sigmas, expected)
    assert torch.isin(sampling.schedule(4), sampling.schedule(20)).all()


def test_packing_is_the_stock_pipelines() -> None:
    from diffusers import QwenImagePipeline

    z = torch.randn(2, 32, 32, 32)
    stock = QwenImagePipeline._pack_latents(z[:, :, None], 2, 32, 32, 32)
    assert torch.equal(latents.pack(z), stock)
    assert torch.equal(latents.unpack(stock), z)


class Guide(nn.Module):
    """Predicts the velocity to one image, with an error at one noise level."""

    def __init__(self, goal: Tensor, error: float = 0.0, at: float = 0.5) -> None:
        super().__init__()
        self.goal, self.error, self.at = goal, error, at

    def forward(self, x: Tensor, text: Tensor, sigma: Tensor) -> Tensor:
        wrong = self.error * (sigma.view(-1, 1, 1) == self.at)
        return (x - self.goal) / sigma.view(-1, 1, 1) + wrong


def test_a_walk_is_the_products_and_its_loss_counts_a_step_by_its_length() -> None:
    torch.manual_seed(0)
    text, noise = torch.zeros(2, 5, HIDDEN), torch.randn(2, *TOKENS)
    goal = torch.randn_like(noise)
    steps = paths.walk(Guide(goal), text, noise)
    assert [step.now for step in steps] == pytest.approx([1, 0.9, 0.75, 0.5])
    assert torch.allclose(steps[-1].after, goal, atol=1e-5)
    assert paths.walk_loss(steps, goal) < 1e-8

    def loss(guide: Guide) -> Tensor:
        return paths.walk_loss(paths.walk(guide, text, noise), goal)

    # The last step is half the way, and no later step corrects its error.
    assert loss(Guide(goal, 1.0, 0.5)) == pytest.approx(0.5)
    # An early error changes the states of the later steps, not their goals.
    assert loss(Guide(goal, 1.0, 1.0)) == pytest.approx(0.1)


def test_no_gradient_passes_from_one_step_of_a_walk_to_another() -> None:
    weight = torch.ones((), requires_grad=True)

    def network(x: Tensor, text: Tensor, sigma: Tensor) -> Tensor:
        return weight * x

    steps = paths.walk(network, torch.zeros(1, 1, HIDDEN), torch.ones(1, *TOKENS))
    for step in steps:
        assert not step.before.requires_grad and not step.after.requires_grad
        (gradient,) = torch.autograd.grad(step.velocity.mean(), weight, retain_graph=True)
        assert gradient == pytest.approx(float(step.before.mean()))


def test_every_noise_level_is_trained() -> None:
    sigma = base.levels(20_000, torch.device("cpu"))
    assert len(sigma) == 20_000 * base.LEVELS
    assert torch.histc(sigma, 100, 0, 1).min() > 50
    # Shifts of 2 and 6 put 18 and 40 of 100 above 0.9.
    assert 0.27 < float((sigma > 0.9).float().mean()) < 0.31


def test_saved_adapters_act_alike_in_training_fused_stock_and_our_reader(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = randomised(Network(SMALL))
    plain = copy.deepcopy(network)
    adapted = lora.attach(network, 4)
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    x, text, sigma = torch.randn(1, 256, 128), torch.randn(1, 7, HIDDEN), torch.tensor([0.5])
    path = tmp_path / "style.safetensors"
    lora.save(adapted, path, {"modelspec.title": "Test"})
    fused = copy.deepcopy(plain)
    lora.fuse(fused, path)
    stock = QwenImageTransformer2DModel(**SMALL)
    stock.load_state_dict(plain.state_dict())
    stock.load_lora_adapter(str(path), prefix="transformer")
    with torch.no_grad():
        expected = adapted(x, text, sigma)
        theirs = stock(
            hidden_states=x,
            encoder_hidden_states=text,
            timestep=sigma,
            img_shapes=[[(1, 16, 16)]],
            return_dict=False,
        )[0]
        scale = expected.abs().max()
        assert (fused(x, text, sigma) - expected).abs().max() < 0.02 * scale
        assert (theirs - expected).abs().max() < 0.02 * scale
        assert (plain(x, text, sigma) - expected).abs().max() > 0.2 * scale
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear)
    }
    parsed = parse_lora(path.read_bytes(), linears, 16)
    # Fourteen linear layers in each of two blocks, and three edges.
    assert len(parsed.factors) == 2 * 14 + 3


def test_an_adapter_resumes_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = (lora.attach(randomised(Network(SMALL)), 4) for _ in range(2))
    for name, parameter in first.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    path = tmp_path / "turbo.safetensors"
    lora.save(first, path, {})
    lora.fill(second, path)
    x, text, sigma = torch.randn(1, 256, 128), torch.randn(1, 7, HIDDEN), torch.tensor([0.5])
    with torch.no_grad():
        expected = first(x, text, sigma)
        assert (second(x, text, sigma) - expected).abs().max() < 0.02 * expected.abs().max()


def test_the_base_is_what_was_saved(tmp_path: Path, tokenizer: Qwen2Tokenizer) -> None:
    torch.manual_seed(0)
    network = randomised(Network(SHAPE))
    made = trained.TrainedBase(tokenizer, build_text_encoder(tokenizer), network)
    trained.save(made, tmp_path)
    again = trained.load(tmp_path, torch.device("cpu"))
    ids = torch.tensor([tokenizer(TEMPLATE.format("a fox on red"))["input_ids"]])
    with torch.no_grad():
        expected, states = encode(made.text, ids), encode(again.text, ids)
    assert (states - expected).abs().max() < 0.05 * expected.abs().max()
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name].bfloat16().float()), name


def test_a_reset_adapter_has_no_effect() -> None:
    network = lora.attach(randomised(Network(SMALL)), 4)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    lora.reset(network)
    x, text, sigma = torch.randn(1, 256, 128), torch.randn(1, 7, HIDDEN), torch.tensor([0.5])
    with torch.no_grad():
        assert torch.allclose(
            network(x, text, sigma), randomised(Network(SMALL))(x, text, sigma), atol=1e-5
        )


def test_preview_factors_recover_a_linear_decoder() -> None:
    torch.manual_seed(0)
    z, factors = torch.randn(3, 32, 8, 8), torch.randn(32, 3) * 0.1
    colour = torch.einsum("nchw,cd->ndhw", z, factors) + 0.05
    images = (colour.repeat_interleave(4, 2).repeat_interleave(4, 3) + 1) / 2
    found = fit_preview(z, images)
    assert torch.allclose(torch.tensor(found["factors"]), factors, atol=1e-4)
    assert torch.allclose(torch.tensor(found["bias"]), torch.tensor(0.05), atol=1e-4)


def test_muon_for_many_matrices_equals_torchs_for_each() -> None:
    torch.manual_seed(0)
    shapes = ((24, 24), (24, 24), (96, 24), (24, 96))
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(value.detach().clone()) for value in ours]
    steppers = (
        Muon(ours, lr=1e-2),
        torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        gradients = [torch.randn(shape) for shape in shapes]
        for stepper, own in zip(steppers, (ours, theirs), strict=True):
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient.clone()
            stepper.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
