"""What Ascend and GPU are given: the reference forms in graph mode, which no user of a CPU runs; their operators."""

import mindspore as ms
import numpy as np
import pytest

from gm import ops, places
from svd_tools import graphs, operators, page, verify
from svd_tools.golden.limits import PRECISIONS
from svd_tools.graphs import Node

# Numbers of float16 are 4.9e-4 apart; a result has gone through some tens of such roundings, a gradient twice as many.
FLOAT16 = {"forward": 2e-2, "loss": 1e-2, "gradient": 5e-2}
# (amp_level, levels of the UNet): with one there is no way down and up, and half as much to compile.
CASES = [("O2", 1), *(pytest.param((name, 2), marks=pytest.mark.slow, id=f"{name}-2") for name in ("O0", "O2"))]
RECORDED = [
    ("blocks", "float32"),
    ("clip", "float16"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("clip", "float32"),
            ("vae", "float32"),
            ("unet", "float32"),
            ("unet", "float16"),
            ("loss", "float32"),
        )
    ),
]


@pytest.mark.parametrize(("kind", "dtype"), RECORDED)
def test_reference_forms_reproduce_the_original_in_graph_mode(kind, dtype):
    """Outputs and activations, and gradients where they are recorded."""
    graphs.use_reference_forms()
    report = verify.replay(places.GOLDENS / f"{kind}_golden.safetensors", dtype)
    failed = [row for row in report.rows if not row.passed]
    assert report.rows and not failed, failed


@pytest.fixture(scope="module", params=CASES, ids=str)
def compiled(request):
    """((amp_level, levels), {name: Compiled}, all nodes) of the reference forms in graph mode."""
    graphs.use_reference_forms()
    parts = graphs.compile_all(*request.param)
    return request.param, parts, graphs.all_nodes(parts)


def test_whole_training_step_and_encoders_agree_with_the_cpu_forms(compiled):
    """Those are held to the original by their own recordings; here in PyNative and float32."""
    (amp_level, levels), parts, _ = compiled
    limits = PRECISIONS["float32"].limits if amp_level == "O0" else FLOAT16
    expected = graphs.compile_all("O0", levels)
    for name, part in parts.items():
        truth = expected[name.replace(amp_level, "O0")].result if part.result is not None else None
        if isinstance(part.result, np.ndarray):
            np.testing.assert_allclose(part.result, truth, atol=limits["forward"] * np.abs(truth).max(), err_msg=name)
    losses, gradients = parts[f"training {amp_level}"].result
    true_losses, true_gradients = expected["training O0"].result
    np.testing.assert_allclose(losses, true_losses, rtol=limits["loss"])
    largest = max(np.linalg.norm(g) for g in true_gradients.values())
    assert gradients.keys() == true_gradients.keys() and largest > 0
    for name, gradient in gradients.items():
        error = np.linalg.norm(gradient - true_gradients[name])
        assert error <= limits["gradient"] * max(np.linalg.norm(true_gradients[name]), 0.01 * largest), name


def test_graphs_ask_for_nothing_that_devices_refuse(compiled):
    assert not graphs.faults(compiled[2])


def test_float16_is_where_it_belongs(compiled):
    (amp_level, _), _, nodes = compiled
    dtypes = operators.used(nodes)
    half = {"FLOAT16"} if amp_level == "O2" else set()
    assert all(half <= set(dtypes[name]) for name in ("Conv2D", "MatMul", "BatchMatMul", "Conv2DBackpropFilter"))
    assert all(dtypes[name] == ["FLOAT"] for name in ("Softmax", "Rsqrt", "AdamWeightDecay", "Log"))


@pytest.mark.parametrize("device", ["Ascend", "GPU"])
def test_every_operator_exists_on_the_device(compiled, device):
    if operators.kernels(device) is None:
        pytest.skip(f"this mindspore has no kernels for {device}")
    found = operators.used(compiled[2])
    assert len(found) > 40
    assert not [name for name in found if not operators.support(name)[device]]


def test_the_table_in_the_documents_is_what_the_graphs_ask_for(compiled):
    _, shown, _ = page.read("operators")
    if f"MindSpore {ms.__version__}:" not in shown:
        pytest.skip("the table is of another version")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()[4:]]
    rows = {name: (dtypes, *support) for name, dtypes, *support in rows}
    for name, dtypes in operators.used(compiled[2]).items():
        assert {dtype.lower() for dtype in dtypes} <= set(rows[name][0].replace("float32", "float").split(", ")), name
        assert rows[name][1:] == (operators.support(name)["Ascend"], operators.support(name)["GPU"]), name


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        ("DOUBLE", (2, 3), "DOUBLE"),
        ("INT64", (2,), "INT64"),
        ("FLOAT", (2, -1), "not static"),
        ("FLOAT16", (1,) * 9, "more than 8 axes"),
        ("FLOAT16", (1,) * 8, None),
        ("FLOAT", (), None),
    ],
)
def test_faults_are_seen(dtype, shape, words):
    found = graphs.faults([Node("g", "Add", (("FLOAT", (1,)), (dtype, shape)))])
    assert bool(found) == (words is not None) and all(words in line for line in found)


def test_an_operator_of_one_device_is_not_taken_for_one_of_all():
    """FlashAttentionScore is documented for Ascend alone, and the CPU's library has a stand-in for it."""
    assert operators.platforms("FlashAttentionScore") == ("Ascend",)
    if operators.kernels("GPU") is not None:
        assert operators.support("FlashAttentionScore") == {"Ascend": "documented", "GPU": ""}
    assert operators.platforms("Erf") == ("Ascend", "GPU", "CPU")  # through the function that it refers to


def test_reading_graphs_of_pynative_is_refused():
    cell = graphs.filled(graphs.ClipVision(**graphs.CLIP))
    with pytest.raises(ValueError, match="nothing was compiled"):
        graphs.nodes("clip", cell)


def test_reference_forms_are_bound_by_use_reference_forms():
    graphs.use_reference_forms(ops.PYNATIVE_MODE)
    assert all(getattr(ops, name) is getattr(ops.reference, name) for name in ops.table.OPERATIONS)
