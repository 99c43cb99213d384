# %% [markdown] title
# # 21 Mix and export: new voices from trained ones, and files to hand on
#
# At the end you have a voice mixed from two, a song in which one speaker turns into another, a small release file, and
# the voice as an ONNX file for programs without Python. Nothing is trained here.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | everything, small voice | under a minute | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# Mixing weights works for voices that come from one training or one base model. Mixing speakers needs one voice that was
# trained on two or more: in 01, one folder of recordings for each.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Folder of the voice.
voice_folder = "data/models/demo"  #@param {"type": "string"}
#@markdown Second voice, or one G_*.pth; empty = an earlier checkpoint of the same voice.
second_voice = ""  #@param {"type": "string"}
#@markdown Weight of the first voice in the mix; the second gets the rest of 100.
first_weight = 50  #@param {"type": "slider", "min": 0, "max": 100, "step": 1}
mode = "linear"  #@option mix --mode
#@markdown Folder for the mixed voice.
mixed_folder = "data/models/mixed"  #@param {"type": "string"}
#@markdown Recording to listen to the mixes with; ten seconds of it are used.
wav = "data/demo/raw/bruno/bruno_01.flac"  #@param ["data/demo/raw/bruno/bruno_01.flac", "data/demo/song/melody.flac"] {"allow-input": true}
trans  #@option convert --trans
half  #@option compress --half
#@markdown Name of the release file and of the exported voice.
name = "release"  #@param {"type": "string"}
speaker_mix  #@option convert --use_spk_mix

# %% [markdown] voices-text
# ## What there is to mix
# Two files of the same shape are needed. Checkpoints of one training always fit; another voice must have the same
# configuration and content encoder, and what differs is listed by name.

# %% voices
from svcnb.models.sovits.files import step_of

work = open_workspace(workspace)
voice_path, source_path = work.find(voice_folder), work.find(wav)
checkpoints = [path for path in voice_path.glob("G_*.pth") if step_of(path) is not None]
checkpoints.sort(key=step_of)
first = checkpoints[-1]
second = work.find(second_voice) if second_voice else checkpoints[0]
show_facts({"first": first.name, "second": second.name, "checkpoints there": len(checkpoints)})

# %% [markdown] mix-text
# ## Mix the weights
# Every number of the new voice is the weighted sum of the two old ones. The first voice's speakers, configuration and
# training state are kept, so the result can be converted with and trained on.

# %% mix
from svcnb.models.sovits import mix_voices

rates = [first_weight, 100 - first_weight]
mixed_path = work.make(mixed_folder)
print(mix_voices([first, second], mixed_path, rates=rates, mode=mode))

# %% [markdown] listen-text
# ## Listen to the mix
# The two voices first, then what is between them. Between two checkpoints of one training the mix often has less of the
# noise that either has; between strangers it is a new timbre, or mud.

# %% listen
from svcnb.audio import read_audio
from svcnb.conversion import ConversionSettings
from svcnb.models.sovits import load_voice

source = read_audio(source_path).slice_s(0, 10)
plain = ConversionSettings(transpose_semitones=trans)
voices = {path: load_voice(path) for path in (first, second, mixed_path)}
display(*(show_audio(voice.convert(source, plain), path.name) for path, voice in voices.items()))

# %% [markdown] timeline-text
# ## Mix speakers over time
# The plot shows who is heard when. Each speaker has a curve over the song from 0 to 1, and at every moment the weights
# add up to 100 %. The curves are also written as a table beside the results: edit it and name it as `speaker_mix`.

# %% timeline
from svcnb.conversion import read_mix, write_mix
from svcnb.plots import plot_speaker_mix

voice = voices[first]
one, other = [*voice.speakers, "another"][:2]
mix = read_mix(speaker_mix or {one: [(0, 1, 1, 0)], other: [(0, 1, 0, 1)]})
table = write_mix(work.make("data/converted") / "speaker_mix.csv", mix)
plot_speaker_mix(mix, source.duration_s, title=f"speakers of {voice.name}")

# %% [markdown] sing-text
# ## Hear them change
# The whole recording is one timeline, however it is cut into chunks. A voice with a single speaker is only converted
# plainly here.

# %% sing
can_mix = len(voice.speakers) > 1
changing = plain.model_copy(update={"speaker_mix": mix}) if can_mix else plain
result = voice.convert(source, changing)
display(show_audio(result, " to ".join(mix) if can_mix else "one speaker: nothing to mix"))

# %% [markdown] compress-text
# ## A small file to hand on
# What only training needs is left out. The file converts exactly as before, here and in so-vits-svc, but cannot be
# trained on, so keep the whole one.

# %% compress
from svcnb.models.sovits.release import compress_voice

released = work.make("data/released")
print(compress_voice(first, released / f"{name}.pth", half=half))

# %% [markdown] export-text
# ## Export to ONNX
# One file with the whole voice network, in the form that so-vits-svc's own export has, and a .json that describes it.
# Content and f0 come from the program that uses it. The noise of the voice is an input, so that the same input always
# gives the same sound.

# %% export
from svcnb.models.sovits import export_voice

installed = install_missing(("onnx",)) if on_colab() else []
exported = export_voice(first, released / f"{name}.onnx")
print(exported)

# %% [markdown] check-text
# ## Check the export
# The file is run by onnxruntime and compared with torch, sample by sample, for several lengths. Full scale is 1, so
# differences near one in a million are rounding.

# %% check
from svcnb.models.sovits.export import check_export

deviations = check_export(exported.path, first)
show_facts({f"{n} frames": f"largest difference {most:.1e}" for n, most in deviations.items()})

# %% [markdown] compare-text
# ## The same song by the exported voice
# Above by torch, below by the ONNX file: the f0 contours coincide. The two differ in the breath noise alone, which
# the file reads from a table instead of drawing it.

# %% compare
from svcnb.models.sovits.export import with_exported
from svcnb.plots import plot_comparison

pair = [singer.convert(source, plain) for singer in (voice, with_exported(voice, exported.path))]
display(show_audio(pair[1], exported.path.name))
melodies = [voice.estimate_f0(audio) for audio in pair]
plot_comparison(*pair, melodies, labels=("torch network", "ONNX file"))

# %% [markdown] files-text
# ## What was made
# The .pth wants the config.json beside it; the .onnx wants its .json.

# %% files
show_files(released)
