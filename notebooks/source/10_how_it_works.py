# %% [markdown] title
# # 10 How it works: one sentence through every stage
#
# At the end you have followed one recorded sentence through the whole system: samples, spectrogram, f0, content,
# latents, and out again in another voice. Every idea is first done by hand in a few lines, then by the function that
# the other notebooks use, and the printed difference shows that both are the same thing.
#
# | | 2 CPU cores | T4 (Colab) |
# |---|---|---|
# | this notebook | about 2 minutes, half of them training | no GPU needed |

# %% [markdown] parameters-text
# ## Parameters
# Nothing has to be prepared: the recordings are bundled, and a small voice is trained on the way. Run everything once
# with the defaults, then change one thing, run again, and compare; some cells end with a suggestion to **try**.

# %% parameters
#@title Parameters
#@markdown Where your data is: empty = the project's folder, `drive` = Google Drive, or a path.
workspace = ""  #@param ["", "drive"] {"allow-input": true}
#@markdown Recording whose first sentence is followed through all stages.
recording = "data/demo/raw/ada/ada_01.flac"  #@param ["data/demo/raw/ada/ada_01.flac", "data/demo/raw/bruno/bruno_02.flac"] {"allow-input": true}
#@markdown Moment of that sentence to be looked at closely (seconds from the beginning): a vowel.
moment_s = 1.05  #@param {"type": "slider", "min": 0, "max": 10, "step": 0.05}
#@markdown Folder with recordings of the voice that is trained.
voice_recordings = "data/demo/raw/ada"  #@param ["data/demo/raw/ada", "data/demo/raw/bruno"] {"allow-input": true}
#@markdown Recording of somebody else, to be converted at the end.
other_recording = "data/demo/raw/bruno/bruno_01.flac"  #@param ["data/demo/raw/bruno/bruno_01.flac", "data/demo/song/melody.flac"] {"allow-input": true}
max_minutes = 2.5  #@option train --max_minutes
max_steps = 250  #@option train --max_steps
#@markdown A voice trained before, such as `data/models/demo`; empty = train a small one here.
voice_folder = ""  #@param ["", "data/models/demo"] {"allow-input": true}
#@markdown Semitones by which f0 is transposed where we test what content keeps.
pitch_shift = 5  #@param {"type": "slider", "min": -12, "max": 12, "step": 1}

# %% [markdown] sound-text
# ## 1 Sound is a list of numbers
# A microphone measures the pressure of the air many thousand times a second. Each measurement is a *sample* between -1
# and 1, and the sound is nothing but this list. What you hear depends only on how the numbers go up and down.

# %% sound
from svcnb.audio import Audio, read_audio
from svcnb.models.sovits import Config

work = open_workspace(workspace)
config = Config.load(work.find(voice_folder) / "config.json") if voice_folder else Config.small()
rate, hop = config.data.sampling_rate, config.data.hop_length
whole = read_audio(work.find(recording), sample_rate_hz=rate)
print(f"{whole.n_samples} samples, {rate} a second, some of them: {whole.samples[rate : rate + 4]}")
show_audio(whole, work.find(recording).name)

# %% [markdown] zoom-text
# From afar you see words and pauses, from nearby a pattern that repeats some hundred times a second. Each repetition is
# one opening of the vocal folds. *Try* `start_s=1.35`, a hissing sound (s): there nothing repeats.

# %% zoom
from svcnb.plots.tour import plot_zoom

plot_zoom(whole, start_s=moment_s, length_s=0.03, title="the recording")

# %% [markdown] loudness-text
# ## 2 Cutting at silence
# Networks learn from short clips, so recordings are cut in the pauses. Loudness is the root of the mean square (RMS) of
# the samples in a window of 40 milliseconds, which moves on by a quarter of its length.

# %% loudness
import numpy as np
from svcnb.audio.loudness import frame_rms

window, step = rate // 25, rate // 100
padded = np.pad(whole.samples, window // 2)
pieces = np.lib.stride_tricks.sliding_window_view(padded, window)[::step]
by_hand = np.sqrt((pieces**2).mean(axis=1))
rms = frame_rms(whole.samples, window_samples=window, hop_samples=step)
print(f"{len(rms)} values, by hand differs by at most {np.abs(by_hand - rms).max():.1e}")

# %% [markdown] level-text
# The ear hears ratios, so loudness is written in decibels (dB): 0 is as loud as a file can be, and 20 dB less is a tenth
# of the pressure. Below the threshold counts as silence.

# %% level
from svcnb.plots.tour import plot_curves

level_db = 20 * np.log10(np.maximum(rms, 1e-4))
times_s = np.arange(len(rms)) * step / rate
curves = {"loudness": level_db, "threshold": np.full(len(rms), -40.0)}
plot_curves(times_s, curves, axes=("time (s)", "dB below full scale"))

# %% [markdown] cut-text
# The package cuts where it stays below the threshold for half a second and keeps a little silence at both ends. What is
# too short is joined, what is too long is cut at its quietest spot. The first clip is our sentence from here on. *Try* `threshold_db=-20`.

# %% cut
from svcnb.audio.slicing import CutSettings, find_clips
from svcnb.plots import plot_cuts

settings = CutSettings(sample_rate_hz=rate, threshold_db=-40, max_clip_s=5)
cuts = find_clips(whole.samples, settings).clips
clip = Audio(whole.samples[cuts[0].start : cuts[0].end], rate)
display(show_audio(clip, "our sentence"))
plot_cuts(whole, [(cut.start / rate, cut.end / rate) for cut in cuts])

# %% [markdown] spectrum-text
# ## 3 Spectrogram: which tones, when
# Any wave is a sum of pure tones. The Fourier transform finds how strong each of them is; the soft window around the
# frame keeps its cut edges from looking like sound. The evenly spaced peaks are *harmonics*: multiples of one frequency,
# the pitch.

# %% spectrum
import torch

wave = torch.from_numpy(clip.samples)[None]  # [1, samples]
n_fft = config.data.filter_length
start = min(max(0, int(moment_s * rate) - cuts[0].start), clip.n_samples - n_fft)
hann = torch.hann_window(n_fft)
strength = torch.fft.rfft(wave[0, start : start + n_fft] * hann).abs()
tones_hz = torch.fft.rfftfreq(n_fft, 1 / rate)
low = tones_hz < 4000
curve = {"one piece": 20 * strength.clamp(min=1e-3).log10()[low]}
plot_curves(tones_hz[low], curve, axes=("frequency (Hz)", "strength (dB)"))

# %% [markdown] stft-text
# The same for many frames, each one *hop* later than the last, gives the spectrogram: one column per frame, called a
# *frame*. This grid is the clock of everything that follows. The millionth that is added gives silence a logarithm, too.

# %% stft
from svcnb.audio.spectral import Stft

side = (n_fft - hop) // 2
padded = torch.nn.functional.pad(wave, (side, side), mode="reflect")
frames = padded[0].unfold(0, n_fft, hop) * hann  # [frames, n_fft]
by_hand = (torch.fft.rfft(frames).abs().T ** 2 + 1e-6).sqrt()  # [tones, frames]
spec = Stft(n_fft=n_fft, hop_samples=hop)(wave)[0]
print(f"{tuple(spec.shape)}: {rate / hop:.0f} frames a second, one every {1000 * hop / rate:.1f} ms")
print(f"by hand differs by at most {(by_hand - spec).abs().max():.1e}")

# %% [markdown] mel-text
# The ear tells low tones apart better than high ones. The *mel* spectrogram follows it: neighbouring tones are added up
# into 80 bands, narrow ones at the bottom, wide ones at the top, and the logarithm is taken. Training compares sounds in
# this form.

# %% mel
from svcnb.audio.spectral import MelSpectrogram
from svcnb.plots.tour import plot_features

to_mel = MelSpectrogram(sample_rate_hz=rate, n_fft=n_fft, hop_samples=hop, n_mels=80)
mel = to_mel(wave)[0]  # [80, frames]
by_hand = (to_mel.filters @ spec).clamp(min=1e-5).log()
print(f"by hand differs by at most {(by_hand - mel).abs().max():.1e}")
pictures = {"spectrogram (logarithm)": spec.log(), "mel spectrogram": mel}
plot_features(pictures, clip.duration_s, rows="row")

# %% [markdown] period-text
# ## 4 Pitch: how often the wave repeats
# Shift the wave against itself and ask how alike the two are. After one period they match, and the pitch is one second
# divided by that period. But after two periods they match almost as well: whoever picks that peak hears an octave too
# low. These *octave errors* are the classic fault of pitch trackers.

# %% period
piece = clip.samples[start : start + n_fft]
match = np.correlate(piece, piece, "full")[n_fft - 1 :] / np.sum(piece**2)
shortest, longest = rate // 500, rate // 70  # periods of 500 Hz and of 70 Hz
period = shortest + int(match[shortest:longest].argmax())
print(f"the wave repeats after {period} samples: {rate / period:.1f} Hz")
print(f"match {match[period]:.2f} after one period, {match[2 * period]:.2f} after two")
shifts_ms = 1000 * np.arange(longest) / rate
marks = {"one period": 1000 * period / rate, "two periods": 2000 * period / rate}
plot_curves(shifts_ms, {"match": match[:longest]}, axes=("shift (ms)", "match"), marks=marks)

# %% [markdown] tracker-text
# Do this in every frame, and you have a pitch tracker. (The Fourier transform is only a fast way to all the shifts.)
# Where the best match is small or the sound is quiet there is no pitch: the frame is *unvoiced* and gets 0.

# %% tracker
from svcnb.features.pitch.track import F0Track

padded = torch.nn.functional.pad(wave, (n_fft // 2, n_fft // 2))
frames = padded[0].unfold(0, n_fft, hop)[: clip.n_samples // hop]
power = torch.fft.rfft(frames, 2 * n_fft).abs() ** 2
match = torch.fft.irfft(power)[:, :longest]
best, period = (match / (match[:, :1] + 1e-9))[:, shortest:].max(dim=1)
is_voiced = (best > 0.3) & (frames.square().mean(dim=1).sqrt() > 0.01)
by_hand = F0Track(torch.where(is_voiced, rate / (period + shortest), 0.0).numpy(), hop / rate)
print(f"{by_hand.n_frames} frames, {int(is_voiced.sum())} voiced, median {by_hand.median_hz():.0f} Hz")

# %% [markdown] melody-text
# FCPE is a network that learned to find the pitch, and the default here. On a clean recording the two agree:
# both are on the lowest bright stripe. *Try* `longest = rate // 50` above and look for octave errors.

# %% melody
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.plots import plot_f0_over_spectrogram

fcpe = PitchEstimator("fcpe", sample_rate_hz=rate, hop_samples=hop)
track = fcpe(clip.samples)
plot_f0_over_spectrogram(clip, track, other_tracks=[by_hand], labels=["FCPE", "by hand"])

# %% [markdown] cents-text
# Pitch is heard in ratios too: twice the frequency is an octave, which has 12 semitones of 100 *cents*. So melodies are
# compared in cents. The network also wants a number in unvoiced frames: a straight line from the last note to the next,
# with a flag beside it that says whether the frame was voiced.

# %% cents
from svcnb.evaluation.metrics import compare_pitch

both = track.voiced & by_hand.voiced
cents = 1200 * np.log2(by_hand.f0_hz[both] / track.f0_hz[both])
theirs = compare_pitch(track, by_hand).median_shift_cents
print(f"middle difference {np.median(cents):.2f} cents by hand, {theirs:.2f} by the package")
filled = np.interp(track.times_s, track.times_s[track.voiced], track.f0_hz[track.voiced])
print(f"filled melody differs by at most {np.abs(filled - track.interpolated()).max():.1e} Hz")

# %% [markdown] content-text
# ## 5 Content: what is said, without who says it
# An encoder turns every 20 milliseconds into a list of numbers that tells which sound it is. Those of the bundled encoder
# say how much the moment resembles each of 200 typical sounds. In the plot they are ordered by when each is strongest,
# so our sentence becomes a diagonal; bright spots beside it are sounds that come more than once.

# %% content
from svcnb.audio import resample
from svcnb.features.content.encoders import load_encoder
from svcnb.features.content.waveform import SAMPLE_RATE_HZ

encoder = load_encoder(config.model.speech_encoder or "auto", folder=work.project / "pretrain")
encoder = encoder.for_recording(resample(whole, SAMPLE_RATE_HZ).samples)
content = encoder.encode(resample(clip, SAMPLE_RATE_HZ).samples)  # [moments, width]
order = content.argmax(dim=0).argsort()
order = order[content.amax(dim=0)[order] > 0.1]  # those that occur at all
plot_features({"content": content[:, order].T}, clip.duration_s, rows="typical sound", height=2.6)

# %% [markdown] shift-text
# Now the test: the same sentence with a higher f0. WORLD takes the voice apart into f0, resonances of the throat
# and breath; we change f0 alone and put it together again.

# %% shift
from svcnb.files.optional_imports import import_optional

world = import_optional("pyworld", "f0")
parts = world.wav2world(whole.samples.astype(float), rate)
higher = world.synthesize(parts[0] * 2 ** (pitch_shift / 12), parts[1], parts[2], rate)
higher = Audio(higher[cuts[0].start : cuts[0].end], rate)
higher_content = encoder.encode(resample(higher, SAMPLE_RATE_HZ).samples)
display(show_audio(higher, f"{pitch_shift:+d} semitones"))
pictures = {"content of that": higher_content[:, order].T}
plot_features(pictures, clip.duration_s, rows="typical sound", height=2.6)

# %% [markdown] kept-text
# The diagonal is still there: content dropped f0 and kept the words. In numbers: for each moment of one
# recording take the most similar moment of the other; how often is it the right one, within 40 milliseconds? The mel
# spectrogram sees another sound, because every harmonic has moved.

# %% kept
higher_mel = to_mel(torch.from_numpy(higher.samples)[None])[0]
found = {}
for name, a, b in (("content", content, higher_content), ("mel", mel.T, higher_mel.T)):
    nearest = torch.cdist(a, b).argmin(dim=1)
    distance_s = (nearest - torch.arange(len(a))).abs() * clip.duration_s / len(a)
    found[f"moments found again by {name}"] = f"{100 * (distance_s <= 0.04).float().mean():.0f} %"
show_facts(found)

# %% [markdown] align-text
# ## 6 One clock for all
# Content has 50 moments a second, the spectrogram has more frames. So content is stretched: frame number n takes moment
# n times the ratio, rounded down, so that most moments fill two frames.

# %% align
from svcnb.features.content.encoders import align_to_frames

n_frames = track.n_frames
moment = torch.arange(n_frames) * len(content) // n_frames
aligned = align_to_frames(content.T, n_frames)  # [width, frames]
print(f"first frames take the moments {moment[:12].tolist()}")
is_equal = torch.equal(content[moment].T, aligned)
print(f"{tuple(content.T.shape)} becomes {tuple(aligned.shape)}, by hand and package equal: {is_equal}")

# %% [markdown] tone-text
# ## 7 The source: what the vocal folds do
# A voice is a buzz, coloured by throat and mouth. The buzz is one pulse per period. By hand: count how many periods have
# gone by, and put a pulse where the count is a whole number. Its shape, the *sinc*, makes all harmonics equally strong
# up to the highest frequency that the samples can hold; its mean is no sound and is taken off. (The full size adds up
# sines instead, with the same aim.)

# %% tone
from svcnb.nn.frame_decoder import pulse_train

tone_hz = 200.0
periods = torch.arange(1, 20 * hop + 1, dtype=torch.float64) * tone_hz / rate
by_hand = torch.sinc((periods - periods.round()) * rate / tone_hz) - tone_hz / rate
pulses = pulse_train(torch.full((1, 20), tone_hz), hop, rate)[0]
print(f"a pulse every {rate / tone_hz:.2f} samples")
print(f"by hand differs by at most {(by_hand - pulses).abs().max():.1e}")

# %% [markdown] source-text
# With the melody of our sentence the buzz sings along, and is silent where nothing is voiced. Listen: melody and rhythm
# are there, vowels and consonants are not. Those are the decoder's work.

# %% source
from svcnb.plots.tour import plot_waves

f0_hz = torch.from_numpy(track.f0_hz).float()[None]  # [1, frames]
source = Audio(pulse_train(f0_hz, hop, rate)[0].numpy(), rate)
display(show_audio(Audio(source.samples * 0.3, rate), "the source alone"))
pair = {"recording": clip, "source: one pulse per period": source}
plot_waves(pair, start_s=start / rate, length_s=0.04)

# %% [markdown] network-text
# ## 8 The network and its parts
# The *prior* predicts from content and f0 what the sound should be like; the *posterior* looks at the real sound and
# knows. Both speak one language, the *latents*: some dozen numbers per frame. The *flow* translates between the two
# dialects, and the *decoder* turns latents into sound. Only training needs the posterior.

# %% network
from svcnb.models.sovits import build
from svcnb.plots import Table

torch.manual_seed(1)
untrained = build(config).generator.eval()
roles = {"enc_p": "content, melody -> prior", "enc_q": "spectrogram -> posterior",
         "flow": "posterior <-> prior", "dec": "latents, melody -> sound"}
sizes = {name: sum(w.numel() for w in getattr(untrained, name).parameters()) for name in roles}
Table(("part", "what it does", "numbers to learn"), [(n, roles[n], sizes[n]) for n in roles])

# %% [markdown] forward-text
# Our sentence goes in. Each part outputs a mean and a standard deviation for every latent and frame, because many sounds fit
# the same words. (The shapes are one sentence, so many rows, so many frames or samples.) Nothing is learned yet: you hear the
# source behind a filter that knows nothing.

# %% forward
voiced = torch.from_numpy(track.voiced).float()[None]
melody_hz = torch.from_numpy(track.interpolated()).float()[None]
speaker = torch.tensor([[0]])
with torch.no_grad():
    result = untrained.infer(aligned[None], melody_hz, voiced, speaker)
    prior = untrained.prior(aligned[None], melody_hz, voiced)
    known = untrained.enc_q(spec[None], prior.mask, untrained.embed_speaker(speaker))
shapes = {"content": aligned[None], "prior": prior.m_p, "posterior": known[0], "sound": result.audio}
display(show_facts({name: str(list(tensor.shape)) for name, tensor in shapes.items()}))
show_audio(Audio(result.audio[0, 0].numpy(), rate), "before training")

# %% [markdown] prepare-text
# ## 9 Learning
# To learn, the network needs clips of one voice, each with content, f0 and sound. Pitch comes from DIO here, which
# is fast. Steps are kept small (3 clips of 64 frames), so that there are many of them within a minute.

# %% prepare
from svcnb.data.clips import cut_folder
from svcnb.data.settings import PrepareSettings
from svcnb.models.sovits import prepare

raw = work.find(voice_recordings)
config.train.batch_size, config.train.max_frames, config.train.segment_size = 3, 64, 32 * hop
clips, features = work.make(f"data/tour/{raw.name}/clips"), work.make(f"data/tour/{raw.name}/features")
cut_folder(raw, clips, settings)
how = PrepareSettings(encoder=encoder.name, f0_method="dio", pretrain_folder=work.project / "pretrain")
print(prepare(config, clips, features, how))

# %% [markdown] batch-text
# One step takes a few clips at once, cut to equal length: a *batch*. The posterior gets them as input, the decoder tries to say
# a part of them again.

# %% batch
from svcnb.data.batches import collate
from svcnb.data.dataset import VoiceDataset
from svcnb.data.feature_store import FeatureStore

store = FeatureStore.open(features)
dataset = VoiceDataset(store, store.names()[:3], {store.speakers()[0]: 0}, max_frames=64)
batch = collate([dataset[i] for i in range(3)])
spec_batch = Stft(n_fft=n_fft, hop_samples=hop)(batch.audio)
inputs = (batch.content, batch.f0_hz, batch.voiced, spec_batch, batch.speaker, batch.lengths)
torch.manual_seed(1)
pupil = build(config).generator.eval()
out = pupil(*inputs)
show_facts({"clips": list(batch.audio.shape), "said again": list(out.audio.shape)})

# %% [markdown] losses-text
# A *loss* is a number that says how bad the answer was. The mel loss is the mean difference of two mel spectrograms. The
# KL divergence holds the two encoders together: how surprised is the prior by what the posterior says, beyond the
# posterior's own vagueness? If it is small, the prior alone can do the job later, when there is no real sound to look at.

# %% losses
from svcnb.nn.layers import slice_segments
from svcnb.training import losses
from torch.distributions import Normal

target = slice_segments(batch.audio, out.slice_start * hop, out.audio.shape[-1])
mel_by_hand = (to_mel(target) - to_mel(out.audio)).abs().mean()
mel_loss = losses.mel_loss(to_mel(target), to_mel(out.audio))
print(f"mel {mel_by_hand:.4f} by hand, {mel_loss:.4f} by the package")
surprise = -Normal(out.m_p, out.logs_p.exp()).log_prob(out.z_p)
vagueness = Normal(out.m_q, out.logs_q.exp()).entropy()
kl_by_hand = ((surprise - vagueness) * out.mask).sum() / out.mask.sum()
kl = losses.kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask)
print(f"KL {kl_by_hand:.3f} by hand, {kl:.3f} by the package")

# %% [markdown] step-text
# Learning is going downhill: the *gradient* says for each of the five million numbers whether more of it makes the loss
# larger or smaller, and each takes a small step against it. The random numbers are the same every time, so only the
# learning counts. *Try* a factor ten times as large: the steps jump over the valley.

# %% step
for attempt in range(5):
    torch.manual_seed(1)
    out = pupil(*inputs)
    loss = losses.mel_loss(to_mel(target), to_mel(out.audio))
    print(f"after {attempt} steps: mel {loss:.4f}")
    pupil.zero_grad()
    loss.backward()
    with torch.no_grad():
        for weights in (weights for weights in pupil.parameters() if weights.grad is not None):
            weights -= 0.3 * weights.grad

# %% [markdown] train-text
# `train` does the same some hundred times, with all losses and with AdamW, which gives every number a step size of its
# own. This is the minute to get a coffee. Run it again with more `max_steps`, and it resumes from here.

# %% train
from svcnb.models.sovits import load_voice, train
from svcnb.training.settings import TrainSettings

voice_path = work.find(voice_folder) if voice_folder else work.make(f"data/models/tour-{raw.name}")
if not voice_folder:
    limits = {"max_minutes": max_minutes or None, "max_steps": max_steps or None, "device": "cpu"}
    limits = TrainSettings(log_every_steps=2, validate_every_steps=25, **limits)
    train(features, voice_path, limits, resume=True)
voice = load_voice(voice_path, pretrain_folder=work.project / "pretrain")
net = voice.generator
show_facts({"voice": voice.name, "speakers": ", ".join(voice.speakers)})

# %% [markdown] curve-text
# Losses fall steeply while the network finds the rough colour of the voice, then slowly, detail by detail. The KL falls at
# once and may rise again: posterior and prior agree easily before the posterior has learned to tell anything. The upper
# plot also has clips that the network never trains on (*held out*); only they show that it does not overfit.

# %% curve
from svcnb.plots import plot_losses

history = voice_path / "history.jsonl"
plot_losses(history) if history.is_file() else print("this voice came without its history")

# %% [markdown] latents-text
# ## 10 Inside the trained network
# Our sentence again. Above is what the posterior read from the real sound, in the middle the same after the flow, below
# what the prior predicted from content and f0 alone. Rows are latents, red is above zero and blue below. The more the
# lower two are alike, the better a foreign sentence will sound, for which there is only the prior.

# %% latents
with torch.no_grad():
    g = net.embed_speaker(speaker)
    prior = net.prior(aligned[None], melody_hz, voiced)
    z, log_std = net.enc_q(spec[None], prior.mask, g)
    z_p = net.flow(z, prior.mask, g)
rows = prior.m_p[0].std(dim=1).argsort()
pictures = {"posterior": z, "posterior through the flow": z_p, "prior": prior.m_p}
pictures = {name: latents[0, rows] for name, latents in pictures.items()}
plot_features(pictures, clip.duration_s, rows="latent", signed=True)

# %% [markdown] flow-text
# The flow must work in both directions: training goes from posterior to prior, conversion goes back. It can, because
# each of its layers only *adds* to one half of the numbers something computed from the other half, and what was added
# can be taken away again.

# %% flow
with torch.no_grad():
    back = net.flow(z_p, prior.mask, g, reverse=True)
print(f"the flow moves the latents by up to {(z_p - z).abs().max():.2f}")
print(f"there and back they differ by at most {(back - z).abs().max():.1e}")

# %% [markdown] decode-text
# ## 11 Decoder: a buzz becomes a voice
# The decoder reads the latents and filters the source with them, frame by frame. The source has all harmonics at one
# strength. The filter raises those near the resonances of the throat (*formants*) and adds noise for consonants: compare
# before and after training, and with the recording.

# %% decode
from svcnb.plots.tour import plot_spectrograms

sounds = {"source": source}
for name, network in (("before training", untrained), ("after training", net)):
    with torch.no_grad():
        sound = network.dec(z, network.source_f0(melody_hz, voiced), network.embed_speaker(speaker))
    sounds[name] = Audio(sound[0, 0].numpy(), rate)
    display(show_audio(sounds[name], name))
plot_spectrograms(sounds | {"recording": clip})

# %% [markdown] filter-text
# One moment seen from the side. The peaks of all three are at the same frequencies, for they share one f0; the
# heights of the peaks are the vowel and the voice.

# %% filter
curves = {}
for name, sound in {"recording": clip, "decoder": sounds["after training"], "source": source}.items():
    piece = torch.from_numpy(sound.samples[start : start + n_fft]) * hann
    curves[name] = 20 * torch.fft.rfft(piece).abs().clamp(min=1e-3).log10()[low]
plot_curves(tones_hz[low], curves, axes=("frequency (Hz)", "strength (dB)"))

# %% [markdown] other-text
# ## 12 Conversion: another person's sentence
# Now everything comes together. Content and f0 are taken from somebody else's recording; f0 is transposed to the
# pitch of our voice, by as many semitones as are between the two median f0.

# %% other
other_whole = read_audio(work.find(other_recording), sample_rate_hz=rate)
cut = find_clips(other_whole.samples, settings).clips[0]
other = Audio(other_whole.samples[cut.start : cut.end], rate)
other_track = fcpe(other.samples)
semitones = voice.suggest_transpose(other_track) or 0  # 12 * log2(our median f0 / theirs)
moved = other_track.transposed(semitones)
print(f"from {other_track.median_hz():.0f} to {moved.median_hz():.0f} Hz: {semitones:+d} semitones")
show_audio(other, "source")

# %% [markdown] words-text
# The same two questions as for our own sentence: which sounds, at which pitch? The third row of numbers is the flag that
# says where there is any pitch at all.

# %% words
other_encoder = voice.encoder.for_recording(resample(other_whole, SAMPLE_RATE_HZ).samples)
words = other_encoder.encode(resample(other, SAMPLE_RATE_HZ).samples)
words = align_to_frames(words.T, moved.n_frames)[None]
other_hz = torch.from_numpy(moved.interpolated()).float()[None]
other_voiced = torch.from_numpy(moved.voiced).float()[None]
plot_f0_over_spectrogram(other, moved, other_tracks=[other_track], labels=["transposed", "as it was"])

# %% [markdown] hand-text
# By hand: the prior guesses, a little randomness chooses one of the sounds that it thinks possible, the flow runs
# backwards, the decoder makes the waveform. No posterior is needed. `infer` does the same, and with equal random numbers the results
# are equal.

# %% hand
from svcnb.nn.layers import Noise

noise = Noise(torch.Generator().manual_seed(7))
with torch.no_grad():
    prior = net.prior(words, other_hz, other_voiced)
    z_p = prior.m_p + 0.4 * prior.logs_p.exp() * noise.normal(prior.m_p.shape, like=prior.m_p)
    z = net.flow(z_p, prior.mask, g, reverse=True)
    by_hand = net.dec(z, net.source_f0(other_hz, other_voiced), g, noise=noise)
noise = Noise(torch.Generator().manual_seed(7))
result = net.infer(words, other_hz, other_voiced, speaker, noise_scale=0.4, noise=noise).audio
print(f"by hand differs by at most {(by_hand - result).abs().max():.1e}")
show_audio(Audio(result[0, 0].numpy(), rate), f"in the voice of {voice.name}")

# %% [markdown] verbs-text
# The package has these steps as four verbs of a voice. Each takes and gives arrays or tensors, so you can change what is
# between them. *Try* another f0 before the last line, `f0 = f0.transposed(3)`, or less content, `content = 0.8 * content`.

# %% verbs
content = voice.encode(other)  # [N50, D], 50 frames per second
f0 = voice.estimate_f0(other).transposed(semitones)  # N frames
aligned_content = voice.retrieve(content, f0)  # [N, D], blended with an index if asked for
samples = voice.synthesize(aligned_content, f0)  # [N * hop]
shapes = {"content": content.shape, "on its frames": aligned_content.shape, "samples": samples.shape}
show_facts({name: list(shape) for name, shape in shapes.items()})
show_audio(Audio(samples, rate), f"in the voice of {voice.name}, by four verbs")

# %% [markdown] convert-text
# `convert` takes care of the rest: any length, cuts at silence, faded seams, a result exactly as long as the source. After
# a minute of training it is a sketch; the voice shows, but the words are muffled. *Try* `transpose_semitones=semitones + 12`.

# %% convert
from svcnb.audio import write_audio
from svcnb.conversion import ConversionSettings

converted = voice.convert(other, ConversionSettings(transpose_semitones=semitones))
folder = work.make("data/tour/converted")
write_audio(folder / f"{work.find(other_recording).stem}_as_{voice.name}.flac", converted)
display(show_audio(other, "source"), show_audio(converted, "result"))
pair = {"source": other, "result": converted}
plot_spectrograms(pair, (other_track, fcpe(converted.samples)))

# %% [markdown] measure-text
# Ears decide, but numbers help to compare. The similarity compares a fingerprint of each voice, made by a network that
# was trained to tell people apart; the same person reaches about 0.9. The correlation says how closely the result
# follows the f0: 1 is exactly.

# %% measure
from svcnb.audio import find_audio_files
from svcnb.evaluation.metrics import F0Pair, evaluate_conversion

installed = install_missing(("evaluate",)) if on_colab() else []
melodies = F0Pair(other_track, fcpe(converted.samples))
report = evaluate_conversion(other, converted, find_audio_files(raw)[:4], melodies=melodies)
show_facts({
    "similarity to the voice, source": report.similarity_source,
    "similarity to the voice, result": report.similarity_result,
    "melody correlation": report.pitch.correlation,
})

# %% [markdown] centers-text
# ## 13 Leaning on the voice
# The other person's content still carries a little of the other person. So some of it can be replaced by the nearest
# typical sound of *our* voice: one of the cluster centers that k-means finds among all its moments. More of it sounds more like
# the voice, and less clear.

# %% centers
from svcnb.features.content.clustering import fit_centers
from svcnb.features.content.retrieval import SpeakerCenters

known = torch.cat([torch.from_numpy(store.read(name)["content"]).float() for name in store.names()])
centers = SpeakerCenters({raw.name: fit_centers(known, 50).centers})
foreign = words[0].T  # [frames, width]
nearest = torch.cdist(foreign, centers.centers[raw.name]).argmin(dim=1)
by_hand = 0.5 * centers.centers[raw.name][nearest] + 0.5 * foreign
blended = centers.blend(foreign, raw.name, 0.5)
is_equal = torch.allclose(by_hand, blended)
print(f"{len(known)} moments, 50 centers; by hand and package equal: {is_equal}")
result = net.infer(blended.T[None], other_hz, other_voiced, speaker, noise_scale=0.4).audio
show_audio(Audio(result[0, 0].numpy(), rate), "half of the content from the voice's own sounds")

# %% [markdown] questions
# ## 14 Questions to try
# Each takes one change in the form and another run. Guess first, then look and listen.
#
# | change | and ask |
# |---|---|
# | `pitch_shift = 12` | which moments does content lose first, and why does the mel find so few? |
# | `max_minutes = 10`, `max_steps = 0` | what gets clear first, vowels or consonants? |
# | `other_recording` = the song | does the voice reach notes that it never spoke? |
# | `voice_recordings` = bruno, `other_recording` = one of ada | which direction is easier, up or down? |
# | `recording` = your own voice | at which stage do you stop recognising yourself? |

# %% [markdown] files-text
# ## 15 Where to continue
# Your own voice starts in [00_setup](00_setup.ipynb); [03_train](03_train.ipynb) trains longer and
# [05_convert](05_convert.ipynb) has all choices. Every function used here has a docstring with shapes and sources. The
# voice of this tour is in `data/models`, so 05_convert can use it as well.

# %% files
show_files(work.root / "data/tour/converted")
