"""Training the tiny model from nothing, stage by stage: the first stage, the image tower, then the UNet by train.py."""
