"""Feature retrieval: blends content with a voice's cluster centers or index, found beside its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from svcnb import SvcError
from svcnb.conversion.settings import ConversionSettings
from svcnb.features.content.index_files import kind_of_file
from svcnb.features.content.retrieval import INDEX_FILE, FeatureIndex, SpeakerCenters

CENTERS_PATTERN = "kmeans*.pt"
Stored = SpeakerCenters | FeatureIndex
FeatureBlend = Callable[
    [Tensor], Tensor
]  # content [N, D] at the voice's frame rate -> blended content [N, D]


class VoiceRetrieval:
    """Finds cluster centers and index of a voice and blends content with them; files are loaded on first use.

    Attributes:
        folder: with kmeans_<n>.pt and feature_and_index.pkl; None for a voice without them.
        named: a file to use instead (centers, an index, or RVC's added_*.index; recognized by its content).
        speakers: name -> id in the voice.
        width: values per content frame that the voice is conditioned on.
    """

    def __init__(
        self, folder: Path | None, *, speakers: Mapping[str, int], width: int, named: Path | None = None
    ) -> None:
        self.folder = folder
        self.named = named
        self.speakers = speakers
        self.width = width
        self._read: dict[tuple[Path, int | None], tuple[int, Stored]] = {}  # with the modification time
        if named is not None:
            kind_of_file(named)  # report a missing file when the voice is loaded

    def files(self) -> list[Path]:
        """All files that a retrieval may read."""
        if self.named is not None or self.folder is None:
            return [self.named] if self.named else []
        return [path for pattern in (CENTERS_PATTERN, INDEX_FILE) for path in self.folder.glob(pattern)]

    def pull(self, settings: ConversionSettings, speaker_id: int) -> FeatureBlend | None:
        """The retrieval of these settings, as a function on content; None if the ratio is 0.

        Source: so-vits-svc 4.1, which blends after the content is aligned to the voice's frames.

        Raises:
            SvcError: no such file, a file of the other kind, one without this speaker (the message names the
                known ones), or one made from another encoder's content.
        """
        ratio = settings.cluster_ratio
        if not ratio:
            return None
        if settings.feature_retrieval:
            index = self.index(speaker_id)
            return lambda content: index.blend(content, speaker_id, ratio)
        centers, name = self.centers(speaker_id), self._name(speaker_id)
        return lambda content: centers.blend(content, name, ratio)

    def centers(self, speaker_id: int) -> SpeakerCenters:
        """K-means centers, with this speaker's among them.

        Raises:
            SvcError: as `pull`.
        """
        path = self._find(CENTERS_PATTERN, "svcnb cluster")
        if kind_of_file(path) != "centers":
            raise SvcError(
                f"{path} contains an index, not centers: switch feature_retrieval (-fr) on, "
                "or name a kmeans_*.pt (-cm)"
            )
        centers = self._once(path, None, lambda: SpeakerCenters.read(path))
        self._check_speaker(path, self._name(speaker_id), centers.speakers)
        self._check_width(path, centers.width(self._name(speaker_id)))
        return centers

    def index(self, speaker_id: int) -> FeatureIndex:
        """The index of this speaker's frames; a plain index file is used for any speaker.

        Raises:
            SvcError: as `pull`.
        """
        path = self._find(INDEX_FILE, "svcnb index")
        kind = kind_of_file(path)
        if kind == "centers":
            raise SvcError(
                f"{path} contains centers, not an index: switch feature_retrieval (-fr) off, "
                "or name an index (-cm)"
            )
        key = speaker_id if kind == "index" else None
        index = self._once(path, key, lambda: FeatureIndex.read(path, speaker_id=speaker_id))
        self._check_speaker(
            path, self._name(speaker_id), [self._name(number) for number in index.speaker_ids]
        )
        self._check_width(path, index.width(speaker_id))
        return index

    def _name(self, speaker_id: int) -> str:
        return next((name for name, number in self.speakers.items() if number == speaker_id), str(speaker_id))

    def _find(self, pattern: str, command: str) -> Path:
        """The named file, else the newest one beside the voice."""
        if self.named is not None:
            return self.named
        found = list(self.folder.glob(pattern)) if self.folder else []
        if not found:
            raise SvcError(
                f"a ratio above 0 (-cr) needs {pattern}, and {self.folder or 'this voice'} has none: make it "
                f"with `{command} FEATURES {self.folder or 'VOICE'}` or notebook 04_cluster, "
                "or name one (-cm)"
            )
        return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _once(self, path: Path, key: int | None, read: Callable[[], Stored]) -> Stored:
        changed_ns = path.stat().st_mtime_ns
        if self._read.get((path, key), (0,))[0] != changed_ns:
            self._read[path, key] = changed_ns, read()
        return self._read[path, key][1]

    def _check_speaker(self, path: Path, name: str, known: list[str]) -> None:
        if name not in known:
            raise SvcError(
                f"{path} has nothing for speaker {name!r}, only for {', '.join(known)}: "
                "choose one of them (-s), or make the file from features of this speaker"
            )

    def _check_width(self, path: Path, width: int) -> None:
        if width != self.width:
            raise SvcError(
                f"{path} is for content of {width} values per frame, this voice expects "
                f"{self.width}: make it from the features of the voice's training"
            )
