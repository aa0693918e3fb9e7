"""Times LogMel in a batch against librosa clip by clip."""

import argparse

import librosa
import torch
from common import BUSY_HINT, machine, markdown_table, median_times

from ascmamba_modules.features import LogMel

SAMPLE_RATE = 44100
CLIP_SECONDS = 10
BATCH_SIZES = (1, 16)


def librosa_features(wav):
    """Log-mel features of one clip, by librosa at the settings of LogMel.

    librosa builds its mel filter bank anew in every call, as it does for
    everybody who calls it so.

    Arguments
    ---------
    wav : numpy.ndarray
        Waveform (samples).

    Returns
    -------
    numpy.ndarray
        dB values (n_mels, frames + 1).
    """
    return librosa.power_to_db(
        librosa.feature.melspectrogram(
            y=wav,
            sr=SAMPLE_RATE,
            n_fft=2048,
            win_length=1764,
            hop_length=882,
            n_mels=64,
            pad_mode="constant",
        )
    )


def _log_mel(features, wavs):
    def run():
        features(wavs)
        if wavs.is_cuda:
            torch.cuda.synchronize()

    return run


@torch.no_grad()
def rows(rounds):
    """Times librosa and LogMel, at each batch size and device.

    Arguments
    ---------
    rounds : int
        How often each is called.

    Returns
    -------
    list
        One dict a row of the table.
    """
    wavs = torch.randn(max(BATCH_SIZES), CLIP_SECONDS * SAMPLE_RATE)
    clip = wavs[0].numpy()
    functions = {"librosa": lambda: librosa_features(clip)}
    clips = {"librosa": 1}
    devices = {"cpu": "LogMel"}
    if torch.cuda.is_available():
        devices["cuda"] = "LogMel on the GPU"
    for device, label in devices.items():
        features = LogMel(SAMPLE_RATE).to(device)
        for size in BATCH_SIZES:
            name = f"{label}, batch {size}"
            clips[name] = size
            functions[name] = _log_mel(features, wavs[:size].to(device))
    seconds = median_times(functions, rounds)
    return [
        {
            "features": name,
            "ms per clip": 1000 * seconds[name] / clips[name],
            "x times faster": seconds["librosa"] * clips[name] / seconds[name],
        }
        for name in functions
    ]


@torch.no_grad()
def largest_difference():
    """Largest difference between LogMel and librosa on one clip of noise.

    Returns
    -------
    float
        Difference in dB.
    """
    wav = torch.randn(1, CLIP_SECONDS * SAMPLE_RATE)
    ours = LogMel(SAMPLE_RATE)(wav)[0]
    theirs = torch.from_numpy(librosa_features(wav[0].numpy()).T)
    return (ours - theirs[: len(ours)]).abs().max().item()


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        epilog=BUSY_HINT,
        description="Prints the milliseconds that librosa and LogMel take for "
        "the log-mel features of a ten-second clip (medians), how many times "
        "faster than librosa each is, and their largest difference in dB. "
        "GPU rows appear where there is one; their waveforms are on it.",
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="calls of each (default: 15)"
    )
    args = parser.parse_args()
    print(machine())
    print(f"Medians of {args.rounds} interleaved turns.\n")
    print(markdown_table(rows(args.rounds)))
    print(f"\nLargest difference to librosa: {largest_difference():.1g} dB.")


if __name__ == "__main__":
    main()
