"""Models that map observations to actions, and the mixins that they are written with."""

from layeredrl.policies.categorical import CategoricalMixin as CategoricalMixin
from layeredrl.policies.deterministic import DeterministicMixin as DeterministicMixin
from layeredrl.policies.gaussian import GaussianMixin as GaussianMixin
from layeredrl.policies.model import Model as Model
from layeredrl.policies.multi_categorical import MultiCategoricalMixin as MultiCategoricalMixin
from layeredrl.policies.multivariate_gaussian import MultivariateGaussianMixin as MultivariateGaussianMixin
from layeredrl.policies.networks import CategoricalPolicy as CategoricalPolicy
from layeredrl.policies.networks import DeterministicPolicy as DeterministicPolicy
from layeredrl.policies.networks import GaussianPolicy as GaussianPolicy
from layeredrl.policies.networks import MultiCategoricalPolicy as MultiCategoricalPolicy
from layeredrl.policies.networks import SquashedGaussianPolicy as SquashedGaussianPolicy
from layeredrl.policies.networks import Value as Value
from layeredrl.policies.networks import policy_for as policy_for
from layeredrl.policies.recurrent import GRU as GRU
from layeredrl.policies.recurrent import LSTM as LSTM
from layeredrl.policies.recurrent import RNN as RNN
from layeredrl.policies.squashed_gaussian import SquashedGaussianMixin as SquashedGaussianMixin
from layeredrl.policies.tabular import TabularMixin as TabularMixin
from layeredrl.policies.trunks import CNN as CNN
from layeredrl.policies.trunks import MLP as MLP
