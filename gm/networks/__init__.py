"""The networks of Stable Video Diffusion as mindspore cells; every parameter has the original's name and shape.

Letters of the shapes, here and in all modules below:
    b videos   t frames of a video   n = b*t frames, video-major   c channels   h w height and width   s = h*w
    l context tokens   e width of an embedding
"""
