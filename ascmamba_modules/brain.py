"""The Brains that train scene classifiers and label clips with them."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from speechbrain import Brain, Stage
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from ascmamba_modules.augment import blend
from ascmamba_modules.evaluation import macro_accuracy, write_report
from ascmamba_modules.files import replacing, write_csv
from ascmamba_modules.manifest import make_dataset
from ascmamba_modules.pseudo_label_report import MANIFEST, write_pseudo_labels
from ascmamba_modules.pseudo_labels import in_pool, select

logger = get_logger(__name__)


class SceneBrain(Brain):
    """Trains, validates and tests a model that answers with logits.

    Modules: features, normalize, model and, for models that use place and
    time, context_encoder.  Needs in hparams: augmentation, mixup,
    label_smoothing, label_encoder, epoch_counter, lr_annealing,
    train_loggers and output_folder.

    The best checkpoint is the one with the highest macro accuracy on the
    validation clips.  Without any, the last one is kept.

    A batch whose loss or gradient is not finite changes nothing, and is
    counted; one more than --nonfinite_patience in an epoch ends the training
    with a FloatingPointError.  With --grad_accumulation_factor the whole step
    that it belongs to is dropped.
    """

    SCORE = "macro_accuracy"
    _validates = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.nonfinite_count = 0
        self.scores = {}

    def compute_forward(self, batch, stage):
        """Runs from waveforms to the model's output."""
        batch = batch.to(self.device)
        features, lengths = self.compute_features(batch)
        features = self.modules.normalize(
            features, lengths, epoch=self.hparams.epoch_counter.current
        )
        if stage == Stage.TRAIN:
            features, lengths = self.hparams.augmentation(features, lengths)
            features, lengths, *self.pairs = self.hparams.mixup(
                features, lengths
            )
        context = None
        if "context_encoder" in self.modules:
            context = self.modules.context_encoder(
                batch.location_tokens.data, batch.time_tokens.data
            )
            if stage == Stage.TRAIN:
                context = blend(context, *self.pairs)
        return self.modules.model(features, context, lengths)

    def compute_features(self, batch):
        """Features and relative lengths, from the cache or the waveforms."""
        if hasattr(batch, "feats"):
            return batch.feats
        wavs, wav_lengths = batch.sig
        features = self.modules.features(wavs, wav_lengths)
        return features, self.modules.features.frame_lengths(wavs, wav_lengths)

    def compute_objectives(self, predictions, batch, stage):
        """Cross-entropy; outside training also keeps the posteriors."""
        labels = batch.label.to(self.device)
        if stage == Stage.TRAIN:
            partner, weight = self.pairs
            own = self.clip_losses(predictions, labels)
            others = self.clip_losses(predictions, labels[partner])
            return (weight * own + (1 - weight) * others).mean()
        # The wrapper of distributed training hides the model's methods.
        log_posteriors = self.hparams.model.log_posteriors(predictions)
        self.ids += batch.id
        self.targets.append(labels.cpu())
        self.log_posteriors.append(log_posteriors.cpu())
        return F.nll_loss(log_posteriors, labels)

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

    def fit_batch(self, batch):
        """Trains on a batch; counts it if it has to be skipped."""
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
        """What a batch changes apart from the weights."""
        buffers = {k: v.clone() for k, v in self.modules.named_buffers()}
        return buffers, vars(self.modules.normalize).copy()

    def _restore_statistics(self, statistics):
        buffers, normalize = statistics
        for name, buffer in self.modules.named_buffers():
            buffer.copy_(buffers[name])
        # InputNormalization's are no buffers, and it replaces them.
        vars(self.modules.normalize).update(normalize)

    def check_loss_isfinite(self, loss):
        """Spoils all gradients if the loss is not finite.

        They are what all processes share, so that all drop the same step.
        """
        if not torch.isfinite(loss):
            loss.register_hook(lambda gradient: gradient * float("nan"))

    def optimizers_step(self):
        """Performs a step, unless a gradient is not finite.

        SpeechBrain's --skip_nonfinite_grads looks after clipping, which turns
        the finite ones to zeros, and Adam then moves by its momentum.
        """
        gradients = [
            parameter.grad
            for parameter in self.modules.parameters()
            if parameter.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        # The scaler, for fp16, drops steps itself, and learns from them.
        if self.scaler.is_enabled() or torch.isfinite(norm):
            super().optimizers_step()
        else:
            self.zero_grad(set_to_none=True)
            self._step_dropped = True

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

    def on_stage_start(self, stage, epoch=None):
        """Forgets the posteriors of the stage before."""
        self.ids, self.targets, self.log_posteriors = [], [], []

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs, saves a checkpoint after an epoch, reports after a test."""
        if stage == Stage.TRAIN:
            self.train_stats = {"loss": stage_loss}
            if self.nonfinite_count:
                self.train_stats["skipped batches"] = self.nonfinite_count
            if not self._validates:
                self._end_epoch(epoch)
        elif stage == Stage.VALID:
            self._end_epoch(epoch, self._scores())
        else:
            self._report(self._scores())

    def _scores(self):
        targets = torch.cat(self.targets)
        log_posteriors = torch.cat(self.log_posteriors)
        if not torch.isfinite(log_posteriors).all():
            raise FloatingPointError(
                "The model's answers are not finite: its weights are spoilt. "
                "Train again from an earlier checkpoint or anew, with a lower "
                "--lr or with --precision fp32."
            )
        return {
            # Over clips: the loss that fit() averages is over batches.
            "loss": F.nll_loss(log_posteriors, targets).item(),
            self.SCORE: macro_accuracy(targets, log_posteriors.argmax(1)),
        }

    def _end_epoch(self, epoch, valid_stats=None):
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
            meta={"epoch": epoch, **valid_stats}, max_keys=[self.SCORE]
        )

    def _report(self, test_stats):
        self.scores["test"] = test_stats[self.SCORE]
        epoch = self.hparams.epoch_counter.current
        self._log({"epoch loaded": epoch}, test_stats=test_stats)
        encoder = self.hparams.label_encoder
        classes = [encoder.ind2lab[i] for i in range(len(encoder))]
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
        """Loads the best checkpoint, or the last one if none was scored.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        """
        # With a key, checkpoints without a score would be passed over.
        checkpoint = (
            self.checkpointer.find_checkpoint(max_key=self.SCORE)
            or self.checkpointer.find_checkpoint()
        )
        if checkpoint is None:
            raise FileNotFoundError(
                f"No checkpoint in {self.checkpointer.checkpoints_dir}: train "
                "first, or check --output_folder."
            )
        self.checkpointer.load_checkpoint(checkpoint)
        self.scores["valid"] = checkpoint.meta.get(self.SCORE)
        epoch = checkpoint.meta.get("epoch", "(not finished)")
        logger.info("Loaded the checkpoint of epoch %s", epoch)

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Tests what :meth:`load_best` finds."""
        self.load_best()

    def _wrap_distributed(self):
        """Wraps modules for CPU processes without synchronised batch norms,
        which PyTorch has for GPUs only."""
        if not (self.distributed_launch and self.device_type == "cpu"):
            super()._wrap_distributed()
            return
        for name, module in self.modules.items():
            if any(p.requires_grad for p in module.parameters()):
                self.modules[name] = DistributedDataParallel(
                    module, find_unused_parameters=self.find_unused_parameters
                )


class PseudoLabelBrain(Brain):
    """Labels what nobody has labelled, in rounds of label, select and train.

    Under torchrun each process asks the models about its share of the clips;
    what comes out does not depend on how many there are.

    Arguments
    ---------
    annotators : dict
        Two models that answer as
        :class:`ascmamba_modules.inference.SceneClassifier`: "first", whose
        labels are taken, and "second", which is asked about the doubtful.
    load_annotator : callable
        Loads a model folder as such a model.
    loader_options : dict
        How to batch and load clips.
    run_opts : dict, optional
        SpeechBrain's run options.

    Raises
    ------
    ValueError
        If the two models differ in their classes or their sample rate.
    """

    def __init__(
        self, annotators, load_annotator, loader_options, run_opts=None
    ):
        super().__init__(modules=annotators, run_opts=run_opts)
        self.load_annotator = load_annotator
        self.loader_options = loader_options
        self._check_annotators()

    def run(self, table, folder, rounds=1, share=0.9, train=None, truth=None):
        """Labels clips, and trains on them before each further round.

        A round that was finished is not done again, and of one that was not
        the posteriors, once they are complete, are used again.

        Arguments
        ---------
        table : pandas.DataFrame
            Manifest rows of all clips, see
            :func:`ascmamba_modules.pseudo_labels.in_pool` for those that can
            be labelled.
        folder : str or Path
            Where to write; each round has a folder ``round_<number>`` in it,
            and in that one ``finetune_<digest of the labels>``, the training
            that follows.
        rounds : int
            How often to label.
        share : float
            See :func:`ascmamba_modules.pseudo_labels.select`.
        train : callable, optional
            ``train(manifest, folder)`` trains the next round's first model,
            and returns its model folder; for rounds > 1.
        truth : pandas.Series, optional
            True classes by clip, to report the accuracy.

        Returns
        -------
        Path
            The last round's manifest.
        """
        for number in range(1, rounds + 1):
            place = Path(folder, f"round_{number}")
            self.label(table, place, share, truth)
            if number < rounds:
                labels = (place / MANIFEST).read_bytes()
                # Other labels, such as of another share, are trained on anew.
                name = f"finetune_{hashlib.sha256(labels).hexdigest()[:8]}"
                model = train(place / MANIFEST, place / name)
                self.modules["first"] = self.load_annotator(model)
                self._check_annotators()
        return place / MANIFEST

    def label(self, table, folder, share=0.9, truth=None):
        """Labels clips once.

        Arguments are those of :meth:`run`, which calls it.
        """
        posteriors = self.posteriors(table[in_pool(table)], folder)
        run_on_main(
            self._select, args=[table, posteriors, folder, share, truth]
        )

    def _select(self, table, posteriors, folder, share, truth):
        chosen = select(posteriors["first"], posteriors["second"], share)
        counts = write_pseudo_labels(folder, table, chosen, truth)
        logger.info(
            "Pseudo-labels in %s:\n%s",
            folder,
            counts.to_string(float_format="{:.3f}".format),
        )

    def posteriors(self, table, folder):
        """Asks both models about clips, or reads what they said before.

        Arguments
        ---------
        table : pandas.DataFrame
            Manifest rows.
        folder : str or Path
            Keeps the answers in ``posteriors.csv``, and in
            ``posteriors.json`` whose they are.

        Returns
        -------
        dict
            For "first" and "second" the posteriors (clips, classes), in the
            order of the table.

        Raises
        ------
        ValueError
            If there are no clips.
        """
        if table.empty:
            raise ValueError(
                "no clips to pseudo-label: no row has an empty scene_label "
                "and split 'train' or none"
            )
        folder = Path(folder)
        path, key_path = folder / "posteriors.csv", folder / "posteriors.json"
        key = self._key(table)
        if key_path.exists() and json.loads(key_path.read_text()) == key:
            logger.info("Posteriors are taken from %s", path)
        else:
            answers = self._gather(self._ask(table))
            run_on_main(
                self._write_posteriors, args=[table, answers, path, key]
            )
        found = pd.read_csv(path, header=[0, 1], index_col=0)
        found.index = table["ID"]  # pandas reads some names as numbers
        return {name: found[name] for name in self.modules}

    def _ask(self, table):
        """Log-posteriors of both models for this process's share of clips."""
        rank, world = 0, 1
        if self.distributed_launch:
            rank = torch.distributed.get_rank()
            world = torch.distributed.get_world_size()
        share = table.iloc[rank::world]
        if share.empty:
            return {}
        dataset = make_dataset(share, self.modules["first"].audio_normalizer)
        loader = make_dataloader(dataset, **self.loader_options)
        answers = {}
        for batch in tqdm(loader, "Pseudo-labelling", disable=None):
            wavs, lengths = batch.sig
            context = batch.location, batch.record_time
            both = [
                annotator.classify_batch(wavs, lengths, *context)[0].cpu()
                for annotator in self.modules.values()
            ]
            rows = torch.stack(both, 1).double().numpy()
            answers.update(zip(batch.id, rows))
        return answers

    def _gather(self, answers):
        if not self.distributed_launch:
            return answers
        everyone = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, answers)
        return {name: rows for part in everyone for name, rows in part.items()}

    def _write_posteriors(self, table, answers, path, key):
        # Else a kill in between would leave an older key to new posteriors.
        path.with_suffix(".json").unlink(missing_ok=True)
        values = np.exp(np.stack([answers[name] for name in table["ID"]]))
        columns = pd.MultiIndex.from_product(
            [self.modules, self.classes("first")]
        )
        frame = pd.DataFrame(
            values.reshape(len(values), -1), list(table["ID"]), columns
        )
        write_csv(frame, path, index=True)
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(key))

    def _key(self, table):
        """What the posteriors depend on: weights, clips and precision.

        A clip's file is known by its size and time of change.
        """
        key = {"precision": self.precision}
        for name, annotator in self.modules.items():
            digest = hashlib.sha256()
            for tensor in annotator.state_dict().values():
                digest.update(tensor.cpu().numpy().tobytes())
            key[name] = digest.hexdigest()
        rows = table[["ID", "wav", "location", "record_time"]]
        files = [os.stat(wav) for wav in table["wav"]]
        rows = rows.assign(
            size=[file.st_size for file in files],
            modified=[file.st_mtime_ns for file in files],
        )
        key["clips"] = hashlib.sha256(rows.to_csv().encode()).hexdigest()
        return key

    def classes(self, name):
        """Names of the classes that a model knows, in its order."""
        encoder = self.modules[name].hparams.label_encoder
        return [encoder.ind2lab[i] for i in range(len(encoder.ind2lab))]

    def _check_annotators(self):
        first, second = (self.classes(name) for name in ("first", "second"))
        if first != second:
            raise ValueError(
                f"The annotators have other classes: {first} and {second}. "
                "Train both with the same scene_labels."
            )
        rates = {m.audio_normalizer.sample_rate for m in self.modules.values()}
        if len(rates) > 1:
            raise ValueError(
                f"The annotators have other sample rates: {rates} Hz."
            )


class TwoLevelSceneBrain(SceneBrain):
    """Trains a model that answers with scenes and their supersets, SETrans.

    Needs in hparams, beside those of :class:`SceneBrain`: coarse_weight, the
    weight of the supersets' loss.
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
