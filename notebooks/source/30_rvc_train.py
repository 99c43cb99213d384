# %% [markdown] title
# # 30 RVC, training: from a folder of recordings to a voice
#
# At the end there is an RVC voice with its index in `data/models/`: cut, extracted and trained in four steps, each of
# which resumes where it stopped. With the full size it is a small model that RVC and its relatives open.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | small, demo voice | 5 minutes (the parameter `max_minutes`) | not yet measured |
# | full (RVC's own network) | too slow to be useful | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# Without pitch guidance a model is simpler to make but cannot sing: it is for speech. The small size always has it, and
# needs nothing to download; the full one takes its content from ContentVec, whose file belongs into `pretrain/`.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Folder with recordings of one voice, in any format; folders inside it are not read.
recordings = "data/demo/raw/ada"  #@param {"type": "string"}
#@markdown The experiment's folder: gets everything, and is the voice.
experiment = "data/models/demo-rvc"  #@param {"type": "string"}
size  #@option rvc train --config
version  #@option rvc train --version
sample_rate  #@option rvc train --sample_rate
#@markdown Pitch guidance of the full size: needed for songs.
pitch_guidance = True  #@param {"type": "boolean"}
f0_method  #@option rvc train --f0_method
max_minutes = 5.0  #@option rvc train --max_minutes
total_epoch  #@option rvc train --total_epoch
base  #@option rvc train --base
precision  #@option rvc train --precision
speech_encoder  #@option rvc train --speech_encoder
save_every_epoch  #@option rvc train --save_every_epoch
latest_only  #@option rvc train --latest_only
batch_size  #@option rvc train --batch_size
overwrite  #@option rvc train --overwrite
device  #@option rvc train --device

# %% [markdown] choice-text
# ## Step 1: the experiment
# Version, rate and guidance are chosen once: they cannot be changed in an experiment that has begun. Everything is in
# its folder, so experiments do not get in each other's way.

# %% choice
from svcnb.models import rvc
from svcnb.models.rvc.config import rate_of

work = open_workspace(workspace)
folder, place = work.find(recordings), work.make(experiment)
full = rvc.Config.full(version, rate_of(sample_rate), f0=pitch_guidance)
config = rvc.Config.small() if size == "small" else full
show_facts({"rate": f"{config.data.sampling_rate} Hz", "content": config.encoder, "pitch": config.f0})

# %% [markdown] cut-text
# ## Step 2a: cut
# A high-pass takes out hum, pauses are cut away, and what is long becomes windows of 3.7 seconds that overlap by 0.3.
# Each clip is brought to nearly the same level. Whatever is left out is listed with its reason.

# %% cut
cut = rvc.CutSettings(sample_rate_hz=config.data.sampling_rate)
clips = rvc.cut_recordings(folder, place, cut, overwrite=overwrite)
print(clips)

# %% [markdown] features-text
# ## Step 2b: the input features
# Of every clip: its content 50 times a second (which sound it is, hardly whose), and its pitch 100 times a second. Two
# clips of silence are added, so that the voice learns to be silent too.

# %% features
settings = rvc.PrepareSettings(
    encoder=speech_encoder, f0_method=f0_method, device=device, overwrite=overwrite,
)
report = rvc.prepare(config, place, settings)
print(report)

# %% [markdown] melody-text
# ## Look at one clip
# The curve must be on the lowest bright stripe. Above it is what the text encoder gets of it: 255 steps of equal size
# for the ear, from 50 to 1100 Hz, where step 1 means no pitch.

# %% melody
from svcnb.models.rvc.network import coarse_f0
from svcnb.models.rvc.prepare import read_clip
from svcnb.plots import plot_f0_over_spectrogram

audio, track = read_clip(place)
steps = coarse_f0(track.f0_hz[track.voiced])
plot_f0_over_spectrogram(audio, track, title=f"steps {steps.min()} to {steps.max()} of 255")

# %% [markdown] estimate-text
# ## How long will it take?
# A *step* updates the network once, with `batch_size` clips; an *epoch* takes every clip once. Time is therefore seconds
# per step, times clips over batch size, times epochs: a few steps are measured here with your clips. Bigger batches
# are steadier and quicker per clip, and take more memory: choose the largest that fits.

# %% estimate
from svcnb.models.rvc.one_click import estimate_time
from svcnb.plots import Table

estimate = estimate_time(place, batch_size=batch_size or None, device=device, precision=precision)
print(estimate)
Table(("epochs", "steps", "time"), estimate.table())

# %% [markdown] train-text
# ## Step 3a: train
# From a published base (`f0G40k.pth` and the like, in `pretrain/pretrained_v2/`) a few minutes of recordings suffice;
# the small size starts from nothing. Stop whenever you like: the same cell resumes from the last whole step, and the
# best checkpoint on held-out clips is kept.

# %% train
from svcnb.models.settings import EpochChoices
from svcnb.training.settings import TrainSettings

limits = TrainSettings(max_minutes=max_minutes or None, precision=precision, device=device)
counts = {"total_epochs": total_epoch or None, "save_every_epochs": save_every_epoch or None}
epochs = EpochChoices(**counts, latest_only=latest_only)
done = rvc.train(place, limits, epochs, base=base, batch_size=batch_size or None)
best = f"step {done.best.step}" if done.best else "not measured"
show_facts({"steps": done.step, "minutes now": done.seconds / 60, "best checkpoint": best})

# %% [markdown] losses-text
# ## Losses
# Above, the distance to the spectra of the recordings, of clips it trains on and of held-out ones (dashed). When the
# dashed line has reached a plateau, more epochs do not help: more and cleaner recordings may.

# %% losses
from svcnb.plots import plot_losses

plot_losses(done.history_path)

# %% [markdown] index-text
# ## Step 3b: the index
# It holds the content of the recordings. In a conversion, the nearest entries pull the singer's sounds towards those of
# the voice: nearer in timbre, at some cost in clarity. It needs the features only, not the trained network.

# %% index
print(rvc.build_voice_index(place))

# %% [markdown] listen-text
# ## Listen
# A held-out clip: the recording first, then the network after few steps and after all of them. Its inputs are content and
# f0 only, as in a conversion.

# %% listen
from svcnb.training.validation import read_samples

display(*[show_audio(sound, title) for title, sound in read_samples(place).heard()])

# %% [markdown] files-text
# ## What was made
# Next: [31_rvc_convert](31_rvc_convert.ipynb) converts with it. `weights/` (full size) holds the small model to hand on,
# together with `added_*.index`; the large `G_*.pth` and `D_*.pth` are only for training on.

# %% files
show_files(place, newest=12)
