"""What setup.cfg cannot say: a wheel carries conf/ inside the package and, when its maker asks, the CPU kernel.

    PSFTR_BUILD_NATIVE=1 python -m build --wheel     compiles the kernel into the wheel (a C compiler is needed here)

Without the variable nothing is compiled, and the wheel serves every platform.
"""

import os
import runpy
import shutil
from pathlib import Path

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
NATIVE = os.environ.get("PSFTR_BUILD_NATIVE") == "1"


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a checkout has conf/ beside the package
            return
        package = Path(self.build_lib) / "psftr"
        shutil.copytree(HERE / "conf", package / "conf", dirs_exist_ok=True)
        for stale in (package / "ops" / "_native").glob("*"):
            stale.unlink()
        if NATIVE:
            compile_kernel(package / "ops" / "_native" / "libpsftr_ops.so")


def compile_kernel(target: Path) -> None:
    """psftr.ops imports torch, which a build environment lacks: run the one module that needs only a compiler."""
    module = runpy.run_path(str(HERE / "psftr" / "ops" / "build_native.py"))
    module["build"](target)


class Distribution(setuptools.Distribution):
    def has_ext_modules(self) -> bool:
        """A library for this platform belongs into platlib: what repairs wheels refuses one in purelib."""
        return NATIVE or super().has_ext_modules()


class BdistWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        # the kernel is reached through ctypes: any Python, this platform
        return ("py3", "none", super().get_tag()[2]) if NATIVE else super().get_tag()


setuptools.setup(distclass=Distribution, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
