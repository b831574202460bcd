// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * SIGTRAP is "ignored", or has a handler and is "blocked". What CRIU injects ends its work with an int3. Where the
 * SIGTRAP of that is ignored, the kernel's force_sig() sets the disposition to SIG_DFL, and CRIU reads the dispositions
 * only after its first int3. (A blocked one would be reset too, but CRIU unblocks it meanwhile.)
 */
#include "victim.h"

static void handler(int sig)
{
	(void)sig;
}

int main(int argc, char **argv)
{
	struct k_sigaction act = { .handler = (unsigned long)SIG_IGN, .flags = K_SA_RESTORER | SA_RESTART,
				   .restorer = victim_restorer(0), .mask = SIGBIT(SIGUSR1) };

	victim_begin(argc, argv);
	if (!strcmp(victim_arg(), "blocked")) {
		act.handler = (unsigned long)handler;
		k_setmask(SIGBIT(SIGTRAP));
	}
	k_sigaction(SIGTRAP, &act, NULL);
	victim_checkpoint();
	return victim_end();
}
