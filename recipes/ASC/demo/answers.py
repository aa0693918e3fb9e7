"""What the model of the demo answers."""

from ascmamba_modules.data.manifest import read_manifest
from ascmamba_modules.inference import SceneClassifier


def classify_some(model, manifest):
    """Prints what a model says of a test clip of each scene.

    Arguments
    ---------
    model : str or Path
        Model folder of a finished stage.
    manifest : str or Path
        The manifest with the test clips.
    """
    classifier = SceneClassifier.from_hparams(source=model)
    rows = read_manifest(manifest)
    rows = rows[rows["split"] == "test"].groupby("scene_label").head(1)
    print(f"{'scene':<20}{'place':<12}{'heard':<25}with place and time")
    for row in rows.itertuples():
        answers = [
            classifier.classify_file(row.wav),
            classifier.classify_file(row.wav, row.location, row.record_time),
        ]
        cells = [f"{a[3][0]} {a[1].exp().item():.2f}" for a in answers]
        print(
            f"{row.scene_label:<20}{row.location:<12}{cells[0]:<25}{cells[1]}"
        )
