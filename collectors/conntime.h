/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* What conntime keeps of one connection. hangwatch/kernel/rows.py reads the same layout. */
#ifndef HANGWATCH_CONNTIME_H
#define HANGWATCH_CONNTIME_H

enum role { ROLE_SERVER = 1, ROLE_CLIENT = 2 };

enum connection_flags {
	WAITS = 1, /* server: bytes came and nothing was answered; client: bytes went and nothing came back */
	ENDED = 2, /* the peer will send no more */
	TLS = 4,
	UPGRADED = 8, /* 101 was answered */
	TICKETS = 16, /* TLS: what may be session tickets was sent, so that the first request may still wait */
	SEEDED = 32, /* it was there before us */
};

/* Everything that a look at all connections needs: small, so that ten thousand are read in some milliseconds. */
struct connection {
	__u32 pid;
	__s32 fd;
	__u32 tid; /* the thread that used it last */
	__u8 role, flags;
	__u8 sends; /* up to 255: tells a TLS handshake's flights apart */
	__u8 spare;
	__u64 opened_at;
	__u64 waits_since; /* with WAITS: the first byte of the request came then */
	__u64 received_at, sent_at;
	__u64 unsent_since; /* a write did not take all; 0 since one did */
	__u64 received, sent;
	__u64 request_bytes, answer_bytes; /* of the exchange that goes on */
	__u32 exchanges;
	__u32 flight; /* TLS: bytes the client sent since our first answer */
};

/* The first bytes of the last request and of its answer, and the last bytes written; NUL behind fewer, all NUL where they are not known. */
struct connection_heads {
	__u8 request[128];
	__u8 answer[192];
	__u8 tail[8];
};

struct connection_answered {
	__u64 at_ns;
	struct connection connection;
};

#endif
