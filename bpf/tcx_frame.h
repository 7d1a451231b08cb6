/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* Where a frame's packet goes: what is before the packet, and what is inside it. */
#ifndef POSTERN_TCX_FRAME_H
#define POSTERN_TCX_FRAME_H

#include "packet.h"

/* IEEE 802.3 clause 3.2: two addresses, then the type. */
enum { ETHER_TYPE_AT = 12 };

/* IANA, IEEE 802 numbers. Below 1536 it is a length (IEEE 802.3 clause 3.2.6). */
enum {
	ETHER_LENGTHS = 0x0600,
	ETHER_IPV4 = 0x0800,
	ETHER_IPV6 = 0x86dd,
	ETHER_TAG = 0x8100,          /* IEEE 802.1Q clause 9 */
	ETHER_SERVICE_TAG = 0x88a8,
	ETHER_OLD_TAG1 = 0x9100,     /* of switches older than 802.1ad */
	ETHER_OLD_TAG2 = 0x9200,
	ETHER_OLD_TAG3 = 0x9300,
	ETHER_TRILL = 0x22f3,
	ETHER_BATMAN = 0x4305,
	ETHER_BRIDGED = 0x6558,
	ETHER_MPLS = 0x8847,
	ETHER_MPLS_MULTICAST = 0x8848,
	ETHER_PPPOE = 0x8864,
	ETHER_MACSEC = 0x88e5,
	ETHER_BACKBONE_TAG = 0x88e7,
	ETHER_HSR = 0x892f,
	ETHER_NSH = 0x894f,
};

/* IEEE 802.2 service access points: IP itself (RFC 948), and SNAP (RFC 1042),
 * after which comes another type. */
enum { SAP_IP = 0x06, SAP_SNAP = 0xaa };

/* The kernel takes off one tag after the other as long as they are for VLAN 0
 * (net/core/dev.c, __netif_receive_skb_core), and drops the others unless it has
 * a device for them. A frame with more than these is opaque. */
enum { MAX_TAGS = 8 };

static ALWAYS_INLINE bool is_tag(__u16 type)
{
	return type == ETHER_TAG || type == ETHER_SERVICE_TAG || type == ETHER_OLD_TAG1 ||
	       type == ETHER_OLD_TAG2 || type == ETHER_OLD_TAG3;
}

/* Whoever receives these finds a further frame or packet in them. */
static ALWAYS_INLINE bool carries_frames(__u16 type)
{
	switch (type) {
	case ETHER_TRILL:
	case ETHER_BATMAN:
	case ETHER_BRIDGED:
	case ETHER_MPLS:
	case ETHER_MPLS_MULTICAST:
	case ETHER_PPPOE:
	case ETHER_MACSEC:
	case ETHER_BACKBONE_TAG:
	case ETHER_HSR:
	case ETHER_NSH:
		return true;
	}
	return false;
}

/* IANA, protocol numbers: these carry a packet or frame for whoever opens them,
 * on this node (devices of kind ipip, sit, gre, ip6tnl, which take what anybody
 * sends them) or on another. */
enum {
	PROTOCOL_IPV4 = 4,
	PROTOCOL_IPV6 = 41,
	PROTOCOL_GRE = 47,
	PROTOCOL_ETHERNET = 97,
	PROTOCOL_L2TP = 115,
	PROTOCOL_MPLS = 137,
};

static ALWAYS_INLINE bool carries_packets(__u8 protocol)
{
	return protocol == PROTOCOL_IPV4 || protocol == PROTOCOL_IPV6 ||
	       protocol == PROTOCOL_GRE || protocol == PROTOCOL_ETHERNET ||
	       protocol == PROTOCOL_L2TP || protocol == PROTOCOL_MPLS;
}

static ALWAYS_INLINE enum packet read_llc(struct __sk_buff *skb, __u32 at)
{
	__u8 sap = 0;

	if (bpf_skb_load_bytes(skb, at, &sap, sizeof(sap)))
		return PACKET_OTHER; /* nothing in it */
	return sap == SAP_SNAP || sap == SAP_IP ? PACKET_OPAQUE : PACKET_OTHER;
}

/* A packet of a type that nobody is known to take one from is judged by its port,
 * if it names one: it is there for somebody. */
static ALWAYS_INLINE enum packet read_typed(struct __sk_buff *skb, __u32 at, __u16 type,
					    struct destination *d)
{
	enum packet kind;

	if (type < ETHER_LENGTHS)
		return read_llc(skb, at);
	if (carries_frames(type))
		return PACKET_OPAQUE;
	kind = read_packet_at(skb, at, d);
	if (type != ETHER_IPV4 && type != ETHER_IPV6)
		return kind == PACKET_PORTS ? kind : PACKET_OTHER;
	if (kind == PACKET_OTHER && carries_packets(d->protocol))
		return PACKET_OPAQUE;
	return kind;
}

/* A frame too short for its type is opaque. */
static ALWAYS_INLINE enum packet read_frame(struct __sk_buff *skb, struct destination *d)
{
	__u32 at = ETHER_TYPE_AT;
	__be16 type;
	int i;

	for (i = 0; i <= MAX_TAGS; i++) {
		if (bpf_skb_load_bytes(skb, at, &type, sizeof(type)))
			return PACKET_OPAQUE;
		at += sizeof(type);
		if (!is_tag(ntohs(type)))
			return read_typed(skb, at, ntohs(type), d);
		at += sizeof(type); /* the tag's VLAN */
	}
	return PACKET_OPAQUE;
}

#endif
