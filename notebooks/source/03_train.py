# %% [markdown] title
# # 03 Train: teach the network one voice
#
# At the end there is a voice in `data/models/`: checkpoints `G_*.pth` with `config.json`, a history of the losses, and
# you have heard it speak a sentence it was trained on.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | small, demo voice | 5 minutes (the parameter `max_minutes`) | not yet measured |
# | full | too slow to be useful | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# Training stops at whichever limit comes first; 0 means no such limit. With `resume` a second run goes on where the last
# one stopped, so a lost connection costs at most the minutes since the last checkpoint.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Folder with the features.
features_folder = "data/features/demo"  #@param {"type": "string"}
#@markdown Folder for the voice.
voice_folder = "data/models/demo"  #@param {"type": "string"}
#@markdown Minutes of training in all; 0 = no limit. On a GPU with the full size: some hours.
max_minutes = 5.0  #@param {"type": "slider", "min": 0, "max": 720, "step": 1}
#@markdown Steps of training in all; 0 = no limit.
max_steps = 0  #@param {"type": "integer"}
#@markdown Go on with the newest checkpoint of this voice.
resume = True  #@param {"type": "boolean"}
#@markdown Base model to start from: a folder or a G_*.pth of the same size; empty = start fresh.
base = ""  #@param {"type": "string"}
#@markdown fp16 is faster on a T4, bf16 on newer GPUs; fp32 always works.
precision = "fp32"  #@param ["fp32", "fp16", "bf16"]
#@markdown Clips per step; 0 = the size's own. Halve it when memory runs out.
batch_size = 0  #@param {"type": "integer"}
#@markdown Steps between logged losses.
log_every_steps = 20  #@param {"type": "slider", "min": 5, "max": 1000, "step": 5}
#@markdown Steps between checkpoints.
save_every_steps = 800  #@param {"type": "slider", "min": 100, "max": 10000, "step": 100}
#@markdown Newest checkpoints to keep; 0 keeps all.
keep_checkpoints = 3  #@param {"type": "slider", "min": 0, "max": 20, "step": 1}
#@markdown Where to train.
device = "auto"  #@param ["auto", "cpu", "cuda"]
#@markdown Start of the random numbers.
seed = 1234  #@param {"type": "integer"}

# %% [markdown] settings-text
# ## What will be trained on
# A voice learns from what 02_features stored. With less than a minute of sound it will stay a sketch, however long it
# trains.

# %% settings
from svcnb.dataset import FeatureStore
from svcnb.training import TrainSettings

work = open_workspace(workspace)
features, voice_path = work.find(features_folder), work.make(voice_folder)
settings = TrainSettings(
    max_minutes=max_minutes or None, max_steps=max_steps or None, precision=precision, device=device,
    log_every_steps=log_every_steps, save_every_steps=save_every_steps,
    keep_checkpoints=keep_checkpoints, seed=seed,
)
store = FeatureStore.open(features)
minutes = sum(store.duration_s(name) for name in store.names()) / 60
show_facts({"speakers": ", ".join(store.speakers()), "clips": len(store), "minutes": minutes})

# %% [markdown] train-text
# ## Train
# The bar shows the time that is left and the losses. Stop with the stop button whenever you like: the state is saved
# first, and the same cell goes on from there.

# %% train
from svcnb.recipes.sovits import train

base_path = work.find(base) if base else None
report = train(
    features, voice_path, settings, resume=resume, base=base_path, batch_size=batch_size or None,
)
show_facts({"steps in all": report.step, "steps now": report.steps, "minutes": report.seconds / 60})

# %% [markdown] losses-text
# ## Losses
# `mel` tells how far the spectra are from the recordings: it should fall steeply, then slowly. When it has been flat for
# a long time, more training does not help; more and cleaner recordings do.

# %% losses
from svcnb.plots import plot_losses

plot_losses(report.history_path)

# %% [markdown] hear-text
# ## Hear a sentence it knows
# The voice speaks one of its own clips again: first the recording, then the network. If this sounds bad, the features or
# the training are to blame; if only other songs sound bad, it is the conversion.

# %% hear
from svcnb.audio import Audio
from svcnb.recipes.sovits import load_voice

voice = load_voice(voice_path, device=choose_device(device))
samples = store.read(store.names()[0])["audio"]
clip = Audio(samples / 32768, store.settings.sample_rate_hz)
again = voice.convert(clip)
display(show_audio(clip, "recording"), show_audio(again, f"the voice after {report.step} steps"))

# %% [markdown] look-text
# ## See it
# Above the recording, below what the network made of it. The stripes (harmonics) should stand at the same heights and
# the bright patches (formants) in the same places.

# %% look
from svcnb.plots import plot_comparison

melodies = (voice.estimate_f0(clip), voice.estimate_f0(again))
plot_comparison(clip, again, melodies, labels=("recording", "network"))

# %% [markdown] files-text
# ## What was made
# Next: [05_convert](05_convert.ipynb) sings any recording with this voice. With the full size, `G_*.pth` and
# `config.json` also work in so-vits-svc itself.

# %% files
show_files(voice_path)
