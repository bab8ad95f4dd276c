"""The settings that a store was made with, read back from its recipes and from its history.

Recipes hold whatever changes a byte. The history repeats it, for a store whose own description
(zarr.json) is damaged, and has what else is needed to make a shard again: where data set and
teacher are, and how many images went through the teacher at once.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zsseg.stages.cache.disk.json_files import newest, sound_json_lines
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import GROUP, HISTORY, Manifest
from zsseg.stages.cache.format.recipe import differing_fields
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.make.artifact_kind import recipe_precision, recipe_resize
from zsseg.stages.precompute.make.artifacts import ARTIFACTS
from zsseg.stages.precompute.plan.recipes import store_identity
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits, resolve_teacher
from zsseg.stages.setting_marks import marked

_KEY = "settings"


@dataclass(frozen=True)
class StoredSettings:
    """What a store was asked for with, and the traits of its teacher."""

    spec: DatasetSpec
    split: str
    limit: int | None
    config: PrecomputeConfig
    traits: Traits

    def request(
        self, *, root: Path, teacher: str, typed: bool, cache: StorePath
    ) -> PrecomputeRequest:
        """What asks for the store again: with data set and teacher where they are now.

        `typed`: see `PrecomputeRequest`.
        """
        return PrecomputeRequest(
            spec=self.spec,
            root=root,
            split=self.split,
            teacher=teacher,
            typed=typed,
            cache=cache,
            config=self.config,
            limit=self.limit,
        )


def settings_entry(settings: StoredSettings) -> dict[str, Any]:
    """The entry of the history that holds settings, as it reads back."""
    values = {
        "spec": settings.spec.model_dump(mode="json"),
        "split": settings.split,
        "limit": settings.limit,
        "config": settings.config.model_dump(mode="json"),
        "traits": asdict(settings.traits),
    }
    return {_KEY: json.loads(json.dumps(values))}


def stored_config(manifest: Manifest) -> PrecomputeConfig:
    """The settings that recipes say, resolved; those that change no byte are the default.

    `store_artifacts` makes the manifest's artifacts of them again. Raises CacheError for a store
    that `zsseg precompute` did not write, or that another version wrote.
    """
    recipes = {artifact.name: artifact.recipe for artifact in manifest.artifacts}
    try:
        values: dict[str, Any] = {
            "dense": dict(manifest.identity["dense"]),
            "shard_images": manifest.shard_rows,
            "precision": recipe_precision(recipes["cls"]),
            "resize": recipe_resize(recipes["cls"]),
        }
        for kind in ARTIFACTS:
            recipe = recipes.get(kind.name)
            sections = kind.settings_without if recipe is None else kind.settings(recipe)
            for section, fields in sections.items():
                values[section] = values.get(section, {}) | fields
        config = PrecomputeConfig.model_validate_json(json.dumps(values))
        if strange := recipes.keys() ^ {kind.name for kind in ARTIFACTS if kind.in_store(config)}:
            raise KeyError(*sorted(strange))
        return config
    except (KeyError, TypeError, ValidationError) as error:
        raise CacheError(
            f"its settings are none that this version of zsseg writes ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); use the version that made the store"
        ) from error


def recall_settings(path: StorePath, manifest: Manifest | None) -> StoredSettings:
    """The settings that a store was made with; from its history alone where it has no manifest.

    Raises CacheError, with what to do, when neither has them.
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
            f"{path}: not made by `zsseg precompute` ({type(error).__name__}: "
            f"{' '.join(str(error).split())}). Give another store"
        ) from error


def sound_history(path: StorePath) -> list[dict[str, Any]]:
    """The readable lines of a history; a run that was killed may have left half a line."""
    return sound_json_lines(path / HISTORY)


def _noted(path: StorePath) -> StoredSettings | None:
    """What the newest run wrote down; None where there is nothing, or another version's."""
    values = newest(sound_history(path), _KEY)
    try:
        return StoredSettings(
            spec=DatasetSpec.model_validate_json(json.dumps(values["spec"])),
            split=values["split"],
            limit=values["limit"],
            # Pillow was once the only one, and was not noted.
            config=PrecomputeConfig.model_validate_json(
                json.dumps({"resize": "pillow", **values["config"]})
            ),
            traits=Traits(**values["traits"]),
        )
    except (KeyError, TypeError, ValidationError):
        return None


def find_origin(
    path: StorePath,
    settings: StoredSettings,
    manifest: Manifest | None,
    *,
    root: Path | None,
    teacher: str | None,
) -> tuple[Path, TeacherFiles]:
    """The data set's folder and the teacher that a store was made from: given, or as last noted.

    Raises CacheError when neither is known, they do not exist, or the teacher is another one;
    UserError for one noted as `python:`, whose code runs only where `teacher` gives it.
    """
    history = sound_history(path)
    options = {
        "--root": root or newest(history, "root"),
        "--teacher": teacher or newest(history, "teacher"),
    }
    if missing := [option for option, value in options.items() if value is None]:
        raise CacheError(
            f"{path}: {HISTORY} does not say where data set and teacher lie; give "
            + " and ".join(missing)
        )
    folder = Path(options["--root"])
    if not folder.is_dir():
        raise CacheError(f"{path}: {folder} is no longer there; give the data set's folder: --root")
    files = resolve_teacher(str(options["--teacher"]), typed=teacher is not None)
    if manifest is not None:
        wanted = store_identity(
            settings.spec, settings.split, settings.limit, files, settings.config
        )
        if lines := differing_fields(manifest.identity, wanted, sides=("made with", "found")):
            raise CacheError(
                f"{path}: not the teacher that the store was made with:",
                *map("  {}".format, lines),
                "Give it with --teacher",
            )
    return folder, files
