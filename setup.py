from setuptools import setup

setup(cffi_modules=["cext/build.py:ffi"])
