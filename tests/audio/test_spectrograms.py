"""Spectrograms: the filter bank equals its formulas, and views are noisy, shifted copies."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fungi.backbones.base import BACKBONES
from fungi.errors import FungiError
from fungi.views.filter_bank import cut_or_pad, log_mel
from fungi.views.loading import prepare

INPUT = BACKBONES["patch-ssast"].input
SMALLEST_ENERGY = 1.1920929e-7  # epsilon of float32, the lowest energy in Kaldi
SILENCE = np.log(SMALLEST_ENERGY)


def slow_filter_bank(waveform: np.ndarray) -> np.ndarray:
    """Return the filter bank that Kaldi documents, computed in float64 with loops over frames, bins and filters.

    A frame has 400 samples (25 ms), and the next frame starts 160 samples (10 ms) later. 128 filters lie between 20 Hz
    and 8 kHz.
    """
    x = waveform.astype(np.float64) - waveform.astype(np.float64).mean()
    window = [0.5 - 0.5 * np.cos(2 * np.pi * i / 399) for i in range(400)]
    edges = np.linspace(mel(20.0), mel(8000.0), 130)
    rows = []
    for start in range(0, len(x) - 399, 160):
        frame = x[start : start + 400] - x[start : start + 400].mean()
        emphasised = [frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(400)]
        power = np.abs(np.fft.rfft(np.multiply(emphasised, window), 512)) ** 2
        rows.append([np.log(max(filter_energy(power, *edges[k : k + 3]), SMALLEST_ENERGY)) for k in range(128)])
    return np.array(rows)


def filter_energy(power: np.ndarray, left: float, centre: float, right: float) -> float:
    """Return the energy in a triangular filter. power: power of each bin. left, centre, right: corners in mel."""
    total = 0.0
    for bin_number in range(256):
        frequency = mel(bin_number * 16000 / 512)
        if left < frequency <= centre:
            total += power[bin_number] * (frequency - left) / (centre - left)
        elif centre < frequency < right:
            total += power[bin_number] * (right - frequency) / (right - centre)
    return total


def mel(frequency: float) -> float:
    """Convert a frequency from Hz to mel."""
    return 1127 * np.log(1 + frequency / 700)


def sound(samples: int = 2000) -> np.ndarray:
    """Return a tone of 700 Hz with noise."""
    generator = np.random.default_rng(1)
    tone = np.sin(2 * np.pi * 700 * np.arange(samples) / 16000)
    return (0.3 * tone + 0.05 * generator.standard_normal(samples) + 0.1).astype(np.float32)


def test_the_filter_bank_equals_the_formulas():
    # In float32, the logarithm of a low energy has few correct digits. Kaldi's code has the same tolerance.
    np.testing.assert_allclose(log_mel(torch.from_numpy(sound())).numpy(), slow_filter_bank(sound()), atol=1e-3)


def test_the_filter_bank_equals_torchaudio():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", reason="optional check: torchaudio is not installed")
    waveform = torch.from_numpy(sound(16000))
    expected = kaldi.fbank(
        (waveform - waveform.mean()).unsqueeze(0),
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    torch.testing.assert_close(log_mel(waveform), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("samples", "frames"), [(80000, 498), (16000, 98), (400, 1), (559, 1), (560, 2)])
def test_the_spectrogram_has_only_complete_frames(samples, frames):
    assert log_mel(torch.zeros(samples)).shape == (frames, 128)


def test_silence_has_the_smallest_value_and_filter_3_is_always_silent():
    torch.testing.assert_close(log_mel(torch.zeros(16000)), torch.full((98, 128), float(SILENCE)))
    spectrogram = log_mel(torch.from_numpy(sound())).numpy()
    silent_filters = [k for k in range(128) if np.allclose(spectrogram[:, k], SILENCE)]
    assert silent_filters == [3]  # this filter is so narrow that it lies between two bins


def test_padding_is_at_the_end_and_is_normalised():
    views = INPUT.views("plain")
    batch = views.collate([views.prepare(sound(80000)), views.prepare(sound(200000))])
    assert batch.shape == (2, 1, 512, 128)
    assert (batch[0, 0, 498:] == 0).all()
    assert (batch[1, 0, 498:] != 0).any()
    rendered = views.render(batch)
    # The statistics of the dataset are a mean of -6.6268077 and a deviation of 5.358466; padding is 0 before them.
    torch.testing.assert_close(rendered[0, 498:], torch.full((14, 128), 0.618), rtol=0, atol=1e-3)
    torch.testing.assert_close(rendered[0, :498], (batch[0, 0, :498] + 6.6268077) / (2 * 5.358466))


def test_a_long_clip_is_truncated_at_the_end():
    spectrogram = log_mel(torch.from_numpy(sound(16000)))
    assert torch.equal(cut_or_pad(spectrogram, 20), spectrogram[:20])


def test_views_are_noisy_shifted_copies():
    generator = INPUT.views("noisy-shifts")
    waveform = sound(80000)
    plain = INPUT.views("plain").prepare(waveform)[0]
    views = prepare(generator, waveform, seed=42, sample_id="row")
    assert views.shape == (16, 512, 128)
    shifts = []
    for view in views:
        noise_of_shifts = {shift: view.roll(-shift, dims=0) - plain for shift in range(-20, 21)}
        (shift,) = [shift for shift, noise in noise_of_shifts.items() if noise.min() >= 0 and noise.max() < 0.1]
        shifts.append(shift)
    assert len(set(shifts)) > 5
    assert all(-10 <= shift <= 9 for shift in shifts)


@pytest.mark.slow
def test_the_shifts_of_many_views_are_all_shifts_from_minus_10_to_9():
    views = INPUT.views("noisy-shifts", n_views=400, noise=0.0)
    pulse = np.zeros(90000, dtype=np.float32)  # so long that it needs no padding, which is louder than silence
    pulse[40000:40400] = sound(400)
    position = INPUT.views("plain").prepare(pulse)[0].sum(dim=1).argmax()
    shifts = {int(view.sum(dim=1).argmax() - position) for view in prepare(views, pulse, seed=1, sample_id="row")}
    assert shifts == set(range(-10, 10))


def test_views_depend_on_the_row_and_not_on_the_number_of_views():
    waveform = sound(16000)
    two, four, four_of_same_row, four_of_other_row = (
        prepare(INPUT.views("noisy-shifts", n_views=count), waveform, seed=42, sample_id=name)
        for count, name in ((2, "row"), (4, "row"), (4, "row"), (4, "other"))
    )
    assert torch.equal(two, four[:2])
    assert torch.equal(four, four_of_same_row)
    assert not torch.equal(four, four_of_other_row)


def test_noise_after_normalisation_is_not_divided_by_the_deviation():
    waveform = sound(16000)
    noisy = replace(INPUT, noise_stage="after_norm").views("noisy-shifts", shift=0)
    plain = INPUT.views("plain")
    normalised = plain.render(plain.collate([plain.prepare(waveform)]))
    noise = noisy.render(noisy.collate([prepare(noisy, waveform, seed=1, sample_id="row")])) - normalised
    assert noise.min() > -1e-5
    assert 0.05 < noise.max() < 0.1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("crops", {}, r"unknown kind of audio views 'crops'.*noisy-shifts, plain"),
        ("noisy-shifts", {"n_views": 1}, "n_views has to be at least 2"),
        ("noisy-shifts", {"shift": -1}, "shift -1 is negative"),
        ("noisy-shifts", {"grid": 2}, "have no option 'grid'"),
    ],
)
def test_unknown_kinds_and_options_are_refused(kind, options, message):
    with pytest.raises(FungiError, match=message):
        INPUT.views(kind, **options)


@pytest.mark.parametrize("item", ["a text", np.zeros((2, 500), dtype=np.float32)])
def test_an_item_that_is_not_a_mono_waveform_is_refused(item):
    with pytest.raises(FungiError, match="a mono waveform was expected"):
        INPUT.views("plain").prepare(item)
