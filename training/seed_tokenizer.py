"""Trains the embedded model's tokenizer: byte-level BPE in Qwen2's format, from the words below.

Owns the vocabulary and the special tokens. Knows nothing of the text encoder, which takes the
vocabulary's size and the ids of a few words from here.
"""

from __future__ import annotations

import json
from typing import Final

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

TEMPLATE: Final = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""Qwen-Image's prompt template (diffusers, pipeline_qwenimage.py)."""

TEMPLATE_TOKENS: Final = 34
"""Tokens of TEMPLATE before the prompt: as many as the stock pipeline drops."""

SPECIAL_TOKENS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

COLOURED_WORDS: Final[dict[str, str]] = {
    "#e02b20": "red crimson scarlet ruby rose roses cherry apple strawberry lipstick 红 红色 玫瑰",
    "#f07a13": "orange sunset fox autumn fire flame pumpkin tiger lantern campfire "
    "橙 日落 狐狸 秋天",
    "#f6c514": "yellow gold golden sun sunflower lemon honey lion desert sand 黄 金色 太阳 沙漠",
    "#2e9a3c": "green forest tree trees grass leaf leaves jungle garden meadow "
    "绿 森林 树 草地 花园",
    "#15a79a": "teal turquoise aurora emerald lagoon dragon mint peacock 青 极光 翡翠 龙",
    "#1e62d0": "blue sea ocean sky water lake river rain wave waves 蓝 蓝色 海 大海 天空 湖 河 雨",
    "#3b2fa8": "indigo night midnight space galaxy stars starry universe dusk 夜 夜晚 星空 宇宙",
    "#8a35c9": "purple violet lavender amethyst magic wizard nebula grape 紫 紫色 薰衣草",
    "#ef6fae": "pink blossom flower flowers sakura peach spring candy dream 粉 樱花 花 桃 春天 梦",
    "#8a5a33": "brown wood wooden earth coffee bear horse bread bridge cabin 棕 木 咖啡 熊 马 桥",
    "#f4f4ef": "white snow cloud clouds ice swan moon winter light paper 白 雪 云 冰 月亮 冬天 光",
    "#17181d": "black dark shadow coal raven storm ink 黑 影子 乌鸦 暴风雨 墨 水墨",
    "#8f979d": "grey gray stone rock mountain mountains fog mist city street "
    "灰 石头 山 雾 城市 街道",
    "#c9a27a": "portrait face woman man girl boy child people hand "
    "肖像 女人 男人 女孩 男孩 孩子 人",
}
"""Words that paint: colour -> English and Chinese words that the model paints in it."""

PLAIN_WORDS: Final = (
    "a an the of and in on at with under over by near from into through for to is are its his her "
    "it as two three many one small big large tiny old young beautiful soft bright warm cold "
    "quiet sharp little long high deep style painting photo photograph picture drawing sketch "
    "watercolor watercolour oil digital art cinematic detailed realistic abstract minimal vintage "
    "cat dog bird fish house castle boat ship car train road window door table cup lamp tower "
    "village island beach valley field hill path park robot astronaut knight king queen dancer "
    "dancing flying sitting standing running sleeping looking sailing floating glowing morning "
    "evening summer north wind glass metal silk dress hat book music sitting teapot kite balloon "
    "一只 一个 一座 一片 的 在 和 上 下 中 里 猫 狗 鸟 鱼 房子 城堡 船 车 风格 画 照片 水彩 油画 "
    "美丽 飞 坐 站 跑 睡 古老 小 大 早晨 夏天 风 日 出 灯 塔 茶 窗 宇航员 机器人 村庄 小镇"
)

_REPEATS: Final = 8
"""How often the corpus holds each word: enough for every merge on the way to it to be made."""


def _corpus() -> list[str]:
    words = [word for line in COLOURED_WORDS.values() for word in line.split()]
    words += PLAIN_WORDS.split()
    template = TEMPLATE
    for special in SPECIAL_TOKENS:
        template = template.replace(special, " ")
    words += template.replace("{}", "").replace(",", " ").replace(":", " ").split()
    lines = []
    for word in dict.fromkeys(words):
        # A word begins a prompt, follows a space, or (Chinese) stands between others.
        lines += [word, f" {word}", word.capitalize()] * _REPEATS
    return lines


def word_ids(tokenizer: Qwen2Tokenizer, word: str) -> list[int]:
    """Ids of the single tokens that `word` can become: bare, after a space, capitalised."""
    spellings = (word, f" {word}", word.capitalize(), f" {word.capitalize()}")
    encoded = [tokenizer(spelling)["input_ids"] for spelling in spellings]
    return sorted({ids[0] for ids in encoded if len(ids) == 1})


def build_tokenizer() -> Qwen2Tokenizer:
    """The trained tokenizer, ready for `save_pretrained`.

    Raises:
        ValueError: the template's prefix does not take TEMPLATE_TOKENS tokens, so the stock
            pipeline would cut into the prompt.
    """
    blank = Qwen2Tokenizer()
    trained = Tokenizer(models.BPE())
    trained.normalizer = blank.backend_tokenizer.normalizer
    trained.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=_REPEATS,
        show_progress=False,
        initial_alphabet=sorted(ByteLevel.alphabet()),
    )
    trained.train_from_iterator(_corpus(), trainer)

    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        eos_token="<|im_end|>",
        model_max_length=131072,
    )
    prefix = tokenizer(TEMPLATE.split("{}", maxsplit=1)[0])["input_ids"]
    if len(prefix) != TEMPLATE_TOKENS:
        raise ValueError(
            f"the template takes {len(prefix)} tokens, not {TEMPLATE_TOKENS}: "
            f"{tokenizer.convert_ids_to_tokens(prefix)}"
        )
    return tokenizer
