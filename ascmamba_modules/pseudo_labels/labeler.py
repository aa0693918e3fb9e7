"""The Brain that labels clips with two trained models, in rounds."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from speechbrain import Brain
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from tqdm.auto import tqdm

from ascmamba_modules.data.manifest import make_dataset
from ascmamba_modules.pseudo_labels.report import MANIFEST, write_pseudo_labels
from ascmamba_modules.pseudo_labels.selection import in_pool, select
from ascmamba_modules.utils.files import replacing, write_csv

logger = get_logger(__name__)


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
            :func:`ascmamba_modules.pseudo_labels.selection.in_pool` for those
            that can be labelled.
        folder : str or Path
            Where to write; each round has a folder ``round_<number>`` in it,
            and in that one ``finetune_<digest of the labels>``, the training
            that follows.
        rounds : int
            How often to label.
        share : float
            See :func:`ascmamba_modules.pseudo_labels.selection.select`.
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
            answers = self._gather(self._infer(table))
            run_on_main(
                self._write_posteriors, args=[table, answers, path, key]
            )
        found = pd.read_csv(path, header=[0, 1], index_col=0)
        found.index = table["ID"]  # pandas reads some names as numbers
        return {name: found[name] for name in self.modules}

    def _infer(self, table):
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
