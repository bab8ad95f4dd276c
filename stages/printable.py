"""Texts as a terminal, a log and a message can show them: names of files and classes as they are,
control characters as escapes.

A name may hold anything but a zero byte: an escape sequence that clears the screen, a line break
that begins a line of its own. Every message, log line and table cell passes through `one_line`
(`UserError`, and `pipeline/console.py` for all that is printed), so nobody who makes a message has
to think of it.
"""

import difflib
import re
from collections.abc import Iterable

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, what turns the direction of text, and the halves by which
Python stands for bytes of a file name that are not UTF-8."""


def printable(text: str) -> str:
    """A text of several lines with what a terminal would act on, or cannot show, as escapes:
    `\\x1b`. Its line breaks and tabs stay.
    """
    return _UNPRINTABLE.sub(_escape, text)


def one_line(text: object) -> str:
    """A text that is to stay in its line: `printable`, its line breaks and tabs as escapes too."""
    return printable(str(text)).replace("\n", "\\n").replace("\t", "\\t")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun, such as `1 image` and `2,000 images`.

    `many` is the form for all numbers but 1, where another "s" does not make it.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte: see PEP 383
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'train'?)` for a word that is nearly a known one, else nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
