"""The page while the processes behind it are killed and come back."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.conftest import ADAPTERS, Site
from tests.browser.visitor import Visitor, eventually
from wuliart_client import AdapterState
from wuliart_web.page.choices import labels

Visit = Callable[..., Visitor]


def test_the_manager_is_gone_and_comes_back(visit: Visit, site: Site) -> None:
    visitor = visit()
    visitor.open_more()
    visitor.steps(1)
    for name in ("flat", "pixel", "more"):
        site.add(name, (ADAPTERS / f"{name.replace('more', 'flat')}.safetensors").read_bytes())
    eventually(lambda: len(visitor.adapters()) == 5, "more adapters than there are places")
    known = site.client.adapters()
    absent = next(a.name for a in known if a.state is AdapterState.AVAILABLE)
    label = next(label for label, name in labels(known) if name == absent)
    site.service.kill("manager")
    site.wait_managed(False)
    eventually(lambda: "LoRA manager is not running" in visitor.notices, "the notice")
    visitor.choose(label)
    visitor.begin("a red boat")
    expect(visitor.line).to_contain_text(
        "must be loaded first, but the LoRA manager is not running"
    )
    # An adapter in memory, or none, needs no manager.
    visitor.choose("No style")
    visitor.generate("a red boat")
    visitor.choose(label)
    site.service.start_manager()
    eventually(lambda: visitor.notices == "", "no notices")
    visitor.generate("a green apple")


def test_the_page_survives_the_server_being_killed_during_an_image(
    visit: Visit, site: Site
) -> None:
    visitor = visit()
    visitor.open_more()
    visitor.choose("Neon")
    visitor.begin("a red boat")
    visitor.page.locator("#stop").wait_for()
    site.service.kill("server")
    expect(visitor.line).to_contain_text("The server does not answer")
    eventually(lambda: "does not answer" in visitor.notices, "the notice")
    visitor.begin("a red boat")
    expect(visitor.page.locator("#generate")).to_be_visible()
    expect(visitor.line).to_contain_text("`make up`")

    late = visit()
    assert "does not answer" in late.notices
    site.service.start_server()
    site.service.wait_until_ready()
    site.wait_managed(True)
    for each in (visitor, late):
        eventually(lambda each=each: each.notices == "", "no notices")
        eventually(lambda each=each: len(each.adapters()) == 5, "the adapters")
    # What was chosen is chosen still.
    assert visitor.adapter_box().input_value() == "Neon"
    visitor.generate("a red boat")
    assert not visitor.errors


def test_notices_are_in_chinese_too(visit: Visit, site: Site) -> None:
    visitor = visit(locale="zh-CN")
    site.service.kill("manager")
    eventually(lambda: "LoRA 管理器没有运行" in visitor.notices, "the notice")
    site.service.start_manager()
    eventually(lambda: visitor.notices == "", "no notices")
