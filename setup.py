"""What pyproject.toml cannot say: packages are found, and folders of data are placed in them (`gm.places`)."""

from setuptools import find_packages, setup

FOLDERS = {"gm.configs": "configs", "gm.assets": "assets", "svd_tools.goldens": "tests/goldens"}

setup(
    packages=[*find_packages(include=["gm", "gm.*", "svd_tools", "svd_tools.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={
        **dict.fromkeys(FOLDERS, ["*", "**/*"]),
        "gm.data": ["*.cpp"],
        "gm.ops.native": ["*.cpp", "*.h"],
        "gm.ops.cuda": ["*.cu", "*.cuh"],
    },
    py_modules=["image_to_video", "train"],
)
