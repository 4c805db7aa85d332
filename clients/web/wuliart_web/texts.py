"""Every text of the page, in English and Chinese; the browser's language decides which.

`CONTROLS_*` are labels that Gradio translates in the browser, `TEXTS_*` are used on the server. The
page calls adapters styles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import gradio as gr

Texts = Mapping[str, str]
"""Texts of one language by key; some have fields for `str.format`."""

CONTROLS_EN: Final = {
    "prompt": "Prompt",
    "prompt_hint": "a rocket on a purple background",
    "style": "Style",
    "none": "No style",
    "weight": "Weight",
    "more": "More",
    "second": "Second style",
    "seed": "Seed",
    "dice": "Dice",
    "keep": "Lock",
    "steps": "Steps",
    "generate": "Generate",
    "generating": "Generating…",
    "stop": "Stop",
}
CONTROLS_ZH: Final = {
    "prompt": "提示词",
    "prompt_hint": "紫色背景上的火箭",
    "style": "风格",
    "none": "无风格",
    "weight": "强度",
    "more": "更多",
    "second": "第二种风格",
    "seed": "种子",
    "dice": "骰子",
    "keep": "锁定",
    "steps": "步数",
    "generate": "绘制",
    "generating": "正在生成……",
    "stop": "停止",
}
I18N: Final = gr.I18n(
    **{"en": CONTROLS_EN, "zh": CONTROLS_ZH, "zh-CN": CONTROLS_ZH, "zh-TW": CONTROLS_ZH}
)

TEXTS_EN: Final = {
    "none": CONTROLS_EN["none"],
    "rough": "rough",
    "draft": "draft",
    "preview": "preview",
    "production": "production",
    "warning": "From the server: {text}.",
    "styles": "Styles",
    "words": "Trigger words: {words}.",
    "note": "About the file: {note}.",
    "examples": "Example prompts, to put into the prompt",
    "others": "Other examples",
    "empty": "Describe an image, then press Generate or Ctrl+Enter.",
    "here": "Your image will be here.",
    "rendering": "Rendering…",
    "next": "Rendering… You are next.",
    "waiting": "Waiting… {before} images before yours.",
    "started": "Rendering… Step 1/{steps}",
    "stepped": "Step {step}/{steps}",
    "decoding": "Step {step}/{steps} → finishing",
    "done": "Done in {seconds:.1f} s · seed {seed}",
    "again": "Generated before · seed {seed}",
    "ignored": "The prompt is too long: about the last {count} words were not read.",
    "skipped": "generated without “{name}”, which cannot be used",
    "stopped": "Stopped. Change anything you like, then generate again.",
    "save": "Save",
    "whole": "Full screen",
    "zoom": "Image: + and − zoom, arrow keys move, 0 shows all of it",
    "strip": "Images of this visit",
    "thumb": "{prompt}, seed {seed}: show this image and restore its settings",
    "refused": "“{name}” cannot be used: {reason}. Repair or remove the file.",
    "held": "“{name}” cannot be used yet: {reason}.",
    "held_newer": "“{name}” is used in its previous version; the new file is not ready: {reason}.",
    "unmanaged": "The LoRA manager is not running, so new style files are not noticed. "
    "Start it with `make up` or `wuliart-lora-manager`.",
    "unavailable": "The server does not answer. Start it with `make up`, or wait a moment: "
    "this page continues as soon as the server is back.",
    "starting": "The server is still loading its model. Wait a moment, then generate again.",
    "draining": "The server is stopping. Generate again once it is back.",
    "no_manager": "This style must be loaded first, but the LoRA manager is not running. Start it "
    "with `make up` or `wuliart-lora-manager`, or choose another style, then generate again.",
    "style_unknown": "This style no longer exists ({message}). "
    "Choose another one, then generate again.",
    "style_refused": "This style cannot be used: {message}. "
    "Choose another one, then generate again.",
    "queue_full": "The server's queue is full. Generate again in {seconds} s.",
    "rate_limited": "You have reached your limit of images. Generate again in {seconds} s.",
    "unauthenticated": "The server does not accept this page ({message}). "
    "Ask its operator for a token, then generate again.",
    "no_slot": "All slots for styles are in use. Generate again in {seconds} s.",
    "invalid": "This cannot be generated ({message}). Change it, then generate again.",
    "login_lang": "en",
    "login_hint": "This page is only for people who have a token.",
    "login_token": "Token",
    "login_enter": "Enter",
    "login_wrong": "This token is not valid here. Ask the server's operator for one.",
    "failed": "The model could not generate this image ({message}). Generate again with another "
    "seed; if it keeps failing, see the server's log.",
    "other": "It did not work ({message}). Generate again; if it keeps failing, see the "
    "server's log.",
}
TEXTS_ZH: Final = {
    "none": CONTROLS_ZH["none"],
    "rough": "粗略",
    "draft": "草稿",
    "preview": "预览",
    "production": "成品",
    "warning": "服务器提示：{text}。",
    "styles": "风格",
    "words": "触发词：{words}。",
    "note": "关于文件：{note}。",
    "examples": "示例提示词，点选即填入",
    "others": "换一批",
    "empty": "先写下要画什么，再按“绘制”或 Ctrl+Enter。",
    "here": "图片会出现在这里。",
    "rendering": "正在绘制……",
    "next": "正在绘制…… 下一个就是您的。",
    "waiting": "排队中…… 前面还有 {before} 张。",
    "started": "正在绘制…… 第 1/{steps} 步",
    "stepped": "第 {step}/{steps} 步",
    "decoding": "第 {step}/{steps} 步 → 收尾",
    "done": "完成，用时 {seconds:.1f} 秒 · 种子 {seed}",
    "again": "先前所绘 · 种子 {seed}",
    "ignored": "提示词太长，最后约 {count} 个词没有读到。",
    "skipped": "未使用不可用的“{name}”",
    "stopped": "已停止。可以修改后重新绘制。",
    "save": "保存",
    "whole": "全屏",
    "zoom": "图片：+ 和 − 缩放，方向键移动，0 显示全图",
    "strip": "本次访问的图片",
    "thumb": "{prompt}，种子 {seed}：显示它并取回设置",
    "refused": "“{name}”不能用：{reason}。请修复或移除该文件。",
    "held": "“{name}”暂时还不能用：{reason}。",
    "held_newer": "“{name}”仍使用原来的版本，新文件尚未完成：{reason}。",
    "unmanaged": "LoRA 管理器没有运行，新的风格文件不会被发现。"
    "请用 `make up` 或 `wuliart-lora-manager` 启动它。",
    "unavailable": "服务器没有响应。请运行 `make up`，或稍等片刻：服务器恢复后本页会自动继续。",
    "starting": "服务器还在加载模型。请稍等片刻再绘制。",
    "draining": "服务器正在停止。等它恢复后再绘制。",
    "no_manager": "这个风格需要加载，但 LoRA 管理器没有运行。"
    "请用 `make up` 或 `wuliart-lora-manager` 启动它，或另选一个风格，再绘制。",
    "style_unknown": "这个风格已经不在了（{message}）。请另选一个，再绘制。",
    "style_refused": "这个风格不能用：{message}。请另选一个，再绘制。",
    "queue_full": "排队的图片太多了。请过 {seconds} 秒再绘制。",
    "rate_limited": "您请求的图片已达到上限。请过 {seconds} 秒再绘制。",
    "unauthenticated": "服务器不允许本页访问（{message}）。"
    "需要由运行它的人给它一个令牌，之后再绘制。",
    "no_slot": "风格的位置暂时都被占用。请过 {seconds} 秒再绘制。",
    "invalid": "无法绘制（{message}）。请修改后再绘制。",
    "login_lang": "zh-CN",
    "login_hint": "本页供持有令牌的人使用。",
    "login_token": "令牌",
    "login_enter": "进入",
    "login_wrong": "这里不认识这个令牌。请向运行服务器的人索取。",
    "failed": "模型没能画出这张图（{message}）。请换一个种子再绘制；若仍如此，请查看服务器日志。",
    "other": "没有成功（{message}）。请再绘制一次；若仍如此，请查看服务器日志。",
}


def texts_for(language: str) -> Texts:
    """Returns the page's texts in the browser's language.

    Args:
        language: an Accept-Language header; English unless it begins with Chinese.
    """
    first = language.split(",")[0].strip().lower()
    return TEXTS_ZH if first.startswith("zh") else TEXTS_EN
