"""Writes tests/bitsandbytes.npz, by bitsandbytes 0.50.2 on a CPU with torch 2.13.0.

Run it where both are installed: python tests/bitsandbytes_file.py. "decoded1.0" and so on are what
`bitsandbytes.functional.dequantize_blockwise` makes of the state of parameter 0.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("bitsandbytes.npz")
SHAPES = ((3, 200), (5,))  # three blocks, the last of them not full, and one kept in float32
STEPS, LEAST_SIZE = 3, 256


def optimizer(torch, bnb):
    """Returns AdamW8bit of parameters of `SHAPES`, after `STEPS` steps."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    adam = bnb.optim.AdamW8bit(parameters, lr=1e-3, min_8bit_size=LEAST_SIZE)
    for _ in range(STEPS):
        for parameter in parameters:
            parameter.grad = 10.0 ** -torch.randint(0, 6, parameter.shape) * torch.randn_like(
                parameter
            )
        parameters[0].grad.view(-1)[:256] = 0  # a block of zeros
        adam.step()
    return adam


def main():
    import bitsandbytes as bnb
    import torch

    arrays = {}
    for i, state in optimizer(torch, bnb).state_dict()["state"].items():
        inner = state.pop("__bnb_optimizer_quant_state__")
        arrays.update((f"{name}.{i}", value.numpy()) for name, value in inner.items())
        arrays[f"step.{i}"] = np.array(state["step"])
        for k in "12" if "qmap1" in inner else "":
            decoded = bnb.functional.dequantize_blockwise(
                inner[f"state{k}"],
                absmax=inner[f"absmax{k}"],
                code=inner[f"qmap{k}"],
                blocksize=256,
            )
            arrays[f"decoded{k}.{i}"] = decoded.numpy()
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
