"""The messages of the protocol, as `proto/dstl/v1` of dstl documents them.

They live in a descriptor pool of their own, so that a process may have other copies of the same protocol.
"""
