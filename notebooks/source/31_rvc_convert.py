# %% [markdown] title
# # 31 RVC, conversion: any song or speech in an RVC voice
#
# At the end a recording is sung again in an RVC voice, exactly as long as it was. The voice is one from
# [30_rvc_train](30_rvc_train.ipynb), or a small model (`.pth`) of RVC v1, v2 or their relatives with its index.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | ten seconds, small | a few seconds | not yet measured |
# | ten seconds, full | about as long as the recording or longer | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# The fields are RVC's own. Bring the median f0 of the song near that of the voice with `transpose`; then try
# `index_rate` and `protect` by ear.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Recording to convert: a dry voice without music. A folder converts all recordings in it.
wav = "data/demo/song/melody.flac"  #@param ["data/demo/song/melody.flac", "data/demo/raw/bruno/bruno_01.flac"] {"allow-input": true}
#@markdown Voice: an experiment's folder, a small model, or a G_*.pth with its config.json.
model = "data/models/demo-rvc"  #@param {"type": "string"}
index  #@option rvc convert --index
transpose  #@option rvc convert --transpose
f0_method  #@option rvc convert --f0_method
index_rate  #@option rvc convert --index_rate
protect  #@option rvc convert --protect
rms_mix_rate  #@option rvc convert --rms_mix_rate
wav_format  #@option rvc convert --wav_format
#@markdown Offer the result for download (Colab).
download = False  #@param {"type": "boolean"}
filter_radius  #@option rvc convert --filter_radius
resample_sr  #@option rvc convert --resample_sr
seed  #@option rvc convert --seed
device  #@option rvc convert --device

# %% [markdown] voice-text
# ## Load the voice
# The file is read without running any code in it. Version, rate and pitch guidance come from the file itself, and the
# error for a missing encoder or index says what to do.

# %% voice
from svcnb.models import rvc

work = open_workspace(workspace)
own_index = work.find(index) if index else None
voice = rvc.load_voice(work.find(model), index=own_index, device=choose_device(device))
used = voice.index_path.name if voice.index_path else "none"
facts = {"voice": voice.name, "rate": f"{voice.sample_rate_hz} Hz", "info": voice.about, "index": used}
show_facts(facts | {"version": voice.config.version, "pitch guidance": voice.config.f0})

# %% [markdown] settings-text
# ## Check the choices
# A value out of range is reported in one line here, before anything is converted. Without an index there is nothing to blend
# with, so its rate counts as 0.

# %% settings
settings = rvc.RvcConversionSettings(
    transpose_semitones=transpose, cluster_ratio=index_rate if voice.index_path else 0,
    protect=protect, filter_radius=filter_radius, loudness_envelope_ratio=rms_mix_rate,
    f0_method=f0_method, resample_hz=resample_sr, audio_format=wav_format, seed=seed,
)
voice.check(settings)
show_facts(settings.model_dump(exclude_defaults=True) or {"choices": "all as RVC has them"})

# %% [markdown] source-text
# ## The recording and its f0
# The curve must follow the lowest bright stripe: what is wrong here is wrong in the result. The suggestion brings the
# two median f0 together; for a song that must stay in its key, take the multiple of 12 nearest to it.

# %% source
from svcnb.audio import find_audio_files, read_audio
from svcnb.plots import plot_f0_over_spectrogram

source_path = work.find(wav)
sources = [source_path] if source_path.is_file() else find_audio_files(source_path)
source = read_audio(sources[0])
melody = voice.estimate_f0(source, f0_method)
title = f"median f0 {melody.median_hz():.0f} Hz, suggested {voice.suggest_transpose(melody)}"
plot_f0_over_spectrogram(source, melody, title=f"{sources[0].name}: {title}")

# %% [markdown] convert-text
# ## Convert
# Long recordings are cut at silence, converted chunk by chunk and put back exactly where they were. The file appears
# only when it is complete.

# %% convert
folder = work.make("data/converted")
results = [voice.convert_file(path, folder, settings) for path in sources]
result = read_audio(results[0])
show_facts({path.name: f"{path.stat().st_size / 1e6:.2f} MB" for path in results})

# %% [markdown] listen-text
# ## Listen
# First the source, then the result. Metallic breath and s sounds: lower `protect`; too much of the singer's own timbre:
# raise `index_rate`; a buzzing or hoarse sound often comes from a wrong f0.

# %% listen
display(show_audio(source, "source"), show_audio(result, results[0].name))

# %% [markdown] compare-text
# ## Compare
# Words are at the same time in both spectrograms. The f0 contours should run in parallel, `transpose` semitones apart.

# %% compare
from svcnb.plots import plot_comparison

plot_comparison(source, result, (melody, voice.estimate_f0(result, f0_method)))

# %% [markdown] files-text
# ## What was made
# With `download` ticked, Colab hands the first result to your browser.

# %% files
from svcnb.notebook.display import offer_download

if download:
    print(offer_download(results[0]))
show_files(work.make("data/converted"))
