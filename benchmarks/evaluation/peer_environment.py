"""An environment for libraries that pin old dependencies; torch and the rest are shared with ours."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

# torchattacks asks for requests ~= 2.25.1, which nothing else here wants: none of what they ask for is
# installed but what they import.
PACKAGES = ("torchattacks==3.5.1", "foolbox==3.3.4", "eagerpy==0.30.0", "GitPython==3.1.45", "gitdb", "smmap")


def python(folder: Path) -> Path:
    """The interpreter of the environment in ``folder``, made on first use.

    Raises CalledProcessError where the packages cannot be had.
    """
    interpreter = folder / "bin" / "python"
    ready = folder / ".ready"
    if ready.exists() and ready.read_text() == "\n".join(PACKAGES):
        return interpreter
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, *PACKAGES], check=True, stderr=subprocess.PIPE, text=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # The same torch on every side: what is compared is the attack code.
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    ready.write_text("\n".join(PACKAGES))
    return interpreter
