"""The classes as training knows them: what each protocol may use of the unseen ones.

Legend: C known classes, S seen classes, U unseen classes, D CLIP width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.train.run_config import Protocol


@dataclass(frozen=True)
class KnownClasses:
    """The classes that training knows, on the student's device.

    Transductive training knows all classes, indexed by class id; inductive training the seen ones
    only, indexed among the seen: then nothing in here is of an unseen class.
    """

    text_CD: Tensor
    """float32, L2-normalised embeddings of the known classes, or (C, S, D) of all their names
    (`best_names`)."""
    seen_S: Tensor
    """int64 indices of the seen classes among the known."""
    unseen_U: Tensor
    """int64 indices of the unseen classes among the known; empty in inductive training."""
    seen_index: Tensor
    """int64, by class id: the index among the seen classes; VOID for an unseen class and VOID."""


def make_classes(
    spec: DatasetSpec, text_CD: Tensor, device: torch.device, *, protocol: Protocol
) -> KnownClasses:
    """The class tensors of a data set; `text_CD` has all its classes."""
    seen_index = torch.full((VOID + 1,), VOID)
    seen_index[list(spec.seen_ids)] = torch.arange(len(spec.seen_ids))
    inductive = protocol == "inductive"
    known = list(spec.seen_ids) if inductive else list(range(len(spec.classes)))
    seen, unseen = (range(len(known)), ()) if inductive else (spec.seen_ids, spec.unseen_ids)
    return KnownClasses(
        text_CD=text_CD[known].to(device),
        seen_S=torch.tensor(seen, dtype=torch.int64, device=device),
        unseen_U=torch.tensor(unseen, dtype=torch.int64, device=device),
        seen_index=seen_index.to(device),
    )
