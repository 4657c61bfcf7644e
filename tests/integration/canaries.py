"""Canaries of private hooks: how a test is marked as one, and which hooks a source file uses."""

import ast
import functools
import pkgutil
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUARDED: set[tuple[str, str]] = set()  # (hook, file) of every canary
LIBRARIES = ("optuna", "optuna_dashboard")


def canary(*hooks, fix):
    """Marks a test as the canary of hooks that the files of ``fix`` use; a failure names them."""
    missing = [file for file in fix if not (ROOT / file).exists()]
    assert not missing, f"a canary names files that are gone: {missing}"
    GUARDED.update((hook, file) for hook in hooks for file in fix)

    def mark(test):
        @functools.wraps(test)
        def checked(*args, **kwargs):
            try:
                test(*args, **kwargs)
            except BaseException as exc:
                exc.add_note(f"A private hook has changed: fix {', '.join(fix)}")
                raise

        return checked

    return mark


def hooks_in(source):
    """Returns the private names of Optuna and optuna-dashboard that a source file uses.

    Imports (also by a string) as ``optuna.a._b.C``, attributes of any object but ``self`` and
    imported modules as ``._x``, and so what a subclass overrides or reads of Optuna's class.
    """
    tree = ast.parse(source)
    names = _imported(tree)
    found = {name for name in names.values() if _is_hook(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if _is_hook(node.value) else set()
        elif isinstance(node, ast.ClassDef):
            found |= _inherited(node, names)
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            known = names.get(owner)
            if known is not None and _is_hook(known):
                found.add(f"{known}.{node.attr}")
            elif owner not in ("self", "cls", *names) and _is_private(node.attr):
                found.add(f".{node.attr}")
    return found


def _imported(tree):
    """The imported objects, by the name that each has in the file."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _is_hook(name):
    is_name = re.fullmatch(r"\w+(\.\w+)+", name) is not None
    return is_name and name.startswith(tuple(f"{top}." for top in LIBRARIES)) and "._" in name


def _is_private(name):
    return name == "__dict__" or (name.startswith("_") and not name.startswith("__"))


def _inherited(node, names):
    """The private names of Optuna's class that a subclass overrides, or reads without a def."""
    bases = [ast.unparse(base).split(".", 1) for base in node.bases]
    bases = [".".join([names.get(first, first), *rest]) for first, *rest in bases]
    theirs = [pkgutil.resolve_name(b) for b in bases if b.startswith(LIBRARIES)]
    if not theirs:
        return set()
    methods = {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef)}
    own = [n for n in ast.walk(node) if isinstance(n, ast.Attribute)]
    own = [n for n in own if isinstance(n.value, ast.Name) and n.value.id == "self"]
    stored = {n.attr for n in own if isinstance(n.ctx, ast.Store)}
    read = {n.attr for n in own} - stored - methods
    overridden = {m for m in methods if any(hasattr(base, m) for base in theirs)}
    return {f".{name}" for name in read | overridden if _is_private(name)}
