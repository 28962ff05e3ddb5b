"""Which devices have the operators that this project asks for, read from the installed MindSpore.

python svd_tools/operators.py [--write]

The operators come from the compiled graphs of `svd_tools.graphs`. That a device has one is taken from, in this order:
"documented", the platforms in MindSpore's own docstring or in that of the function that it refers to; "plugin", a
kernel of that name in the device's library; "rewritten", for operators that MindSpore writes in others where a device
has no kernel, which is how they ran on the CPU. --write puts the table into docs/devices.md.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import mindspore as ms
from mindspore.ops import operations

from gm.errors import run_cli
from gm.parser import Parser
from svd_tools import graphs, page

DEVICES = ("Ascend", "GPU", "CPU")
# Libraries below mindspore/lib with a device's kernels, and what a kernel of an operator is called in them: a class
# of that name, an operator of CANN's graph engine, or the name that it is registered under.
LIBRARIES = {
    "Ascend": (
        "plugin/libmindspore_ops_ascend.so",
        "plugin/ascend/libmindspore_graph_ir.so",
        "plugin/ascend/libmindspore_ascend_res_manager.so",
    ),
    "GPU": ("plugin/libmindspore_gpu.so.11.6",),
    "CPU": ("plugin/libmindspore_ops_cpu.so",),
}
CLASSES = re.compile(
    rb"N9mindspore6kernel[0-9a-zA-Z_]*?\d([A-Z]\w*?)(?:Ascend|GPU)E|\d([A-Z]\w*?)(?:Fwd)?(?:Gpu|Cpu)KernelMod"
    rb"|N2ge2op\d+(\w+?)E\0|\0([A-Z][A-Za-z0-9]{3,40})(?=\0)"
)


def platforms(operator: str) -> tuple[str, ...] | None:
    """Devices in the docstring of an operator, or of the function that it refers to; None where none are named."""
    for text in _docstrings(operator):
        found = re.search(r"Supported Platforms:\s*\n\s*(.*)", text)
        names = found and re.findall(r"``(\w+)``", found[1])
        if names:
            return tuple(names)
    return None


def _docstrings(operator: str) -> Iterator[str]:
    for module in _modules():
        cell = getattr(module, operator, None)
        text = (inspect.isclass(cell) and cell.__dict__.get("__doc__")) or ""
        yield text
        for path in re.findall(r"Refer to :func:`mindspore\.([\w.]+)`", text):
            yield inspect.getdoc(functools.reduce(lambda o, name: getattr(o, name, None), path.split("."), ms)) or ""


@functools.lru_cache(maxsize=1)
def _modules() -> list[ModuleType]:
    names = [f"mindspore.ops.operations.{module.name}" for module in pkgutil.iter_modules(operations.__path__)]
    return [importlib.import_module(name) for name in ("mindspore.ops.auto_generate.gen_ops_prim", *names)]


@functools.lru_cache(maxsize=len(DEVICES))
def kernels(device: str) -> set[str] | None:
    """Names of the kernels in a device's libraries; None where this mindspore has none of them."""
    root = Path(ms.__file__).parent / "lib"
    files = [root / name for name in LIBRARIES[device] if (root / name).exists()]
    found = (match for path in files for match in CLASSES.findall(path.read_bytes()))
    return {name.decode() for match in found for name in match if name} if files else None


def support(operator: str) -> dict[str, str]:
    """{device: "documented", "plugin", "rewritten" or ""} of an operator, for Ascend and GPU; "" where it has none."""
    named, found = platforms(operator), {}
    for device in DEVICES[:2]:
        if named is not None and device in named:
            found[device] = "documented"
        elif operator in (kernels(device) or ()):
            found[device] = "plugin"
        else:
            found[device] = "" if operator in (kernels("CPU") or ()) else "rewritten"
    return found


def used(nodes: Iterable[graphs.Node]) -> dict[str, list[str]]:
    """{operator: sorted dtypes} of `svd_tools.graphs.Node`s."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for node in nodes:
        found[node.operator].update(dtype for dtype, _ in node.tensors)
    return {operator: sorted(found[operator]) for operator in sorted(found)}


def table(operators: Mapping[str, Sequence[str]]) -> str:
    """Markdown of {operator: dtypes}, one row each."""
    lines = [
        f"MindSpore {ms.__version__}: {len(operators)} operators.",
        "",
        "| operator | dtypes here | Ascend | GPU |",
        "|---|---|---|---|",
    ]
    names = {"FLOAT": "float32"}
    for operator, dtypes in operators.items():
        found = support(operator)
        shown = ", ".join(names.get(dtype, dtype.lower()) for dtype in dtypes)
        lines.append(f"| {operator} | {shown} | {found['Ascend'] or 'none'} | {found['GPU'] or 'none'} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/devices.md")
    options = parser.parse_args(argv)
    graphs.use_reference_forms()
    text = table(used([node for amp_level in ("O0", "O2") for node in graphs.all_nodes(graphs.compile_all(amp_level))]))
    print(text)
    if options.write:
        page.write("operators", text)
    return 0


if __name__ == "__main__":
    run_cli(main)
