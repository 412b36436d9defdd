/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* What every collector shares: how it is configured and how it finds out whom it watches.
 *
 * No structure of the kernel is named here. A raw tracepoint hands over pointers; the offsets behind them come from user
 * space, which reads them from the running kernel's BTF, and system calls and their registers are numbers in a map. So the
 * object needs no relocation and is the same for every kernel from 5.10 on and for x86-64 and arm64.
 */
#ifndef HANGWATCH_COMMON_H
#define HANGWATCH_COMMON_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define MAP(name, kind, key_type, value_type, entries) \
	struct { \
		__uint(type, kind); \
		__uint(max_entries, entries); \
		__type(key, key_type); \
		__type(value, value_type); \
	} name SEC(".maps")

#define RING(name, bytes) \
	struct { \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes); \
	} name SEC(".maps")

enum config_flags {
	TRANSLATE_PIDS = 1, /* ids are those of the watcher's pid namespace, not the kernel's */
	KERNEL_STACKS = 2,
	COPY_HEADS = 4, /* keep the first bytes of requests and answers */
};

/* What a system call is to us: the low four bits say what it does, the high ones where its data lies. */
enum call_class {
	CALL_OTHER = 0,
	CALL_EPOLL = 1,
	CALL_ACCEPT = 2,
	CALL_CONNECT = 3,
	CALL_RECV = 4,
	CALL_SEND = 5,
	CALL_CLOSE = 6,
	CALL_FUTEX = 7,
	CALL_KIND = 0x0f,
	DATA_BUFFER = 0x10, /* argument 1 points at the bytes, argument 2 counts them */
	DATA_VECTOR = 0x20, /* argument 1 points at an array of struct iovec, argument 2 counts them */
	DATA_MESSAGE = 0x40, /* argument 1 points at a struct msghdr */
};

#define CALLS 512

struct config {
	__u64 limit_ns; /* what lasts longer is told when it ends */
	__u64 ns_device, ns_inode; /* the watcher's pid namespace, for TRANSLATE_PIDS */
	__u32 flags;
	__u32 own_pid;
	/* Offsets inside struct task_struct; 0 where the kernel's BTF does not tell. */
	__u32 task_stack, task_state, task_exec_ns, task_delay_ns;
	/* From the lowest address of a task's kernel stack to its saved registers, and what lies where in those. */
	__u32 registers, register_number, register_argument[3];
	__u32 spare;
};

struct target {
	__u64 gil_from, gil_to; /* addresses of the interpreter's _PyRuntime, which holds the GIL */
};

MAP(settings, BPF_MAP_TYPE_ARRAY, __u32, struct config, 1);
MAP(calls, BPF_MAP_TYPE_ARRAY, __u32, __u8, CALLS);
MAP(targets, BPF_MAP_TYPE_HASH, __u32, struct target, 4096);
/* By the low 16 bits of a process id: an array is looked up without a call, so that who is not meant pays next to nothing. */
MAP(wanted, BPF_MAP_TYPE_ARRAY, __u32, __u8, 65536);
MAP(lost, BPF_MAP_TYPE_ARRAY, __u32, __u64, 4);

static __always_inline struct config *configuration(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline int is_wanted(void)
{
	__u32 slot = (bpf_get_current_pid_tgid() >> 32) & 0xffff;
	__u8 *mark = bpf_map_lookup_elem(&wanted, &slot);

	return mark && *mark;
}

/* Process id in the upper half, thread id in the lower, as the watcher's own /proc shows them; 0 for who is not visible there. */
static __always_inline __u64 current_ids(struct config *config)
{
	struct bpf_pidns_info inside = {};

	if (!(config->flags & TRANSLATE_PIDS))
		return bpf_get_current_pid_tgid();
	if (bpf_get_ns_current_pid_tgid(config->ns_device, config->ns_inode, &inside, sizeof(inside)))
		return 0;
	return ((__u64)inside.tgid << 32) | inside.pid;
}

static __always_inline __u64 read_u64(__u64 address)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline __u32 read_u32(__u64 address)
{
	__u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline __u8 class_of(__u32 number)
{
	__u8 *found = bpf_map_lookup_elem(&calls, &number);

	return found ? *found : CALL_OTHER;
}

static __always_inline void count_lost(__u32 what)
{
	__u64 *count = bpf_map_lookup_elem(&lost, &what);

	if (count)
		__sync_fetch_and_add(count, 1);
}

#endif
