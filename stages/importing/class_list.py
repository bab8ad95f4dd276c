"""The classes of a data set that is made: those of its labels, and those that the user names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zsseg.stages.data.class_names import names_of, naming_faults, normal_form
from zsseg.stages.errors import DatasetError


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of their ids."""

    classes: tuple[str, ...]
    unseen: tuple[str, ...]
    prompts: dict[str, str]
    """Class -> what the prompt says instead: plain words, or several names that the user gave."""


def class_list(
    labelled: Sequence[str], named: Sequence[str], *, pixels: Sequence[int]
) -> ClassList:
    """The classes of the labels, then those that only the user names.

    Unseen are those that the user names and no pixel has (`pixels`: of each class of the labels).
    `car|van` names the class `car` of the labels. Raises DatasetError for fewer than two classes,
    and where a text encoder cannot tell them by their names.
    """
    place = {
        normal_form(each): number for number, name in enumerate(labelled) for each in names_of(name)
    }
    classes, unseen, prompts = [*labelled], [], _plain_words(labelled)
    for text in named:
        own = {place[each] for each in map(normal_form, names_of(text)) if each in place}
        if len(own) != 1:
            classes.append(text)
            unseen.append(text)
            continue
        (number,) = own
        name = labelled[number]
        if not pixels[number]:
            unseen.append(name)
        if len(names_of(text)) > 1 and text != name:
            prompts[name] = text
    if len(classes) < 2:
        raise DatasetError(
            f"The labels show one class, '{classes[0]}', and a data set has two or more. Name what "
            'else the images show: --classes "NAME"'
        )
    texts = [prompts.get(name, name) for name in classes]
    if faults := naming_faults(classes, texts):
        raise DatasetError(
            "The classes of the labels and of --classes cannot be told apart:",
            *map("  {}".format, faults),
            "Give other names",
        )
    return ClassList(tuple(classes), tuple(unseen), prompts)


def _plain_words(classes: Sequence[str]) -> dict[str, str]:
    """Plain words for names that are written as identifiers: `traffic_light`, `a--b`."""
    words = {name: " ".join(re.sub(r"_|--", " ", name).split()) for name in classes}
    plain = {name: text for name, text in words.items() if text and text != name}
    return {} if naming_faults(classes, [plain.get(name, name) for name in classes]) else plain
