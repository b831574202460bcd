// SPDX-License-Identifier: GPL-2.0-or-later
/* 64 threads beside the leader, or as many as the argument says, each with its own mask, stack and queue. */
#include "victim.h"

enum { THREADS = 64 };

static uint64_t mask_of(int index)
{
	uint64_t mask = 0x5a5a000000000000ull ^ SIGBIT(index + 1) ^ SIGBIT(63 - index % 30) ^ (uint64_t)index << 20;

	return (mask | SIGBIT(SIGRTMIN) | SIGBIT(SIGUSR1)) & ~(SIGBIT(SIGKILL) | SIGBIT(SIGSTOP));
}

static void thread(int index)
{
	stack_t ss = { .ss_size = 8192 + 256 * (size_t)index };
	siginfo_t info;

	ss.ss_sp = malloc(ss.ss_size);
	if (!ss.ss_sp || sigaltstack(&ss, NULL))
		victim_die("sigaltstack: %m");
	k_setmask(mask_of(index));
	for (int i = 0; i < 3; i++) {
		info = info_value(SIGRTMIN, index * 1000 + i);
		k_queue_private(&info);
	}
	k_tgkill(k_gettid(), SIGUSR1);
	victim_pause();
	expect_u64(mask_of(index), k_getmask(), "mask of thread %d", index);
	victim_drain();
}

int main(int argc, char **argv)
{
	int threads = THREADS;

	victim_begin(argc, argv);
	if (*victim_arg())
		threads = atoi(victim_arg());
	for (int i = 0; i < threads; i++)
		victim_thread(thread, i);
	k_setmask(mask_of(THREADS - 1));
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
