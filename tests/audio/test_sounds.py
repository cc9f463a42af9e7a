"""Reading of sounds: formats, sampling rates, channels, and invalid files."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from fungi.data.base import DATASETS, open_split
from fungi.data.formats.sounds import SAMPLE_RATE, read_wav, resample
from fungi.data.sets.tones import SIGNALS
from fungi.errors import FungiError, MissingFilesError

TIME = np.arange(8000) / SAMPLE_RATE  # seconds
TONE = 0.5 * np.sin(2 * np.pi * 440 * TIME)


# scale, offset: value of the type for an amplitude of 1, and for silence. step: precision of the type in float32.
@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "step"),
    [
        (np.uint8, 127, 128, 2**-7),
        (np.int16, 2**15, 0, 2**-15),
        (np.int32, 2**31, 0, 2**-24),
        (np.float32, 1, 0, 2**-24),
        (np.float64, 1, 0, 2**-24),
    ],
)
def test_every_value_type_is_read_with_its_precision(tmp_path, dtype, scale, offset, step):
    values = TONE * scale + offset
    wavfile.write(tmp_path / "a.wav", SAMPLE_RATE, (values if scale == 1 else np.round(values)).astype(dtype))
    waveform = read_wav(tmp_path / "a.wav", "a")
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, TONE, atol=2 * step)


def test_channels_are_averaged(tmp_path):
    wavfile.write(tmp_path / "a.wav", SAMPLE_RATE, np.stack([TONE, np.zeros_like(TONE)], axis=1).astype(np.float32))
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav", "a"), TONE / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled_to_the_same_sound(rate):
    time = np.arange(rate) / rate
    waveform = resample(np.sin(2 * np.pi * 440 * time), rate)
    assert len(waveform) == SAMPLE_RATE
    expected = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    middle = slice(1000, -1000)  # the filter has no values beyond the ends
    np.testing.assert_allclose(waveform[middle], expected[middle], atol=0.01)


def test_frequencies_above_half_the_rate_are_filtered_out():
    time = np.arange(44_100) / 44_100
    filtered = resample(np.sin(2 * np.pi * 12_000 * time), 44_100)  # without a filter it would be a tone of 4 kHz
    assert np.abs(filtered[1000:-1000]).max() < 0.01


def test_a_silent_clip_is_accepted(tmp_path):
    wavfile.write(tmp_path / "a.wav", SAMPLE_RATE, np.zeros(16000, dtype=np.int16))
    assert not read_wav(tmp_path / "a.wav", "a").any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros(399, dtype=np.int16),
            r"sample 'yes/a.wav': .*a.wav is too short. It has 399 values .* at least 400 \(25 ms\)",
        ),
        (np.full(500, np.nan, dtype=np.float32), r"contains values that are not finite"),
    ],
)
def test_clips_that_are_too_short_or_not_finite_are_refused(tmp_path, values, message):
    wavfile.write(tmp_path / "a.wav", SAMPLE_RATE, values)
    with pytest.raises(FungiError, match=message):
        read_wav(tmp_path / "a.wav", "yes/a.wav")


def test_errors_name_damaged_and_missing_files(tmp_path):
    wavfile.write(tmp_path / "a.wav", SAMPLE_RATE, np.zeros(500, dtype=np.int16))
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(b"RIFX" + content[4:30])
    with pytest.raises(FungiError, match=r"sample 'a': can't read .*a.wav as WAV"):
        read_wav(tmp_path / "a.wav", "a")
    with pytest.raises(MissingFilesError, match=r"sample 'b': there is no file .*b.wav"):
        read_wav(tmp_path / "b.wav", "b")


@pytest.mark.parametrize("name", ["esc-50", "speech-commands"])
def test_a_dataset_sets_the_length_and_the_statistics_of_its_spectrograms(name):
    frames = {"esc-50": 512, "speech-commands": 128}
    options = DATASETS[name].input_options
    assert options["frames"] == frames[name]
    assert set(options) == {"frames", "mean", "deviation"}


def test_every_fold_of_esc50_is_a_dataset_with_the_same_sizes():
    names = ["esc-50", *(f"esc-50-fold{fold}" for fold in range(2, 6))]
    assert all(dict(DATASETS[name].sizes) == {"train": 1600, "test": 400} for name in names)
    assert [DATASETS[name].is_in_paper for name in names] == [True, False, False, False, False]


def test_tones_are_reproducible_different_and_described_as_synthetic():
    train, test = (open_split("tones", split, Path()) for split in ("train", "test"))
    np.testing.assert_array_equal(train.load(3), open_split("tones", "train", Path()).load(3))
    clips = [train.load(row) for row in range(8)] + [test.load(row) for row in range(8)]
    for clip in clips:
        assert clip.dtype == np.float32
        assert len(clip) == SAMPLE_RATE
        assert np.abs(clip).max() <= 1
    assert len({clip.tobytes() for clip in clips}) == len(clips)
    assert train.targets[:9].tolist() == [*range(8), 0]
    assert len(SIGNALS) == 8
    assert "synthetic" in DATASETS["tones"].title.lower()
    assert "synthetic" in DATASETS["tones"].notes


def test_a_truncated_file_is_refused(tmp_path):
    wavfile.write(tmp_path / "a.wav", SAMPLE_RATE, np.zeros(16_000, dtype=np.int16))
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(FungiError, match=r"sample 'a': can't read .*a.wav as WAV \(Reached EOF prematurely"):
        read_wav(tmp_path / "a.wav", "a")


@pytest.mark.parametrize("rate", [0, 1, 999, 2**31 - 1])
def test_an_implausible_sampling_rate_is_refused_before_resampling(tmp_path, rate):
    wavfile.write(tmp_path / "a.wav", SAMPLE_RATE, np.zeros(16_000, dtype=np.int16))
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    bytes_per_second = 2 * rate % 2**32
    content[28:32] = bytes_per_second.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(bytes(content))
    with pytest.raises(FungiError, match=rf"sample 'a': .*a.wav has a sampling rate of {rate} Hz"):
        read_wav(tmp_path / "a.wav", "a")
