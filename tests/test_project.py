"""The rules that hold for every file of the project, read from the source without running it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import yaml

import gm
from benchmarks import tables
from gm import ops
from gm.inference_options import OPTIONS
from gm.training.settings import describe_options

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = {"build", "outputs"}  # and everything whose name begins with a dot
PEERS = {"torch", "torchvision", "diffusers", "transformers"}
DEVICE = {"device_target", "get_context", "set_context", "set_device", "get_current_device"}
KERNELS = {"Custom", "CustomOpBuilder", "FlashAttentionScore", "flash_attention_score", "prompt_flash_attention"}


def source_files():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if not any(part in NOT_OURS or part.startswith(".") for part in parts):
            yield path.relative_to(ROOT)


FILES = list(source_files())


def tree_of(file):
    # feature_version refuses syntax that Python 3.9 does not know, such as `match`.
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), str(file), feature_version=(3, 9))


def imported_names(tree):
    """Local name → the dotted name that it stands for, of every import in the file."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def used_names(tree):
    """(line, full dotted name) of every imported name and of every attribute reached from one."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((node.lineno, full) for full in imported_names(ast.Module([node], [])).values())
        parts, base = [], node
        while isinstance(base, ast.Attribute):
            parts, base = [base.attr, *parts], base.value
        if parts and isinstance(base, ast.Name) and base.id in names:
            yield node.lineno, ".".join([names[base.id], *parts])


def faults_in(tree, forbidden):
    return sorted({f"line {line}: {name}" for line, name in used_names(tree) if forbidden(name)})


def is_peer(name):
    return name.partition(".")[0] in PEERS


def is_sys_path(name):
    return f"{name}.".startswith("sys.path.")


def is_device(name):
    first, *rest = name.split(".")
    return first == "mindspore" and not (DEVICE | KERNELS).isdisjoint(rest)


def programs_without_environment(tree):
    """Calls that start a program without saying in which environment.

    mindspore's import sets OMP_NUM_THREADS=1 behind Python's back. What is started later without `env` gets it, and
    computes with one thread; `os.environ` does not hold it, unless it was there before.
    """
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        ours = isinstance(called, ast.Attribute) and getattr(called.value, "id", "") == "subprocess"
        if ours and "env" not in {keyword.arg for keyword in node.keywords}:
            yield f"line {node.lineno}: subprocess.{called.attr} without env"


def test_files_are_found():
    assert {Path("gm/config.py"), Path("tests/test_project.py")} <= set(FILES)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_source_keeps_the_rules(file):
    tree = tree_of(file)
    faults = faults_in(tree, is_sys_path)
    if file.parts[0] != "benchmarks":
        faults += faults_in(tree, is_peer)
    if file.parts[0] not in ("benchmarks", "tests") and file.parts[:2] != ("gm", "ops"):
        faults += faults_in(tree, is_device)
    if file.parts[0] != "tests":
        faults += programs_without_environment(tree)
    assert not faults


@pytest.mark.parametrize(
    "source, forbidden, caught",
    [
        ("import torch", is_peer, True),
        ("from diffusers.models import UNet", is_peer, True),
        ("def f():\n    import transformers as t", is_peer, True),
        ("import torch_of_mine", is_peer, False),
        ("import sys\nsys.path.insert(0, '.')", is_sys_path, True),
        ("import sys as s\ns.path += ['.']", is_sys_path, True),
        ("from sys import path", is_sys_path, True),
        ("import os, sys\nos.path.join(sys.argv[0])", is_sys_path, False),
        ("import mindspore as ms\nms.set_context(mode=0)", is_device, True),
        ("import mindspore as ms\nms.context.get_context('device_target')", is_device, True),
        ("from mindspore import context as c\nc.set_context(mode=1)", is_device, True),
        ("from mindspore import set_device", is_device, True),
        ("import mindspore.ops as P\nP.Custom('a')", is_device, True),
        ("from mindspore import ops\nops.flash_attention_score(q)", is_device, True),
        ("from gm import ops\nops.set_device(args.device_target)", is_device, False),
        ("import mindspore as ms\nprint(ms.Tensor(args.device_target))", is_device, False),
    ],
)
def test_the_rules_catch_what_they_should(source, forbidden, caught):
    assert bool(faults_in(ast.parse(source), forbidden)) is caught


def test_a_program_started_without_environment_is_caught():
    assert list(programs_without_environment(ast.parse("import subprocess\nsubprocess.Popen(['true'], cwd='.')")))
    assert not list(programs_without_environment(ast.parse("import os, subprocess\nsubprocess.run(c, env=os.environ)")))


def test_what_mindspore_sets_for_itself_reaches_no_program_that_is_started():
    code = (
        "import os, subprocess, sys\nimport mindspore\nshow = 'import os; print(os.environ.get(\"OMP_NUM_THREADS\"))'\n"
    )
    code += "subprocess.run([sys.executable, '-c', show], env=os.environ)"
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None"]


def requirement_lines(name):
    """(requirement, the line above it) of a requirements file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [(line, above) for above, line in zip(["", *lines], lines) if line.strip() and not line.startswith("#")]


def dependency_lines():
    """The same of pyproject.toml's dependencies, those of its extras among them."""
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("dependencies = [")[2]
    lines = listed.partition("[project.scripts]")[0].splitlines()
    return [(line.strip(' ",'), above.strip()) for above, line in zip(lines, lines[1:]) if line.startswith('    "')]


@pytest.mark.parametrize("name", ["pyproject.toml", *sorted(path.name for path in ROOT.glob("requirements*.txt"))])
def test_every_requirement_is_bounded_and_gives_its_reason(name):
    lines = dependency_lines() if name == "pyproject.toml" else requirement_lines(name)
    assert lines
    for line, above in lines:
        assert above.startswith("# "), f"{line}: no reason in the line above it"
        assert line.startswith("-") or re.search(r"==|<", line), f"{line}: neither pinned nor bounded"


def test_numpy_stays_below_2_wherever_pip_is_run():
    assert [line for line, _ in dependency_lines() if line.startswith("numpy")] == ["numpy>=1.26,<2"]
    assert "-e ." in [line for line, _ in requirement_lines("requirements.txt")]
    for name in (
        "requirements-test.txt",
        "requirements-extra.txt",
        "requirements-data.txt",
        "requirements-cluster.txt",
    ):
        assert "-r requirements.txt" in [line for line, _ in requirement_lines(name)]


def test_mindspores_version_is_known_before_it_is_imported(tmp_path, monkeypatch):
    assert gm._mindspore_version() == ops.version()[:2]
    (tmp_path / "mindspore").mkdir()
    spec = ModuleSpec("mindspore", None, origin=str(tmp_path / "mindspore" / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", {"mindspore": spec}.get)
    assert gm._mindspore_version() == ()
    folder = ModuleSpec("mindspore", None)  # of that name where the program was started, for instance
    monkeypatch.setattr("importlib.util.find_spec", {"mindspore": folder}.get)
    assert gm._mindspore_version() == ()
    monkeypatch.setattr("importlib.util.find_spec", {"mindspore": spec}.get)
    (tmp_path / "mindspore-of_mine.dist-info").mkdir()
    assert gm._mindspore_version() == ()
    (tmp_path / "mindspore-2.9rc1.dist-info").mkdir()
    assert gm._mindspore_version() == (2, 9)
    (tmp_path / "mindspore-2.9rc1.dist-info").rename(tmp_path / "mindspore-2.10.0.dist-info")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    gm._cap_onednn_isa()
    assert os.environ.pop("ONEDNN_MAX_CPU_ISA") == "AVX2"


def test_lines_that_benchmarks_mutations_changes_exist_once():
    groups = yaml.safe_load((ROOT / "benchmarks" / "mutations.yaml").read_text(encoding="utf-8"))
    assert not [
        (group["file"], change["old"])
        for group in groups
        for change in group["changes"]
        if (ROOT / group["file"]).read_text(encoding="utf-8").count(change["old"]) != 1
    ]


def test_the_table_of_these_changes_tells_all_of_them():
    groups = yaml.safe_load((ROOT / "benchmarks" / "mutations.yaml").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "mutations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+/\S+) \| `", page, re.MULTILINE)
    assert sorted(rows) == sorted(group["file"] for group in groups for _ in group["changes"])
    assert f"\n{len(rows)} changes, " in page


def anchors_of(page):
    """What GitHub makes of the headings of a page, for links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = sorted(page for folder in (".", "docs", "benchmarks/results") for page in ROOT.joinpath(folder).glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r'(?:src|href)="([^"]+)', text)
    missing = []
    for target in targets:
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        if not re.match(r"[a-z]+:", target) and (not there.exists() or anchor and anchor not in anchors_of(there)):
            missing.append(target)
    assert not missing


# Of the programs beside ours that the pages start: msrun, Dask's worker, Streamlit.
OTHERS = {"--bind_core", "--join", "--local_worker_num", "--log_dir", "--master_addr", "--master_port", "--node_rank"}
OTHERS |= {"--nthreads", "--nworkers", "--server.address", "--sim_level", "--worker_num"}
OPTION = re.compile(r"(?<![\w-])--[A-Za-z][\w.]*\w\b(?!\.…)")


@pytest.fixture(scope="module")
def options():
    """Every option of every program: of image_to_video.py and train.py from their fields, of others as written."""
    found = {"--help", *(name for option in OPTIONS.values() for name in option.names)}
    found |= set(OPTION.findall("\n".join(describe_options())))
    for file in FILES:
        if file.parts[0] in ("train.py", "svd_tools", "benchmarks") or file.parts[:2] == ("tests", "web"):
            found |= set(re.findall(r'"(--\w+)"', (ROOT / file).read_text(encoding="utf-8")))
    return found


def unknown_in(text, options):
    """Options and programs that a page names and that are not there."""
    programs = re.findall(r"python ([\w/]+\.py)", text)
    return [
        *sorted(set(OPTION.findall(text)) - options - OTHERS),
        *(path for path in programs if not (ROOT / path).exists()),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_and_programs_of_a_page_are_there(page, options):
    if page.name != "mutations.md":  # whose lines are code, in part changed
        assert unknown_in(page.read_text(encoding="utf-8"), options) == []


def test_options_and_programs_that_are_not_there_are_seen(options):
    assert unknown_in("`--SVD.amp_level=O2`, --amp_level, --train.epochs", options) == ["--SVD.amp_level"]
    assert unknown_in("python svd_tools/nothing.py --output=x; python train.py", options) == ["svd_tools/nothing.py"]


@pytest.mark.parametrize("page", tables.TABLES, ids=lambda path: path.name)
def test_tables_of_the_pages_are_what_the_files_of_results_say(page):
    assert tables.filled(page) == page.read_text(encoding="utf-8")


def test_ci_runs_the_test_command_of_the_readme():
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^make test ", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
