"""Text: corpora in tokens, their splits, and random pieces of documents."""

import hashlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets import catalogue, corpora, prepared, subwords, text
from tasksets.catalogue import TextName, read_text_name
from tasksets.task import SPLITS
from tasksets.text import TextConfig, TextData, TextInfo, TextNumbers, Texts, TextSplit

KEY = jax.random.key(0)


def documents(data: TextData, split: str) -> list[bytes]:
    """The documents of a split of bytes."""
    tokens, part = np.asarray(data.tokens), getattr(data, split)
    return [
        tokens[start : start + length].tobytes()
        for start, length in zip(
            np.asarray(part.starts), np.asarray(part.lengths), strict=True
        )
    ]


def numbered(lengths: list[int]) -> TextData:
    """Document d is 10 (d + 1), 10 (d + 1) + 1, ... in served tokens."""
    tokens = [10 * (d + 1) + np.arange(n) for d, n in enumerate(lengths)]
    starts = np.cumsum(lengths) - lengths
    arrays = (starts, lengths, np.arange(len(lengths)))
    split = TextSplit(*(jnp.asarray(a, jnp.int32) for a in arrays))
    flat = jnp.asarray(np.concatenate(tokens) - 1, jnp.uint8)
    info = TextInfo("numbered/bytes", "bytes", 257, len(lengths))
    return TextData(flat, split, split, split, split, info)


def serve(data: TextData, patch_length: int, batch_size: int, split="train"):
    texts = Texts(data.info, patch_length, batch_size, just_train=False)
    numbers = TextNumbers(jnp.int32(data.num_train()))
    drawn = texts.draw(numbers, data, split, KEY)
    return texts.take(numbers, data, split, drawn)


def test_names_are_those_of_taskset():
    for name, corpus, encoding in [
        ("lm1b/bytes", "lm1b", "bytes"),
        ("imdb_reviews/subwords8k", "imdb_reviews", "subwords8k"),
        (
            "tokenized_wikipedia/20190301.zh_bytes",
            "tokenized_wikipedia/20190301.zh",
            "bytes",
        ),
        (
            "tokenized_amazon_reviews/Books_v1_02_subwords8k",
            "tokenized_amazon_reviews/Books_v1_02",
            "subwords8k",
        ),
    ]:
        assert read_text_name(name) == TextName(corpus, encoding)
        assert str(TextName(corpus, encoding)) == name
        assert name in catalogue.texts() and catalogue.is_text(name)
    assert str(read_text_name("tiny_shakespeare")) == "tiny_shakespeare/bytes"
    assert catalogue.builder("tokenized_amazon_reviews/Books_v1_02_bytes") == (
        "amazon_us_reviews/Books_v1_02"
    )
    assert catalogue.builder("tokenized_wikipedia/20190301.zh_subwords8k") == (
        "wikipedia/20190301.zh"
    )
    assert not catalogue.is_text("food101_32x32")


def test_a_piece_is_a_run_of_its_document_with_its_label():
    data = numbered([9, 8, 7])
    batch = serve(data, patch_length=4, batch_size=200)
    assert batch.tokens.shape == batch.mask.shape == (200, 4)
    assert batch.tokens.dtype == jnp.int32 and batch.mask.dtype == jnp.float32
    np.testing.assert_array_equal(batch.mask, 1)
    np.testing.assert_array_equal(np.diff(batch.tokens, axis=1), 1)
    np.testing.assert_array_equal(batch.tokens[:, 0] // 10 - 1, batch.labels)


def test_every_start_is_as_likely_and_the_last_one_is_possible():
    data = numbered([1, 9])
    batch = serve(data, patch_length=4, batch_size=30000)
    starts = np.asarray(batch.tokens)[np.asarray(batch.labels) == 1, 0] - 20
    counts = np.bincount(starts, minlength=6)
    assert len(counts) == 6  # 0, ..., 9 - 4
    # Five degrees of freedom: 20.5 is exceeded with probability 0.001.
    expected = counts.sum() / 6
    assert np.sum((counts - expected) ** 2 / expected) < 20.5
    # Upstream's range, which misses the last start, would be told from this one.
    assert (
        np.sum((np.bincount(starts % 5, minlength=6) - expected) ** 2 / expected) > 99
    )


@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_short_document_is_padded_with_zeros_under_a_zero_mask(length):
    data = numbered([9, length])
    batch = serve(data, patch_length=4, batch_size=50)
    short = np.asarray(batch.labels) == 1
    inside = np.arange(4) < length
    expected = np.where(inside, 20 + np.arange(4), 0)
    assert short.any()
    np.testing.assert_array_equal(
        batch.tokens[short], np.tile(expected, (short.sum(), 1))
    )
    np.testing.assert_array_equal(batch.mask[short], np.tile(inside, (short.sum(), 1)))


def test_pieces_run_under_jit_and_vmap_and_fractions_stay_in_the_document():
    data = numbered([9, 8, 7])
    texts = Texts(data.info, 4, 3, just_train=False)
    numbers = TextNumbers(jnp.int32([1, 3]))
    take = jax.jit(jax.vmap(texts.take, in_axes=(0, None, None, 0)), static_argnums=2)
    drawn = (jnp.int32([[0, 1, 2]] * 2), jnp.float32([[0, 0.99999994, 1.0]] * 2))
    batch = take(numbers, data, "train", drawn)
    np.testing.assert_array_equal(batch.tokens[0, 1], 24 + np.arange(4))
    np.testing.assert_array_equal(batch.tokens[1, 2], 33 + np.arange(4))
    draw = jax.vmap(texts.draw, in_axes=(0, None, None, None))
    indices, _ = draw(numbers, data, "train", KEY)
    assert indices.shape == (2, 3) and not indices[0].any()


def test_num_train_and_just_train_are_kept_to():
    config = TextConfig(
        dataset="python_docs",
        patch_length=8,
        batch_size=400,
        num_train=5,
        just_train=True,
    )
    texts, numbers, data = text.serve_text(config)
    for split in SPLITS:
        indices, _ = texts.draw(numbers, data, split, KEY)
        assert set(np.asarray(indices)) == set(range(5))
        batch = texts.take(numbers, data, split, (indices, jnp.zeros(400)))
        assert set(np.asarray(batch.labels)) <= set(np.asarray(data.train.labels[:5]))
    with pytest.raises(ValueError, match="num_train is at least 1"):
        data.num_train(0)


def test_the_bundled_text_has_four_splits_that_share_no_document():
    data = text.load_text("python_docs/bytes")
    assert data is text.load_text("python_docs")
    assert data.info == TextInfo("python_docs/bytes", "bytes", 257, 10)
    contents = [d for split in SPLITS for d in documents(data, split)]
    assert len(contents) == len(set(contents)) > 500
    assert all(len(d.decode()) > 5 for d in contents)
    sizes = [data.size(split) for split in SPLITS]
    assert sizes[1] == sizes[2] == sizes[3] == sum(sizes) // 10
    for split in SPLITS:
        assert set(np.asarray(getattr(data, split).labels)) == set(range(10))


def test_the_bundled_text_needs_an_interpreter_that_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ImportError, match="pydoc_data is missing"):
        list(corpora._python_docs())


def test_a_corpus_is_loaded_once_even_when_first_loaded_in_a_trace():
    text._load.cache_clear()
    text._read.cache_clear()
    jax.jit(lambda: text.load_text("python_docs").tokens.sum())()
    data = text.load_text("python_docs")
    assert not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(data))
    assert text.load_text("python_docs") is data
    smaller = text.load_text("python_docs", num_per_valid=7)
    assert smaller.tokens is data.tokens and smaller.size("outer_valid") == 7


def test_subwords_give_the_text_back(fake_prepared):
    pytest.importorskip("sentencepiece")
    in_bytes = text.load_text("python_docs")
    data = text.load_text("python_docs/subwords8k")
    assert data.info.vocab_size == subwords.VOCAB_SIZE == 8192
    assert data.tokens.dtype == jnp.uint16
    assert len(data.tokens) < 0.4 * len(in_bytes.tokens)
    assert int(data.tokens.max()) + 1 < 8192
    vocabulary = next(fake_prepared.folder.parent.rglob("vocabulary.npy"))
    vocabulary = np.load(vocabulary).tobytes()
    tokens, originals = np.asarray(data.tokens) + 1, documents(in_bytes, "test")
    for index in range(50):
        start, length = int(data.test.starts[index]), int(data.test.lengths[index])
        decoded = subwords.decode(vocabulary, tokens[start : start + length])
        assert decoded.encode() == originals[index]


def test_a_vocabulary_is_the_same_every_time_and_spells_what_it_does_not_know():
    pytest.importorskip("sentencepiece")
    texts = [b"the cat sat on the mat " * 3, "größe  über\n\nalles".encode()] * 20
    vocabulary = subwords.learn(texts)
    assert vocabulary == subwords.learn(iter(texts))
    strange = "日本 \t x\n".encode()
    (tokens,) = subwords.encode(vocabulary, [strange])
    assert tokens.min() >= 1
    assert subwords.decode(vocabulary, tokens).encode() == strange


def test_without_the_package_the_error_of_subwords_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"pip install 'learned-opt\[data\]'"):
        subwords.learn([b"text"])


def write_reviews(fake_prepared, sizes):
    features = fake_prepared.tfds.features
    splits = {
        split: [
            {"text": f"{split} {i} " + "é" * i, "label": i % 2} for i in range(size)
        ]
        for split, size in sizes.items()
    }
    kinds = {"text": features.Text(), "label": features.ClassLabel(num_classes=2)}
    fake_prepared.write(
        "imdb_reviews", splits, kinds, ("text", "label"), config="plain_text"
    )
    return splits


def test_labelled_text_keeps_its_order_labels_and_test_split(fake_prepared):
    sizes = {"train": 40, "test": 10, "unsupervised": 3}
    splits = write_reviews(fake_prepared, sizes)
    data = text.load_text("imdb_reviews/bytes", num_per_valid=3)
    assert data.info == TextInfo("imdb_reviews/bytes", "bytes", 257, 2)
    order = ("inner_valid", "outer_valid", "train")
    got = [d.decode() for split in order for d in documents(data, split)]
    assert got == [record["text"] for record in splits["train"]]
    assert [d.decode() for d in documents(data, "test")] == [
        record["text"] for record in splits["test"]
    ]
    assert [data.size(split) for split in SPLITS] == [34, 3, 3, 10]
    np.testing.assert_array_equal(data.train.labels, np.arange(6, 40) % 2)
    batch = serve(data, patch_length=5, batch_size=4, split="test")
    stored = np.frombuffer(b"test ", np.uint8).astype(int) + 1
    first = np.asarray(batch.tokens)[:, 0]
    assert set(first) <= set(range(1, 257)) and stored[0] == ord("t") + 1


@pytest.mark.parametrize("corpus", ["imdb_reviews", "lm1b"])
def test_a_corpus_is_plain_text_where_it_is_prepared_in_encodings_too(
    fake_prepared, corpus
):
    kinds = {"text": fake_prepared.tfds.features.Text()}
    for config in ("bytes", "plain_text", "subwords8k"):
        splits = {"train": [{"text": f"{config} {i}"} for i in range(40)]}
        fake_prepared.write(corpus, splits, kinds, config=config)
    assert documents(text.load_text(corpus), "train")[-1] == b"plain_text 39"
    assert tasksets.names("taskset-1k", data_here=True)


def test_reviews_in_another_encoding_alone_do_not_count(fake_prepared):
    kinds = {"text": fake_prepared.tfds.features.Text()}
    records = {"train": [{"text": f"review {i}"} for i in range(40)]}
    fake_prepared.write("imdb_reviews", records, kinds, config="subwords8k")
    assert not tasksets.data_present("imdb_reviews/subwords8k")


def test_a_small_corpus_holds_out_a_tenth(fake_prepared):
    write_reviews(fake_prepared, {"train": 40, "test": 10})
    assert text.load_text("imdb_reviews").size("inner_valid") == 4


@pytest.fixture
def large_reviews(monkeypatch):
    """As many documents as imdb_reviews has, of one token each."""

    def read(name, found):
        ones, zeros = np.ones(25000, np.int32), np.zeros(25000, np.int32)
        split = corpora.Tokens(np.zeros(25000, np.uint8), ones, zeros)
        splits = {"train": split, "test": split}
        starts = dict.fromkeys(splits, np.arange(25000, dtype=np.int32))
        info = TextInfo(str(name), name.encoding, 257, 2)
        return text._Corpus(jnp.zeros(50000, jnp.uint8), starts, splits, info)

    monkeypatch.setattr(text, "_read", read)
    monkeypatch.setattr(corpora, "locate", lambda name: None)
    text._load.cache_clear()
    yield
    text._load.cache_clear()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("char_rnn_language_model_family/seed0@imdb_reviews/bytes", (3000, 19000)),
        ("word_rnn_language_model_family/seed0@imdb_reviews/subwords8k", (10000, 5000)),
        ("rnn_text_classification_family/seed0", (3000, 19000)),
        ("FixedTextRNNClassification_imdb_patch32_GRU128_bs128", (3000, 19000)),
        ("rnn_text_classification_family/seed0?num_per_valid=12000", (12000, 1000)),
    ],
)
def test_as_many_documents_are_held_out_as_in_taskset(large_reviews, name, sizes):
    data, (held_out, left) = tasksets.get(name).data, sizes
    found = [data.size(split) for split in ("inner_valid", "outer_valid", "train")]
    assert found == [held_out, held_out, left]


def test_a_number_that_was_asked_for_is_not_cut_to_what_there_is(fake_prepared):
    write_reviews(fake_prepared, {"train": 40, "test": 10})
    assert text.load_text("imdb_reviews", num_per_valid=19).size("train") == 2
    with pytest.raises(ValueError, match="too few to take 20"):
        text.load_text("imdb_reviews", num_per_valid=20)


def test_articles_of_wikipedia_are_split_whole_into_paragraphs(fake_prepared):
    features = fake_prepared.tfds.features
    paragraph = "article {0} paragraph {1}"
    articles = [
        "\n".join([paragraph.format(a, p) for p in range(3)] + ["short", "   "])
        for a in range(300)
    ]
    records = [{"text": a, "title": "t"} for a in articles]
    kinds = {"text": features.Text(), "title": features.Text()}
    fake_prepared.write("wikipedia", {"train": records}, kinds, config="20190301.hsb")
    data = text.load_text("tokenized_wikipedia/20190301.hsb_bytes")
    assert data.info.name == "tokenized_wikipedia/20190301.hsb_bytes"
    assert data.info.num_classes == 0
    found = {split: documents(data, split) for split in SPLITS}
    assert sorted(sum(found.values(), [])) == sorted(
        paragraph.format(a, p).encode() for a in range(300) for p in range(3)
    )
    article = lambda split: {d.split()[1] for d in found[split]}
    training = article("train") | article("inner_valid") | article("outer_valid")
    assert not training & article("test")
    # Binomial of 300 with p .7: four standard deviations are 32.
    assert abs(len(training) - 210) < 32


def test_reviews_have_stars_less_one_as_labels(fake_prepared):
    features = fake_prepared.tfds.features
    kinds = {"data": {"review_body": features.Text(), "star_rating": np.int32}}
    records = [
        {"data": {"review_body": f"review {i}", "star_rating": i % 5 + 1}}
        for i in range(200)
    ]
    fake_prepared.write(
        "amazon_us_reviews", {"train": records}, kinds, config="Video_v1_00"
    )
    data = text.load_text("tokenized_amazon_reviews/Video_v1_00_bytes")
    assert data.info.num_classes == 5
    for split in SPLITS:
        numbers = [int(d.split()[1]) for d in documents(data, split)]
        np.testing.assert_array_equal(
            getattr(data, split).labels, np.array(numbers) % 5
        )
    assert sum(data.size(split) for split in SPLITS) == 200


def test_reading_stops_at_the_limits_and_drops_empty_documents(monkeypatch):
    monkeypatch.setattr(corpora, "_MOST_DOCUMENTS", 4)
    stored = [(b"a", 0), (b"", 1), (b"bb", 2), (b"c", 3), (b"d", 4)]
    assert [label for _, label in corpora._capped(stored)] == [0, 2, 3]
    monkeypatch.setattr(corpora, "_MOST_BYTES", 3)
    assert [label for _, label in corpora._capped(stored)] == [0, 2]


def test_pieces_cut_no_character():
    content = ("aé" + "日本語" * 40).encode()
    pieces = list(corpora._pieces(content, 16))
    assert b"".join(pieces) == content
    assert all(0 < len(piece.decode()) and len(piece) <= 16 for piece in pieces)


def test_text_is_cached(fake_prepared, monkeypatch):
    write_reviews(fake_prepared, {"train": 40, "test": 10})
    first = corpora.read(TextName("imdb_reviews", "bytes"))
    monkeypatch.setattr(prepared.Prepared, "records", None)
    again = corpora.read(TextName("imdb_reviews", "bytes"))
    for split, tokens in first.splits.items():
        for a, b in zip(tokens, again.splits[split], strict=True):
            np.testing.assert_array_equal(a, b)


def test_absent_unknown_and_wrong_text_have_errors_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in catalogue.texts():
        if not name.startswith("python_docs"):
            with pytest.raises(tasksets.DataNotFoundError) as caught:
                text.load_text(name)
            assert f"learned-opt data prepare {name}`" in str(caught.value)
            encoding = catalogue.read_text_name(name).encoding
            assert f"@python_docs/{encoding}'" in str(caught.value)
    with pytest.raises(tasksets.UnknownNameError, match="imdb_reviews/bytes"):
        text.load_text("imdb_review")
    with pytest.raises(ValueError, match="no text"):
        text.load_text("mnist")
    with pytest.raises(ValueError, match="no text"):
        text.load_text("digits/bytes")


def test_shakespeare_is_cut_into_pieces_that_join_to_the_whole():
    if prepared.find("tiny_shakespeare") is None:
        pytest.skip(f"tiny_shakespeare is not prepared in {prepared.data_folder()}")
    data = text.load_text("tiny_shakespeare")
    order = ("inner_valid", "train", "outer_valid", "test")
    whole = b"".join(d for split in order for d in documents(data, split))
    assert hashlib.sha256(whole).hexdigest() == (
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    )
    assert [data.size(split) for split in SPLITS] == [883, 98, 55, 55]
    assert data.info == TextInfo("tiny_shakespeare/bytes", "bytes", 257, 0)
