"""Data in and out: pictures, videos, clips for training."""
