"""The OpenVINO side of compare.py, in the environment of benchmarks/requirements.txt: run by it, not by hand.

The PyTorch side's networks, converted. OpenVINO keeps float32 only where it is told to.
"""

import json
import sys

import numpy as np
import openvino
import torch
from compare_torch import matmul_gflops, serve, timed
from torch_models import make_clip, make_unet, make_vae


class Network(torch.nn.Module):
    """A network, and how it is called."""

    def __init__(self, network, call):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs):
        return self.call(self.network, *inputs)


def unet(case, inputs):
    videos = inputs["x"].unflatten(0, (-1, case["frames"]))
    given = (videos, inputs["c_noise"], inputs["context"], inputs["ids"])
    return Network(make_unet(case["model"], case["weights"]), lambda model, *x: model(*x).sample.flatten(0, 1)), given


def decode(case, inputs):
    frames = case["frames"]
    call = Network(make_vae(case["model"], case["weights"]), lambda vae, z: vae.decode(z, num_frames=frames).sample)
    return call, (inputs["z"],)


def encode(case, inputs):
    return Network(make_vae(case["model"], case["weights"]), lambda vae, x: vae.quant_conv(vae.encoder(x))), (
        inputs["pixels"],
    )


def clip(case, inputs):
    tower = make_clip(case["model"], case["weights"])
    return Network(tower, lambda tower, seen: tower(seen).image_embeds), (inputs["seen"],)


KINDS = {"unet": unet, "decode": decode, "encode": encode, "clip": clip}


def main():
    case = json.loads(sys.argv[1])
    network, given = KINDS[case["kind"]](case, {k: torch.from_numpy(v) for k, v in np.load(case["inputs"]).items()})
    with torch.no_grad():
        model = openvino.convert_model(network.eval(), example_input=given)
    arrays = [value.numpy() for value in given]
    precision = {"float32": "f32", "bfloat16": "bf16"}[case["precision"]]
    compiled = openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    )
    del network, model
    request = compiled.create_infer_request()

    def run():
        return request.infer(arrays, share_inputs=True, share_outputs=True)[0]

    result, seconds = timed(run)
    np.save(case["results"], result)
    serve(run, {"seconds": seconds, "matmul_gflops": matmul_gflops()})


if __name__ == "__main__":
    main()
