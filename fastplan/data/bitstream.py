"""What the first bytes of a packet say about its picture, for the codecs in which something is gained by it.

Every answer is on the safe side: where the bitstream is not understood, a picture counts as a reference and a key as
one that may only open a stream.
"""

from collections.abc import Iterator

_START = b"\0\0\1"
_VOP = b"\0\0\1\xb6"
_N_VOP_BYTES = 16  # a packed B picture is followed by a packet without one, of at most so many bytes


def length_bytes(codec: str, extradata: bytes) -> int:
    """Bytes of the length field in front of each NAL unit, 0 where start codes part them."""
    if codec == "h264" and len(extradata) > 4 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 22 and extradata[0] == 1:
        return (extradata[21] & 3) + 1
    return 0


def is_idr(codec: str, packet: bytes, nal_length: int) -> bool:
    """Whether nothing decoded after this key refers to anything before it."""
    if codec == "h264":
        return any(header[0] & 31 == 5 for header in _nal_headers(packet, nal_length))
    if codec == "hevc":
        return any(16 <= (header[0] >> 1 & 63) <= 20 for header in _nal_headers(packet, nal_length))
    return True


def is_nonref(codec: str, packet: bytes, nal_length: int) -> bool:
    """Whether no other picture refers to this one, for certain."""
    if codec == "h264":
        slices = [header[0] for header in _nal_headers(packet, nal_length) if header[0] & 31 in (1, 2, 5)]
        return bool(slices) and not any(header >> 5 & 3 for header in slices)
    if codec == "hevc":
        kinds = [header[0] >> 1 & 63 for header in _nal_headers(packet, nal_length)]
        slices = [kind for kind in kinds if kind < 32]
        # Sub-layer non-reference types are the even ones below 16; a higher temporal layer may not refer to them.
        return bool(slices) and all(kind < 16 and kind % 2 == 0 for kind in slices)
    if codec == "mpeg4":
        vop = packet.find(_VOP)
        return 0 <= vop < len(packet) - 4 and packet[vop + 4] >> 6 == 2 and packet.find(_VOP, vop + 4) < 0
    return False


def split_vops(packet: bytes) -> list[tuple[int, int]]:
    """(begin, end) of each picture in an MPEG-4 packet: two in the packed bitstreams of early AVI encoders."""
    begins = [0]
    first = packet.find(_VOP)
    second = packet.find(_VOP, first + 4) if first >= 0 else -1
    while second >= 0:
        begins.append(second)
        second = packet.find(_VOP, second + 4)
    return list(zip(begins, begins[1:] + [len(packet)], strict=True))


def is_filler(packet: bytes, *, packed: bool) -> bool:
    """Whether an MPEG-4 packet only fills a place: that of a picture packed before it, or one without any picture."""
    return len(packet) <= (_N_VOP_BYTES if packed else len(_VOP))


def _nal_headers(packet: bytes, nal_length: int) -> Iterator[bytes]:
    """The first two bytes of each NAL unit."""
    if nal_length:
        at = 0
        while at + nal_length + 2 <= len(packet):
            yield packet[at + nal_length : at + nal_length + 2]
            at += nal_length + int.from_bytes(packet[at : at + nal_length], "big")
        return
    at = packet.find(_START)
    while 0 <= at <= len(packet) - 5:
        yield packet[at + 3 : at + 5]
        at = packet.find(_START, at + 3)
