"""The C extension, and kernel/ as data inside the package: a wheel carries the BPF program's source."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithKernel(build_py):
    """Puts kernel/ into the built package as pyinterceptor/_kernel, where capture/gateway/files.py looks first."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib, "pyinterceptor", "_kernel")
            shutil.copytree("kernel", place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.o"))


setup(
    cffi_modules=["cext/build.py:ffi"],
    cmdclass={"build_py": BuildWithKernel},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for Python 3.11 and later
)
