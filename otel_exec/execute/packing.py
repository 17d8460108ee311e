"""Packing: the user's functions and values as bytes, for another process.

What comes in: a step's function, config and verify hook (or a fan-out's function and items). What goes out: pickled bytes, and blobs in a folder of the run.
What can be imported travels by name. Functions and classes that can't (those of the experiment's own file, lambdas, closures) travel by value, once:
each is a blob, a file named by its digest, that a worker reads when it first meets it. Values use the plain C pickler, with a hook for those classes.

Cost of a small dataclass config: about 5 us.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import pickle
import sys
import threading
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from otel_exec.errors import Mistake, RecordError
from otel_exec.record.storage import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_exec.plan.graph import Step

__all__ = ["BlobStore", "Packer", "StandInMain", "open_blobs", "unpack"]

_KEPT_BLOBS = 4096
_LruCached: Any = type(functools.lru_cache(str.upper))
_BY_NAME = ""  # in a packer's cache: this function or class is imported by name


def load_blob(digest: str) -> Any:
    """Return the function or class of a blob; what a pickle made by `Packer` calls when it is loaded."""
    if _blobs is None:
        raise RuntimeError("a value packed for a worker of a run was loaded outside of one")
    return _blobs.load(digest)


def load_wrapped(module: str, qualname: str, depth: int) -> Any:
    """Return the function `depth` decorators below a name: what a pickle made by `Packer` calls when it is loaded."""
    found = _named(__import__(module, fromlist=["_"]), qualname)
    for _ in range(depth):
        found = found.__wrapped__
    return found


def _named(module: object, qualname: str) -> Any:
    found = module
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _route(thing: Any) -> tuple[str, int] | None:
    """Return (module, depth) where a function or class can be imported by name in another process, `None` where it has to travel by value."""
    name = getattr(thing, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or name == "__main__" or getattr(module, "__spec__", None) is None:
        return None
    try:
        found = _named(module, thing.__qualname__)
    except AttributeError:
        return None
    depth = 0
    while found is not thing:
        found = getattr(found, "__wrapped__", None)
        depth += 1
        if found is None or depth > 16:
            return None
    return name, depth  # type: ignore[return-value]  # name is a str where module was found


class _ValuePickler(pickle.Pickler):
    """The C pickler, with references to blobs for what can't be imported."""

    packer: Packer

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is FunctionType or type(obj) is _LruCached or isinstance(obj, type):
            return self.packer._reduce(obj)
        return NotImplemented


class BlobStore:
    """The folder of blobs of a run, and this process's copies of what was loaded from it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._loaded: dict[str, Any] = {}
        self._loading: set[tuple[int, str]] = set()

    def put(self, data: bytes) -> str:
        """Write a blob, unless it is there; returns its digest."""
        import hashlib

        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        path = os.path.join(self.folder, digest)
        if not os.path.exists(path):
            temporary = f"{path}.{os.getpid()}.{threading.get_ident()}"
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                os.replace(temporary, path)
            except OSError as error:  # not the fault of what is sent
                raise refused(path, "written", error) from error
        return digest

    def load(self, digest: str) -> Any:
        """Return what the blob holds; loaded once a process."""
        if digest not in self._loaded:
            key = threading.get_ident(), digest
            if key in self._loading:
                raise RuntimeError("something of the script's refers to itself in a way that can't travel by value; move it to a module that can be imported")
            self._loading.add(key)
            try:
                return self._read(digest)
            finally:
                self._loading.discard(key)
        return self._loaded[digest]

    def fetch(self, digest: str) -> bytes:
        """Return a blob's bytes."""
        with open(os.path.join(self.folder, digest), "rb") as file:
            return file.read()

    def _read(self, digest: str) -> Any:
        thing = pickle.loads(self.fetch(digest))  # noqa: S301  written by our own driver
        while len(self._loaded) >= _KEPT_BLOBS:  # closures of many fan-outs come and go
            del self._loaded[next(iter(self._loaded))]
        self._loaded[digest] = thing
        _adopt(thing)
        return thing


_blobs: BlobStore | None = None


def open_blobs(store: BlobStore) -> BlobStore:
    """Make `store` the one that this process loads blobs from."""
    global _blobs
    _blobs = store
    return _blobs


def unpack(data: bytes) -> Any:
    """Return what `Packer.value` or `Packer.call` packed."""
    return pickle.loads(data)  # noqa: S301  made by our own driver or worker


class Packer:
    """Packs what goes to workers; one a run in the driver, one in each worker (for its fan-outs).

    Functions and classes are packed once and kept by identity: a later change of a global that a function of `__main__` uses is not seen by workers.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._known: dict[int, tuple[Any, str, tuple[str, int] | None]] = {}
        packer = self

        class Pickler(_ValuePickler):
            pass

        Pickler.packer = packer
        self._pickler = Pickler

    def value(self, thing: object) -> bytes:
        """Return a value as bytes; raises whatever the pickler raises."""
        buffer = io.BytesIO()
        pickler = self._pickler(buffer, 5)
        try:
            pickler.dump(thing)
        except (pickle.PicklingError, TypeError, AttributeError):
            return _by_cloudpickle(thing)
        return buffer.getvalue()

    def blob(self, thing: Any) -> str:
        """Return the digest of a function's or class's blob, writing it when it is new."""
        known = self._known.get(id(thing))
        if known is None or not known[1]:
            digest = self._blobs.put(_by_cloudpickle(thing))
            self._known[id(thing)] = (thing, digest, None)
            return digest
        return known[1]

    def of_main(self, name: str) -> str:
        """Return the digest of a class or function of the user's script that a worker asks for by name; "" where there is none that can be sent."""
        thing = getattr(sys.modules.get("__main__"), name, None)
        if isinstance(thing, type) or callable(thing):
            with contextlib.suppress(Exception):
                return self.blob(thing)
        return ""

    def passing(self, thing: Any) -> bytes:
        """Return a function that is used for a while only (a fan-out's), as bytes; nothing of it is kept here."""
        before = id(thing) in self._known
        try:
            return self.value(thing)
        finally:
            if not before:
                self._known.pop(id(thing), None)

    def call(self, step: Step) -> bytes:
        """Return a step's function, config, call style and verify hook as bytes.

        Raises:
            Mistake: something of it can't be sent; it names the field.
        """
        from otel_exec.execute.verify import commands

        verify = step.verify if callable(step.verify) else commands(step.verify)
        whole = (step.fn, step.config, step.call_style, verify)
        try:
            return self.value(whole)
        except RecordError:
            raise
        except Exception as error:
            raise self._mistake(step, error) from error

    def _reduce(self, thing: Any) -> Any:
        known = self._known.get(id(thing))
        if known is None:
            route = _route(thing)
            if route is None:
                self.blob(thing)
            else:
                self._known[id(thing)] = (thing, _BY_NAME, route)
            known = self._known[id(thing)]
        if known[1]:
            return load_blob, (known[1],)
        module, depth = known[2] or ("", 0)
        return (load_wrapped, (module, thing.__qualname__, depth)) if depth else NotImplemented

    def _fails(self, thing: object) -> Exception | None:
        try:
            self.value(thing)
        except Exception as error:
            return error
        return None

    def _mistake(self, step: Step, error: Exception) -> Mistake:
        """Say what of the step can't be sent, as precisely as it can be found."""
        if (broken := self._fails(step.fn)) is not None:
            message = f"its function {step.fn_name} can't be sent to a worker: {broken}"
            hint = "make what it refers to inside the function, move it to a module that can be imported, or use --executor threads"
        elif callable(step.verify) and (broken := self._fails(step.verify)) is not None:
            message = f"its verify function can't be sent to a worker: {broken}"
            hint = "make what it refers to inside the function, move it to a module that can be imported, or use --executor threads"
        else:
            path, culprit, why = self._culprit("config", step.config, error, 0)
            message = f"{path} (a {type(culprit).__qualname__}) can't be sent to a worker: {why}"
            hint = "pass what it takes to make it (a path, a name, numbers) and make it in the function, or use --executor threads"
        return Mistake(message, step=step.name, where=step.where or None, hint=hint)

    def _culprit(self, path: str, thing: object, error: Exception, depth: int) -> tuple[str, object, Exception]:
        if depth < 20:
            for name, part in _parts(thing):
                if (broken := self._fails(part)) is not None:
                    return self._culprit(path + name, part, broken, depth + 1)
        return path, thing, error


def _by_cloudpickle(thing: object) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        def reducer_override(self, obj: Any) -> Any:
            # By itself a cached function is pickled by name, and the stand-in for __main__ would look for that name in the blob it is loading.
            if type(obj) is _LruCached and _route(obj) is None:
                return cached_again, (obj.__wrapped__, obj.cache_parameters())
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    Pickler(buffer).dump(thing)
    return buffer.getvalue()


def cached_again(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Return a function of the script's under `functools.lru_cache` again: each worker has a cache of its own."""
    return functools.lru_cache(**parameters)(function)


def _parts(thing: object) -> Iterator[tuple[str, object]]:
    """Yield the named parts of a value, as they are written in code."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        for field in dataclasses.fields(thing):
            yield f".{field.name}", getattr(thing, field.name, None)
    elif isinstance(thing, dict):
        for key, part in thing.items():
            yield f"[{key!r}]", part
    elif isinstance(thing, list | tuple):
        for index, part in enumerate(thing):
            yield f"[{index}]", part
    elif isinstance(thing, set | frozenset):
        for part in thing:
            yield "{...}", part


# --- the stand-in for the user's script in a worker -----------------------------------------------------------------------------------------------


class StandInMain(ModuleType):
    """`__main__` in a worker: it has the script's file, but the script is not run again.

    Its functions and classes come when they are asked for: those that a function brought along at once, any other by asking the driver.

    Args:
        script: the script's path, or `None` where the driver has none.
        ask: name -> digest of its blob, "" where the driver's `__main__` has no function or class of that name.
    """

    def __init__(self, script: str | None, ask: Callable[[str], str]) -> None:
        super().__init__("__main__")
        if script is not None:
            self.__dict__["__file__"] = script
        self.__dict__["__builtins__"] = __builtins__
        self.__dict__["__spec__"] = None
        self.__dict__["_otel_exec_ask"] = ask

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            digest = self.__dict__["_otel_exec_ask"](name)
            if digest:
                return self.__dict__.setdefault(name, load_blob(digest))
        raise AttributeError(f"module '__main__' has no attribute {name!r} (in a worker it has the script's functions and classes alone)")


def _adopt(thing: Any) -> None:
    """Make what came by value findable in the stand-in `__main__`, so that it can be pickled by name in a step, and by processes that a step starts."""
    main = sys.modules.get("__main__")
    if not isinstance(main, StandInMain):
        return
    names = main.__dict__
    functions = (
        [thing]
        if isinstance(thing, FunctionType)
        else [part for part in vars(thing).values() if isinstance(part, FunctionType)]
        if isinstance(thing, type)
        else []
    )
    found = [thing]
    for function in functions:
        if function.__globals__.get("__name__") == "__main__":
            found += function.__globals__.values()
    for part in found:
        if isinstance(part, FunctionType | type) and part.__module__ == "__main__" and "." not in part.__qualname__:
            names.setdefault(part.__qualname__, part)
