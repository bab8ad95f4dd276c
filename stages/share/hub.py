"""Sends a student's folder to the Hugging Face Hub, and gets one from there.

huggingface_hub comes with open_clip. It is loaded inside: most commands send and get nothing.
"""

import re
from pathlib import Path

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.offline import refuse_offline
from zsseg.stages.printable import first_line
from zsseg.stages.train.run.pretrained import MANIFEST, WEIGHTS, check_pretrained

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = [MANIFEST, WEIGHTS, "run.json", "text.safetensors", "README.md", "picture.jpg"]
"""What is sent and got: not what scores and reports have added to the folder here."""


def is_hub_name(text: str) -> bool:
    """Could a text be the name of a repository, ORG/NAME?"""
    return _NAME.fullmatch(text) is not None and ".." not in text


def push(folder: Path, name: str, *, private: bool = True) -> str:
    """Send a folder of `save_pretrained` to the repository ORG/NAME, which is made if needed.

    Gives its address. Raises UserError for a folder that is none, or another name; ResourceError
    without a network, or where the Hub refuses.
    """
    check_pretrained(folder)
    _check_name(name)
    refuse_offline(name, "Unset it to send the student")
    from huggingface_hub import HfApi

    try:
        client = HfApi()
        client.create_repo(name, private=private, exist_ok=True, repo_type="model")
        public = not client.repo_info(name).private
        if not (private and public):
            client.upload_folder(
                repo_id=name,
                folder_path=str(folder),
                allow_patterns=_FILES,
                commit_message="Add a student of zsseg",
            )
        address = f"{client.endpoint}/{name}"
    except Exception as error:  # its own errors, and those of the HTTP library under it
        raise ResourceError(
            f"{name}: the Hub did not take it ({first_line(error)}). Check the network, the name, "
            "and that `hf auth login` was done with a token that may write"
        ) from error
    if private and public:
        raise UserError(
            f"{name}: is there already, and everybody may read it, so nothing was sent. Add "
            "--public, or give another name"
        )
    return str(address)


def pulled(name: str) -> Path:
    """The folder of a student on the Hub, downloaded once; only data files are asked for.

    Raises as `push`, and UserError where the repository holds something else.
    """
    _check_name(name)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # as above
        raise ResourceError(
            f"{name}: no folder of this name here, and the Hub did not give one "
            f"({first_line(error)}). Give the path of a run, or check the name and the network"
        ) from error
    check_pretrained(folder)
    return folder


def _check_name(name: str) -> None:
    if not is_hub_name(name):
        raise UserError(f"{name}: no name of a repository. Give ORG/NAME, such as lab/street-names")
