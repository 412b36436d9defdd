/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */
/* What looptime tells of one thread with an event loop. hangwatch/kernel/rows.py reads the same layout. */
#ifndef HANGWATCH_LOOPTIME_H
#define HANGWATCH_LOOPTIME_H

struct loop_thread {
	__u32 pid, tid;
	__s32 epoll_fd; /* the loop's own: the first it slept on */
	__s32 call; /* the system call it sleeps in, -1 for none */
	__u64 idle_since; /* asleep in its epoll since then; 0: it is not */
	__u64 busy_since; /* left its epoll then; 0: it is in it */
	__u64 polled_at; /* last seen to leave its epoll, while the program for that is attached */
	__u64 exec_ns, delay_ns; /* CPU time and time in the run queue when it left its epoll */
	__u64 asleep_since; /* in `call`; 0: not asleep */
	__u64 arguments[3];
	__u64 slept_ns, gil_ns; /* since it left its epoll: all sleep, and sleep for the GIL */
	__u64 longest_ns;
	__u64 longest_arguments[3];
	__s32 longest_call;
	__u32 sleeps;
	__s32 stack, longest_stack; /* ids in `stacks`, negative for none */
};

struct loop_ended {
	__u64 at_ns, exec_ns, delay_ns;
	struct loop_thread thread;
};

/* What user space saw before we came: this thread was in its epoll at that time. */
struct loop_known {
	__s32 epoll_fd;
	__u32 spare;
	__u64 seen_at;
};

#endif
