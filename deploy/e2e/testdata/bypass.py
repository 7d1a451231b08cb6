"""Tries to reach a database around connect(2), in every way that a process has
with the runtime's default capabilities, and writes what became of each. A way's
packets have a source port of their own, 20000 and up in the order of WAYS, so
that whoever watches the database's link knows them; 19999 is the end's."""
import errno
import os
import socket
import struct
import sys

here4, here6, db4, db6, service, listener = sys.argv[1:6] + [int(sys.argv[6])]
PORT = 5432
MSG_FASTOPEN, TCP_FASTOPEN_CONNECT, IPPROTO_MPTCP = 0x20000000, 30, 262  # linux/socket.h, tcp.h, in.h
PACKET_QDISC_BYPASS, SOL_PACKET, ETH_P_IP = 20, 263, 0x0800  # linux/if_packet.h, if_ether.h
SSL_REQUEST = struct.pack("!II", 8, 80877103)  # PostgreSQL, Message Formats


def stream(family, to, port, protocol=0, options=(), first=b""):
    """A connection that asks for TLS, which both Postern and a server answer."""
    with socket.socket(family, socket.SOCK_STREAM, protocol) as s:
        # Not settimeout, which would have a fast open not wait for the handshake.
        for limit in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            s.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", 3, 0))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in options:
            s.setsockopt(*option)
        s.bind(("", port))
        if first:
            s.sendto(first, MSG_FASTOPEN, to)
        else:
            s.connect(to)
            s.sendall(SSL_REQUEST)
        return "answered" if s.recv(1) in (b"S", b"N") else "closed"


def datagram(port, connected):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("", port))
        if connected:
            s.connect((db4, PORT))
            s.send(b"datagram")
        else:
            s.sendto(b"datagram", (db4, PORT))
        return "sent"


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn(family, source, to, port):
    """A TCP header that asks for a connection, RFC 9293 section 3.1."""
    header = struct.pack("!HHIIBBHHH", port, PORT, 1, 0, 5 << 4, 2, 65535, 0, 0)
    pseudo = socket.inet_pton(family, source) + socket.inet_pton(family, to) + struct.pack("!II", len(header), socket.IPPROTO_TCP)
    return header[:16] + struct.pack("!H", checksum(pseudo + header)) + header[18:]


def packet(to, port):
    """The same with an IPv4 header."""
    payload = syn(socket.AF_INET, here4, to, port)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, socket.IPPROTO_TCP, 0,
                         socket.inet_aton(here4), socket.inet_aton(to))
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def raw(to, port):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        s.sendto(packet(to, port), (to, 0))
        return "sent"


def raw_tcp(family, source, to, port):
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as s:
        s.sendto(syn(family, source, to, port), (to, 0))
        return "sent"


def gateway():
    """The default route's device and its gateway's hardware address."""
    with open("/proc/net/route") as routes:
        device, way = next((f[0], f[2]) for f in map(str.split, routes) if f[1] == "00000000")
    address = socket.inet_ntoa(struct.pack("=I", int(way, 16)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"", (db4, 9))  # so that it is resolved
    with open("/proc/net/arp") as table:
        hardware = next(f[3] for f in map(str.split, table) if f[0] == address)
    return device, bytes.fromhex(hardware.replace(":", ""))


def frame(to, port, bypass):
    device, hardware = gateway()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as s:
        if bypass:
            s.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        s.sendto(packet(to, port), (device, ETH_P_IP, 0, 0, hardware))
        return "sent"


def squat(port):
    """Takes the listener's port: what comes next would be ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(("127.0.0.1", listener))
        s.listen()
        return "listening"


V4, V6 = socket.AF_INET, socket.AF_INET6
MARK = (socket.SOL_SOCKET, socket.SO_MARK, 0xFFFF)
WAYS = {
    "plain": lambda p: stream(V4, (db4, PORT), p),
    "plain, IPv6": lambda p: stream(V6, (db6, PORT), p),
    "IPv4 in IPv6": lambda p: stream(V6, ("::ffff:" + db4, PORT), p),
    "fast open, sendto": lambda p: stream(V4, (db4, PORT), p, first=SSL_REQUEST),
    "fast open, connect": lambda p: stream(V4, (db4, PORT), p, options=[(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)]),
    "MPTCP": lambda p: stream(V4, (db4, PORT), p, protocol=IPPROTO_MPTCP),
    "MPTCP, fast open": lambda p: stream(V4, (db4, PORT), p, protocol=IPPROTO_MPTCP, first=SSL_REQUEST),
    "SO_MARK": lambda p: stream(V4, (db4, PORT), p, options=[MARK]),
    "UDP, connected": lambda p: datagram(p, True),
    "UDP, sendto": lambda p: datagram(p, False),
    "raw, own header": lambda p: raw(db4, p),
    "raw, own header, Service": lambda p: raw(service, p),
    "raw": lambda p: raw_tcp(V4, here4, db4, p),
    "raw, IPv6": lambda p: raw_tcp(V6, here6, db6, p),
    "packet": lambda p: frame(db4, p, False),
    "packet, past the queue": lambda p: frame(db4, p, True),
    "packet, Service": lambda p: frame(service, p, True),
    "listener's port": lambda p: stream(V4, ("127.0.0.1", listener), p),
    "listener's port, own address": lambda p: stream(V4, (here4, listener), p),
    "listener's port, any address": lambda p: stream(V4, ("0.0.0.0", listener), p),
    "bind the listener's port": squat,
}

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # packets of one processor keep their order
for i, (name, attempt) in enumerate(WAYS.items()):
    try:
        word = attempt(20000 + i)
    except OSError as error:
        word = errno.errorcode.get(error.errno, type(error).__name__)
    print(f"{20000 + i}\t{name}\t{word}", flush=True)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("", 19999))
    s.sendto(b"end", (db4, 9))
