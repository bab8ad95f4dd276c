"""The names of a class, and names that are one to a text encoder.

A class has one name or several: they are one text with bars between, 'car|van|lorry', wherever a
class has a text for its prompts.
"""

import unicodedata
from collections.abc import Sequence

BAR = "|"
"""Between two names of one class."""


def normal_form(name: str) -> str:
    """A name as CLIP's tokenizers read it: lower case, one blank between words (Unicode NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def names_of(text: str) -> tuple[str, ...]:
    """The names of a class, from its text: those between the bars, or the text itself."""
    return tuple(name.strip() for name in text.split(BAR)) if BAR in text else (text,)


def text_of(names: Sequence[str]) -> str:
    """The text of a class of these names."""
    return BAR.join(names)


def every_name(texts: Sequence[str]) -> list[str]:
    """The names of all classes, from their texts."""
    return [name for text in texts for name in names_of(text)]


def equal_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of names with one normal form: each later one with the first of its form."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        form = normal_form(name)
        if form in first:
            pairs.append((first[form], name))
        first.setdefault(form, name)
    return pairs


def naming_faults(classes: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Why a text encoder cannot tell classes apart by their names for prompts, one text each."""
    pairs = [*zip(classes, prompts, strict=True)]
    own_names = [name for text, prompt in pairs if prompt != text for name in names_of(prompt)]
    faults = [*unusable_names(every_name(classes)), *unusable_names(own_names)]
    same = equal_names(every_name(classes))
    faults += [f"the classes '{one}' and '{two}' are the same" for one, two in same]
    class_of = {normal_form(name): text for text in classes for name in names_of(text)}
    first_with: dict[str, str] = {}
    for text, prompt in pairs:
        names = names_of(prompt)
        for name in names:
            form = normal_form(name)
            if _differ(other := class_of.get(form, text), text):
                faults.append(f"`names` gives '{text}' the name of another class, '{other}'")
            elif _differ(other := first_with.setdefault(form, text), text):
                faults.append(f"`names` gives '{other}' and '{text}' one name, '{name}'")
        if prompt != text:
            twice = equal_names(names)
            faults += [
                f"`names` gives '{text}' '{one}' and '{two}', one name" for one, two in twice
            ]
    return faults


def _differ(one: str, other: str) -> bool:
    return normal_form(one) != normal_form(other)


def unusable_names(names: Sequence[str]) -> list[str]:
    """What is wrong with single names, one text each: blanks around them, nothing to read."""
    faults = []
    for name in names:
        if not normal_form(name):
            faults.append(f"'{name}' is empty")
        elif name != name.strip():
            faults.append(f"'{name}' has blanks around it; write '{name.strip()}'")
        elif any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            faults.append(f"{name!a} holds characters that are no text")
    return faults
