"""Prepare Speech Commands v0.02 (35 words, 105,829 clips, 2.3 GB packed, 3.8 GB unpacked): unpack, verify.

    wget -P downloads http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz
    python scripts/prepare_speech_commands.py --archives downloads --data-dir data

Makes data/speech-commands with a folder per word and the two lists of files. A folder that is there already is left as
it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("speech-commands", description=__doc__))
