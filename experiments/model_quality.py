"""How far a learned model can be trusted: fit an ensemble to transitions, and judge it by episodes it hasn't seen.

The transitions are recorded ones, or collected by a policy. The report says, as tables, pictures and JSON, how
probable the model held what really happened, how well calibrated it is, how errors grow over a horizon, and whether
it is unsure where it is wrong and where it has never been.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import nn

from experiments.model_quality_data import find_transitions, load_files
from experiments.model_quality_judging import Exam, make_exam
from experiments.model_quality_report import write_report
from experiments.report import make_run_folder
from layeredrl.data.episodes import split_episodes
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.calibration import MIN_ROWS, CalibrationMethod
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.training.checkpoint import save_checkpoint
from layeredrl.training.trainer import EnsembleTrainer, TrainerConfig

# A rate that falls to nothing may be high at first; it has to last until then.
TRAINER: dict[str, Any] = {
    "learning_rate": 8e-3,
    "schedule": "cosine",
    "batch_size": 256,
    "max_epochs": 40,
    "patience": 40,
    "min_improvement": 0.0,
}
OURS, MBRL = "layeredrl", "mbrl-lib 0.2.0"
MBRL_MISSING = (
    "--compare: mbrl-lib, or what it imports, isn't installed ({}).\n"
    "Install both: .venv/bin/pip install -e '.[benchmark]' && .venv/bin/pip install --no-deps mbrl==0.2.0"
)


@dataclass(frozen=True)
class Args:
    """Fit an ensemble to transitions, and judge it by episodes that it hasn't seen."""

    env_id: str | None = None
    """Environment that the transitions are of. A Minari dataset can do without."""
    data: tuple[Path, ...] = ()
    """Transitions on file: `.npz` with state, action, next_state, terminated and, perhaps, truncated and reward, in
    the order of time. Default: they are collected."""
    minari: str | None = None
    """Id of a Minari dataset on this machine."""
    policy: str | None = None
    """What collects: `module:NAME` of an Agent, or of a function from states to actions. Default: chance."""
    transitions: int | None = None
    """How many to collect, or to draw from recorded ones. Default: 20,000, or all that are recorded."""
    test: tuple[Path, ...] = ()
    """Transitions to judge by, on file. Default: whole episodes out of the others."""
    test_share: float = 0.2
    """Of the transitions, to judge by."""
    shifted: tuple[Path, ...] = ()
    """Transitions of another policy, on file: can the model tell that it hasn't seen such?"""
    horizon: int = 30
    """Steps to look ahead."""

    n_models: int = 5
    """Members of the ensemble."""
    n_modes: int = 1
    """Gaussians in each member's mixture."""
    hidden_sizes: tuple[int, ...] = (200, 200, 200, 200)
    """Widths of each member's hidden layers (SiLU)."""
    beta_nll: float | None = None
    """β of the training loss, see ProbabilisticEnsemble. Default: 0.5, but 0 with several modes."""
    n_particles: int = 16
    """Particles per member in a forecast over the horizon."""
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(**TRAINER))
    recalibrate: tuple[CalibrationMethod, ...] = ("pooled",)
    """Ways to correct the noise by held-out transitions. Each is reported; the last one stays."""
    compare: Literal["mbrl"] | None = None
    """Another library to let learn from the same transitions, for as long."""

    seed: int = 0
    """Of collecting, splitting, networks and forecasts."""
    name: str | None = None
    """Run folder below runs/model_quality/. Default: date, time and seed."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to learn and forecast."""
    runs: Path = Path("runs")
    """Where run folders go."""


def main(args: Args) -> None:
    check_numbers(args)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    # Transitions
    spaces, train = find_transitions(
        args.env_id, args.data, args.minari, args.policy, n=args.transitions, generator=generator
    )
    if args.test:
        test = load_files(args.test, spaces)
    elif len(train) < 2:
        raise SystemExit(f"--data: got {len(train)} transition, expected at least 2, to learn from and to judge by")
    else:
        train, test = split_episodes(train, args.test_share, generator=generator)
    shifted = load_files(args.shifted, spaces) if args.shifted else None
    exam = make_exam(train, test, shifted, args.horizon)
    buffer = ReplayBuffer(spaces.state, None, spaces.action, capacity=len(train))
    buffer.add(train)
    check_holdout(args, buffer)

    # Model
    model = ProbabilisticEnsemble(
        spaces.state,
        None,
        spaces.action,
        partial(ProbFCDynamics, hidden_sizes=args.hidden_sizes, nonlinearity=nn.SiLU),
        n_models=args.n_models,
        n_modes=args.n_modes,
        device=args.device,
        hidden_states=spaces.hidden,
        beta_nll=find_beta(args),
    )
    start = time.process_time()
    EnsembleTrainer(model, args.trainer, progress=True).fit(buffer)
    seconds = time.process_time() - start

    # Judgement
    judge = partial(exam.judge, n_particles=args.n_particles, generator=generator)
    judgements = {OURS: judge(model.to("cpu"), seconds)}
    for method in args.recalibrate:
        model.recalibrate(buffer[buffer.is_holdout.nonzero().squeeze(-1)], method)
        judgements[f"{OURS}, {method}"] = judge(model, seconds)
    if args.compare == "mbrl":
        other, other_seconds = fit_other(args, buffer, spaces.hidden, seconds)
        judgements[MBRL] = judge(other, other_seconds)

    # Report
    folder = make_run_folder(args.runs / "model_quality", args.name, args.seed)
    save_checkpoint(folder / "checkpoint.pt", model, buffer)
    write_report(folder, args, exam, judgements, model, find_remarks(args, buffer, exam), generator)


def check_numbers(args: Args) -> None:
    """Refuse at once what would be refused after minutes of learning."""
    for flag, value, least in (
        ("--transitions", args.transitions, 2),
        ("--horizon", args.horizon, 1),
        ("--n-models", args.n_models, 1),
        ("--n-modes", args.n_modes, 1),
        ("--n-particles", args.n_particles, 2),
    ):
        if value is not None and value < least:
            raise SystemExit(f"{flag}: got {value}, expected at least {least}")
    if not 0 < args.test_share < 1:
        raise SystemExit(f"--test-share: got {args.test_share}, expected a number between 0 and 1")
    if args.n_modes > 1 and find_beta(args) > 0:
        raise SystemExit(f"--beta-nll: got {args.beta_nll} with --n-modes {args.n_modes}, expected 0")
    if args.compare == "mbrl" and len(set(args.hidden_sizes)) != 1:
        raise SystemExit(f"--hidden-sizes: got {args.hidden_sizes}, expected equal ones, as mbrl-lib's layers are")


def check_holdout(args: Args, buffer: ReplayBuffer) -> None:
    """Refuse too few transitions to stop training by, or to correct the noise by."""
    needed = max([1, *(MIN_ROWS[method] for method in args.recalibrate)])
    n_holdout = int(buffer.is_holdout.sum())
    if n_holdout < needed:
        raise SystemExit(
            f"--data: got {len(buffer)} transitions to learn from, {n_holdout} of which are held out, expected at "
            f"least {needed} of those, for --recalibrate {' '.join(args.recalibrate)}; so about "
            f"{round(needed / buffer.holdout_ratio)} transitions"
        )


def find_beta(args: Args) -> float:
    """The β asked for, or the usual one where the loss can have any."""
    if args.beta_nll is not None:
        return args.beta_nll
    return 0.5 if args.n_modes == 1 else 0.0


def fit_other(
    args: Args, buffer: ReplayBuffer, hidden_states: tuple[int, ...], seconds: float
) -> tuple[ProbabilisticEnsemble, float]:
    """The other library's model of as many members and as wide, and the seconds that it took to learn."""
    try:
        from experiments.model_quality_mbrl import fit_mbrl
    except ModuleNotFoundError as error:
        raise SystemExit(MBRL_MISSING.format(error.name)) from None
    fit = fit_mbrl(
        buffer,
        n_models=args.n_models,
        hidden_sizes=args.hidden_sizes,
        hidden_states=hidden_states,
        seconds=seconds,
        seed=args.seed,
    )
    return fit.model, fit.seconds


def find_remarks(args: Args, buffer: ReplayBuffer, exam: Exam) -> list[str]:
    """What a reader must know before reading figures."""
    n_windows, n_steps = exam.segments.action.shape[:2]
    remarks = [
        f"Learned from {len(buffer):,} transitions, {int(buffer.is_holdout.sum()):,} of them held out. "
        f"Judged by {len(exam.test):,} of other episodes, and by {n_windows:,} windows of {n_steps} steps."
    ]
    if n_steps < args.horizon:
        remarks.append(f"Horizon: {n_steps} steps instead of {args.horizon}, as no test episode is longer.")
    constant = (~exam.varies).nonzero().flatten().tolist()
    if constant:
        remarks.append(f"Constant: coordinates {constant} don't change somewhere, so means leave them out.")
    if args.n_models == 1:
        remarks.append("A single member: nobody disagrees with it, so it has no epistemic variance.")
    return remarks


if __name__ == "__main__":
    main(tyro.cli(Args))
