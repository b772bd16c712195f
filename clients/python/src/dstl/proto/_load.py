"""Makes classes of the generated descriptors, with whichever protobuf is installed (4.21 or newer)."""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    content = (Path(__file__).parent / "descriptors.bin").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()
# protobuf 4.22 made a function of it, and later ones have nothing else.
_FACTORY: Any = message_factory
_CLASS_OF = getattr(_FACTORY, "GetMessageClass", None) or _FACTORY.MessageFactory(_POOL).GetPrototype


def export(file: str, into: dict[str, Any]) -> None:
    """Puts messages, enums and their values of one proto file into a module."""
    descriptor = _POOL.FindFileByName(file)
    for name, message in descriptor.message_types_by_name.items():
        into[name] = _CLASS_OF(message)
    for name, enum in descriptor.enum_types_by_name.items():
        into[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        for value in enum.values:
            into[value.name] = value.number
