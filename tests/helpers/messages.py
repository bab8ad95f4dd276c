"""Every message of the product's own errors: `python -m tests.helpers.messages` lists them.

A message is found where a `UserError`, or one of its kinds, is made. Its text is put together from
the source: constants and what functions of the product return are put in, also where they come by
way of a parameter; what is known only while zsseg runs is shown in braces. One place may have
several texts: one for each choice (`a if b else c`) that it makes.
"""

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MOST_TEXTS = 40
_DEEPEST = 6


@dataclass(frozen=True)
class Message:
    """One error made at one place."""

    file: str
    line: int
    error: str
    texts: tuple[str, ...]
    """Several lines of a message are joined by ' | '."""


@dataclass(frozen=True)
class _Place:
    """Where an expression stands: names in it are looked up here."""

    file: str
    function: ast.FunctionDef | None


class Product:
    """The sources of the product and what its names stand for."""

    def __init__(self, root: Path = ROOT) -> None:
        files = (file for part in ("pipeline", "stages") for file in (root / part).rglob("*.py"))
        self.trees = {
            file.relative_to(root).as_posix(): ast.parse(file.read_text()) for file in sorted(files)
        }
        self.errors = self._kinds_of_error()
        self._functions: dict[str, list[tuple[str, ast.FunctionDef]]] = {}
        self._constants: dict[str, list[tuple[str, ast.expr]]] = {}
        self._calls: dict[str, list[tuple[_Place, ast.Call]]] = {}
        for file, tree in self.trees.items():
            for each in ast.walk(tree):
                if isinstance(each, ast.FunctionDef):
                    self._functions.setdefault(each.name, []).append((file, each))
            for each in tree.body:
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
                    self._constants.setdefault(each.targets[0].id, []).append((file, each.value))
            for place, call in _calls(file, tree):
                self._calls.setdefault(_called(call), []).append((place, call))

    def messages(self) -> list[Message]:
        """All of them, by file and line."""
        found = [
            Message(place.file, call.lineno, _called(call), tuple(self._lines(call, place)))
            for calls in self._calls.values()
            for place, call in calls
            if _called(call) in self.errors | _error_parameters(place.function)
        ]
        return sorted(found, key=lambda each: (each.file, each.line))

    def _kinds_of_error(self) -> set[str]:
        classes = [e for t in self.trees.values() for e in ast.walk(t) if type(e) is ast.ClassDef]
        kinds = {"UserError"}
        for _ in classes:  # more often than there are steps from the first to the last of them
            kinds |= {e.name for e in classes if {ast.unparse(base) for base in e.bases} & kinds}
        return kinds

    def _lines(self, call: ast.Call, place: _Place) -> list[str]:
        parts = [self._texts(argument, place, 0) for argument in call.args]
        return [" | ".join(lines) for lines in _products(parts)]

    def _texts(self, node: ast.expr, place: _Place, depth: int) -> list[str]:
        """What an expression may be as text; what is not known, in braces."""
        unknown = [f"{{{ast.unparse(node)}}}"]
        if depth > _DEEPEST:
            return unknown
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=values):
                return [
                    "".join(p) for p in _products([self._texts(v, place, depth) for v in values])
                ]
            case ast.FormattedValue(value=value):
                return self._texts(value, place, depth + 1)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                sides = [self._texts(side, place, depth) for side in (left, right)]
                return ["".join(both) for both in _products(sides)]
            case ast.IfExp(body=body, orelse=orelse):
                return self._texts(body, place, depth) + self._texts(orelse, place, depth)
            case ast.BoolOp(values=values):
                return [text for value in values for text in self._texts(value, place, depth)]
            case ast.Name(id=name):
                return self._named(name, place, depth) or unknown
            case ast.Call():
                found = self._functions.get(_called(node), [])
                found = [each for each in found if each[0] == place.file] or found
                return (self._returned(*found[0], depth) if len(found) == 1 else []) or unknown
        return unknown

    def _named(self, name: str, place: _Place, depth: int) -> list[str]:
        """What a variable, a parameter or a constant may hold, where that is text."""
        if place.function is None:
            return []
        here = [
            value
            for each in ast.walk(place.function)
            for target, value in _assigned(each)
            if target == name
        ]
        if here:
            found = [self._texts(value, place, depth + 1) for value in here if _is_text(value)]
            return [text for texts in found for text in texts]
        if name in (parameters := [each.arg for each in _parameters(place.function)]):
            return self._handed(name, parameters.index(name), place.function, depth)
        constants = self._constants.get(name, [])
        own = [each for each in constants if each[0] == place.file] or constants
        if len(own) == 1 and _is_text(own[0][1]):
            return self._texts(own[0][1], _Place(own[0][0], None), depth + 1)
        return []

    def _handed(self, name: str, at: int, function: ast.FunctionDef, depth: int) -> list[str]:
        """What callers hand over for a parameter, where that is text."""
        calls = self._calls.get(function.name, []) if self._is_only(function) else []
        texts: list[str] = []
        for place, call in calls:
            given = [keyword.value for keyword in call.keywords if keyword.arg == name]
            for value in [*given, *call.args[at : at + 1]]:
                known = self._texts(value, place, depth + 1) if _is_text(value) else [f"{{{name}}}"]
                texts += known
        return list(dict.fromkeys(texts))

    def _is_only(self, function: ast.FunctionDef) -> bool:
        """Is it the only one of its name? A call does not say which one it means."""
        return len(self._functions[function.name]) == 1

    def _returned(self, file: str, function: ast.FunctionDef, depth: int) -> list[str]:
        values = [e.value for e in ast.walk(function) if isinstance(e, ast.Return) and e.value]
        if not all(map(_is_text, values)):
            return []
        place = _Place(file, function)
        return [text for value in values for text in self._texts(value, place, depth + 1)]


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return isinstance(value, str)
        case ast.IfExp(body=body, orelse=orelse):
            return _is_text(body) or _is_text(orelse)
        case ast.BinOp(left=left, op=ast.Add()):
            return _is_text(left)
    return isinstance(node, ast.JoinedStr)


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Name and value of an assignment."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.NamedExpr(target=ast.Name(id=name), value=value):
            yield name, value
        case ast.For(target=ast.Name(id=name), iter=value):
            yield name, value


def _parameters(function: ast.FunctionDef) -> list[ast.arg]:
    every = function.args
    own = [*every.posonlyargs, *every.args, *every.kwonlyargs]
    return own[1:] if own and own[0].arg in {"self", "cls"} else own


def _error_parameters(function: ast.FunctionDef | None) -> set[str]:
    """Parameters that are the kind of error to raise."""
    parameters = _parameters(function) if function else []
    return {
        p.arg for p in parameters if p.annotation and "type[UserError]" in ast.unparse(p.annotation)
    }


def _calls(file: str, tree: ast.AST) -> Iterator[tuple[_Place, ast.Call]]:
    """Every call, and the innermost function that it stands in."""

    def within(
        node: ast.AST, function: ast.FunctionDef | None
    ) -> Iterator[tuple[_Place, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield _Place(file, function), child
            yield from within(child, child if isinstance(child, ast.FunctionDef) else function)

    return within(tree, None)


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _products(parts: list[list[str]]) -> list[tuple[str, ...]]:
    return list(itertools.islice(itertools.product(*parts), _MOST_TEXTS))


if __name__ == "__main__":
    for message in Product().messages():
        for text in message.texts:
            print(f"{message.file}:{message.line}: {message.error}: {text}")  # noqa: T201
