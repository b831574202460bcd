// SPDX-License-Identifier: GPL-2.0-or-later
/* A fault's signal with the kernel's si_code is pending in a private queue, and blocked. */
#include "victim.h"

int main(int argc, char **argv)
{
	siginfo_t info;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	info = info_pattern(SIGSEGV, 1 /* SEGV_MAPERR */, 5, INFO_WHOLE);
	k_queue_private(&info);
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
