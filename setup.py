"""The native core's build; everything else stands in setup.cfg."""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

CORE = Path("channels/core")
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter"]


def build_problem():
    """What a bare machine lacks, in the words of who has to install it; None when nothing is missing."""
    if not sys.platform.startswith("linux"):
        return "wsgi-channels needs Linux (memfd, eventfd, pidfd)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "the headers of Python are missing; on Debian and Ubuntu: apt-get install python3-dev"
    compiler = os.environ.get("CC", sysconfig.get_config_var("CC") or "cc").split()[0]
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if not any(Path(path, compiler).exists() for path in ["", *paths]):
        return f"there is no C compiler ({compiler}); on Debian and Ubuntu: apt-get install gcc"
    return None


problem = build_problem()
if problem is not None and {"build_ext", "bdist_wheel", "install", "develop", "editable_wheel"} & set(sys.argv):
    sys.exit(f"error: {problem}")

extra = os.environ.get("CHANNELS_CFLAGS", "").split()
setup(
    ext_modules=[
        Extension(
            "channels.core.native",
            sources=["channels/core/native.pyx", *sorted(map(str, set(CORE.glob("*.c")) - {CORE / "native.c"}))],
            depends=sorted(str(path) for pattern in ("*.h", "*.pxi") for path in CORE.glob(pattern)),
            include_dirs=[str(CORE)],
            extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", *WARNINGS, *extra],
            extra_link_args=[flag for flag in extra if flag.startswith("-fsanitize")],
        )
    ],
)
