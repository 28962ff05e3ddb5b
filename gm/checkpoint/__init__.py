"""Checkpoints: read any supported file, match its names against a model, write safetensors.

`formats.open_checkpoint` reads, `rules` holds the name maps as data, `match.match` accounts for every key, and
`writer.write_safetensors` writes. Parameter names are those of the original release (`svd.safetensors`).
"""
