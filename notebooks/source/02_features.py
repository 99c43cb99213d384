# %% [markdown] title
# # 02 Features: content, f0 and loudness of every clip
#
# At the end each clip is stored as what the network learns from: *content* (what is sung), *f0* (the pitch contour) and the
# sound itself, in a few large files that survive an interruption.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | two minutes of clips | about half a minute | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# `small` trains on a laptop in minutes and gives a recognisable voice; `full` is so-vits-svc's own size and wants a GPU.
# The encoder and the pitch predictor `auto` are the best ones whose weights are there.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Folder with the clips, one folder per speaker.
clips_folder = "data/clips"  #@param {"type": "string"}
#@markdown Folder for the features.
features_folder = "data/features/demo"  #@param {"type": "string"}
config  #@option features --config
speech_encoder  #@option features --speech_encoder
f0_predictor  #@option features --f0_predictor
vol_embedding  #@option features --vol_embedding
n_jobs  #@option features --num_processes
device  #@option features --device
overwrite  #@option features --overwrite

# %% [markdown] extract-text
# ## Extract
# Every clip passes through the content encoder and the pitch predictor once. Interrupt it whenever you like: the same
# cell resumes where it stopped.

# %% extract
from svcnb.data.settings import PrepareSettings
from svcnb.models.sovits import Config, prepare

work = open_workspace(workspace)
clips, features = work.find(clips_folder), work.make(features_folder)
sizes = {"small": Config.small, "full": Config.full}
size = sizes[config]() if config in sizes else Config.load(work.find(config))
settings = PrepareSettings(
    encoder=speech_encoder, f0_method=f0_predictor, with_volume=vol_embedding, n_jobs=n_jobs,
    device=device, overwrite=overwrite,
)
report = prepare(size, clips, features, settings)
print(report)

# %% [markdown] stored-text
# ## What is stored
# One row is 20 milliseconds or less: the content is a vector that says which sound is being made but hardly who makes
# it, and f0 is the pitch in Hz, 0 where there is none. This separation is what makes conversion possible.

# %% stored
from svcnb.data.extraction import scan_clips
from svcnb.data.feature_store import FeatureStore
from svcnb.plots import Table

store = FeatureStore.open(features)
first = next(clip for clip in scan_clips(clips) if clip.name in store.names())
arrays = store.read(first.name)
Table(("array", "shape", "type"), [(k, str(v.shape), str(v.dtype)) for k, v in arrays.items()])

# %% [markdown] melody-text
# ## f0 over the spectrogram
# The bright stripes are harmonics; the curve should be on the lowest one. If it jumps an octave or has holes in held
# notes, choose another predictor and extract again with `overwrite`.

# %% melody
from svcnb.audio import read_audio
from svcnb.features.pitch.track import F0Track
from svcnb.plots import plot_f0_over_spectrogram

clip = read_audio(first.path)
track = F0Track(arrays["f0_hz"], store.settings.hop_s)
plot_f0_over_spectrogram(clip, track, title=first.name)

# %% [markdown] second-text
# ## A second opinion
# Where two different predictors agree, f0 is reliable. DIO is an old and fast one: it errs more often in breathy
# or creaky sounds, so look at where they differ, not at how much.

# %% second
from svcnb.features.pitch.estimator import PitchEstimator

hop_samples = round(track.hop_s * clip.sample_rate_hz)
dio = PitchEstimator("dio", sample_rate_hz=clip.sample_rate_hz, hop_samples=hop_samples)
labels = [store.settings.pitch_method, "dio"]
plot_f0_over_spectrogram(clip, track, other_tracks=[dio(clip.samples)], labels=labels)

# %% [markdown] range-text
# ## Range of each voice
# The median f0 tells how many semitones to shift a song in 05_convert: 12 semitones are an octave. A voice sings best
# inside the range it was trained on.

# %% range
import numpy as np

pitches = [(store.record(name).speaker, store.read(name)["f0_hz"]) for name in store.names()]
rows = []
for speaker in store.speakers():
    f0_hz = np.concatenate([f0[f0 > 0] for who, f0 in pitches if who == speaker])
    rows.append((speaker, *(f"{hz:.0f}" for hz in np.percentile(f0_hz, [5, 50, 95]))))
Table(("speaker", "lowest (Hz)", "middle", "highest"), rows)

# %% [markdown] files-text
# ## What was made
# Next: [03_train](03_train.ipynb) trains the voice from these files alone.

# %% files
show_files(features)
