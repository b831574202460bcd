// SPDX-License-Identifier: GPL-2.0-or-later
/* A SIGCHLD in the private queue of a thread that is not the leader, where SIGCHLD is ignored by default. */
#include "victim.h"

static void thread(int index)
{
	siginfo_t info = info_pattern(SIGCHLD, SI_QUEUE, (unsigned char)index, INFO_WHOLE);

	k_setmask(SIGBIT(SIGCHLD));
	k_queue_private(&info);
	victim_pause();
	victim_drain();
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	k_setmask(SIGBIT(SIGCHLD));
	for (int i = 0; i < 4; i++)
		victim_thread(thread, i);
	victim_checkpoint();
	return victim_end();
}
