/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* Where a packet goes, read to the end or not at all. */
#ifndef POSTERN_PACKET_H
#define POSTERN_PACKET_H

#include "guards.h"

enum packet {
	PACKET_PORTS,   /* TCP or UDP: destination and port are known */
	PACKET_OTHER,   /* another protocol: it has no ports */
	PACKET_OPAQUE,  /* where it ends up cannot be told */
};

struct destination {
	struct address addr;
	__be16 port;
	__u8 protocol; /* of the packet, or of what it is a piece of */
	bool tcp;
	bool reset;
	bool bare; /* nothing but a reset or an acknowledgment */
};

/* RFC 9293 section 3.1, as far as the flags. */
struct tcp {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledgment;
	__u8 offset;
	__u8 flags;
};

enum { TCP_RST = 1 << 2, TCP_ACK = 1 << 4 };

/* RFC 791 section 3.1. */
struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment; /* flags and offset */
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

enum { IPV4_OFFSET_MASK = 0x1fff, IPV4_MORE = 0x2000 };

/* RFC 8200 section 3. */
struct ipv6 {
	__be32 version_class_flow;
	__be16 length;
	__u8 next;
	__u8 hops;
	struct address source;
	struct address destination;
};

/* RFC 8200 section 4: what all extension headers but the fragment header begin
 * with. */
struct extension {
	__u8 next;
	__u8 length;   /* in 8 octets beyond the first 8; AH: 4 octets, minus 2 */
	__u8 type;     /* routing header */
	__u8 segments; /* routing header: left to visit */
};

/* RFC 8200 section 4.5. */
struct fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* and flags */
	__be32 id;
};

enum { IPV6_OFFSET_MASK = 0xfff8 };

/* More than any stack sends; a packet with more is opaque. */
enum { MAX_EXTENSIONS = 8 };

static ALWAYS_INLINE enum packet read_ports(struct __sk_buff *skb, __u32 offset, __u8 protocol,
					    struct destination *d)
{
	__be16 ports[2];
	struct tcp tcp;

	if (protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
			return PACKET_OPAQUE;
		d->port = ports[1];
		return PACKET_PORTS;
	}
	if (protocol != IPPROTO_TCP)
		return PACKET_OTHER;
	if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
		return PACKET_OPAQUE;
	d->port = tcp.destination;
	d->tcp = true;
	d->reset = tcp.flags & TCP_RST;
	d->bare = (d->reset || tcp.flags == TCP_ACK) &&
		  offset + (tcp.offset >> 4) * 4 == skb->len;
	return PACKET_PORTS;
}

/* Pieces of TCP are opaque: the kernel makes none, so that they are there to hide
 * ports. Of UDP, the first piece has the ports, and without it the others come to
 * nothing: no later piece reaches back to them (offsets count 8 octets), and none
 * can become a piece of TCP (RFC 791 section 3.2: the protocol is a part of what
 * tells a datagram's pieces; RFC 8200 section 4.5: the first piece's counts). A
 * source route (RFC 791 section 3.1) hides the destination. */
static ALWAYS_INLINE enum packet read_ipv4(struct __sk_buff *skb, __u32 at,
					   struct destination *d)
{
	struct ipv4 ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return PACKET_OPAQUE;
	d->addr = mapped(ip.destination);
	d->protocol = ip.protocol;
	if (ip.protocol == IPPROTO_TCP &&
	    ip.fragment & htons(IPV4_OFFSET_MASK | IPV4_MORE))
		return PACKET_OPAQUE;
	if (ip.fragment & htons(IPV4_OFFSET_MASK))
		return PACKET_OTHER;
	if (ip.version_ihl == 0x45)
		return read_ports(skb, at + sizeof(ip), ip.protocol, d);
	if (ip.protocol == IPPROTO_TCP || ip.protocol == IPPROTO_UDP)
		return PACKET_OPAQUE;
	return PACKET_OTHER;
}

static ALWAYS_INLINE bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_ROUTING || next == IPPROTO_AH || next == IPPROTO_FRAGMENT;
}

static ALWAYS_INLINE enum packet read_later_piece(__u8 next, struct destination *d)
{
	d->protocol = next;
	return next == IPPROTO_TCP || is_extension(next) ? PACKET_OPAQUE : PACKET_OTHER;
}

static ALWAYS_INLINE enum packet read_ipv6(struct __sk_buff *skb, __u32 at,
					   struct destination *d)
{
	__u32 offset = at + sizeof(struct ipv6);
	struct fragment piece = {};
	bool in_pieces = false;
	struct extension ext;
	struct ipv6 ip;
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return PACKET_OPAQUE;
	d->addr = ip.destination;
	next = ip.next;
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		d->protocol = next;
		if (in_pieces && next == IPPROTO_TCP)
			return PACKET_OPAQUE;
		if (!is_extension(next))
			return read_ports(skb, offset, next, d);
		if (next == IPPROTO_FRAGMENT) {
			if (in_pieces || bpf_skb_load_bytes(skb, offset, &piece, sizeof(piece)))
				return PACKET_OPAQUE;
			if (piece.offset & htons(IPV6_OFFSET_MASK))
				return read_later_piece(piece.next, d);
			in_pieces = true;
			offset += sizeof(piece);
			next = piece.next;
			continue;
		}
		if (bpf_skb_load_bytes(skb, offset, &ext, sizeof(ext)))
			return PACKET_OPAQUE;
		if (next == IPPROTO_ROUTING && ext.segments)
			return PACKET_OPAQUE; /* the last segment is the destination */
		offset += next == IPPROTO_AH ? (ext.length + 2) * 4 : (ext.length + 1) * 8;
		next = ext.next;
	}
	return PACKET_OPAQUE;
}

/* The IP packet that begins at an offset. */
static ALWAYS_INLINE enum packet read_packet_at(struct __sk_buff *skb, __u32 at,
						struct destination *d)
{
	__u8 version = 0;

	if (bpf_skb_load_bytes(skb, at, &version, sizeof(version)))
		return PACKET_OPAQUE;
	if (version >> 4 == 4)
		return read_ipv4(skb, at, d);
	if (version >> 4 == 6)
		return read_ipv6(skb, at, d);
	return PACKET_OPAQUE;
}

static ALWAYS_INLINE enum packet read_packet(struct __sk_buff *skb, struct destination *d)
{
	return read_packet_at(skb, 0, d);
}

/* Whether the packet's socket was made by a process whose packets are looked at,
 * and not by the kernel. Defined by the object that includes this file. */
static ALWAYS_INLINE bool is_made_inside(struct __sk_buff *skb);

/* What ends an earlier connection, or its server would wait for hours: a reset by
 * the connection's own socket, and resets and bare acknowledgments that the kernel
 * answers by itself (net/ipv4/tcp_ipv4.c and net/ipv6/tcp_ipv6.c, tcp_v4_send_ack and
 * its like). From Linux 6.13 on these have what is left of a closed connection as
 * their socket, which no process can send by. Before, IPv6's have none, and IPv4's the
 * kernel's own: raw and of the namespace's maker, whom no pod is. Nothing that a
 * process sends is without a socket, and these two open and carry nothing. */
static ALWAYS_INLINE bool is_end(struct __sk_buff *skb, const struct destination *d)
{
	struct bpf_sock *sk = skb->sk;

	if (!d->bare)
		return false;
	if (!sk || sk->state == BPF_TCP_TIME_WAIT)
		return true;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP)
		return false;
	if (sk->type == SOCK_STREAM)
		return d->reset;
	return !is_made_inside(skb);
}

#endif
