# %% [markdown] title
# # 20 Shallow diffusion: a finer sound for a trained voice
#
# At the end a diffusion model is in the folder `diffusion` of your voice, and 05_convert can use it
# (`shallow_diffusion`). You have seen what it learns from, and compared the voice with and without it, by eye, by ear and
# in decibels.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | small model, two minutes of recordings | half an hour for a first effect | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# You need the features and the voice of 02 and 03, and a vocoder. The usual one is a download of 57 MB (00_setup fetches
# it); without it this notebook trains a small one of its own. A voice with more steps behind it gains less here, and a
# diffusion model that is too fresh makes it worse: the table near the end shows it.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Folder with the features that the voice was trained on.
features_folder = "data/features/demo"  #@param {"type": "string"}
#@markdown Folder of the trained voice.
voice_folder = "data/models/demo"  #@param {"type": "string"}
vocoder  #@option diffusion --vocoder
#@markdown Train a small vocoder for the voice first; no download is needed then.
make_vocoder = False  #@param {"type": "boolean"}
vocoder_minutes = 20.0  #@option vocoder --max_minutes; of the vocoder
vocoder_steps  #@option vocoder --max_steps; of the vocoder
refine_voice  #@option diffusion --refine
size  #@option diffusion --config
k_step_max = 200  #@option diffusion --k_step_max
max_minutes = 30.0  #@option diffusion --max_minutes
max_steps  #@option diffusion --max_steps
precision  #@option diffusion --precision
#@markdown Recording to convert at the end.
wav = "data/demo/raw/bruno/bruno_01.flac"  #@param ["data/demo/raw/bruno/bruno_01.flac", "data/demo/song/melody.flac"] {"allow-input": true}
trans  #@option convert --trans
k_step  #@option convert --k_step
second_encoding  #@option convert --second_encoding
batch_size  #@option diffusion --batch_size
device  #@option diffusion --device

# %% [markdown] material-text
# ## What is there
# The voice and its features must belong together. Diffusion needs one library more, which Colab has; elsewhere the error
# names the command.

# %% material
from svcnb.data.feature_store import FeatureStore
from svcnb.training.settings import TrainSettings

installed = install_missing(("diffusion",)) if on_colab() else []
work, limit = open_workspace(workspace), {"device": device, "log_every_steps": 20}
features, voice_path = work.find(features_folder), work.find(voice_folder)
store = FeatureStore.open(features)
minutes = sum(store.duration_s(name) for name in store.names()) / 60
show_facts({"speakers": ", ".join(store.speakers()), "clips": len(store), "minutes": minutes})

# %% [markdown] vocoder-text
# ## The vocoder
# The diffusion model writes mel spectra, and a vocoder makes them sound, so its mel settings come first: bands, lowest
# and highest frequency, frame length. One vocoder serves any number of voices; a small one of your own learns from the
# same features.

# %% vocoder
from svcnb.models.sovits import load_voice
from svcnb.models.vocoder.files import find_vocoder, load_vocoder
from svcnb.models.vocoder.train import train as train_vocoder

own = work.find(vocoder) if vocoder else None
refined = load_voice(voice_path) if refine_voice else None
if make_vocoder:
    until = {"max_minutes": vocoder_minutes or None, "max_steps": vocoder_steps or None}
    train_vocoder(features, voice_path / "vocoder", TrainSettings(**until, **limit), voice=refined)
vocoder_path = find_vocoder(own, voice_folder=voice_path)
mel = load_vocoder(vocoder_path).mel
show_facts({"vocoder": vocoder_path.name, "bands": len(mel.filters), "frame": mel.hop_samples})

# %% [markdown] lesson-text
# ## What the network learns
# It gets a spectrum under noise and predicts the noise, conditioned on content, f0 and loudness. Half of the crops are
# transposed (second spectrogram), drawn anew each time, so that it learns more keys
# than were recorded. The last spectrogram is where a conversion starts: the voice's result under `k_step` steps of noise. With
# `refine_voice` half of the training starts there as well, from self-converted clips with perturbed content.

# %% lesson
import torch
from svcnb.audio import resample
from svcnb.models.diffusion.network import linear_schedule
from svcnb.plots.tour import plot_features
from svcnb.training.validation import read_samples

clip = read_samples(voice_path).reference()
heard = torch.from_numpy(resample(clip, load_vocoder(vocoder_path).settings.sampling_rate).samples)[None]
clear, kept = mel(heard)[0], linear_schedule(1000)["alphas_cumprod"][k_step - 1]
noisy = (clear + 5) * kept.sqrt() + 7 * torch.randn(clear.shape) * (1 - kept).sqrt() - 5
shifted = mel(heard, key_shift_semitones=5)[0]
rows = {"clip": clear, "five semitones up": shifted, f"{k_step} steps of noise": noisy}
plot_features(rows, clip.duration_s, rows="mel band")

# %% [markdown] train-text
# ## Train
# Stop whenever you like, the same cell resumes from there. A `model_0.pt` in the folder `diffusion` of the voice is a
# base model that training starts from; it must have the size you chose.

# %% train
from svcnb.models.diffusion.train import train_diffusion
from svcnb.models.settings import DiffusionChoices

until = {"max_minutes": max_minutes or None, "max_steps": max_steps or None, "precision": precision}
choices = DiffusionChoices(
    config=size if size in ("auto", "small", "full") else work.find(size), k_step_max=k_step_max,
    batch_size=batch_size or None, vocoder=own,
)
report = train_diffusion(features, voice_path, TrainSettings(**until, **limit), choices, voice=refined)
best = f"step {report.best.step}" if report.best else "not measured"
show_facts({"steps in all": report.step, "minutes": report.seconds / 60, "best checkpoint": best})

# %% [markdown] losses-text
# ## Losses
# `noise` is what training lowers: 1 means that the network has learned nothing yet. `mel` is the same in the units
# of the spectrum. Both fall slowly and for long.

# %% losses
from svcnb.plots import plot_losses

plot_losses(report.history_path)

# %% [markdown] copy-text
# ## With and without
# A clip of the voice itself, converted into the voice: the nearer to the recording, the better. Look for harmonics that
# are smeared in the second spectrogram and clear in the third, and for noise where there should be none.

# %% copy
from svcnb.conversion import ConversionSettings
from svcnb.models.sovits import load_voice
from svcnb.plots.tour import plot_spectrograms

voice = load_voice(voice_path, device=choose_device(device), vocoder=own)
shallow = ConversionSettings(shallow_diffusion=True, k_step=k_step, second_encoding=second_encoding)
voice.check(shallow)
copies = {"recording": clip, "voice": voice.convert(clip)}
copies["with diffusion"] = voice.convert(clip, shallow)
plot_spectrograms(copies)

# %% [markdown] distance-text
# ## How many noise steps?
# The mel-cepstral distance to the recording: lower is nearer. The second row is the voice's result synthesized again by the
# vocoder alone (the enhancer of 05_convert, `-eh`), which every result of diffusion goes through as well. Few steps
# change little, many forget what the voice got right; where the first two rows are the lowest, train longer.

# %% distance
from svcnb.evaluation.mel_cepstral import mel_cepstral_distance
from svcnb.plots import Table

vocoder_alone = voice.convert(clip, ConversionSettings(enhance=True))
tried = {"voice": copies["voice"], "vocoder alone": vocoder_alone}
for steps in sorted({k_step // 4, k_step // 2, k_step} - {0}):
    again = shallow.model_copy(update={"k_step": steps})
    tried[f"{steps} noise steps"] = voice.convert(clip, again)
distances = {name: mel_cepstral_distance(clip, audio, align=False) for name, audio in tried.items()}
Table(("", "distance in dB"), [(name, f"{found.mean_db:.2f}") for name, found in distances.items()])

# %% [markdown] listen-text
# ## Listen
# First the clip and its copy syntheses, then your recording in this voice, without and with diffusion.

# %% listen
from svcnb.audio import read_audio

source, up = read_audio(work.find(wav)), {"transpose_semitones": trans}
sung = {"recording to convert": source, "converted": voice.convert(source, ConversionSettings(**up))}
sung["converted, with diffusion"] = voice.convert(source, shallow.model_copy(update=up))
display(*(show_audio(audio, title) for title, audio in (copies | sung).items()))

# %% [markdown] files-text
# ## What was made
# To use it, tick `shallow_diffusion` in 05_convert, or add `-shd` on the command line. `model_*.pt` and `config.yaml` are
# so-vits-svc's own kinds of files.

# %% files
show_files(voice_path / "diffusion")
