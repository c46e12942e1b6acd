"""Models that map observations to actions, and the mixins that they are written with."""

from layeredrl.policies.categorical import CategoricalMixin as CategoricalMixin
from layeredrl.policies.deterministic import DeterministicMixin as DeterministicMixin
from layeredrl.policies.gaussian import GaussianMixin as GaussianMixin
from layeredrl.policies.model import Model as Model
from layeredrl.policies.multi_categorical import MultiCategoricalMixin as MultiCategoricalMixin
from layeredrl.policies.multivariate_gaussian import MultivariateGaussianMixin as MultivariateGaussianMixin
from layeredrl.policies.squashed_gaussian import SquashedGaussianMixin as SquashedGaussianMixin
from layeredrl.policies.tabular import TabularMixin as TabularMixin
