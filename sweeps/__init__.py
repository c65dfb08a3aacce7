"""What to explore: tasks, the sweep specification and ready studies."""

from recallfront.sweeps.load import SpecError as SpecError
from recallfront.sweeps.load import load_spec as load_spec
from recallfront.sweeps.spec import SweepSpec as SweepSpec
from recallfront.sweeps.trial import TrialConfig as TrialConfig
