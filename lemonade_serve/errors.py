"""Every failure that a caller may see, as one tree. No HTTP here: `api/errors.py` maps it.

LemonadeError
├── InvalidRequest              a parameter or prompt that can never work
│   ├── ContextLengthExceeded   prompt longer than the model's context
│   ├── DeviceUnavailable       a device or dtype that this machine or checkpoint lacks
│   ├── NoChatTemplate          chat asked of a checkpoint without a template
│   └── WrongTask               asked of a checkpoint what it is not made for
├── Unauthenticated             no API key, or a wrong one
├── NotAllowed                  understood, and refused
├── ModelNotFound               no such checkpoint
│   └── AdapterNotFound         the checkpoint is there, and has no such adapter
├── InUse                       it is in memory, and must not go
├── ResponseNotFound            no such response is kept
├── Retryable                   nothing is wrong with the request
│   ├── QueueFull               the model's queue is at its bound
│   ├── ClientLimit             too many clients keep parameters
│   └── Unavailable             the server cannot take it now
│       ├── SlotsPinned         all that could make room is pinned
│       ├── NoCapacity          no room, and none in time
│       ├── NoDevice            no device is left to run models on
│       ├── StoreUnavailable    what must be kept cannot be
│       ├── Draining            the daemon is shutting down
│       └── NotReady            it starts, or has no device; only probes are told
├── ModelLoadError              the worker could not load the checkpoint
├── GenerationFailed            the engine failed in mid-request
├── WorkerLost                  the worker process died
├── JobFailed                   an import or export did not finish
│   ├── UnsupportedModel        a file that the importer cannot convert faithfully
│   └── DiskFull                no room on disk for what it makes
├── HubError                    the hub cannot be reached, or refuses, or sent something else
└── SettingsError               a setting that is wrong or unknown
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import ClassVar

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class LemonadeError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "server_error"

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        """`message` defaults to the class docstring; `param` names the field at fault."""
        self.message = message or (type(self).__doc__ or "").strip()
        self.param = param
        super().__init__(self.message)


class InvalidRequest(LemonadeError):
    """The request is not valid."""

    code = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """The prompt is longer than the model's context."""

    code = "context_length_exceeded"


class DeviceUnavailable(InvalidRequest):
    """The device or dtype is not available."""

    code = "device_unavailable"


class NoChatTemplate(InvalidRequest):
    """This checkpoint has no chat template: use a completions route."""

    code = "no_chat_template"


class WrongTask(InvalidRequest):
    """This model is made for something else."""

    code = "wrong_task"


class Unauthenticated(LemonadeError):
    """Send an API key: `Authorization: Bearer KEY`."""

    code = "authentication_error"


class NotAllowed(LemonadeError):
    """This is not allowed."""

    code = "permission_error"


class ModelNotFound(LemonadeError):
    """There is no such model."""

    code = "model_not_found"


class AdapterNotFound(ModelNotFound):
    """The model has no such adapter."""

    code = "adapter_not_found"


class InUse(LemonadeError):
    """The model is in memory."""

    code = "model_in_use"


class ResponseNotFound(LemonadeError):
    """There is no such response."""

    code = "response_not_found"


class Retryable(LemonadeError):
    """Try again later."""

    retry_after_s: int = 1


class QueueFull(Retryable):
    """The queue of this model is full."""

    code = "rate_limit_error"


class ClientLimit(Retryable):
    """Too many clients keep parameters."""

    code = "client_limit"
    retry_after_s = 60


class Unavailable(Retryable):
    """The server cannot take this request now."""

    code = "overloaded"


class SlotsPinned(Unavailable):
    """There is no room, and all that is resident is pinned."""

    code = "slots_pinned_error"
    retry_after_s = 10


class NoCapacity(Unavailable):
    """There is no room for this model."""

    code = "no_capacity"
    retry_after_s = 5


class NoDevice(Unavailable):
    """There is no device to run models on."""

    code = "no_device"
    retry_after_s = 60


class StoreUnavailable(Unavailable):
    """What must be kept cannot be read or written now."""

    code = "store_unavailable"
    retry_after_s = 5


class Draining(Unavailable):
    """The server is shutting down."""

    code = "draining"
    retry_after_s = 5


class NotReady(Unavailable):
    """The server is not ready."""

    code = "not_ready"
    retry_after_s = 5


class ModelLoadError(LemonadeError):
    """The model could not be loaded."""

    code = "model_load_error"


class GenerationFailed(LemonadeError):
    """The generation failed."""

    code = "generation_failed"


class WorkerLost(LemonadeError):
    """The worker process of this model died."""

    code = "worker_lost"


class JobFailed(LemonadeError):
    """The job did not finish."""

    code = "job_failed"


class UnsupportedModel(JobFailed):
    """This file cannot be imported faithfully."""

    code = "unsupported_model"


class DiskFull(JobFailed):
    """There is no room on the disk."""

    code = "disk_full"

    @classmethod
    def by(cls, error: OSError, path: Path) -> DiskFull | None:
        """What to say of something that could not be written below `path`, if that is why."""
        return cls(f"the disk of {path} is full") if error.errno in _FULL else None


class HubError(LemonadeError):
    """The hub does not answer as it should."""

    code = "hub_error"


class SettingsError(LemonadeError):
    """A setting is wrong."""

    code = "settings_error"


def from_code(code: str, message: str, param: str | None = None) -> LemonadeError:
    """The error that a child process named by its code; an unknown code is a plain one."""
    classes = [LemonadeError]
    for known in classes:
        classes.extend(known.__subclasses__())
    return next((c for c in classes if c.code == code), LemonadeError)(message, param=param)
