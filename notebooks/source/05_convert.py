# %% [markdown] title
# # 05 Convert: any song or speech in the trained voice
#
# At the end a recording is sung again in your voice: same words, same melody, same length. You can listen to both, see
# f0 on the spectrogram, and download the file.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | ten seconds, small | a few seconds | not yet measured |
#
# Your own so-vits-svc 4.0 or 4.1 voice works here too: put its folder or zip file into `data/models/` and name it as
# `model`, e.g. `data/models/voice.zip`; what is needed of a zip is unpacked into `data/unpacked/`.

# %% [markdown] parameters-text
# ## Parameters
# The fields are those of so-vits-svc's Colab notebook, with numbers as sliders and choices as lists. The first sound to
# change is `trans`: bring the median f0 of the song near that of the voice.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Recording to convert: a dry voice without music. A folder converts all recordings in it.
wav = "data/demo/song/melody.flac"  #@param ["data/demo/song/melody.flac", "data/demo/raw/bruno/bruno_01.flac"] {"allow-input": true}
#@markdown Voice: its folder, a zip file, or one G_*.pth.
model = "data/models/demo"  #@param {"type": "string"}
speaker  #@option convert --spk_list
trans  #@option convert --trans
f0_predictor  #@option convert --f0_predictor
auto_predict_f0  #@option convert --auto_predict_f0
cluster_infer_ratio  #@option convert --cluster_infer_ratio; needs 04_cluster
feature_retrieval  #@option convert --feature_retrieval
loudness_envelope_adjustment  #@option convert --loudness_envelope_adjustment
slice_db  #@option convert --slice_db
enhance  #@option convert --enhance
shallow_diffusion  #@option convert --shallow_diffusion
wav_format  #@option convert --wav_format
checkpoint  #@option convert --checkpoint
#@markdown Offer the result for download (Colab).
download = False  #@param {"type": "boolean"}
#@markdown Show the panel at the end: the same choices with a button, to try several.
panel = True  #@param {"type": "boolean"}
f0_mean_pooling  #@option convert --f0_mean_pooling
f0_filter_threshold  #@option convert --f0_filter_threshold
f0_csv  #@option convert --f0_csv
speaker_mix  #@option convert --use_spk_mix
noice_scale  #@option convert --noice_scale
clip_seconds  #@option convert --clip
linear_gradient  #@option convert --linear_gradient
enhancer_adaptive_key  #@option convert --enhancer_adaptive_key
k_step  #@option convert --k_step
second_encoding  #@option convert --second_encoding
only_diffusion  #@option convert --only_diffusion
cluster_model  #@option convert --cluster_model_path
vocoder  #@option convert --vocoder
diffusion_model  #@option convert --diffusion_model_path
device  #@option convert --device

# %% [markdown] refining-text
# ## After the voice
# What happens to the voice's result before it is written. Diffusion takes the enhancer's place where both are ticked, and
# the loudness is adjusted last.

# %% refining
refining = {
    "enhance": enhance, "enhancer_adaptive_key": enhancer_adaptive_key,
    "shallow_diffusion": shallow_diffusion, "k_step": k_step, "second_encoding": second_encoding,
    "only_diffusion": only_diffusion, "loudness_envelope_ratio": loudness_envelope_adjustment,
}
show_facts({name: value for name, value in refining.items() if value})

# %% [markdown] settings-text
# ## Check the choices
# Everything is checked before anything is loaded. A value out of range or a missing file is reported in one line here.

# %% settings
from svcnb.conversion import ConversionSettings

work = open_workspace(workspace)
source_path, voice_path = work.find(wav), work.find(model)
settings = ConversionSettings(
    speaker=speaker or None, transpose_semitones=trans, auto_predict_f0=auto_predict_f0,
    f0_method=f0_predictor, f0_threshold=f0_filter_threshold, f0_mean_pooling=f0_mean_pooling,
    cluster_ratio=cluster_infer_ratio, feature_retrieval=feature_retrieval, slice_db=slice_db,
    clip_seconds=clip_seconds, crossfade_seconds=linear_gradient, noise_scale=noice_scale,
    audio_format=wav_format, speaker_mix=speaker_mix, **refining,
)
show_facts({"recording": source_path.name} | settings.model_dump(exclude_defaults=True))

# %% [markdown] voice-text
# ## Load the voice
# The checkpoint is read without running any code in it, and must fit its config: differences are listed by name. An
# error names the speakers there are, or the file that a ratio or the enhancer needs.

# %% voice
from svcnb.models.auto import load_any_voice
from svcnb.models.diffusion.checkpoint import DiffusionFiles

centers = work.find(cluster_model) if cluster_model else None
own_vocoder = work.find(vocoder) if vocoder else None
own_diffusion = DiffusionFiles(work.find(diffusion_model)) if diffusion_model else None
parts = {"checkpoint": checkpoint, "cluster_model": centers, "vocoder": own_vocoder}
voice = load_any_voice(voice_path, device=choose_device(device), diffusion=own_diffusion, **parts)
voice.check(settings)
facts = {"voice": voice.name, "step": voice.step, "speakers": ", ".join(voice.speakers)}
show_facts(facts | {"chosen": voice.speaker_name(settings.speaker), "files": voice.folder})

# %% [markdown] source-text
# ## The recording and its f0
# The curve must follow the lowest bright stripe: what is wrong here is wrong in the result. The suggested `trans` brings
# the two median f0 together; for a song that must stay in its key, take the multiple of 12 nearest to it. The curve is
# also written as a table beside the results: edit it in a spreadsheet and name it as `f0_csv` to convert with another melody.

# %% source
from svcnb.audio import find_audio_files, read_audio
from svcnb.features.pitch.track import F0Track
from svcnb.plots import plot_f0_over_spectrogram

sources = [source_path] if source_path.is_file() else find_audio_files(source_path)
source = read_audio(sources[0])
f0 = F0Track.from_csv(work.find(f0_csv)) if f0_csv else voice.estimate_f0(source, f0_predictor)
table = f0.to_csv(work.make("data/converted") / f"{sources[0].name}.f0.csv")
suggested = voice.suggest_transpose(f0, settings.speaker)
title = f"{sources[0].name}: median f0 {f0.median_hz():.0f} Hz, suggested trans {suggested}"
plot_f0_over_spectrogram(source, f0, title=title)

# %% [markdown] convert-text
# ## Convert
# Long recordings are cut at silence, converted chunk by chunk and put back exactly where they were; the result is as
# long as the source. The file appears only when it is complete.

# %% convert
folder, edited = work.make("data/converted"), f0 if f0_csv else None
results = [voice.convert_file(path, folder, settings, f0=edited) for path in sources]
result = read_audio(results[0])
show_facts({path.name: f"{path.stat().st_size / 1e6:.2f} MB" for path in results})

# %% [markdown] listen-text
# ## Listen
# First the source, then the result. Buzzing or a hoarse sound often comes from a wrong f0; unclear words come from
# too little training or noisy recordings.

# %% listen
display(show_audio(source, "source"), show_audio(result, results[0].name))

# %% [markdown] compare-text
# ## Compare
# Words are at the same time in both spectrograms. The f0 contours should run in parallel, `trans` semitones apart.

# %% compare
from svcnb.plots import plot_comparison

plot_comparison(source, result, (f0, voice.estimate_f0(result, f0_predictor)))

# %% [markdown] panel-text
# ## Try more
# This panel has the same choices with a button, and keeps the voice loaded between tries. It needs ipywidgets, which
# Colab and JupyterLab have; without it, change the parameters above and run again.

# %% panel
from svcnb.notebook.panel import ConversionPanel

ConversionPanel(work) if panel else None

# %% [markdown] files-text
# ## What was made
# With `download` ticked, Colab hands the first result to your browser.

# %% files
from svcnb.notebook.display import offer_download

if download:
    print(offer_download(results[0]))
show_files(work.make("data/converted"))
