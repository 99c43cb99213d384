# %% [markdown] title
# # 00 Set-up: the machine, the folders, your recordings
#
# At the end you know what this machine can do, where your files belong, and how good recordings sound.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | this notebook | under a minute | not yet measured |
#
# The way through: **00 set-up**, 01 slice, 02 features, 03 train, 05 convert. Every notebook hands over to the next
# through files below `data/`, so each can be run again alone, on another day.

# %% [markdown] consent
# ## Whose voice?
# Train only voices you may use: your own, one whose owner has agreed, or one that is published for this purpose.
# Do not pass off a converted voice as a real recording of a person, and say so when you publish one. Colab's terms
# forbid deepfakes; this suite needs no web interface and no tunnel, which they forbid on free machines as well.

# %% [markdown] parameters-text
# ## Parameters
# Leave the workspace empty to keep everything in the project's folder. On Colab choose `drive`: then your recordings,
# features and voices lie in Google Drive and survive the end of the session.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Name of the speaker you will bring; a folder of this name is made for the recordings.
speaker = "me"  #@param {"type": "string"}

# %% [markdown] folders-text
# ## Folders
# Recordings belong into `data/raw/<speaker>/`, one folder for each voice. Any format will do: wav, flac, mp3, m4a, even
# video. Ten minutes of clean singing or speech make a usable voice, one minute a first impression.

# %% folders
work = open_workspace(workspace)
raw_folder = work.make(Path("data/raw") / speaker)
show_facts({"put recordings into": raw_folder, "recordings there": len(list(raw_folder.iterdir()))})

# %% [markdown] demo-text
# ## The bundled voices
# So that everything can be tried at once, the project comes with a small demo voice and recordings to convert. Your own
# recordings should be as dry as these: no music, no echo, no other voice.

# %% demo
from svcnb.audio import find_audio_files
from svcnb.widgets import show_recordings

bundled = find_audio_files(work.find("data/demo"))
show_recordings(bundled, work.project)

# %% [markdown] listen-text
# ## Listen
# This is the first of them. If you hear nothing, check the loudspeaker before you go on: you will need it.

# %% listen
show_audio(bundled[0])

# %% [markdown] weights-text
# ## Pretrained networks
# Content encoders and pitch trackers learn from many hours of sound, so their weights are downloaded or bundled. What
# says `present` works without a network; the rest is optional and gets better results.

# %% weights
from svcnb.downloads import WEIGHTS, has_weights
from svcnb.widgets import Table

known = {name: "present" if has_weights(name) else "optional" for name in WEIGHTS}
rows = [(w.used_for, w.file_name, known[name], w.licence) for name, w in WEIGHTS.items()]
Table(("used for", "file in pretrain/", "", "licence"), rows)

# %% [markdown] files-text
# ## What is there now
# These files lie in your folder. Next: [01_slice](01_slice.ipynb) cuts them into training clips.

# %% files
show_files(raw_folder)
