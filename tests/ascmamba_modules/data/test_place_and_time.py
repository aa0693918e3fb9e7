"""Times in the names that recorders give."""

import pytest

from ascmamba_modules.data.place_and_time import time_in_name


@pytest.mark.parametrize(
    "name, expected",
    [
        ("20230421_183000.WAV", "2023-04-21 18:30:00"),  # AudioMoth
        ("20230421_183000T.WAV", "2023-04-21 18:30:00"),
        ("S4A01234_20230421_183000.wav", "2023-04-21 18:30:00"),
        ("S4A01234_0+1_20230421_183000_000.wav", "2023-04-21 18:30:00"),
        ("230421_183000.WAV", "2023-04-21 18:30:00"),  # Zoom H1essential
        ("230421_001_Tr1.WAV", "2023-04-21"),  # Zoom F3, Tascam
        ("ZOOM0001.WAV", ""),
        ("Recording 2023-04-21 18.30.00.m4a", "2023-04-21 18:30:00"),
        ("2023-04-21 at 18.30.00.wav", "2023-04-21 18:30:00"),
        ("WhatsApp 2023-04-21 at 10.30.00 PM.ogg", "2023-04-21 22:30:00"),
        ("2023-04-21 at 12.05.00 AM (1).ogg", "2023-04-21 00:05:00"),
        ("20230421_120000_am_Hafen.wav", "2023-04-21 12:00:00"),
        ("20230421183000.wav", "2023-04-21 18:30:00"),
        ("AUD-20230421-WA0007.opus", "2023-04-21"),
        ("20230421_253000.wav", "2023-04-21"),  # no such hour
        ("20231341_183000.wav", ""),
        ("1-121012-A-0.ogg", ""),  # a number of Freesound
        ("clip 1234567890.wav", ""),
    ],
)
def test_time_in_name(name, expected):
    assert time_in_name(name) == expected
