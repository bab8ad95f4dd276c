"""Class names that mean one class to a text encoder: equal but for case, blanks or spelling."""

import unicodedata
from collections.abc import Sequence


def normal_form(name: str) -> str:
    """A name as CLIP's tokenizers read it: lower case, one blank between words (Unicode NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


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
    """Why a text encoder cannot tell classes apart by their prompt names, one text each."""
    own_prompts = [prompt for name, prompt in zip(classes, prompts, strict=True) if prompt != name]
    faults = [*unusable_names(classes), *unusable_names(own_prompts)]
    faults += [f"the classes '{one}' and '{two}' are the same" for one, two in equal_names(classes)]
    class_of = {normal_form(name): name for name in classes}
    first_with: dict[str, str] = {}
    for name, prompt in zip(classes, prompts, strict=True):
        form = normal_form(prompt)
        if _differ(other := class_of.get(form, name), name):
            faults.append(f"`names` gives '{name}' the name of another class, '{other}'")
        elif _differ(other := first_with.setdefault(form, name), name):
            faults.append(f"`names` gives '{other}' and '{name}' one name, '{prompt}'")
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
