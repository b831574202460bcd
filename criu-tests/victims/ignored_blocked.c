// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Signals that are ignored and blocked at once are kept pending: the kernel drops them only when they are sent
 * unblocked, or when the disposition becomes "ignore" after they were queued.
 */
#include "victim.h"

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)SIG_IGN };
	siginfo_t info;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	k_sigaction(SIGUSR1, &act, NULL);
	k_sigaction(SIGRTMIN + 1, &act, NULL);
	for (int i = 0; i < 3; i++) {
		info = info_value(SIGRTMIN + 1, i);
		k_queue_shared(&info);
		k_queue_private(&info);
	}
	k_tgkill(k_gettid(), SIGUSR1);
	/* Ignored by default. */
	kill(getpid(), SIGURG);
	kill(getpid(), SIGWINCH);
	kill(getpid(), SIGCHLD);
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
