"""Say what a bare machine lacks, before a build fails in a way that does not."""

import shutil
import sys
import sysconfig
from pathlib import Path

missing = []
if sys.version_info < (3, 9):
    missing.append(f"Python 3.9 or newer (this is {sys.version.split()[0]}); set PYTHON=python3.x")
if not sys.platform.startswith("linux"):
    missing.append("Linux: the segment is a memfd, the notifications are eventfds")
if not Path(sysconfig.get_path("include"), "Python.h").exists():
    missing.append("the headers of Python; on Debian and Ubuntu: apt-get install python3-dev")
if not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang")):
    missing.append("a C compiler; on Debian and Ubuntu: apt-get install gcc")
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    missing.append("venv; on Debian and Ubuntu: apt-get install python3-venv")
if missing:
    sys.exit("channels cannot be built here. Missing:\n" + "\n".join(f"  - {what}" for what in missing))
