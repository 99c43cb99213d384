# %% [markdown] title
# # 06 Evaluate: how good is the voice?
#
# At the end you know how similar the voice is to the person it was trained on, whether f0 and words survive, and
# what to do next. Everything is measured on this machine, and written to one web page that can be mailed.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | three recordings and one copy synthesis | about a minute | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# The target should be recordings of the trained person, best some that were not trained on. The sources are recordings
# of other people: what you want to convert later is the best test.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Voice: its folder, or one G_*.pth.
model = "data/models/demo"  #@param {"type": "string"}
speaker  #@option evaluate --spk_list
#@markdown Recordings of the target: a folder; or the features (takes clips held out in training).
target = "data/demo/raw/ada"  #@param ["data/demo/raw/ada", "data/features/demo"] {"allow-input": true}
#@markdown Recordings of others: a folder or one file.
sources = "data/demo/raw/bruno"  #@param ["data/demo/raw/bruno"] {"allow-input": true}
#@markdown A song, or more recordings; empty = none.
songs = "data/demo/song"  #@param ["data/demo/song", ""] {"allow-input": true}
cluster_infer_ratio  #@option evaluate --cluster_infer_ratio; needs 04_cluster
most = 2  #@option evaluate --most
n_copies = 1  #@option evaluate --n_copies
#@markdown Folder for the figures and the sounds.
evaluation_folder = "data/evaluation/demo"  #@param {"type": "string"}
#@markdown Measure again what is measured already.
overwrite = False  #@param {"type": "boolean"}
words  #@option evaluate --no_words
device  #@option evaluate --device

# %% [markdown] voice-text
# ## Load the voice
# Colab first fetches the measuring instruments: a network that compares voices and an offline speech recogniser. Of a
# folder's checkpoints the best on held-out clips is taken, where the training measured that.

# %% voice
from svcnb.conversion import ConversionSettings
from svcnb.models.sovits import load_voice

work, instruments = open_workspace(workspace), install_missing(("evaluate",)) if on_colab() else []
voice = load_voice(work.find(model), device=choose_device(device))
chosen = voice.speaker_name(speaker or None)
show_facts({"voice": voice.name, "speaker": chosen, "steps": voice.step})

# %% [markdown] settings-text
# ## What is compared
# Every recording is moved to the target's median f0 first, songs by whole octaves, so that the key is no excuse. What
# is already measured with the same voice and settings is kept.

# %% settings
from svcnb.evaluation.run import evaluate_voice, held_out_clips
from svcnb.evaluation.settings import EvaluationSettings

conversion = ConversionSettings(speaker=speaker or None, cluster_ratio=cluster_infer_ratio)
settings = EvaluationSettings(conversion=conversion, most=most, n_copies=n_copies, words=words)
folder, own = work.make(evaluation_folder), work.find(target)
if (own / "settings.json").is_file():
    own = held_out_clips(own, folder / "target", speaker=chosen)
places = [work.find(place) for place in (sources, songs) if place]
show_facts({"target": target, "sources": ", ".join(path.name for path in places), "copies": n_copies})

# %% [markdown] measure-text
# ## Measure
# A row for each folder, then the target's own recordings, copied and converted into themselves. `similarity` compares
# voices: sentences of one person reach 0.88 to 0.97, different people 0.4 to 0.75. `relative similarity` puts the source at 0 and
# the target's own recordings at 100.

# %% measure
from svcnb.plots import Table

evaluation = evaluate_voice(voice, own, places, folder, settings, overwrite=overwrite)
Table(*evaluation.table())

# %% [markdown] advice-text
# ## In plain words
# The same metrics as sentences, faults first. Each sentence names the metric it comes from, and what to try. Recordings
# that could not be measured are listed with the reason.

# %% advice
from svcnb.evaluation.advice import advise

rows = [(item.kind, item.text) for item in advise(evaluation)]
rows += [("not measured", f"{item.name}: {item.reason}") for item in evaluation.skipped]
Table(("", "what the figures say"), rows)

# %% [markdown] similarity-text
# ## Does it sound like the target?
# Each arrow leads from the source's voice to the result's. The green band is where the target's own recordings are, and
# nothing can be expected beyond it.

# %% similarity
from svcnb.evaluation.plots import plot_distance, plot_f0_pairs, plot_overview, plot_similarity

plot_similarity(evaluation)

# %% [markdown] overview-text
# ## f0, hoarseness, words
# `f0 correlation` is 1 when the contour is followed exactly, and `f0 error` is the median error of the f0: 20
# cents are hardly audible. `voicing differs` is heard as hoarseness above 10 %. `words wrong` comes from a recogniser that
# also errs in perfect recordings, so only the difference counts.

# %% overview
plot_overview(evaluation)

# %% [markdown] listen-text
# ## Listen: before and after
# The first source and its result, with the f0 that was wanted and the one that came out. Points off the diagonal are
# out of tune.

# %% listen
from svcnb.audio import read_audio

for first in evaluation.sources[:1]:
    before = read_audio(first.recording).slice_s(0, settings.max_seconds)
    after = read_audio(folder / first.file)
    wanted = voice.estimate_f0(before).transposed(first.transpose_semitones)
    display(show_audio(before, f"source: {first.name}"), show_audio(after, "result"))
    display(plot_f0_pairs(wanted, voice.estimate_f0(after), title=first.name))

# %% [markdown] copies-text
# ## Which stage is at fault
# Copy synthesis goes through the decoder only, the conversion through everything. If copy synthesis sounds bad,
# train longer or on cleaner recordings; if only the conversion does, look at the content encoder and at `cluster_infer_ratio`. The distance
# is in dB: 2 is a good vocoder, 4 to 5 a small voice after half an hour, 8 has learned nothing yet.

# %% copies
for stages in evaluation.copies[:1]:
    remade = {"copy synthesis": stages.copy, "conversion": stages.conversion}
    remade = [(name, read_audio(folder / stage.file)) for name, stage in remade.items() if stage]
    recording = read_audio(stages.recording).slice_s(0, settings.max_seconds)
    display(show_audio(recording, f"recording: {stages.name}"))
    display(*[show_audio(audio, name) for name, audio in remade], plot_distance(recording, remade))

# %% [markdown] files-text
# ## What was made
# `evaluation.html` holds metrics, plots and players in one file; `evaluation.csv` opens in a spreadsheet.

# %% files
from svcnb.evaluation.page import write_page

page = write_page(evaluation, folder, estimate_f0=voice.estimate_f0)
show_files(folder)
