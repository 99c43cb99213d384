# %% [markdown] title
# # 03 Train: teach the network one voice
#
# At the end there is a voice in `data/models/`: checkpoints `G_*.pth` with `config.json`, a history of the losses, and
# you have listened to its progress, and read whether longer training is worthwhile.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | small, demo voice | 5 minutes (the parameter `max_minutes`) | not yet measured |
# | full | too slow to be useful | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# Training stops at whichever limit comes first; 0 means no such limit. With `resume` a second run resumes where the last
# one stopped, so a lost connection costs at most the minutes since the last checkpoint.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Folder with the features.
features_folder = "data/features/demo"  #@param {"type": "string"}
#@markdown Folder for the voice.
voice_folder = "data/models/demo"  #@param {"type": "string"}
max_minutes = 5.0  #@option train --max_minutes
max_steps  #@option train --max_steps
resume = True  #@option train --resume
base  #@option train --base
precision  #@option train --precision
batch_size  #@option train --batch_size; -1 = auto
n_processes  #@option train --num_processes
log_every_steps = 20  #@option train --log_every_steps
validate_every_steps  #@option train --validate_every_steps
stop_at_plateau  #@option train --stop_at_plateau
save_every_steps  #@option train --save_every_steps
keep_checkpoints = -1  #@option train --keep_checkpoints; -1 = the config's
vol_aug  #@option train --vol_aug
tensorboard  #@option train --tensorboard
device  #@option train --device
seed  #@option train --seed

# %% [markdown] data-text
# ## What will be trained on
# A voice learns from what 02_features stored. With less than a minute of sound it will stay a sketch, however long it
# trains. Some clips of every speaker, at most a fifth, are held out: the network is never trained on them, and they show
# whether it has understood the voice or only its recordings.

# %% data
from svcnb.data.feature_store import FeatureStore

work = open_workspace(workspace)
features, voice_path = work.find(features_folder), work.make(voice_folder)
store = FeatureStore.open(features)
minutes = sum(store.duration_s(name) for name in store.names()) / 60
show_facts({"speakers": ", ".join(store.speakers()), "clips": len(store), "minutes": minutes})

# %% [markdown] settings-text
# ## How it will be trained
# How long, how often to save and to measure, and whether to vary the loudness of the clips: that is for voices that are
# conditioned on the loudness, and off unless you ask for it.

# %% settings
from svcnb.training.settings import TrainSettings

settings = TrainSettings(
    max_minutes=max_minutes or None, max_steps=max_steps or None, precision=precision, device=device,
    log_every_steps=log_every_steps or None, save_every_steps=save_every_steps or None,
    stop_at_plateau=stop_at_plateau,
    keep_checkpoints=None if keep_checkpoints < 0 else keep_checkpoints, seed=seed, vol_aug=vol_aug,
    validate_every_steps=validate_every_steps, tensorboard=tensorboard, n_processes=n_processes,
)
limits = {"minutes at most": max_minutes or "no limit", "steps at most": max_steps or "no limit"}
show_facts(limits | {"precision": precision, "device": choose_device(device)})

# %% [markdown] train-text
# ## Train
# The bar shows the time that is left and the losses. Stop with the stop button whenever you like: the state is saved
# first, and the same cell resumes from there. With `tensorboard` ticked, `%load_ext tensorboard` and
# `%tensorboard --logdir data/models` in a cell of your own show the curves and sounds while it trains.

# %% train
from svcnb.models.sovits import train

start = base if base in ("auto", "none") else work.find(base)
n_clips = "auto" if batch_size < 0 else batch_size or None
report = train(features, voice_path, settings, resume=resume, base=start, batch_size=n_clips)
show_facts({
    "steps in all": report.step, "steps now": report.steps, "minutes": report.seconds / 60,
    "clips per step": report.batch_size, "stopped by": report.stopped_by,
    "best checkpoint": f"step {report.best.step}" if report.best else "not measured",
})

# %% [markdown] losses-text
# ## Losses
# Above, the distance to the spectra of the recordings: of clips it trains on, and of clips that are held out, with the
# best checkpoint as a star. Both should fall steeply, then slowly; where the dashed line turns up while the other falls
# on, the network overfits the recordings. Below, every loss by itself.

# %% losses
from svcnb.plots import plot_losses

plot_losses(report.history_path)

# %% [markdown] advice-text
# ## Train longer?
# What the held-out clips show. A change counts only when it is larger than the scatter of the measurements, and
# a judgement needs six of them at least.

# %% advice
from svcnb.training.early_stopping import read_advice

advice = read_advice(report.history_path)
show_facts({"what to do": str(advice), "measurements": advice.n_measurements})

# %% [markdown] progress-text
# ## Hear it learn
# The network synthesizes a held-out clip again (one of its training clips where there are too few to hold any out): first the
# recording, then from an early step to the newest. Its inputs are content, f0 and loudness only, as in conversion. Take
# the best checkpoint unless your ears disagree; 05_convert does so by itself.

# %% progress
from svcnb.training.validation import read_samples

best_step = report.best.step if report.best else None
heard = read_samples(voice_path).heard(best_step)
display(*[show_audio(audio, title) for title, audio in heard])

# %% [markdown] look-text
# ## See it
# The whole way of a conversion, with a clip of the voice itself: above the recording, below what the network made of
# it. The stripes (harmonics) should be at the same heights and the bright patches (formants) at the same positions. If
# this is bad, features or training are to blame; if only other songs are, it is the conversion.

# %% look
from svcnb.models.sovits import load_voice
from svcnb.plots import plot_comparison

voice = load_voice(voice_path, device=choose_device(device))
clip = read_samples(voice_path).reference()
again = voice.convert(clip)
melodies = (voice.estimate_f0(clip), voice.estimate_f0(again))
plot_comparison(clip, again, melodies, labels=("recording", "network"))

# %% [markdown] files-text
# ## What was made
# Next: [05_convert](05_convert.ipynb) converts any recording with this voice. With the full size, `G_*.pth` and
# `config.json` also work in so-vits-svc itself.

# %% files
show_files(voice_path)
