"""The Brain that labels clips with two trained models."""

import functools
import hashlib
import json
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
from ascmamba_modules.pseudo_labels.session_labels import (
    ask_sessions,
    check_purity,
    session_votes,
)
from ascmamba_modules.utils.files import (
    file_stamp,
    read_json,
    replacing,
    write_csv,
)

logger = get_logger(__name__)


class PseudoLabelBrain(Brain):
    """Labels clips with two trained models; it does not train them.

    As a Brain it takes SpeechBrain's run options: device, precision, and
    torchrun, under which each process infers its share of the clips.  The
    labels do not depend on the number of processes.

    Arguments
    ---------
    annotators : dict
        Two :class:`ascmamba_modules.inference.SceneClassifier`: "first",
        whose labels are taken, and "second", whose agreement is needed where
        the first is not confident.
    loader_options : dict
        Options of the data loader, such as batch_size.
    run_opts : dict, optional
        SpeechBrain's run options.

    Raises
    ------
    ValueError
        If the two models differ in their classes or their sample rate.
    """

    def __init__(self, annotators, loader_options, run_opts=None):
        super().__init__(modules=annotators, run_opts=run_opts)
        self.loader_options = loader_options
        self._check_annotators()

    @property
    def classes(self):
        """Names of the models' classes, in their order (list)."""
        return self.modules["first"].classes

    def label(
        self,
        table,
        folder,
        share=0.9,
        truth=None,
        session_labels=None,
        session_level="session",
        min_purity=0.98,
        by_class=False,
    ):
        """Labels the clips of a manifest that have no label.

        Arguments
        ---------
        table : pandas.DataFrame
            Manifest rows of all clips; see
            :func:`ascmamba_modules.pseudo_labels.selection.in_pool` for those
            that are labelled.
        folder : str or Path
            Where to write, see :func:`ascmamba_modules.pseudo_labels.report
            .write_pseudo_labels`, and :meth:`posteriors`.
        share : float
            See :func:`ascmamba_modules.pseudo_labels.selection.select`.
        truth : pandas.Series, optional
            True classes by clip, to report the accuracy.
        session_labels : str, optional
            Whether labels of the same recording session have a say, see
            :func:`ascmamba_modules.pseudo_labels.session_labels.ask_sessions`;
            without, as in the paper, they have none.
        session_level : str
            What a session is, see
            :func:`ascmamba_modules.pseudo_labels.session_labels.session_votes`.
        min_purity : float
            How often (0 to 1) labels of a session must agree to be trusted.
        by_class : bool
            See :func:`ascmamba_modules.pseudo_labels.selection.select`.

        Returns
        -------
        Path
            The manifest with the new labels.

        Raises
        ------
        ValueError
            If sessions are not to be trusted.
        """
        ask = None
        if session_labels is not None:
            votes, purity = session_votes(table, session_level)
            check_purity(purity, min_purity)
            logger.info(
                "Sessions say the class of %.1f %% of the clips, right for "
                "%.1f %% of the labelled ones",
                *(100 * (votes != "").mean(), 100 * purity),
            )
            ask = functools.partial(
                ask_sessions, votes=votes, way=session_labels
            )
        posteriors = self.posteriors(table[in_pool(table)], folder)
        first, second = posteriors["first"], posteriors["second"]
        selected = select(first, second, share, by_class)
        run_on_main(self._write, args=[table, selected, folder, truth, ask])
        return Path(folder, MANIFEST)

    def _write(self, table, selected, folder, truth, ask):
        if ask is not None:
            selected = ask(selected)
        counts = write_pseudo_labels(folder, table, selected, truth)
        logger.info(
            "Pseudo-labels in %s:\n%s",
            folder,
            counts.to_string(float_format="{:.3f}".format),
        )

    def posteriors(self, table, folder):
        """Computes the posteriors of both models.

        They are read from ``posteriors.csv`` in the folder instead, if
        ``posteriors.json`` beside it says that they come from the same
        weights, clips and precision.

        Arguments
        ---------
        table : pandas.DataFrame
            Manifest rows.
        folder : str or Path
            Keeps the posteriors.

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
        if read_json(key_path) == key:
            logger.info("Posteriors are taken from %s", path)
        else:
            log_posteriors = self._gather(self._infer(table))
            run_on_main(
                self._write_posteriors, args=[table, log_posteriors, path, key]
            )
        both = pd.read_csv(path, header=[0, 1], index_col=0)
        both.index = table["ID"]  # pandas reads some names as numbers
        return {name: both[name] for name in self.modules}

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
        log_posteriors = {}
        for batch in tqdm(loader, "Pseudo-labelling", disable=None):
            both = [
                annotator.classify_batch(
                    *batch.sig, batch.location, batch.record_time
                )[0].cpu()
                for annotator in self.modules.values()
            ]
            rows = torch.stack(both, 1).double().numpy()
            log_posteriors.update(zip(batch.id, rows))
        return log_posteriors

    def _gather(self, log_posteriors):
        if not self.distributed_launch:
            return log_posteriors
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, log_posteriors)
        return {name: rows for part in parts for name, rows in part.items()}

    def _write_posteriors(self, table, log_posteriors, path, key):
        # Else a kill in between would leave an older key to new posteriors.
        path.with_suffix(".json").unlink(missing_ok=True)
        values = np.exp(np.stack([log_posteriors[n] for n in table["ID"]]))
        columns = pd.MultiIndex.from_product([self.modules, self.classes])
        frame = pd.DataFrame(
            values.reshape(len(values), -1), list(table["ID"]), columns
        )
        write_csv(frame, path, index=True)
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(key))

    def _key(self, table):
        """What the posteriors depend on: weights, clips and precision."""
        key = {"precision": self.precision}
        for name, annotator in self.modules.items():
            digest = hashlib.sha256()
            for tensor in annotator.state_dict().values():
                digest.update(tensor.cpu().numpy().tobytes())
            key[name] = digest.hexdigest()
        rows = table[["ID", "wav", "location", "record_time"]].copy()
        rows["size"], rows["modified"] = zip(*map(file_stamp, table["wav"]))
        key["clips"] = hashlib.sha256(rows.to_csv().encode()).hexdigest()
        return key

    def _check_annotators(self):
        first, second = (model.classes for model in self.modules.values())
        if first != second:
            raise ValueError(
                f"The annotators have different classes: {first} and "
                f"{second}. Train both with the same scene_labels."
            )
        rates = {m.audio_normalizer.sample_rate for m in self.modules.values()}
        if len(rates) > 1:
            raise ValueError(
                f"The annotators have different sample rates: {rates} Hz."
            )
