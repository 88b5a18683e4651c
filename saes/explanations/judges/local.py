"""A judge on this machine: any causal language model that the package loads, most likely token by token."""

from pathlib import Path
from typing import Any

import torch

from interp.models.loading import load_hf_model
from saes.explanations.judges.judge import Answer, Request


class LocalModel:
    """A model and its tokenizer; messages go through its chat template where it has one.

    Args:
        model: A name, folder or GGUF file, as for :func:`interp.load_hf_model`.
        revision: As there, as are the others.

    Raises:
        ValueError: the model cannot be loaded, or has no tokenizer.

    Example:
        >>> from saes.explanations import LocalModel, Message, Request
        >>> judge = LocalModel("embedded")
        >>> answer = judge.ask(Request(messages=(Message(role="user", content="Emma was"),), max_tokens=3))
        >>> judge.name, answer.completion_tokens
        ('embedded, on this machine', 3)
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        self._model: Any = load_hf_model(model, revision=revision, dtype=dtype, device=device)
        self._tokenizer: Any = self._model.tokenizer
        if self._tokenizer is None:
            raise ValueError(f"{model} has no tokenizer, so it cannot read questions; choose another judge")
        at = f" at {revision}" if revision else ""
        kind = str(dtype).removeprefix("torch.")
        self.name = f"{model}{at}{'' if kind == 'float32' else f' in {kind}'}, on this machine"

    @torch.no_grad()
    def ask(self, request: Request) -> Answer:
        """Its most likely answer.

        Raises:
            ValueError: request and answer do not fit into the model's context.
        """
        ids = self._ids(request)
        longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and ids.shape[1] + request.max_tokens > longest:
            raise ValueError(
                f"{self.name}: a request of {ids.shape[1]} tokens and its answer of up to {request.max_tokens} do not"
                f" fit into {longest}; show fewer passages a request, or choose another judge"
            )
        ids = ids.to(next(self._model.parameters()).device)
        stop = self._tokenizer.eos_token_id
        found = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.max_tokens,
            do_sample=False,
            **dict.fromkeys(("temperature", "top_p", "top_k")),  # of sampling, where the model's own settings have them
            pad_token_id=0 if stop is None else stop,
        )[0, ids.shape[1] :]
        text = self._tokenizer.decode(found, skip_special_tokens=True)
        return Answer(text=text, prompt_tokens=ids.shape[1], completion_tokens=len(found))

    def _ids(self, request: Request) -> torch.Tensor:
        if not getattr(self._tokenizer, "chat_template", None):
            found = self._tokenizer(request.text(), return_tensors="pt")
        else:
            messages = [vars(message) for message in request.messages]
            options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
            found = self._tokenizer.apply_chat_template(messages, **options)
        return torch.as_tensor(found["input_ids"])
