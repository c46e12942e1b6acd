"""How long the ensemble takes to learn: one training step, and a whole fit."""

from collections.abc import Callable
from functools import partial
from operator import itemgetter

import torch
from torch import nn

from experiments.benchmark_contest import BOUND, LOOP, OURS, Bench, check_equal_work, compare, count_updates
from experiments.benchmark_peers import MBRL
from experiments.benchmark_plain import plain_members
from experiments.benchmark_sizes import Dynamics
from experiments.measuring import Call, LargeProduct, Row, timings
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.training.member_adamw import MemberAdamW
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig
from layeredrl.types import Batch

MAX_GRAD_NORM = 10.0
# A training step goes forward once and backward twice: to the weights and to what lies before.
PASSES = 3
# Share by which the numbers of updates may differ: our bootstraps aren't all of the same length.
UPDATE_TOLERANCE = 0.04


def measure_train(bench: Bench) -> list[Row]:
    """A training step of all members, each on a batch of its own."""
    sizes, dynamics = bench.sizes, bench.sizes.dynamics
    batch = _transitions(dynamics, (dynamics.n_models, sizes.batch_size), bench.device)
    rivals = {LOOP: _loop_step(dynamics, batch)}
    if MBRL in bench.peers:
        from experiments.benchmark_mbrl import mbrl_train_step

        rivals[MBRL.name] = mbrl_train_step(dynamics, batch)
    name = f"training step, E={dynamics.n_models} B={sizes.batch_size}"
    return compare(
        bench,
        name,
        dynamics,
        _our_step(dynamics, batch),
        rivals,
        flops_per_step=PASSES * dynamics.step_flops,
        times=sizes.n_train_steps,
    )


def measure_fit(bench: Bench) -> list[Row]:
    """A fit for a fixed number of epochs. It takes long, so each side runs once, after one epoch to warm up."""
    sizes, dynamics = bench.sizes, bench.sizes.dynamics
    buffer = ReplayBuffer(
        dynamics.state_space, None, dynamics.action_space, sizes.n_transitions, device=bench.device
    )
    buffer.add(_transitions(dynamics, (sizes.n_transitions,), bench.device))
    fits: dict[str, Callable[[int], Call]] = {OURS: lambda n_epochs: _our_fit(bench, buffer, n_epochs)}
    if MBRL in bench.peers:
        from experiments.benchmark_mbrl import mbrl_fit

        fits[MBRL.name] = lambda n_epochs: mbrl_fit(
            dynamics, buffer, batch_size=sizes.batch_size, n_epochs=n_epochs
        )
    product = LargeProduct(bench.device)
    product_time = bench.timings({BOUND: product})[BOUND]
    for fit in fits.values():
        warm_up = fit(1)
        warm_up()
    n_updates: dict[str, int] = {}
    counted = {side: partial(_count_updates, n_updates, side, fit(sizes.n_epochs)) for side, fit in fits.items()}
    taken = timings(counted, rounds=1, warm_ups=0, device=bench.device)

    name = f"fit, E={dynamics.n_models}, {sizes.n_transitions:,} transitions, {sizes.n_epochs} epochs"
    ours, our_updates = taken.pop(OURS), n_updates.pop(OURS)
    tolerance = UPDATE_TOLERANCE * our_updates
    for rival, updates in n_updates.items():
        check_equal_work(name, rival, our_updates, updates, "updates", tolerance)
    flops = our_updates * dynamics.n_models * sizes.batch_size * PASSES * dynamics.step_flops
    rivals = {BOUND: product.time_for(flops, product_time), **taken}
    return [Row(name, ours, rival, time) for rival, time in rivals.items()]


def _count_updates(n_updates: dict[str, int], side: str, fit: Call) -> None:
    """Fit, and write down how many updates that took."""
    n_updates[side] = count_updates(fit)


def _our_step(dynamics: Dynamics, batch: Batch) -> Call:
    model = dynamics.model(batch.state.device)
    settings = {"learning_rate": 1e-3, "weight_decay": 1e-2, "max_norm": MAX_GRAD_NORM}  # torch's own
    optimizer = MemberAdamW(model.get_parameters(), **settings, compile=model.compiled)

    def step() -> None:
        optimizer.zero_grad()
        model.get_member_losses(batch).sum().backward()
        optimizer.step()

    return step


def _loop_step(dynamics: Dynamics, batch: Batch) -> Call:
    members = plain_members(dynamics, batch.state.device)
    optimizers = [torch.optim.AdamW(member.parameters()) for member in members]
    batches = [batch.map(itemgetter(e)) for e in range(dynamics.n_models)]

    def step() -> None:
        for member, optimizer, own in zip(members, optimizers, batches, strict=True):
            optimizer.zero_grad()
            member.loss(own).backward()
            nn.utils.clip_grad_norm_(member.parameters(), MAX_GRAD_NORM)
            optimizer.step()

    return step


def _our_fit(bench: Bench, buffer: ReplayBuffer, n_epochs: int) -> Call:
    config = TrainerConfig(batch_size=bench.sizes.batch_size, max_epochs=n_epochs, patience=n_epochs + 1)
    trainer = EnsembleTrainer(bench.sizes.dynamics.model(bench.device), config)
    return lambda: trainer.fit(buffer)


def _transitions(dynamics: Dynamics, shape: tuple[int, ...], device: torch.device) -> Batch:
    """Noise to learn from; it takes as long as anything else."""
    state = torch.randn(*shape, dynamics.n_states, device=device)
    return Batch(
        state=state,
        context=None,
        action=2 * torch.rand(*shape, dynamics.n_actions, device=device) - 1,
        next_state=state + torch.randn_like(state),
        terminated=torch.zeros(shape, dtype=torch.bool, device=device),
    )
