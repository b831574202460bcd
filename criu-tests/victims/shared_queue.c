// SPDX-License-Identifier: GPL-2.0-or-later
/* The shared queue: every legacy number that can be pending, and real-time ones several times. */
#include "victim.h"

int main(int argc, char **argv)
{
	siginfo_t info;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	for (int sig = 1; sig <= K_NSIG; sig++) {
		/* A pending SIGTRAP has a victim of its own; a stop signal is flushed by SIGCONT, and the other way round. */
		if (sig == SIGKILL || sig == SIGSTOP || sig == SIGTRAP || sig == SIGCONT)
			continue;
		for (int i = 0; i < (sig < K_SIGRTMIN ? 1 : 3); i++) {
			info = info_pattern(sig, SI_QUEUE, (unsigned char)(sig * 3 + i), INFO_WHOLE);
			k_queue_shared(&info);
		}
	}
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
