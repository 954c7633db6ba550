"""Wrong arguments fail at the call, and a right call pays next to nothing for it.

The **twin** of a signature is a function with the same parameters that does nothing. Calling it with the arguments
of a call (0.05 us) raises the interpreter's own ``TypeError`` when they do not fit; ``inspect.Signature.bind`` would
cost 2.4-6 us. A signature travels as the text of its parameters, and equal texts share one twin.
"""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable, Iterable
from typing import Any

Twin = Callable[..., None]

ANYTHING = "*args, **kwargs"
"""The parameters of a callable that tells nothing about itself."""

_UNKNOWN_DEFAULT = "None"


def parameters_of(function: Callable[..., Any], *, skip_first: bool = False) -> str:
    """The parameters of *function* as source text, every default being ``None``; *skip_first* leaves ``self`` out.

    A decorator's wrapper counts with its own parameters, not with those it copied from what it wraps: it may give
    some of them itself, and a right call must never be refused.

    Example:
        >>> parameters_of(lambda a, /, b=5, *, c: 0)
        'a, /, b=None, *, c'
    """
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return ANYTHING
    parameters = list(signature.parameters.values())
    if skip_first:
        if not parameters:
            return ANYTHING
        if parameters[0].kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            parameters = parameters[1:]
    return _source(parameters)


def _source(parameters: Iterable[inspect.Parameter]) -> str:
    parts: list[str] = []
    positional_only = keyword_only = False
    for parameter in parameters:
        if not parameter.name.isidentifier() or keyword.iskeyword(parameter.name):
            return ANYTHING  # C functions may call their parameters anything
        if positional_only and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            parts.append("/")
        positional_only = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            keyword_only = True
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts.append("*")
        parts.append(_parameter_source(parameter))
    if positional_only:
        parts.append("/")
    return ", ".join(parts)


def _parameter_source(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={_UNKNOWN_DEFAULT}"


@functools.lru_cache(maxsize=4096)
def twin_of(parameters: str) -> Twin:
    """The function with these *parameters* (of :func:`parameters_of`) that does nothing."""
    twin: Twin = eval(f"lambda {parameters}: None", {"__builtins__": {}})
    return twin


def wrong_call(twin: Twin, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TypeError:
    """The error for arguments that *twin* refused; *name* is what the user called, as ``Counter.add``."""
    signature = inspect.signature(twin)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return TypeError(f"{name}.remote(): {error}. Its parameters are {_describe(signature)}")
    return TypeError(f"{name}.remote(): the arguments do not fit its parameters {_describe(signature)}")


def _describe(signature: inspect.Signature) -> str:
    return str(signature).replace(f"={_UNKNOWN_DEFAULT}", "=...")
