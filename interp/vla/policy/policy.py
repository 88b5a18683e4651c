"""A small policy in the shape of OpenVLA: soft tokens of what is seen, words, then action tokens from a Llama.

Order of a sequence: beginning-of-sequence, soft tokens (of the camera image, of the state), instruction, three action
tokens (x, y, z). The Llama lies under ``language_model``, so value vectors and steering find it as in OpenVLA.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from interp.files.outside import read_json, reading, record
from interp.files.tensor_files import write_tensors
from interp.files.writing import write_json
from interp.vla.policy.tokenizer import ACTIONS, BOS, EOS, PAD, VOCAB, load_tokenizer
from interp.vla.policy.vision import Keypoints

AXES = 3
STATE_TOKENS, IMAGE_TOKENS = 2, 4
RELEASED = Path(__file__).parents[1] / "released"
"""Policies that ship: ``state``, ``camera`` and, for the negative control, ``no_text``."""
_CENTRE, _SCALE = (0.0, 0.65, 0.2), 0.2
"""Metres: where the hand moves about."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Sizes of a policy.

    Example:
        >>> from interp.vla.policy import PolicyConfig
        >>> PolicyConfig(camera=64).hidden
        96
    """

    camera: int | None = None
    """Width of the square image, pixels. With a camera the state is the hand alone: the goal is only in the image."""
    hidden: int = 96
    """Width of the residual stream."""
    layers: int = 4
    """How many blocks it has."""
    heads: int = 4
    """Attention heads of each block."""
    intermediate: int = 256
    """Neurons of each block's MLP."""

    def check(self) -> None:
        """Refuse sizes that no model has (ValueError)."""
        for name, least in (("hidden", 2), ("layers", 1), ("heads", 1), ("intermediate", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} cannot be shared among {self.heads} heads of even width")


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What the policy does at one step of a batch of episodes."""

    values: Float[np.ndarray, "batch 3"]
    """What the hand is told, each in [-0.996, 0.996]."""
    tokens: Int[Tensor, "batch 3"]
    """Ids of the action tokens."""
    word: Bool[np.ndarray, " batch"]
    """A word was likelier than every action token at least once: the model is off its distribution."""


class VLAPolicy(nn.Module):
    """Instruction, state and (with a camera) image to three discretised action tokens.

    Example:
        >>> import interp, torch
        >>> from interp.vla.policy.tokenizer import encode
        >>> from interp.vla.policy.words import action_prompt
        >>> policy = interp.vla.policy.load_policy("state")
        >>> prompt = torch.tensor(encode(action_prompt("move up")))
        >>> hand, goal = torch.tensor([[0.0, 0.6, 0.2]]), torch.tensor([[0.0, 0.8, 0.2]])
        >>> policy.act(prompt, hand, goal).values.round(2).tolist()  # right, forward, up
        [[0.01, 0.01, 0.5]]
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.policy_config = config
        self.tokenizer = load_tokenizer()
        self.language_model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.intermediate,
                max_position_embeddings=64,
                tie_word_embeddings=False,
                pad_token_id=PAD,
                bos_token_id=BOS,
                eos_token_id=EOS,
            )
        )
        inputs = 3 if config.camera else 9
        self.state_projector = nn.Sequential(
            nn.Linear(inputs, config.hidden), nn.GELU(), nn.Linear(config.hidden, STATE_TOKENS * config.hidden)
        )
        self.image_projector = Keypoints(IMAGE_TOKENS, config.hidden) if config.camera else None

    @property
    def soft_tokens(self) -> range:
        """Positions of the soft tokens, right behind the beginning-of-sequence token."""
        return range(1, 1 + STATE_TOKENS + (IMAGE_TOKENS if self.image_projector else 0))

    def embed(
        self,
        input_ids: Int[Tensor, "batch position"],
        hand: Float[Tensor, "batch 3"],
        goal: Float[Tensor, "batch 3"] | None,
        image: UInt8[Tensor, "batch size size 3"] | None = None,
    ) -> Float[Tensor, "batch soft_and_position hidden"]:
        """Embeddings of a prompt with the soft tokens put behind its first token; positions in metres.

        Raises:
            ValueError: an image for a policy without a camera, or none (or no goal) where it is needed.
        """
        words = self.language_model.get_input_embeddings()(input_ids)
        return torch.cat([words[:, :1], self._soft(hand, goal, image), words[:, 1:]], dim=1)

    @staticmethod
    def normalised(place: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3"]:
        """Metres to units of 20 cm about the middle of the table."""
        return (place - place.new_tensor(_CENTRE)) / _SCALE

    def _soft(self, hand: Tensor, goal: Tensor | None, image: Tensor | None) -> Tensor:
        if (image is None) == (self.image_projector is not None):
            has, given = ("a", "none") if self.image_projector is not None else ("no", "one")
            raise ValueError(f"this policy has {has} camera, but {given} was given: image is {type(image).__name__}")
        hand = self.normalised(hand)
        tokens = []
        if self.image_projector is not None:
            tokens.append(self.image_projector(image))
            state = hand
        elif goal is None:
            raise ValueError("this policy has no camera, so it needs the goal's position")
        else:
            goal = self.normalised(goal)
            state = torch.cat([hand, goal, goal - hand], dim=-1)
        tokens.append(self.state_projector(state).unflatten(-1, (STATE_TOKENS, -1)))
        return torch.cat(tokens, dim=1)

    @torch.inference_mode()
    def act(
        self,
        prompt: Int[Tensor, " position"],
        hand: Float[Tensor, "batch 3"],
        goal: Float[Tensor, "batch 3"] | None,
        image: UInt8[Tensor, "batch size size 3"] | None = None,
        *,
        cached: bool = True,
    ) -> Actions:
        """The likeliest action tokens of a batch that shares one prompt, decoded greedily one axis after the other.

        ``cached=False`` runs the whole sequence again for every token; the result is the same.
        """
        embeddings = self.embed(prompt.expand(len(hand), -1), hand, goal, image)
        cache = DynamicCache() if cached else None
        given, tokens, word = embeddings, [], torch.zeros(len(hand), dtype=torch.bool)
        for axis in range(AXES):
            logits = self.language_model(
                inputs_embeds=given, past_key_values=cache, use_cache=cached, logits_to_keep=1
            ).logits[:, -1]
            word |= logits.argmax(-1) < ACTIONS.ids.start
            # OpenVLA decodes any word as the largest action; a model that is steered out of its wits would look fast.
            tokens.append(logits[:, ACTIONS.ids.start :].argmax(-1) + ACTIONS.ids.start)
            if axis + 1 < AXES:
                following = self.language_model.get_input_embeddings()(tokens[-1])[:, None]
                given = following if cached else torch.cat([given, following], dim=1)
        ids = torch.stack(tokens, dim=1)
        return Actions(values=ACTIONS.decode(ids.numpy()), tokens=ids, word=word.numpy())

    def save(self, folder: Path, *, notes: dict[str, Any]) -> None:
        """Write ``policy.safetensors`` and ``policy.json`` (sizes, and ``notes`` on the training), each atomically."""
        write_tensors(folder / "policy.safetensors", self.state_dict())
        write_json(folder / "policy.json", {"sizes": asdict(self.policy_config), **notes})


def load_policy(name: str | Path = "state") -> VLAPolicy:
    """A policy that ships ("state", "camera", "no_text") or a folder that training wrote, in evaluation mode.

    Raises:
        ValueError: there is no such policy, or its files are not those of a policy.

    Example:
        >>> import interp
        >>> policy = interp.vla.policy.load_policy("state")
        >>> policy.policy_config.camera is None
        True
    """
    folder = RELEASED / name if (RELEASED / name).is_dir() else Path(name)
    if not all((folder / file).is_file() for file in ("policy.json", "policy.safetensors")):
        released = ", ".join(sorted(path.name for path in RELEASED.iterdir()))
        raise ValueError(f"no policy in {folder}; give a folder that `interp vla train` wrote, or one of: {released}")
    with reading(folder, "does not hold a policy of this version", fix="Train it again"):
        weights = load_file(folder / "policy.safetensors")
        config = record(PolicyConfig, read_json(folder / "policy.json")["sizes"], name="sizes")
        config.check()
        if config.layers > len(weights):
            raise ValueError(f"it has {config.layers} layers, but {len(weights)} weights")
        with torch.device("meta"):  # memory only once the file is known to hold these shapes
            shapes = {name: tensor.shape for name, tensor in VLAPolicy(config).state_dict().items()}
        if (found := {name: tensor.shape for name, tensor in weights.items()}) != shapes:
            odd = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
            raise ValueError(f"the weights {', '.join(odd[:3])} are not those of its sizes")
        policy = VLAPolicy(config)
        policy.load_state_dict(weights)
    return policy.eval()
