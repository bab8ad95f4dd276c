"""The settings that a store was made with: noted in its history, and read back from its recipes.

The recipes hold whatever changes a byte. The history says it once more, for a store whose own
description (zarr.json) is damaged, and says what else is needed to make a shard again: where data
set and teacher lie, and how many images went through the teacher at once.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zsseg.stages.cache.disk.json_files import newest
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.codec import stored_format
from zsseg.stages.cache.format.manifest import GROUP, HISTORY, Manifest
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.plan.recipes import recipe_precision, store_identity
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.precompute_config import LocalConfig, PrecomputeConfig, RegionConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits, resolve_teacher
from zsseg.stages.setting_marks import marked

_KEY = "settings"


@dataclass(frozen=True)
class StoredSettings:
    """What `precompute` was asked for, and what its teacher said of itself."""

    spec: DatasetSpec
    split: str
    limit: int | None
    config: PrecomputeConfig
    traits: Traits

    def request(self, *, root: Path, teacher: str, cache: StorePath) -> PrecomputeRequest:
        """What asks for the store again: with data set and teacher where they are now."""
        return PrecomputeRequest(
            spec=self.spec,
            root=root,
            split=self.split,
            teacher=teacher,
            cache=cache,
            config=self.config,
            limit=self.limit,
        )


def settings_entry(settings: StoredSettings) -> dict[str, Any]:
    """The line of the history that holds settings, as it reads back."""
    said = {
        "spec": settings.spec.model_dump(mode="json"),
        "split": settings.split,
        "limit": settings.limit,
        "config": settings.config.model_dump(mode="json"),
        "traits": asdict(settings.traits),
    }
    return {_KEY: json.loads(json.dumps(said))}


def stored_config(manifest: Manifest) -> PrecomputeConfig:
    """The settings that recipes say, settled; those that change no byte are the default.

    `store_artifacts` makes the manifest's artifacts of them again. Raises CacheError for a store
    that `zsseg precompute` did not write, or that another version wrote.
    """
    recipes = {artifact.name: artifact.recipe for artifact in manifest.artifacts}
    try:
        dense, views, regions = recipes["dense"], recipes["cls"]["views"], recipes["regions"]
        library = "cuml" if regions["backend"] == "cuml" else "sklearn"
        values = {
            "text": {"templates": recipes["text"]["templates"]},
            "views": views if isinstance(views, Mapping) else {},
            "dense": {
                **manifest.identity["dense"],
                "format": stored_format(dense),
                **({"nacl_sigma": dense["nacl_sigma"]} if "nacl_sigma" in dense else {}),
            },
            "regions": {name: regions[name] for name in RegionConfig.model_fields}
            | {"backend": library},
            "local": _local(recipes.get("local")),
            "shard_images": manifest.shard_rows,
            "precision": recipe_precision(recipes["cls"]),
        }
        return PrecomputeConfig.model_validate_json(json.dumps(values))
    except (KeyError, TypeError, ValidationError) as error:
        raise CacheError(
            f"its settings are none that this version of zsseg writes ({type(error).__name__}: "
            f"{error}); use the version that made the store"
        ) from error


def _local(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    if recipe is None:
        return {"enabled": False}
    return {name: recipe[name] for name in LocalConfig.model_fields if name != "enabled"}


def recall_settings(path: StorePath, manifest: Manifest | None) -> StoredSettings:
    """The settings that a store was made with; of its history alone where there is no manifest.

    Raises CacheError, with what to do, when neither tells.
    """
    noted = _noted(path)
    if manifest is None:
        if noted is None:
            raise CacheError(
                f"{path}: {GROUP} is damaged, and {HISTORY} does not say what the store was made "
                "with. Delete the damaged files and run the `zsseg precompute` command that made "
                "it again, with the same --cache: it puts back what the seal proves, and computes "
                "the rest again"
            )
        return noted
    try:
        identity, info = manifest.identity, manifest.info
        config = stored_config(manifest)
        if noted:  # the history alone has what no recipe holds
            beside = marked(PrecomputeConfig, result=False)
            config = config.model_copy(
                update={name: getattr(noted.config, name) for name in beside}
            )
        return StoredSettings(
            spec=DatasetSpec.model_validate_json(json.dumps(info["spec"])),
            split=identity["split"],
            limit=identity["limit"],
            config=config,
            traits=Traits(**info["traits"]),
        )
    except CacheError as error:
        raise CacheError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValidationError) as error:
        raise CacheError(
            f"{path}: not made by `zsseg precompute` ({type(error).__name__}: {error})"
        ) from error


def sound_history(path: StorePath) -> list[dict[str, Any]]:
    """The lines of a history that can be read; the last ones of a run that was killed may not."""
    try:
        lines = storage(path / HISTORY).read().splitlines()
    except (FileNotFoundError, IsADirectoryError):
        lines = []
    values = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            values.append(value)
    return values


def _noted(path: StorePath) -> StoredSettings | None:
    """What the newest run said, or None."""
    said = newest(sound_history(path), _KEY)
    try:
        return StoredSettings(
            spec=DatasetSpec.model_validate_json(json.dumps(said["spec"])),
            split=said["split"],
            limit=said["limit"],
            config=PrecomputeConfig.model_validate_json(json.dumps(said["config"])),
            traits=Traits(**said["traits"]),
        )
    except (KeyError, TypeError, ValidationError):  # never said, or by another version
        return None


def find_origin(
    path: StorePath,
    settings: StoredSettings,
    manifest: Manifest | None,
    *,
    root: Path | None,
    teacher: str | None,
) -> tuple[Path, TeacherFiles]:
    """The data set's folder and the teacher that a store was made from, as given or as noted.

    Raises CacheError when they are not said, not there, or when this is another teacher.
    """
    history = sound_history(path)
    said = {
        "--root": root or newest(history, "root"),
        "--teacher": teacher or newest(history, "teacher"),
    }
    if unsaid := [option for option, value in said.items() if value is None]:
        raise CacheError(
            f"{path}: {HISTORY} does not say where data set and teacher lie; give "
            + " and ".join(unsaid)
        )
    folder = Path(said["--root"])
    if not folder.is_dir():
        raise CacheError(f"{path}: {folder} is no longer there; give the data set's folder: --root")
    files = resolve_teacher(str(said["--teacher"]))
    if manifest is not None:
        wanted = store_identity(
            settings.spec, settings.split, settings.limit, files, settings.config
        )
        if lines := differing_fields(manifest.identity, wanted, sides=("made with", "found")):
            raise CacheError(
                f"{path}: not the teacher that the store was made with:\n"
                + "\n".join(f"  {line}" for line in lines)
                + "\nGive it with --teacher"
            )
    return folder, files
