"""Drawn videos of known cuts: cameras that stand, push in, pull out and turn, before drawn pictures."""

import numpy as np

from gm.data.procedural import pan, picture, push_in


def scene(random, count, size, most_motion):
    """uint8 (count, size, size, 3). most_motion: of the side, from frame to frame."""
    canvas, kind = picture(random, 2 * size), random.integers(5)
    speed = random.uniform(0.0003, most_motion)
    if kind == 0:
        frames = push_in(canvas, 1, size, 1.0, (0.5, 0.5)).repeat(count, 0)
    elif kind < 3:
        frames = push_in(canvas, count, size, 1 + speed / 2, random.uniform(0.2, 0.8, 2))[:: 3 - 2 * kind]
    else:
        frames = pan(canvas, count, size, speed)[:: 7 - 2 * kind]
    if random.random() < 0.3:
        frames = frames + random.normal(0, random.uniform(1, 8), frames.shape)
    return np.clip(np.round(frames), 0, 255).astype(np.uint8)


def joined(seed, scenes=20, shortest=6, longest=40, size=96):
    """(frames, the frames that begin a scene after a hard cut); motion up to 120 % of the side in a second of 30."""
    random = np.random.default_rng(seed)
    parts = [scene(random, int(random.integers(shortest, longest)), size, 0.04) for _ in range(scenes)]
    return np.concatenate(parts), np.cumsum([len(part) for part in parts])[:-1].tolist()


def dissolved(seed, length, scenes=6, size=96):
    """(frames, [(first, after the last)] of the mixed frames); motion up to 18 % of the side in a second of 30."""
    random = np.random.default_rng((seed, length))
    shares = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    frames, spans = scene(random, length + 40, size, 0.006), []
    for _ in range(scenes - 1):
        new = scene(random, 2 * length + 40, size, 0.006)
        mixed = frames[-length:] * (1 - shares) + new[:length] * shares
        spans.append((len(frames) - length, len(frames)))
        frames = np.concatenate([frames[:-length], np.round(mixed).astype(np.uint8), new[length:]])
    return frames, spans


def faded(seed, length, colour, scenes=6, size=96, between=5):
    """As `dissolved`, each scene fading to a grey value in `length` frames, and the next one from it."""
    random = np.random.default_rng((seed, length, colour))
    shares = (np.arange(1, length + 1) / length)[:, None, None, None]
    frames, spans = scene(random, length + 40, size, 0.006), []
    for _ in range(scenes - 1):
        new = scene(random, 2 * length + 40, size, 0.006)
        out = frames[-length:] * (1 - shares) + colour * shares
        back = new[:length] * shares + colour * (1 - shares)
        plain = np.full((between, size, size, 3), colour)
        spans += [(len(frames) - length, len(frames)), (len(frames) + between, len(frames) + between + length)]
        parts = [np.round(part).astype(np.uint8) for part in (out, plain, back)]
        frames = np.concatenate([frames[:-length], *parts, new[length:]])
    return frames, spans
