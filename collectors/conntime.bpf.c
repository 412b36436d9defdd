// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
//
// conntime: which connection got a request and no answer, whose client does not read, which upstream is silent, since when?
//
// One program on sys_exit, where the call's number, its arguments and its answer are all still there. A connection begins
// with accept or connect; what is received and sent on it moves its state. Meaning needs little HTTP: a request waits when
// bytes came after the last ones that went. The first bytes of request and answer are copied when that is asked for.
//
// sys_exit is on every system call of the host: bystanders pay some 100 ns for each. Attached for a window when something
// is suspected, or for good where that price is right.
//
// Not told: which of the requests on one HTTP/2 connection waits; the second of two pipelined requests; sockets that are
// used through io_uring or were handed over from another process; whether a quiet event stream is stuck.
//
// A real run, beside a uvicorn of which one client asked for a path that never answers:
//
//   $ python -m hangwatch.kernel.collect connections 8591 --seconds 3
//          fd       role       peer   waits_ms  unsent_ms   received       sent  exchanges
//          15     server  127.0.0.1:36560     2150.9          -         83          0          1
//
#include "common.h"
#include "conntime.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

MAP(connections, BPF_MAP_TYPE_LRU_HASH, __u64, struct connection, 32768);
MAP(heads, BPF_MAP_TYPE_LRU_HASH, __u64, struct connection_heads, 32768);
MAP(empty, BPF_MAP_TYPE_ARRAY, __u32, struct connection_heads, 1);
RING(events, 1 << 17);

#define EAGAIN 11
#define EINPROGRESS 115
#define FLAG_SET(flag) (connection->flags & (flag))
/* Records of a TLS client's Finished, with or without the compatibility byte before it: less than this. */
#define FINISHED_BYTES 100
/* Two session tickets, as OpenSSL sends them after a handshake: some 500 bytes. */
#define TICKETS_BYTES 1024
#define TLS_HANDSHAKE 0x16
#define TLS_DATA 0x17
#define VECTORS 8

struct call {
	struct config *config;
	__u64 registers, now, key;
	__u64 data, piece, wanted; /* where the bytes begin, how many of them lie there, how many the call was asked to move */
	__u64 end, last; /* behind the last byte, and how many lie in one piece before that; last is 0 where that is not known */
	long answer;
	__u32 pid, tid;
	__s32 fd;
	__u8 kind;
};

static __always_inline __u64 argument(struct call *call, __u32 number)
{
	return read_u64(call->registers + call->config->register_argument[number & 3]);
}

static __always_inline __u64 user_u64(__u64 address)
{
	__u64 value = 0;

	bpf_probe_read_user(&value, sizeof(value), (void *)address);
	return value;
}

/* Where the bytes lie and how many the call was asked to move; that is 0 for more pieces than are added up here. */
static __always_inline void find_data(struct call *call)
{
	__u64 vector, pieces, total = 0;
	int i;

	call->data = call->piece = call->wanted = call->end = call->last = 0;
	if (call->kind & DATA_BUFFER) {
		call->data = argument(call, 1);
		call->piece = call->wanted = argument(call, 2);
		call->end = call->data + call->answer;
		call->last = call->answer;
		return;
	}
	vector = argument(call, 1);
	pieces = argument(call, 2);
	if (call->kind & DATA_MESSAGE) {
		/* struct msghdr: name, its length, the vector, how many pieces. */
		pieces = user_u64(vector + 24);
		vector = user_u64(vector + 16);
	} else if (!(call->kind & DATA_VECTOR)) {
		return;
	}
	call->data = user_u64(vector);
	call->piece = user_u64(vector + 8);
	if (pieces > VECTORS || pieces == 0)
		return;
#pragma unroll
	for (i = 0; i < VECTORS; i++)
		if (i < pieces)
			total += user_u64(vector + 16 * i + 8);
	call->wanted = total;
	if (total != call->answer)
		return;
	vector += 16 * (pieces - 1);
	call->last = user_u64(vector + 8);
	call->end = user_u64(vector) + call->last;
}

/* Only what was moved: a copy that runs into a page that is not there fails as a whole, and what lies behind is nobody's business. */
static __always_inline void copy_first(struct call *call, __u8 *to, const __u64 size)
{
	__u64 length = call->piece < call->answer ? call->piece : call->answer;

	__builtin_memset(to, 0, size);
	if (length > size)
		length = size;
	bpf_probe_read_user(to, length, (void *)call->data);
}

static __always_inline void copy_last(struct call *call, struct connection_heads *copied)
{
	__u64 length = call->last;

	__builtin_memset(copied->tail, 0, sizeof(copied->tail));
	if (length > sizeof(copied->tail))
		length = sizeof(copied->tail);
	bpf_probe_read_user(copied->tail, length, (void *)(call->end - length));
}

static __always_inline void open_connection(struct call *call, __s32 fd, __u8 role)
{
	struct connection fresh = {};
	__u64 key = ((__u64)call->pid << 32) | (__u32)fd;

	fresh.pid = call->pid;
	fresh.fd = fd;
	fresh.tid = call->tid;
	fresh.role = role;
	fresh.opened_at = call->now;
	if (bpf_map_update_elem(&connections, &key, &fresh, BPF_ANY))
		count_lost(1);
	bpf_map_delete_elem(&heads, &key);
}

static __always_inline struct connection_heads *heads_of(struct call *call)
{
	struct connection_heads *found, *fresh;
	__u32 zero = 0;

	if (!(call->config->flags & COPY_HEADS))
		return 0;
	found = bpf_map_lookup_elem(&heads, &call->key);
	if (found)
		return found;
	fresh = bpf_map_lookup_elem(&empty, &zero);
	if (fresh)
		bpf_map_update_elem(&heads, &call->key, fresh, BPF_ANY);
	return bpf_map_lookup_elem(&heads, &call->key);
}

static __always_inline void begin_wait(struct call *call, struct connection *connection)
{
	struct connection_heads *copied = heads_of(call);

	connection->flags |= WAITS;
	connection->waits_since = call->now;
	connection->request_bytes = 0;
	connection->answer_bytes = 0;
	connection->exchanges++;
	if (copied && call->data)
		copy_first(call, copied->request, sizeof(copied->request));
}

static __always_inline void tell_answered(struct call *call, struct connection *connection)
{
	struct connection_answered *event;

	if (call->now - connection->waits_since < call->config->limit_ns)
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count_lost(0);
		return;
	}
	event->at_ns = call->now;
	__builtin_memcpy(&event->connection, connection, sizeof(*connection));
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void received(struct call *call, struct connection *connection)
{
	__u8 first = 0;

	if (call->answer == 0) {
		connection->flags |= ENDED;
		return;
	}
	if (call->answer < 0)
		return;
	connection->received += call->answer;
	connection->received_at = call->now;
	if (connection->role == ROLE_CLIENT) {
		if (FLAG_SET(WAITS))
			tell_answered(call, connection);
		connection->flags &= ~WAITS;
		return;
	}
	find_data(call);
	if (connection->received == call->answer && call->data) {
		bpf_probe_read_user(&first, 1, (void *)call->data);
		if (first == TLS_HANDSHAKE)
			connection->flags |= TLS;
	}
	connection->flags &= ~TICKETS;
	connection->flight += call->answer;
	if (!FLAG_SET(WAITS))
		begin_wait(call, connection);
	connection->request_bytes += call->answer;
}

/* In TLS 1.3 the server's tickets follow the client's Finished, with which the first request may have come already: they answer nothing. */
static __always_inline int are_tickets(struct call *call, struct connection *connection)
{
	__u8 first = 0;

	if (!FLAG_SET(TLS) || connection->sends != 1 || call->answer > TICKETS_BYTES || connection->flight < FINISHED_BYTES)
		return 0;
	bpf_probe_read_user(&first, 1, (void *)call->data);
	return first == TLS_DATA;
}

static __always_inline void answered(struct call *call, struct connection *connection)
{
	struct connection_heads *copied;

	tell_answered(call, connection);
	connection->flags &= ~WAITS;
	connection->answer_bytes = 0;
	copied = heads_of(call);
	if (!copied || !call->data)
		return;
	copy_first(call, copied->answer, sizeof(copied->answer));
	if (copied->answer[9] == '1' && copied->answer[10] == '0' && copied->answer[11] == '1')
		connection->flags |= UPGRADED;
}

static __always_inline void sent(struct call *call, struct connection *connection)
{
	struct connection_heads *copied;
	int tickets;

	if (call->answer == -EAGAIN && !connection->unsent_since)
		connection->unsent_since = call->now;
	if (call->answer <= 0)
		return;
	find_data(call);
	connection->sent += call->answer;
	connection->sent_at = call->now;
	connection->unsent_since = call->wanted > call->answer ? call->now : 0;
	if (connection->role == ROLE_CLIENT) {
		if (!FLAG_SET(WAITS))
			begin_wait(call, connection);
		return;
	}
	tickets = are_tickets(call, connection);
	if (tickets)
		connection->flags |= TICKETS;
	else if (FLAG_SET(WAITS))
		answered(call, connection);
	connection->answer_bytes += call->answer;
	if (connection->sends == 0)
		connection->flight = 0;
	if (connection->sends < 255)
		connection->sends++;
	copied = heads_of(call);
	if (copied)
		copy_last(call, copied);
}

SEC("raw_tp/sys_exit")
int conn_call(struct bpf_raw_tracepoint_args *ctx)
{
	struct call call = {};
	struct connection *connection;
	__u64 ids, pointer;
	__u16 family = 0;
	__u8 kind;

	if (!is_wanted())
		return 0;
	call.config = configuration();
	if (!call.config)
		return 0;
	call.registers = ctx->args[0];
	call.kind = class_of(read_u32(call.registers + call.config->register_number));
	kind = call.kind & CALL_KIND;
	if (kind < CALL_ACCEPT || kind > CALL_CLOSE)
		return 0;
	ids = current_ids(call.config);
	call.pid = ids >> 32;
	call.tid = ids;
	if (!bpf_map_lookup_elem(&targets, &call.pid))
		return 0;
	call.answer = ctx->args[1];
	call.now = bpf_ktime_get_ns();
	if (kind == CALL_ACCEPT) {
		if (call.answer >= 0)
			open_connection(&call, call.answer, ROLE_SERVER);
		return 0;
	}
	call.fd = argument(&call, 0);
	call.key = ((__u64)call.pid << 32) | (__u32)call.fd;
	if (kind == CALL_CONNECT) {
		pointer = argument(&call, 1);
		bpf_probe_read_user(&family, sizeof(family), (void *)pointer);
		/* AF_UNIX, AF_INET, AF_INET6 */
		if ((call.answer == 0 || call.answer == -EINPROGRESS) && (family == 1 || family == 2 || family == 10))
			open_connection(&call, call.fd, ROLE_CLIENT);
		return 0;
	}
	connection = bpf_map_lookup_elem(&connections, &call.key);
	if (!connection)
		return 0;
	if (kind == CALL_CLOSE) {
		bpf_map_delete_elem(&connections, &call.key);
		bpf_map_delete_elem(&heads, &call.key);
		return 0;
	}
	connection->tid = call.tid;
	if (kind == CALL_RECV)
		received(&call, connection);
	else
		sent(&call, connection);
	return 0;
}
