#!/usr/bin/env python3
"""Writes reference cases for `surprisal check --vectors` from a PyTorch expression.

The expression can use every input by its name, torch, F, options, gumbel(shape, options), which is the noise
of `gumbel_softmax`, and draws(options), the random words of `draw_samples`. It is evaluated in float64, and its gradients
come from autograd. Its value is the loss, or all outputs by their names (as in {"loss": ..., "parts": ...}); without a
`loss` among them there are no gradients. Cases are added to a file that exists. Needs torch, safetensors and numpy.

    python scripts/cases.py mine.safetensors --loss cross_entropy \
        --input logits=5x7 --input targets=5:7 --options '{"label_smoothing": 0.1}' \
        --expression 'F.cross_entropy(logits, targets, label_smoothing=options["label_smoothing"])'

An input is NAME=SHAPE (Gaussian, as in 5x7), NAME=SHAPE:CLASSES (random class indices), NAME=file.npy, or
NAME=[JSON] (as in weight=[1,2,0.5]). Floats are rounded to float32 first. A loss that is not one number gets a
random upstream gradient, which is stored with the case (or give one as the input `upstream`). Torch has no gradient of
some inputs: name the others in --gradients.
"""

import argparse
import json
import pathlib

import numpy
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file


def read_input(text):
    """Turns NAME=SPECIFICATION into a name and a tensor: float64 holding float32 values, or int64."""
    name, _, what = text.partition("=")
    if what.endswith(".npy"):
        tensor = torch.from_numpy(numpy.load(what))
    elif what.startswith("["):
        tensor = torch.tensor(json.loads(what, parse_int=float if name not in ("targets", "labels") else int))
    else:
        shape, _, classes = what.partition(":")
        shape = [int(extent) for extent in shape.split("x")]
        tensor = torch.randint(int(classes), shape) if classes else torch.randn(shape)
    return name, tensor.float().double() if tensor.is_floating_point() else tensor.long()


def philox(counter, key):
    """The four words of Philox 4x32-10 (Salmon et al. 2011)."""
    (a, b, c, d), (k, l) = counter, key
    word = 0xFFFFFFFF
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second >> 32 ^ b ^ k, second & word, first >> 32 ^ d ^ l, first & word
        k, l = k + 0x9E3779B9 & word, l + 0xBB67AE85 & word
    return a, b, c, d


def gumbel(shape, options):
    """Gumbel noise from a word of Philox for each element: the key is the seed, the counter (quad, row, offset)."""
    seed, offset = (divmod(options.get(name, 0), 1 << 32)[::-1] for name in ("seed", "offset"))
    word = lambda row, column: philox((column // 4, row, *offset), seed)[column % 4]
    words = [[word(row, column) for column in range(shape[1])] for row in range(shape[0])]
    uniform = ((torch.tensor(words) >> 9).double() + 0.5) / 2**23
    return -torch.log(-torch.log(uniform))


def draws(options):
    """The two random words of each sample of `draw_samples`."""
    seed, offset = (divmod(options.get(name, 0), 1 << 32)[::-1] for name in ("seed", "offset"))
    words = (philox((number // 2, 0xFFFFFFFF, *offset), seed) for number in range(options["count"]))
    return torch.tensor([four[2 * (number % 2) :][:2] for number, four in enumerate(words)])


def compute(arguments):
    """The inputs and the expected outputs, by name."""
    inputs = dict(read_input(text) for text in arguments.input)
    upstream = inputs.pop("upstream", None)
    for name, tensor in inputs.items():
        wanted = arguments.gradients is None or name in arguments.gradients
        tensor.requires_grad_(wanted and tensor.is_floating_point())
    given = {} if upstream is None else {"upstream": upstream}
    names = inputs | given | {"torch": torch, "F": F, "options": arguments.options}
    names |= {"gumbel": gumbel, "draws": draws}
    value = eval(arguments.expression, names)  # the caller's own expression
    outputs = value if isinstance(value, dict) else {"loss": value}
    loss = outputs.get("loss")
    if upstream is None and loss is not None and loss.numel() != 1:
        upstream = torch.randn(loss.shape).float().double()
    if loss is not None:
        loss.backward(torch.ones_like(loss) if upstream is None else upstream.reshape(loss.shape))
    expect = {name: output.detach().reshape(output.shape or [1]) for name, output in outputs.items()}
    expect |= {f"grad.{name}": tensor.grad for name, tensor in inputs.items() if tensor.grad is not None}
    stored = inputs if upstream is None else inputs | {"upstream": upstream}
    return {name: tensor.detach() for name, tensor in stored.items()}, expect


def read_file(path):
    """The tensors and the cases of a file; both are empty if the file does not exist."""
    if not path.exists():
        return {}, []
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["cases"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--loss", required=True, help="its name in the catalogue")
    parser.add_argument("--expression", required=True, help="Python; its value is the loss, or a dictionary of outputs")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=WHAT")
    parser.add_argument("--options", type=json.loads, default={}, help="the loss's options, JSON")
    parser.add_argument("--gradients", nargs="*", metavar="NAME", help="default: those of all float inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    tensors, cases = read_file(arguments.file)
    prefix = f"{len(cases):04}"
    inputs, expect = compute(arguments)
    keys = {name: f"{prefix}/{name}" for name in inputs}
    tensors |= {keys[name]: t.float() if t.is_floating_point() else t for name, t in inputs.items()}
    tensors |= {f"{prefix}/expect.{name}": tensor for name, tensor in expect.items()}
    case = {"id": f"{arguments.loss}/{prefix}", "loss": arguments.loss, "options": arguments.options}
    case |= {"upstream": keys.pop("upstream")} if "upstream" in keys else {}
    case |= {"inputs": keys, "expect": {name: f"{prefix}/expect.{name}" for name in expect}}
    case |= {"source": f"{arguments.expression}, torch {torch.__version__}, float64"}
    case |= {"note": arguments.note} if arguments.note else {}
    metadata = {"format": "1", "cases": json.dumps([*cases, case])}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, arguments.file, metadata)


if __name__ == "__main__":
    main()
