"""The probe process: `python -m lemonade_serve.devices.probe` prints a Providers as JSON."""

from __future__ import annotations

import os

import msgspec

from lemonade_serve.devices.providers import ProviderDevice, Providers


def main() -> None:
    # native code may print what it likes: only the answer goes to standard output
    answer = os.dup(1)
    os.dup2(2, 1)
    os.write(answer, msgspec.json.encode(_look()))


def _look() -> Providers:
    import onnxruntime
    import onnxruntime_genai

    return Providers(
        onnxruntime=onnxruntime.__version__,
        onnxruntime_genai=onnxruntime_genai.__version__,
        available=tuple(onnxruntime.get_available_providers()),
        devices=tuple(
            ProviderDevice(
                provider=found.ep_name,
                kind=found.device.type.name.lower(),
                vendor=found.device.vendor,
                metadata={str(k): str(v) for k, v in found.device.metadata.items()},
            )
            for found in onnxruntime.get_ep_devices()
        ),
    )


if __name__ == "__main__":
    main()
