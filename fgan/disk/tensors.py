"""A tree of tensors as one sealed ``.safetensors`` file: tensors by path, and JSON about them.

The tree is flattened to names like ``gen/params/0.weight``; loading fills a tree of known
structure, and never runs code from the file. The same tree and facts make the same file, bit for
bit, on whatever device and in whatever layout the tree was. `fgan.disk.checkpoint` adds what only
the states of the training command have.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fgan import pytree
from fgan.disk import files, sealed
from fgan.errors import RunError

# The dtypes that every safetensors file can name. Tensors of others, such as complex numbers, are
# kept as their bytes, in one more dimension, and the facts have their dtype.
_NAMED = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
}  # fmt: skip
_RESERVED = "__metadata__"  # the format's own name, next to those of tensors


def check(tree: pytree.Tree, name: str) -> None:
    """Refuse a tree that a file cannot hold.

    Args:
        name: the tree's name, with which the message begins.
    Raises:
        TypeError: for a leaf that is not a dense tensor with numbers in it.
        ValueError: for two leaves of one name, or a name that the format reserves.
    """
    pytree.check_tensors(tree, name)
    seen: set[str] = set()
    for path, leaf in zip(pytree.paths(tree), pytree.leaves(tree), strict=True):
        if path in seen or path == _RESERVED:
            why = "the format reserves" if path == _RESERVED else "two leaves have"
            raise ValueError(f"{name}: {path!r} is a name that {why}; rename a key of the tree")
        seen.add(path)
        if leaf.layout != torch.strided or leaf.is_meta:
            kind = "meta" if leaf.is_meta else leaf.layout
            raise TypeError(f"{name}: leaf {path!r} is a {kind} tensor; only dense ones are kept")


def named(tree: pytree.Tree, name: str) -> dict[str, Tensor]:
    """The leaves by path, contiguous and on the CPU, so that nothing depends on their layout.

    Raises:
        TypeError, ValueError: as `check` does.
    """
    check(tree, name)
    found = zip(pytree.paths(tree), pytree.leaves(tree), strict=True)
    # The clone parts leaves that share memory; conjugates and negatives become numbers.
    return {
        path: leaf.detach().cpu().resolve_conj().resolve_neg()
        .clone(memory_format=torch.contiguous_format)
        for path, leaf in found
    }  # fmt: skip


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """Write tensors, whole or not at all.

    Args:
        tensors: by name, as `named` gives them.
        about: JSON-serialisable facts to keep beside them; without times and names of machines,
            so that equal trees make equal files.
    Returns:
        The SHA-256 of the content, 64 digits: equal for equal tensors and facts.
    Raises:
        ValueError: when the facts are not JSON, or there are more names than a header may hold.
        DiskError: when the file cannot be written.
    """
    facts = {
        "python": platform.python_version(),
        "safetensors": safetensors.__version__,
        "torch": torch.__version__,
        **about,
    }
    others = {name: t for name, t in tensors.items() if t.dtype not in _NAMED}
    as_bytes = {name: t.unsqueeze(-1).view(torch.uint8) for name, t in others.items()}
    if others:
        dtypes = {name: str(t.dtype).removeprefix("torch.") for name, t in others.items()}
        facts[sealed.AS_BYTES] = dtypes
    content = safetensors.torch.save(
        {**tensors, **as_bytes}, {sealed.KEY: sealed.facts_text(facts)}
    )
    digits, parts = sealed.seal(content)
    files.write_bytes(path, *parts)
    return digits


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, on the CPU, and the facts, with about twice the file's size in memory.

    Raises:
        RunError: when the file is missing, damaged, or not one of fgan's.
    """
    header, content = sealed.read(path)
    about = dict(header.about)
    try:
        tensors = safetensors.torch.load(content)
        for name, dtype in about.pop(sealed.AS_BYTES, {}).items():
            tensors[name] = tensors[name].view(getattr(torch, dtype)).squeeze(-1)
    except (
        safetensors.SafetensorError, AttributeError, ValueError, TypeError, KeyError, RuntimeError,
    ) as error:  # fmt: skip
        raise sealed.damaged(path, f"its tensors cannot be read ({error})") from error
    return tensors, about


def restore(
    tensors: Mapping[str, Tensor],
    like: pytree.Tree,
    path: Path,
    fix: str,
    devices: Sequence[torch.device] = (),
) -> pytree.Tree:
    """The tree of these tensors, with the structure, dtypes, devices and strides of ``like``.

    Args:
        like: its numbers are not looked at.
        path: the file of the tensors, which the message names.
        fix: the sentence of the message that says how to mend a difference.
        devices: one for each leaf, where those of ``like`` are on others.
    Raises:
        RunError: naming the first leaf that is missing, superfluous, or of another shape or dtype.
    """
    names = pytree.paths(like)
    if unmatched := sorted(set(names) ^ tensors.keys()):
        where = "only in the file" if unmatched[0] in tensors else "not in the file"
        raise RunError(f'{path} does not fit: "{unmatched[0]}" is {where}.', fix)
    leaves = []
    devices = devices or [leaf.device for leaf in pytree.leaves(like)]
    for name, leaf, device in zip(names, pytree.leaves(like), devices, strict=True):
        saved = tensors[name]
        if saved.shape != leaf.shape or saved.dtype != leaf.dtype:
            raise RunError(
                f'{path} holds "{name}" as {saved.dtype} {tuple(saved.shape)}, '
                f"not {leaf.dtype} {tuple(leaf.shape)}.",
                fix,
            )
        # The copy takes the strides of ``like``.
        made = torch.empty_like(leaf, device=device).copy_(saved)
        leaves.append(made.requires_grad_() if leaf.requires_grad else made)
    return pytree.unflatten(pytree.structure(like), leaves)
