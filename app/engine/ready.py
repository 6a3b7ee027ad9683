"""An engine that may answer: loaded, warm, and compared with PyTorch's stored answers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from app.engine.check import REMEDY, SelfCheckReport, run_self_check
from app.engine.engine import Engine, EngineError
from app.settings import Settings
from contract.bundle import Bundle
from contract.errors import ContractError

log = logging.getLogger("food_vision")


def ready_engine(
    bundle: Bundle, settings: Settings, progress: Callable[[str], None] = lambda text: None
) -> tuple[Engine, SelfCheckReport | None]:
    """The engine of the settings' provider, and what its self-check found (None: an older bundle, which has none).

    `progress` is told what is being done. Raises `ContractError`: the bundle or the provider is not what it must be, or
    the provider computes something else than PyTorch did.
    """
    engine = Engine(
        bundle,
        provider=settings.provider,
        threads=settings.threads,
        max_batch=settings.max_batch,
        cuda_graphs=settings.cuda_graphs,
        engine_cache=settings.engine_cache,
        device=settings.device,
        progress=progress,
    )
    try:
        engine.warm_up()
        progress("comparing the model with its stored answers")
        return engine, _check(engine)
    except EngineError as error:
        engine.close()
        raise ContractError(f"The provider {engine.provider!r} computes wrongly: {error}. {REMEDY}") from None
    except BaseException:
        engine.close()
        raise


def _check(engine: Engine) -> SelfCheckReport | None:
    bundle = engine.bundle
    if bundle.check is None:
        log.warning("no self-check: %s was exported before there was one; export again", bundle.path)
        return None
    # after the warm-up: the engines that it built or chose are those that will serve
    found = run_self_check(engine, bundle.check)
    log.info("self-check: within %.1e of PyTorch in %.2f s", found.largest_difference, found.seconds)
    return found
