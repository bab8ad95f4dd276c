"""Every message that a user may meet says what is wrong, with what, and what to do next."""

import re

import pytest
from helpers.messages import Message, Product

MESSAGES = Product().messages()

_VERBS = """add ask bring build change check choose close compare copy correct create delete
download evaluate export fetch finish fix free give import install leave let list look make
mend move name predict put remove rename repair replace resume run save say scale score
separate set start take train try unset use wait write"""
ADVICE = re.compile(
    r"(?:^|[.;:,|(] (?:or |and |to [a-z ]+, |then )?| and | or )"  # where a clause begins
    rf"(?:{'|'.join(_VERBS.split())})\b"
    r"|[.;:|] `(?:zsseg|dask) [^`]+` (?:computes|continues|does|finds|lists|makes|names|puts"
    r"|says|starts|takes)\b"  # a command, and what it does
    r"|there are:? \{"  # what would have been taken
    r"|\{[^{}]*advice",  # a part of the message that has one: each was read
    re.IGNORECASE,
)
NAMED = re.compile(r"\{|'[^']+'|--[a-z]|\b[a-z_]+[.=][a-z_]+\b|\b[A-Z]+_[A-Z]+\b")

PARTS = {
    ("pipeline/run_options.py", "{option} @{error}"): "a whole message about a text file",
    ("pipeline/cli/config.py", "{*faults}"): "whole messages, one for each file",
    ("stages/cache/disk/json_files.py", "{path}"): "who reads a store's file adds the advice",
    ("stages/cache/evidence.py", ""): "a line of `cache verify`, whose last line has the advice",
    (
        "stages/cache/format/ledger.py",
        "{path}: damaged, ",
    ): "or a reason to compute again",
    ("stages/cache/set_aside.py", "{path}: {wrong}"): "`why_not_set_aside` says what to do",
    ("stages/data/splits.py", "{error}"): "a whole message; `_other_root` may add to it",
    ("stages/precompute/plan/stored_settings.py", "{path}: {error}"): "a whole message",
}
"""File and start of a text that is only a part of a message -> where the rest comes from."""


def is_part(message: Message, text: str) -> bool:
    return any(message.file == file and text.startswith(start) for file, start in PARTS)


def test_all_messages_are_found() -> None:
    assert len(MESSAGES) > 300
    assert {each.error for each in MESSAGES} >= {"DatasetError", "NonFiniteError", "error"}


def test_a_part_of_a_message_is_one_that_would_not_do_alone() -> None:
    alone = [each for each in MESSAGES for text in each.texts if not ADVICE.search(text)]
    files = {each.file for each in alone}
    assert files == {file for file, _ in PARTS}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: f"{each.file}:{each.line}")
def test_a_message_names_the_thing_and_says_what_to_do(message: Message) -> None:
    for text in message.texts:
        assert NAMED.search(text), f"names nothing: {text}"
        assert ADVICE.search(text) or is_part(message, text), f"no advice: {text}"
