"""The files of a teacher, found and hashed without loading it: no torch, no open_clip.

A teacher is named in one of six forms:

- `NAME/PRETRAINED`: a model of open_clip with published weights ("ViT-B-16-quickgelu/openai")
- `NAME@FILE`: the same model with a weights file (.safetensors, .bin, .pt, .pth)
- `hf-hub:ORGANISATION/REPOSITORY`: a model of the Hugging Face hub in open_clip's form
- `local-dir:FOLDER`: a folder with open_clip_config.json and a weights file
- `python:FILE.py:NAME`: an object of the user's own (`own_code.py`), whose code runs
- `tokens:FOLDER`: maps that another system wrote (`token_files.py`)

Only the first and third import open_clip, which keeps or downloads their files.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash

from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.offline import hub_at_once, refuse_offline
from zsseg.stages.precompute.teacher import own_code, token_files
from zsseg.stages.precompute.teacher.teacher_config import (
    CONFIG_FILE,
    read_config,
    refuse_code_beside,
    tokenizer_files,
)
from zsseg.stages.precompute.teacher.teacher_names import (
    builtin_config,
    published_weights,
    quickgelu_advice,
)
from zsseg.stages.precompute.teacher.teacher_parts import FoundParts
from zsseg.stages.precompute.teacher.teacher_size import refuse_too_large

# The order in which open_clip picks the weights of a folder; other names only when there is one.
_WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")

Kind = Literal["clip", "python", "tokens"]

_PARTS: dict[Kind, tuple[str, str, str]] = {
    "clip": ("config", "weights", "tokenizer"),
    "python": ("code", "weights", "text"),
    "tokens": ("description", "maps", "text"),
}
"""What recipes call the three hashes of a teacher."""


@dataclass(frozen=True)
class TeacherFiles:
    """A teacher's configuration and weights, found on this machine but not loaded."""

    spec: str
    """The teacher as it was asked for."""
    slug: str
    """Short name of lower-case letters, digits and hyphens, for the store's folder name."""
    model: str
    """First argument of `open_clip.create_model`."""
    pretrained: str | None
    """Its second one: a tag, a file, or None where the model's name stands for the weights too."""
    width: int
    """CLIP width D."""
    weights: Path
    config_hash: str
    """Fingerprint of the architecture and preprocessing."""
    weights_hash: str
    """xxh3_128 of the weight file's bytes."""
    tokenizer_hash: str | None = None
    """xxh3_128 of the tokenizer's files, or of stored text embeddings; None for the tokenizer of
    open_clip's own package, and for an object of the user's own."""
    kind: Kind = "clip"
    """`python`: `model` is the name in the file `weights`; `tokens`: `weights` is the folder."""

    @property
    def located(self) -> str:
        """The spec with an absolute path, so that it also finds the files from another folder."""
        if self.spec.startswith("local-dir:"):
            return f"local-dir:{self.weights.parent.resolve()}"
        if self.kind == "python":
            return f"{own_code.PREFIX}{self.weights.resolve()}:{self.model}"
        if self.kind == "tokens":
            return f"{token_files.PREFIX}{self.weights.resolve()}"
        if "@" in self.spec:
            return f"{self.spec.partition('@')[0]}@{self.weights.resolve()}"
        return self.spec

    def recipe(self) -> dict[str, str]:
        """All that the teacher's tokens of images follow from; without paths and names."""
        config, weights, _ = _PARTS[self.kind]
        return {config: self.config_hash, weights: self.weights_hash}

    def text_recipe(self) -> dict[str, str]:
        """All that its text embeddings follow from: the tokenizer too, where it has its own."""
        name = _PARTS[self.kind][2]
        tokenizer = {} if self.tokenizer_hash is None else {name: self.tokenizer_hash}
        return self.recipe() | tokenizer


@dataclass(frozen=True)
class Traits:
    """What only the loaded teacher knows of itself; a store keeps it in its description."""

    width: int
    """CLIP width D."""
    native_size: list[int]
    """Height and width in pixels of the images that CLS tokens are made from."""
    grid: list[int]
    """(h, w) of the dense tokens."""
    dense_path: str
    """The path really taken; towers of timm have one only."""


def resolve_teacher(spec: str, *, typed: bool = False) -> TeacherFiles:
    """Find and hash the files of a teacher; the forms of `spec` stand at the top of this file.

    `typed`: did a person give it on the command line? Only then the code of `python:` runs: what a
    store or a run names is data. Raises UserError where it must not run, for a name that means
    nothing or a wrong activation function, ResourceError when a file is neither here nor can be
    downloaded.
    """
    if spec.startswith(own_code.PREFIX):
        if not typed:
            raise UserError(
                f"{spec}: this teacher is Python code, named by a store or a run, and runs only "
                "where a person asks for it. If you know and trust the file, give it: --teacher "
                f"{spec} (`zsseg evaluate`: --clip)"
            )
        return _from_parts(spec, "python", own_code.find_own(spec))
    if spec.startswith(token_files.PREFIX):
        return _from_parts(spec, "tokens", token_files.find_tokens(spec))
    if spec.startswith("local-dir:"):
        return _from_folder(spec)
    if spec.startswith("hf-hub:"):
        return _from_hub(spec)
    if "@" in spec:
        return _from_file(spec)
    return _from_tag(spec)


def _from_parts(spec: str, kind: Kind, found: FoundParts) -> TeacherFiles:
    return TeacherFiles(
        spec=spec,
        slug=_slug(found.name) or kind,
        model=spec.rpartition(":")[2] if kind == "python" else "",
        pretrained=None,
        width=found.width,
        weights=found.place,
        config_hash=found.description_hash,
        weights_hash=found.weights_hash,
        tokenizer_hash=found.text_hash,
        kind=kind,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-")


def _from_folder(spec: str) -> TeacherFiles:
    folder = Path(spec.removeprefix("local-dir:"))
    if not folder.is_dir():
        raise ResourceError(
            f"{spec}: there is no folder {folder}. Give the one that holds {CONFIG_FILE}"
        )
    found = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in _WEIGHT_ENDINGS and not file.name.startswith(".") and file.is_file()
    )
    named = sorted(
        (file for file in found if file.name in _WEIGHT_FILES),
        key=lambda file: _WEIGHT_FILES.index(file.name),
    )
    if not found:
        raise ResourceError(
            f"{spec}: no weights in {folder} ({', '.join(_WEIGHT_ENDINGS)}). Put the model's "
            f"{_WEIGHT_FILES[0]} there"
        )
    if len(found) > 1 and not named:
        raise UserError(
            f"{spec}: several weight files in {folder} ({', '.join(f.name for f in found)}). "
            f"Name the right one {_WEIGHT_FILES[0]}"
        )
    config = read_config(folder / CONFIG_FILE, spec)
    refuse_code_beside(folder, config, spec)
    weights = (named or found)[0]
    refuse_too_large(config, weights, spec)
    if _named_quickgelu(weights) and not config["model_cfg"].get("quick_gelu"):
        raise UserError(
            f"{spec}: {weights.name} says that its weights were trained with QuickGELU, "
            f"{folder / CONFIG_FILE} says plain GELU, which gives wrong embeddings. Set "
            '"quick_gelu": true in its "model_cfg", or rename the weights if they are others'
        )
    return _teacher_files(spec, spec, None, config, weights, slug=folder.resolve().name)


@hub_at_once()
def _from_hub(spec: str) -> TeacherFiles:
    from open_clip.pretrained import download_pretrained_from_hf

    repository = spec.removeprefix("hf-hub:")
    try:
        config_file = Path(download_pretrained_from_hf(repository, filename=CONFIG_FILE))
        weights = Path(download_pretrained_from_hf(repository))
    except (OSError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise ResourceError(
            f"{spec}: cannot get {CONFIG_FILE} and the weights from the hub: {reason}. "
            f"Without network, copy these two files of {repository} into a folder and "
            "name it as local-dir:FOLDER"
        ) from error
    config = read_config(config_file, spec)
    return _teacher_files(spec, spec, None, config, weights, slug=repository.split("/")[-1])


def _from_file(spec: str) -> TeacherFiles:
    name, _, file = spec.partition("@")
    config, weights = builtin_config(name, spec), Path(file)
    if not weights.is_file():
        raise ResourceError(f"{spec}: there is no weights file {weights}. Correct the path")
    if weights.suffix not in _WEIGHT_ENDINGS:
        raise UserError(
            f"{spec}: {weights} is no file of weights. Give one that ends in one of "
            f"{', '.join(_WEIGHT_ENDINGS)}"
        )
    if _named_quickgelu(weights) and not config.get("quick_gelu"):
        raise UserError(
            f"{spec}: {weights} says that its weights were trained with QuickGELU, {name} has "
            f"plain GELU, which gives wrong embeddings. {quickgelu_advice(name, file)}"
        )
    slug = f"{name}-{weights.stem}"
    return _teacher_files(spec, name, str(weights), {"model_cfg": config}, weights, slug=slug)


@hub_at_once()
def _from_tag(spec: str) -> TeacherFiles:
    from open_clip.pretrained import download_pretrained

    name, _, tag = spec.partition("/")
    tag, published = published_weights(name, tag, spec)
    place = str(published.get("hf_hub") or published["url"])
    if "://" in place and not Path("~/.cache/clip", Path(place).name).expanduser().exists():
        refuse_offline(spec, f"Bring {place} here, and ask for {name}@FILE")
    try:
        weights = Path(download_pretrained(published))
    except (OSError, RuntimeError) as error:
        source = str(published.get("hf_hub") or published.get("url"))
        # A hub entry that ends in a slash names a repository only.
        file = f"{source}{_WEIGHT_FILES[0]}" if source.endswith("/") else source
        reason = str(error).rstrip(".")
        raise ResourceError(
            f"{spec}: cannot get its weights: {reason}. "
            f"Without network, bring {file} to this machine and ask for {name}@FILE"
        ) from error
    preprocessing = {key: published[key] for key in ("mean", "std", "interpolation")}
    config = builtin_config(name, spec)
    effective = {"model_cfg": config, "preprocess_cfg": preprocessing}
    return _teacher_files(spec, name, tag, effective, weights, slug=f"{name}-{tag}")


def _teacher_files(
    spec: str,
    model: str,
    pretrained: str | None,
    config: Mapping[str, Any],
    weights: Path,
    *,
    slug: str,
) -> TeacherFiles:
    with weights.open("rb") as stream:
        weights_hash = hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
    named = config["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
    return TeacherFiles(
        spec=spec,
        slug=_slug(slug),
        model=model,
        pretrained=pretrained,
        width=config["model_cfg"]["embed_dim"],
        weights=weights,
        config_hash=fingerprint(dict(config)),
        weights_hash=weights_hash,
        tokenizer_hash=_tokenizer_hash(spec, named, weights.parent) if named else None,
    )


def _tokenizer_hash(spec: str, name: str, folder: Path) -> str | None:
    """Hash of the tokenizer's files: those in the folder, or those of this name on the hub.

    None for one on the hub that has no tokenizer.json, or cannot be reached: its name is in the
    configuration.
    """
    files = tokenizer_files(folder)
    if not spec.startswith("local-dir:"):
        from huggingface_hub import try_to_load_from_cache
        from open_clip.pretrained import download_pretrained_from_hf

        # What was fetched once is taken without asking the network, which may not be there.
        cached = try_to_load_from_cache(name, "tokenizer.json")
        try:
            file = cached if isinstance(cached, str) else None
            files = [Path(file or download_pretrained_from_hf(name, filename="tokenizer.json"))]
        except (OSError, RuntimeError):
            return None
    return fingerprint({file.name: xxhash.xxh3_128_hexdigest(file.read_bytes()) for file in files})


def _named_quickgelu(weights: Path) -> bool:
    """Does the file's name, or its folder in the hub's cache, point to OpenAI's activation?

    The tensors cannot tell: the activation has no weights.
    """
    folders = (part for part in weights.parts[:-1] if part.startswith("models--"))
    names = " ".join((weights.name, *folders)).lower()
    return "openai" in names or "quickgelu" in names
