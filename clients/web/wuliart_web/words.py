"""Every word of the page, in English and Chinese; the browser says which. Owns nothing else."""

from __future__ import annotations

from typing import Final

import gradio as gr

ENGLISH: Final = {
    "prompt": "Prompt",
    "prompt_hint": "a rocket on a purple background",
    "style": "Style",
    "weight": "Weight",
    "more": "More",
    "second": "Second style",
    "seed": "Seed",
    "keep": "Keep this seed",
    "steps": "Steps",
    "step_1": "1 · draft",
    "step_2": "2 · preview",
    "step_3": "3",
    "step_4": "4 · production",
    "draw": "Draw",
    "stop": "Stop",
}
CHINESE: Final = {
    "prompt": "提示词",
    "prompt_hint": "紫色背景上的火箭",
    "style": "风格",
    "weight": "强度",
    "more": "更多",
    "second": "第二种风格",
    "seed": "种子",
    "keep": "固定种子",
    "steps": "步数",
    "step_1": "1 · 草稿",
    "step_2": "2 · 预览",
    "step_3": "3",
    "step_4": "4 · 成品",
    "draw": "绘制",
    "stop": "停止",
}
I18N: Final = gr.I18n(**{"en": ENGLISH, "zh": CHINESE, "zh-CN": CHINESE, "zh-TW": CHINESE})

SPOKEN_ENGLISH: Final = {
    "empty": "Say what to draw, then press Draw.",
    "here": "Your picture will be here.",
    "asking": "Rendering…",
    "waiting": "Waiting: {before} before you",
    "started": "Rendering… Step 1/{steps}",
    "stepped": "Step {step}/{steps}",
    "decoding": "Step {step}/{steps} → finishing",
    "done": "Done in {seconds:.1f} s · seed {seed}",
    "ignored": "The last {count} words or so of the prompt were not read: it is too long.",
    "stopped": "Stopped.",
    "save": "Save",
    "whole": "Full screen",
    "refused": "{name} cannot be used: {reason}",
    "offline": "The server does not answer. Start it with `make up`, or wait a moment.",
}
SPOKEN_CHINESE: Final = {
    "empty": "先写下要画什么，再按“绘制”。",
    "here": "图片会出现在这里。",
    "asking": "正在绘制……",
    "waiting": "排队中：前面还有 {before} 个",
    "started": "正在绘制…… 第 1/{steps} 步",
    "stepped": "第 {step}/{steps} 步",
    "decoding": "第 {step}/{steps} 步 → 收尾",
    "done": "完成，用时 {seconds:.1f} 秒 · 种子 {seed}",
    "ignored": "提示词太长，最后约 {count} 个词没有读到。",
    "stopped": "已停止。",
    "save": "保存",
    "whole": "全屏",
    "refused": "{name} 不能用：{reason}",
    "offline": "服务器没有响应。请运行 `make up`，或稍等片刻。",
}


def spoken(language: str) -> dict[str, str]:
    """What the page says while it works.

    Args:
        language: the browser's Accept-Language.
    """
    first = language.split(",")[0].strip().lower()
    return SPOKEN_CHINESE if first.startswith("zh") else SPOKEN_ENGLISH
