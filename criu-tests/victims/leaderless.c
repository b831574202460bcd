// SPDX-License-Identifier: GPL-2.0-or-later
/* Its first thread has ended, and another one runs on. */
#include "victim.h"

#include <pthread.h>

static void *run_on(void *unused)
{
	static char path[PATH_MAX];

	(void)unused;
	while (victim_state_of(getpid()) != 'Z')
		k_sleep_ms(1);
	victim_path(path, "go");
	victim_write_file("ready", "");
	while (access(path, F_OK))
		k_sleep_ms(2);
	exit(victim_end());
}

int main(int argc, char **argv)
{
	pthread_t thread;

	victim_begin(argc, argv);
	if (pthread_create(&thread, NULL, run_on, NULL))
		victim_die("pthread_create");
	syscall(SYS_exit, 0);
}
