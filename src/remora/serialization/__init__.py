"""Values to bytes and back: zero-copy buffers, the refs inside a value, errors."""

from remora.serialization.arguments import deserialize_arguments, serialize_arguments
from remora.serialization.failures import deserialize_error, serialize_error, serialize_system_error
from remora.serialization.frames import Serialized
from remora.serialization.pickling import ResolveRef
from remora.serialization.reducers import register_reducer, unregister_reducer
from remora.serialization.values import deserialize, serialize, serialize_function

__all__ = [
    "ResolveRef",
    "Serialized",
    "deserialize",
    "deserialize_arguments",
    "deserialize_error",
    "register_reducer",
    "serialize",
    "serialize_arguments",
    "serialize_error",
    "serialize_function",
    "serialize_system_error",
    "unregister_reducer",
]
