"""What the counts of labelled pixels warn of: classes that no label shows, labels void all over."""

from collections.abc import Mapping, Sequence

from zsseg.stages.data.spec import VOID, DatasetSpec

_SHOWN = 5  # classes named in one message


def label_warning(
    spec: DatasetSpec, split: str, *, pixels: Sequence[int], void: int, classes: Sequence[int]
) -> str | None:
    """One line about those of `classes` (ids) that no pixel of a split is labelled as, or None.

    `pixels`: of each class, in class order. `void`: labelled pixels without a class.
    """
    missing = [index for index in classes if not pixels[index]]
    if not missing or not sum(pixels) + void:
        return None
    where = f"split '{split}' of '{spec.name}'"
    ignored = ", ".join(map(str, spec.ignore)) or "no value"
    if len(missing) == len(classes):
        return (
            f"{where}: no pixel is labelled as any of its classes, the labels are void all over. "
            f"Compare the values that they hold with `encoding` and `ignore` ({ignored})"
        )
    names = ", ".join(f"'{spec.classes[index]}'" for index in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return f"{where}: no pixel is labelled as {names}{more}. {_reason(spec, missing, ignored)}"


def visible_warning(spec: DatasetSpec, split: str, visible: Mapping[str, int] | None) -> str | None:
    """The same of visible labels, which show seen classes only; None where nothing is known.

    `visible`: label value, as text -> pixels, as the history of a store keeps it: of all labels, or
    of as many as show every seen class.
    """
    if visible is None:
        return None
    pixels = [visible.get(str(index), 0) for index in range(len(spec.classes))]
    void = visible.get(str(VOID), 0)
    return label_warning(spec, split, pixels=pixels, void=void, classes=spec.seen_ids)


def _reason(spec: DatasetSpec, missing: Sequence[int], ignored: str) -> str:
    """Why classes may be missing: the description gives them no value, or the labels hold none."""
    if spec.encoding is None:
        left_out = [index for index in missing if index in spec.ignore]
        cause = "`ignore` has the value of"
    else:
        left_out = [index for index in missing if index not in spec.encoding.values()]
        cause = "`encoding` has no value for"
    if left_out:
        return f"{cause} {', '.join(spec.classes[index] for index in left_out[:_SHOWN])}"
    return f"If the labels show them, their value may be one that is void (`ignore`: {ignored})"
