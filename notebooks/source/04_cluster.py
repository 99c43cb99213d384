# %% [markdown] title
# # 04 Cluster: a map of the voice's sounds
#
# At the end two files are beside your voice: `kmeans_N.pt`, the typical sounds of each speaker, and
# `feature_and_index.pkl`, all sounds that were recorded. With either, 05_convert can pull a song towards your voice. You
# have seen the sounds on a map and listened to what feature retrieval does.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | two minutes of recordings | under a minute | not yet measured |

# %% [markdown] parameters-text
# ## Parameters
# This step is optional: a voice converts without it. The files belong to one voice and one content encoder, so make
# them again when you extract other features.

# %% parameters
#@title Parameters
#@markdown Where your data lies: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Folder with the features that the voice was trained on.
features_folder = "data/features/demo"  #@param {"type": "string"}
#@markdown Folder of the trained voice.
voice_folder = "data/models/demo"  #@param {"type": "string"}
#@markdown Fit the centers; off keeps those that are there.
make_centers = True  #@param {"type": "boolean"}
n_centers  #@option cluster --n_centers
#@markdown Build the index; off keeps the one that is there, or does without.
make_index = True  #@param {"type": "boolean"}
#@markdown Recording by somebody else to try the files on; ten seconds of it are used.
wav = "data/demo/raw/bruno/bruno_01.flac"  #@param ["data/demo/raw/bruno/bruno_01.flac", "data/demo/song/melody.flac"] {"allow-input": true}
speaker  #@option convert --spk_list
device  #@option convert --device
seed  #@option cluster --seed

# %% [markdown] material-text
# ## What they are made from
# The content encoder writes 50 vectors per second that say which sound is being made. They should not tell who makes it,
# but some of that always leaks through. Replacing a stranger's vectors by ones that *your* speaker made swaps this rest
# as well: the timbre comes closer, and the words may suffer where no fitting sound was recorded.

# %% material
from svcnb.data.feature_store import FeatureStore

work = open_workspace(workspace)
features, voice_path = work.find(features_folder), work.find(voice_folder)
store = FeatureStore.open(features)
minutes = sum(store.duration_s(name) for name in store.names()) / 60
facts = {"speakers": ", ".join(store.speakers()), "minutes": minutes}
show_facts(facts | {"encoder": store.settings.encoder})

# %% [markdown] centers-text
# ## Centres: the typical sounds
# K-means looks for cluster centers: each becomes the mean of the frames nearest to it. The mean
# squared distance measures how well they represent the frames: compare it between runs, lower is closer. Interrupt it
# whenever you like, the same cell resumes.

# %% centers
from svcnb.models.sovits import fit_voice_centers
from svcnb.models.settings import ClusterSettings

fitting = ClusterSettings(n_centers=n_centers or None, seed=seed)
print(fit_voice_centers(features, voice_path, fitting) if make_centers else "centers are kept")

# %% [markdown] index-text
# ## Index: every sound there is
# Retrieval keeps all frames and mixes the eight nearest to each of the song's. It follows the song more closely than
# cluster centers do, and the file grows with the recordings.

# %% index
from svcnb.models.sovits import build_voice_index

print(build_voice_index(features, voice_path, seed=seed) if make_index else "no index is built")

# %% [markdown] map-text
# ## The map
# Each dot is a fiftieth of a second, placed so that similar sounds are close together; grey is unvoiced (s, f, t
# and silence), colour is pitch. Voiced and unvoiced sounds should part, while high and low pitches should mix: content is
# meant to hold the sound, not the pitch. The orange dots are cluster centers, dense where the speaker spends most time.

# %% map
from svcnb.conversion import ConversionSettings
from svcnb.models.sovits import load_voice
from svcnb.plots.content import plot_unit_map, read_units

voice = load_voice(voice_path, device=choose_device(device))
number, name = voice.speaker_id(speaker or None), voice.speaker_name(speaker or None)
centers = voice.retrieval.centers(number).centers[name]
plot_unit_map(read_units(store, name), centers.numpy(), title=f"the sounds of {name}")

# %% [markdown] distance-text
# ## A stranger's recording
# The curves show how far each moment is from what would replace it. Peaks are sounds that your speaker never made like
# this: there a high ratio changes most, for better or worse.

# %% distance
from svcnb.audio import read_audio
from svcnb.plots.content import plot_unit_distances

source_path = work.find(wav)
source = read_audio(source_path).slice_s(0, 10)
has_index = (voice_path / "feature_and_index.pkl").is_file()
ways = {"nearest center": False} | ({"eight neighbours": True} if has_index else {})
content, distances = voice.encode(source), {}
for way, retrieval in ways.items():
    whole = ConversionSettings(cluster_ratio=1, feature_retrieval=retrieval)
    gaps = content - voice.retrieval.pull(whole, number)(content)
    distances[way] = gaps.square().sum(dim=1).cpu().numpy()
plot_unit_distances(source, distances, title=source_path.name)

# %% [markdown] listen-text
# ## Listen
# The same recording without pulling, half way, and all the way. Listen for two things: is the voice closer, and are the
# words still clear? With the bundled encoder, which keeps little of a speaker, the difference is small. Try 0.3 to 0.5
# before you go higher.

# %% listen
f0 = voice.estimate_f0(source)
shift = voice.suggest_transpose(f0, number) or 0
plain = ConversionSettings(speaker=name, transpose_semitones=shift)
results = {"ratio 0": voice.convert(source, plain, f0=f0)}
for way, retrieval in ways.items():
    for ratio in (0.5, 1.0):
        choice = {"cluster_ratio": ratio, "feature_retrieval": retrieval}
        again = voice.convert(source, plain.model_copy(update=choice), f0=f0)
        results[f"ratio {ratio:g}, {way}"] = again
display(show_audio(source, "source"), *(show_audio(audio, title) for title, audio in results.items()))

# %% [markdown] look-text
# ## See it
# Above without retrieval, below with cluster centers only. Words are at the same times; where the lower spectrogram looks washed out
# or moves in steps, fine differences between sounds were lost.

# %% look
from svcnb.plots import plot_comparison

labels = ("ratio 0", "ratio 1, nearest center")
plot_comparison(*(results[label] for label in labels), labels=labels)

# %% [markdown] files-text
# ## What was made
# Next: [05_convert](05_convert.ipynb) has these files under `cluster_infer_ratio` and `feature_retrieval`. so-vits-svc
# reads them too.

# %% files
show_files(voice_path)
