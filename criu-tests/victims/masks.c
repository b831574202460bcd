// SPDX-License-Identifier: GPL-2.0-or-later
/* The blocked signals of the leader and of four threads, each different, with libc's own 32 and 33 among them. */
#include "victim.h"

static const uint64_t masks[] = {
	0x00000000deadbeefull & ~(SIGBIT(SIGKILL) | SIGBIT(SIGSTOP)),
	0,
	SIGBIT(SIGHUP) | SIGBIT(32) | SIGBIT(33) | SIGBIT(64),
	0xffffffff00000000ull,
	ALL_SIGNALS & ~(SIGBIT(SIGKILL) | SIGBIT(SIGSTOP)),
};

static void thread(int index)
{
	k_setmask(masks[index]);
	victim_pause();
	expect_u64(masks[index], k_getmask(), "mask of thread %d, read by itself", index);
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	for (int i = 1; i <= 4; i++)
		victim_thread(thread, i);
	k_setmask(masks[0]);
	victim_checkpoint();
	expect_u64(masks[0], k_getmask(), "mask of the leader, read by itself");
	return victim_end();
}
