"""Sounds that the demo scenes are mixed from.

Each source of a scene is a function of the number of samples, the rate in Hz,
a generator of chance and its own parameters, and returns a waveform (samples)
whose RMS is about 1 while it sounds.  All of them are built from filtered
noise, sums of harmonics and decaying resonances.
"""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.ndimage import gaussian_filter1d

# First three formants in Hz of five vowels, a man's voice.
# Source: Peterson and Barney, "Control Methods Used in a Study of the
# Vowels", Journal of the Acoustical Society of America 24, 1952.
_FORMANTS = (
    (270, 2290, 3010),
    (530, 1840, 2480),
    (730, 1090, 2440),
    (570, 840, 2410),
    (300, 870, 2240),
)
_MINOR, _MAJOR = (0, 3, 7), (0, 4, 7)  # chords in semitones
_TABLE = 2048  # samples of one period of a tone, a power of 2
_BUMP = np.hanning(1025).astype(np.float32)


def unit(track):
    """Scales a waveform to an RMS of 1; silence stays silence.

    Example
    -------
    >>> unit(np.array([3.0, -3.0]))
    array([ 1., -1.])
    """
    return track / (np.sqrt(np.mean(track**2)) or 1.0)


def coloured_noise(n, rate, rng, slope, low=60.0):
    """Noise whose spectrum falls by ``slope`` dB per octave above ``low`` Hz.

    Example
    -------
    >>> noise = coloured_noise(4000, 8000, np.random.default_rng(0), -6.0)
    >>> float(noise.std().round(3))
    1.0
    """
    return _noise(
        n, rate, rng, lambda f: (np.maximum(f, low) / low) ** (slope / 6.02)
    )


def band_noise(n, rate, rng, centre, octaves):
    """Noise about ``centre`` Hz whose gain falls to a half in ``octaves``."""
    return _noise(
        n,
        rate,
        rng,
        lambda f: 0.5 ** (np.log2(np.maximum(f, 1) / centre) / octaves) ** 2,
    )


def wander(n, rate, rng, hertz):
    """Random walk about 0 of standard deviation 1, about ``hertz`` turns a
    second."""
    knots = int(4 + 2 * hertz * n / rate)
    values = rng.standard_normal(knots)
    offset = rng.random()
    turns = np.linspace(offset, knots - 3 + offset, n)
    return 1.25 * np.interp(turns, np.arange(knots), values)


def engine(n, rate, rng, pitch, brightness, unrest):
    """Motor: harmonics of a firing rate, and noise in its rhythm."""
    speed = np.exp(unrest * wander(n, rate, rng, 0.3))
    jitter = 1 + 0.01 * wander(n, rate, rng, 8.0)
    phase = np.cumsum(pitch * speed * jitter / rate)
    harmonics = _harmonics(rng, rate / 2 / pitch, 2.0 - brightness)
    tone = _tone(phase, harmonics)
    puffs = 0.5 + 0.5 * np.cos(2 * np.pi * phase)
    noise = coloured_noise(n, rate, rng, -6.0, 4 * pitch)
    return unit(tone + 0.5 * noise * puffs) * speed


def rails(n, rate, rng, speed, whine, squeal):
    """Wheels on rails: roar, joints, whine of the drive, squeal of curves.

    ``speed`` is in m/s, ``whine`` in Hz, ``squeal`` the share of time with
    it.
    """
    roar = band_noise(n, rate, rng, 25.0 * speed, 1.6)
    track = roar * np.exp(0.35 * wander(n, rate, rng, 1.0))
    length = int(0.25 * rate)
    time = np.arange(length) / rate
    thump = band_noise(length, rate, rng, 180.0, 1.0) * np.exp(-time / 0.04)
    click = band_noise(length, rate, rng, 1400.0, 0.8) * np.exp(-time / 0.02)
    clack = 2.5 * thump + click
    second = -rng.uniform(0, 25.0 / speed)  # rails of 25 m
    while second < n / rate:
        for wheel in (0.0, 2.2 / speed):
            _place(track, clack * rng.uniform(0.6, 1.4), second + wheel, rate)
        second += 25.0 / speed * rng.uniform(0.97, 1.03)
    drift = np.exp(0.1 * wander(n, rate, rng, 0.2))
    drive = _tone(np.cumsum(whine * drift / rate), [1.0, 0.5, 0.2, 0.3])
    track = track + 0.25 * drive
    pitch = rng.uniform(2500, 5500) * (1 + 0.01 * wander(n, rate, rng, 3.0))
    scream = _tone(np.cumsum(pitch / rate), [1.0, 0.3])
    gate = _soft_gate(wander(n, rate, rng, 0.4), squeal)
    return track + 0.5 * scream * gate


def voices(n, rate, rng, talkers, pitch):
    """Talk of some people: pulses of the voice through changing vowels."""
    count = max(1, round(talkers))
    pitches = pitch * np.array([1.0, 1.75]) * rng.uniform(0.9, 1.1, 2)
    several = [_voice(n, rate, rng, p) for p in pitches[:count]]
    track = np.zeros(n)
    for talker in range(count):
        # More talkers are the same few at other times, near or far.
        one = np.roll(several[talker % 2], rng.integers(n))
        track += one * rng.uniform(0.4, 1.0)
    return track / np.sqrt(0.53 * count)


def footsteps(n, rate, rng, walkers, hardness):
    """Steps of some people; ``hardness`` Hz is where their sound centres."""
    length = int(0.12 * rate)
    time = np.arange(length) / rate
    track = np.zeros(n)
    for _ in range(max(1, round(walkers))):
        centre = hardness * rng.uniform(0.7, 1.4)
        heel = band_noise(length, rate, rng, centre, 1.2)
        heel *= np.exp(-time / 0.012)
        toe = band_noise(length, rate, rng, 1.5 * centre, 1.0)
        toe *= np.exp(-time / 0.02)
        gap = rng.uniform(0.48, 0.62)
        loudness = rng.uniform(0.5, 2.0)
        second = -rng.uniform(0, gap)
        while second < n / rate:
            step = loudness * rng.uniform(0.7, 1.3)
            _place(track, 3.0 * step * heel, second, rate)
            _place(track, 1.5 * step * toe, second + 0.09, rate)
            second += gap * rng.uniform(0.95, 1.05)
    return track


def impacts(n, rate, rng, often, centre, ring):
    """Blows on things that ring about ``centre`` Hz for ``ring`` seconds,
    ``often`` a second."""
    things = [_struck(rate, rng, centre, ring) for _ in range(4)]
    track = np.zeros(n)
    for second in _moments(n, rate, rng, often, ring):
        thing = things[rng.integers(4)]
        _place(track, thing * rng.lognormal(0.0, 0.5), second, rate)
    return track


def hammering(n, rate, rng, tempo, centre, ring):
    """Blows in a steady rhythm of ``tempo`` a second, with pauses."""
    blow = _struck(rate, rng, centre, ring)
    track = np.zeros(n)
    second = -rng.uniform(0, 3.0)
    while second < n / rate:
        for _ in range(rng.integers(3, 4 + int(2 * tempo))):
            loud = rng.uniform(0.7, 1.3)
            _place(track, loud * blow, second, rate)
            second += rng.uniform(0.92, 1.08) / tempo
        second += rng.uniform(0.4, 2.5)
    return 1.5 * track


def machining(n, rate, rng, pitch, share):
    """Drill, saw or grinder: a buzz that comes and goes under load."""
    load = wander(n, rate, rng, 0.7)
    gate = _soft_gate(load, share)
    revolutions = np.cumsum(pitch * (0.7 + 0.3 * gate) / rate)
    buzz = _tone(revolutions, _harmonics(rng, rate / 2 / pitch, 0.6))
    noise = band_noise(n, rate, rng, rng.uniform(2500, 5000), 1.2)
    return (0.7 * buzz + noise * (1 + 0.4 * buzz)) * gate


def birds(n, rate, rng, often, centre):
    """Songs: each bird repeats its own sweep; ``often`` songs a second."""
    track = np.zeros(n)
    for second in _moments(n, rate, rng, often, 1.0):
        length = int(rng.uniform(0.04, 0.25) * rate)
        time = np.linspace(-1, 1, length)
        bend = rng.normal(0, 0.2) * time + rng.normal(0, 0.15) * time**2
        trill = rng.choice([0.0, 0.03, 0.06]) * np.sin(
            2 * np.pi * rng.uniform(15, 40) * np.arange(length) / rate
        )
        base = centre * np.exp(rng.normal(0, 0.25))
        sweep = np.minimum(base * np.exp(bend + trill), 0.45 * rate)
        note = np.sin(2 * np.pi * np.cumsum(sweep) / rate)
        note *= np.hanning(length) * rng.lognormal(0.3, 0.7)
        gap = length / rate + rng.uniform(0.02, 0.15)
        for k in range(rng.integers(1, 9)):
            _place(track, note, second + k * gap, rate)
    return track


def passing(n, rate, rng, often, distance):
    """Vehicles that pass at ``distance`` metres, ``often`` a second."""
    time = np.arange(n) / rate
    # What changes slowly is computed a thousand times a second.
    slow = np.arange(0, n / rate + 0.002, 0.001)
    louder = np.zeros(len(slow))
    track = np.zeros(n)
    for moment in _moments(n, rate, rng, often, 6.0, margin=3.0):
        speed = rng.uniform(7, 18)  # m/s
        away = distance * rng.uniform(0.7, 1.5)
        course = speed * (slow - moment)
        slant = np.hypot(course, away)
        loudness = rng.uniform(0.5, 1.6) * distance / slant
        louder = np.hypot(louder, loudness)
        # Doppler: the path shortens by speed * course / slant a second.
        pitch = rng.uniform(40, 110) * (1 - speed * course / slant / 343.0)
        phase = np.interp(time, slow, np.cumsum(0.001 * pitch))
        motor = _tone(phase, 1 / np.arange(1.0, 16.0))
        track += 0.4 * np.interp(time, slow, loudness) * motor
    tyres = band_noise(n, rate, rng, rng.uniform(500, 1000), 1.7)
    rumble = coloured_noise(n, rate, rng, -9.0, 80.0)
    return track + np.interp(time, slow, louder) * (tyres + 0.6 * rumble)


def announcements(n, rate, rng, often, pitch):
    """A chime, then a voice from loudspeakers."""
    track = np.zeros(n)
    for moment in _moments(n, rate, rng, often, 5.0, margin=3.0):
        second = moment
        note = rng.uniform(400, 800)
        for step in rng.permutation([1.0, 1.26, 1.5])[: rng.integers(2, 4)]:
            length = int(0.9 * rate)
            decay = np.exp(-np.arange(length) / (0.3 * rate))
            phase = np.arange(length) * note * step / rate
            _place(track, 1.2 * _tone(phase, [1, 0.2]) * decay, second, rate)
            second += 0.45
        length = next_fast_len(int(rng.uniform(2.0, 4.0) * rate), real=True)
        speech = _voice(length, rate, rng, pitch)
        narrow = rfft(speech)
        frequency = rfftfreq(length, 1 / rate)
        narrow *= (frequency > 350) & (frequency < 4500)
        _place(track, 1.6 * irfft(narrow, length), second + 0.4, rate)
    return track


def music(n, rate, rng, tempo, beat, cutoff):
    """Drums, bass and chords; ``tempo`` beats a minute, ``beat`` the share of
    drums, nothing above ``cutoff`` Hz."""
    gap = 60.0 / tempo
    root = rng.uniform(45, 75)
    steps = rng.choice([0, 3, 5, 7, 8, 10], 4)
    chord = _MINOR if rng.random() < 0.5 else _MAJOR
    time = np.arange(int(gap * rate) + 1) / rate
    kick = np.sin(2 * np.pi * (50 * time - 3 * np.exp(-time / 0.03)))
    kick *= np.exp(-time / 0.12)
    snare = band_noise(len(time), rate, rng, 1800.0, 1.3)
    snare *= np.exp(-time / 0.07)
    hat = band_noise(len(time), rate, rng, 9000.0, 0.5) * np.exp(-time / 0.02)
    bars = []
    for step in steps:
        base = root * 2.0 ** (step / 12)
        bar = _tone(time * base, [1.0, 0.6, 0.3, 0.1]) * np.exp(-time / 0.25)
        for semitones in chord:
            tone = time * 4 * base * 2.0 ** (semitones / 12)
            pad = _tone(tone, 1 / np.arange(1.0, 9.0))
            bar += 0.35 * pad * np.exp(-time / 0.6)
        bars.append(bar)
    drums, tones = np.zeros(n), np.zeros(n)
    first = -rng.uniform(0, 16 * gap)
    for count in range(int((n / rate - first) / gap) + 1):
        second = first + count * gap
        _place(drums, 2.0 * kick, second, rate)
        _place(drums, 0.5 * hat, second + gap / 2, rate)
        if count % 2:
            _place(drums, snare, second, rate)
        _place(tones, bars[count // 4 % 4], second, rate)
    track = 2 * beat * drums + 2 * (1 - beat) * tones
    frequency = rfftfreq(n, 1 / rate)
    response = 1 / np.sqrt(1 + (frequency / cutoff) ** 4)
    return unit(irfft(rfft(track) * response, n))


def horns(n, rate, rng, often):
    """Car horns, and bells of bicycles."""
    track = np.zeros(n)
    for second in _moments(n, rate, rng, often, 1.0):
        length = int(rng.uniform(0.15, 0.9) * rate)
        time = np.arange(length) / rate
        edge = np.minimum(1, np.minimum(time, time[::-1]) / 0.02)
        low = rng.uniform(320, 480)
        phases = time * low, time * low * 1.25
        tones = [_tone(p, 1 / np.arange(1.0, 14.0) ** 0.7) for p in phases]
        _place(track, edge * sum(tones) * rng.lognormal(0, 0.5), second, rate)
    return track


def beeps(n, rate, rng, often, pitch):
    """Card readers, doors, tills, vehicles in reverse."""
    track = np.zeros(n)
    for second in _moments(n, rate, rng, often, 1.0):
        length = int(rng.uniform(0.06, 0.3) * rate)
        phase = np.arange(length) * pitch * rng.uniform(0.9, 1.1) / rate
        beep = _tone(phase, [1.0, 0.1, 0.2]) * np.hanning(length) ** 0.3
        for k in range(rng.integers(1, 5)):
            _place(track, beep, second + k * 2.0 * length / rate, rate)
    return track


def hisses(n, rate, rng, often, centre):
    """Bursts of air or steam: brakes, doors, coffee machines."""
    track = np.zeros(n)
    for second in _moments(n, rate, rng, often, 1.5):
        length = int(rng.uniform(0.2, 1.5) * rate)
        time = np.arange(length) / rate
        burst = band_noise(length, rate, rng, centre, 1.0)
        burst *= np.minimum(1, time / 0.04) * np.exp(-3 * time / time[-1])
        _place(track, burst * rng.lognormal(0.5, 0.5), second, rate)
    return track


def flow(n, rate, rng, centre, octaves):
    """Steady noise of air or water, slightly unsteady."""
    track = band_noise(n, rate, rng, centre, octaves)
    return track * np.exp(0.25 * wander(n, rate, rng, 2.0))


def wind(n, rate, rng, gusts):
    """Gusts on the microphone, ``gusts`` a second."""
    strength = np.exp(0.8 * wander(n, rate, rng, gusts))
    return unit(coloured_noise(n, rate, rng, -9.0, 30.0) * strength)


def _noise(n, rate, rng, gain):
    """Noise of unit RMS with a gain that is a function of frequency."""
    length = next_fast_len(n, real=True)
    frequency = rfftfreq(length, 1 / rate)
    spectrum = np.empty(len(frequency), dtype=np.complex64)
    spectrum.real = rng.standard_normal(len(frequency), dtype=np.float32)
    spectrum.imag = rng.standard_normal(len(frequency), dtype=np.float32)
    spectrum *= gain(frequency.astype(np.float32))
    spectrum[0] = 0.0
    return unit(irfft(spectrum, length)[:n])


def _harmonics(rng, count, fall):
    """Amplitudes of up to 40 harmonics with random resonances."""
    order = np.arange(1.0, max(2.0, min(40.0, count)))
    resonances = gaussian_filter1d(rng.standard_normal(len(order)), 1.5)
    return np.exp(resonances) / order**fall


def _tone(phase, harmonics):
    """Sum of harmonics at a phase in periods, RMS 1."""
    period = np.zeros(_TABLE // 2 + 1, dtype=complex)
    order = np.arange(1, len(harmonics) + 1)
    # Phases that grow as the square of the order keep the crest low.
    period[order] = harmonics * np.exp(1j * np.pi * order**2 / len(order))
    table = unit(irfft(period, _TABLE)).astype(np.float32)
    return table[(phase * _TABLE).astype(int) & (_TABLE - 1)]


def _voice(n, rate, rng, pitch):
    """One talker: phrases of syllables, about four a second."""
    seconds, lengths = [], []
    second = -rng.uniform(0, 1.0)
    while second < n / rate:
        for _ in range(rng.integers(3, 12)):
            seconds.append(second)
            lengths.append(rng.uniform(0.12, 0.35))
            second += 0.8 * lengths[-1]
        second += rng.exponential(0.5)

    count = len(seconds)
    block = next_fast_len(int(0.4 * rate), real=True)
    time = np.arange(block) / rate
    size = (pitch / 120.0) ** 0.25  # shorter vocal tracts of higher voices
    pitches = pitch * np.exp(rng.normal(0, 0.12, (count, 1)))
    bend = 1 + rng.normal(0, 0.3, (count, 1)) * time
    pulses = _tone(
        pitches * bend * time, 1 / np.arange(1.0, min(50.0, rate / 3 / pitch))
    )
    pulses += 0.03 * rng.standard_normal(block, dtype=np.float32)
    ends = np.array(lengths)[:, None]
    bumps = _BUMP[(1024 * np.minimum(time / ends, 1.0)).astype(int)]
    vowels = _vowels(rfftfreq(block, 1 / rate), size).astype(np.float32)
    vowel = rng.integers(len(vowels), size=count)
    syllables = irfft(rfft(pulses * bumps) * vowels[vowel], block)
    fricative = band_noise(block, rate, rng, 5500.0, 0.7)
    track = np.zeros(n)
    for second, syllable, bump in zip(seconds, syllables, bumps):
        loudness = rng.uniform(0.5, 1.5)
        _place(track, 0.6 * loudness * unit(syllable), second, rate)
        if rng.random() < 0.4:
            burst = 0.35 * loudness * (fricative * bump)[::3]
            _place(track, burst, second - 0.05, rate)
    return track


def _vowels(frequency, size):
    """Gains of the vowels (vowels, bins) of a vocal tract of some size."""
    vowels = [(*lower, 3300, 4200) for lower in _FORMANTS]
    formants = size * np.array(vowels)[:, :, None]  # (V, 5, 1)
    detuned = (frequency - formants) / (40.0 + 0.04 * formants)
    heights = np.array([1.0, 0.6, 0.4, 0.3, 0.2])[:, None]
    return 0.02 + (heights / (1 + detuned**2)).sum(1)


def _struck(rate, rng, centre, ring):
    """A thing that is struck: a click and some decaying resonances."""
    length = int(min(5 * ring, 1.5) * rate)
    time = np.arange(length) / rate
    sound = np.zeros(length)
    for _ in range(6):
        mode = min(centre * np.exp(rng.normal(0, 0.5)), 0.45 * rate)
        decay = np.exp(-time / (ring * rng.uniform(0.4, 1.2)))
        sound += np.sin(2 * np.pi * mode * time) * decay * rng.uniform(0.3, 1.0)
    click = band_noise(length, rate, rng, 1.5 * centre, 1.5)
    return sound + 2.0 * click * np.exp(-time / 0.006)


def _moments(n, rate, rng, often, length, margin=None):
    """Random times in seconds, ``often`` a second, the first before 0."""
    start = -(length if margin is None else margin)
    end = n / rate + (margin or 0.0)
    return rng.uniform(start, end, rng.poisson(often * (end - start)))


def _soft_gate(control, share):
    """Values from 0 to 1 that are high for a share of the time."""
    threshold = 3.0 * (0.5 - share)
    return 1 / (1 + np.exp(np.clip(-8 * (control - threshold), -50, 50)))


def _place(track, event, second, rate):
    """Adds an event at a time, what lies outside left out."""
    start = int(second * rate)
    event = event[max(0, -start) :][: max(0, len(track) - max(0, start))]
    track[max(0, start) :][: len(event)] += event
