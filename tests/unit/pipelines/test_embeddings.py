"""The embed step: every picture once, nothing lost when killed, damage reported, never another encoder's numbers."""

import logging
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from feature_repo.errors import DamagedFileError, MissingInputError
from feature_repo.files import sha256_bytes
from feature_repo.settings import Settings
from ml.encoders import pretrain
from ml.encoders.torchvision_ops import torchvision_models
from ml.encoders.vision import EncoderIdentity, VisionEncoder
from ml.encoders.weights import LoadedWeights
from ml.errors import StoreBusyError
from ml.traces.store import ImageArtifactStore
from pipelines import embeddings, picture_embedding
from pipelines.embedding_cache import EmbeddingCache
from pipelines.embeddings import embed_traces, embeddings_status
from pipelines.encoder_choice import encoder_identity, encoder_weights_file, pretrain_encoder

IDENTITY = EncoderIdentity("random", "a" * 64, "imagenet-v1")


def png(number: int) -> bytes:
    """A small picture of its own."""
    pixels = np.full((30, 40, 3), 255, dtype=np.uint8)
    pixels[2 + number % 25, 3:30] = (20, 70, 170)
    pixels[0, number // 25] = (240, 100, 0)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def put(settings: Settings, driver: str, content: bytes) -> None:
    ImageArtifactStore(settings.multimodal_dir).put(
        "2024_08",
        driver,
        39,
        content,
        last_lap=39,
        event_timestamp="2024-05-26T14:00:00Z",
        created_timestamp="2024-05-26T14:00:00Z",
        source_hash=sha256_bytes(content),
        renderer_version="test",
        is_default=True,
    )


@pytest.fixture(scope="module")
def weights_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.manual_seed(1)
    torch.save(torchvision_models().resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture
def home(settings, weights_path) -> Settings:
    """A home with four pictures, two of them equal."""
    settings = settings.model_copy(update={"encoder": str(weights_path)})
    for driver, number in (("alonso", 1), ("bottas", 2), ("hamilton", 3), ("hamilton_twin", 3)):
        put(settings, driver, png(number))
    return settings


def test_each_picture_is_embedded_once(home):
    told = []
    first = embed_traces(home, progress=lambda name, done, total: told.append((name, done, total)))
    assert (first.count, first.new, first.cached, first.damaged) == (3, 3, 0, [])
    assert told[-1] == ("embed", 3, 3)
    again = embed_traces(home)
    assert (again.count, again.new, again.cached) == (3, 0, 3)
    put(home, "sainz", png(4))
    third = embed_traces(home)
    assert (third.count, third.new, third.cached) == (4, 1, 3)
    assert first.identity == third.identity == encoder_identity(home)
    assert first.to_json()["identity"]["kind"] == "file"


def test_cached_embeddings_are_those_of_the_encoder(home, tmp_path):
    embed_traces(home)
    encoder = VisionEncoder.from_file(encoder_weights_file(home), encoder_identity(home))
    path = tmp_path / "picture.png"
    path.write_bytes(png(2))
    cached, found = EmbeddingCache(home.embeddings_dir, encoder.identity).get([sha256_bytes(png(2)), "", None, "f" * 64])
    assert found.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(cached[0], encoder.encode_single(path).numpy())
    assert not cached[1:].any()
    assert cached.dtype == np.float32


def test_damaged_pictures_are_reported_and_the_rest_embedded(home, caplog):
    (home.multimodal_dir / "speed_traces/2024_08/bottas.png").write_bytes(png(9))
    (home.multimodal_dir / "speed_traces/2024_08/alonso.png").unlink()
    with caplog.at_level(logging.WARNING):
        report = embed_traces(home)
    assert report.damaged == ["speed_traces/2024_08/alonso.png", "speed_traces/2024_08/bottas.png"]
    assert (report.count, report.new) == (1, 1)
    assert caplog.text.count("picture_not_embedded") == 2
    _, found = EmbeddingCache(home.embeddings_dir, report.identity).get([sha256_bytes(png(9)), sha256_bytes(png(3))])
    assert found.tolist() == [False, True], "a picture that is not the recorded one is not embedded under either hash"


def test_a_stopped_run_keeps_what_it_had(home, monkeypatch):
    monkeypatch.setattr(picture_embedding, "PART", 1)
    real, calls = picture_embedding._embed, []

    def stop_at_third(encoder, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(encoder, images)

    monkeypatch.setattr(picture_embedding, "_embed", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        embed_traces(home)
    monkeypatch.setattr(picture_embedding, "_embed", real)
    report = embed_traces(home)
    assert (report.new, report.cached) == (1, 2)
    assert not list(home.embeddings_dir.glob("*.parts/*.safetensors")), "parts are folded into one file"


def test_without_pictures_no_encoder_is_taught(settings, weights_path):
    with pytest.raises(MissingInputError, match="run `pitwall traces` first"):
        embed_traces(settings.model_copy(update={"encoder": str(weights_path)}))
    assert not settings.weights_dir.exists()


def test_another_encoder_never_meets_these_embeddings(home, tmp_path, caplog):
    first = embed_traces(home)
    state = torch.load(home.encoder, weights_only=True)
    state["conv1.weight"] = state["conv1.weight"] * 1.5
    torch.save(state, tmp_path / "other.pt")
    other = home.model_copy(update={"encoder": str(tmp_path / "other.pt")})
    with pytest.raises(MissingInputError, match="pitwall embed"):
        encoder_identity(other)
    with caplog.at_level(logging.WARNING):
        second = embed_traces(other)
    assert second.new == 3
    assert second.identity.key != first.identity.key
    assert "encoder_changed" in caplog.text
    assert embed_traces(home).cached == 3, "the first encoder's cache is still there"


def test_status_before_and_after(home):
    assert embeddings_status(home) == {"count": 0, "encoder": None}
    report = embed_traces(home)
    status = embeddings_status(home)
    assert (status["count"], status["encoder"], status["kind"]) == (3, report.identity.key, "file")
    assert status["note"] == report.note


def test_only_one_process_embeds_at_a_time(home):
    home.embeddings_dir.mkdir(parents=True)
    with embeddings._alone(home.embeddings_dir), pytest.raises(StoreBusyError, match="another process is embedding"):
        embed_traces(home)


def test_threads_are_given_back(home):
    before = torch.get_num_threads()
    embed_traces(home.model_copy(update={"threads": before + 1}))
    assert torch.get_num_threads() == before


def test_cache_parts_and_file_are_one(tmp_path):
    cache = EmbeddingCache(tmp_path, IDENTITY)
    values = np.random.default_rng(0).normal(size=(6, 512)).astype(np.float32)
    shas = [f"{number:064x}" for number in range(6)]
    cache.add(shas[:2], values[:2])
    cache.fold()
    cache.add(shas[2:4], values[2:4])
    cache.add(shas[4:], values[4:])
    for _ in range(2):
        got, found = cache.get(shas[::-1])
        assert found.all()
        np.testing.assert_array_equal(got, values[::-1])
        cache.fold()
    assert cache.count() == 6
    cache.add([], np.empty((0, 512), dtype=np.float32))
    assert cache.count() == 6


@pytest.mark.parametrize("wrong", [np.zeros((2, 512)), np.zeros((1, 511)), np.full((1, 512), np.nan)])
def test_cache_refuses_what_is_no_embedding(tmp_path, wrong):
    with pytest.raises(ValueError, match="expected finite"):
        EmbeddingCache(tmp_path, IDENTITY).add(["a" * 64], wrong.astype(np.float32))


def test_a_damaged_or_foreign_cache_is_an_error(tmp_path):
    cache = EmbeddingCache(tmp_path, IDENTITY)
    cache.add(["a" * 64], np.ones((1, 512), dtype=np.float32))
    cache.fold()
    file = tmp_path / f"{IDENTITY.key}.safetensors"
    other = EncoderIdentity("random", "b" * 64, "imagenet-v1")
    (tmp_path / f"{other.key}.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(DamagedFileError, match="another encoder"):
        EmbeddingCache(tmp_path, other).get(["a" * 64])
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedFileError, match="delete it"):
        cache.get(["a" * 64])


def test_unreadable_bytes_with_the_recorded_hash_are_damage_too(home):
    """A store written by something that was no renderer: the hash fits, the picture does not decode."""
    put(home, "stroll", png(5)[:60])
    assert embed_traces(home).damaged == ["speed_traces/2024_08/stroll.png"]


def test_loaded_weights_compare_by_hash():
    one = LoadedWeights("file", {"a": torch.zeros(2)}, "x", "", "imagenet-v1")
    assert one == LoadedWeights("file", {"a": torch.ones(2)}, "x", "", "imagenet-v1")


def test_an_encoder_is_taught_once(settings, monkeypatch):
    tiny = pretrain.Recipe(
        races=1, cars=4, coarse_steps=1, fine_steps=1, settled_steps=1, races_a_step=1, cars_a_step=3, held_out_races=1
    )
    monkeypatch.setattr(pretrain, "DEFAULT", tiny)
    real = pretrain.teach
    monkeypatch.setattr(pretrain, "teach", lambda **arguments: real(recipe=tiny, **arguments))
    told = []
    first = pretrain_encoder(settings, progress=lambda *step: told.append(step))
    again = pretrain_encoder(settings)
    assert (first.new, again.new) == (True, False)
    assert told[-1] == ("teach", 3, 3)
    assert first.identity == again.identity
    assert first.identity.kind == "trace"
    assert first.metrics["mean_rmse_px"] > 0
    assert first.file.exists()
