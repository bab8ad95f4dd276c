"""Opens a teacher that was found, of whichever form."""

from typing import TYPE_CHECKING, Literal

from zsseg.stages.precompute.precompute_config import Precision, Resize
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher


def open_teacher(
    files: TeacherFiles,
    *,
    device: Literal["auto", "cpu", "cuda"],
    precision: Precision = "fp32",
    resize: Resize = "pillow",
) -> "Teacher":
    """The teacher on a device. `precision` is CLIP's: others compute in their own.

    `resize` is what resizes images for it (`resizing.py`).

    Raises UserError and ResourceError as `load_teacher`, `open_own` and `open_folder`.
    """
    # Inside: each imports torch, and CLIP's open_clip too.
    if files.kind == "python":
        from zsseg.stages.precompute.teacher.own_teacher import open_own

        return open_own(files, device=device, resize=resize)
    if files.kind == "tokens":
        from zsseg.stages.precompute.teacher.token_folder import open_folder

        return open_folder(files, device=device)
    from zsseg.stages.precompute.teacher.clip_teacher import load_teacher

    return load_teacher(files, device=device, precision=precision, resize=resize)
