"""Training steps in process: accumulation, and losses that are not finite."""

import copy

import pytest
import torch
from speechbrain import Stage
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from torch.utils._python_dispatch import TorchDispatchMode

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.augment import Mixup, blend
from ascmamba_modules.brain import SceneBrain

BATCHES = 12
NAN = float("nan")


class Features(torch.nn.Module):
    """Stands in for LogMel: ten samples are one frame."""

    def forward(self, wavs, lengths=None):
        return wavs.unflatten(1, (-1, 10))

    def frame_lengths(self, wavs, lengths):
        return lengths


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(10)
        self.classifier = torch.nn.Linear(10, 2)

    def forward(self, features, context=None, lengths=None):
        return self.classifier(self.norm(features.mean(1)))

    @staticmethod
    def log_posteriors(logits):
        return logits.log_softmax(dim=-1)


class Context(torch.nn.Module):
    def forward(self, location_tokens, time_tokens):
        return location_tokens


class Log:
    """A train logger that keeps what it is given."""

    def __init__(self):
        self.stats = []

    def log_stats(self, meta, **stats):
        self.stats.append(stats)


def make_brain(folder, **run_opts):
    torch.manual_seed(0)
    modules = {
        "features": Features(),
        "normalize": InputNormalization(update_until_epoch=9),
        "model": Model(),
    }
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(["Bus", "Bar"])
    hparams = {
        "augmentation": lambda features, lengths: (features, lengths),
        "mixup": Mixup(alpha=0),
        "label_smoothing": 0.0,
        "label_encoder": encoder,
        "epoch_counter": EpochCounter(limit=1),
        "lr_annealing": lambda epoch: (0.1, 0.1),
        "train_loggers": [Log()],
        "output_folder": str(folder),
        "model": modules["model"],
    }
    return SceneBrain(
        modules,
        lambda parameters: torch.optim.Adam(parameters, lr=0.1),
        hparams,
        {"device": "cpu", "noprogressbar": True, **run_opts},
        Checkpointer(folder, {"model": modules["model"]}),
    )


def test_balanced_sampling_draws_rare_classes_as_often(tmp_path):
    clips = {
        str(number): {"label": int(number >= 180)} for number in range(200)
    }
    dataset = DynamicItemDataset(clips, output_keys=["id", "label"])
    brain = make_brain(tmp_path)
    brain.hparams.balanced_sampling, brain.hparams.seed = True, 7
    drawn = []
    for epoch in (1, 2):
        loader = brain.make_dataloader(
            dataset, Stage.TRAIN, batch_size=10, shuffle=True
        )
        brain.train_sampler.set_epoch(epoch)
        drawn.append([x for batch in loader for x in batch["id"]])
    rare = [sum(int(x) >= 180 for x in ids) for ids in drawn]
    assert all(70 < count < 130 for count in rare), rare
    assert drawn[0] != drawn[1]
    # Clips to score come once each, in order.
    loader = brain.make_dataloader(dataset, Stage.VALID, batch_size=10)
    assert [x for batch in loader for x in batch["id"]] == list(clips)


def make_batches(spoilt=(), value=NAN):
    """Twelve batches of four clips; some hold a value that is not finite."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for number in range(BATCHES):
        wavs = torch.randn(4, 50, generator=generator)
        if number in spoilt:
            wavs[1, 7] = value
        rows = [
            {"id": f"{number}-{row}", "sig": wav, "label": row % 2}
            for row, wav in enumerate(wavs)
        ]
        batches.append(PaddedBatch(rows))
    return batches


def fit(brain, batches):
    brain.fit(
        brain.hparams.epoch_counter,
        torch.utils.data.DataLoader(batches, batch_size=None),
    )


def state(brain):
    """All that training moves."""
    normalize = brain.modules.normalize
    optimizer = brain.optimizer.state_dict()["state"]
    return copy.deepcopy(
        [
            *brain.modules.state_dict().values(),
            *(normalize.count, normalize.glob_mean, normalize.glob_std),
            *(value for part in optimizer.values() for value in part.values()),
        ]
    )


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(first, second)
    )


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("spoilt", [(0,), (5, 6), (0, 3, 11)])
def test_skipped_batches_leave_no_trace(tmp_path, spoilt, value):
    """As if they had not been there, and counted."""
    brain = make_brain(tmp_path / "spoilt")
    fit(brain, make_batches(spoilt, value))
    clean = make_brain(tmp_path / "clean")
    batches = [b for n, b in enumerate(make_batches()) if n not in spoilt]
    fit(clean, batches)
    assert same(state(brain), state(clean))
    (log,) = brain.hparams.train_loggers
    assert log.stats[0]["train_stats"]["skipped batches"] == len(spoilt)
    (log,) = clean.hparams.train_loggers
    assert "skipped batches" not in log.stats[0]["train_stats"]


def test_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    """The loss is finite, and so are all gradients but one."""
    brain = make_brain(tmp_path)
    brain.on_fit_start()
    brain.modules.train()
    first, second, third = make_batches()[:3]
    brain.hparams.epoch_counter.current = 1
    for batch in (first, second):
        brain.step += 1
        brain.fit_batch(batch)
    weights = brain.modules.model.classifier.weight
    before = [p.detach().clone() for p in brain.modules.parameters()]
    hook = weights.register_hook(lambda gradient: gradient * float("inf"))
    brain.fit_batch(third)
    assert brain.nonfinite_count == 1
    assert same(before, list(brain.modules.parameters()))
    hook.remove()
    brain.fit_batch(third)
    assert brain.nonfinite_count == 1
    assert not same(before, list(brain.modules.parameters()))


def test_loss_alone_that_is_not_finite(tmp_path):
    """Adding NaN leaves the gradients as they are; the step is dropped."""
    brain = make_brain(tmp_path)
    objectives = brain.compute_objectives
    brain.compute_objectives = lambda *args: objectives(*args) + NAN
    before = copy.deepcopy(brain.modules.state_dict())
    with pytest.raises(FloatingPointError):
        fit(brain, make_batches())
    assert same(before.values(), brain.modules.state_dict().values())


@pytest.mark.parametrize("patience", [0, 3, 5])
def test_training_stops_after_nonfinite_patience(tmp_path, patience):
    brain = make_brain(tmp_path, nonfinite_patience=patience)
    spoilt = range(1, patience + 2)
    message = (
        f"not finite in {patience + 1} batches .* --nonfinite_patience is "
        f"{patience}.* clips: {spoilt[-1]}-0, {spoilt[-1]}-1"
    )
    with pytest.raises(FloatingPointError, match=message):
        fit(brain, make_batches(spoilt))
    brain = make_brain(tmp_path, nonfinite_patience=patience)
    fit(brain, make_batches(spoilt[:-1]))


def test_weights_that_are_spoilt_are_not_scored(tmp_path):
    brain = make_brain(tmp_path)
    brain.targets = [torch.tensor([0])]
    brain.log_posteriors = [torch.tensor([[NAN, NAN]])]
    with pytest.raises(FloatingPointError, match="weights are damaged"):
        brain._scores()


@pytest.mark.parametrize("factor, steps", [(1, 12), (3, 4), (5, 2), (12, 1)])
def test_accumulation_drops_the_remainder_of_an_epoch(tmp_path, factor, steps):
    brain = make_brain(tmp_path / "all", grad_accumulation_factor=factor)
    fit(brain, make_batches())
    assert brain.optimizer_step == steps
    used = make_brain(tmp_path / "used", grad_accumulation_factor=factor)
    fit(used, make_batches()[: steps * factor])
    assert all(
        map(torch.equal, brain.modules.parameters(), used.modules.parameters())
    )


def test_nan_drops_the_step_it_is_accumulated_in(tmp_path):
    brain = make_brain(tmp_path, grad_accumulation_factor=3)
    fit(brain, make_batches(spoilt=(4,)))
    assert brain.optimizer_step == 3
    assert all(torch.isfinite(p).all() for p in brain.modules.parameters())


class HostReads(TorchDispatchMode):
    """Counts how often the host asks for the value of a tensor."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("alpha", [0, 0.3])
def test_host_asks_once_before_the_step_and_once_for_it(tmp_path, alpha):
    """Each question that is put to a GPU makes the host wait."""
    brain = make_brain(tmp_path)
    brain.modules["model"] = ASCMamba(
        n_classes=2, n_mels=10, channels=4, n_blocks=1, d_state=2
    )
    brain.hparams.mixup = Mixup(alpha=alpha)
    brain.on_fit_start()
    brain.modules.train()
    # The statistics of the features count frames in the first epoch.
    brain.hparams.epoch_counter.current = 1
    brain.fit_batch(make_batches()[0])
    brain.hparams.epoch_counter.current = (
        brain.modules.normalize.update_until_epoch
    )
    # Adam counts its steps on the host, on GPUs as well.
    brain.optimizer.step = lambda: None
    before = None
    step = brain.optimizers_step

    def optimizers_step():
        nonlocal before
        before = reads.count
        step()

    brain.optimizers_step = optimizers_step
    with HostReads() as reads:
        brain.fit_batch(make_batches()[1])
    assert before == 1  # is there padding: asked of lengths on the host
    # The gradients' norm; and the loss, which is on the host by then.
    assert reads.count == before + 2


@pytest.mark.parametrize("length", [40, 50])
def test_model_gets_lengths_where_there_is_padding(tmp_path, length):
    brain = make_brain(tmp_path)
    given = []
    forward = brain.modules.model.forward

    def model(features, context=None, lengths=None):
        given.append(lengths)
        return forward(features)

    brain.modules.model.forward = model
    brain.hparams.epoch_counter.current = 1
    rows = [
        {"id": str(n), "sig": torch.randn(n), "label": 0} for n in (50, length)
    ]
    brain.compute_forward(PaddedBatch(rows), Stage.TRAIN)
    (lengths,) = given
    if length == 50:
        assert lengths is None
    else:
        torch.testing.assert_close(lengths, torch.tensor([1.0, 0.8]))


@pytest.mark.parametrize("stage", [Stage.TRAIN, Stage.VALID])
def test_mixup_mixes_features_and_contexts_of_the_same_pairs(tmp_path, stage):
    brain = make_brain(tmp_path)
    brain.hparams.mixup = Mixup(alpha=1.0)
    brain.modules.context_encoder = Context()
    inputs = []
    brain.modules.model.forward = lambda *args: inputs.extend(args)
    rows = [
        {
            "id": f"{n}",
            "sig": torch.randn(50),
            "location_tokens": torch.randn(4),
            "time_tokens": torch.randn(4),
        }
        for n in range(6)
    ]
    batch = PaddedBatch(rows)
    brain.hparams.epoch_counter.current = 1
    brain.compute_forward(batch, stage)
    features, context, _ = inputs
    waves, tokens = (
        torch.stack([row[key] for row in rows])
        for key in ("sig", "location_tokens")
    )
    brain.modules.normalize.eval()
    expected = brain.modules.normalize(waves.unflatten(1, (-1, 10)), epoch=1)
    if stage == Stage.TRAIN:
        assert (brain.pairs[1] < 0.99).any()
        expected, tokens = (blend(x, *brain.pairs) for x in (expected, tokens))
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(context, tokens)


def test_learning_rate_warms_up_and_resumes(tmp_path):
    """Over the first steps, whether or not the training is interrupted."""
    rates = []

    def brain_of(folder):
        brain = make_brain(folder)
        brain.hparams.warmup_steps = 4
        brain.checkpointer.add_recoverable("brain", brain)
        brain.on_fit_start()
        brain.modules.train()
        brain.hparams.epoch_counter.current = 1
        step = brain.optimizer.step

        def noted(*args, **kwargs):
            rates.append(brain.optimizer.param_groups[0]["lr"])
            return step(*args, **kwargs)

        brain.optimizer.step = noted
        return brain

    brain = brain_of(tmp_path)
    for batch in make_batches()[:3]:
        brain.fit_batch(batch)
    assert brain.optimizer.param_groups[0]["lr"] == 0.1
    brain.checkpointer.save_checkpoint()
    brain = brain_of(tmp_path)
    for batch in make_batches()[3:6]:
        brain.fit_batch(batch)
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
