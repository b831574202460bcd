// SPDX-License-Identifier: GPL-2.0-or-later
/* The private queues of the leader and of four threads, each with its own legacy and real-time signals. */
#include "victim.h"

static const int legacy[] = { SIGHUP, SIGINT, SIGTERM, SIGSEGV, SIGWINCH };

static void fill(int index)
{
	siginfo_t info;

	k_setmask(ALL_SIGNALS);
	/* The same numbers everywhere, with other contents: an entry that ends in another thread is seen. */
	for (int i = 0; i <= index; i++) {
		info = info_value(K_SIGRTMIN + 2, index * 100 + i);
		k_queue_private(&info);
		info = info_pattern(K_SIGRTMIN + 3 + i, SI_MESGQ, (unsigned char)(index * 16 + i), INFO_WHOLE);
		k_queue_private(&info);
	}
	info = info_pattern(legacy[index], SI_QUEUE, (unsigned char)index, INFO_WHOLE);
	k_queue_private(&info);
	k_tgkill(k_gettid(), SIGUSR2);
	info = info_value(K_NSIG, ~index);
	k_queue_private(&info);
}

static void thread(int index)
{
	fill(index);
	victim_pause();
	victim_drain();
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	for (int i = 1; i <= 4; i++)
		victim_thread(thread, i);
	fill(0);
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
