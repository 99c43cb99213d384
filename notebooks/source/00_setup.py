# %% [markdown] title
# # 00 Set-up: the machine, the folders, your recordings
#
# At the end you know what this machine can do, where your files belong, how good recordings sound, and the pretrained
# networks that your choices need are here and checked.
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
# features and voices are kept in Google Drive and survive the end of the session.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Name of the speaker you will bring; a folder of this name is made for the recordings.
speaker = "me"  #@param {"type": "string"}
speech_encoder  #@option features --speech_encoder
f0_predictor  #@option features --f0_predictor; rmvpe is fetched
shallow_diffusion  #@option convert --shallow_diffusion; fetches it
enhance  #@option convert --enhance; fetches it
#@markdown Fetch a model to start from: so-vits-svc 4.1, with loudness, diffusion, or RVC (also others).
base_model = ""  #@param ["", "base", "base_volume", "base_diffusion", "base_rvc_v2_40k", "base_rvc_v2_48k"] {"allow-input": true}

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
from svcnb.notebook.display import show_recordings

bundled = find_audio_files(work.find("data/demo"))
show_recordings(bundled, work.project)

# %% [markdown] listen-text
# ## Listen
# This is the first of them. If you hear nothing, check the loudspeaker before you continue: you will need it.

# %% listen
show_audio(bundled[0])

# %% [markdown] weights-text
# ## Pretrained networks
# Content encoders and pitch trackers learn from many hours of sound, so their weights are bundled or downloaded. What
# is here works without a network; the rest is optional and gets better results. Each has a licence of its own.

# %% weights
from svcnb.files.downloads import TABLE_HEADINGS, fetch, table_of, weights_for
from svcnb.files.pretrained_table import WEIGHTS
from svcnb.plots import Table

Table(TABLE_HEADINGS, table_of(WEIGHTS.values()))

# %% [markdown] fetch-text
# ## Fetch what your choices need
# Nothing else is downloaded, and a download that broke off resumes when you run the cell again. Every file is compared
# with the published checksum, or with the one that its first use recorded. Without a network the error names the file
# and the folder to put it into.

# %% fetch
options = {"shallow_diffusion": shallow_diffusion, "enhance": enhance, base_model: base_model}
chosen = [speech_encoder, f0_predictor, *(name for name in options if options[name])]
fetched = [fetch(row.name) for row in weights_for(chosen)]
rows = [(f.path.name, f.mirror or "was here", f"{f.n_bytes / 1e6:.1f} MB", f.verified) for f in fetched]
Table(("file", "from", "size", "checksum"), rows)

# %% [markdown] files-text
# ## What is there now
# These files are in your folder. Next: [01_slice](01_slice.ipynb) cuts them into training clips.

# %% files
show_files(raw_folder)
