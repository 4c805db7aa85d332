"""Checks the page's calls to Gradio field by field before Gradio sees them.

Gradio interprets nested values wherever they appear: an object with a path is a file to fetch and
hand out, one with a URL is downloaded. The page sends plain values only, of the kinds that its
components have; anything else is rejected, whatever this version of Gradio would do with it.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import gradio as gr
from gradio.blocks import Block

from wuliart_web.guard.error import GuardError

JOIN: Final = "/gradio_api/queue/join"
CANCEL: Final = "/gradio_api/cancel"
RESET: Final = "/gradio_api/reset"
SESSION: Final = r"[a-z0-9]{1,32}"

Check = Callable[[Any], bool]

_JOIN_FIELDS: Final = frozenset({"data", "event_data", "fn_index", "trigger_id", "session_hash"})


def _is_text(value: Any) -> bool:
    # A lone surrogate can be encoded neither for the service nor for a log.
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_like(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


_is_session: Final = _is_like(SESSION)
_is_event: Final = _is_like(r"[0-9a-f]{32}")


class GradioCalls:
    """Checks the calls of one page.

    Args:
        page: the built page; its functions and their input components define valid calls.
        choices: returns the values that its radio buttons offer now; they change while it runs.

    Raises:
        TypeError: an input component of the page has no check.
    """

    def __init__(self, page: gr.Blocks, choices: Callable[[], Collection[Any]]) -> None:
        self._inputs: dict[int, tuple[Check, ...]] = {
            index: tuple(_check_of(component, choices) for component in function.inputs)
            for index, function in page.fns.items()
            if function.fn is not None
        }
        self._with_event = {
            index
            for index, function in page.fns.items()
            if function.fn is not None and _takes_event(function.fn)
        }

    def check(self, path: str, body: bytes) -> str:
        """Checks the body of a POST to `JOIN`, `CANCEL` or `RESET`.

        Returns:
            The name of its session; empty if it has none.

        Raises:
            GuardError: 422; the message names the field and repeats no value.
        """
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            raise _bad_call("the body is not JSON") from None
        if not isinstance(fields, dict):
            raise _bad_call("the body is not a JSON object")
        if path == JOIN:
            self._check_join(fields)
        elif path == CANCEL:
            _check_fields(fields, event_id=_is_event, session_hash=_is_session, fn_index=_is_whole)
        else:
            _check_fields(fields, event_id=_is_event)
        session: str = fields.get("session_hash", "")
        return session

    def _check_join(self, fields: Mapping[str, Any]) -> None:
        if unknown := fields.keys() - _JOIN_FIELDS:
            raise _bad_call(f"{len(unknown)} fields are not known")
        inputs = self._inputs.get(fields["fn_index"]) if _is_whole(fields.get("fn_index")) else None
        if inputs is None:
            raise _bad_call("fn_index is no function of this page")
        if not _is_session(fields.get("session_hash")):
            raise _bad_call("session_hash is not a session's name")
        if not (fields.get("trigger_id") is None or _is_whole(fields["trigger_id"])):
            raise _bad_call("trigger_id is not a whole number")
        event = fields.get("event_data")
        if not (_is_event_data(event) or event in (None, {})):
            raise _bad_call("event_data holds more than a number")
        if fields["fn_index"] in self._with_event and not _is_event_data(event):
            raise _bad_call("event_data must hold a number")
        data = fields.get("data")
        if not isinstance(data, list) or len(data) != len(inputs):
            raise _bad_call(f"data must be a list of {len(inputs)} values")
        for place, (value, is_right) in enumerate(zip(data, inputs, strict=True)):
            if not is_right(value):
                raise _bad_call(f"data[{place}] is not what its control sends")


def _check_fields(fields: Mapping[str, Any], **checks: Check) -> None:
    if fields.keys() != checks.keys():
        raise _bad_call(f"the fields must be {', '.join(sorted(checks))}")
    for name, is_right in checks.items():
        if not is_right(fields[name]):
            raise _bad_call(f"{name} is not valid")


def _is_event_data(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"number"} and _is_whole(value["number"])


def _takes_event(function: Callable[..., Any]) -> bool:
    """Returns True if Gradio passes its event's data to a function."""
    annotations = (p.annotation for p in inspect.signature(function).parameters.values())
    return any("EventData" in str(annotation) for annotation in annotations)


def _check_of(component: Block, choices: Callable[[], Collection[Any]]) -> Check:
    """Returns the check for the values that a browser sends for an input component."""
    match component:
        case gr.State():
            return lambda value: value is None
        case gr.Textbox():
            return _is_text
        case gr.Dropdown(multiselect=None | False, allow_custom_value=True):
            return lambda value: value is None or _is_text(value)
        case gr.Checkbox():
            return lambda value: isinstance(value, bool)
        case gr.Radio():
            return lambda value: any(type(value) is type(v) and value == v for v in choices())
        case gr.Slider():
            return _is_between(component.minimum, component.maximum)
        case gr.Number():
            within = _is_between(component.minimum, component.maximum)
            return lambda value: value is None or within(value)
    raise TypeError(f"{type(component).__name__} is an input of the page and has no check")


def _is_between(minimum: float | None, maximum: float | None) -> Check:
    low = -math.inf if minimum is None else minimum
    high = math.inf if maximum is None else maximum

    def check(value: Any) -> bool:
        # Python compares integers of any size with floats exactly; NaN fails both comparisons.
        return type(value) in (int, float) and low <= value <= high

    return check


def _bad_call(what: str) -> GuardError:
    return GuardError(422, f"This is not a call of the page: {what}. Reload the page.", "bad_call")
