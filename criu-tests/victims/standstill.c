// SPDX-License-Identifier: GPL-2.0-or-later
/* Does nothing but to note how long it stands still. The leader blocks SIGUSR1 and SIGRTMIN. */
#include "victim.h"

int main(int argc, char **argv)
{
	char path[PATH_MAX];

	victim_begin(argc, argv);
	victim_clock();
	k_setmask(SIGBIT(SIGUSR1) | SIGBIT(SIGRTMIN));
	victim_write_file("ready", "");
	victim_path(path, "go");
	while (access(path, F_OK))
		k_sleep_ms(20);
	return victim_end();
}
