"""The Brains that train scene classifiers."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from speechbrain import Brain, Stage
from speechbrain.dataio.sampler import BalancingDataSampler
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ascmamba_modules.augment import blend
from ascmamba_modules.evaluation import macro_accuracy, write_report
from ascmamba_modules.evaluation.calibration import fit_temperature
from ascmamba_modules.pipeline import (
    class_names,
    compute_features,
    model_inputs,
)
from ascmamba_modules.pseudo_labels.labeler import PseudoLabelBrain
from ascmamba_modules.utils.checkpoints import RandomState

__all__ = ["PseudoLabelBrain", "SceneBrain", "TwoLevelSceneBrain"]

logger = get_logger(__name__)


class SceneBrain(Brain):
    """Trains, validates and tests a model whose outputs are logits.

    Modules: features, normalize, model and, for models that use place and
    time, context_encoder.  Needs in hparams: augmentation, mixup,
    label_smoothing, label_encoder, epoch_counter, lr_annealing,
    train_loggers and output_folder.  With warmup_steps in hparams, the
    learning rate rises linearly during that many steps; with balanced_sampling
    all classes are drawn equally often; freeze names parts of the model (see
    :meth:`torch.nn.Module.get_submodule`) whose weights and statistics stay.

    The best checkpoint is the one with the highest macro accuracy on the
    validation clips.  Without any, the last one is kept.  With it goes the
    temperature that fits these clips best: once the training has ended, the
    classifier's weights are divided by it, so that posteriors are calibrated.

    A batch whose loss or gradient is not finite is skipped and leaves no
    trace in weights or statistics.  More than --nonfinite_patience of them in
    an epoch end the training with a FloatingPointError.  With
    --grad_accumulation_factor the whole step of such a batch is skipped.
    """

    SCORE = "macro_accuracy"
    _validates = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.nonfinite_count = 0
        self.scores = {}
        self.temperature = None
        self.frozen = [
            self.hparams.model.get_submodule(name).requires_grad_(False)
            for name in getattr(self.hparams, "freeze", ())
        ]

    def compute_forward(self, batch, stage):
        """Runs from waveforms to the model's output."""
        inputs = batch.feats if hasattr(batch, "feats") else batch.sig
        padded = bool((inputs.lengths < 1).any())
        # Asynchronous copies, if the loader has pinned the memory.
        batch = batch.to(self.device, non_blocking=True)
        tokens = None
        if "context_encoder" in self.modules:
            tokens = batch.location_tokens.data, batch.time_tokens.data
        features, context, lengths = model_inputs(
            self.modules,
            *self.compute_features(batch),
            tokens,
            epoch=self.hparams.epoch_counter.current,
        )
        if stage == Stage.TRAIN:
            features, lengths = self.hparams.augmentation(features, lengths)
            features, lengths, *self.pairs = self.hparams.mixup(
                features, lengths
            )
            if context is not None:
                context = blend(context, *self.pairs)
        # Without lengths no module has to wait for the device to tell padding.
        lengths = lengths if padded else None
        return self.modules.model(features, context, lengths)

    def compute_features(self, batch):
        """Features and relative lengths, from the cache or the waveforms."""
        if hasattr(batch, "feats"):
            return batch.feats
        return compute_features(self.modules, *batch.sig)

    def compute_objectives(self, predictions, batch, stage):
        """Cross-entropy; outside training also keeps the posteriors."""
        labels = self._labels(batch)
        if stage == Stage.TRAIN:
            partner, weight = self.pairs
            losses = self.clip_losses(predictions, labels)
            partner_losses = self.clip_losses(predictions, labels[partner])
            return (weight * losses + (1 - weight) * partner_losses).mean()
        # The wrapper of distributed training hides the model's methods.
        log_posteriors = self.hparams.model.log_posteriors(predictions)
        self.ids += batch.id
        self.targets.append(labels.cpu())
        self.log_posteriors.append(log_posteriors.cpu())
        return F.nll_loss(log_posteriors, labels)

    def _labels(self, batch):
        labels = batch.label
        # The loader pins padded data only; labels are not padded.
        if self.device_type == "cuda":
            labels = labels.pin_memory()
        return labels.to(self.device, non_blocking=True)

    def clip_losses(self, predictions, labels):
        """Training loss of each clip (batch)."""
        return F.cross_entropy(
            predictions.float(),
            labels,
            label_smoothing=self.hparams.label_smoothing,
            reduction="none",
        )

    def fit(self, epoch_counter, train_set, valid_set=None, *args, **kwargs):
        """Trains; see ``speechbrain.Brain.fit``."""
        self._validates = valid_set is not None
        super().fit(epoch_counter, train_set, valid_set, *args, **kwargs)

    def make_dataloader(self, dataset, stage, *args, **loader_kwargs):
        """Makes a loader; see ``speechbrain.Brain.make_dataloader``.

        Starting to read must not advance the global random numbers: a
        training that resumes starts once more than one that went through.
        """
        is_balanced = getattr(self.hparams, "balanced_sampling", False)
        if stage == Stage.TRAIN and is_balanced:
            self.train_sampler = BalancingDataSampler(
                dataset, "label", seed=self.hparams.seed
            )
            loader_kwargs |= {"sampler": self.train_sampler, "shuffle": False}
        loader_kwargs.setdefault("generator", torch.Generator())
        return super().make_dataloader(dataset, stage, *args, **loader_kwargs)

    def on_fit_start(self):
        """Goes on from the latest checkpoint, random numbers included."""
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable(
                "random_state", RandomState(), optional_load=True
            )
        super().on_fit_start()

    def _should_save_intra_epoch_ckpt(self, *args):
        # Checkpoints do not hold gradients that are being accumulated.
        is_due = super()._should_save_intra_epoch_ckpt(*args)
        return is_due and self.step % self.grad_accumulation_factor == 0

    def fit_batch(self, batch):
        """Trains on a batch; see ``speechbrain.Brain.fit_batch``."""
        for module in self.frozen:
            module.eval()  # keeps the statistics of norms
        statistics = self._statistics()
        self._step_dropped = False
        loss = super().fit_batch(batch)
        is_finite = torch.isfinite(loss).item()
        if not is_finite:
            self._restore_statistics(statistics)
        if not is_finite or self._step_dropped:
            self._count_nonfinite(batch)
        return loss

    def _statistics(self):
        """State that a batch changes apart from the weights."""
        buffers = [(buffer, buffer.clone()) for buffer in self._buffers()]
        return buffers, vars(self.modules.normalize).copy()

    def _buffers(self):
        """Statistics of norms and the like; those of features are constant."""
        for name, module in self.modules.items():
            if name != "features":
                yield from module.buffers()

    def _restore_statistics(self, statistics):
        buffers, normalize = statistics
        for buffer, before in buffers:
            buffer.copy_(before)
        # InputNormalization's are no buffers, and it replaces them.
        vars(self.modules.normalize).update(normalize)

    def check_loss_isfinite(self, loss):
        """Makes all gradients NaN if the loss is not finite.

        Gradients are shared by all processes, so all of them skip the same
        step.  This happens on the device: reading the loss here would make a
        GPU wait between the forward and the backward pass.
        """
        zero_or_nan = 0 * loss.detach()  # NaN if the loss is not finite
        loss.register_hook(lambda gradient: gradient + zero_or_nan)

    def optimizers_step(self):
        """Performs a step, unless a gradient is not finite.

        SpeechBrain's --skip_nonfinite_grads checks after clipping, which has
        set the finite gradients to zero; Adam then still moves by momentum.
        """
        gradients = [
            parameter.grad
            for parameter in self.modules.parameters()
            if parameter.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        # With fp16 the gradient scaler skips steps itself, and adapts.
        if self.scaler.is_enabled() or torch.isfinite(norm):
            with self._warmed_up():
                super().optimizers_step()
        else:
            self.zero_grad(set_to_none=True)
            self._step_dropped = True

    @contextmanager
    def _warmed_up(self):
        """Lowers the learning rate for one of the first steps."""
        steps = getattr(self.hparams, "warmup_steps", 0)
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        # The step count is saved in checkpoints, so warm-up resumes too.
        if self.optimizer_step < steps:
            for group, rate in zip(groups, rates):
                group["lr"] = rate * (self.optimizer_step + 1) / (steps + 1)
        yield
        for group, rate in zip(groups, rates):
            group["lr"] = rate

    def _count_nonfinite(self, batch):
        self.nonfinite_count += 1
        clips = ", ".join(batch.id)
        if self.nonfinite_count > self.nonfinite_patience:
            raise FloatingPointError(
                f"The loss or its gradient was not finite in "
                f"{self.nonfinite_count} batches of an epoch, and "
                f"--nonfinite_patience is {self.nonfinite_patience}. Train "
                "with a lower --lr or with --precision fp32. The last "
                f"batch's clips: {clips}"
            )
        logger.warning(
            "Batch skipped, number %d of this epoch: its loss or gradient is "
            "not finite. Clips: %s",
            *(self.nonfinite_count, clips),
        )

    def init_optimizers(self):
        """Makes the optimizer; the scheduler's rate holds from the start, also
        for an ``opt_class`` that has one of its own."""
        super().init_optimizers()
        rate, _ = self.hparams.lr_annealing(1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def on_stage_start(self, stage, epoch=None):
        """Clears the posteriors of the stage before."""
        self.ids, self.targets, self.log_posteriors = [], [], []

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs, saves a checkpoint after an epoch, reports after a test."""
        if stage == Stage.TRAIN:
            self.train_stats = {"loss": stage_loss}
            if self.nonfinite_count:
                self.train_stats["skipped batches"] = self.nonfinite_count
            if not self._validates:
                # As after validation; else the next epoch would, on resuming,
                # start at this step.
                self.step, self.avg_train_loss = 0, 0.0
                self._end_epoch(epoch)
        elif stage == Stage.VALID:
            self._end_epoch(epoch, self._scores(), self._fit_temperature())
        else:
            self._report(self._scores())

    def _scores(self):
        targets = torch.cat(self.targets)
        log_posteriors = torch.cat(self.log_posteriors)
        if not torch.isfinite(log_posteriors).all():
            raise FloatingPointError(
                "The model's outputs are not finite: its weights are damaged. "
                "Train again from an earlier checkpoint or from scratch, with "
                "a lower --lr or with --precision fp32."
            )
        return {
            # Averaged over clips; fit() averages over batches.
            "loss": F.nll_loss(log_posteriors, targets).item(),
            self.SCORE: macro_accuracy(targets, log_posteriors.argmax(1)),
        }

    def _classifiers(self):
        """The layers whose outputs a temperature divides; SETrans has two."""
        names = "classifier", "coarse_classifier"
        layers = [getattr(self.hparams.model, name, None) for name in names]
        return [layer for layer in layers if isinstance(layer, nn.Linear)]

    def _fit_temperature(self):
        """The temperature of the posteriors, None if it cannot be told."""
        targets = torch.cat(self.targets)
        log_posteriors = torch.cat(self.log_posteriors)
        right = (log_posteriors.argmax(1) == targets).sum()
        # If all are right, or all wrong, the best one is 0 or infinite.
        if not self._classifiers() or not 0 < right < len(targets):
            return None
        return fit_temperature(targets.numpy(), log_posteriors.numpy())

    def _end_epoch(self, epoch, valid_stats=None, temperature=None):
        rate = self.optimizer.param_groups[0]["lr"]
        self._log(
            {"epoch": epoch, "lr": rate},
            train_stats=self.train_stats,
            valid_stats=valid_stats,
        )
        _, next_rate = self.hparams.lr_annealing(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = next_rate
        if valid_stats is None:
            self.checkpointer.save_and_keep_only(meta={"epoch": epoch})
            return
        self.hparams.epoch_counter.update_metric(valid_stats[self.SCORE])
        self.checkpointer.save_and_keep_only(
            meta={"epoch": epoch, "temperature": temperature, **valid_stats},
            max_keys=[self.SCORE],
        )

    def _report(self, test_stats):
        self.scores["test"] = test_stats[self.SCORE]
        epoch = self.hparams.epoch_counter.current
        self._log({"epoch loaded": epoch}, test_stats=test_stats)
        classes = class_names(self.hparams.label_encoder)
        folder = f"{self.hparams.output_folder}/test"
        run_on_main(
            lambda: logger.info(
                "Test report in %s:\n%s",
                folder,
                write_report(
                    folder,
                    self.ids,
                    torch.cat(self.targets),
                    torch.cat(self.log_posteriors),
                    classes,
                ).to_string(float_format="{:.3f}".format),
            )
        )

    def _log(self, meta, **stats):
        for train_logger in self.hparams.train_loggers:
            train_logger.log_stats(meta, **stats)

    def load_best(self):
        """Loads the best checkpoint, or the last one if none was scored, and
        divides the weights of its classifier by the temperature.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        """
        checkpoint = self.checkpointer.recover_if_possible(
            importance_key=lambda x: x.meta.get(self.SCORE, -float("inf"))
        )
        if checkpoint is None:
            raise FileNotFoundError(
                f"No checkpoint in {self.checkpointer.checkpoints_dir}: train "
                "first, or check --output_folder."
            )
        self.scores["valid"] = checkpoint.meta.get(self.SCORE)
        epoch = checkpoint.meta.get("epoch", "(not finished)")
        logger.info("Loaded the checkpoint of epoch %s", epoch)
        self.temperature = checkpoint.meta.get("temperature")
        if self.temperature is None:
            return
        logger.info("Calibrated with a temperature of %.3f", self.temperature)
        with torch.no_grad():
            for layer in self._classifiers():
                for parameter in layer.parameters():
                    parameter /= self.temperature

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Loads the checkpoint to test, see :meth:`load_best`."""
        self.load_best()

    def _wrap_distributed(self):
        """Wraps modules; on CPUs without synchronised batch norms, which
        PyTorch has for GPUs only."""
        if not (self.distributed_launch and self.device_type == "cpu"):
            super()._wrap_distributed()
            return
        for name, module in self.modules.items():
            if any(p.requires_grad for p in module.parameters()):
                self.modules[name] = DistributedDataParallel(
                    module, find_unused_parameters=self.find_unused_parameters
                )


class TwoLevelSceneBrain(SceneBrain):
    """Trains SETrans, which classifies scenes and their supersets.

    Needs in hparams, in addition to those of :class:`SceneBrain`:
    coarse_weight, the weight of the supersets' loss.
    """

    def clip_losses(self, predictions, labels):
        """Training loss of each clip (batch), both classifiers together."""
        fine, coarse = predictions
        coarse_labels = self.hparams.model.superset[labels]
        return super().clip_losses(
            fine, labels
        ) + self.hparams.coarse_weight * super().clip_losses(
            coarse, coarse_labels
        )
