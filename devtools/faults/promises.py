"""What is promised of a fault: which error the host gets, what it says, and which files lie there in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Promise:
    """kind: a key of KINDS. says: parts of the error's text. files: all that lie there, as folder/name."""

    kind: str
    says: tuple[str, ...] = ()
    files: frozenset[str] = field(default_factory=frozenset)

    def broken_by(self, error: BaseException | None, fault: BaseException | None, files: set[str]) -> list[str]:
        """Name what is not as promised. fault: what was raised at the seam."""
        found = []
        if not KINDS[self.kind](error, fault):
            found.append(f"the error is {error!r}, and is to be: {self.kind}")
        found += [f"the error does not say {text!r}: {error}" for text in self.says if text not in str(error)]
        if files != self.files:
            found.append(f"the files are {sorted(files)}, and are to be {sorted(self.files)}")
        return found


def _same(error: BaseException | None, fault: BaseException | None) -> bool:
    return error is fault


def _told(error: BaseException | None, fault: BaseException | None) -> bool:
    """A sentence for the user, which begins with the fault's own words."""
    return type(error) is RuntimeError and error.__cause__ is fault and str(error).startswith(str(fault))


def _refused(error: BaseException | None, _fault: BaseException | None) -> bool:
    return _palp_error(error)


def _refused_in_training(error: BaseException | None, _fault: BaseException | None) -> bool:
    """The same sentence, and behind it what became of what was learned."""
    return type(error) is RuntimeError and _palp_error(error.__cause__) and str(error).startswith(str(error.__cause__))


def _palp_error(error: BaseException | None) -> bool:
    from palp_pack.palp_core.errors import PalpError

    return isinstance(error, PalpError)


def _out_of_memory(error: BaseException | None, _fault: BaseException | None) -> bool:
    import comfy.model_management as host

    return isinstance(error, host.OOM_EXCEPTION) and (not hasattr(host, "is_oom") or host.is_oom(error))


def _cancelled(error: BaseException | None, _fault: BaseException | None) -> bool:
    import comfy.model_management

    return type(error) is comfy.model_management.InterruptProcessingException


def _moved(error: BaseException | None, _fault: BaseException | None) -> bool:
    """The training went well, and its file is elsewhere."""
    return type(error) is RuntimeError and error.__cause__ is None


def _not_saved(error: BaseException | None, _fault: BaseException | None) -> bool:
    return type(error) is OSError


KINDS: dict[str, Callable[[BaseException | None, BaseException | None], bool]] = {
    "none": lambda error, _: error is None,
    "the fault itself": _same,
    "the fault in a sentence": _told,
    "the fault, itself or in a sentence": lambda error, fault: _same(error, fault) or _told(error, fault),
    "PalpError": _refused,
    "PalpError in a sentence": _refused_in_training,
    "the host's out of memory": _out_of_memory,
    "the host's interrupt": _cancelled,
    "kept elsewhere": _moved,
    "not saved": _not_saved,
}
