// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
//
// looptime: which event loop has not come back to its epoll, since when, and where has its thread been meanwhile?
//
// A thread with an event loop sleeps in epoll_wait when all is well. This program looks at context switches only: when such
// a thread is switched out inside its own epoll the loop is idle, when it is switched in again the loop is busy since then.
// A sleep anywhere else is kept with its system call and arguments. Nothing is added to a system call, so other processes pay
// some nanoseconds a context switch and nothing else.
//
// A saturated loop does not sleep in its epoll: there is always work. Whether it passes by is told by a second program on
// sys_exit, which taxes every system call on the host and is attached for some milliseconds when somebody looks overdue.
//
// A real run, beside a uvicorn that was asked for three paths: time.sleep(2), hashing for 1.5 s, a thread's lock for 1.5 s:
//
//   $ python -m hangwatch.kernel.collect loops 8352 --seconds 7 --stalls 500
//         tid         ms     cpu_ms   delay_ms   slept_ms     gil_ms    longest
//        8352     2001.0        0.7        0.2     2000.1        0.0  clock_nanosleep 2000.1 ms
//        8352     1502.4     1447.0       55.4        0.0        0.0
//        8352     1500.6        0.5        0.0     1500.1        0.0  futex 1500.1 ms
//
#include "common.h"
#include "looptime.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

MAP(threads, BPF_MAP_TYPE_HASH, __u64, struct loop_thread, 2048);
/* By some bits of a task's address: may it be one of `threads`? */
MAP(marked, BPF_MAP_TYPE_ARRAY, __u32, __u8, 65536);
MAP(known, BPF_MAP_TYPE_HASH, __u32, struct loop_known, 4096);
MAP(where, BPF_MAP_TYPE_ARRAY, __u32, __u64, 1);
RING(events, 1 << 17);
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 512);
	__uint(key_size, 4);
	__uint(value_size, 32 * 8);
} stacks SEC(".maps");

/* include/linux/sched.h, the same from 4.14 on: the state of a task's last switch. */
#define TASK_DEAD 0x80

static __always_inline __u32 mark_of(__u64 task)
{
	return (task >> 6) & 0xffff;
}

static __always_inline __u64 task_u64(__u64 task, __u32 offset)
{
	return offset ? read_u64(task + offset) : 0;
}

static __always_inline void tell_end(struct config *config, struct loop_thread *thread, __u64 task, __u64 now)
{
	struct loop_ended *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count_lost(0);
		return;
	}
	event->at_ns = now;
	event->exec_ns = task_u64(task, config->task_exec_ns);
	event->delay_ns = task_u64(task, config->task_delay_ns);
	__builtin_memcpy(&event->thread, thread, sizeof(*thread));
	bpf_ringbuf_submit(event, 0);
}

static __always_inline struct loop_thread *begin(struct config *config, __u64 task, __u64 ids, int in_epoll)
{
	struct loop_thread fresh = {};
	struct loop_known *before;
	__u32 pid = ids >> 32, tid = ids, mark = mark_of(task);
	__u8 *bit;

	if (!bpf_map_lookup_elem(&targets, &pid))
		return 0;
	before = bpf_map_lookup_elem(&known, &tid);
	if (!in_epoll && !before)
		return 0;
	fresh.pid = pid;
	fresh.tid = tid;
	fresh.epoll_fd = -1;
	fresh.call = -1;
	fresh.longest_call = -1;
	fresh.stack = -1;
	fresh.longest_stack = -1;
	if (before) {
		fresh.epoll_fd = before->epoll_fd;
		fresh.busy_since = before->seen_at;
	}
	if (bpf_map_update_elem(&threads, &task, &fresh, BPF_ANY))
		count_lost(1);
	bit = bpf_map_lookup_elem(&marked, &mark);
	if (bit)
		*bit = 1;
	return bpf_map_lookup_elem(&threads, &task);
}

static __always_inline void switched_out(struct bpf_raw_tracepoint_args *ctx, struct config *config, __u64 task)
{
	__u64 ids = current_ids(config), registers, now;
	__u32 number, in_epoll;
	struct loop_thread *thread;

	if (read_u32(task + config->task_state) & TASK_DEAD) {
		/* After its exit was told it may have slept once more and be back; from this switch nobody returns. */
		bpf_map_delete_elem(&threads, &task);
		return;
	}
	if (!ids)
		return;
	registers = read_u64(task + config->task_stack) + config->registers;
	number = read_u32(registers + config->register_number);
	/* Outside of any system call the register holds a negative number, which is beyond the table. */
	in_epoll = class_of(number) == CALL_EPOLL;
	thread = bpf_map_lookup_elem(&threads, &task);
	if (!thread || thread->tid != (__u32)ids) {
		thread = begin(config, task, ids, in_epoll);
		if (!thread)
			return;
	}
	now = bpf_ktime_get_ns();
	if (in_epoll) {
		__s32 fd = read_u64(registers + config->register_argument[0]);

		if (thread->epoll_fd < 0)
			thread->epoll_fd = fd;
		if (thread->epoll_fd == fd) {
			if (thread->busy_since && now - thread->busy_since > config->limit_ns)
				tell_end(config, thread, task, now);
			thread->busy_since = 0;
			thread->idle_since = now;
			thread->asleep_since = 0;
			thread->call = number;
			return;
		}
	}
	/* Ready to run and merely held off the CPU: that is counted by the scheduler as delay. */
	if (ctx->args[0] || !read_u32(task + config->task_state))
		return;
	thread->call = number;
	thread->arguments[0] = read_u64(registers + config->register_argument[0]);
	thread->arguments[1] = read_u64(registers + config->register_argument[1]);
	thread->arguments[2] = read_u64(registers + config->register_argument[2]);
	thread->stack = config->flags & KERNEL_STACKS ? bpf_get_stackid(ctx, &stacks, BPF_F_REUSE_STACKID) : -1;
	thread->asleep_since = now;
}

static __always_inline void woke_up(struct loop_thread *thread, __u64 now)
{
	__u64 slept = now - thread->asleep_since;

	thread->asleep_since = 0;
	thread->slept_ns += slept;
	thread->sleeps++;
	if (class_of(thread->call) == CALL_FUTEX) {
		struct target *target = bpf_map_lookup_elem(&targets, &thread->pid);

		if (target && thread->arguments[0] >= target->gil_from && thread->arguments[0] < target->gil_to)
			thread->gil_ns += slept;
	}
	if (slept > thread->longest_ns) {
		thread->longest_ns = slept;
		thread->longest_call = thread->call;
		thread->longest_arguments[0] = thread->arguments[0];
		thread->longest_arguments[1] = thread->arguments[1];
		thread->longest_arguments[2] = thread->arguments[2];
		thread->longest_stack = thread->stack;
	}
	thread->call = -1;
}

static __always_inline void switched_in(struct config *config, __u64 task)
{
	struct loop_thread *thread = bpf_map_lookup_elem(&threads, &task);

	if (!thread)
		return;
	if (thread->busy_since) {
		if (thread->asleep_since)
			woke_up(thread, bpf_ktime_get_ns());
		return;
	}
	thread->idle_since = 0;
	thread->call = -1;
	thread->slept_ns = thread->gil_ns = thread->longest_ns = 0;
	thread->sleeps = 0;
	thread->longest_call = -1;
	thread->longest_stack = -1;
	thread->exec_ns = task_u64(task, config->task_exec_ns);
	thread->delay_ns = task_u64(task, config->task_delay_ns);
	thread->busy_since = bpf_ktime_get_ns();
}

SEC("raw_tp/sched_switch")
int loop_switch(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 next = ctx->args[2];
	__u32 mark = mark_of(next);
	__u8 *bit = bpf_map_lookup_elem(&marked, &mark);
	int arrives = bit && *bit, leaves = is_wanted();
	struct config *config;

	if (!arrives && !leaves)
		return 0;
	config = configuration();
	if (!config)
		return 0;
	if (leaves)
		switched_out(ctx, config, ctx->args[1]);
	if (arrives)
		switched_in(config, next);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int loop_exit(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 task = bpf_get_current_task();

	bpf_map_delete_elem(&threads, &task);
	return 0;
}

SEC("raw_tp/sys_exit")
int loop_polled(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 registers = ctx->args[0], task;
	struct loop_thread *thread;
	struct config *config;

	if (!is_wanted())
		return 0;
	config = configuration();
	if (!config || class_of(read_u32(registers + config->register_number)) != CALL_EPOLL)
		return 0;
	task = bpf_get_current_task();
	thread = bpf_map_lookup_elem(&threads, &task);
	if (thread && thread->epoll_fd == (__s32)read_u64(registers + config->register_argument[0]))
		thread->polled_at = bpf_ktime_get_ns();
	return 0;
}

/* Where a task's registers lie on its kernel stack differs with the kernel's configuration; a call of the watcher's own shows it. */
SEC("raw_tp/sys_exit/where")
int loop_where(struct bpf_raw_tracepoint_args *ctx)
{
	struct config *config = configuration();
	__u32 zero = 0;
	__u64 *answer = bpf_map_lookup_elem(&where, &zero);

	if (config && answer && current_ids(config) >> 32 == config->own_pid)
		*answer = ctx->args[0] - read_u64(bpf_get_current_task() + config->task_stack);
	return 0;
}
