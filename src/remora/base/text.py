"""Text that can be told to other processes."""

from __future__ import annotations


def check_encodable(argument: str, text: str) -> str:
    """*text*, when it can be written as UTF-8; *argument* names it in the error.

    Raises:
        ValueError: it has surrogates, as names of files have whose bytes are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{argument}={text!r}: this cannot be written as UTF-8. Of the name of a file, "
            "os.fsencode(name).decode(errors='replace') can"
        ) from None
    return text
