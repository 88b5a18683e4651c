"""Two ways to look at tensors while a model runs: torch's hooks, and an nnsight trace."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor, nn

from interp.arguments.extras import extra
from interp.sites.hooks import Hook
from interp.sites.site import Site

Keep = Callable[[Site, Any], bool]
"""Keeps a module's inputs or output for a site, and says whether the run may stop."""


class _AllCaptured(Exception):
    """Raised in the hook that saw the last site, to end the forward pass."""


def run_with_hooks(
    runner: nn.Module, inputs: Tensor, options: dict[str, Any], hooks: dict[Site, Hook], keep: Keep
) -> None:
    """Run with a forward hook on each module; they are gone afterwards, also after an error."""

    def on_input(site: Site, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if keep(site, args or tuple(kwargs.values())):
            raise _AllCaptured

    def on_output(site: Site, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if keep(site, output):
            raise _AllCaptured

    with ExitStack() as stack, suppress(_AllCaptured):
        for site, hook in hooks.items():
            if hook.entering:
                handle = hook.module.register_forward_pre_hook(partial(on_input, site), with_kwargs=True)
            else:
                handle = hook.module.register_forward_hook(partial(on_output, site))
            stack.callback(handle.remove)
        runner(inputs, **options)


def run_with_nnsight(
    runner: nn.Module, inputs: Tensor, options: dict[str, Any], hooks: dict[Site, Hook], keep: Keep
) -> None:
    """Trace one forward pass, with one invoke for each site, so that their order in the model need not be known."""
    with extra("nnsight", "engine='nnsight'"):
        from nnsight import NNsight

    path_of = {id(module): path for path, module in runner.named_modules()}
    with _forwards_restored(runner):
        model = NNsight(runner)
        with model.trace() as tracer:
            with tracer.invoke(inputs, **options):
                pass
            for site, hook in hooks.items():
                with tracer.invoke():
                    path = path_of[id(hook.module)]
                    envoy = model.get(path) if path else model
                    if keep(site, _inputs(envoy) if hook.entering else envoy.output):
                        tracer.stop()


def _inputs(envoy: Any) -> tuple[Any, ...]:
    args, kwargs = envoy.inputs
    return tuple(args) or tuple(kwargs.values())


@contextmanager
def _forwards_restored(runner: nn.Module) -> Iterator[None]:
    """Take back the forward methods that nnsight leaves on every module."""
    before = {module: dict(vars(module)) for module in runner.modules()}
    try:
        yield
    finally:
        for module, attributes in before.items():
            for name in ("forward", "__nnsight__"):
                vars(module).pop(name, None)
                if name in attributes:
                    vars(module)[name] = attributes[name]
