"""How long does a step of each network take, beside the loop that a user of its modules writes?

Times the programs of ``benchmarks/harness`` for the four architectures with their defaults on
MNIST's images, in turns, each in a process of its own:

    modules            the networks' own modules, backward(), torch.optim.Adam
    modules-compiled   the same, each module compiled by torch.compile (none with R1 or R2, which
                       differentiate twice)
    compiled-donated   the pure step as one graph, written into the old state's memory
    bfloat16           the same with matrix products and convolutions in bfloat16
    jax                the perceptron's step in JAX and Optax
    jax-guarded        the same with our step's norms and its refusal of what is not finite

The losses of all are compared on the same draws first, and the times with the limit of a step
(`harness.limit`). Run it with nothing else on the machine:

    python benchmarks/networks.py --json
"""

from __future__ import annotations

import step_time
import study
from fgan_benchmarks.harness import JAX, PLAIN, parse_names

from fgan.run import archs, config

PROGRAMS = "modules,modules-compiled,compiled-donated,bfloat16,jax,jax-guarded"


table = step_time.table


def main() -> None:
    parser = study.parser(__doc__)
    step_time.add_denormals(parser)
    parser.add_argument("--cases", default=",".join(archs.ALL), help="networks, with commas")
    parser.add_argument("--programs", default=PROGRAMS, help="with commas; first the baseline")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each program and repeat")
    parser.add_argument("--trained-steps", type=int, default=50)
    args = parser.parse_args()
    if args.tiny:
        args.cases, args.programs, args.repeats = "mlp", "modules,compiled-donated", 3
        args.seconds, args.trained_steps = 0.01, 5
    cases = {}
    for arch in args.cases.split(","):
        run = config.resolve(
            base=PLAIN, data="mnist", arch=arch, compile=True, device=args.device,
            threads=args.threads,
        )  # fmt: skip
        unable = {"modules-compiled"} if run.r1 or run.r2 else set()
        unable |= set(JAX) if arch != "mlp" else set()
        cases[arch] = run, [p for p in parse_names(args.programs) if p not in unable]
    found = step_time.measure(cases, args.repeats, args.seconds, args.trained_steps, args.denormals)
    study.finish(args, found, table)


if __name__ == "__main__":
    main()
