"""The parts of the Genesis experiment: texts, tokenizer, model, arms, scores."""

import json
import math
import sys
from collections import Counter

import pytest
import torch
from torch.nn.functional import cross_entropy

from fractalkern.errors import InputError
from fractalkern.experiments.genesis import arms, evaluate, problems
from fractalkern.experiments.genesis.config import GenesisConfig
from fractalkern.experiments.genesis.model import GPT2
from fractalkern.experiments.genesis.runs import Run, start
from fractalkern.experiments.genesis.texts import encode, everything, longest
from fractalkern.experiments.genesis.tokenizer import BytePairs, Sliced, tokenizer_of
from fractalkern.experiments.token_loss import spoken_loss
from fractalkern.init import spectrum_of


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("", everything(), 0)


# Texts.


def test_the_problem_space_has_856_texts():
    sizes = [len(problems.every(kind)) for kind in problems.KINDS]
    assert sizes == [361, 135, 300, 60]
    assert len({p.text for kind in problems.KINDS for p in problems.every(kind)}) == 856


def test_answers_are_right():
    for kind in problems.KINDS:
        for p in (*problems.every(kind), *problems.outside(kind)):
            a, b, *c = p.operands
            right = {"addition": a + b, "subtraction": a - b, "eating": a - b}.get(kind)
            assert int(p.answer) == (a + b - c[0] if right is None else right)


def test_published_prompts_and_answers():
    assert [p.answer for p in problems.PUBLISHED] == ["12", "9", "9", "10"]
    assert problems.PUBLISHED[2].prompt == "Q: I have 12 apples. I eat 3. How many left? A:"


def test_no_operands_are_shared_between_the_parts_of_a_split():
    one = problems.split(0)
    known = {name: {(p.kind, p.operands) for p in getattr(one, name)} for name in vars(one)}
    for name, other in (("train", "test"), ("train", "validation"), ("test", "validation")):
        assert not known[name] & known[other]
    assert not known["outside"] & (known["train"] | known["test"] | known["validation"])
    shares = Counter(kind for kind, _ in known["test"])
    assert shares == {"addition": 72, "subtraction": 27, "eating": 15, "steps": 12}
    assert len(one.train) + len(one.test) + len(one.validation) == 856
    assert problems.split(1) != one and problems.split(0) == one


def test_words_out_of_range_are_words_of_the_training_texts(tokenizer):
    inside = {
        t for k in problems.KINDS for p in problems.every(k) for t in tokenizer.encode(p.text)
    }
    beyond = {t for p in problems.split(0).outside for t in tokenizer.encode(p.text)}
    assert beyond <= inside


def test_training_texts_are_a_quarter_of_each_kind_and_none_is_held_out():
    one = problems.split(3)
    texts = problems.drawn(one.train, 400, 3)
    assert Counter(p.kind for p in texts) == dict.fromkeys(problems.KINDS, 100)
    assert set(texts) <= set(one.train)


def test_published_generator_has_the_originals_ranges_and_odds():
    texts = problems.drawn_as_published(8000, 0)
    for kind in problems.KINDS:
        assert {p for p in texts if p.kind == kind} <= set(problems.every(kind))
    # b is uniform below a, so 10 - 1 comes with chance 1 / 90 and 19 - 1 with 1 / 180.
    counts = Counter(p.operands for p in texts if p.kind == "subtraction")
    tens, nineteens = (sum(n for (a, _), n in counts.items() if a == top) for top in (10, 19))
    assert abs(tens - 200) < 60 and abs(nineteens - 200) < 60


# Tokenizer.


def test_tokenizer_gives_back_every_text_and_one_token_a_word(tokenizer):
    pairs = BytePairs(everything())
    for text in everything():
        assert tokenizer.decode(tokenizer.encode(text)) == text == pairs.decode(pairs.encode(text))
    assert len(tokenizer.encode("Q: What is 7 + 5? A: 12")) == 11
    assert longest(tokenizer) == 25


def test_embedded_tokenizer_encodes_words_it_has_not_seen():
    pairs = BytePairs(["ab ab"])
    assert pairs.decode(pairs.encode("zürich ab 7")) == "zürich ab 7"
    assert pairs.encode("ab") == [256] and pairs.decode([pairs.end]) == ""


ODD_TEXTS = ["zürich, 7½ m²!", "it's  we'll\n x_1 ", "Q: What is 99 + 1? A: 100"]


@pytest.mark.needs("transformers")
@pytest.mark.filterwarnings("ignore")
def test_embedded_tokenizer_is_transformers_own_from_its_files(tmp_path):
    from transformers import AutoTokenizer, GPT2Tokenizer

    pairs = BytePairs(everything())
    for name, content in pairs.files().items():
        (tmp_path / name).write_bytes(content)
    for loader in (AutoTokenizer, GPT2Tokenizer):
        theirs = loader.from_pretrained(tmp_path)
        assert theirs.eos_token_id == theirs.pad_token_id == pairs.end
        assert len(theirs) == pairs.size
        for text in (*everything()[::7], *ODD_TEXTS):
            assert theirs.encode(text) == pairs.encode(text)
            assert theirs.decode(pairs.encode(text)) == text
    # So it can be given back.
    again = tokenizer_of(str(tmp_path), everything(), 50_257)
    assert again.encode(ODD_TEXTS[0]) == pairs.encode(ODD_TEXTS[0])


@pytest.mark.needs("transformers")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", [False, True], ids=["embedded", "given"])
def test_sliced_tokenizer_keeps_its_numbers_in_its_files(tmp_path, given):
    from transformers import AutoTokenizer

    place = ""
    if given:
        place = str(tmp_path / "given")
        (tmp_path / "given").mkdir()
        for name, content in BytePairs(["Q: 12 A: apples", *ODD_TEXTS] * 2).files().items():
            (tmp_path / "given" / name).write_bytes(content)
    sliced = tokenizer_of(place, everything(), 0)
    assert isinstance(sliced, Sliced)
    (tmp_path / "sliced").mkdir()
    for name, content in sliced.files().items():
        (tmp_path / "sliced" / name).write_bytes(content)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "sliced")
    assert theirs.eos_token_id == sliced.end
    for text in everything():
        assert theirs.encode(text) == sliced.encode(text)
        assert theirs.decode(sliced.encode(text)) == text
    assert min(theirs.encode("&")) >= sliced.size


def test_tokenizer_files_spell_bytes_and_merges_as_gpt2():
    files = BytePairs(["a b", "a b"]).files()
    vocabulary = json.loads(files["vocab.json"])
    # GPT-2 spells a space as G with a dot; a byte that prints is itself.
    assert vocabulary["Ġb"] == 256 and vocabulary["a"] == ord("a") and vocabulary["Ġ"] == ord(" ")
    assert vocabulary["<|endoftext|>"] == 257 and len(vocabulary) == 258
    assert files["merges.txt"].decode().splitlines() == ["#version: 0.2", "Ġ b"]
    kept = json.loads(BytePairs(["a b", "a b"]).files([256, 97, 257])["vocab.json"])
    assert [kept[text] for text in ("Ġb", "a", "<|endoftext|>")] == [0, 1, 2]
    assert sorted(kept.values()) == list(range(258))


def test_merges_follow_frequency():
    # b a n a n a: "an" twice, so it is merged first, then "anan", once in each of two texts.
    pairs = BytePairs(["banana", "banana"])
    assert next(iter(pairs.merges)) == (ord("a"), ord("n"))
    assert len(pairs.encode("banana")) == 1


def test_slicing_keeps_what_occurs(tokenizer):
    whole = BytePairs(everything())
    assert isinstance(tokenizer, Sliced) and tokenizer.size == 65 < whole.size
    assert tokenizer_of("", everything(), 50_257).encode("A: 3") == whole.encode("A: 3")


def test_vocabulary_smaller_than_the_tokenizers():
    with pytest.raises(InputError, match="vocabulary must be 0 or at least the tokenizer's"):
        tokenizer_of("", everything(), 100)


def test_tokenizer_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="tokenizer must be empty where transformers is not"):
        tokenizer_of("gpt2", everything(), 0)


@pytest.mark.needs("transformers")
@pytest.mark.filterwarnings("ignore")
def test_tokenizer_path_that_is_not_one(tmp_path):
    (tmp_path / "notes.txt").write_text("no tokenizer")
    for place, reason in (
        (tmp_path, "the folder has no tokenizer's files"),
        (tmp_path / "notes.txt", "got file"),
        (tmp_path / "absent", "there is no such folder"),
    ):
        with pytest.raises(InputError, match=f"tokenizer must be a folder.*{reason}"):
            tokenizer_of(str(place), everything(), 0)


# Model.


def test_published_parameter_count():
    assert sum(p.numel() for p in GPT2().parameters()) == 17_670_400


def started(vocabulary=50, positions=32, width=16, layers=2, heads=4, dropout=0.0):
    model = GPT2(vocabulary, positions, width, layers, heads, dropout)
    return arms.initialise(model, "genesis", 0.75, 0)


def test_later_tokens_change_nothing_before():
    model, tokens = started(), torch.arange(12).reshape(2, 6)
    changed = tokens.clone()
    changed[:, 4:] += 20
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before, after)


def test_logits_at_places_are_those_of_all_places():
    model = started().eval()
    tokens, at = torch.randint(50, (3, 9)), torch.tensor([0, 8, 4])
    torch.testing.assert_close(model(tokens, at=at), model(tokens)[torch.arange(3), at])


def test_leaving_out_padding_keys_is_exact():
    model = started()
    tokens = torch.arange(24).reshape(2, 12)
    padding = torch.arange(12) >= torch.tensor([[5], [7]])
    full, cut = model(tokens, padding), model(tokens, padding, keys=7)
    torch.testing.assert_close(cut, full, rtol=0, atol=1e-6)
    assert not torch.allclose(full, model(tokens), atol=1e-3)


@pytest.mark.needs("transformers")
@pytest.mark.filterwarnings("ignore")
def test_equals_transformers():
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = started()
    config = GPT2Config(
        vocab_size=50,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = GPT2LMHeadModel(config).eval()
    missing = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert missing.missing_keys in ([], ["lm_head.weight"]) and not missing.unexpected_keys
    names = [name for name, _ in ours.named_parameters()]
    assert names == [name for name, _ in theirs.named_parameters()]
    tokens = torch.arange(24).reshape(2, 12)
    padding = torch.arange(12) >= torch.tensor([[5], [7]])
    with torch.no_grad():
        theirs_plain = theirs(tokens).logits
        out = theirs(tokens, attention_mask=(~padding).long(), labels=tokens)
        torch.testing.assert_close(ours(tokens), theirs_plain, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours(tokens, padding), out.logits, rtol=0, atol=1e-5)
        loss = evaluate.published_loss(ours, tokens, padding, 7)
    torch.testing.assert_close(loss, out.loss, rtol=0, atol=1e-5)


# Arms.


def weights(arm: str, seed: int = 0, beta: float = 0.75) -> dict[str, torch.Tensor]:
    model = arms.initialise(GPT2(65, 64, 64, 2, 4), arm, beta, seed)
    return {name: p.detach() for name, p in model.named_parameters()}


MATRIX = "transformer.h.1.mlp.c_fc.weight"  # 64 x 256
ADDED = "transformer.h.1.mlp.c_proj.weight"  # 256 x 64
GAIN = "transformer.h.1.ln_1.weight"


@pytest.mark.parametrize(
    "arm, matrix, added, gain",
    [
        ("default", 0.02, 0.02 / 2, 0.0),
        ("xavier", 0.5 * math.sqrt(2 / 320), 0.5 * math.sqrt(2 / 320), 0.0),
        ("standard-all", 0.5 * math.sqrt(2 / 320), 0.5 * math.sqrt(2 / 320), 0.01),
        ("genesis-all", 1 / 16, 1 / 8, 0.05),
        ("genesis", 1 / 16, 1 / 8, 0.0),
        ("white", 1 / 16, 1 / 8, 0.0),
        ("shuffled", 1 / 16, 1 / 8, 0.0),
        ("fractal", 0.02, 0.02 / 2, 0.0),
        ("beta-2", 1 / 16, 1 / 8, 0.0),
    ],
)
def test_scales_of_the_arms(arm, matrix, added, gain):
    found = weights(arm)
    assert found[MATRIX].std().item() == pytest.approx(matrix, rel=0.02)
    assert found[ADDED].std().item() == pytest.approx(added, rel=0.02)
    assert found[GAIN].std().item() == pytest.approx(gain, rel=0.4)
    if gain == 0.0:
        assert (found[GAIN] == 1).all() and (found["transformer.ln_f.bias"] == 0).all()
    else:
        assert abs(found[GAIN].mean()) < 0.01


def test_nulls_keep_what_they_should():
    genesis, shuffled, white = (weights(arm)[MATRIX] for arm in ("genesis", "shuffled", "white"))
    assert torch.equal(genesis.flatten().sort()[0], shuffled.flatten().sort()[0])
    assert not torch.equal(genesis, shuffled) and not torch.equal(white, shuffled)
    assert torch.equal(weights("genesis")[MATRIX], weights("beta-0.75")[MATRIX])


@pytest.mark.parametrize("arm, beta", [("beta-2", 2.0), ("shuffled", 0.0), ("white", 0.0)])
def test_spectra_of_the_arms(arm, beta):
    assert spectrum_of(weights(arm)[MATRIX].double()).beta == pytest.approx(beta, abs=0.35)


def test_a_seed_fixes_the_start():
    assert torch.equal(weights("xavier", 1)[MATRIX], weights("xavier", 1)[MATRIX])
    assert not torch.equal(weights("xavier", 1)[MATRIX], weights("xavier", 2)[MATRIX])


def test_unknown_arm_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'genesis'"):
        GenesisConfig(arms=("genesys",)).checked()


# Scores.


def test_exact_scores_are_those_of_greedy_generation(tokenizer):
    """A model trained on the very texts answers some; a pass and a generation agree on which."""
    torch.manual_seed(0)
    texts = problems.every("steps")[:24]
    encoded = encode(texts, tokenizer, longest(tokenizer))
    model = start(
        GenesisConfig(width=32, layers=1, heads=2, dropout=0.0),
        Run(0, "default", 1e-2, 0),
        tokenizer.size,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        spoken_loss(model, encoded.tokens, encoded.spoken).backward()
        optimizer.step()
    with torch.no_grad():
        exact, _ = evaluate.answer_scores(model, encoded.tokens, encoded.answers)
        grid = torch.full_like(encoded.tokens, tokenizer.end)
        keep = torch.arange(grid.shape[1]) < encoded.prompts[:, None]
        grid = torch.where(keep, encoded.tokens, grid)
        new = evaluate.continued(
            lambda grown, at: model(grown[0], at=at[0])[None], grid, encoded.prompts, None, 2
        )[0]
    said = [tokenizer.decode(evaluate.until_end(row, tokenizer.end)) for row in new.tolist()]
    ended = [tokenizer.end in row for row in new.tolist()]
    right = [e and s.strip() == p.answer for e, s, p in zip(ended, said, texts, strict=True)]
    assert exact.tolist() == right and 0 < sum(right) < len(right)


def test_padding_does_not_count(tokenizer):
    encoded = encode(problems.PUBLISHED, tokenizer, 30)
    model = started(tokenizer.size)
    longer = encode(problems.PUBLISHED, tokenizer, 32)
    losses = [spoken_loss(model, t.tokens, t.spoken) for t in (encoded, longer)]
    torch.testing.assert_close(*losses)
    logits = model(encoded.tokens)[0, :11]
    by_hand = cross_entropy(logits, torch.cat((encoded.tokens[0, 1:11], torch.tensor([64]))))
    _, answer = evaluate.answer_scores(model, encoded.tokens, encoded.answers)
    first = encode(problems.PUBLISHED[:1], tokenizer, 30)
    torch.testing.assert_close(spoken_loss(model, first.tokens, first.spoken), by_hand)
    by_hand = cross_entropy(logits[9:], torch.tensor([int(encoded.tokens[0, 10]), 64]))
    torch.testing.assert_close(answer[0], by_hand)


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([0.0, 2.0, 1.0, -1.0]).expand(1, 1, 4)
    draws = torch.arange(0.005, 1, 0.01, dtype=torch.float64).reshape(-1, 1, 1)
    new = evaluate.continued(
        lambda grown, at: logits.expand(len(grown), 1, 4),
        torch.zeros(1, 3, dtype=torch.int64),
        torch.tensor([1]),
        draws,
        1,
        temperature=1.0,
        top=3,
    )
    counts = Counter(new.flatten().tolist())
    expected = torch.tensor([0.0, 2.0, 1.0]).softmax(0)
    assert counts[3] == 0
    assert all(abs(counts[token] - 100 * expected[token]) <= 1 for token in range(3))


def test_a_prompt_that_does_not_begin_its_text(tokenizer):
    odd = problems.Problem("addition", (1, 1), "Q: What", "12")
    with pytest.raises(InputError, match="fewer than 3 tokens"):
        encode([odd], tokenizer, 3)
