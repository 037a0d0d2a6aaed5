"""Configurations of the stages: what can be set, its default and its meaning, in one place.

Every configuration is a pydantic model that refuses unknown keys. It is built from `--config FILE` (JSON), then
repeatable `--set a.b=c`, then the options of the command line, and is kept, defaults resolved, in the run's manifest.
"""

from edgeproof.config.attack import AttackConfig, FalsifyConfig
from edgeproof.config.base import MAX_SEED, Number, Strict, check_eps, format_eps
from edgeproof.config.bench import BenchAttacksConfig, BenchConfig
from edgeproof.config.data import DataConfig
from edgeproof.config.evaluate import EvalConfig
from edgeproof.config.export import BuildConfig, ExportConfig, ParityLimits, QatConfig, QuantizeConfig
from edgeproof.config.poison import DetectConfig, PoisonConfig
from edgeproof.config.reading import build_config, parse_assignments, parse_number
from edgeproof.config.train import ImportConfig, TrainConfig

__all__ = [
    "MAX_SEED",
    "AttackConfig",
    "BenchAttacksConfig",
    "BenchConfig",
    "BuildConfig",
    "DataConfig",
    "DetectConfig",
    "EvalConfig",
    "ExportConfig",
    "FalsifyConfig",
    "ImportConfig",
    "Number",
    "ParityLimits",
    "PoisonConfig",
    "QatConfig",
    "QuantizeConfig",
    "Strict",
    "TrainConfig",
    "build_config",
    "check_eps",
    "format_eps",
    "parse_assignments",
    "parse_number",
]
