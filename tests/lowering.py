"""What a compiled step would launch on a GPU, found out on a machine that has none.

    python tests/lowering.py CASE [CAPABILITY ...]

Traces a case's step as a run does, has Inductor lower it for a GPU that is pretended, compiles
every Triton kernel with the assembler of triton's wheel, and prints a line of JSON for each
compute capability.

The step is traced on the CPU and moved: autograd asks the driver as soon as tensors say that they
are on CUDA. Normalisation by cuDNN, which a trace on a GPU has, comes to the same kernels.
"""

from __future__ import annotations

import collections
import copy
import importlib.util
import itertools
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pretended_gpu import CUDA, pretended
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule

from fgan import population
from fgan.compile.graph import inductor_options
from fgan.game import make_draws
from fgan.game.game import terms_due
from fgan.run import assemble, config, recipes

RING = {"data": "ring", "gen_hidden": (64, 64), "disc_hidden": (64, 64), "batch_size": 128}
CASES: dict[str, dict[str, Any]] = {
    **{name: {"recipe": name} for name in recipes.ALL},
    "default": {},
    "default, no penalty due": {},
    "default in bfloat16": {"dtype": "bfloat16"},
    "dcgan in bfloat16": {"recipe": "mnist-dcgan", "dtype": "bfloat16"},
    "population": {"seeds": "0-15"},
    "consensus": RING | {"order": "consensus"},
}
SHAPES = {"mnist-dcgan": (1, 64, 64), "faces-mlp": (3, 100, 100)}


# The step --------------------------------------------------------------------------------------


class Caught(Exception):  # noqa: N818  (nothing went wrong)
    """Thrown where something was to be run."""


def trace(name: str) -> tuple[list[GraphModule], list[torch.Tensor], dict[str, Any]]:
    """What a case's step hands to ``torch.compile``: graphs, the last one's inputs, options."""
    options = dict(CASES[name])
    recipe = options.pop("recipe", None)
    base = {"data": "mnist", "compile": True} | options
    settings = recipes.resolve(recipe, base) if recipe else config.resolve(base)
    shape = (2,) if settings.data == "ring" else SHAPES.get(recipe, (1, 28, 28))
    with mock.patch.object(assemble, "find_device", return_value=CUDA):
        game = assemble.make_game(settings, shape)
    training = assemble.make_training(settings)
    state = training.init(game, assemble.make_key(settings, "cpu"))
    lead = (len(settings.members),) if settings.members else ()
    kind = torch.float32 if settings.data == "ring" else torch.uint8
    raw = torch.zeros((*lead, settings.batch_size, *shape), dtype=kind)
    make = population.make_draws if settings.members else make_draws
    draws = make(game, state.key, 0, settings.batch_size)
    due = [sum(map(len, terms_due(game, n).disc)) for n in range(settings.penalty_every)]
    number = due.index((min if "no penalty" in name else max)(due))
    graphs: list[GraphModule] = []
    found: dict[str, Any] = {}

    def compile(forward: Any, *, options: dict[str, Any], **how: Any) -> Any:
        graphs.append(forward.__self__)  # the graph whose method it is

        def call(*values: torch.Tensor) -> None:
            found.update(values=values, options=options)
            raise Caught

        return call

    with mock.patch.object(torch, "compile", compile):
        try:
            training.steps(game)(number)(state, raw, draws)
        except Exception:
            if not found:
                raise
    inductor = {k: v for k, v in found["options"].items() if k != "guard_filter_fn"}
    inductor |= inductor_options(on_gpu=True, convolves="size_asserts" not in inductor)
    return graphs, list(found["values"]), inductor


def move(graph: GraphModule) -> None:
    """A graph traced on the CPU, on CUDA."""
    for node in graph.graph.nodes:
        assert node.op != "get_attr", f"{node.target} would have to be copied from the host"
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": CUDA}
        node.args = tuple(CUDA if isinstance(a, torch.device) else a for a in node.args)
        node.meta.clear()
    graph.recompile()


# Its kernels -----------------------------------------------------------------------------------


def lower(graph: GraphModule, values: list[torch.Tensor], options: Any, capability: int) -> str:
    """The source that Inductor makes of a graph."""
    from torch._inductor import config as inductor
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.graph import GraphLowering

    sources: list[str] = []

    def stop(self: Any) -> None:
        code = self.codegen()[0]
        sources.append(code.value if hasattr(code, "value") else code)
        raise Caught

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        inputs = [
            torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=CUDA) for v in values
        ]
    off = {
        "shape_padding": False,  # is decided by timing products on the device
        "fx_graph_cache": False, "force_disable_caches": True, "compile_threads": 1,
    }  # fmt: skip
    with (
        pretended(capability),
        inductor.patch(off),
        mock.patch.object(GraphLowering, "compile_to_module", stop),
        torch._guards.tracing(torch._guards.TracingContext(fake)),
        torch.no_grad(),
    ):
        try:
            compile_fx(graph, inputs, config_patches=options)
        except Exception:
            if not sources:
                raise
    (source,) = sources
    return source


_KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)''', device_str='cuda'\)", re.DOTALL)


def kernels_of(source: str) -> dict[str, str]:
    return dict(_KERNEL.findall(source))


def launches_of(source: str) -> collections.Counter[str]:
    """What the generated code launches in a step: Triton kernels, and routines of libraries."""
    found: collections.Counter[str] = collections.Counter()
    for line in source.split("def call(", 1)[1].splitlines():
        if match := re.match(r"\s+(\w+)\.run\(", line):
            found[match[1]] += 1
        found.update(re.findall(r"(extern_kernels\.\w+|(?:torch\.ops\.)?aten\.[\w.]+)\(", line))
    return found


def compile_kernel(name: str, source: str, capability: int) -> int:
    """Compile a kernel in each of its configurations; how many these are."""
    import triton
    from torch._inductor.runtime import triton_helpers
    from triton.backends.compiler import GPUTarget

    with (
        tempfile.TemporaryDirectory() as folder,
        pretended(capability),
        mock.patch.object(triton_helpers, "set_driver_to_gpu"),
    ):
        path = Path(folder, f"{name}.py")
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"kernel_{name}", path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        tuner = getattr(module, name)
        names, meta = tuner.fn.arg_names, tuner.triton_meta
        for each in tuner.configs:
            constants = dict(meta.get("constants", {}))
            constants |= {k: v for k, v in each.kwargs.items() if k in names}
            signature = {n: meta["signature"].get(n, "constexpr") for n in names}
            signature |= dict.fromkeys(constants, "constexpr")
            places = {
                (names.index(k) if isinstance(k, str) else k,): v for k, v in constants.items()
            }
            attributes = meta["configs"][0] if meta.get("configs") else {}
            made = triton.compile(
                triton.compiler.ASTSource(tuner.fn, signature, places, attributes),
                target=GPUTarget("cuda", capability, 32),
                options={"num_warps": each.num_warps, "num_stages": each.num_stages},
            )
            assert len(made.asm["cubin"]) > 0
    return len(tuner.configs)


# Donated memory --------------------------------------------------------------------------------


Given = dict[str, str]  # by a kernel's parameters: the donated tensors among them


def given_to_kernels(source: str) -> dict[str, Given]:
    """By kernel; what the step allocates lies apart, and is left out."""
    calls = dict(re.findall(r"(triton_\w+)\.run\((.*), stream=", source.split("def call(", 1)[1]))
    found = {}
    for name, kernel in kernels_of(source).items():
        header = re.search(rf"def {name}\((.*?)\):", kernel, re.DOTALL)
        assert header is not None
        parameters = [part.split(":")[0].strip() for part in header[1].split(",")]
        arguments = re.split(r",(?![^()]*\))", calls[name])
        pairs = zip(parameters, map(_DONATED.search, arguments), strict=False)
        found[name] = {parameter: match[0] for parameter, match in pairs if match}
    return found


_DONATED = re.compile(r"\barg\d+_\d+\b")


def uses(what: str, kernel: str, given: Given) -> set[tuple[str, str]]:
    """Donated tensors that a kernel loads or stores, each with the place in it."""
    pattern = rf"tl\.{what}\((\w+) \+ \(([^()]*(?:\([^()]*\)[^()]*)*)\)"
    return {
        (given[p], "0" if "tl.full" in i else re.sub(r"^tl.broadcast_to\((.*?),.*", r"\1", i))
        for p, i in re.findall(pattern, kernel)
        if p in given
    }


def races_in(name: str, kernel: str, given: Given) -> list[str]:
    """Donated memory that one block of threads may read after another has written it.

    In one kernel, a tensor that is stored by one part and loaded by another part of a combined
    kernel, or at another place in the same part.
    """
    parts = re.split(r"\n    (?:if|elif) pid\w* ?[<=%]", kernel)
    found = []
    for (a, writer), (b, reader) in itertools.product(enumerate(parts), repeat=2):
        for tensor, place in uses("store", writer, given):
            read = {i for t, i in uses("load", reader, given) if t == tensor}
            if read and (a != b or read != {place}):
                found.append(f"{name}: {tensor} is stored in part {a} at {place}, loaded in {b}")
    return found


def late_reads(source: str, given: dict[str, Given]) -> list[str]:
    """Donated memory that a launch reads after an earlier one has written it."""
    found, written = [], set()
    kernels = kernels_of(source)
    for line in source.split("def call(", 1)[1].splitlines():
        if match := re.match(r"\s+(triton_\w+)\.run\(", line):
            kernel, its = kernels[match[1]], given[match[1]]
            read = {tensor for tensor, _ in uses("load", kernel, its)}
            stored = {tensor for tensor, _ in uses("store", kernel, its)}
        elif "extern_kernels." in line or "aten." in line:
            read, stored = set(_DONATED.findall(line)), set()
        else:
            continue
        found += [f"{tensor} in {line.strip()[:80]}" for tensor in read & written]
        written |= stored
    return found


def unrestored_in(name: str, kernel: str, given: Given) -> list[str]:
    """Donated memory that a kernel writes without saying so: tuning would write it many times."""
    said = re.search(r"'mutated_arg_names': \[(.*?)\]", kernel)
    written = set(re.findall(r"tl\.store\((\w+) \+", kernel))
    return [
        f"{name}: {given[p]}, as {p}"
        for p in written
        if p in given and f"'{p}'" not in (said[1] if said else "")
    ]


def main() -> None:
    case, *capabilities = sys.argv[1:]
    graphs, values, options = trace(case)
    move(graphs[-1])
    for capability in map(int, capabilities or ["80", "90"]):
        source = lower(copy.deepcopy(graphs[-1]), values, options, capability)
        kernels, given = kernels_of(source), given_to_kernels(source)
        stored = [uses("store", kernel, given[name]) for name, kernel in kernels.items()]
        row = {
            "capability": capability,
            "graphs": len(graphs),
            "launches": sum(launches_of(source).values()),
            "kernels": len(kernels),
            "compiled": sum(compile_kernel(k, s, capability) for k, s in kernels.items()),
            "written": len({tensor for each in stored for tensor, _ in each}),
            "races": [race for k, s in kernels.items() for race in races_in(k, s, given[k])],
            "late": late_reads(source, given),
            "timed": [k for k, s in kernels.items() if "'deterministic': True" not in s],
            "unrestored": [u for k, s in kernels.items() for u in unrestored_in(k, s, given[k])],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
