"""Compile medhpc/kernel while medhpc is installed or a wheel is built; go on without it where there is no compiler.

The libraries have a C interface and are loaded by ctypes: they belong to no version of Python, and need neither its
headers nor torch's. One command per instruction set is all there is to do, so it is done here, without CMake.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=fast", "-pthread")
X86 = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mtune=icelake-server"),  # 3 % faster
}


class NativeBuildHook(BuildHookInterface):
    """Adds ``medhpc/kernel/msd_*.so``, or ``not_built.txt`` with the reason."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile what is older than its sources, and name the wheel by what is in it."""
        folder = Path(self.root, "medhpc", "kernel")
        note = folder / "not_built.txt"
        note.unlink(missing_ok=True)
        reason = build(folder)
        if list(folder.glob("msd_*.so")):
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        if reason and os.environ.get("CI") == "true":
            raise RuntimeError(f"the kernel was not built: {reason}")
        if reason:
            note.write_text(reason + "\n")
            self.app.display_warning(f"medhpc goes without its kernel (the engine 'torch' is slower): {reason}")


def build(folder: Path) -> str:
    """Compile one library per instruction set; return why that failed, or ""."""
    variants = X86 if platform.machine() == "x86_64" else {"baseline": ()}
    libraries = {folder / f"msd_{variant}.so": flags for variant, flags in variants.items()}
    changed = max(path.stat().st_mtime for path in (*(folder / "src").iterdir(), Path(__file__)))
    stale = [path for path in libraries if not path.exists() or path.stat().st_mtime < changed]
    compiler = find_compiler()
    running = []
    for library in stale:
        library.unlink(missing_ok=True)
        if compiler:
            aside = library.with_suffix(f".{os.getpid()}.tmp")
            command = [compiler, *FLAGS, *libraries[library], str(folder / "src" / "library.cpp"), "-o", str(aside)]
            running.append((library, aside, subprocess.Popen(command, stderr=subprocess.PIPE, text=True)))
    if stale and not compiler:
        return "no C++ compiler was found when medhpc was installed (c++, g++ or $CXX)"
    return "; ".join(filter(None, [_finish(*one) for one in running]))


def find_compiler() -> str | None:
    """Path of ``$CXX``, or of what the system has."""
    chosen = os.environ.get("CXX")
    return shutil.which(chosen) if chosen else shutil.which("c++") or shutil.which("g++")


def _finish(library: Path, aside: Path, compiling: subprocess.Popen[str]) -> str:
    """Wait for a compiler; put its library into place, or return its first complaint."""
    _, complaints = compiling.communicate()
    if compiling.returncode == 0:
        aside.replace(library)
        return ""
    aside.unlink(missing_ok=True)
    said = [line for line in complaints.splitlines() if "error" in line] or complaints.splitlines() or ["no message"]
    return f"the C++ compiler failed on {library.name}: {said[0]}"
