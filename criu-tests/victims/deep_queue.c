// SPDX-License-Identifier: GPL-2.0-or-later
/* A shared queue as deep as the argument says, with three numbers mixed and a value in each entry. */
#include "victim.h"

int main(int argc, char **argv)
{
	int depth;

	victim_begin(argc, argv);
	depth = atoi(victim_arg());
	if (depth <= 0)
		victim_die("no depth given");
	k_setmask(ALL_SIGNALS);
	for (int i = 0; i < depth; i++) {
		siginfo_t info = info_value(SIGRTMIN + i % 3, i);

		k_queue_shared(&info);
	}
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
