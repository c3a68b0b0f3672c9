"""Algorithm 1, pure: dominance, density, population, ask and tell."""

from lightning_lemonade.search.candidate import Child, Failure, Measurement, Member, Outcome, Proposal, TaskResult
from lightning_lemonade.search.density import CheapDensity
from lightning_lemonade.search.dominance import hypervolume, non_dominated, normalised
from lightning_lemonade.search.gain import GainSampling
from lightning_lemonade.search.knowledge import Knowledge
from lightning_lemonade.search.limits import Limits
from lightning_lemonade.search.randomness import derived_rng, derived_seed
from lightning_lemonade.search.sampling import DensitySampling, Sampling, UniformSampling
from lightning_lemonade.search.search import Asked, Room, Search
from lightning_lemonade.search.survival import ContributionSurvival, NonDominatedSurvival, Survival

SAMPLING: dict[str, type[Sampling]] = {"density": DensitySampling, "gain": GainSampling, "uniform": UniformSampling}
"""The strategies of choice by name."""

__all__ = [
    "SAMPLING",
    "Asked",
    "CheapDensity",
    "Child",
    "ContributionSurvival",
    "DensitySampling",
    "Failure",
    "GainSampling",
    "Knowledge",
    "Limits",
    "Measurement",
    "Member",
    "NonDominatedSurvival",
    "Outcome",
    "Proposal",
    "Room",
    "Sampling",
    "Search",
    "Survival",
    "TaskResult",
    "UniformSampling",
    "derived_rng",
    "derived_seed",
    "hypervolume",
    "non_dominated",
    "normalised",
]
