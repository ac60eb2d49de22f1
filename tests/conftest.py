"""Every test has its own ZEN_HOME and no hub; the embedded base is fetched and converted once per machine."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

import zen_mlx  # noqa: F401  before any mlx: it brings the fast BLAS

# huggingface_hub reads these once, when it is first imported, which may be before the first fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(Path(tempfile.gettempdir()) / "zen-tests-no-hub")

# A shell that runs the tests in the background leaves SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY / "tests") not in sys.path:
    sys.path.insert(0, str(REPOSITORY / "tests"))  # for the emulators: pytest's importlib mode adds nothing


# Files whose tests want a machine to themselves: ports, signals to process groups, terminals, times, memory.
ALONE = {
    "test_chat.py",
    "test_cli_light.py",
    "test_cli_run.py",
    "test_compress.py",
    "test_connections.py",
    "test_cpu.py",
    "test_distributed.py",
    "test_estimate.py",
    "test_fsio.py",
    "test_guard.py",
    "test_leaving.py",
    "test_page.py",
    "test_pull_embedded.py",
    "test_run.py",
    "test_serve.py",
    "test_train_kill.py",
    "test_train_launched.py",
}
# Folders and files with costly fixtures or compiled files of their own: a file stays on one worker.
WHOLE = {"e2e", "fault", "parity", "emulators", "test_guard.py", "test_nvcc.py"}
WORKERS: pytest.StashKey[dict[str, set[str]]] = pytest.StashKey()


def group_of(nodeid: str) -> str:
    """What `pytest -n` keeps on one worker together with the test `nodeid`."""
    file = nodeid.partition("::")[0]
    parts = file.split("/")
    return "alone" if parts[-1] in ALONE else file if WHOLE.intersection(parts) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Groups by path: with pytest 9.2, xdist 3.8 does not see its own mark `xdist_group`."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The process that deals out the tests hears who ran them."""
    if (node := getattr(report, "node", None)) is not None:
        node.config.stash.setdefault(WORKERS, {}).setdefault(group_of(report.nodeid), set()).add(node.gateway.id)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    torn = {group: ids for group, ids in session.config.stash.get(WORKERS, {}).items() if len(ids) > 1}
    if torn and session.exitstatus == pytest.ExitCode.OK:
        raise pytest.UsageError(f"tests that belong on one worker ran on several: {torn}")


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ZEN_HOME", str(home / "zen"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.fixture(autouse=True)
def _own_numbers(request: pytest.FixtureRequest) -> None:
    """A module's generator RANDOM begins every test in one state, whichever tests ran before it on this worker."""
    generator = getattr(request.module, "RANDOM", None)
    if generator is not None:
        first = request.module.__dict__.setdefault("_first_state", generator.bit_generator.state)
        generator.bit_generator.state = first


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """A ZEN_HOME kept between test runs: `$ZEN_TEST_CACHE`, else `.cache/` in the repository."""
    return Path(os.environ.get("ZEN_TEST_CACHE") or REPOSITORY / ".cache").absolute()


@pytest.fixture(scope="session")
def embedded_base(test_cache: Path) -> Path:
    """The folder of the converted embedded base."""
    from zen_mlx.base.pull import pull

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZEN_HOME", str(test_cache))
        return pull("smollm2-135m")


@pytest.fixture
def with_embedded_base(embedded_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh ZEN_HOME in which the embedded base and its digests are already there; its folder."""
    from zen_mlx.paths import base_dir, digest_cache_path

    folder = base_dir("smollm2-135m")
    folder.parent.mkdir(parents=True)
    folder.symlink_to(embedded_base, target_is_directory=True)
    digests = embedded_base.parent.parent / "digests.json"
    if digests.is_file():
        digest_cache_path().write_bytes(digests.read_bytes())
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `save_tiny_llama`. Read only."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny-llama")


def save_tiny_llama(folder: Path) -> Path:
    """Write a random two-layer llama (bf16, hidden 64), byte-level tokenizer, chat template to `folder`; returns it."""
    import json

    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.models import llama
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 258,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    mx.random.seed(7)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    weights = dict(tree_flatten(tree_map(lambda value: value.astype(mx.bfloat16), model.parameters())))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder
