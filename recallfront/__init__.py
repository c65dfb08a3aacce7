"""Finds the recall-throughput trade-off of efficient language-model architectures.

- recallfront.platform: run_sweep, rerun, evaluate, front, pick, compare, claims, sweep; the classes that they take and
  return: SweepSpec, TrialConfig, SweepResult, Front, Picked, Rerun, Evaluation, Sweep, SweepComparison, Judgement; and
  UsageError
- recallfront.sweeps: load_spec, SweepSpec, TrialConfig, SpecError: what a sweep explores, and its tasks
- recallfront.models: build, parse_config, load, save, load_recurrentgemma, LanguageModel, Architecture, ModelConfig:
  the language models on their own
- recallfront.kernels: the operators, one package each, such as recallfront.kernels.linear_scan.operator

docs/api.md describes every public name; the command `recallfront --help` lists what the command line does.
"""

__version__ = "0.1.0"
