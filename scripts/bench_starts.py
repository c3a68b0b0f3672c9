"""What a hand-made network's shape, and the learning rate, are worth: trains each from scratch on one core, times and tests it.

Usage: python scripts/bench_starts.py [--data fashion|cifar10|digits] [--data_root ROOT] [--seeds 0] [--epochs 8]
                                      [--learning_rates 0.1 0.2] [--shapes 12,12/24,24/48,48 16/32/64,64]

A shape has the filters of its blocks (convolution 3x3, batch norm, ReLU), with max pooling where a slash stands; behind them are a global
average and a linear layer. Data and training are those of bench_search.py, and so are seconds: of the CPU, one thread.
"""

import argparse
import logging
import os
import time
import warnings

import torch
from bench_search import SHAPES, Subset, evaluator_of
from hand_space import DOWN, stacked

from lightning_lemonade.datamodules import DigitsDataModule
from lightning_lemonade.evaluation import EvaluationRequest, TestRequest
from lightning_lemonade.module import Training
from lightning_lemonade.search import Child


def main() -> None:
    """Trains every shape with every learning rate and seed, and prints a line of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SHAPES), default="fashion")
    parser.add_argument("--data_root", default=os.environ.get("LEMONADE_DATA_ROOT", "data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=Training().initial_epochs)
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[Training().learning_rate])
    parser.add_argument("--shapes", nargs="+", default=["12,12/24,24/48,48", "16/32/64,64"])
    settings = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    data = DigitsDataModule() if settings.data == "digits" else Subset(settings.data, settings.data_root, 10_000)
    data.prepare_data()
    data.setup("fit")
    for shape in settings.shapes:
        try:
            stages = [[("conv", int(width)) for width in stage.split(",")] for stage in shape.split("/")]
            spec = stacked(stages, [], SHAPES[settings.data], 10, DOWN[0])
        except ValueError as error:
            parser.error(f"--shapes {shape}: no network for samples of {SHAPES[settings.data]}: {error}")
        for rate in settings.learning_rates:
            for seed in settings.seeds:
                evaluator = evaluator_of(data, seed, Training(initial_epochs=settings.epochs, learning_rate=rate))
                began = time.process_time()
                done = evaluator.evaluate(EvaluationRequest(Child(spec, 0, None, (), {}, id=0), None, {}))
                seconds = time.process_time() - began
                if done.outcome.failure:
                    raise SystemExit(f"{shape}: {done.outcome.failure.text}")
                error, test = done.outcome.values["error"].value, evaluator.test(TestRequest(spec, done.weights))[""]
                print(
                    f"{settings.data} {shape}, {spec.parameter_count} parameters, {spec.macs / 1e6:.2f} M multiply-adds, {settings.epochs} "
                    f"epochs at {rate:g}, seed {seed}: {seconds:.0f} s, error {error:.4f} (test {test:.4f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
