"""Templates of names, descriptions and paths: `str.format` over a step's bound arguments.

What comes in: a template and the arguments. What goes out: the text, or a `TemplateFault` that says what is wrong. References have no text yet, so none may get into one.
"""

from __future__ import annotations

import functools
import re
import string
from typing import TYPE_CHECKING, Any

from otel_exec.errors import PlanError
from otel_exec.plan.walk import references

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["TemplateFault", "fill"]


class TemplateFault(Exception):
    """A template that can't be filled. `placeholder` is the one at fault; `unknown`: there is no such argument."""

    def __init__(self, message: str, placeholder: str = "", *, unknown: bool = False, hint: str = "") -> None:
        super().__init__(message)
        self.placeholder = placeholder
        self.unknown = unknown
        self.hint = hint


class _NoReferences(string.Formatter):
    """Formats like `str.format` and refuses fields that are, or hold, references: a dataclass' `repr` would show them."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        value, first = super().get_field(field_name, args, kwargs)
        if references([value]):
            raise TemplateFault(f"{{{field_name}}} is a step's reference, which has no text", field_name, hint="name the step by a plain argument")
        return value, first


@functools.lru_cache(maxsize=1024)
def _roots(template: str) -> tuple[str, ...] | None:
    """Return the names of the arguments that a template uses; `None` where that takes a closer look."""
    try:
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        return None
    if any("{" in (spec or "") for _, spec in fields):
        return None
    return tuple(re.split(r"[.\[]", name, maxsplit=1)[0] for name, _ in fields)


def fill(template: str, arguments: Mapping[str, object], *, look_for_references: bool) -> str:
    """Return the template with the arguments in their places.

    Args:
        template: as `str.format` takes it.
        arguments: by name; there are no positional ones.
        look_for_references: whether there are any among the arguments; looking for them costs more than the formatting.

    Raises:
        TemplateFault: an unknown or positional placeholder, a reference, a broken template, or an argument that can't be formatted.
    """
    if "{" not in template and "}" not in template:
        return template
    try:
        if look_for_references and ((roots := _roots(template)) is None or references([arguments.get(name) for name in roots])):
            return _NoReferences().vformat(template, (), arguments)
        return template.format(**arguments)
    except KeyError as error:
        name = str(error.args[0]) if error.args else ""
        roots = _roots(template)
        if name in arguments or (roots is not None and name not in roots):  # a key inside an argument: {config[missing]}
            raise TemplateFault(f"there is no {name!r} in an argument", name) from None
        raise TemplateFault(f"unknown placeholder {name!r}", name, unknown=True) from None
    except IndexError:
        raise TemplateFault("placeholders have names, as in {name}", hint="name the placeholder, or write {{ and }} for plain braces") from None
    except AttributeError as error:
        raise TemplateFault(str(error)) from None
    except PlanError as error:
        raise TemplateFault(str(error.mistakes[0].message), hint="name the step by a plain argument") from None
    except TemplateFault:
        raise
    except Exception as error:
        raise TemplateFault(f"it can't be formatted ({type(error).__name__}: {error})", hint="write {{ and }} for plain braces") from None
