"""What a data set is: class names in index order, unseen classes, prompt names, label encoding.

A description is a YAML file: the built-in ones lie in `configs/datasets/`, a user's own anywhere.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from zsseg.stages.data.class_names import names_of, naming_faults, normal_form, text_of
from zsseg.stages.errors import DatasetError
from zsseg.stages.file_bytes import read_text_file
from zsseg.stages.printable import did_you_mean
from zsseg.stages.validation_errors import error_lines
from zsseg.stages.yaml_files import builtin_names, packaged_text, parse_yaml

VOID = 255
"""Label value of a pixel without a class; in training unseen classes have it too."""

FIRST_REGION = 1000
"""Mask id of latent region 0; region r has this plus r, a visible class has its class id."""

Layout = Literal[
    "coco-stuff",
    "pascal-voc",
    "pascal-context",
    "camvid",
    "cityscapes",
    "ade20k",
    "bdd100k",
    "folder",
]


class FolderPatterns(BaseModel):
    """Where a `folder` data set keeps its files, relative to the root; `{split}` is replaced.

    A label belongs to the image with the same path below its folder, less suffix and extension on
    both sides: images/train/a/b.jpg and labels/train/a/b.png.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    images: str = "images/{split}"
    labels: str | None = "labels/{split}"
    """null: there are none. So it is by default in a description that says `unseen: all`."""
    image_extensions: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
    image_suffix: str = ""
    """Between name and extension of every image ('_leftImg8bit'); files without it are left out."""
    label_extension: str = ".png"
    label_suffix: str = ""


def _one_text(value: Any) -> Any:
    """The names of a class, a list or a text with bars, as one text (`class_names.text_of`)."""
    if isinstance(value, str) and len(names := names_of(value)) > 1:
        return text_of(names)
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return text_of(value)
    return value


def _one_colour(value: Any) -> Any:
    """`#rrggbb` as red, green and blue; of three numbers a tuple; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value[1:]))
    return tuple(value) if isinstance(value, list) else value


_Level = Annotated[int, Field(ge=0, le=255)]
Colour = Annotated[tuple[_Level, _Level, _Level], BeforeValidator(_one_colour)]
"""RGB, 0 to 255; in a description also `'#rrggbb'`."""


class DatasetSpec(BaseModel):
    """A data set's classes and how its labels are stored. Class ids are positions in `classes`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    about: str = ""
    layout: Layout = "folder"
    classes: tuple[str, ...] = Field(min_length=2)
    unseen: tuple[str, ...] = ()
    """In a description also `all`: then labels are for scoring only, and need not be there."""
    labelled: Literal["all", "some"] = "all"
    """Has every image a label? `some`: those without one are counted, and are no mistake."""
    names: dict[str, Annotated[str, BeforeValidator(_one_text)]] = Field(default_factory=dict)
    """Class name -> cleaner name for the prompt ('sign symbol' -> 'traffic sign'), or several: a
    list, kept as one text with bars ('car|van|lorry')."""
    colours: dict[str, Colour] = Field(default_factory=dict)
    """Class name -> the colour that the data set's own pictures give it. Others follow from their
    names; no result depends on it."""
    encoding: dict[int, int] | None = None
    """Raw pixel value -> class id; None: raw value = class id."""
    ignore: tuple[int, ...] = (VOID,)
    """Raw pixel values that carry no class. A value in neither list is an error."""
    patterns: FolderPatterns | None = None
    """Only for layout `folder`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({c for c in self.classes if self.classes.count(c) > 1})
            raise ValueError(f"classes named twice: {', '.join(twice)}")
        if len(self.classes) > VOID:
            raise ValueError(f"{len(self.classes)} classes; 8-bit label maps hold at most {VOID}")
        lists = {"unseen": self.unseen, "names": self.names, "colours": self.colours}
        for field, given in lists.items():
            if unknown := sorted(set(given) - set(self.classes)):
                meant = did_you_mean(unknown[0], self.classes)
                raise ValueError(f"{field} lists what is not a class: {', '.join(unknown)}{meant}")
        of_colour = {colour: name for name, colour in self.colours.items()}
        if pairs := [(n, of_colour[c]) for n, c in self.colours.items() if of_colour[c] != n]:
            raise ValueError(f"colours gives '{pairs[0][0]}' and '{pairs[0][1]}' one colour")
        if self.encoding is not None:
            bad = sorted(v for v in self.encoding.values() if not 0 <= v < len(self.classes))
            if bad:
                raise ValueError(f"encoding maps to class ids that do not exist: {bad}")
            if both := sorted(set(self.encoding) & set(self.ignore)):
                raise ValueError(f"raw values both encoded and ignored: {both}")
        if (self.layout == "folder") != (self.patterns is not None):
            raise ValueError(
                "`patterns` belongs to layout `folder` (the default), and to it only: write "
                "`patterns: {images: photos}` with the folder of your images"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_stores_have_it(self, values_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `labelled: all` and empty `colours`, which earlier stores do not name: their copy
        stays equal."""
        values: dict[str, Any] = values_of(self)
        if self.labelled == "all":
            values.pop("labelled", None)
        if not self.colours:
            values.pop("colours", None)
        return values

    @property
    def unseen_ids(self) -> tuple[int, ...]:
        """Class ids without labels in training, ascending."""
        return tuple(i for i, name in enumerate(self.classes) if name in self.unseen)

    @property
    def seen_ids(self) -> tuple[int, ...]:
        """Class ids with labels in training, ascending."""
        return tuple(i for i, name in enumerate(self.classes) if name not in self.unseen)

    @property
    def prompt_names(self) -> tuple[str, ...]:
        """The name of each class as it is put into a prompt, in class order; bars between several
        (`class_names.names_of`)."""
        return tuple(self.names.get(name, name) for name in self.classes)

    def class_of(self, name: str) -> int | None:
        """The class that a name means, by its own or its prompt name, but for case and blanks."""
        both = (self.classes, self.prompt_names)
        for names in (*both, *(tuple(map(normal_form, each)) for each in both)):
            for text in (name, normal_form(name)):
                if text in names:
                    return names.index(text)
        return None


def load_spec(name_or_file: str) -> DatasetSpec:
    """Read a description by built-in name ('camvid') or from a YAML file.

    Raises DatasetError when there is none, or when it contradicts itself.
    """
    values, where = _described(name_or_file)
    if isinstance(values, dict):
        values = _completed({"name": Path(name_or_file).stem, **values})
        values.pop("root", None)  # where the files are is no part of what the data set is
    try:
        spec = DatasetSpec.model_validate(values, strict=False)
    except ValidationError as error:
        lines = "; ".join(error_lines(DatasetSpec, error))
        raise DatasetError(f"{where}: {lines}. Correct the description") from error
    # Not a rule of the model: descriptions in the records of earlier runs must stay readable.
    if faults := naming_faults(spec.classes, spec.prompt_names):
        raise DatasetError(
            f"{where}: CLIP cannot tell classes apart by these names:",
            *map("  {}".format, faults),
            "Give every class a name of its own, also for its prompts (`names`)",
        )
    return spec


def chosen_root(name_or_file: str, root: Path | None) -> Path:
    """The folder of a data set: the one given, else the one that its description names.

    Raises DatasetError where neither does.
    """
    if folder := root or described_root(name_or_file):
        return folder
    also = "" if is_builtin(name_or_file) else f", or write `root: FOLDER` into {name_or_file}"
    raise DatasetError(
        f"{name_or_file}: nothing says which folder holds this data set. Give --root FOLDER{also}"
    )


def described_root(name_or_file: str) -> Path | None:
    """The folder that a description names (`root: FOLDER`, relative to itself), or None."""
    values, where = _described(name_or_file)
    if not isinstance(values, dict) or (named := values.get("root")) is None:
        return None
    if not isinstance(named, str) or not named:
        raise DatasetError(f"{where}: `root` is {named!r}. Write a folder, relative to this file")
    return Path(where).parent / named


def is_builtin(name_or_file: str) -> bool:
    """Is it the name of a built-in data set, not a file?"""
    return Path(name_or_file).suffix not in {".yaml", ".yml"}


def _described(name_or_file: str) -> tuple[Any, str]:
    """The values of a description as they are written, and where it lies."""
    if not is_builtin(name_or_file):
        path = Path(name_or_file)
        text = read_text_file(path, kind="data set description", error=DatasetError)
        where = str(path)
    elif name_or_file in (names := builtin_names("datasets")):
        place = f"datasets/{name_or_file}.yaml"
        text, where = packaged_text(place), f"configs/{place}"
    else:
        raise DatasetError(
            f"unknown data set '{name_or_file}'{did_you_mean(name_or_file, names)}. Built in: "
            f"{', '.join(names)}; "
            "for your own images write a YAML description (layout: folder) and give its path"
        )
    return parse_yaml(text, where=where, error=DatasetError), where


def builtin_colours(spec: DatasetSpec) -> dict[str, tuple[int, int, int]]:
    """The colours of the built-in description that a data set has name and classes of; {}: none.

    For copies of descriptions in stores and runs that were made before descriptions had colours.
    """
    if spec.name not in builtin_names("datasets"):
        return {}
    builtin = load_spec(spec.name)
    return dict(builtin.colours) if builtin.classes == spec.classes else {}


def _completed(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a description with `unseen: all` as the list of all classes.

    Patterns that name no labels then mean that there are none.
    """
    if values.get("unseen") != "all":
        return values
    values = {**values, "unseen": values.get("classes", ())}
    if isinstance(patterns := values.get("patterns"), dict):
        values["patterns"] = {"labels": None, **patterns}
    return values
