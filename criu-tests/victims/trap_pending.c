// SPDX-License-Identifier: GPL-2.0-or-later
/* A SIGTRAP is pending and blocked. */
#include "victim.h"

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	k_setmask(SIGBIT(SIGTRAP));
	kill(getpid(), SIGTRAP);
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
