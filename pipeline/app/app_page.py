"""The page of `zsseg app`, and its questions as they come over HTTP."""

import json

from zsseg.pipeline.app.answers import Question, Students
from zsseg.pipeline.app.app_server import Answer
from zsseg.pipeline.html_page import render_page
from zsseg.stages.errors import UserError


def app_page(students: Students) -> bytes:
    """The page, with each run's own names as they would be typed."""
    runs = [
        {"name": name, "names": _typed(model.classes)} for name, model in students.models.items()
    ]
    values = {"runs": runs, "teacher": students.teacher is not None}
    return render_page("zsseg.pipeline.app", "app.html", values)


def asking(students: Students) -> Answer:
    """Answers to questions whose fields are texts."""

    def answer(fields: dict[str, str], content: bytes) -> dict[str, object]:
        try:
            off = json.loads(fields.get("off", "[]"))
            question = Question(
                run=fields["run"],
                names=fields.get("names", ""),
                off=tuple(map(str, off)),
                unsure=float(fields.get("unsure", "0")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"not a question of the page ({error}). Use the page that zsseg app names"
            ) from error
        return students.answer(question, content, file=fields.get("file", "the image"))

    return answer


def _typed(names: tuple[str, ...]) -> str:
    """Names with commas between them, and quotes around one that holds a comma."""
    quoted = (f'"{name}"' if "," in name else name for name in names)
    return ", ".join(quoted)
