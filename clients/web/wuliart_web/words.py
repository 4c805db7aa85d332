"""Every word of the page, in English and Chinese; the browser says which. Owns nothing else."""

from __future__ import annotations

from typing import Final

import gradio as gr

ENGLISH: Final = {
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
    "draw": "Draw",
    "generating": "Generating…",
    "stop": "Stop",
}
CHINESE: Final = {
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
    "draw": "绘制",
    "generating": "正在生成……",
    "stop": "停止",
}
I18N: Final = gr.I18n(**{"en": ENGLISH, "zh": CHINESE, "zh-CN": CHINESE, "zh-TW": CHINESE})

SPOKEN_ENGLISH: Final = {
    "none": ENGLISH["none"],
    "rough": "rough",
    "draft": "draft",
    "preview": "preview",
    "production": "production",
    "warning": "From the server: {text}.",
    "empty": "Say what to generate, then press Generate or Ctrl+Enter.",
    "here": "Your image will be here.",
    "asking": "Rendering…",
    "next": "Rendering… You are next.",
    "waiting": "Waiting… {before} images before yours.",
    "started": "Rendering… Step 1/{steps}",
    "stepped": "Step {step}/{steps}",
    "decoding": "Step {step}/{steps} → finishing",
    "done": "Done in {seconds:.1f} s · seed {seed}",
    "again": "Generated before · seed {seed}",
    "ignored": "The last {count} words or so of the prompt were not read: it is too long.",
    "skipped": "generated without “{name}”, which cannot be used",
    "stopped": "Stopped. Change what you like and generate again.",
    "save": "Save",
    "whole": "Full screen",
    "zoom": "GeneratedImage: + and − zoom, arrows move, 0 shows all of it",
    "strip": "Images of this visit",
    "thumb": "{prompt}, seed {seed}: show it and take its settings",
    "refused": "“{name}” cannot be used: {reason}. Mend or remove the file.",
    "held": "“{name}” cannot be used yet: {reason}.",
    "held_newer": "“{name}” is used as it was, its new file is not finished: {reason}.",
    "unmanaged": "The LoRA manager does not run: new style files are not noticed. "
    "Start it with `make up` or `wuliart-lora-manager`.",
    "gone": "The server does not answer. Start it with `make up`, or wait a moment: "
    "this page goes on as soon as it is back.",
    "starting": "The server is still loading its model. Wait a moment, then generate.",
    "draining": "The server is stopping. Generate again once it is back.",
    "no_manager": "This style has to be loaded, but the LoRA manager does not run. Start it with "
    "`make up` or `wuliart-lora-manager`, or choose another style, then generate again.",
    "style_unknown": "There is no such style any more ({message}). "
    "Choose another one, then generate again.",
    "style_refused": "This style cannot be used: {message}. Choose another one, then try again.",
    "queue_full": "Too many images wait already. Generate again in {seconds} s.",
    "rate_limited": "You have asked for as many images as one may. Generate again in {seconds} s.",
    "stranger": "The server does not let this page in ({message}). "
    "Whoever runs it has to give it a token; then generate again.",
    "no_slot": "All places for styles are in use just now. Generate again in {seconds} s.",
    "invalid": "This cannot be generated ({message}). Change it, then generate again.",
    "login_lang": "en",
    "login_hint": "This page is for people who were given a token.",
    "login_token": "Token",
    "login_enter": "Enter",
    "login_wrong": "This token is not known here. Ask whoever runs the server for one.",
    "failed": "The model failed at this image ({message}). Generate again with another seed; "
    "if it stays so, look into the server's log.",
    "other": "It did not work ({message}). Try again; if it stays so, look into the server's log.",
}
SPOKEN_CHINESE: Final = {
    "none": CHINESE["none"],
    "rough": "粗略",
    "draft": "草稿",
    "preview": "预览",
    "production": "成品",
    "warning": "服务器提示：{text}。",
    "empty": "先写下要画什么，再按“绘制”或 Ctrl+Enter。",
    "here": "图片会出现在这里。",
    "asking": "正在绘制……",
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
    "gone": "服务器没有响应。请运行 `make up`，或稍等片刻：服务器恢复后本页会自动继续。",
    "starting": "服务器还在加载模型。请稍等片刻再绘制。",
    "draining": "服务器正在停止。等它恢复后再绘制。",
    "no_manager": "这个风格需要加载，但 LoRA 管理器没有运行。"
    "请用 `make up` 或 `wuliart-lora-manager` 启动它，或另选一个风格，再绘制。",
    "style_unknown": "这个风格已经不在了（{message}）。请另选一个，再绘制。",
    "style_refused": "这个风格不能用：{message}。请另选一个，再绘制。",
    "queue_full": "排队的图片太多了。请过 {seconds} 秒再绘制。",
    "rate_limited": "您请求的图片已达到上限。请过 {seconds} 秒再绘制。",
    "stranger": "服务器不允许本页访问（{message}）。需要由运行它的人给它一个令牌，之后再绘制。",
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


def spoken(language: str) -> dict[str, str]:
    """What the page says while it works.

    Args:
        language: the browser's Accept-Language.
    """
    first = language.split(",")[0].strip().lower()
    return SPOKEN_CHINESE if first.startswith("zh") else SPOKEN_ENGLISH
