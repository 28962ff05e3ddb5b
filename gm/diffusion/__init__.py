"""The maths around the network: conditioning, preconditioning, noise levels, guidance, sampling and the loss.

What happens once per video or per step is plain NumPy in float32, so that every device and mode computes the same;
only `denoiser` and `loss` are mindspore cells, compiled together with the network.
"""
