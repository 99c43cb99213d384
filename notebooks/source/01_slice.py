# %% [markdown] title
# # 01 Slice: from recordings to training clips
#
# At the end your recordings are cut at their pauses into clips of a few seconds, and you have seen where, how long the
# clips are, and whether the recordings are clean enough.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | two minutes of recordings | a few seconds | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# The defaults cut the bundled demo voice. For your own put recordings into `data/raw/<speaker>/` and choose `data/raw`.
# Clips that are too long need much memory in training; clips under a second teach little.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Folder with one folder per speaker, or the folder of one speaker.
raw_folder = "data/demo/raw/ada"  #@param ["data/demo/raw/ada", "data/raw"] {"allow-input": true}
#@markdown Folder for the clips.
clips_folder = "data/clips"  #@param {"type": "string"}
threshold_db  #@option slice --threshold_db
min_clip_s  #@option slice --min_clip_s
max_clip_s  #@option slice --max_clip_s
#@markdown Cut again what is already cut.
overwrite = False  #@param {"type": "boolean"}
level  #@option slice --level
sample_rate_hz  #@option slice --sample_rate_hz

# %% [markdown] recordings-text
# ## The recordings
# Look at lengths and peaks first. A peak of 1.00 usually means clipping, which no later step can repair; a peak under 0.1
# is a very quiet recording, for which `level` helps.

# %% recordings
from svcnb.audio import find_audio_files, read_audio
from svcnb.notebook.display import show_recordings
from svcnb.plots import Table

work = open_workspace(workspace)
raw = work.find(raw_folder)
recordings = find_audio_files(raw)
show_recordings(recordings, raw)

# %% [markdown] cut-text
# ## Cut
# Every recording is read once, cut, and written as mono FLAC. What was cut before with the same settings is kept, so
# this can be stopped and run again. Recordings that give nothing are listed with the reason.

# %% cut
from svcnb.audio.settings import CutSettings
from svcnb.data.clips import cut_folder

settings = CutSettings(
    threshold_db=threshold_db, min_clip_s=min_clip_s, max_clip_s=max_clip_s,
    level=level, sample_rate_hz=sample_rate_hz,
)
clips = work.make(clips_folder)
report = cut_folder(raw, clips, settings, overwrite=overwrite)
print(report)
Table(("left out", "reason"), report.skipped)

# %% [markdown] cuts-text
# ## Where it was cut
# Coloured clips are kept, white is silence that was left out. If words are cut off, lower `threshold_db` and run again;
# if breaths and noise are kept between phrases, raise it.

# %% cuts
from svcnb.plots import plot_cuts

cuts = report.files[0]
plot_cuts(read_audio(cuts.source), cuts.clips, title=cuts.source.name)

# %% [markdown] lengths-text
# ## How long the clips are
# Most should last 2 to 12 seconds. A single huge bar at the right end means that the recording has no pauses at this
# threshold and was cut by force.

# %% lengths
from svcnb.plots import plot_clip_lengths

plot_clip_lengths({name: speaker.clip_lengths_s for name, speaker in report.speakers.items()})

# %% [markdown] listen-text
# ## Listen to three
# A clip should start and end in silence and hold one clean voice. Delete clips with music, laughter or a second
# speaker: ten clean minutes are worth more than sixty mixed ones.

# %% listen
for clip in report.clips[:: max(1, len(report.clips) // 3)][:3]:
    display(show_audio(clip))

# %% [markdown] files-text
# ## What was made
# Next: [02_features](02_features.ipynb) extracts what the network learns from.

# %% files
show_files(clips)
