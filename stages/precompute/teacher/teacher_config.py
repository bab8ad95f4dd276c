"""The configuration of a teacher, open_clip_config.json: read and checked, and never run.

The file comes with the weights, from anywhere, and open_clip hands parts of it on to timm and
transformers. Only settings known here are taken, of the right type: nothing in the file can name
code to run, or another source of weights.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.validation_errors import error_lines

CONFIG_FILE = "open_clip_config.json"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "bpe.codes",
)
"""Files beside the weights that decide how a prompt becomes tokens."""

_PUBLISHED = "Take the file that was published with the weights"
SETTINGS_FILES = ("config.json", "tokenizer_config.json")
"""Settings beside the weights that transformers reads for a text tower and for a tokenizer."""

_OTHER_SETTINGS_FILES = (
    "special_tokens_map.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""Settings that must name no code either."""

_LARGEST = 1 << 22  # bytes; a configuration has a few KiB
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# open_clip and timm take "hf-hub:..." and "local-dir:..." for names of other places.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
_Plain = dict[str, bool | int | float | str | None]
_Side = PositiveInt | tuple[PositiveInt, PositiveInt] | list[PositiveInt]
_Colour = float | int | Annotated[list[float | int], Field(min_length=3, max_length=3)]
_Spread = (
    PositiveFloat
    | PositiveInt
    | Annotated[list[PositiveFloat | PositiveInt], Field(min_length=3, max_length=3)]
)


class _Block(BaseModel):
    """Settings of attention blocks that both towers have."""

    model_config = _STRICT

    width: PositiveInt | None = None
    mlp_ratio: PositiveFloat | PositiveInt | None = None
    ls_init_value: float | None = None
    final_ln_after_pool: bool = False
    pool_type: str | None = None
    output_tokens: bool = False
    act_kwargs: _Plain | None = None
    norm_kwargs: _Plain | None = None
    block_type: str | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False


class _Vision(_Block):
    """The image tower."""

    layers: PositiveInt | Annotated[list[PositiveInt], Field(min_length=4, max_length=4)] = 12
    head_width: PositiveInt = 64
    patch_size: PositiveInt | None = None
    image_size: _Side = 224
    patch_dropout: float = 0.0
    attentional_pool: bool | str = False
    attn_pooler_queries: PositiveInt = 256
    attn_pooler_heads: PositiveInt = 8
    no_ln_pre: bool = False
    pos_embed_type: str = "learnable"
    timm_model_name: _Name | None = None
    timm_model_pretrained: bool = False
    timm_pool: str = "avg"
    timm_proj: str | None = None
    timm_proj_bias: bool = False
    timm_drop: float | int = 0.0
    timm_drop_path: float | int | None = None


class _TokenizerSettings(BaseModel):
    """Settings of the tokenizer. Whatever else transformers takes, as trust_remote_code, is not."""

    model_config = _STRICT

    clean: Literal["canonicalize", "lower", "whitespace"] | None = None
    strip_sep_token: bool = False
    language: str | None = None
    reduction_mask: str | None = None


class _Text(_Block):
    """The text tower."""

    context_length: PositiveInt = 77
    vocab_size: PositiveInt = 49408
    hf_tokenizer_name: str | None = None
    tokenizer_mode: str | None = None
    tokenizer_kwargs: _TokenizerSettings | None = None
    heads: PositiveInt = 8
    layers: PositiveInt = 12
    embed_cls: bool = False
    pad_id: int = 0
    eos_id: int = 2
    no_causal_mask: bool = False
    proj_bias: bool = False
    proj_type: str | None = None
    hf_model_name: str | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: str | None = None
    hf_pooler_type: str | None = None


class _Multimodal(_Text):
    """The captioning tower of CoCa."""

    dim_head: PositiveInt = 64
    n_queries: PositiveInt = 256
    attn_pooler_heads: PositiveInt = 8


class _Model(BaseModel):
    model_config = _STRICT

    embed_dim: PositiveInt
    vision_cfg: _Vision
    text_cfg: _Text
    multimodal_cfg: _Multimodal | None = None
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: float | int | None = None
    init_logit_bias: float | int | None = None
    nonscalar_logit_scale: bool = False


class _Preprocessing(BaseModel):
    model_config = _STRICT

    size: _Side | None = None
    mode: Literal["RGB"] = "RGB"
    mean: _Colour | None = None
    std: _Spread | None = None
    interpolation: str | None = None
    resize_mode: str | None = None
    fill_color: int | None = None


class _ConfigFile(BaseModel):
    """All of open_clip_config.json."""

    model_config = _STRICT

    model_cfg: _Model
    preprocess_cfg: _Preprocessing = _Preprocessing()


def read_config(file: Path, spec: str) -> dict[str, Any]:
    """`model_cfg` and `preprocess_cfg` of an open_clip_config.json, as they stand there.

    Raises ResourceError when there is none, UserError for settings that are unknown, of another
    type, or that lead elsewhere.
    """
    if not file.is_file():
        raise ResourceError(f"{spec}: {file} is missing; put it there, it comes with the weights")
    config = _json(file, spec)
    if not isinstance(config, dict):
        raise UserError(f'{spec}: {file} is no JSON object with a "model_cfg". {_PUBLISHED}')
    try:
        _ConfigFile.model_validate(config)
    except ValidationError as error:
        lines = "; ".join(error_lines(_ConfigFile, error)[:5])
        raise UserError(
            f"{spec}: {file} is no configuration that zsseg takes: {lines}. Correct it, or take "
            "the file that was published with the weights"
        ) from error
    return {
        "model_cfg": config["model_cfg"],
        "preprocess_cfg": config.get("preprocess_cfg", {}),
    }


def builtin_configs() -> dict[str, Path]:
    """The configurations in open_clip's package by model, found without importing it."""
    package = find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "model_configs"
    return {file.stem: file for file in folder.glob("*.json")}


def refuse_code_beside(folder: Path, config: dict[str, Any], spec: str) -> None:
    """Raise UserError when files for transformers in a folder ask for code that lies beside them.

    ResourceError when the configuration needs files for transformers that are not there: a teacher
    of a folder is complete, and nothing is fetched for it.
    """
    text = config["model_cfg"]["text_cfg"]
    if text.get("hf_model_name") and not (folder / "config.json").is_file():
        raise ResourceError(
            f"{spec}: its text tower is {text['hf_model_name']!r} of transformers, and {folder} "
            f"has no config.json of it. Put that file there: a folder uses what is in it, and "
            "never the network"
        )
    if text.get("hf_tokenizer_name") and not tokenizer_files(folder):
        raise ResourceError(
            f"{spec}: its tokenizer is {text['hf_tokenizer_name']!r} of transformers, and {folder} "
            "has no tokenizer.json. Put the tokenizer's files there: a folder uses what is in it, "
            "and never the network"
        )
    for name in (*SETTINGS_FILES, *_OTHER_SETTINGS_FILES):
        file = folder / name
        if not file.is_file():
            continue
        stated = _json(file, spec)
        if not isinstance(stated, dict) or _names_code(stated):
            raise UserError(
                f"{spec}: {file} names Python code to load ('auto_map'), which zsseg never runs. "
                "Take a teacher whose tokenizer and text tower are those of transformers"
            )


def _names_code(value: Any) -> bool:
    """Does a setting at any depth ask for code that is no part of transformers?"""
    if isinstance(value, list):
        return any(map(_names_code, value))
    if not isinstance(value, dict):
        return False
    return (
        "auto_map" in value
        or "custom_pipelines" in value
        or bool(value.get("trust_remote_code"))
        or any(map(_names_code, value.values()))
    )


def _json(file: Path, spec: str) -> Any:
    """What a file of settings says. Raises UserError for no JSON or too much of it."""
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(
                f"{spec}: {file} has {file.stat().st_size} bytes, too many for settings. "
                f"{_PUBLISHED}"
            )
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResourceError(
            f"{spec}: cannot read {file}: {error.strerror or error}. Check the file and its disk"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{spec}: {file} is not valid JSON: {error}. {_PUBLISHED}") from error


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that decide how a prompt becomes tokens, in a fixed order."""
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
