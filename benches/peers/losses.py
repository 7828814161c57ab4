#!/usr/bin/env python3
"""Times a loss in turn: forward and backward in PyTorch on the CPU, and fused in surprisal.

One process per shape, `surprisal bench … --serve`, keeps running and answers each line on its stdin with one timed run.
So both sides (and a WGSL copy of the same bytes) alternate in one run on one machine. PyTorch creates a new gradient in
every step, as a training loop does after `zero_grad(set_to_none=True)`; surprisal writes into the caller's gradient. Both
times are wall-clock times, from the call until the gradient is ready. Nothing is transferred to or from an adapter.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time

# The shapes of a loss: rows as in a language model, or 2^24 elements.
SHAPES = {
    "cross_entropy": ["256x32768", "128x131072", "64x256000"],
    "bce_with_logits": ["4096x4096"],
    "mse": ["4096x4096"],
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surprisal", required=True, metavar="BINARY", help="the release binary")
    parser.add_argument("--loss", choices=SHAPES, default="cross_entropy", help="default: %(default)s")
    parser.add_argument("--shape", action="append", metavar="ROWSxCLASSES", help="default: those of the loss")
    parser.add_argument("--adapter", help="a part of the adapter's name, as in every command of surprisal")
    parser.add_argument("--runs", type=int, default=30, help="counted rounds a shape (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=5, help="rounds that are not counted (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=10, help="milliseconds between two runs, in which the "
                        "threads of the one before go to sleep (default: %(default)s)")
    parser.add_argument("--json", metavar="OUT", help="write every single time to this file")
    return parser.parse_args()


class Served:
    """`surprisal bench LOSS … --serve`: one timed run per line."""

    def __init__(self, options, rows, classes):
        self.command = [options.surprisal, "bench", options.loss, "--rows", str(rows), "--classes", str(classes),
                        "--mode", "fused", "--serve"]
        if options.adapter:
            self.command += ["--adapter", options.adapter]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self.command)} ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            sys.exit(answer["error"])
        return answer

    def wall_ms(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.answer()["wall_ms"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def pytorch(torch, name, rows, classes):
    """One step of PyTorch, as a function that returns its time in milliseconds."""
    torch.manual_seed(0)
    logits = torch.randn(rows, classes, requires_grad=True)
    functional = torch.nn.functional
    loss, targets = {
        "cross_entropy": lambda: (functional.cross_entropy, torch.randint(0, classes, (rows,))),
        "bce_with_logits": lambda: (functional.binary_cross_entropy_with_logits, torch.rand(rows, classes)),
        "mse": lambda: (functional.mse_loss, torch.randn(rows, classes)),
    }[name]()

    def step():
        logits.grad = None
        start = time.perf_counter()
        loss(logits, targets).backward()
        return (time.perf_counter() - start) * 1e3

    return step


def measure(torch, options, shape):
    rows, classes = (int(extent) for extent in shape.split("x"))
    served = Served(options, rows, classes)
    step = pytorch(torch, options.loss, rows, classes)
    sides = [("pytorch", step), ("loss", lambda: served.wall_ms("loss")), ("copy", lambda: served.wall_ms("copy"))]
    times = {name: [] for name, _ in sides}
    for number in range(options.warm_up + options.runs):
        # Rotate the order from round to round, so that no side always runs after the same one.
        turn = number % len(sides)
        for name, run in sides[turn:] + sides[:turn]:
            time.sleep(options.pause / 1e3)
            milliseconds = run()
            if number >= options.warm_up:
                times[name].append(milliseconds)
    served.close()
    return served, times


def spread(values):
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
    return f"{statistics.median(values):.1f} ({tenths[0]:.1f} to {tenths[8]:.1f})"


def ratios(times, name, other):
    return [a / b for a, b in zip(times[name], times[other])]


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} CPUs seen"


def main():
    options = arguments()
    try:
        import torch
    except ImportError as error:
        sys.exit(f"{error}: run benches/peers/run, which installs it")
    torch.set_num_threads(options.threads)
    results = [(shape, *measure(torch, options, shape)) for shape in options.shape or SHAPES[options.loss]]

    # benches/peers/run passes the binary as the first argument.
    command = shlex.join(["benches/peers/run", *sys.argv[3:]])
    about = results[0][1].about
    print(f"`{command}`\n")
    print(f"- {options.loss}, f32, mean, forward and backward; {options.runs} rounds in turn")
    print(f"- surprisal {about['surprisal']} on {about['adapter']}, {about['driver']}")
    print(f"- PyTorch {torch.__version__}, CPU, {torch.get_num_threads()} threads, "
          f"{torch.backends.cpu.get_cpu_capability()}")
    print(f"- {processor()}, {platform.platform()}")
    print("- wall clock, medians (10th to 90th percentile); ratios are medians of the ratios round by round\n")
    print("| rows × classes | PyTorch, ms | surprisal, ms | WGSL copy, ms | of PyTorch's time | times the copy |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for shape, _, times in results:
        columns = [shape.replace("x", " × "), *(spread(times[name]) for name in ("pytorch", "loss", "copy")),
                   f"{statistics.median(ratios(times, 'loss', 'pytorch')):.2f}",
                   f"{statistics.median(ratios(times, 'loss', 'copy')):.2f}"]
        print(f"| {' | '.join(columns)} |")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump([{"shape": shape, "about": served.about, "ms": times} for shape, served, times in results],
                      out, indent=1)


if __name__ == "__main__":
    main()
