"""A virtual environment for torchattacks and foolbox, which pin old dependencies; torch is shared."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

# torchattacks requires requests ~= 2.25.1. The packages are installed without their declared dependencies,
# together with those that they import.
PACKAGES = ("torchattacks==3.5.1", "foolbox==3.3.4", "eagerpy==0.30.0", "GitPython==3.1.45", "gitdb", "smmap")


def python(folder: Path) -> Path:
    """The interpreter of the environment in ``folder``, which is created on first use.

    Raises CalledProcessError if the packages cannot be installed.
    """
    interpreter = folder / "bin" / "python"
    ready = folder / ".ready"
    if ready.exists() and ready.read_text() == "\n".join(PACKAGES):
        return interpreter
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, *PACKAGES], check=True, stderr=subprocess.PIPE, text=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # All sides use the same torch, so that only the attack code differs.
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    ready.write_text("\n".join(PACKAGES))
    return interpreter
